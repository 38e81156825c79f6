"""Choices, conversions, rounding, order, and arrays made like others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import product

from .reductions import axis_of
from .shapes import dims_from, promote, reshaped
from .trace import Handler, Trace
from .tracer import (
    NO_VALUE,
    Size,
    Tracer,
    call_function,
    element_type,
    has_traced,
    kind_of,
    operand,
    tracer,
)


def _where(trace: Trace, condition: Any, x: Any = None, y: Any = None) -> Any:
    who = "numpy.where"
    if x is None or y is None:
        return trace.unsupported(
            f"{who} of a condition alone: the size of the result depends on data", "TW-E0242"
        )
    kind = promote(x, y)
    c = trace.cast(operand(trace, who, condition), dt.bool_)
    a, b = operand(trace, who, x, kind), operand(trace, who, y, kind)
    trace.broadcast(who, [c.shape, a.shape, b.shape])
    return Tracer(trace, trace.add("where", c, a, b))


def _select(trace: Trace, condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    kind = promote(*choicelist, default)
    result: Any = Tracer(trace, operand(trace, "numpy.select", default, kind))
    for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
        value = Tracer(trace, operand(trace, "numpy.select", choice, kind))
        result = _where(trace, condition, value, result)
    return result


def _clip(
    trace: Trace, a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *,
    min: Any = None, max: Any = None,  # noqa: A002
) -> Any:  # fmt: skip
    if out is not None:
        trace.unsupported("numpy.clip with the argument out", "TW-E0245")
    low = min if a_min is None or a_min is NO_VALUE else a_min
    high = max if a_max is None or a_max is NO_VALUE else a_max
    low = None if low is NO_VALUE or _is_beyond(a, low, -1) else low
    high = None if high is NO_VALUE or _is_beyond(a, high, 1) else high
    x = a
    if low is not None:
        x = call_function_ufunc(trace, np.maximum, x, low)
    if high is not None:
        x = call_function_ufunc(trace, np.minimum, x, high)
    return x if x is not a else call_function(trace, np.copy, (a,), {})


def _is_beyond(x: Any, bound: Any, side: int) -> bool:
    """Whether a Python integer bounds nothing, being outside the dtype on that side."""
    kind = kind_of(x)
    if type(bound) is not int or not isinstance(kind, np.dtype) or kind.kind not in "iu":
        return False
    info = np.iinfo(kind)
    return bound < info.min if side < 0 else bound > info.max


def call_function_ufunc(trace: Trace, ufunc: np.ufunc, *operands: Any) -> Any:
    """Calls a ufunc through the table."""
    return trace.functions["ufunc"](trace, ufunc, *operands)


def _astype(
    trace: Trace, x: Any, dtype: Any, /, *, copy: Any = True, device: Any = None,
    casting: Any = "unsafe",
) -> Any:  # fmt: skip
    a = tracer(trace, "numpy.astype", x)
    wanted = element_type(trace, "numpy.astype", dtype)
    if not np.can_cast(a.dtype, wanted.numpy, casting):
        trace.refuse(f"astype: cannot cast {a.dtype} to {wanted} by {casting!r}")
    if not copy and wanted is a.value.dtype:
        return a
    return Tracer(trace, trace.cast(a.value, wanted), scalar=a.scalar)


def _copy(trace: Trace, a: Any, order: Any = "K", subok: Any = False) -> Any:
    x = tracer(trace, "numpy.copy", a)
    return Tracer(trace, x.value)


def _round(trace: Trace, a: Any, decimals: int = 0, out: Any = None) -> Any:
    x: Any = tracer(trace, "numpy.round", a)
    if out is not None:
        trace.unsupported("numpy.round with the argument out", "TW-E0245")
    if not x.value.dtype.is_float:
        if decimals < 0 or x.value.dtype is dt.bool_:
            trace.unsupported(f"numpy.round of {x.dtype} to {decimals} decimals")
        return Tracer(trace, x.value, scalar=x.scalar)
    if decimals == 0:
        return np.rint(x)
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return np.rint(x * scale) / scale
    return np.rint(x / scale) * scale


def _nan_to_num(
    trace: Trace, x: Any, copy: Any = True, nan: Any = 0.0, posinf: Any = None,
    neginf: Any = None,
) -> Any:  # fmt: skip
    a = tracer(trace, "numpy.nan_to_num", x)
    if not copy:
        found = _nan_to_num(trace, a, True, nan, posinf, neginf)
        return trace.functions["write"](trace, "numpy.nan_to_num", a, found)
    if not a.value.dtype.is_float:
        return _copy(trace, a)
    info = np.finfo(a.dtype)
    high = info.max if posinf is None else posinf
    low = info.min if neginf is None else neginf
    value = a.value

    def put(condition: Value, number: Any, rest: Value) -> Value:
        return trace.add("where", condition, trace.constant(np.asarray(number, a.dtype)), rest)

    zero = trace.constant(np.zeros((), a.dtype))
    infinite = trace.add("isinf", value)
    result = put(trace.add("and", infinite, trace.add("gt", value, zero)), high, value)
    result = put(trace.add("and", infinite, trace.add("lt", value, zero)), low, result)
    return Tracer(trace, put(trace.add("isnan", value), nan, result), scalar=a.scalar)


def _isclose(
    trace: Trace, a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: Any = False
) -> Any:
    x: Any = tracer(trace, "numpy.isclose", a)
    y: Any = tracer(trace, "numpy.isclose", b)
    near = np.absolute(x - y) <= atol + rtol * np.absolute(y)
    close = (near & np.isfinite(y)) | (x == y)
    return close | (np.isnan(x) & np.isnan(y)) if equal_nan else close


def _allclose(trace: Trace, *args: Any, **kwargs: Any) -> Any:
    close = call_function(trace, np.isclose, args, kwargs)
    found = call_function(trace, np.all, (close,), {})
    return Tracer(trace, found.value, weak=bool)


# ------------------------------------------------------------------ order


def _sorted(pick: int) -> Handler:
    who = "numpy.argsort" if pick else "numpy.sort"

    def handler(
        trace: Trace, a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *,
        stable: Any = None,
    ) -> Any:  # fmt: skip
        x = tracer(trace, who, a)
        value = x.value
        if axis is None:
            value, axis = reshaped(trace, value, (product(x.dims),)), 0
        along = axis_of(trace, who, axis, len(value.shape))
        boolean = value.dtype is dt.bool_
        if boolean:
            value = trace.cast(value, dt.u8)
        found = trace.add_many("topk", value, k=value.shape[along], axis=along, largest=False)
        result = found[pick]
        return Tracer(trace, trace.cast(result, dt.bool_) if boolean and not pick else result)

    return handler


# ------------------------------------------------------------------ like others


def filled(trace: Trace, who: str, shape: Any, fill: Any, dtype: np.dtype) -> Tracer:
    """An array of one value."""
    dims = dims_from(trace, who, shape)
    value = operand(trace, who, fill, dtype)
    trace.broadcast(who, [value.shape, dims])
    return Tracer(trace, trace.add("broadcast_to", value, shape=dims))


def _like(fill: int | None) -> Handler:
    def handler(
        trace: Trace, a: Any, fill_value: Any = None, dtype: Any = None, order: Any = "K",
        subok: Any = True, shape: Any = None, *, device: Any = None,
    ) -> Any:  # fmt: skip
        x = tracer(trace, "numpy.full_like", a)
        kind = x.dtype if dtype is None else np.dtype(dtype)
        element_type(trace, "numpy.full_like", kind)
        number = fill_value if fill is None else fill
        return filled(trace, "numpy.full_like", x.dims if shape is None else shape, number, kind)

    def numbered(
        trace: Trace, a: Any, dtype: Any = None, order: Any = "K", subok: Any = True,
        shape: Any = None, *, device: Any = None,
    ) -> Any:  # fmt: skip
        return handler(trace, a, fill, dtype, order, subok, shape)

    return handler if fill is None else numbered


def _result_type(trace: Trace, *operands: Any) -> Any:
    return promote(*(np.empty(0, x) if isinstance(x, type | np.dtype | str) else x
                     for x in operands))  # fmt: skip


# ------------------------------------------------------------------ from sizes
# NumPy does not ask its arguments about these functions: the names that the user's function
# sees stand for them while it is traced, and come here where something symbolic is given.


def _made(fill: int) -> Handler:
    def handler(trace: Trace, shape: Any, dtype: Any = float, order: Any = "C", **_: Any) -> Any:
        return filled(trace, "numpy.zeros", shape, fill, np.dtype(dtype or float))

    return handler


def _full(
    trace: Trace, shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C", **_: Any
) -> Any:
    kind = np.dtype(dtype) if dtype is not None else promote(fill_value)
    return filled(trace, "numpy.full", shape, fill_value, kind)


def _iota(trace: Trace, count: Any) -> Tracer:
    shape = dims_from(trace, "numpy.arange", count)
    return Tracer(trace, trace.add("iota", shape=shape, axis=0, dtype=dt.i64))


def _arange(
    trace: Trace, start: Any = None, stop: Any = None, step: Any = 1, dtype: Any = None, **_: Any
) -> Any:
    if stop is None:
        start, stop = 0, start
    if not all(isinstance(i, Size | int | np.integer) for i in (start, stop, step)):
        return trace.unsupported("numpy.arange of sizes and floats", "TW-E0245")
    span = stop - start
    count = -(-span // step) if step != 1 else span
    count = count if count > 0 else 0
    kind = np.dtype(np.int64 if dtype is None else dtype)
    element_type(trace, "numpy.arange", kind)
    result = _iota(trace, count) * step + start
    return call_function(trace, np.astype, (result, kind), {})


def _eye(
    trace: Trace,
    N: Any,  # noqa: N803
    M: Any = None,  # noqa: N803
    k: Any = 0,
    dtype: Any = float,
    **_: Any,
) -> Any:
    rows, columns = _iota(trace, N), _iota(trace, N if M is None else M)
    found = rows[:, None] + k == columns[None, :]
    return call_function(trace, np.astype, (found, dtype), {})


def _tri(
    trace: Trace,
    N: Any,  # noqa: N803
    M: Any = None,  # noqa: N803
    k: Any = 0,
    dtype: Any = float,
    **_: Any,
) -> Any:
    rows, columns = _iota(trace, N), _iota(trace, N if M is None else M)
    return call_function(trace, np.astype, (columns[None, :] <= rows[:, None] + k, dtype), {})


def _logspace(
    trace: Trace, start: Any, stop: Any, num: Any = 50, endpoint: bool = True, base: Any = 10.0,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    found = np.power(base, _linspace(trace, start, stop, num, endpoint, axis=axis))
    return found if dtype is None else call_function(trace, np.astype, (found, dtype), {})


def _linspace(
    trace: Trace, start: Any, stop: Any, num: Any = 50, endpoint: bool = True,
    retstep: bool = False, dtype: Any = None, axis: int = 0, **_: Any,
) -> Any:  # fmt: skip
    if retstep or axis:
        return trace.unsupported("numpy.linspace with retstep or axis", "TW-E0245")
    parts = num - 1 if endpoint else num
    step = (stop - start) / (parts if parts > 0 else 1)
    index = _iota(trace, num)
    result = call_function(trace, np.astype, (index, np.float64), {})
    if isinstance(start, Tracer) and start.ndim:
        return trace.unsupported("numpy.linspace between arrays")
    result = result * step + start
    if endpoint and parts > 0:
        result = _where(trace, index == parts, stop, result)
    return result if dtype is None else call_function(trace, np.astype, (result, dtype), {})


def _array(trace: Trace, object: Any, dtype: Any = None, *, copy: Any = True, **_: Any) -> Any:  # noqa: A002
    x = tracer(trace, "numpy.array", object)
    if isinstance(object, Tracer) and not copy:
        return _as_array(trace, x, dtype)
    if isinstance(object, Tracer):
        x = _copy(trace, x)
    return x if dtype is None else _astype(trace, x, dtype)


def _as_array(trace: Trace, a: Any, dtype: Any = None, **_: Any) -> Any:
    x = tracer(trace, "numpy.asarray", a)
    return x if dtype is None or np.dtype(dtype) == x.dtype else _astype(trace, x, dtype)


def _float_result(trace: Trace, a: Any) -> bool:
    return False


CHOICE: Mapping[object, Handler] = {
    np.where: _where,
    np.select: _select,
    np.clip: _clip,
    np.astype: _astype,
    np.copy: _copy,
    np.round: _round,
    np.around: _round,
    np.nan_to_num: _nan_to_num,
    np.isclose: _isclose,
    np.allclose: _allclose,
    np.sort: _sorted(0),
    np.argsort: _sorted(1),
    np.zeros_like: _like(0),
    np.ones_like: _like(1),
    np.empty_like: _like(0),
    np.full_like: _like(None),
    np.result_type: _result_type,
    np.iscomplexobj: _float_result,
}
"""What choices and the like become."""

CREATION: Mapping[object, Handler] = {
    np.zeros: _made(0),
    np.empty: _made(0),
    np.ones: _made(1),
    np.full: _full,
    np.arange: _arange,
    np.eye: _eye,
    np.identity: lambda trace, n, dtype=float: _eye(trace, n, dtype=dtype),
    np.linspace: _linspace,
    np.logspace: _logspace,
    np.tri: _tri,
    np.array: _array,
    np.asarray: _as_array,
    np.ascontiguousarray: _as_array,
    np.asanyarray: _as_array,
}
"""What functions become that NumPy carries out without asking their arguments."""


def is_symbolic(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether something traced is among a call's arguments."""
    return has_traced((*args, *kwargs.values()))
