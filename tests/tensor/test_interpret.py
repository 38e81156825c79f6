"""The interpreters: serial meaning, errors, and the lockstep that must not show."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.tensor import interpret as interpreter
from tilewright.tensor.evaluate import InterpretError, evaluate
from tilewright.tensor.independence import is_independent
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import (
    Binary,
    Block,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    For,
    Func,
    If,
    Load,
    Select,
    Store,
    Unary,
    Var,
    lt,
)
from tilewright.tensor.parse import parse_func, parse_group
from tilewright.tensor.walk import loops

Array = np.ndarray[Any, np.dtype[Any]]


def _run(source: str, symbols: dict[str, int] | None = None, **buffers: Array) -> None:
    interpret(parse_func(source), buffers, symbols)


# ------------------------------------------------------------------ functions


def test_a_tiled_matmul_with_a_ragged_edge_gives_the_product() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((32, 32)).astype(np.float32)
    b = rng.standard_normal((32, 32)).astype(np.float32)
    c = np.full((32, 32), np.nan, np.float32)
    started = time.perf_counter()
    _run(
        """\
def matmul(A: f32[M, 32], B: f32[32, 32], C: f32[M, 32], M: symbol(1)):
    for io in parallel((M + 5) // 6):
        for jo in serial(2):
            acc: register[f32, 6, 16]
            for ii in unroll(6):
                for ji in vector(16):
                    acc[ii, ji] = 0.0
            for k in serial(32):
                for i2 in unroll(6):
                    for j2 in vector(16):
                        acc[i2, j2] = acc[i2, j2] + select(io * 6 + i2 < M,
                            A[io * 6 + i2, k], 0.0) * B[k, jo * 16 + j2]
            for i3 in serial(min(6, M - io * 6)):
                for j3 in vector(16):
                    C[io * 6 + i3, jo * 16 + j3] = acc[i3, j3]
""",
        {"M": 32},
        A=a,
        B=b,
        C=c,
    )
    assert time.perf_counter() - started < 1.0
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-5)


def test_a_float_sum_is_taken_in_program_order() -> None:
    x = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    s = np.zeros((), np.float32)
    _run(
        "def f(x: f32[3000], s: f32[()]):\n"
        "    for i in vector(3000):\n        s[()] = s[()] + x[i]",
        x=x,
        s=s,
    )
    total = np.float32(0)
    for value in x:
        total = np.float32(total + value)
    assert s == total


def test_a_loop_that_carries_a_value_runs_in_order() -> None:
    x = np.zeros(20, np.int64)
    x[1] = 1
    _run("def f(x: i64[20]):\n    for i in serial(18):\n        x[i + 2] = x[i] + x[i + 1]", x=x)
    assert x[19] == 4181


def test_if_masks_loads_and_stores_of_the_lanes_it_leaves_out() -> None:
    x, y = np.arange(4, dtype=np.int64), np.full(8, -1, np.int64)
    _run(
        "def f(x: i64[4], y: i64[8]):\n"
        "    for i in vector(8):\n"
        "        if i < 4:\n            y[i] = x[i]\n"
        "        else:\n            y[i] = x[7 - i] * 10",
        x=x,
        y=y,
    )
    assert y.tolist() == [0, 1, 2, 3, 30, 20, 10, 0]


def test_a_select_does_not_perform_the_load_it_does_not_take() -> None:
    x, y = np.ones(2, np.float32), np.zeros(6, np.float32)
    _run(
        "def f(x: f32[2], y: f32[6]):\n"
        "    for i in serial(6):\n"
        "        y[i] = select(i >= 2 and i < 4, x[i - 2], 0.0)",
        x=x,
        y=y,
    )
    assert y.tolist() == [0, 0, 1, 1, 0, 0]


def test_a_select_does_not_divide_by_the_zero_it_does_not_take() -> None:
    y = np.zeros(3, np.int64)
    _run(
        "def f(y: i64[3]):\n    for i in serial(3):\n        y[i] = select(i == 0, 7, 6 // i)", y=y
    )
    assert y.tolist() == [7, 6, 3]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("for i in serial(5):\n        y[i] = 1.0", r"y\[i\]: index 4 is outside 0..3"),
        ("for i in serial(4):\n        y[i] = y[i - 1]", r"y\[i - 1\]: index -1 is outside"),
        ("t: register[f32, 4]\n    y[0] = t[2]", r"t\[2\]: read before it was written"),
        ("for i in serial(3):\n        y[1 // i] = 0.0", "integer division by zero"),
        (
            (
                "for i in serial(4):\n        t: local[f32, 4]\n        t[i] = 1.0\n"
                "        y[i] = t[0]"
            ),
            r"t\[0\]: read before it was written",
        ),
    ],
)
def test_the_interpreter_refuses(body: str, complaint: str) -> None:
    with pytest.raises(InterpretError, match=complaint):
        _run(f"def f(y: f32[4]):\n    {body}", y=np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("array", "symbols", "complaint"),
    [
        (np.zeros(4, np.float64), {"N": 4}, r"y is f32\[4\], given float64\[4\]"),
        (np.zeros(5, np.float32), {"N": 4}, r"given float32\[5\]"),
        (np.zeros(4, np.float32), {}, "symbol N has no value"),
        (np.zeros(0, np.float32), {"N": 0}, "N = 0 is outside 1..9"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    array: Array, symbols: dict[str, int], complaint: str
) -> None:
    with pytest.raises(InterpretError, match=complaint):
        _run("def f(y: f32[N], N: symbol(1, 9)):\n    y[0] = 0.0", symbols, y=array)


def test_without_poison_a_declared_buffer_starts_as_zero() -> None:
    y = np.ones(1, np.float32)
    func = parse_func("def f(y: f32[1]):\n    t: local[f32, 3]\n    y[0] = t[1]")
    interpret(func, {"y": y}, poison=False)
    assert y[0] == 0


def test_loops_over_nothing_do_nothing() -> None:
    y = np.ones(3, np.float32)
    _run("def f(y: f32[3]):\n    for i in serial(0):\n        y[9] = 0.0", y=y)
    assert y.tolist() == [1, 1, 1]


# ------------------------------------------------------------------ lockstep


@pytest.mark.parametrize(
    ("body", "proved"),
    [
        ("y[i] = 1.0", True),
        ("y[i] = y[i] + 1.0", True),
        ("y[63 - i] = 1.0", True),
        ("y[i] = y[i + 1]", False),
        ("y[0] = 1.0", False),
        ("y[i // 2] = 1.0", False),
        ("for j in serial(4):\n            y[i * 4 + j] = 1.0", True),
        ("for j in serial(5):\n            y[i * 4 + j] = 1.0", False),
        ("for j in serial(min(4, N - i * 4)):\n            y[i * 4 + j] = 1.0", True),
        ("z[i // 8, i % 8] = 1.0", True),
        ("z[i % 8, i // 8] = 1.0", False),
        ("k: i64 = i * 2\n        y[k + 1] = y[k]", True),
    ],
)
def test_independence_is_proved_only_where_it_holds(body: str, proved: bool) -> None:
    func = parse_func(
        f"def f(y: f32[N], z: f32[8, 8], N: symbol(64)):\n    for i in serial(8):\n        {body}"
    )
    assert is_independent(loops(func)[0]) is proved


A, B = Buffer("A", dt.i64, (12,)), Buffer("B", dt.i64, (4, 6))
Z = Buffer("z", dt.i64, ())


@st.composite
def _indices(draw: st.DrawFn, variables: list[Var], size: int) -> Expr:
    """An index within bounds: affine or divided, wrapped around."""
    e: Expr = Const(draw(st.integers(-3, 9)))
    for v in variables:
        e = e + v * draw(st.sampled_from([0, 1, 1, 2, 4, -1]))
    if draw(st.integers(0, 3)) == 0:
        e = e // draw(st.integers(2, 4))
    return e % size


@st.composite
def _elements(draw: st.DrawFn, variables: list[Var]) -> Load:
    buffer = draw(st.sampled_from([A, B, Z]))
    return Load(buffer, [draw(_indices(variables, int(str(d)))) for d in buffer.shape])


@st.composite
def _nests(draw: st.DrawFn, variables: list[Var], depth: int) -> Block:
    statements: list[Any] = []
    for _ in range(draw(st.integers(1, 2))):
        if depth and draw(st.integers(0, 3)):
            var = Var(f"i{len(variables)}_{draw(st.integers(0, 10**9))}")
            body = draw(_nests([*variables, var], depth - 1))
            extent: Any = draw(st.integers(0, 5))
            if len(variables) > 0 and draw(st.booleans()):
                extent = Binary("min", Const(3), variables[-1] + draw(st.integers(0, 1)))
            statements.append(For(var, extent, body, "serial", draw(st.integers(0, 2))))
            continue
        target, source = draw(_elements(variables)), draw(_elements(variables))
        value: Expr = source * 3 + draw(st.sampled_from([Const(1), *variables]))
        kind = draw(st.integers(0, 3))
        if kind == 1:
            value = target + value
        store = Store(target.buffer, target.indices, value)
        if kind == 2:
            statements.append(If(lt(draw(_indices(variables, 5)), 3), (store,), (store,)))
        elif kind == 3:
            statements.append(If(lt(source, target), (store,)))
        else:
            statements.append(store)
    return tuple(statements)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_nests([], 3))
def test_lockstep_gives_what_one_iteration_after_the_other_gives(body: Block) -> None:
    func = Func("f", (A, B, Z), body)

    def results() -> list[Array]:
        arrays = {"A": np.arange(12), "B": np.arange(24).reshape(4, 6), "z": np.asarray(5)}
        interpret(func, arrays)
        return list(arrays.values())

    fast = results()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "is_independent", lambda loop: False)
        patch.setattr(interpreter, "accumulation", lambda loop: None)
        slow = results()
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------ expressions


@pytest.mark.parametrize(
    ("op", "a", "b", "expected"),
    [
        ("div", -7, 2, -3),
        ("floordiv", -7, 2, -4),
        ("mod", -7, 2, 1),
        ("mod", 7, -2, -1),
        ("shr", -8, 1, -4),
        ("min", -1, 2, -1),
    ],
)
def test_integer_operators_round_as_stated(op: Any, a: int, b: int, expected: int) -> None:
    assert evaluate(Binary(op, Const(a), Const(b)), {}) == expected


def test_min_and_max_return_nan_if_either_is_nan() -> None:
    x, y = Var("x", dt.f32), Var("y", dt.f32)
    for op in ("min", "max"):
        given_values = {x: [np.nan, 1.0], y: [1.0, np.nan]}
        assert np.isnan(evaluate(Binary(op, x, y), given_values)).all()


def test_casts_truncate_wrap_and_compare_with_zero() -> None:
    x = Var("x", dt.f32)
    assert evaluate(Cast(x, dt.i32), {x: [-1.7, 1.7]}).tolist() == [-1, 1]
    assert evaluate(Cast(Const(300), dt.u8), {}) == 44
    assert evaluate(Cast(x, dt.bool_), {x: [0.0, -0.0, 0.5]}).tolist() == [False, False, True]
    assert evaluate(Cast(Cast(x, dt.bf16), dt.i64), {x: [3.0]}).tolist() == [3]


def test_deep_expressions_evaluate() -> None:
    e: Expr = Var("x")
    for _ in range(10_000):
        e = e + 1
    assert evaluate(e, {Var("x"): 1}) == 10_001


def test_not_is_logical_on_bool_and_bitwise_on_integers() -> None:
    assert not evaluate(Unary("not", Const(True, dt.bool_)), {})
    assert evaluate(Unary("not", Const(5, dt.u8)), {}) == 250


def test_nested_lazy_selects_load_only_in_bounds() -> None:
    x = Buffer("x", dt.f32, (3,))
    i = Var("i")
    inner = Select(lt(i, 3), Load(x, [i]), Const(-1.0, dt.f32))
    outer = Select(lt(i, 0), Const(-2.0, dt.f32), inner)
    y = Buffer("y", dt.f32, (6,))
    body = (For(i, 6, (Store(y, (i,), Call("sqrt", (outer * outer,), dt.f32)),)),)
    out = np.zeros(6, np.float32)
    interpret(Func("f", (x, y), body), {"x": np.arange(3, dtype=np.float32), "y": out})
    assert out.tolist() == [0, 1, 2, 1, 1, 1]


# ------------------------------------------------------------------ groups


def test_a_group_computes_its_stages_in_order() -> None:
    group = parse_group("""\
def g(A: f32[M, 32], B: f32[32, 48], b: f32[48], M: symbol(1)):
    D: f32[i: M, j: 48] = max(sum(A[i, k] * B[k, j] for k in 32) + b[j], 0.0)
    E: i64[i: M] = argmax(D[i, j] for j in 48)
    s: f32[()] = sum(D[i, j] for i in M for j in 48)
    P: f32[i: M + 2] = select(i >= 1 and i < M + 1, D[i - 1, 0], -1.0)
    return D, E, s, P""")
    rng = np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(s).astype(np.float32) for s in ((7, 32), (32, 48), 48))
    got = interpret_group(group, {"A": a, "B": b, "b": bias}, {"M": 7})
    d = np.maximum(a.astype(np.float64) @ b + bias, 0)
    np.testing.assert_allclose(got["D"], d, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["E"], d.argmax(1))
    np.testing.assert_allclose(got["s"], d.sum(), rtol=1e-5)
    np.testing.assert_allclose(got["P"], [-1, *d[:, 0], -1], rtol=1e-5, atol=1e-6)


def test_a_large_reduction_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    group = parse_group("""\
def g(A: i64[40, 30]):
    S: i64[i: 40] = sum(A[i, j] * A[k, j] for j in 30 for k in 40)
    L: i64[()] = max(A[i, j] for i in 40 for j in 30)
    return S, L""")
    a = np.random.default_rng(0).integers(-9, 9, (40, 30))
    whole = interpret_group(group, {"A": a})
    monkeypatch.setattr(interpreter, "_LIMIT", 50)
    pieces = interpret_group(group, {"A": a})
    for name in ("S", "L"):
        np.testing.assert_array_equal(whole[name], pieces[name])
    np.testing.assert_array_equal(whole["S"], a @ a.sum(0))


def test_reductions_over_nothing_give_their_identity() -> None:
    group = parse_group("""\
def g(A: f32[2, N], N: symbol(0)):
    S: f32[i: 2] = sum(A[i, j] for j in N)
    P: f32[i: 2] = prod(A[i, j] for j in N)
    L: f32[i: 2] = max(A[i, j] for j in N)
    return S, P, L""")
    got = interpret_group(group, {"A": np.zeros((2, 0), np.float32)}, {"N": 0})
    assert got["S"].tolist() == [0, 0]
    assert got["P"].tolist() == [1, 1]
    assert got["L"].tolist() == [-np.inf, -np.inf]


def test_arg_reductions_take_the_first_and_hold_nan_greatest() -> None:
    group = parse_group("""\
def g(A: f32[3, 4]):
    H: i64[i: 3] = argmax(A[i, j] for j in 4)
    L: i64[i: 3] = argmin(A[i, j] for j in 4)
    return H, L""")
    n = np.nan
    a = np.array([[1, 3, 3, 1], [n, 5, 2, n], [n, n, n, n]], np.float32)
    got = interpret_group(group, {"A": a})
    assert got["H"].tolist() == [1, 0, 0]
    assert got["L"].tolist() == [0, 2, 0]
