"""Unrolled loops with long bodies are loops over the stack, and compute what they did before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.backends.llvm.rows import LONG, ROWS
from tilewright.tensor.ir import (
    Alloc,
    Buffer,
    Const,
    Expr,
    For,
    Func,
    If,
    Stmt,
    Store,
    Var,
    lt,
)

from .run_kernel import agree

I, J, K, R = (Var(name) for name in "ijkr")  # noqa: E741
ZERO = Const(0, dt.f32)


def floats(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)


def polynomial(x: Expr, degree: int) -> Expr:
    total: Expr = Const(1, dt.f32)
    for k in range(degree):
        total = total * x * 0.25 + float(k % 3)
    return total


def tile(rows: int, columns: int, degree: int, written: int | None = None) -> Func:
    """y = a polynomial of what is summed over k in a register tile; ``written`` rows of it."""
    x, y = Buffer("x", dt.f32, (5, rows, columns)), Buffer("y", dt.f32, (rows, columns))
    acc = Buffer("acc", dt.f32, (rows, columns), "register")
    known = rows if written is None else written

    def over(var: Var, count: int, body: Stmt) -> For:
        return For(var, count, (For(J, columns, (body,), "vector"),), "unroll")

    body: tuple[Stmt, ...] = (
        Alloc(acc),
        over(I, known, Store(acc, (I, J), ZERO)),
        For(K, 5, (over(I, known, Store(acc, (I, J), acc[I, J] + x[K, I, J])),)),
        over(R, known, Store(y, (R, J), polynomial(acc[R, J], degree))),
    )
    return Func("k", (x, y), body)


def loops(func: Func) -> int:
    return emit_kernel(func, resolve_target("x86-64-v4")).count(" = phi i64 ")


@pytest.mark.parametrize("columns", [1, 7, 16, 20, 40, 48])
def test_a_long_epilogue_is_a_loop_with_the_results_of_an_unrolled_one(columns: int) -> None:
    func = tile(6, columns, LONG)
    assert loops(func) == 2
    agree(func, {"x": floats(5, 6, columns), "y": floats(6, columns)})


def test_short_epilogues_and_few_rows_stay_unrolled() -> None:
    assert loops(tile(6, 32, 2)) == 1
    assert loops(tile(ROWS - 1, 32, LONG)) == 1


def test_a_tile_of_which_rows_are_unknown_stays_in_registers() -> None:
    assert loops(tile(6, 32, LONG, written=5)) == 1


def test_a_long_body_that_keeps_sums_in_registers_stays_unrolled() -> None:
    x, y = Buffer("x", dt.f32, (6, 32)), Buffer("y", dt.f32, (32,))
    acc = Buffer("acc", dt.f32, (32,), "register")

    def vector(*body: Stmt) -> For:
        return For(J, 32, body, "vector")

    body: tuple[Stmt, ...] = (
        Alloc(acc),
        vector(Store(acc, (J,), ZERO)),
        For(R, 6, (vector(Store(acc, (J,), acc[J] + polynomial(x[R, J], LONG))),), "unroll"),
        vector(Store(y, (J,), acc[J])),
    )
    func = Func("k", (x, y), body)
    assert loops(func) == 0
    agree(func, {"x": floats(6, 32), "y": floats(32)})


def test_a_long_epilogue_under_a_condition_is_a_loop_of_that_arm() -> None:
    x, y = Buffer("x", dt.f32, (6, 32)), Buffer("y", dt.f32, (4, 6, 32))
    acc = Buffer("acc", dt.f32, (6, 32), "register")

    def over(var: Var, body: Stmt) -> For:
        return For(var, 6, (For(J, 32, (body,), "vector"),), "unroll")

    long = over(R, Store(y, (K, R, J), polynomial(acc[R, J], LONG)))
    short = over(R, Store(y, (K, R, J), acc[R, J]))
    body: tuple[Stmt, ...] = (
        Alloc(acc),
        over(I, Store(acc, (I, J), x[I, J])),
        For(K, 4, (If(lt(K, 2), (long,), (short,)), short, long)),
    )
    func = Func("k", (x, y), body)
    assert loops(func) == 3
    agree(func, {"x": floats(6, 32), "y": floats(4, 6, 32)})
