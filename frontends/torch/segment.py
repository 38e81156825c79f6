"""Converters of ATen's reductions of segments of an axis."""

from __future__ import annotations

import math

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter
from .types import Scalar

_REDUCTIONS = {
    "sum": ("sum", 0.0),
    "mean": ("sum", 0.0),
    "prod": ("prod", 1.0),
    "max": ("max", -math.inf),
    "min": ("min", math.inf),
}
_COMBINED = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def segment_reduce(
    ctx: Context,
    data: Value,
    reduce: str,
    *,
    lengths: Value | None = None,
    indices: Value | None = None,
    offsets: Value | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Scalar | None = None,
) -> Value:
    """Reductions of segments that lie one behind the other along an axis.

    A segment's elements are picked out of the whole axis; the axes before are common to the data
    and to the lengths. The mean of no elements is nan unless there is an initial value.
    """
    del unsafe
    if indices is not None:
        ctx.unsupported("segments by indices")
    axis %= len(data.shape)
    starts, ends = _bounds(ctx, lengths, offsets, axis)
    op, identity = _REDUCTIONS[reduce]
    behind = len(data.shape) - axis - 1
    # [..., segments, elements of the axis, 1, ...]
    low, high = (ctx.unsqueeze(v, range(axis + 1, axis + behind + 2)) for v in (starts, ends))
    place = ctx.along(ctx.iota(data.shape[axis]), behind + 1, 0)
    inside = ctx.op("and", ctx.op("ge", place, low), ctx.op("lt", place, high))
    wide = ctx.unsqueeze(ctx.widened(data), (axis,))
    rest = ctx.scalar(identity, wide.dtype)
    found = ctx.reduce(ctx.op("where", inside, wide, rest), op, (axis + 1,))
    if initial is not None:
        found = ctx.op(_COMBINED[op], found, ctx.scalar(initial, found.dtype))
    if reduce == "mean":
        count = ctx.unsqueeze(ctx.op("sub", ends, starts), range(axis + 1, axis + behind + 1))
        mean = ctx.op("div", found, ctx.cast(count, found.dtype))
        empty = found if initial is not None else ctx.scalar(math.nan, found.dtype)
        found = ctx.op("where", ctx.op("eq", count, 0), empty, mean)
    return ctx.cast(found, ctx.dtype)


def _bounds(
    ctx: Context, lengths: Value | None, offsets: Value | None, axis: int
) -> tuple[Value, Value]:
    """Where segments begin, and where they end."""
    if offsets is not None:
        known = ctx.cast(offsets, dt.i64)
        size = ctx.result(0).shape[axis]
        starts, ends = (ctx.slice_axis(known, axis, first, size) for first in (0, 1))
        return starts, ends
    assert lengths is not None
    wide = ctx.cast(lengths, dt.i64)
    ends = ctx.op("cumulative", wide, op="sum", axis=axis, exclusive=False, reverse=False)
    return ctx.op("sub", ends, wide), ends


CONVERTERS: dict[str, Converter] = {"segment_reduce.default": segment_reduce}
