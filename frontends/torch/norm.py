"""Converters of ATen's normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, product

from .context import Context, Converter
from .reduce import count, moments


def _normal(ctx: Context, x: Value, axes: Sequence[int], eps: float) -> tuple[Value, Value, Value]:
    """``(x - mean) / sqrt(var + eps)`` over axes, the mean, and one over the deviation."""
    centre, variance = moments(ctx, x, axes)
    deviation = ctx.op("sqrt", ctx.op("add", variance, eps))
    normal = ctx.op("div", ctx.op("sub", x, centre), deviation)
    return normal, centre, ctx.op("div", ctx.scalar(1, x.dtype), deviation)


def _affine(ctx: Context, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = ctx.op("mul", x, ctx.cast(weight, x.dtype))
    return x if bias is None else ctx.op("add", x, ctx.cast(bias, x.dtype))


def _per_channel(ctx: Context, vector: Value | None, rank: int) -> Value | None:
    return None if vector is None else ctx.along(vector, rank, 1)


def layer_norm(
    ctx: Context,
    x: Value,
    shape: Sequence[Dim],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, ...]:
    """x normalised over its last axes, scaled and shifted; the mean; one over the deviation."""
    rank = len(x.shape)
    wide = ctx.widened(x)
    normal, centre, inverse = _normal(ctx, wide, range(rank - len(shape), rank), eps)
    y = ctx.cast(_affine(ctx, normal, weight, bias), x.dtype)
    return y, *(_statistic(ctx, i, v) for i, v in enumerate((centre, inverse), 1))


def _statistic(ctx: Context, index: int, value: Value) -> Value:
    if index not in ctx.wanted:
        return value
    wanted = ctx.result(index)
    return ctx.reshape(ctx.cast(value, wanted.dtype), wanted.shape)


def rms_norm(
    ctx: Context, x: Value, shape: Sequence[Dim], weight: Value | None, eps: float | None
) -> tuple[Value, ...]:
    """x over the root of the mean of its squares over its last axes; one over that root."""
    rank = len(x.shape)
    axes = range(rank - len(shape), rank)
    wide = ctx.widened(x)
    total = ctx.reduce(ctx.op("mul", wide, wide), "sum", axes, keepdims=True)
    square = ctx.op("div", total, count(ctx, x, axes, wide.dtype))
    # torch's default is the distance from 1 to the next number of the computed type.
    least = 2.0 ** -(23 if wide.dtype.bits == 32 else 52) if eps is None else eps
    root = ctx.op("sqrt", ctx.op("add", square, least))
    y = ctx.cast(_affine(ctx, ctx.op("div", wide, root), weight, None), x.dtype)
    return y, _statistic(ctx, 1, ctx.op("div", ctx.scalar(1, wide.dtype), root))


def group_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: Dim,
    c: Dim,
    area: Dim,
    groups: int,
    eps: float,
) -> tuple[Value, ...]:
    """x normalised over groups of channels, scaled and shifted by channel; mean; 1 / deviation."""
    del area
    wide = ctx.widened(x)
    # One axis for all of a group: a row, which one kernel normalises.
    per_group = product((dim(as_expr(c) // groups), *x.shape[2:]))
    grouped = ctx.reshape(wide, (n, groups, per_group))
    normal, centre, inverse = _normal(ctx, grouped, (2,), eps)
    rank = len(x.shape)
    scale, shift = (_per_channel(ctx, v, rank) for v in (weight, bias))
    y = ctx.cast(_affine(ctx, ctx.reshape(normal, x.shape), scale, shift), x.dtype)
    return y, *(_statistic(ctx, i, v) for i, v in enumerate((centre, inverse), 1))


def batch_norm(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    """x by the running statistics of its channels, stated as ``x * s + t``."""
    del momentum
    wide = ctx.widened(x)
    dtype, rank = wide.dtype, len(x.shape)
    centre, spread = ctx.cast(mean, dtype), ctx.cast(variance, dtype)
    one = ctx.scalar(1, dtype) if weight is None else ctx.cast(weight, dtype)
    scale = ctx.op("div", one, ctx.op("sqrt", ctx.op("add", spread, eps)))
    shift = ctx.op("neg", ctx.op("mul", centre, scale))
    if bias is not None:
        shift = ctx.op("sub", ctx.cast(bias, dtype), ctx.op("mul", centre, scale))
    y = ctx.op("mul", wide, ctx.along(scale, rank, 1))
    empty = (ctx.full((0,), 0, r.dtype) if r is not None else None for r in ctx.results[1:])
    return ctx.cast(ctx.op("add", y, ctx.along(shift, rank, 1)), x.dtype), *empty


def batch_norm_no_stats(
    ctx: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, ...]:
    """x by the statistics of this batch, as instance normalisation uses it."""
    del training, momentum
    wide = ctx.widened(x)
    rank = len(x.shape)
    normal, centre, inverse = _normal(ctx, wide, (0, *range(2, rank)), eps)
    scale, shift = (_per_channel(ctx, v, rank) for v in (weight, bias))
    y = ctx.cast(_affine(ctx, normal, scale, shift), x.dtype)
    return y, *(_statistic(ctx, i, v) for i, v in enumerate((centre, inverse), 1))


CONVERTERS: dict[str, Converter] = {
    "_fused_rms_norm.default": rms_norm,
    "_native_batch_norm_legit.no_stats": batch_norm_no_stats,
    "_native_batch_norm_legit_no_training.default": batch_norm,
    "native_group_norm.default": group_norm,
    "native_layer_norm.default": layer_norm,
}
