"""How many measurements does it take to find a schedule within 2 % of the best known?

    python benchmarks/tune_ablation.py collect FILE [MODEL ...] [--kernels 4] [--each 60]
    python benchmarks/tune_ablation.py replay FILE [--seeds 10]

``collect`` measures schedules of the kernels of some models that take most time, chosen at random
around what the analytic model likes, and adds them to a file. ``replay`` lets two rankings choose
among what was measured, one at a time: the analytic model alone, and with it trees that learn from
every measurement so far, those of the other kernels first (of the kernel itself none). Both begin
with the analytic model's best. A ranking is as good as it needs few measurements until the best it
has seen is within 2 % of the best of all.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

from tilewright.autotune.candidates import Proposer
from tilewright.autotune.features import features
from tilewright.autotune.job import build, measure
from tilewright.autotune.processes import FailedJobError, LocalWorkers, LostJobError
from tilewright.autotune.ranking import Trees, row
from tilewright.autotune.search import work_of
from tilewright.backends import load_backend
from tilewright.feed import choose_dims
from tilewright.lower.alone import lower_alone
from tilewright.pipeline import build as build_model
from tilewright.runtime.cache import NO_CACHE
from tilewright.sources import source_of
from tilewright.stages import Log
from tilewright.tuning import tasks_of

MODELS = ("zoo:squeezenet", "zoo:shufflenet", "zoo:resnet50")
WITHIN = 1.02
FIRST = 4
AFTER = (5, 10, 20)
SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Known:
    """One measured schedule: its answers, features, the analytic model's cost, its ratio."""

    given: dict[str, int]
    features: list[float]
    cost: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and all its measured schedules; the first one is the untuned one."""

    title: str
    known: list[Known]


# ------------------------------------------------------------------ collecting


def collect(place: Path, models: Sequence[str], kernels: int, each: int) -> None:
    """Adds measurements of the largest kernels of some models to a file."""
    backend = load_backend("cpu")
    target = backend.resolve("native")
    for model in models:
        graph = source_of(model, Log()).graph()
        built = build_model(graph, target, backend, NO_CACHE, Log())
        inputs = built.artifact.program.inputs
        tasks = tasks_of(built, target, "fast", choose_dims(inputs, {}))
        for task in sorted(tasks, key=work_of, reverse=True)[:kernels]:
            workers = LocalWorkers(1)
            base = workers.build(60, build, task, lower_alone, {}).result()
            first = features(base.lowered.kernels, target, task.sizes)
            proposer = Proposer(base.lowered.asked, base.lowered.weighed, ("parallel",))
            found = [Known({}, first, 1.0, 1.0)]
            began = time.monotonic()
            while len(found) < each and (given := proposer.next()) is not None:
                try:
                    made = workers.build(60, build, task, lower_alone, given).result()
                    if not proposer.built(given, made.lowered.asked, made.lowered.weighed):
                        continue
                    done = workers.measure(60, measure, task, base, made, 1, SECONDS).result()
                except (FailedJobError, LostJobError) as error:
                    print(f"  {given}: {error}", file=sys.stderr)
                    continue
                if not done.agrees:
                    print(f"  {given}: {done.note}", file=sys.stderr)
                    continue
                proposer.measured(given, done.ratio)
                look = features(made.lowered.kernels, target, task.sizes)
                found.append(Known(given, look, proposer.cost(given), done.ratio))
            workers.close()
            with place.open("a") as file:
                print(json.dumps(asdict(Kernel(f"{model} {task.title}", found))), file=file)
            best = min(k.ratio for k in found)
            took = time.monotonic() - began
            print(
                f"{model} {task.title}: {len(found)} in {took:.0f} s, best {best:.2f}", flush=True
            )


def read(place: Path) -> list[Kernel]:
    """All kernels of a file."""
    found = map(json.loads, place.read_text().splitlines())
    return [Kernel(k["title"], [Known(**x) for x in k["known"]]) for k in found]


# ------------------------------------------------------------------ replaying


def order(kernel: Kernel, others: Sequence[Kernel], learn: bool, seed: int) -> list[float]:
    """The ratios of a kernel's schedules in the order in which a ranking measures them."""
    generator = random.Random(seed)
    left = list(kernel.known[1:])
    generator.shuffle(left)
    untuned = kernel.known[0].features
    trees = Trees()
    if learn:
        for other in others:
            for k in other.known[1:]:
                trees.add(row(other.known[0].features, k.features), k.ratio)
    left.sort(key=lambda k: k.cost)
    done: list[float] = []
    while left:
        expected = None
        if learn and len(done) >= FIRST:
            expected = trees.predict([row(untuned, k.features) for k in left])
        n = 0 if expected is None else min(range(len(left)), key=expected.__getitem__)
        chosen = left.pop(n)
        trees.add(row(untuned, chosen.features), chosen.ratio)
        done.append(chosen.ratio)
    return done


def measurements(ratios: Sequence[float]) -> int:
    """How many measurements it takes to come within 2 % of the best."""
    goal = min(ratios) * WITHIN
    return next(n for n, ratio in enumerate(ratios, 1) if ratio <= goal)


def replay(place: Path, seeds: int) -> None:
    """Prints how many measurements each ranking takes, and how good its best is after some."""
    kernels = read(place)
    ways = {"prior": (False, False), "trees": (True, True), "own": (False, True)}
    counts: dict[str, list[float]] = {name: [] for name in ways}
    lost: dict[str, dict[int, list[float]]] = {name: {n: [] for n in AFTER} for name in ways}
    print(f"{'kernel':<60} {'known':>5} {'best':>5} {'prior':>6} {'trees':>6} {'own':>6}")
    for kernel in kernels:
        others = [k for k in kernels if k is not kernel]
        best = min(k.ratio for k in kernel.known[1:])
        for name, (all_, learn) in ways.items():
            runs = [order(kernel, others if all_ else (), learn, s) for s in range(seeds)]
            counts[name].append(mean(map(measurements, runs)))
            for n in AFTER:
                lost[name][n].append(mean(min(run[:n]) / best for run in runs))
        shown = " ".join(f"{counts[name][-1]:6.1f}" for name in ways)
        print(f"{kernel.title:<60} {len(kernel.known):>5} {best:>5.2f} {shown}", flush=True)
    for name in ways:
        found = counts[name]
        after = ", ".join(f"{n}: {mean(lost[name][n]):.3f}" for n in AFTER)
        print(
            f"{name}: mean {mean(found):.1f}, median {median(found):.1f} measurements; best so far "
            f"over the best of all after {after}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("file", type=Path)
    collecting.add_argument("models", nargs="*", default=list(MODELS))
    collecting.add_argument("--kernels", type=int, default=4)
    collecting.add_argument("--each", type=int, default=60)
    replaying = commands.add_parser("replay")
    replaying.add_argument("file", type=Path)
    replaying.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.command == "collect":
        collect(arguments.file, arguments.models, arguments.kernels, arguments.each)
    else:
        replay(arguments.file, arguments.seeds)


if __name__ == "__main__":
    main()
