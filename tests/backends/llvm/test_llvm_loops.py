"""Loops, branches, registers and parallel loops do what the interpreter does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.compile import compile_object
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_module
from tilewright.tensor.ir import (
    Alloc,
    Buffer,
    Cast,
    Const,
    For,
    Func,
    If,
    Let,
    Stmt,
    Store,
    Var,
    conjunction,
    eq,
    lt,
    maximum,
    minimum,
    symbol,
)

from .run_kernel import agree

I, J, K, L = (Var(name) for name in "ijkl")  # noqa: E741
RNG = np.random.default_rng(0)
ZERO, AT = Const(0, dt.f32), Const(0)


def floats(*shape: int) -> Any:
    return RNG.integers(-8, 8, shape).astype(np.float32)


def vector(extent: int, *body: Any, var: Var = J) -> For:
    return For(var, extent, tuple(body), "vector")


def matmul(m: Any, n: int, k: Any, mr: int, nr: int) -> Func:
    """C = A @ B with B in panels, a register tile of mr x nr, rows guarded where m needs it."""
    symbols = tuple(d for d in (m, k) if isinstance(d, Var))
    panels = -(-n // nr)
    a, b = Buffer("A", dt.f32, (m, k)), Buffer("B", dt.f32, (panels, k, nr))
    c, acc = Buffer("C", dt.f32, (m, n)), Buffer("acc", dt.f32, (mr, nr), "register")
    io, jo, ii = Var("io"), Var("jo"), Var("ii")
    row, column = io * mr + ii, jo * nr + J
    update = Store(acc, (ii, J), acc[ii, J] + a[row, K] * b[jo, K, J])
    result = Store(c, (row, column), maximum(acc[ii, J], 0.0))
    tile: list[Stmt] = [
        Alloc(acc),
        For(ii, mr, (vector(nr, Store(acc, (ii, J), ZERO)),), "unroll"),
        For(K, k, (For(ii, mr, (vector(nr, update),), "unroll"),)),
        For(ii, mr, (vector(nr, If(lt(column, n), (result,))),), "unroll"),
    ]
    rows = m // mr
    loop = For(jo, panels, (For(io, rows, tuple(tile)),), "parallel")
    return Func("matmul", (a, b, c, *symbols), (loop,))


def packed(b: Any, nr: int) -> Any:
    k, n = b.shape
    panels = -(-n // nr)
    full = np.zeros((k, panels * nr), np.float32)
    full[:, :n] = b
    return np.ascontiguousarray(full.reshape(k, panels, nr).transpose(1, 0, 2))


@pytest.mark.parametrize("tile", [(6, 64), (8, 48), (4, 16), (3, 20)])
def test_a_register_tile_multiplies_matrices(tile: tuple[int, int]) -> None:
    mr, nr = tile
    m, n, k = mr * 3, nr * 2 - 5, 17
    a, b = floats(m, k), floats(k, n)
    after = agree(matmul(m, n, k, mr, nr), {"A": a, "B": packed(b, nr), "C": floats(m, n)})
    np.testing.assert_array_equal(after["C"], np.maximum(a @ b, 0))


def test_a_matmul_of_symbolic_sizes() -> None:
    m, k = symbol("M"), symbol("K")
    func = matmul(m, 40, k, 4, 32)
    for rows, depth in ((4, 1), (12, 9)):
        a, b = floats(rows, depth), floats(depth, 40)
        arrays = {"A": a, "B": packed(b, 32), "C": floats(rows, 40)}
        agree(func, arrays, {"M": rows, "K": depth})


def test_a_loop_that_may_not_run_leaves_registers_as_they_were() -> None:
    n = symbol("n", 0)
    x, y = Buffer("x", dt.f32, (8, 20)), Buffer("y", dt.f32, (20,))
    a = Buffer("a", dt.f32, (20,), "register")
    body = (
        Alloc(a),
        vector(20, Store(a, (J,), Const(2, dt.f32))),
        For(I, n, (vector(20, Store(a, (J,), a[J] + x[I, J])),)),
        vector(20, Store(y, (J,), a[J])),
    )
    for count in (0, 1, 5):
        agree(Func("k", (x, y, n), body), {"x": floats(8, 20), "y": floats(20)}, {"n": count})


def test_an_element_first_written_inside_a_loop_is_carried() -> None:
    x, y = Buffer("x", dt.f32, (6, 20)), Buffer("y", dt.f32, (20,))
    a = Buffer("a", dt.f32, (20,), "register")
    body = (
        Alloc(a),
        For(L, 2, (For(I, 6, (
            If(eq(I + L, 0),
               (vector(20, Store(a, (J,), x[I, J])),),
               (vector(20, Store(a, (J,), a[J] * 2.0 + x[I, J])),)),
        )),)),
        vector(20, Store(y, (J,), a[J])),
    )  # fmt: skip
    agree(Func("k", (x, y), body), {"x": floats(6, 20), "y": floats(20)})


def test_two_registers_swap_in_a_loop() -> None:
    y = Buffer("y", dt.i64, (12,))
    f = Buffer("f", dt.i64, (3,), "register")
    zero, one, two = Const(0), Const(1), Const(2)
    body = (
        Alloc(f),
        Store(f, (zero,), Const(0)),
        Store(f, (one,), Const(1)),
        For(I, 12, (
            Store(y, (I,), f[zero]),
            Store(f, (two,), f[zero] + f[one]),
            Store(f, (zero,), f[one]),
            Store(f, (one,), f[two]),
        )),
    )  # fmt: skip
    agree(Func("k", (y,), body), {"y": np.zeros(12, np.int64)})


def test_register_elements_are_read_and_written_in_other_shapes() -> None:
    x, y = Buffer("x", dt.f32, (4, 16)), Buffer("y", dt.f32, (16, 4))
    r = Buffer("r", dt.f32, (4, 16), "register")
    k = Var("kk")
    body = (
        Alloc(r),
        For(I, 4, (vector(16, Store(r, (I, J), x[I, J])),), "unroll"),
        Store(r, (Const(1), Const(3)), r[2, 5] + 10.0),
        vector(8, Store(r, (Const(2), J + 4), r[0, J] * 3.0)),
        For(k, 16, (vector(4, Store(y, (k, J), r[J, k])),), "unroll"),
    )
    agree(Func("k", (x, y), body), {"x": floats(4, 16), "y": floats(16, 4)})


def test_a_register_buffer_with_a_running_index_is_kept_in_memory() -> None:
    y = Buffer("y", dt.f32, (10,))
    r = Buffer("r", dt.f32, (10,), "register")
    body = (
        Alloc(r),
        For(I, 10, (Store(r, (I,), Cast(I * I, dt.f32)),)),
        For(I, 10, (Store(y, (9 - I,), r[I]),)),
    )
    agree(Func("k", (y,), body), {"y": floats(10)})


def test_branches_merge_registers() -> None:
    x, y = Buffer("x", dt.f32, (30,)), Buffer("y", dt.f32, (30, 20))
    a = Buffer("a", dt.f32, (20,), "register")
    body = (
        Alloc(a),
        vector(20, Store(a, (J,), ZERO)),
        If(lt(x[I], ZERO),
           (vector(20, Store(a, (J,), Cast(J, dt.f32))),),
           (If(lt(I, 9), (Store(a, (Const(3),), x[I]),)),)),
        vector(20, Store(y, (I, J), a[J])),
    )  # fmt: skip
    agree(Func("k", (x, y), (For(I, 30, body),)), {"x": floats(30), "y": floats(30, 20)})


def test_stores_are_seen_by_later_loads() -> None:
    y = Buffer("y", dt.f32, (40,))
    body = (
        Store(y, (AT,), Const(1, dt.f32)),
        For(I, 39, (Store(y, (I + 1,), y[I] + y[AT]), Store(y, (AT,), y[AT] + 1.0))),
    )
    agree(Func("k", (y,), body), {"y": floats(40)})


def test_local_scratch_of_constant_and_symbolic_size() -> None:
    n = symbol("n")
    x, y = Buffer("x", dt.f32, (5, n)), Buffer("y", dt.f32, (5, n))
    t, u = Buffer("t", dt.f32, (16,), "local"), Buffer("u", dt.f32, (n,), "local")
    row = (
        Alloc(t),
        Alloc(u),
        vector(16, Store(t, (J,), Cast(J + I, dt.f32))),
        For(K, n, (Store(u, (K,), x[I, n - 1 - K] + t[K % 16]),)),
        For(K, n, (Store(y, (I, K), u[K] * 2.0),)),
    )
    func = Func("k", (x, y, n), (For(I, 5, row, "parallel"),))
    agree(func, {"x": floats(5, 23), "y": floats(5, 23)}, {"n": 23})


def test_loops_start_anywhere() -> None:
    n = symbol("n")
    y = Buffer("y", dt.f32, (n, n))
    inner = For(J, n - I, (Store(y, (I, J), Cast(I * 100 + J, dt.f32)),), "serial", I)
    func = Func("k", (y, n), (For(I, minimum(n - 1, 7), (inner,), "serial", maximum(n - 20, 1)),))
    agree(func, {"y": floats(9, 9)}, {"n": 9})


def test_rows_are_clipped_by_loop_bounds() -> None:
    # The padded rows of a convolution: 3 taps over 5 rows with one row of padding on each side.
    x, w, y = Buffer("x", dt.f32, (5, 18)), Buffer("w", dt.f32, (3,)), Buffer("y", dt.f32, (5, 18))
    a = Buffer("a", dt.f32, (18,), "register")
    low = maximum(1 - I, 0)
    taps = minimum(6 - I, 3) - low
    body = (
        Alloc(a),
        vector(18, Store(a, (J,), ZERO)),
        For(K, taps, (vector(18, Store(a, (J,), a[J] + x[I + K - 1, J] * w[K])),), "serial", low),
        vector(18, Store(y, (I, J), a[J])),
    )
    func = Func("k", (x, w, y), (For(I, 5, body, "parallel"),))
    agree(func, {"x": floats(5, 18), "w": floats(3), "y": floats(5, 18)})


def test_lets_and_scratch_outside_a_parallel_loop_reach_into_it() -> None:
    x, y = Buffer("x", dt.f32, (16,)), Buffer("y", dt.f32, (7, 16))
    t = Buffer("t", dt.f32, (16,), "local")
    v, flag, at = Var("v", dt.f32), Var("flag", dt.bool_), Var("at")
    body = (
        Alloc(t),
        vector(16, Store(t, (J,), x[J] * 2.0)),
        Let(v, x[AT] + 1.0),
        Let(flag, lt(v, ZERO)),
        Let(at, Cast(maximum(v, 0.0), dt.i64)),
        For(I, 7, (
            If(flag, (vector(16, Store(y, (I, J), t[J] + v)),),
               (vector(16, Store(y, (I, J), t[J] - Cast(at, dt.f32))),)),
        ), "parallel"),
    )  # fmt: skip
    for first in (-5, 3):
        data = floats(16)
        data[0] = first
        agree(Func("k", (x, y), body), {"x": data, "y": floats(7, 16)})


def test_a_parallel_loop_inside_a_branch_is_shared() -> None:
    n = symbol("n")
    x, y = Buffer("x", dt.f32, (n, 16)), Buffer("y", dt.f32, (n, 16))
    scale, other = Var("scale", dt.f32), Var("other", dt.f32)
    arms = [
        (
            Let(scale, x[AT, AT] + 1.0),
            For(i, n, (vector(16, Store(y, (i, J), x[i, J] * scale + other)),), "parallel"),
        )
        for i in (I, K)
    ]
    func = Func("k", (x, y, n), (Let(other, x[AT, Const(1)]), If(lt(n, 5), arms[0], arms[1])))
    assert emit_module([func], resolve_target("x86-64-v3")).count("call void %v") == 2
    for size in (3, 8):
        agree(func, {"x": floats(size, 16), "y": floats(size, 16)}, {"n": size})


def test_an_unrolled_loop_drops_branches_that_cannot_be_taken() -> None:
    y = Buffer("y", dt.f32, (8,))
    keep = conjunction((lt(1, I), lt(I, 6)))
    stmt = For(I, 8, (If(keep, (Store(y, (I,), Cast(I, dt.f32)),)),), "unroll")
    agree(Func("k", (y,), (stmt,)), {"y": floats(8)})


def test_several_kernels_share_a_module() -> None:
    first, second = matmul(8, 32, 4, 4, 32), matmul(8, 32, 4, 2, 16)
    second = Func("other", second.params, second.body)
    target = resolve_target("x86-64-v3")
    assert compile_object(emit_module([first, second], target), target, verify=True)
