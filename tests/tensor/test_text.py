"""The text form: it parses back to the same thing, and reads like Python."""

from __future__ import annotations

import ast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.dtype import DTYPES
from tilewright.errors import ArtifactError, InternalError
from tilewright.tensor.check import check, check_group
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import Binary, Buffer, Call, Cast, Const, Expr, Func, Unary, Var
from tilewright.tensor.parse import parse_dim, parse_expr, parse_func, parse_group
from tilewright.tensor.text import text

from .strategies import M, N, expressions, functions, groups

VARIABLES = [N, M, *(Var(f"v_{t.name}", t) for t in DTYPES.values())]
BUFFERS = [Buffer(f"B_{t.name}", t, (4, N)) for t in DTYPES.values()]
NAMES: list[Var | Buffer] = [*VARIABLES, *BUFFERS]
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

MATMUL = """\
def matmul(A: f32[M, 32], B: f32[32, 64], C: f32[M, 64], M: symbol(1)):
    for io in parallel((M + 5) // 6):
        acc: register[f32, 6, 64]
        for ii in unroll(6):
            for ji in vector(64):
                acc[ii, ji] = 0.0
        for k in serial(32):
            for i2 in unroll(6):
                for j2 in vector(64):
                    acc[i2, j2] = acc[i2, j2] + A[io * 6 + i2, k] * B[k, j2]
        for i3 in serial(min(6, M - io * 6), start=0 + io):
            scale: f32 = sqrt(f32(i3))
            if i3 < 3 and not isnan(scale):
                C[io * 6 + i3, 0] = max(acc[i3, 0], scale)
            else:
                C[io * 6 + i3, 0] = -1.0"""


@SLOW
@given(st.data())
def test_an_expression_of_any_type_parses_back_to_itself(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    e = data.draw(expressions(dtype, VARIABLES, BUFFERS, 5, reductions=dtype is not dt.bool_))
    assert parse_expr(text(e), NAMES) is e


@SLOW
@given(functions())
def test_a_function_parses_back_to_itself_and_is_well_formed(func: Func) -> None:
    check(func)
    assert parse_func(text(func)) == func


@SLOW
@given(groups())
def test_a_group_parses_back_to_itself(group: ComputeGroup) -> None:
    check_group(group)
    assert parse_group(text(group)) == group


def test_the_text_of_a_function_is_valid_python() -> None:
    ast.parse(MATMUL)
    assert text(parse_func(MATMUL)) == MATMUL


@pytest.mark.parametrize(
    ("e", "shown"),
    [
        (Const(3), "3"),
        (Const(-3), "-3"),
        (Unary("neg", Const(3)), "neg(3)"),
        (Const(3.0, dt.f32), "3.0"),
        (Const(3.0, dt.f16), "f16(3.0)"),
        (Const(3, dt.i32), "i32(3)"),
        (Cast(Const(3), dt.i32), "cast(3, i32)"),
        (Cast(N, dt.f32), "f32(N)"),
        (Const(float("inf"), dt.f64), "f64(inf)"),
        (Const(float("nan"), dt.f32), "nan"),
        (Const(-0.0, dt.f32), "-0.0"),
        (N - (M - 1), "N - (M - 1)"),
        (N * (M + 1) // 2, "N * (M + 1) // 2"),
        (-(N + 1), "-(N + 1)"),
        (Call("bitcast", (Const(1.0, dt.f32),), dt.i32), "bitcast(1.0, dtype=i32)"),
        (Binary("eq", Binary("lt", N, M), Const(True, dt.bool_)), "(N < M) == True"),
    ],
)
def test_an_expression_is_shown_as(e: Expr, shown: str) -> None:
    assert text(e) == shown
    assert parse_expr(shown, NAMES) is e


def test_a_dim_that_is_constant_parses_to_an_int() -> None:
    assert parse_dim("12") == 12
    assert parse_dim("ceildiv(N, 4)", [N]) is (N + 3) // 4


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("N + Q", "not a variable"),
        ("N + 1.0", "i64 and f32"),
        ("select(N, 1, 2)", "select of i64"),
        ("frobnicate(N)", "not a scalar function"),
        ("B_f32[N]", "2 dims"),
        ("lambda: 0", "not an expression"),
        ("1 +", "not the text of an expression"),
    ],
)
def test_parsing_refuses_and_says_why(source: str, complaint: str) -> None:
    with pytest.raises(ArtifactError, match=complaint):
        parse_expr(source, NAMES)


def test_parsing_names_the_line_of_a_bad_statement() -> None:
    with pytest.raises(ArtifactError, match="TW-E0520: line 2: not a statement: while True:"):
        parse_func("def f(A: f32[4]):\n    while True:\n        A[0] = 1.0")


def test_printing_refuses_a_name_that_is_no_identifier() -> None:
    with pytest.raises(InternalError, match="TW-E0923.*'i.0' is not an identifier"):
        text(Var("i.0") + 1)
