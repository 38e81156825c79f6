"""Primitives that place values keep what a nest computes, and refuse what they would get wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.errors import ScheduleError
from tilewright.lower.pack import pack_array
from tilewright.schedule.ahead import prefetch
from tilewright.schedule.loops import Tail, split
from tilewright.schedule.nest import loops, simplify_func
from tilewright.schedule.pack import PackDim, pack
from tilewright.schedule.place import compute_at, identity, rfactor, set_scope
from tilewright.tensor.evaluate import binary_value
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Func, Load
from tilewright.tensor.walk import allocations, block_loads

from .alike import assert_alike, nest

FEW = settings(max_examples=25, deadline=None)
SIZES = st.integers(1, 13)
FACTORS = st.integers(1, 6)


def refuses(message: str) -> pytest.RaisesExc[ScheduleError]:
    return pytest.raises(ScheduleError, match=re.escape(message))


def row_sums(rows: int | str, columns: int) -> Func:
    symbol = f", {rows}: symbol(1)" if isinstance(rows, str) else ""
    return nest(f"""
        def f(A: f32[{rows}, {columns}], B: f32[{rows}, 5]{symbol}):
            t: local[f32, {rows}]
            for i0 in serial({rows}):
                t[i0] = 0.0
            for i1 in serial({rows}):
                for k in serial({columns}):
                    t[i1] = t[i1] + A[i1, k]
            for i in serial({rows}):
                for j in serial(5):
                    B[i, j] = t[i] * 2.0""")


# ------------------------------------------------------------------ compute_at


@FEW
@given(SIZES, SIZES, FACTORS)
def test_compute_at_keeps_the_result_of_a_reduction(rows: int, columns: int, factor: int) -> None:
    before = row_sums(rows, columns)
    tiled = split(before, "i", factor, "io", "ii", "guard")
    for loop in ("io", "ii"):
        after = compute_at(tiled, "t", loop)
        assert_alike(before, after)
        (t,) = allocations(after.body)
        assert t.shape == (factor if loop == "io" else 1,)


@FEW
@given(SIZES, FACTORS)
def test_compute_at_keeps_the_result_for_an_unknown_number_of_rows(rows: int, factor: int) -> None:
    before = row_sums("N", 3)
    tails: tuple[Tail, ...] = ("guard", "assume")
    for tail in tails:
        tiled = split(before, "i", factor, "io", "ii", tail)
        if tail == "guard" or rows >= factor:
            assert_alike(before, compute_at(tiled, "t", "io"), N=rows)


@FEW
@given(st.integers(3, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_compute_at_takes_the_window_that_a_tile_reads(
    extent: int, factor: int, taps: int, stride: int
) -> None:
    length = (extent - 1) * stride + taps
    before = nest(f"""
        def f(A: f32[{length}], B: f32[{extent}]):
            t: local[f32, {length}]
            for p in serial({length}):
                t[p] = A[p] * 3.0
            for i in serial({extent}):
                for k in serial({taps}):
                    B[i] = B[i] + t[i * {stride} + k]""")
    tiled = split(before, "i", factor, "io", "ii", "guard")
    assert_alike(before, compute_at(tiled, "t", "io"))


def test_compute_at_guards_loads_on_both_sides_of_padded_reads() -> None:
    before = nest("""
        def f(A: f32[9], B: f32[9]):
            t: local[f32, 9]
            for p in serial(9):
                t[p] = A[p] * 3.0
            for i in serial(9):
                for k in serial(3):
                    B[i] = B[i] + select(0 <= i + k - 1 and i + k - 1 < 9, t[i + k - 1], 0.0)""")
    tiled = split(before, "i", 3, "io", "ii")
    assert_alike(before, compute_at(tiled, "t", "io"))


TWO_READERS = """
    def f(A: f32[8], B: f32[8], C: f32[8]):
        t: local[f32, 8]
        for p in serial(8):
            t[p] = A[p] * 3.0
        for i in serial(8):
            for j in serial(1):
                B[i] = t[i]
            {other}"""


def test_compute_at_refuses_a_reader_outside_the_loop() -> None:
    for other in ("C[i] = t[7 - i]", "for m in serial(8):\n                C[m] = t[m]"):
        with refuses("read outside the loop"):
            compute_at(nest(TWO_READERS.format(other=other)), "t", "j")


def test_compute_at_refuses_two_regions() -> None:
    with refuses("two different regions"):
        compute_at(nest(TWO_READERS.format(other="C[i] = t[7 - i]")), "t", "i")


def test_compute_at_refuses_an_index_that_is_not_affine() -> None:
    # Its first two values are equal, so a slope from those alone would make it one element.
    before = nest("""
        def f(A: f32[8], B: f32[64]):
            t: local[f32, 8]
            for p in serial(8):
                t[p] = A[p] * 3.0
            for o in serial(1):
                for i in serial(64):
                    B[i] = t[i // 8]""")
    with refuses("not affine"):
        compute_at(before, "t", "o")


@pytest.mark.parametrize(
    ("producer", "message"),
    [
        ("for p in serial(4):\n    t[p] = A[p]", "does not produce all"),
        ("for p in serial(2):\n    for q in serial(4):\n        t[p * 4 + q] = A[q]", "split"),
        ("for p in serial(8):\n    t[p] = A[p]\n    B[p] = 1.0", "writes more than it"),
        ("t[0] = A[0]", "one element"),
        ("for p in serial(8):\n    t[p] = A[p]\n    t[7 - p] = A[p]", "writes more than it"),
        (
            "for p in serial(8):\n    t[p] = A[p]\nfor q in serial(8):\n    t[q] = t[7 - q]",
            "depends on another",
        ),
        ("if A[0] < 1.0:\n    for p in serial(8):\n        t[p] = A[p]", "nests of its own"),
    ],
)
def test_compute_at_refuses_producers_that_it_cannot_move(producer: str, message: str) -> None:
    lines = "\n".join("    " + x for x in producer.splitlines())
    before = nest(
        f"def f(A: f32[8], B: f32[8]):\n    t: local[f32, 8]\n{lines}\n"
        "    for i in serial(8):\n        for j in serial(1):\n            B[i] = t[i]"
    )
    with refuses(message):
        compute_at(before, "t", "i")


def test_compute_at_refuses_what_is_not_there() -> None:
    with refuses("no temporary is named 'x'"):
        compute_at(row_sums(4, 4), "x", "i")
    with refuses("there is no loop named 'x'"):
        compute_at(row_sums(4, 4), "t", "x")


# ------------------------------------------------------------------ set_scope, rfactor, prefetch


def test_set_scope_changes_the_declaration_and_every_use() -> None:
    before = row_sums(4, 3)
    after = set_scope(before, "t", "register")
    assert {b.scope for b in allocations(after.body)} == {"register"}
    assert {x.buffer.scope for x in block_loads(after.body) if x.buffer.name == "t"} == {"register"}
    assert_alike(before, after)
    with refuses("no temporary is named 'A'"):
        set_scope(before, "A", "register")


OPERATORS = ["{s} + {x}", "{s} * {x}", "max({s}, {x})", "min({x}, {s})"]


@FEW
@given(st.integers(1, 40), st.integers(1, 8), st.sampled_from(OPERATORS), st.booleans())
def test_rfactor_keeps_the_result(extent: int, lanes: int, op: str, known: bool) -> None:
    size = str(extent) if known else "N"
    symbol = "" if known else ", N: symbol(1)"
    before = nest(f"""
        def f(A: i32[{size}], s: i32[2]{symbol}):
            for k in serial({size}):
                s[1] = {op.format(s="s[1]", x="A[k]")}""")
    after = rfactor(before, "k", lanes, "p")
    assert_alike(before, after, **({} if known else {"N": extent}))


@pytest.mark.parametrize("dtype", ["i32", "u8", "bool_"])
@pytest.mark.parametrize("op", ["and", "or"])
def test_rfactor_starts_bitwise_results_from_their_identity(dtype: str, op: str) -> None:
    sign = {"and": "&", "or": "|"}[op] if dtype != "bool_" else op
    before = nest(f"""
        def f(A: {dtype}[11], s: {dtype}[1]):
            for k in serial(11):
                s[0] = s[0] {sign} A[k]""")
    assert_alike(before, rfactor(before, "k", 4, "p"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("s[k] = s[k] + A[k]", "indexed by the loop"),
        ("s[0] = s[0] + A[k] * s[1]", "indexed by the loop"),
        ("s[0] = s[0] - A[k]", "single accumulation"),
        ("s[0] = A[k] + A[k]", "single accumulation"),
        ("s[0] = s[0] + A[k]\n        s[1] = s[1] + A[k]", "single accumulation"),
    ],
)
def test_rfactor_refuses_what_is_not_one_accumulation(body: str, message: str) -> None:
    before = nest(f"def f(A: f32[8], s: f32[8]):\n    for k in serial(8):\n        {body}")
    with refuses(message):
        rfactor(before, "k", 4, "p")


@pytest.mark.parametrize("op", ["add", "mul", "max", "min", "and", "or"])
@pytest.mark.parametrize("dtype", [dt.f32, dt.i32, dt.u8, dt.bool_])
def test_identity_leaves_every_value_unchanged(op: str, dtype: dt.DType) -> None:
    if (dtype is dt.f32 and op in ("and", "or")) or (dtype is dt.bool_ and op in ("add", "mul")):
        return
    values = np.array([0, 1, 2, 100], dtype.numpy)
    start = np.asarray(identity(op, dtype)).astype(dtype.numpy)
    np.testing.assert_array_equal(binary_value(op, values, start), values)


def test_prefetch_only_hints() -> None:
    before = row_sums(4, 3)
    after = prefetch(before, "k", "A", 2)
    assert_alike(before, after)
    assert_alike(before, prefetch(before, "i", "B", 0))
    with refuses("read in 0 ways"):
        prefetch(before, "i0", "A", 2)


# ------------------------------------------------------------------ pack


@FEW
@given(SIZES, SIZES, st.one_of(st.none(), FACTORS))
def test_pack_keeps_the_result(depth: int, columns: int, factor: int | None) -> None:
    before = nest(f"""
        def f(A: f32[{depth}], W: f32[{depth}, {columns}], B: f32[{columns}]):
            for k in serial({depth}):
                for j in serial({columns}):
                    B[j] = B[j] + A[k] * W[k, j]""")
    k, j = (x.var for x in loops(before.body))
    load = operand(before, "W")
    after, packing = pack(before, load, [PackDim(j, columns, factor), PackDim(k, depth)], "P")
    after = simplify_func(after)
    rng = np.random.default_rng(1)
    a = rng.integers(-5, 6, depth).astype(np.float32)
    w = rng.integers(-5, 6, (depth, columns)).astype(np.float32)
    got = np.zeros(columns, np.float32)
    interpret(after, {"A": a, "P": pack_array(packing, w), "B": got})
    np.testing.assert_array_equal(got, a @ w)


def operand(func: Func, name: str) -> Load:
    (load,) = {x for x in block_loads(func.body) if x.buffer.name == name}
    return load


def test_pack_refuses_two_ways_of_reading_and_loops_that_are_not_given() -> None:
    before = nest("""
        def f(W: f32[8, 8], B: f32[8, 8]):
            for k in serial(8):
                for j in serial(8):
                    B[k, j] = W[k, j] + W[j, k]""")
    k, j = (x.var for x in loops(before.body))
    load = Load(Buffer("W", dt.f32, (8, 8)), (k, j))
    with refuses("more than one way"):
        pack(before, load, [PackDim(k, 8), PackDim(j, 8)], "P")
    once = nest("""
        def f(W: f32[8, 8], B: f32[8, 8]):
            for k in serial(8):
                for j in serial(8):
                    B[k, j] = W[k, j]""")
    with refuses("varies along another loop"):
        pack(once, load, [PackDim(j, 8)], "P")
