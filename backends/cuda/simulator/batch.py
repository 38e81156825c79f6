"""The threads of the blocks that are run at once: registers, who is active, and where they are.

Lanes are numbered block by block, warp by warp; blocks are padded to whole warps by lanes that
never run. A register holds bits: an array with one entry a lane, or one NumPy scalar while all
lanes agree, which makes the control of loops nearly free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .faults import Index, Place, SimulationError
from .memory import Bytes, GlobalMemory, Layout
from .ptx import Instruction
from .scalars import Array

if TYPE_CHECKING:
    from .copies import AsyncCopies
    from .counters import Counters
    from .shadow import SharedShadow
    from .sharing import GlobalShadow

WARP = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """How many threads there are.

    Attributes:
        grid, block: as (x, y, z).
        padded: lanes of a block, its threads rounded up to whole warps.
    """

    grid: Index
    block: Index

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def padded(self) -> int:
        return -(-self.threads // WARP) * WARP

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(slots=True)
class Window:
    """Memory that each block (shared) or each thread (local) has its own piece of.

    Attributes:
        bytes: all pieces, one after another.
        layout: the variables, by their address in a piece.
        stride: bytes of a piece.
        start: where each lane's piece starts, less the first address in it.
    """

    bytes: Bytes
    layout: Layout
    stride: int
    start: Array

    def index(self, offset: Array, lanes: Array | None) -> Array:
        """Where the bytes at an offset of each lane's piece are."""
        start = self.start if lanes is None else self.start[lanes]
        index: Array = start + offset
        return index


class Batch:
    """The state of the blocks ``first`` to ``first + blocks`` of a launch.

    Attributes:
        r: the registers, by number.
        active: the lanes that execute; None: all of them.
        merge: the lanes whose registers may change; None: as no other lane will run again or
            all are active, all of them.
        live: the lanes that have not exited; None: all of them.
        steps: how many basic blocks were executed.
    """

    def __init__(
        self, kernel: str, shape: Shape, first: int, blocks: int, parameters: Bytes
    ) -> None:
        self.kernel = kernel
        self.shape = shape
        self.first = first
        self.blocks = blocks
        self.parameters = parameters
        self.lanes = blocks * shape.padded
        self.warps = self.lanes // WARP
        self.r: list[Array] = []
        self.live: Array | None = None
        if shape.threads != shape.padded:
            self.live = np.arange(self.lanes) % shape.padded < shape.threads
        self.active: Array | None = self.live
        self.merge: Array | None = None
        self.steps = 0
        self._index: Array | None = None
        self._index_of: Array | None = None
        self.block_of: Array = np.repeat(np.arange(blocks, dtype=np.int64), shape.padded)
        self.thread_of: Array = np.tile(np.arange(shape.padded, dtype=np.int64), blocks)
        self.memory: GlobalMemory
        self.shared: Window
        self.local: Window
        self.counters: Counters | None = None
        self.races: SharedShadow | None = None
        self.sharing: GlobalShadow | None = None
        self.copies: AsyncCopies
        # Operands of matrix instructions in their own order, by the registers they came from.
        self.fragments: dict[tuple[int, ...], tuple[tuple[Array, ...], Array]] = {}

    def index(self) -> Array | None:
        """The numbers of the active lanes; None: all."""
        if self.active is None:
            return None
        if self._index_of is not self.active:
            self._index = np.flatnonzero(self.active)
            self._index_of = self.active
        return self._index

    def numbers(self) -> Array:
        """The numbers of the active lanes."""
        index = self.index()
        return np.arange(self.lanes) if index is None else index

    def warp_bits(self, lanes: Array | None) -> Array:
        """A set of lanes as one 32-bit mask a warp."""
        if lanes is None:
            return np.full(self.warps, 0xFFFFFFFF, np.uint32)
        return np.packbits(lanes, bitorder="little").view(np.uint32)

    def active_warps(self) -> int:
        """How many warps have an active lane."""
        if self.active is None:
            return self.warps
        return int(self.active.reshape(self.warps, WARP).any(1).sum())

    def whole(self, value: Array) -> Array:
        """A value as an array with an entry for every lane."""
        return value if value.ndim else np.full(self.lanes, value)

    def put(self, target: int, value: Array) -> None:
        """Writes a register in the lanes that may change."""
        merge = self.merge
        self.r[target] = value if merge is None else np.where(merge, value, self.r[target])

    def put_active(self, target: int, values: Array) -> None:
        """Writes a register from values of the active lanes only, or from one value for all."""
        index = self.index()
        if index is None or not values.ndim:
            self.put(target, values)
            return
        old = self.r[target]
        new = old.copy() if old.ndim else np.full(self.lanes, old)
        new[index] = values
        self.r[target] = new

    def thread_index(self, lane: int) -> Index:
        x, y, _ = self.shape.block
        thread = lane % self.shape.padded
        return thread % x, thread // x % y, thread // (x * y)

    def block_index(self, block: int) -> Index:
        x, y, _ = self.shape.grid
        block += self.first
        return block % x, block // x % y, block // (x * y)

    def fault(
        self, code: str, instruction: Instruction, lane: int | None, message: str
    ) -> SimulationError:
        """An error of the instruction in a lane; None: in no single one."""
        place = Place(
            self.kernel,
            instruction.line,
            instruction.text,
            None if lane is None else self.thread_index(lane),
            None if lane is None else self.block_index(lane // self.shape.padded),
        )
        return SimulationError(message, code=code, place=place)
