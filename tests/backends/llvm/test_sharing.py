"""Rounds of rows are found in parallel loops over panels and rows, where sharing by rows pays."""

from __future__ import annotations

import pytest

from tilewright.backends.llvm.sharing import rows_of
from tilewright.tensor.ir import For
from tilewright.tensor.parse import parse_func


def loop(text: str) -> For:
    """The outermost loop of a function."""
    (found,) = parse_func(text).body
    assert isinstance(found, For)
    return found


def product(rows: int, panels: int, depth: int, row: str, panel: str) -> For:
    """A product of tiles of 4 rows and 16 columns, one of them in each iteration."""
    return loop(
        f"""\
def k(x: f32[{4 * rows}, {depth}], w: f32[{panels}, {depth}, 16],
      y: f32[{4 * rows}, {16 * panels}]):
    for p in parallel({rows * panels}):
        for i in unroll(4):
            for j in vector(16):
                y[{row} * 4 + i, {panel} * 16 + j] = x[{row} * 4 + i, 0] * w[{panel}, 0, j]
"""
    )


def test_rows_inside_panels_are_a_round() -> None:
    assert rows_of(product(33, 6, 64, "(p % 33)", "(p // 33)")) == 33


def test_a_loop_over_rows_is_cut_as_a_whole() -> None:
    assert rows_of(product(33, 6, 64, "(p // 6)", "(p % 6)")) == 0


def test_panels_are_kept_apart_where_they_are_most_of_what_is_read() -> None:
    assert rows_of(product(10, 6, 16, "(p % 10)", "(p // 10)")) == 10
    assert rows_of(product(10, 60, 6400, "(p % 10)", "(p // 10)")) == 0


@pytest.mark.parametrize(("rows", "found"), [(1, 0), (2, 2), (6, 6), (7, 0), (9, 9)])
def test_rows_that_cannot_be_halved_well_are_no_round(rows: int, found: int) -> None:
    assert rows_of(product(rows, 6, 32, f"(p % {rows})", f"(p // {rows})")) == found


@pytest.mark.parametrize(("rows", "found"), [(1, 0), (5, 5), (7, 7)])
def test_rows_are_a_round_however_they_are_halved_where_they_are_all_that_is_read(
    rows: int, found: int
) -> None:
    assert rows_of(product(rows, 6, 1, f"(p % {rows})", f"(p // {rows})")) == found


def test_panels_of_groups_are_told_from_rows() -> None:
    grouped = loop(
        """\
def k(x: f32[32, 4, 64], w: f32[4, 3, 640, 16], y: f32[32, 4, 48]):
    for p in parallel(96):
        for i in unroll(4):
            for j in vector(16):
                y[p % 8 * 4 + i, p // 24, p // 8 % 3 * 16 + j] = (
                    x[p % 8 * 4 + i, p // 24, 0] * w[p // 24, p // 8 % 3, 0, j]
                )
"""
    )
    assert rows_of(grouped) == 0


def test_rows_and_places_in_them_are_one_round() -> None:
    window = loop(
        """\
def k(x: f32[12, 20, 64], y: f32[12, 20, 64]):
    for p in parallel(120):
        for i in unroll(4):
            for j in vector(32):
                y[p // 5 % 12, p % 5 * 4 + i, p // 60 * 32 + j] = x[p // 5 % 12, p % 5 * 4 + i, 0]
"""
    )
    assert rows_of(window) == 60


def test_a_number_of_iterations_that_is_not_known_is_cut_as_a_whole() -> None:
    symbolic = loop(
        """\
def k(x: f32[N], y: f32[8, N], N: symbol(1)):
    for p in parallel(8 * N):
        y[p % 8, p // 8] = x[p // 8]
"""
    )
    assert rows_of(symbolic) == 0
