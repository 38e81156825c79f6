"""Simplification: equal values everywhere in the ranges, bounds that hold, one canonical form."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.tensor.evaluate import evaluate
from tilewright.tensor.ir import Binary, BinaryOp, Const, Expr, Select, Var, symbol
from tilewright.tensor.simplify import bounds, prove, same_dim, simplify

I, J, N = Var("i"), Var("j"), symbol("N", 1, 6)  # noqa: E741 - the field's names of axes
RANGES = {I: (0, 4), J: (-2, 3)}
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
