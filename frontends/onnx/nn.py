"""Converters of ONNX's convolutions, batch statistics and dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from .context import Context, Converter
from .node import NodeView
from .windows import (
    auto_pad,
    channels_first,
    channels_last,
    explicit_pads,
    image,
    per_channel,
    positive_ints,
    read_windows,
    spans,
    split_padding,
)

_HALVES = (dt.f16, dt.bf16)
# Above so many entries a table of places is too large to build while importing.
_MOST_ENTRIES = 1 << 22


def widened(ctx: Context, x: Value) -> Value:
    """``x`` in the type that statistics are computed in: f16 and bf16 become f32."""
    return ctx.cast(x, dt.f32) if x.dtype in _HALVES else x


# ------------------------------------------------------------------ convolution


def conv(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Convolution of [N, C, *spatial] by weights [M, C/group, *kernel], plus a bias per channel."""
    x = image(ctx, node)
    return (convolve(ctx, node, x, node.input(1), node.optional(2)),)


def convolve(ctx: Context, node: NodeView, x: Value, weight: Value, bias: Value | None) -> Value:
    """The convolution that a node's attributes describe, of other operands than its own."""
    kernel = _kernel(ctx, node, x, weight)
    windows = read_windows(ctx, node, x.shape[2:], kernel)
    rank = len(x.shape)
    result = ctx.op(
        "conv",
        channels_last(ctx, x),
        ctx.transpose(weight, (*range(2, rank), 1, 0)),
        strides=windows.strides,
        lo=windows.lo,
        hi=windows.hi,
        dilations=windows.dilations,
        groups=node.int("group", 1),
        wide=bias is not None,
    )
    return channels_first(ctx, _with_bias(ctx, node, result, bias, x.dtype))


def _kernel(ctx: Context, node: NodeView, x: Value, weight: Value) -> tuple[int, ...]:
    if len(weight.shape) != len(x.shape):
        node.broken(f"weights of rank {len(weight.shape)} for an input of rank {len(x.shape)}")
    kernel = tuple(k for k in weight.shape[2:] if isinstance(k, int))
    if len(kernel) != len(weight.shape) - 2:
        ctx.unsupported("weights of a symbolic kernel size")
    given = node.ints("kernel_shape")
    if given is not None and given != kernel:
        node.broken(f"kernel_shape {given} but weights of {kernel}")
    return kernel


def _with_bias(ctx: Context, node: NodeView, x: Value, bias: Value | None, dtype: DType) -> Value:
    """Adds a vector along the last axis of what a wide product gave, and rounds."""
    if bias is None:
        return x
    if len(bias.shape) != 1 or not same_dim(bias.shape[0], x.shape[-1]):
        node.broken(f"a bias of shape {bias.shape} for {x.shape[-1]} output channels")
    if bias.dtype is not dtype:
        node.broken(f"a bias of {bias.dtype.name} for products of {dtype.name}")
    return ctx.cast(ctx.op("add", x, ctx.cast(bias, x.dtype)), dtype)


def conv_transpose(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The transpose of a convolution: every input element adds a scaled kernel to the output.

    Computed as a convolution of stride 1 over the input with ``stride - 1`` zeros between its
    elements, by the kernel turned around.
    """
    x, weight = image(ctx, node), node.input(1)
    kernel = _kernel(ctx, node, x, weight)
    rank = len(kernel)
    groups = node.int("group", 1)
    strides = positive_ints(node, "strides", rank)
    dilations = positive_ints(node, "dilations", rank)
    outer = spans(kernel, dilations)
    extra = node.ints("output_padding") or (0,) * rank
    if len(extra) != rank or min(extra) < 0:
        node.broken(f"output_padding must be {rank} numbers of 0 or more, got {extra}")
    before, after = _transposed_pads(ctx, node, x.shape[2:], strides, outer, extra)
    flipped = _transposed_weight(ctx, node, weight, groups)
    source = channels_last(ctx, x)
    plain = all(p == 0 for p in (*before, *after, *extra))
    bias = node.optional(2)
    wide = bias is not None
    if plain and groups == 1 and strides == outer == kernel:
        result = _scattered_blocks(ctx, source, weight, kernel, wide)
    else:
        # Room for the kernel to overhang, less the padding that the forward convolution had.
        lo = [dim(as_expr(s - 1) - b) for s, b in zip(outer, before, strict=True)]
        hi = [dim(as_expr(s - 1 + e) - a) for s, a, e in zip(outer, after, extra, strict=True)]
        source = _stretched(ctx, source, strides, lo, hi)
        ones, zeros = (1,) * rank, (0,) * rank
        result = ctx.op(
            "conv", source, flipped,
            strides=ones, lo=zeros, hi=zeros, dilations=dilations, groups=groups, wide=wide,
        )  # fmt: skip
    return (channels_first(ctx, _with_bias(ctx, node, result, bias, x.dtype)),)


def _transposed_pads(
    ctx: Context,
    node: NodeView,
    spatial: Sequence[Dim],
    strides: Sequence[int],
    outer: Sequence[int],
    extra: Sequence[int],
) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Padding before and after, given or derived from the output's shape."""
    rank = len(strides)
    mode = auto_pad(node)
    wanted = node.ints("output_shape")
    if wanted is None and mode == "NOTSET":
        return explicit_pads(ctx, node, rank)
    if wanted is None and mode == "VALID":
        return (0,) * rank, (0,) * rank
    sizes: Sequence[Dim]
    if wanted is None:
        sizes = [dim(as_expr(d) * s) for d, s in zip(spatial, strides, strict=True)]
    else:
        if len(wanted) not in (rank, rank + 2):
            node.broken(f"output_shape must be {rank} numbers, got {wanted}")
        sizes = wanted[-rank:]
    before: list[Dim] = []
    after: list[Dim] = []
    for size, extent, stride, span, more in zip(sizes, spatial, strides, outer, extra, strict=True):
        total = dim((as_expr(extent) - 1) * stride + more + span - size)
        if not isinstance(total, int):
            ctx.unsupported("padding derived from a symbolic output shape")
        if total == -1:
            # One element that the kernel does not reach stands after all others.
            before.append(0)
            after.append(-1)
            continue
        if total < -1:
            ctx.unsupported(f"an output of {size} elements, more than the kernel reaches")
        first, last = split_padding(total, mode == "SAME_UPPER")
        before.append(first)
        after.append(last)
    return tuple(before), tuple(after)


def _transposed_weight(ctx: Context, node: NodeView, weight: Value, groups: int) -> Value:
    """[C, M/g, *kernel] as the forward weights [*kernel reversed, C/g, M]."""
    channels, per_group, *kernel = weight.shape
    if groups < 1 or not same_dim(dim(as_expr(channels) % groups), 0):
        node.broken(f"{groups} groups do not divide {channels} channels")
    inner = dim(as_expr(channels) // groups)
    rank = len(weight.shape)
    grouped = ctx.reshape(weight, (groups, inner, per_group, *kernel))
    order = ctx.transpose(grouped, (*range(3, rank + 1), 1, 0, 2))
    merged = ctx.reshape(order, (*kernel, inner, dim(as_expr(per_group) * groups)))
    spatial = len(kernel)
    return ctx.op(
        "slice",
        merged,
        starts=(*(dim(as_expr(k) - 1) for k in kernel), 0, 0),
        sizes=merged.shape,
        steps=(*(-1,) * spatial, 1, 1),
    )


def _stretched(
    ctx: Context, x: Value, strides: Sequence[int], lo: Sequence[Dim], hi: Sequence[Dim]
) -> Value:
    """Puts zeros between and around the elements; negative padding cuts elements off."""
    rank = len(strides)
    cut = [(_negative(a), _negative(b)) for a, b in zip(lo, hi, strict=True)]
    result = ctx.op(
        "pad", x, ctx.literal(0, x.dtype),
        lo=(0, *(0 if c[0] else a for a, c in zip(lo, cut, strict=True)), 0),
        hi=(0, *(0 if c[1] else b for b, c in zip(hi, cut, strict=True)), 0),
        interior=(0, *(s - 1 for s in strides), 0),
        mode="constant",
    )  # fmt: skip
    if not any(a or b for a, b in cut):
        return result
    batch, *inner, channels = result.shape
    left = (dim(as_expr(d) - (a + b)) for d, (a, b) in zip(inner, cut, strict=True))
    return ctx.op(
        "slice",
        result,
        starts=(0, *(a for a, _ in cut), 0),
        sizes=(batch, *left, channels),
        steps=(1,) * (rank + 2),
    )


def _negative(padding: Dim) -> int:
    return -padding if isinstance(padding, int) and padding < 0 else 0


def _scattered_blocks(
    ctx: Context, x: Value, weight: Value, kernel: tuple[int, ...], wide: bool
) -> Value:
    """Where blocks do not overlap: one product for all taps, then blocks side by side."""
    channels, outputs = weight.shape[:2]
    rank = len(kernel)
    columns = ctx.transpose(weight, (0, *range(2, rank + 2), 1))
    taps = dim(as_expr(outputs) * _count(kernel))
    flat = ctx.reshape(columns, (*(1,) * rank, channels, taps))
    ones, zeros = (1,) * rank, (0,) * rank
    product = ctx.op(
        "conv", x, flat,
        strides=ones, lo=zeros, hi=zeros, dilations=ones, groups=1, wide=wide,
    )  # fmt: skip
    batch, *spatial = x.shape[:-1]
    blocks = ctx.reshape(product, (batch, *spatial, *kernel, outputs))
    order = [0]
    for axis in range(rank):
        order += [1 + axis, 1 + rank + axis]
    paired = ctx.transpose(blocks, (*order, 2 * rank + 1))
    sizes = (dim(as_expr(d) * k) for d, k in zip(spatial, kernel, strict=True))
    return ctx.reshape(paired, (batch, *sizes, outputs))


def _count(kernel: Sequence[int]) -> int:
    total = 1
    for k in kernel:
        total *= k
    return total


def causal_conv_with_state(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A depthwise convolution of each position and those before it, with carried history."""
    x, weight = node.input(0), node.input(1)
    bias, past = node.optional(2), node.optional(3)
    if len(x.shape) != 3 or len(weight.shape) != 3:
        node.broken("needs an input and weights of rank 3")
    batch, channels, _ = x.shape
    taps = weight.shape[2]
    if not isinstance(taps, int) or not isinstance(channels, int):
        ctx.unsupported("a symbolic number of channels or taps")
    history = past if past is not None else ctx.full((batch, channels, taps - 1), 0, x.dtype)
    whole = ctx.op("concat", history, x, axis=2)
    result = ctx.op(
        "conv", channels_last(ctx, whole), ctx.transpose(weight, (2, 1, 0)),
        strides=(1,), lo=(0,), hi=(0,), dilations=(1,), groups=channels, wide=bias is not None,
    )  # fmt: skip
    result = _with_bias(ctx, node, result, bias, x.dtype)
    match node.string("activation", "none"):
        case "silu" | "swish":
            result = ctx.op("mul", result, ctx.op("sigmoid", result))
        case "none":
            pass
        case other:
            node.broken(f"activation must be silu, swish or none, got {other!r}")
    start = dim(as_expr(whole.shape[2]) - (taps - 1))
    state = ctx.slice_axis(whole, 2, start, taps - 1)
    return channels_first(ctx, result), state


# ------------------------------------------------------------------ Col2Im


def col2im(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Adds up overlapping blocks of an image, which are the columns of a matrix."""
    x = node.input(0)
    sizes = ctx.require_ints(node.input(1), "image_shape")
    kernel = ctx.require_ints(node.input(2), "block_shape")
    rank = len(sizes)
    dilations = node.ints("dilations") or (1,) * rank
    strides = node.ints("strides") or (1,) * rank
    pads = node.ints("pads") or (0,) * (2 * rank)
    if len(x.shape) != 3 or not len(kernel) == len(dilations) == len(strides) == rank:
        node.broken(f"blocks {kernel} of an image {sizes}, in a tensor of rank {len(x.shape)}")
    taps, area = math.prod(kernel), math.prod(sizes)
    batch, columns, blocks = x.shape
    if not isinstance(columns, int) or not isinstance(blocks, int) or columns % taps:
        node.broken(f"{columns} rows are not a multiple of {taps} elements of a block")
    room = [s + pads[i] + pads[rank + i] for i, s in enumerate(sizes)]
    reach = spans(kernel, dilations)
    steps = [range((r - k) // s + 1) for r, k, s in zip(room, reach, strides, strict=True)]
    if math.prod(map(len, steps)) != blocks:
        node.broken(f"{blocks} columns for {math.prod(map(len, steps))} blocks")
    if taps * blocks > _MOST_ENTRIES:
        ctx.unsupported(f"{blocks} blocks of {taps} elements")
    sources, targets = [], []
    for source, (tap, block) in enumerate(product(product(*map(range, kernel)), product(*steps))):
        at = [
            b * strides[i] - pads[i] + t * dilations[i]
            for i, (t, b) in enumerate(zip(tap, block, strict=True))
        ]
        if all(0 <= a < s for a, s in zip(at, sizes, strict=True)):
            sources.append(source)
            targets.append(int(np.ravel_multi_index(at, sizes)))
    channels = columns // taps
    flat = ctx.reshape(x, (batch, channels, taps * blocks))
    seen = ctx.op("gather", flat, ctx.literal(np.array(sources, np.int64)), axis=2)
    places = ctx.literal(np.array(targets, np.int64).reshape(1, 1, -1))
    places = ctx.broadcast_to(places, seen.shape)
    empty = ctx.full((batch, channels, area), 0, x.dtype)
    summed = ctx.op("scatter_elements", empty, places, seen, axis=2, reduction="add")
    return (ctx.reshape(summed, (batch, channels, *sizes)),)


# ------------------------------------------------------------------ statistics over the batch


def batch_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, stated as ``x * s + t``.

    Up to opset 6 the number of outputs tells inference (one) from training, and from opset 14 on
    an attribute does; training normalises by the statistics of this batch.
    """
    x, scale, bias, mean, var = (node.input(i) for i in range(5))
    rank = len(x.shape)
    if rank < 2:
        node.broken(f"needs an input of rank 2 or more, got rank {rank}")
    if ctx.opset >= 14 and node.int("training_mode", 0):
        return _batch_training(ctx, node, (x, scale, bias, mean, var))
    if ctx.opset < 14 and any(node.wants(i) for i in range(1, 5)):
        ctx.unsupported("training mode (more than one output)")
    wide = dt.f32 if x.dtype in _HALVES else x.dtype
    rows = _channel_scale(ctx, node, scale, bias, mean, var, wide)
    if ctx.opset < 9 and node.int("spatial", 1) == 0:
        # One number per element of [C, *spatial] instead of one per channel.
        s, t = (ctx.reshape(v, (1, *v.shape)) for v in rows)
    else:
        s, t = (per_channel(ctx, v, rank) for v in rows)
    scaled = ctx.op("mul", ctx.cast(x, wide), s)
    return (ctx.cast(ctx.op("add", scaled, t), x.dtype),)


def _channel_scale(
    ctx: Context, node: NodeView, scale: Value, bias: Value, mean: Value, var: Value, wide: DType
) -> tuple[Value, Value]:
    """(s, t) with ``x * s + t`` the normalised, scaled and shifted x."""
    epsilon = node.float("epsilon", 1e-5)
    deviation = ctx.op("sqrt", ctx.op("add", ctx.cast(var, wide), epsilon))
    s = ctx.op("div", ctx.cast(scale, wide), deviation)
    t = ctx.op("sub", ctx.cast(bias, wide), ctx.op("mul", ctx.cast(mean, wide), s))
    return s, t


def _batch_training(
    ctx: Context, node: NodeView, operands: tuple[Value, Value, Value, Value, Value]
) -> tuple[Value, ...]:
    x, scale, bias, mean, var = operands
    rank = len(x.shape)
    wide = widened(ctx, x)
    axes = [a for a in range(rank) if a != 1]
    batch_mean, batch_var = moments(ctx, wide, axes, keepdims=False)
    s, t = _channel_scale(ctx, node, scale, bias, batch_mean, batch_var, wide.dtype)
    scaled = ctx.op("mul", wide, per_channel(ctx, s, rank))
    y = ctx.cast(ctx.op("add", scaled, per_channel(ctx, t, rank)), x.dtype)
    momentum = node.float("momentum", 0.9)
    running = []
    for old, new in ((mean, batch_mean), (var, batch_var)):
        kept = ctx.op("mul", ctx.cast(old, wide.dtype), momentum)
        added = ctx.op("mul", new, 1 - momentum)
        running.append(ctx.cast(ctx.op("add", kept, added), old.dtype))
    return y, running[0], running[1]


def moments(
    ctx: Context, x: Value, axes: Sequence[int], keepdims: bool = True
) -> tuple[Value, Value]:
    """The mean and the (population) variance over axes, in two passes."""
    mean = average(ctx, x, axes)
    centred = ctx.op("sub", x, mean)
    var = average(ctx, ctx.op("mul", centred, centred), axes)
    if keepdims:
        return mean, var
    return ctx.squeeze(mean, axes), ctx.squeeze(var, axes)


def average(ctx: Context, x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes, which stay as axes of extent 1."""
    count: Dim = 1
    for axis in axes:
        count = dim(as_expr(count) * x.shape[axis])
    total = ctx.reduce(x, "sum", axes, keepdims=True)
    if isinstance(count, int):
        return ctx.op("div", total, count)
    return ctx.op("div", total, ctx.cast(ctx.dim_value(count), x.dtype))


def instance_normalization(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Normalises each channel of each batch element by its own mean and variance."""
    x = image(ctx, node)
    rank = len(x.shape)
    wide = widened(ctx, x)
    mean, var = moments(ctx, wide, range(2, rank))
    deviation = ctx.op("sqrt", ctx.op("add", var, node.float("epsilon", 1e-5)))
    normal = ctx.op("div", ctx.op("sub", wide, mean), deviation)
    scale, bias = (per_channel(ctx, ctx.cast(node.input(i), wide.dtype), rank) for i in (1, 2))
    return (ctx.cast(ctx.op("add", ctx.op("mul", normal, scale), bias), x.dtype),)


def lrn(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Divides by a power of the sum of squares over neighbouring channels."""
    x = image(ctx, node)
    size = node.int("size")
    if size < 1:
        node.broken(f"size must be 1 or more, got {size}")
    alpha, beta, bias = node.float("alpha", 1e-4), node.float("beta", 0.75), node.float("bias", 1.0)
    wide = channels_last(ctx, widened(ctx, x))
    rank = len(x.shape)
    ones, zeros = (1,) * (rank - 1), (0,) * (rank - 1)
    squares = ctx.op(
        "reduce_window", ctx.op("mul", wide, wide), op="sum",
        window=(*ones, size), strides=(1,) * rank, dilations=(1,) * rank,
        lo=(*zeros, (size - 1) // 2), hi=(*zeros, size // 2),
    )  # fmt: skip
    base = ctx.op("add", ctx.op("mul", squares, alpha / size), bias)
    result = ctx.op("div", wide, _positive_power(ctx, base, beta))
    return (channels_first(ctx, ctx.cast(result, x.dtype)),)


def _positive_power(ctx: Context, x: Value, y: float) -> Value:
    """x ** y for x > 0; by roots, in a third of the time, where y is a quarter, half or three."""
    if y not in (0.25, 0.5, 0.75):
        return ctx.op("pow", x, y)
    root = ctx.op("sqrt", x)
    if y == 0.5:
        return root
    fourth = ctx.op("sqrt", root)
    return fourth if y == 0.25 else ctx.op("mul", root, fourth)


# ------------------------------------------------------------------ dropout


def dropout(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """The identity, since it is run for inference; the mask keeps every element.

    In training mode elements are dropped at random, which is refused unless the ratio is 0.
    """
    x = node.input(0)
    training = node.optional(2)
    if ctx.opset >= 12 and training is not None:
        ratio = node.optional(1)
        drops = ratio is None or bool(ctx.require_constant(ratio, "ratio").any())
        if drops and bool(ctx.require_constant(training, "training_mode").any()):
            ctx.unsupported("training mode: elements are dropped at random")
    if ctx.opset < 7 and node.wants(1) and not node.int("is_test", 0):
        ctx.unsupported("training mode: elements are dropped at random")
    if not node.wants(1):
        return (x,)
    return x, ctx.full(x.shape, 1, dt.bool_ if ctx.opset >= 10 else x.dtype)


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "CausalConvWithState": causal_conv_with_state,
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Dropout": dropout,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
}
