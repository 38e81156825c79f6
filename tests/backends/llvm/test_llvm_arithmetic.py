"""Arithmetic of every element type gives what NumPy gives, on every x86-64 level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from .run_kernel import TARGETS as LEVELS
from .run_kernel import run_func, runs_here

from tilewright import dtype as dt
from tilewright.dtype import DTYPES, DType
from tilewright.tensor.intrinsics import INTRINSICS, call
from tilewright.tensor.ir import (
    Binary,
    Buffer,
    Cast,
    For,
    Func,
    Select,
    Store,
    Unary,
    Var,
    binary,
    lt,
)

TARGETS = [t for t in LEVELS if runs_here(t)]
# The references meet nan, infinity and zero divisors on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
NUMBERS = [t for t in DTYPES.values() if t is not dt.bool_]
FLOATS = [t for t in NUMBERS if t.is_float]
INTEGERS = [t for t in NUMBERS if not t.is_float]
COUNT = 53


def elementwise(value: Any, types: list[DType], result: DType) -> Func:
    """A vector loop of odd length and a scalar loop that both compute ``value`` of the inputs."""
    i, j = Var("i"), Var("j")
    buffers = [Buffer(f"X{n}", t, (COUNT,)) for n, t in enumerate(types)]
    y, z = Buffer("Y", result, (COUNT,)), Buffer("Z", result, (COUNT,))
    vector = For(i, COUNT, (Store(y, (i,), value(*[b[i] for b in buffers])),), "vector")
    scalar = For(j, COUNT, (Store(z, (j,), value(*[b[j] for b in buffers])),))
    return Func("kernel", (*buffers, y, z), (vector, scalar))


def check(
    value: Any,
    inputs: list[np.ndarray[Any, Any]],
    expected: np.ndarray[Any, Any],
    target: str,
) -> None:
    types = [dt.from_numpy(x.dtype) for x in inputs]
    result = dt.from_numpy(expected.dtype)
    assert result is not None
    func = elementwise(value, [t for t in types if t is not None], result)
    y, z = np.zeros_like(expected), np.zeros_like(expected)
    run_func(func, *inputs, y, z, target=target)
    if result is dt.bf16:
        # NumPy does not take nan as equal to nan in a foreign type.
        y, z, expected = (x.astype(np.float32) for x in (y, z, expected))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(z, expected)


def sample(dtype: DType, seed: int, nonzero: bool = False) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if dtype is dt.bool_:
        return rng.integers(0, 2, COUNT).astype(np.bool_)
    if dtype.is_float:
        x = (rng.standard_normal(COUNT) * 8).astype(dtype.numpy)
        x[:7] = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 6e-5]).astype(dtype.numpy)
        rng.shuffle(x)
        return x
    info = np.iinfo(dtype.numpy)
    x = rng.integers(info.min, info.max, COUNT, dtype=dtype.numpy, endpoint=True)
    x[:8] = [dtype.numpy.type(v) for v in (0, 1, 2, 3, info.min, info.max, 5, 7)]
    rng.shuffle(x)
    if nonzero:
        x[x == 0] = 3
    return x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_arithmetic_rounds_or_wraps_as_numpy_does(op: str, dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    numpy_op = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op]
    with np.errstate(all="ignore"):
        expected = numpy_op(a, b).astype(dtype.numpy)
    check(lambda x, y: Binary(op, x, y), [a, b], expected, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*NUMBERS, dt.bool_], ids=str)
@pytest.mark.parametrize("op", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_know_sign_and_nan(op: str, dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    b[::5] = a[::5]
    numpy_op = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
                "gt": np.greater, "ge": np.greater_equal}[op]  # fmt: skip
    check(lambda x, y: Binary(op, x, y), [a, b], numpy_op(a, b), target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*NUMBERS, dt.bool_], ids=str)
@pytest.mark.parametrize("op", ["min", "max"])
def test_extremes_of_floats_propagate_nan(op: str, dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    numpy_op = np.minimum if op == "min" else np.maximum
    check(lambda x, y: Binary(op, x, y), [a, b], numpy_op(a, b), target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["min", "max"])
def test_an_extreme_with_a_constant_propagates_nan(op: str, target: str) -> None:
    a = sample(dt.f32, 1)
    numpy_op = np.minimum if op == "min" else np.maximum
    expected = numpy_op(a, np.float32(0.5))
    check(lambda x: binary(op, x, 0.5), [a], expected, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_division_of_floats_is_ieee(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    with np.errstate(all="ignore"):
        expected = (a / b).astype(dtype.numpy)
    check(lambda x, y: x / y, [a, b], expected, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("op", ["floordiv", "mod", "div"])
def test_division_of_integers_survives_zero_and_overflow(
    op: str, dtype: DType, target: str
) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    if dtype.is_signed:
        info = np.iinfo(dtype.numpy)
        a[:2], b[:2] = (info.min, 17), (-1, 0)
    with np.errstate(all="ignore"):
        expected = np.floor_divide(a, b) if op == "floordiv" else np.mod(a, b)
        if op == "div":
            # Truncation: the floor, one up where it rounded a negative quotient down.
            rest = np.fmod(a, b)
            expected = np.floor_divide(a, b)
            expected = expected + ((rest != 0) & ((a < 0) != (b < 0)) & (b != 0)).astype(a.dtype)
    check(lambda x, y: Binary(op, x, y), [a, b], expected, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [t for t in INTEGERS if t.is_signed], ids=str)
@pytest.mark.parametrize("divisor", [1, 3, 8, 100])
def test_division_by_a_constant_rounds_down(dtype: DType, divisor: int, target: str) -> None:
    a = sample(dtype, 1)
    check(lambda x: x // divisor, [a], a // np.array(divisor, dtype.numpy), target)
    check(lambda x: x % divisor, [a], a % np.array(divisor, dtype.numpy), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*INTEGERS, dt.bool_], ids=str)
def test_bits_are_combined_and_shifted(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    check(lambda x, y: Binary("and", x, y), [a, b], a & b, target)
    check(lambda x, y: Binary("or", x, y), [a, b], a | b, target)
    check(lambda x, y: Binary("xor", x, y), [a, b], a ^ b, target)
    check(lambda x: Unary("not", x), [a], ~a, target)
    if dtype is dt.bool_:
        return
    count = (b % dtype.bits if not dtype.is_signed else np.abs(b % 7)).astype(dtype.numpy)
    check(lambda x, y: Binary("shl", x, y), [a, count], a << count, target)
    check(lambda x, y: Binary("shr", x, y), [a, count], a >> count, target)
    over = np.full_like(a, dtype.bits)
    check(lambda x, y: Binary("shl", x, y), [a, over], np.zeros_like(a), target)
    check(
        lambda x, y: Binary("shr", x, y),
        [a, over],
        np.where(a < 0, -1, 0).astype(a.dtype),
        target,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_signs_are_changed_and_dropped(dtype: DType, target: str) -> None:
    a = sample(dtype, 1)
    with np.errstate(all="ignore"):
        check(lambda x: Unary("abs", x), [a], np.abs(a), target)
        check(lambda x: Unary("neg", x), [a], np.negative(a), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["sqrt", "floor", "ceil", "trunc", "round"])
def test_native_functions_are_exact(name: str, dtype: DType, target: str) -> None:
    a = sample(dtype, 1)
    numpy_name = {"round": np.rint}.get(name) or getattr(np, name)
    with np.errstate(all="ignore"):
        expected = numpy_name(a).astype(dtype.numpy)
    check(lambda x: call(name, x), [a], expected, target)


@pytest.mark.parametrize("target", TARGETS)
def test_select_takes_each_lane_from_one_arm(target: str) -> None:
    a, b = sample(dt.f32, 1), sample(dt.f32, 2)
    check(
        lambda x, y: Select(lt(x, y), x * 2.0, y),
        [a, b],
        np.where(a < b, a * 2, b),
        target,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", [*NUMBERS, dt.bool_], ids=str)
@pytest.mark.parametrize("result", [*NUMBERS, dt.bool_], ids=str)
def test_conversions_are_numpys(source: DType, result: DType, target: str) -> None:
    a = sample(source, 1)
    if source.is_float and not result.is_float and result is not dt.bool_:
        # Out of range has no value; keep to what every type can hold.
        limit = 100 if result.is_signed else 200
        wide = np.nan_to_num(a.astype(np.float64), nan=3.5)
        wide = wide if result.is_signed else np.abs(wide)
        a = np.clip(wide, -limit, limit).astype(source.numpy)
    with np.errstate(all="ignore"):
        expected = a.astype(result.numpy)
        if source.is_integer and result.is_float and result.bits == 16:
            expected = a.astype(np.float32).astype(result.numpy)
    check(lambda x: Cast(x, result), [a], expected, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [dt.f16, dt.bf16], ids=str)
def test_half_precision_rounds_to_nearest_even_once(dtype: DType, target: str) -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 16, COUNT).astype(np.uint16)
    halves = bits.view(dtype.numpy)
    check(lambda x: Cast(x, dt.f32), [halves], halves.astype(np.float32), target)
    singles = rng.integers(0, 1 << 32, COUNT, dtype=np.uint32).view(np.float32)
    ties = (halves.astype(np.float32).view(np.uint32) + np.uint32(0x1000)).view(np.float32)
    doubles = np.nextafter(ties.astype(np.float64), np.inf)
    with np.errstate(all="ignore"):
        for x in (singles, ties):
            check(lambda v: Cast(v, dtype), [x], x.astype(dtype.numpy), target)
        if dtype is dt.f16:
            check(lambda v: Cast(v, dtype), [doubles], doubles.astype(dtype.numpy), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid", "log", "sin"])
def test_expanded_functions_stay_close_to_numpy(name: str, target: str) -> None:
    a = np.abs(np.random.default_rng(0).standard_normal(COUNT)).astype(np.float32) + 0.1
    func = elementwise(lambda x: call(name, x), [dt.f32], dt.f32)
    y, z = np.zeros_like(a), np.zeros_like(a)
    run_func(func, a, y, z, target=target)
    expected = INTRINSICS[name].reference(a.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_array_equal(y, z)
