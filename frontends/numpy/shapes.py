"""Functions that move elements: reshape, transpose, join, split, flip."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, Expr, as_expr, binary
from tilewright.tensor.simplify import dim, product, same_dim

from .reductions import axes_of, axis_of
from .trace import Handler, Trace
from .tracer import (
    Size,
    Tracer,
    call_function,
    dim_of,
    element_type,
    has_traced,
    kind_of,
    operand,
    stacked,
    tracer,
)


def view(x: Tracer, value: Value) -> Tracer:
    """A result that NumPy gives as a view: neither is written while both exist."""
    return x.viewed(value)


def dims_from(trace: Trace, who: str, shape: Any) -> tuple[Dim, ...]:
    """Dims of a shape argument: an integer, a size or a sequence of them."""
    given = shape if isinstance(shape, tuple | list | np.ndarray) else (shape,)
    try:
        return tuple(d if isinstance(d, Expr) else dim_of(d) for d in given)
    except TypeError:
        trace.refuse(f"{who}: {shape!r} is no shape")


def c_order(trace: Trace, who: str, order: str) -> None:
    """Refuses any but the order of C."""
    if order not in ("C", "A", "K"):
        trace.unsupported(f"{who} with order={order!r}", "TW-E0245")


def _reshape(
    trace: Trace, a: Any, shape: Any, order: str = "C", *, newshape: Any = None, copy: Any = None
) -> Any:
    who = "numpy.reshape"
    c_order(trace, who, order)
    x = tracer(trace, who, a)
    dims = list(dims_from(trace, who, shape))
    have = product(x.dims)
    open_ = [i for i, d in enumerate(dims) if isinstance(d, int) and d < 0]
    if len(open_) > 1:
        trace.refuse(f"{who}: can only specify one unknown dimension")
    wrong = f"{who}: cannot reshape shape {trace.hints(x.dims)} into {_text(trace, dims)}"
    if open_:
        rest = product([d for i, d in enumerate(dims) if i != open_[0]])
        fits = trace.hint(rest) != 0 and trace.hint(have) % trace.hint(rest) == 0
        if not fits:
            trace.refuse(wrong)
        dims[open_[0]] = _quotient(trace, x.dims, have, rest)
    elif trace.hint(product(dims)) != trace.hint(have):
        trace.refuse(wrong)
    else:
        trace.require_equal(have, product(dims))
    return view(x, trace.add("reshape", x.value, shape=tuple(dims)))


def _quotient(trace: Trace, shape: Sequence[Dim], have: Dim, rest: Dim) -> Dim:
    """have / rest, which is whole: without a division where some first dims make it up."""
    for first in range(len(shape) + 1):
        for left in (product(shape[:first]), product(shape[first:])):
            if same_dim(product((left, rest)), have):
                return left
    trace.decide(binary("eq", as_expr(have) % rest, 0))
    return dim(as_expr(have) // rest)


def _text(trace: Trace, dims: Sequence[Dim]) -> str:
    return str(trace.hints(dims))


def reshaped(trace: Trace, value: Value, shape: Sequence[Dim]) -> Value:
    """A reshape that is known to fit."""
    return trace.add("reshape", value, shape=tuple(shape))


def _ravel(trace: Trace, a: Any, order: str = "C") -> Any:
    c_order(trace, "numpy.ravel", order)
    x = tracer(trace, "numpy.ravel", a)
    return view(x, reshaped(trace, x.value, (product(x.dims),)))


def transposed(trace: Trace, value: Value, perm: Sequence[int]) -> Value:
    """A transpose, left out where it changes nothing."""
    if tuple(perm) == tuple(range(len(perm))):
        return value
    return trace.add("transpose", value, perm=tuple(perm))


def _transpose(trace: Trace, a: Any, axes: Any = None) -> Any:
    x = tracer(trace, "numpy.transpose", a)
    rank = x.ndim
    if axes is None:
        return view(x, transposed(trace, x.value, range(rank)[::-1]))
    perm = [axis_of(trace, "numpy.transpose", i, rank) for i in axes]
    if sorted(perm) != list(range(rank)):
        trace.refuse(f"numpy.transpose: axes {axes} do not match {rank} dimensions")
    return view(x, transposed(trace, x.value, perm))


def _swapaxes(trace: Trace, a: Any, axis1: int, axis2: int) -> Any:
    x = tracer(trace, "numpy.swapaxes", a)
    i, j = (axis_of(trace, "numpy.swapaxes", k, x.ndim) for k in (axis1, axis2))
    perm = list(range(x.ndim))
    perm[i], perm[j] = perm[j], perm[i]
    return view(x, transposed(trace, x.value, perm))


def _moveaxis(trace: Trace, a: Any, source: Any, destination: Any) -> Any:
    who = "numpy.moveaxis"
    x = tracer(trace, who, a)
    pairs = []
    for given in (source, destination):
        listed = given if isinstance(given, tuple | list) else (given,)
        pairs.append([axis_of(trace, who, k, x.ndim) for k in listed])
    if len(pairs[0]) != len(pairs[1]) or len(set(pairs[0])) != len(pairs[0]):
        trace.refuse(f"{who}: source {source} and destination {destination} do not match")
    perm = [d for d in range(x.ndim) if d not in pairs[0]]
    for to, origin in sorted(zip(pairs[1], pairs[0], strict=True)):
        perm.insert(to, origin)
    return view(x, transposed(trace, x.value, perm))


def _expand_dims(trace: Trace, a: Any, axis: Any) -> Any:
    x = tracer(trace, "numpy.expand_dims", a)
    count = len(axis) if isinstance(axis, tuple | list) else 1
    axes = axes_of(trace, "numpy.expand_dims", axis, x.ndim + count)
    rest = iter(x.dims)
    shape = [1 if d in axes else next(rest) for d in range(x.ndim + count)]
    return view(x, reshaped(trace, x.value, shape))


def _squeeze(trace: Trace, a: Any, axis: Any = None) -> Any:
    x = tracer(trace, "numpy.squeeze", a)
    if axis is None:
        axes: tuple[int, ...] = tuple(d for d in range(x.ndim) if trace.hint(x.dims[d]) == 1)
        for d in range(x.ndim):
            trace.decide(binary("eq", as_expr(x.dims[d]), 1))
    else:
        axes = axes_of(trace, "numpy.squeeze", axis, x.ndim)
    for d in axes:
        if trace.hint(x.dims[d]) != 1:
            trace.refuse(f"numpy.squeeze: axis {d} has size {trace.hint(x.dims[d])}, not one")
        trace.require_equal(x.dims[d], 1)
    shape = [d for i, d in enumerate(x.dims) if i not in axes]
    return view(x, reshaped(trace, x.value, shape))


def widened(trace: Trace, who: str, value: Value, shape: Sequence[Dim]) -> Value:
    """A value broadcast to a shape."""
    result = trace.broadcast(who, [value.shape, shape])
    fits = len(result) == len(shape) and all(
        same_dim(a, b) for a, b in zip(result, shape, strict=True)
    )
    if not fits:
        have, want = trace.hints(value.shape), trace.hints(shape)
        trace.refuse(f"{who}: shape {have} does not broadcast to {want}")
    return trace.add("broadcast_to", value, shape=tuple(shape))


def _broadcast_to(trace: Trace, array: Any, shape: Any) -> Any:
    x = tracer(trace, "numpy.broadcast_to", array)
    dims = dims_from(trace, "numpy.broadcast_to", shape)
    return view(x, widened(trace, "numpy.broadcast_to", x.value, dims))


def _broadcast_arrays(trace: Trace, *args: Any) -> Any:
    arrays = [tracer(trace, "numpy.broadcast_arrays", a) for a in args]
    shape = trace.broadcast("numpy.broadcast_arrays", [a.dims for a in arrays])
    return tuple(view(a, widened(trace, "numpy.broadcast_arrays", a.value, shape)) for a in arrays)


def _at_least(rank: int) -> Handler:
    def handler(trace: Trace, *arrays: Any) -> Any:
        found = []
        for array in arrays:
            x = tracer(trace, f"numpy.atleast_{rank}d", array)
            if x.ndim < rank:
                x = view(x, reshaped(trace, x.value, (*[1] * (rank - x.ndim), *x.dims)))
            found.append(x)
        return found[0] if len(found) == 1 else tuple(found)

    return handler


# ------------------------------------------------------------------ joining and splitting


def joined(trace: Trace, who: str, arrays: Sequence[Any], axis: Any, dtype: Any = None) -> Tracer:
    """Concatenates arrays along an axis, with promotion."""
    parts = list(arrays) if not isinstance(arrays, Tracer) else list(iter(arrays))
    if not parts:
        trace.refuse(f"{who}: need at least one array")
    kind = np.result_type(*[_promoted(p) for p in parts]) if dtype is None else np.dtype(dtype)
    values = [operand(trace, who, p, kind) for p in parts]
    rank = len(values[0].shape)
    if axis is None:
        values = [reshaped(trace, v, (product(v.shape),)) for v in values]
        axis, rank = 0, 1
    if any(len(v.shape) != rank for v in values) or rank == 0:
        trace.refuse(f"{who}: the arrays have ranks {[len(v.shape) for v in values]}")
    along = axis_of(trace, who, axis, rank)
    for value in values[1:]:
        for d in range(rank):
            one, other = values[0].shape[d], value.shape[d]
            if d == along or same_dim(one, other):
                continue
            if trace.hint(one) != trace.hint(other):
                trace.refuse(
                    f"{who}: shapes {trace.hints(values[0].shape)} and {trace.hints(value.shape)}"
                    f" differ in axis {d}"
                )
            trace.require_equal(one, other)
    return Tracer(trace, trace.add("concat", *values, axis=along))


def _promoted(x: object) -> Any:
    kind = kind_of(x) if not isinstance(x, list | tuple) else _list_kind(x)
    return {int: 0, float: 0.0}.get(kind, kind) if isinstance(kind, type) else kind


def _list_kind(items: Sequence[object]) -> np.dtype:
    if not has_traced(items):
        return np.asarray(items).dtype
    return np.result_type(*[_promoted(i) for i in items])


def promote(*operands: object) -> np.dtype:
    """NumPy's common dtype of operands, Python numbers being weak."""
    return np.result_type(*[_promoted(x) for x in operands])


def _concatenate(
    trace: Trace, arrays: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None,
    casting: str = "same_kind",
) -> Any:  # fmt: skip
    if out is not None:
        trace.unsupported("numpy.concatenate with the argument out", "TW-E0245")
    return joined(trace, "numpy.concatenate", arrays, axis, dtype)


def _expanded(trace: Trace, who: str, x: Any, axis: int) -> Tracer:
    value = operand(trace, who, x)
    shape = value.shape
    found = Tracer(trace, reshaped(trace, value, (*shape[:axis], 1, *shape[axis:])))
    if isinstance(x, Tracer):
        found.weak = x.weak
    elif isinstance(x, Size) or type(x) in (int, float):
        found.weak = float if type(x) is float else int
    return found


def _stack(
    trace: Trace, arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None,
    casting: str = "same_kind",
) -> Any:  # fmt: skip
    if out is not None:
        trace.unsupported("numpy.stack with the argument out", "TW-E0245")
    parts = list(arrays)
    if not parts:
        trace.refuse("numpy.stack: need at least one array")
    rank = len(operand(trace, "numpy.stack", parts[0]).shape)
    along = axis_of(trace, "numpy.stack", axis, rank + 1)
    kind = promote(*parts) if dtype is None else np.dtype(dtype)
    shapes = [operand(trace, "numpy.stack", p).shape for p in parts]
    if any(trace.hints(s) != trace.hints(shapes[0]) for s in shapes):
        trace.refuse(f"numpy.stack: shapes differ: {[trace.hints(s) for s in shapes]}")
    expanded = [_expanded(trace, "numpy.stack", p, along) for p in parts]
    return joined(trace, "numpy.stack", expanded, along, kind)


def _side_by_side(name: str) -> Handler:
    who = f"numpy.{name}"

    def handler(trace: Trace, tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> Any:
        parts = [tracer(trace, who, p) for p in tup]
        if name == "vstack":
            return joined(trace, who, [_at_least(2)(trace, p) for p in parts], 0, dtype)
        if name == "hstack":
            parts = [_at_least(1)(trace, p) for p in parts]
            return joined(trace, who, parts, 0 if parts[0].ndim == 1 else 1, dtype)
        if name == "dstack":
            deep = [call_function(trace, np.atleast_3d, (p,), {}) for p in parts]
            return joined(trace, who, deep, 2, dtype)
        columns = [_expand_dims(trace, p, -1) if p.ndim == 1 else p for p in parts]
        return joined(trace, who, columns, 1, dtype)

    return handler


def cut(trace: Trace, value: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
    """A slice along one axis."""
    rank = len(value.shape)
    return trace.add(
        "slice", value,
        starts=tuple(start if d == axis else 0 for d in range(rank)),
        sizes=tuple(size if d == axis else value.shape[d] for d in range(rank)),
        steps=tuple(step if d == axis else 1 for d in range(rank)),
    )  # fmt: skip


def _split(even: bool) -> Handler:
    who = "numpy.split" if even else "numpy.array_split"

    def handler(trace: Trace, ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
        x = tracer(trace, who, ary)
        along = axis_of(trace, who, axis, x.ndim)
        size = x.dims[along]
        if isinstance(indices_or_sections, list | tuple | np.ndarray):
            ends = [None, *indices_or_sections, None]
            before = (slice(None),) * along
            return [x[(*before, slice(a, b))] for a, b in pairwise(ends)]
        count = operator.index(indices_or_sections)
        if even:
            if trace.hint(size) % count:
                trace.refuse(f"{who}: {trace.hint(size)} elements do not split into {count}")
            trace.decide(binary("eq", as_expr(size) % count, 0))
            part = dim(as_expr(size) // count)
            starts = [dim(as_expr(part) * i) for i in range(count)]
            return [view(x, cut(trace, x.value, along, s, part)) for s in starts]
        whole = trace.specialise(size)
        ends = [i * (whole // count) + min(i, whole % count) for i in range(count + 1)]
        return [view(x, cut(trace, x.value, along, a, b - a)) for a, b in pairwise(ends)]

    return handler


# ------------------------------------------------------------------ flipping and rolling


def _flip(trace: Trace, m: Any, axis: Any = None) -> Any:
    x = tracer(trace, "numpy.flip", m)
    value = x.value
    for d in axes_of(trace, "numpy.flip", axis, x.ndim):
        value = cut(trace, value, d, dim(as_expr(x.dims[d]) - 1), x.dims[d], -1)
    return view(x, value)


def _roll(trace: Trace, a: Any, shift: Any, axis: Any = None) -> Any:
    x = tracer(trace, "numpy.roll", a)
    if axis is None:
        flat = Tracer(trace, reshaped(trace, x.value, (product(x.dims),)))
        rolled = _roll(trace, flat, shift, 0)
        return Tracer(trace, reshaped(trace, rolled.value, x.dims))
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    shifts = shift if isinstance(shift, tuple | list) else (shift,) * len(axes)
    value = x.value
    for by, over in zip(shifts, axes, strict=True):
        d = axis_of(trace, "numpy.roll", over, x.ndim)
        size = x.dims[d]
        if same_dim(size, 0):
            continue
        amount = dim_of(by)
        inside = binary("lt", as_expr(amount), size), binary("gt", as_expr(amount), -as_expr(size))
        if not all(trace.decide(c) for c in inside):
            amount = dim(as_expr(amount) % size)
        if trace.decide(binary("lt", as_expr(amount), 0)):
            amount = dim(as_expr(amount) + size)
        rest = dim(as_expr(size) - amount)
        tail = cut(trace, value, d, rest, amount)
        value = trace.add("concat", tail, cut(trace, value, d, 0, rest), axis=d)
    return Tracer(trace, value)


# ------------------------------------------------------------------ parts of matrices


def _triangle(upper: bool) -> Handler:
    who = "numpy.triu" if upper else "numpy.tril"

    def handler(trace: Trace, m: Any, k: Any = 0) -> Any:
        x = tracer(trace, who, m)
        if x.ndim < 2:
            trace.refuse(f"{who}: needs a matrix, got {x.ndim} dimensions")
        shape = x.dims[-2:]
        rows = trace.add("iota", shape=(shape[0], 1), axis=0, dtype=element_type(trace, who, "i8"))
        columns = trace.add(
            "iota", shape=(1, shape[1]), axis=1, dtype=element_type(trace, who, "i8")
        )
        edge = trace.add("add", rows, operand(trace, who, k, np.dtype(np.int64)))
        keep = trace.add("ge" if upper else "le", columns, edge)
        zero = trace.constant(np.zeros((), x.dtype))
        return Tracer(trace, trace.add("where", keep, x.value, zero))

    return handler


def _diagonal(trace: Trace, a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    who = "numpy.diagonal"
    x = tracer(trace, who, a)
    i, j = (axis_of(trace, who, k, x.ndim) for k in (axis1, axis2))
    if i == j:
        trace.refuse(f"{who}: the two axes are one")
    rest = [d for d in range(x.ndim) if d not in (i, j)]
    value = transposed(trace, x.value, (i, j, *rest))
    if offset:
        over = 1 if offset > 0 else 0
        by: Dim = abs(offset)
        size = value.shape[over]
        by = by if trace.decide(binary("le", as_expr(by), size)) else size
        value = cut(trace, value, over, by, dim(as_expr(size) - by))
    rows, columns = value.shape[:2]
    least = rows if trace.decide(binary("le", as_expr(rows), columns)) else columns
    place = trace.add("iota", shape=(least, 1), axis=0, dtype=element_type(trace, who, "i8"))
    pairs = trace.add("concat", place, place, axis=1)
    found = trace.add("gather_nd", value, pairs, batch_dims=0)
    return view(x, transposed(trace, found, (*range(1, x.ndim - 1), 0)))


def _diag(trace: Trace, v: Any, k: int = 0) -> Any:
    x = tracer(trace, "numpy.diag", v)
    if x.ndim == 2:
        return _diagonal(trace, x, k)
    if x.ndim != 1:
        trace.refuse(f"numpy.diag: {x.ndim} dimensions, not 1 or 2")
    beyond, dtype = abs(k), element_type(trace, "numpy.diag", "i8")
    zero = trace.constant(np.zeros((), x.dtype))
    value = x.value
    if beyond:
        value = trace.add("pad", value, zero, lo=(0,), hi=(beyond,), interior=(0,), mode="constant")
    size = value.shape[0]
    rows = trace.add("iota", shape=(size, 1), axis=0, dtype=dtype)
    columns = trace.add("iota", shape=(1, size), axis=1, dtype=dtype)
    # Above the diagonal an element goes to the row of its number, below it to the column.
    value = reshaped(trace, value, (size, 1) if k > 0 else (1, size))
    ahead = trace.add("add", rows, trace.constant(np.asarray(k, np.int64)))
    return Tracer(trace, trace.add("where", trace.add("eq", ahead, columns), value, zero))


def _trace(trace: Trace, a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    diagonal = _diagonal(trace, a, offset, axis1, axis2)
    return call_function(trace, np.sum, (diagonal, -1), {})


def _last_diagonal(trace: Trace, x: Any, /, *, offset: int = 0) -> Any:
    return _diagonal(trace, x, offset, -2, -1)


def _last_trace(trace: Trace, x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    diagonal = _diagonal(trace, x, offset, -2, -1)
    return call_function(trace, np.sum, (diagonal, -1), {"dtype": dtype})


def _shape(trace: Trace, a: Any) -> Any:
    if isinstance(a, list | tuple):
        a = stacked(trace, "numpy.shape", a)
    return tuple(tracer(trace, "numpy.shape", a).shape)


def _ndim(trace: Trace, a: Any) -> Any:
    return len(_shape(trace, a))


SHAPES: Mapping[object, Handler] = {
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.transpose: _transpose,
    np.permute_dims: _transpose,
    np.swapaxes: _swapaxes,
    np.moveaxis: _moveaxis,
    np.expand_dims: _expand_dims,
    np.squeeze: _squeeze,
    np.broadcast_to: _broadcast_to,
    np.broadcast_arrays: _broadcast_arrays,
    np.atleast_1d: _at_least(1),
    np.atleast_2d: _at_least(2),
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.vstack: _side_by_side("vstack"),
    np.hstack: _side_by_side("hstack"),
    np.dstack: _side_by_side("dstack"),
    np.column_stack: _side_by_side("column_stack"),
    np.split: _split(even=True),
    np.array_split: _split(even=False),
    np.flip: _flip,
    np.fliplr: lambda trace, m: _flip(trace, m, 1),
    np.flipud: lambda trace, m: _flip(trace, m, 0),
    np.roll: _roll,
    np.tril: _triangle(upper=False),
    np.triu: _triangle(upper=True),
    np.diagonal: _diagonal,
    np.diag: _diag,
    np.trace: _trace,
    np.linalg.trace: _last_trace,
    np.linalg.diagonal: _last_diagonal,
    np.shape: _shape,
    np.ndim: _ndim,
}
"""What functions that move elements become."""
