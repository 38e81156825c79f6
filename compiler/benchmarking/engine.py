"""An engine in a process of its own: it gets a model ready, then runs it when it is its turn.

python -m tilewright.benchmarking.engine ENGINE MODEL THREADS TARGET FEED.npz ...

Within one process the threads of one engine take time from those of another: most pools spin for
a while after a call, in case there is more to do. Here each engine has its own process, which
stands still (SIGSTOP) unless it is its turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.api import compile, load  # noqa: A004
from tilewright.errors import OptionError, first_line
from tilewright.peers import open_peer
from tilewright.version import __version__

from .footprint import peak_bytes
from .report import OURS

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PATIENCE = 600.0


class Engine:
    """A process that holds one model in one engine.

    Making one starts the process and does not wait; ``ready`` does, so that several can get ready
    at once.

    Args:
        name: ``tilewright`` or a peer.
        model: a file: ONNX; for ``tilewright`` a ``.tw`` file, too.
        threads: of a call.
        feeds: ``.npz`` files with inputs by name, in the model's order; the first one is timed.
        target: what Tilewright compiles for.
        environment: variables that are set for the process.

    Attributes:
        version: of the engine, once it is ready.
        seconds: how long it took to get ready: to compile or to make a session, and what the
            first call took longer than the second.
        peak_bytes: the peak resident size of the process when it was ready.
        outputs: the arrays that it computed, for each of the feeds.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        threads: int,
        feeds: Sequence[Path],
        *,
        target: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.version = ""
        self.seconds = 0.0
        self.peak_bytes = 0
        self.outputs: list[list[np.ndarray]] = []
        self._feeds = list(feeds)
        self._folder = tempfile.TemporaryDirectory(prefix="tilewright-")
        self._errors = Path(self._folder.name, "errors").open("w+")  # noqa: SIM115
        command = [
            sys.executable, "-m", "tilewright.benchmarking.engine", name, str(model),
            str(threads), target or "", self._folder.name, *map(str, feeds),
        ]  # fmt: skip
        # OpenMP's number of threads is settled when its library is loaded.
        given = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=given,
        )  # fmt: skip

    def ready(self, patience: float = _PATIENCE) -> None:
        """Waits until the model can be run, and stops the process until its turn.

        Raises:
            OptionError: the engine does not take the model, or does not run it (TW-E0825).
        """
        told = self._answer(patience)
        if "refused" in told:
            raise OptionError(told["refused"], code="TW-E0825")
        self.version, self.seconds = str(told["version"]), float(told["seconds"])
        self.peak_bytes = int(told["peak"])
        for k in range(len(self._feeds)):
            with np.load(_output_file(Path(self._folder.name), k)) as archive:
                self.outputs.append([archive[n] for n in archive.files])
        self._process.send_signal(signal.SIGSTOP)

    def block(self, count: int) -> list[float]:
        """Makes one call that is not timed, then so many that are; returns their seconds."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        seconds = self._answer(_PATIENCE)["seconds"]
        self._process.send_signal(signal.SIGSTOP)
        return [float(s) for s in seconds]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        self._folder.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        answers, _, _ = select.select([self._process.stdout], [], [], patience)
        line = self._process.stdout.readline() if answers else ""
        if not line:
            why = self._last_words() if answers else f"no answer after {patience:.0f} s"
            raise OptionError(f"{self.name}: its process ended: {why}", code="TW-E0825")
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        self._errors.seek(0)
        told = [line for line in self._errors.read().splitlines() if line.strip()]
        return told[-1] if told else f"status {self._process.wait()}"


def _output_file(folder: Path, k: int) -> Path:
    return folder / f"outputs{k}.npz"


# ------------------------------------------------------------------ inside the process

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], Sequence[np.ndarray]]


def _end_with_parent() -> None:
    """A process that stands still would outlive a parent that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that is ready: by whom, after how long, its outputs, and its call to be timed."""

    version: str
    seconds: float
    run: Run
    call_of: Callable[[Feed], Callable[[], object]]


def _open(engine: str, model: str, threads: int, target: str | None) -> _Opened:
    if engine != OURS:
        peer = open_peer(engine, Path(model), threads)
        return _Opened(peer.version, peer.seconds, peer.run, lambda feed: partial(peer.run, feed))
    began = time.perf_counter()
    exe = (
        load(model, threads=threads)
        if model.endswith(".tw")
        else compile(model, threads=threads, target=target, cache=False)
    )
    took = time.perf_counter() - began
    order = [spec.name for spec in exe.inputs]
    return _Opened(
        __version__,
        took,
        lambda feed: list(exe.run(feed).values()),
        lambda feed: partial(exe, *(feed[n] for n in order)),
    )


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _keep(arrays: Sequence[np.ndarray], file: Path) -> None:
    known = [a if a.dtype.kind in "biufc" else a.astype(np.float32) for a in arrays]
    np.savez(file, *known)


def main(engine: str, model: str, threads: str, target: str, folder: str, *files: str) -> None:
    """Gets ready, keeps the outputs, and answers each line: how many calls to time."""
    _end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Libraries print what is no answer.

    def answer(**told: object) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    feeds: list[Feed] = []
    for file in files:
        with np.load(file) as archive:
            feeds.append({n: archive[n] for n in archive.files})
    try:
        opened = _open(engine, model, int(threads), target or None)
    except Exception as error:
        # Peers' errors share no type of their own.
        said = first_line(error)
        answer(refused=said if said.startswith(engine) else f"{engine}: {said}")
        return
    try:
        call = opened.call_of(feeds[0])
        first = _timed(call)
        for k, feed in enumerate(feeds):
            _keep([np.asarray(y) for y in opened.run(feed)], _output_file(Path(folder), k))
        # Some compile at the first call.
        took = opened.seconds + max(0.0, first - _timed(call))
    except Exception as error:
        answer(refused=f"{engine} {opened.version} does not run it: {first_line(error)}")
        return
    answer(version=opened.version, seconds=took, peak=peak_bytes())
    for line in sys.stdin:
        call()
        answer(seconds=[_timed(call) for _ in range(int(line))])


if __name__ == "__main__":
    main(*sys.argv[1:])
