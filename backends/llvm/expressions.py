"""Expressions of the tensor IR to values in the current lanes."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.errors import InternalError
from tilewright.tensor.intrinsics import expand
from tilewright.tensor.ir import (
    COMPARISONS,
    Binary,
    Call,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Select,
    Unary,
    Var,
)
from tilewright.tensor.walk import loads

from .address import Index
from .builder import Value
from .machine import Machine
from .memory import Memory


class Expressions(Memory):
    """Evaluates expressions; within one statement each is evaluated once."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._values: dict[Expr, Value] = {}
        self._indices: dict[Expr, Index] = {}
        self._expanded: dict[Expr, Expr] = {}
        self._memory_loads: dict[Expr, tuple[Load, ...]] = {}

    def start_statement(self) -> None:
        """Forgets the values of the last statement (it may have changed what they read)."""
        self._values = {}
        self._indices = {}

    def expanded(self, e: Expr) -> Expr:
        """The expression with calls of functions that have no instruction written out."""
        found = self._expanded.get(e)
        if found is None:
            found = self._expanded[e] = expand(e)
        return found

    def index(self, e: Dim) -> Index:
        if isinstance(e, int):
            return self.const_index(e)
        kind = type(e)
        if kind is Const or kind is Var:
            return super().index(e)
        found = self._indices.get(e)
        if found is None:
            found = self._indices[e] = super().index(e)
        return found

    def value(self, e: Expr) -> Value:
        """The value of an expression: a scalar where all lanes agree, else a vector."""
        found = self._values.get(e)
        if found is None:
            found = self.materialise(self.index(e)) if e.dtype is dt.i64 else self.compute(e)
            self._values[e] = found
        return found

    def compute(self, e: Expr) -> Value:
        match e:
            case Const():
                return self.constant(e.value, e.dtype)
            case Var():
                bound = self.env[e]
                return self.materialise(bound) if isinstance(bound, Index) else bound
            case Load():
                return self.load(e)
            case Binary():
                if e.op in COMPARISONS and e.a.dtype is dt.i64:
                    return self._compare(e)
                return self.binary(e.op, self.value(e.a), self.value(e.b))
            case Unary():
                return self.unary(e.op, self.value(e.x))
            case Cast():
                return self.convert(self.value(e.x), e.dtype)
            case Select():
                return self._select(e)
            case Call():
                return self.call(e.name, [self.value(a) for a in e.args], e.dtype)
        raise InternalError(f"{type(e).__name__}: not an expression of a Func", code="TW-E0910")

    def _compare(self, e: Binary) -> Value:
        a, b = self.index(e.a), self.index(e.b)
        if self._is_position(a) and self._is_position(b):
            return self.compare(e.op, a, b)
        return self.binary(e.op, self.materialise(a), self.materialise(b))

    def _is_position(self, a: Index) -> bool:
        """Whether it is made of loop variables and sizes, which do not overflow when rearranged."""
        return all(v.lo is not None for m, _ in a.terms for v in m)

    # -------------------------------------------------------------- select

    def _select(self, e: Select) -> Value:
        cond = self.value(e.cond)
        if cond.const is not None:
            return self.value(e.a if cond.const else e.b)
        if cond.lanes == 1 and _is_zero(e.b) and self._pending(e.a) and _is_converted_load(e.a):
            # The guarded load reads zeros elsewhere, and zero converts to zero.
            return self._arm(e.a, cond)
        if cond.lanes > 1 and isinstance(e.a, Load) and self._pending(e.a):
            other = self._arm(e.b, self.invert(cond))
            return self._load_or(e.a, cond, other)
        a = self._arm(e.a, cond)
        b = self._arm(e.b, self.invert(cond)) if self._pending(e.b) else self.value(e.b)
        return self.select(cond, a, b)

    def _load_or(self, e: Load, cond: Value, other: Value) -> Value:
        saved = self.mask
        self.mask = self.both(self.mask, cond)
        value = self.load(e, other)
        self.mask = saved
        # A load that is the same in all lanes is a scalar, and so is one of a register.
        if value.lanes == 1 or e.buffer.name in self.registers or value.text == "poison":
            return self.select(cond, value, other)
        return value

    def _pending(self, e: Expr) -> bool:
        """Whether evaluating it would load from memory what has not been loaded yet."""
        found = self._memory_loads.get(e)
        if found is None:
            found = self._memory_loads[e] = tuple(loads(e))
        values, indices, registers = self._values, self._indices, self.registers
        return any(
            x.buffer.name not in registers and x not in values and x not in indices for x in found
        )

    def _arm(self, e: Expr, cond: Value) -> Value:
        """An arm of a select: its loads are performed only where ``cond`` holds."""
        if not self._pending(e):
            return self.value(e)
        saved = self.mask, self.guard, self._values, self._indices
        if cond.lanes > 1:
            self.mask = self.both(self.mask, cond)
        else:
            self.guard = self.both(self.guard, cond)
        # What was computed without the condition stays valid under it, but not the other way.
        self._values, self._indices = dict(self._values), dict(self._indices)
        value = self.value(e)
        self.mask, self.guard, self._values, self._indices = saved
        return value


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and str(e.value) in ("0", "0.0", "False")


def _is_converted_load(e: Expr) -> bool:
    while isinstance(e, Cast):
        e = e.x
    return isinstance(e, Load)
