"""Functions that NumPy itself computes from others: differences, moments, products of vectors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.tensor.ir import as_expr, binary

from .reductions import axes_of, axis_of, kept, result
from .trace import Handler, Trace
from .tracer import NO_VALUE, Tracer, call_function, has_traced, operand, tracer


def _part(x: Any, axis: int, key: Any) -> Any:
    return x[(*[slice(None)] * axis, key)]


def _floats(trace: Trace, who: str, a: Any) -> Any:
    """An array with whole numbers as f64."""
    x = tracer(trace, who, a)
    return x if x.dtype.kind == "f" else call_function(trace, np.astype, (x, np.float64), {})


def _gradient(trace: Trace, f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    who = "numpy.gradient"
    x = _floats(trace, who, f)
    given = axis if isinstance(axis, tuple | list) else None if axis is None else (axis,)
    axes = list(range(x.ndim)) if given is None else [axis_of(trace, who, i, x.ndim) for i in given]
    steps = list(varargs) if len(varargs) > 1 else [*varargs, 1.0][:1] * len(axes)
    if len(steps) != len(axes) or any(np.ndim(s) for s in steps if not isinstance(s, Tracer)):
        trace.unsupported(f"{who} with spacings that are not one number for each axis", "TW-E0245")
    found = [_slope(trace, x, d, step, edge_order) for d, step in zip(axes, steps, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


def _slope(trace: Trace, x: Any, axis: int, step: Any, edge_order: int) -> Any:
    if not trace.decide(binary("gt", as_expr(x.dims[axis]), edge_order)):
        trace.refuse(f"numpy.gradient: axis {axis} needs {edge_order + 1} elements or more")
    a, b = _part(x, axis, slice(0, 1)), _part(x, axis, slice(1, 2))
    y, z = _part(x, axis, slice(-2, -1)), _part(x, axis, slice(-1, None))
    first, last = (b - a) / step, (z - y) / step
    if edge_order == 2:
        c, w = _part(x, axis, slice(2, 3)), _part(x, axis, slice(-3, -2))
        first = (-1.5 * a + 2.0 * b - 0.5 * c) / step
        last = (0.5 * w - 2.0 * y + 1.5 * z) / step
    ahead, behind = _part(x, axis, slice(2, None)), _part(x, axis, slice(None, -2))
    return np.concatenate([first, (ahead - behind) / (2.0 * step), last], axis)


def _trapezoid(trace: Trace, y: Any, x: Any = None, dx: Any = 1.0, axis: Any = -1) -> Any:
    who = "numpy.trapezoid"
    f: Any = tracer(trace, who, y)
    along = axis_of(trace, who, axis, f.ndim)
    step: Any = dx
    if x is not None:
        at: Any = tracer(trace, who, x)
        step = np.diff(at, axis=0 if at.ndim == 1 else axis)
        if at.ndim == 1:
            step = step.reshape(*[1] * along, -1, *[1] * (f.ndim - along - 1))
    pairs = _part(f, along, slice(1, None)) + _part(f, along, slice(None, -1))
    return call_function(trace, np.sum, (step * pairs / 2.0, along), {})


def _ediff1d(trace: Trace, ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    x: Any = np.ravel(tracer(trace, "numpy.ediff1d", ary))
    parts = [x[1:] - x[:-1]]
    for given, at in ((to_begin, 0), (to_end, len(parts) + 1)):
        if given is not None:
            edge = Tracer(trace, operand(trace, "numpy.ediff1d", given, x.dtype))
            parts.insert(at, np.ravel(edge))
    return np.concatenate(parts)


def _cumulative(name: str) -> Handler:
    function = np.cumsum if name == "sum" else np.cumprod

    def handler(
        trace: Trace, x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None,
        include_initial: Any = False,
    ) -> Any:  # fmt: skip
        who = f"numpy.cumulative_{name}"
        a = tracer(trace, who, x)
        if axis is None and a.ndim != 1:
            trace.refuse(f"{who}: needs an axis for {a.ndim} dimensions")
        along = axis_of(trace, who, 0 if axis is None else axis, a.ndim)
        found: Any = call_function(trace, function, (a, along), {"dtype": dtype})
        if include_initial:
            start = np.full_like(_part(found, along, slice(0, 1)), 0 if name == "sum" else 1)
            found = np.concatenate([start, found], along)
        return found

    return handler


# ------------------------------------------------------------------ moments


def _cov(
    trace: Trace, m: Any, y: Any = None, rowvar: Any = True, bias: Any = False, ddof: Any = None,
    fweights: Any = None, aweights: Any = None, *, dtype: Any = None,
) -> Any:  # fmt: skip
    who = "numpy.cov"
    if fweights is not None or aweights is not None:
        trace.unsupported(f"{who} with weights", "TW-E0245")

    def rows(a: Any) -> Any:
        # NumPy computes in f64 unless it is told otherwise.
        x: Any = tracer(trace, who, a)
        if x.ndim > 2:
            trace.refuse(f"{who}: {x.ndim} dimensions, at most 2 are variables and observations")
        wide = dtype or np.promote_types(x.dtype, np.float64)
        x = np.atleast_2d(call_function(trace, np.astype, (x, wide), {}))
        return x.T if not rowvar and np.ndim(a) == 2 else x

    x = rows(m)
    if y is not None:
        x = np.concatenate([x, rows(y)])
    free = x.shape[1] - (ddof if ddof is not None else 0 if bias else 1)
    x = x - x.mean(1, keepdims=True)
    return np.squeeze(np.matmul(x, x.T) / free)


def _corrcoef(trace: Trace, x: Any, y: Any = None, rowvar: Any = True, *, dtype: Any = None) -> Any:
    c: Any = call_function(trace, np.cov, (x, y, rowvar), {"dtype": dtype})
    if c.ndim == 0:
        return c / c
    scale = np.sqrt(np.diagonal(c))
    return np.clip(c / scale[:, None] / scale[None, :], -1, 1)


def _moving(name: str) -> Handler:
    who = f"numpy.{name}"

    def handler(trace: Trace, a: Any, v: Any, mode: str | None = None) -> Any:
        mode = mode or ("full" if name == "convolve" else "valid")
        kind = np.result_type(tracer(trace, who, a).dtype, tracer(trace, who, v).dtype)
        x, w = (Tracer(trace, operand(trace, who, i, kind)) for i in (a, v))  # type: Any, Any
        if x.ndim != 1 or w.ndim != 1 or mode not in ("full", "same", "valid"):
            trace.refuse(f"{who}: needs two vectors and mode full, same or valid")
        if kind.kind != "f":
            trace.unsupported(f"{who} of {kind}", "TW-E0246")
        swapped = not trace.decide(binary("ge", as_expr(x.dims[0]), w.dims[0]))
        if swapped:
            x, w = w, x
        size = trace.specialise(w.dims[0])
        if size == 0:
            trace.refuse(f"{who}: an operand is empty")
        if name == "convolve":
            w = w[::-1]
        ends = {"full": (size - 1, size - 1), "valid": (0, 0), "same": (size // 2, (size - 1) // 2)}
        lo, hi = ends[mode]
        # A vector of one channel, and a filter of one channel in and out.
        value = trace.add(
            "conv", x[None, :, None].value, w[:, None, None].value, strides=(1,), lo=(lo,),
            hi=(hi,), dilations=(1,), groups=1,
        )  # fmt: skip
        found: Any = Tracer(trace, value)[0, :, 0]
        return found[::-1] if name == "correlate" and swapped else found

    return handler


# ------------------------------------------------------------------ vectors and polynomials


def _cross(
    trace: Trace, a: Any, b: Any, axisa: Any = -1, axisb: Any = -1, axisc: Any = -1,
    axis: Any = None,
) -> Any:  # fmt: skip
    who = "numpy.cross"
    if axis is not None:
        axisa = axisb = axisc = axis
    x = call_function(trace, np.moveaxis, (a, axisa, -1), {})
    y = call_function(trace, np.moveaxis, (b, axisb, -1), {})
    for v in (x, y):
        if trace.hint(v.dims[-1]) != 3:
            trace.unsupported(f"{who} of vectors of {trace.hint(v.dims[-1])} elements", "TW-E0245")
        trace.require_equal(v.dims[-1], 3)
    (x0, x1, x2), (y0, y1, y2) = ([v[..., i] for i in range(3)] for v in (x, y))
    return np.stack([x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0], axis=axisc)


def _polyval(trace: Trace, p: Any, x: Any) -> Any:
    who = "numpy.polyval"
    at: Any = tracer(trace, who, x)
    weights: Any = p if isinstance(p, Tracer) else np.asarray(p)
    if isinstance(p, list | tuple) and has_traced(p):
        weights = np.stack(list(p))
    count = weights.shape[0] if not isinstance(weights, Tracer) else trace.specialise(
        weights.dims[0]
    )  # fmt: skip
    found = np.zeros_like(at)
    for i in range(count):
        found = found * at + weights[i]
    return found


def _vecdot(trace: Trace, a: Any, b: Any, *, axis: Any = -1) -> Any:
    x, y = (call_function(trace, np.moveaxis, (i, axis, -1), {}) for i in (a, b))
    found: Any = np.matmul(x[..., None, :], y[..., None])[..., 0, 0]
    return result(trace, found.value)


def _matvec(trace: Trace, a: Any, v: Any) -> Any:
    column: Any = tracer(trace, "numpy.matvec", v)
    return np.matmul(a, column[..., None])[..., 0]


def _vecmat(trace: Trace, v: Any, a: Any) -> Any:
    row: Any = tracer(trace, "numpy.vecmat", v)
    return np.matmul(row[..., None, :], a)[..., 0, :]


def _multi_dot(trace: Trace, arrays: Sequence[Any], *, out: Any = None) -> Any:
    found = tracer(trace, "numpy.linalg.multi_dot", arrays[0])
    for array in arrays[1:]:
        found = call_function(trace, np.dot, (found, array), {})
    return found


def _vector_norm(
    trace: Trace,
    x: Any,
    /,
    *,
    axis: Any = None,
    keepdims: Any = False,
    ord: Any = 2,  # noqa: A002
) -> Any:
    a: Any = tracer(trace, "numpy.linalg.vector_norm", x)
    axes = axes_of(trace, "numpy.linalg.vector_norm", axis, a.ndim)
    rest = [d for d in range(a.ndim) if d not in axes]
    flat = np.transpose(a, (*rest, *axes)).reshape(*(a.shape[d] for d in rest), -1)
    found: Any = call_function(trace, np.linalg.norm, (flat, ord, -1), {})
    if not keepdims:
        return found
    return found.reshape([1 if d in axes else s for d, s in enumerate(a.shape)])


def _matrix_norm(
    trace: Trace,
    x: Any,
    /,
    *,
    keepdims: Any = False,
    ord: Any = "fro",  # noqa: A002
) -> Any:
    return call_function(trace, np.linalg.norm, (x, ord, (-2, -1)), {"keepdims": keepdims})


# ------------------------------------------------------------------ without nan


def _nan_extreme(name: str) -> Handler:
    function, fill = (np.max, -np.inf) if name == "max" else (np.min, np.inf)

    def handler(
        trace: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False
    ) -> Any:
        x: Any = tracer(trace, f"numpy.nan{name}", a)
        over = {"axis": axis, "keepdims": kept(keepdims)}
        if x.dtype.kind != "f":
            return call_function(trace, function, (x,), over)
        missing = np.isnan(x)
        filled = np.where(missing, np.asarray(fill, x.dtype), x)
        found = call_function(trace, function, (filled,), over)
        none = call_function(trace, np.all, (missing,), over)
        found = np.where(none, np.asarray(np.nan, x.dtype), found)
        return result(trace, tracer(trace, "numpy.where", found).value)

    return handler


def _nan_variance(root: bool) -> Handler:
    who = "numpy.nanstd" if root else "numpy.nanvar"

    def handler(
        trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None,
        ddof: Any = 0, keepdims: Any = False, *, correction: Any = NO_VALUE,
    ) -> Any:  # fmt: skip
        ddof = ddof if correction is NO_VALUE else correction
        x: Any = _floats(trace, who, a)
        x = x if dtype is None else call_function(trace, np.astype, (x, dtype), {})
        there = ~np.isnan(x)
        found = call_function(
            trace, np.var, (x, axis), {"ddof": ddof, "keepdims": kept(keepdims), "where": there}
        )
        count = call_function(trace, np.sum, (there, axis), {"keepdims": kept(keepdims)})
        found = np.where(count - ddof > 0, found, np.asarray(np.nan, found.dtype))
        found = np.sqrt(found) if root else found
        return result(trace, tracer(trace, "numpy.where", found).value)

    return handler


def _nan_running(name: str) -> Handler:
    function, fill = (np.cumsum, 0) if name == "cumsum" else (np.cumprod, 1)

    def handler(trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        x: Any = tracer(trace, f"numpy.nan{name}", a)
        if x.dtype.kind == "f":
            x = np.where(np.isnan(x), np.asarray(fill, x.dtype), x)
        return call_function(trace, function, (x, axis), {"dtype": dtype})

    return handler


# ------------------------------------------------------------------ of each element


def _sinc(trace: Trace, x: Any) -> Any:
    at: Any = _floats(trace, "numpy.sinc", x)
    y = np.pi * np.where(at == 0, np.asarray(1e-20, at.dtype), at)
    return np.where(at == 0, np.asarray(1, at.dtype), np.sin(y) / y)


def _angle(trace: Trace, z: Any, deg: Any = False) -> Any:
    x: Any = tracer(trace, "numpy.angle", z)
    found = np.arctan2(np.zeros_like(x), x)
    return found * (180 / np.pi) if deg else found


def _infinite(sign: int) -> Handler:
    def handler(trace: Trace, x: Any, out: Any = None) -> Any:
        a: Any = tracer(trace, "numpy.isposinf", x)
        return np.isinf(a) & (a > 0 if sign > 0 else a < 0)

    return handler


def _everywhere(value: bool) -> Handler:
    def handler(trace: Trace, x: Any) -> Any:
        return np.full_like(tracer(trace, "numpy.isreal", x), value, dtype=bool)

    return handler


def _zeros(trace: Trace, val: Any) -> Any:
    return np.zeros_like(tracer(trace, "numpy.imag", val))


def _itself(trace: Trace, val: Any, tol: Any = 100) -> Any:
    return tracer(trace, "numpy.real", val)


def _vander(trace: Trace, x: Any, N: Any = None, increasing: Any = False) -> Any:  # noqa: N803
    a: Any = tracer(trace, "numpy.vander", x)
    count = trace.specialise(a.dims[0]) if N is None else operator.index(N)
    powers = np.arange(count) if increasing else np.arange(count)[::-1]
    kind = np.promote_types(a.dtype, np.int64)
    return a.astype(kind)[:, None] ** powers.astype(kind)


CALCULUS: Mapping[object, Handler] = {
    np.gradient: _gradient,
    np.trapezoid: _trapezoid,
    np.ediff1d: _ediff1d,
    np.cumulative_sum: _cumulative("sum"),
    np.cumulative_prod: _cumulative("prod"),
    np.cov: _cov,
    np.corrcoef: _corrcoef,
    np.convolve: _moving("convolve"),
    np.correlate: _moving("correlate"),
    np.cross: _cross,
    np.linalg.cross: lambda trace, x1, x2, /, *, axis=-1: _cross(trace, x1, x2, axis=axis),
    np.polyval: _polyval,
    np.vander: _vander,
    "vecdot": _vecdot,
    np.linalg.vecdot: _vecdot,
    "matvec": _matvec,
    "vecmat": _vecmat,
    np.linalg.multi_dot: _multi_dot,
    np.linalg.vector_norm: _vector_norm,
    np.linalg.matrix_norm: _matrix_norm,
    np.nanmax: _nan_extreme("max"),
    np.nanmin: _nan_extreme("min"),
    np.nanvar: _nan_variance(root=False),
    np.nanstd: _nan_variance(root=True),
    np.nancumsum: _nan_running("cumsum"),
    np.nancumprod: _nan_running("cumprod"),
    np.sinc: _sinc,
    np.angle: _angle,
    np.isposinf: _infinite(1),
    np.isneginf: _infinite(-1),
    np.fix: lambda trace, x, out=None: np.trunc(tracer(trace, "numpy.fix", x)),
    np.real: _itself,
    np.real_if_close: _itself,
    np.imag: _zeros,
    np.isreal: _everywhere(True),
    np.iscomplex: _everywhere(False),
    np.isrealobj: lambda trace, x: True,
}
"""What NumPy's composite functions become."""
