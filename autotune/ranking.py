"""A ranking of schedules that learns from trials: gradient-boosted trees over features.

What is learned is the logarithm of a schedule's time over the untuned one's, from the features of
both, so that trials of all kernels teach about each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

LEAST_TRIALS = 12
"""With fewer trials the analytic model ranks alone."""

_MOST_RATIO = 4.0
"""Much slower schedules are all alike: how much slower does not matter."""

_TREES = {
    "max_iter": 120, "learning_rate": 0.1, "max_leaf_nodes": 12, "min_samples_leaf": 4,
    "l2_regularization": 1.0, "early_stopping": False, "random_state": 0,
}  # fmt: skip


def is_available() -> bool:
    """Whether the library for it is installed (extra ``tune``)."""
    return find_spec("sklearn") is not None


class Trees:
    """Learns as trials come; fitted anew when it is asked and has seen some more."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []
        self._targets: list[float] = []
        self._fitted: Any = None
        self._seen = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, untuned: Sequence[float], features: Sequence[float], ratio: float) -> None:
        """Takes one trial.

        Args:
            untuned, features: of the untuned schedule and of the one that was tried.
            ratio: its time over the untuned one's.
        """
        self._rows.append(_row(untuned, features))
        self._targets.append(math.log(min(max(ratio, 1e-3), _MOST_RATIO)))

    def predict(
        self, untuned: Sequence[float], candidates: Sequence[Sequence[float]]
    ) -> list[float] | None:
        """The expected ratios of candidates; None while there is too little to learn from."""
        if len(self._rows) < LEAST_TRIALS:
            return None
        if self._fitted is None or len(self._rows) >= 1.1 * self._seen + 2:
            regressor = import_module("sklearn.ensemble").HistGradientBoostingRegressor
            self._fitted = regressor(**_TREES).fit(np.array(self._rows), np.array(self._targets))
            self._seen = len(self._rows)
        rows = np.array([_row(untuned, c) for c in candidates])
        return [math.exp(v) for v in self._fitted.predict(rows)]


def _row(untuned: Sequence[float], features: Sequence[float]) -> list[float]:
    return [*features, *(f - u for f, u in zip(features, untuned, strict=True))]
