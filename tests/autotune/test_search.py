"""The search spends time where the model's time is, and keeps every trial whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tilewright.autotune.job import Candidate, Measured, build, measure, time_base
from tilewright.autotune.processes import LocalWorkers, LostJobError
from tilewright.autotune.records import Records, open_records, read_records
from tilewright.autotune.search import Found, Search, Step
from tilewright.autotune.task import Task
from tilewright.backends import load_backend
from tilewright.lower.alone import lower_alone

from ..schedule.groups import softmax
from .groups import CRASH, HANG, REFUSE, WRONG, lower_badly, product

NATIVE = load_backend("cpu").resolve("native")
BUILT, TOOK = 0.5, 0.25
"""Seconds that building and timing an untuned schedule take in a landscape."""


@dataclass
class Landscape:
    """Workers that build in this process and know what a measurement will say.

    Attributes:
        cost: the time of a schedule relative to the untuned one.
        seconds: of the untuned schedule, by title.
        most: measurements until it is over: the deadline passes.
    """

    cost: Callable[[Mapping[str, int]], float]
    seconds: Mapping[str, float]
    most: int
    search: Search | None = None
    measured: list[str] = field(default_factory=list)
    builders: int = 1
    closed: bool = False
    limits: set[tuple[str, float]] = field(default_factory=set)

    def build(self, timeout: float, function: Any, *arguments: Any) -> Future[Any]:
        assert function is build
        task, lower, given = arguments
        made = lower(task.group, task.fixed, task.target, task.math, given)
        if given:
            self.limits.add(("build", timeout))
        return _done(lambda: Candidate(given, made, (), BUILT))

    def measure(self, timeout: float, function: Any, *arguments: Any) -> Future[Any]:
        task = arguments[0]
        seconds = self.seconds[task.title]
        if function is time_base:
            return _done(lambda: Measured(True, 1.0, seconds, 5, "measured", took=TOOK))
        assert function is measure
        self.limits.add(("measure", timeout - arguments[-1]))
        self.measured.append(task.title)
        if len(self.measured) >= self.most and self.search is not None:
            self.search.deadline = 0.0
        given = arguments[2].given
        return _done(lambda: Measured(True, self.cost(given), seconds, 5, "measured"))

    def close(self) -> None:
        self.closed = True


def _done(job: Callable[[], object]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
    return future


def run(
    tasks: list[Task], workers: Landscape, records: Records, **more: Any
) -> tuple[list[Found], Search]:
    search = Search(tasks, lower_alone, workers, records, 2, time.monotonic() + 3600, **more)
    workers.search = search
    return search.run(), search


def by_height(given: Mapping[str, int]) -> float:
    return 0.5 + abs(given.get("mr", 6) - 2) / 10


def test_the_best_of_all_trials_is_found_and_kept() -> None:
    workers = Landscape(by_height, {"product": 1.0}, 40)
    with open_records(None) as records:
        (found,), search = run([product()], workers, records)
        trials = records.trials(found.task.key)
        assert found.best is not None
        assert found.best.ratio == min(t.ratio for t in trials) == 0.5
        assert found.choices["mr"] == 2
        assert len(trials) == search.trials == found.trials > 5
        assert records.choices() == {found.task.key: found.choices}
    assert workers.closed


def test_most_trials_go_where_most_of_the_time_is() -> None:
    large = replace(product(rows=64), title="large", calls=9)
    small = replace(product(rows=8), title="small")
    workers = Landscape(lambda _: 1.0, {"large": 1.0, "small": 1.0}, 60)
    with open_records(None) as records:
        run([small, large], workers, records)
    assert workers.measured.count("large") > 3 * workers.measured.count("small") > 0


def test_kernels_of_equal_time_share_the_trials() -> None:
    tasks = [replace(product(rows=64), title="one"), replace(product(rows=8), title="other")]
    workers = Landscape(lambda _: 1.0, {"one": 1.0, "other": 1.0}, 40)
    with open_records(None) as records:
        run(tasks, workers, records)
    counts = [workers.measured.count(t.title) for t in tasks]
    assert abs(counts[0] - counts[1]) <= 6


def test_a_second_search_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    place = tmp_path / "records.db"
    with open_records(place) as records:
        (first,), _ = run([product()], Landscape(by_height, {"product": 1.0}, 10), records)
    with open_records(place) as records:
        before = {repr(t.choices) for t in records.trials()}
        workers = Landscape(by_height, {"product": 1.0}, 10)
        (second,), search = run([product()], workers, records)
        new = [t for t in records.trials() if repr(t.choices) not in before]
    assert len(new) == search.trials > 0
    assert first.best is not None
    assert second.best is not None
    assert second.best.ratio <= first.best.ratio
    assert second.trials == len(before) + len(new)


def test_a_budget_that_is_over_measures_nothing() -> None:
    workers = Landscape(by_height, {"product": 1.0}, 10)
    with open_records(None) as records:
        search = Search([product()], lower_alone, workers, records, 1, time.monotonic() - 1)
        (found,) = search.run()
    assert found.note == "no time was left for it"
    assert not workers.measured
    assert workers.closed


def test_a_candidate_may_take_some_times_as_long_as_the_untuned_schedule_and_no_longer() -> None:
    workers = Landscape(by_height, {"product": 1.0}, 10)
    with open_records(None) as records:
        run([product()], workers, records)
    assert workers.limits == {("build", 2 + 10 * BUILT), ("measure", 2 + 4 * TOOK)}


def test_every_step_is_told() -> None:
    steps: list[Step] = []
    workers = Landscape(by_height, {"product": 1.0}, 10)
    with open_records(None) as records:
        _, search = run([product()], workers, records, tell=steps.append)
    assert steps[0].what == "untuned"
    assert [s.trials for s in steps[1:]] == list(range(1, search.trials + 1))
    assert all(a.best >= b.best for a, b in pairwise(steps))


def test_a_full_disk_ends_the_search_and_keeps_the_best_so_far(tmp_path: Path) -> None:
    place = tmp_path / "records.db"
    with open_records(place) as records:
        records._connection.execute("PRAGMA max_page_count = 6")
        workers = Landscape(by_height, {"product": 1.0}, 10**6)
        (found,), search = run([product()], workers, records)
        assert "TW-E0602" in search.stopped
    assert found.best is not None
    assert workers.closed
    with read_records(place) as records:
        assert len(records.trials()) >= found.trials - 1 > 0


def test_a_kernel_that_cannot_be_measured_untuned_is_left_alone() -> None:
    class Lost(Landscape):
        def measure(self, timeout: float, function: Any, *arguments: Any) -> Future[Any]:
            if function is time_base:
                future: Future[Any] = Future()
                future.set_exception(LostJobError("ended by SIGSEGV", hung=False))
                return future
            return super().measure(timeout, function, *arguments)

    with open_records(None) as records:
        (found,), _ = run([product()], Lost(by_height, {}, 10), records)
    assert found.best is None
    assert "SIGSEGV" in found.note


def test_there_may_be_nothing_to_choose() -> None:
    task = Task(softmax(1, 1), frozenset(), NATIVE, "strict", "product", 1, {})
    workers = Landscape(by_height, {"product": 1.0}, 10)
    with open_records(None) as records:
        (found,), search = run([task], workers, records)
    assert search.trials <= 2
    assert found.choices == {} or found.best is not None


# ------------------------------------------------------------------ with real processes


@pytest.mark.parametrize(
    ("mr", "status"),
    [(CRASH, "crashed"), (WRONG, "wrong"), (REFUSE, "refused"), (HANG, "hung")],
)
def test_a_bad_candidate_is_recorded_and_the_search_goes_on(
    mr: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = product(NATIVE)
    seen: list[Step] = []
    with open_records(None) as records:
        search = Search([task], lower_badly, LocalWorkers(1), records, 1, time.monotonic() + 240)

        def propose(proposer: object, given: list[dict[str, int]] = [{"mr": mr}, {"mr": 2}]) -> Any:  # noqa: B006
            return given.pop(0) if given else None

        monkeypatch.setattr("tilewright.autotune.candidates.Proposer.next", propose)
        search.tell = seen.append
        search.run()
        found = {t.choices["mr"]: t.status for t in records.trials()}
    assert found == {mr: status, 2: "ok"}
    assert next(s.what for s in seen) == "untuned"


def test_candidates_hold_the_answers_that_made_them() -> None:
    made = build(product(NATIVE), lower_alone, {"mr": 2})
    assert isinstance(made, Candidate)
    assert made.given == {"mr": 2}
    assert made.lowered.asked["mr"][1] == 2
