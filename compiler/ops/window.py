"""Reductions over sliding windows: reduce_window, and the geometry that conv shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import dtype as dt
from ..dtype import from_numpy
from ..graph.ir import TensorType
from ..tensor.compute import Compute
from ..tensor.ir import (
    Axis,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Reduce,
    Select,
    Var,
    as_expr,
    conjunction,
    le,
    lt,
)
from ..tensor.simplify import dim
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    dims_attr,
    expect_inputs,
    ints_attr,
    str_attr,
)
from .reduce import accumulator, widened

_OPS = ("max", "sum")


@dataclass(frozen=True, slots=True)
class Slide:
    """How a window slides along one dim: tap k of position o is ``o*stride - lo + k*dilation``.

    Attributes:
        extent: the dim that it slides along.
        size: taps of the window, at least 1.
        stride, dilation: elements between positions, and between taps; at least 1.
        lo, hi: padding before and after; below 0, so many elements are left out instead.
    """

    extent: Dim
    size: Dim
    stride: int
    dilation: int
    lo: Dim
    hi: Dim

    def check(self, where: str) -> None:
        """Requires the ranges above and at least one position, as far as they are constant.

        Raises:
            OpError: names ``where`` and both values.
        """
        if isinstance(self.size, int) and self.size < 1:
            raise OpError(f"{where}: a window needs 1 tap or more, got {self.size}")
        if self.stride < 1 or self.dilation < 1:
            raise OpError(
                f"{where}: stride and dilation must be 1 or more,"
                f" got {self.stride} and {self.dilation}"
            )
        room = self._room()
        if isinstance(room, int) and room < 0 and self.size != 1:
            raise OpError(
                f"{where}: a window of {self.size} taps at dilation {self.dilation} does not fit"
                f" into {self.extent} elements padded by {self.lo} and {self.hi}"
            )

    def positions(self) -> Dim:
        """The number of positions of the window: ``(extent + lo + hi - span) // stride + 1``."""
        return dim(as_expr(self._room()) // self.stride + 1)

    def _room(self) -> Dim:
        span = (as_expr(self.size) - 1) * self.dilation + 1
        return dim(as_expr(self.extent) + self.lo + self.hi - span)

    def index(self, position: Expr, tap: Expr | None) -> Expr:
        """The element that a tap reads (no tap: the first), maybe out of bounds."""
        index = position if self.stride == 1 else position * self.stride
        if self.lo != 0:
            index = index - self.lo
        if tap is None:
            return index
        return index + (tap if self.dilation == 1 else tap * self.dilation)

    def guards(self, index: Expr) -> list[Expr]:
        """What holds where an index is in bounds; nothing for a side that is not padded."""
        guards = [le(0, index)] if _may_pad(self.lo) else []
        return [*guards, lt(index, as_expr(self.extent))] if _may_pad(self.hi) else guards

    def tap_axis(self, name: str) -> Axis | None:
        """The axis of the window's taps, or None for a window of one."""
        return None if self.size == 1 else Axis(Var(name), self.size)

    def taken(self, tap: int, count: int) -> slice:
        """The padded elements that one tap reads at ``count`` positions, as a NumPy slice."""
        start = tap * self.dilation
        return slice(start, start + (count - 1) * self.stride + 1 if count else start, self.stride)


def _may_pad(amount: Dim) -> bool:
    """Whether there may be padding on a side."""
    return not isinstance(amount, int) or amount > 0


def spatial_names(prefix: str, count: int) -> list[str]:
    """Names for spatial axes: w; h, w; d, h, w; numbers beyond three, after the prefix."""
    letters = "dhw"[-count:] if 0 < count <= 3 else map(str, range(count))
    return [prefix + letter for letter in letters]


def pad_with(x: np.ndarray, slides: Sequence[Slide], value: float) -> np.ndarray:
    """Pads every dim by its slide's lo and hi (ints), or cuts off what they say below 0."""
    width = [(as_int(s.lo), as_int(s.hi)) for s in slides]
    cut = [slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, width, strict=True)]
    x, width = x[tuple(cut)], [(max(lo, 0), max(hi, 0)) for lo, hi in width]
    if not any(lo or hi for lo, hi in width):
        return x
    return np.pad(x, width, constant_values=value)


def as_int(size: Dim) -> int:
    """A dim that references are given, where it is a number."""
    assert isinstance(size, int), size
    return size


# ------------------------------------------------------------------ reduce_window


def _slides(shape: tuple[Dim, ...], attrs: Attrs) -> list[Slide]:
    rank = len(shape)
    return [
        Slide(*of_dim)
        for of_dim in zip(
            shape,
            dims_attr(attrs, "window", rank),
            ints_attr(attrs, "strides", rank),
            ints_attr(attrs, "dilations", rank),
            dims_attr(attrs, "lo", rank),
            dims_attr(attrs, "hi", rank),
            strict=True,
        )
    ]


def _infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    (x,) = types
    op = str_attr(attrs, "op", _OPS)
    if x.dtype is dt.bool_:
        raise OpError(f"{op} over windows of bool has no type of its own; cast first")
    slides = _slides(x.shape, attrs)
    for d, slide in enumerate(slides):
        slide.check(f"axis {d}")
    return (TensorType(x.dtype, tuple(s.positions() for s in slides)),)


def _reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    dtype = from_numpy(x.dtype)
    assert dtype is not None
    slides = _slides(x.shape, attrs)
    shape = tuple(as_int(s.positions()) for s in slides)
    summed = str_attr(attrs, "op", _OPS) == "sum"
    identity = 0 if summed else dtype.lowest
    wide = widened(x)
    if summed and dtype.is_float:
        wide = wide.astype(np.float64)
    padded = pad_with(wide, slides, identity)
    total = np.full(shape, identity, wide.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for taps in np.ndindex(*(as_int(s.size) for s in slides)):
            window = tuple(s.taken(k, n) for s, k, n in zip(slides, taps, shape, strict=True))
            if summed:
                total += padded[window]
            else:
                np.maximum(total, padded[window], out=total)
        return (total.astype(x.dtype),)


def _compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (x,), (y,) = inputs, outputs
    op = str_attr(attrs, "op", _OPS)
    slides = _slides(x.shape, attrs)
    sliding = [d for d, s in enumerate(slides) if s.size != 1]
    names = dict(zip(sliding, spatial_names("", len(sliding)), strict=True))
    out = tuple(
        Axis(Var(f"o{names[d]}" if d in names else f"i{d}"), extent)
        for d, extent in enumerate(y.shape)
    )
    taps = {d: Axis(Var(f"k{names[d]}"), slides[d].size) for d in sliding}
    indices, guards = [], []
    for d, slide in enumerate(slides):
        index = slide.index(out[d].var, taps[d].var if d in taps else None)
        indices.append(index)
        guards += slide.guards(index)
    wide = accumulator(x.dtype)
    value: Expr = Load(x, indices)
    if wide is not x.dtype:
        value = Cast(value, wide)
    if guards:
        identity = 0 if op == "sum" else x.dtype.lowest
        value = Select(conjunction(guards), value, Const(identity, wide))
    if taps:
        value = Reduce("sum" if op == "sum" else "max", taps.values(), value)
    return (Compute(y, out, value if wide is x.dtype else Cast(value, x.dtype)),)


def _samples() -> Sequence[Sample]:
    rng = np.random.default_rng(3)
    samples = []

    def add(x: np.ndarray, note: str, **given: tuple[int, ...]) -> None:
        zeros, ones = (0,) * x.ndim, (1,) * x.ndim
        usual = {"window": ones, "strides": ones, "lo": zeros, "hi": zeros, "dilations": ones}
        for op in _OPS:
            samples.append(Sample((x,), {**usual, **given, "op": op}, f"{op}: {note}"))

    image = rng.standard_normal((2, 7, 9, 5)).astype(np.float32)
    pool: dict[str, tuple[int, ...]] = {"window": (1, 3, 3, 1), "strides": (1, 2, 2, 1)}
    add(image, "3x3 stride 2", **pool)
    add(image, "padded all around", lo=(0, 1, 1, 0), hi=(0, 1, 1, 0), **pool)
    add(image, "padded after only", hi=(0, 2, 1, 0), **pool)
    add(image, "padded before only", lo=(0, 1, 2, 0), **pool)
    add(image, "dilated", window=(1, 2, 3, 1), dilations=(1, 3, 2, 1), lo=(0, 1, 0, 0))
    add(image, "window of everything", window=(1, 7, 9, 1))
    add(image, "stride beyond the window", window=(1, 1, 2, 1), strides=(1, 3, 4, 1))
    add(image, "window of one, padded", lo=(0, 1, 0, 0), hi=(0, 0, 2, 0))
    add(image, "padding beyond the window", window=(1, 2, 2, 1), lo=(0, 3, 0, 0), hi=(0, 3, 3, 0))
    add(image, "edges left out", lo=(0, -1, 1, 0), hi=(0, 1, -2, 0), **pool)
    add(image[0, 0], "vector of rows", window=(3, 1), lo=(1, 0), hi=(1, 0))
    add(image[0, :, :, 0], "all dims slide", window=(2, 3), strides=(2, 1), lo=(1, 0), hi=(0, 1))
    add(image[0, 0, :, 0], "1-d", window=(4,), strides=(2,), hi=(1,))
    volume = rng.standard_normal((1, 4, 5, 6, 3)).astype(np.float32)
    add(volume, "3-d", window=(1, 2, 2, 3, 1), strides=(1, 2, 1, 2, 1), lo=(0, 0, 1, 1, 0))
    add(np.array([[1, np.nan, -np.inf, np.inf]], np.float32), "nan", window=(1, 2), lo=(0, 1))
    add((image * 20).astype(np.int8), "i8", lo=(0, 1, 1, 0), hi=(0, 1, 1, 0), **pool)
    add((image * 20).astype(np.uint8), "u8", lo=(0, 1, 1, 0), hi=(0, 1, 1, 0), **pool)
    add(image.astype(np.float64), "f64", **pool)
    add(image.astype(dt.f16.numpy), "f16", lo=(0, 1, 1, 0), hi=(0, 1, 1, 0), **pool)
    add(image.astype(dt.bf16.numpy), "bf16", **pool)
    add(np.zeros((0, 7, 9, 5), np.float32), "no batch", **pool)
    return samples


WINDOW: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="reduce_window",
            kind="window",
            summary="y[o] = the maximum or sum of x[o*stride - lo + k*dilation] over taps k.",
            attrs=("op", "window", "strides", "lo", "hi", "dilations"),
            infer=_infer,
            reference=_reference,
            compute=_compute,
            loops=None,
            samples=_samples,
        ),
    )
}
