"""What samples of time say: intervals by resampling, a rank test, and correction for many tests.

NumPy alone computes all of it; the tests compare every function with SciPy's. Intervals are
percentile bootstrap intervals (Efron, Annals of Statistics 7(1), 1979), of medians, since what
disturbs a machine makes few calls much slower and none faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_MOST_RESAMPLED = 1 << 22


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds that it lies between with CONFIDENCE."""

    low: float
    estimate: float
    high: float

    @property
    def half_width(self) -> float:
        """The larger distance of a bound from the estimate, relative to the estimate."""
        return max(self.high - self.estimate, self.estimate - self.low) / self.estimate

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The median of samples, with the bounds of their resampled medians.

    Args:
        values: positive samples, at least one.
        seed: of the resampling: equal samples give equal intervals.
    """
    given = np.asarray(values, np.float64)
    return _interval(float(np.median(given)), _medians(given, np.random.default_rng(seed)))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The median of the ratios of samples that were taken side by side, with its bounds."""
    return median_interval(np.asarray(ours, np.float64) / np.asarray(theirs, np.float64))  # type: ignore[arg-type]


def unpaired_ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Interval:
    """The ratio of two medians, with its bounds; the samples have nothing to do with each other."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    generator = np.random.default_rng(seed)
    ratios = _medians(a, generator) / _medians(b, generator)
    return _interval(float(np.median(a) / np.median(b)), ratios)


def _medians(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The medians of RESAMPLES samples of the values, with replacement.

    Ranks are drawn and sorted in place of values, since small integers sort several times faster.
    """
    count = len(values)
    kind = np.uint16 if count < 1 << 16 else np.uint32
    at_once = max(1, min(RESAMPLES, _MOST_RESAMPLED // count))
    lower, upper = (count - 1) // 2, count // 2
    ranked = np.sort(values)
    found = []
    for start in range(0, RESAMPLES, at_once):
        ranks = generator.integers(0, count, (min(at_once, RESAMPLES - start), count), kind)
        ranks.sort(axis=1)
        found.append((ranked[ranks[:, lower]] + ranked[ranks[:, upper]]) / 2)
    return np.concatenate(found)


def _interval(estimate: float, resampled: np.ndarray) -> Interval:
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [outside, 1 - outside])
    return Interval(float(low), estimate, float(high))


def slower(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The probability of ranks like these if ours were not slower: a Mann-Whitney test.

    One-sided, by the normal approximation with corrections for ties and continuity (Mann and
    Whitney, Annals of Mathematical Statistics 18(1), 1947).

    Args:
        ours, theirs: samples, at least one of each.
    """
    m, n = len(ours), len(theirs)
    together = np.concatenate([np.asarray(ours, np.float64), np.asarray(theirs, np.float64)])
    _, inverse, counts = np.unique(together, return_inverse=True, return_counts=True)
    # Equal values share the mean of the ranks that they take.
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    statistic = float(ranks[:m].sum()) - m * (m + 1) / 2
    size = m + n
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = m * n / 12 * (size + 1 - ties / (size * (size - 1)))
    if variance <= 0:
        return 1.0
    z = (statistic - m * n / 2 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of several tests, raised so that one limit holds for all of them together.

    Holm's step-down method (Scandinavian Journal of Statistics 6(2), 1979).
    """
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised = [1.0] * len(probabilities)
    least = 0.0
    for position, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - position) * probabilities[i]))
        raised[i] = least
    return raised


def rate_below(events: int, trials: int) -> float:
    """The rate that events of so many trials do not exceed with CONFIDENCE: Wilson's upper bound.

    One-sided (Wilson, Journal of the American Statistical Association 22, 1927).
    """
    z = 1.6448536269514722
    share = events / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return min(1.0, (centre + spread) / (1 + z * z / trials))
