"""What a softmax masks off is 0 on CPUs, which are slow with subnormal numbers."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes import run_passes
from tilewright.graph.passes.weights import flush_weights
from tilewright.graph.text import text

CPU = resolve_target("x86-64-v3")
GPU = resolve_cuda("cuda:sm_80")


def softmax(b: GraphBuilder, x: Value) -> Value:
    top = b.add("reduce", x, op="max", axes=(1,), keepdims=True)
    grown = b.add("exp", b.add("sub", x, top))
    total = b.add("reduce", grown, op="sum", axes=(1,), keepdims=True)
    return b.add("div", grown, total)


def graph_of_softmax() -> Graph:
    """The weights reach the output as they are, by way of a product with ones and zeros."""
    b = GraphBuilder("g")
    weights = softmax(b, b.input("x", TensorType(dt.f32, (3, 40))))
    b.output(b.add("matmul", weights, b.constant(np.eye(40, dtype=np.float32))), "y")
    return b.finish()


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_the_exponentials_of_a_softmax_are_flushed_on_cpus_alone() -> None:
    graph = graph_of_softmax()
    steps = ["reduce", "sub", "exp_flushed", "reduce", "div", "matmul"]
    assert ops(flush_weights(graph, CPU)) == steps
    assert flush_weights(graph, GPU) is graph


@pytest.mark.parametrize("op", ["sum", "min"])
def test_exponentials_below_anything_but_a_maximum_stay(op: str) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dt.f32, (3, 40)))
    b.output(b.add("exp", b.add("sub", x, b.add("reduce", x, op=op, axes=(1,), keepdims=True))))
    assert ops(flush_weights(b.finish(), CPU)) == ["reduce", "sub", "exp"]


def test_exponentials_below_the_maximum_of_something_else_stay() -> None:
    b = GraphBuilder("g")
    x, z = (b.input(n, TensorType(dt.f32, (3, 40))) for n in "xz")
    top = b.add("reduce", z, op="max", axes=(1,), keepdims=True)
    b.output(b.add("exp", b.add("sub", x, top)))
    assert ops(flush_weights(b.finish(), CPU)) == ["reduce", "sub", "exp"]


def test_a_plain_exponential_keeps_its_subnormal_results() -> None:
    b = GraphBuilder("g")
    b.output(b.add("exp", b.input("x", TensorType(dt.f32, (40,)))), "y")
    graph = b.finish()
    assert "exp_flushed" not in text(run_passes(graph, CPU))
    x = np.linspace(-103, -80, 40, dtype=np.float32)
    (y,) = tw.compile(graph, cache=False)(x)
    assert (np.asarray(y) > 0).all()


def test_weights_whose_logarithm_is_taken_keep_what_is_subnormal() -> None:
    b = GraphBuilder("g")
    weights = softmax(b, b.input("x", TensorType(dt.f32, (3, 40))))
    b.output(b.add("matmul", weights, b.constant(np.eye(40, dtype=np.float32))), "z")
    b.output(b.add("log", weights), "y")
    x = np.zeros((3, 40), np.float32)
    x[:, ::2] -= 100
    _, y = tw.compile(b.finish(), cache=False)(x)
    np.testing.assert_allclose(np.asarray(y)[:, ::2], -100 - np.log(20), rtol=0.01)


def test_weights_that_are_results_keep_what_is_subnormal() -> None:
    b = GraphBuilder("g")
    b.output(softmax(b, b.input("x", TensorType(dt.f32, (3, 40)))), "y")
    assert "exp_flushed" not in ops(flush_weights(b.finish(), CPU))


def test_no_weight_of_a_masked_softmax_is_subnormal() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 40)).astype(np.float32)
    x[:, ::2] -= 100
    x[1, 1] = -np.inf
    (y,) = (np.asarray(v) for v in tw.compile(graph_of_softmax(), cache=False)(x))
    wide = np.exp(x - x.max(1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(y, wide / wide.sum(1, keepdims=True), rtol=1e-6, atol=1e-37)
    assert ((y == 0) | (y >= np.finfo(np.float32).tiny)).all()
    assert (y[:, ::2] == 0).all() and y[1, 1] == 0


def test_nan_in_a_row_of_weights_stays() -> None:
    x = np.zeros((3, 40), np.float32)
    x[1, 7] = np.nan
    (y,) = (np.asarray(v) for v in tw.compile(graph_of_softmax(), cache=False)(x))
    assert np.isnan(y[1]).all() and not np.isnan(y[[0, 2]]).any()
