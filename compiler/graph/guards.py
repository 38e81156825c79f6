"""Guards: what fails a call, where a graph reads or writes outside of a tensor.

Indices that are given as data are clamped to their range, so that none leaves its tensor; but
what comes of a wrong one is not meant. A guard counts the wrong ones. What is known of indices
before any call spares most guards: of constants, of counted and chosen places, of clamped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import dtype as dt
from ..tensor.ir import Dim, Expr, as_expr, le, lt
from ..tensor.simplify import dim, prove
from ..tensor.text import text
from .build import GraphBuilder, Indexing
from .ir import Node, Value

End = Dim | None
Span = tuple[End, End]
"""The least and the largest value that elements can have; None where it is not known."""

_UNKNOWN: Span = (None, None)
_DEEPEST = 24
"""Through how many operations values are followed."""
_LARGEST_CONSTANT = 1 << 24
_SAME = frozenset({
    "transpose", "reshape", "broadcast_to", "slice", "gather", "gather_elements", "gather_nd",
})  # fmt: skip
"""Operations whose results are elements of their first operand."""
_PLACES = frozenset({"argreduce", "topk"})
"""Operations whose integer results are places along an axis."""


def guard_indices(builder: GraphBuilder) -> None:
    """Adds a guard for each tensor of indices that could be outside of its range."""
    if not builder.indexings:
        return
    makers = {v: node for node in builder.nodes for v in node.outputs}
    spans = _Spans(builder, makers)
    guarded: set[tuple[object, ...]] = set()
    for indexing in builder.indexings:
        key = indexing.indices, indexing.sizes, indexing.signed
        if key in guarded:
            continue
        guarded.add(key)
        if not _is_inside(spans.of(indexing.indices), indexing):
            _guard(builder, indexing)


def _is_inside(span: Span, indexing: Indexing) -> bool:
    low, high = span
    if low is None or high is None:
        return False
    return all(
        prove(le(dim(-as_expr(size)) if indexing.signed else 0, as_expr(low))) is True
        and prove(lt(as_expr(high), size)) is True
        for size in indexing.sizes
    )


def _guard(builder: GraphBuilder, indexing: Indexing) -> None:
    """Counts the indices outside of their range."""
    indices = indexing.indices
    with builder.origin(indexing.origin):
        if indices.dtype is not dt.i64:
            indices = builder.add("cast", indices, dtype=dt.i64, saturate=False)
        size = _sizes(builder, indexing.sizes)
        zero = builder.constant(np.int64(0))
        least = builder.add("neg", size) if indexing.signed else zero
        outside = builder.add(
            "or", builder.add("lt", indices, least), builder.add("ge", indices, size)
        )
        count = builder.add("cast", outside, dtype=dt.i64, saturate=False)
        if count.shape:
            axes = tuple(range(len(count.shape)))
            count = builder.add("reduce", count, op="sum", axes=axes, keepdims=False)
    what = ", ".join(_range_text(size, indexing.signed) for size in indexing.sizes)
    builder.guard(count, f"{indexing.origin}: an index is outside of {what}")


def _range_text(size: Dim, signed: bool) -> str:
    if isinstance(size, int):
        return f"{-size if signed else 0} to {size - 1}"
    return f"{f'-({text(size)})' if signed else '0'} to {text(size)} - 1"


def _sizes(builder: GraphBuilder, sizes: Sequence[Dim]) -> Value:
    """The sizes as a scalar, or as a vector where there are several."""
    known = [d for d in sizes if isinstance(d, int)]
    if len(known) == len(sizes):
        return builder.constant(np.array(known if len(known) > 1 else known[0], np.int64))
    if len(sizes) == 1:
        return builder.add("dim", value=sizes[0])
    return builder.add("dims", values=tuple(sizes))


# ------------------------------------------------------------------ what is known before a call


class _Spans:
    """What values the elements of integer tensors can have, found from what makes them."""

    def __init__(self, builder: GraphBuilder, makers: Mapping[Value, Node]) -> None:
        self._builder = builder
        self._makers = makers
        self._found: dict[Value, Span] = {}

    def of(self, value: Value, depth: int = 0) -> Span:
        """The least and the largest value that an element can have."""
        found = self._found.get(value)
        if found is None:
            found = self._span(value, depth) if depth < _DEEPEST else _UNKNOWN
            self._found[value] = found
        return found

    def _span(self, value: Value, depth: int) -> Span:
        data = self._builder.data(value)
        if data is not None:
            return _span_of_data(data)
        if value.dtype is dt.bool_:
            return 0, 1
        if not value.dtype.is_integer:
            return _UNKNOWN
        node = self._makers.get(value)
        if node is None:
            return _UNKNOWN if value.dtype.is_signed else (0, None)
        if node.op in _PLACES:
            axis = node.attrs["axis"]
            assert isinstance(axis, int)
            return 0, dim(as_expr(node.inputs[0].shape[axis]) - 1)
        operands = [self.of(v, depth + 1) for v in node.inputs if not v.dtype.is_float]
        return _fitting(_combined(node, operands), value)


def _span_of_data(data: np.ndarray) -> Span:
    if data.size == 0:
        return 0, 0
    if data.dtype.kind not in "iub" or data.size > _LARGEST_CONSTANT:
        return _UNKNOWN
    return int(data.min()), int(data.max())


def _fitting(span: Span, value: Value) -> Span:
    """What is left of a span in a type whose arithmetic wraps around."""
    low, high = span
    ends = [e for e in span if isinstance(e, int)]
    if value.dtype is not dt.i64 and len(ends) < 2:
        return _UNKNOWN
    if any(not value.dtype.lowest <= e <= value.dtype.highest for e in ends):
        return _UNKNOWN
    return low, high


def _combined(node: Node, operands: Sequence[Span]) -> Span:
    """The span of the results of an operation, from those of its integer operands."""
    attrs = node.attrs
    match node.op, operands:
        case "iota", _:
            shape, axis = attrs["shape"], attrs["axis"]
            assert isinstance(shape, tuple) and isinstance(axis, int)
            return 0, dim(as_expr(shape[axis]) - 1)  # type: ignore[arg-type]
        case "dim", _:
            size = attrs["value"]
            return size, size  # type: ignore[return-value]
        case op, [first, *_] if op in _SAME:
            return first
        case "cast", [first] if not node.inputs[0].dtype.is_float:
            return first
        case "reduce", [first] if attrs["op"] in ("max", "min"):
            return first
        case "concat", [_, *_]:
            return _hull(operands)
        case "where", [_, a, b]:
            return _hull([a, b])
        case "min", [(a, b), (c, d)]:
            return _least(a, c), _either(b, d, min)
        case "max", [(a, b), (c, d)]:
            return _either(a, c, max), _most(b, d)
        case "add", [(a, b), (c, d)]:
            return _sum(a, c), _sum(b, d)
        case "sub", [(a, b), (c, d)]:
            return _sum(a, d, -1), _sum(b, c, -1)
        case "mod", [_, (int(m), int(n))] if m == n > 0:
            return 0, m - 1
        case "mul", [(int(a), int(b)), (int(c), int(d))]:
            ends = [x * y for x in (a, b) for y in (c, d)]
            return min(ends), max(ends)
        case "floordiv", [(int(a), int(b)), (int(m), int(n))] if m == n > 0:
            return a // m, b // m
    return _UNKNOWN


def _sum(a: End, b: End, sign: int = 1) -> End:
    return None if a is None or b is None else dim(as_expr(a) + as_expr(b) * sign)


def _least(a: End, b: End) -> End:
    """The smaller of two ends that both count."""
    return _first(a, b, le)


def _most(a: End, b: End) -> End:
    """The larger of two ends that both count."""
    return _first(a, b, lambda x, y: le(y, x))


def _first(a: End, b: End, comes: Callable[[Expr, Expr], Expr]) -> End:
    """That of two ends which is known to come before the other one."""
    if a is None or b is None:
        return None
    left, right = as_expr(a), as_expr(b)
    if prove(comes(left, right)) is True:
        return a
    return b if prove(comes(right, left)) is True else None


def _either(a: End, b: End, pick: Callable[[int, int], int]) -> End:
    """An end where any of two would do."""
    if isinstance(a, int) and isinstance(b, int):
        return pick(a, b)
    return b if a is None else a if b is None or isinstance(b, int) else b


def _hull(spans: Sequence[Span]) -> Span:
    low, high = spans[0]
    for a, b in spans[1:]:
        low, high = _least(low, a), _most(high, b)
    return low, high
