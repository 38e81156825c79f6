"""Statements: loops with their phis, branches, vector chunks, reductions and stores."""

from __future__ import annotations

from dataclasses import dataclass, field

from tilewright import dtype as dt
from tilewright.dtype import DType, Kind
from tilewright.errors import InternalError
from tilewright.tensor.ir import (
    Alloc,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    If,
    Let,
    Load,
    Prefetch,
    Select,
    Store,
    Var,
    as_expr,
)
from tilewright.tensor.walk import statements

from .address import Form, Index
from .builder import Pointer, Value
from .expressions import Expressions
from .machine import Machine
from .registers import Cells
from .types import memory_type

_REDUCTIONS = frozenset({"add", "mul", "min", "max", "and", "or", "xor"})


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


@dataclass(slots=True)
class StoreFacts:
    """What is known of a Store wherever it is emitted.

    Attributes:
        form: its flat position. value: with calls expanded.
        old: the load of the element it replaces.
        op, rest: ``value`` is ``op(old, rest)``, else None.
        factors: ``rest`` is their product and may be contracted to a fused multiply-add.
    """

    form: Form
    value: Expr
    old: Load
    op: BinaryOp | None = None
    rest: Expr | None = None
    factors: tuple[Expr, Expr] | None = None


@dataclass(slots=True)
class Pending:
    """A reduction over lanes of which some chunks have been evaluated."""

    store: Store
    facts: StoreFacts
    at: Index
    parts: list[Value]


class Statements(Expressions):
    """Emits statements into the open scopes."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._facts: dict[int, StoreFacts] = {}
        self._structured: dict[int, bool] = {}
        self._stored: dict[int, frozenset[str]] = {}
        self._pending_sums: dict[object, Pending] = {}
        self._deferring = False
        self._lane_vars: set[Var] = set()
        self._allocated: dict[str, Pointer] = {}
        self._constant_vars: set[Var] = set()
        self.buffers: dict[str, Buffer] = {}
        self.symbolic_registers: frozenset[str] = frozenset()

    # -------------------------------------------------------------- blocks

    def run(self, body: Block) -> None:
        """Emits statements as scalar code."""
        self.block(body, [Lane(1, 1)])

    def enter(self, lane: Lane) -> None:
        """Makes a chunk the current one, at the start of a statement."""
        self.width, self.active, self.mask = lane.width, lane.active, lane.mask
        if lane.env:
            self.env.update(lane.env)
        self.start_statement()

    def block(self, body: Block, lanes: list[Lane]) -> None:
        """Emits statements for all chunks: chunk by chunk where no loop or branch is inside."""
        if len(lanes) > 1 and not self._is_structured(body):
            outermost = not self._deferring
            self._deferring = True
            for lane in lanes:
                self.block(body, [lane])
            if outermost:
                self._deferring = False
                self._finish_reductions()
            return
        for stmt in body:
            match stmt:
                case Store():
                    for lane in lanes:
                        self.enter(lane)
                        self._store(stmt)
                    if self._pending_sums and not self._deferring:
                        self._finish_reductions()
                case Prefetch():
                    for lane in lanes:
                        self.enter(lane)
                        self._prefetch(stmt)
                case For():
                    self._loop(stmt, lanes)
                case If():
                    self._branch(stmt, lanes)
                case Let():
                    for lane in lanes:
                        self.enter(lane)
                        self._let(stmt, lane)
                case Alloc():
                    self._declare(stmt.buffer)

    def _is_structured(self, body: Block) -> bool:
        """Whether emitting the body starts new basic blocks (a loop or a scalar branch)."""
        found = self._structured.get(id(body))
        if found is None:
            found = self._structured[id(body)] = any(
                (isinstance(s, For) and s.kind not in ("unroll", "vector"))
                or (isinstance(s, If) and not self._depends_on_lane(s.cond))
                for s in statements(body)
            )
        return found

    def _depends_on_lane(self, e: Expr) -> bool:
        return not self._lane_vars.isdisjoint(self.free_vars(e))

    def _let(self, stmt: Let, lane: Lane) -> None:
        value = self.expanded(stmt.value)
        bound: Index | Value
        bound = self.index(value) if stmt.var.dtype is dt.i64 else self.value(value)
        self.env[stmt.var] = lane.env[stmt.var] = bound

    def _declare(self, buffer: Buffer) -> None:
        self.buffers[buffer.name] = buffer
        if buffer.scope == "register" and buffer.name not in self.symbolic_registers:
            self.registers[buffer.name] = Cells()
            return
        self.aligned.add(buffer.name)
        found = self._allocated.get(buffer.name)
        if found is None:
            found = self._allocated[buffer.name] = self._allocate(buffer)
        self.bases[buffer.name] = found
        self.forget(buffer.name)

    def _allocate(self, buffer: Buffer) -> Pointer:
        """Stack space in the function's entry, for the whole function."""
        self.start_statement()
        elements = self.const_index(1)
        for dim in buffer.shape:
            elements = self.multiply(elements, self.index(dim))
        count = self.materialise(elements)
        name = f"%{self.fresh()}"
        type_ = memory_type(buffer.dtype)
        text = f"  {name} = alloca {type_}, i64 {count.text}, align 64"
        if count.const is not None:
            self.prologue.append(text)
        else:
            assert count.level == 0, buffer.name
            self.scopes[0].lines.append(text)
        return Pointer(name, 0)

    # -------------------------------------------------------------- stores

    def _store_facts(self, stmt: Store) -> StoreFacts:
        found = self._facts.get(id(stmt))
        if found is not None:
            return found
        value = self.expanded(stmt.value)
        old = Load(stmt.buffer, stmt.indices)
        facts = StoreFacts(self.load_form(old), value, old)
        if isinstance(value, Binary) and value.op in _REDUCTIONS:
            rest = value.b if value.a is old else value.a if value.b is old else None
            if rest is not None:
                facts.op, facts.rest = value.op, rest
            product = isinstance(rest, Binary) and rest.op == "mul" and value.op == "add"
            if product and value.dtype.kind is Kind.FLOAT and value.dtype.bits >= 32:
                assert isinstance(rest, Binary)
                facts.factors = (rest.a, rest.b)
        self._facts[id(stmt)] = facts
        return facts

    def _store(self, stmt: Store) -> None:
        facts = self._store_facts(stmt)
        at = self.evaluate(facts.form)
        if self.width > 1 and at.is_uniform:
            self._store_uniform(stmt, facts, at)
            return
        if facts.factors is not None:
            a, b = facts.factors
            if self._is_zero(a) or self._is_zero(b):
                # acc + select(false, x, 0) * w: padding contributes nothing.
                return
            cells = self.registers.get(stmt.buffer.name)
            if cells is None:
                old = self.load(facts.old)
            else:
                old = self.read_register(stmt.buffer, cells, at)
            value = self.contract(self.value(a), self.value(b), old)
        else:
            value = self.value(facts.value)
        self.store_at(stmt.buffer, at, value)

    def _prefetch(self, stmt: Prefetch) -> None:
        """One hint for each chunk: a chunk of 16 f32 is a cache line."""
        at = self.evaluate(self.flat_form(stmt.buffer.shape, stmt.indices))
        pointer = self.locate(self.bases[stmt.buffer.name], stmt.buffer.dtype.bytes, at)
        self.line(f"call void @llvm.prefetch.p0(ptr {pointer.text}, i32 0, i32 3, i32 1)")

    def _is_zero(self, e: Expr) -> bool:
        if not isinstance(e, Select):
            return False
        cond = self.value(e.cond)
        if cond.const is None:
            return False
        chosen = e.a if cond.const else e.b
        return isinstance(chosen, Const) and chosen.value == 0

    def contract(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c for an accumulation, fused where the machine can."""
        if self.machine.fma:
            return self.fma(a, b, c)
        return self.binary("add", self.binary("mul", a, b), c)

    # -------------------------------------------------------------- reductions over lanes

    def _store_uniform(self, stmt: Store, facts: StoreFacts, at: Index) -> None:
        if facts.op is None or facts.rest is None:
            value = self.value(facts.value)
            self.store_at(stmt.buffer, at, value)
            return
        key = (id(stmt), at.const, at.terms)
        pending = self._pending_sums.get(key)
        if pending is None:
            pending = self._pending_sums[key] = Pending(stmt, facts, at, [])
        mask = self.memory_mask()
        parts = pending.parts
        if facts.factors is not None and mask is None:
            if any(self._is_zero(f) for f in facts.factors):
                return
            a, b = (self.splat(self.value(f), self.width) for f in facts.factors)
            if parts and parts[-1].lanes == self.width:
                parts[-1] = self.contract(a, b, parts[-1])
            else:
                parts.append(self.binary("mul", a, b))
            return
        part = self.splat(self.value(facts.rest), self.width)
        if mask is not None:
            neutral = self.like(_identity(facts.op, part.dtype), part)
            part = self.select(mask, part, neutral)
        if parts and parts[-1].lanes == part.lanes:
            parts[-1] = self.binary(facts.op, parts[-1], part)
        else:
            parts.append(part)

    def _finish_reductions(self) -> None:
        pending, self._pending_sums = self._pending_sums, {}
        for one in pending.values():
            if not one.parts:
                continue
            self.width, self.active, self.mask = 1, 1, None
            self.start_statement()
            assert one.facts.op is not None
            total = self._reduce_lanes(one.facts.op, one.parts)
            if total.dtype is not one.store.buffer.dtype:
                total = self.convert(total, one.store.buffer.dtype)
            buffer = one.store.buffer
            cells = self.registers.get(buffer.name)
            if cells is not None:
                old = self.read_register(buffer, cells, one.at)
            else:
                old = self._load_at(buffer, one.at, None)
            self.store_at(buffer, one.at, self.binary(one.facts.op, old, total))

    def _reduce_lanes(self, op: BinaryOp, parts: list[Value]) -> Value:
        """Combines vectors and then their halves until one element is left."""
        queue = sorted(parts, key=lambda v: -v.lanes)
        total = queue[0]
        for part in [*queue[1:], None]:
            lanes = 1 if part is None else part.lanes
            while total.lanes > lanes:
                half = total.lanes // 2
                low = self.shuffle(total, None, list(range(half)))
                high = self.shuffle(total, None, list(range(half, 2 * half)))
                total = self.binary(op, low, high)
            if part is not None:
                total = self.binary(op, total, part)
        return total

    # -------------------------------------------------------------- loops

    def _loop(self, stmt: For, lanes: list[Lane]) -> None:
        self.enter(lanes[0])
        extent, start = self.index(stmt.extent), self.index(stmt.start)
        self.ranges[stmt.var] = loop_range(stmt)
        if stmt.kind == "vector":
            self._vector_loop(stmt, start, extent, lanes)
            return
        if extent.is_const and extent.const <= 0:
            return
        if stmt.kind == "unroll":
            if not extent.is_const:
                raise InternalError(
                    f"{stmt.var.name}: an unrolled loop has a symbolic extent",
                    code="TW-E0915",
                )
            for i in range(extent.const):
                self.env[stmt.var] = self.add(start, self.const_index(i))
                self.block(stmt.body, lanes)
            return
        if extent.is_const and extent.const == 1:
            self.env[stmt.var] = start
            self.block(stmt.body, lanes)
            return
        self.serial_loop(stmt.var, start, extent, stmt.body, lanes)

    def _vector_loop(self, stmt: For, start: Index, extent: Index, lanes: list[Lane]) -> None:
        if not extent.is_const or len(lanes) != 1 or lanes[0].width != 1:
            raise InternalError(
                f"{stmt.var.name}: a vector loop needs a constant extent and no vector loop "
                "around it",
                code="TW-E0916",
            )
        outer = lanes[0]
        chunks: list[Lane] = []
        for base, width, active in self._chunks(extent.const):
            position = Index(start.const + base, 1, start.terms)
            if width == 1:
                position = self.add(start, self.const_index(base))
            chunks.append(Lane(width, active, {**outer.env, stmt.var: position}))
        added = {stmt.var}
        for inner in statements(stmt.body):
            if isinstance(inner, Let) and not added.isdisjoint(self.free_vars(inner.value)):
                added.add(inner.var)
        self._lane_vars |= added
        self.block(stmt.body, chunks)
        self._lane_vars -= added
        self.enter(outer)

    def _chunks(self, extent: int) -> list[tuple[int, int, int]]:
        """(base, width, existing lanes) of the register-wide pieces of a vector loop.

        A rest is one partial piece where masked memory operations are cheap, else pieces of
        power-of-two widths.
        """
        full = self.machine.lanes
        pieces = [(base, full, full) for base in range(0, extent - full + 1, full)]
        base = len(pieces) * full
        rest = extent - base
        while rest:
            width = 1 << (rest.bit_length() - 1)
            if width != rest and self.machine.masked:
                pieces.append((base, 2 * width, rest))
                break
            pieces.append((base, width, width))
            base, rest = base + width, rest - width
        return pieces

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
        self.line(f"br i1 %c.{label}, label %{label}, label %{exit_}")
        self.start_block(exit_)
        self._after_loop(always, entry, back, guard, scope.block)
        return False

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

    def _branch(self, stmt: If, lanes: list[Lane]) -> None:
        cond = self.expanded(stmt.cond)
        if self._depends_on_lane(cond):
            self._masked_branch(stmt, cond, lanes)
            return
        self.enter(lanes[0])
        value = self.value(cond)
        if value.const is not None:
            self.block(stmt.then if value.const else stmt.orelse, lanes)
            return
        self._scalar_branch(stmt, value, lanes)

    def _masked_branch(self, stmt: If, cond: Expr, lanes: list[Lane]) -> None:
        then: list[Lane] = []
        orelse: list[Lane] = []
        # The mask of a one-lane chunk is a branch.
        single: list[tuple[Lane, Value]] = []
        for lane in lanes:
            self.enter(lane)
            value = self.value(cond)
            if lane.width == 1 and value.const is None:
                single.append((lane, value))
                continue
            for arm, chosen in ((then, value), (orelse, self.invert(value))):
                if chosen.const is not False:
                    arm.append(lane.under(self.both(lane.mask, chosen)))
        for body, arm in ((stmt.then, then), (stmt.orelse, orelse)):
            if body and arm:
                self.block(body, arm)
        for lane, value in single:
            self.enter(lane)
            self._scalar_branch(stmt, value, [lane])

    def _scalar_branch(self, stmt: If, cond: Value, lanes: list[Lane]) -> None:
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


def _identity(op: BinaryOp, dtype: DType) -> int | float | bool:
    """The element that leaves the other operand of ``op`` as it is."""
    match op:
        case "add":
            return -0.0 if dtype.is_float else 0
        case "mul":
            return 1
        case "max":
            return dtype.lowest
        case "min":
            return dtype.highest
        case "and":
            return True if dtype is dt.bool_ else -1
        case _:
            return 0
