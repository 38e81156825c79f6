"""How much faster does tuning make a model, after how much time?

    python benchmarks/tune.py MODEL ... [--budget 60] [--threads 1] [--dim N=4] [--json FILE]

Each model is tuned from nothing. While the search runs, the speed-up of all kernels together, each
with the best of its schedules so far, is printed against the wall clock, which starts with reading
the model; the last line is the whole model's, measured in turns with the untuned one.
``benchmarks/export_models.py`` writes the ONNX files of resnet18, mobilenet_v2 and BERT-base.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tilewright.autotune.search import Step
from tilewright.options import from_environment
from tilewright.tuning import Tuned, tune_source

EVERY = 1.15
"""A point of the curve is kept where the clock has gone on by this factor."""


@dataclass
class Curve:
    """The speed-up of one model over time.

    Attributes:
        model, budget, threads: what was tuned, and how.
        points: seconds since the start, schedules tried, and the speed-up of all kernels.
        measured: the whole model's speed-up at the end.
        seconds: how long all of it took.
    """

    model: str
    budget: float
    threads: int
    points: list[tuple[float, int, float]] = field(default_factory=list)
    measured: float = 1.0
    seconds: float = 0.0


def tune(model: str, budget: float, threads: int, dims: dict[str, int]) -> tuple[Curve, Tuned]:
    """Tunes a model and keeps how it went."""
    curve = Curve(model, budget, threads)
    seconds: dict[str, float] = {}
    best: dict[str, float] = {}
    began = time.monotonic()

    def tell(step: Step) -> None:
        if step.what == "untuned":
            seconds[step.task.key] = step.seconds * step.task.calls
        best[step.task.key] = step.best
        now = time.monotonic() - began
        if curve.points and now < curve.points[-1][0] * EVERY:
            return
        total = sum(seconds.values())
        after = sum(s * best[key] for key, s in seconds.items())
        curve.points.append((now, step.trials, total / after if after else 1.0))

    with TemporaryDirectory() as folder:
        found = tune_source(
            model,
            from_environment(None, threads=threads),
            budget=budget,
            records=Path(folder) / "records.db",
            dims=dims,
            tell=tell,
        )
    curve.measured, curve.seconds = 1.0 / found.ratio, found.seconds
    return curve, found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", action="append", default=[], help="the size of a symbol, N=4")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dims = {name: int(size) for name, _, size in (d.partition("=") for d in arguments.dim)}
    curves = []
    for model in arguments.models:
        curve, found = tune(model, arguments.budget, arguments.threads, dims)
        curves.append(curve)
        print(f"{model}, {arguments.threads} threads, {arguments.budget:g} s")
        print("  seconds  tried  kernels together")
        for at, tried, gain in curve.points:
            print(f"  {at:7.1f}  {tried:5}  {gain:.3f}x")
        print(f"  {curve.seconds:7.1f}  {found.trials:5}  whole model, measured: "
              f"{curve.measured:.3f}x")  # fmt: skip
        print(found.text(), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(c) for c in curves], indent=1))


if __name__ == "__main__":
    main()
