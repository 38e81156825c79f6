"""Operators that move elements without computing, and the sources that make index values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..graph.ir import TensorType
from ..tensor.compute import Compute
from ..tensor.ir import (
    Axis,
    Binary,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Select,
    Unary,
    as_expr,
    conjunction,
    eq,
    le,
    lt,
    maximum,
    minimum,
)
from ..tensor.simplify import Ranges, dim, product, prove, same_dim, simplify
from .elementwise import load_broadcast
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Shape,
    Types,
    axis_attr,
    dim_attr,
    dim_text,
    dims_attr,
    dtype_attr,
    expect_inputs,
    expect_same_dtype,
    ints_attr,
    output_axes,
    shape_text,
    str_attr,
)
from .shape_samples import (
    broadcast_samples,
    concat_samples,
    dim_samples,
    dims_samples,
    iota_samples,
    pad_samples,
    reshape_samples,
    slice_samples,
    transpose_samples,
)

PAD_MODES = ("constant", "edge", "reflect", "wrap")


def axis_ranges(axes: Sequence[Axis]) -> Ranges:
    """Returns the inclusive ranges of axes, for simplify."""
    return {a.var: (0, dim(as_expr(a.extent) - 1)) for a in axes}


def _expect_sizes(shape: Shape) -> None:
    for size in shape:
        if prove(lt(as_expr(size), 0)) is True:
            raise OpError(f"the shape {shape_text(shape)} has the negative dim {dim_text(size)}")


# ------------------------------------------------------------------ transpose


def _infer_transpose(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    shape = types[0].shape
    perm = ints_attr(attrs, "perm", len(shape))
    if sorted(perm) != list(range(len(shape))):
        raise OpError(f"perm {perm} is no permutation of the axes 0 to {len(shape) - 1}")
    return (TensorType(types[0].dtype, tuple(shape[p] for p in perm)),)


def _reference_transpose(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return (np.transpose(inputs[0], ints_attr(attrs, "perm")),)


def _compute_transpose(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    perm = ints_attr(attrs, "perm")
    index = [axes[perm.index(d)].var for d in range(len(perm))]
    return (Compute(outputs[0], axes, Load(inputs[0], index)),)


# ------------------------------------------------------------------ reshape


def _infer_reshape(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    shape = dims_attr(attrs, "shape")
    _expect_sizes(shape)
    have, want = product(types[0].shape), product(shape)
    if not same_dim(have, want) and not _may_be_equal(have, want, (*types[0].shape, *shape)):
        raise OpError(
            f"{shape_text(types[0].shape)} has {dim_text(have)} elements,"
            f" but {shape_text(shape)} has {dim_text(want)}"
        )
    return (TensorType(types[0].dtype, shape),)


def _may_be_equal(have: Dim, want: Dim, dims: Shape) -> bool:
    """Whether a dim derived by division (an importer's -1) makes equality a matter of sizes.

    Passes turn reshapes round, so that such a dim may be in either of the two shapes.
    """
    derived = any(_divides(d) for d in dims)
    return derived and prove(eq(as_expr(have), as_expr(want))) is not False


def _divides(size: Dim) -> bool:
    match size:
        case Binary(op="floordiv"):
            return True
        case Binary(a=a, b=b):
            return _divides(a) or _divides(b)
        case Unary(x=x) | Cast(x=x):
            return _divides(x)
        case Select(a=a, b=b):
            return _divides(a) or _divides(b)
        case _:
            return False


def _reference_reshape(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    shape = ints_attr(attrs, "shape")
    return (np.ascontiguousarray(inputs[0]).reshape(shape),)


def _compute_reshape(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    return (Compute(outputs[0], axes, Load(inputs[0], reshape_index(inputs[0].shape, axes))),)


def reshape_index(source: Shape, axes: Sequence[Axis]) -> tuple[Expr, ...]:
    """Returns where in ``source`` the element at ``axes`` of a reshape of it lies.

    Runs of dims with equal products are mapped apart, so that [B, S, 768] -> [B, S, 12, 64]
    leaves B and S alone and only splits 768.
    """
    ranges = axis_ranges(axes)
    index: list[Expr] = [Const(0)] * len(source)
    inner = [d for d, size in enumerate(source) if not same_dim(size, 1)]
    outer = [a for a in axes if not same_dim(a.extent, 1)]
    for dims, run in _matching_runs([source[d] for d in inner], outer):
        flat: Expr = Const(0)
        for axis in run:
            flat = flat * axis.extent + axis.var
        stride: Dim = 1
        for position in reversed(dims):
            d = inner[position]
            place = flat // stride
            if position != dims[0]:
                place = place % source[d]
            index[d] = simplify(place, ranges)
            stride = product((stride, source[d]))
    return tuple(index)


def _matching_runs(
    source: Sequence[Dim], axes: Sequence[Axis]
) -> list[tuple[range, Sequence[Axis]]]:
    """Cuts dims and axes into the shortest runs whose products are equal."""
    runs: list[tuple[range, Sequence[Axis]]] = []
    i = j = 0
    while i < len(source) and j < len(axes):
        ends = _run_end(source[i:], [a.extent for a in axes[j:]])
        if ends is None or (i + ends[0] == len(source)) != (j + ends[1] == len(axes)):
            break
        runs.append((range(i, i + ends[0]), axes[j : j + ends[1]]))
        i, j = i + ends[0], j + ends[1]
    if i < len(source):
        # Sizes that only run time can compare, or empty tensors: one run for all the rest.
        runs.append((range(i, len(source)), axes[j:]))
    return runs


def _run_end(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[int, int] | None:
    pairs = [(m, n) for m in range(1, len(a) + 1) for n in range(1, len(b) + 1)]
    for m, n in sorted(pairs, key=sum):
        if same_dim(product(a[:m]), product(b[:n])):
            return m, n
    return None


# ------------------------------------------------------------------ broadcast_to


def _infer_broadcast(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    shape = dims_attr(attrs, "shape")
    _expect_sizes(shape)
    have = types[0].shape
    tail = shape[len(shape) - len(have) :] if len(have) <= len(shape) else ()
    fits = len(tail) == len(have) and all(
        same_dim(x, 1) or same_dim(x, y) for x, y in zip(have, tail, strict=True)
    )
    if not fits:
        raise OpError(f"{shape_text(have)} does not broadcast to {shape_text(shape)}")
    return (TensorType(types[0].dtype, shape),)


def _reference_broadcast(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    shape = ints_attr(attrs, "shape")
    return (np.broadcast_to(inputs[0], shape),)


def _compute_broadcast(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    return (Compute(outputs[0], axes, load_broadcast(inputs[0], axes)),)


# ------------------------------------------------------------------ slice


def _infer_slice(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    shape = types[0].shape
    starts = dims_attr(attrs, "starts", len(shape))
    sizes = dims_attr(attrs, "sizes", len(shape))
    steps = ints_attr(attrs, "steps", len(shape))
    _expect_sizes(sizes)
    for d, (size, start, count, step) in enumerate(zip(shape, starts, sizes, steps, strict=True)):
        if step == 0:
            raise OpError(f"the step of axis {d} is 0")
        last = as_expr(start) + (as_expr(count) - 1) * step
        for place in (as_expr(start), last):
            inside = conjunction([le(0, place), lt(place, size)])
            if prove(inside) is False and prove(lt(0, as_expr(count))) is True:
                raise OpError(
                    f"axis {d} of {shape_text(shape)} has {dim_text(size)} elements, but index"
                    f" {dim_text(dim(place))} is read (start {dim_text(start)}, size"
                    f" {dim_text(count)}, step {step})"
                )
    return (TensorType(types[0].dtype, sizes),)


def _reference_slice(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    parts = (ints_attr(attrs, name) for name in ("starts", "sizes", "steps"))
    result = x
    for d, (start, size, step) in enumerate(zip(*parts, strict=True)):
        result = np.take(result, start + step * np.arange(size), axis=d)
    return (result,)


def _compute_slice(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    places = zip(dims_attr(attrs, "starts"), axes, ints_attr(attrs, "steps"), strict=True)
    index = [simplify(as_expr(start) + a.var * step) for start, a, step in places]
    return (Compute(outputs[0], axes, Load(inputs[0], index)),)


# ------------------------------------------------------------------ concat


def _infer_concat(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1, -1)
    dtype = expect_same_dtype(types)
    first = types[0].shape
    axis = axis_attr(attrs, "axis", len(first))
    total: Dim = first[axis]
    for other in types[1:]:
        fits = len(other.shape) == len(first) and all(
            d == axis or same_dim(x, y)
            for d, (x, y) in enumerate(zip(first, other.shape, strict=True))
        )
        if not fits:
            raise OpError(
                f"{shape_text(first)} and {shape_text(other.shape)} differ beside axis {axis}"
            )
        total = dim(as_expr(total) + other.shape[axis])
    return (TensorType(dtype, (*first[:axis], total, *first[axis + 1 :])),)


def _reference_concat(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return (np.concatenate(inputs, axis=axis_attr(attrs, "axis", inputs[0].ndim)),)


def _compute_concat(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    axis = axis_attr(attrs, "axis", len(axes))
    var = axes[axis].var
    begins: list[Dim] = []
    loads: list[Expr] = []
    end: Dim = 0
    for buffer in inputs:
        index: list[Dim] = [a.var for a in axes]
        index[axis] = simplify(var - end)
        begins.append(end)
        loads.append(Load(buffer, index))
        end = dim(as_expr(end) + buffer.shape[axis])
    return (Compute(outputs[0], axes, _piecewise(var, begins, loads)),)


def _piecewise(var: Expr, begins: Sequence[Dim], values: Sequence[Expr]) -> Expr:
    """``values[k]`` where ``begins[k] <= var < begins[k + 1]``; log2 of the pieces deep."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    low = _piecewise(var, begins[:half], values[:half])
    high = _piecewise(var, begins[half:], values[half:])
    return Select(lt(var, begins[half]), low, high)


# ------------------------------------------------------------------ pad


def _infer_pad(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 2)
    dtype = expect_same_dtype(types)
    if types[1].shape:
        raise OpError(f"the value must be a scalar, got {shape_text(types[1].shape)}")
    shape = types[0].shape
    los, his = dims_attr(attrs, "lo", len(shape)), dims_attr(attrs, "hi", len(shape))
    interiors = ints_attr(attrs, "interior", len(shape))
    mode = str_attr(attrs, "mode", PAD_MODES)
    _expect_sizes(los)
    _expect_sizes(his)
    result: list[Dim] = []
    for size, lo, hi, interior in zip(shape, los, his, interiors, strict=True):
        if interior < 0 or (interior and mode != "constant"):
            raise OpError(f"interior padding {interiors} does not go with the mode {mode}")
        if mode != "constant" and size == 0 and (lo != 0 or hi != 0):
            raise OpError(f"{shape_text(shape)} has no element to repeat (mode {mode})")
        between = maximum(as_expr(size) - 1, 0) * interior
        result.append(dim(as_expr(lo) + size + hi + between))
    return (TensorType(dtype, tuple(result)),)


def _reference_pad(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, value = inputs
    mode = str_attr(attrs, "mode", PAD_MODES)
    widths = list(zip(ints_attr(attrs, "lo"), ints_attr(attrs, "hi"), strict=True))
    if mode != "constant":
        return (np.pad(x, widths, mode=mode),)  # type: ignore[call-overload]
    strides = [n + 1 for n in ints_attr(attrs, "interior")]
    shape = [
        lo + hi + (max(size - 1, 0) * n + min(size, 1))
        for (lo, hi), size, n in zip(widths, x.shape, strides, strict=True)
    ]
    result = np.full(shape, value, x.dtype)
    spots = zip(widths, x.shape, strides, strict=True)
    result[tuple(slice(lo, lo + size * n, n) for (lo, _), size, n in spots)] = x
    return (result,)


def _compute_pad(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    x, value = inputs
    axes = output_axes(outputs[0])
    ranges = axis_ranges(axes)
    los, his = dims_attr(attrs, "lo"), dims_attr(attrs, "hi")
    mode = str_attr(attrs, "mode", PAD_MODES)
    index: list[Expr] = []
    conditions: list[Expr] = []
    spots = zip(axes, x.shape, los, his, ints_attr(attrs, "interior"), strict=True)
    for axis, size, lo, hi, interior in spots:
        place = simplify(axis.var - lo)
        if mode == "constant":
            if interior:
                conditions.append(eq(place % (interior + 1), 0))
                place = place // (interior + 1)
            conditions += [le(0, place), lt(place, size)]
        elif lo != 0 or hi != 0:
            place = _repeated(place, size, lo, hi, mode)
        index.append(simplify(place, ranges))
    inside = simplify(conjunction(conditions), ranges)
    load = Load(x, index)
    if isinstance(inside, Const):
        return (Compute(outputs[0], axes, load if inside.value else value[()]),)
    return (Compute(outputs[0], axes, Select(inside, load, value[()])),)


def _repeated(place: Expr, size: Dim, lo: Dim, hi: Dim, mode: str) -> Expr:
    """Returns the place inside 0..size-1 that a place outside repeats."""
    last = simplify(as_expr(size) - 1)
    if mode == "edge":
        return minimum(maximum(place, 0), last)
    if mode == "wrap":
        return place % size
    near = all(prove(le(as_expr(width), last)) is True for width in (lo, hi))
    if near:
        return last - Unary("abs", last - Unary("abs", place))
    # A width that may exceed the tensor is reflected again and again.
    period = maximum(last * 2, 1)
    return last - Unary("abs", last - place % period)


# ------------------------------------------------------------------ sources


def _infer_iota(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 0)
    shape = dims_attr(attrs, "shape")
    _expect_sizes(shape)
    axis_attr(attrs, "axis", len(shape))
    dtype = dtype_attr(attrs, "dtype")
    if dtype is dt.bool_:
        raise OpError("is not defined for bool_")
    return (TensorType(dtype, shape),)


def _reference_iota(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    shape = ints_attr(attrs, "shape")
    axis = axis_attr(attrs, "axis", len(shape))
    line = np.arange(shape[axis]).astype(dtype_attr(attrs, "dtype").numpy)
    return (np.broadcast_to(line.reshape([-1] + [1] * (len(shape) - axis - 1)), shape),)


def _compute_iota(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    (output,) = outputs
    axes = output_axes(output)
    var = axes[axis_attr(attrs, "axis", len(axes))].var
    return (Compute(output, axes, var if output.dtype is dt.i64 else Cast(var, output.dtype)),)


def _infer_dims(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 0)
    return (TensorType(dt.i64, (len(dims_attr(attrs, "values")),)),)


def _reference_dims(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return (np.array(dims_attr(attrs, "values"), np.int64),)


def _compute_dims(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    axes = output_axes(outputs[0])
    values = [as_expr(d) for d in dims_attr(attrs, "values")] or [as_expr(0)]
    result = _piecewise(axes[0].var, range(len(values)), values)
    return (Compute(outputs[0], axes, result),)


def _infer_dim(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 0)
    dim_attr(attrs, "value")
    return (TensorType(dt.i64, ()),)


def _reference_dim(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return (np.array(dim_attr(attrs, "value"), np.int64),)


def _compute_dim(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    return (Compute(outputs[0], (), as_expr(dim_attr(attrs, "value"))),)


# ------------------------------------------------------------------ the table

_ENTRIES = (
    Op("transpose", "injective", "Axis d of the result is axis perm[d] of x.", ("perm",),
       _infer_transpose, _reference_transpose, _compute_transpose, None, transpose_samples),
    Op("reshape", "injective", "The same elements in row-major order, in another shape.",
       ("shape",), _infer_reshape, _reference_reshape, _compute_reshape, None, reshape_samples),
    Op("broadcast_to", "injective", "Repeats along new leading dims and dims of 1.", ("shape",),
       _infer_broadcast, _reference_broadcast, _compute_broadcast, None, broadcast_samples),
    Op("slice", "injective",
       "y[i] = x[start + step * i] on every axis; each index read must exist, steps may be"
       " negative.", ("starts", "sizes", "steps"),
       _infer_slice, _reference_slice, _compute_slice, None, slice_samples),
    Op("concat", "injective", "The inputs one after another along an axis.", ("axis",),
       _infer_concat, _reference_concat, _compute_concat, None, concat_samples),
    Op("pad", "injective",
       "x with lo and hi elements around and interior ones between on every axis: the scalar"
       " value, or (mode) the edge, the reflection without the edge, or the other end.",
       ("lo", "hi", "interior", "mode"),
       _infer_pad, _reference_pad, _compute_pad, None, pad_samples),
    Op("iota", "source", "0, 1, 2, ... along an axis.", ("shape", "axis", "dtype"),
       _infer_iota, _reference_iota, _compute_iota, None, iota_samples),
    Op("dims", "source", "The run-time values of dims, as i64[n].", ("values",),
       _infer_dims, _reference_dims, _compute_dims, None, dims_samples),
    Op("dim", "source", "The run-time value of a dim, as an i64 scalar.", ("value",),
       _infer_dim, _reference_dim, _compute_dim, None, dim_samples),
)  # fmt: skip

SHAPE: dict[str, Op] = {op.name: op for op in _ENTRIES}
