"""Converters of ATen's pools and resizes: windows over [N, C, *spatial], computed channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from ..pooling import MOST_TAPS, positions_of_maxima
from .context import Context, Converter


@dataclass(frozen=True, slots=True)
class _Windows:
    """How windows slide, one entry per spatial dim; ``more`` is what ceil_mode adds after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    more: tuple[Dim, ...]

    def attrs(self) -> dict[str, tuple[Dim, ...]]:
        """Attributes of ``reduce_window`` over a channels-last tensor."""
        hi = (dim(as_expr(p) + m) for p, m in zip(self.pads, self.more, strict=True))
        return {
            "window": (1, *self.kernel, 1),
            "strides": (1, *self.strides, 1),
            "dilations": (1, *self.dilations, 1),
            "lo": (0, *self.pads, 0),
            "hi": (0, *hi, 0),
        }


def _windows(
    ctx: Context,
    x: Value,
    rank: int,
    sizes: Sequence[Sequence[Dim]],
    ceil_mode: bool,
) -> _Windows:
    """Reads kernel, strides, padding and dilations; what ceil_mode adds follows from the shape."""
    known = [ctx.ints(s, "attributes of a pool") for s in sizes]
    kernel, strides, pads, dilations = (k * rank if len(k) == 1 else k for k in known)
    strides = strides or kernel
    more: list[Dim] = []
    places = zip(x.shape[-rank:], ctx.shape[-rank:], kernel, strides, pads, dilations, strict=True)
    for extent, count, taps, stride, pad, dilation in places:
        if not ceil_mode:
            more.append(0)
            continue
        span = (taps - 1) * dilation + 1
        needed = (as_expr(count) - 1) * stride + span - (as_expr(extent) + 2 * pad)
        (left,) = ctx.ints((dim(needed),), "sizes under ceil_mode")
        more.append(max(left, -pad))
    return _Windows(kernel, strides, pads, dilations, tuple(more))


def _images(ctx: Context, x: Value, rank: int) -> Value:
    """x as [N, *spatial, C]; x may lack the batch."""
    full = x if len(x.shape) == rank + 2 else ctx.unsqueeze(x, (0,))
    return ctx.transpose(full, (0, *range(2, rank + 2), 1))


def _back(ctx: Context, y: Value) -> Value:
    rank = len(y.shape)
    return ctx.reshape(ctx.transpose(y, (0, rank - 1, *range(1, rank - 1))), ctx.shape)


# ------------------------------------------------------------------ pools


def _max_pool(
    rank: int,
    ctx: Context,
    x: Value,
    kernel: Sequence[Dim],
    stride: Sequence[Dim] = (),
    padding: Sequence[Dim] = (0,),
    dilation: Sequence[Dim] = (1,),
    ceil_mode: bool = False,
) -> tuple[Value, Value | None]:
    """The maximum of each window, and the place within its image of the first that attains it."""
    windows = _windows(ctx, x, rank, (kernel, stride, padding, dilation), ceil_mode)
    last = _images(ctx, x, rank)
    largest = ctx.op("reduce_window", last, op="max", **windows.attrs())
    places = _back(ctx, _places(ctx, last, largest, windows)) if 1 in ctx.wanted else None
    return _back(ctx, largest), places


def _places(ctx: Context, x: Value, largest: Value, windows: _Windows) -> Value:
    """The smallest row-major place within an image that attains each window's maximum."""
    if math.prod(windows.kernel) > MOST_TAPS:
        ctx.unsupported(f"indices of windows of {windows.kernel} elements")
    with ctx.builder.origin(ctx.origin):
        return positions_of_maxima(ctx.builder, x, largest, windows.attrs())


def adaptive_max(ctx: Context, x: Value, output_size: Sequence[Dim]) -> tuple[Value, Value | None]:
    """The maximum of windows that cut the last axes into so many parts, and its place."""
    rank = len(output_size)
    lead = len(x.shape) - rank
    olds = ctx.ints(x.shape[lead:], "sizes of an adaptive pool")
    news = ctx.ints(output_size, "sizes of an adaptive pool")
    tables = [_parts(old, new) for old, new in zip(olds, news, strict=True)]
    parts = x
    for i, table in enumerate(tables):
        parts = ctx.op("gather", parts, ctx.literal(table), axis=lead + 2 * i)
    order = [*range(lead), *range(lead, lead + 2 * rank, 2), *range(lead + 1, lead + 2 * rank, 2)]
    widths = [table.shape[1] for table in tables]
    flat = ctx.reshape(ctx.transpose(parts, order), (*ctx.shape, math.prod(widths)))
    last = len(flat.shape) - 1
    largest = ctx.reduce(flat, "max", (last,))
    if 1 not in ctx.wanted:
        return largest, None
    rest = ctx.op("argreduce", flat, op="max", axis=last, keepdims=False, last=False)
    place: Value | None = None
    for i in reversed(range(rank)):
        tap = ctx.op("mod", rest, widths[i])
        rest = ctx.op("floordiv", rest, widths[i])
        part = ctx.along(ctx.op("mul", ctx.iota(news[i]), widths[i]), last, lead + i)
        entries = ctx.literal(tables[i].reshape(-1) * math.prod(olds[i + 1 :]))
        step = ctx.op("gather", entries, ctx.op("add", part, tap), axis=0)
        place = step if place is None else ctx.op("add", place, step)
    return largest, place


def _parts(old: int, new: int) -> np.ndarray:
    """Row i holds the places from i*old//new up to the part's end, the last one repeated."""
    starts = [i * old // new for i in range(new)]
    ends = [-(-(i + 1) * old // new) for i in range(new)]
    width = max((e - s for s, e in zip(starts, ends, strict=True)), default=1)
    rows = [[min(s + k, e - 1) for k in range(width)] for s, e in zip(starts, ends, strict=True)]
    return np.asarray(rows, np.int64).reshape(new, width)


def _avg_pool(
    rank: int,
    ctx: Context,
    x: Value,
    kernel: Sequence[Dim],
    stride: Sequence[Dim] = (),
    padding: Sequence[Dim] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window's elements; what ceil_mode adds behind the padding never counts."""
    windows = _windows(ctx, x, rank, (kernel, stride, padding, (1,)), ceil_mode)
    wide = ctx.widened(_images(ctx, x, rank))
    total = ctx.op("reduce_window", wide, op="sum", **windows.attrs())
    number = _number(ctx, wide, windows, count_include_pad, divisor_override)
    return ctx.cast(_back(ctx, ctx.op("div", total, number)), x.dtype)


def _number(
    ctx: Context, x: Value, windows: _Windows, include: bool, divisor: int | None
) -> Value | int:
    """How many elements each window counts; a number where it is the same for all."""
    if divisor is not None:
        return divisor
    exact = not any(windows.more)
    if exact and (include or not any(windows.pads)):
        return int(np.prod(windows.kernel))
    ones = ctx.full((1, *x.shape[1:-1], 1), 1, x.dtype)
    attrs = windows.attrs()
    if include:
        pads = (0, *windows.pads, 0)
        ones = ctx.pad(ones, pads, pads, 1)
        hi = (m if isinstance(m, int) and m > 0 else 0 for m in windows.more)
        attrs |= {"lo": (0,) * len(x.shape), "hi": (0, *hi, 0)}
    return ctx.op("reduce_window", ones, op="sum", **attrs)


# ------------------------------------------------------------------ resizes


def nearest(ctx: Context, x: Value, *sizes: object) -> Value:
    """Each element of the result is the one of x at ``floor(i * in / out)``."""
    factors = _factors(sizes)
    rank = len(x.shape)
    for axis in range(2, rank):
        factor = None if factors is None else factors[axis - 2]
        x = _repeated(ctx, x, axis, ctx.shape[axis], factor)
    return x


def _factors(sizes: Sequence[object]) -> list[float] | None:
    last = sizes[-1] if sizes else None
    return last if isinstance(last, list) and all(isinstance(f, float) for f in last) else None


def _repeated(ctx: Context, x: Value, axis: int, size: Dim, factor: float | None) -> Value:
    extent = x.shape[axis]
    if same_dim(extent, size):
        return x
    times = _whole_factor(extent, size, factor)
    if times is not None:
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        single = ctx.reshape(x, (*before, extent, 1, *after))
        wide = ctx.broadcast_to(single, (*before, extent, times, *after))
        return ctx.reshape(wide, (*before, size, *after))
    old, new = ctx.ints((extent, size), "sizes of a resize by a factor that is not whole")
    scale = np.float32(old / new) if factor is None else np.float32(1 / factor)
    places = np.minimum(np.floor(np.arange(new, dtype=np.float32) * scale), old - 1)
    return ctx.op("gather", x, ctx.literal(places.astype(np.int64)), axis=axis)


def _whole_factor(extent: Dim, size: Dim, factor: float | None) -> int | None:
    if isinstance(extent, int) and isinstance(size, int):
        whole = extent > 0 and size % extent == 0
        guess = float(size // extent) if whole else 0.0
    else:
        guess = factor or 0.0
    if guess < 1 or guess != int(guess) or (factor is not None and factor != guess):
        return None
    times = int(guess)
    return times if same_dim(dim(as_expr(extent) * times), size) else None


def bilinear(
    ctx: Context,
    x: Value,
    output_size: Sequence[Dim] | None,
    align_corners: bool,
    scales: Sequence[float] | None = None,
    *more: float | None,
) -> Value:
    """Each element is interpolated between its neighbours in x, axis by axis."""
    del output_size
    result = ctx.widened(x)
    single = isinstance(scales, float)
    factors = [scales, *more] if single else (scales or [])
    for axis in range(2, len(x.shape)):
        factor = factors[axis - 2] if len(factors) > axis - 2 else None
        known = factor if isinstance(factor, float) else None
        result = _interpolated(ctx, result, axis, ctx.shape[axis], align_corners, known)
    return ctx.cast(result, x.dtype)


def _interpolated(
    ctx: Context, x: Value, axis: int, size: Dim, align: bool, factor: float | None
) -> Value:
    """One axis, by gathers of both neighbours; the places are computed where sizes are symbolic."""
    if same_dim(x.shape[axis], size) and factor in (None, 1.0):
        return x
    wide = x.dtype if x.dtype is dt.f64 else dt.f32
    extent = ctx.scalar(x.shape[axis], wide)
    ramp = ctx.iota(size, wide)
    if align:
        steps = ctx.op("max", ctx.scalar(dim(as_expr(size) - 1), wide), 1)
        place = ctx.op("mul", ramp, ctx.op("div", ctx.op("sub", extent, 1), steps))
    else:
        step = ctx.op("div", extent, ctx.scalar(size, wide))
        if factor is not None:
            step = ctx.scalar(1 / factor, wide)
        centre = ctx.op("sub", ctx.op("mul", ctx.op("add", ramp, 0.5), step), 0.5)
        place = ctx.op("max", centre, 0)
    last = ctx.op("sub", extent, 1)
    low = ctx.op("min", ctx.op("floor", place), last)
    high = ctx.op("min", ctx.op("add", low, 1), last)
    share = ctx.along(ctx.op("sub", place, low), len(x.shape), axis)
    share = ctx.op("min", ctx.cast(share, x.dtype), 1)
    a, b = (ctx.op("gather", x, ctx.cast(p, dt.i64), axis=axis) for p in (low, high))
    kept = ctx.op("mul", a, ctx.op("sub", ctx.scalar(1, x.dtype), share))
    return ctx.op("add", kept, ctx.op("mul", b, share))


CONVERTERS: dict[str, Converter] = {
    **{f"avg_pool{n}d.default": partial(_avg_pool, n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices.default": partial(_max_pool, n) for n in (2, 3)},
    "adaptive_max_pool2d.default": adaptive_max,
    "adaptive_max_pool3d.default": adaptive_max,
    "upsample_bilinear2d.default": bilinear,
    "upsample_bilinear2d.vec": bilinear,
    "upsample_nearest1d.vec": nearest,
    "upsample_nearest2d.default": nearest,
    "upsample_nearest2d.vec": nearest,
    "upsample_nearest3d.vec": nearest,
}
