"""What cannot be traced is refused with a code, NumPy's function and the user's line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(x: Any) -> Any:
    x[0] = 1
    return x


def add_in_place(x: Any) -> Any:
    x += 1
    return x


def add_to_view(x: Any) -> Any:
    y = x * 2
    z = y[1:]
    y += 1
    return z


def write_beside_a_view(x: Any) -> Any:
    y = x * 2
    z = y.T
    z[0] = 1
    return y


def write_into_a_plain_array(x: Any) -> Any:
    y = np.zeros(4)
    y[...] = x[0]
    return y


UNSUPPORTED: list[tuple[Callable[..., Any], str, str]] = [
    (lambda x: np.fft.fft(x + 1), "TW-E0241", "fft"),
    (lambda x: np.linalg.inv(x + 1), "TW-E0241", "numpy.linalg.inv"),
    (lambda x: np.nextafter(x, x), "TW-E0241", "numpy.nextafter"),
    (lambda x: np.unique(x + 1), "TW-E0242", "numpy.unique: the size of its result"),
    (lambda x: np.nonzero(x + 1), "TW-E0242", "numpy.nonzero"),
    (lambda x: np.put(x, [0], 1), "TW-E0244", "numpy.put: writing"),
    (lambda x: np.apply_along_axis(np.sum, 0, x), "TW-E0241", "each element or row"),
    (lambda x: x.tobytes(), "TW-E0241", "numpy.ndarray.tobytes"),
    (lambda x: x if x.sum() > 0 else -x, "TW-E0242", "condition"),
    (lambda x: int(x[0, 0]), "TW-E0242", "int()"),
    (lambda x: x[x > 1], "TW-E0242", "mask"),
    (lambda x: np.where(x > 1), "TW-E0242", "numpy.where"),
    (lambda x: np.linalg.norm(np.asarray([x.tolist()])), "TW-E0242", "tolist"),
    (lambda x: [row + 1 for row in x], "TW-E0243", "iteration"),
    (write, "TW-E0244", "np.where"),
    (add_in_place, "TW-E0244", "in-place add"),
    (add_to_view, "TW-E0244", "in-place add"),
    (lambda x: np.quantile(x, 0.5, method="weibull"), "TW-E0245", "weibull"),
    (lambda x: np.add(x, 1, out=np.empty((3, 4), "f4")), "TW-E0244", "numpy.add: writing"),
    (lambda x: np.add(x, 1, out=x), "TW-E0244", "argument"),
    (lambda x: np.add(x, 1, where=x > 0), "TW-E0245", "out"),
    (write_beside_a_view, "TW-E0244", "array with a view"),
    (write_into_a_plain_array, "TW-E0242", "np.zeros_like(x)"),
    (lambda x: x.copy().__setitem__(x > 0, x[0]), "TW-E0242", "np.where"),
    (lambda x: np.quantile(x, x[0, 0]), "TW-E0242", "numpy.quantile"),
    (lambda x: x + 1j, "TW-E0246", "complex"),
    (lambda x: x.astype(object), "TW-E0246", "object"),
]


@pytest.mark.parametrize(("function", "code", "what"), UNSUPPORTED)
def test_what_is_not_there_is_named(function: Callable[..., Any], code: str, what: str) -> None:
    with pytest.raises(tw.UnsupportedError) as caught:
        tw.jit(function)(X)
    assert caught.value.code == code
    assert what in str(caught.value)
    first = inspect.getsourcelines(function)[1]
    lines = range(first, first + 5)
    assert any(f"test_tracing_errors.py:{n}" in str(caught.value) for n in lines)


WRONG: list[tuple[Callable[..., Any], str]] = [
    (lambda x: x + np.ones(3, "f4"), "do not broadcast: 4 against 3"),
    (lambda x: x @ x, "4 against 3"),
    (lambda x: x.reshape(5, -1), "cannot reshape"),
    (lambda x: x[5], "index 5 is out of bounds for size 3"),
    (lambda x: x[:, [0, 9]], "out of bounds"),
    (lambda x: x.sum(2), "axis 2 is out of bounds"),
    (lambda x: x[0, 0, 0], "too many indices"),
    (lambda x: (x > 0) - (x > 1), "boolean subtract"),
    (lambda x: x & 1, "bitwise_and"),
    (lambda x: x.astype("u1") + 300, "300 is out of bounds for uint8"),
    (lambda x: x.astype("i4") ** -1, "negative integer powers"),
    (lambda x: x[:0].max(), "zero-size"),
    (lambda x: np.concatenate([x, x.T]), "differ in axis"),
    (lambda x: np.einsum("ijk->i", x), "does not fit"),
]


@pytest.mark.parametrize(("function", "what"), WRONG)
def test_what_numpy_would_refuse_is_refused(function: Callable[..., Any], what: str) -> None:
    with pytest.raises(tw.InputError) as caught:
        tw.jit(function)(X)
    assert what in str(caught.value)
    assert "test_tracing_errors.py:" in str(caught.value)


@pytest.mark.parametrize(
    "argument", [np.array(["a"]), np.array([1j]), np.array([None]), np.array(["2020"], "M8")]
)
def test_arguments_of_other_types_are_refused(argument: np.ndarray) -> None:
    with pytest.raises(tw.UnsupportedError, match="TW-E0246"):
        tw.jit(lambda x: x)(argument)


@pytest.mark.parametrize("argument", [{1, 2}, object(), np.ma.masked_array([1.0])])
def test_arguments_of_other_kinds_are_refused(argument: object) -> None:
    with pytest.raises(tw.InputError, match="TW-E0323"):
        tw.jit(lambda x: 1)(argument)


def test_a_result_of_another_kind_is_refused() -> None:
    with pytest.raises(tw.InputError, match="TW-E0322"):
        tw.jit(lambda x: {1, 2})(X)


def test_an_array_that_outlives_its_call_is_refused() -> None:
    kept: list[Any] = []

    def keep(x: Any) -> Any:
        kept.append(x)
        return x

    tw.jit(keep)(X)
    with pytest.raises(tw.InputError, match="TW-E0321"):
        tw.jit(lambda x: x + kept[0])(X)


def test_a_later_call_that_breaks_an_assumption_is_traced_anew() -> None:
    jitted = tw.jit(lambda x, y: x + y)
    jitted(X, X)
    with pytest.raises(tw.InputError, match="do not broadcast"):
        jitted(X, X[:2])
    assert jitted.compiles == 1


@pytest.mark.parametrize("name", ["rand", "standard_normal", "randn"])
def test_random_numbers_drawn_by_the_function_are_refused(name: str) -> None:
    with pytest.raises(tw.UnsupportedError, match=rf"TW-E0241(.|\n)*numpy\.random\.{name}"):
        tw.jit(lambda x: x + getattr(np.random, name)(3))(X)


def test_a_generator_from_outside_is_refused_and_a_seeded_one_is_not() -> None:
    outside = np.random.default_rng(1)
    with pytest.raises(tw.UnsupportedError, match=r"numpy\.random\.random: "):
        tw.jit(lambda x: x * outside.random())(X)
    found = tw.jit(lambda x: x * np.random.default_rng(1).random())(X)
    np.testing.assert_allclose(found, X * np.random.default_rng(1).random())


def test_a_view_as_another_type_is_refused() -> None:
    with pytest.raises(tw.UnsupportedError, match=r"numpy\.ndarray\.view"):
        tw.jit(lambda x: x.view(np.int32))(X)


def test_a_text_among_operands_is_refused() -> None:
    with pytest.raises(tw.InputError, match="'a' is no operand"):
        tw.jit(lambda x: x + "a")(X)


def test_an_output_without_the_ellipsis_of_its_operands_is_refused() -> None:
    with pytest.raises(tw.InputError, match="leaves out the dimensions of the ellipsis"):
        tw.jit(lambda x: np.einsum("i...,j...->ij", x, x))(np.ones((2, 3), np.float32))


def test_numbers_in_a_list_count_in_full() -> None:
    for make in (
        lambda x: np.array([x[0], 1]),
        lambda x: np.array([x.shape[0], x[0]]),
        lambda x: np.vander(x, 2),
        lambda x: x == None,  # noqa: E711
        lambda x: x != None,  # noqa: E711
    ):
        found, wanted = tw.jit(make)(X[0]), make(X[0])
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_a_quotient_of_zero_has_the_sign_of_its_operands() -> None:
    x = np.array([0.0, -0.0, 0.0, -0.0, 1.0, -1.0], np.float32)
    y = np.array([1.0, 1.0, -np.inf, -2.0, np.inf, -np.inf], np.float32)
    found = tw.jit(lambda x, y: x // y)(x, y)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x // y))
