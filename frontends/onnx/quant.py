"""Converters of ONNX's quantised operators: ``q`` stands for ``(q - zero_point) * scale``."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import as_expr
from tilewright.tensor.simplify import dim, same_dim

from .context import Context, Converter
from .linalg import matrix_product
from .nn import convolve
from .node import NodeView

# ------------------------------------------------------------------ scales along an axis


def _along(ctx: Context, node: NodeView, x: Value, scale: Value) -> list[int | None]:
    """How a scale lies on ``x``: for each of its axes, how many elements share an entry.

    None stands for an axis that the scale has not; per tensor, that is all of them.
    """
    rank = len(x.shape)
    if scale.shape in ((), (1,)) and not node.int("block_size", 0):
        return [None] * rank
    axis = ctx.axis(node.int("axis", 1), rank)
    block = node.int("block_size", 0)
    if not block:
        if len(scale.shape) != 1 or not same_dim(scale.shape[0], x.shape[axis]):
            node.broken(f"a scale of shape {scale.shape} along axis {axis} of {x.shape}")
        return [1 if a == axis else None for a in range(rank)]
    if len(scale.shape) != rank:
        node.broken(f"blocks need a scale of rank {rank}, got rank {len(scale.shape)}")
    return [block if a == axis else 1 for a in range(rank)]


def _spread(ctx: Context, node: NodeView, value: Value, x: Value, along: list[int | None]) -> Value:
    """A scale or zero point shaped to broadcast over ``x``."""
    if all(a is None for a in along):
        return ctx.reshape(value, ()) if value.shape else value
    if None in along:
        return ctx.reshape(value, (1 if a is None else x.shape[i] for i, a in enumerate(along)))
    axis = next((i for i, a in enumerate(along) if a is not None and a != 1), None)
    if axis is None:
        return value
    block = along[axis]
    assert block is not None
    shape = value.shape
    wide = ctx.unsqueeze(value, (axis + 1,))
    wide = ctx.broadcast_to(wide, (*shape[: axis + 1], block, *shape[axis + 1 :]))
    extent = dim(as_expr(shape[axis]) * block)
    repeated = ctx.reshape(wide, (*shape[:axis], extent, *shape[axis + 1 :]))
    if same_dim(extent, x.shape[axis]):
        return repeated
    given = x.shape[axis]
    if not isinstance(extent, int) or not isinstance(given, int) or extent < given:
        node.broken(f"{shape[axis]} blocks of {block} do not cover {x.shape[axis]} elements")
    return ctx.slice_axis(repeated, axis, 0, x.shape[axis])


# ------------------------------------------------------------------ to and from integers


def saturated(ctx: Context, steps: Value, zero: Value | None, dtype: DType) -> Value:
    """Rounds half to even, adds the zero point, and clamps to the range of ``dtype``."""
    whole = ctx.op("round", steps)
    # Halves cannot hold the sum of a step and a zero point exactly.
    whole = ctx.cast(whole, dt.f32) if whole.dtype.bits < 32 else whole
    if zero is not None:
        whole = ctx.op("add", whole, ctx.cast(zero, whole.dtype))
    return ctx.op("cast", whole, dtype=dtype, saturate=True)


def quantize_linear(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``saturate(round(x / scale) + zero_point)``."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    dtype = zero.dtype if zero is not None else node.dtype("output_dtype", dt.u8)
    if node.int("output_dtype", 0) and zero is not None and node.dtype("output_dtype") is not dtype:
        node.broken(f"output_dtype is {node.dtype('output_dtype')}, but zero_point is {dtype}")
    if not dtype.is_integer:
        ctx.unsupported(f"quantisation to {dtype}")
    real = scale.dtype if scale.dtype.is_float else dt.f32
    if node.int("precision", 0):
        real = node.dtype("precision")
    along = _along(ctx, node, x, scale)
    divisor = ctx.cast(_spread(ctx, node, scale, x, along), real)
    steps = ctx.op("div", ctx.cast(x, real), divisor)
    offset = None if zero is None else _spread(ctx, node, zero, x, along)
    return (saturated(ctx, steps, offset, dtype),)


def dequantize_linear(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``(x - zero_point) * scale``."""
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    if not x.dtype.is_integer:
        ctx.unsupported(f"dequantisation of {x.dtype}")
    along = _along(ctx, node, x, scale)
    factor = _spread(ctx, node, scale, x, along)
    offset = None if zero is None else _spread(ctx, node, zero, x, along)
    dtype = node.dtype("output_dtype", scale.dtype) if node.int("output_dtype", 0) else scale.dtype
    return (ctx.cast(_real(ctx, x, factor, offset), dtype),)


def _real(ctx: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    """The numbers that integers stand for, in the scale's type (halves: in f32)."""
    real = scale.dtype if scale.dtype.bits >= 32 else dt.f32
    return ctx.op("mul", ctx.cast(_centred(ctx, x, zero), real), ctx.cast(scale, real))


def _centred(ctx: Context, x: Value, zero: Value | None) -> Value:
    """``x - zero_point`` in i32, which holds it exactly."""
    wide = ctx.cast(x, dt.i32)
    return wide if zero is None else ctx.op("sub", wide, ctx.cast(zero, dt.i32))


def dynamic_quantize_linear(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Quantises to u8 by the range of the data, widened to hold 0."""
    x = node.input(0)
    everything = range(len(x.shape))
    high = ctx.op("max", ctx.reduce(x, "max", everything), 0.0)
    low = ctx.op("min", ctx.reduce(x, "min", everything), 0.0)
    width = ctx.op("div", ctx.op("sub", high, low), 255.0)
    # All zeros: any scale stands for them exactly.
    one = ctx.literal(1, x.dtype)
    scale = ctx.op("where", ctx.op("eq", width, 0.0), one, width)
    start = ctx.op("neg", ctx.op("div", low, scale))
    zero = ctx.op("cast", ctx.op("round", start), dtype=dt.u8, saturate=True)
    return saturated(ctx, ctx.op("div", x, scale), zero, dt.u8), scale, zero


# ------------------------------------------------------------------ integer products


def matmul_integer(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The i32 matrix product of integers less their zero points."""
    a = _centred(ctx, node.input(0), _of_rows(ctx, node, node.input(0), node.optional(2)))
    b = _centred(ctx, node.input(1), node.optional(3))
    return (matrix_product(ctx, node, a, b),)


def _of_rows(ctx: Context, node: NodeView, a: Value, value: Value | None) -> Value | None:
    """A scale or zero point per row, shaped to broadcast over a matrix."""
    if value is None or len(value.shape) != 1 or value.shape == (1,):
        return value
    if len(a.shape) < 2:
        node.broken("a vector has no rows to give zero points to")
    return ctx.unsqueeze(value, (1,))


def qlinear_matmul(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The matrix product of two quantised tensors, quantised again."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (node.input(i) for i in range(8))
    left = _centred(ctx, a, _of_rows(ctx, node, a, a_zero))
    right = _centred(ctx, b, b_zero)
    total = ctx.cast(matrix_product(ctx, node, left, right), dt.f32)
    if len(y_scale.shape) > 0 and y_scale.shape != (1,):
        ctx.unsupported("a scale of the result that is not one number")
    rows = _of_rows(ctx, node, a, a_scale)
    assert rows is not None
    factor = ctx.op("mul", ctx.cast(rows, dt.f32), ctx.cast(b_scale, dt.f32))
    steps = ctx.op("mul", total, ctx.op("div", factor, ctx.cast(y_scale, dt.f32)))
    return (ctx.reshape(saturated(ctx, steps, y_zero, y_zero.dtype), total.shape),)


def conv_integer(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The i32 convolution of integers less their zero points; padding stands for zero."""
    x, w = node.input(0), node.input(1)
    image = _centred(ctx, x, node.optional(2))
    weight = _centred(ctx, w, _of_filters(ctx, w, node.optional(3)))
    return (convolve(ctx, node, image, weight, None),)


def _of_filters(ctx: Context, w: Value, value: Value | None) -> Value | None:
    """A scale or zero point per filter, shaped to broadcast over weights."""
    if value is None or len(value.shape) != 1:
        return value
    return ctx.reshape(value, (value.shape[0], *(1,) * (len(w.shape) - 1)))


def qlinear_conv(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The convolution of a quantised image by quantised weights, quantised again."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (node.input(i) for i in range(8))
    weight = _centred(ctx, w, _of_filters(ctx, w, w_zero))
    total = convolve(ctx, node, _centred(ctx, x, x_zero), weight, node.optional(8))
    factor = ctx.op("div", ctx.op("mul", x_scale, w_scale), y_scale)
    if len(factor.shape) == 1 and factor.shape != (1,):
        rank = len(x.shape)
        factor = ctx.reshape(factor, (1, factor.shape[0], *(1,) * (rank - 2)))
    steps = ctx.op("mul", ctx.cast(total, dt.f32), factor)
    return (ctx.reshape(saturated(ctx, steps, y_zero, y_zero.dtype), total.shape),)


CONVERTERS: dict[str, Converter] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
