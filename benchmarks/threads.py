"""What does a second thread bring, and what does a busy machine cost, here and in ONNX Runtime?

    python benchmarks/threads.py [MODEL ...] [--threads 2] [--time-budget 20] [--hogs 1]
                                 [--compare onnxruntime] [--json FILE]

MODEL is an ONNX file or a network of the zoo. Every engine, with one thread and with several, has
a process of its own, and all take turns: ``speed-up`` is the time of one thread over that of
several. Two loops of the machine take turns with them and say what threads can bring: multiply-adds
in registers, and reads of memory from beyond a core's own caches, as much of both in each thread.
Then as many other processes as ``--hogs`` says keep the CPUs busy, wherever the system
puts them, while the engines with several threads take turns again: ``busy`` is their time then
over that without. Both are medians with 95 % intervals. ``x busy`` is a peer's time over ours
while the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from gate_power import busy  # type: ignore[import-not-found]

import tilewright
from tilewright.backends.cpu.peaks import Meter
from tilewright.backends.cpu.target import resolve_target
from tilewright.benchmarking.engine import Engine
from tilewright.benchmarking.measure import Block, block_of, precise, take_turns
from tilewright.benchmarking.report import OURS
from tilewright.benchmarking.significance import Interval, paired_ratio, unpaired_ratio
from tilewright.commands.arrays import choose_dims, random_inputs, write_arrays
from tilewright.commands.bench import parse_peers
from tilewright.peers import as_file

ARITHMETIC_ROUNDS = 500_000
"""Steps of each chain: some milliseconds."""
READ_BYTES = 16 << 20
"""What each thread reads: more than it has caches of its own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What threads bring to a model in one engine.

    Attributes:
        model, engine: which.
        milliseconds: of several threads on a quiet machine.
        speed_up: the time of one thread over that of several, for the same work.
        busy: the time of several threads on a busy machine over that on a quiet one; None for
            the loops of the machine.
        ratio: its time over ours while the machine is busy; None for these.
    """

    model: str
    engine: str
    milliseconds: float
    speed_up: Interval
    busy: Interval | None = None
    ratio: Interval | None = None


def machine_loops(threads: int) -> dict[str, list[Block]]:
    """The loops of the machine, with one thread and with several; the work is each thread's."""
    meter = Meter(resolve_target())
    counts = (1, threads)
    return {
        "arithmetic": [block_of(meter.chains(n, ARITHMETIC_ROUNDS)[0]) for n in counts],
        "reading": [block_of(meter.sums(n, READ_BYTES, 1)[0]) for n in counts],
    }


def measure(model: str, loops: dict[str, list[Block]], chosen: argparse.Namespace) -> list[Answer]:
    """All engines on one model, and the machine meanwhile."""
    names = (OURS, *chosen.compare)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
        path = stack.enter_context(as_file(model))
        exe = tilewright.compile(model)
        sizes = choose_dims(exe.inputs, {}, exe.program.conditions)
        feed, compiled = folder / "inputs.npz", folder / "model.tw"
        write_arrays(feed, random_inputs(exe.inputs, sizes, 0))
        exe.save(compiled)
        del exe
        engines = [
            stack.enter_context(Engine(n, compiled if n == OURS else path, count, [feed]))
            for count in (1, chosen.threads)
            for n in names
        ]
        for engine in engines:
            engine.ready()
        blocks = [e.block for e in engines]
        both = [b for pair in loops.values() for b in pair]
        quiet = take_turns(
            [*blocks, *both],
            chosen.time_budget,
            enough=precise(0.01, len(blocks) + len(both) - 1),
        )
        one, several = quiet[: len(names)], quiet[len(names) : len(blocks)]
        machine = quiet[len(blocks) :]
        for _ in range(chosen.hogs):
            stack.enter_context(busy(pinned=False))
        loaded = take_turns(
            blocks[len(names) :], chosen.time_budget, enough=precise(0.02, len(chosen.compare))
        )
    found = [
        Answer(
            model, name, several[k].median * 1e3,
            paired_ratio(one[k].blocks, several[k].blocks),
            unpaired_ratio(loaded[k].blocks, several[k].blocks),
            paired_ratio(loaded[k].blocks, loaded[0].blocks),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    return found + [
        Answer(
            model, name, machine[2 * k + 1].median * 1e3,
            paired_ratio(
                [chosen.threads * b for b in machine[2 * k].blocks], machine[2 * k + 1].blocks
            ),
        )
        for k, name in enumerate(loops)
    ]  # fmt: skip


def main() -> None:
    """Prints a line for each model and engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["zoo:resnet50"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-budget", type=float, default=20.0, help="for each measurement")
    parser.add_argument("--hogs", type=int, default=1)
    parser.add_argument("--compare", type=parse_peers, default=("onnxruntime",))
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; "
          f"{chosen.threads} threads, {chosen.hogs} other processes when busy")  # fmt: skip
    print(f"{'model':18} {'engine':12} {'ms':>9} {'speed-up':>21} {'busy':>21} {'x busy':>21}")
    found = []
    loops = machine_loops(chosen.threads)
    for model in chosen.models:
        for a in measure(model, loops, chosen):
            found.append(a)
            print(
                f"{Path(model).stem:18} {a.engine:12} {a.milliseconds:9.3f} {a.speed_up!s:>21}"
                f" {a.busy or ''!s:>21} {a.ratio or ''!s:>21}".rstrip(),
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(a) for a in found], indent=1))


if __name__ == "__main__":
    main()
