"""Converters of ONNX operators that read images at coordinates that depend on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import product as product_of
from tilewright.tensor.simplify import same_dim

from .context import Context, Converter
from .nn import widened
from .node import NodeView
from .windows import channels_first, channels_last, image, positive_ints, read_windows

# ------------------------------------------------------------------ taps around coordinates


@dataclass(frozen=True, slots=True)
class _Tap:
    """One of the elements along one axis that a coordinate is interpolated from.

    Attributes:
        place: its index, in bounds.
        weight: its share, or None for all of it.
        inside: whether it stands for a real element; None where it always does.
    """

    place: Value
    weight: Value | None
    inside: Value | None


def _real(ctx: Context, size: Dim, like: Value) -> Value:
    return ctx.cast(ctx.dim_value(size), like.dtype)


def _clamped(ctx: Context, x: Value, top: Value) -> Value:
    return ctx.op("min", ctx.op("max", x, 0.0), top)


def _linear_weights(ctx: Context, rest: Value) -> list[tuple[int, Value]]:
    return [(0, ctx.op("sub", ctx.literal(1, rest.dtype), rest)), (1, rest)]


def _cubic_weights(ctx: Context, rest: Value) -> list[tuple[int, Value]]:
    """Keys' cubic convolution with a = -0.75."""
    a = -0.75

    def polynomial(s: Value, *terms: float) -> Value:
        total = ctx.literal(terms[0], s.dtype)
        for term in terms[1:]:
            total = ctx.op("add", ctx.op("mul", total, s), term)
        return total

    def near(s: Value) -> Value:
        return polynomial(s, a + 2, -(a + 3), 0.0, 1.0)

    def far(s: Value) -> Value:
        return polynomial(s, a, -5 * a, 8 * a, -4 * a)

    one, two = ctx.literal(1, rest.dtype), ctx.literal(2, rest.dtype)
    return [
        (-1, far(ctx.op("add", rest, 1.0))),
        (0, near(rest)),
        (1, near(ctx.op("sub", one, rest))),
        (2, far(ctx.op("sub", two, rest))),
    ]


def _zero_padded(ctx: Context, place: Value, extent: Dim, weight: Value | None) -> _Tap:
    """A tap that counts as zero beyond the edges; ``place`` is a whole number."""
    top = ctx.op("sub", _real(ctx, extent, place), 1.0)
    inside = ctx.op("and", ctx.op("ge", place, 0.0), ctx.op("le", place, top))
    return _Tap(ctx.cast(_clamped(ctx, place, top), dt.i64), weight, inside)


def _sampled(ctx: Context, x: Value, axes: Sequence[Sequence[_Tap]], batch_dims: int) -> Value:
    """Interpolates [*batch, *spatial, C] at coordinates given by taps for each spatial axis.

    Places, weights and conditions have the shape [*batch, *output]; so has the result, plus C.
    """
    total: Value | None = None
    for taps in product(*axes):
        places = [ctx.unsqueeze(t.place, (len(t.place.shape),)) for t in taps]
        rank = len(places[0].shape)
        where = places[0] if len(places) == 1 else ctx.op("concat", *places, axis=rank - 1)
        seen = ctx.op("gather_nd", x, where, batch_dims=batch_dims)
        inside = [t.inside for t in taps if t.inside is not None]
        if inside:
            every = reduce(lambda a, b: ctx.op("and", a, b), inside)
            zero = ctx.literal(0, x.dtype)
            seen = ctx.op("where", ctx.unsqueeze(every, (rank - 1,)), seen, zero)
        weights = [t.weight for t in taps if t.weight is not None]
        if weights:
            weight = reduce(lambda a, b: ctx.op("mul", a, b), weights)
            weight = ctx.cast(weight, x.dtype)
            seen = ctx.op("mul", seen, ctx.unsqueeze(weight, (rank - 1,)))
        total = seen if total is None else ctx.op("add", total, seen)
    assert total is not None
    return total


# ------------------------------------------------------------------ GridSample


def grid_sample(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Reads an image at normalised coordinates, the innermost axis first."""
    x, grid = image(ctx, node), node.input(1)
    spatial = x.shape[2:]
    if len(grid.shape) != len(x.shape) or not same_dim(grid.shape[-1], len(spatial)):
        node.broken(f"a grid of shape {grid.shape} for {len(spatial)} spatial dims")
    modes = {"bilinear": "linear", "bicubic": "cubic"}
    mode = modes.get(node.string("mode", "linear"), node.string("mode", "linear"))
    padding = node.string("padding_mode", "zeros")
    if mode not in ("nearest", "linear", "cubic") or padding not in _PADDINGS:
        node.broken(f"mode {mode!r} with padding {padding!r} is not known")
    if mode == "cubic" and padding == "border":
        # The standard's reference moves coordinates to the edge, runtimes only the taps.
        ctx.unsupported("cubic interpolation with border padding")
    aligned = bool(node.int("align_corners", 0))
    coordinates = widened(ctx, grid)
    axes: list[list[_Tap]] = []
    for i, extent in enumerate(spatial):
        at = len(spatial) - 1 - i
        part = ctx.slice_axis(coordinates, len(grid.shape) - 1, at, 1)
        where = _denormalised(ctx, ctx.squeeze(part, (len(grid.shape) - 1,)), extent, aligned)
        axes.append(_grid_taps(ctx, where, _Border(extent, aligned, padding), mode))
    result = _sampled(ctx, channels_last(ctx, widened(ctx, x)), axes, batch_dims=1)
    return (channels_first(ctx, ctx.cast(result, x.dtype)),)


def _denormalised(ctx: Context, where: Value, extent: Dim, aligned: bool) -> Value:
    """From [-1, 1] to elements; the ends are the outer elements' centres (aligned) or edges."""
    size = _real(ctx, extent, where)
    shifted = ctx.op("add", where, 1.0)
    if aligned:
        return ctx.op("mul", ctx.op("div", shifted, 2.0), ctx.op("sub", size, 1.0))
    return ctx.op("div", ctx.op("sub", ctx.op("mul", shifted, size), 1.0), 2.0)


@dataclass(frozen=True, slots=True)
class _Border:
    """What lies beyond the edges of an axis."""

    extent: Dim
    aligned: bool
    padding: str

    def ends(self, ctx: Context, like: Value) -> tuple[Value, Value]:
        """The first and the last coordinate that are inside."""
        size = _real(ctx, self.extent, like)
        low = ctx.literal(0.0 if self.aligned else -0.5, like.dtype)
        return low, ctx.op("sub", size, 1.0 if self.aligned else 0.5)

    def beyond(self, ctx: Context, where: Value) -> Value:
        """Whether a coordinate is outside."""
        low, high = self.ends(ctx, where)
        return ctx.op("or", ctx.op("lt", where, low), ctx.op("gt", where, high))


def _kept(ctx: Context, where: Value, border: _Border) -> Value:
    return where


def _stopped(ctx: Context, where: Value, border: _Border) -> Value:
    """Outside coordinates moved to the nearest element."""
    top = ctx.op("sub", _real(ctx, border.extent, where), 1.0)
    return ctx.op("where", border.beyond(ctx, where), _clamped(ctx, where, top), where)


def _reflected(ctx: Context, where: Value, border: _Border) -> Value:
    """Outside coordinates mirrored at the ends until they are inside."""
    low, high = border.ends(ctx, where)
    span = ctx.op("sub", high, low)
    # A single aligned element has no extent to mirror in.
    span = ctx.op("where", ctx.op("eq", span, 0.0), ctx.literal(1, span.dtype), span)
    twice = ctx.op("mul", span, 2.0)
    turn = ctx.op("mod", ctx.op("sub", where, low), twice)
    back = ctx.op("sub", twice, turn)
    folded = ctx.op("add", low, ctx.op("min", turn, back))
    return ctx.op("where", border.beyond(ctx, where), folded, where)


_PADDINGS: dict[str, Callable[[Context, Value, _Border], Value]] = {
    "zeros": _kept,
    "border": _stopped,
    "reflection": _reflected,
}


def _grid_taps(ctx: Context, where: Value, border: _Border, mode: str) -> list[_Tap]:
    def tap(place: Value, weight: Value | None) -> _Tap:
        if border.padding == "zeros":
            return _zero_padded(ctx, place, border.extent, weight)
        if border.padding == "reflection":
            place = _reflected(ctx, place, border)
        top = ctx.op("sub", _real(ctx, border.extent, place), 1.0)
        return _Tap(ctx.cast(_clamped(ctx, place, top), dt.i64), weight, None)

    if mode == "nearest":
        return [tap(_PADDINGS[border.padding](ctx, ctx.op("round", where), border), None)]
    moved = _PADDINGS[border.padding](ctx, where, border)
    base = ctx.op("floor", moved)
    rest = ctx.op("sub", moved, base)
    weights = _linear_weights(ctx, rest) if mode == "linear" else _cubic_weights(ctx, rest)
    return [tap(ctx.op("add", base, float(step)), weight) for step, weight in weights]


# ------------------------------------------------------------------ AffineGrid


def affine_grid(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Normalised coordinates of every element of an image, moved by an affine map."""
    theta = node.input(0)
    batch, _, *spatial = ctx.require_dims(node.input(1), "size")
    rank = len(spatial)
    if rank not in (2, 3) or theta.shape[1:] != (rank, rank + 1):
        node.broken(f"a map of shape {theta.shape} for {rank} spatial dims")
    aligned = bool(node.int("align_corners", 0))
    wide = widened(ctx, theta)
    if aligned and any(same_dim(d, 1) for d in spatial):
        ctx.unsupported("align_corners along an axis of one element")
    columns = []
    for axis in reversed(range(rank)):
        size = _real(ctx, spatial[axis], wide)
        ramp = ctx.op("iota", shape=(spatial[axis],), axis=0, dtype=wide.dtype)
        if aligned:
            steps = ctx.op("div", ctx.op("mul", ramp, 2.0), ctx.op("sub", size, 1.0))
        else:
            steps = ctx.op("div", ctx.op("add", ctx.op("mul", ramp, 2.0), 1.0), size)
        shape = tuple(d if a == axis else 1 for a, d in enumerate(spatial))
        line = ctx.reshape(ctx.op("sub", steps, 1.0), (*shape, 1))
        columns.append(ctx.broadcast_to(line, (*spatial, 1)))
    columns.append(ctx.full((*spatial, 1), 1, wide.dtype))
    points = ctx.op("concat", *columns, axis=rank)
    flat = ctx.reshape(points, (1, product_of(spatial), rank + 1))
    moved = ctx.op("matmul", flat, ctx.transpose(wide, (0, 2, 1)))
    return (ctx.cast(ctx.reshape(moved, (batch, *spatial, rank)), theta.dtype),)


# ------------------------------------------------------------------ RoiAlign


def roi_align(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Pools regions of interest to a fixed size, from samples on a grid within each bin."""
    x, regions, owners = image(ctx, node), node.input(1), node.input(2)
    if len(x.shape) != 4:
        node.broken(f"needs an image of rank 4, got rank {len(x.shape)}")
    height, width = node.int("output_height", 1), node.int("output_width", 1)
    samples = node.int("sampling_ratio", 0)
    if samples < 1:
        ctx.unsupported("sampling_ratio 0: the number of samples depends on data")
    mode = node.string("mode", "avg")
    transform = node.string("coordinate_transformation_mode", "half_pixel")
    half = transform == "half_pixel" if ctx.opset >= 16 else False
    wide = channels_last(ctx, widened(ctx, x))
    corners = ctx.op("mul", ctx.cast(regions, wide.dtype), node.float("spatial_scale", 1.0))
    corners = ctx.op("sub", corners, 0.5) if half else corners
    count = regions.shape[0]
    rows, row_ok = _bins(ctx, corners, 1, height, samples, x.shape[2], half)
    columns, column_ok = _bins(ctx, corners, 0, width, samples, x.shape[3], half)
    ok = ctx.op("and", _over_rows(ctx, row_ok), _over_columns(ctx, column_ok))
    owner = ctx.reshape(ctx.cast(owners, dt.i64), (count, 1, 1))
    grid = (count, height * samples, width * samples)
    owner = ctx.broadcast_to(owner, grid)
    parts: list[Value] = []
    for row, column in product(rows, columns):
        places = [
            owner,
            ctx.broadcast_to(_over_rows(ctx, row.place), grid),
            ctx.broadcast_to(_over_columns(ctx, column.place), grid),
        ]
        where = ctx.op("concat", *(ctx.unsqueeze(p, (3,)) for p in places), axis=3)
        seen = ctx.op("gather_nd", wide, where, batch_dims=0)
        assert row.weight is not None and column.weight is not None
        weight = ctx.op("mul", _over_rows(ctx, row.weight), _over_columns(ctx, column.weight))
        weight = ctx.op("where", ok, weight, ctx.literal(0, weight.dtype))
        parts.append(ctx.op("mul", seen, ctx.unsqueeze(weight, (3,))))
    combine = "add" if mode == "avg" else "max"
    every = reduce(lambda a, b: ctx.op(combine, a, b), parts)
    bins = ctx.reshape(every, (count, height, samples, width, samples, x.shape[1]))
    match mode:
        case "avg":
            pooled = ctx.op("div", ctx.reduce(bins, "sum", (2, 4)), float(samples * samples))
        case "max":
            pooled = ctx.reduce(bins, "max", (2, 4))
        case _:
            node.broken(f"mode must be avg or max, got {mode!r}")
    return (ctx.cast(channels_first(ctx, pooled), x.dtype),)


def _over_rows(ctx: Context, v: Value) -> Value:
    return ctx.unsqueeze(v, (2,))


def _over_columns(ctx: Context, v: Value) -> Value:
    return ctx.unsqueeze(v, (1,))


def _bins(
    ctx: Context, corners: Value, axis: int, bins: int, samples: int, extent: Dim, half: bool
) -> tuple[list[_Tap], Value]:
    """The taps of all samples of all regions along one axis, [R, bins * samples]."""
    start, end = (ctx.slice_axis(corners, 1, a, 1) for a in (axis, axis + 2))
    size = ctx.op("sub", end, start)
    if not half:
        size = ctx.op("max", size, 1.0)
    step = ctx.op("div", size, float(bins))
    ramp = ctx.op("iota", shape=(1, bins * samples), axis=1, dtype=corners.dtype)
    offsets = ctx.op("div", ctx.op("add", ramp, 0.5), float(samples))
    where = ctx.op("add", start, ctx.op("mul", offsets, step))
    limit = _real(ctx, extent, where)
    ok = ctx.op("and", ctx.op("ge", where, -1.0), ctx.op("le", where, limit))
    top = ctx.op("sub", limit, 1.0)
    inside = ctx.op("max", where, 0.0)
    low = ctx.op("min", ctx.op("floor", inside), top)
    rest = ctx.op(
        "where", ctx.op("ge", low, top), ctx.literal(0, low.dtype), ctx.op("sub", inside, low)
    )
    high = ctx.op("min", ctx.op("add", low, 1.0), top)
    weights = _linear_weights(ctx, rest)
    # A region far outside has huge coordinates: its samples weigh nothing, but must not overflow.
    places = (
        ctx.cast(ctx.op("where", ok, p, ctx.literal(0, p.dtype)), dt.i64) for p in (low, high)
    )
    return [_Tap(p, w, None) for p, (_, w) in zip(places, weights, strict=True)], ok


# ------------------------------------------------------------------ DeformConv


def deform_conv(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A convolution whose taps are moved by offsets that depend on data."""
    x, weight, offset = image(ctx, node), node.input(1), node.input(2)
    bias, mask = node.optional(3), node.optional(4)
    rank = len(x.shape) - 2
    kernel = tuple(k for k in weight.shape[2:] if isinstance(k, int))
    groups, parts = node.int("group", 1), node.int("offset_group", 1)
    batch, channels = x.shape[:2]
    outputs = weight.shape[0]
    if len(kernel) != rank or not isinstance(channels, int) or not isinstance(outputs, int):
        ctx.unsupported("a symbolic kernel or number of channels")
    if channels % parts or channels % groups or outputs % groups:
        node.broken(f"{channels} channels in {groups} groups and {parts} offset groups")
    windows = read_windows(ctx, node, x.shape[2:], kernel)
    strides = positive_ints(node, "strides", rank)
    taps, out = windows.taps, offset.shape[2:]
    wide = widened(ctx, x)
    # One image per offset group: [N, parts, *S, C / parts].
    grouped = ctx.reshape(wide, (batch, parts, channels // parts, *x.shape[2:]))
    grouped = ctx.transpose(grouped, (0, 1, *range(3, rank + 3), 2))
    moved = ctx.reshape(ctx.cast(offset, wide.dtype), (batch, parts, taps, rank, *out))
    axes: list[list[_Tap]] = []
    for axis in range(rank):
        delta = ctx.squeeze(ctx.slice_axis(moved, 3, axis, 1), (3,))
        where = ctx.op("add", delta, _resting(ctx, windows.dilations, kernel, axis, rank, wide))
        ramp = ctx.op("iota", shape=(out[axis],), axis=0, dtype=wide.dtype)
        ramp = ctx.op("mul", ramp, float(strides[axis]))
        ramp = ctx.op("sub", ramp, _real(ctx, windows.lo[axis], wide))
        line = ctx.reshape(ramp, (out[axis] if a == axis else 1 for a in range(rank)))
        where = ctx.op("add", where, line)
        base = ctx.op("floor", where)
        weights = _linear_weights(ctx, ctx.op("sub", where, base))
        axes.append(
            [
                _zero_padded(ctx, ctx.op("add", base, float(step)), x.shape[2 + axis], w)
                for step, w in weights
            ]
        )
    seen = _sampled(ctx, grouped, axes, batch_dims=2)
    if mask is not None:
        shares = ctx.reshape(ctx.cast(mask, wide.dtype), (batch, parts, taps, *out, 1))
        seen = ctx.op("mul", seen, shares)
    # [N, parts, taps, *out, C / parts] -> [N, groups, out, C / groups * taps]
    positions = product_of(out)
    seen = ctx.reshape(seen, (batch, parts, taps, positions, channels // parts))
    seen = ctx.reshape(
        ctx.transpose(seen, (0, 1, 4, 2, 3)), (batch, groups, channels // groups * taps, positions)
    )
    filters = ctx.reshape(
        ctx.cast(weight, wide.dtype), (groups, outputs // groups, channels // groups * taps)
    )
    y = ctx.reshape(ctx.op("matmul", filters, seen), (batch, outputs, *out))
    if bias is not None:
        y = ctx.op("add", y, ctx.reshape(ctx.cast(bias, wide.dtype), (outputs, *(1,) * rank)))
    return (ctx.cast(y, x.dtype),)


def _resting(
    ctx: Context,
    dilations: Sequence[int],
    kernel: Sequence[int],
    axis: int,
    rank: int,
    like: Value,
) -> Value:
    """Where each tap stands within the window along an axis, before it is moved."""
    taps = list(product(*map(range, kernel)))
    steps = [float(t[axis] * dilations[axis]) for t in taps]
    values = ctx.literal(np.array(steps), like.dtype)
    return ctx.reshape(values, (len(taps), *(1,) * rank))


CONVERTERS: dict[str, Converter] = {
    "AffineGrid": affine_grid,
    "DeformConv": deform_conv,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
}
