"""Converters of ONNX's pooling operators, sliding and global."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim
from tilewright.tensor.simplify import product as product_of

from ..pooling import MOST_TAPS, positions_of_maxima
from .context import Context, Converter
from .nn import average, widened
from .node import NodeView
from .windows import Windows, channels_first, channels_last, image, read_windows, rounded_up


def _windows(ctx: Context, node: NodeView, x: Value) -> Windows:
    """The windows of a pooling node, with ``ceil_mode`` in their padding after."""
    kernel = node.ints("kernel_shape")
    spatial = x.shape[2:]
    if kernel is None or len(kernel) != len(spatial) or min(kernel) < 1:
        node.broken(f"kernel_shape must be {len(spatial)} numbers of 1 or more, got {kernel}")
    windows = read_windows(ctx, node, spatial, kernel)
    return rounded_up(windows, spatial) if node.int("ceil_mode", 0) else windows


def _pooled(ctx: Context, x: Value, windows: Windows, op: str) -> Value:
    """Reduces the windows of a channels-last tensor."""
    return ctx.op("reduce_window", x, op=op, **windows.full_rank())


# ------------------------------------------------------------------ maximum


def max_pool(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """The maximum of each window; optionally the flat index of the element that attains it."""
    x = image(ctx, node)
    windows = _windows(ctx, node, x)
    last = channels_last(ctx, x)
    largest = _pooled(ctx, last, windows, "max")
    y = channels_first(ctx, largest)
    if not node.wants(1):
        return (y,)
    at = _positions_of_maxima(ctx, last, largest, windows)
    if node.int("storage_order", 0):
        at = _column_major(ctx, at, x.shape[2:])
    images = _index_of_image(ctx, x.shape)
    return y, ctx.op("add", channels_first(ctx, at), images)


def _positions_of_maxima(ctx: Context, x: Value, largest: Value, windows: Windows) -> Value:
    """The smallest row-major position within an image that attains each window's maximum."""
    if windows.taps > MOST_TAPS:
        ctx.unsupported(f"indices of windows of {windows.taps} elements")
    with ctx.builder.origin(ctx.origin):
        return positions_of_maxima(ctx.builder, x, largest, windows.full_rank())


def _column_major(ctx: Context, at: Value, spatial: tuple[Dim, ...]) -> Value:
    """Turns row-major positions within an image into column-major ones."""
    rest, result, stride = at, None, product_of(spatial)
    for extent in reversed(spatial):
        size = ctx.dim_value(extent)
        coordinate = ctx.op("mod", rest, size)
        rest = ctx.op("floordiv", rest, size)
        stride = dim(as_expr(stride) // extent)
        part = ctx.op("mul", coordinate, ctx.dim_value(stride))
        result = part if result is None else ctx.op("add", result, part)
    assert result is not None
    return result


def _index_of_image(ctx: Context, shape: tuple[Dim, ...]) -> Value:
    """The flat index of the first element of each image, shaped [N, C, 1, ...]."""
    images = dim(as_expr(shape[0]) * shape[1])
    numbers = ctx.op("iota", shape=(images,), axis=0, dtype=dt.i64)
    starts = ctx.op("mul", numbers, ctx.dim_value(product_of(shape[2:])))
    return ctx.reshape(starts, (*shape[:2], *(1,) * (len(shape) - 2)))


def max_unpool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Puts each element at the flat index that a max pool has found, and zeros elsewhere."""
    x, at = image(ctx, node), node.input(1)
    spatial = x.shape[2:]
    kernel = node.ints("kernel_shape")
    if kernel is None or len(kernel) != len(spatial):
        node.broken(f"kernel_shape must be {len(spatial)} numbers, got {kernel}")
    windows = read_windows(ctx, node, spatial, kernel)
    sizes = [
        dim((as_expr(d) - 1) * s + k - lo - hi)
        for d, s, k, lo, hi in zip(
            spatial, windows.strides, kernel, windows.lo, windows.hi, strict=True
        )
    ]
    shape = (*x.shape[:2], *sizes)
    zeros = ctx.full((product_of(shape),), 0, x.dtype)
    count = product_of(x.shape)
    flat = ctx.op(
        "scatter_elements", zeros, ctx.reshape(at, (count,)), ctx.reshape(x, (count,)),
        axis=0, reduction="none",
    )  # fmt: skip
    result = ctx.reshape(flat, shape)
    wanted = node.optional(2)
    if wanted is None:
        return (result,)
    final = ctx.require_dims(wanted, "output_shape")
    if len(final) != len(shape):
        node.broken(f"output_shape of {len(final)} dims for an input of rank {len(shape)}")
    more = tuple(dim(as_expr(a) - b) for a, b in zip(final, shape, strict=True))
    if not all(isinstance(m, int) and m >= 0 for m in more):
        ctx.unsupported("an output_shape below the pooled one, or symbolic")
    zero = ctx.literal(0, x.dtype)
    none = (0,) * len(shape)
    return (ctx.op("pad", result, zero, lo=none, hi=more, interior=none, mode="constant"),)


# ------------------------------------------------------------------ mean


def average_pool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The mean of each window's elements, with or without those in the padding."""
    x = image(ctx, node)
    kernel = node.ints("kernel_shape")
    windows = _windows(ctx, node, x)
    assert kernel is not None
    wide = widened(ctx, channels_last(ctx, x))
    total = _pooled(ctx, wide, windows, "sum")
    given = read_windows(ctx, node, x.shape[2:], kernel)
    count = _elements(ctx, node, wide, windows, given)
    mean = ctx.op("div", total, count)
    return (channels_first(ctx, ctx.cast(mean, x.dtype)),)


def _elements(
    ctx: Context, node: NodeView, x: Value, windows: Windows, given: Windows
) -> Value | int:
    """How many elements each window counts; a number where it is the same for all.

    The elements that ``ceil_mode`` adds after the padding are never counted.
    """
    count_padding = bool(node.int("count_include_pad", 0))
    if windows.hi == given.hi and (count_padding or not windows.padded):
        return windows.taps
    ones = ctx.full((1, *x.shape[1:-1], 1), 1, x.dtype)
    if not count_padding:
        return _pooled(ctx, ones, windows, "sum")
    inside = ctx.op(
        "pad", ones, ctx.literal(1, x.dtype), lo=(0, *given.lo, 0), hi=(0, *given.hi, 0),
        interior=(0,) * len(x.shape), mode="constant",
    )  # fmt: skip
    # Of the padding after, only what ceil_mode has added is left; it may also have taken some.
    more = [dim(as_expr(a) - b) for a, b in zip(windows.hi, given.hi, strict=True)]
    if not all(isinstance(m, int) for m in more):
        ctx.unsupported("ceil_mode and count_include_pad over a symbolic extent")
    cut = tuple(max(0, -m) if isinstance(m, int) else 0 for m in more)
    added = tuple(max(0, m) if isinstance(m, int) else 0 for m in more)
    if any(cut):
        left = (dim(as_expr(d) - c) for d, c in zip(inside.shape[1:-1], cut, strict=True))
        inside = ctx.op(
            "slice", inside, starts=(0,) * len(x.shape), steps=(1,) * len(x.shape),
            sizes=(1, *left, 1),
        )  # fmt: skip
    zeros = (0,) * len(windows.kernel)
    rest = Windows(windows.kernel, windows.strides, windows.dilations, zeros, added)
    return _pooled(ctx, inside, rest, "sum")


# ------------------------------------------------------------------ p-norm


def lp_pool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The p-norm of each window."""
    x = image(ctx, node)
    windows = _windows(ctx, node, x)
    wide = widened(ctx, channels_last(ctx, x))
    power = _power(ctx, node)
    total = _pooled(ctx, _raised(ctx, wide, power), windows, "sum")
    return (channels_first(ctx, ctx.cast(_root(ctx, total, power), x.dtype)),)


def _power(ctx: Context, node: NodeView) -> float:
    power = node.float("p", 2.0) if ctx.opset < 2 else float(node.int("p", 2))
    if power <= 0:
        node.broken(f"p must be positive, got {power}")
    return power


def _raised(ctx: Context, x: Value, power: float) -> Value:
    if power == 2:
        return ctx.op("mul", x, x)
    size = ctx.op("abs", x)
    return size if power == 1 else ctx.op("pow", size, power)


def _root(ctx: Context, x: Value, power: float) -> Value:
    if power == 1:
        return x
    return ctx.op("sqrt", x) if power == 2 else ctx.op("pow", x, 1 / power)


# ------------------------------------------------------------------ whole images


def global_average_pool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The mean of each channel of each image."""
    x = image(ctx, node)
    wide = widened(ctx, channels_last(ctx, x))
    mean = average(ctx, wide, range(1, len(x.shape) - 1))
    return (channels_first(ctx, ctx.cast(mean, x.dtype)),)


def global_max_pool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The maximum of each channel of each image."""
    x = image(ctx, node)
    last = channels_last(ctx, x)
    return (
        channels_first(ctx, ctx.reduce(last, "max", range(1, len(x.shape) - 1), keepdims=True)),
    )


def global_lp_pool(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The p-norm of each channel of each image."""
    x = image(ctx, node)
    wide = widened(ctx, channels_last(ctx, x))
    power = _power(ctx, node)
    over = range(1, len(x.shape) - 1)
    total = ctx.reduce(_raised(ctx, wide, power), "sum", over, keepdims=True)
    return (channels_first(ctx, ctx.cast(_root(ctx, total, power), x.dtype)),)


CONVERTERS: dict[str, Converter] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
