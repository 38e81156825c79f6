"""Races of threads in shared memory, found by remembering who touched what.

Lanes run in lockstep here, which hides most races: a wrong order gives the right result. So each
cell of shared memory (as wide as the narrowest access of the kernel) remembers its last writer
and two readers, and each access is checked against them. Two accesses of one cell by different
threads, one of them a write, are a race unless a barrier stands between them; two stores of the
same value are none. The scheme is that of FastTrack (Flanagan, Freund, 2009) with a clock for
each warp, and two readers instead of a set: the first since the last barrier and the last one
that is another thread. That finds every race across warps; where the kernel has barriers of
single warps too, a race can be missed if three threads of that warp read a cell.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from .access import Access, offset_in
from .batch import WARP, Batch
from .faults import SimulationError
from .scalars import Array

# An entry is time << 13 | flags | thread; the entry 0 stands for nobody.
_THREAD = 0x3FF
_MANY = 1 << 10
_ATOMIC = 1 << 11
_PENDING = 1 << 12
_TIME = 13
_LATEST = (1 << (31 - _TIME)) - 1
_WHO = _THREAD | _MANY


class SharedShadow:
    """Who touched each cell of the shared memory of a batch, and when.

    Args:
        size: bytes of shared memory of all blocks. cell: bytes of a cell.
        facts: of the program; kernels without barriers of warps or of some warps need less.

    Attributes:
        suspects: lanes (by their place among the active ones) whose store meets an unordered
            store; a race unless both store the same value.
        collided: lanes whose store meets that of another lane in the same instruction.
    """

    def __init__(self, batch: Batch, cell: int, facts: Set[str]) -> None:
        cells = -(-batch.shared.bytes.size // cell)
        self.cell = cell
        self.shift = cell.bit_length() - 1
        # Entries have 32 bits until the clock needs more.
        self.writer: Array = np.zeros(cells, np.int32)
        self.first: Array = np.zeros(cells, np.int32)
        self.last: Array = np.zeros(cells, np.int32)
        self.now = 1
        self.me: Array = batch.thread_of.astype(np.int32)
        self.threshold: Array | int = 1 << _TIME
        self.suspects: Array | None = None
        self.collided: Array | None = None
        self.warps = batch.shape.padded // WARP
        self.warp_threshold: Array | None = None
        if "warp barrier" in facts:
            self.warp_threshold = np.full(batch.lanes, 1 << _TIME, np.int64)
        self.known: Array | None = None
        if "counted barrier" in facts:
            # known[w, v]: what warp v did before that time is ordered before what w does now.
            self.known = np.full((batch.warps, self.warps), 1, np.int64)

    def tick(self) -> None:
        """Time goes on."""
        self.now += 1
        if self.now == _LATEST:
            self.me = self.me.astype(np.int64)
            self.writer = self.writer.astype(np.int64)
            self.first = self.first.astype(np.int64)
            self.last = self.last.astype(np.int64)

    def barrier(self, batch: Batch, mask: Array | None) -> None:
        """All that was done before is ordered before what the lanes do from now on."""
        self.tick()
        if mask is None or (batch.live is not None and not (batch.live & ~mask).any()):
            self.threshold = self.now << _TIME
        else:
            threshold = self._thresholds(batch)
            threshold[mask] = self.now << _TIME
            self.threshold = threshold
        if self.known is not None:
            warps = slice(None) if mask is None else mask.reshape(-1, WARP).any(1)
            self.known[warps] = self.now

    def counted_barrier(
        self, batch: Batch, arrived: list[tuple[Array, Array]], released: Array
    ) -> None:
        """Orders what the warps did before they arrived before what the released ones do.

        Args:
            arrived: lanes, and the time and knowledge of each warp when it arrived.
        """
        assert self.known is not None
        self.tick()
        blocks = np.repeat(np.arange(batch.blocks), self.warps)
        gained = np.zeros((batch.blocks, self.warps), np.int64)
        for lanes, known in arrived:
            warps = lanes.reshape(-1, WARP).any(1)
            np.maximum.at(gained, blocks[warps], known[warps])
        go = released.reshape(-1, WARP).any(1)
        self.known[go] = np.maximum(self.known[go], gained[blocks[go]])

    def snapshot(self, batch: Batch) -> Array:
        """What each warp knows now, itself included; time goes on."""
        assert self.known is not None
        seen = self.known.copy()
        warps = np.arange(batch.warps)
        seen[warps, warps % self.warps] = self.now + 1
        self.tick()
        return seen

    def warp_barrier(self, batch: Batch) -> None:
        """What the warps did is ordered before what their own lanes do from now on."""
        assert self.warp_threshold is not None
        self.tick()
        index = batch.index()
        self.warp_threshold[slice(None) if index is None else index] = self.now << _TIME

    def _thresholds(self, batch: Batch) -> Array:
        if isinstance(self.threshold, int):
            return np.full(batch.lanes, self.threshold, np.int64)
        return self.threshold.copy()

    def fresh(self, entries: Array, lanes: Array | None) -> Array:
        """Which entries are not ordered before what the lanes do now."""
        if self.known is not None:
            return self._fresh_by_warp(entries, lanes)
        threshold = self.threshold
        if isinstance(threshold, np.ndarray):
            threshold = _of(threshold, lanes, entries.ndim)
        fresh: Array = entries >= threshold
        if self.warp_threshold is not None and fresh.any():
            own = _of(self.warp_threshold, lanes, entries.ndim)
            me = _of(self.me, lanes, entries.ndim)
            same = ((entries & _THREAD) // WARP == me // WARP) & ((entries & _MANY) == 0)
            fresh &= ~(same & (entries < own))
        return fresh

    def _fresh_by_warp(self, entries: Array, lanes: Array | None) -> Array:
        assert self.known is not None
        here = np.arange(self.me.size) if lanes is None else lanes
        warp = (here // WARP).reshape((-1,) + (1,) * (entries.ndim - 1))
        known = self.known[warp, (entries & _THREAD) // WARP]
        fresh: Array = (entries != 0) & (entries >> _TIME >= known)
        if self.warp_threshold is not None:
            own = _of(self.warp_threshold, lanes, entries.ndim)
            same = (entries & _THREAD) // WARP == warp % self.warps
            fresh &= ~(same & (entries < own))
        return fresh

    def unordered(self, batch: Batch, entries: Array) -> Array:
        """Which entries are another thread's, and not ordered before what the lanes do now."""
        lanes = batch.index()
        me = _of(self.me, lanes, entries.ndim)
        others: Array = self.fresh(entries, lanes) & ((entries & _WHO) != me)
        return others

    def stamp(self, batch: Batch, axes: int) -> Array:
        """The entries of the active lanes now, to be compared with arrays of so many axes."""
        entries: Array = _of(self.me, batch.index(), axes).astype(np.int64) | (self.now << _TIME)
        return entries

    def cells(self, index: Array, size: int) -> Array:
        """The cells of accesses; with a second axis where an access covers several."""
        first = index >> self.shift
        count = size // self.cell
        return first if count <= 1 else first[:, None] + np.arange(count)

    def access(self, batch: Batch, access: Access, index: Array) -> None:
        """Checks and notes an access of the active lanes.

        Raises:
            SimulationError: a race (TW-E1005), or bytes that are still on their way (TW-E1006).
        """
        cells = self.cells(index, access.size)
        match access.kind:
            case "store":
                self.write(batch, access, cells)
            case "atomic":
                self.change(batch, access, cells)
            case _:
                self.read(batch, access, cells)

    def who(self, batch: Batch, cells: Array) -> tuple[Array | None, Array, Array]:
        """(the active lanes, their threads, their entries), to be compared with the cells'."""
        lanes = batch.index()
        me = _of(self.me, lanes, cells.ndim)
        return lanes, me, me | (self.now << _TIME)

    def read(self, batch: Batch, access: Access, cells: Array) -> None:
        lanes, me, mine = self.who(batch, cells)
        writer = self.writer[cells]
        fresh = self.fresh(writer, lanes)
        if fresh.any():
            self.refuse_pending(batch, access, cells, writer)
            wrong = fresh & ((writer & _WHO) != me)
            if wrong.any():
                raise self.race(batch, access, cells, writer, wrong, "reads", "wrote")
        first = self.first[cells]
        fresh = self.fresh(first, lanes)
        mine = np.broadcast_to(mine, cells.shape)
        if not fresh.any():
            # Of lanes that read one cell, the first stays here and the last there.
            self.first[cells[::-1]] = mine[::-1]
            self.last[cells] = mine
            return
        kept = np.where(fresh, first, mine)
        self.first[cells[::-1]] = kept[::-1]
        other = ~fresh | ((first & _WHO) != me)
        if other.all():
            self.last[cells] = mine
        else:
            self.last[cells[other]] = mine[other]

    def write(self, batch: Batch, access: Access, cells: Array) -> None:
        lanes, me, mine = self.who(batch, cells)
        writer = self.writer[cells]
        fresh = self.fresh(writer, lanes)
        self.suspects = self.collided = None
        if fresh.any():
            self.refuse_pending(batch, access, cells, writer)
            wrong = fresh & ((writer & _WHO) != me)
            if (wrong & ((writer & _ATOMIC) != 0)).any():
                raise self.race(batch, access, cells, writer, wrong, "writes", "changed")
            if wrong.any():
                self.suspects = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(1))
        self.check_readers(batch, access, cells, lanes, me)
        self.writer[cells] = mine
        lost = self.writer[cells] != mine
        if lost.any():
            self.collided = np.flatnonzero(lost if lost.ndim == 1 else lost.any(1))

    def check_readers(
        self, batch: Batch, access: Access, cells: Array, lanes: Array | None, me: Array
    ) -> None:
        """Refuses a write to cells that other threads have read since the last barrier."""
        for readers in (self.first, self.last):
            entry = readers[cells]
            fresh = self.fresh(entry, lanes)
            if fresh.any():
                wrong = fresh & ((entry & _WHO) != me)
                if wrong.any():
                    raise self.race(batch, access, cells, entry, wrong, "writes", "read")

    def change(self, batch: Batch, access: Access, cells: Array) -> None:
        """An atomic change, which is no race with other atomic changes."""
        lanes, me, mine = self.who(batch, cells)
        writer = self.writer[cells]
        fresh = self.fresh(writer, lanes)
        several = np.zeros(cells.shape, np.bool_)
        if fresh.any():
            self.refuse_pending(batch, access, cells, writer)
            other = fresh & ((writer & _WHO) != me)
            wrong = other & ((writer & _ATOMIC) == 0)
            if wrong.any():
                raise self.race(batch, access, cells, writer, wrong, "changes", "wrote")
            several = other
        self.check_readers(batch, access, cells, lanes, me)
        entry = np.where(several, mine | _MANY, mine) | _ATOMIC
        self.writer[cells] = entry
        lost = (self.writer[cells] & _WHO) != (entry & _WHO)
        if lost.any():
            self.writer[cells[lost]] |= _MANY

    def issue(self, batch: Batch, access: Access, index: Array) -> None:
        """Notes the destination of an asynchronous copy: nobody may touch it before the wait."""
        cells = self.cells(index, access.size)
        lanes, me, mine = self.who(batch, cells)
        writer = self.writer[cells]
        self.refuse_pending(batch, access, cells, writer)
        wrong = self.fresh(writer, lanes) & ((writer & _WHO) != me)
        if wrong.any():
            raise self.race(batch, access, cells, writer, wrong, "writes", "wrote")
        self.check_readers(batch, access, cells, lanes, me)
        self.writer[cells] = mine | _PENDING

    def land(self, batch: Batch, index: Array, size: int, lanes: Array) -> None:
        """Notes that copies have arrived: from now on they are stores of their threads."""
        cells = self.cells(index, size)
        self.writer[cells] = _of(self.me, lanes, cells.ndim) | (self.now << _TIME)

    def refuse_pending(self, batch: Batch, access: Access, cells: Array, writer: Array) -> None:
        pending = (writer & _PENDING) != 0
        if not pending.any():
            return
        at, cell, entry = _first(pending, cells, writer)
        lane = int(batch.numbers()[at])
        raise batch.fault(
            "TW-E1006",
            access.instruction,
            lane,
            f"{access.kind} of {self.name(batch, cell)}, where an asynchronous copy of thread "
            f"{batch.thread_index(entry & _THREAD)} is under way that was not waited for",
        )

    def meets(self) -> bool:
        """Whether the store that was just noted meets another one."""
        return self.suspects is not None or self.collided is not None

    def confirm(
        self, batch: Batch, access: Access, index: Array, lanes: Array, same: Array
    ) -> None:
        """Refuses stores that meet others, but those of the value that is there.

        Args:
            lanes: places among the active lanes. same: of each, whether it stores that value.
        """
        if same.all():
            return
        at = int(lanes[np.argmin(same)])
        raise batch.fault(
            "TW-E1005",
            access.instruction,
            int(batch.numbers()[at]),
            f"race: writes {self.name(batch, int(index[at]) >> self.shift)}, where another thread "
            "writes another value with no barrier between",
        )

    def race(
        self,
        batch: Batch,
        access: Access,
        cells: Array,
        entries: Array,
        wrong: Array,
        does: str,
        did: str,
    ) -> SimulationError:
        at, cell, entry = _first(wrong, cells, entries)
        lane = int(batch.numbers()[at])
        who = "other threads" if entry & _MANY else f"thread {batch.thread_index(entry & _THREAD)}"
        return batch.fault(
            "TW-E1005",
            access.instruction,
            lane,
            f"race: {does} {self.name(batch, cell)}, which {who} {did} with no barrier between",
        )

    def name(self, batch: Batch, cell: int) -> str:
        """A cell in words."""
        address = offset_in(batch.shared, cell << self.shift)
        region = batch.shared.layout.holding(address)
        assert region is not None
        return f"{region.name}, offset {address - region.start}"


def _of(values: Array, lanes: Array | None, axes: int) -> Array:
    """The values of lanes, to be compared with arrays of so many axes."""
    found = values if lanes is None else values[lanes]
    return found if axes <= 1 else found[:, None]


def _first(wrong: Array, cells: Array, entries: Array) -> tuple[int, int, int]:
    """(place among the active lanes, cell, entry) of the first thing wrong."""
    at = int(np.argmax(wrong))
    width = wrong.shape[1] if wrong.ndim > 1 else 1
    return at // width, int(cells.reshape(-1)[at]), int(entries.reshape(-1)[at])
