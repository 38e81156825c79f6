"""Jobs on many machines, by dask.distributed: `dask scheduler` and `dask worker` run there.

A machine measures one candidate at a time: its worker is started with
``--resources "measure=1"``, and measurements ask for that. On each worker jobs run in processes of
their own, as they do here, so that a candidate that crashes or hangs takes no worker with it. What
a machine was doing when it was lost is done again by another one; records are kept here.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from importlib import import_module
from threading import Lock
from typing import Any

from tilewright.errors import OptionError
from tilewright.version import __version__

from .processes import FailedJobError, LostJobError, Process

RESOURCE = "measure"
CONNECT_SECONDS = 15.0

_PROCESSES: dict[str, tuple[Process, Lock]] = {}
"""The processes of a worker of the fleet, by what they are for; they stay for its next jobs."""

_STARTING = Lock()


def run_apart(
    kind: str, timeout: float, function: Callable[..., Any], arguments: tuple[object, ...]
) -> tuple[str, Any]:
    """Runs a job in a process of this worker: ``done`` and its value, or how it was lost."""
    with _STARTING:
        if kind not in _PROCESSES:
            process = Process()
            atexit.register(process.end)
            _PROCESSES[kind] = process, Lock()
    process, turn = _PROCESSES[kind]
    with turn:
        try:
            return "done", process.call(timeout, function, arguments)
        except LostJobError as error:
            return "hung" if error.hung else "crashed", str(error)
        except FailedJobError as error:
            return "refused" if error.expected else "failed", str(error)


def version() -> str:
    """The version that a worker of the fleet runs."""
    return __version__


class Fleet:
    """The workers of a dask scheduler (see ``processes.Workers``).

    Args:
        address: of the scheduler, ``tcp://host:8786``.

    Raises:
        OptionError: dask.distributed is not installed (TW-E0841), nothing answers there
            (TW-E0842), or no worker can take measurements (TW-E0843).
    """

    def __init__(self, address: str) -> None:
        self._client = _connect(address)
        try:
            self.builders = self._count(address)
        except BaseException:
            self._client.close()
            raise

    def _count(self, address: str) -> int:
        """How many jobs its workers run at once, once it is known that they can."""
        workers: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        able = [w for w in workers.values() if w["resources"].get(RESOURCE, 0) >= 1]
        if not able:
            raise OptionError(
                f"fleet {address}: of {len(workers)} workers none takes measurements; start them "
                f'with: dask worker {address} --resources "{RESOURCE}=1"',
                code="TW-E0843",
            )
        others = {v for v in self._client.run(version).values() if v != __version__}
        if others:
            raise OptionError(
                f"fleet {address}: workers run version {', '.join(sorted(others))} of tilewright, "
                f"and this is {__version__}; install the same one everywhere",
                code="TW-E0843",
            )
        return sum(int(w["nthreads"]) for w in workers.values())

    def build(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        return self._submit("build", {}, timeout, function, arguments)

    def measure(
        self, timeout: float, function: Callable[..., Any], *arguments: object
    ) -> Future[Any]:
        return self._submit("measure", {RESOURCE: 1}, timeout, function, arguments)

    def close(self) -> None:
        """Leaves the fleet; its workers stay for others."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def _submit(
        self,
        kind: str,
        resources: Mapping[str, int],
        timeout: float,
        function: Callable[..., Any],
        arguments: tuple[object, ...],
    ) -> Future[Any]:
        here: Future[Any] = Future()
        there = self._client.submit(
            run_apart, kind, timeout, function, arguments, pure=False, resources=resources
        )

        def take(done: Any) -> None:
            if here.cancelled():
                return
            try:
                how, value = done.result()
            except BaseException as error:  # Cancelled, or every machine that tried it was lost.
                here.set_exception(LostJobError(f"lost with its machine: {error}", hung=False))
                return
            if how == "done":
                here.set_result(value)
            elif how in ("hung", "crashed"):
                here.set_exception(LostJobError(value, hung=how == "hung"))
            else:
                here.set_exception(FailedJobError(value, expected=how == "refused"))

        there.add_done_callback(take)
        return here


def _connect(address: str) -> Any:
    try:
        client = import_module("distributed").Client
    except ModuleNotFoundError as error:
        raise OptionError(
            "tuning on a fleet needs dask.distributed: pip install 'tilewright[fleet]'",
            code="TW-E0841",
        ) from error
    try:
        return client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise OptionError(
            f"fleet {address}: no scheduler answers there: {error}; start one with: dask scheduler",
            code="TW-E0842",
        ) from error
