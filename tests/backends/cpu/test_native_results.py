"""Graphs that native code once got wrong, against the interpreter: random graphs found them."""

from __future__ import annotations

import numpy as np

from tilewright import dtype as dt
from tilewright.api import compile as compile_model
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import TensorType
from tilewright.tensor.ir import Dim


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def whole(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-4, 5, shape).astype(np.float32)


def assert_agrees(builder: GraphBuilder, *inputs: np.ndarray) -> None:
    graph = builder.finish()
    names = [v.name for v in graph.inputs]
    wanted = interpret(graph, dict(zip(names, inputs, strict=True)))
    for have, want in zip(
        compile_model(graph, cache=False, threads=1)(*inputs), wanted, strict=True
    ):
        np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-6)


def test_a_constant_image_is_convolved_with_weights_that_are_given() -> None:
    b = GraphBuilder("g")
    weights = b.input("w", f32(1, 2, 1, 1))
    ones = (1, 1)
    y = b.add(
        "conv", b.constant(whole(1, 1, 8, 1)), weights,
        strides=ones, lo=(0, 2), hi=(0, 0), dilations=ones, groups=1,
    )  # fmt: skip
    b.output(y)
    assert_agrees(b, whole(1, 2, 1, 1))


def test_a_product_without_rows_is_empty() -> None:
    b = GraphBuilder("g")
    b.output(b.add("matmul", b.input("x", f32(0, 5)), b.input("y", f32(5, 7))))
    assert_agrees(b, whole(0, 5), whole(5, 7))


def test_the_indices_of_the_best_are_found_where_nothing_reads_their_values() -> None:
    b = GraphBuilder("g")
    _, places = b.add_many("topk", b.input("x", f32(4, 9)), k=3, axis=1, largest=True)
    b.output(places)
    assert_agrees(b, whole(4, 9))


def test_a_result_is_there_before_a_reduction_reads_it() -> None:
    b = GraphBuilder("g")
    y = b.add("tanh", b.input("x", f32(3, 40)))
    top = b.add("reduce", y, op="max", axes=(1,), keepdims=True)
    e = b.add("exp", b.add("sub", y, top))
    b.output(y)
    b.output(b.add("div", e, b.add("reduce", e, op="sum", axes=(1,), keepdims=True)))
    assert_agrees(b, whole(3, 40))


def test_powers_of_whole_numbers_are_by_squaring() -> None:
    b = GraphBuilder("g")
    kind = TensorType(dt.i64, (40,))
    b.output(b.add("pow", b.input("x", kind), b.input("y", kind)))
    rng = np.random.default_rng(1)
    assert_agrees(b, rng.integers(-5, 6, 40), rng.integers(-3, 9, 40))


def test_sums_and_products_of_whole_numbers_take_terms_of_several_parts() -> None:
    for op in ("sum", "prod"):
        for part in ("add", "sub", "mul"):
            b = GraphBuilder("terms")
            x, y = (b.input(n, TensorType(dt.i64, (3, 20))) for n in "xy")
            terms = b.add(part, x, y)
            b.output(b.add("reduce", terms, op=op, axes=(1,), keepdims=False), "y")
            numbers = np.random.default_rng(0).integers(-9, 9, (2, 3, 20))
            assert_agrees(b, numbers[0], numbers[1])
