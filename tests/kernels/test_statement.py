"""What kernels state: expressions, reductions, stages, boundaries, and what cannot be meant."""

# Type checkers and linters take the dims in the annotations of kernels for types.
# mypy: disable-error-code="attr-defined, index, name-defined, no-untyped-call, no-untyped-def"
# mypy: disable-error-code="valid-type"
# ruff: noqa: F821, N803, SIM300, UP037

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.tensor.text import text


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def product(dtype: Any) -> Any:
    @tw.kernel
    def gemm(A: dtype["M", "K"], B: dtype["K", "N"]):
        return tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))

    return gemm


# ------------------------------------------------------------------ what is stated


def test_a_kernel_prints_its_stages() -> None:
    assert str(product(tw.f32)) == (
        "def gemm(A: f32[M, K], B: f32[K, N], K: symbol(1), M: symbol(1), N: symbol(1)):\n"
        "    out: f32[i: M, j: N] = sum(A[i, k] * B[k, j] for k in K)\n"
        "    return out"
    )


@pytest.mark.parametrize("dtype", [tw.f32, tw.f64, tw.i32, tw.i64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (33, 70, 50), (64, 64, 64)])
def test_a_product_serves_all_sizes(dtype: Any, sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    a, b = numbers(m, k, dtype=dtype.numpy), numbers(k, n, dtype=dtype.numpy, seed=1)
    np.testing.assert_array_equal(product(dtype)(a, b), a @ b)


@pytest.mark.parametrize("dtype", [tw.f16, tw.bf16], ids=str)
def test_sums_of_halves_are_kept_in_f32(dtype: Any) -> None:
    @tw.kernel
    def total(X: dtype["N"]):
        return tw.compute(lambda: tw.sum(lambda i: X[i]))

    ones = np.ones(5000, dtype.numpy)
    assert float(total(ones)) == float(np.float32(5000).astype(dtype.numpy))


def test_stages_read_each_other() -> None:
    @tw.kernel
    def softmax(X: tw.f32["N", "C"]):
        top = tw.compute(lambda i: tw.max(lambda c: X[i, c]), name="top")
        e = tw.compute(lambda i, c: np.exp(X[i, c] - top[i]), name="e")
        return tw.compute(lambda i, c: e[i, c] / tw.sum(lambda k: e[i, k]))

    x = normal(7, 33)
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(softmax(x), e / e.sum(1, keepdims=True), rtol=2e-6)
    assert "e: f32[i: N, c: C] = exp(X[i, c] - top[i])" in str(softmax)


def test_one_call_states_several_outputs() -> None:
    @tw.kernel
    def best(X: tw.f32["N", "C"]):
        least = tw.compute(lambda i: tw.min(lambda c: X[i, c]))
        return (
            *tw.compute(lambda i: (tw.max(lambda c: X[i, c]), tw.argmax(lambda c: X[i, c]))),
            least,
        )

    x = normal(9, 21)
    found = best(x)
    assert isinstance(found, tuple)
    for have, want in zip(found, (x.max(1), x.argmax(1), x.min(1)), strict=True):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "argmax", "argmin"])
def test_reductions_are_numpys(name: str) -> None:
    reduce: Callable[..., Any] = getattr(tw, name)

    @tw.kernel
    def reduced(X: tw.f32["N", "C"]):
        return tw.compute(lambda i: reduce(lambda c: X[i, c]))

    x = numbers(6, 4)
    np.testing.assert_array_equal(reduced(x), getattr(np, name)(x, 1))


def test_a_nan_wins_every_maximum_and_minimum() -> None:
    @tw.kernel
    def both(X: tw.f32["N"]):
        return tw.compute(
            lambda: (
                tw.max(lambda i: X[i]), tw.min(lambda i: X[i]), tw.argmax(lambda i: X[i]),
                tw.argmin(lambda i: X[i]),
            )
        )  # fmt: skip

    high, low, first, least = both(np.array([1, np.nan, 3, np.nan], np.float32))
    assert math.isnan(high) and math.isnan(low) and first == 1 and least == 1


def test_a_sum_runs_over_several_axes_and_skips_what_is_outside() -> None:
    @tw.kernel
    def blur(X: tw.f32["H", "W"]):
        rows, columns = X.shape

        def element(h: Any, w: Any, r: Any, s: Any) -> Any:
            y, x = h + r - 1, w + s - 1
            inside = (0 <= y) & (y < rows) & (0 <= x) & (x < columns)
            return np.where(inside, X[y, x], 0.0)

        return tw.compute(
            lambda h, w: tw.sum(lambda r, s: element(h, w, r, s), over=(3, 3)), shape=X.shape
        )

    x = numbers(11, 18)
    padded = np.pad(x, 1)
    want = sum(padded[r : r + 11, s : s + 18] for r in range(3) for s in range(3))
    np.testing.assert_array_equal(blur(x), want)


def test_windows_are_indexed_by_sums_of_axes() -> None:
    @tw.kernel
    def convolved(X: tw.f32["N + R - 1"], W: tw.f32["R"]):
        size = X.shape[0] - W.shape[0] + 1
        return tw.compute(lambda i: tw.sum(lambda r: X[i + r] * W[r]), shape=(size,))

    x, w = numbers(20), numbers(4, seed=2)
    np.testing.assert_array_equal(convolved(x, w), np.correlate(x, w))


def test_an_index_may_come_from_data_if_it_is_clamped() -> None:
    @tw.kernel
    def looked_up(T: tw.f32["N", "C"], at: tw.i32["B"]):
        last = T.shape[0] - 1
        return tw.compute(lambda b, c: T[np.clip(at[b].astype(tw.i64), 0, last), c])

    table, at = normal(9, 16), np.array([3, -5, 100, 8], np.int32)
    np.testing.assert_array_equal(looked_up(table, at), table[np.clip(at, 0, 8)])


def test_functions_are_numpys() -> None:
    @tw.kernel
    def many(X: tw.f32["N"], Y: tw.f32["N"]):
        def element(i):
            x, y = X[i], Y[i]
            a = np.exp(-abs(x)) + np.maximum(x, y) * np.tanh(y) - np.sqrt(x * x)
            b = np.where(x > y, np.floor(x) % 3.0, x**3 + 2 / (1 + y * y))
            return (
                a
                + b
                + np.float32(0.5) * np.sign(x)
                + np.minimum(1, x).astype(tw.i32).astype(tw.f32)
            )

        return tw.compute(element)

    x, y = normal(200), normal(200)[::-1].copy()
    a = np.exp(-abs(x)) + np.maximum(x, y) * np.tanh(y) - np.sqrt(x * x)
    b = np.where(x > y, np.floor(x) % 3, x**3 + 2 / (1 + y * y))
    want = a + b + 0.5 * np.sign(x) + np.trunc(np.minimum(1, x))
    np.testing.assert_allclose(many(x, y), want, rtol=1e-5, atol=1e-5)


def test_integers_and_bools_follow_numpy() -> None:
    @tw.kernel
    def bits(X: tw.i32["N"]):
        return tw.compute(
            lambda i: (
                (X[i] // 3) ^ ((X[i] % 5) << 2) | ~(X[i] >> 1) & 7,
                (X[i] > 0) & ~(X[i] == 4) | (X[i] != X[-1]),
            )
        )

    x = numbers(40, dtype=np.int32)
    found, truth = bits(x)
    np.testing.assert_array_equal(found, (x // 3) ^ ((x % 5) << 2) | ~(x >> 1) & 7)
    np.testing.assert_array_equal(truth, (x > 0) & ~(x == 4) | (x != x[-1]))


def test_numbers_beside_arrays_are_part_of_the_program() -> None:
    @tw.kernel
    def power(X: tw.f32["N"], *, times: int, shift: float = 0.0):
        def element(i):
            result = X[i] + shift
            for _ in range(times - 1):
                result = result * X[i]
            return result

        return tw.compute(element)

    x = numbers(9)
    np.testing.assert_array_equal(power(x, times=3), x * x * x)
    np.testing.assert_array_equal(power(X=x, times=1, shift=2), x + 2)
    assert "(X[i] + 0.0) * X[i]" in text(power.group(times=2))
    for wrong in ({}, {"times": 2.0}, {"times": True}):
        with pytest.raises(tw.InputError, match="TW-E0324"):
            power(x, **wrong)


def test_axes_of_one_name_are_told_apart() -> None:
    @tw.kernel
    def nested(A: tw.f32["N", "N"]):
        def inner(o):
            return tw.sum(lambda k: A[o, k])

        return tw.compute(
            lambda k: tw.max(lambda i: inner(i) * A[k, i]) + tw.sum(lambda k: A[k, k])
        )

    a = numbers(5, 5)
    want = (a.sum(1)[None, :] * a).max(1) + np.trace(a)
    np.testing.assert_array_equal(nested(a), want)


def test_a_kernel_without_axes_gives_one_number() -> None:
    @tw.kernel
    def dot(X: tw.f64["N"], Y: tw.f64["N"], scale: tw.f64):
        return tw.compute(lambda: scale[()] * tw.sum(lambda i: X[i] * Y[i]))

    x = numbers(17, dtype=np.float64)
    assert dot(x, x, np.float64(2)) == 2 * (x @ x)


def test_dims_may_be_bound_by_ranges_and_by_each_other() -> None:
    @tw.kernel(dim_ranges={"N": (4, 64)})
    def inner(X: tw.f32["N", "2*N + 1"]):
        return tw.compute(lambda i, j: X[i + 1, 2 * j + 2], shape=(X.shape[0] - 2, X.shape[0] - 1))

    x = numbers(6, 13)
    np.testing.assert_array_equal(inner(x), x[1:5, 2::2][:, :5])
    with pytest.raises(tw.InputError, match="TW-E0306"):
        inner(numbers(3, 7))
    with pytest.raises(tw.InputError, match="TW-E0304"):
        inner(numbers(6, 12))


# ------------------------------------------------------------------ what cannot be meant


def stating(expression: str) -> Any:
    """A kernel over X[N, C], Y[C] and at[N] whose result is what an expression makes of them."""

    @tw.kernel
    def stated(X: tw.f32["N", "C"], Y: tw.f32["C"], at: tw.i32["N"]):
        return eval(expression, {"tw": tw, "np": np, "math": math, "X": X, "Y": Y, "at": at})

    return stated


REFUSED: dict[str, tuple[str, str, str]] = {
    "two dtypes": (
        "TW-E0262", "i32 and f32",
        "tw.compute(lambda n, c: at[n] + X[n, c])",
    ),
    "a float of integers": (
        "TW-E0262", "i32 does not hold 0.5",
        "tw.compute(lambda n: at[n] + 0.5)",
    ),
    "a quotient of integers": (
        "TW-E0262", "integers have //",
        "tw.compute(lambda n: at[n] / 2)",
    ),
    "a float index": (
        "TW-E0262", "an index is an integer",
        "tw.compute(lambda c: Y[Y[c]])",
    ),
    "a logical and of floats": (
        "TW-E0262", "not defined for f32",
        "tw.compute(lambda c: Y[c] & Y[c])",
    ),
    "a sum of bool": (
        "TW-E0262", "sum of bool",
        "tw.compute(lambda: tw.sum(lambda c: Y[c] > 0))",
    ),
    "an if": (
        "TW-E0263", "np.where",
        "tw.compute(lambda c: Y[c] if Y[c] > 0 else -Y[c])",
    ),
    "a chained comparison": (
        "TW-E0263", "0 <= i < n",
        "tw.compute(lambda c: 0 < Y[c] < 1)",
    ),
    "a function of math": (
        "TW-E0263", "NumPy's functions",
        "tw.compute(lambda c: math.exp(Y[c]))",
    ),
    "a range": (
        "TW-E0263", "tw.sum",
        "tw.compute(lambda c: sum(Y[k] for k in range(Y.shape[0])))",
    ),
    "a reduction of NumPy's": (
        "TW-E0265", "elements",
        "tw.compute(lambda n: np.exp(Y)[n])",
    ),
    "an unknown function": (
        "TW-E0264", "numpy.cbrt",
        "tw.compute(lambda c: np.cbrt(Y[c]))",
    ),
    "too few indices": (
        "TW-E0265", "1 indices for 2 dims",
        "tw.compute(lambda n: X[n])",
    ),
    "a slice": (
        "TW-E0265", "slice",
        "tw.compute(lambda n: X[n, :])",
    ),
    "a loop over an array": (
        "TW-E0265", "over axes",
        "tw.compute(lambda n: [y for y in Y][0])",
    ),
    "an axis without a size": (
        "TW-E0266", "give shape=",
        "tw.compute(lambda i: Y[2 * i])",
    ),
    "an axis with two sizes": (
        "TW-E0266", "N in X and over C",
        "tw.compute(lambda i: X[i, i])",
    ),
    "too few sizes": (
        "TW-E0266", "1 sizes for 2 axes",
        "tw.compute(lambda i, j: X[i, j], shape=(2,))",
    ),
    "an empty axis": (
        "TW-E0266", "may be less than 1",
        "tw.compute(lambda i: Y[i], shape=(Y.shape[0] - 1,))",
    ),
    "a size from data": (
        "TW-E0266", "dims alone",
        "tw.compute(lambda i: Y[i], shape=(at[0].astype(tw.i64),))",
    ),
    "an axis of another stage": (
        "TW-E0266", "another stage",
        "tw.compute(lambda c: tw.compute(lambda n: X[n, c])[0])",
    ),
    "a default of an axis": (
        "TW-E0266", "without",
        "tw.compute(lambda c, d=0: Y[c])",
    ),
    "no axis to reduce": (
        "TW-E0266", "no parameter",
        "tw.compute(lambda c: tw.sum(lambda: Y[c]))",
    ),
    "two axes of argmax": (
        "TW-E0266", "2 parameters",
        "tw.compute(lambda: tw.argmax(lambda n, c: X[n, c]))",
    ),
    "beyond the end": (
        "TW-E0267", "0..C - 1 for c in 0..C - 1",
        "tw.compute(lambda c: Y[c + 1], shape=Y.shape)",
    ),
    "before the beginning": (
        "TW-E0267", "may be outside",
        "tw.compute(lambda c: Y[c - 1], shape=Y.shape)",
    ),
    "a guard outside of a sum": (
        "TW-E0267", "within the same sum",
        "tw.compute(lambda n: np.where(n > 0, tw.sum(lambda c: X[n - 1, c]), 0.0), shape=at.shape)",
    ),
    "an index from data": (
        "TW-E0267", "np.clip",
        "tw.compute(lambda n: Y[at[n]])",
    ),
    "a known index": (
        "TW-E0267", "Y[3]",
        "tw.compute(lambda: Y[3])",
    ),
    "a number": (
        "TW-E0261", "float",
        "tw.compute(lambda: 1.0)",
    ),
    "nothing": (
        "TW-E0261", "NoneType",
        "None",
    ),
    "a parameter": (
        "TW-E0261", "its parameter",
        "X",
    ),
    "a scalar": (
        "TW-E0261", "Scalar",
        "X[0, 0]",
    ),
    "an array as a number": (
        "TW-E0261", "Array",
        "tw.compute(lambda c: Y[c] + X)",
    ),
    "no function": (
        "TW-E0261", "takes a function",
        "tw.compute(3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_meant_is_refused_where_it_is_stated(why: str) -> None:
    code, words, expression = REFUSED[why]
    with pytest.raises(tw.TilewrightError) as caught:
        stating(expression)
    assert caught.value.code == code
    assert words in caught.value.message, caught.value.message
    assert ".1" not in caught.value.message  # the numbers that tell axes apart are ours


@pytest.mark.parametrize(
    "expression",
    [
        "tw.compute(lambda c: np.where(c >= 1, Y[c - 1], 0.0), shape=Y.shape)",
        "tw.compute(lambda c: np.where(c < 1, 0.0, Y[c - 1]), shape=Y.shape)",
        "tw.compute(lambda c: np.where(~(c == 0) & (c > 0), Y[c - 1], 0.0), shape=Y.shape)",
        "tw.compute(lambda i: np.where(i + 2 < Y.shape[0], Y[i + 2], 0.0), shape=(64,))",
        "tw.compute(lambda i: Y[np.minimum(i, Y.shape[0] - 1)], shape=(64,))",
        "tw.compute(lambda i: X[i // Y.shape[0], i % Y.shape[0]],"
        " shape=(X.shape[0] * Y.shape[0],))",
    ],
)
def test_a_condition_or_a_clamp_keeps_a_read_inside(expression: str) -> None:
    stating(expression)


def declared(annotation: Any, **options: Any) -> Any:
    def odd(X):
        return tw.compute(lambda i: X[i])

    odd.__annotations__ = {"X": annotation}
    return tw.kernel(**options)(odd)


@pytest.mark.parametrize(
    "annotation",
    [np.ndarray, None, tw.f32[0], tw.f32[-1], tw.f32["N*"], tw.f32["for"], tw.f32["N*M"],
     tw.f32["X"], "tw.f33[3]"],
    ids=str,
)  # fmt: skip
def test_a_parameter_that_is_no_array_is_refused(annotation: Any) -> None:
    with pytest.raises(tw.ModelError, match="TW-E0260"):
        declared(annotation)


def test_a_range_is_of_a_dim_and_not_empty() -> None:
    for ranges, code in (
        ({"M": (1, 2)}, "TW-E0823"),
        ({"N": (0, 2)}, "TW-E0810"),
        ({"N": (5, 2)}, "TW-E0810"),
    ):
        with pytest.raises(tw.OptionError, match=code):
            declared(tw.f32["N"], dim_ranges=ranges)


def test_a_call_says_what_does_not_fit() -> None:
    gemm = product(tw.f32)
    a = numbers(4, 4)
    for args, code in (
        ((a,), "TW-E0301"), ((a, a, a), "TW-E0301"), ((a, a.astype(np.float64)), "TW-E0302"),
        ((a, a[0]), "TW-E0303"), ((a, a[:3]), "TW-E0305"), ((a, "a"), "TW-E0308"),
        ((a, a[:, :0]), "TW-E0306"),
    ):  # fmt: skip
        with pytest.raises(tw.InputError) as caught:
            gemm(*args)
        assert caught.value.code == code
    with pytest.raises(tw.InputError, match="TW-E0301"):
        gemm(a, C=a)
    np.testing.assert_array_equal(gemm(B=a, A=a), a @ a)


def test_a_kernel_may_be_compiled_for_each_size() -> None:
    @tw.kernel(dynamic=False)
    def scaled(X: tw.f32["N", "C"], by: tw.f32["C"], *, shift: float = 0.0):
        return tw.compute(lambda i, c: X[i, c] * by[c] + shift)

    by = numbers(4, seed=1)
    for n in (3, 5, 3):
        x = numbers(n, 4)
        np.testing.assert_array_equal(scaled(x, by), x * by)
        np.testing.assert_array_equal(scaled(x, by, shift=1.0), x * by + 1)
        exact = scaled.executable_for((x, by), {})
        assert [str(s) for s in exact.inputs] == [f"X: f32[{n}, 4]", "by: f32[4]"]
    for args in ((numbers(3, 4), numbers(5)), (numbers(4), by), (numbers(0, 4), by)):
        with pytest.raises(tw.TilewrightError, match="TW-E03|TW-E0810"):
            scaled(*args)


def test_sizes_that_are_not_the_kernels_are_refused() -> None:
    for dims in ({"Z": 1}, {"M": 0}, {"M": "4"}):
        with pytest.raises(tw.OptionError):
            product(tw.f32).graph(**dims)
