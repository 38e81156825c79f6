"""Primitives that shape loops keep what a nest computes, and refuse what they would get wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.errors import ScheduleError
from tilewright.schedule.loops import (
    Tail,
    fuse,
    padding_guards,
    peel,
    reorder,
    set_kind,
    specialise,
    split,
    tighten,
)
from tilewright.schedule.nest import find_loop, loops, simplify_func
from tilewright.tensor.ir import Func
from tilewright.tensor.walk import stores

from .alike import assert_alike, nest

FEW = settings(max_examples=25, deadline=None)
SIZES = st.integers(1, 13)
FACTORS = st.integers(1, 6)


def copy(extent: int | str) -> Func:
    symbol = f", {extent}: symbol(1)" if isinstance(extent, str) else ""
    return nest(f"""
        def f(A: f32[{extent}, 3], B: f32[{extent}, 3]{symbol}):
            for i in serial({extent}):
                for j in serial(3):
                    B[i, j] = A[i, j] * 2.0 + 1.0""")


def total(extent: int | str) -> Func:
    symbol = f", {extent}: symbol(1)" if isinstance(extent, str) else ""
    return nest(f"""
        def f(A: f32[{extent}, 3], B: f32[3]{symbol}):
            for i in serial({extent}):
                for j in serial(3):
                    B[j] = B[j] + A[i, j]""")


def padded(extent: int, taps: int) -> Func:
    pad = taps // 2
    return nest(f"""
        def f(A: f32[{extent}], W: f32[{taps}], B: f32[{extent}]):
            for io in serial({extent}):
                for k in serial({taps}):
                    B[io] = B[io] + select(0 <= io + k - {pad} and io + k - {pad} < {extent}, \\
A[io + k - {pad}], 0.0) * W[k]""")


def names(func: Func) -> list[str]:
    return [x.var.name for x in loops(func.body)]


def refuses(message: str) -> pytest.RaisesExc[ScheduleError]:
    return pytest.raises(ScheduleError, match=re.escape(message))


# ------------------------------------------------------------------ split


@FEW
@given(SIZES, FACTORS, st.sampled_from(["guard", "peel"]))
def test_split_visits_every_iteration_once(extent: int, factor: int, tail: Tail) -> None:
    for before in (copy(extent), total(extent)):
        assert_alike(before, split(before, "i", factor, "io", "ii", tail))


@FEW
@given(SIZES, FACTORS, st.sampled_from(["guard", "peel", "shift"]))
def test_split_of_an_unknown_extent_visits_every_iteration(
    extent: int, factor: int, tail: Tail
) -> None:
    before = copy("N")
    assert_alike(before, split(before, "i", factor, "io", "ii", tail), N=extent)


@FEW
@given(SIZES, FACTORS)
def test_split_shifts_the_last_tile_back(extent: int, factor: int) -> None:
    before = copy(extent)
    assert_alike(before, split(before, "i", factor, "io", "ii", "shift"))
    if extent >= factor:
        assert_alike(before, split(before, "i", factor, "io", "ii", "assume"))


def test_split_by_a_factor_of_a_symbolic_extent_is_exact() -> None:
    before = nest("""
        def f(A: f32[N * 4], B: f32[N * 4], N: symbol(1)):
            for i in serial(N * 4):
                B[i] = A[i]""")
    after = split(before, "i", 4, "io", "ii")
    assert names(after) == ["io", "ii"]
    assert_alike(before, after, N=3)


def test_split_refuses_a_factor_that_does_not_divide() -> None:
    with refuses("5 does not divide the extent"):
        split(copy(12), "i", 5, "io", "ii")


@pytest.mark.parametrize("tail", ["shift", "assume"])
def test_split_refuses_to_run_a_sum_twice(tail: Tail) -> None:
    with refuses("accumulates"):
        split(total(13), "i", 4, "io", "ii", tail)


def test_split_refuses_to_run_twice_a_sum_into_a_temporary_of_an_outer_scope() -> None:
    before = nest("""
        def f(A: f32[13], B: f32[1]):
            s: local[f32, 1]
            s[0] = 0.0
            for i in serial(13):
                s[0] = s[0] + A[i]
            B[0] = s[0]""")
    with refuses("accumulates"):
        split(before, "i", 4, "io", "ii", "shift")


def test_split_shifts_a_body_whose_temporary_is_its_own() -> None:
    before = nest("""
        def f(A: f32[13, 3], B: f32[13]):
            for i in serial(13):
                s: local[f32, 1]
                s[0] = 0.0
                for k in serial(3):
                    s[0] = s[0] + A[i, k]
                B[i] = s[0]""")
    assert_alike(before, split(before, "i", 4, "io", "ii", "shift"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", 4, "io", "ii"), "there is no loop named 'x'"),
        (("i", 0, "io", "ii"), "not positive"),
        (("i", 4, "j", "ii"), "there is a loop named 'j'"),
        (("j", 3, "jo", "i"), "there is a loop named 'i'"),
        (("i", 4, "ii", "ii"), "given to two loops"),
    ],
)
def test_split_refuses_names_and_factors_that_make_no_sense(
    arguments: tuple[str, int, str, str], message: str
) -> None:
    with refuses(message):
        split(copy(12), *arguments)


def test_split_refuses_a_loop_that_does_not_start_at_0() -> None:
    with refuses("does not start at 0"):
        split(peel(copy(8), "i", 1, 0), "i", 7, "io", "ii")


# ------------------------------------------------------------------ reorder, fuse, kinds


@FEW
@given(st.permutations(["a", "b", "c"]), st.lists(SIZES, min_size=3, max_size=3))
def test_reorder_keeps_the_result(order: Sequence[str], sizes: list[int]) -> None:
    a, b, c = sizes
    before = nest(f"""
        def f(A: f32[{a}, {b}, {c}], B: f32[{a}, {c}]):
            for a in serial({a}):
                for b in serial({b}):
                    for c in serial({c}):
                        B[a, c] = B[a, c] + A[a, b, c]""")
    after = reorder(before, order)
    assert names(after) == list(order)
    assert_alike(before, after)


def test_reorder_leaves_loops_that_are_not_named_in_place() -> None:
    before = nest("""
        def f(B: f32[2, 3, 4]):
            for a in serial(2):
                for b in serial(3):
                    for c in serial(4):
                        B[a, b, c] = 1.0""")
    assert names(reorder(before, ["c", "a"])) == ["c", "b", "a"]


def test_reorder_refuses_loops_that_are_not_nested_perfectly() -> None:
    before = nest("""
        def f(A: f32[4, 3], B: f32[4]):
            for i in serial(4):
                B[i] = 0.0
                for j in serial(3):
                    B[i] = B[i] + A[i, j]""")
    with refuses("not nested perfectly"):
        reorder(before, ["j", "i"])


def test_reorder_refuses_an_extent_that_depends_on_a_loop() -> None:
    before = nest("""
        def f(A: f32[4, 4], B: f32[4, 4]):
            for i in serial(4):
                for j in serial(i + 1):
                    B[i, j] = A[i, j]""")
    with refuses("depends on another"):
        reorder(before, ["j", "i"])


@FEW
@given(SIZES, SIZES)
def test_fuse_keeps_the_result(a: int, b: int) -> None:
    before = nest(f"""
        def f(A: f32[{a}, {b}], B: f32[{a}]):
            for i in serial({a}):
                for j in serial({b}):
                    B[i] = B[i] + A[i, j]""")
    after = fuse(before, "i", "j", "ij")
    assert names(after) == ["ij"]
    assert_alike(before, after)


def test_fuse_refuses_what_is_not_two_loops_of_a_box() -> None:
    with refuses("not directly inside"):
        fuse(copy(4), "i", "k", "f")
    with refuses("not nested perfectly"):
        fuse(copy(4), "j", "i", "f")
    before = nest("""
        def f(A: f32[4, 4], B: f32[4, 4]):
            for i in serial(4):
                for j in serial(i + 1):
                    B[i, j] = A[i, j]""")
    with refuses("depends on the outer loop"):
        fuse(before, "i", "j", "f")


def test_set_kind_changes_nothing_but_the_kind() -> None:
    before = copy(8)
    after = set_kind(set_kind(before, "i", "parallel"), "j", "vector")
    assert [x.kind for x in loops(after.body)] == ["parallel", "vector"]
    assert_alike(before, after)


def test_set_kind_refuses_unknown_lengths_and_inner_parallel_loops() -> None:
    with refuses("not a constant"):
        set_kind(copy("N"), "i", "vector")
    with refuses("not a constant"):
        set_kind(copy("N"), "i", "unroll")
    with refuses("only an outermost loop"):
        set_kind(copy(8), "j", "parallel")


# ------------------------------------------------------------------ peel


@FEW
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_peel_keeps_the_result(extent: int, front: int, back: int) -> None:
    before = total(extent)
    if front + back > extent:
        with refuses("constant iterations"):
            peel(before, "i", front, back)
        return
    assert_alike(before, peel(before, "i", front, back))


def test_peel_refuses_unknown_and_negative_lengths() -> None:
    with refuses("constant iterations"):
        peel(copy("N"), "i", 1, 1)
    with refuses("constant iterations"):
        peel(copy(4), "i", -1, 1)


# ------------------------------------------------------------------ tighten, specialise


@FEW
@given(st.integers(1, 9), st.integers(1, 5))
def test_tighten_keeps_the_result(extent: int, taps: int) -> None:
    before = padded(extent, taps)
    after = tighten(before, "k")
    assert not any(padding_guards(s) for s in stores(simplify_func(after).body))
    assert_alike(before, after)


def test_tighten_finds_guards_below_a_cast_and_of_max() -> None:
    before = nest("""
        def f(A: f16[8], B: f32[8], C: f32[8]):
            for i in serial(8):
                for k in serial(3):
                    B[i] = B[i] + f32(select(0 <= i + k - 1, A[i + k - 1 - (i + k) // 9], f16(0.0)))
                for m in serial(3):
                    C[i] = max(C[i], f32(select(i + m < 8, A[i + m], f16(-inf))))""")
    after = tighten(tighten(before, "k"), "m")
    assert not any(padding_guards(s) for s in stores(simplify_func(after).body))
    assert_alike(before, after)


def test_tighten_leaves_the_lowest_value_of_a_narrower_integer() -> None:
    before = nest("""
        def f(A: i8[8], B: i32[8]):
            for i in serial(8):
                for k in serial(3):
                    B[i] = max(B[i], i32(select(i + k < 8, A[i + k], i8(-128))))""")
    assert tighten(before, "k") == before


def test_tighten_leaves_a_loop_that_another_store_needs_whole() -> None:
    before = nest("""
        def f(A: f32[8], B: f32[8], C: f32[8]):
            for i in serial(8):
                for k in serial(3):
                    B[i] = B[i] + select(0 <= i + k - 1 and i + k < 9, A[i + k - 1], 0.0)
                    C[i] = C[i] + 1.0""")
    after = tighten(before, "k")
    assert_alike(before, after)
    assert find_loop(after, "k", "test").extent == 3


def test_tighten_leaves_a_guard_that_varies_inside_the_loop() -> None:
    before = nest("""
        def f(A: f32[8], B: f32[1]):
            for k in serial(4):
                for m in serial(4):
                    B[0] = B[0] + select(k + m < 6, A[k + m], 0.0)""")
    assert tighten(before, "k") == before


def test_tighten_takes_guards_on_multiples_of_the_loop() -> None:
    before = nest("""
        def f(A: f32[20], B: f32[9]):
            for i in serial(9):
                for k in serial(5):
                    B[i] = B[i] + select(0 <= i + k * 3 - 4 and i + k * 3 - 4 < 11, \\
A[i + k * 3 - 4], 0.0)""")
    after = tighten(before, "k")
    assert not any(padding_guards(s) for s in stores(simplify_func(after).body))
    assert_alike(before, after)


def test_tighten_refuses_a_vector_loop_whose_length_would_vary() -> None:
    with refuses("would vary"):
        tighten(set_kind(padded(8, 3), "k", "vector"), "k")


@FEW
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
def test_specialise_keeps_the_result(extent: int, taps: int, tile: int) -> None:
    before = padded(extent, taps)
    tiled = reorder(split(before, "io", tile, "it", "ii", "guard"), ["it"])
    after = specialise(tiled, "it", ["ii", "k"])
    assert_alike(before, after)
    if taps > 1:
        assert any(x.var.name == "k_edge" for x in loops(after.body))


def test_specialise_leaves_guards_over_ranges_of_loops_that_are_not_open() -> None:
    # The range of m depends on k, so the worst case cannot be written at i.
    before = nest("""
        def f(A: f32[32], B: f32[8]):
            for i in serial(8):
                for k in serial(3):
                    for m in serial(k + 1):
                        B[i] = B[i] + select(i + m < 9, A[i + m], 0.0)""")
    after = specialise(before, "i", ["m"])
    assert after == before


def test_specialise_leaves_guards_that_are_not_affine() -> None:
    before = nest("""
        def f(A: f32[32], B: f32[8]):
            for i in serial(8):
                for k in serial(9):
                    B[i] = B[i] + select(i + k // 4 < 8, A[i + k // 4], 0.0)""")
    assert specialise(before, "i", ["k"]) == before


def test_simplify_func_unrolls_single_iterations_with_the_shapes_they_decide() -> None:
    before = nest("""
        def f(A: f32[8], B: f32[8]):
            for i in serial(1, start=3):
                t: local[f32, i + 1]
                for j in serial(i + 1):
                    t[j] = A[j]
                for j2 in serial(i + 1):
                    B[j2] = t[j2]""")
    assert_alike(before, simplify_func(before))
