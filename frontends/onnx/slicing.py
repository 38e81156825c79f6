"""Converters of ONNX's operators that cut, join, pad and index tensors."""

from __future__ import annotations

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, Expr, Select, as_expr, lt, maximum, minimum
from tilewright.tensor.simplify import ceildiv, dim, product

from .context import Context, Converter
from .node import NodeView

# Exporters write numbers from here on for "to the end"; no axis of a tensor is that long.
_OPEN = 10**9


# ------------------------------------------------------------------ slice


def slice_(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Elements from ``start`` to ``end`` by ``step``, as Python slices them."""
    x = node.input(0)
    rank = len(x.shape)
    axes, begins, ends, steps = _slice_operands(ctx, node, rank)
    starts: list[Dim] = [0] * rank
    sizes, strides = list(x.shape), [1] * rank
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        if step == 0:
            node.broken(f"the step of axis {axis} is 0")
        starts[axis], sizes[axis] = _range(x.shape[axis], begin, end, step)
        strides[axis] = step
    return (ctx.slice(x, starts, sizes, strides),)


def _slice_operands(
    ctx: Context, node: NodeView, rank: int
) -> tuple[tuple[int, ...], tuple[Dim, ...], tuple[Dim, ...], tuple[int, ...]]:
    begins: tuple[Dim, ...]
    ends: tuple[Dim, ...]
    steps: tuple[int, ...] | None = None
    if ctx.opset < 10:
        begins, ends = node.ints("starts") or (), node.ints("ends") or ()
        given = node.ints("axes")
    else:
        begins = ctx.require_dims(node.input(1), "the start")
        ends = ctx.require_dims(node.input(2), "the end")
        listed, strides = node.optional(3), node.optional(4)
        given = None if listed is None else ctx.require_ints(listed, "the list of axes")
        steps = None if strides is None else ctx.require_ints(strides, "the step")
    axes = tuple(range(len(begins))) if given is None else given
    steps = (1,) * len(axes) if steps is None else steps
    if not len(axes) == len(begins) == len(ends) == len(steps):
        node.broken(
            f"{len(begins)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps are"
            " given, but there must be as many of each"
        )
    canonical = tuple(ctx.axis(a, rank) for a in axes)
    if len(set(canonical)) != len(canonical):
        node.broken(f"an axis is named twice: {list(canonical)}")
    return canonical, begins, ends, steps


def _range(extent: Dim, begin: Dim, end: Dim, step: int) -> tuple[Dim, Dim]:
    """The first index and the number of elements of a Python slice of ``extent`` elements."""
    size = as_expr(extent)
    low, high = (as_expr(0), size) if step > 0 else (as_expr(-1), size - 1)
    first = _clamped(begin, size, as_expr(0), high)
    last = _clamped(end, size, low, high)
    if step > 0:
        count = ceildiv(dim(last - first), step)
    else:
        count = ceildiv(dim(first - last), -step)
    return first, dim(maximum(as_expr(count), as_expr(0)))


def _clamped(place: Dim, size: Expr, low: Expr, high: Expr) -> Dim:
    if isinstance(place, int):
        if place >= _OPEN:
            return dim(high)
        if place <= -_OPEN:
            return dim(low)
        at = size + place if place < 0 else as_expr(place)
    else:
        at = as_expr(dim(Select(lt(place, 0), size + place, place)))
    return dim(minimum(maximum(at, low), high))


# ------------------------------------------------------------------ split and concat


def split(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Cuts one axis into parts: of the sizes given, else equal ones (the last may be smaller)."""
    x = node.input(0)
    axis = ctx.axis(node.int("axis", 0), len(x.shape))
    listed = node.optional(1)
    sizes: tuple[Dim, ...] | None = node.ints("split")
    if listed is not None:
        sizes = ctx.require_dims(listed, "the list of sizes")
    if sizes is None:
        count = node.int("num_outputs", len(node.outputs))
        if count != len(node.outputs):
            node.broken(f"it splits into {count} parts, but has {len(node.outputs)} outputs")
        sizes = _parts(x.shape[axis], count)
    parts: list[Value] = []
    start: Dim = 0
    for size in sizes:
        parts.append(ctx.slice_axis(x, axis, start, size))
        start = dim(as_expr(start) + size)
    if isinstance(start, int) and isinstance(x.shape[axis], int) and start != x.shape[axis]:
        node.broken(f"the sizes add up to {start}, but axis {axis} has {x.shape[axis]} elements")
    return tuple(parts)


def _parts(extent: Dim, count: int) -> tuple[Dim, ...]:
    chunk = ceildiv(extent, count)
    if isinstance(extent, int) and isinstance(chunk, int):
        return tuple(min(max(extent - i * chunk, 0), chunk) for i in range(count))
    last = dim(as_expr(extent) - as_expr(chunk) * (count - 1))
    return (*(chunk,) * (count - 1), last)


def concat(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Joins tensors along one axis."""
    parts = node.variadic()
    if not parts:
        node.broken("it has no operands")
    axis = node.int("axis", 1 if ctx.opset < 4 else None)
    return (ctx.concat(parts, ctx.axis(axis, len(parts[0].shape))),)


# ------------------------------------------------------------------ pad


def pad(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Adds elements around the operand; negative numbers cut elements off."""
    x = node.input(0)
    rank = len(x.shape)
    fill: Value | float
    if ctx.opset < 11:
        pads: tuple[Dim, ...] = node.ints("paddings" if ctx.opset < 2 else "pads") or ()
        fill, listed = node.float("value", 0.0), None
    else:
        pads = ctx.require_dims(node.input(1), "the amount of padding")
        given = node.optional(2)
        fill = 0 if given is None else ctx.reshape(given, ())
        listed = node.optional(3)
    axes: tuple[int, ...] = tuple(range(rank))
    if listed is not None:
        axes = tuple(ctx.axis(a, rank) for a in ctx.require_ints(listed, "the list of axes"))
    if len(pads) != 2 * len(axes):
        node.broken(f"{len(pads)} amounts are given for {len(axes)} axes, not two for each")
    mode = node.string("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        node.broken(f"mode is {mode!r}, not constant, reflect, edge or wrap")
    lo: list[Dim] = [0] * rank
    hi: list[Dim] = [0] * rank
    for i, axis in enumerate(axes):
        lo[axis], hi[axis] = pads[i], pads[i + len(axes)]
    cut_lo, cut_hi = [_excess(0, p) for p in lo], [_excess(0, p) for p in hi]
    sizes = [dim(as_expr(d) - a - b) for d, a, b in zip(x.shape, cut_lo, cut_hi, strict=True)]
    window = ctx.slice(x, cut_lo, sizes)
    lo, hi = [_excess(p, 0) for p in lo], [_excess(p, 0) for p in hi]
    return (ctx.pad(window, lo, hi, fill, mode),)


def _excess(a: Dim, b: Dim) -> Dim:
    """``max(a - b, 0)``."""
    return dim(maximum(as_expr(a) - b, as_expr(0)))


# ------------------------------------------------------------------ gather


def gather(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Slices of one axis at the given places; negative ones count from the end."""
    x, indices = node.input(0), node.input(1)
    axis = ctx.axis(node.int("axis", 0), len(x.shape))
    at = _known_place(ctx, indices)
    if at is not None:
        # One known place is a slice, which later passes can merge into what reads it.
        extent = x.shape[axis]
        if isinstance(extent, int) and not -extent <= at < extent:
            node.broken(f"index {at} is not within the {extent} elements of axis {axis}")
        start = at if at >= 0 else dim(as_expr(extent) + at)
        return (ctx.squeeze(ctx.slice_axis(x, axis, start, 1), (axis,)),)
    ctx.index(indices, x.shape[axis])
    return (ctx.op("gather", x, indices, axis=axis),)


def _known_place(ctx: Context, indices: Value) -> int | None:
    """The one index of a scalar that is known and a number."""
    known = None if indices.shape else ctx.dims(indices)
    return known[0] if known is not None and isinstance(known[0], int) else None


def gather_elements(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Elements of one axis, each at its own place."""
    x = node.input(0)
    axis = ctx.axis(node.int("axis", 0), len(x.shape))
    indices = node.input(1)
    ctx.index(indices, x.shape[axis])
    return (ctx.op("gather_elements", x, indices, axis=axis),)


def gather_nd(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Slices at places that the last axis of the indices spells out."""
    x, indices, batch = node.input(0), node.input(1), node.int("batch_dims", 0)
    found = ctx.op("gather_nd", x, indices, batch_dims=batch)
    depth = indices.shape[-1]
    assert isinstance(depth, int), "the op's rule"
    ctx.index(indices, *x.shape[batch : batch + depth])
    return (found,)


def compress(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The slices of one axis (or of all elements) where a constant condition holds."""
    x = node.input(0)
    condition = ctx.constant(node.input(1))
    if condition is None:
        ctx.unsupported("the size of the result depends on data")
    if not node.has("axis"):
        x = ctx.reshape(x, (product(x.shape),))
    axis = ctx.axis(node.int("axis", 0), len(x.shape))
    return (ctx.op("gather", x, ctx.literal(np.flatnonzero(condition)), axis=axis),)


def non_zero(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The places of the elements of a constant that are not zero."""
    found = ctx.constant(node.input(0))
    if found is None:
        ctx.unsupported("the size of the result depends on data")
    return (ctx.literal(np.stack(np.nonzero(np.atleast_1d(found))).astype(np.int64)),)


def reverse_sequence(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Reverses the first ``length`` steps of each sequence of a batch."""
    x, lengths = node.input(0), ctx.cast(node.input(1), dt.i64)
    rank = len(x.shape)
    batch = ctx.axis(node.int("batch_axis", 1), rank)
    time = ctx.axis(node.int("time_axis", 0), rank)
    if batch == time:
        node.broken(f"batch_axis and time_axis are both {batch}")
    steps = ctx.op(
        "iota",
        shape=tuple(x.shape[time] if i == time else 1 for i in range(rank)),
        axis=time,
        dtype=dt.i64,
    )
    count = ctx.reshape(lengths, (x.shape[batch] if i == batch else 1 for i in range(rank)))
    mirrored = ctx.op("sub", ctx.op("sub", count, 1), steps)
    place = ctx.op("where", ctx.op("lt", steps, count), mirrored, steps)
    return (ctx.op("gather_elements", x, ctx.broadcast_to(place, x.shape), axis=time),)


CONVERTERS: dict[str, Converter] = {
    "Compress": compress,
    "Concat": concat,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "Pad": pad,
    "ReverseSequence": reverse_sequence,
    "Slice": slice_,
    "Split": split,
}
