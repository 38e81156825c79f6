"""The statistics: each function against SciPy's, and what intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright.benchmarking.significance import (
    Interval,
    holm,
    median_interval,
    paired_ratio,
    rate_below,
    slower,
    unpaired_ratio,
)

stats = pytest.importorskip("scipy.stats")

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine anything may take seconds."""

TIMES = st.lists(st.integers(1, 30).map(float), min_size=3, max_size=40)


def noisy(generator: np.random.Generator, count: int, factor: float = 1.0) -> np.ndarray:
    """Times with a floor, a tail, and now and then a hiccup."""
    times = factor * (1 + 0.02 * generator.gamma(2.0, 1.0, count))
    return times * np.where(generator.random(count) < 0.05, 2.0, 1.0)


@PATIENT
@given(TIMES, TIMES)
def test_the_rank_test_is_that_of_scipy(ours: list[float], theirs: list[float]) -> None:
    if len({*ours, *theirs}) == 1:
        assert slower(ours, theirs) == 1.0
        return
    wanted = stats.mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic").pvalue
    assert slower(ours, theirs) == pytest.approx(float(wanted), rel=1e-9, abs=1e-15)


@PATIENT
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_probabilities_are_raised_as_by_holm(probabilities: list[float]) -> None:
    raised = holm(probabilities)
    order = np.argsort(probabilities, kind="stable")
    m, running = len(probabilities), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (m - rank) * probabilities[i]))
        assert raised[i] == running
    assert all(r >= p for r, p in zip(raised, probabilities, strict=True))


def test_one_test_alone_is_not_corrected() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.02, 0.5]) == [0.03, 0.04, 0.5]


def test_an_interval_is_that_of_scipys_bootstrap() -> None:
    values = noisy(np.random.default_rng(1), 60)
    ours = median_interval(list(values))
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=20000, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert ours.estimate == np.median(values)
    assert ours.low == pytest.approx(theirs.low, rel=2e-3)
    assert ours.high == pytest.approx(theirs.high, rel=2e-3)


def test_equal_samples_give_equal_intervals() -> None:
    values = list(noisy(np.random.default_rng(3), 50))
    assert median_interval(values) == median_interval(values)
    assert median_interval([2.0]) == Interval(2.0, 2.0, 2.0)


def test_nineteen_of_twenty_intervals_hold_the_true_ratio() -> None:
    generator = np.random.default_rng(4)
    held_paired = held_unpaired = 0
    for _ in range(400):
        drift = np.exp(0.1 * np.cumsum(generator.standard_normal(40)) / math.sqrt(40))
        a, b = noisy(generator, 40, 1.1) * drift, noisy(generator, 40) * drift
        held_paired += (i := paired_ratio(list(a), list(b))).low <= 1.1 <= i.high
        a, b = noisy(generator, 40, 1.1), noisy(generator, 40)
        held_unpaired += (i := unpaired_ratio(list(a), list(b))).low <= 1.1 <= i.high
    assert held_paired >= 0.92 * 400
    assert held_unpaired >= 0.92 * 400


def test_a_long_sample_is_resampled_in_parts() -> None:
    values = np.linspace(1, 2, 5000)
    found = median_interval(list(values))
    assert found.low < found.estimate < found.high
    assert found.half_width < 0.05


@PATIENT
@given(st.integers(0, 50), st.integers(1, 300))
def test_the_bound_of_a_rate_is_wilsons(events: int, trials: int) -> None:
    events = min(events, trials)
    wanted = stats.binomtest(events, trials, alternative="less").proportion_ci(
        0.95, method="wilson"
    )
    assert rate_below(events, trials) == pytest.approx(wanted.high, rel=1e-9)


def test_no_event_in_three_hundred_trials_is_less_than_one_in_a_hundred() -> None:
    assert rate_below(0, 300) < 0.01
