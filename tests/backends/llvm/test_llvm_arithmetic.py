"""Arithmetic of every element type gives what NumPy gives, on every x86-64 level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.dtype import DTYPES, DType
from tilewright.tensor.intrinsics import INTRINSICS, call
from tilewright.tensor.ir import (
    Binary,
    Buffer,
    Cast,
    Const,
    For,
    Func,
    Select,
    Store,
    Unary,
    Var,
    lt,
    maximum,
    minimum,
)

from .run_kernel import TARGETS as LEVELS
from .run_kernel import Array, run_func, runs_here

TARGETS = [t for t in LEVELS if t != "native" and runs_here(t)]
# The references meet nan, infinity and zero divisors on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
NUMBERS = [t for t in DTYPES.values() if t is not dt.bool_]
FLOATS = [t for t in NUMBERS if t.is_float]
INTEGERS = [t for t in NUMBERS if not t.is_float]
COUNT = 53


def elementwise(cases: list[tuple[Any, DType]], types: list[DType]) -> Func:
    """Vector loops of odd length and scalar loops that compute each case of the inputs."""
    i = Var("i")
    buffers = [Buffer(f"X{n}", t, (COUNT,)) for n, t in enumerate(types)]
    outputs: list[Buffer] = []
    body: list[For] = []
    for n, (value, dtype) in enumerate(cases):
        for name, kind in (("Y", "vector"), ("Z", "serial")):
            y = Buffer(f"{name}{n}", dtype, (COUNT,))
            outputs.append(y)
            store = Store(y, (i,), value(*[b[i] for b in buffers]))
            body.append(For(i, COUNT, (store,), kind))  # type: ignore[arg-type]
    return Func("kernel", (*buffers, *outputs), tuple(body))


def check(inputs: list[Array], cases: list[tuple[Any, Array]], target: str) -> None:
    """Checks each case, a function of expressions, against its expected array."""
    func = elementwise([(f, dtype_of(e)) for f, e in cases], [dtype_of(x) for x in inputs])
    outputs = [np.zeros_like(e) for _, e in cases for _ in range(2)]
    run_func(func, *inputs, *outputs, target=target)
    for n, got in enumerate(outputs):
        want = cases[n // 2][1]
        if dtype_of(want) is dt.bf16:
            # NumPy does not take nan as equal to nan in a foreign type.
            got, want = got.astype(np.float32), want.astype(np.float32)
        np.testing.assert_array_equal(got, want, err_msg=f"case {n // 2}")


def dtype_of(array: Array) -> DType:
    found = dt.from_numpy(array.dtype)
    assert found is not None
    return found


def operator(op: Any) -> Any:
    return lambda x, y: Binary(op, x, y)


def sample(dtype: DType, seed: int) -> Array:
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
    return x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_arithmetic_rounds_or_wraps_as_numpy_does(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    cases = [
        (operator("add"), (a + b).astype(dtype.numpy)),
        (operator("sub"), (a - b).astype(dtype.numpy)),
        (operator("mul"), (a * b).astype(dtype.numpy)),
        (lambda x, _: Unary("abs", x), np.abs(a)),
        (lambda x, _: Unary("neg", x), np.negative(a)),
    ]
    if dtype.is_float:
        cases.append((operator("div"), (a / b).astype(dtype.numpy)))
    check([a, b], cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*NUMBERS, dt.bool_], ids=str)
def test_comparisons_know_sign_and_nan(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    b[::5] = a[::5]
    names = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
             "gt": np.greater, "ge": np.greater_equal}  # fmt: skip
    check([a, b], [(operator(op), f(a, b)) for op, f in names.items()], target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*NUMBERS, dt.bool_], ids=str)
def test_extremes_of_floats_propagate_nan(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    cases = [(operator("min"), np.minimum(a, b)), (operator("max"), np.maximum(a, b))]
    one = np.ones(1, dtype.numpy)
    cases.append((lambda x, _: minimum(x, Const(1, dtype)), np.minimum(a, one)))
    cases.append((lambda x, _: maximum(Const(1, dtype), x), np.maximum(a, one)))
    check([a, b], cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_division_of_integers_survives_zero_and_overflow(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    if dtype.is_signed:
        info = np.iinfo(dtype.numpy)
        a[:2], b[:2] = (info.min, 17), (-1, 0)
    floor = np.floor_divide(a, b)
    # Truncation: the floor, one up where it rounded a negative quotient down.
    crossed = (np.fmod(a, b) != 0) & ((a < 0) != (b < 0)) & (b != 0)
    cases = [
        (operator("floordiv"), floor),
        (operator("mod"), np.mod(a, b)),
        (operator("div"), floor + crossed.astype(a.dtype)),
    ]
    for divisor in (1, 3, 8, 100):
        c = dtype.numpy.type(divisor)
        cases.append((lambda x, _, d=divisor: x // d, a // c))
        cases.append((lambda x, _, d=divisor: x % d, a % c))
    check([a, b], cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*INTEGERS, dt.bool_], ids=str)
def test_bits_are_combined_and_shifted(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    cases = [
        (operator("and"), a & b),
        (operator("or"), a | b),
        (operator("xor"), a ^ b),
        (lambda x, _: Unary("not", x), ~a),
    ]
    check([a, b], cases, target)
    if dtype is dt.bool_:
        return
    count = np.abs(b % 7).astype(dtype.numpy)
    check([a, count], [(operator("shl"), a << count), (operator("shr"), a >> count)], target)
    over = np.full_like(a, dtype.bits)
    signs = np.where(a < 0, -1, 0).astype(a.dtype)
    check([a, over], [(operator("shl"), np.zeros_like(a)), (operator("shr"), signs)], target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_native_functions_are_exact(dtype: DType, target: str) -> None:
    a, b = sample(dtype, 1), sample(dtype, 2)
    names = {"sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
             "round": np.rint}  # fmt: skip
    cases: list[tuple[Any, Array]] = [
        (lambda x, _, n=name: call(n, x), f(a).astype(dtype.numpy)) for name, f in names.items()
    ]
    cases.append((lambda x, y: call("copysign", x, y), np.copysign(a, b).astype(dtype.numpy)))
    check([a, b], cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [dt.f32, dt.f64], ids=str)
def test_fma_rounds_once_without_the_instruction_too(dtype: DType, target: str) -> None:
    rng = np.random.default_rng(5)
    a, b, near = (rng.standard_normal(COUNT).astype(dtype.numpy) for _ in range(3))
    # Mostly cancelled: the result is the rounding error of the product.
    c = np.where(near > 0, -(a * b), near).astype(dtype.numpy)
    a[0], b[1], c[2] = np.inf, np.nan, np.inf
    expected = INTRINSICS["fma"].reference(a, b, c)
    check([a, b, c], [(lambda x, y, z: call("fma", x, y, z), expected)], target)


@pytest.mark.parametrize("target", TARGETS)
def test_select_takes_each_lane_from_one_arm(target: str) -> None:
    a, b = sample(dt.f32, 1), sample(dt.f32, 2)
    value = np.where(a < b, a * 2, b)
    check([a, b], [(lambda x, y: Select(lt(x, y), x * 2.0, y), value)], target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", [*NUMBERS, dt.bool_], ids=str)
def test_conversions_are_numpys(source: DType, target: str) -> None:
    a = sample(source, 1)
    # A float that an integer cannot hold has no value: those keep to a small range.
    wide = np.nan_to_num(a.astype(np.float64), nan=3.5) if source.is_float else a
    small = np.clip(np.abs(wide), 0, 100).astype(source.numpy) if source.is_float else a
    signed = np.clip(wide, -100, 100).astype(source.numpy) if source.is_float else a
    cases: list[tuple[Any, Array]] = []
    for result in (*NUMBERS, dt.bool_):
        if result is dt.bool_ or result.is_float:
            # NumPy goes from integers to halves by way of f32, too.
            by_f32 = source.is_integer and result.bits == 16
            expected = (a.astype(np.float32) if by_f32 else a).astype(result.numpy)
            cases.append((lambda x, _s, _u, t=result: Cast(x, t), expected))
        elif result.is_signed:
            cases.append((lambda _x, s, _u, t=result: Cast(s, t), signed.astype(result.numpy)))
        else:
            cases.append((lambda _x, _s, u, t=result: Cast(u, t), small.astype(result.numpy)))
    check([a, signed, small], cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [dt.f16, dt.bf16], ids=str)
def test_half_precision_rounds_to_nearest_even_once(dtype: DType, target: str) -> None:
    rng = np.random.default_rng(3)
    halves = rng.integers(0, 1 << 16, COUNT).astype(np.uint16).view(dtype.numpy)
    check([halves], [(lambda x: Cast(x, dt.f32), halves.astype(np.float32))], target)
    singles = rng.integers(0, 1 << 32, COUNT, dtype=np.uint32).view(np.float32)
    ties = (halves.astype(np.float32).view(np.uint32) + np.uint32(0x1000)).view(np.float32)
    doubles = np.nextafter(ties.astype(np.float64), np.inf)
    inputs = [singles, ties, *([doubles] if dtype is dt.f16 else [])]
    for x in inputs:
        check([x], [(lambda v: Cast(v, dtype), x.astype(dtype.numpy))], target)


@pytest.mark.parametrize("target", TARGETS)
def test_expanded_functions_stay_close_to_numpy(target: str) -> None:
    a = np.abs(np.random.default_rng(0).standard_normal(COUNT)).astype(np.float32) + 0.1
    names = ("exp", "tanh", "erf", "sigmoid", "log", "sin")
    func = elementwise([(lambda x, n=n: call(n, x), dt.f32) for n in names], [dt.f32])
    outputs = [np.zeros_like(a) for _ in names for _ in range(2)]
    run_func(func, a, *outputs, target=target)
    for n, name in enumerate(names):
        expected = INTRINSICS[name].reference(a.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(outputs[2 * n], expected, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(outputs[2 * n], outputs[2 * n + 1], err_msg=name)
