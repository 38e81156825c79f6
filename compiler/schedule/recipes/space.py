"""The space of schedules of a kernel: its questions with their options, as a search sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .choices import Asked, Weighing

Answers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Space:
    """Questions that were asked so far; some are asked only after certain answers to others.

    Attributes:
        options: of each question.
        defaults: the answer of the analytic model to each question.
        costs: what the model expects of joint answers, by their questions.
    """

    options: Mapping[str, tuple[int, ...]]
    defaults: Answers
    costs: Mapping[tuple[str, ...], Mapping[tuple[int, ...], float]]

    @classmethod
    def of(cls, asked: Asked, weighed: Iterable[Weighing]) -> Space:
        """The space that one way through a recipe saw."""
        return cls(
            {q: options for q, (options, _) in asked.items()},
            {q: answer for q, (_, answer) in asked.items()},
            {w.questions: w.costs for w in weighed},
        )

    def extended(self, asked: Asked, weighed: Iterable[Weighing]) -> Space:
        """The same with what another way through the recipe saw for the first time."""
        other = Space.of(asked, weighed)
        return Space(
            {**other.options, **self.options},
            {**other.defaults, **self.defaults},
            {**other.costs, **self.costs},
        )

    @property
    def open(self) -> tuple[str, ...]:
        """The questions with more than one option."""
        return tuple(q for q, options in self.options.items() if len(options) > 1)

    @property
    def size(self) -> int:
        """How many combinations of answers there are, at most: not all of them lead to code."""
        return math.prod(max(1, len(options)) for options in self.options.values())

    def __str__(self) -> str:
        width = max(map(len, self.open), default=0)
        return "\n".join(f"  {q:<{width}}  {self._line(q)}" for q in self.open)

    def _line(self, question: str) -> str:
        """The options with the model's answer in brackets."""
        usual = self.defaults[question]
        shown = [f"[{o}]" if o == usual else str(o) for o in self.options[question]]
        return " ".join(shown if usual in self.options[question] else [f"[{usual}]", *shown])
