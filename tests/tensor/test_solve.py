"""Symbols are settled by sizes that are linear in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.simplify import dim, evaluate
from tilewright.tensor.solve import solve, sources

N, M, K = symbol("N"), symbol("M"), symbol("K")


def test_the_dim_that_is_the_symbol_itself_settles_it() -> None:
    found = sources([(dim(N * 2), 3), (dim(N + 1), N)])
    assert {v.name: (s.index, s.axis) for v, s in found.items()} == {"N": (1, 1)}


def test_the_first_dim_settles_a_symbol() -> None:
    found = sources([(3, M), (M, N), (N,)])
    assert {v.name: (s.index, s.axis) for v, s in found.items()} == {"M": (0, 1), "N": (1, 1)}


def test_a_dim_of_several_symbols_settles_the_last_that_is_left() -> None:
    shapes: list[tuple[Dim, ...]] = [(dim(N * 3 + M),), (dim(M * 2 - 1),)]
    assert dict(solve(sources(shapes), [(26,), (9,)], {})) == {N: 7, M: 5}


def test_products_and_quotients_settle_nothing() -> None:
    assert not sources([(dim(N * M), dim(K // 2))])


def test_what_is_known_is_not_settled_again() -> None:
    found = sources([(N, dim(N + M))], frozenset({N}))
    assert list(found) == [M]
    assert dict(solve(found, [(4, 9)], {"N": 4})) == {M: 5}


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 9), st.integers(-5, 9))
def test_solving_undoes_evaluating(n: int, m: int, factor: int, offset: int) -> None:
    shape = (dim(N * factor + offset), dim(N + M * factor))
    sizes = tuple(evaluate(d, {"N": n, "M": m}) for d in shape)
    assert dict(solve(sources([shape]), [sizes], {})) == {N: n, M: m}
