"""Memory as bytes with a map of what has been written, and the layout of what is allocated.

No address is one of the host's: global memory starts at ``GLOBAL_BASE``, the shared memory of a
block and the local memory of a thread are seen through windows at ``SHARED_BASE`` and
``LOCAL_BASE`` by generic addresses, and at small offsets by their own. Between any two
allocations lies a guard zone that belongs to nobody.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .faults import SimulationError
from .scalars import Array

GLOBAL_BASE = 1 << 36
SHARED_BASE = 1 << 44
LOCAL_BASE = 1 << 45
FIRST_OFFSET = 1024
"""Where the first variable of shared and local memory lies: a null pointer is in no variable."""
GUARD = 256
"""Bytes between two allocations, at least."""


@dataclass(slots=True)
class Region:
    """An allocation: addresses from ``start`` up to ``end``.

    Attributes:
        written: every byte is known to have been written.
    """

    name: str
    start: int
    end: int
    written: bool = False

    @property
    def bytes(self) -> int:
        return self.end - self.start


class Layout:
    """Regions that do not overlap, in the order of their addresses."""

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self.regions = sorted(regions, key=_start)
        self._starts: Array | None = None
        self._ends: Array | None = None

    def add(self, region: Region) -> None:
        insort(self.regions, region, key=_start)
        self._starts = None

    def remove(self, region: Region) -> None:
        self.regions.remove(region)
        self._starts = None

    def holding(self, address: int) -> Region | None:
        """The region with that address; an empty one has the address that it starts at."""
        at = bisect_right(self.regions, address, key=_start) - 1
        if at < 0:
            return None
        region = self.regions[at]
        return region if address < region.end or address == region.start else None

    def outside(self, addresses: Array, size: int) -> Array:
        """Which accesses of ``size`` bytes do not lie in one region."""
        if not self.regions:
            return np.ones(np.shape(addresses), np.bool_)
        if self._starts is None or self._ends is None:
            self._starts = np.array([r.start for r in self.regions], np.int64)
            self._ends = np.array([r.end for r in self.regions], np.int64)
        at = np.searchsorted(self._starts, addresses, "right") - 1
        wrong: Array = (at < 0) | (addresses + size > self._ends[at])
        return wrong

    def describe(self, address: int, size: int) -> str:
        """What lies near an address that is outside, in words."""
        if not self.regions:
            return "nothing is allocated there"
        at = max(0, bisect_right(self.regions, address, key=_start) - 1)
        region = self.regions[at]
        name = f"{region.name} ({region.bytes} bytes)"
        if address < region.start:
            return f"{region.start - address} bytes before {name}"
        if address < region.end:
            return f"the last {address + size - region.end} of {size} bytes are after {name}"
        return f"{address - region.end} bytes after the end of {name}"


def _start(region: Region) -> int:
    return region.start


class Bytes:
    """Bytes, and for each whether it has been written (1) or not (0); read by aligned elements."""

    def __init__(self, size: int) -> None:
        size = -(-size // 64) * 64
        self.size = size
        self._use(np.zeros(size, np.uint8), np.zeros(size, np.uint8))

    def _use(self, data: Array, written: Array) -> None:
        self.data = data
        self.written = written
        self._data = {w: data.view(f"u{w}") for w in (1, 2, 4, 8)}
        self._written = {w: written.view(f"u{w}") for w in (1, 2, 4, 8)}

    def grow(self, size: int) -> None:
        """Makes room for at least ``size`` bytes; what is there stays."""
        larger = max(size, 2 * self.size)
        larger = -(-larger // 64) * 64
        data, written = np.zeros(larger, np.uint8), np.zeros(larger, np.uint8)
        data[: self.size] = self.data
        written[: self.size] = self.written
        self.size = larger
        self._use(data, written)

    def load(self, index: Array, width: int) -> Array:
        """The elements of ``width`` bytes that start at the indices, as unsigned numbers."""
        values: Array = self._data[width][index >> _SHIFT[width]]
        return values

    def load_vector(self, index: Array, width: int, count: int) -> Array:
        """``count`` elements from each index on, along the last axis."""
        rows: Array = self._data[width].reshape(-1, count)[index >> _SHIFT[width * count]]
        return rows

    def store(self, index: Array, width: int, values: Array) -> None:
        """Writes elements; of lanes with one index the last one wins."""
        at = index >> _SHIFT[width]
        self._data[width][at] = values
        self._written[width][at] = _ONES[width]

    def store_vector(self, index: Array, width: int, values: Array) -> None:
        """Writes the elements along the last axis of ``values`` from each index on."""
        count = values.shape[-1]
        at = index >> _SHIFT[width * count]
        self._data[width].reshape(-1, count)[at] = values
        self._written[width].reshape(-1, count)[at] = _ONES[width]

    def forget(self, index: Array, size: int) -> None:
        """Notes that nobody has written the bytes."""
        width = min(size, 8)
        self._written[width].reshape(-1, size // width)[index >> _SHIFT[size]] = 0

    def unwritten(self, index: Array, size: int) -> Array:
        """Which of the elements of ``size`` bytes have a byte that was never written."""
        if size <= 8:
            wrong: Array = self._written[size][index >> _SHIFT[size]] != _ONES[size]
            return wrong
        parts = self._written[8].reshape(-1, size // 8)[index >> _SHIFT[size]]
        parts_wrong: Array = (parts != _ONES[8]).any(-1)
        return parts_wrong


_SHIFT = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4, 32: 5, 64: 6}
_ONES = {
    w: np.frombuffer(b"\1" * w, f"u{w}")[0] for w in (1, 2, 4, 8)
}  # what the map holds for an element that is written


class GlobalMemory:
    """Memory that all kernels and the host share.

    Attributes:
        stored: addresses of allocations that kernels have stored to since they were settled.
    """

    def __init__(self, size: int = 1 << 20) -> None:
        self.bytes = Bytes(size)
        self.layout = Layout()
        self.stored: set[int] = set()
        self._top = GUARD
        self._freed = False

    def allocate(self, size: int, name: str, align: int = 256) -> int:
        """The address of ``size`` new bytes that nobody has written."""
        align = max(align, GUARD)
        start = self._place(max(size, 1), align)
        if start + size + GUARD > self.bytes.size:
            self.bytes.grow(start + size + GUARD)
        # What was never used is not written either, and need not be touched.
        self.bytes.written[start : min(start + size, self._top)] = 0
        self._top = max(self._top, start + max(size, 1))
        self.layout.add(Region(name, GLOBAL_BASE + start, GLOBAL_BASE + start + size))
        return GLOBAL_BASE + start

    def _place(self, size: int, align: int) -> int:
        """The first gap that holds the bytes and guard zones around them."""
        before = GUARD
        if self._freed:
            for region in self.layout.regions:
                start = _up(before, align)
                if start + size + GUARD <= region.start - GLOBAL_BASE:
                    return start
                before = region.end - GLOBAL_BASE + GUARD
        return _up(max(before, self._top + GUARD) if not self._freed else before, align)

    def free(self, address: int) -> None:
        """Gives an allocation back; its addresses are nobody's from now on.

        Raises:
            SimulationError: none starts there (TW-E1016).
        """
        region = self.region(address)
        if region.start != address:
            raise SimulationError(
                f"free: {address:#x} is inside {region.name}, which starts at {region.start:#x}",
                code="TW-E1016",
            )
        self.layout.remove(region)
        self._freed = True

    def region(self, address: int) -> Region:
        """The allocation that holds an address.

        Raises:
            SimulationError: there is none (TW-E1016).
        """
        region = self.layout.holding(address)
        if region is None:
            raise SimulationError(
                f"{address:#x} is in no allocation: {self.layout.describe(address, 1)}",
                code="TW-E1016",
            )
        return region

    def write(self, address: int, values: Array) -> None:
        """Copies bytes from the host.

        Raises:
            SimulationError: they do not fit (TW-E1016).
        """
        values = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        start = self._range(address, values.size)
        self.bytes.data[start : start + values.size] = values
        self.bytes.written[start : start + values.size] = 1
        self.settle(address)

    def read(self, address: int, size: int, *, written: bool = True) -> Array:
        """Copies bytes to the host.

        Args:
            written: whether to refuse bytes that nobody has written.

        Raises:
            SimulationError: they are outside the allocation (TW-E1016) or not written (TW-E1003).
        """
        start = self._range(address, size)
        if written:
            missing = np.flatnonzero(self.bytes.written[start : start + size] == 0)
            if missing.size:
                raise SimulationError(
                    f"copy_out: {missing.size} of {size} bytes at {address:#x} were never written, "
                    f"the first at offset {missing[0]}",
                    code="TW-E1003",
                )
        return self.bytes.data[start : start + size].copy()

    def settle(self, address: int) -> None:
        """Notes that an allocation is written in full, if it is: its loads need no map then."""
        region = self.layout.holding(address)
        if region is not None and not region.written:
            start = region.start - GLOBAL_BASE
            # As booleans: the search ends at the first byte that is missing.
            written = self.bytes.written[start : start + region.bytes].view(np.bool_)
            region.written = bool(written.all())

    def settle_stored(self) -> None:
        """Settles the allocations that kernels have stored to."""
        for address in self.stored:
            self.settle(address)
        self.stored.clear()

    def _range(self, address: int, size: int) -> int:
        if size == 0:
            return 0
        region = self.region(address)
        if address + size > region.end:
            raise SimulationError(
                f"copy: {size} bytes at {address:#x}: {self.layout.describe(address, size)}",
                code="TW-E1016",
            )
        return address - GLOBAL_BASE


def _up(number: int, to: int) -> int:
    return -(-number // to) * to
