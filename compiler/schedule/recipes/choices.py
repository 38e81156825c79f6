"""Choices: who answers a recipe's questions - the analytic model, a search, or a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Choices:
    """Answers each question of a recipe with the given answer, else with the recipe's default.

    Attributes:
        given: answers from a search or a saved record, by question.
        asked: every question asked so far with its options and the answer taken.
    """

    given: Mapping[str, int] = field(default_factory=dict)
    asked: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)

    def pick(self, question: str, default: int, options: Sequence[int]) -> int:
        """Returns the answer to a question: one of the options."""
        answer = self.given.get(question, default)
        self.asked[question] = (tuple(options), answer)
        return answer
