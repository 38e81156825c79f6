"""Expressions of the tensor IR to values in the current lanes."""

from __future__ import annotations

from operator import is_

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
    lt,
)
from tilewright.tensor.simplify import prove
from tilewright.tensor.walk import children, loads

from .builder import Value
from .index import Index
from .machine import Machine
from .memory import Memory


class Expressions(Memory):
    """Evaluates expressions; within one statement each is evaluated once.

    Attributes:
        ranges: inclusive ranges of the variables of the open loops.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._values: dict[Expr, Value] = {}
        self._indices: dict[Expr, Index] = {}
        self._positions: dict[Expr, tuple[list[Index | Value], Index]] = {}
        self._variables: dict[Expr, tuple[Var, ...] | None] = {}
        self._expanded: dict[Expr, Expr] = {}
        self._memory_loads: dict[Expr, tuple[Load, ...]] = {}
        self._sure: dict[Expr, dict[Expr, None]] = {}
        self._inside: dict[Load, bool] = {}
        self.ranges: dict[Var, tuple[Dim, Dim]] = {}

    def start_statement(self) -> None:
        """Forgets the values of the last statement (it may have changed what they read)."""
        self._values = {}
        self._indices = {}
        self._inside = {}

    def expanded(self, e: Expr) -> Expr:
        """The expression with calls of functions that have no instruction written out."""
        found = self._expanded.get(e)
        if found is None:
            found = self._expanded[e] = expand(e)
        return found

    def index(self, e: Dim) -> Index:
        """Evaluates an i64 expression, once in a statement."""
        if isinstance(e, int):
            return self.const_index(e)
        kind = type(e)
        if kind is Const or kind is Var:
            return super().index(e)
        found = self._indices.get(e)
        if found is None:
            found = self._indices[e] = self._index(e)
        return found

    def _index(self, e: Expr) -> Index:
        """Evaluates an i64 expression; one that reads no memory only where its variables changed.

        Equal bindings are not enough: the values of a scope that was closed are gone, and their
        bindings with them.
        """
        if e in self._variables:
            variables = self._variables[e]
        else:
            loaded = next(loads(e), None) is not None
            variables = self._variables[e] = None if loaded else tuple(self.free_vars(e))
        if variables is None:
            return super().index(e)
        env = self.env
        bound = [env[v] for v in variables]
        known = self._positions.get(e)
        if known is not None and all(map(is_, known[0], bound)):
            return known[1]
        found = super().index(e)
        self._positions[e] = (bound, found)
        return found

    def value(self, e: Expr) -> Value:
        """The value of an expression: a scalar where all lanes agree, else a vector."""
        found = self._values.get(e)
        if found is None:
            found = self.materialise(self.index(e)) if e.dtype is dt.i64 else self.compute(e)
            self._values[e] = found
        return found

    def compute(self, e: Expr) -> Value:
        """The value of an expression by its own operation (i64 sums come by ``index``)."""
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
        raise InternalError(f"{type(e).__name__}: not an expression of a Func", code="TW-E0947")

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
        if not self._pending(e.a) and not self._pending(e.b):
            return self.select(cond, self.value(e.a), self.value(e.b))
        if cond.lanes == 1 and _is_zero(e.b) and _is_converted_load(e.a):
            # The guarded load reads zeros elsewhere, and zero converts to zero.
            return self._arm(e.a, cond)
        if cond.lanes > 1 and isinstance(e.a, Load) and self._pending(e.a):
            return self._load_or(e.a, cond, self._other_arm(e.b, cond))
        # What both arms need is computed once, before them.
        for node in self._surely(e.a):
            if node in self._surely(e.b):
                self.value(node)
        a = self._arm(e.a, cond)
        return self.select(cond, a, self._other_arm(e.b, cond))

    def _other_arm(self, e: Expr, cond: Value) -> Value:
        return self._arm(e, self.invert(cond)) if self._pending(e) else self.value(e)

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
        """Whether evaluating it would perform a load that may be out of bounds."""
        found = self._memory_loads.get(e)
        if found is None:
            found = self._memory_loads[e] = tuple(loads(e))
        values, indices, registers = self._values, self._indices, self.registers
        return any(
            x.buffer.name not in registers
            and x not in values
            and x not in indices
            and not self._is_inside(x)
            for x in found
        )

    def _is_inside(self, e: Load) -> bool:
        """Whether a load is known to be within its buffer wherever the statement runs."""
        found = self._inside.get(e)
        if found is None:
            found = self._inside[e] = all(
                self._is_below(i, d) for i, d in zip(e.indices, e.buffer.shape, strict=True)
            )
        return found

    def _is_below(self, index: Expr, size: Dim) -> bool:
        if next(loads(index), None) is not None:
            return False
        lo, hi = self.bounds_of(self.index(index))
        if lo is None or lo < 0:
            return False
        if isinstance(size, int):
            return hi is not None and hi < size
        return prove(lt(index, size), self.ranges) is True

    def _surely(self, e: Expr) -> dict[Expr, None]:
        """The loads and selects that are evaluated whenever ``e`` is, inner ones first."""
        found = self._sure.get(e)
        if found is not None:
            return found
        found = {}
        match e:
            case Select():
                found.update(self._surely(e.cond))
                other = self._surely(e.b)
                found.update((x, None) for x in self._surely(e.a) if x in other)
                found[e] = None
            case _:
                for child in children(e):
                    found.update(self._surely(child))
                if isinstance(e, Load):
                    found[e] = None
        self._sure[e] = found
        return found

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
