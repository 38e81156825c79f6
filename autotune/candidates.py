"""Which schedules of a kernel to try next: the analytic model's best first, then evolution.

The first candidates are what the analytic model expects most of. Later ones are variations of
the best that were measured: one or two answers changed, or two parents crossed. None is proposed
twice. Of several variations the one that looks best is taken: by the analytic model, or by a
ranking that has learned from trials.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import product

from tilewright.schedule.recipes.choices import Asked, Weighing
from tilewright.schedule.recipes.space import Answers, Space

from .trial import Trial, write_choices

FIRST = 8
"""How many candidates the analytic model chooses alone."""

_POOL = 24
_PARENTS = 5
_LOOKS = 6
"""Of how many variations a learned ranking is asked: half are the model's best, half any."""
_ATTEMPTS = 200
_SURPRISES = 0.25
"""How many of the variations are taken whatever anybody expects of them."""
_JOINT = 12
_UNKNOWN = 4.0
"""The cost of joint answers that the model says nothing about, relative to its best."""
_CHANGED = 1.01
_OTHER_WAY = 1.5
"""What a change counts of which the model knows nothing; one to another kind of kernel counts
more."""
_WAYS = ("recipe", "fission")

Ranking = Callable[[Sequence[Answers]], Sequence[float] | None]
"""The expected ratios of candidates; None where there is too little to learn from."""


class Proposer:
    """Proposes candidates for one kernel and learns how they did.

    Args:
        asked, weighed: what building the untuned schedule asked.
        settled: names of questions that are left to the model.
        seed: of all that is random here.
        ranking: judges variations in place of the analytic model once it can.
    """

    def __init__(
        self,
        asked: Asked,
        weighed: Sequence[Weighing],
        settled: Sequence[str] = (),
        seed: int = 0,
        ranking: Ranking | None = None,
    ) -> None:
        self._settled = tuple(settled)
        self.space = Space.of(asked, weighed)
        self._untuned = frozenset(asked)
        self._random = random.Random(seed)
        self._ranking = ranking
        self._tried: set[str] = {write_choices({})}
        self._effective: set[str] = {self._key(asked)}
        self._ratios: list[tuple[float, Answers]] = [(1.0, {})]
        self._built: list[tuple[frozenset[tuple[str, int]], frozenset[str]]] = [
            (frozenset(), frozenset(asked))
        ]
        self._first: list[Answers] | None = None

    def remember(self, trials: Sequence[Trial]) -> None:
        """Takes what earlier searches measured: it is not proposed again."""
        for trial in trials:
            self._tried.add(write_choices(trial.choices))
            if trial.status == "ok":
                self._ratios.append((trial.ratio, trial.choices))

    def built(self, given: Answers, asked: Asked, weighed: Sequence[Weighing]) -> bool:
        """Learns what building a candidate asked; whether no other led to the same answers."""
        self.space = self.space.extended(asked, weighed)
        self._built.append((frozenset(given.items()), frozenset(asked)))
        key = self._key(asked)
        new = key not in self._effective
        self._effective.add(key)
        return new

    def measured(self, given: Answers, ratio: float) -> None:
        """Learns how a candidate did."""
        self._ratios.append((ratio, given))

    def next(self) -> dict[str, int] | None:
        """The next candidate; None where nothing new is found."""
        if self._first is None:
            self._first = self._by_model()
        while self._first:
            given = self._short(self._first.pop(0))
            if self._take(given):
                return given
        pool: list[dict[str, int]] = []
        expected: list[float] = []
        seen: set[str] = set()
        for _ in range(_ATTEMPTS):
            if len(pool) >= _POOL:
                break
            given, ratio = self._vary()
            text = write_choices(given)
            if text not in self._tried and text not in seen:
                seen.add(text)
                pool.append(given)
                expected.append(ratio)
        if not pool:
            return None
        surprise = self._random.random() < _SURPRISES
        chosen = self._random.choice(pool) if surprise else self._best(pool, expected)
        self._take(chosen)
        return chosen

    # -------------------------------------------------------------- the analytic model

    def cost(self, given: Answers) -> float:
        """What the analytic model expects of a candidate, relative to the untuned schedule."""
        total = 1.0
        known: set[str] = set()
        asked = self._asked_like(given)
        for questions, costs in self.space.costs.items():
            if not asked.issuperset(questions):
                continue
            known.update(questions)
            usual = costs.get(tuple(self.space.defaults[q] for q in questions))
            here = costs.get(tuple(given.get(q, self.space.defaults[q]) for q in questions))
            least = min(costs.values())
            usual = least if usual is None else usual
            total *= (_UNKNOWN * least if here is None else here) / (usual or 1.0)
        for q, answer in given.items():
            if q not in known and answer != self.space.defaults.get(q):
                total *= _OTHER_WAY if q.endswith(_WAYS) else _CHANGED
        return total

    def _by_model(self) -> list[Answers]:
        """The first candidates: the model's best, and each other question answered otherwise."""
        joint: list[Answers] = [{}]
        for questions, costs in self.space.costs.items():
            best = sorted(costs, key=costs.__getitem__)[:_JOINT]
            joint += [dict(zip(questions, answers, strict=True)) for answers in best]
        weighed = {q for questions in self.space.costs for q in questions}
        single = [
            {q: o}
            for q in self._open()
            if q not in weighed
            for o in self.space.options[q]
            if o != self.space.defaults[q]
        ]
        ranked = sorted((j for j in joint if j), key=self.cost)
        mixed = [{**a, **b} for a, b in product(ranked[:3], single)]
        self._random.shuffle(single)
        single.sort(key=self.cost)
        self._random.shuffle(mixed)
        half = FIRST // 2
        return [*ranked[:half], *single[: FIRST - half], *ranked[half:FIRST], *mixed[:half]]

    def _best(self, pool: list[dict[str, int]], expected: Sequence[float]) -> dict[str, int]:
        order = sorted(range(len(pool)), key=expected.__getitem__)
        half = _LOOKS // 2
        others = order[half:]
        self._random.shuffle(others)
        best = [pool[k] for k in (*order[:half], *others[:half])]
        learned = None if self._ranking is None else self._ranking(best)
        if learned is None:
            return best[0]
        return best[min(range(len(best)), key=learned.__getitem__)]

    # -------------------------------------------------------------- evolution

    def _vary(self) -> tuple[dict[str, int], float]:
        """A variation of the best so far, and what the model expects of it.

        That is its parent's ratio, changed by half as much as the model says: it has misjudged
        the parent, too.
        """
        parents = sorted(self._ratios, key=lambda p: p[0])[:_PARENTS]
        weights = [1.0 / (1 + k) for k in range(len(parents))]
        (ratio, first), (_, second) = self._random.choices(parents, weights, k=2)
        given = dict(first)
        if second is not first and self._random.random() < 0.3:
            given |= {q: a for q, a in second.items() if self._random.random() < 0.5}
        for _ in range(self._random.choice((1, 1, 2))):
            self._mutate(given)
        short = self._short(given)
        return short, ratio * (self.cost(short) / self.cost(first)) ** 0.5

    def _short(self, given: Answers) -> dict[str, int]:
        """The same candidate without answers that the untuned schedule has, too."""
        return {
            q: a
            for q, a in given.items()
            if q not in self._untuned or a != self.space.defaults.get(q)
        }

    def _mutate(self, given: dict[str, int]) -> None:
        asked = self._asked_like(given)
        tables = [q for q in self.space.costs if asked.issuperset(q)]
        if tables and self._random.random() < 0.3:
            joint = self._random.choice(tables)
            costs = self.space.costs[joint]
            best = sorted(costs, key=costs.__getitem__)[: 2 * _JOINT]
            given |= dict(zip(joint, self._random.choice(best), strict=True))
            return
        single = [q for q in self._open() if q in asked]
        if not single:
            return
        question = self._random.choice(single)
        options = self.space.options[question]
        here = given.get(question, self.space.defaults[question])
        if here in options and self._random.random() < 0.6:
            k = options.index(here)
            near = [options[i] for i in (k - 1, k + 1) if 0 <= i < len(options)]
        else:
            near = [o for o in options if o != here]
        given[question] = self._random.choice(near or list(options))

    def _open(self) -> list[str]:
        return [q for q in self.space.open if q.rpartition(".")[2] not in self._settled]

    def _asked_like(self, given: Answers) -> frozenset[str]:
        """The questions that building a candidate asks, going by the most similar one built."""
        items = frozenset(given.items())
        return max(self._built, key=lambda b: 2 * len(b[0] & items) - len(b[0]))[1]

    def _take(self, given: Answers) -> bool:
        text = write_choices(given)
        if text in self._tried:
            return False
        self._tried.add(text)
        return True

    def _key(self, asked: Asked) -> str:
        return write_choices({q: answer for q, (_, answer) in asked.items()})
