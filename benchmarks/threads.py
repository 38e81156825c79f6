"""What does a second thread bring, and what does a busy machine cost, here and in ONNX Runtime?

    python benchmarks/threads.py [MODEL ...] [--threads 2] [--time-budget 20] [--hogs 1]
                                 [--json FILE]

MODEL is an ONNX file or a network of the zoo. One thread and several take turns in one process:
``speed-up`` is the time of one over that of several. Then as many other processes as ``--hogs``
says keep the CPUs busy: ``busy`` is the time of several threads with them over that without. Both
are medians with 95 % intervals of the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from gate_power import busy  # type: ignore[import-not-found]

import tilewright
from tilewright.benchmarking.measure import Timing, interleave, precise
from tilewright.benchmarking.significance import Interval, paired_ratio, unpaired_ratio
from tilewright.commands.arrays import choose_dims, random_inputs
from tilewright.peers import as_file, open_peer

PEER = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Answer:
    """What threads bring to a model in one engine.

    Attributes:
        model, engine: which.
        milliseconds: of several threads on a quiet machine.
        speed_up: the time of one thread over that of several.
        busy: the time of several threads on a busy machine over that on a quiet one.
    """

    model: str
    engine: str
    milliseconds: float
    speed_up: Interval
    busy: Interval


def measure(model: str, threads: int, seconds: float, hogs: int) -> list[Answer]:
    """Both engines on one model."""
    exes = [tilewright.compile(model, threads=n) for n in (1, threads)]
    sizes = choose_dims(exes[0].inputs, {}, exes[0].program.conditions)
    feed = random_inputs(exes[0].inputs, sizes, 0)
    arrays = list(feed.values())
    answers = []
    with as_file(model) as path, ExitStack() as stack:
        peers = [open_peer(PEER, path, n) for n in (1, threads)]
        engines: dict[str, list[Callable[[], object]]] = {
            "tilewright": [partial(exe, *arrays) for exe in exes],
            PEER: [partial(peer.run, feed) for peer in peers],
        }
        quiet = {e: interleave(c, seconds, enough=precise(0.01, 1)) for e, c in engines.items()}
        for _ in range(hogs):
            stack.enter_context(busy())
        loaded: dict[str, list[Timing]] = {
            e: interleave([c[1]], seconds, enough=precise(0.02, 0)) for e, c in engines.items()
        }
    for engine, (one, several) in quiet.items():
        slower = unpaired_ratio(loaded[engine][0].blocks, several.blocks)
        speed_up = paired_ratio(one.blocks, several.blocks)
        answers.append(Answer(model, engine, several.median * 1e3, speed_up, slower))
    return answers


def main() -> None:
    """Prints two lines for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["zoo:resnet50"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-budget", type=float, default=20.0, help="for each measurement")
    parser.add_argument("--hogs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs; "
          f"{chosen.threads} threads, {chosen.hogs} other processes when busy")  # fmt: skip
    print(f"{'model':22} {'engine':12} {'ms':>9} {'speed-up':>22} {'busy':>22}")
    found = []
    for model in chosen.models:
        for a in measure(model, chosen.threads, chosen.time_budget, chosen.hogs):
            found.append(a)
            print(
                f"{Path(model).stem:22} {a.engine:12} {a.milliseconds:9.3f} {a.speed_up!s:>22}"
                f" {a.busy!s:>22}",
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(a) for a in found], indent=1))


if __name__ == "__main__":
    main()
