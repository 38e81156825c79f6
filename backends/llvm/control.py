"""Basic blocks: counted loops with their phis, branches, and how register elements cross them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.tensor.ir import Block, Buffer, Dim, For, If, Store, Var, as_expr
from tilewright.tensor.walk import statements

from .builder import Value
from .expressions import Expressions
from .index import Index
from .machine import Machine
from .registers import Cells


@dataclass(slots=True)
class Lane:
    """One chunk of a vector loop (or scalar code): lanes that are computed together.

    Attributes:
        width: lanes of its values. active: how many of them exist.
        env: the bindings that differ between chunks: the loop variable and Lets.
        mask: the lanes that execute, or None for all.
    """

    width: int
    active: int
    env: dict[Var, Index | Value] = field(default_factory=dict)
    mask: Value | None = None

    def under(self, mask: Value | None) -> Lane:
        """The same chunk with another mask."""
        return Lane(self.width, self.active, self.env, mask)


class Control(Expressions):
    """Emits loops and branches around statements.

    Attributes:
        buffers: every buffer that has been declared, by name.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.buffers: dict[str, Buffer] = {}
        self._stored: dict[int, frozenset[str]] = {}

    @abstractmethod
    def block(self, body: Block, lanes: list[Lane]) -> None:
        """Emits statements for all chunks."""

    # -------------------------------------------------------------- loops

    def stored_names(self, body: Block) -> frozenset[str]:
        """The names of the buffers that statements store to."""
        found = self._stored.get(id(body))
        if found is None:
            names = {s.buffer.name for s in statements(body) if isinstance(s, Store)}
            found = self._stored[id(body)] = frozenset(names)
        return found

    def serial_loop(
        self, var: Var, start: Index, extent: Index, body: Block, lanes: list[Lane]
    ) -> None:
        """A counted loop; register elements that the body stores are carried as phis.

        An element that is undefined before the loop and read in it before it is written takes its
        value from the iteration before: that is found out by emitting the body, which is then
        emitted again with the element carried.
        """
        stored = self.stored_names(body)
        carried = sorted(stored & self.registers.keys())
        end = self.add(start, extent)
        always = (self.bounds_of(extent)[0] or 0) >= 1
        first, last = self.materialise(start), self.materialise(end)
        for name in stored:
            self.forget(name)
        seen: set[tuple[str, int, int, int]] = set()
        while True:
            before = {name: self.registers[name].copy() for name in carried}
            outside = set(self.registers)
            self.exposed, saved = set(), self.exposed
            again = self._try_loop(var, first, last, always, body, lanes, carried)
            exposed, self.exposed = self.exposed, saved
            self.registers = {n: c for n, c in self.registers.items() if n in outside}
            seen |= exposed
            if not again:
                # A loop around this one has to carry them too.
                self.exposed |= {e for e in seen if e[0] in outside}
                return
            for name, cells in before.items():
                self.registers[name] = cells
            for name, position, count, width in sorted(exposed):
                if name in before and not before[name].overlapping(position, count):
                    value = self.poison(self.buffers[name].dtype, width)
                    before[name].put(position, count, value)

    def _try_loop(
        self,
        var: Var,
        first: Value,
        last: Value,
        always: bool,
        body: Block,
        lanes: list[Lane],
        carried: list[str],
    ) -> bool:
        """Emits the loop, or returns True having emitted nothing where more must be carried."""
        label = self.fresh()
        outer = self.scopes[-1]
        level = self.level + 1
        entry = {name: dict(self.registers[name].spans) for name in carried}
        scope = self.open_scope(label, always, self.stored_names(body))
        hi = None if last.hi is None else last.hi - 1
        counter = Value(f"%i.{label}", "i64", dt.i64, 1, level, None, first.lo, hi)
        scope.counter, scope.start = counter, first
        self.env[var] = self.atom(counter)
        phis: dict[tuple[str, int], Value] = {}
        for name in carried:
            cells = self.registers[name]
            for position, (count, value) in list(cells.spans.items()):
                phi = Value(f"%{self.fresh()}", value.type, value.dtype, value.lanes, level)
                phis[name, position] = phi
                cells.spans[position] = (count, phi)
        self.block(body, lanes)
        if any(e[0] in entry for e in self.exposed):
            self.close_scope()
            return True
        back: dict[tuple[str, int], Value] = {}
        for name, position in phis:
            count, value = entry[name][position]
            cells = self.registers[name]
            read = self.read_span(self.buffers[name], cells, position, count, value.lanes)
            back[name, position] = read
        next_ = f"%n.{label}"
        self.line(f"{next_} = add nuw nsw i64 {counter.text}, 1")
        for pointer, _, step in scope.pointers:
            self.line(f"{pointer}.n = getelementptr i8, ptr {pointer}, i64 {step}")
        self.line(f"%c.{label} = icmp slt i64 {next_}, {last.text}")
        self.close_scope()
        head = [_phi(counter, first.text, outer.block, next_, scope.block)]
        for pointer, initial, _ in scope.pointers:
            head.append(
                f"  {pointer} = phi ptr [ {initial}, %{outer.block} ], "
                f"[ {pointer}.n, %{scope.block} ]"
            )
        for key, phi in phis.items():
            initial = entry[key[0]][key[1]][1].text
            head.append(_phi(phi, initial, outer.block, back[key].text, scope.block))
        exit_ = f"{label}.end"
        if always:
            self.line(f"br label %{label}")
        else:
            self.line(f"%g.{label} = icmp slt i64 {first.text}, {last.text}")
            self.line(f"br i1 %g.{label}, label %{label}, label %{exit_}")
        guard = outer.block
        outer.lines.append(f"{label}:")
        outer.lines += head
        outer.lines += scope.lines
        hint = self.loop_hint(first, last, body)
        self.line(f"br i1 %c.{label}, label %{label}, label %{exit_}{hint}")
        self.start_block(exit_)
        self._after_loop(always, entry, back, guard, scope.block)
        return False

    def loop_hint(self, first: Value, last: Value, body: Block) -> str:
        """What the branch back to a loop's start tells LLVM's optimiser: nothing."""
        del first, last, body
        return ""

    def _after_loop(
        self,
        always: bool,
        entry: dict[str, dict[int, tuple[int, Value]]],
        back: dict[tuple[str, int], Value],
        guard: str,
        latch: str,
    ) -> None:
        level, lines = self.level, self.scopes[-1].lines
        for name, spans in entry.items():
            cells = self.registers[name]
            if always:
                cells.relevel(level)
                continue
            # The loop may not have run: each element is what it was, or what the loop left.
            after = Cells()
            for position, (count, value) in spans.items():
                left = back[name, position]
                phi = Value(f"%{self.fresh()}", value.type, value.dtype, value.lanes, level)
                lines.append(_phi(phi, value.text, guard, left.text, latch))
                after.put(position, count, phi)
            for position, (count, value) in cells.spans.items():
                if after.overlapping(position, count):
                    continue
                phi = Value(f"%{self.fresh()}", value.type, value.dtype, value.lanes, level)
                lines.append(_phi(phi, "poison", guard, value.text, latch))
                after.put(position, count, phi)
            self.registers[name] = after

    # -------------------------------------------------------------- branches

    def scalar_branch(self, stmt: If, cond: Value, lanes: list[Lane]) -> None:
        """Emits both arms in blocks of their own; registers that either stores become phis."""
        label = self.fresh()
        stored = self.stored_names(stmt.then) | self.stored_names(stmt.orelse)
        carried = sorted(stored & self.registers.keys())
        outside = dict(self.registers)
        before = {name: self.registers[name].copy() for name in carried}
        arms: list[tuple[list[str], str, dict[str, Cells]]] = []
        bodies = ((stmt.then, f"{label}.then"), (stmt.orelse, f"{label}.else"))
        for body, block in bodies:
            self.registers = {**outside, **{n: c.copy() for n, c in before.items()}}
            self.open_scope(block, False, stored)
            self.block(body, lanes)
            scope = self.scopes[-1]
            after = {name: self.registers[name] for name in carried}
            arms.append((scope.lines, scope.block, after))
            self.close_scope()
        self.registers = outside
        merged = self._merge_arms(carried, arms)
        outer = self.scopes[-1]
        end = f"{label}.end"
        has_else = bool(arms[1][0])
        other = f"{label}.else" if has_else else end
        self.line(f"br i1 {cond.text}, label %{label}.then, label %{other}")
        sources = [arms[0][1], arms[1][1] if has_else else outer.block]
        for (lines, _, _), (_, block) in zip(arms, bodies, strict=True):
            if block == f"{label}.else" and not has_else:
                continue
            outer.lines.append(f"{block}:")
            outer.lines += lines
            outer.lines.append(f"  br label %{end}")
        self.start_block(end)
        level = self.level
        for name in carried:
            cells = Cells()
            for position, count, a, b in merged[name]:
                if a.text == b.text:
                    cells.put(position, count, a.at_level(level))
                    continue
                phi = Value(f"%{self.fresh()}", a.type, a.dtype, a.lanes, level)
                outer.lines.append(_phi(phi, a.text, sources[0], b.text, sources[1]))
                cells.put(position, count, phi)
            self.registers[name] = cells

    def _merge_arms(
        self, carried: list[str], arms: list[tuple[list[str], str, dict[str, Cells]]]
    ) -> dict[str, list[tuple[int, int, Value, Value]]]:
        """For each span after a branch, the value that each arm leaves in it.

        Where the arms cut a buffer differently, the second is read in the spans of the first;
        the instructions for that go to the end of the second arm.
        """
        merged: dict[str, list[tuple[int, int, Value, Value]]] = {}
        then, orelse = arms[0], arms[1]
        for name in carried:
            rows: list[tuple[int, int, Value, Value]] = []
            mine, other = then[2][name], orelse[2][name]
            dtype: DType = self.buffers[name].dtype
            for position, (count, value) in mine.spans.items():
                scope = self.open_scope(orelse[1], False, frozenset())
                saved = self.exposed
                self.exposed = set()
                read = self.read_span(self.buffers[name], other, position, count, value.lanes)
                self.exposed = saved
                self.close_scope()
                orelse[0].extend(scope.lines)
                rows.append((position, count, value, read))
            for position, (count, value) in other.spans.items():
                if not mine.overlapping(position, count):
                    rows.append((position, count, self.poison(dtype, value.lanes), value))
            merged[name] = rows
        return merged


def loop_range(loop: For) -> tuple[Dim, Dim]:
    """The first and last value of a loop's variable."""
    if isinstance(loop.start, int) and isinstance(loop.extent, int):
        return loop.start, loop.start + loop.extent - 1
    return loop.start, as_expr(loop.start) + loop.extent - 1


def _phi(value: Value, first: str, entry: str, next_: str, latch: str) -> str:
    """The line that gives ``value`` what the block it was reached from says."""
    return f"  {value.text} = phi {value.type} [ {first}, %{entry} ], [ {next_}, %{latch} ]"
