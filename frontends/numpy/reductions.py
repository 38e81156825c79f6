"""Reductions and running sums, with NumPy's rules for axes and result types."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import as_expr, binary
from tilewright.tensor.simplify import product

from .trace import Handler, Trace
from .tracer import NO_VALUE, Tracer, call_function, element_type, operand, size_of, tracer


def axis_of(trace: Trace, who: str, axis: Any, rank: int) -> int:
    """A canonical axis."""
    try:
        given = operator.index(axis)
    except TypeError:
        trace.refuse(f"{who}: the axis must be an integer, not {axis!r}")
    if not -rank <= given < rank:
        trace.refuse(f"{who}: axis {given} is out of bounds for {rank} dimensions")
    return given % rank


def axes_of(trace: Trace, who: str, axis: Any, rank: int) -> tuple[int, ...]:
    """Canonical axes, ascending; all for None."""
    if axis is None:
        return tuple(range(rank))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = sorted(axis_of(trace, who, a, rank) for a in given)
    if len(set(axes)) != len(axes):
        trace.refuse(f"{who}: duplicate axes in {axis}")
    return tuple(axes)


def reduced(trace: Trace, op: str, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """One reduction of the graph."""
    return trace.add("reduce", x, op=op, axes=tuple(axes), keepdims=bool(keepdims))


def result(trace: Trace, value: Value) -> Tracer:
    """A result that NumPy gives as a scalar where it has no axes."""
    return Tracer(trace, value, scalar=not value.shape)


def kept(keepdims: Any) -> bool:
    """Whether axes are kept, of NumPy's three-valued argument."""
    return keepdims is not NO_VALUE and bool(keepdims)


def summing_dtype(trace: Trace, who: str, x: Value, dtype: Any) -> dt.DType:
    """The type of a sum: small integers are summed in 64 bits."""
    if dtype is not None:
        return element_type(trace, who, dtype)
    if x.dtype is dt.bool_ or (x.dtype.is_signed and x.dtype.is_integer):
        return dt.i64
    return dt.u64 if x.dtype.is_integer else x.dtype


def masked(trace: Trace, who: str, x: Value, where: Any, fill: object) -> Value:
    """A value with a neutral element where a mask of a reduction is false."""
    if where is True or where is NO_VALUE:
        return x
    mask = operand(trace, who, where)
    if mask.dtype is not dt.bool_:
        trace.refuse(f"{who}: where must be of bool, not {mask.dtype}")
    trace.broadcast(who, [x.shape, mask.shape])
    return trace.add("where", mask, x, trace.constant(np.array(fill, x.dtype.numpy)))


def _with_initial(trace: Trace, who: str, op: str, found: Value, initial: Any) -> Value:
    if initial is NO_VALUE or initial is None:
        return found
    return trace.add(op, operand(trace, who, initial, found.dtype.numpy), found)


def _total(op: str) -> Handler:
    join, neutral = ("add", 0) if op == "sum" else ("mul", 1)

    def handler(
        trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None,
        keepdims: Any = False, initial: Any = NO_VALUE, where: Any = True,
    ) -> Any:  # fmt: skip
        who = f"numpy.{op}"
        plain(trace, who, out=out)
        x = operand(trace, who, a)
        wanted = summing_dtype(trace, who, x, dtype)
        if wanted is dt.bool_:
            plain(trace, who, initial=initial)
            over = (axis, None, keepdims)
            return _logical("max" if op == "sum" else "min")(trace, a, *over, where=where)
        x = masked(trace, who, trace.cast(x, wanted), where, neutral)
        axes = axes_of(trace, who, axis, len(x.shape))
        found = reduced(trace, op, x, axes, kept(keepdims))
        return result(trace, _with_initial(trace, who, join, found, initial))

    return handler


def plain(trace: Trace, who: str, out: Any = None, initial: Any = NO_VALUE) -> None:
    """Refuses arguments that are not supported, unless they have their defaults."""
    given = ["out"] * (out is not None) + ["initial"] * (initial is not NO_VALUE)
    if given:
        trace.unsupported(f"{who} with the argument {', '.join(given)}", "TW-E0245")


def _extreme(op: str) -> Handler:
    def handler(
        trace: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = NO_VALUE, where: Any = True,
    ) -> Any:  # fmt: skip
        who = f"numpy.{op}"
        plain(trace, who, out=out)
        x = operand(trace, who, a)
        bounded = initial is not NO_VALUE
        if where is not True and where is not NO_VALUE:
            if not bounded:
                trace.refuse(f"{who}: has no identity, so to use where it needs initial")
            x = masked(trace, who, x, where, _lowest(x.dtype, op))
        axes = axes_of(trace, who, axis, len(x.shape))
        if not bounded:
            _expect_elements(trace, who, x, axes)
        found = reduced(trace, op, x, axes, kept(keepdims))
        return result(trace, _with_initial(trace, who, op, found, initial))

    return handler


def _lowest(dtype: dt.DType, op: str) -> object:
    """What the other operand of a maximum (or minimum) always beats."""
    if dtype is dt.bool_:
        return op == "min"
    if dtype.is_float:
        return -np.inf if op == "max" else np.inf
    info = np.iinfo(dtype.numpy)
    return info.min if op == "max" else info.max


def _expect_elements(trace: Trace, who: str, x: Value, axes: Sequence[int]) -> None:
    """Refuses what has no element to choose."""
    over = product([x.shape[a] for a in axes])
    if not trace.decide(binary("gt", as_expr(over), 0)):
        trace.refuse(f"{who}: zero-size array of shape {trace.hints(x.shape)} has no identity")


def _logical(op: str) -> Handler:
    def handler(
        trace: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *,
        where: Any = True,
    ) -> Any:  # fmt: skip
        who = "numpy.any" if op == "max" else "numpy.all"
        plain(trace, who, out=out)
        x = trace.cast(operand(trace, who, a), dt.bool_)
        x = masked(trace, who, x, where, op == "min")
        axes = axes_of(trace, who, axis, len(x.shape))
        return result(trace, reduced(trace, op, x, axes, kept(keepdims)))

    return handler


def _arg(op: str) -> Handler:
    def handler(
        trace: Trace, a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False
    ) -> Any:
        who = f"numpy.arg{op}"
        plain(trace, who, out=out)
        x = operand(trace, who, a)
        rank = len(x.shape)
        if axis is None:
            x = trace.add("reshape", x, shape=(product(x.shape),))
        over = 0 if axis is None else axis_of(trace, who, axis, rank)
        _expect_elements(trace, who, x, (over,))
        keep = kept(keepdims)
        found = trace.add(
            "argreduce", x, op=op, axis=over, keepdims=keep and axis is not None, last=False
        )
        if keep and axis is None:
            found = trace.add("reshape", found, shape=(1,) * rank)
        return result(trace, found)

    return handler


def _count(trace: Trace, x: Value, axes: Sequence[int], like: Value) -> Value:
    """How many elements the axes have, as a scalar of a value's type."""
    over = product([x.shape[a] for a in axes])
    if isinstance(over, int):
        return trace.constant(np.array(over, like.dtype.numpy))
    return trace.cast(trace.add("dim", value=over), like.dtype)


def _free(trace: Trace, who: str, x: Value, axes: Sequence[int], where: Any, keep: bool) -> Value:
    """How many elements count for each result, of a value's type."""
    if where is True or where is NO_VALUE:
        return _count(trace, x, axes, x)
    mask = trace.cast(operand(trace, who, where), x.dtype)
    wide = trace.add("broadcast_to", mask, shape=x.shape) if mask.shape != x.shape else mask
    return reduced(trace, "sum", wide, axes, keep)


def mean_of(
    trace: Trace, x: Value, axes: Sequence[int], keepdims: bool, where: Any = True
) -> Value:
    """The mean over axes of a float value."""
    filled = masked(trace, "numpy.mean", x, where, 0)
    total = reduced(trace, "sum", filled, axes, keepdims)
    return trace.add("div", total, _free(trace, "numpy.mean", filled, axes, where, keepdims))


def _wide(trace: Trace, who: str, x: Value, dtype: Any) -> tuple[Value, dt.DType]:
    """The operand of a mean in the type it is computed in, and the result's type."""
    if dtype is not None:
        wanted = element_type(trace, who, dtype)
    else:
        wanted = x.dtype if x.dtype.is_float else dt.f64
    if not wanted.is_float:
        trace.unsupported(f"{who} with dtype {wanted}", "TW-E0246")
    # A half sums in single precision, as NumPy's mean does.
    return trace.cast(x, dt.f32 if wanted.bits == 16 else wanted), wanted


def _mean(
    trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None,
    keepdims: Any = False, *, where: Any = True,
) -> Any:  # fmt: skip
    plain(trace, "numpy.mean", out=out)
    x, wanted = _wide(trace, "numpy.mean", operand(trace, "numpy.mean", a), dtype)
    axes = axes_of(trace, "numpy.mean", axis, len(x.shape))
    return result(trace, trace.cast(mean_of(trace, x, axes, kept(keepdims), where), wanted))


def _variance(root: bool) -> Handler:
    who = "numpy.std" if root else "numpy.var"

    def handler(
        trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
        keepdims: Any = False, *, where: Any = True, correction: Any = NO_VALUE,
    ) -> Any:  # fmt: skip
        plain(trace, who, out=out)
        if correction is not NO_VALUE:
            ddof = correction
        x, wanted = _wide(trace, who, operand(trace, who, a), dtype)
        axes = axes_of(trace, who, axis, len(x.shape))
        off = trace.add("sub", x, mean_of(trace, x, axes, True, where))
        squares = masked(trace, who, trace.add("mul", off, off), where, 0)
        total = reduced(trace, "sum", squares, axes, kept(keepdims))
        count = _free(trace, who, squares, axes, where, kept(keepdims))
        free = trace.add("sub", count, operand(trace, who, ddof, total.dtype.numpy))
        free = trace.add("max", free, trace.constant(np.array(0, total.dtype.numpy)))
        found = trace.add("div", total, free)
        if root:
            found = trace.add("sqrt", found)
        return result(trace, trace.cast(found, wanted))

    return handler


def _cumulative(op: str) -> Handler:
    who = f"numpy.cum{op}"

    def handler(trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        plain(trace, who, out=out)
        x = operand(trace, who, a)
        if axis is None:
            x = trace.add("reshape", x, shape=(product(x.shape),))
        along = 0 if axis is None else axis_of(trace, who, axis, len(x.shape))
        x = trace.cast(x, summing_dtype(trace, who, x, dtype))
        value = trace.add("cumulative", x, op=op, axis=along, exclusive=False, reverse=False)
        return Tracer(trace, value)

    return handler


def _without_nan(name: str, fill: float) -> Handler:
    """A reduction that takes a neutral number in place of each nan."""
    function = getattr(np, name)

    def handler(trace: Trace, a: Any, *args: Any, **kwargs: Any) -> Any:
        x = tracer(trace, f"numpy.nan{name}", a)
        if not x.value.dtype.is_float:
            return call_function(trace, function, (x, *args), kwargs)
        neutral = trace.constant(np.array(fill, x.dtype))
        filled = Tracer(trace, trace.add("where", trace.add("isnan", x.value), neutral, x.value))
        return call_function(trace, function, (filled, *args), kwargs)

    return handler


def _nanmean(
    trace: Trace, a: Any, axis: Any = None, dtype: Any = None, out: Any = None,
    keepdims: Any = False,
) -> Any:  # fmt: skip
    plain(trace, "numpy.nanmean", out=out)
    x, wanted = _wide(trace, "numpy.nanmean", operand(trace, "numpy.nanmean", a), dtype)
    axes = axes_of(trace, "numpy.nanmean", axis, len(x.shape))
    missing = trace.add("isnan", x)
    filled = trace.add("where", missing, trace.constant(np.array(0, x.dtype.numpy)), x)
    total = reduced(trace, "sum", filled, axes, kept(keepdims))
    there = trace.cast(trace.add("not", missing), x.dtype)
    count = reduced(trace, "sum", there, axes, kept(keepdims))
    return result(trace, trace.cast(trace.add("div", total, count), wanted))


def _count_nonzero(trace: Trace, a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
    x = trace.cast(operand(trace, "numpy.count_nonzero", a), dt.bool_)
    axes = axes_of(trace, "numpy.count_nonzero", axis, len(x.shape))
    return result(trace, reduced(trace, "sum", trace.cast(x, dt.i64), axes, kept(keepdims)))


def _ptp(trace: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    plain(trace, "numpy.ptp", out=out)
    high = call_function(trace, np.max, (a, axis), {"keepdims": kept(keepdims)})
    return high - call_function(trace, np.min, (a, axis), {"keepdims": kept(keepdims)})


def _average(
    trace: Trace, a: Any, axis: Any = None, weights: Any = None, *, keepdims: Any = False
) -> Any:
    if weights is None:
        return _mean(trace, a, axis, keepdims=keepdims)
    x, w = tracer(trace, "numpy.average", a), tracer(trace, "numpy.average", weights)
    if w.ndim != x.ndim:
        if w.ndim != 1 or axis is None:
            trace.refuse("numpy.average: weights differ in shape and no axis is given")
        rank, along = x.ndim, axis_of(trace, "numpy.average", axis, x.ndim)
        w = Tracer(
            trace,
            trace.add(
                "reshape", w.value,
                shape=tuple(w.dims[0] if d == along else 1 for d in range(rank)),
            ),
        )  # fmt: skip
    trace.broadcast("numpy.average", [x.dims, w.dims])
    wide = np.result_type(x.dtype, w.dtype, *([np.float64] if x.dtype.kind in "iub" else []))
    x, w = (
        call_function(trace, np.astype, (x, wide), {}),
        call_function(trace, np.astype, (w, wide), {}),
    )
    w = call_function(trace, np.broadcast_to, (w, x.shape), {})
    keep = {"keepdims": kept(keepdims)}
    total = call_function(trace, np.sum, (x * w, axis), keep)
    return total / call_function(trace, np.sum, (w, axis), keep)


def _size(trace: Trace, a: Any, axis: Any = None) -> Any:
    x = tracer(trace, "numpy.size", a)
    if axis is None:
        return x.size
    return size_of(trace, x.dims[axis_of(trace, "numpy.size", axis, x.ndim)])


def _diff(
    trace: Trace, a: Any, n: int = 1, axis: int = -1, prepend: Any = NO_VALUE,
    append: Any = NO_VALUE,
) -> Any:  # fmt: skip
    x = tracer(trace, "numpy.diff", a)
    along = axis_of(trace, "numpy.diff", axis, x.ndim)
    edges = [tracer(trace, "numpy.diff", e) for e in (prepend, append) if e is not NO_VALUE]
    row = tuple(1 if d == along else s for d, s in enumerate(x.dims))
    wide = [
        e if e.ndim else Tracer(trace, trace.add("broadcast_to", e.value, shape=row), weak=e.weak)
        for e in edges
    ]
    if wide:
        parts = [wide[0], x] if append is NO_VALUE else [*wide[:-1], x, wide[-1]]
        x = call_function(trace, np.concatenate, (parts, along), {})
    before = (slice(None),) * along
    for _ in range(n):
        high, low = x[(*before, slice(1, None))], x[(*before, slice(None, -1))]
        x = high ^ low if x.value.dtype is dt.bool_ else high - low
    return x


def _method(name: str) -> Callable[..., Any]:
    """``np.add.reduce``: as np.sum, but over the first axis by default."""
    function = getattr(np, name)

    def handler(
        trace: Trace, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None,
        keepdims: Any = False, initial: Any = NO_VALUE, where: Any = True,
    ) -> Any:  # fmt: skip
        named = {"out": out, "keepdims": keepdims}
        if initial is not NO_VALUE:
            named["initial"] = initial
        if where is not True:
            named["where"] = where
        if dtype is not None:
            named["dtype"] = dtype
        return call_function(trace, function, (a, axis), named)

    return handler


def _accumulate(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def handler(trace: Trace, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        x = tracer(trace, f"numpy.{name}", a)
        return call_function(trace, function, (x, axis), {"dtype": dtype, "out": out})

    return handler


REDUCTIONS: Mapping[object, Handler] = {
    np.sum: _total("sum"),
    np.prod: _total("prod"),
    np.max: _extreme("max"),
    np.min: _extreme("min"),
    np.amax: _extreme("max"),
    np.amin: _extreme("min"),
    np.any: _logical("max"),
    np.all: _logical("min"),
    np.argmax: _arg("max"),
    np.argmin: _arg("min"),
    np.mean: _mean,
    np.var: _variance(root=False),
    np.std: _variance(root=True),
    np.cumsum: _cumulative("sum"),
    np.cumprod: _cumulative("prod"),
    np.nansum: _without_nan("sum", 0),
    np.nanprod: _without_nan("prod", 1),
    np.nanmean: _nanmean,
    np.count_nonzero: _count_nonzero,
    np.ptp: _ptp,
    np.average: _average,
    np.size: _size,
    np.diff: _diff,
    (np.add, "reduce"): _method("sum"),
    (np.multiply, "reduce"): _method("prod"),
    (np.maximum, "reduce"): _method("max"),
    (np.minimum, "reduce"): _method("min"),
    (np.logical_and, "reduce"): _method("all"),
    (np.logical_or, "reduce"): _method("any"),
    (np.add, "accumulate"): _accumulate("cumsum"),
    (np.multiply, "accumulate"): _accumulate("cumprod"),
}
"""What reductions become."""
