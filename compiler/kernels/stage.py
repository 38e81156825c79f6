"""Stages: arrays of a kernel, each element of which is stated by one expression.

    tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))

The parameters of the functions are the axes. An axis that is an index by itself somewhere runs
over the dim that it indexes there; ``shape=`` and ``over=`` say it where none is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.ops.op import dim_text, shape_text
from tilewright.ops.reduce import accumulator
from tilewright.tensor.ir import (
    Axis,
    Buffer,
    Cast,
    Dim,
    Expr,
    Load,
    Reduce,
    ReduceOp,
    Unary,
    Var,
    as_expr,
    le,
)
from tilewright.tensor.simplify import dim, prove, same_dim
from tilewright.tensor.walk import free_vars, visit

from .bounds import check_reads
from .scalar import Scalar, as_scalar, index_of, plain, stem, wrong

Extent = int | Scalar
_NUMBERS = count(1)
"""Tells axes and arrays of equal names apart while they are stated; the text shows the names."""


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """What one call of ``compute`` says.

    Attributes:
        axes: of its arrays, in order.
        values: one expression for each array.
        name: what the user calls it, or "".
    """

    axes: tuple[Axis, ...]
    values: tuple[Expr, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Source(Buffer):
    """The buffer of an array, which leads from a load back to what is loaded.

    Attributes:
        definition: how its elements come about; None for a parameter.
        position: which of the definition's values it holds.
    """

    definition: Definition | None = field(default=None, compare=False, repr=False)
    position: int = field(default=0, compare=False)

    def __hash__(self) -> int:
        return hash(self.name)


class Array:
    """An array of a kernel: a parameter, or what ``compute`` states; indexing gives a scalar.

    Attributes:
        source: what stands for it in expressions.
    """

    __slots__ = ("source",)

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        """The dims: integers and scalars."""
        return tuple(as_scalar(d) for d in self.source.shape)

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self.source.shape)

    def __getitem__(self, indices: Any) -> Scalar:
        given = indices if isinstance(indices, tuple) else (indices,)
        shape = self.source.shape
        if len(given) != len(shape):
            raise wrong(f"{self}: {len(given)} indices for {len(shape)} dims", "TW-E0265")
        places: list[Expr] = []
        for x, extent in zip(given, shape, strict=True):
            if isinstance(x, slice | Array) or x is None or x is Ellipsis:
                kind = type(x).__name__
                raise wrong(f"{self}: a {kind} is no index of one element", "TW-E0265")
            # As everywhere in Python, the number -1 is the last.
            last = type(x) is int and x < 0
            places.append(as_expr(dim(as_expr(extent) + x)) if last else index_of(x, str(self)))
        return Scalar(Load(self.source, places))

    def __iter__(self) -> Iterator[Any]:
        raise wrong(f"{self}: elements are read by index, over axes", "TW-E0265")

    def __bool__(self) -> bool:
        raise wrong(f"{self}: an array has no truth value", "TW-E0263")

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise wrong(
            f"{self}: functions take its elements, as in tw.compute(lambda i: np.exp(x[i]))",
            "TW-E0265",
        )

    __array_function__ = __array_ufunc__

    def __str__(self) -> str:
        name = stem(self.source.name)
        return f"{name}: {self.dtype}{shape_text(self.source.shape)}"

    def __repr__(self) -> str:
        return f"Array({self})"


def parameter(name: str, dtype: DType, shape: tuple[Dim, ...]) -> Array:
    """An operand of the kernel that is being stated."""
    return Array(Source(f"{name}.{next(_NUMBERS)}", dtype, shape))


# ------------------------------------------------------------------ what users call


def compute(
    function: Callable[..., Any], shape: Sequence[Extent] | None = None, name: str = ""
) -> Any:
    """The array whose element at each index is ``function(*index)``.

    Args:
        function: from scalars, one for each dim, to a scalar, or to a tuple for as many arrays.
        shape: the sizes; by default each axis runs over the dim that it indexes by itself.
        name: what the text forms call it.

    Returns:
        An array, or a tuple of them.

    Raises:
        ModelError: a size is not known (TW-E0266), a read may lie outside its array (TW-E0267),
            the function gives no scalars (TW-E0261).
    """
    names = _parameters(function, "compute")
    axes = [_fresh(n) for n in names]
    result = function(*map(Scalar, axes))
    several = isinstance(result, tuple)
    values = [_value(r, "compute") for r in (result if several else (result,))]
    ranges = _axes("compute", axes, values, shape)
    for e in values:
        strange = sorted(stem(v.name) for v in free_vars(e) - {*axes} if "." in v.name)
        if strange:
            raise wrong(f"compute: the axis {strange[0]} belongs to another stage", "TW-E0266")
        check_reads(ranges, e)
    made = Definition(ranges, tuple(values), name)
    extents = tuple(a.extent for a in ranges)
    arrays = tuple(
        Array(Source(f"{name or 't'}.{next(_NUMBERS)}", e.dtype, extents, "global", made, k))
        for k, e in enumerate(values)
    )
    return arrays if several else arrays[0]


def sum(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:  # noqa: A001
    """The sum of ``function(*index)`` over all indices; sums of f16 and bf16 are kept in f32."""
    return _reduce("sum", function, over)


def prod(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:
    """The product of ``function(*index)`` over all indices; of f16 and bf16 it is kept in f32."""
    return _reduce("prod", function, over)


def max(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:  # noqa: A001
    """The greatest ``function(*index)`` over all indices; nan if one is nan; any of bool."""
    return _reduce("max", function, over)


def min(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:  # noqa: A001
    """The least ``function(*index)`` over all indices; nan if one is nan; all of bool."""
    return _reduce("min", function, over)


def argmax(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:
    """The first index at which ``function`` of one index is greatest, as i64; nan is greatest."""
    return _position("argmax", function, over)


def argmin(function: Callable[..., Any], over: Sequence[Extent] | None = None) -> Scalar:
    """The first index at which ``function`` of one index is least, as i64; nan is least."""
    return _position("argmin", function, over)


# ------------------------------------------------------------------ reductions


def _reduce(op: ReduceOp, function: Callable[..., Any], over: Sequence[Extent] | None) -> Scalar:
    axes, body = _body(op, function, over)
    own = body.dtype
    if own is dt.bool_ and op in ("sum", "prod"):
        raise wrong(f"{op} of bool: convert it with astype first", "TW-E0262")
    wide = dt.u8 if own is dt.bool_ else accumulator(own) if op in ("sum", "prod") else own
    if wide is own:
        return Scalar(Reduce(op, axes, body))
    return Scalar(Cast(Reduce(op, axes, Cast(body, wide)), own))


def _position(op: ReduceOp, function: Callable[..., Any], over: Sequence[Extent] | None) -> Scalar:
    axes, body = _body(op, function, over)
    if len(axes) != 1:
        raise wrong(f"{op}: its function has {len(axes)} parameters; there is one index of the"
                    " result", "TW-E0266")  # fmt: skip
    if body.dtype is dt.bool_:
        body = Cast(body, dt.u8)
    if op == "argmin" and body.dtype.is_float:
        # nan compares as greatest in a Reduce; a minimum must find it, too.
        return Scalar(Reduce("argmax", axes, Unary("neg", body)))
    return Scalar(Reduce(op, axes, body))


def _body(
    op: str, function: Callable[..., Any], over: Sequence[Extent] | None
) -> tuple[tuple[Axis, ...], Expr]:
    axes = [_fresh(n) for n in _parameters(function, op)]
    if not axes:
        raise wrong(f"{op}: its function has no parameter to run over", "TW-E0266")
    body = _value(function(*map(Scalar, axes)), op)
    return _axes(op, axes, [body], over), body


# ------------------------------------------------------------------ axes


def _fresh(name: str) -> Var:
    return Var(f"{name}.{next(_NUMBERS)}")


def _parameters(function: Callable[..., Any], who: str) -> list[str]:
    if not callable(function):
        raise wrong(
            f"{who}: takes a function of indices, not {type(function).__name__}", "TW-E0261"
        )
    found = inspect.signature(function).parameters.values()
    if any(p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in found):
        raise wrong(f"{who}: the parameters of its function are axes, without * and defaults",
                    "TW-E0266")  # fmt: skip
    return [p.name for p in found]


def _value(result: Any, who: str) -> Expr:
    if isinstance(result, np.generic):
        return Scalar.of(result).expr
    if not isinstance(result, Scalar):
        raise wrong(f"{who}: its function gives {type(result).__name__}, not a scalar with a dtype"
                    " (of numbers, np.float32(0) is one)", "TW-E0261")  # fmt: skip
    return result.expr


def _axes(
    who: str, axes: Sequence[Var], values: Sequence[Expr], extents: Sequence[Extent] | None
) -> tuple[Axis, ...]:
    if extents is None:
        return tuple(Axis(v, _indexed(who, v, values)) for v in axes)
    if len(extents) != len(axes):
        names = ", ".join(stem(v.name) for v in axes)
        raise wrong(f"{who}: {len(extents)} sizes for {len(axes)} axes ({names})", "TW-E0266")
    return tuple(Axis(v, _extent(who, v, x)) for v, x in zip(axes, extents, strict=True))


def _extent(who: str, axis: Var, given: Extent) -> Dim:
    size = dim(index_of(given, who))
    shown = f"{who}: the size {dim_text(dim(plain(as_expr(size))))} of {stem(axis.name)}"
    if not isinstance(size, int) and not all(
        isinstance(x, Var) and x.is_symbol for x in visit(size) if not x.operands and x.variables
    ):
        raise wrong(f"{shown} is not made of dims alone", "TW-E0266")
    if not isinstance(size, int) and any(isinstance(x, Load) for x in visit(size)):
        raise wrong(f"{shown} is not made of dims alone", "TW-E0266")
    if prove(le(1, as_expr(size))) is not True:
        raise wrong(f"{shown} may be less than 1; narrow the dims with dim_ranges=", "TW-E0266")
    return size


def _indexed(who: str, axis: Var, values: Sequence[Expr]) -> Dim:
    """The dim that an axis indexes by itself."""
    found: list[tuple[Dim, Buffer]] = []
    for e in values:
        for load in visit(e):
            if isinstance(load, Load):
                dims = zip(load.indices, load.buffer.shape, strict=True)
                found += [(d, load.buffer) for i, d in dims if i is axis]
    name = stem(axis.name)
    if not found:
        raise wrong(f"{who}: {name} is no index by itself, which would tell its size; give"
                    f" {'shape' if who == 'compute' else 'over'}=", "TW-E0266")  # fmt: skip
    size, first = found[0]
    for other, buffer in found[1:]:
        if not same_dim(size, other):
            raise wrong(
                f"{who}: {name} runs over {dim_text(size)} in {stem(first.name)} and"
                f" over {dim_text(other)} in {stem(buffer.name)}; name both dims alike,"
                f" or give {'shape' if who == 'compute' else 'over'}=",
                "TW-E0266",
            )
    return size
