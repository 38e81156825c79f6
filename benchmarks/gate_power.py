"""How often does the gate of ``tilewright bench`` alarm for nothing, and what does it find?

    python benchmarks/gate_power.py [--trials 100] [--time-budget 10] [--hog] [--simulate COUNT]
                                    [--json FILE]

The baseline is a stack of 20 equal layers. It is put through the gate against: itself with other
weights (other bytes, the same work), a stack of 21 layers (5 % more of the same work) and one of
22. Each is compiled from a model of its own, and each trial is a whole judgement: the comparison
of freshly loaded files, and a second one where the first is suspicious. ``--hog`` keeps the last
CPU busy with another process meanwhile. ``at most`` and ``at least`` are bounds with 95 %
confidence. Exits 1 if alarms for nothing exceed 1 %, or less than 95 % of what is to be found is.

``--simulate`` records comparisons of the equal stacks, as many as ``--trials`` says, each of
freshly loaded files and as long as the time budget, and makes each of its trials of stretches of
them: the slow-downs are injected into the recorded times. So it tells small rates in little time,
of what happens while the machine is recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import tilewright
from tilewright.benchmarking.gate import (
    ROUNDS,
    Comparison,
    Verdict,
    judge,
    settled,
    side_by_side,
)
from tilewright.benchmarking.measure import interleave
from tilewright.benchmarking.session import BLOCK_SECONDS, compare_files
from tilewright.benchmarking.significance import rate_below

LAYERS = 20
WIDTH = 192
ROWS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """What is put through the gate.

    Attributes:
        layers: of the new stack; the baseline has LAYERS.
        threshold: the slow-down that is to be found.
        wanted: whether the gate is to alarm.
    """

    layers: int
    threshold: float
    wanted: bool


QUESTIONS = (Question(20, 0.05, False), Question(21, 0.05, True), Question(22, 0.05, True))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gate said.

    Attributes:
        question: to what.
        verdicts: how often it said each.
        seconds: a trial, on average.
    """

    question: Question
    verdicts: dict[str, int]
    seconds: float


def stack(layers: int, seed: int) -> ModelProto:
    """Equal layers, one after the other: a product with a matrix, and a ReLU."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        w = (rng.standard_normal((WIDTH, WIDTH)) * (2 / WIDTH) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"y{i}"]))
        last = f"y{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [ROWS, WIDTH])
    graph = helper.make_graph(nodes, "stack", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _spin(pinned: bool) -> None:
    if pinned:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    x = 1
    while True:
        x = x * 5 % 1000003


@contextlib.contextmanager
def busy(*, pinned: bool = True) -> Iterator[None]:
    """Another process that keeps a CPU busy: the last one, or any."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_spin, args=(pinned,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def ask(question: Question, folder: Path, trials: int, seconds: float) -> Answer:
    """Puts a stack through the gate many times."""
    old, new = folder / "old.tw", folder / f"new{question.layers}.tw"
    feed = {"x": np.random.default_rng(3).standard_normal((ROWS, WIDTH), dtype=np.float32)}

    def compare(again: bool) -> Comparison:
        return compare_files(
            new, old, feed, 1, seconds, threshold=question.threshold, old_first=again
        )

    said: Counter[str] = Counter()
    began = time.perf_counter()
    for _ in range(trials):
        ((verdict, _),) = judge([compare(False)], lambda _: compare(True), question.threshold)
        said[verdict] += 1
    return Answer(question, dict(said), (time.perf_counter() - began) / trials)


# ------------------------------------------------------------------ simulation

Blocks = tuple[np.ndarray, np.ndarray]


def record(folder: Path, count: int, seconds: float) -> list[Blocks]:
    """The blocks of comparisons of equal work, new and old, each of freshly loaded files."""
    feed = {"x": np.random.default_rng(3).standard_normal((ROWS, WIDTH), dtype=np.float32)}
    found = []
    for turn in range(count):
        files = (folder / "old.tw", folder / f"new{LAYERS}.tw")
        first, second = files if turn % 2 else files[::-1]
        calls = [partial(tilewright.load(f, threads=1), *feed.values()) for f in (first, second)]
        one, other = interleave(calls, seconds, block_seconds=BLOCK_SECONDS, clock=time.thread_time)
        new, old = (other, one) if turn % 2 else (one, other)
        found.append((np.array(new.blocks), np.array(old.blocks)))
    return found


def simulate(question: Question, recorded: Sequence[Blocks], trials: int) -> Answer:
    """Puts recorded times through the gate, the new ones longer by the question's layers."""
    generator = np.random.default_rng(question.layers)
    factor = question.layers / LAYERS
    enough = settled(question.threshold)

    def compare() -> Comparison:
        new, old = recorded[int(generator.integers(len(recorded)))]
        start = int(generator.integers(len(new)))
        new, old = factor * np.roll(new, -start), np.roll(old, -start)
        count = min(ROUNDS, len(new))
        while count < len(new) and not enough([new[:count].tolist(), old[:count].tolist()]):
            count = min(int(count * 1.25) + 1, len(new))
        return side_by_side(new[:count].tolist(), old[:count].tolist())

    said: Counter[str] = Counter()
    began = time.perf_counter()
    for _ in range(trials):
        ((verdict, _),) = judge([compare()], lambda _: compare(), question.threshold)
        said[verdict] += 1
    return Answer(question, dict(said), (time.perf_counter() - began) / trials)


def show(answer: Answer, trials: int) -> bool:
    """Prints a line; whether the answer is as it should be."""
    question = answer.question
    alarms = answer.verdicts.get(Verdict.REGRESSION, 0)
    noisy = answer.verdicts.get(Verdict.NOISY, 0)
    most, least = rate_below(alarms, trials), 1 - rate_below(trials - alarms, trials)
    bound = f"at least {least:.1%}" if question.wanted else f"at most {most:.1%}"
    print(
        f"{question.layers / LAYERS - 1:6.0%} {question.threshold:9.0%} {trials:6} {alarms:6}"
        f" {alarms / trials:7.1%} {bound:>16} {noisy:6} {answer.seconds:8.1f}",
        flush=True,
    )
    return alarms / trials >= 0.95 if question.wanted else alarms / trials <= 0.01


def main() -> int:
    """Prints a line for each question."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100, help="for each question")
    parser.add_argument("--time-budget", type=float, default=10.0, help="of a comparison")
    parser.add_argument("--hog", action="store_true", help="keep the last CPU busy meanwhile")
    parser.add_argument("--simulate", type=int, metavar="COUNT", help="trials of recorded times")
    parser.add_argument("--json", type=Path, help="file for all figures")
    chosen = parser.parse_args()
    answers, right = [], True
    print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} CPUs, hog {chosen.hog}")
    print("slower threshold trials alarms    rate            bound  noisy  s/trial")
    with (
        tempfile.TemporaryDirectory(prefix="tilewright-") as name,
        contextlib.ExitStack() as around,
    ):
        if chosen.hog:
            around.enter_context(busy())
        folder = Path(name)
        tilewright.compile(stack(LAYERS, 0), cache=False).save(folder / "old.tw")
        for layers in {q.layers for q in QUESTIONS}:
            tilewright.compile(stack(layers, 1), cache=False).save(folder / f"new{layers}.tw")
        recorded = []
        if chosen.simulate:
            recorded = record(folder, chosen.trials, chosen.time_budget)
        for question in QUESTIONS:
            if chosen.simulate:
                answers.append(simulate(question, recorded, chosen.simulate))
            else:
                answers.append(ask(question, folder, chosen.trials, chosen.time_budget))
            right &= show(answers[-1], chosen.simulate or chosen.trials)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(a) for a in answers], indent=1))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
