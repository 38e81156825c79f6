"""Memory of large outputs, used again once nobody refers to it.

Fresh memory costs more than a pass over it: the kernel zeroes each page at its first touch. What
was given out is remembered; NumPy's own reference count of the block says whether an array, a
view, or another library's tensor over it is still alive, so nothing has to be handed back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_TRIES = 4
_SHARE_OF_MEMORY = 64
_STEPS_PER_DOUBLING = 8


class Block(NamedTuple):
    """A piece of memory.

    Attributes:
        raw: the array that owns it; every array over the block refers to it.
        start: the offset of the first aligned byte, at ``address``.
    """

    raw: np.ndarray
    start: int
    address: int


class Recycler:
    """Gives out blocks, at first new ones, later those that nobody refers to.

    Blocks of one size class are tried from the most recent one, whose memory is likeliest in
    cache. A thread takes a block off its list while it looks at it (which is one step under the
    interpreter lock), so no two threads get the same one.

    Args:
        allocate: makes a block that holds a number of bytes.
        most: how many bytes are remembered, in use or not; at the limit everything is forgotten:
            idle memory is freed, and used memory is freed by its users.
    """

    def __init__(self, allocate: Callable[[int], Block], most: int) -> None:
        self._allocate = allocate
        self._most = most if _counts_references(allocate) else 0
        self._blocks: dict[int, list[Block]] = {}
        self._known = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, size: int) -> tuple[np.ndarray, int]:
        """An uninitialised array of ``size`` bytes, and its address.

        Raises:
            MemoryError: there is not that much memory.
        """
        room = size_class(size)
        blocks = self._blocks.setdefault(room, [])
        busy: list[Block] = []
        found: tuple[np.ndarray, int] | None = None
        while found is None and len(busy) < _TRIES:
            try:
                block = blocks.pop()
            except IndexError:
                break
            if _references(block) == _UNUSED:
                found = np.ndarray(shape, dtype, block.raw, block.start), block.address
            busy.append(block)
        blocks.extend(reversed(busy))
        return found or self._new(shape, dtype, room)

    def forget(self) -> None:
        """Frees what nobody uses."""
        self._blocks.clear()
        self._known = 0

    def _new(self, shape: tuple[int, ...], dtype: np.dtype, room: int) -> tuple[np.ndarray, int]:
        try:
            block = self._allocate(room)
        except MemoryError:
            self.forget()
            block = self._allocate(room)
        if self._known + room > self._most:
            self.forget()
        if room <= self._most:
            self._blocks.setdefault(room, []).append(block)
            self._known += room
        return np.ndarray(shape, dtype, block.raw, block.start), block.address


def size_class(size: int) -> int:
    """A size rounded up to one of eight steps between powers of two."""
    step = max(1, (1 << max(0, size - 1).bit_length()) // (2 * _STEPS_PER_DOUBLING))
    return -(-size // step) * step


def share_of_memory() -> int:
    """A small part of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE_OF_MEMORY


def _references(block: Block) -> int:
    return sys.getrefcount(block.raw)


_UNUSED = _references(Block(np.empty(1, np.uint8), 0, 0))


def _counts_references(allocate: Callable[[int], Block]) -> bool:
    """Whether reference counts tell used from unused memory: they do where there is a lock."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    block = allocate(64)
    view = np.ndarray((4,), np.float32, block.raw, block.start)[1:].reshape(3, 1)
    used = _references(block)
    del view
    return used > _UNUSED == _references(block)
