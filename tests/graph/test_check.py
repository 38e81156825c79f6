"""The graph check finds each way in which a graph can be malformed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.check import GraphError, check
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.tensor.ir import Var, as_expr, lt, symbol

N = symbol("N")


def good() -> Graph:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N, 3)))
    y = builder.add("add", x, builder.constant(np.ones(3, np.float32)), name="y")
    builder.output(builder.add("reshape", y, shape=(as_expr(N) * 3,), name="z"))
    return builder.finish()


def test_a_built_graph_is_well_formed() -> None:
    check(good())


def test_nodes_out_of_order_are_found() -> None:
    graph = good()
    with pytest.raises(GraphError, match="reads y, which nothing before it defines"):
        check(replace(graph, nodes=graph.nodes[::-1]))


def test_a_node_that_is_there_twice_is_found() -> None:
    graph = good()
    with pytest.raises(GraphError, match="y is defined twice"):
        check(replace(graph, nodes=(graph.nodes[0], *graph.nodes)))


def test_two_values_of_one_name_are_found() -> None:
    graph = good()
    twin = replace(graph.nodes[0], outputs=(Value("y", graph.nodes[0].outputs[0].type),))
    with pytest.raises(GraphError, match="two values are called 'y'"):
        check(replace(graph, nodes=(*graph.nodes, twin)))


def test_an_output_type_that_is_not_the_ops_is_found() -> None:
    graph = good()
    wrong = Value("w", TensorType(dt.f32, (N, 4)))
    node = replace(graph.nodes[0], outputs=(wrong,))
    with pytest.raises(GraphError, match=r"outputs are f32\[N, 4\].*gives f32\[N, 3\]"):
        check(replace(graph, nodes=(node,), outputs=(wrong,)))


def test_an_unknown_op_is_found() -> None:
    graph = good()
    node = replace(graph.nodes[0], op="frobnicate")
    with pytest.raises(GraphError, match="no such op"):
        check(replace(graph, nodes=(node,)))


def test_a_missing_attribute_is_found() -> None:
    graph = good()
    node = replace(graph.nodes[1], attrs={})
    with pytest.raises(GraphError, match=r"takes the attributes \(shape\)"):
        check(replace(graph, nodes=(graph.nodes[0], node)))


def test_an_attribute_that_is_a_list_is_found() -> None:
    graph = good()
    listed: object = [3, 3]
    node = replace(graph.nodes[1], attrs={"shape": listed})  # type: ignore[dict-item]
    with pytest.raises(GraphError, match="no attribute value in canonical form"):
        check(replace(graph, nodes=(graph.nodes[0], node)))


def test_a_constant_that_does_not_fit_its_type_is_found() -> None:
    graph = good()
    data = {v: np.ones(4, np.float32) for v in graph.constants}
    with pytest.raises(GraphError, match=r"is f32\[4\], not f32\[3\]"):
        check(replace(graph, constants=data))


def test_an_output_that_nothing_defines_is_found() -> None:
    stray = Value("stray", TensorType(dt.f32, ()))
    with pytest.raises(GraphError, match="returns stray"):
        check(replace(good(), outputs=(stray,)))


def test_a_symbol_that_no_input_settles_is_found() -> None:
    value = Value("x", TensorType(dt.f32, (as_expr(symbol("M")) // 2,)))
    with pytest.raises(GraphError, match="no input's size settles 'M'"):
        check(Graph("g", (value,), (), (value,)))


def test_a_symbol_may_stand_in_a_linear_dim_only() -> None:
    value = Value("x", TensorType(dt.f32, (as_expr(symbol("M")) * 32 + 1,)))
    check(Graph("g", (value,), (), (value,)))


def test_a_condition_on_a_foreign_symbol_is_found() -> None:
    check(replace(good(), conditions=(lt(2, N),)))
    for condition in (lt(2, symbol("M")), lt(2, symbol("N", 5))):
        with pytest.raises(GraphError, match="no condition on its symbols"):
            check(replace(good(), conditions=(condition,)))


def test_a_variable_without_a_range_is_no_symbol() -> None:
    value = Value("x", TensorType(dt.f32, (Var("i"),)))
    with pytest.raises(GraphError, match="'i'"):
        check(Graph("g", (value,), (), (value,)))


def test_a_symbol_of_two_ranges_is_found() -> None:
    x = Value("x", TensorType(dt.f32, (N,)))
    y = Value("y", TensorType(dt.f32, (symbol("N", 1, 9),)))
    with pytest.raises(GraphError, match="N has two ranges"):
        check(Graph("g", (x, y), (), (x,)))


def test_a_dim_that_is_not_canonical_is_found() -> None:
    x = Value("x", TensorType(dt.f32, (N,)))
    y = Value("y", TensorType(dt.f32, (as_expr(N) + 1 + 1,)))
    with pytest.raises(GraphError, match="is not canonical"):
        check(Graph("g", (x, y), (), (x,)))


def test_output_names_must_match_the_outputs_and_differ() -> None:
    graph = good()
    with pytest.raises(GraphError, match="1 outputs, but 2 names"):
        check(replace(graph, output_names=("a", "b")))
    twice = graph.outputs * 2
    with pytest.raises(GraphError, match="two outputs have one name"):
        check(replace(graph, outputs=twice, output_names=("a", "a")))


def test_a_subgraph_that_reads_a_value_around_it_is_found() -> None:
    builder = GraphBuilder("outer")
    x = builder.input("x", TensorType(dt.f32, (N,)))
    cond = builder.input("cond", TensorType(dt.bool_, ()))
    inner = GraphBuilder("inner")
    a = inner.input("a", TensorType(dt.f32, (N,)))
    inner.output(inner.add("add", a, x))
    builder.output(builder.add("if", cond, x, then=inner.finish(), orelse=inner.finish()))
    with pytest.raises(GraphError, match="inner: add .* reads x, which nothing before it defines"):
        check(builder.finish())
