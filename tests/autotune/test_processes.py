"""A job may crash, hang or fail: the parent learns which, and the next job runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tilewright.autotune.processes import FailedJobError, LocalWorkers, LostJobError
from tilewright.errors import InternalError, ScheduleError

LONG = 60.0


def double(x: int) -> int:
    return 2 * x


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    print("said before it left", file=sys.stderr)
    os._exit(code)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def refuse() -> None:
    raise ScheduleError("no such loop", code="TW-E0701")


def fail() -> None:
    raise ValueError("a defect")


def tell_id() -> int:
    return os.getpid()


@pytest.fixture
def workers() -> Iterator[LocalWorkers]:
    made = LocalWorkers(1)
    yield made
    made.close()


def test_jobs_run_in_another_process(workers: LocalWorkers) -> None:
    assert workers.build(LONG, double, 21).result() == 42
    ids = [workers.measure(LONG, tell_id).result() for _ in range(2)]
    assert ids[0] == ids[1] != os.getpid()


def test_a_crash_is_told_by_its_signal_and_the_next_job_runs(workers: LocalWorkers) -> None:
    with pytest.raises(LostJobError, match="SIGSEGV") as error:
        workers.measure(LONG, crash, signal.SIGSEGV).result()
    assert not error.value.hung
    assert workers.measure(LONG, double, 1).result() == 2


def test_the_last_words_of_a_process_are_told(workers: LocalWorkers) -> None:
    with pytest.raises(LostJobError, match="code 3: said before it left"):
        workers.measure(LONG, leave, 3).result()


def test_a_job_that_hangs_is_ended(workers: LocalWorkers) -> None:
    assert workers.measure(LONG, double, 1).result() == 2
    with pytest.raises(LostJobError) as error:
        workers.measure(0.2, sleep, 3600.0).result()
    assert error.value.hung
    assert workers.measure(LONG, double, 1).result() == 2


def test_errors_are_told_with_whether_they_are_ours(workers: LocalWorkers) -> None:
    with pytest.raises(FailedJobError, match="TW-E0701: no such loop") as refused:
        workers.build(LONG, refuse).result()
    with pytest.raises(FailedJobError, match="ValueError: a defect") as failed:
        workers.build(LONG, fail).result()
    assert refused.value.expected
    assert not failed.value.expected


def test_closing_ends_jobs_that_run_and_that_wait() -> None:
    workers = LocalWorkers(1)
    running = [workers.build(LONG, sleep, 3600.0) for _ in range(3)]
    workers.close()
    assert all(f.done() for f in running)
    workers.close()


def test_a_worker_that_cannot_start_is_an_error(
    workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(InternalError, match="TW-E0935"):
        workers.build(LONG, double, 1).result()


PARENT = """
import time
from tests.autotune.test_processes import sleep, tell_id
from tilewright.autotune.processes import LocalWorkers
workers = LocalWorkers(1)
print(workers.build(60, tell_id).result(), flush=True)
workers.build(3600, sleep, 3600.0)
time.sleep(3600)
"""


def test_workers_end_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(600):
        state = Path(f"/proc/{worker}/stat")
        # Gone, or dead and not yet waited for by whoever inherited it.
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"worker {worker} outlives its parent")
