"""Functions that arrange arrays by means of those in ``shapes``: blocks, grids, turns, splits."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.tensor.ir import Dim

from .reductions import axis_of
from .shapes import reshaped, view
from .trace import Handler, Trace
from .tracer import Tracer, call_function, tracer


def _append(trace: Trace, arr: Any, values: Any, axis: Any = None) -> Any:
    parts = [tracer(trace, "numpy.append", x) for x in (arr, values)]
    return call_function(trace, np.concatenate, (parts, axis), {})


def _split_along(name: str, axis: int) -> Handler:
    def handler(trace: Trace, ary: Any, indices_or_sections: Any) -> Any:
        x = tracer(trace, f"numpy.{name}", ary)
        least = max(axis + 1, 1 if name == "hsplit" else 2)
        if x.ndim < (1 if name == "hsplit" else least):
            trace.refuse(f"numpy.{name}: {x.ndim} dimensions, it needs {least} or more")
        along = 0 if x.ndim == 1 else axis
        return call_function(trace, np.split, (x, indices_or_sections, along), {})

    return handler


def _unstack(trace: Trace, x: Any, /, *, axis: int = 0) -> Any:
    a: Any = tracer(trace, "numpy.unstack", x)
    along = axis_of(trace, "numpy.unstack", axis, a.ndim)
    count = trace.specialise(a.dims[along])
    return tuple(a[(*[slice(None)] * along, i)] for i in range(count))


def _atleast_3d(trace: Trace, *arys: Any) -> Any:
    found = []
    for array in arys:
        x = tracer(trace, "numpy.atleast_3d", array)
        new: dict[int, tuple[Dim, ...]] = {0: (1, 1, 1), 1: (1, *x.dims, 1), 2: (*x.dims, 1)}
        found.append(view(x, reshaped(trace, x.value, new[x.ndim])) if x.ndim < 3 else x)
    return found[0] if len(found) == 1 else tuple(found)


def _rot90(trace: Trace, m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    x: Any = tracer(trace, "numpy.rot90", m)
    i, j = (axis_of(trace, "numpy.rot90", a, x.ndim) for a in axes)
    if i == j:
        trace.refuse("numpy.rot90: the axes must be different")
    match operator.index(k) % 4:
        case 0:
            return x[...]
        case 1:
            return np.swapaxes(np.flip(x, j), i, j)
        case 2:
            return np.flip(x, (i, j))
        case _:
            return np.flip(np.swapaxes(x, i, j), j)


def _rollaxis(trace: Trace, a: Any, axis: int, start: int = 0) -> Any:
    x = tracer(trace, "numpy.rollaxis", a)
    along = axis_of(trace, "numpy.rollaxis", axis, x.ndim)
    place = start + x.ndim if start < 0 else start
    if not 0 <= place <= x.ndim:
        trace.refuse(f"numpy.rollaxis: start {start} is out of bounds for {x.ndim} dimensions")
    to = place - 1 if along < place else place
    return call_function(trace, np.moveaxis, (x, along, to), {})


def _matrix_transpose(trace: Trace, x: Any, /) -> Any:
    return call_function(trace, np.swapaxes, (x, -1, -2), {})


def _meshgrid(
    trace: Trace, *xi: Any, copy: Any = True, sparse: Any = False, indexing: str = "xy"
) -> Any:
    who = "numpy.meshgrid"
    if indexing not in ("xy", "ij"):
        trace.refuse(f"{who}: indexing is 'xy' or 'ij', not {indexing!r}")
    vectors: list[Any] = [np.ravel(tracer(trace, who, x)) for x in xi]
    order = list(range(len(vectors)))
    if indexing == "xy":
        order[:2] = order[:2][::-1]
    grids = [
        v.reshape([-1 if order[d] == i else 1 for d in range(len(vectors))])
        for i, v in enumerate(vectors)
    ]
    if not sparse:
        grids = call_function(trace, np.broadcast_arrays, grids, {})
    return tuple(Tracer(trace, g.value) for g in grids) if copy else tuple(grids)


def _block(trace: Trace, arrays: Any) -> Any:
    """Joins nested lists: the innermost along the last axis, those around it along the one before.

    Every leaf gets as many axes as the deepest list or leaf has.
    """

    def depth(x: Any) -> int:
        return 1 + max(map(depth, x)) if isinstance(x, list) else 0

    def leaves(x: Any) -> list[Any]:
        return [leaf for item in x for leaf in leaves(item)] if isinstance(x, list) else [x]

    levels = depth(arrays)
    rank = max(levels, *(tracer(trace, "numpy.block", x).ndim for x in leaves(arrays)))

    def join(x: Any, level: int) -> Any:
        if not isinstance(x, list):
            leaf = tracer(trace, "numpy.block", x)
            wide = reshaped(trace, leaf.value, (*[1] * (rank - leaf.ndim), *leaf.dims))
            return Tracer(trace, wide)
        parts = [join(item, level + 1) for item in x]
        if any(isinstance(item, list) != isinstance(x[0], list) for item in x):
            trace.refuse("numpy.block: lists of different depth stand side by side")
        return call_function(trace, np.concatenate, (parts, level - levels), {})

    return join(arrays, 0)


def _diagflat(trace: Trace, v: Any, k: int = 0) -> Any:
    x: Any = tracer(trace, "numpy.diagflat", v)
    return call_function(trace, np.diag, (np.ravel(x), k), {})


def _array_equiv(trace: Trace, a1: Any, a2: Any) -> Any:
    x: Any = tracer(trace, "numpy.array_equiv", a1)
    y: Any = tracer(trace, "numpy.array_equiv", a2)
    shapes = [trace.hints(s) for s in (x.dims, y.dims)]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        # The sizes are looked at in Python, which guards them.
        pairs = zip(x.shape[::-1], y.shape[::-1], strict=False)
        return all(a in (b, 1) or b == 1 for a, b in pairs)
    return Tracer(trace, call_function(trace, np.all, (x == y,), {}).value, weak=bool)


ARRANGE: Mapping[object, Handler] = {
    np.append: _append,
    np.hsplit: _split_along("hsplit", 1),
    np.vsplit: _split_along("vsplit", 0),
    np.dsplit: _split_along("dsplit", 2),
    np.unstack: _unstack,
    np.atleast_3d: _atleast_3d,
    np.rot90: _rot90,
    np.rollaxis: _rollaxis,
    np.matrix_transpose: _matrix_transpose,
    np.linalg.matrix_transpose: _matrix_transpose,
    np.meshgrid: _meshgrid,
    np.block: _block,
    np.diagflat: _diagflat,
    np.array_equiv: _array_equiv,
}
"""What functions that arrange arrays become."""
