"""Indexing: ints, slices, None and Ellipsis are slices of the graph, integer arrays gathers.

An index that is computed is not checked when the code runs: beyond the end it is clamped.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, binary
from tilewright.tensor.simplify import dim, product

from .reductions import axis_of
from .shapes import reshaped, transposed, view, widened
from .trace import Handler, Trace
from .tracer import Tracer, dim_of, has_traced, operand, stacked, tracer

WHO = "indexing"


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an array that a key selects.

    Attributes:
        starts, sizes, steps: a slice for each axis of the array.
        shape: after slicing, with new axes and without those of integers.
        gathers: index arrays, by axis of that shape.
    """

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]
    shape: tuple[Dim, ...]
    gathers: Mapping[int, Any]


def region(trace: Trace, x: Tracer, key: Any) -> Region:
    """What a key selects; refuses what lies outside."""
    items = _items(trace, x, key if isinstance(key, tuple) else (key,))
    advanced = any(isinstance(i, Tracer | np.ndarray) for i in items)
    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    shape: list[Dim] = []
    gathers: dict[int, Any] = {}
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = x.dims[axis]
        axis += 1
        if isinstance(item, slice):
            start, count, step = _slice(trace, item, size)
        elif isinstance(item, Tracer | np.ndarray):
            _check(trace, item, size)
            gathers[len(shape)] = item
            start, count, step = 0, size, 1
        elif advanced:
            # Next to index arrays an integer is one of them.
            start, count, step = _integer(trace, item, size), 1, 1
            gathers[len(shape)] = np.zeros((), np.int64)
        else:
            starts.append(_integer(trace, item, size))
            sizes.append(1)
            steps.append(1)
            continue
        starts.append(start)
        sizes.append(count)
        steps.append(step)
        shape.append(count)
    return Region(tuple(starts), tuple(sizes), tuple(steps), tuple(shape), gathers)


def _getitem(trace: Trace, x: Tracer, key: Any) -> Any:
    part = region(trace, x, key)
    value = x.value
    whole = all(s == 0 for s in part.starts) and set(part.steps) <= {1} and part.sizes == x.dims
    if not whole:
        value = trace.add("slice", value, starts=part.starts, sizes=part.sizes, steps=part.steps)
    if part.shape != value.shape:
        value = reshaped(trace, value, part.shape)
    if part.gathers:
        value = _gather(trace, value, dict(part.gathers))
        return Tracer(trace, value, scalar=not value.shape)
    if not part.shape and ... not in _plain(key):
        return Tracer(trace, value, scalar=True)
    found = view(x, value)
    found.origin = x, key
    return found


def _plain(key: Any) -> tuple[Any, ...]:
    """The parts of a key that compare with Ellipsis by identity."""
    given = key if isinstance(key, tuple) else (key,)
    return tuple(k for k in given if k is ...)


def _items(trace: Trace, x: Tracer, key: tuple[Any, ...]) -> list[Any]:
    """One item an axis (and None for new axes): lists as arrays, masks as indices."""
    items: list[Any] = []
    for item in key:
        if isinstance(item, list):
            item = stacked(trace, WHO, item) if has_traced(item) else np.asarray(item)
            if isinstance(item, np.ndarray) and item.size == 0:
                item = item.astype(np.int64)
        if isinstance(item, bool | np.bool_):
            trace.unsupported("indexing with a boolean scalar", "TW-E0245")
        if isinstance(item, np.integer):
            item = int(item)
        if isinstance(item, np.ndarray) and item.dtype == np.bool_:
            items.extend(item.nonzero())
            continue
        if isinstance(item, Tracer) and item.value.dtype is dt.bool_:
            trace.unsupported(
                "indexing with a mask: the size of the result depends on data; use np.where",
                "TW-E0242",
            )
        if isinstance(item, Tracer | np.ndarray) and item.dtype.kind not in "iu":
            trace.refuse(f"an index array must be of integers, not {item.dtype}")
        items.append(item)
    dots = [i for i, item in enumerate(items) if item is ...]
    used = sum(item is not None and item is not ... for item in items)
    if used > x.ndim or len(dots) > 1:
        trace.refuse(f"too many indices: {used} for {x.ndim} dimensions")
    fill = [slice(None)] * (x.ndim - used)
    at = dots[0] if dots else len(items)
    return [*items[:at], *fill, *items[at + 1 :]]


def _integer(trace: Trace, item: Any, size: Dim) -> Dim:
    try:
        index = dim_of(item)
    except TypeError:
        trace.refuse(f"{item!r} is no index")
    number = trace.hint(index)
    if not -trace.hint(size) <= number < trace.hint(size):
        trace.refuse(f"index {number} is out of bounds for size {trace.hint(size)}")
    if trace.decide(binary("lt", as_expr(index), 0)):
        index = dim(as_expr(index) + size)
        trace.decide(binary("ge", as_expr(index), 0))
    trace.decide(binary("lt", as_expr(index), size))
    return index


def _check(trace: Trace, item: Any, size: Dim) -> None:
    """Refuses index arrays whose known numbers lie outside."""
    if not isinstance(item, np.ndarray) or item.size == 0:
        return
    low, high = int(item.min()), int(item.max())
    if not trace.decide(binary("lt", as_expr(max(high, -1 - low)), size)):
        trace.refuse(f"indices {low} to {high} are out of bounds for size {trace.hint(size)}")


def _slice(trace: Trace, item: slice, size: Dim) -> tuple[Dim, Dim, int]:
    """Start, number of elements and step, clamped as Python does."""
    step = 1 if item.step is None else operator.index(item.step)
    if step == 0:
        trace.refuse("slice step cannot be zero")
    if step > 0:
        start = _end(trace, item.start, size, 0, 0, size)
        stop = _end(trace, item.stop, size, size, 0, size)
        span = dim(as_expr(stop) - start)
    else:
        last = dim(as_expr(size) - 1)
        start = _end(trace, item.start, size, last, -1, last)
        stop = _end(trace, item.stop, size, -1, -1, last)
        span = dim(as_expr(start) - stop)
    if not trace.decide(binary("gt", as_expr(span), 0)):
        return 0, 0, 1
    count = dim((as_expr(span) + (abs(step) - 1)) // abs(step))
    return start, count, step


def _end(trace: Trace, given: Any, size: Dim, default: Dim, low: Dim, high: Dim) -> Dim:
    if given is None:
        return default
    if isinstance(given, Tracer):
        trace.unsupported("a slice whose ends depend on data", "TW-E0242")
    place = dim_of(given)
    if trace.decide(binary("lt", as_expr(place), 0)):
        place = dim(as_expr(place) + size)
    if trace.decide(binary("lt", as_expr(place), low)):
        return low
    return high if trace.decide(binary("gt", as_expr(place), high)) else place


def _gather(trace: Trace, value: Value, gathers: dict[int, Any]) -> Value:
    """Reads at index arrays; their axes come first unless they stand side by side."""
    axes = list(gathers)
    indices = [trace.cast(operand(trace, WHO, i), dt.i64) for i in gathers.values()]
    if len(axes) == 1:
        return trace.add("gather", value, indices[0], axis=axes[0])
    shape = trace.broadcast(WHO, [i.shape for i in indices])
    wide = [reshaped(trace, widened(trace, WHO, i, shape), (*shape, 1)) for i in indices]
    places = trace.add("concat", *wide, axis=len(shape))
    rest = [d for d in range(len(value.shape)) if d not in axes]
    found = trace.add("gather_nd", transposed(trace, value, (*axes, *rest)), places, batch_dims=0)
    if axes != list(range(axes[0], axes[-1] + 1)):
        return found
    rank = len(shape)
    before = range(rank, rank + axes[0])
    after = range(rank + axes[0], rank + len(rest))
    return transposed(trace, found, (*before, *range(rank), *after))


def _take(
    trace: Trace, a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise"
) -> Any:
    who = "numpy.take"
    if out is not None or mode not in ("raise", "clip"):
        trace.unsupported(f"{who} with out or mode={mode!r}", "TW-E0245")
    x = tracer(trace, who, a)
    value = x.value if axis is not None else reshaped(trace, x.value, (product(x.dims),))
    along = 0 if axis is None else axis_of(trace, who, axis, x.ndim)
    if isinstance(indices, int | list | tuple | np.integer) and not has_traced(indices):
        indices = np.asarray(indices)
    places = operand(trace, who, indices)
    if not places.dtype.is_integer:
        trace.refuse(f"{who}: indices must be integers, not {places.dtype}")
    if mode == "raise":
        _check(trace, indices, value.shape[along])
    else:
        places = trace.add("max", places, trace.constant(np.zeros((), places.dtype.numpy)))
    found = trace.add("gather", value, trace.cast(places, dt.i64), axis=along)
    return Tracer(trace, found, scalar=not found.shape)


def _take_along_axis(trace: Trace, arr: Any, indices: Any, axis: Any = -1) -> Any:
    who = "numpy.take_along_axis"
    x, places = tracer(trace, who, arr), tracer(trace, who, indices)
    value, index = x.value, trace.cast(places.value, dt.i64)
    if axis is None:
        value, axis = reshaped(trace, value, (product(x.dims),)), 0
    rank = len(value.shape)
    if len(index.shape) != rank or not places.value.dtype.is_integer:
        trace.refuse(f"{who}: needs as many dimensions of integer indices as the array has")
    along = axis_of(trace, who, axis, rank)
    pairs = [value.shape, index.shape]
    outer = [tuple(1 if d == along else s for d, s in enumerate(shape)) for shape in pairs]
    wide = trace.broadcast(who, outer)
    value = widened(trace, who, value, [value.shape[d] if d == along else s
                                        for d, s in enumerate(wide)])  # fmt: skip
    index = widened(trace, who, index, [index.shape[d] if d == along else s
                                        for d, s in enumerate(wide)])  # fmt: skip
    return Tracer(trace, trace.add("gather_elements", value, index, axis=along))


INDEXING: Mapping[object, Handler] = {
    operator.getitem: _getitem,
    np.take: _take,
    np.take_along_axis: _take_along_axis,
}
"""What reads by index become."""
