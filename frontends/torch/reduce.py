"""Converters of ATen's reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, maximum
from tilewright.tensor.simplify import dim, product, same_dim

from .context import Context, Converter

Dims = int | Sequence[int] | None


def _total(
    ctx: Context, op: str, x: Value, dims: Dims, keepdim: bool, dtype: DType | None = None
) -> Value:
    """A sum or product in a type; torch sums integers and bools in i64."""
    wide = ctx.cast(x, dtype or ctx.dtype)
    return ctx.reduce(wide, op, ctx.axes(dims, len(x.shape)), keepdim)


def sum_(
    ctx: Context, x: Value, dims: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    """The sum over axes."""
    return _total(ctx, "sum", x, dims, keepdim, dtype)


def prod(
    ctx: Context, x: Value, dims: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    """The product over axes."""
    return _total(ctx, "prod", x, dims, keepdim, dtype)


def count(ctx: Context, x: Value, axes: Sequence[int], dtype: DType) -> Value:
    """The number of elements that a reduction over axes takes, as a scalar."""
    return ctx.scalar(product(x.shape[a] for a in axes), dtype)


def mean(
    ctx: Context, x: Value, dims: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Value:
    """The mean over axes."""
    del dtype
    wide = ctx.widened(ctx.cast(x, ctx.dtype))
    axes = ctx.axes(dims, len(x.shape))
    total = ctx.reduce(wide, "sum", axes, keepdim)
    return ctx.cast(ctx.op("div", total, count(ctx, x, axes, wide.dtype)), ctx.dtype)


def moments(
    ctx: Context, x: Value, axes: Sequence[int], correction: float = 0
) -> tuple[Value, Value]:
    """Mean and variance over axes, which stay with extent 1.

    The divisor of the variance is the count less the correction, at least 0.
    """
    number = count(ctx, x, axes, x.dtype)
    centre = ctx.op("div", ctx.reduce(x, "sum", axes, keepdims=True), number)
    apart = ctx.op("sub", x, centre)
    squares = ctx.reduce(ctx.op("mul", apart, apart), "sum", axes, keepdims=True)
    if correction:
        number = ctx.op("max", ctx.op("sub", number, correction), 0)
    return centre, ctx.op("div", squares, number)


def _spread(
    ctx: Context, x: Value, dims: Dims, correction: float | None, keepdim: bool, rooted: bool
) -> tuple[Value, Value]:
    """Variance, or its root, and mean over axes.

    In f64, as torch's are: numbers far from zero that lie close together, and numbers whose
    squares leave the range of f32, have a variance too.
    """
    axes = ctx.axes(dims, len(x.shape))
    wide = ctx.cast(x, dt.f64)
    centre, found = moments(ctx, wide, axes, 1 if correction is None else correction)
    if rooted:
        found = ctx.op("sqrt", found)
    if not keepdim:
        rest = [d for i, d in enumerate(x.shape) if i not in axes]
        centre, found = ctx.reshape(centre, rest), ctx.reshape(found, rest)
    return ctx.cast(found, x.dtype), ctx.cast(centre, x.dtype)


def _deviation(rooted: bool, with_mean: bool) -> Converter:
    """The variance over axes, or the standard deviation, and the mean where it is asked for."""

    def convert(
        ctx: Context,
        x: Value,
        dims: Dims = None,
        *,
        correction: float | None = None,
        keepdim: bool = False,
    ) -> Value | tuple[Value, Value]:
        found = _spread(ctx, x, dims, correction, keepdim, rooted)
        return found if with_mean else found[0]

    return convert


def var_dim(
    ctx: Context, x: Value, dims: Dims, unbiased: bool = True, keepdim: bool = False
) -> Value:
    """The variance over axes, of a sample or of everything."""
    return _spread(ctx, x, dims, int(unbiased), keepdim, rooted=False)[0]


def vector_norm(
    ctx: Context,
    x: Value,
    order: float = 2,
    dims: Dims = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Value:
    """The p-norm over axes: of order 0 how many are not zero, of infinite order the extreme."""
    del dtype
    wide = ctx.widened(ctx.cast(x, ctx.dtype))
    axes = ctx.axes(dims, len(x.shape))
    size = ctx.op("abs", wide)
    match float(order):
        case 0.0:
            found = ctx.reduce(ctx.cast(ctx.op("ne", wide, 0), wide.dtype), "sum", axes, keepdim)
        case 1.0:
            found = ctx.reduce(size, "sum", axes, keepdim)
        case 2.0:
            found = ctx.op("sqrt", ctx.reduce(ctx.op("mul", wide, wide), "sum", axes, keepdim))
        case math.inf:
            found = ctx.reduce(size, "max", axes, keepdim)
        case power if power == -math.inf:
            found = ctx.reduce(size, "min", axes, keepdim)
        case power:
            total = ctx.reduce(ctx.op("pow", size, power), "sum", axes, keepdim)
            found = ctx.op("pow", total, 1 / power)
    return ctx.cast(found, ctx.dtype)


# ------------------------------------------------------------------ extremes


def _extreme(op: str) -> Converter:
    def convert(ctx: Context, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
        return ctx.reduce(x, op, ctx.axes(dims, len(x.shape)), keepdim)

    return convert


def _extreme_along(op: str) -> Converter:
    """The extreme of one axis and the place of the first that attains it."""

    def convert(
        ctx: Context, x: Value, axis: int, keepdim: bool = False
    ) -> tuple[Value, Value | None]:
        if not x.shape:
            return x, ctx.scalar(0, dt.i64)
        axis %= len(x.shape)
        values = ctx.reduce(x, op, (axis,), keepdim)
        if 1 not in ctx.wanted:
            return values, None
        place = ctx.op("argreduce", x, op=op, axis=axis, keepdims=keepdim, last=False)
        return values, place

    return convert


def _place(op: str) -> Converter:
    """The place of the first extreme of an axis, or of all elements."""

    def convert(ctx: Context, x: Value, axis: int | None = None, keepdim: bool = False) -> Value:
        if not x.shape:
            return ctx.scalar(0, dt.i64)
        if axis is None:
            flat = ctx.reshape(x, (product(x.shape),))
            found = ctx.op("argreduce", flat, op=op, axis=0, keepdims=False, last=False)
            return ctx.reshape(found, ctx.shape)
        axis %= len(x.shape)
        return ctx.op("argreduce", x, op=op, axis=axis, keepdims=keepdim, last=False)

    return convert


def _truth(op: str) -> Converter:
    """Whether any (max) or all (min) elements are not zero; u8 stays u8."""

    def convert(ctx: Context, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
        holds = ctx.cast(x, dt.bool_)
        return ctx.cast(ctx.reduce(holds, op, ctx.axes(dims, len(x.shape)), keepdim), ctx.dtype)

    return convert


# ------------------------------------------------------------------ softmax


def softmax(ctx: Context, x: Value, axis: int, half_to_float: bool = False) -> Value:
    """``exp(x - max)`` over its sum along an axis."""
    del half_to_float
    if not x.shape:
        return ctx.full((), 1, ctx.dtype)
    grown, total = _exponentials(ctx, ctx.widened(x), axis % len(x.shape))[1:]
    return ctx.cast(ctx.op("div", grown, total), ctx.dtype)


def log_softmax(ctx: Context, x: Value, axis: int, half_to_float: bool = False) -> Value:
    """``x - max - log(sum(exp(x - max)))`` along an axis."""
    del half_to_float
    if not x.shape:
        return ctx.full((), 0, ctx.dtype)
    apart, _, total = _exponentials(ctx, ctx.widened(x), axis % len(x.shape))
    return ctx.cast(ctx.op("sub", apart, ctx.op("log", total)), ctx.dtype)


def _exponentials(ctx: Context, x: Value, axis: int) -> tuple[Value, Value, Value]:
    apart = ctx.op("sub", x, ctx.reduce(x, "max", (axis,), keepdims=True))
    grown = ctx.op("exp", apart)
    return apart, grown, ctx.reduce(grown, "sum", (axis,), keepdims=True)


def safe_softmax(ctx: Context, x: Value, axis: int, dtype: DType | None = None) -> Value:
    """Softmax along an axis; a row of minus infinity alone gives zeros."""
    return ctx.cast(
        open_softmax(ctx, ctx.widened(ctx.cast(x, dtype or x.dtype)), axis % len(x.shape)),
        ctx.dtype,
    )


def open_softmax(ctx: Context, x: Value, axis: int) -> Value:
    """Softmax along an axis, with zeros for a row of minus infinity alone."""
    top = ctx.reduce(x, "max", (axis,), keepdims=True)
    zero, one = ctx.scalar(0, x.dtype), ctx.scalar(1, x.dtype)
    top = ctx.op("where", ctx.op("eq", top, -float("inf")), zero, top)
    grown = ctx.op("exp", ctx.op("sub", x, top))
    total = ctx.reduce(grown, "sum", (axis,), keepdims=True)
    return ctx.op("div", grown, ctx.op("where", ctx.op("eq", total, 0), one, total))


# ------------------------------------------------------------------ adaptive means


def adaptive_mean(ctx: Context, x: Value, sizes: Sequence[Dim]) -> Value:
    """Means over windows that cut the last axes into so many overlapping parts."""
    rank = len(x.shape)
    first = rank - len(sizes)
    result = ctx.widened(x)
    if all(same_dim(s, 1) for s in sizes):
        axes = range(first, rank)
        total = ctx.reduce(result, "sum", axes, keepdims=True)
        return ctx.cast(ctx.op("div", total, count(ctx, x, axes, result.dtype)), x.dtype)
    for axis, size in enumerate(sizes, first):
        result = _cut_mean(ctx, result, axis, size)
    return ctx.cast(result, x.dtype)


def _cut_mean(ctx: Context, x: Value, axis: int, size: Dim) -> Value:
    extent = x.shape[axis]
    if same_dim(extent, size):
        return x
    parts = dim(as_expr(extent) // maximum(as_expr(size), 1))
    if same_dim(dim(as_expr(parts) * size), extent):
        cut = ctx.reshape(x, (*x.shape[:axis], size, parts, *x.shape[axis + 1 :]))
        total = ctx.reduce(cut, "sum", (axis + 1,))
        return ctx.op("div", total, ctx.scalar(parts, x.dtype))
    old, new = ctx.ints((extent, size), "sizes of an adaptive pool that does not divide")
    last = len(x.shape) - 1
    order = [d for d in range(len(x.shape)) if d != axis] + [axis]
    rows = ctx.transpose(x, order)
    result = ctx.op("matmul", rows, ctx.literal(_windows(old, new).astype(x.dtype.numpy)))
    back = [*range(axis), last, *range(axis, last)]
    return ctx.transpose(result, back)


def _windows(old: int, new: int) -> np.ndarray:
    """The matrix [old, new] whose columns average windows from i*old//new on."""
    matrix = np.zeros((old, new))
    for i in range(new):
        start, end = i * old // new, -(-(i + 1) * old // new)
        matrix[start:end, i] = 1 / (end - start)
    return matrix


CONVERTERS: dict[str, Converter] = {
    **{f"_adaptive_avg_pool{n}d.default": adaptive_mean for n in (2, 3)},
    **{f"all.{kind}": _truth("min") for kind in ("default", "dim", "dims")},
    **{f"any.{kind}": _truth("max") for kind in ("default", "dim", "dims")},
    "_log_softmax.default": log_softmax,
    "_safe_softmax.default": safe_softmax,
    "_softmax.default": softmax,
    "adaptive_avg_pool1d.default": adaptive_mean,
    "amax.default": _extreme("max"),
    "amin.default": _extreme("min"),
    "argmax.default": _place("max"),
    "argmin.default": _place("min"),
    "linalg_vector_norm.default": vector_norm,
    "max.default": _extreme("max"),
    "max.dim": _extreme_along("max"),
    "mean.default": mean,
    "mean.dim": mean,
    "min.default": _extreme("min"),
    "min.dim": _extreme_along("min"),
    "prod.default": prod,
    "prod.dim_int": prod,
    "std.correction": _deviation(rooted=True, with_mean=False),
    "std_mean.correction": _deviation(rooted=True, with_mean=True),
    "sum.default": sum_,
    "sum.dim_IntList": sum_,
    "var.correction": _deviation(rooted=False, with_mean=False),
    "var.dim": var_dim,
    "var_mean.correction": _deviation(rooted=False, with_mean=True),
}
