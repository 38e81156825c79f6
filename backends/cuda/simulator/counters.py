"""What a launch did, in the figures of NVIDIA's profilers; the same at every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .access import Access
from .batch import WARP, Batch
from .code import Block
from .scalars import Array

_Figure = Callable[[Batch, int, Array], tuple[int, int, int]]
SECTOR = 32
BANKS = 32


@dataclass(slots=True)
class Traffic:
    """Requests of whole warps, and the pieces that the memory serves them in.

    Attributes:
        requests: instructions executed by a warp.
        pieces: 32-byte sectors of global memory; wavefronts of shared memory, which serve one
            word of each bank.
        ideal: the pieces that so many bytes take at best.
    """

    requests: int = 0
    pieces: int = 0
    ideal: int = 0

    def add(self, requests: int, pieces: int, ideal: int) -> None:
        self.requests += requests
        self.pieces += pieces
        self.ideal += ideal


@dataclass(slots=True)
class Counters:
    """The figures of one launch.

    Attributes:
        instructions: executed by warps, by name with all modifiers.
        divergent_branches: branches at which a warp parted.
        tensor_flops: floating-point or integer operations of mma.
    """

    blocks: int = 0
    threads: int = 0
    instructions: Counter[str] = field(default_factory=Counter)
    divergent_branches: int = 0
    tensor_flops: int = 0
    global_loads: Traffic = field(default_factory=Traffic)
    global_stores: Traffic = field(default_factory=Traffic)
    global_atomics: Traffic = field(default_factory=Traffic)
    shared_loads: Traffic = field(default_factory=Traffic)
    shared_stores: Traffic = field(default_factory=Traffic)
    shared_atomics: Traffic = field(default_factory=Traffic)
    _known: dict[tuple[int, int, str], tuple[Array | None, Array, tuple[int, int, int]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def executed(self, blocks: Sequence[Block], times: Sequence[int]) -> None:
        """Adds the instructions of basic blocks that warps executed so many times."""
        for block, count in zip(blocks, times, strict=True):
            if count:
                for name, number in block.mix.items():
                    self.instructions[name] += number * count

    def count(self, *prefixes: str) -> int:
        """How many instructions warps executed whose name starts with one of the prefixes."""
        return sum(n for name, n in self.instructions.items() if name.startswith(prefixes))

    def divergence(self, taken: Array, other: Array) -> None:
        """Counts the warps that have lanes on both sides."""
        both = taken.reshape(-1, WARP).any(1) & other.reshape(-1, WARP).any(1)
        self.divergent_branches += int(both.sum())

    def global_request(self, batch: Batch, access: Access, found: Array) -> None:
        """Counts the sectors that the active lanes' accesses touch."""
        traffic = {"store": self.global_stores, "atomic": self.global_atomics}.get(
            access.kind, self.global_loads
        )
        if not found.ndim:
            warps = batch.active_warps()
            traffic.add(warps, warps, warps)
            return
        traffic.add(*self.remembered(batch, access, found, SECTOR, _sectors))

    def shared_request(self, batch: Batch, access: Access, found: Array) -> None:
        """Counts the wavefronts that the active lanes' accesses take."""
        traffic = {"store": self.shared_stores, "atomic": self.shared_atomics}.get(
            access.kind, self.shared_loads
        )
        if not found.ndim:
            warps = batch.active_warps()
            traffic.add(warps, warps, warps)
            return
        # A whole number of words more turns the banks around and changes nothing else.
        traffic.add(*self.remembered(batch, access, found, 4, _wavefronts))

    def remembered(
        self, batch: Batch, access: Access, found: Array, phase: int, figure: _Figure
    ) -> tuple[int, int, int]:
        """The figures of a request, computed again only when its pattern has changed.

        Args:
            phase: addresses that are further by a multiple of it have the same figures.
        """
        start = int(found[0])
        pattern = found - start
        key = (id(access.instruction), start % phase, access.space)
        known = self._known.get(key)
        if (
            known is not None
            and (known[0] is batch.active or _same(known[0], batch.active))
            and _same(known[1], pattern)
        ):
            return known[2]
        result = figure(batch, access.size, found)
        self._known[key] = (batch.active, pattern, result)
        return result


def _same(a: Array | None, b: Array | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _rows(batch: Batch, values: Array, lanes: int = WARP) -> tuple[Array, Array]:
    """Values of the active lanes in rows of so many neighbours, and how many are active in each.

    Lanes that are not active repeat a value of their row, which changes no figure; rows without
    any are left out.
    """
    index = batch.index()
    if index is None:
        return values.reshape(-1, lanes), np.full(batch.lanes // lanes, lanes)
    row = index // lanes
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    counts = np.diff(np.append(starts, index.size))
    rows = np.repeat(values[starts], lanes).reshape(-1, lanes)
    number = np.repeat(np.arange(starts.size), counts)
    rows[number, index % lanes] = values
    return rows, counts


def _sectors(batch: Batch, size: int, found: Array) -> tuple[int, int, int]:
    rows, counts = _rows(batch, found // SECTOR)
    steps = np.diff(rows, axis=1)
    if (steps < 0).any():
        steps = np.diff(np.sort(rows, axis=1), axis=1)
    pieces = int(np.count_nonzero(steps)) + len(rows)
    return len(rows), pieces, int(np.sum(-(-counts * size // SECTOR)))


def _wavefronts(batch: Batch, size: int, found: Array) -> tuple[int, int, int]:
    # A wavefront carries 128 bytes: eight lanes of 16 bytes are served together, and no others.
    lanes = min(WARP, 128 // max(size, 4))
    requests, counts = _rows(batch, found)
    phases, _ = _rows(batch, found // 4, lanes)
    ideal = int(np.sum(-(-counts // lanes)))
    return len(requests), wavefronts(phases, max(1, size // 4)), ideal


def wavefronts(words: Array, width: int) -> int:
    """How many wavefronts requests take, all told.

    Args:
        words: a row for each request, with the first word that each lane wants.
        width: how many words each lane wants.
    """
    if width > 1:
        words = (words[:, :, None] + np.arange(width)).reshape(len(words), -1)
    ordered = np.sort(words, axis=1)
    distinct = np.ones(ordered.shape, np.bool_)
    distinct[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    banks = ordered % BANKS + np.arange(len(words))[:, None] * BANKS
    load = np.bincount(banks[distinct], minlength=len(words) * BANKS)
    return int(load.reshape(-1, BANKS).max(1).sum())
