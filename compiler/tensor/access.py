"""How an expression reads memory: flat addresses of loads and their strides along axes."""

from __future__ import annotations

from .ir import Buffer, Const, Dim, Expr, Load, as_expr
from .simplify import Ranges, dim, product, simplify


def strides(buffer: Buffer) -> tuple[Dim, ...]:
    """Row-major strides, in elements."""
    result: list[Dim] = []
    for k in range(len(buffer.shape)):
        result.append(product(buffer.shape[k + 1 :]))
    return tuple(result)


def flat_index(load: Load, ranges: Ranges) -> Expr:
    """The position of a load in its buffer, in elements, canonical."""
    total: Expr = Const(0)
    # A quotient and its remainder join again only before they are multiplied by a symbol.
    stepwise = not all(isinstance(d, int) for d in load.buffer.shape)
    for index, extent in zip(load.indices, load.buffer.shape, strict=True):
        total = total * as_expr(extent) + index
        if stepwise:
            total = simplify(total, ranges)
    return simplify(total, ranges)


def elements(buffer: Buffer) -> Dim:
    """How many elements a buffer has."""
    return dim(product(buffer.shape))
