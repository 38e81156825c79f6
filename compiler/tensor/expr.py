"""The expressions of the tensor IR: scalars over variables and elements of buffers.

Hash-consed: two expressions that are built alike are one object, so equality is identity and a
dict keyed by expressions is cheap. Dims of tensors are the same language: an ``int``, or an i64
expression over symbols (``Var`` with a range). Imported from ir.py, where the whole language is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeVar, Union
from weakref import ReferenceType, ref

from .. import dtype as dt
from ..dtype import DType

UnaryOp = Literal["neg", "not", "abs"]
BinaryOp = Literal[
    "add", "sub", "mul", "div", "floordiv", "mod", "min", "max",
    "and", "or", "xor", "shl", "shr", "eq", "ne", "lt", "le", "gt", "ge",
]  # fmt: skip
UNARY_OPS = frozenset(UnaryOp.__args__)  # type: ignore[attr-defined]
BINARY_OPS = frozenset(BinaryOp.__args__)  # type: ignore[attr-defined]
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
ReduceOp = Literal["sum", "prod", "max", "min", "argmax", "argmin"]
Scope = Literal["global", "local", "register", "shared", "fragment"]

# One entry a live expression. Entries of dead ones stay until there are many, then all go.
_TABLE: dict[tuple[object, ...], ReferenceType[Expr]] = {}
_CREATING = Lock()
_LEAST_SWEPT = 1 << 16
_swept_at = [_LEAST_SWEPT]

_E = TypeVar("_E", bound="Expr")


class Expr:
    """A pure scalar expression; two that are built alike are the same object.

    Python operators build expressions (``a + b``, ``-a``, ``a // b`` rounds down, ``a / b`` is
    the division of the type: truncating for integers). Comparisons are functions (``lt(a, b)``),
    since ``==`` must stay identity.

    Attributes:
        dtype: the type of the value.
        operands: the expressions that it is made of, in order; those of a Reduce are its body
            and the extents of its axes, and the shape of a loaded buffer is not among them.
        variables: all variables that occur anywhere, in the shapes of loaded buffers too.
        depth: the length of the longest chain of operands below it.
    """

    __slots__ = ("__weakref__", "depth", "dtype", "operands", "variables")
    dtype: DType
    depth: int
    operands: tuple[Expr, ...]
    variables: frozenset[Var]

    def __add__(self, other: Expr | int | float) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Expr | int | float) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Expr | int | float) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Expr | int | float) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Expr | int | float) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Expr | int | float) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Expr | int | float) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: Expr | int | float) -> Expr:
        return binary("div", other, self)

    def __floordiv__(self, other: Expr | int | float) -> Expr:
        return binary("floordiv", self, other)

    def __rfloordiv__(self, other: Expr | int | float) -> Expr:
        return binary("floordiv", other, self)

    def __mod__(self, other: Expr | int | float) -> Expr:
        return binary("mod", self, other)

    def __rmod__(self, other: Expr | int | float) -> Expr:
        return binary("mod", other, self)

    def __neg__(self) -> Expr:
        return Unary("neg", self)

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth value: compare with lt, eq, ... and use select")

    def __repr__(self) -> str:
        # The text form lives in tensor/text.py; this short one needs no import.
        fields = (getattr(self, s) for s in self.__slots__ if s != "_key")
        return f"{type(self).__name__}({', '.join(map(repr, fields))})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotImplementedError


_NO_VARIABLES: frozenset[Var] = frozenset()


def _keep(key: tuple[object, ...], new: _E, dtype: DType, operands: tuple[Expr, ...]) -> _E:
    """Enters a new expression; gives the one that is there if another thread was faster."""
    new.dtype = dtype
    new.operands = operands
    new.variables = _union(operands)
    new.depth = 1 + max([x.depth for x in operands], default=-1)
    return _enter(key, new)


def _enter(key: tuple[object, ...], new: _E) -> _E:
    with _CREATING:
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        _TABLE[key] = ref(new)
        if len(_TABLE) > _swept_at[0]:
            _sweep()
    return new


def _sweep() -> None:
    """Drops the entries of dead expressions; users go before their operands, which they hold."""
    keys = list(_TABLE)
    while keys:
        key = keys.pop()
        if _TABLE[key]() is None:
            del _TABLE[key]
    _swept_at[0] = max(_LEAST_SWEPT, 2 * len(_TABLE))


def _union(operands: Iterable[Dim]) -> frozenset[Var]:
    result = _NO_VARIABLES
    for x in operands:
        if isinstance(x, int):
            continue
        more = x.variables
        if more is result or not more:
            continue
        if result <= more:
            result = more
        elif not more <= result:
            result = result | more
    return result


class Const(Expr):
    """A constant, keyed by its type and bits (1, 1.0 and True differ; nan equals itself)."""

    __slots__ = ("value",)
    value: int | float | bool

    def __new__(cls, value: int | float | bool, dtype: DType = dt.i64) -> Const:
        key: object
        if dtype is dt.i64:
            key = value = int(value)
        elif dtype.is_float:
            value = float(value)
            key = struct.pack("<d", value)
        elif dtype is dt.bool_:
            key = value = bool(value)
        else:
            key = value = int(value)
        full = (cls, key, dtype.name)
        held = _TABLE.get(full)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.value = value
        return _keep(full, new, dtype, ())

    def __reduce__(self) -> tuple[Any, ...]:
        return Const, (self.value, self.dtype)


class Var(Expr):
    """A named scalar: a loop variable, a Let, or a symbolic dim (i64 with a range).

    Attributes:
        lo, hi: for a symbol the declared inclusive range (``hi`` None: no upper bound);
            loop variables take theirs from their loop and leave both None.
    """

    __slots__ = ("hi", "lo", "name")
    name: str
    lo: int | None
    hi: int | None

    def __new__(
        cls, name: str, dtype: DType = dt.i64, lo: int | None = None, hi: int | None = None
    ) -> Var:
        key = (cls, name, dtype.name, lo, hi)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.name, new.lo, new.hi = name, lo, hi
        new.dtype, new.operands, new.variables = dtype, (), frozenset((new,))
        new.depth = 0
        return _enter(key, new)

    @property
    def is_symbol(self) -> bool:
        """Whether it is a symbolic dim: a variable with a declared range."""
        return self.lo is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Var, (self.name, self.dtype, self.lo, self.hi)


Dim = Union[int, Expr]


def symbol(name: str, lo: int = 1, hi: int | None = None) -> Var:
    """Declares a symbolic dim with an inclusive range (default: at least 1)."""
    return Var(name, dt.i64, lo, hi)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A dense row-major array in memory or registers.

    Attributes:
        name: unique within a function.
        dtype, shape: the elements; dims are ints or i64 expressions over the function's symbols.
        scope: ``global`` (caller's memory or the arena), ``local`` (a thread's own scratch),
            ``register`` (constant shape and, after unrolling, constant indices: SSA values),
            ``shared`` (a GPU block's scratch), ``fragment`` (tiles, the last two dims, that the
            threads of a warp keep together in their registers, as an instruction wants them).
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    scope: Scope = "global"

    def __getitem__(self, indices: Dim | tuple[Dim, ...]) -> Load:
        if not isinstance(indices, tuple):
            indices = (indices,)
        return Load(self, indices)

    def __hash__(self) -> int:
        # Equal buffers have equal names and shapes; the rest hardly ever tells two apart.
        return hash((self.name, self.shape))


class Load(Expr):
    """The element of a buffer at an index (one i64 expression per dim)."""

    __slots__ = ("buffer", "indices")
    buffer: Buffer
    indices: tuple[Expr, ...]

    def __new__(cls, buffer: Buffer, indices: Iterable[Dim]) -> Load:
        index = tuple([i if isinstance(i, Expr) else as_expr(i) for i in indices])
        assert len(index) == len(buffer.shape), (buffer, index)
        key = (cls, buffer, index)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.buffer, new.indices = buffer, index
        new.dtype, new.operands = buffer.dtype, index
        new.variables = _union((*index, *buffer.shape))
        new.depth = 1 + max([x.depth for x in index], default=-1)
        return _enter(key, new)

    def __reduce__(self) -> tuple[Any, ...]:
        return Load, (self.buffer, self.indices)


class Unary(Expr):
    """neg, abs (numbers), not (bool: logical, integers: bitwise)."""

    __slots__ = ("op", "x")
    op: UnaryOp
    x: Expr

    def __new__(cls, op: UnaryOp, x: Expr) -> Unary:
        key = (cls, op, x)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        assert op in UNARY_OPS, op
        new = object.__new__(cls)
        new.op, new.x = op, x
        return _keep(key, new, x.dtype, (x,))

    def __reduce__(self) -> tuple[Any, ...]:
        return Unary, (self.op, self.x)


class Binary(Expr):
    """A binary operation on two operands of one type.

    ``div`` is IEEE division, or truncating division of integers; ``floordiv`` and ``mod`` round
    down (Python's rule) for integers, and are unsigned for unsigned. ``min``/``max`` of floats
    return nan if either is nan. Integer arithmetic wraps. ``shr`` is arithmetic when signed.
    ``and or xor`` are bitwise (logical on bool). Comparisons give bool.
    """

    __slots__ = ("a", "b", "op")
    op: BinaryOp
    a: Expr
    b: Expr

    def __new__(cls, op: BinaryOp, a: Expr, b: Expr) -> Binary:
        key = (cls, op, a, b)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        assert op in BINARY_OPS, op
        assert a.dtype is b.dtype, (op, a.dtype, b.dtype)
        new = object.__new__(cls)
        new.op, new.a, new.b = op, a, b
        return _keep(key, new, dt.bool_ if op in COMPARISONS else a.dtype, (a, b))

    def __reduce__(self) -> tuple[Any, ...]:
        return Binary, (self.op, self.a, self.b)


class Cast(Expr):
    """A conversion by value: float to int truncates, int to int wraps, to bool is ``!= 0``."""

    __slots__ = ("x",)
    x: Expr

    def __new__(cls, x: Expr, dtype: DType) -> Cast:
        key = (cls, x, dtype.name)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.x = x
        return _keep(key, new, dtype, (x,))

    def __reduce__(self) -> tuple[Any, ...]:
        return Cast, (self.x, self.dtype)


class Select(Expr):
    """``a`` where the bool ``cond`` holds, else ``b``.

    A load inside the arm that is not taken is not performed: ``select(inside, X[i], 0)`` is the
    form of padding, and is safe where ``i`` is out of bounds.
    """

    __slots__ = ("a", "b", "cond")
    cond: Expr
    a: Expr
    b: Expr

    def __new__(cls, cond: Expr, a: Expr, b: Expr) -> Select:
        key = (cls, cond, a, b)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        assert cond.dtype is dt.bool_, cond.dtype
        assert a.dtype is b.dtype, (a.dtype, b.dtype)
        new = object.__new__(cls)
        new.cond, new.a, new.b = cond, a, b
        return _keep(key, new, a.dtype, (cond, a, b))

    def __reduce__(self) -> tuple[Any, ...]:
        return Select, (self.cond, self.a, self.b)


class Call(Expr):
    """A named scalar function: ``exp log tanh erf sigmoid sin cos pow sqrt fma floor bitcast ...``.

    The table of names, arities and NumPy references is tensor/intrinsics.py.
    """

    __slots__ = ("args", "name")
    name: str
    args: tuple[Expr, ...]

    def __new__(cls, name: str, args: Iterable[Expr], dtype: DType) -> Call:
        arguments = tuple(args)
        key = (cls, name, arguments, dtype.name)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.name, new.args = name, arguments
        return _keep(key, new, dtype, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.name, self.args, self.dtype)


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis: a variable that runs over ``0 <= var < extent``."""

    var: Var
    extent: Dim


class Reduce(Expr):
    """The reduction of ``body`` over ``axes``; stands only in a Compute, never in a Func.

    ``argmax``/``argmin`` give the i64 position along their one axis, first occurrence wins
    (``last`` in the op's lowering is expressed by reversing the axis); nan compares as greatest.
    """

    __slots__ = ("axes", "body", "op")
    op: ReduceOp
    axes: tuple[Axis, ...]
    body: Expr

    def __new__(cls, op: ReduceOp, axes: Iterable[Axis], body: Expr) -> Reduce:
        over = tuple(axes)
        key = (cls, op, over, body)
        held = _TABLE.get(key)
        found = None if held is None else held()
        if found is not None:
            return found  # type: ignore[return-value]
        new = object.__new__(cls)
        new.op, new.axes, new.body = op, over, body
        dtype = dt.i64 if op in ("argmax", "argmin") else body.dtype
        return _keep(key, new, dtype, (body, *(as_expr(a.extent) for a in over)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduce, (self.op, self.axes, self.body)


# ------------------------------------------------------------------ building expressions

_MOST_INTEGERS = 1 << 13
_INTEGERS: dict[int, Const] = {}


def as_expr(value: Expr | int | float | bool, dtype: DType = dt.i64) -> Expr:
    """Turns a Python number into a constant of ``dtype``; expressions pass through."""
    if isinstance(value, Expr):
        return value
    if dtype is dt.i64 and type(value) is int:
        # Most constants are small sizes and steps; they are kept.
        known = _INTEGERS.get(value)
        if known is None:
            known = Const(value)
            if -_MOST_INTEGERS < value < _MOST_INTEGERS:
                _INTEGERS[value] = known
        return known
    return Const(value, dtype)


def binary(op: BinaryOp, a: Expr | int | float, b: Expr | int | float) -> Expr:
    """Builds a binary operation; a Python number takes the other operand's type."""
    if not isinstance(a, Expr):
        assert isinstance(b, Expr)
        a = as_expr(a, b.dtype)
    elif not isinstance(b, Expr):
        b = as_expr(b, a.dtype)
    return Binary(op, a, b)


def lt(a: Expr | int, b: Expr | int) -> Expr:
    """``a < b`` as a bool expression."""
    return binary("lt", a, b)


def le(a: Expr | int, b: Expr | int) -> Expr:
    """``a <= b`` as a bool expression."""
    return binary("le", a, b)


def eq(a: Expr | int, b: Expr | int) -> Expr:
    """``a == b`` as a bool expression."""
    return binary("eq", a, b)


def minimum(a: Expr | int | float, b: Expr | int | float) -> Expr:
    """The smaller of two values (nan if either is nan)."""
    return binary("min", a, b)


def maximum(a: Expr | int | float, b: Expr | int | float) -> Expr:
    """The larger of two values (nan if either is nan)."""
    return binary("max", a, b)


def conjunction(conditions: Iterable[Expr]) -> Expr:
    """The logical and of bool expressions (True for none)."""
    result: Expr | None = None
    for condition in conditions:
        result = condition if result is None else Binary("and", result, condition)
    return Const(True, dt.bool_) if result is None else result
