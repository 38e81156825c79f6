"""Results depend neither on how many threads share a call, nor on other calls that run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.api import compile as compile_model
from tilewright.frontends.onnx.zoo import load_zoo
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.runtime.executable import Executable
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.simplify import evaluate

N = symbol("N")
SIZES = {"N": 213}
Make = Callable[[GraphBuilder], Value]


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def product(b: GraphBuilder) -> Value:
    y = b.add("matmul", b.input("x", f32(N, 150)), b.constant(weights(150, 170)))
    return b.add("tanh", b.add("add", y, b.constant(weights(170))))


def product_of_inputs(b: GraphBuilder) -> Value:
    return b.add("matmul", b.input("x", f32(3, N, 70)), b.input("y", f32(3, 70, 90)))


def convolution(b: GraphBuilder) -> Value:
    x, w, ones = b.input("x", f32(2, 29, 31, 16)), b.constant(weights(3, 3, 16, 40)), (1, 1)
    y = b.add("conv", x, w, strides=ones, lo=ones, hi=ones, dilations=ones, groups=1)
    return b.add("max", y, b.constant(np.float32(0)))


def softmax(b: GraphBuilder) -> Value:
    x = b.input("x", f32(N, 300))
    top = b.add("reduce", x, op="max", axes=(1,), keepdims=True)
    e = b.add("exp", b.add("sub", x, top))
    return b.add("div", e, b.add("reduce", e, op="sum", axes=(1,), keepdims=True))


def long_map(b: GraphBuilder) -> Value:
    return b.add("sigmoid", b.input("x", f32(N, 1001)))


def total(b: GraphBuilder) -> Value:
    return b.add("reduce", b.input("x", f32(N, 1001)), op="sum", axes=(0, 1), keepdims=False)


def column_sums(b: GraphBuilder) -> Value:
    return b.add("reduce", b.input("x", f32(N, 1001)), op="sum", axes=(0,), keepdims=False)


def running_sums(b: GraphBuilder) -> Value:
    x = b.input("x", f32(N, 301))
    return b.add("cumulative", x, op="sum", axis=1, exclusive=False, reverse=False)


MAKERS: tuple[Make, ...] = (
    product, product_of_inputs, convolution, softmax, long_map, total, column_sums, running_sums,
)  # fmt: skip


@cache
def compiled(make: Make) -> tuple[Executable, Graph]:
    builder = GraphBuilder(make.__name__)
    builder.output(make(builder))
    graph = builder.finish()
    return compile_model(graph, threads=1, cache=False), graph


def inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal([evaluate(d, SIZES) for d in v.shape]).astype(np.float32)
        for v in graph.inputs
    ]


@pytest.mark.parametrize("make", MAKERS)
def test_any_number_of_threads_gives_the_same_bits(make: Make) -> None:
    run, graph = compiled(make)
    given = inputs(graph, 0)
    run.threads = 1
    (alone,) = run(*given)
    for threads in (2, 3, 7):
        run.threads = threads
        for _ in range(5):
            (shared,) = run(*given)
            assert shared.tobytes() == alone.tobytes(), threads


@pytest.mark.parametrize("make", MAKERS)
def test_calls_from_several_threads_do_not_disturb_each_other(make: Make) -> None:
    run, graph = compiled(make)
    given = [inputs(graph, seed) for seed in range(4)]
    run.threads = 1
    alone = [run(*x)[0].tobytes() for x in given]
    run.threads = 2
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda x: run(*x)[0].tobytes(), given)
            assert list(found) == alone


def test_a_network_gives_the_same_bits_with_any_number_of_threads() -> None:
    run = compile_model(load_zoo("squeezenet"), threads=1, cache=False)
    (spec,) = run.inputs
    shape = [d if isinstance(d, int) else 1 for d in spec.shape]
    picture = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    (alone,) = run(picture)
    for threads in (2, 3):
        run.threads = threads
        assert run(picture)[0].tobytes() == alone.tobytes()
