"""Expansions of scalar functions: the stated bounds, over the whole range, and special cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.tensor.evaluate import evaluate
from tilewright.tensor.intrinsics import INTRINSICS, call, expand
from tilewright.tensor.ir import Call, Cast, Const, Expr, Select, Unary, Var
from tilewright.tensor.walk import children, rebuild, visit

Array = np.ndarray[Any, np.dtype[Any]]

BOUNDS: dict[str, tuple[float, float]] = {
    # name: the largest error in ULP, for f32 and for f64
    "exp": (1.5, 1.5),
    "exp_flushed": (1.5, 1.5),
    "exp2": (2.0, 2.0),
    "expm1": (2.5, 2.5),
    "log": (1.0, 1.0),
    "log2": (2.0, 2.0),
    "log1p": (2.0, 2.0),
    "sin": (2.0, 2.0),
    "cos": (2.0, 2.0),
    "tan": (3.5, 3.5),
    "asin": (2.5, 2.5),
    "acos": (1.5, 1.5),
    "atan": (2.0, 2.0),
    "sinh": (2.0, 2.0),
    "cosh": (2.0, 2.0),
    "tanh": (2.5, 2.5),
    "asinh": (2.5, 2.5),
    "acosh": (2.5, 2.5),
    "atanh": (2.5, 2.5),
    "erf": (1.5, 1.5),
    "sigmoid": (2.5, 2.5),
    "rsqrt": (1.5, 1.5),
}
TWICE = {**BOUNDS, "exp": (2.0, 1.5), "exp_flushed": (2.0, 1.5), "sigmoid": (3.5, 2.5)}
"""The same on machines where a multiply-add is rounded twice."""
PERIODIC = {"sin", "cos", "tan"}
EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp,
    "exp_flushed": mpmath.exp,
    "exp2": lambda v: mpmath.mpf(2) ** v,
    "expm1": lambda v: v + v * v / 2 if abs(v) < 1e-30 else mpmath.expm1(v),
    "log": mpmath.log,
    "log2": lambda v: mpmath.log(v, 2),
    "log1p": mpmath.log1p,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "atan": mpmath.atan,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "asinh": mpmath.asinh,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
    "erf": mpmath.erf,
    "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)),
    "rsqrt": lambda v: 1 / mpmath.sqrt(v),
}


def _rounded_twice(e: Expr) -> Expr:
    """The expression as machines without a fused multiply-add compute it."""
    memo: dict[Expr, Expr] = {}
    for node in visit(e):
        new = rebuild(node, tuple(memo[child] for child in children(node)))
        if isinstance(new, Call) and new.name == "mad":
            a, b, c = new.args
            new = a * b + c
        memo[node] = new
    return memo[e]


def _apply(name: str, dtype: DType, *arrays: Array, fused: bool = True) -> Array:
    variables = [Var(f"x{k}", dtype) for k in range(len(arrays))]
    e = expand(call(name, *variables))
    e = e if fused else _rounded_twice(e)
    return evaluate(e, dict(zip(variables, arrays, strict=True)))


def _specials(dtype: DType) -> Array:
    info = np.finfo(dtype.numpy)
    tiny, small, large = float(info.smallest_subnormal), float(info.tiny), float(info.max)
    edges = [0.0, 1.0, 0.5, 2.0, 3.0, 8.0, math.pi / 2, math.pi, tiny, small, large, math.inf]
    edges += [88.722, 88.7228, 89.4159, 103.97, 104.1, 709.78, 710.47, 745.13, 745.2]
    values = np.array([*edges, math.nan], dtype.numpy)
    return np.concatenate([values, -values])


def _samples(dtype: DType, count: int) -> Array:
    """All signs and exponents, ranges of interest densely, the surroundings of 1, and specials."""
    rng = np.random.default_rng(7)
    width = np.uint32 if dtype is dt.f32 else np.uint64
    bits = rng.integers(0, np.iinfo(width).max, count, dtype=width, endpoint=True)
    ranges = [rng.uniform(-b, b, count) for b in (1, 2, 10, 110, 1e5)]
    near = 1 + np.arange(-200, 200) * float(np.finfo(dtype.numpy).eps)
    parts = [bits.view(dtype.numpy), *ranges, near, -near, _specials(dtype)]
    return np.concatenate([p.astype(dtype.numpy) for p in parts])


def _f32_error(got: Array, exact: Array) -> Array:
    """Errors in ULP of the exact f64 value; inf where one side is inf or nan and the other not."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        size = np.where(np.isfinite(exact) & (exact != 0), np.abs(exact), 1.0)
        ulp = 2.0 ** (np.clip(np.floor(np.log2(size)), -126, 127) - 23)
        error = np.abs(got.astype(np.float64) - exact) / ulp
    same = (np.isnan(got) & np.isnan(rounded)) | (got == rounded)
    finite = np.isfinite(got) & np.isfinite(rounded)
    return np.where(finite, error, np.where(same, 0.0, np.inf))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "rounded twice"])
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_f32_is_within_its_bound_over_the_whole_range(name: str, fused: bool) -> None:
    x = _samples(dt.f32, 60_000)
    if name in PERIODIC:
        x = x[~(np.abs(x) >= 2.0**50) | np.isinf(x)]
    got = _apply(name, dt.f32, x, fused=fused)
    with np.errstate(all="ignore"):
        exact = np.asarray(INTRINSICS[name].reference(x.astype(np.float64)))
    error = _f32_error(got, exact)
    worst = int(np.argmax(error))
    assert error[worst] <= (BOUNDS if fused else TWICE)[name][0], (
        x[worst],
        got[worst],
        exact[worst],
    )
    signs = (np.signbit(got) == np.signbit(exact)) | np.isnan(exact)
    assert signs.all(), x[~signs][:5]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "rounded twice"])
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_f64_is_within_its_bound(name: str, fused: bool) -> None:
    x = _samples(dt.f64, 250)
    if name in PERIODIC:
        x = x[~(np.abs(x) >= 2.0**26) | np.isinf(x)]
    got = _apply(name, dt.f64, x, fused=fused)
    with np.errstate(all="ignore"):
        reference = np.asarray(INTRINSICS[name].reference(x))
    with mpmath.workprec(160):
        for value, result, near in zip(x.tolist(), got.tolist(), reference.tolist(), strict=True):
            if not math.isfinite(near) or near == 0 or value == 0:
                assert result == near or (math.isnan(result) and math.isnan(near)), value
                assert math.copysign(1, result) == math.copysign(1, near) or math.isnan(near)
                continue
            exact = EXACT[name](mpmath.mpf(value))
            exponent = max(math.frexp(near)[1] - 1, -1022)
            error = abs(mpmath.mpf(result) - exact) / mpmath.mpf(2) ** (exponent - 52)
            assert error <= BOUNDS[name][1], (value, result, float(error))


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64])
def test_sin_and_cos_stay_within_one_for_huge_angles(dtype: DType) -> None:
    x = np.array([2.0**51, 1e30, -1e38], dtype.numpy)
    for name in ("sin", "cos"):
        assert (np.abs(_apply(name, dtype, x)) <= 1).all()
    assert np.isnan(_apply("sin", dtype, np.array([np.inf, -np.inf, np.nan], dtype.numpy))).all()


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64])
def test_bounded_functions_never_leave_their_range(dtype: DType) -> None:
    x = _samples(dtype, 2000)
    x = x[~np.isnan(x)]
    for name in ("tanh", "erf", "sin", "cos"):
        kept = x[np.isfinite(x)] if name in PERIODIC else x
        assert (np.abs(_apply(name, dtype, kept)) <= 1).all(), name
    assert (_apply("sigmoid", dtype, x) <= 1).all()
    assert (_apply("exp", dtype, x) >= 0).all()


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64])
def test_a_flushed_power_is_zero_or_normal_in_f32(dtype: DType) -> None:
    x = np.concatenate([_samples(dtype, 2000), np.linspace(-110, -80, 3001, dtype=dtype.numpy)])
    got = _apply("exp_flushed", dtype, x)
    assert (np.isnan(got) == np.isnan(x)).all()
    assert ((got == 0) | (got >= np.finfo(np.float32).tiny))[~np.isnan(x)].all()
    above = x >= -87
    np.testing.assert_array_equal(got[above], _apply("exp", dtype, x[above]))
    assert (got[x < -87] == 0).all()


def test_log2_and_exp2_are_exact_at_powers_of_two() -> None:
    n = np.arange(-149, 128)
    powers = np.ldexp(np.float32(1), n).astype(np.float32)
    np.testing.assert_array_equal(_apply("log2", dt.f32, powers), n.astype(np.float32))
    np.testing.assert_array_equal(_apply("exp2", dt.f32, n.astype(np.float32)), powers)


# ------------------------------------------------------------------ pow and fmod


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64])
def test_pow_has_the_special_cases_of_ieee_754(dtype: DType) -> None:
    edges = [0.0, 1.0, 0.5, 2.0, 2.5, 3.0, 7.0, 1e30, 1e-30, math.inf, 16777215.0, 16777217.0]
    values = np.array([*edges, *(-e for e in edges), math.nan], dtype.numpy)
    x, y = (a.ravel() for a in np.meshgrid(values, values))
    got = _apply("pow", dtype, x, y)
    with np.errstate(all="ignore"):
        wide = np.power(x.astype(np.float64), y.astype(np.float64))
        expected = wide.astype(dtype.numpy)
    tolerance = 2 * float(np.finfo(dtype.numpy).eps)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=0)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(expected[known]))


def _pow_operands(dtype: DType, count: int, logarithm: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(-logarithm * 0.9, logarithm * 0.9, count))
    x[::3] = rng.uniform(0.5, 2, len(x[::3]))
    x[1::5] = rng.uniform(0.999, 1.001, len(x[1::5]))
    x = x.astype(dtype.numpy)
    slope = np.maximum(np.abs(np.log(x.astype(np.float64))), 1e-12)
    y = rng.uniform(-1, 1, count) * logarithm / slope
    return x, np.clip(y, -1e9, 1e9).astype(dtype.numpy)


def test_pow_in_f32_is_within_one_ulp() -> None:
    x, y = _pow_operands(dt.f32, 100_000, 88.0)
    error = _f32_error(_apply("pow", dt.f32, x, y), np.power(x.astype(np.float64), y))
    assert error.max() <= 1.0


def test_pow_in_f64_is_within_two_ulp() -> None:
    x, y = _pow_operands(dt.f64, 800, 705.0)
    got = _apply("pow", dt.f64, x, y)
    with mpmath.workprec(200):
        for a, b, result in zip(x.tolist(), y.tolist(), got.tolist(), strict=True):
            exact = mpmath.power(mpmath.mpf(a), mpmath.mpf(b))
            exponent = max(math.frexp(result)[1] - 1, -1022)
            assert abs(mpmath.mpf(result) - exact) <= mpmath.mpf(2) ** (exponent - 51), (a, b)


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64])
def test_fmod_is_exact_for_any_operands(dtype: DType) -> None:
    x = _samples(dtype, 3000)
    y = np.random.default_rng(5).permutation(x)
    with np.errstate(all="ignore"):
        expected = np.fmod(x, y)
    got = _apply("fmod", dtype, x, y)
    np.testing.assert_array_equal(got, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(expected[known]))


@pytest.mark.parametrize("dtype", [dt.i64, dt.i32, dt.i8, dt.u8])
def test_integer_pow_and_fmod_wrap_and_truncate(dtype: DType) -> None:
    rng = np.random.default_rng(2)
    low = -9 if dtype.is_signed else 0
    x = rng.integers(low, 10, 2000).astype(dtype.numpy)
    y = rng.integers(low, 30, 2000).astype(dtype.numpy)
    got = _apply("pow", dtype, x, y)
    positive = y >= 0
    np.testing.assert_array_equal(got[positive], np.power(x[positive], y[positive]))
    of_minus_one = np.where(y % 2 == 1, -1, 1)
    inverse = np.where(x == 1, 1, np.where(x == -1, of_minus_one, 0)).astype(dtype.numpy)
    np.testing.assert_array_equal(got[~positive], inverse[~positive])
    divisor = np.where(y == 0, 3, y).astype(dtype.numpy)
    np.testing.assert_array_equal(_apply("fmod", dtype, x, divisor), np.fmod(x, divisor))


# ------------------------------------------------------------------ the table


@pytest.mark.parametrize("name", sorted(INTRINSICS))
@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16, dt.bf16])
def test_an_expansion_holds_native_calls_only_and_keeps_the_type(name: str, dtype: DType) -> None:
    entry = INTRINSICS[name]
    if entry.result == "any":
        return
    variables = [Var(f"x{k}", dtype) for k in range(entry.arity)]
    original = call(name, *variables)
    e = expand(original)
    assert e.dtype is original.dtype
    for node in visit(e):
        assert not isinstance(node, Call) or INTRINSICS[node.name].expand is None


def test_nested_calls_expand_together() -> None:
    x = Var("x", dt.f32)
    e = expand(call("exp", call("tanh", call("pow", x, Const(3.0, dt.f32)))))
    value = evaluate(e, {x: [0.25, -2.0]})
    np.testing.assert_allclose(value, np.exp(np.tanh(np.array([0.25, -2.0]) ** 3)), rtol=1e-6)


def test_f16_is_computed_in_f32_and_rounded_once() -> None:
    x = Var("x", dt.f16)
    values = np.linspace(-10, 10, 500).astype(np.float16)
    got = evaluate(expand(call("exp", x)), {x: values})
    np.testing.assert_array_equal(got, np.exp(values.astype(np.float64)).astype(np.float16))


def test_exp_takes_few_operations_and_no_branch() -> None:
    e = expand(call("exp", Var("x", dt.f32)))
    nodes = [n for n in visit(e) if not isinstance(n, Const | Var)]
    assert len(nodes) <= 22
    assert sum(isinstance(n, Select) for n in nodes) == 2
    assert not any(isinstance(n, Cast | Unary) for n in nodes)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda x: call("frob", x), "not a scalar function"),
        (lambda x: call("exp", x, x), "takes 1 operands, given 2"),
        (lambda x: call("pow", x, Const(1)), "different types"),
        (lambda x: call("exp", Const(1)), "needs floats"),
        (lambda x: call("bitcast", x), "needs the type of its result"),
        (lambda x: call("bitcast", x, dtype=dt.i64), "differ in width"),
        (lambda x: call("exp", x, dtype=dt.f64), "gives f32, not f64"),
    ],
)
def test_a_call_that_does_not_fit_the_table_is_refused(
    build: Callable[[Var], Call], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        build(Var("x", dt.f32))


def test_the_reference_fma_rounds_once() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        a, b = rng.standard_normal((2, 4000)).astype(dtype)
        c = (-(a * b) * (1 + rng.standard_normal(4000) * 2.0 ** -rng.integers(0, 60, 4000))).astype(
            dtype
        )
        got = INTRINSICS["fma"].reference(a, b, c)
        with mpmath.workprec(400):
            exact = [
                mpmath.mpf(float(p)) * float(q) + float(s) for p, q, s in zip(a, b, c, strict=True)
            ]
            if dtype is np.float64:
                assert got.tolist() == [float(v) for v in exact]
                continue
            # Rounded to nearest: no neighbour is closer.
            for result, v in zip(got, exact, strict=True):
                error = abs(mpmath.mpf(float(result)) - v)
                for side in (-np.inf, np.inf):
                    other = float(np.nextafter(result, dtype(side)))
                    assert error <= abs(mpmath.mpf(other) - v)
