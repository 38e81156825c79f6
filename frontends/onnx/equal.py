"""Dims that a model needs to be equal although its inputs name them apart.

Exporters often leave dims unnamed, so that the batch of ``input_ids`` and the batch of
``attention_mask`` are two symbols until an operator adds tensors of both. Where such a symbol can
be replaced by the other dim, the import starts again with that known; calls then check it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tilewright.graph.ir import Attr, Value
from tilewright.ops import OPS
from tilewright.ops.kernel import KERNEL, equal_dims
from tilewright.tensor.ir import Dim, Expr, Var, as_expr, eq
from tilewright.tensor.simplify import (
    bounds,
    dim,
    evaluate,
    prove,
    same_dim,
    substitute,
    symbols,
)

_MOST_FACTOR = 64
_MOST_SIZE = 4096


class DimsDifferError(Exception):
    """Two dims must be equal, which holds when ``symbol`` is ``value`` (internal).

    The importer starts again with the symbol replaced.
    """

    def __init__(self, symbol: Var, value: Dim) -> None:
        super().__init__(symbol, value)
        self.symbol = symbol
        self.value = value

    def added_to(self, known: Mapping[Var, Dim]) -> dict[Var, Dim]:
        """What is known of symbols, with this one replaced everywhere."""
        replaced: Mapping[Expr, Expr] = {self.symbol: as_expr(self.value)}
        result: dict[Var, Dim] = {
            name: dim(substitute(as_expr(value), replaced)) for name, value in known.items()
        }
        result[self.symbol] = self.value
        return result


def solved(a: Dim, b: Dim) -> DimsDifferError | None:
    """The replacement of one symbol that makes two dims equal, or None where none is found.

    A symbol that is one of the dims becomes the other. Else, as in networks that halve an image
    and double it again, a symbol becomes a multiple of a new one (``h = 32*k``), or has its range
    narrowed to where the dims are equal. This refuses some sizes that the model would take, never
    the other way round.
    """
    if prove(eq(as_expr(a), as_expr(b))) is not None:
        return None  # equal already, or never
    for one, other in ((b, a), (a, b)):
        if isinstance(one, Var) and one.is_symbol and one not in symbols(other):
            return DimsDifferError(one, other) if _covers(one, other) else None
    involved = symbols(a) | symbols(b)
    if len(involved) != 1:
        return None
    (symbol,) = involved
    value = _multiple(symbol, a, b)
    if value is None:
        value = _narrowed(symbol, a, b)
    return None if value is None else DimsDifferError(symbol, value)


def _covers(symbol: Var, value: Dim) -> bool:
    """Whether a value stays in the range of a symbol (1 and up is also said of what may be 0)."""
    low, high = bounds(value)
    least = 0 if symbol.lo == 1 else symbol.lo
    above = least is not None and low is not None and low >= least
    return above and (symbol.hi is None or (high is not None and high <= symbol.hi))


def _multiple(symbol: Var, a: Dim, b: Dim) -> Dim | None:
    """The smallest multiple of a new symbol that makes two dims equal."""
    for factor in range(2, _MOST_FACTOR + 1):
        low = -(-(symbol.lo or 0) // factor)
        high = None if symbol.hi is None else symbol.hi // factor
        if high is not None and high < low:
            break
        value = Var(_by_name(symbol.name, factor), symbol.dtype, low, high) * factor
        if same_dim(*(dim(substitute(as_expr(d), {symbol: value})) for d in (a, b))):
            return dim(value)
    return None


def _by_name(name: str, factor: int) -> str:
    """``h_by_32`` for a 32nd of h, also when that is a 2nd of ``h_by_16``."""
    found = re.fullmatch(r"(.+)_by_(\d+)", name)
    return f"{found[1]}_by_{int(found[2]) * factor}" if found else f"{name}_by_{factor}"


def _narrowed(symbol: Var, a: Dim, b: Dim) -> Dim | None:
    """The symbol with the range of sizes, all of them next to each other, where dims are equal."""
    first = symbol.lo or 0
    last = _MOST_SIZE if symbol.hi is None else min(symbol.hi, _MOST_SIZE)
    fits = [
        n
        for n in range(first, last + 1)
        if evaluate(a, {symbol.name: n}) == evaluate(b, {symbol.name: n})
    ]
    if not fits or len(fits) != fits[-1] - fits[0] + 1:
        return None
    high = symbol.hi if fits[-1] == _MOST_SIZE else fits[-1]
    value = Var(symbol.name, symbol.dtype, fits[0], high)
    same = same_dim(*(dim(substitute(as_expr(d), {symbol: value})) for d in (a, b)))
    return value if same and value is not symbol else None


def conflict(op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> DimsDifferError | None:
    """The replacement that lets an operation's first unequal dims be equal, or None."""
    if op in KERNEL:
        pairs = equal_dims(attrs, tuple(v.type for v in inputs))
    else:
        pairs = _pairs(op, [v.shape for v in inputs], attrs)
    for a, b in pairs:
        if not same_dim(a, b):
            return solved(a, b)
    return None


def _pairs(
    op: str, shapes: Sequence[tuple[Dim, ...]], attrs: Mapping[str, Attr]
) -> Iterator[tuple[Dim, Dim]]:
    """The dims that must be equal for an operation, those apart that are broadcast."""
    if op == "matmul" and all(len(s) >= 2 for s in shapes):
        yield shapes[0][-1], shapes[1][-2]
        yield from _aligned([s[:-2] for s in shapes])
    elif op == "concat":
        axis = attrs["axis"]
        for shape in shapes[1:]:
            if len(shape) == len(shapes[0]):
                yield from (
                    pair for i, pair in enumerate(zip(shapes[0], shape, strict=True)) if i != axis
                )
    elif op in OPS and OPS[op].kind == "elementwise":
        yield from _aligned(shapes)


def _aligned(shapes: Sequence[tuple[Dim, ...]]) -> Iterator[tuple[Dim, Dim]]:
    rank = max(len(s) for s in shapes)
    for place in range(1, rank + 1):
        dims = [s[-place] for s in shapes if len(s) >= place and not same_dim(s[-place], 1)]
        yield from ((dims[0], d) for d in dims[1:])
