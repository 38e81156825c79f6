"""The checkers: each rule, broken once, is named together with its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilewright import dtype as dt
from tilewright.tensor.check import CheckError, check, check_group
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import (
    Alloc,
    Axis,
    Binary,
    Block,
    Buffer,
    Call,
    Const,
    For,
    Func,
    If,
    Let,
    Load,
    Reduce,
    Store,
    Unary,
    Var,
    symbol,
)

N = symbol("N")
A = Buffer("A", dt.f32, (N,))
ROW, COLUMN = Var("i"), Var("j")
ZERO, ONE = Const(0.0, dt.f32), Const(1)
X = Var("x", dt.f32)
LOCAL = Buffer("t", dt.f32, (4,), "local")
SET: Block = (Store(A, (ROW,), ZERO),)


def _loop(*body: object, var: Var = ROW, **fields: object) -> For:
    return replace(For(var, N, body), **fields)  # type: ignore[arg-type]


def test_a_well_formed_function_passes() -> None:
    check(Func("f", (A, N), (_loop(*SET, kind="parallel"),)))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ((Store(A, (ROW,), ZERO),), "variable i is not bound here\n    at: A\\[i\\] = 0.0"),
        ((_loop(_loop(*SET)),), "two loops are named i"),
        ((_loop(*SET), _loop(*SET)), "two loops are named i"),
        ((_loop(Let(ROW, ONE)),), "i is bound again"),
        ((Let(X, ONE),), "x is f32, its value i64"),
        ((_loop(Store(LOCAL, (ROW,), ZERO)),), "buffer t is not declared here"),
        ((If(Binary("lt", N, ONE), (Alloc(LOCAL),)), Store(LOCAL, (ONE,), ZERO)), "t is not decl"),
        ((Alloc(LOCAL), Alloc(LOCAL)), "two buffers are named t"),
        ((Alloc(Buffer("g", dt.f32, (4,))),), "declared with scope global"),
        ((Alloc(Buffer("r", dt.f32, (N,), "register")),), "has a dim that varies"),
        ((Store(A, (ONE, ONE), ZERO),), "2 indices for A of 1 dims"),
        ((Store(A, (Const(1, dt.i32),), ZERO),), "index i32\\(1\\) is i32, not i64"),
        ((Store(A, (ONE,), Const(1)),), "stores i64 to a buffer of f32"),
        ((If(N, ()),), "the condition is i64, not bool"),
        ((_loop(_loop(*SET, var=COLUMN, kind="parallel")),), "parallel loop j is not at the top"),
        ((_loop(*SET, kind="vector"),), "vector loop i has no constant extent"),
        ((_loop(*SET, extent=-1),), "loop i has extent -1"),
        ((_loop(*SET, extent=Const(1.0, dt.f32)),), "is f32, not i64"),
        ((_loop(var=X),), "loop variable x is not a plain i64"),
        ((Store(A, (ONE,), Call("frob", (ZERO,), dt.f32)),), "frob is not a scalar function"),
        ((Store(A, (ONE,), Call("exp", (ZERO, ZERO), dt.f32)),), "takes 1 operands, given 2"),
        ((Let(X, Call("exp", (Const(1),), dt.f32)),), "needs floats, given i64"),
        ((Let(X, Call("bitcast", (Const(1),), dt.f32)),), "bitcast from i64 to f32"),
        ((Let(X, Unary("not", ZERO)),), "not of a float"),
        ((Let(X, Reduce("sum", [Axis(ROW, 3)], ZERO)),), "stands only in a Compute"),
        (
            (Let(X, Load(Buffer("A", dt.f32, (N, 2)), (ONE, ONE))),),
            "A: f32\\[N, 2\\] is declared as A: f32\\[N\\]",
        ),
    ],
)
def test_a_function_is_refused(body: Block, complaint: str) -> None:
    with pytest.raises(CheckError, match=complaint):
        check(Func("f", (A, N), body))


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ((N, A), "buffer A comes after a symbol"),
        ((A,), "variable N is not bound"),
        ((A, N, N), "two parameters are named N"),
        ((A, A, N), "two buffers are named A"),
        ((A, Var("N", dt.i32)), "parameter N is i32"),
        ((LOCAL, A, N), "scope local, not global"),
        ((A, symbol("N", 2)), "is bound here as"),
    ],
)
def test_parameters_are_refused(params: tuple[Buffer | Var, ...], complaint: str) -> None:
    with pytest.raises(CheckError, match=complaint):
        check(Func("f", params, ()))


T = Buffer("T", dt.f32, (N,))
STAGE = Compute(T, (Axis(ROW, N),), Load(A, [ROW]))


def test_a_well_formed_group_passes() -> None:
    check_group(ComputeGroup("g", (A,), (T,), (STAGE,)))


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        (replace(STAGE, axes=(Axis(ROW, 4),)), "its axes do not have its shape"),
        (replace(STAGE, expr=Const(1)), "the value is i64, the buffer f32"),
        (replace(STAGE, expr=Load(A, [COLUMN])), "variable j is not bound"),
        (replace(STAGE, expr=Load(LOCAL, [ROW])), "t\\[i\\] is not defined before"),
        (replace(STAGE, expr=Load(T, [ROW])), "T\\[i\\] is not defined before"),
        (replace(STAGE, output=A), "the name is taken"),
    ],
)
def test_a_group_is_refused(stage: Compute, complaint: str) -> None:
    with pytest.raises(CheckError, match=complaint):
        check_group(ComputeGroup("g", (A,), (T,), (stage,)))


def test_a_group_whose_output_no_stage_defines_is_refused() -> None:
    with pytest.raises(CheckError, match="no stage defines A"):
        check_group(ComputeGroup("g", (A,), (A,), (STAGE,)))
