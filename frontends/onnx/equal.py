"""Dims that a model needs to be equal although its inputs name them apart.

Exporters often leave dims unnamed, so that the batch of ``input_ids`` and the batch of
``attention_mask`` are two symbols until an operator adds tensors of both. Where such a symbol can
be replaced by the other dim, the import starts again with that known; calls then check it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tilewright.graph.ir import Attr, Value
from tilewright.ops import OPS
from tilewright.tensor.ir import Dim, Expr, Var, as_expr, eq
from tilewright.tensor.simplify import bounds, dim, prove, same_dim, substitute, symbols


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
    """The replacement of one symbol that makes two dims equal, or None where there is none."""
    if prove(eq(as_expr(a), as_expr(b))) is not None:
        return None  # equal already, or never
    for one, other in ((b, a), (a, b)):
        if isinstance(one, Var) and one.is_symbol and one not in symbols(other):
            low, high = bounds(other)
            least = 0 if one.lo == 1 else one.lo
            above = least is not None and low is not None and low >= least
            if above and (one.hi is None or (high is not None and high <= one.hi)):
                return DimsDifferError(one, other)
    return None


def conflict(op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> DimsDifferError | None:
    """The replacement that lets an operation's first unequal dims be equal, or None."""
    for a, b in _pairs(op, [v.shape for v in inputs], attrs):
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
