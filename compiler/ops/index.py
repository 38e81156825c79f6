"""Operators that read elements at indices given as data.

One law for all: a negative index counts from the end, and what is out of range then is clamped
to the range. So no index, however wrong, reads outside its tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..graph.ir import TensorType
from ..tensor.compute import Compute
from ..tensor.ir import Cast, Dim, Expr, Load, Select, as_expr, lt, maximum, minimum
from ..tensor.simplify import product, prove, same_dim, simplify
from .index_samples import gather_elements_samples, gather_nd_samples, gather_samples
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Shape,
    Types,
    axis_attr,
    expect_inputs,
    int_attr,
    output_axes,
    same_shape,
    shape_text,
)


def valid_index(index: Expr, size: Dim) -> Expr:
    """Returns an i64 index into 0..size-1: from the end if negative, then clamped."""
    wide = index if index.dtype is dt.i64 else Cast(index, dt.i64)
    if wide is index or index.dtype.is_signed:
        wide = Select(lt(wide, 0), wide + size, wide)
    # The upper end first: an empty tensor then gives 0, which no loop ever reads.
    return maximum(minimum(wide, simplify(as_expr(size) - 1)), 0)


def valid_indices(indices: np.ndarray, size: int) -> np.ndarray:
    """Returns i64 indices into 0..size-1: from the end if negative, then clamped."""
    # u64 indices beyond i64 wrap to negative ones, as the native conversion does.
    wide = indices.astype(np.int64)
    if indices.dtype.kind == "i":
        wide = np.where(wide < 0, wide + size, wide)
    return np.asarray(np.clip(wide, 0, max(size - 1, 0)))


def _expect_indices(types: Types) -> None:
    expect_inputs(types, 2)
    if not types[1].dtype.is_integer:
        raise OpError(f"indices must be integers, got {types[1].dtype}")


def _expect_elements(sizes: Shape, result: Shape) -> None:
    """Requires that an axis without elements is not read."""
    if any(same_dim(size, 0) for size in sizes) and not same_dim(product(result), 0):
        raise OpError(f"reads {shape_text(result)} from axes {shape_text(sizes)} without elements")


# ------------------------------------------------------------------ gather


def _infer_gather(types: Types, attrs: Attrs) -> Types:
    _expect_indices(types)
    shape = types[0].shape
    axis = axis_attr(attrs, "axis", len(shape))
    result = (*shape[:axis], *types[1].shape, *shape[axis + 1 :])
    _expect_elements(shape[axis : axis + 1], result)
    return (TensorType(types[0].dtype, result),)


def _reference_gather(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, indices = inputs
    axis = axis_attr(attrs, "axis", x.ndim)
    if indices.size == 0:
        return (np.empty((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype),)
    return (np.take(x, valid_indices(indices, x.shape[axis]), axis=axis),)


def _compute_gather(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    x, indices = inputs
    axes = output_axes(outputs[0])
    axis = axis_attr(attrs, "axis", len(x.shape))
    places = [a.var for a in axes]
    end = axis + len(indices.shape)
    index = valid_index(Load(indices, places[axis:end]), x.shape[axis])
    return (Compute(outputs[0], axes, Load(x, (*places[:axis], index, *places[end:]))),)


# ------------------------------------------------------------------ gather_elements


def _infer_gather_elements(types: Types, attrs: Attrs) -> Types:
    _expect_indices(types)
    shape, result = types[0].shape, types[1].shape
    axis = axis_attr(attrs, "axis", len(shape))
    fits = len(shape) == len(result) and not any(
        d != axis and prove(lt(as_expr(have), want)) is True
        for d, (have, want) in enumerate(zip(shape, result, strict=True))
    )
    if not fits:
        raise OpError(f"indices {shape_text(result)} exceed {shape_text(shape)} beside axis {axis}")
    _expect_elements(shape[axis : axis + 1], result)
    return (TensorType(types[0].dtype, result),)


def _reference_gather_elements(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, indices = inputs
    axis = axis_attr(attrs, "axis", x.ndim)
    if indices.size == 0:
        return (np.empty(indices.shape, x.dtype),)
    spots: list[np.ndarray] = list(np.indices(indices.shape))
    spots[axis] = valid_indices(indices, x.shape[axis])
    return (x[tuple(spots)],)


def _compute_gather_elements(
    inputs: Buffers, outputs: Buffers, attrs: Attrs
) -> tuple[Compute, ...]:
    x, indices = inputs
    axes = output_axes(outputs[0])
    axis = axis_attr(attrs, "axis", len(x.shape))
    places: list[Expr] = [a.var for a in axes]
    places[axis] = valid_index(Load(indices, places), x.shape[axis])
    return (Compute(outputs[0], axes, Load(x, places)),)


# ------------------------------------------------------------------ gather_nd


def _infer_gather_nd(types: Types, attrs: Attrs) -> Types:
    _expect_indices(types)
    shape, where = types[0].shape, types[1].shape
    batch = int_attr(attrs, "batch_dims")
    if not where or not isinstance(where[-1], int):
        raise OpError(f"the last dim of the indices {shape_text(where)} must be a known number")
    depth = where[-1]
    if not 0 <= batch < len(where) or not 1 <= depth <= len(shape) - batch:
        raise OpError(
            f"indices {shape_text(where)} with batch_dims {batch} do not index {shape_text(shape)}"
        )
    if not same_shape(shape[:batch], where[:batch]):
        raise OpError(
            f"the first {batch} dims of {shape_text(shape)} and {shape_text(where)} differ"
        )
    result = (*where[:-1], *shape[batch + depth :])
    _expect_elements(shape[batch : batch + depth], result)
    return (TensorType(types[0].dtype, result),)


def _reference_gather_nd(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, indices = inputs
    batch, depth = int_attr(attrs, "batch_dims"), indices.shape[-1]
    outer = indices.shape[:-1]
    if 0 in outer:
        return (np.empty((*outer, *x.shape[batch + depth :]), x.dtype),)
    spots: list[np.ndarray] = [np.asarray(i) for i in np.indices(outer)[:batch]]
    spots += [valid_indices(indices[..., k], x.shape[batch + k]) for k in range(depth)]
    return (x[tuple(spots)],)


def _compute_gather_nd(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    x, indices = inputs
    axes = output_axes(outputs[0])
    batch, depth = int_attr(attrs, "batch_dims"), indices.shape[-1]
    assert isinstance(depth, int)
    places = [a.var for a in axes]
    outer = len(indices.shape) - 1
    picked = [
        valid_index(Load(indices, (*places[:outer], k)), x.shape[batch + k]) for k in range(depth)
    ]
    return (Compute(outputs[0], axes, Load(x, (*places[:batch], *picked, *places[outer:]))),)


_ENTRIES = (
    Op("gather", "injective",
       "numpy.take along an axis; indices count from the end if negative, then are clamped.",
       ("axis",), _infer_gather, _reference_gather, _compute_gather, None, gather_samples),
    Op("gather_elements", "injective",
       "y[.., i, ..] = x[.., indices[.., i, ..], ..]; indices as in gather.", ("axis",),
       _infer_gather_elements, _reference_gather_elements, _compute_gather_elements, None,
       gather_elements_samples),
    Op("gather_nd", "injective",
       "y[b, p] = x[b, *indices[b, p]] after batch_dims shared dims; indices as in gather.",
       ("batch_dims",), _infer_gather_nd, _reference_gather_nd, _compute_gather_nd, None,
       gather_nd_samples),
)  # fmt: skip

INDEX: dict[str, Op] = {op.name: op for op in _ENTRIES}
