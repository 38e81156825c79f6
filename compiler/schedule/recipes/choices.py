"""Choices: who answers a recipe's questions - the analytic model, a search, or a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_Joint = TypeVar("_Joint", bound=tuple[int, ...])

Asked = dict[str, tuple[tuple[int, ...], int]]
"""Questions with their options and the answer that was taken."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """What the analytic model expects of the joint answers to some questions.

    Attributes:
        questions: the questions, in order.
        costs: by their answers, in that order; lower is better, only ratios have a meaning.
    """

    questions: tuple[str, ...]
    costs: Mapping[tuple[int, ...], float]


@dataclass
class Choices:
    """Answers each question of a recipe with the given answer, else with the recipe's default.

    Attributes:
        given: answers from a search or a saved record, by question.
        asked: every question asked so far with its options and the answer taken.
        weighed: what the analytic model said of the options.
        checked: whether a given answer that is no option is left aside: those of a file may be
            of another version.
        prefix: what the names of questions begin with for whoever asked for all of them.
    """

    given: Mapping[str, int] = field(default_factory=dict)
    asked: Asked = field(default_factory=dict)
    weighed: list[Weighing] = field(default_factory=list)
    checked: bool = False
    prefix: str = ""

    def pick(self, question: str, default: int, options: Sequence[int]) -> int:
        """Returns the answer to a question: one of the options."""
        answer = self.given.get(question, default)
        if self.checked and answer not in options:
            answer = default
        self.asked[self.prefix + question] = (tuple(options), answer)
        return answer

    def weigh(self, questions: Sequence[str], costs: Mapping[_Joint, float]) -> None:
        """Keeps what the analytic model expects of answers, for a search to begin with."""
        names = tuple(self.prefix + q for q in questions)
        self.weighed.append(Weighing(names, {tuple(k): cost for k, cost in costs.items()}))

    def part(self, prefix: str) -> Choices:
        """The answers for one of several kernels, whose questions begin with a prefix."""
        own = {q.removeprefix(prefix): a for q, a in self.given.items() if q.startswith(prefix)}
        return Choices(own, self.asked, self.weighed, self.checked, self.prefix + prefix)

    def but(self, **answers: int) -> Choices:
        """The same answers except for these; what is asked of it is not kept."""
        return Choices({**self.given, **answers}, checked=self.checked)
