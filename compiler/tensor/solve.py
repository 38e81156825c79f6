"""Which sizes of inputs settle which symbols.

``f32[N, 2 * S + 1]`` settles N and S. A dim settles a symbol where it is linear in it and holds no
other symbol that is not settled by then; whether all dims agree is checked afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .ir import Dim, Var
from .simplify import affine, dim, evaluate, symbols


@dataclass(frozen=True, slots=True)
class Source:
    """The dim that settles a symbol: dim ``axis`` of shape ``index`` is ``factor*symbol + rest``.

    Attributes:
        factor: not 0.
        rest: over symbols that stand earlier in the order of ``sources``.
    """

    index: int
    axis: int
    factor: int
    rest: Dim


Sources = Mapping[Var, Source]
"""In an order in which each symbol needs only those before it."""


def sources(shapes: Sequence[Sequence[Dim]], known: frozenset[Var] = frozenset()) -> Sources:
    """The dims that settle symbols, each needing only symbols before it.

    The dim that is a symbol itself goes before every other, as messages should name that one.

    Args:
        shapes: of the inputs.
        known: symbols that are settled already.
    """
    places = [(i, k, d) for i, s in enumerate(shapes) for k, d in enumerate(s) if symbols(d)]
    found = {d: Source(i, k, 1, 0) for i, k, d in reversed(places) if isinstance(d, Var)}
    found = {v: s for v, s in reversed(found.items()) if v not in known}
    grown = True
    while grown:
        grown = False
        for i, k, d in places:
            missing = symbols(d) - known - found.keys()
            source = _linear(i, k, d, *missing) if len(missing) == 1 else None
            if source is not None:
                found[next(iter(missing))] = source
                grown = True
    return found


def _linear(index: int, axis: int, size: Dim, symbol: Var) -> Source | None:
    assert not isinstance(size, int)
    parts = affine(size, (symbol,))
    if parts is None:
        return None
    coefficients, rest = parts
    factor = coefficients[symbol]
    return Source(index, axis, factor, dim(rest)) if isinstance(factor, int) and factor else None


def solve(
    found: Sources, shapes: Sequence[Sequence[int]], known: Mapping[str, int]
) -> Iterator[tuple[Var, int]]:
    """Yields the symbols with their values at given sizes, rounded down where none fits.

    Args:
        found: ``sources`` of the declared shapes.
        shapes: the sizes, of the declared ranks.
        known: the values of symbols that were settled before, by name.
    """
    values = dict(known)
    for symbol, source in found.items():
        size = shapes[source.index][source.axis]
        rest = source.rest if isinstance(source.rest, int) else evaluate(source.rest, values)
        value = values[symbol.name] = (size - rest) // source.factor
        yield symbol, value
