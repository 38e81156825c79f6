"""Which search makes a model faster in the same time: ours, or TVM's MetaSchedule?

    python benchmarks/tune_tvm.py MODEL.onnx ... --tvm-python PATH [--budget 60] [--threads 1]

MODEL.onnx needs MODEL.npz beside it with its inputs as ``in_NAME``, as export_models.py writes both
(resnet18, mobilenet_v2, bert_base_static128). PATH is a Python whose environment has TVM, made by
``pip install apache-tvm apache-tvm-ffi==0.1.14.post0 xgboost psutil cloudpickle onnx`` (the newest
apache-tvm-ffi crashes there); by default this Python, if it has TVM.

Both searches have the same wall-clock budget: ours with all that it does, TVM's from when it has
imported what it needs, extracted its kernels and started its processes. By its defaults TVM would
find nothing in a minute: its scheduler of kernels writes the first record when each kernel had its
turn, of 64 schedules bred from 512, and each turn imports instructions of other targets for 8
seconds. So tvm_worker.py hands it kernels one by one, the one with most operations first, and
fewer schedules of smaller populations at a time. ``--log`` shows what became of its time.

Then the models are called in turns in blocks; both libraries generate code for this CPU. For each
model: milliseconds of a call (the median), and the least of them, untuned and tuned, where TVM's
untuned model is what it makes without records; ``gain``: how many times as fast tuning made it.
``TVM/ours`` is the time of TVM's tuned model over that of ours, the median over blocks; above 1,
ours is faster. Then how many schedules both tried, and whether results agree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import llvmlite.binding as llvm
import numpy as np

import tilewright as tw

WORKER = Path(__file__).with_name("tvm_worker.py")
EACH = (8, 16)
"""Schedules of a kernel that TVM tries in a row, for budgets below LONG_BUDGET and from there.

By its default, 64, it would see few kernels.
"""
LONG_BUDGET = 200.0
LONG = 0.5
"""Seconds of a call beyond which it is made three times and no more."""
TOLERANCE = 2e-3
COLUMNS = ("untuned", "tuned", "TVM untuned", "TVM tuned")
QUICK = "import inspect\ninspect.getmodule = lambda *_, **__: None\n"
"""Spares each process of TVM a minute: what it parses at import asks where each frame is from."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of calls, and of the blocks that they were made in."""

    calls: list[float]
    blocks: list[float]

    def shown(self) -> str:
        return f"{median(self.calls) * 1e3:9.2f} ({min(self.calls) * 1e3:.2f})"


Timer = Callable[[int], list[float]]


class Tvm:
    """A process that holds a model untuned and tuned."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def timer(self, what: str) -> Timer:
        return lambda count: list(self.ask(f"{what} {count}")["seconds"])

    def _answer(self) -> Any:
        return wait_for_answer(self.process)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def wait_for_answer(process: subprocess.Popen[str]) -> Any:
    """The next line that the worker itself wrote."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("@"):
            return json.loads(line[1:])
    raise RuntimeError(f"TVM's process ended with {process.wait()}")


def tune_in_tvm(
    command: list[str], environment: Mapping[str, str], budget: float, log: Path
) -> None:
    """Lets TVM search for so many seconds and then ends it, with all processes of its own."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
            stderr=file,
        )  # fmt: skip
    try:
        wait_for_answer(process)
        # TVM writes to its standard output, too: full, it would stand still.
        Thread(target=drain, args=(process,), daemon=True).start()
        time.sleep(budget)
    finally:
        for child in (*children_of(process.pid), process.pid):
            kill(child)
        process.wait()


def drain(process: subprocess.Popen[str]) -> None:
    """Reads what a process still writes, and forgets it."""
    assert process.stdout is not None
    for _ in process.stdout:
        pass


def children_of(parent: int) -> list[int]:
    """The processes below one, by the kernel's own list."""
    found: list[int] = []
    for place in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, place.read_text().split()):
            found += [*children_of(child), child]
    return found


def kill(process: int) -> None:
    """Ends one process, if it is there still."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def tune_ours(model: Path, records: Path, budget: float, threads: int) -> int:
    """Runs ``tilewright tune``; returns how many schedules it tried."""
    command = [sys.executable, "-m", "tilewright", "tune", str(model), "--budget", f"{budget:g}s"]
    command += ["--records", str(records), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tried = re.search(r"(\d+) schedules tried", done.stdout)
    return int(tried[1]) if tried else 0


def calls_of(executable: tw.Executable, arrays: list[np.ndarray]) -> Timer:
    def timed(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            executable(*arrays)
            seconds.append(time.perf_counter() - began)
        return seconds

    return timed


def in_turns(timers: Mapping[str, Timer], seconds: float) -> dict[str, Timed]:
    """Calls each in blocks, one after the other, every second round backwards."""
    first = {name: timer(2) for name, timer in timers.items()}
    once = {name: calls[1] for name, calls in first.items()}
    result = {n: Timed(first[n] + timers[n](1), []) for n in timers if once[n] > LONG}
    short = [n for n in timers if n not in result]
    result |= {n: Timed([], []) for n in short}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        for name in short if rounds % 2 else reversed(short):
            count = max(1, min(50, round(0.05 / once[name])))
            # The first call finds caches as the one before left them.
            found = timers[name](count + 1)[1:]
            result[name].calls.extend(found)
            result[name].blocks.append(median(found))
        rounds += 1
    return result


def compare(model: Path, given: argparse.Namespace, folder: Path) -> None:
    """Prints one line."""
    held = np.load(model.with_suffix(".npz"))
    feed = {n.removeprefix("in_"): held[n] for n in held.files if n.startswith("in_")}
    np.savez(folder / "feed.npz", **feed)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(QUICK)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    cpu = llvm.get_host_cpu_name()
    base = [given.tvm_python, str(WORKER)]
    place = [str(model), str(folder), cpu, str(given.threads)]
    each = EACH[given.budget >= LONG_BUDGET]
    tune_in_tvm([*base, "tune", *place, str(each)], environment, given.budget, folder / "log")
    if given.log:
        print(turns_in(folder / "log"), file=sys.stderr)
    tried = tune_ours(model, folder / "records.db", given.budget, given.threads)
    untuned = tw.compile(model, threads=given.threads)
    tuned = tw.compile(model, threads=given.threads, records=folder / "records.db")
    arrays = [feed[s.name] for s in tuned.inputs]
    theirs = Tvm([*base, "serve", *place, str(folder / "feed.npz")], environment)
    try:
        theirs.ask(f"outputs {folder / 'outputs.npz'}")
        difference = largest_difference(tuned(*arrays), np.load(folder / "outputs.npz"))
        timers = {
            "untuned": calls_of(untuned, arrays),
            "tuned": calls_of(tuned, arrays),
            "TVM untuned": theirs.timer("untuned"),
            "TVM tuned": theirs.timer("tuned"),
        }
        found = in_turns(timers, given.seconds)
    finally:
        theirs.close()
    with (folder / "database_tuning_record.json").open() as lines:
        measured = sum(1 for _ in lines)
    report(model.stem, found, difference, (tried, measured))


def turns_in(log: Path) -> str:
    """What tvm_worker.py said of its turns."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith("@"))


def largest_difference(ours: tuple[Any, ...], theirs: Any) -> float:
    """Of the outputs, as a part of the greatest value."""
    pairs = [(np.asarray(a), theirs[n]) for a, n in zip(ours, theirs.files, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def report(
    name: str, found: Mapping[str, Timed], difference: float, tried: tuple[int, int]
) -> None:
    shown = "".join(f"{found[n].shown():>18}" for n in COLUMNS)
    before, after = (median(found[n].calls) for n in ("untuned", "tuned"))
    theirs_before, theirs_after = (median(found[f"TVM {n}"].calls) for n in ("untuned", "tuned"))
    pairs = list(zip(found["TVM tuned"].blocks, found["tuned"].blocks, strict=False))
    ratio = median(t / o for t, o in pairs) if pairs else theirs_after / after
    gains = f"{before / after:7.2f}{theirs_before / theirs_after:9.2f}"
    agree = "agree" if difference <= TOLERANCE else f"DIFFER by {difference:.1e}"
    print(f"{name:20}{shown}{gains}{ratio:10.2f}  {tried[0]}/{tried[1]} tried, results {agree}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--tvm-python", metavar="PATH", help="a Python that has TVM")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measurement for each model")
    parser.add_argument("--log", action="store_true", help="show which kernels TVM tuned, and when")
    given = parser.parse_args()
    if given.tvm_python is None:
        if find_spec("tvm") is None:
            parser.error("TVM is not installed; give --tvm-python (see --help)")
        given.tvm_python = sys.executable
    head = "".join(f"{n + ' ms':>18}" for n in COLUMNS)
    print(f"{'':20}{head}{'gain':>7}{'TVM gain':>9}{'TVM/ours':>10}", flush=True)
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            compare(model.resolve(), given, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
