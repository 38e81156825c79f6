"""The graph interpreter: symbols from shapes, inputs checked, subgraphs, depth."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.errors import InputError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.tensor.ir import as_expr, symbol
from tilewright.tensor.simplify import dim

N = symbol("N", 1, 8)


def doubling() -> Graph:
    builder = GraphBuilder("doubling")
    x = builder.input("x", TensorType(dt.f32, (N, 2)))
    y = builder.add("concat", x, x, axis=0)
    builder.output(builder.add("reshape", y, shape=(dim(as_expr(N) * 4),)), "y")
    return builder.finish()


def test_dims_in_attributes_take_the_size_of_the_input() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    (y,) = interpret(doubling(), {"x": x})
    np.testing.assert_array_equal(y, np.concatenate([x, x]).reshape(12))


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "TW-E0301", "input 'x' is missing"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, "TW-E0301", "no input is called"),
        ({"x": np.zeros((1, 2))}, "TW-E0302", "must be f32"),
        ({"x": np.zeros(2, np.float32)}, "TW-E0303", "got the shape"),
        ({"x": np.zeros((1, 3), np.float32)}, "TW-E0304", "got the shape"),
        ({"x": np.zeros((9, 2), np.float32)}, "TW-E0306", "N 1 to 8, got 9"),
        ({"x": np.zeros((0, 2), np.float32)}, "TW-E0306", "N 1 to 8, got 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    inputs: dict[str, np.ndarray], code: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        interpret(doubling(), inputs)
    assert caught.value.code == code


def test_one_symbol_has_one_size() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N,)))
    y = builder.input("y", TensorType(dt.f32, (N,)))
    builder.output(builder.add("add", x, y))
    with pytest.raises(InputError, match="'y'"):
        interpret(builder.finish(), {"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)})


def test_a_derived_dim_of_an_input_is_checked() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N,)))
    y = builder.input("y", TensorType(dt.f32, (dim(as_expr(N) + 1),)))
    builder.output(builder.add("concat", x, y, axis=0))
    graph = builder.finish()
    good = {"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)}
    assert interpret(graph, good)[0].shape == (5,)
    with pytest.raises(InputError, match="'y'"):
        interpret(graph, {**good, "y": np.zeros(4, np.float32)})


def branch(name: str, op: str) -> Graph:
    builder = GraphBuilder(name)
    x = builder.input("x", TensorType(dt.f32, (N, 2)))
    size = builder.add("cast", builder.add("dim", value=N), dtype=dt.f32, saturate=False)
    builder.output(builder.add(op, x, size))
    return builder.finish()


def test_subgraphs_see_the_symbols_around_them() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N, 2)))
    many = builder.add("gt", builder.add("dim", value=N), builder.constant(np.int64(2)))
    y = builder.add("if", many, x, then=branch("then", "mul"), orelse=branch("orelse", "sub"))
    builder.output(y)
    graph = builder.finish()
    three, one = np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(interpret(graph, {"x": three})[0], three * 3)
    np.testing.assert_array_equal(interpret(graph, {"x": one})[0], one - 1)


def test_an_output_may_be_an_input_or_a_constant_and_may_repeat() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (2,)))
    for value, name in ((x, "a"), (builder.constant(np.int32(7)), "b"), (x, "c")):
        builder.output(value, name)
    a, b, c = interpret(builder.finish(), {"x": np.ones(2, np.float32)})
    assert a.tolist() == c.tolist() == [1, 1] and b == 7


def test_a_graph_of_ten_thousand_nodes_runs() -> None:
    builder = GraphBuilder("deep")
    x = builder.input("x", TensorType(dt.i64, ()))
    one = builder.constant(np.int64(1))
    value = x
    for _ in range(10_000):
        value = builder.add("add", value, one)
    builder.output(value)
    (y,) = interpret(builder.finish(), {"x": np.array(5)})
    assert y == 10_005


def test_a_symbol_that_no_input_settles_is_named() -> None:
    n, m = symbol("N", 1), symbol("M", 1)
    b = GraphBuilder("sum")
    b.output(b.input("x", TensorType(dt.f32, (dim(as_expr(n) + m),))), "y")
    with pytest.raises(InputError, match="TW-E0311.*'x': no input has the dim . alone"):
        interpret(b.finish(), {"x": np.zeros(4, np.float32)})
