"""Running sums and products: cumulative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..graph.ir import TensorType
from ..tensor.ir import (
    Alloc,
    Axis,
    Block,
    Buffer,
    Cast,
    Const,
    Expr,
    For,
    Load,
    Store,
    Var,
    as_expr,
    binary,
)
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    axis_attr,
    bool_attr,
    expect_inputs,
    output_axes,
    shape_text,
    str_attr,
)

_OPS = ("sum", "prod")
_RUNNING = {dt.f16: dt.f32, dt.bf16: dt.f32, dt.f32: dt.f64}
"""In f32 alone a running sum of a million numbers is wrong in its third digit."""
_START = (Const(0),)


def loops_over(axes: Sequence[Axis], body: Block) -> Block:
    """Wraps a body in serial loops over axes, the first outermost."""
    for axis in reversed(axes):
        body = (For(axis.var, axis.extent, body),)
    return body


def converted(value: Expr, dtype: dt.DType) -> Expr:
    """Casts a value to a type unless it has it."""
    return value if value.dtype is dtype else Cast(value, dtype)


def _running(dtype: dt.DType) -> dt.DType:
    """The type in which totals are held: the next wider one of floats up to f32."""
    return _RUNNING.get(dtype, dtype)


def _infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    (x,) = types
    op = str_attr(attrs, "op", _OPS)
    axis_attr(attrs, "axis", len(x.shape))
    bool_attr(attrs, "exclusive")
    bool_attr(attrs, "reverse")
    if x.dtype is dt.bool_:
        raise OpError(f"cumulative {op} of bool {shape_text(x.shape)} has no type; cast first")
    return (TensorType(x.dtype, x.shape),)


def _reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    dtype = dt.from_numpy(x.dtype)
    assert dtype is not None
    summed = str_attr(attrs, "op", _OPS) == "sum"
    axis = axis_attr(attrs, "axis", x.ndim)
    reverse = bool_attr(attrs, "reverse")
    wide = np.moveaxis(x.astype(_running(dtype).numpy, copy=False), axis, 0)
    wide = wide[::-1] if reverse else wide
    if bool_attr(attrs, "exclusive"):
        first = np.full_like(wide[:1], 0 if summed else 1)
        wide = np.concatenate([first, wide[:-1]])
    with np.errstate(over="ignore", invalid="ignore"):
        total = (np.add if summed else np.multiply).accumulate(wide, axis=0, dtype=wide.dtype)
    total = total[::-1] if reverse else total
    return (np.ascontiguousarray(np.moveaxis(total, 0, axis)).astype(x.dtype, copy=False),)


def _loops(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> Block:
    (x,), (y,) = inputs, outputs
    summed = str_attr(attrs, "op", _OPS) == "sum"
    axis = axis_attr(attrs, "axis", len(x.shape))
    axes = output_axes(y)
    step = Axis(Var("step"), y.shape[axis])
    place: Expr = step.var
    if bool_attr(attrs, "reverse"):
        place = as_expr(step.extent) - 1 - step.var
    indices = tuple(place if d == axis else a.var for d, a in enumerate(axes))
    total = Buffer("total", _running(x.dtype), (1,), "local")
    element = converted(Load(x, indices), total.dtype)
    so_far = Load(total, _START)
    emit = Store(y, indices, converted(so_far, y.dtype))
    add = Store(total, _START, binary("add" if summed else "mul", so_far, element))
    body: Block = (emit, add) if bool_attr(attrs, "exclusive") else (add, emit)
    row: Block = (
        Alloc(total),
        Store(total, _START, Const(0 if summed else 1, total.dtype)),
        *loops_over((step,), body),
    )
    return loops_over([a for d, a in enumerate(axes) if d != axis], row)


def _samples() -> Sequence[Sample]:
    rng = np.random.default_rng(6)
    samples = []
    cube = rng.standard_normal((3, 5, 4)).astype(np.float32)
    for op in _OPS:
        for exclusive in (False, True):
            for reverse in (False, True):

                def add(x: np.ndarray, axis: int, note: str) -> None:
                    attrs: Attrs
                    attrs = {"axis": axis, "exclusive": exclusive, "reverse": reverse, "op": op}  # noqa: B023
                    samples.append(Sample((x,), attrs, note))

                add(cube, 1, "middle axis")
                add(cube, 2, "last axis")
                add(cube[:, :1], 1, "axis of one")
                add(cube[:, :0], 1, "empty axis")
                add((cube * 5).astype(np.int64), 0, "i64")
                add((cube * 100).astype(np.int8), 0, "i8 wraps")
                add(np.array([1.0, np.nan, 2.0, np.inf], np.float32), 0, "nan stays")
                add(np.array([1e30, 1e30, 1e-30, 0.0], np.float32), 0, "totals beyond f32")
                if op == "sum":
                    add(np.full(10_000, 0.1, np.float32), 0, "long axis")
                add(cube.astype(dt.f16.numpy), 1, "f16")
                add(cube.astype(dt.bf16.numpy), 1, "bf16")
                add(cube.astype(np.float64), 2, "f64")
    return samples


SCAN: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="cumulative",
            kind="scan",
            summary="y[i] = the sum or product of x[..i] along axis (x[i..] in reverse), in order.",
            attrs=("op", "axis", "exclusive", "reverse"),
            infer=_infer,
            reference=_reference,
            compute=None,
            loops=_loops,
            samples=_samples,
        ),
    )
}
