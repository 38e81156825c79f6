"""Simplification: equal values everywhere in the ranges, bounds that hold, one canonical form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.tensor.evaluate import evaluate
from tilewright.tensor.ir import (
    Binary,
    BinaryOp,
    Buffer,
    Cast,
    Const,
    Expr,
    Select,
    Var,
    as_expr,
    symbol,
)
from tilewright.tensor.simplify import (
    Ranges,
    affine,
    bounds,
    ceildiv,
    dim,
    product,
    prove,
    same_dim,
    simplify,
    symbols,
)
from tilewright.tensor.simplify import evaluate as dim_value

I, J, N = Var("i"), Var("j"), symbol("N", 1, 6)  # noqa: E741 - the field's names of axes
RANGES: Ranges = {I: (0, 4), J: (-2, 3)}
GRID = np.array(list(itertools.product(range(5), range(-2, 4), range(1, 7)))).T
POINTS = dict(zip((I, J, N), GRID, strict=True))
OPS: list[BinaryOp] = ["add", "sub", "mul", "min", "max"]
TESTS: list[BinaryOp] = ["lt", "le", "gt", "ge", "eq", "ne"]
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def indices(draw: st.DrawFn, depth: int = 4) -> Expr:
    """Index arithmetic as lowering and schedules make it."""
    if depth == 0:
        leaf = draw(st.sampled_from([I, J, N, I, J, None]))
        return Const(draw(st.integers(-9, 9))) if leaf is None else leaf
    a = draw(indices(depth - 1))
    match draw(st.sampled_from(["op", "op", "divide", "select", "leaf"])):
        case "op":
            return Binary(draw(st.sampled_from(OPS)), a, draw(indices(depth - 1)))
        case "divide":
            divisor: Expr = draw(st.sampled_from([Const(2), Const(3), Const(6), N, N * 2]))
            return a // divisor if draw(st.integers(0, 1)) else a % divisor
        case "select":
            return Select(draw(conditions(depth - 1)), a, draw(indices(depth - 1)))
    return a


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> Expr:
    """Comparisons of indices."""
    op = draw(st.sampled_from(TESTS))
    return Binary(op, draw(indices(depth)), draw(indices(depth)))


@MANY
@given(st.one_of(indices(), conditions()))
def test_simplify_keeps_the_value_at_every_point_of_the_ranges(e: Expr) -> None:
    simple = simplify(e, RANGES)
    assert simple.dtype is e.dtype
    same = np.asarray(evaluate(simple, POINTS) == evaluate(e, POINTS))
    assert same.all(), GRID[:, ~np.broadcast_to(same, GRID.shape[1])][:, 0]


@MANY
@given(indices())
def test_bounds_hold_at_every_point_of_the_ranges(e: Expr) -> None:
    low, high = bounds(e, RANGES)
    values = evaluate(e, POINTS)
    assert low is None or low <= values.min()
    assert high is None or values.max() <= high


@MANY
@given(conditions())
def test_what_is_proved_holds_at_every_point_of_the_ranges(e: Expr) -> None:
    proved = prove(e, RANGES)
    if proved is not None:
        assert (evaluate(e, POINTS) == proved).all()


@MANY
@given(indices(), indices())
def test_equal_polynomials_are_one_object(a: Expr, b: Expr) -> None:
    assert simplify(a + b) is simplify(b + a)
    assert simplify((a + b) - b) is simplify(a)
    assert same_dim((a + b) * 2, b * 2 + a * 2)


def test_floating_point_values_are_never_reassociated() -> None:
    x, y = Var("x", dt.f32), Var("y", dt.f32)
    assert simplify((x + y) - y) is not x
    assert simplify(x * 0.0) is not Const(0.0, dt.f32)


# ------------------------------------------------------------------ one rule at a time

K, X, Z = Var("k"), Var("x"), Var("z")
M = symbol("M")
WIDE: Ranges = {K: (0, 63), X: (None, None), I: (0, 4), J: (-2, 3)}
RULES: list[tuple[str, Expr, Expr | int]] = [
    ("like terms add up", I * 3 + J - I, I * 2 + J),
    ("what cancels is gone", (I + M) * 2 - M * 2 - I * 2, 0),
    ("products distribute", (I + 1) * (M + 2), I * M + I * 2 + M + 2),
    ("negation is a factor", -(I - J), J - I),
    ("exact terms leave a quotient", (K * 8 + X * 4) // 4, K * 2 + X),
    ("exact terms leave no remainder", (X * 4 + 3) % 4, 3),
    ("a remainder in range is dropped by the quotient", (X * 64 + K) // 64, X),
    ("a remainder in range is the remainder", (X * 64 + K) % 64, K),
    ("a quotient just below is one less", (X * 64 + K - 64) // 64, X - 1),
    ("quotients of quotients divide once", (X // 4) // 6, X // 24),
    ("a quotient by a common factor is reduced", (X * 6 + J * 4) // 10, (X * 3 + J * 2) // 5),
    ("a remainder by a common factor is reduced", (X * 6) % 10, (X * 3 % 5) * 2),
    ("remainders of remainders keep the divisor", (X % 12) % 4, X % 4),
    ("quotient and remainder make the whole", X // 7 * 7 + X % 7, X),
    ("also where both are scaled", X // 7 * 14 + X % 7 * 2 + 1, X * 2 + 1),
    ("also for a symbolic divisor", X // M * M + X % M, X),
    ("a symbolic divisor divides its multiples", (X * M + I * M) // M, X + I),
    ("a value is once in itself", (M * 2) // (M * 2), 1),
    ("dividing by one changes nothing", X // 1 + X % 1, X),
    ("a remainder just below is one divisor up", (X * 64 + K - 64) % 64, K),
    ("remainders of constants have the divisor's sign", Const(-1) % 4, 3),
    ("also of a negative divisor", Const(5) % -4, -3),
    ("quotients of constants are rounded down", Const(5) // -4, -2),
    ("min of ordered values", Binary("min", K, K + 1), K),
    ("max of ordered values", Binary("max", K, K + M), K + M),
    ("min is symmetric", Binary("min", X, Z), Binary("min", Z, X)),
    ("truncating division of constants", Binary("div", Const(-7), Const(2)), -3),
    ("shifts of constants wrap", Binary("shl", Const(1), Const(63)), -(1 << 63)),
    ("equal arms need no condition", Select(Binary("lt", X, Z), K, K), K),
    ("a decided condition picks an arm", Select(Binary("lt", K, Const(64)), X, Z), X),
]


@pytest.mark.parametrize(("e", "expected"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_rule(e: Expr, expected: Expr | int) -> None:
    assert simplify(e, WIDE) is simplify(as_expr(expected), WIDE)


NOT_RULES: list[tuple[str, Expr]] = [
    ("a divisor of unknown sign", (X * Z) // Z),
    ("a quotient by zero", Binary("floordiv", X, Const(0))),
    ("a truncating division by zero", Binary("div", Const(1), Const(0))),
    ("a shift by more than the width", Binary("shl", Const(1), Const(64))),
    ("a quotient of what may be negative", J // 64),
    ("a remainder by a divisor that does not divide", (X % 12) % 5),
]


@pytest.mark.parametrize("e", [r[1] for r in NOT_RULES], ids=[r[0] for r in NOT_RULES])
def test_stays_as_it_is(e: Expr) -> None:
    assert simplify(e, WIDE) is e


def test_comparisons_are_decided_by_the_difference_of_both_sides() -> None:
    assert prove(Binary("lt", K * 2, K + 64), WIDE) is True
    assert prove(Binary("ge", K, Const(64)), WIDE) is False
    assert prove(Binary("ne", K, K + M), WIDE) is True
    assert prove(Binary("eq", K + M - K, as_expr(M)), WIDE) is True
    assert prove(Binary("lt", K, as_expr(M)), WIDE) is None


def test_ends_may_be_symbolic() -> None:
    row: Ranges = {K: (0, M - 1), I: (as_expr(K), M + K)}
    assert bounds(M - K, row) == (1, None)
    assert prove(Binary("lt", K, as_expr(M)), row) is True
    assert prove(Binary("le", I - K, as_expr(M)), row) is True
    assert prove(Binary("le", I, as_expr(M)), row) is None
    tile = Binary("min", K * 8, M - 8)
    assert prove(Binary("le", tile + 8, as_expr(M)), row) is True
    assert bounds((K * 2 + 1) // 2 - K, row) == (0, 0)


def test_ranges_of_other_variables_do_not_matter() -> None:
    few: Ranges = {K: (0, 3)}
    many: Ranges = {J: (0, 9), K: (0, 3), I: (J, None)}
    e = (K + X * 4) // 4
    assert simplify(e, few) is simplify(e, many)
    assert bounds(K * 5, many) == (0, 15)


def test_bounds_of_kinds_of_atoms() -> None:
    small = Buffer("s", dt.u8, (4,))
    wide = Buffer("w", dt.i64, (4,))
    assert bounds(Cast(small[I], dt.i64)) == (0, 255)
    assert bounds(Cast(Binary("lt", X, Z), dt.i64)) == (0, 1)
    assert bounds(wide[I]) == (None, None)
    assert bounds(wide[I] % 5) == (0, 4)
    assert bounds(Binary("min", wide[I], Const(7))) == (None, 7)
    assert bounds(Binary("and", wide[I], Const(7))) == (0, 7)
    assert bounds(Select(Binary("lt", X, Z), I, J), WIDE) == (-2, 4)
    assert bounds(J // 2, WIDE) == (-1, 1)
    assert bounds(J * J, WIDE) == (-6, 9)


@MANY
@given(indices(3))
def test_affine_is_the_sum_that_it_says(e: Expr) -> None:
    form = affine(e, (I, J), RANGES)
    if form is not None:
        slopes, rest = form
        assert not {I, J} & (symbols(rest) | symbols(slopes[I]) | symbols(slopes[J]))
        total = as_expr(slopes[I]) * I + as_expr(slopes[J]) * J + rest
        assert np.all(np.equal(evaluate(total, POINTS), evaluate(e, POINTS)))


def test_affine_refuses_products_quotients_and_loads_of_the_variables() -> None:
    held = Buffer("w", dt.i64, (9,))
    assert affine(I * J, (I, J)) is None
    assert affine(I // 2, (I,)) is None
    assert affine(held[I] + J, (I, J)) is None
    assert affine(I * M + J // 2, (I,)) == ({I: M}, simplify(J // 2))
    assert affine(as_expr(M), (I,)) == ({I: 0}, M)


def test_ceildiv_and_product_and_dim_of_numbers_and_symbols() -> None:
    assert [ceildiv(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert ceildiv(M * 8, 4) is dim(M * 2)
    assert dim_value(ceildiv(M, 4), {"M": 9}) == 3
    assert product(()) == 1
    assert product((2, M, 3)) is dim(M * 6)
    assert product((0, M)) == 0
    assert dim(M - M + 3) == 3
    assert same_dim(M * 2, M + M)
    assert not same_dim(M, N)
    assert not same_dim(M, 4)


def test_products_of_sums_of_data_are_not_written_out() -> None:
    a, b = (Cast(Buffer(name, dt.u8, (4,))[I], dt.i64) for name in "ab")
    e: Expr = a
    for _ in range(12):
        e = e * e + b  # of 2 ** 11 terms, as a polynomial
    assert simplify(e) is simplify(simplify(e))
    assert simplify((a + b) * (b - a)) is simplify((b - a) * (b + a))
    assert bounds((a + b) * (b + 1)) == (0, 510 * 256)
    assert simplify((a + 1) * M - M) is simplify(a * M)  # places of what data points to
    assert simplify((a + 1) * (b + b) - b * (a + 1) * 2) is Const(0)


def test_simplification_of_deep_expressions_does_not_recurse() -> None:
    e: Expr = Buffer("x", dt.f32, (8,))[I]
    for k in range(3000):
        e = e + float(k)
    assert simplify(e, RANGES) is e
