"""A learned ranking prefers what trials have shown to be faster, also of other kernels."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from tilewright.autotune.features import NAMES
from tilewright.autotune.ranking import LEAST_TRIALS, Learned, Trees, look_at, row
from tilewright.autotune.records import open_records
from tilewright.autotune.search import Search
from tilewright.autotune.task import Task
from tilewright.autotune.trial import Status, Trial
from tilewright.lower.alone import lower_alone

from .groups import lower_badly, product
from .test_search import Landscape

pytest.importorskip("sklearn", reason="needs scikit-learn (extra tune)")


def trial(features: tuple[float, ...], ratio: float, status: Status = "ok") -> Trial:
    return Trial("k", "s", {}, status, ratio, 1.0, 5, "measured", "", "now", features)


def ratio_of(given: Mapping[str, int]) -> float:
    """Tall tiles are slow here, whatever the analytic model thinks."""
    return 0.5 + given["mr"] / 10


def looks(task: Task) -> dict[int, tuple[float, ...]]:
    untuned = look_at(task, lower(task, {}))
    return {mr: row(untuned, look_at(task, lower(task, {"mr": mr}))) for mr in range(1, 13)}


def lower(task: Task, given: Mapping[str, int]):  # type: ignore[no-untyped-def]
    return lower_alone(task.group, task.fixed, task.target, task.math, given).kernels


def test_too_few_trials_rank_nothing() -> None:
    learned = Learned(lower_alone, [trial((0.0,) * 2 * len(NAMES), 1.0)] * (LEAST_TRIALS - 1))
    task = product(rows=64)
    assert learned.of(task, look_at(task, lower(task, {})))([{"mr": 2}]) is None
    assert Trees().predict([[0.0]]) is None


def test_what_other_kernels_taught_ranks_the_schedules_of_this_one() -> None:
    others = [looks(product(rows=rows)) for rows in (48, 72, 96, 120, 144)]
    known = [trial(f, ratio_of({"mr": mr})) for seen in others for mr, f in seen.items()]
    task = product(rows=60)
    rank = Learned(lower_alone, known).of(task, look_at(task, lower(task, {})))
    pool = [{"mr": mr} for mr in (12, 2, 8)]
    found = rank(pool)
    assert found is not None
    assert min(range(3), key=found.__getitem__) == 1


def test_a_candidate_that_cannot_be_lowered_is_last() -> None:
    known = [trial(f, 1.0) for f in looks(product(rows=64)).values()] * 2
    task = product(rows=64)
    rank = Learned(lower_badly, known).of(task, look_at(task, lower(task, {})))
    found = rank([{"mr": 7}, {"mr": 2}])
    assert found is not None
    assert found[0] == float("inf") > found[1]


def test_only_right_trials_that_were_looked_at_teach() -> None:
    good = (1.0,) * 2 * len(NAMES)
    learned = Learned(lower_alone)
    for t in (trial((), 0.5), trial(good[1:], 0.5), trial(good, 0.0, "wrong")):
        learned.learn(t)
    assert len(learned._trees) == 0
    learned.learn(trial(good, 0.5))
    assert len(learned._trees) == 1


def test_a_search_learns_and_keeps_what_it_learned_from() -> None:
    learned = Learned(lower_alone)
    workers = Landscape(lambda g: 0.5 + abs(g.get("mr", 6) - 2) / 10, {"product": 1.0}, 30)
    with open_records(None) as records:
        search = Search(
            [product(rows=64)], lower_alone, workers, records, 2, time.monotonic() + 3600,
            learned=learned,
        )  # fmt: skip
        workers.search = search
        (found,) = search.run()
        trials = records.trials()
        again = Learned(lower_alone, trials)
    assert found.best is not None
    assert len(learned._trees) == len(again._trees) == sum(t.status == "ok" for t in trials)
    assert all(len(t.features) == 2 * len(NAMES) for t in trials if t.status == "ok")
