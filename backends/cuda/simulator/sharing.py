"""Races in global memory: of blocks, which nothing orders, and of the threads of a block."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from .access import Access
from .batch import Batch
from .faults import SimulationError
from .scalars import Array

_ATOMIC = 1 << 30
_BLOCK = _ATOMIC - 1


class GlobalShadow:
    """Which block of the launch wrote each cell of global memory, and which of its threads when.

    Finds stores of two blocks to one byte, loads of what another block stores, read-only loads of
    what the launch writes, and loads and stores of what another thread of the block stores with
    no barrier between. A store after another's load is not found. Kernels with fences, which pass
    data in other ways, are checked for stores only.

    Attributes:
        suspects, collided: as those of SharedShadow, for the threads of a block.
    """

    def __init__(self) -> None:
        self.writer: Array = np.zeros(0, np.int32)
        self.when: Array = np.zeros(0, np.int64)
        self.base = 1
        self.next = 1
        self.shift = 0
        self.fenced = False
        # The range of what the launch has written so far.
        self.low = self.high = 0
        self.suspects: Array | None = None
        self.collided: Array | None = None

    def start(self, memory: int, blocks: int, cell: int, facts: Set[str]) -> None:
        """A new launch: what earlier ones wrote is settled.

        Args:
            memory: bytes of global memory. cell: bytes of the kernel's narrowest access.
            facts: of the program.
        """
        self.shift = cell.bit_length() - 1
        cells = memory >> self.shift
        self.base = self.next
        self.next += blocks
        if cells > self.writer.size or self.next >= _ATOMIC:
            self.writer = np.zeros(cells, np.int32)
            self.when = np.zeros(cells, np.int64)
            self.base, self.next = 1, 1 + blocks
        self.fenced = "fence" in facts
        self.low = self.high = 0

    def access(self, batch: Batch, access: Access, index: Array) -> None:
        """Checks and notes an access of the active lanes.

        Raises:
            SimulationError: a race of blocks (TW-E1007) or of threads (TW-E1005), or a read-only
                load of what the launch writes (TW-E1010).
        """
        self.suspects = self.collided = None
        if access.kind == "load" and self.low == self.high:
            return
        lowest, highest = int(index.min()), int(index.max()) + access.size
        loads = access.kind in ("load", "read-only load")
        if loads and (highest <= self.low or lowest >= self.high):
            return
        lanes = batch.numbers()
        cells = np.broadcast_to(index, lanes.shape) >> self.shift
        count = access.size >> self.shift
        blocks = batch.block_of[lanes]
        if count > 1:
            cells, blocks = cells[:, None] + np.arange(count), blocks[:, None]
        mine = (blocks + (self.base + batch.first)).astype(np.int32)
        self.check(batch, access, cells, mine)
        if loads:
            return
        self.low = lowest if self.low == self.high else min(self.low, lowest)
        self.high = max(self.high, highest)
        atomic = access.kind == "atomic"
        self.writer[cells] = mine | _ATOMIC if atomic else mine
        if batch.races is not None:
            self.when[cells] = stamp = batch.races.stamp(batch, cells.ndim)
            lost = self.when[cells] != stamp
            if not atomic and lost.any():
                self.collided = np.flatnonzero(lost if lost.ndim == 1 else lost.any(1))
        if not atomic:
            lost = self.writer[cells] != mine
            if lost.any():
                raise self.fault(batch, access, lost, "TW-E1007", "writes what another block does")

    def check(self, batch: Batch, access: Access, cells: Array, mine: Array) -> None:
        """Refuses an access to what another block or thread has written."""
        entry = self.writer[cells]
        block = entry & _BLOCK
        fresh = block >= self.base
        if not fresh.any():
            return
        if access.kind == "read-only load":
            what = "reads as read-only what the same launch writes"
            raise self.fault(batch, access, fresh, "TW-E1010", what)
        if access.kind == "atomic":
            fresh &= (entry & _ATOMIC) == 0
        if self.fenced and access.kind != "store":
            return
        wrong = fresh & (block != mine)
        if wrong.any():
            raise self.fault(batch, access, wrong, "TW-E1007", "touches what another block writes")
        if batch.races is None:
            return
        wrong = fresh & batch.races.unordered(batch, self.when[cells])
        if not wrong.any():
            return
        if access.kind == "store" and not (wrong & ((entry & _ATOMIC) != 0)).any():
            self.suspects = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(1))
            return
        what = "touches what another thread writes with no barrier between"
        raise self.fault(batch, access, wrong, "TW-E1005", what)

    def meets(self) -> bool:
        """Whether the store that was just noted meets another one."""
        return self.suspects is not None or self.collided is not None

    def confirm(
        self, batch: Batch, access: Access, index: Array, lanes: Array, same: Array
    ) -> None:
        """Refuses stores that meet others of the block, but those of the value that is there."""
        if same.all():
            return
        wrong = np.zeros(len(index), np.bool_)
        wrong[lanes[~same]] = True
        what = "writes what another thread does with another value and no barrier between"
        raise self.fault(batch, access, wrong, "TW-E1005", what)

    def fault(
        self, batch: Batch, access: Access, wrong: Array, code: str, what: str
    ) -> SimulationError:
        at = int(np.argmax(wrong)) // (wrong.shape[1] if wrong.ndim > 1 else 1)
        lane = int(batch.numbers()[at])
        return batch.fault(code, access.instruction, lane, f"race in global memory: {what}")
