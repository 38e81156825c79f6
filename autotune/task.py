"""Tasks: a group of a model whose schedule is searched for, and what it is known by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.runtime.cache import digest_key
from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.text import group_symbols, text
from tilewright.version import __version__

_WORD = re.compile(r"\b[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Task:
    """A group to find a schedule for.

    Attributes:
        group: what it computes.
        fixed: the names of its inputs whose data is known when the code is made.
        target: what to schedule for.
        math: "strict" forbids methods that round otherwise than the sums that ops state.
        title: the name of its first kernel in the model, for people.
        calls: how often one call of the model runs it.
        sizes: of its symbols, by name, where it is measured.
    """

    group: ComputeGroup
    fixed: frozenset[str]
    target: Target
    math: str
    title: str
    calls: int
    sizes: Mapping[str, int]

    @property
    def key(self) -> str:
        """What records know it by."""
        return key_of(self.group, self.fixed, self.target, self.math)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of its symbols, in the order of their first use."""
        return tuple(_renamed(self.group)[1])


def key_of(group: ComputeGroup, fixed: frozenset[str], target: Target, math: str) -> str:
    """What records know a group by: its structure, what is known of its inputs, the target.

    Names of symbols do not count; their ranges do.
    """
    return digest_key(structure(group), *sorted(fixed), target_key(target), math, __version__)


def target_key(target: Target) -> str:
    """What a target is called in records: two with one such name run the same code alike."""
    caches = (target.l1_bytes, target.l2_bytes, target.l3_bytes)
    features = digest_key(target.triple, target.features, repr((target.scales, caches)))
    return f"{target.backend} {target.cpu or target.name} {target.vector_bits} {features[:8]}"


def structure(group: ComputeGroup) -> str:
    """The text of a group without the names of its symbols."""
    renamed, names = _renamed(group)
    ranges = {v.name: f"{v.lo}..{v.hi}" for v in group_symbols(group)}
    return "\n".join([renamed, *(f"{new}: {ranges[old]}" for old, new in names.items())])


def _renamed(group: ComputeGroup) -> tuple[str, dict[str, str]]:
    """The text of a group with its symbols numbered by first use, and their new names."""
    lines = [text(b) for b in group.inputs]
    lines += [text(stage) for stage in group.stages]
    lines.append(" ".join(b.name for b in group.outputs))
    whole = "\n".join(lines)
    symbols = {v.name for v in group_symbols(group)}
    names: dict[str, str] = {}
    for word in _WORD.findall(whole):
        if word in symbols:
            names.setdefault(word, f"size{len(names)}")
    return _WORD.sub(lambda m: names.get(m[0], m[0]), whole), names
