"""Worker processes, seen from the parent: a job may crash, hang or fail, and the next one runs.

A job that is lost with its process raises ``LostJob``; a new process takes the next job.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import IO, Any, BinaryIO, Protocol

from tilewright.errors import InternalError

from .wire import Failure, receive, send

START_SECONDS = 60.0
"""How much longer a job may take whose process starts with it."""

_WORKER = f"{__package__}.worker"


class LostJobError(Exception):
    """A job whose process ended, or was ended because the job took too long.

    Args:
        why: what happened, for people.
        hung: whether it took too long.
    """

    def __init__(self, why: str, hung: bool) -> None:
        super().__init__(why)
        self.hung = hung


class FailedJobError(Exception):
    """A job that raised an error.

    Args:
        message: of the error.
        expected: whether it is one of ours and not a defect.
    """

    def __init__(self, message: str, expected: bool) -> None:
        super().__init__(message)
        self.expected = expected


class Workers(Protocol):
    """What runs jobs: processes here, or machines elsewhere."""

    @property
    def builders(self) -> int:
        """How many jobs of building run at once."""

    def build(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        """Runs a job of building; any number may be waiting."""

    def measure(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        """Runs a job of measuring; one at a time on each machine."""

    def close(self) -> None:
        """Ends all jobs and all processes."""


class Process:
    """One worker process; started with the first job, and again after it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: BinaryIO | None = None
        self._answers: BinaryIO | None = None
        self._errors: IO[bytes] | None = None

    def call(
        self, timeout: float, function: Callable[..., Any], arguments: Sequence[object]
    ) -> Any:
        """The value of a job.

        Raises:
            LostJobError: its process ended, or the job took longer than ``timeout`` seconds.
            FailedJobError: it raised an error.
        """
        began = time.monotonic()
        if self._process is None:
            self._start()
            timeout += START_SECONDS
        assert self._jobs is not None and self._answers is not None
        try:
            send(self._jobs, (function, tuple(arguments)))
            if not _readable(self._answers, began + timeout - time.monotonic()):
                self.end()
                raise LostJobError(f"took longer than {timeout:.0f} s", hung=True)
            found = receive(self._answers)
        except (EOFError, BrokenPipeError):
            raise LostJobError(self._why(), hung=False) from None
        if isinstance(found, Failure):
            raise FailedJobError(found.message, found.expected)
        return found

    def _start(self) -> None:
        read, jobs = os.pipe()
        answers, write = os.pipe()
        command = [sys.executable, "-m", _WORKER, str(read), str(write), str(os.getpid())]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(read, write),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        except OSError as error:
            for descriptor in (jobs, answers):
                os.close(descriptor)
            raise InternalError(
                f"a worker process for tuning does not start: {error}", code="TW-E0935"
            ) from error
        finally:
            os.close(read)
            os.close(write)
        self._jobs, self._answers = os.fdopen(jobs, "wb"), os.fdopen(answers, "rb")

    def _why(self) -> str:
        """What became of a process that does not answer; forgets it."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code, said = self._process.returncode, self._last_words()
        self.end()
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"ended by {signal.Signals(-code).name}"
        return f"ended with code {code}{said}"

    def _last_words(self) -> str:
        """The last line that a process wrote to its standard error."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    def kill(self) -> None:
        """Makes the process end; whoever waits for its answer sees that."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Ends the process, whatever it does, and forgets it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        for file in (self._jobs, self._answers, self._errors):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._jobs = self._answers = self._errors = None


def _readable(pipe: BinaryIO, seconds: float) -> bool:
    ready, _, _ = select.select([pipe], [], [], max(0.0, seconds))
    return bool(ready)


class LocalWorkers:
    """Processes on this machine: some that build, one that measures.

    Args:
        builders: how many build at once.
    """

    def __init__(self, builders: int) -> None:
        self.builders = builders
        self._build = _Crew(builders)
        self._measure = _Crew(1)

    def build(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        return self._build.submit(timeout, function, arguments)

    def measure(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        return self._measure.submit(timeout, function, arguments)

    def close(self) -> None:
        self._build.close()
        self._measure.close()


class _Crew:
    """Processes of one kind, each with a thread that waits for it."""

    def __init__(self, count: int) -> None:
        self._all = [Process() for _ in range(count)]
        self._free: SimpleQueue[Process] = SimpleQueue()
        for process in self._all:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(count)
        self._running: set[Future[Any]] = set()

    def submit(
        self, timeout: float, function: Callable[..., Any], arguments: Sequence[object]
    ) -> Future[Any]:
        future = self._threads.submit(self._run, timeout, function, arguments)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _run(
        self, timeout: float, function: Callable[..., Any], arguments: Sequence[object]
    ) -> Any:
        process = self._free.get()
        try:
            return process.call(timeout, function, arguments)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """Ends all jobs: the thread of a job sees its process end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while left := set(self._running):
            for process in self._all:
                process.kill()
            wait(left, timeout=0.1)
        self._threads.shutdown()
        for process in self._all:
            process.end()
