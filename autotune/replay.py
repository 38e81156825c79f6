"""Replaying records: the answers that a search found, for the groups of any model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup

from .records import digest_of, read_records
from .task import key_of


@dataclass(frozen=True, slots=True)
class Replay:
    """The answers of a file of records for one target.

    Attributes:
        target, math: what the answers are for.
        choices: by the keys of kernels.
        digest: differs whenever the answers do.
    """

    target: Target
    math: str
    choices: Mapping[str, Mapping[str, int]]
    digest: str

    def __call__(self, group: ComputeGroup, fixed: frozenset[str]) -> Mapping[str, int]:
        return self.choices.get(key_of(group, fixed, self.target, self.math), {})


def open_replay(path: str | os.PathLike[str], target: Target, math: str) -> Replay:
    """Reads what a file of records says; the file is closed again.

    Raises:
        ArtifactError: there is no such file, or it cannot be used (TW-E0530 to TW-E0533).
    """
    with read_records(path) as records:
        choices = records.choices()
    return Replay(target, math, choices, digest_of(choices))
