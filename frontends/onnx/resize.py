"""Converters of ONNX's Resize and Upsample: one axis after the other, by taps and weights.

Along each axis an output element lies at a coordinate of the input; the elements around it (taps)
are gathered and weighted. Where the extents are known, taps and weights are constant tables; a
symbolic extent computes them from a run-time ramp by the same formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from .context import Context, Converter
from .nn import widened
from .node import NodeView
from .windows import channels_first, channels_last

_MODES = ("nearest", "linear", "cubic")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
_TRANSFORMS = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize", "tf_half_pixel_for_nn",
)  # fmt: skip
# Transforms under which an integer factor repeats every element, whatever the extent.
# Up to this size an axis gets a table of its coordinates; beyond, they are computed in the graph.
_MOST_TABLE = 1 << 20
_REPEATING = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric")


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the attributes of a node say about every axis."""

    mode: str
    transform: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis to resize.

    Attributes:
        index: which axis.
        extent, size: elements before and after.
        scale: after by before, as the node gives it; None where it follows from the sizes.
        region: start and end of the region of interest, in parts of the extent.
    """

    index: int
    extent: Dim
    size: Dim
    scale: float | None
    region: tuple[float, float]

    @property
    def static(self) -> bool:
        return isinstance(self.extent, int) and isinstance(self.size, int)


# ------------------------------------------------------------------ reading nodes


def resize(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Resamples a tensor to another size along some axes."""
    x = node.input(0)
    if ctx.opset < 11:
        scales = _floats(ctx, node.input(1), "scales")
        axes = _scaled_axes(ctx, node, x, range(len(x.shape)), scales, None)
        return (_resized(ctx, node, x, axes, _old_rule(node, "simple")),)
    rank = len(x.shape)
    given = node.ints("axes") if ctx.opset >= 18 else None
    which = [ctx.axis(a, rank) for a in given] if given is not None else list(range(rank))
    rule = _rule(node)
    regions = None
    if rule.transform == "tf_crop_and_resize":
        regions = _floats(ctx, node.input(1), "roi")
        if len(regions) != 2 * len(which):
            node.broken(f"roi must be {2 * len(which)} numbers, got {len(regions)}")
    scales_value, sizes_value = _nonempty(node, 2), _nonempty(node, 3)
    if sizes_value is not None:
        sizes = ctx.require_dims(sizes_value, "sizes")
        if len(sizes) != len(which):
            node.broken(f"sizes must be {len(which)} numbers, got {len(sizes)}")
        axes = _sized_axes(ctx, node, x, which, sizes, regions)
    elif scales_value is not None:
        scales = _floats(ctx, scales_value, "scales")
        axes = _scaled_axes(ctx, node, x, which, scales, regions, rule.transform)
    else:
        node.broken("needs either scales or sizes")
    return (_resized(ctx, node, x, axes, rule),)


def upsample(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Resamples a tensor to a multiple of its size: Resize as it was before."""
    x = node.input(0)
    if ctx.opset >= 9:
        scales = _floats(ctx, node.input(1), "scales")
    elif node.has("scales"):
        scales = list(node.floats("scales") or ())
    else:
        scales = [1.0, 1.0, node.float("height_scale"), node.float("width_scale")]
    axes = _scaled_axes(ctx, node, x, range(len(x.shape)), scales, None)
    return (_resized(ctx, node, x, axes, _old_rule(node, "floor")),)


def _nonempty(node: NodeView, index: int) -> Value | None:
    """An operand that counts as left out when it has no elements."""
    found = node.optional(index)
    return None if found is None or found.shape == (0,) else found


def _floats(ctx: Context, value: Value, what: str) -> list[float]:
    return [float(v) for v in ctx.require_constant(value, what).reshape(-1)]


def _rule(node: NodeView) -> _Rule:
    mode = node.string("mode", "nearest")
    transform = node.string("coordinate_transformation_mode", "half_pixel")
    nearest = node.string("nearest_mode", "round_prefer_floor")
    for found, known in ((mode, _MODES), (transform, _TRANSFORMS), (nearest, _NEAREST[:-1])):
        if found not in known:
            node.broken(f"{found!r} is none of {', '.join(known)}")
    return _Rule(
        mode,
        transform,
        nearest,
        node.float("cubic_coeff_a", -0.75),
        bool(node.int("exclude_outside", 0)),
        bool(node.int("antialias", 0)),
        node.float("extrapolation_value", 0.0),
    )


def _old_rule(node: NodeView, nearest: str) -> _Rule:
    """The rule before opset 11, which had attributes for the mode only."""
    mode = {"bilinear": "linear"}.get(
        node.string("mode", "nearest"), node.string("mode", "nearest")
    )
    if mode not in ("nearest", "linear"):
        node.broken(f"mode must be nearest or linear, got {mode!r}")
    return _Rule(mode, "asymmetric", nearest, -0.75, False, False, 0.0)


def _region(regions: Sequence[float] | None, position: int, count: int) -> tuple[float, float]:
    return (0.0, 1.0) if regions is None else (regions[position], regions[position + count])


def _scaled_axes(
    ctx: Context,
    node: NodeView,
    x: Value,
    which: Sequence[int],
    scales: Sequence[float],
    regions: Sequence[float] | None,
    transform: str = "asymmetric",
) -> list[_Axis]:
    if len(scales) != len(which) or min(scales, default=1.0) <= 0:
        node.broken(f"scales must be {len(which)} positive numbers, got {list(scales)}")
    axes = []
    for position, (index, scale) in enumerate(zip(which, scales, strict=True)):
        extent = x.shape[index]
        size = _scaled_size(ctx, extent, scale, transform)
        if transform in ("align_corners", "tf_crop_and_resize") and isinstance(extent, int):
            # The standard's text and its tests disagree about the last element's place then.
            whole = float(np.float32(extent) * np.float32(scale)) == size
            if not whole:
                ctx.unsupported(f"{transform} with a scale that gives a fraction of an element")
        axes.append(_Axis(index, extent, size, scale, _region(regions, position, len(which))))
    return axes


def _scaled_size(ctx: Context, extent: Dim, scale: float, transform: str) -> Dim:
    if isinstance(extent, int):
        # The standard's shape inference multiplies in f32.
        return math.floor(np.float32(extent) * np.float32(scale))
    exact = Fraction(scale)
    fractional = exact.denominator > 1 and transform in ("align_corners", "tf_crop_and_resize")
    if fractional or exact.denominator > 64 or exact.numerator > 1 << 16:
        ctx.unsupported(f"scale {scale} of a symbolic extent")
    return dim(as_expr(extent) * exact.numerator // exact.denominator)


def _sized_axes(
    ctx: Context,
    node: NodeView,
    x: Value,
    which: Sequence[int],
    sizes: Sequence[Dim],
    regions: Sequence[float] | None,
) -> list[_Axis]:
    count = len(which)
    axes = [
        _Axis(index, x.shape[index], size, None, _region(regions, i, count))
        for i, (index, size) in enumerate(zip(which, sizes, strict=True))
    ]
    policy = node.string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return axes
    if policy not in ("not_larger", "not_smaller"):
        node.broken(f"keep_aspect_ratio_policy {policy!r} is not known")
    ratios = [
        a.size / a.extent for a in axes if isinstance(a.size, int) and isinstance(a.extent, int)
    ]
    if len(ratios) != count:
        ctx.unsupported(f"{policy} of symbolic sizes")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [
        replace(a, size=math.floor(scale * a.extent + 0.5), scale=scale)
        for a in axes
        if isinstance(a.extent, int)
    ]


# ------------------------------------------------------------------ all axes


def _resized(ctx: Context, node: NodeView, x: Value, axes: Sequence[_Axis], rule: _Rule) -> Value:
    moving = [a for a in axes if not _is_identity(a, rule)]
    if any(same_dim(a.extent, 0) for a in moving):
        node.broken("an axis without elements cannot be resized")
    if not moving:
        return x
    if rule.mode != "nearest" and not x.dtype.is_float:
        ctx.unsupported(f"{rule.mode} interpolation of {x.dtype}")
    if rule.antialias and rule.mode != "nearest":
        ctx.unsupported("antialias")
    # Images are channels-last around windows; resizing them so lets the transposes cancel.
    rank = len(x.shape)
    turned = rank > 2 and all(a.index >= 2 for a in moving)
    result = channels_last(ctx, x) if turned else x
    result = result if rule.mode == "nearest" else widened(ctx, result)
    for axis in moving:
        placed = replace(axis, index=axis.index - 1) if turned else axis
        result = _along(ctx, result, placed, rule)
    result = ctx.cast(result, x.dtype)
    return channels_first(ctx, result) if turned else result


def _is_identity(axis: _Axis, rule: _Rule) -> bool:
    if not same_dim(axis.extent, axis.size):
        return False
    if rule.transform == "tf_crop_and_resize":
        return axis.region == (0.0, 1.0)
    if axis.scale not in (None, 1.0):
        return False
    # The one transform that moves elements even at scale 1.
    return rule.transform != "tf_half_pixel_for_nn"


def _along(ctx: Context, x: Value, axis: _Axis, rule: _Rule) -> Value:
    if axis.static and isinstance(axis.size, int) and axis.size <= _MOST_TABLE:
        return _static(ctx, x, axis, rule)
    if rule.mode == "nearest" and rule.transform in _REPEATING and rule.nearest != "ceil":
        factor = axis.scale if axis.scale is not None else _whole_factor(axis)
        if factor is not None and factor == int(factor) and _repeats(rule, int(factor)):
            return _repeated(ctx, x, axis, int(factor))
    return _symbolic(ctx, x, axis, rule)


# ------------------------------------------------------------------ coordinates and taps


def _coordinates(axis: _Axis, rule: _Rule, real: type[np.floating]) -> np.ndarray:
    """Where each output element lies in the input, for known extents.

    Nearest neighbours are found in f32, as other runtimes find them: in f64 some coordinates that
    are meant to be whole fall just below.
    """
    assert isinstance(axis.extent, int) and isinstance(axis.size, int)
    places = np.arange(axis.size, dtype=real)
    extent, size = real(axis.extent), real(axis.size)
    scale = real(axis.scale) if axis.scale is not None else size / extent
    width = scale * extent if axis.scale is not None else size
    half, one = real(0.5), real(1)
    match rule.transform:
        case "asymmetric":
            found = places / scale
        case "align_corners":
            found = places * 0 if width == 1 else places * (extent - one) / (width - one)
        case "pytorch_half_pixel" if axis.size == 1:
            found = places * 0
        case "half_pixel" | "pytorch_half_pixel":
            found = (places + half) / scale - half
        case "half_pixel_symmetric":
            offset = extent / 2 * (one - size / (scale * extent))
            found = offset + (places + half) / scale - half
        case "tf_half_pixel_for_nn":
            found = (places + half) / scale
        case _:
            start, end = (real(r) for r in axis.region)
            if axis.size == 1:
                found = places + half * (start + end) * (extent - one)
            else:
                found = start * (extent - one) + places * (end - start) * (extent - one) / (
                    width - one
                )
    return np.asarray(found, real)


def _nearest_table(axis: _Axis, rule: _Rule) -> np.ndarray:
    found = _coordinates(axis, rule, np.float32)
    assert isinstance(axis.extent, int) and isinstance(axis.size, int)
    match rule.nearest:
        case "floor":
            index = np.floor(found)
        case "ceil":
            index = np.ceil(found)
        case "round_prefer_floor":
            index = np.ceil(found - np.float32(0.5))
        case "round_prefer_ceil":
            index = np.floor(found + np.float32(0.5))
        case _:
            # Before opset 11 nothing was said: up when shrinking, down when growing.
            shrinks = (axis.scale or axis.size / axis.extent) < 1
            index = np.ceil(found) if shrinks else np.floor(found)
    return np.asarray(np.clip(index, 0, axis.extent - 1), np.int64)


def _static(ctx: Context, x: Value, axis: _Axis, rule: _Rule) -> Value:
    assert isinstance(axis.extent, int)
    if rule.mode == "nearest":
        result = _picked(ctx, x, axis, _nearest_table(axis, rule))
    else:
        found = _coordinates(axis, rule, np.float64)
        base = np.floor(found)
        rest = found - base
        taps: Sequence[tuple[int, np.ndarray]]
        taps = _linear_taps(rest) if rule.mode == "linear" else _cubic_taps(rest, rule.cubic)
        places = [base.astype(np.int64) + step for step, _ in taps]
        weights = [weight for _, weight in taps]
        if rule.exclude_outside:
            inside = [(p >= 0) & (p < axis.extent) for p in places]
            weights = [np.where(i, w, 0.0) for i, w in zip(inside, weights, strict=True)]
            total = np.sum(weights, axis=0)
            weights = [w / np.where(total == 0, 1.0, total) for w in weights]
        result = _weighted(
            ctx, x, axis,
            [ctx.literal(np.clip(p, 0, axis.extent - 1)) for p in places],
            [ctx.literal(w, x.dtype) for w in weights],
        )  # fmt: skip
    if rule.transform != "tf_crop_and_resize":
        return result
    found = _coordinates(axis, rule, np.float64)
    outside = (found < 0) | (found > axis.extent - 1)
    if not outside.any():
        return result
    mask = _across(ctx, ctx.literal(outside), len(x.shape), axis.index)
    return ctx.op("where", mask, ctx.literal(rule.extrapolation, x.dtype), result)


def _linear_taps(rest: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(0, 1 - rest), (1, rest)]


def _cubic_taps(rest: np.ndarray, a: float) -> list[tuple[int, np.ndarray]]:
    """Keys' cubic convolution: weights of the elements at -1, 0, 1, 2 around a coordinate."""

    def near(s: np.ndarray) -> np.ndarray:
        return np.asarray(((a + 2) * s - (a + 3)) * s * s + 1)

    def far(s: np.ndarray) -> np.ndarray:
        return np.asarray(((a * s - 5 * a) * s + 8 * a) * s - 4 * a)

    return [(-1, far(rest + 1)), (0, near(rest)), (1, near(1 - rest)), (2, far(2 - rest))]


def _across(ctx: Context, vector: Value, rank: int, axis: int) -> Value:
    (size,) = vector.shape
    return ctx.reshape(vector, (size if i == axis else 1 for i in range(rank)))


def _weighted(
    ctx: Context, x: Value, axis: _Axis, places: Sequence[Value], weights: Sequence[Value]
) -> Value:
    rank = len(x.shape)
    total: Value | None = None
    for place, weight in zip(places, weights, strict=True):
        seen = ctx.op("gather", x, place, axis=axis.index)
        part = ctx.op("mul", seen, _across(ctx, weight, rank, axis.index))
        total = part if total is None else ctx.op("add", total, part)
    assert total is not None
    return total


# ------------------------------------------------------------------ nearest neighbours


def _picked(ctx: Context, x: Value, axis: _Axis, table: np.ndarray) -> Value:
    """Gathers by a constant table; regular tables become movement without indices."""
    assert isinstance(axis.extent, int)
    if len(table) and len(table) % axis.extent == 0:
        factor = len(table) // axis.extent
        if (table == np.arange(len(table)) // factor).all():
            return x if factor == 1 else _repeated(ctx, x, axis, factor)
    steps = np.diff(table)
    if len(steps) and steps[0] >= 1 and (steps == steps[0]).all():
        return ctx.slice_axis(x, axis.index, int(table[0]), len(table), int(steps[0]))
    return ctx.op("gather", x, ctx.literal(table), axis=axis.index)


def _repeated(ctx: Context, x: Value, axis: _Axis, factor: int) -> Value:
    """Every element ``factor`` times."""
    shape, at = x.shape, axis.index
    spread = ctx.unsqueeze(x, (at + 1,))
    spread = ctx.broadcast_to(spread, (*shape[: at + 1], factor, *shape[at + 1 :]))
    return ctx.reshape(spread, (*shape[:at], dim(as_expr(shape[at]) * factor), *shape[at + 1 :]))


def _whole_factor(axis: _Axis) -> int | None:
    """The integer that the size is of the extent, where it is for all values of the symbols."""
    for factor in range(1, 17):
        if same_dim(axis.size, dim(as_expr(axis.extent) * factor)):
            return factor
    return None


def _repeats(rule: _Rule, factor: int) -> bool:
    """Whether the rule repeats every element, tried on one extent: the others follow alike."""
    table = _nearest_table(_Axis(0, 7, 7 * factor, float(factor), (0.0, 1.0)), rule)
    return bool((table == np.arange(7 * factor) // factor).all())


# ------------------------------------------------------------------ symbolic extents


def _symbolic(ctx: Context, x: Value, axis: _Axis, rule: _Rule) -> Value:
    if rule.transform == "tf_crop_and_resize" or rule.mode == "cubic":
        ctx.unsupported(f"{rule.mode} {rule.transform} of a symbolic extent")
    if rule.nearest == "simple" or rule.exclude_outside:
        ctx.unsupported("nearest before opset 11, or exclude_outside, of a symbolic extent")
    found = _symbolic_coordinates(ctx, axis, rule)
    top = ctx.op("sub", _real(ctx, axis.extent), 1.0)

    def place(where: Value) -> Value:
        return ctx.cast(ctx.op("min", ctx.op("max", where, 0.0), top), dt.i64)

    if rule.mode == "nearest":
        rounded: dict[str, Callable[[], Value]] = {
            "floor": lambda: ctx.op("floor", found),
            "ceil": lambda: ctx.op("ceil", found),
            "round_prefer_floor": lambda: ctx.op("ceil", ctx.op("sub", found, 0.5)),
            "round_prefer_ceil": lambda: ctx.op("floor", ctx.op("add", found, 0.5)),
        }
        return ctx.op("gather", x, place(rounded[rule.nearest]()), axis=axis.index)
    base = ctx.op("floor", found)
    rest = ctx.op("sub", found, base)
    weights = [ctx.op("sub", ctx.literal(1, dt.f32), rest), rest]
    places = [place(base), place(ctx.op("add", base, 1.0))]
    return _weighted(ctx, x, axis, places, [ctx.cast(w, x.dtype) for w in weights])


def _real(ctx: Context, size: Dim) -> Value:
    return ctx.cast(ctx.dim_value(size), dt.f32)


def _symbolic_coordinates(ctx: Context, axis: _Axis, rule: _Rule) -> Value:
    """``_coordinates`` as operations on run-time values, in f32."""
    ramp = ctx.op("iota", shape=(axis.size,), axis=0, dtype=dt.f32)
    extent, size = _real(ctx, axis.extent), _real(ctx, axis.size)
    scale = ctx.op("div", size, extent) if axis.scale is None else ctx.literal(axis.scale, dt.f32)
    width = size if axis.scale is None else ctx.op("mul", scale, extent)
    centres = ctx.op("div", ctx.op("add", ramp, 0.5), scale)
    single = ctx.op("eq", width if rule.transform == "align_corners" else size, 1.0)
    zero = ctx.literal(0, dt.f32)
    match rule.transform:
        case "asymmetric":
            return ctx.op("div", ramp, scale)
        case "align_corners":
            above = ctx.op("mul", ramp, ctx.op("sub", extent, 1.0))
            below = ctx.op("where", single, ctx.literal(1, dt.f32), ctx.op("sub", width, 1.0))
            return ctx.op("where", single, zero, ctx.op("div", above, below))
        case "half_pixel":
            return ctx.op("sub", centres, 0.5)
        case "pytorch_half_pixel":
            return ctx.op("where", single, zero, ctx.op("sub", centres, 0.5))
        case "half_pixel_symmetric":
            exact = ctx.op("div", size, ctx.op("mul", scale, extent))
            kept = ctx.op("sub", ctx.literal(1, dt.f32), exact)
            offset = ctx.op("mul", ctx.op("div", extent, 2.0), kept)
            return ctx.op("sub", ctx.op("add", offset, centres), 0.5)
        case _:
            return centres


CONVERTERS: dict[str, Converter] = {
    "Resize": resize,
    "Upsample": upsample,
}
