"""Reductions over axes: reduce, argreduce."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .. import dtype as dt
from ..dtype import DType, from_numpy
from ..graph.ir import TensorType
from ..tensor.compute import Compute
from ..tensor.ir import Axis, Cast, Dim, Expr, Load, Reduce, ReduceOp, Unary, Var, as_expr
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    axes_attr,
    axis_attr,
    bool_attr,
    expect_inputs,
    output_axes,
    shape_text,
    str_attr,
)

REDUCTIONS: dict[str, ReduceOp] = {"sum": "sum", "prod": "prod", "max": "max", "min": "min"}
_ARG_REDUCTIONS = ("max", "min")
_SUMS_AT_ONCE = 64
"""Partial sums that a row along the last axis is added up in."""
_MOST_ADDITIONS = 8192
"""More than so many one after another, or a number that is not known, are held in f64: equal
numbers lose digits in f32, a hundred thousand of them the fourth."""
_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
}


def accumulator(dtype: DType) -> DType:
    """The type in which sums and products are held: f32 for the 16-bit floats, else the type."""
    return dt.f32 if dtype.is_float and dtype.bits == 16 else dtype


def widened(array: np.ndarray) -> np.ndarray:
    """Returns an array of 16-bit floats as f32, any other as it is."""
    dtype = from_numpy(array.dtype)
    assert dtype is not None, array.dtype
    return array.astype(accumulator(dtype).numpy, copy=False)


def _kept_shape(shape: tuple[Dim, ...], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    if keepdims:
        return tuple(1 if d in axes else extent for d, extent in enumerate(shape))
    return tuple(extent for d, extent in enumerate(shape) if d not in axes)


def _source_indices(
    rank: int, axes: dict[int, Expr], kept: Sequence[Expr], keepdims: bool
) -> list[Expr]:
    """The index of the input: the reduced axes as given, the others from the output's axes."""
    if keepdims:
        return [axes.get(d, kept[d]) for d in range(rank)]
    rest = iter(kept)
    return [axes[d] if d in axes else next(rest) for d in range(rank)]


# ------------------------------------------------------------------ reduce


def _reduce_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    (x,) = types
    op = str_attr(attrs, "op", tuple(REDUCTIONS))
    axes = axes_attr(attrs, "axes", len(x.shape))
    if x.dtype is dt.bool_ and op in ("sum", "prod"):
        raise OpError(f"{op} of bool has no type of its own; cast {shape_text(x.shape)} first")
    return (TensorType(x.dtype, _kept_shape(x.shape, axes, bool_attr(attrs, "keepdims"))),)


def _reduce_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    dtype = from_numpy(x.dtype)
    assert dtype is not None
    axes = axes_attr(attrs, "axes", x.ndim)
    keepdims = bool_attr(attrs, "keepdims")
    op = str_attr(attrs, "op", tuple(REDUCTIONS))
    if op in ("sum", "prod"):
        # Floats are summed in f64: the order of a sum is not part of the law.
        wide = np.dtype(np.float64) if dtype.is_float else x.dtype
        with np.errstate(over="ignore", invalid="ignore"):
            result = _NUMPY[op](widened(x), axis=axes, dtype=wide, keepdims=keepdims)
            return (np.asarray(result).astype(x.dtype),)
    identity = dtype.lowest if op == "max" else dtype.highest
    result = _NUMPY[op](widened(x), axis=axes, keepdims=keepdims, initial=identity)
    return (np.asarray(result).astype(x.dtype),)


def _reduce_compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (x,), (y,) = inputs, outputs
    op = REDUCTIONS[str_attr(attrs, "op", tuple(REDUCTIONS))]
    axes = axes_attr(attrs, "axes", len(x.shape))
    over = {d: Axis(Var(f"r{d}"), x.shape[d]) for d in axes}
    out = output_axes(y)
    kept = [a.var for a in out]
    reduced: dict[int, Expr] = {d: a.var for d, a in over.items()}
    load: Expr = Load(x, _source_indices(len(x.shape), reduced, kept, bool_attr(attrs, "keepdims")))
    if not over:
        return (Compute(y, out, load),)
    # max and min of bool are taken on bytes: 0 and 1 order as False and True do.
    wide = dt.u8 if x.dtype is dt.bool_ else accumulator(x.dtype)
    if op == "sum" and wide is dt.f32 and _may_be_long(x.shape, axes):
        wide = dt.f64
    exact = wide is x.dtype
    total = Reduce(op, over.values(), load if exact else Cast(load, wide))
    return (Compute(y, out, total if exact else Cast(total, x.dtype)),)


def _may_be_long(shape: Sequence[Dim], axes: Sequence[int]) -> bool:
    """Whether more numbers may be added one after another than f32 holds a sum of."""
    sizes = [n for d in axes if isinstance(n := shape[d], int)]
    if len(sizes) < len(axes):
        return True
    at_once = min(sizes[-1], _SUMS_AT_ONCE) if len(shape) - 1 in axes else 1
    return math.prod(sizes) // max(at_once, 1) > _MOST_ADDITIONS


def _reduce_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(1)
    samples = []

    def add(x: np.ndarray, op: str, axes: tuple[int, ...], keepdims: bool, note: str) -> None:
        samples.append(Sample((x,), {"op": op, "axes": axes, "keepdims": keepdims}, note))

    cube = rng.standard_normal((3, 5, 7)).astype(np.float32)
    for op in REDUCTIONS:
        add(cube, op, (2,), False, f"{op} of the last axis")
        add(cube, op, (0, 2), True, f"{op} of outer axes, kept")
        add(cube, op, (0, 1, 2), False, f"{op} of everything")
        add(cube, op, (), False, f"{op} of no axis is the input")
        add(np.zeros((4, 0), np.float32), op, (1,), False, f"{op} of nothing is its identity")
        add((cube * 9).astype(np.int32), op, (1,), True, f"{op} of i32")
        add(cube.astype(np.float64), op, (1,), False, f"{op} of f64")
        add(cube.astype(dt.f16.numpy), op, (1,), False, f"{op} of f16")
        add(cube.astype(dt.bf16.numpy), op, (2,), True, f"{op} of bf16")
    for op in ("max", "min"):
        add(np.array([[1.0, np.nan], [2.0, 3.0]], np.float32), op, (1,), False, "nan propagates")
        add(cube > 0.5, op, (1,), False, "any or all of bool")
        add(np.zeros((2, 0), np.bool_), op, (1,), False, "bool of nothing")
        add(np.array([[0, 255], [7, 9]], np.uint8), op, (0,), False, "u8")
        add(np.array([[-(2**63), 2**63 - 1]]), op, (1,), False, "i64 extremes")
    add(np.full(4096, 0.1, dt.f16.numpy), "sum", (0,), False, "f16 accumulates in f32")
    add(np.full(300, 120, np.int8), "sum", (0,), False, "i8 wraps")
    add(rng.standard_normal((2, 1000)).astype(np.float32), "sum", (1,), True, "long row")
    return samples


# ------------------------------------------------------------------ argreduce


def _argreduce_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    (x,) = types
    op = str_attr(attrs, "op", _ARG_REDUCTIONS)
    bool_attr(attrs, "last")
    axis = axis_attr(attrs, "axis", len(x.shape))
    if x.shape[axis] == 0:
        raise OpError(f"arg{op} over axis {axis} of {shape_text(x.shape)}: an empty axis has none")
    return (TensorType(dt.i64, _kept_shape(x.shape, (axis,), bool_attr(attrs, "keepdims"))),)


def _argreduce_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x = widened(inputs[0])
    axis = axis_attr(attrs, "axis", x.ndim)
    find: Callable[..., np.ndarray]
    find = np.argmax if str_attr(attrs, "op", _ARG_REDUCTIONS) == "max" else np.argmin
    last = bool_attr(attrs, "last")
    found = find(np.flip(x, axis) if last else x, axis=axis, keepdims=bool_attr(attrs, "keepdims"))
    position = x.shape[axis] - 1 - found if last else found
    return (np.asarray(position, np.int64),)


def _argreduce_compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (x,), (y,) = inputs, outputs
    axis = axis_attr(attrs, "axis", len(x.shape))
    over = Axis(Var(f"r{axis}"), x.shape[axis])
    final = as_expr(x.shape[axis]) - 1
    last = bool_attr(attrs, "last")
    out = output_axes(y)
    place: dict[int, Expr] = {axis: final - over.var if last else over.var}
    kept = [a.var for a in out]
    value: Expr = Load(x, _source_indices(len(x.shape), place, kept, bool_attr(attrs, "keepdims")))
    if x.dtype is dt.bool_:
        value = Cast(value, dt.u8)
    elif accumulator(x.dtype) is not x.dtype:
        value = Cast(value, accumulator(x.dtype))
    op: ReduceOp = "argmax"
    if str_attr(attrs, "op", _ARG_REDUCTIONS) == "min":
        # nan wins a minimum too, but compares as greatest in a Reduce: negation turns one law
        # into the other. The negation of an integer may overflow; integers have no nan.
        if x.dtype.is_float:
            value = Unary("neg", value)
        else:
            op = "argmin"
    found = Reduce(op, (over,), value)
    return (Compute(y, out, final - found if last else found),)


def _argreduce_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(2)
    samples = []
    cube = rng.standard_normal((3, 5, 7)).astype(np.float32)
    ties = np.array([[1, 3, 3, 1], [2, 2, 2, 2]], np.int32)
    nans = np.array([[1.0, np.nan, 5.0, np.nan], [-np.inf, np.inf, np.inf, -np.inf]], np.float32)
    for op in _ARG_REDUCTIONS:
        for last in (False, True):

            def add(x: np.ndarray, axis: int, keepdims: bool, note: str) -> None:
                attrs: Attrs
                attrs = {"op": op, "axis": axis, "keepdims": keepdims, "last": last}  # noqa: B023
                samples.append(Sample((x,), attrs, note))

            add(cube, 1, False, "middle axis")
            add(cube, 2, True, "last axis, kept")
            add(ties, 1, False, "ties")
            add(ties, 0, True, "ties along the outer axis")
            add(nans, 1, False, "nan wins, infinities tie")
            add(np.array([[-128, 127, -128]], np.int8), 1, False, "i8 extremes")
            add(np.array([0, 255, 0, 255], np.uint8), 0, False, "vector of u8")
            add(cube[:, :, :1] > 0, 2, False, "axis of one")
            add(cube > 0, 2, False, "bool")
            add(nans.astype(dt.f16.numpy), 1, False, "f16")
            add(cube.astype(dt.bf16.numpy), 0, False, "bf16")
    return samples


REDUCE: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="reduce",
            kind="reduce",
            summary="y = the sum, product, maximum or minimum of x over axes (identity if empty).",
            attrs=("op", "axes", "keepdims"),
            infer=_reduce_infer,
            reference=_reduce_reference,
            compute=_reduce_compute,
            loops=None,
            samples=_reduce_samples,
        ),
        Op(
            name="argreduce",
            kind="reduce",
            summary="y = the i64 position of the greatest or least element along axis; nan wins.",
            attrs=("op", "axis", "keepdims", "last"),
            infer=_argreduce_infer,
            reference=_argreduce_reference,
            compute=_argreduce_compute,
            loops=None,
            samples=_argreduce_samples,
        ),
    )
}
