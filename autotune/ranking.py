"""A ranking of schedules that learns from trials: gradient-boosted trees over features.

What is learned is the logarithm of a schedule's time over the untuned one's, from the features of
both, so that trials of all kernels teach about each.

A search uses it only when asked (``learn``), since what it is worth is not certain. By
``benchmarks/tune_ablation.py``, on a busy machine, for 15 kernels of four networks (some measured
twice) with 36 to 50 schedules each: coming within 2 % of a kernel's best took 239 measurements in
all in the order of the analytic model, and 211 with trees that had seen the other kernels' trials:
fewer for seven kernels, as many for three, more for five. With trees that saw the kernel's own
trials only it took 237.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tilewright.errors import TilewrightError
from tilewright.schedule.recipes.space import Answers
from tilewright.tensor.ir import Func

from .features import NAMES, features
from .job import Lower
from .task import Task
from .trial import Trial, write_choices

LEAST_TRIALS = 12
"""With fewer trials the analytic model ranks alone."""

_MOST_TRIALS = 3000
_MOST_RATIO = 4.0
"""Much slower schedules are all alike: how much slower does not matter."""

_TREES = {
    "max_iter": 120, "learning_rate": 0.1, "max_leaf_nodes": 12, "min_samples_leaf": 4,
    "l2_regularization": 1.0, "early_stopping": False, "random_state": 0,
}  # fmt: skip


def is_available() -> bool:
    """Whether the library for it is installed (extra ``tune``)."""
    return find_spec("sklearn") is not None


def row(untuned: Sequence[float], here: Sequence[float]) -> tuple[float, ...]:
    """What trees see of a schedule: its features, and by how much they differ from the untuned."""
    return (*here, *(f - u for f, u in zip(here, untuned, strict=True)))


class Trees:
    """Learns as trials come; fitted anew when it is asked and has seen some more."""

    def __init__(self) -> None:
        self._rows: list[Sequence[float]] = []
        self._targets: list[float] = []
        self._fitted: Any = None
        self._seen = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, seen: Sequence[float], ratio: float) -> None:
        """Takes one trial: what ``row`` gave for it, and its time over the untuned one's."""
        self._rows.append(seen)
        self._targets.append(math.log(min(max(ratio, 1e-3), _MOST_RATIO)))

    def predict(self, rows: Sequence[Sequence[float]]) -> list[float] | None:
        """The expected ratios of schedules; None while there is too little to learn from."""
        if len(self._rows) < LEAST_TRIALS:
            return None
        # One thread: others are measured on the rest, and a fit takes a fraction of a second.
        with import_module("threadpoolctl").threadpool_limits(1):
            if self._fitted is None or len(self._rows) >= 1.1 * self._seen + 2:
                regressor = import_module("sklearn.ensemble").HistGradientBoostingRegressor
                rows_ = np.array(self._rows[-_MOST_TRIALS:])
                targets = np.array(self._targets[-_MOST_TRIALS:])
                self._fitted = regressor(**_TREES).fit(rows_, targets)
                self._seen = len(self._rows)
            return [math.exp(v) for v in self._fitted.predict(np.array(rows))]


class Learned:
    """A ranking for all kernels of a search, which learns from its trials and from records.

    Args:
        lower: lowers a group by answers.
        known: trials of earlier searches; those without features teach nothing.
    """

    def __init__(self, lower: Lower, known: Iterable[Trial] = ()) -> None:
        self._lower = lower
        self._trees = Trees()
        for trial in known:
            if trial.kind == "measured":
                self.learn(trial)

    def learn(self, trial: Trial) -> None:
        """Takes one trial."""
        if trial.status == "ok" and len(trial.features) == 2 * len(NAMES):
            self._trees.add(trial.features, trial.ratio)

    def of(
        self, task: Task, untuned: Sequence[float]
    ) -> Callable[[Sequence[Answers]], list[float] | None]:
        """The ranking of candidates of one kernel.

        Args:
            task: the kernel.
            untuned: the features of its untuned schedule.
        """
        looks: dict[str, tuple[float, ...] | None] = {}

        def look(given: Answers) -> tuple[float, ...] | None:
            try:
                made = self._lower(task.group, task.fixed, task.target, task.math, given)
            except TilewrightError:
                return None
            return row(untuned, look_at(task, made.kernels))

        def rank(pool: Sequence[Answers]) -> list[float] | None:
            if len(self._trees) < LEAST_TRIALS:
                return None
            rows = []
            for given in pool:
                key = write_choices(given)
                if key not in looks:
                    looks[key] = look(given)
                rows.append(looks[key])
            expected = self._trees.predict(
                [r for r in rows if r is not None] or [row(untuned, untuned)]
            )
            assert expected is not None
            left = iter(expected)
            return [math.inf if r is None else next(left) for r in rows]

        return rank


def look_at(task: Task, kernels: Sequence[Func]) -> list[float]:
    """The features of a schedule of a task."""
    return features(kernels, task.target, task.sizes)
