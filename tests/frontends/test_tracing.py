"""Traced NumPy functions give what NumPy gives, compiled once for all sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.errors import InputError

F = Callable[..., Any]
RNG = np.random.default_rng(0)


def make(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return RNG.random(shape) > 0.5
    if dtype[0] in "iu":
        low = 1 if dtype[0] == "u" else -9
        return RNG.integers(low, 10, shape).astype(dtype)
    return (RNG.random(shape) * 4 - 2).astype(dtype)


def agree(found: Any, wanted: Any) -> None:
    """Equal in structure, type, dtype and shape; in value within the rounding of the dtype."""
    if isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            agree(a, b)
        return
    assert type(found) is type(wanted), (type(found), type(wanted))
    a, b = np.asarray(found), np.asarray(wanted)
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
    if a.dtype.kind == "f":
        tolerance = {2: 5e-3, 4: 2e-5, 8: 1e-10}[a.dtype.itemsize]
        np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(a, b)


def check(function: F, *calls: tuple[Any, ...], compiles: int = 1) -> None:
    jitted = tw.jit(function)
    for args in calls:
        with np.errstate(all="ignore"):
            wanted = function(*args)
        agree(jitted(*args), wanted)
    assert jitted.compiles == compiles


UNARY_FLOAT = [
    np.exp, np.exp2, np.expm1, np.sin, np.cos, np.tan, np.arctan, np.sinh, np.cosh, np.tanh,
    np.arcsinh, np.cbrt, np.rint, np.floor, np.ceil, np.trunc, np.isnan, np.isinf, np.isfinite,
    np.degrees, np.radians, np.negative, np.absolute, np.fabs, np.sign, np.square, np.positive,
    np.logical_not, np.modf,
]  # fmt: skip
UNARY_POSITIVE = [np.sqrt, np.log, np.log2, np.log10, np.log1p, np.reciprocal]
UNARY_SMALL = [np.arcsin, np.arccos, np.arctanh]
BINARY = [
    np.add, np.subtract, np.multiply, np.divide, np.floor_divide, np.remainder, np.fmod,
    np.maximum, np.minimum, np.fmax, np.fmin, np.equal, np.not_equal, np.less, np.less_equal,
    np.greater, np.greater_equal, np.logical_and, np.logical_or, np.logical_xor, np.divmod,
]  # fmt: skip
INTEGER = [np.bitwise_and, np.bitwise_or, np.bitwise_xor]
FLOAT_PAIRS = [np.arctan2, np.hypot, np.logaddexp, np.logaddexp2, np.heaviside, np.float_power]


def all_of(functions: list[np.ufunc], pick: Callable[[Any], tuple[Any, ...]]) -> F:
    """One program that holds many functions, since each program takes its time to compile."""
    return lambda *args: [f(*pick(args)) for f in functions]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_ufuncs_of_floats_agree(dtype: str) -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        half = x / 2.5
        positive = np.abs(x) + 0.5
        return [
            *(f(x) for f in UNARY_FLOAT),
            *(f(positive) for f in UNARY_POSITIVE),
            *(f(half) for f in UNARY_SMALL),
            np.arccosh(positive + 1),
            *(f(x, y) for f in BINARY),
            *(f(x, y) for f in FLOAT_PAIRS[:-1]),
            np.power(positive, y),
            x**2,
            x**3,
            2.0**x,
            1 / positive,
            x // 2,
            x % 3,
            -x,
            abs(x),
            x > 0,
            3 - x,
        ]

    check(
        program,
        (make((5, 3), dtype), make((5, 3), dtype)),
        (make((2, 7), dtype), make((2, 7), dtype)),
    )


@pytest.mark.parametrize("dtype", ["i4", "i8", "u1", "i2"])
def test_ufuncs_of_integers_agree(dtype: str) -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        shift = np.abs(y) % 4
        return [
            *(f(x, y) for f in BINARY),
            *(f(x, y) for f in INTEGER),
            x << shift,
            x >> shift,
            ~x,
            x**2,
            x**shift,
            x + 1,
            x * 2.5,
            np.sqrt(np.abs(x)),
            np.floor(x),
            np.isnan(x),
            np.sign(x),
            x / y,
            x & 3,
            x < 1000,
            x == -1000,
        ]

    check(program, (make((6,), dtype), make((6,), dtype)), (make((9,), dtype), make((9,), dtype)))


def test_ufuncs_of_bool_agree() -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        return [x + y, x * y, x & y, x | y, x ^ y, ~x, x < y, x == y, np.maximum(x, y), x + 1,
                x / y, x.sum(), x.mean(), x.any(), x.all(0), np.logical_not(x)]  # fmt: skip

    check(program, (make((4, 3), "bool"), make((4, 3), "bool")))


@pytest.mark.parametrize(
    ("one", "other"),
    [("f4", "f8"), ("i4", "f4"), ("u1", "i1"), ("i8", "u8"), ("bool", "i2"), ("f2", "i2")],
)
def test_promotion_is_that_of_numpy(one: str, other: str) -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        return [x + y, x * np.float64(2), y * 2, x * 2.0, np.where(x > y, x, y), x < y, x == y,
                np.concatenate([x, y]), y + True]  # fmt: skip

    check(program, (make((4,), one), make((4,), other)))


@pytest.mark.parametrize("dtype", ["f4", "i4", "f2", "u1"])
def test_reductions_agree(dtype: str) -> None:
    def program(x: np.ndarray) -> list[Any]:
        return [
            x.sum(),
            x.sum(0),
            x.sum((0, -1)),
            x.sum(axis=1, keepdims=True),
            np.sum(x, dtype="f8"),
            np.prod(x[:2, 0] / 4, axis=0),
            x.max(),
            x.min(1),
            x.mean(),
            x.mean(-1),
            x.std(0),
            x.var(ddof=1),
            x.any(1),
            x.all(),
            x.argmax(),
            x.argmin(1),
            np.argmax(x, 0, keepdims=True),
            np.ptp(x, 0),
            np.count_nonzero(x, axis=0),
            np.diff(x, axis=1),
            np.add.reduce(x),
            np.average(x, axis=0),
            np.linalg.norm(x),
            np.linalg.norm(x[0], axis=1, ord=1),
            np.amax(x, 0),
            np.nansum(x, 0),
        ]

    check(program, (make((3, 4, 5), dtype),), (make((6, 2, 7), dtype),))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "bool"])
def test_running_sums_agree(dtype: str) -> None:
    # Not f2: NumPy rounds each partial sum to 16 bits, here they are held in 32.
    def program(x: np.ndarray) -> list[Any]:
        return [np.cumsum(x, 1), np.cumsum(x), np.cumprod(x / 4, axis=0), np.add.accumulate(x)]

    check(program, (make((3, 4), dtype),), (make((6, 2), dtype),))


def test_products_agree() -> None:
    def program(a: np.ndarray, b: np.ndarray, v: np.ndarray) -> list[Any]:
        return [
            a @ b,
            np.matmul(a, b),
            a @ v,
            v @ b,
            v @ v,
            np.dot(a, b),
            np.dot(v, v),
            np.inner(a, a),
            np.outer(v, v),
            np.vdot(v, v),
            np.tensordot(a, b, 1),
            np.tensordot(a, a, ([0, 1], [0, 1])),
            np.einsum("ij,jk->ik", a, b),
            np.einsum("ij,jk", a, b),
            np.einsum("ij->j", a),
            np.einsum("i,i->", v, v),
            np.einsum("i,j->ji", v, v),
            np.einsum("...j,j->...", a, v),
            np.einsum("ij,jk,k->i", a, b, b[0]),
            np.einsum("ii->i", a @ a.T),
            np.einsum("ii", a @ a.T),
            np.kron(a, b),
            a.T @ a,
            2 * a,
        ]

    check(
        program,
        (make((4, 3), "f4"), make((3, 5), "f4"), make((3,), "f4")),
        (make((6, 7), "f4"), make((7, 2), "f4"), make((7,), "f4")),
    )


def test_products_of_integers_and_bool_agree() -> None:
    def program(a: np.ndarray, m: np.ndarray) -> list[Any]:
        return [a @ a.T, m @ m.T, a @ a.T.astype("f8"), np.einsum("ij,kj->ik", a, m)]

    check(program, (make((4, 3), "i4"), make((4, 3), "bool")))


def test_movements_agree() -> None:
    def program(x: np.ndarray) -> list[Any]:
        n, m = x.shape
        return [
            x.T,
            x.reshape(-1),
            x.reshape(m, n),
            x.reshape(n, -1),
            np.ravel(x),
            x.flatten(),
            np.transpose(x, (1, 0)),
            np.swapaxes(x, 0, 1),
            np.moveaxis(x, 0, -1),
            np.expand_dims(x, (0, 2)),
            x[None].squeeze(0),
            np.broadcast_to(x, (3, n, m)),
            np.tile(x, 2),
            np.tile(x, (2, 1, 3)),
            np.repeat(x, 2),
            np.repeat(x, 3, axis=1),
            np.flip(x),
            np.flip(x, 1),
            np.fliplr(x),
            np.roll(x, 1),
            np.roll(x, -1, axis=0),
            np.pad(x, 1),
            np.pad(x, ((1, 0), (0, 2)), mode="edge"),
            np.pad(x, 1, constant_values=7),
            np.pad(x, 1, mode="reflect"),
            np.pad(x, 1, mode="wrap"),
            np.tril(x),
            np.triu(x, 1),
            np.concatenate([x, x], 1),
            np.stack([x, x], -1),
            np.hstack([x, x]),
            np.vstack([x, x]),
            np.column_stack([x[:, 0], x]),
            np.split(x.reshape(1, -1), 1, axis=1),
            np.trace(x),
            np.diagonal(x),
            x.trace(),
            np.diag(x),
            np.diag(x[0]),
            x.copy(),
            x.astype("i8"),
            np.atleast_2d(x[0]),
            np.zeros_like(x),
            np.full_like(x, 3),
            np.broadcast_arrays(x, x[0]),
        ]

    check(program, (make((4, 6), "f4"),), (make((5, 8), "f4"),))


def test_indexing_agrees() -> None:
    def program(x: np.ndarray, i: np.ndarray) -> list[Any]:
        return [
            x[0],
            x[-1, 2],
            x[0, 1, 2],
            x[1:],
            x[:-1, ::2],
            x[::-1],
            x[..., 1],
            x[:, None, 0],
            x[0, 1, 2, ...],
            x[2:100],
            x[-2:],
            x[3:1:-1],
            x[i],
            x[:, i],
            x[i, i],
            x[:, [0, 1]],
            x[i, :, i],
            x[i[:, None], i],
            x[0, :, i],
            np.take(x, i, 1),
            np.take(x, 2),
            np.take_along_axis(x, np.argsort(x, 1), 1),
            x[np.array([True, False, True, False])],
            x[5:],
            x[i[0]],
        ]

    check(program, (make((4, 5, 6), "f4"), np.array([0, 2, -1])))


def test_choices_agree() -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        return [
            np.where(x > 0, x, 0),
            np.where(x > 0, x, y),
            np.clip(x, -1, 1),
            x.clip(0),
            np.round(x, 1),
            x.round(),
            np.select([x > 1, x > 0], [x, -x], 5),
            np.nan_to_num(x / 0.0),
            np.sort(x),
            np.argsort(x, 0),
            np.isclose(x, y),
            np.allclose(x, x),
            np.sort(x > 0, axis=None),
        ]

    check(program, (make((4, 5), "f4"), make((4, 5), "f4")), (make((2, 9), "f4"), make((9,), "f4")),
          compiles=2)  # fmt: skip


def test_arrays_made_of_sizes_are_symbolic() -> None:
    def program(x: np.ndarray) -> list[Any]:
        n, m = x.shape
        return [
            np.zeros((n, m)),
            np.ones(n, "f4"),
            np.full((m,), 2),
            np.arange(n),
            np.arange(n * 2, dtype="f4"),
            np.eye(n),
            np.arange(1, m + 1),
            np.linspace(0, 1, n),
            x / n,
            x * (n // 2),
            x.sum() / (n * m),
            n,
            n / m,
            np.sqrt(n),
            np.array([x[0, 0], 1.0]),
            np.asarray(x),
            x.size,
            len(x.shape),
            np.arange(0, n, 2),
            np.shape(x),
            1 - 1 / n,
        ]

    check(program, (make((4, 6), "f8"),), (make((7, 3), "f8"),))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def test_attention_compiles_once_for_all_lengths() -> None:
    def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Any:
        scores = softmax(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype))
        return scores @ v

    calls = [
        tuple(make((2, n, 8), "f4") for n in (length, length + 3, length + 3))
        for length in (4, 9, 17)
    ]
    check(attention, *calls)


# ------------------------------------------------------------------ sizes


def test_one_compilation_serves_all_sizes() -> None:
    jitted = tw.jit(lambda x, y: x * y + 1)
    for n in (2, 3, 100, 1001):
        x, y = make((n, 4), "f4"), make((4,), "f4")
        agree(jitted(x, y), x * y + 1)
    assert jitted.compiles == 1


def test_sizes_of_zero_and_one_are_programs_of_their_own() -> None:
    check(
        lambda x, y: x + y,
        (make((3,), "f4"), make((3,), "f4")),
        (make((3,), "f4"), make((1,), "f4")),
        (make((0,), "f4"), make((1,), "f4")),
        (make((8,), "f4"), make((1,), "f4")),
        compiles=3,
    )


def test_sizes_equal_by_chance_are_not_unified() -> None:
    check(lambda x, y: (x.sum(), y.sum()), (make((3,), "f4"), make((3,), "f4")),
          (make((3,), "f4"), make((5,), "f4")))  # fmt: skip


def test_a_decision_by_size_is_guarded() -> None:
    def program(x: np.ndarray) -> Any:
        return x * 2 if x.shape[0] > 4 else x + 1

    check(program, (make((3,), "f4"),), (make((9,), "f4"),), (make((4,), "f4"),),
          (make((10,), "f4"),), compiles=2)  # fmt: skip


def test_dims_that_differ_by_one_are_unified_where_a_sum_needs_it() -> None:
    check(lambda x, y: x[1:] + y, (make((4,), "f4"), make((3,), "f4")),
          (make((9,), "f4"), make((8,), "f4")))  # fmt: skip


def test_reshapes_to_sizes_found_by_division_may_be_moved() -> None:
    """Passes take the reshape off the sum and turn it round behind the transpose."""

    def program(x: np.ndarray) -> Any:
        return np.exp((x + 1).reshape(x.shape[0] // 2, 2, -1).transpose(1, 0, 2))

    check(program, (make((8, 4), "f4"),), (make((5, 8), "f4"),), (make((6, 3), "f4"),))
    with pytest.raises(InputError, match="TW-E0320.*cannot reshape"):
        tw.jit(program)(make((5, 3), "f4"))


def test_a_size_used_as_a_number_compiles_for_that_number() -> None:
    def program(x: np.ndarray) -> Any:
        return sum(x[i] for i in range(x.shape[0]))

    check(program, (make((3,), "f4"),), (make((4,), "f4"),), (make((3,), "f4"),), compiles=2)


def test_a_number_computed_from_sizes_is_a_number_where_python_needs_one() -> None:
    def program(x: np.ndarray) -> Any:
        return x * math.sqrt(x.shape[0] / 2) if x.shape[0] / 2 > 1.5 else x

    check(program, (make((4,), "f4"),), (make((2,), "f4"),), compiles=2)


def test_static_arguments_are_part_of_the_key() -> None:
    jitted = tw.jit(lambda x, k: x * k)
    x = make((4,), "i4")
    for k in (2, 2.0, True, 2, np.float32(2), np.float32(3)):
        agree(jitted(x, k), x * k)
    assert jitted.compiles == 4


def test_arguments_may_be_nested_and_named() -> None:
    def program(x: np.ndarray, *, pair: tuple[Any, Any], more: dict[str, Any]) -> Any:
        return {"a": x + pair[0], "b": [pair[1] * more["k"], None, "text"]}

    jitted = tw.jit(program)
    x = make((4,), "f4")
    found: Any = jitted(x, pair=(x, 3), more={"k": x})
    agree(found["a"], x + x)
    agree(found["b"][0], 3 * x)
    assert found["b"][1:] == [None, "text"]


def test_in_place_operators_on_own_arrays_are_seen_by_all_names() -> None:
    def program(x: np.ndarray) -> Any:
        y = x * 2
        z = y
        y += 1
        return z

    check(program, (make((4,), "f4"),))


def test_threads_and_dynamic_are_options() -> None:
    @tw.jit(threads=1, dynamic=False)
    def program(x: np.ndarray) -> Any:
        return x + 1

    agree(program(np.ones(3)), np.ones(3) + 1)
    agree(program(np.ones(4)), np.ones(4) + 1)
    assert program.compiles == 2
    assert program.executables[0].threads == 1


def test_cubes_are_products() -> None:
    jitted = tw.jit(lambda x: x + x**2 + x**3)
    jitted(make((4, 4), "f4"))
    assert "pow" not in jitted.executables[0].text("loops")
    assert len(jitted.executables[0].program.steps) == 1
