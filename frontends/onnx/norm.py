"""Converters of ONNX's softmax family and of normalisations by statistics of one element."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import as_expr
from tilewright.tensor.simplify import dim, product, same_dim

from .context import Context, Converter
from .nn import average, moments, widened
from .node import NodeView
from .windows import per_channel

# ------------------------------------------------------------------ softmax


def softmax_over(ctx: Context, x: Value, axes: Sequence[int]) -> Value:
    """``exp(x - max) / sum``, in the type of ``x``."""
    shifted = ctx.op("sub", x, ctx.reduce(x, "max", axes, keepdims=True))
    grown = ctx.op("exp", shifted)
    return ctx.op("div", grown, ctx.reduce(grown, "sum", axes, keepdims=True))


def log_softmax_over(ctx: Context, x: Value, axes: Sequence[int]) -> Value:
    """``x - max - log(sum(exp(x - max)))``."""
    shifted = ctx.op("sub", x, ctx.reduce(x, "max", axes, keepdims=True))
    total = ctx.reduce(ctx.op("exp", shifted), "sum", axes, keepdims=True)
    return ctx.op("sub", shifted, ctx.op("log", total))


def _softmax_axes(ctx: Context, node: NodeView, x: Value) -> tuple[int, ...]:
    """One axis from opset 13 on; before, all axes from ``axis`` on as if they were one."""
    rank = len(x.shape)
    if ctx.opset >= 13:
        return (ctx.axis(node.int("axis", -1), rank),)
    axis = node.int("axis", 1)
    if axis == rank:
        # Rows of one element: the standard lets the axis stand behind the last one.
        return ()
    return tuple(range(ctx.axis(axis, rank), rank))


def softmax(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Non-negative numbers that sum up to 1, in proportion to the exponentials.

    Halves are rounded after every step, as the standard's own definition of the operator says.
    """
    x = node.input(0)
    return (softmax_over(ctx, x, _softmax_axes(ctx, node, x)),)


def log_softmax(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The logarithm of softmax, computed without leaving the logarithms."""
    x = node.input(0)
    axes = _softmax_axes(ctx, node, x)
    return (ctx.cast(log_softmax_over(ctx, widened(ctx, x), axes), x.dtype),)


def hardmax(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """1 at the first maximum, 0 elsewhere."""
    x = node.input(0)
    axes = _softmax_axes(ctx, node, x)
    if not axes:
        return (ctx.full(x.shape, 1, x.dtype),)
    kept = x.shape[: axes[0]]
    flat = x if len(axes) == 1 else ctx.reshape(x, (*kept, product(x.shape[axes[0] :])))
    axis = axes[0]
    first = ctx.op("argreduce", flat, op="max", axis=axis, keepdims=True, last=False)
    extent = flat.shape[axis]
    places = ctx.op("iota", shape=(extent,), axis=0, dtype=dt.i64)
    places = per_channel(ctx, places, len(flat.shape), axis)
    return (ctx.reshape(ctx.cast(ctx.op("eq", places, first), x.dtype), x.shape),)


# ------------------------------------------------------------------ over the last axes


def layer_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Normalises by mean and variance over the axes from ``axis`` on, then scales and shifts."""
    x = node.input(0)
    stash = node.dtype("stash_type", dt.f32)
    y, mean, inverse = normalized(
        ctx, x, node.input(1), node.optional(2), node.float("epsilon", 1e-5), node.int("axis", -1)
    )
    return y, ctx.cast(mean, stash), ctx.cast(inverse, stash)


def normalized(
    ctx: Context, x: Value, scale: Value, bias: Value | None, epsilon: float, axis: int = -1
) -> tuple[Value, Value, Value]:
    """Layer normalisation: (the result, the means, the inverse deviations)."""
    rank = len(x.shape)
    axes = range(ctx.axis(axis, rank), rank)
    wide = widened(ctx, x)
    mean = average(ctx, wide, axes)
    centred = ctx.op("sub", wide, mean)
    var = average(ctx, ctx.op("mul", centred, centred), axes)
    inverse = ctx.op("div", _one(ctx, wide), ctx.op("sqrt", ctx.op("add", var, epsilon)))
    y = ctx.op("mul", ctx.op("mul", centred, inverse), ctx.cast(scale, wide.dtype))
    if bias is not None:
        y = ctx.op("add", y, ctx.cast(bias, wide.dtype))
    return ctx.cast(y, x.dtype), mean, inverse


def _one(ctx: Context, like: Value) -> Value:
    return ctx.literal(1, like.dtype)


def rms_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Divides by the root mean square over the axes from ``axis`` on, then scales."""
    x, scale = node.input(0), node.input(1)
    y, inverse = rms_normalized(ctx, x, scale, node.float("epsilon", 1e-5), node.int("axis", -1))
    return y, inverse


def rms_normalized(
    ctx: Context, x: Value, scale: Value, epsilon: float, axis: int = -1
) -> tuple[Value, Value]:
    """Root-mean-square normalisation: (the result, the inverse root mean squares)."""
    rank = len(x.shape)
    axes = range(ctx.axis(axis, rank), rank)
    wide = widened(ctx, x)
    square = average(ctx, ctx.op("mul", wide, wide), axes)
    inverse = ctx.op("div", _one(ctx, wide), ctx.op("sqrt", ctx.op("add", square, epsilon)))
    y = ctx.op("mul", ctx.op("mul", wide, inverse), ctx.cast(scale, wide.dtype))
    return ctx.cast(y, x.dtype), inverse


def group_normalization(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Normalises groups of channels by their common mean and variance.

    Up to opset 20 scale and bias hold one number per group, from 21 on one per channel.
    """
    x, scale, bias = (node.input(i) for i in range(3))
    rank = len(x.shape)
    if rank < 2:
        node.broken(f"needs an input of rank 2 or more, got rank {rank}")
    groups = node.int("num_groups")
    channels = x.shape[1]
    if groups < 1 or not same_dim(dim(as_expr(channels) % groups), 0):
        node.broken(f"{groups} groups do not divide {channels} channels")
    wide = widened(ctx, x)
    inner = dim(as_expr(channels) // groups)
    grouped = ctx.reshape(wide, (x.shape[0], groups, product((inner, *x.shape[2:]))))
    mean, var = moments(ctx, grouped, (2,))
    deviation = ctx.op("sqrt", ctx.op("add", var, node.float("epsilon", 1e-5)))
    normal = ctx.op("div", ctx.op("sub", grouped, mean), deviation)
    s, b = ctx.cast(scale, wide.dtype), ctx.cast(bias, wide.dtype)
    if ctx.opset < 21:
        return (ctx.cast(ctx.reshape(_affine(ctx, normal, s, b), x.shape), x.dtype),)
    return (ctx.cast(_affine(ctx, ctx.reshape(normal, x.shape), s, b), x.dtype),)


def _affine(ctx: Context, x: Value, scale: Value, bias: Value) -> Value:
    """``x * scale + bias`` with one number per entry of axis 1."""
    rank = len(x.shape)
    scaled = ctx.op("mul", x, per_channel(ctx, scale, rank))
    return ctx.op("add", scaled, per_channel(ctx, bias, rank))


# ------------------------------------------------------------------ over named axes


def mean_variance_normalization(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``(x - mean) / (deviation + 1e-9)`` over ``axes``."""
    x = node.input(0)
    axes = ctx.axes(node.ints("axes") or (0, 2, 3), len(x.shape))
    wide = widened(ctx, x)
    mean, var = moments(ctx, wide, axes)
    deviation = ctx.op("add", ctx.op("sqrt", var), 1e-9)
    return (ctx.cast(ctx.op("div", ctx.op("sub", wide, mean), deviation), x.dtype),)


def lp_normalization(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Divides by the 1-norm or the 2-norm along an axis; a row of zeros stays zero."""
    x = node.input(0)
    axis = ctx.axis(node.int("axis", -1), len(x.shape))
    wide = widened(ctx, x)
    match node.int("p", 2):
        case 1:
            norm = ctx.reduce(ctx.op("abs", wide), "sum", (axis,), keepdims=True)
        case 2:
            squares = ctx.reduce(ctx.op("mul", wide, wide), "sum", (axis,), keepdims=True)
            norm = ctx.op("sqrt", squares)
        case other:
            node.broken(f"p must be 1 or 2, got {other}")
    safe = ctx.op("where", ctx.op("eq", norm, 0.0), _one(ctx, wide), norm)
    return (ctx.cast(ctx.op("div", wide, safe), x.dtype),)


CONVERTERS: dict[str, Converter] = {
    "GroupNormalization": group_normalization,
    "Hardmax": hardmax,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "Softmax": softmax,
}
