"""Winograd's matrices: the filtering is exact, and the straight-line code is the product."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.tensor.winograd import Matrix, filtering, linear_program

SIZES = [(2, 3), (4, 3), (2, 5), (3, 2), (3, 4), (1, 3), (4, 1), (1, 6)]


def times(matrix: Matrix, x: Sequence[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("m", "r"), SIZES)
@given(data=st.data())
def test_filtering_computes_the_sliding_products(m: int, r: int, data: st.DataObject) -> None:
    numbers = st.integers(-99, 99).map(Fraction)
    g = data.draw(st.lists(numbers, min_size=r, max_size=r))
    d = data.draw(st.lists(numbers, min_size=m + r - 1, max_size=m + r - 1))
    f = filtering(m, r)
    products = [a * b for a, b in zip(times(f.weights, g), times(f.inputs, d), strict=True)]
    want = [sum((g[k] * d[i + k] for k in range(r)), Fraction(0)) for i in range(m)]
    assert times(f.outputs, products) == want


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_a_linear_program_is_the_product_with_its_matrix(m: int, r: int) -> None:
    f = filtering(m, r)
    for matrix in (f.outputs, f.weights, f.inputs):
        program = linear_program(matrix)
        for k in range(program.inputs):
            values = [Fraction(j == k) for j in range(program.inputs)]
            for terms in program.steps:
                values.append(sum((c * values[v] for c, v in terms), Fraction(0)))
            assert [values[o] for o in program.outputs] == [row[k] for row in matrix]


def test_a_linear_program_shares_sums() -> None:
    matrix = filtering(4, 3).inputs
    plain = sum(sum(1 for x in row if x) - 1 for row in matrix)
    assert sum(len(terms) - 1 for terms in linear_program(matrix).steps) < plain
