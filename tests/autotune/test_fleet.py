"""Jobs run on the workers of a dask scheduler; one that is killed loses no record."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tilewright.autotune.fleet import Fleet
from tilewright.autotune.processes import FailedJobError, LostJobError
from tilewright.autotune.records import open_records, read_records
from tilewright.autotune.search import Search, Step
from tilewright.backends import load_backend
from tilewright.errors import OptionError

from .groups import lower_badly, product
from .test_processes import crash, double, refuse, sleep, tell_id

distributed = pytest.importorskip("distributed", reason="needs dask.distributed (extra fleet)")

NATIVE = load_backend("cpu").resolve("native")
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
DASK = str(Path(sys.executable).with_name("dask"))


@dataclass
class Machines:
    """A scheduler and two workers on this machine."""

    address: str
    workers: list[subprocess.Popen[bytes]]


def start(*command: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        return subprocess.Popen(
            [DASK, *command], stdout=file, stderr=file, env=environment,
            start_new_session=True,
        )  # fmt: skip


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(1200):
        for line in log.read_text(errors="replace").splitlines():
            if "Scheduler at:" in line:
                return line.split()[-1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))


def make(folder: Path, *resources: str) -> Iterator[Machines]:
    if shutil.which(DASK) is None:
        pytest.skip("the command dask is not installed")
    log = folder / "scheduler"
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", log=log)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        address = address_in(log, scheduler)
        for k in range(2):
            workers.append(
                start(
                    "worker", address, "--host", "127.0.0.1", "--nthreads", "2", "--no-nanny",
                    "--no-dashboard", "--local-directory", str(folder / f"{k}"), *resources,
                    log=folder / f"worker{k}",
                )
            )  # fmt: skip
        wait_for(address, 2)
        yield Machines(address, workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def wait_for(address: str, count: int) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Shared, since they take seconds to start; the last test that uses them ends one."""
    yield from make(tmp_path_factory.mktemp("machines"), "--resources", "measure=1")


def test_jobs_run_on_the_workers_and_their_failures_are_told(machines: Machines) -> None:
    fleet = Fleet(machines.address)
    assert fleet.builders == 4
    # Each machine's process starts with its first job, which may take a while longer.
    assert [f.result(PATIENCE) for f in [fleet.build(60, double, n) for n in range(8)]][-1] == 14
    assert fleet.measure(60, tell_id).result(PATIENCE) != os.getpid()
    with pytest.raises(LostJobError, match="SIGSEGV"):
        fleet.measure(60, crash, signal.SIGSEGV).result(PATIENCE)
    with pytest.raises(LostJobError, match="took longer"):
        fleet.build(0.1, sleep, 3600.0).result(PATIENCE)
    with pytest.raises(FailedJobError, match="TW-E0701"):
        fleet.build(60, refuse).result(PATIENCE)
    assert fleet.build(60, double, 1).result(PATIENCE) == 2
    fleet.close()


def test_a_worker_that_is_killed_loses_no_record(machines: Machines, tmp_path: Path) -> None:
    place = tmp_path / "records.db"
    told: list[Step] = []

    def tell(step: Step) -> None:
        told.append(step)
        if step.trials == 3:
            machines.workers[0].kill()

    task = product(NATIVE)
    with open_records(place) as records:
        search = Search(
            [task], lower_badly, Fleet(machines.address), records, 1, time.monotonic() + 240,
            most=10, tell=tell,
        )  # fmt: skip
        (found,) = search.run()
    assert machines.workers[0].wait() == -signal.SIGKILL
    assert machines.workers[1].poll() is None
    assert search.trials == 10
    with read_records(place) as records:
        trials = records.trials(task.key)
    assert len(trials) == found.trials == 10
    assert {t.status for t in trials} <= {"ok", "crashed", "hung", "wrong", "refused"}
    assert sum(t.status == "ok" for t in trials) >= 4


def test_workers_without_the_resource_are_refused(tmp_path: Path) -> None:
    for machines in make(tmp_path):
        with pytest.raises(OptionError, match="TW-E0843.*measure=1"):
            Fleet(machines.address)


def test_a_scheduler_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.autotune.fleet.CONNECT_SECONDS", 1.0)
    with pytest.raises(OptionError, match="TW-E0842"):
        Fleet("tcp://127.0.0.1:1")


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"TW-E0841.*tilewright\[fleet\]"):
        Fleet("tcp://127.0.0.1:8786")
