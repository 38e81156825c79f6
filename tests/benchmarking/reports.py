"""A report made by hand, for the tests of what writes and reads reports."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from tilewright.benchmarking.gate import Comparison, Judgement, Verdict
from tilewright.benchmarking.measure import Timing
from tilewright.benchmarking.report import OURS, Report, Row
from tilewright.benchmarking.significance import Interval
from tilewright.benchmarking.surroundings import commit_info, machine_info


def timing(seconds: float, seed: int, rounds: int = 20) -> Timing:
    """Calls of about so many seconds, three a block."""
    calls = seconds * (1 + 0.05 * np.random.default_rng(seed).gamma(1.0, 1.0, 3 * rounds))
    blocks = np.median(calls.reshape(-1, 3), axis=1)
    return Timing(tuple(map(float, calls)), tuple(map(float, blocks)))


def report(factor: float = 1.0, model: str = "net|<&>\x07é", artifact: str | None = None) -> Report:
    """Ours and one peer on one and two threads, with a loss, a difference and a regression."""
    rows = []
    for threads in (1, 2):
        ours = timing(factor * 2e-3 / threads, threads)
        rows += [
            Row(
                model, threads, OURS, "0.1.0", ours, 1.25, 90_000_000, flops=10**9,
                peak_flops=1e12, sizes={"N": 4}, artifact_bytes=12_345, digest="ab" * 32,
                artifact=artifact, calibration=timing(3e-4, 5).blocks,
            ),
            Row(
                model, threads, "onnxruntime", "1.31.1", timing(2e-3, 9), 0.02, 70_000_000,
                flops=10**9, peak_flops=1e12,
                ratio=Interval(0.9, 1.0, 1.1) if threads == 1 else Interval(1.1, 1.2, 1.3),
                difference=np.inf if threads == 2 else 1e-7,
                differs=("y: nan or infinity in other places",) if threads == 2 else (),
                sizes={"N": 4},
            ),
        ]  # fmt: skip
    comparison = Comparison(Interval(1.06, 1.07, 1.08), 1e-9, 60, "interleaved")
    judgements = [
        Judgement(model, 1, Verdict.REGRESSION, comparison, comparison),
        Judgement(model, 2, Verdict.NOISY, comparison),
    ]
    when = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
    left_out = ["net: tvm does not take it: no such operator"]
    return Report(rows, machine_info(), commit_info(), judgements, left_out, when)
