"""Kernels in models: in traced functions, in place of ONNX operators, and on a simulated GPU."""

# Type checkers and linters take the dims in the annotations of kernels for types.
# mypy: disable-error-code="attr-defined, index, name-defined, no-untyped-call, no-untyped-def"
# mypy: disable-error-code="valid-type"
# ruff: noqa: F821, N803, UP037

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilewright as tw
from tilewright.graph.interpret import interpret
from tilewright.graph.passes import run_passes
from tilewright.kernels import ScheduledKernel
from tilewright.ops.kernel import readings
from tilewright.ops.op import OpError


@tw.kernel
def gemm(A: tw.f32["M", "K"], B: tw.f32["K", "N"], *, alpha: float = 1.0):
    return tw.compute(lambda i, j: alpha * tw.sum(lambda k: A[i, k] * B[k, j]))


@tw.kernel
def plain(A: tw.f32["M", "K"], B: tw.f32["K", "N"]):
    return tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))


@tw.kernel
def extremes(X: tw.f32["N", "C"]):
    return tw.compute(lambda i: (tw.max(lambda c: X[i, c]), tw.argmin(lambda c: X[i, c])))


def scheduled(**dims: Any) -> ScheduledKernel:
    s = plain.schedule(**dims).split("j", 16, tail="guard").reorder("j_o", "i", "j_i")
    s.compute_at("acc", "i").set_scope("acc", "register").reorder("k", "acc_j")
    return s.vectorize("acc_init_j", "acc_j", "j_i").parallel("j_o").build()


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def model(dims: tuple[Any, ...] = ("M", "K1", "K2", "N"), **attrs: Any) -> onnx.ModelProto:
    """``relu(my.domain::Gemm(A, B))``."""
    m, k1, k2, n = dims
    nodes = [
        helper.make_node("Gemm", ["A", "B"], ["C"], domain="my.domain", **attrs),
        helper.make_node("Relu", ["C"], ["D"]),
    ]
    graph = helper.make_graph(
        nodes,
        "custom",
        [
            helper.make_tensor_value_info("A", TensorProto.FLOAT, [m, k1]),
            helper.make_tensor_value_info("B", TensorProto.FLOAT, [k2, n]),
        ],
        [helper.make_tensor_value_info("D", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets)


# ------------------------------------------------------------------ traced functions


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_call_in_a_traced_function_is_part_of_the_program(by_hand: bool) -> None:
    inner = scheduled() if by_hand else plain

    @tw.jit
    def f(a: Any, b: Any) -> Any:
        return np.tanh(inner(a + 1, b)) * 2

    for m, k, n in ((3, 4, 5), (20, 7, 33), (1, 1, 1)):
        a, b = numbers(m, k), numbers(k, n) / 64
        np.testing.assert_allclose(f(a, b), np.tanh((a + 1) @ b) * 2, rtol=1e-5, atol=1e-6)
    op = "scheduled_kernel" if by_hand else "kernel"
    assert f"{op}(" in f.executables[1].text("graph")


def test_a_traced_call_with_several_results_gives_arrays() -> None:
    @tw.jit
    def f(x: Any) -> Any:
        high, at = extremes(x)
        return high * 2, at + 1

    x = numbers(5, 9)
    high, at = f(x)
    np.testing.assert_array_equal(high, x.max(1) * 2)
    np.testing.assert_array_equal(at, x.argmin(1) + 1)


def test_a_traced_call_that_does_not_fit_names_the_line() -> None:
    @tw.jit
    def f(a: Any) -> Any:
        return plain(a, a)

    with pytest.raises(tw.UnsupportedError, match=r"TW-E0240.*\n.*test_models.py"):
        f(numbers(3, 4))


# ------------------------------------------------------------------ neighbours


@tw.kernel
def softmax(X: tw.f32["N", "C"]):
    e = tw.compute(lambda i, c: np.exp(X[i, c] - tw.max(lambda k: X[i, k])))
    return tw.compute(lambda i, c: e[i, c] / tw.sum(lambda k: e[i, k]))


@tw.kernel
def smooth(X: tw.f32["N", "C"]):
    return tw.compute(
        lambda i, c: (np.where(i > 0, X[i - 1, c], 0.0) + X[i, c]) / 2.0, shape=X.shape
    )


def kernels_of(f: Any) -> set[int]:
    """How many kernels each program of a traced function has."""
    return {exe.text("loops").count("def ") for exe in f.executables}


@pytest.mark.parametrize(
    ("kernel", "before", "after", "wanted", "count"),
    [
        (plain, None, lambda y: np.maximum(y * 2 + 1, 0), lambda a, b: np.maximum(a @ b * 2 + 1, 0),
         1),
        (plain, lambda x: x * 2, None, lambda a, b: (a * 2) @ b, 2),
        (softmax, lambda x: x * 0.5 + 1, lambda y: y * 3, None, 1),
        (softmax, np.tanh, None, None, 2),
        (smooth, lambda x: abs(x) * 2, lambda y: np.exp(-y), None, 1),
    ],
    ids=["after a product", "before a product", "around a softmax", "costly, read twice",
         "around an average"],
)  # fmt: skip
def test_neighbours_join_a_kernel_that_recipes_schedule(
    kernel: Any, before: Any, after: Any, wanted: Any, count: int
) -> None:
    before, after = before or (lambda x: x), after or (lambda y: y)
    takes_two = len(kernel.operands) == 2

    @tw.jit
    def f(*given: Any) -> Any:
        return after(kernel(before(given[0]), *given[1:]))

    for m, k, n in ((5, 7, 33), (1, 1, 1), (40, 20, 16)):
        given = [numbers(m, k) / 4, numbers(k, n, seed=1) / 4][: 1 + takes_two]
        alone = kernel(before(given[0]), *given[1:])
        exact = after(alone) if wanted is None else wanted(*given)
        np.testing.assert_allclose(f(*given), exact, rtol=2e-6, atol=1e-6)
    assert kernels_of(f) == {count}


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [(plain, (0, 0)), (softmax, (2,)), (smooth, (2,)), (extremes, (2,))],
    ids=["product", "softmax", "average", "extremes"],
)
def test_readings_are_counted_and_none_where_elements_are_read_again(
    kernel: Any, wanted: tuple[int, ...]
) -> None:
    assert readings(str(kernel)) == wanted


def test_a_stage_that_another_reads_again_reads_again() -> None:
    @tw.kernel
    def doubled(A: tw.f32["M", "K"], B: tw.f32["K", "N"]):
        twice = tw.compute(lambda i, k: A[i, k] * 2)
        return tw.compute(lambda i, j: tw.sum(lambda k: twice[i, k] * B[k, j]))

    assert readings(str(doubled)) == (0, 0)


def test_a_value_that_others_read_too_stays_outside() -> None:
    @tw.jit
    def f(x: Any) -> Any:
        y = abs(x)
        return softmax(y), y

    x = numbers(5, 9) / 4
    found, y = f(x)
    np.testing.assert_array_equal(y, abs(x))
    np.testing.assert_allclose(found, softmax(abs(x)), rtol=1e-6)


# ------------------------------------------------------------------ ONNX


def test_a_kernel_takes_the_place_of_an_operator() -> None:
    exe = tw.compile(model(alpha=0.5), kernels={"my.domain::Gemm": gemm})
    for m, k, n in ((3, 4, 5), (40, 9, 70)):
        a, b = numbers(m, k), numbers(k, n)
        np.testing.assert_array_equal(exe(a, b)[0], np.maximum(a @ b / 2, 0))
    with pytest.raises(tw.InputError):
        exe(numbers(3, 4), numbers(5, 6))


def test_a_nest_scheduled_by_hand_does_so_for_its_sizes() -> None:
    fast = scheduled(M=6, N=40)
    exe = tw.compile(model(), kernels={"my.domain::Gemm": fast})
    assert [str(s) for s in exe.inputs] == ["A: f32[6, K1]", "B: f32[K1, 40]"]
    a, b = numbers(6, 11), numbers(11, 40)
    np.testing.assert_array_equal(exe(a, b)[0], np.maximum(a @ b, 0))
    assert "vector(16)" in exe.text("loops") and "j_o in parallel(3)" in exe.text("loops")
    with pytest.raises(OpError, match="must be 40"):
        tw.compile(model((6, 3, 3, 41)), kernels={"my.domain::Gemm": fast})


def test_a_kernel_goes_before_an_operator_that_is_known(tmp_path: Path) -> None:
    @tw.kernel
    def double(X: tw.f32["M", "N"]):
        return tw.compute(lambda i, j: X[i, j] * 2)

    path = tmp_path / "model.onnx"
    onnx.save(model((2, 3, 3, 4)), path)
    kernels = {"my.domain::Gemm": plain, "Relu": double}
    a, b = numbers(2, 3), numbers(3, 4)
    for _ in range(2):  # the second time, the model may come from the cache
        exe = tw.compile(path, kernels=kernels)
        np.testing.assert_array_equal(exe(a, b)[0], a @ b * 2)
    exe = tw.compile(path, kernels={"my.domain::Gemm": plain})
    np.testing.assert_array_equal(exe(a, b)[0], np.maximum(a @ b, 0))
    exe = tw.compile(path, kernels={"my.domain::Gemm": gemm})
    np.testing.assert_array_equal(exe(a, b)[0], np.maximum(a @ b, 0))


@pytest.mark.parametrize(
    ("attrs", "kernel", "words"),
    [
        ({"beta": 1.0}, gemm, "the attribute beta"),
        ({"alpha": 1}, gemm, "the attribute alpha, which is float"),
        ({}, extremes, "takes X"),
    ],
    ids=["unknown", "another type", "operands"],
)
def test_a_node_that_does_not_fit_is_a_gap(attrs: dict[str, Any], kernel: Any, words: str) -> None:
    with pytest.raises(tw.UnsupportedError, match=words):
        tw.compile(model(**attrs), kernels={"my.domain::Gemm": kernel})


def test_only_kernels_take_the_place_of_operators() -> None:
    with pytest.raises(tw.UnsupportedError, match="my.domain::Gemm"):
        tw.compile(model())
    with pytest.raises(tw.OptionError, match="TW-E0829"):
        tw.compile(model(), kernels={"my.domain::Gemm": plain.schedule()})  # type: ignore[dict-item]
    with pytest.raises(tw.OptionError, match="TW-E0829"):
        tw.compile(plain.graph(), kernels={"Relu": plain})
    with pytest.raises(tw.OptionError, match="TW-E0828"):
        plain.register("my::gemm", "fortran")


def test_a_model_with_a_kernel_is_saved_with_its_code(tmp_path: Path) -> None:
    exe = tw.compile(model((2, 3, 3, 4)), kernels={"my.domain::Gemm": scheduled()})
    exe.save(tmp_path / "model.tw")
    a, b = numbers(2, 3), numbers(3, 4)
    np.testing.assert_array_equal(tw.load(tmp_path / "model.tw")(a, b)[0], np.maximum(a @ b, 0))


# ------------------------------------------------------------------ other targets


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_gpu_computes_the_expression(by_hand: bool) -> None:
    kernel = scheduled(M=9, K=17, N=33) if by_hand else plain
    exe = tw.compile(model((9, 17, 17, 33)), kernels={"my.domain::Gemm": kernel}, target="cuda-sim")
    a, b = numbers(9, 17), numbers(17, 33)
    np.testing.assert_array_equal(exe(a, b)[0], np.maximum(a @ b, 0))


def test_the_graph_of_a_kernel_is_interpreted() -> None:
    graph = extremes.graph()
    x = numbers(4, 5)
    high, at = interpret(graph, {"X": x})
    np.testing.assert_array_equal(high, x.max(1))
    np.testing.assert_array_equal(at, x.argmin(1))


def test_cpus_keep_a_nest_that_was_scheduled_by_hand() -> None:
    s = plain.schedule(M=4, K=4, N=4)
    native = s.build().executable()
    assert [n.op for n in s.graph().nodes] == ["scheduled_kernel"]
    fused = run_passes(s.graph(), native.target)
    assert "scheduled_kernel" in str(fused.nodes[0].attrs["body"])
