"""Contractions: matmul, conv.

Both keep the sums of 16-bit floats in f32, and round them at the end. Under ``wide`` they do not
round: the result is of the type that the sums are kept in, so that what follows (a bias, an
activation) is computed before the one rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .. import dtype as dt
from ..dtype import DType
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
)
from ..tensor.simplify import dim, same_dim
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    bool_attr,
    broadcast_shapes,
    dim_text,
    dims_attr,
    expect_inputs,
    expect_same_dtype,
    int_attr,
    ints_attr,
    shape_text,
)
from .reduce import accumulator, widened
from .window import Slide, as_int, pad_with, spatial_names

_ZERO = Const(0)


def _product(a: Expr, b: Expr, wide: DType) -> Expr:
    if a.dtype is wide:
        return a * b
    return Cast(a, wide) * Cast(b, wide)


def _result_type(dtype: DType, attrs: Attrs) -> DType:
    return accumulator(dtype) if bool_attr(attrs, "wide") else dtype


def _narrowed(total: Expr, dtype: DType) -> Expr:
    return total if total.dtype is dtype else Cast(total, dtype)


# ------------------------------------------------------------------ matmul


def _matmul_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 2)
    a, b = types
    both = f"{shape_text(a.shape)} and {shape_text(b.shape)}"
    if expect_same_dtype(types) is dt.bool_:
        raise OpError(f"product of {both}: bool has none; cast first")
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise OpError(f"needs matrices, got {both}; reshape vectors first")
    if not same_dim(a.shape[-1], b.shape[-2]):
        raise OpError(
            f"inner dims of {both} differ: {dim_text(a.shape[-1])} against {dim_text(b.shape[-2])}"
        )
    batch = broadcast_shapes((a.shape[:-2], b.shape[:-2]))
    dtype = _result_type(a.dtype, attrs)
    return (TensorType(dtype, (*batch, a.shape[-2], b.shape[-1])),)


def _matmul_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    a, b = inputs
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.matmul(widened(a), widened(b))
        return (total if bool_attr(attrs, "wide") else total.astype(a.dtype, copy=False),)


def _matmul_compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (a, b), (c,) = inputs, outputs
    rank = len(c.shape)
    names = [*(f"b{d}" for d in range(rank - 2)), "m", "n"]
    out = tuple(Axis(Var(n), extent) for n, extent in zip(names, c.shape, strict=True))
    k = Axis(Var("k"), a.shape[-1])

    def batch(shape: tuple[Dim, ...]) -> list[Expr]:
        axes = out[rank - len(shape) : -2]
        return [
            axis.var if same_dim(extent, axis.extent) else _ZERO
            for extent, axis in zip(shape[:-2], axes, strict=True)
        ]

    left = Load(a, [*batch(a.shape), out[-2].var, k.var])
    right = Load(b, [*batch(b.shape), k.var, out[-1].var])
    total = Reduce("sum", (k,), _product(left, right, accumulator(a.dtype)))
    return (Compute(c, out, _narrowed(total, c.dtype)),)


def _matmul_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(4)
    samples = []

    def add(
        a: tuple[int, ...],
        b: tuple[int, ...],
        note: str,
        dtype: DType = dt.f32,
        wide: bool = False,
    ) -> None:
        x, y = rng.standard_normal(a), rng.standard_normal(b)
        if not dtype.is_float:
            x, y = np.round(x * 40), np.round(y * 40)
        if not dtype.is_signed:
            x, y = abs(x), abs(y)
        arrays = x.astype(dtype.numpy), y.astype(dtype.numpy)
        samples.append(Sample(arrays, {"wide": wide}, note))

    add((4, 5), (5, 6), "plain")
    add((1, 1), (1, 1), "smallest")
    add((1, 300), (300, 1), "inner product")
    add((33, 1), (1, 65), "outer product")
    add((1, 64), (64, 257), "one row")
    add((129, 64), (64, 1), "one column")
    add((97, 83), (83, 101), "odd sizes")
    add((3, 0), (0, 4), "empty inner dim gives zeros")
    add((0, 3), (3, 4), "no rows")
    add((2, 3, 4, 5), (2, 3, 5, 6), "batches")
    add((2, 1, 4, 5), (1, 3, 5, 6), "batches broadcast both ways")
    add((3, 4, 5), (5, 6), "right without batch")
    add((4, 5), (2, 3, 5, 6), "left without batch")
    add((2, 3, 4, 5), (3, 5, 6), "right with fewer batch dims")
    for dtype in (dt.f64, dt.f16, dt.bf16, dt.i32, dt.i64, dt.i8, dt.u8):
        add((7, 40), (40, 9), dtype.name, dtype)
        add((3, 70, 40), (40, 65), f"{dtype.name}, wide", dtype, wide=True)
    with_nan = np.array([[np.nan, 1.0], [0.0, np.inf]], np.float32)
    given = with_nan, np.eye(2, dtype=np.float32)
    samples.append(Sample(given, {"wide": False}, "nan and infinity"))
    return samples


# ------------------------------------------------------------------ conv


def _conv_slides(x: tuple[Dim, ...], w: tuple[Dim, ...], attrs: Attrs) -> list[Slide]:
    spatial = len(x) - 2
    return [
        Slide(*of_dim)
        for of_dim in zip(
            x[1:-1],
            w[:-2],
            ints_attr(attrs, "strides", spatial),
            ints_attr(attrs, "dilations", spatial),
            dims_attr(attrs, "lo", spatial),
            dims_attr(attrs, "hi", spatial),
            strict=True,
        )
    ]


def _conv_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 2)
    x, w = types
    both = f"x {shape_text(x.shape)} and w {shape_text(w.shape)}"
    if expect_same_dtype(types) is dt.bool_:
        raise OpError(f"{both}: bool has no product; cast first")
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise OpError(f"needs one rank of 3 or more, got {both}")
    groups = int_attr(attrs, "groups")
    outputs = w.shape[-1]
    if groups < 1 or not same_dim(dim(as_expr(outputs) % groups), 0):
        raise OpError(f"{both}: {groups} groups do not divide {dim_text(outputs)} output channels")
    if not same_dim(x.shape[-1], dim(as_expr(w.shape[-2]) * groups)):
        raise OpError(
            f"{both}: {dim_text(x.shape[-1])} input channels are not"
            f" {groups} groups of {dim_text(w.shape[-2])}"
        )
    slides = _conv_slides(x.shape, w.shape, attrs)
    for d, slide in enumerate(slides):
        slide.check(f"spatial axis {d} of {both}")
    spatial = tuple(s.positions() for s in slides)
    return (TensorType(_result_type(x.dtype, attrs), (x.shape[0], *spatial, outputs)),)


def _conv_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, w = inputs
    groups = int_attr(attrs, "groups")
    slides = _conv_slides(x.shape, w.shape, attrs)
    spatial = tuple(as_int(s.positions()) for s in slides)
    whole = Slide(0, 1, 1, 1, 0, 0)
    padded = pad_with(widened(x), [whole, *slides, whole], 0)
    padded = padded.reshape(*padded.shape[:-1], groups, -1) if groups > 1 else padded
    kernel = widened(w)
    inner, outer = w.shape[-2], w.shape[-1]
    total = np.zeros((x.shape[0], *spatial, outer), kernel.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for taps in np.ndindex(*w.shape[:-2]):
            window = [s.taken(k, n) for s, k, n in zip(slides, taps, spatial, strict=True)]
            seen = padded[(slice(None), *window)]
            if groups == 1:
                total += seen @ kernel[taps]
                continue
            parts = kernel[taps].reshape(inner, groups, outer // groups)
            total += np.einsum("...gc,cgo->...go", seen, parts).reshape(total.shape)
    return (total if bool_attr(attrs, "wide") else total.astype(x.dtype, copy=False),)


def _conv_compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (x, w), (y,) = inputs, outputs
    groups = int_attr(attrs, "groups")
    slides = _conv_slides(x.shape, w.shape, attrs)
    names = ["n", *spatial_names("o", len(slides)), "oc"]
    out = tuple(Axis(Var(n), extent) for n, extent in zip(names, y.shape, strict=True))
    n, oc = out[0].var, out[-1].var
    over: list[Axis] = []
    taps: list[Expr] = []
    indices: list[Expr] = []
    guards: list[Expr] = []
    tap_names = spatial_names("k", len(slides))
    for axis, slide, name in zip(out[1:-1], slides, tap_names, strict=True):
        tap = slide.tap_axis(name)
        if tap is not None:
            over.append(tap)
        index = slide.index(axis.var, None if tap is None else tap.var)
        taps.append(_ZERO if tap is None else tap.var)
        indices.append(index)
        guards += slide.guards(index)
    inner = w.shape[-2]
    channel: Expr = _ZERO
    if inner != 1:
        over.append(Axis(Var("ci"), inner))
        channel = over[-1].var
    source = channel
    if groups > 1:
        per_group = dim(as_expr(w.shape[-1]) // groups)
        group = oc if per_group == 1 else oc // per_group
        source = group if inner == 1 else group * inner + channel
    value: Expr = Load(x, [n, *indices, source])
    if guards:
        value = Select(conjunction(guards), value, Const(0, x.dtype))
    total = _product(value, Load(w, [*taps, channel, oc]), accumulator(x.dtype))
    if over:
        total = Reduce("sum", over, total)
    return (Compute(y, out, _narrowed(total, y.dtype)),)


def _conv_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(5)
    samples = []

    def add(
        x: tuple[int, ...],
        w: tuple[int, ...],
        note: str,
        given: Mapping[str, tuple[int, ...]] | None = None,
        groups: int = 1,
        dtype: DType = dt.f32,
        wide: bool = False,
    ) -> None:
        a, b = rng.standard_normal(x), rng.standard_normal(w)
        if not dtype.is_float:
            a, b = np.round(a * 10), np.round(b * 10)
        zeros, ones = (0,) * (len(x) - 2), (1,) * (len(x) - 2)
        attrs: Attrs = {
            "strides": ones,
            "lo": zeros,
            "hi": zeros,
            "dilations": ones,
            **(given or {}),
            "groups": groups,
            "wide": wide,
        }
        samples.append(Sample((a.astype(dtype.numpy), b.astype(dtype.numpy)), attrs, note))

    same = {"lo": (1, 1), "hi": (1, 1)}
    halve = {"strides": (2, 2)}
    add((1, 5, 6, 4), (3, 3, 4, 8), "3x3")
    add((2, 7, 7, 5), (3, 3, 5, 7), "3x3 same padding, odd channels", same)
    add((1, 8, 9, 4), (3, 3, 4, 6), "stride 2", same | halve)
    add((1, 6, 6, 3), (5, 5, 3, 4), "wide padding", {"lo": (2, 2), "hi": (2, 2)})
    uneven = {"lo": (0, 1), "hi": (2, 0), "strides": (2, 1)}
    add((1, 7, 6, 3), (3, 2, 3, 4), "asymmetric padding", uneven)
    dilated = {"dilations": (2, 3), "lo": (2, 3), "hi": (1, 3)}
    add((1, 9, 9, 2), (3, 3, 2, 3), "dilated", dilated)
    add((1, 9, 8, 2), (3, 2, 2, 3), "edges left out", {"lo": (-1, 1), "hi": (1, -2)})
    add((2, 4, 5, 16), (1, 1, 16, 24), "1x1")
    add((1, 5, 5, 6), (1, 1, 6, 4), "1x1 stride 2", halve)
    add((1, 4, 4, 3), (1, 1, 3, 2), "1x1 padded", same)
    add((1, 9, 4, 3), (7, 1, 3, 5), "7x1", {"lo": (3, 0), "hi": (3, 0)})
    add((1, 2, 2, 3), (3, 3, 3, 4), "every tap row leaves the image", same)
    add((1, 6, 6, 8), (3, 3, 4, 6), "two groups", same, 2)
    add((1, 6, 6, 9), (3, 3, 3, 9), "three groups, stride", {"strides": (2, 1)}, 3)
    add((1, 7, 7, 19), (3, 3, 1, 19), "depthwise", same, 19)
    add((1, 7, 7, 4), (3, 3, 1, 12), "depthwise with multiplier", halve, 4)
    add((1, 3, 3, 5), (1, 1, 1, 5), "depthwise 1x1: no reduction", None, 5)
    add((1, 4, 4, 1), (3, 3, 1, 4), "one input channel", same)
    add((2, 11, 3), (4, 3, 5), "1-d", {"lo": (1,), "hi": (2,), "strides": (2,)})
    add((2, 11, 6), (3, 1, 6), "1-d depthwise, dilated", {"dilations": (2,)}, 6)
    cube = {"lo": (1, 1, 0), "hi": (1, 0, 1), "strides": (1, 2, 1)}
    add((1, 4, 5, 6, 2), (3, 2, 2, 2, 3), "3-d", cube)
    add((1, 2, 2, 2, 2, 3), (2, 1, 2, 1, 3, 2), "4-d")
    add((0, 5, 5, 2), (3, 3, 2, 2), "no batch")
    for dtype in (dt.f64, dt.f16, dt.bf16, dt.i32):
        add((1, 5, 5, 6), (3, 3, 6, 4), dtype.name, same, dtype=dtype)
        add((1, 20, 20, 8), (3, 3, 8, 20), f"{dtype.name}, wide", same, dtype=dtype, wide=True)
        add((1, 7, 7, 19), (3, 3, 1, 19), f"depthwise {dtype.name}, wide", same, 19, dtype, True)
    return samples


LINEAR: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="matmul",
            kind="contraction",
            summary="c[..., m, n] = sum of a[..., m, k] * b[..., k, n]; leading dims broadcast.",
            attrs=("wide",),
            infer=_matmul_infer,
            reference=_matmul_reference,
            compute=_matmul_compute,
            loops=None,
            samples=_matmul_samples,
            defaults={"wide": False},
        ),
        Op(
            name="conv",
            kind="contraction",
            summary="y[n, o, c] = sum of x[n, o*stride - lo + k*dilation, ci] * w[k, ci, c].",
            attrs=("strides", "lo", "hi", "dilations", "groups", "wide"),
            infer=_conv_infer,
            reference=_conv_reference,
            compute=_conv_compute,
            loops=None,
            samples=_conv_samples,
            defaults={"wide": False},
        ),
    )
}
