"""What loops do, counted without running them."""

from __future__ import annotations

import pytest

from tilewright.tensor import work
from tilewright.tensor.parse import parse_func
from tilewright.tensor.work import Work, count_work


def count(text: str, **sizes: int) -> Work:
    found = count_work(parse_func(text), sizes)
    assert found is not None
    return found


def test_a_product_is_two_operations_for_each_element_of_the_sum() -> None:
    found = count(
        """\
def product(A: f32[M, 20], B: f32[20, 24], C: f32[M, 24], M: symbol(1)):
    for i in parallel(M):
        acc: register[f32, 24]
        for j in vector(24):
            acc[j] = 0.0
        for k in serial(20):
            for j in vector(24):
                acc[j] = acc[j] + A[i, k] * B[k, j]
        for j in vector(24):
            C[i, j] = max(acc[j], 0.0)
""",
        M=7,
    )
    assert found.flops == 7 * 24 * (2 * 20 + 1)
    assert found.accesses == {"A": 7 * 20 * 24, "B": 7 * 20 * 24, "C": 7 * 24}


def test_an_edge_counts_only_what_is_inside() -> None:
    found = count(
        """\
def window(X: f32[10], Y: f32[10]):
    for i in serial(10):
        s: register[f32, 1]
        s[0] = 0.0
        for k in serial(3):
            if (i + k - 1 >= 0) & (i + k - 1 < 10):
                s[0] = s[0] + X[i + k - 1]
        Y[i] = s[0]
"""
    )
    assert found.flops == 28
    assert found.accesses == {"X": 28, "Y": 10}


def test_loops_whose_length_depends_on_others_are_summed() -> None:
    found = count(
        """\
def triangle(X: f32[16], Y: f32[16]):
    for i in serial(16):
        n: i64 = i + 1
        for k in serial(n):
            Y[i] = Y[i] + X[k]
"""
    )
    assert found.flops == 16 * 17 // 2


def test_a_loop_that_does_not_run_costs_nothing() -> None:
    text = """\
def none(X: f32[4], N: symbol(0)):
    for i in serial(N):
        X[i] = X[i] * 2.0
"""
    assert count(text, N=0).flops == 0
    assert count(text, N=3).flops == 3


def test_what_data_decides_counts_as_if_it_held() -> None:
    found = count(
        """\
def positive(X: f32[8], Y: f32[8]):
    for i in serial(8):
        if X[i] > 0.0:
            Y[i] = X[i] + 1.0
        else:
            Y[i] = X[i] * 2.0 * 3.0
"""
    )
    assert found.flops == 8


@pytest.mark.parametrize(
    ("expression", "flops"),
    [
        ("X[0] + X[1]", 1),
        ("mad(X[0], X[1], X[2])", 2),
        ("sqrt(X[0])", 1),
        ("f32(i)", 0),
        ("X[2 * i + 1]", 0),
        ("select(X[0] < X[1], X[0], X[1])", 0),
        ("-X[0]", 0),
        # One value that is used twice is computed once.
        ("(X[0] + X[1]) * (X[0] + X[1])", 2),
    ],
)
def test_operations_of_floats_count_and_others_do_not(expression: str, flops: int) -> None:
    text = f"def f(X: f32[9], Y: f32[1]):\n    for i in serial(1):\n        Y[0] = {expression}\n"
    assert count(text).flops == flops


def test_a_function_costs_what_its_expansion_does() -> None:
    found = count("def f(X: f32[1], Y: f32[1]):\n    Y[0] = exp(X[0])\n")
    assert 5 < found.flops < 40
    assert found.accesses == {"X": 1, "Y": 1}


def test_what_takes_looking_at_too_much_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """\
def many(X: f32[99]):
    for i in serial(99):
        for j in serial(i):
            if j < i - 3:
                X[i] = X[i] + 1.0
"""
    assert count(text).flops == sum(max(0, i - 3) for i in range(99))
    monkeypatch.setattr(work, "_MOST_LOOKS", 50)
    assert count_work(parse_func(text), {}) is None


def test_a_length_that_data_decides_is_not_counted() -> None:
    text = """\
def ragged(N: i64[1], X: f32[9]):
    n: i64 = N[0]
    for i in serial(n):
        X[i] = X[i] + 1.0
"""
    assert count_work(parse_func(text), {}) is None
