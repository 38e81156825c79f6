"""The gate on simulated noise: how often it alarms for nothing, and what it finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright.benchmarking.gate import (
    BETWEEN_RUNS,
    Comparison,
    Judgement,
    Verdict,
    between_runs,
    exit_code,
    judge,
    settled,
    side_by_side,
)
from tilewright.benchmarking.significance import Interval

Noise = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def quiet(generator: np.random.Generator, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """A machine of one's own: one percent of noise, a tail upwards."""
    a, b = (1 + 0.01 * generator.gamma(1.0, 1.0, rounds) for _ in range(2))
    return a, b


def shared(generator: np.random.Generator, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """A neighbour comes and goes: the speed drifts by a tenth, a block in eight is disturbed."""
    speed = np.exp(0.03 * np.cumsum(generator.standard_normal(rounds)) / np.sqrt(rounds) * 3)
    hits = [1 + (generator.random(rounds) < 0.125) * generator.exponential(0.5, rounds)
            for _ in range(2)]  # fmt: skip
    a, b = (speed * h * (1 + 0.015 * generator.gamma(1.0, 1.0, rounds)) for h in hits)
    return a, b


def hog(generator: np.random.Generator, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """The core is shared: blocks take between once and twice as long, for stretches of rounds."""
    stretch = np.repeat(generator.choice([1.0, 1.35, 2.0], rounds // 5 + 1), 5)[:rounds]
    a, b = (stretch * np.exp(0.04 * generator.standard_normal(rounds)) for _ in range(2))
    return a, b


def trial(
    noise: Noise, generator: np.random.Generator, factor: float, threshold: float, rounds: int = 60
) -> Verdict:
    """What the gate says of code that takes ``factor`` of the old code's time."""

    def compare() -> Comparison:
        ours, theirs = noise(generator, rounds)
        return side_by_side(list(factor * ours), list(theirs))

    ((said, _),) = judge([compare()], lambda _: compare(), threshold)
    return said


@pytest.mark.parametrize("noise", [quiet, shared, hog])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.05])
def test_equal_code_raises_an_alarm_in_less_than_one_trial_in_a_hundred(
    noise: Noise, threshold: float
) -> None:
    generator = np.random.default_rng(7)
    said = [trial(noise, generator, 1.0, threshold) for _ in range(300)]
    assert said.count(Verdict.REGRESSION) <= 1


@pytest.mark.parametrize("noise", [quiet, shared])
@pytest.mark.parametrize("threshold", [0.05, 0.1])
def test_a_slow_down_of_the_threshold_is_found(noise: Noise, threshold: float) -> None:
    generator = np.random.default_rng(8)
    said = [trial(noise, generator, 1 + threshold, threshold) for _ in range(100)]
    assert said.count(Verdict.REGRESSION) >= 95


@pytest.mark.parametrize("noise", [quiet, shared])
def test_a_third_of_the_threshold_is_no_alarm(noise: Noise) -> None:
    generator = np.random.default_rng(10)
    said = [trial(noise, generator, 1 + 0.05 / 3, 0.05) for _ in range(100)]
    assert said.count(Verdict.REGRESSION) <= 1


@pytest.mark.parametrize("old_first", [False, True])
def test_a_comparison_ends_once_it_is_narrow_and_says_something(old_first: bool) -> None:
    enough = settled(0.05, old_first=old_first)

    def ends(factor: float, noise: float, rounds: int) -> bool:
        generator = np.random.default_rng(3)
        # The machine's speed drifts by a third: pairs know the ratio, ranks do not.
        speed = np.linspace(1.0, 1.3, rounds)
        old, new = (speed * (1 + noise * generator.random(rounds)) for _ in range(2))
        pair = [(factor * new).tolist(), old.tolist()]
        return enough(pair[::-1] if old_first else pair)

    assert ends(1.0, 0.01, 30)
    assert not ends(1.0, 0.2, 30)
    assert not ends(1.05, 0.01, 30)
    assert ends(1.05, 0.01, 600)


def test_twenty_models_together_raise_no_more_false_alarms_than_one() -> None:
    generator = np.random.default_rng(11)

    def compare() -> Comparison:
        ours, theirs = shared(generator, 60)
        return side_by_side(list(ours), list(theirs))

    for _ in range(20):
        verdicts = judge([compare() for _ in range(20)], lambda _: compare(), 0.0)
        assert Verdict.REGRESSION not in [said for said, _ in verdicts]


# ------------------------------------------------------------------ single rules


def found(low: float, high: float, probability: float = 1e-6) -> Comparison:
    return Comparison(Interval(low, (low + high) / 2, high), probability, 60, "interleaved")


def verdict(first: Comparison, again: Comparison | None = None) -> Verdict:
    def confirm(k: int) -> Comparison:
        assert k == 0
        assert again is not None, "nothing was to be confirmed"
        return again

    ((said, second),) = judge([first], confirm, 0.05)
    assert (second is None) == (again is None)
    return said


def test_all_three_must_agree_for_a_regression() -> None:
    assert verdict(found(1.03, 1.08), found(1.03, 1.08)) is Verdict.REGRESSION
    assert verdict(found(1.02, 1.05)) is Verdict.FINE
    assert verdict(found(1.03, 1.04), found(1.02, 1.04)) is Verdict.FINE
    assert verdict(found(1.06, 1.08, 0.02)) is Verdict.NOISY
    assert verdict(found(1.06, 1.08), found(0.99, 1.01)) is Verdict.FINE
    assert verdict(found(1.06, 1.08), found(1.06, 1.08, 0.02)) is Verdict.NOISY
    assert verdict(found(1.06, 1.08), found(0.90, 1.30)) is Verdict.NOISY


def test_what_may_be_none_or_the_threshold_is_too_noisy() -> None:
    assert verdict(found(0.90, 1.20)) is Verdict.NOISY
    assert verdict(found(0.80, 1.04)) is Verdict.FINE
    assert verdict(found(1.02, 1.06)) is Verdict.NOISY


def test_exit_codes_are_0_1_and_5() -> None:
    assert exit_code([Verdict.FINE, Verdict.UNCHANGED, Verdict.NEW]) == 0
    assert exit_code([Verdict.FINE, Verdict.NOISY]) == 5
    assert exit_code([Verdict.NOISY, Verdict.REGRESSION]) == 1
    assert exit_code([]) == 0


def test_between_runs_the_speed_of_the_machine_does_not_count() -> None:
    generator = np.random.default_rng(12)
    work, fixed = (1 + 0.01 * generator.random(60) for _ in range(2))
    same = between_runs(list(3 * work), list(3 * fixed), list(work), list(fixed))
    assert same.ratio.low < 1 < same.ratio.high
    assert same.how == "stored"
    assert same.ratio.half_width >= BETWEEN_RUNS * 0.97
    slow = between_runs(list(3.6 * work), list(3 * fixed), list(work), list(fixed))
    assert slow.ratio.low > 1.15


def test_between_runs_a_small_slow_down_is_not_said_to_be_one() -> None:
    generator = np.random.default_rng(13)

    def compare() -> Comparison:
        samples = [1 + 0.01 * generator.random(60) for _ in range(4)]
        return between_runs(*(list(f * s) for f, s in zip((1.04, 1, 1, 1), samples, strict=True)))

    ((said, _),) = judge([compare()], lambda _: compare(), 0.05)
    assert said is Verdict.NOISY


def test_a_judgement_reads_as_a_sentence() -> None:
    judgement = Judgement("net", 1, Verdict.REGRESSION, found(1.06, 1.08), found(1.05, 1.09))
    assert str(judgement) == (
        "net with 1 thread: regression: 1.070 [1.060, 1.080] of the baseline's time, "
        "interleaved; again 1.070 [1.050, 1.090]"
    )
    assert str(Judgement("net", 2, Verdict.NEW)) == "net with 2 threads: not in the baseline"
