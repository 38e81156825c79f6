"""Steps for sums of products keep what a function computes, and refuse what would change it."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.factors import drop_guards, level_guards, stage, vector_width, widen
from tilewright.schedule.nest import simplify_func
from tilewright.schedule.tensorize import pipeline, tensorize
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Func, If
from tilewright.tensor.parse import parse_func
from tilewright.tensor.text import text
from tilewright.tensor.walk import statements

SUM = """
def f(A: f32[20, 60], B: f32[60, 24], C: f32[20, 24]):
    for i in serial(20):
        for j in serial(24):
            C[i, j] = 0.0
    for ko in serial(4):
        for m in serial(20):
            for n in serial(24):
                for k in serial(16):
                    if ko * 16 + k < 60:
                        C[m, n] = C[m, n] + A[m, ko * 16 + k] * B[ko * 16 + k, n]
"""


def result(func: Func) -> np.ndarray:
    check(func)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, s).astype(np.float32) for s in ((20, 60), (60, 24)))
    memory = {"A": a, "B": b, "C": np.zeros((20, 24), np.float32)}
    interpret(func, memory, {})
    np.testing.assert_array_equal(memory["C"], a @ b)
    return memory["C"]


def staged() -> Func:
    func = stage(parse_func(SUM), "ko", 0, "S", ("m", "k"), "shared", 4)
    return stage(func, "ko", 1, "T", ("k", "n"))


def test_staged_products_are_the_same_and_need_no_guards() -> None:
    func = staged()
    result(func)
    bare = drop_guards(func, "ko")
    result(bare)
    assert not any(isinstance(s, If) for s in statements(bare.body))
    assert parse_func(text(bare)) == bare


def test_guards_stay_where_a_factor_may_be_anything() -> None:
    func = stage(parse_func(SUM), "ko", 0, "S", ("m", "k"))
    with pytest.raises(ScheduleError, match="a factor may be anything where a guard fails"):
        drop_guards(func, "ko")


def test_a_factor_is_staged_for_all_loops_that_it_varies_with() -> None:
    with pytest.raises(ScheduleError, match="varies along a loop that is no axis"):
        stage(parse_func(SUM), "ko", 0, "S", ("k",))
    with pytest.raises(ScheduleError, match=r"does not hold one sum of products"):
        stage(parse_func(SUM), "i", 0, "S", ("j",))


def test_copies_are_as_wide_as_rows_and_guards_allow() -> None:
    func = staged()
    assert vector_width(func, "S_1", 16) == 4
    assert vector_width(func, "T_1", 16) == 4
    assert vector_width(func, "T_0", 16) == 1
    result(widen(drop_guards(func, "ko"), "S_1", 4))
    # 58 is no multiple of 4: a guard may fail within a vector.
    odd = stage(parse_func(SUM.replace("60", "58")), "ko", 0, "S", ("m", "k"))
    assert vector_width(odd, "S_1", 16) == 2
    with pytest.raises(ScheduleError, match="a guard may change within a vector"):
        widen(odd, "S_1", 4)


@pytest.mark.parametrize("stages", [2, 3])
def test_a_pipeline_computes_the_same(stages: int) -> None:
    result(pipeline(drop_guards(staged(), "ko"), "ko", stages))
    result(simplify_func(pipeline(staged(), "ko", stages)))


def test_a_pipeline_needs_copies_and_two_stages() -> None:
    with pytest.raises(ScheduleError, match="does not begin with copies"):
        pipeline(parse_func(SUM), "ko", 2)
    with pytest.raises(ScheduleError, match="fewer than two stages"):
        pipeline(staged(), "ko", 1)


def test_a_guard_that_varies_in_a_vector_stays_inside() -> None:
    source = """
def f(A: f32[{n}], B: f32[{n}]):
    for i in serial(8):
        for v in vector(4):
            if i * 4 + v < {n}:
                B[i * 4 + v] = A[i * 4 + v]
"""
    odd = parse_func(source.format(n=30))
    assert level_guards(odd, "v") == odd
    even = level_guards(parse_func(source.format(n=28)), "v")
    assert "if i * 4 < 28" in text(simplify_func(even))


def test_an_instruction_computes_its_own_nest_and_no_other() -> None:
    source = """
def f(A: f16[16, 16]):
    c: fragment[f32, 16, 8]
    a: fragment[f16, 16, 16]
    b: fragment[f16, 16, 8]
    for i in serial(16):
        for j in serial(8):
            for k in serial(16):
                c[i, j] = c[i, j] {op} f32(a[i, k]) * f32(b[k, j])
"""
    func = parse_func(source.format(op="+"))
    assert "for i in instruction(16)" in text(tensorize(func, "i", "mma.m16n8k16.f16"))
    with pytest.raises(ScheduleError, match="not what the instruction computes"):
        tensorize(func, "i", "mma.m16n8k16.bf16")
    with pytest.raises(ScheduleError, match="not what the instruction computes"):
        tensorize(parse_func(source.format(op="-")), "i", "mma.m16n8k16.f16")
    with pytest.raises(ScheduleError, match=r"there are mma\.m16n8k16\.f16"):
        tensorize(func, "i", "mma.m4n4")
