"""Functions of sorted data: quantiles, places, bins, and linear interpolation between points.

Places are found by counting: as many comparisons as there are pairs, all in one fused reduction.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.tensor.ir import Dim, as_expr, binary
from tilewright.tensor.simplify import product

from .reductions import axes_of, axis_of, kept, result
from .shapes import promote, reshaped, transposed
from .trace import Handler, Trace
from .tracer import Tracer, call_function, has_traced, operand, tracer

_METHODS = ("linear", "lower", "higher", "midpoint")


def _astype(trace: Trace, x: Any, dtype: Any) -> Any:
    return call_function(trace, np.astype, (x, dtype), {})


def _rows(trace: Trace, who: str, a: Any, axis: Any) -> tuple[Any, tuple[Dim, ...]]:
    """The array with the axes to reduce as one last axis, and its shape with them kept as 1."""
    x = tracer(trace, who, a)
    axes = axes_of(trace, who, axis, x.ndim)
    rest = [d for d in range(x.ndim) if d not in axes]
    value = transposed(trace, x.value, (*rest, *axes))
    size = product([x.dims[d] for d in axes])
    if not trace.decide(binary("gt", as_expr(size), 0)):
        trace.refuse(f"{who}: nothing to choose from in shape {trace.hints(x.dims)}")
    flat = reshaped(trace, value, (*(x.dims[d] for d in rest), size))
    return Tracer(trace, flat), tuple(1 if d in axes else s for d, s in enumerate(x.dims))


def _kept(trace: Trace, found: Any, lead: int, keep: tuple[Dim, ...], keepdims: Any) -> Tracer:
    if not kept(keepdims):
        return result(trace, found.value)
    return Tracer(trace, reshaped(trace, found.value, (*found.dims[:lead], *keep)))


def _nan_rows(ordered: Any, found: Any) -> Any:
    """nan where a row has one: it is sorted to the end."""
    if ordered.dtype.kind != "f":
        return found
    return np.where(np.isnan(ordered[..., -1]), np.asarray(np.nan, found.dtype), found)


def _counts(trace: Trace, x: Any) -> Any:
    """How many numbers that are not nan each row has, with one axis for quantiles."""
    there = ~np.isnan(x)
    return call_function(trace, np.sum, (there, -1), {"keepdims": True})


def _median(skip_nan: bool) -> Handler:
    who = "numpy.nanmedian" if skip_nan else "numpy.median"

    def handler(
        trace: Trace, a: Any, axis: Any = None, out: Any = None, overwrite_input: Any = False,
        keepdims: Any = False,
    ) -> Any:  # fmt: skip
        x, keep = _rows(trace, who, a, axis)
        if x.dtype.kind != "f":
            x = _astype(trace, x, np.float64)
        ordered = np.sort(x, -1)
        if skip_nan:
            count = _counts(trace, x)
            places = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, x.shape[-1] - 1)
            low, high = (np.take_along_axis(ordered, p, -1)[..., 0] for p in places)
        else:
            low, high = ordered[..., (x.shape[-1] - 1) // 2], ordered[..., x.shape[-1] // 2]
        wide = np.float32 if x.dtype == np.float16 else x.dtype
        total = _astype(trace, low, wide) + _astype(trace, high, wide)
        # Of one number, or two alike, the sum could overflow.
        found = np.where(low == high, low, _astype(trace, total / 2, x.dtype))
        if not skip_nan:
            found = _nan_rows(ordered, found)
        return _kept(trace, found, 0, keep, keepdims)

    return handler


def _quantile(name: str) -> Handler:
    who = f"numpy.{name}"
    scale, skip_nan = 100 if "percentile" in name else 1, name.startswith("nan")

    def handler(
        trace: Trace, a: Any, q: Any, axis: Any = None, out: Any = None,
        overwrite_input: Any = False, method: str = "linear", keepdims: Any = False, *,
        weights: Any = None,
    ) -> Any:  # fmt: skip
        if weights is not None or method not in _METHODS:
            trace.unsupported(f"{who} with weights or method={method!r}", "TW-E0245")
        if has_traced(q):
            trace.unsupported(f"{who}: quantiles that depend on data", "TW-E0242")
        x, keep = _rows(trace, who, a, axis)
        is_float = x.dtype.kind == "f"
        parts = np.asarray(q, x.dtype if is_float and isinstance(q, int | float) else None)
        parts = np.true_divide(parts, x.dtype.type(scale) if is_float else scale)
        if not ((parts >= 0) & (parts <= 1)).all():
            trace.refuse(f"{who}: quantiles must be in the range 0 to {scale}")
        ordered = np.sort(x, -1)
        count: Any = _counts(trace, x) if skip_nan and is_float else x.shape[-1]
        last = Tracer(trace, operand(trace, who, count - 1, parts.dtype))
        found = _between(trace, ordered, np.maximum(last * parts.ravel(), 0), method)
        if not (skip_nan and is_float):
            found = np.moveaxis(_nan_rows(ordered, np.moveaxis(found, -1, 0)), 0, -1)
        found = np.moveaxis(found, -1, 0)
        found = Tracer(trace, reshaped(trace, found.value, (*parts.shape, *found.dims[1:])))
        return _kept(trace, found, parts.ndim, keep, keepdims)

    return handler


def _between(trace: Trace, ordered: Any, at: Any, method: str) -> Any:
    """The elements of sorted rows at broken positions, by row or for all rows."""
    low = np.floor(at)
    first = _astype(trace, low, np.int64)
    second = np.minimum(_astype(trace, np.ceil(at), np.int64), ordered.shape[-1] - 1)

    def pick(places: Any) -> Any:
        if places.ndim < ordered.ndim or ordered.ndim == 1:
            return np.take(ordered, places, axis=-1)
        return np.take_along_axis(ordered, places, -1)

    if method in ("lower", "higher"):
        return pick(first if method == "lower" else second)
    a, b = pick(first), pick(second)
    if ordered.dtype == np.bool_:
        return trace.refuse("a quantile of truth values: subtraction is not defined")
    t = at - low if method == "linear" else np.where(at == low, 0.0, 0.5).astype(at.dtype)
    gap = b - a
    return np.where(t >= 0.5, b - gap * (1 - t), a + gap * t)


# ------------------------------------------------------------------ places and bins


def _searchsorted(trace: Trace, a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    who = "numpy.searchsorted"
    if sorter is not None or side not in ("left", "right"):
        trace.unsupported(f"{who} with sorter, or side={side!r}", "TW-E0245")
    kind = promote(*(np.asarray(x) if isinstance(x, int | float) else x for x in (a, v)))
    points, wanted = (Tracer(trace, operand(trace, who, x, kind)) for x in (a, v))
    if points.ndim != 1:
        trace.refuse(f"{who}: the sorted array has {points.ndim} dimensions, not 1")
    places: Any = _places(trace, points, wanted, side)
    return result(trace, places.value)


def _places(trace: Trace, points: Any, wanted: Any, side: str) -> Any:
    column = wanted[..., None]
    before = points < column if side == "left" else points <= column
    if points.dtype.kind == "f":
        # A nan stands behind all numbers.
        rest = ~np.isnan(points) if side == "left" else np.isfinite(points) | True
        before = np.where(np.isnan(column), rest, before)
    return call_function(trace, np.sum, (before, -1), {})


def _digitize(trace: Trace, x: Any, bins: Any, right: Any = False) -> Any:
    who = "numpy.digitize"
    if has_traced(bins):
        trace.unsupported(f"{who}: bins that depend on data; use np.searchsorted", "TW-E0242")
    edges = np.asarray(bins)
    side = "left" if right else "right"
    if (np.diff(edges) >= 0).all():
        return _searchsorted(trace, edges, x, side)
    if not (np.diff(edges) <= 0).all():
        trace.refuse(f"{who}: bins must increase or decrease monotonically")
    # From the other end: what is after becomes what is before.
    found: Any = _searchsorted(trace, edges[::-1], x, side)
    return len(edges) - found


def _histogram(
    trace: Trace, a: Any, bins: Any = 10, range: Any = None, density: Any = None,  # noqa: A002
    weights: Any = None,
) -> Any:  # fmt: skip
    who = "numpy.histogram"
    x: Any = np.ravel(tracer(trace, who, a))
    if isinstance(bins, str):
        trace.unsupported(f"{who} with bins={bins!r}: their number depends on data", "TW-E0242")
    if x.dtype == np.bool_:
        x = _astype(trace, x, np.uint8)
    edges: Any = bins if np.ndim(bins) else _even_edges(trace, who, x, operator.index(bins), range)
    if not isinstance(edges, Tracer):
        edges = np.asarray(edges)
        if (np.diff(edges) < 0).any():
            trace.refuse(f"{who}: bins must increase monotonically")
        edges = Tracer(trace, operand(trace, who, edges))
    column = x[:, None]
    last = np.arange(trace.specialise(edges.dims[0]) - 1) == edges.shape[0] - 2
    below = (column < edges[1:]) | (last & (column == edges[1:]))
    inside = (column >= edges[:-1]) & below
    if weights is None:
        counts = call_function(trace, np.sum, (inside, 0), {})
    else:
        load = tracer(trace, who, weights)
        whole = tracer(trace, who, a)
        if trace.hints(load.dims) != trace.hints(whole.dims):
            trace.refuse(f"{who}: weights have shape {trace.hints(load.dims)}")
        for one, other in zip(load.dims, whole.dims, strict=True):
            trace.require_equal(one, other)
        heavy: Any = np.ravel(load)
        counts = np.where(inside, heavy[:, None], np.zeros((), heavy.dtype)).sum(0)
    if density:
        wide = _astype(trace, np.diff(edges), np.float64)
        counts = counts / wide / counts.sum()
    return counts, edges


def _even_edges(trace: Trace, who: str, x: Any, count: int, given: Any) -> Any:
    kind = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    if given is not None:
        low, high = given
        if has_traced([low, high]):
            trace.unsupported(f"{who}: a range that depends on data", "TW-E0242")
        if high < low:
            trace.refuse(f"{who}: the range must not end before it begins")
        spread = 0.5 if low == high else 0.0
        return np.linspace(low - spread, high + spread, count + 1, dtype=kind)
    least, most = _astype(trace, x.min(), kind), _astype(trace, x.max(), kind)
    flat = least == most
    first, end = np.where(flat, least - 0.5, least), np.where(flat, most + 0.5, most)
    steps = np.arange(count + 1) / count
    edges = first + (end - first) * np.asarray(steps, kind)
    edges = np.where(np.arange(count + 1) == count, end, edges)
    return _astype(trace, edges, kind)


def _interp(
    trace: Trace, x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None,
    period: Any = None,
) -> Any:  # fmt: skip
    who = "numpy.interp"
    if period is not None:
        trace.unsupported(f"{who} with a period", "TW-E0245")
    at, points, values = (
        Tracer(trace, operand(trace, who, i, np.dtype(np.float64))) for i in (x, xp, fp)
    )  # type: Any, Any, Any
    if points.ndim != 1 or values.ndim != 1:
        trace.refuse(f"{who}: the points must be vectors")
    trace.require_equal(points.dims[0], values.dims[0])
    count = points.shape[0]
    place = _places(trace, points, at, "right") - 1
    one = np.clip(place, 0, count - 1)
    two = np.minimum(one + 1, count - 1)
    x0, x1, y0, y1 = points[one], points[two], values[one], values[two]
    run = np.where(x1 > x0, x1 - x0, 1.0)
    found = np.where(at == x0, y0, y0 + (at - x0) * ((y1 - y0) / run))
    found = np.where(at < points[0], values[0] if left is None else left, found)
    found = np.where(at > points[-1], values[-1] if right is None else right, found)
    return result(trace, np.where(np.isnan(at), at, found).value)


def _isin(
    trace: Trace, element: Any, test_elements: Any, assume_unique: Any = False,
    invert: Any = False, *, kind: Any = None,
) -> Any:  # fmt: skip
    x: Any = tracer(trace, "numpy.isin", element)
    tests: Any = np.ravel(tracer(trace, "numpy.isin", test_elements))
    found = call_function(trace, np.any, (x[..., None] == tests, -1), {})
    return ~found if invert else found


# ------------------------------------------------------------------ sorting by parts and by keys


def _partition(name: str) -> Handler:
    """Complete order is one of the orders that a partition may give."""
    function = np.sort if name == "partition" else np.argsort

    def handler(
        trace: Trace, a: Any, kth: Any, axis: Any = -1, kind: Any = None, order: Any = None
    ) -> Any:
        who = f"numpy.{name}"
        x = tracer(trace, who, a)
        size = product(x.dims) if axis is None else x.dims[axis_of(trace, who, axis, x.ndim)]
        for place in kth if isinstance(kth, list | tuple | np.ndarray) else (kth,):
            number = operator.index(place)
            if not trace.decide(binary("lt", as_expr(max(number, -1 - number)), size)):
                trace.refuse(f"{who}: kth {number} is out of bounds for size {trace.hint(size)}")
        return call_function(trace, function, (x, axis), {})

    return handler


def _lexsort(trace: Trace, keys: Any, axis: Any = -1) -> Any:
    who = "numpy.lexsort"
    rows: list[Any] = [tracer(trace, who, k) for k in keys]
    if not rows:
        trace.refuse(f"{who}: needs a key")
    # A stable sort by each key, the most significant last.
    order: Any = np.argsort(rows[0], axis)
    for row in rows[1:]:
        again = np.argsort(np.take_along_axis(row, order, axis), axis)
        order = np.take_along_axis(order, again, axis)
    return order


def _array_equal(trace: Trace, a1: Any, a2: Any, equal_nan: Any = False) -> Any:
    x: Any = tracer(trace, "numpy.array_equal", a1)
    y: Any = tracer(trace, "numpy.array_equal", a2)
    if x.ndim != y.ndim or trace.hints(x.dims) != trace.hints(y.dims):
        # Sizes that differ now are compared in Python, which guards them.
        return x.ndim == y.ndim and all(a == b for a, b in zip(x.shape, y.shape, strict=True))
    same = x == y
    if equal_nan and x.dtype.kind == "f" and y.dtype.kind == "f":
        same = same | (np.isnan(x) & np.isnan(y))
    return Tracer(trace, call_function(trace, np.all, (same,), {}).value, weak=bool)


ORDER: Mapping[object, Handler] = {
    np.median: _median(skip_nan=False),
    np.nanmedian: _median(skip_nan=True),
    np.quantile: _quantile("quantile"),
    np.percentile: _quantile("percentile"),
    np.nanquantile: _quantile("nanquantile"),
    np.nanpercentile: _quantile("nanpercentile"),
    np.searchsorted: _searchsorted,
    np.digitize: _digitize,
    np.histogram: _histogram,
    np.interp: _interp,
    np.isin: _isin,
    np.partition: _partition("partition"),
    np.argpartition: _partition("argpartition"),
    np.lexsort: _lexsort,
    np.array_equal: _array_equal,
}
"""What functions of sorted data become."""
