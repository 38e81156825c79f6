"""Whether a model has become slower: a gate that does not cry wolf.

The threshold is the slow-down that is to be found. A regression is said if all three hold: the
lower bound of the ratio of times exceeds half of the threshold; a rank test agrees, with its
probabilities raised for how many models are tested; and a second comparison, of freshly loaded
code in the other order, finds the same. So what is as slow as the threshold is found unless its
estimate falls short by what the interval leaves, and equal code alarms only if two estimates are
wrong by more than half of the threshold and the intervals' half-widths, in the same direction.

Comparisons go on until their interval is narrow, a tenth of the threshold to either side, and says
something: it lies below the threshold, or exceeds half of it and the rank test agrees. Equal code
ends at the first narrow interval, so that going on raises no false alarms. What says nothing when
the time is over is too noisy to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .measure import Enough, precise
from .significance import Interval, holm, paired_ratio, slower, unpaired_ratio

THRESHOLD = 0.05
NARROW = 0.1
"""The relative half-width of an interval that is narrow, as a share of the threshold."""
ALPHA = 0.01
ROUNDS = 30
"""How many rounds a comparison has at least before it may end early."""
BETWEEN_RUNS = 0.03
"""What two runs of the same code may differ by, beyond what the blocks inside a run tell: where
memory lies, what else the machine's caches hold. Intervals between runs are wider by it."""


class Verdict(StrEnum):
    """What the gate says of a model."""

    UNCHANGED = "unchanged"
    FINE = "no regression"
    REGRESSION = "regression"
    NOISY = "too noisy to judge"
    NEW = "not in the baseline"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The new code's time over the old code's.

    Attributes:
        ratio: with its bounds.
        probability: of such ranks if the new code were not slower.
        rounds: how many blocks of the new code it rests on.
        how: "interleaved", or "stored" where the old code's times are those of another run.
    """

    ratio: Interval
    probability: float
    rounds: int
    how: str

    def is_slower(self, threshold: float) -> bool:
        """Whether all of the interval lies above half of the threshold."""
        return self.ratio.low > 1 + threshold / 2

    def stays_below(self, threshold: float) -> bool:
        """Whether all of the interval lies below the threshold."""
        return self.ratio.high <= 1 + threshold


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate says of one model with one number of threads, and from what.

    Attributes:
        model, threads: which.
        verdict: what it says.
        first, again: the comparison, and the one that was to confirm it.
        note: why there is no comparison.
    """

    model: str
    threads: int
    verdict: Verdict
    first: Comparison | None = None
    again: Comparison | None = None
    note: str = ""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        text = f"{self.model} with {threads}: {self.verdict}"
        if self.first is not None:
            text += f": {self.first.ratio} of the baseline's time, {self.first.how}"
        if self.again is not None:
            text += f"; again {self.again.ratio}"
        return f"{text}{': ' if self.note else ''}{self.note}"


def side_by_side(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Compares the blocks of two contenders that took turns."""
    return Comparison(paired_ratio(ours, theirs), slower(ours, theirs), len(ours), "interleaved")


def between_runs(
    ours: Sequence[float],
    our_calibration: Sequence[float],
    theirs: Sequence[float],
    their_calibration: Sequence[float],
) -> Comparison:
    """Compares the blocks of two runs, each in units of a fixed piece of work done beside it."""
    a = [x / c for x, c in zip(ours, our_calibration, strict=True)]
    b = [x / c for x, c in zip(theirs, their_calibration, strict=True)]
    found = unpaired_ratio(a, b)
    low, high = found.low / (1 + BETWEEN_RUNS), found.high * (1 + BETWEEN_RUNS)
    return Comparison(Interval(low, found.estimate, high), slower(a, b), len(a), "stored")


def settled(threshold: float, *, old_first: bool = False) -> Enough:
    """What ends a comparison: its interval is narrow, and what it says stands.

    The rank test is to agree by far, as it must where many models are tested.

    Args:
        threshold: the slow-down that is to be found.
        old_first: whether the old code is the first contender.
    """
    known = precise(threshold * NARROW, 1)

    def enough(blocks: Sequence[Sequence[float]]) -> bool:
        if not known(blocks):
            return False
        theirs, ours = blocks[:2] if old_first else blocks[1::-1]
        found = side_by_side(ours, theirs)
        certain = found.is_slower(threshold) and found.probability < ALPHA / 100
        return certain or found.stays_below(threshold)

    return enough


def judge(
    found: Sequence[Comparison], again: Callable[[int], Comparison], threshold: float = THRESHOLD
) -> list[tuple[Verdict, Comparison | None]]:
    """What each comparison means, with the one that was made to confirm it.

    Args:
        found: the comparisons, of all models together.
        again: compares the k-th of them once more, from the start.
        threshold: the slow-down that is to be found, as a share.
    """
    raised = holm([c.probability for c in found])
    verdicts: list[tuple[Verdict, Comparison | None]] = []
    for k, first in enumerate(found):
        if first.is_slower(threshold) and raised[k] < ALPHA:
            second = again(k)
            confirmed = second.is_slower(threshold) and second.probability < ALPHA
            said = Verdict.REGRESSION if confirmed else _unsuspected(second, threshold)
            verdicts.append((said, second))
        else:
            verdicts.append((_unsuspected(first, threshold), None))
    return verdicts


def _unsuspected(found: Comparison, threshold: float) -> Verdict:
    return Verdict.FINE if found.stays_below(threshold) else Verdict.NOISY


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 if there is a regression, else 5 if something is too noisy to judge, else 0."""
    if Verdict.REGRESSION in verdicts:
        return 1
    return 5 if Verdict.NOISY in verdicts else 0
