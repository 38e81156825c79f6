"""Vector loops do in chunks, tails and masks what the interpreter does lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.dtype import DTYPES, DType
from tilewright.tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    Cast,
    Const,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Select,
    Store,
    Var,
    conjunction,
    eq,
    le,
    lt,
    maximum,
    symbol,
)
from tilewright.tensor.parse import parse_func

from .run_kernel import TARGETS, agree, compile_func, run_func

I, J, K = (Var(name) for name in "ijk")  # noqa: E741
RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.integers(-8, 8, shape).astype(np.float32)


def vector(extent: int, *body: Any, var: Var = J) -> For:
    return For(var, extent, tuple(body), "vector")


def zero(dtype: DType = dt.f32) -> Const:
    return Const(0, dtype)


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 61])
def test_any_extent_is_written_and_nothing_beyond_it(extent: int) -> None:
    x, y = Buffer("x", dt.f32, (extent,)), Buffer("y", dt.f32, (extent,))
    func = Func("k", (x, y), (vector(extent, Store(y, (J,), x[J] * 2.0 + 1.0)),))
    agree(func, {"x": floats(extent), "y": floats(extent)})


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_tails_of_every_width_of_element(dtype: DType) -> None:
    n = 21
    x, y = Buffer("x", dtype, (n,)), Buffer("y", dtype, (n,))
    func = Func("k", (x, y), (vector(n, Store(y, (J,), x[J])),))
    a = RNG.integers(0, 2, n).astype(dtype.numpy)
    agree(func, {"x": a, "y": np.zeros_like(a)})


@pytest.mark.parametrize("stride", [-3, -1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("dtype", [dt.f32, dt.i64, dt.i8, dt.bool_], ids=str)
@pytest.mark.parametrize("extent", [16, 13, 40])
def test_strided_loads_and_stores(stride: int, dtype: DType, extent: int) -> None:
    size = (extent - 1) * abs(stride) + 1
    first = size - 1 if stride < 0 else 0
    x, y = Buffer("x", dtype, (size,)), Buffer("y", dtype, (extent,))
    load = Func("k", (x, y), (vector(extent, Store(y, (J,), x[J * stride + first])),))
    a = RNG.integers(0, 2, size).astype(dtype.numpy)
    b = RNG.integers(0, 2, extent).astype(dtype.numpy)
    agree(load, {"x": a, "y": b})
    store = Func("k", (x, y), (vector(extent, Store(x, (J * stride + first,), y[J])),))
    agree(store, {"x": a, "y": b})


def test_rows_are_read_across_with_a_symbolic_stride() -> None:
    n = symbol("n")
    x, y = Buffer("x", dt.f32, (20, n)), Buffer("y", dt.f32, (n, 20))
    func = Func("k", (x, y, n), (For(I, n, (vector(20, Store(y, (I, J), x[J, I])),)),))
    agree(func, {"x": floats(20, 7), "y": floats(7, 20)}, {"n": 7})


@pytest.mark.parametrize("index", [dt.i64, dt.i32, dt.u8], ids=str)
@pytest.mark.parametrize("dtype", [dt.f32, dt.f16, dt.i8, dt.f64], ids=str)
def test_gathers_and_scatters_by_loaded_indices(index: DType, dtype: DType) -> None:
    x, at = Buffer("x", dtype, (50,)), Buffer("at", index, (37,))
    y = Buffer("y", dtype, (37,))
    where = Cast(at[J], dt.i64)
    a = RNG.integers(0, 9, 50).astype(dtype.numpy)
    b = RNG.integers(0, 9, 37).astype(dtype.numpy)
    order = RNG.permutation(50)[:37].astype(index.numpy)
    gather = Func("k", (x, at, y), (vector(37, Store(y, (J,), x[where])),))
    agree(gather, {"x": a, "at": order, "y": b})
    scatter = Func("k", (x, at, y), (vector(37, Store(x, (where,), y[J])),))
    agree(scatter, {"x": a, "at": order, "y": b})


# ------------------------------------------------------------------ masks


def test_a_symbolic_tail_is_masked() -> None:
    n = symbol("n")
    x, y = Buffer("x", dt.f32, (n,)), Buffer("y", dt.f32, (n,))
    body = If(lt(I * 32 + J, n), (Store(y, (I * 32 + J,), x[I * 32 + J] + 1.0),))
    func = Func("k", (x, y, n), (For(I, (n + 31) // 32, (vector(32, body),)),))
    for size in (1, 16, 31, 32, 33, 100):
        agree(func, {"x": floats(size), "y": floats(size)}, {"n": size})


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.i8, dt.f16, dt.bool_], ids=str)
def test_a_mask_from_data_guards_loads_and_stores(dtype: DType) -> None:
    x, m, y = Buffer("x", dtype, (45,)), Buffer("m", dt.bool_, (45,)), Buffer("y", dtype, (45,))
    stmt = If(m[J], (Store(y, (J,), x[J]),), (Store(y, (J,), x[44 - J]),))
    a = RNG.integers(0, 2, 45).astype(dtype.numpy)
    func = Func("k", (x, m, y), (vector(45, stmt),))
    agree(func, {"x": a, "m": RNG.integers(0, 2, 45).astype(bool), "y": np.zeros_like(a)})


def test_nested_masks_are_both_required() -> None:
    y = Buffer("y", dt.f32, (40,))
    inner = If(
        eq(J % 3, 0), (Store(y, (J,), Const(1, dt.f32)),), (Store(y, (J,), Const(2, dt.f32)),)
    )
    outer = If(lt(J, 23), (inner,), (If(lt(30, J), (Store(y, (J,), Const(3, dt.f32)),)),))
    agree(Func("k", (y,), (vector(40, outer),)), {"y": floats(40)})


def test_masked_lanes_keep_what_a_register_held() -> None:
    x, y = Buffer("x", dt.f32, (40,)), Buffer("y", dt.f32, (40,))
    r = Buffer("r", dt.f32, (40,), "register")
    body = (
        Alloc(r),
        vector(40, Store(r, (J,), x[J])),
        vector(40, If(lt(x[J], Const(0, dt.f32)), (Store(r, (J,), r[J] * -3.0),))),
        vector(40, Store(y, (J,), r[J])),
    )
    agree(Func("k", (x, y), body), {"x": floats(40), "y": floats(40)})


def test_a_load_that_is_the_same_in_all_lanes_is_guarded_by_their_mask() -> None:
    # Row 3 of s does not exist; no lane executes there.
    s, y = Buffer("s", dt.f32, (3,)), Buffer("y", dt.f32, (48,))
    body = If(lt(I * 16 + J, 48), (Store(y, (I * 16 + J,), s[I * 1]),))
    agree(Func("k", (s, y), (For(I, 4, (vector(16, body),)),)), {"s": floats(3), "y": floats(48)})


def test_loops_and_branches_inside_a_vector_loop_see_all_chunks() -> None:
    x, y = Buffer("x", dt.f32, (9, 37)), Buffer("y", dt.f32, (37,))
    a = Buffer("a", dt.f32, (37,), "register")
    even = If(eq(K % 2, 0), (Store(a, (J,), a[J] + x[K, J]),), (Store(a, (J,), a[J] - x[K, J]),))
    late = If(lt(J, 30), (For(K, 9, (even,)),), (Store(a, (J,), a[J] + 5.0),))
    body = (Alloc(a), vector(37, Store(a, (J,), zero()), late, Store(y, (J,), a[J])))
    agree(Func("k", (x, y), body), {"x": floats(9, 37), "y": floats(37)})


# ------------------------------------------------------------------ select


def padded(load: Load, inside: Expr) -> Expr:
    return Select(inside, load, zero(load.dtype))


def test_padding_of_lanes_does_not_touch_memory() -> None:
    x, y = Buffer("x", dt.f32, (30,)), Buffer("y", dt.f32, (64,))
    at = J - 17
    value = padded(x[at], conjunction((le(0, at), lt(at, 30))))
    agree(
        Func("k", (x, y), (vector(64, Store(y, (J,), value)),)), {"x": floats(30), "y": floats(64)}
    )


@pytest.mark.parametrize("dtype", [dt.f32, dt.f16, dt.i64, dt.bool_], ids=str)
def test_padding_of_rows_does_not_touch_memory(dtype: DType) -> None:
    x, y = Buffer("x", dtype, (4, 21)), Buffer("y", dtype, (500, 21))
    value = padded(x[I, J], lt(I, 4))
    rows = RNG.integers(0, 2, (4, 21)).astype(dtype.numpy)
    func = Func("k", (x, y), (For(I, 500, (vector(21, Store(y, (I, J), value)),)),))
    agree(func, {"x": rows, "y": np.ones((500, 21), dtype.numpy)})


def test_a_guarded_gather_reads_nothing_where_it_is_not_taken() -> None:
    x, y = Buffer("x", dt.f32, (40,)), Buffer("y", dt.f32, (300, 16))
    value = Select(lt(I, 3), x[J * (I + 1)] * 2.0 + 1.0, Const(7.0, dt.f32))
    func = Func("k", (x, y), (For(I, 300, (vector(13, Store(y, (I, J), value)),)),))
    agree(func, {"x": floats(40), "y": floats(300, 16)})


def test_arms_with_loads_on_both_sides() -> None:
    x, z, y = (Buffer(n, dt.f32, (20,)) for n in "xzy")
    value = Select(lt(J, 20), x[J] + 1.0, z[J - 20] * 3.0)
    y = Buffer("y", dt.f32, (40,))
    func = Func("k", (x, z, y), (vector(40, Store(y, (J,), value)),))
    agree(func, {"x": floats(20), "z": floats(20), "y": floats(40)})
    scalar = Func("k", (x, z, y), (For(J, 40, (Store(y, (J,), value),)),))
    agree(scalar, {"x": floats(20), "z": floats(20), "y": floats(40)})


def test_a_masked_load_takes_the_other_arm_as_it_is() -> None:
    x, z, y = (Buffer(n, dt.f32, (33,)) for n in "xzy")
    value = Select(lt(J, 11), x[J], z[J])
    func = Func("k", (x, z, y), (vector(33, Store(y, (J,), value)),))
    agree(func, {"x": floats(33), "z": floats(33), "y": floats(33)})


def test_an_accumulation_of_padding_vanishes() -> None:
    # 0 * inf would be nan.
    x, w, y = Buffer("x", dt.f32, (3,)), Buffer("w", dt.f32, (5,)), Buffer("y", dt.f32, (16,))
    a = Buffer("a", dt.f32, (16,), "register")
    tap = Select(conjunction((le(1, K), lt(K, 4))), x[K - 1], zero())
    body = (
        Alloc(a),
        vector(16, Store(a, (J,), zero())),
        For(K, 5, (vector(16, Store(a, (J,), a[J] + tap * w[K])),), "unroll"),
        vector(16, Store(y, (J,), a[J])),
    )
    weights = np.array([np.inf, 1, 2, 3, np.inf], np.float32)
    x_data, got = np.array([1, 2, 3], np.float32), np.zeros(16, np.float32)
    run_func(Func("k", (x, w, y), body), x_data, weights, got)
    np.testing.assert_array_equal(got, np.full(16, 14, np.float32))


# ------------------------------------------------------------------ reductions over lanes


@pytest.mark.parametrize("extent", [3, 16, 37, 64])
@pytest.mark.parametrize("op", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [dt.f32, dt.i32, dt.u8, dt.f64, dt.bf16], ids=str)
def test_lanes_are_reduced(op: Any, dtype: DType, extent: int) -> None:
    x, s = Buffer("x", dtype, (extent,)), Buffer("s", dtype, (1,))
    at = Const(0)
    func = Func("k", (x, s), (vector(extent, Store(s, (at,), Binary(op, s[at], x[J]))),))
    choices = [1, 2] if op == "mul" and dtype.is_float else [1, 2, 3]
    a = np.asarray(RNG.choice(choices, extent)).astype(dtype.numpy)
    if op == "mul":
        a[4:] = 1
    agree(func, {"x": a, "s": np.ones(1, dtype.numpy)})


@pytest.mark.parametrize("op", ["and", "or", "max", "min"])
def test_lanes_of_bools_are_reduced(op: Any) -> None:
    x, s = Buffer("x", dt.bool_, (23,)), Buffer("s", dt.bool_, (1,))
    at = Const(0)
    func = Func("k", (x, s), (vector(23, Store(s, (at,), Binary(op, s[at], x[J]))),))
    for bits in (np.zeros(23, bool), np.ones(23, bool), np.arange(23) == 22):
        for start in (False, True):
            agree(func, {"x": bits, "s": np.array([start])})


def test_nan_survives_a_reduction_from_any_lane() -> None:
    x, s = Buffer("x", dt.f32, (40,)), Buffer("s", dt.f32, (1,))
    at = Const(0)
    func = Func("k", (x, s), (vector(40, Store(s, (at,), maximum(s[at], x[J]))),))
    for lane in (0, 15, 17, 39):
        a = floats(40)
        a[lane] = np.nan
        after = agree(func, {"x": a, "s": np.zeros(1, np.float32)})
        assert np.isnan(after["s"][0])


def test_masked_lanes_leave_a_reduction_alone() -> None:
    x, s = Buffer("x", dt.f32, (40,)), Buffer("s", dt.f32, (4,))
    update = If(lt(x[J], zero()), (Store(s, (I,), s[I] + x[J] * x[J]),))
    func = Func("k", (x, s), (For(I, 4, (vector(40, update),)),))
    agree(func, {"x": floats(40), "s": floats(4)})


def test_a_dot_product_in_a_register() -> None:
    x, w, y = Buffer("x", dt.f32, (5, 50)), Buffer("w", dt.f32, (50,)), Buffer("y", dt.f32, (5,))
    s = Buffer("s", dt.f32, (1,), "register")
    at = Const(0)
    row: Block = (
        Alloc(s),
        Store(s, (at,), zero()),
        vector(50, Store(s, (at,), s[at] + x[I, J] * w[J])),
        Store(y, (I,), s[at]),
    )
    agree(
        Func("k", (x, w, y), (For(I, 5, row),)),
        {"x": floats(5, 50), "w": floats(50), "y": floats(5)},
    )


def test_a_reduction_inside_an_inner_loop_of_a_vector_loop() -> None:
    x, s = Buffer("x", dt.f32, (6, 21)), Buffer("s", dt.f32, (6,))
    stmt = vector(21, For(K, 6, (Store(s, (K,), s[K] + x[K, J]),)))
    agree(Func("k", (x, s), (stmt,)), {"x": floats(6, 21), "s": floats(6)})


# ------------------------------------------------------------------ indices as data


def test_positions_are_data_too() -> None:
    y, z = Buffer("y", dt.i64, (50,)), Buffer("z", dt.f32, (50,))
    body = (
        Store(y, (J,), J * 3 + I * 2 - 5),
        Store(z, (J,), Cast(J // 7 + J % 5, dt.f32)),
    )
    func = Func("k", (y, z), (For(I, 3, (vector(50, *body),)),))
    agree(func, {"y": np.zeros(50, np.int64), "z": floats(50)})


def test_a_blocked_layout_is_read_in_whole_vectors() -> None:
    x, y = Buffer("x", dt.f32, (3, 5, 16)), Buffer("y", dt.f32, (5, 48))
    func = Func("k", (x, y), (For(I, 5, (vector(48, Store(y, (I, J), x[J // 16, I, J % 16])),)),))
    agree(func, {"x": floats(3, 5, 16), "y": floats(5, 48)})


def test_lets_differ_between_chunks() -> None:
    x, y = Buffer("x", dt.f32, (90,)), Buffer("y", dt.f32, (40,))
    at, v = Var("at"), Var("v", dt.f32)
    body = (
        Let(at, J * 2 + 1),
        Let(v, x[at]),
        Store(y, (J,), v * v + Cast(at, dt.f32)),
    )
    agree(Func("k", (x, y), (vector(40, *body),)), {"x": floats(90), "y": floats(40)})


@pytest.mark.parametrize(("group", "stride", "first"), [
    (4, 4, 1), (8, 8, 7), (2, 1, 0), (8, 4, 3), (4, 8, 5), (4, 8, 0), (3, 3, 2),
])  # fmt: skip
def test_lanes_that_share_values_of_their_group_read_their_own(
    group: int, stride: int, first: int
) -> None:
    # The last row ends where the memory does.
    count = 32 // group * stride + stride
    x, y = Buffer("x", dt.f32, (3, count)), Buffer("y", dt.f32, (3, 2, 16))
    place = (J + K * 16) // group * stride + first
    body = For(I, 3, (For(K, 2, (vector(16, Store(y, (I, K, J), x[I, place] * 2.0)),)),))
    agree(Func("k", (x, y), (body,)), {"x": floats(3, count), "y": floats(3, 2, 16)})


def test_values_of_groups_are_shuffled_from_whole_vectors_that_lie_in_the_row() -> None:
    for size, gathers in ((32, 0), (30, 1)):
        x, y = Buffer("x", dt.f32, (3, size)), Buffer("y", dt.f32, (3, 16))
        body = For(I, 3, (vector(16, Store(y, (I, J), x[I, J // 4 * 4 + 16 + 1] + x[I, J])),))
        text = emit_kernel(Func("k", (x, y), (body,)), resolve_target("x86-64-v4"))
        assert text.count("masked.gather") == gathers
        assert text.count("shufflevector") == 1 - gathers


STREAMED = """
def k(x: f32[N], y: f32[N], N: symbol(0, 4096)):
    for p in parallel(N // 256):
        for i in serial(8):
            for j in vector(32):
                stream(y[p * 256 + i * 32 + j], x[p * 256 + i * 32 + j] * 2.0)
"""


def test_streamed_stores_go_past_the_caches_and_are_seen_by_others_at_the_end() -> None:
    text = emit_kernel(parse_func(STREAMED), resolve_target("x86-64-v4"))
    assert text.count("!nontemporal") == 2
    # The loop that threads share ends with a fence, and so does the kernel.
    assert text.count("sfence()\n  ret void") == 2
    assert "nontemporal" not in emit_kernel(parse_func(STREAMED), resolve_target("aarch64"))


@pytest.mark.parametrize("offset", [0, 1, 8, 16])
def test_streamed_stores_are_right_wherever_the_result_begins(offset: int) -> None:
    func = parse_func(STREAMED)
    memory = np.zeros(1024 + 64, np.float32)
    start = (-memory.ctypes.data // 4) % 16 + offset
    y, x = memory[start : start + 1024], floats(1024)
    compile_func(func)(x, y, 1024)
    np.testing.assert_array_equal(y, x * 2)


@pytest.mark.parametrize("target", TARGETS)
def test_streamed_stores_are_right_at_every_level(target: str) -> None:
    arrays = {"x": floats(2048), "y": floats(2048)}
    agree(parse_func(STREAMED), arrays, {"N": 2048}, targets=[target])
