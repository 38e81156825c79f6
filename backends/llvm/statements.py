"""Statements: vector loops in chunks, stores, masks and reductions over lanes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    Expr,
    For,
    If,
    Let,
    Load,
    Prefetch,
    Select,
    Store,
    Var,
)
from tilewright.tensor.walk import statements

from .builder import Pointer, Value
from .control import Lane, loop_range
from .index import Form, Index
from .interleave import REGISTERS, interleave
from .machine import Machine
from .registers import Cells
from .rows import Rows
from .types import memory_type

_REDUCTIONS = frozenset({"add", "mul", "min", "max", "and", "or", "xor"})


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


class Statements(Rows):
    """Emits statements into the open scopes.

    Attributes:
        symbolic_registers: names of register buffers that are kept in memory.
        outline: emits a parallel loop as a call; None: there they are serial.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._facts: dict[int, StoreFacts] = {}
        self._structured: dict[int, bool] = {}
        self._varying: dict[int, set[Var]] = {}
        self._pending_sums: dict[object, Pending] = {}
        self._deferring = False
        self._lane_vars: set[Var] = set()
        self._allocated: dict[str, Pointer] = {}
        self._constant_vars: set[Var] = set()
        self.symbolic_registers: frozenset[str] = frozenset()
        self.outline: Callable[[For], None] | None = None

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
            if self._is_long(body):
                self._side_by_side(body, lanes)
            else:
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

    def _side_by_side(self, body: Block, lanes: list[Lane]) -> None:
        """Emits straight code that is long for several chunks at a time, in turns."""
        count = max(1, self.machine.registers // REGISTERS)
        scope = self.scopes[-1]
        for start in range(0, len(lanes), count):
            begin, chains = len(scope.lines), list[list[str]]()
            for lane in lanes[start : start + count]:
                before = len(scope.lines)
                self.block(body, [lane])
                chains.append(scope.lines[before:])
            # Guarded loads of machines without masks are branches.
            if not any(line.endswith(":") for chain in chains for line in chain):
                scope.lines[begin:] = interleave(chains)

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
        self.streaming = stmt.streamed and stmt.buffer.name in self.aligned
        self.store_at(stmt.buffer, at, value)
        self.streaming = False

    def _prefetch(self, stmt: Prefetch) -> None:
        """One hint for each chunk: a chunk of 16 f32 is a cache line."""
        at = self.evaluate(self.load_form(Load(stmt.buffer, stmt.indices)))
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
        if stmt.kind == "parallel" and self.outline is not None:
            self.outline(stmt)
            return
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
                    code="TW-E0944",
                )
            if self.looped(stmt, start, extent, lanes):
                return
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
                code="TW-E0945",
            )
        outer = lanes[0]
        chunks: list[Lane] = []
        for base, width, active in self._chunks(extent.const):
            position = Index(start.const + base, 1, start.terms)
            if width == 1:
                position = self.add(start, self.const_index(base))
            chunks.append(Lane(width, active, {**outer.env, stmt.var: position}))
        added = self._varying_in(stmt)
        self._lane_vars |= added
        self.block(stmt.body, chunks)
        self._lane_vars -= added
        self.enter(outer)

    def _varying_in(self, loop: For) -> set[Var]:
        """The variable of a vector loop and the Lets that depend on it."""
        found = self._varying.get(id(loop))
        if found is None:
            found = self._varying[id(loop)] = {loop.var}
            for inner in statements(loop.body):
                if isinstance(inner, Let) and not found.isdisjoint(self.free_vars(inner.value)):
                    found.add(inner.var)
        return found

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
        self.scalar_branch(stmt, value, lanes)

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
            if value.const is not False:
                then.append(lane.under(self.both(lane.mask, value)))
            if stmt.orelse and value.const is not True:
                orelse.append(lane.under(self.both(lane.mask, self.invert(value))))
        for body, arm in ((stmt.then, then), (stmt.orelse, orelse)):
            if body and arm:
                self.block(body, arm)
        for lane, value in single:
            self.enter(lane)
            self.scalar_branch(stmt, value, [lane])


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
