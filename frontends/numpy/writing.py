"""Writing into arrays: the symbolic array becomes another one, with the new elements in place.

An array may be written while nobody else would see it: neither the caller (arguments), nor a view
of it that still exists.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, product, same_dim

from .indexing import Region, region
from .shapes import cut, reshaped, widened
from .trace import Handler, Trace
from .tracer import Tracer, has_traced, kind_of, operand, tracer


def _target(trace: Trace, who: str, x: Any) -> Tracer:
    """An array that may be written."""
    if not isinstance(x, Tracer) or x.scalar:
        trace.unsupported(
            f"{who}: writing into an array that the function does not make; use the result",
            "TW-E0244",
        )
    alone = x.origin is not None and x.origin[0].origin is None and x.seen_by(x, x.origin[0])
    if x.shared and not alone:
        trace.unsupported(
            f"{who}: writing into an argument, or an array with a view; write into a copy, or"
            " build a new one with np.where, np.concatenate or np.pad",
            "TW-E0244",
        )
    return x


def _put(trace: Trace, target: Tracer, value: Value) -> Tracer:
    target.value = value
    if target.origin is not None and target.shared:
        # A part that is written while the whole exists: the whole gets the new elements too.
        whole, key = target.origin
        _assign(trace, whole, key, target)
    return target


def _write(trace: Trace, who: str, x: Any, found: Any, mask: Any = True) -> Tracer:
    """Puts a result into an array as NumPy's ``out`` does: it may not be cast to another kind."""
    target = _target(trace, who, x)
    result = tracer(trace, who, found)
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        trace.refuse(f"{who}: cannot cast {result.dtype} to {target.dtype}")
    value = widened(trace, who, trace.cast(result.value, target.value.dtype), target.dims)
    if mask is not True:
        chosen = widened(trace, who, trace.cast(operand(trace, who, mask), dt.bool_), target.dims)
        value = trace.add("where", chosen, value, target.value)
    return _put(trace, target, value)


def _out(trace: Trace, who: str, out: Any, found: Any, mask: Any) -> Any:
    """The ``out`` of a function, of which a ufunc writes only where its mask is true."""
    targets = out if isinstance(out, tuple) else (out,)
    results = found if isinstance(found, tuple) else (found,)
    if len(targets) != len(results):
        trace.refuse(f"{who}: {len(targets)} arrays in out for {len(results)} results")
    given = [
        _write(trace, who, target, result, mask) if target is not None else result
        for target, result in zip(targets, results, strict=True)
    ]
    return given[0] if len(given) == 1 else tuple(given)


def _setitem(trace: Trace, x: Any, key: Any, value: Any) -> None:
    who = "x[...] = value"
    written = value.origin if isinstance(value, Tracer) else None
    if written is not None and written[0] is x and written[1] is key:
        # The last step of ``x[key] += y``: the part has written itself.
        return
    target = _target(trace, who, x) if written is None or written[0] is not x else x
    if target.shared and written is not None and not x.seen_by(x, value):
        _target(trace, who, x)
    _assign(trace, target, key, value)


def _assign(trace: Trace, target: Tracer, key: Any, value: Any) -> None:
    who = "x[...] = value"
    mask = key[0] if isinstance(key, tuple) and len(key) == 1 else key
    if isinstance(mask, Tracer) and mask.value.dtype is dt.bool_:
        _put(trace, target, _under_mask(trace, who, target, mask, value))
        return
    part = region(trace, target, key)
    new = operand(trace, who, value, target.dtype)
    if part.gathers or any(step != 1 for step in part.steps):
        _put(trace, target, _scattered(trace, who, target, key, new, "none"))
        return
    new = _trimmed(trace, new, len(part.shape))
    new = reshaped(trace, widened(trace, who, new, part.shape), part.sizes)
    _put(trace, target, _placed(trace, target.value, part, new, 0))


def _trimmed(trace: Trace, value: Value, rank: int) -> Value:
    """Without the leading axes of size 1 that NumPy drops in an assignment."""
    shape = value.shape
    while len(shape) > rank and same_dim(shape[0], 1):
        shape = shape[1:]
    return value if shape == value.shape else reshaped(trace, value, shape)


def _under_mask(trace: Trace, who: str, x: Tracer, mask: Tracer, value: Any) -> Value:
    """New elements where a mask is true: of one value for all, or one for the axes behind it."""
    rest = x.ndim - mask.ndim
    new = operand(trace, who, value, x.dtype)
    if rest < 0 or trace.hints(mask.dims) != trace.hints(x.dims[: mask.ndim]):
        trace.refuse(f"{who}: a mask of {trace.hints(mask.dims)} for {trace.hints(x.dims)}")
    if len(new.shape) > rest and product(new.shape) != 1:
        trace.unsupported(
            f"{who}: a value for each true element of a mask; use np.where", "TW-E0242"
        )
    new = _trimmed(trace, new, rest)
    wide = reshaped(trace, mask.value, (*mask.dims, *[1] * rest))
    chosen = widened(trace, who, wide, x.dims)
    return trace.add("where", chosen, widened(trace, who, new, x.dims), x.value)


def _placed(trace: Trace, old: Value, part: Region, new: Value, axis: int) -> Value:
    """A block put into a value: by axis, what is before it, the rest of the work, what is after."""
    while axis < len(old.shape):
        start, size, whole = part.starts[axis], part.sizes[axis], old.shape[axis]
        if not (same_dim(start, 0) and same_dim(size, whole)):
            break
        axis += 1
    else:
        return new
    end = dim(as_expr(start) + size)
    after = dim(as_expr(whole) - end)
    inside = _placed(trace, cut(trace, old, axis, start, size), part, new, axis + 1)
    pieces = [(cut(trace, old, axis, 0, start), start), (inside, size),
              (cut(trace, old, axis, end, after), after)]  # fmt: skip
    parts = [piece for piece, length in pieces if not same_dim(length, 0)]
    if not parts:
        return old
    return parts[0] if len(parts) == 1 else trace.add("concat", *parts, axis=axis)


def _scattered(trace: Trace, who: str, x: Tracer, key: Any, new: Value, reduction: str) -> Value:
    """New elements at the places that a key selects among the elements in order of memory."""
    count: Dim = product(x.dims)
    numbers = trace.add("iota", shape=(count,), axis=0, dtype=dt.i64)
    places = Tracer(trace, reshaped(trace, numbers, x.dims))[key].value
    new = widened(trace, who, _trimmed(trace, new, len(places.shape)), places.shape)
    flat = (product(places.shape),)
    found = trace.add(
        "scatter_elements", reshaped(trace, x.value, (count,)), reshaped(trace, places, flat),
        reshaped(trace, new, flat), axis=0, reduction=reduction,
    )  # fmt: skip
    return reshaped(trace, found, x.dims)


def _at(ufunc: np.ufunc, reduction: str) -> Handler:
    who = f"numpy.{ufunc.__name__}.at"

    def handler(trace: Trace, a: Any, indices: Any, b: Any) -> None:
        target = _target(trace, who, a)
        kind = kind_of(b)
        if isinstance(kind, np.dtype) and not np.can_cast(kind, target.dtype, "same_kind"):
            trace.refuse(f"{who}: cannot cast {kind} to {target.dtype}")
        new = operand(trace, who, b, target.dtype)
        if ufunc is np.subtract:
            new = trace.add("neg", new)
        _put(trace, target, _scattered(trace, who, target, indices, new, reduction))

    return handler


# ------------------------------------------------------------------ NumPy's functions that write


def _copyto(
    trace: Trace, dst: Any, src: Any, casting: str = "same_kind", where: Any = True
) -> None:
    if casting != "same_kind":
        trace.unsupported(f"numpy.copyto with casting={casting!r}", "TW-E0245")
    source = src
    if not isinstance(src, Tracer) and isinstance(dst, Tracer) and type(src) in (int, float):
        source = Tracer(trace, operand(trace, "numpy.copyto", src, dst.dtype))
    _write(trace, "numpy.copyto", dst, source, where)


def _putmask(trace: Trace, a: Any, mask: Any, values: Any) -> None:
    if np.ndim(values) and not isinstance(values, Tracer):
        trace.unsupported("numpy.putmask of several values; use np.where", "TW-E0245")
    new = tracer(trace, "numpy.putmask", values)
    if new.ndim:
        trace.unsupported("numpy.putmask of several values; use np.where", "TW-E0245")
    a[tracer(trace, "numpy.putmask", mask)] = new


def _fill_diagonal(trace: Trace, a: Any, val: Any, wrap: Any = False) -> None:
    who = "numpy.fill_diagonal"
    target = _target(trace, who, a)
    if target.ndim != 2 or wrap or np.ndim(val):
        trace.unsupported(f"{who} of {target.ndim} dimensions, wrapped, or of values", "TW-E0245")
    rows, columns = (
        trace.add("iota", shape=target.dims, axis=axis, dtype=dt.i64) for axis in (0, 1)
    )
    target[Tracer(trace, trace.add("eq", rows, columns))] = val


def _put_at(trace: Trace, a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    who = "numpy.put"
    target = _target(trace, who, a)
    if mode != "raise":
        trace.unsupported(f"{who} with mode={mode!r}", "TW-E0245")
    flat = Tracer(trace, reshaped(trace, target.value, (product(target.dims),)))
    places = ind if has_traced(ind) else np.asarray(ind)
    count = tracer(trace, who, places).dims
    if np.ndim(v) and trace.hints(tracer(trace, who, v).dims) != trace.hints(count):
        trace.unsupported(f"{who} of values that are repeated or cut", "TW-E0245")
    flat[places] = v
    _put(trace, target, reshaped(trace, flat.value, target.dims))


def _put_along_axis(trace: Trace, arr: Any, indices: Any, values: Any, axis: Any) -> None:
    who = "numpy.put_along_axis"
    target = _target(trace, who, arr)
    if axis is None:
        trace.unsupported(f"{who} with axis=None", "TW-E0245")
    along = operator.index(axis) % max(1, target.ndim)
    places = trace.cast(operand(trace, who, indices), dt.i64)
    if len(places.shape) != target.ndim:
        trace.refuse(f"{who}: indices need as many dimensions as the array")
    shape = [places.shape[d] if d == along else s for d, s in enumerate(target.dims)]
    places = widened(trace, who, places, shape)
    new = widened(trace, who, operand(trace, who, values, target.dtype), shape)
    _put(trace, target, trace.add(
        "scatter_elements", target.value, places, new, axis=along, reduction="none"
    ))  # fmt: skip


WRITING: Mapping[object, Handler] = {
    "write": _write,
    "out": _out,
    operator.setitem: _setitem,
    np.copyto: _copyto,
    np.putmask: _putmask,
    np.fill_diagonal: _fill_diagonal,
    np.put: _put_at,
    np.put_along_axis: _put_along_axis,
    (np.add, "at"): _at(np.add, "add"),
    (np.subtract, "at"): _at(np.subtract, "add"),
    (np.multiply, "at"): _at(np.multiply, "mul"),
    (np.maximum, "at"): _at(np.maximum, "max"),
    (np.minimum, "at"): _at(np.minimum, "min"),
}
"""What writing becomes."""
