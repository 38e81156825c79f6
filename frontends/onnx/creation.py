"""Converters of ONNX's operators that make tensors from numbers, masks and other types."""

from __future__ import annotations

import math

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, maximum
from tilewright.tensor.simplify import ceildiv, dim

from .context import Context, Converter
from .node import NodeView


def cast(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The operand as the element type ``to``."""
    return (ctx.cast(node.input(0), node.dtype("to")),)


def cast_like(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The operand as the element type of another one."""
    return (ctx.cast(node.input(0), node.input(1).dtype),)


def constant(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The tensor or numbers of an attribute."""
    value = node.tensor("value")
    if value is not None:
        return (ctx.literal(value),)
    if node.has("value_int"):
        return (ctx.literal(node.int("value_int"), dt.i64),)
    if node.has("value_float"):
        return (ctx.literal(node.float("value_float"), dt.f32),)
    ints, floats = node.ints("value_ints"), node.floats("value_floats")
    if ints is not None:
        return (ctx.literal(np.array(ints, np.int64)),)
    if floats is not None:
        return (ctx.literal(np.array(floats, np.float32)),)
    for name in ("value_string", "value_strings", "sparse_value"):
        if node.has(name):
            ctx.unsupported(f"a constant given as {name}")
    node.broken("it has no value")


def constant_of_shape(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A tensor of one repeated number."""
    dims = ctx.require_dims(node.input(0), "the shape")
    value = node.tensor("value")
    if value is None:
        value = np.zeros((), np.float32)
    if value.size != 1:
        node.broken(f"its value has {value.size} elements, not one")
    return (ctx.broadcast_to(ctx.literal(value.reshape(())), dims),)


def range_(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``start + i * delta`` for as long as it is before ``limit``."""
    start, limit, delta = (node.input(i) for i in range(3))
    for value in (start, limit, delta):
        if any(d != 1 for d in value.shape):
            node.broken(f"its operands must be scalars, not of shape {list(value.shape)}")
    step = ctx.require_constant(delta, "the step").reshape(-1)[0].item()
    if step == 0 or not math.isfinite(step):
        node.broken(f"the step is {step}")
    count = _range_count(ctx, start, limit, step)
    work = dt.f32 if start.dtype in (dt.f16, dt.bf16) else start.dtype
    steps = ctx.op("iota", shape=(count,), axis=0, dtype=work)
    scaled = ctx.op("mul", steps, step)
    return (ctx.cast(ctx.op("add", scaled, ctx.cast(ctx.reshape(start, ()), work)), start.dtype),)


def _range_count(ctx: Context, start: Value, limit: Value, step: float) -> Dim:
    if start.dtype.is_float:
        begin, end = ctx.constant(start), ctx.constant(limit)
        if begin is None or end is None:
            return _float_range_count(ctx, start, limit, step)
        steps = float((end - begin).reshape(-1)[0]) / step
        if not math.isfinite(steps):
            ctx.unsupported(f"a range of {steps} elements")
        return max(math.ceil(steps), 0)
    low = ctx.require_dim(start, "the number of elements")
    high = ctx.require_dim(limit, "the number of elements")
    span = as_expr(high) - low if step > 0 else as_expr(low) - high
    return dim(maximum(as_expr(ceildiv(dim(span), abs(int(step)))), as_expr(0)))


def _float_range_count(ctx: Context, start: Value, limit: Value, step: float) -> Dim:
    """The count where floats are dims in disguise: ``Range(0.0, float(width), 1.0)``."""
    first, last = ctx.fraction(start), ctx.fraction(limit)
    if first is None or last is None:
        ctx.unsupported("the number of elements depends on data")
    (n, d), (m, e) = first, last
    above, below = float(step).as_integer_ratio()
    span = (as_expr(m) * d - as_expr(n) * e) * (below if above > 0 else -below)
    return dim(maximum(as_expr(ceildiv(dim(span), d * e * abs(above))), as_expr(0)))


def eye_like(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Ones on the ``k``-th diagonal of a matrix of the operand's shape, zeros elsewhere."""
    x = node.input(0)
    if len(x.shape) != 2:
        node.broken(f"it takes a matrix, not rank {len(x.shape)}")
    rows, columns = _grid(ctx, x.shape)
    hit = ctx.op("eq", ctx.op("add", rows, node.int("k", 0)), columns)
    return (ctx.cast(ctx.broadcast_to(hit, x.shape), node.dtype("dtype", x.dtype)),)


def trilu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The upper or lower triangle of matrices, from the ``k``-th diagonal on; zeros elsewhere."""
    x, k = node.input(0), node.optional(1)
    if len(x.shape) < 2:
        node.broken(f"it takes matrices, not rank {len(x.shape)}")
    rows, columns = _grid(ctx, x.shape)
    diagonal = ctx.op("sub", columns, rows)
    edge = ctx.literal(0, dt.i64) if k is None else ctx.reshape(k, ())
    keep = ctx.op("ge" if node.int("upper", 1) else "le", diagonal, edge)
    return (ctx.op("where", keep, x, 0),)


def _grid(ctx: Context, shape: tuple[Dim, ...]) -> tuple[Value, Value]:
    """Row numbers of shape [M, 1] and column numbers of shape [1, N]."""
    rows = ctx.op("iota", shape=(shape[-2], 1), axis=0, dtype=dt.i64)
    columns = ctx.op("iota", shape=(1, shape[-1]), axis=1, dtype=dt.i64)
    return rows, columns


def one_hot(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``on`` at the index along a new axis, ``off`` elsewhere; negative indices count back."""
    indices, values = ctx.cast(node.input(0), dt.i64), node.input(2)
    depth = _depth(ctx, node.input(1))
    rank = len(indices.shape) + 1
    axis = ctx.axis(node.int("axis", -1), rank)
    wrapped = ctx.op("add", indices, ctx.dim_value(depth))
    place = ctx.op("where", ctx.op("lt", indices, 0), wrapped, indices)
    steps = ctx.op(
        "iota", shape=tuple(depth if i == axis else 1 for i in range(rank)), axis=axis, dtype=dt.i64
    )
    hit = ctx.op("eq", ctx.unsqueeze(place, (axis,)), steps)
    off, on = (ctx.squeeze(ctx.slice_axis(values, 0, i, 1), (0,)) for i in (0, 1))
    return (ctx.op("where", hit, on, off),)


def _depth(ctx: Context, value: Value) -> Dim:
    known = ctx.constant(value)
    if known is not None and known.size == 1 and value.dtype.is_float:
        return int(known.reshape(-1)[0])
    return ctx.require_dim(value, "the depth")


CONVERTERS: dict[str, Converter] = {
    "Cast": cast,
    "CastLike": cast_like,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "Range": range_,
    "Trilu": trilu,
}
