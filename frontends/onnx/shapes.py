"""Evaluation while importing: constants by the op references, small integer tensors symbolically.

Shape arithmetic in ONNX is ordinary nodes on ordinary tensors (Shape, Gather, Mul, Concat, ...).
The contents of such tensors are followed as expressions over symbolic dims, so that an operator
that takes a shape as input gets dims. The rules are for primitive ops, hence hold for every source
operator that decomposes into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import canonical_attrs
from tilewright.graph.ir import Attr, Graph, TensorType, Value
from tilewright.ops import OPS, OpError
from tilewright.ops.op import type_of
from tilewright.tensor.ir import Dim, Expr, as_expr, binary, maximum, minimum
from tilewright.tensor.simplify import bounds, ceildiv, dim, prove

MAX_CONTENT = 64
_MAX_FOLD = 1 << 14
_EXACT = 1 << 8
_SYMBOLIC = (dt.i64, dt.i32)


@dataclass(frozen=True, slots=True)
class Quotient:
    """The real number ``numerator / denominator``: a symbolic dim seen as a float.

    Attributes:
        numerator: a symbolic dim.
        denominator: a power of two, small enough that float arithmetic on it is exact.
    """

    numerator: Expr
    denominator: int


Element: TypeAlias = int | float | bool | Expr | Quotient


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The elements of a small tensor.

    Attributes:
        elements: an object array of the tensor's shape; each is a number, a dim or a Quotient.
    """

    elements: np.ndarray

    @staticmethod
    def of(array: np.ndarray) -> Content | None:
        """The content of a constant, or None where it has too many elements."""
        return Content(array.astype(object)) if array.size <= MAX_CONTENT else None

    def array(self, dtype: DType) -> np.ndarray | None:
        """The content as a constant, or None where an element is symbolic."""
        if any(isinstance(e, Expr | Quotient) for e in self.elements.flat):
            return None
        return self.elements.astype(dtype.numpy)


def content_dims(content: Content, type_: TensorType) -> tuple[Dim, ...] | None:
    """The elements as dims, or None where the tensor is not a list of integers."""
    if content.elements.ndim > 1 or not type_.dtype.is_integer:
        return None
    elements = content.elements.reshape(-1)
    return tuple(e if isinstance(e, Expr) else int(e) for e in elements)


def content_fraction(content: Content) -> tuple[Dim, int] | None:
    """The one element of a float tensor as a dim over a small power of two, where it is exact."""
    if content.elements.size != 1:
        return None
    try:
        return _quotient(content.elements.reshape(-1)[0])
    except _Unknown:
        return None


# ------------------------------------------------------------------ constants


def fold_constants(
    op: str, arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr]
) -> tuple[np.ndarray, ...] | None:
    """Evaluates an operation whose inputs are all known, where they are small, else None.

    Args:
        op: a primitive op.
        arrays: the inputs.
        attrs: the attributes.
    """
    entry = OPS.get(op)
    if entry is None or not all(_is_static(a) for a in attrs.values()):
        return None
    attrs = canonical_attrs(op, attrs)
    if sum(a.size for a in arrays) > _MAX_FOLD or set(attrs) != set(entry.attrs):
        return None
    try:
        types = entry.infer(tuple(type_of(a) for a in arrays), attrs)
    except OpError:
        return None  # the builder reports it, with the place
    if any(math.prod(cast("tuple[int, ...]", t.shape)) > _MAX_FOLD for t in types):
        return None
    with np.errstate(all="ignore"):
        return entry.reference(arrays, attrs)


def _is_static(attr: object) -> bool:
    if isinstance(attr, tuple):
        return all(_is_static(a) for a in attr)
    return not isinstance(attr, Expr | Graph)


# ------------------------------------------------------------------ symbolic contents


class _Unknown(Exception):
    """An element has no symbolic form."""


def may_have_content(op: str, result: Value) -> bool:
    """Whether ``fold_contents`` knows the operation and its result is small."""
    shape = result.shape
    if op not in _RULES or not all(isinstance(d, int) for d in shape):
        return False
    return math.prod(cast("tuple[int, ...]", shape)) <= MAX_CONTENT


def fold_contents(
    op: str,
    contents: Sequence[Content | None],
    inputs: Sequence[Value],
    attrs: Mapping[str, Attr],
    result: Value,
) -> Content | None:
    """The symbolic content of a primitive operation's first result, or None.

    Args:
        op: a primitive op.
        contents: what is known of each input.
        inputs: the inputs.
        attrs: the attributes.
        result: the first result.
    """
    if any(c is None for c in contents) or not may_have_content(op, result):
        return None
    sizes, rule = cast("tuple[int, ...]", result.shape), _RULES[op]
    if not (result.dtype in _SYMBOLIC or result.dtype.is_float or result.dtype is dt.bool_):
        return None
    arrays = [c.elements for c in contents if c is not None]
    try:
        elements = rule(arrays, attrs, [v.dtype for v in inputs], result.dtype)
    except _Unknown:
        return None
    boxed = np.empty(sizes, object)
    boxed[...] = np.asarray(elements, object).reshape(sizes)
    return Content(boxed)


_Rule: TypeAlias = Callable[
    [Sequence[np.ndarray], Mapping[str, Attr], Sequence[DType], DType], np.ndarray
]


def _each(function: Callable[..., Element], *arrays: np.ndarray) -> np.ndarray:
    spread = np.broadcast_arrays(*arrays)
    result = np.empty(spread[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = function(*(a[index] for a in spread))
    return result


def _elementwise(function: Callable[..., Element]) -> _Rule:
    def rule(
        arrays: Sequence[np.ndarray], _attrs: Mapping[str, Attr], _in: Sequence[DType], _out: DType
    ) -> np.ndarray:
        return _each(function, *arrays)

    return rule


def _is_dim(x: Element) -> bool:
    return isinstance(x, Expr) or (isinstance(x, int) and not isinstance(x, bool))


def _quotient(x: Element) -> tuple[Dim, int]:
    """A number as an exact fraction with a small power of two below."""
    if isinstance(x, Quotient):
        return x.numerator, x.denominator
    if isinstance(x, float) and math.isfinite(x):
        above, below = x.as_integer_ratio()
        if below <= _EXACT and abs(above) <= _EXACT:
            return above, below
    raise _Unknown


def _fraction(above: Dim, below: int) -> Element:
    if below > _EXACT:
        raise _Unknown
    simple = dim(above)
    return simple / below if isinstance(simple, int) else Quotient(simple, below)


def _add(a: Element, b: Element) -> Element:
    if _is_dim(a) and _is_dim(b):
        return dim(as_expr(a) + as_expr(b))  # type: ignore[arg-type]
    (n, d), (m, e) = _quotient(a), _quotient(b)
    return _fraction(as_expr(n) * e + as_expr(m) * d, d * e)


def _sub(a: Element, b: Element) -> Element:
    return _add(a, _neg(b))


def _neg(a: Element) -> Element:
    if _is_dim(a):
        return dim(0 - as_expr(a))  # type: ignore[arg-type]
    above, below = _quotient(a)
    return _fraction(0 - as_expr(above), below)


def _mul(a: Element, b: Element) -> Element:
    if _is_dim(a) and _is_dim(b):
        return dim(as_expr(a) * as_expr(b))  # type: ignore[arg-type]
    (n, d), (m, e) = _quotient(a), _quotient(b)
    if not isinstance(n, int) and not isinstance(m, int):
        raise _Unknown
    return _fraction(as_expr(n) * m, d * e)


def _div(a: Element, b: Element) -> Element:
    if _is_dim(a) and _is_dim(b):
        # Truncation is the same as rounding down where neither is negative.
        if prove_ge(a, 0) and prove_ge(b, 1):
            return dim(as_expr(a) // as_expr(b))  # type: ignore[arg-type]
        raise _Unknown
    (n, d), (m, e) = _quotient(a), _quotient(b)
    if not isinstance(m, int) or m <= 0 or m & (m - 1):
        raise _Unknown
    return _fraction(as_expr(n) * e, d * m)


def _floordiv(a: Element, b: Element) -> Element:
    if _is_dim(a) and _is_dim(b) and prove_ge(b, 1):
        return dim(as_expr(a) // as_expr(b))  # type: ignore[arg-type]
    raise _Unknown


def _mod(a: Element, b: Element) -> Element:
    if _is_dim(a) and _is_dim(b) and prove_ge(b, 1):
        return dim(as_expr(a) % as_expr(b))  # type: ignore[arg-type]
    raise _Unknown


def _fmod(a: Element, b: Element) -> Element:
    if _is_dim(a) and prove_ge(a, 0):
        return _mod(a, b)
    raise _Unknown


def _min(a: Element, b: Element) -> Element:
    return _extreme(a, b, minimum)


def _max(a: Element, b: Element) -> Element:
    return _extreme(a, b, maximum)


def _extreme(a: Element, b: Element, pick: Callable[[Expr, Expr], Expr]) -> Element:
    if _is_dim(a) and _is_dim(b):
        return dim(pick(as_expr(a), as_expr(b)))  # type: ignore[arg-type]
    raise _Unknown


def prove_ge(a: object, low: int) -> bool:
    """Whether an element is a dim that is at least ``low`` for all values of its symbols."""
    if isinstance(a, int):
        return a >= low
    if not isinstance(a, Expr):
        return False
    least = bounds(a)[0]
    return least is not None and least >= low


def _abs(a: Element) -> Element:
    if prove_ge(a, 0):
        return a
    raise _Unknown


def _compare(op: str) -> Callable[[Element, Element], Element]:
    def compare(a: Element, b: Element) -> Element:
        if not (_is_dim(a) and _is_dim(b)):
            raise _Unknown
        known = prove(binary(op, as_expr(a), as_expr(b)))  # type: ignore[arg-type]
        if known is None:
            raise _Unknown
        return known

    return compare


def _where(cond: Element, a: Element, b: Element) -> Element:
    return a if cond else b


def _bool(function: Callable[..., bool]) -> Callable[..., Element]:
    def apply(*elements: Element) -> Element:
        if not all(isinstance(e, bool | np.bool_) for e in elements):
            raise _Unknown
        return function(*elements)

    return apply


def _not(a: Element) -> Element:
    if isinstance(a, bool):
        return not a
    raise _Unknown


def _floor(a: Element) -> Element:
    above, below = _quotient(a)
    return _fraction(as_expr(above) // below, 1)


def _ceil(a: Element) -> Element:
    above, below = _quotient(a)
    return _fraction(ceildiv(above, below), 1)


def _trunc(a: Element) -> Element:
    if prove_ge(_quotient(a)[0], 0):
        return _floor(a)
    raise _Unknown


def _round(a: Element) -> Element:
    if _quotient(a)[1] == 1:
        return a
    raise _Unknown


def _cast(
    arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr], types: Sequence[DType], out: DType
) -> np.ndarray:
    def convert(x: Element) -> Element:
        if not isinstance(x, Expr | Quotient):
            return cast("Element", np.asarray(x).astype(types[0].numpy).astype(out.numpy).item())
        if out is dt.bool_:
            if isinstance(x, Expr) and prove_ge(x, 1):
                return True
            raise _Unknown
        if isinstance(x, Expr):
            return x if out.is_integer else Quotient(x, 1)
        if out.is_float:
            return x
        whole = _trunc(x)
        return whole.numerator if isinstance(whole, Quotient) else int(cast("float", whole))

    # Half floats round integers above 2048, so dims seen through them are not exact.
    if out.is_float and out.bits < 32:
        raise _Unknown
    return _each(convert, arrays[0])


def _dims(
    _arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr], _in: Sequence[DType], _out: DType
) -> np.ndarray:
    values = attrs["values"] if "values" in attrs else (attrs["value"],)
    assert isinstance(values, tuple)
    result = np.empty(len(values), object)
    result[:] = [dim(cast("Dim", v)) for v in values]
    return result


def _reduce(
    arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr], _in: Sequence[DType], _out: DType
) -> np.ndarray:
    steps: dict[str, Callable[[Element, Element], Element]] = {
        "sum": _add, "prod": _mul, "min": _min, "max": _max,
    }  # fmt: skip
    step = steps[str(attrs["op"])]
    axes = cast("tuple[int, ...]", attrs["axes"])
    x = arrays[0]
    kept = [a for a in range(x.ndim) if a not in axes]
    rows = x.transpose([*kept, *axes]).reshape([x.shape[a] for a in kept] + [-1])
    if rows.shape[-1] == 0:
        raise _Unknown
    result = rows[..., 0]
    for i in range(1, rows.shape[-1]):
        result = _each(step, result, rows[..., i])
    return np.asarray(result, object)


def _movement(function: Callable[[Sequence[np.ndarray], Mapping[str, Attr]], np.ndarray]) -> _Rule:
    def rule(
        arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr], _in: Sequence[DType], _out: DType
    ) -> np.ndarray:
        if not all(_is_static(a) for a in attrs.values()):
            raise _Unknown
        return function(arrays, attrs)

    return rule


def _slice(arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr]) -> np.ndarray:
    result = arrays[0]
    starts, sizes, steps = (
        cast("tuple[int, ...]", attrs[name]) for name in ("starts", "sizes", "steps")
    )
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        result = np.take(result, start + step * np.arange(size), axis=axis)
    return result


def _gather(arrays: Sequence[np.ndarray], attrs: Mapping[str, Attr]) -> np.ndarray:
    x, indices = arrays
    if any(isinstance(i, Expr | Quotient) for i in indices.flat):
        raise _Unknown
    axis = cast("int", attrs["axis"])
    places = indices.astype(np.int64)
    if places.size and not (-x.shape[axis] <= places.min() and places.max() < x.shape[axis]):
        raise _Unknown
    return np.take(x, places, axis=axis)


def _shape_of(attrs: Mapping[str, Attr]) -> tuple[int, ...]:
    return cast("tuple[int, ...]", attrs["shape"])


_RULES: dict[str, _Rule] = {
    "dims": _dims,
    "dim": _dims,
    "iota": _movement(lambda xs, attrs: OPS["iota"].reference((), attrs)[0].astype(object)),
    "cast": _cast,
    "reduce": _reduce,
    "add": _elementwise(_add),
    "sub": _elementwise(_sub),
    "mul": _elementwise(_mul),
    "div": _elementwise(_div),
    "floordiv": _elementwise(_floordiv),
    "mod": _elementwise(_mod),
    "fmod": _elementwise(_fmod),
    "min": _elementwise(_min),
    "max": _elementwise(_max),
    "neg": _elementwise(_neg),
    "abs": _elementwise(_abs),
    "floor": _elementwise(_floor),
    "ceil": _elementwise(_ceil),
    "trunc": _elementwise(_trunc),
    "round": _elementwise(_round),
    "where": _elementwise(_where),
    "and": _elementwise(_bool(lambda a, b: bool(a and b))),
    "or": _elementwise(_bool(lambda a, b: bool(a or b))),
    "not": _elementwise(_not),
    **{op: _elementwise(_compare(op)) for op in ("eq", "ne", "lt", "le", "gt", "ge")},
    "reshape": _movement(lambda xs, attrs: xs[0].reshape(_shape_of(attrs))),
    "broadcast_to": _movement(lambda xs, attrs: np.broadcast_to(xs[0], _shape_of(attrs))),
    "transpose": _movement(
        lambda xs, attrs: xs[0].transpose(cast("tuple[int, ...]", attrs["perm"]))
    ),
    "concat": _movement(lambda xs, attrs: np.concatenate(xs, axis=cast("int", attrs["axis"]))),
    "slice": _movement(_slice),
    "gather": _movement(_gather),
}
