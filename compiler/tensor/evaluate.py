"""The value of expressions on NumPy arrays: one array operation for each node.

Variables may hold arrays, so one evaluation computes an expression at many points ("lanes") at
once. Shapes broadcast by NumPy's rule; a mask says in which lanes a value is wanted. Operations
that can fail (loads, integer division) are performed only in wanted lanes, which is how the arm
of a Select that is not taken stays unevaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from .. import dtype as dt
from ..dtype import DType
from ..errors import InternalError
from .intrinsics import reference
from .ir import Binary, Call, Cast, Const, Expr, Load, Reduce, Select, Unary, Var
from .text import text
from .walk import children, visit

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Lanes: TypeAlias = Mapping[Var, Array]
LoadFn: TypeAlias = Callable[[Load, tuple[Array, ...], Array | None], Array]
ReduceFn: TypeAlias = Callable[[Reduce, Lanes, Array | None], Array]


class InterpretError(InternalError):
    """A program did what no program may: read an undefined value, left a buffer, divided by 0."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="TW-E0914")


def evaluate(e: Expr, variables: Mapping[Var, Any]) -> Array:
    """The value of an expression without loads, for arrays (or numbers) given for its variables.

    Args:
        e: an expression over the variables.
        variables: a value for each variable, converted to the variable's type.
    """
    lanes = {v: np.asarray(x, v.dtype.numpy) for v, x in variables.items()}
    return Evaluator(_no_load, _no_reduce).value(e, lanes, None)


def _no_load(e: Load, indices: tuple[Array, ...], mask: Array | None) -> Array:
    raise InterpretError(f"evaluate: {text(e)} reads memory, and none was given")


def _no_reduce(e: Reduce, lanes: Lanes, mask: Array | None) -> Array:
    raise InterpretError(f"evaluate: {text(e)} is a reduction, which stands only in a Compute")


class Evaluator:
    """Evaluates expressions, given how to load an element and how to reduce.

    It remembers the order in which the nodes of each expression are computed, so one evaluator
    should serve a whole run.
    """

    def __init__(self, load: LoadFn, reduce: ReduceFn = _no_reduce) -> None:
        self._load = load
        self._reduce = reduce
        self._plans: dict[Expr, list[Expr]] = {}
        self._can_fail: dict[Expr, bool] = {}

    def value(self, e: Expr, lanes: Lanes, mask: Array | None) -> Array:
        """The value of ``e`` in every lane; where the mask is False it means nothing."""
        values: dict[Expr, Array] = {}
        with np.errstate(all="ignore"):
            for node in self._plan(e):
                values[node] = self._node(node, values, lanes, mask)
        return values[e]

    def _plan(self, e: Expr) -> list[Expr]:
        """The nodes in the order of computation, less the arms of Selects that may fail."""
        found = self._plans.get(e)
        if found is not None:
            return found
        for node in visit(e):
            if node not in self._can_fail:
                inside = any(self._can_fail[child] for child in children(node))
                self._can_fail[node] = inside or _may_fail(node)
        order: list[Expr] = []
        seen: set[Expr] = set()
        stack: list[tuple[Expr, bool]] = [(e, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((child, False) for child in self._eager(node))
        self._plans[e] = order
        return order

    def _eager(self, e: Expr) -> tuple[Expr, ...]:
        if isinstance(e, Reduce):
            return ()
        if isinstance(e, Select) and self._is_lazy(e):
            return (e.cond,)
        return children(e)

    def _is_lazy(self, e: Select) -> bool:
        return self._can_fail[e.a] or self._can_fail[e.b]

    def _node(
        self, e: Expr, values: Mapping[Expr, Array], lanes: Lanes, mask: Array | None
    ) -> Array:
        match e:
            case Const():
                return constant(e)
            case Var():
                found = lanes.get(e)
                if found is None:
                    raise InterpretError(f"variable {e.name} has no value here")
                return found
            case Load():
                return self._load(e, tuple(values[i] for i in e.indices), mask)
            case Unary():
                return _unary(e.op, values[e.x])
            case Binary():
                a, b = values[e.a], values[e.b]
                if _may_fail(e) and not np.all(b) and np.any(wanted(b == 0, mask)):
                    raise InterpretError(f"{text(e)}: integer division by zero")
                return binary_value(e.op, a, b)
            case Cast():
                return _cast(values[e.x], e.dtype)
            case Select():
                if self._is_lazy(e):
                    return self._lazy_select(e, values[e.cond], lanes, mask)
                return np.where(values[e.cond], values[e.a], values[e.b])
            case Call():
                return reference(e, tuple(values[a] for a in e.args))
            case Reduce():
                return self._reduce(e, lanes, mask)
        raise AssertionError(e)

    def _lazy_select(self, e: Select, cond: Array, lanes: Lanes, mask: Array | None) -> Array:
        take_a = wanted(cond, mask)
        take_b = wanted(~cond, mask)
        if not np.any(take_b):
            return self.value(e.a, lanes, mask if np.all(cond) else take_a)
        if not np.any(take_a):
            return self.value(e.b, lanes, take_b)
        a, b = self.value(e.a, lanes, take_a), self.value(e.b, lanes, take_b)
        return np.where(cond, a, b)


def _may_fail(e: Expr) -> bool:
    """Whether computing the node itself, in a lane where it is not wanted, could raise."""
    if isinstance(e, Load | Reduce):
        return True
    if not (isinstance(e, Binary) and e.op in ("div", "floordiv", "mod") and e.dtype.is_integer):
        return False
    return not (isinstance(e.b, Const) and e.b.value != 0)


def wanted(condition: Array, mask: Array | None) -> Array:
    """Where a condition holds in a wanted lane."""
    return condition if mask is None else np.logical_and(condition, mask)


def constant(e: Const) -> Array:
    """A constant as an array of no dims, rounded to its type."""
    if e.dtype.is_integer and e.dtype.kind is dt.Kind.UINT:
        return np.asarray(int(e.value) % (1 << e.dtype.bits), e.dtype.numpy)
    with np.errstate(all="ignore"):
        return np.asarray(e.value).astype(e.dtype.numpy)


def _unary(op: str, x: Array) -> Array:
    match op:
        case "neg":
            return np.asarray(np.negative(x))
        case "abs":
            return np.asarray(np.abs(x))
        case "not":
            return np.asarray(np.logical_not(x) if x.dtype == np.bool_ else np.invert(x))
    raise AssertionError(op)


def _truncating_divide(a: Array, b: Array) -> Array:
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(a / b)
    down = np.floor_divide(a, b)
    uneven = (down * b != a) & ((a < 0) != (b < 0))
    return np.asarray(down + uneven.astype(a.dtype))


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _truncating_divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def binary_value(op: str, a: Array, b: Array) -> Array:
    """The value of a binary operator on arrays of one type."""
    return np.asarray(_BINARY[op](a, b))


def _cast(x: Array, dtype: DType) -> Array:
    if dtype is dt.bool_:
        return np.asarray(x != 0)
    if dtype.is_integer and x.dtype.kind not in "iub":
        # ml_dtypes' small floats convert to integers only by way of a standard float.
        wide = x if x.dtype.kind == "f" else x.astype(np.float32)
        return wide.astype(dtype.numpy)
    return x.astype(dtype.numpy, copy=False)
