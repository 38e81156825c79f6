"""Unrolled loops whose bodies are long: emitted as loops, over register buffers put in memory.

The epilogue of a tile is unrolled because the sums it starts from are SSA values. Where it computes
much of each of them (an error function, a sigmoid), all of the tile at once has more values than
there are registers: the sums are spilt anyway, and LLVM takes longer for it than for the product.
"""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.tensor.ir import Block, Buffer, Expr, For, Load, Store
from tilewright.tensor.walk import block_loads, statements, visit

from .builder import Pointer
from .control import Control, Lane
from .index import Index
from .machine import Machine
from .registers import Cells
from .types import memory_type

LONG = 16
"""Operations for each element from which a body is long: a store and a load more are little."""

ROWS = 4
"""Iterations from which a loop is worth it."""


class Rows(Control):
    """Emits unrolled loops with long bodies as loops."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._long: dict[int, bool] = {}
        self._stacks: dict[str, Pointer] = {}

    def looped(self, loop: For, start: Index, extent: Index, lanes: list[Lane]) -> bool:
        """Emits an unrolled loop as a loop where that is worth it, or returns False.

        What it reads of register buffers by its variable has to be known before it, whole vectors
        of it, and nothing may be kept in register buffers.
        """
        if extent.const < ROWS or len(lanes) != 1 or lanes[0].width != 1 or lanes[0].mask:
            return False
        if not self._is_long(loop.body) or self.stored_names(loop.body) & self.registers.keys():
            return False
        read = (x for x in block_loads(loop.body) if loop.var in x.variables)
        held = {x.buffer.name: x.buffer for x in read if x.buffer.name in self.registers}
        if not all(_is_whole(b, self.registers[n]) for n, b in held.items()):
            return False
        kept = {name: self.registers.pop(name) for name in sorted(held)}
        for name, cells in kept.items():
            self._to_stack(held[name], cells)
        self.serial_loop(loop.var, start, extent, loop.body, lanes)
        self.registers |= kept
        return True

    def _is_long(self, body: Block) -> bool:
        found = self._long.get(id(body))
        if found is None:
            found = self._long[id(body)] = any(
                isinstance(s, Store) and _operations(self.expanded(s.value)) >= LONG
                for s in statements(body)
            )
        return found

    def _to_stack(self, buffer: Buffer, cells: Cells) -> None:
        """Stores what a register buffer holds, and has it read from there."""
        name, size = buffer.name, buffer.dtype.bytes
        base = self._stacks.get(name)
        if base is None:
            base = self._stacks[name] = Pointer(f"%{self.fresh()}", 0)
            # The last vector may be longer than what it holds.
            count = len(cells.owner) + self.machine.lanes
            type_ = memory_type(buffer.dtype)
            self.prologue.append(f"  {base.text} = alloca {type_}, i64 {count}, align 64")
        self.bases[name] = base
        self.aligned.add(name)
        self.forget(name)
        for position, (_, value) in sorted(cells.spans.items()):
            raw = self._to_memory(value)
            pointer = self.offset(base, position * size)
            align = (position * size | 64) & -(position * size | 64)
            self.line(f"store {raw.type} {raw.text}, ptr {pointer.text}, align {align}")


def _is_whole(buffer: Buffer, cells: Cells) -> bool:
    """Whether each element of a register buffer is known."""
    count = 1
    for d in buffer.shape:
        assert isinstance(d, int), buffer.name
        count *= d
    return len(cells.owner) == count


def _operations(e: Expr) -> int:
    """The operations on data that compute an expression."""
    return sum(
        bool(x.operands) and x.dtype is not dt.i64 and not isinstance(x, Load) for x in visit(e)
    )
