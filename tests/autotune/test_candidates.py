"""Candidates: the model's best first, then variations of the best; none twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tilewright.autotune.candidates import FIRST, Proposer
from tilewright.autotune.trial import Trial, write_choices
from tilewright.schedule.recipes.choices import Asked, Weighing

ASKED: Asked = {
    "mr": (tuple(range(1, 15)), 6),
    "nr": ((16, 32, 48, 64), 64),
    "rows_first": ((0, 1), 0),
    "parallel": ((0, 1), 1),
    "fixed": ((7,), 7),
}
COSTS: dict[tuple[int, ...], float] = {
    (m, n): abs(m - 6) + abs(n - 64) / 16 + 1.0 for m in range(1, 13) for n in (16, 48, 64)
}
WEIGHED = (Weighing(("mr", "nr"), COSTS),)


def proposed(proposer: Proposer, count: int) -> list[dict[str, int]]:
    found = []
    for _ in range(count):
        given = proposer.next()
        if given is None:
            break
        found.append(given)
    return found


def test_the_models_best_come_first() -> None:
    first = proposed(Proposer(ASKED, WEIGHED), FIRST // 2)
    best = sorted(COSTS, key=COSTS.__getitem__)
    assert [(g.get("mr", 6), g.get("nr", 64)) for g in first[:3]] == best[1:4]


def test_every_other_question_is_among_the_first() -> None:
    first = proposed(Proposer(ASKED, WEIGHED), 2 * FIRST)
    assert {"rows_first": 1} in first
    assert {"parallel": 0} in first


def test_nothing_is_proposed_twice_until_nothing_is_left() -> None:
    asked: Asked = {"a": ((0, 1, 2), 0), "b": ((0, 1), 1)}
    found = proposed(Proposer(asked, ()), 100)
    assert len({write_choices(g) for g in found}) == len(found) == 5
    assert {} not in found


def test_what_earlier_searches_tried_is_not_proposed() -> None:
    before = proposed(Proposer(ASKED, WEIGHED), 20)
    proposer = Proposer(ASKED, WEIGHED)
    proposer.remember(
        [Trial("k", "s", g, "ok", 1.0, 1.0, 5, "measured", "", "now") for g in before]
    )
    after = proposed(proposer, 50)
    assert not {write_choices(g) for g in before} & {write_choices(g) for g in after}


def test_questions_that_are_settled_are_left_to_the_model() -> None:
    found = proposed(Proposer(ASKED, WEIGHED, settled=("parallel",)), 200)
    assert not any("parallel" in g for g in found)


def test_candidates_with_equal_answers_are_known_again() -> None:
    proposer = Proposer(ASKED, WEIGHED)
    other = {**ASKED, "mr": (ASKED["mr"][0], 4)}
    assert proposer.built({"mr": 4}, other, WEIGHED)
    assert not proposer.built({"mr": 4, "x": 1}, other, WEIGHED)
    assert not proposer.built({"fixed": 7}, ASKED, WEIGHED)


def test_questions_that_an_answer_leads_to_are_searched() -> None:
    asked: Asked = {"form": ((0, 4), 0)}
    proposer = Proposer(asked, ())
    assert proposer.next() == {"form": 4}
    assert proposer.next() is None
    more: Asked = {"form": ((0, 4), 4), "block": ((8, 16, 32), 16)}
    proposer.built({"form": 4}, more, ())
    proposer.measured({"form": 4}, 0.5)
    assert {g["block"] for g in proposed(proposer, 10)} >= {8, 32}


def cost_of(given: Mapping[str, int]) -> float:
    """A landscape whose best is not where the model takes it to be."""
    mr, nr = given.get("mr", 6), given.get("nr", 64)
    return 0.5 + abs(mr - 11) / 10 + abs(nr - 32) / 64 + 0.1 * (given.get("rows_first", 0) == 0)


@pytest.mark.parametrize("seed", range(5))
def test_evolution_finds_what_the_model_does_not_expect(seed: int) -> None:
    proposer = Proposer(ASKED, WEIGHED, seed=seed)
    best = min(measured(proposer, cost_of, 60))
    assert best <= 0.6


def measured(
    proposer: Proposer, cost: Callable[[Mapping[str, int]], float], count: int
) -> list[float]:
    found = []
    for _ in range(count):
        given = proposer.next()
        assert given is not None
        found.append(cost(given) / cost({}))
        proposer.measured(given, found[-1])
    return [ratio * cost({}) for ratio in found]


def test_a_ranking_decides_once_it_can() -> None:
    seen: list[int] = []

    def ranking(pool: object) -> list[float] | None:
        assert isinstance(pool, list)
        seen.append(len(pool))
        return [0.0 if g.get("mr") == 13 else 1.0 for g in pool] if len(seen) > 3 else None

    proposer = Proposer(ASKED, WEIGHED, ranking=ranking)
    found = proposed(proposer, 60)
    assert len(seen) > 10
    assert sum(g.get("mr") == 13 for g in found) >= 3
