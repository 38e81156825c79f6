"""Fusion keeps every result and finds the groups that the code generator wants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, Node, TensorType, Value
from tilewright.graph.passes.fuse import fuse
from tilewright.graph.passes.groups import MAX_INPUTS, MAX_NODES
from tilewright.tensor.ir import Dim, symbol

Check = Callable[..., Graph]


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def bodies(graph: Graph) -> list[list[str]]:
    """The ops of each fused node, in order; other nodes as themselves."""
    found = []
    for node in graph.nodes:
        body = node.attrs.get("body")
        found.append([n.op for n in body.nodes] if isinstance(body, Graph) else [node.op])
    return found


def fused_ops(graph: Graph) -> list[str]:
    return [" ".join(b) for b in bodies(graph)]


def scalar(b: GraphBuilder, value: float) -> Value:
    return b.constant(np.array(value, np.float32))


def softmax(b: GraphBuilder, x: Value) -> Value:
    axes = (len(x.shape) - 1,)
    top = b.add("reduce", x, op="max", axes=axes, keepdims=True)
    e = b.add("exp", b.add("sub", x, top))
    return b.add("div", e, b.add("reduce", e, op="sum", axes=axes, keepdims=True))


def layer_norm(b: GraphBuilder, x: Value, size: int) -> Value:
    axes = (len(x.shape) - 1,)
    share = scalar(b, 1.0 / size)
    mean = b.add("mul", b.add("reduce", x, op="sum", axes=axes, keepdims=True), share)
    d = b.add("sub", x, mean)
    squares = b.add("reduce", b.add("mul", d, d), op="sum", axes=axes, keepdims=True)
    root = b.add("sqrt", b.add("add", b.add("mul", squares, share), scalar(b, 1e-5)))
    weight = b.constant(np.linspace(0.5, 1.5, size, dtype=np.float32))
    bias = b.constant(np.linspace(-1, 1, size, dtype=np.float32))
    return b.add("add", b.add("mul", b.add("div", d, root), weight), bias)


def gelu(b: GraphBuilder, x: Value) -> Value:
    e = b.add("erf", b.add("div", x, scalar(b, 2**0.5)))
    return b.add("mul", b.add("mul", x, b.add("add", e, scalar(b, 1.0))), scalar(b, 0.5))


def test_a_matmul_takes_bias_residual_and_gelu(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    n = symbol("N", 1, 64)
    x, r = b.input("x", f32(n, 8)), b.input("r", f32(n, 20))
    w = b.constant(rng.standard_normal((8, 20)).astype(np.float32))
    y = b.add("add", b.add("matmul", x, w), b.constant(np.ones(20, np.float32)))
    b.output(gelu(b, b.add("add", y, r)))
    fused = check(b.finish(), fuse, exact=True, N=5)
    assert fused_ops(fused) == ["matmul add add div erf add mul mul"]


def test_softmax_is_one_kernel(check: Check) -> None:
    b = GraphBuilder("g")
    b.output(softmax(b, b.input("x", f32(2, symbol("S", 1, 64), 7))))
    fused = check(b.finish(), fuse, exact=True, S=3)
    assert fused_ops(fused) == ["reduce sub exp reduce div"]


def test_residual_add_and_layer_norm_are_one_kernel_with_two_results(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", f32(4, 16)), b.input("y", f32(4, 16))
    stream = b.add("add", x, y)
    b.output(layer_norm(b, stream, 16))
    b.output(stream)
    fused = check(b.finish(), fuse, exact=True)
    assert len(fused.nodes) == 1
    assert len(fused.nodes[0].outputs) == 2


def test_an_attention_block_leaves_only_views_and_kernels_with_an_anchor(
    rng: Generator, check: Check
) -> None:
    b = GraphBuilder("g")
    s = symbol("S", 1, 64)
    x = b.input("x", f32(2, s, 24))
    mask = b.input("mask", f32(2, 1, 1, s))
    heads = []
    for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        w = b.constant(rng.standard_normal((24, 24)).astype(np.float32))
        y = b.add("add", b.add("matmul", x, w), b.constant(rng.random(24, np.float32)))
        y = b.add("reshape", y, shape=(2, s, 3, 8))
        heads.append(b.add("transpose", y, perm=perm))
    q, k, v = heads
    scores = b.add("mul", b.add("matmul", q, k), scalar(b, 8**-0.5))
    mixed = b.add("matmul", softmax(b, b.add("add", scores, mask)), v)
    mixed = b.add("reshape", b.add("transpose", mixed, perm=(0, 2, 1, 3)), shape=(2, s, 24))
    w = b.constant(rng.standard_normal((24, 24)).astype(np.float32))
    b.output(layer_norm(b, b.add("add", b.add("matmul", mixed, w), x), 24))
    fused = check(b.finish(), fuse, exact=True, S=6)
    assert fused_ops(fused) == [
        "matmul add",
        "reshape",
        "matmul add",
        "reshape",
        "transpose",
        "matmul add",
        "reshape",
        "transpose transpose matmul mul add reduce sub exp reduce div matmul transpose",
        "reshape",
        "matmul add",
        "reduce mul sub mul reduce mul add sqrt div mul add",
    ]


def test_a_residual_add_joins_the_later_convolution(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(1, 6, 6, 4))

    def conv(value: Value, kernel: int) -> Value:
        w = b.constant(rng.standard_normal((kernel, kernel, 4, 4)).astype(np.float32))
        pad = (kernel // 2,) * 2
        y = b.add("conv", value, w, strides=(1, 1), lo=pad, hi=pad, dilations=(1, 1), groups=1)
        return b.add("add", y, b.constant(rng.random(4, np.float32)))

    main = conv(b.add("max", conv(x, 3), scalar(b, 0.0)), 3)
    side = conv(x, 1)
    b.output(b.add("max", b.add("add", main, side), scalar(b, 0.0)))
    fused = check(b.finish(), fuse, exact=True)
    assert fused_ops(fused) == ["conv add max", "conv add", "conv add add max"]


def test_a_gate_computed_from_the_anchor_does_not_close_a_cycle(check: Check) -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", f32(5, 8)), b.input("w", f32(8, 8))
    y = b.add("matmul", x, w)
    gate = b.add("sigmoid", b.add("matmul", y, w))
    b.output(b.add("mul", y, gate))
    fused = check(b.finish(), fuse, exact=True)
    assert fused_ops(fused) == ["matmul", "matmul sigmoid mul"]


def test_an_anchor_with_many_results_is_cut_to_two(check: Check) -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", f32(5, 8)), b.input("w", f32(8, 8))
    y = b.add("matmul", x, w)
    for op in ("sigmoid", "tanh", "exp", "sqrt", "neg"):
        b.output(b.add(op, y))
    fused = check(b.finish(), fuse, exact=True)
    anchors = [n for n, ops in zip(fused.nodes, bodies(fused), strict=True) if "matmul" in ops]
    assert [len(n.outputs) for n in anchors] == [2]


def test_cheap_movement_is_copied_into_each_reader(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(4, 6))
    t = b.add("transpose", x, perm=(1, 0))
    y = b.input("y", f32(6, 4))
    b.output(b.add("matmul", t, x))
    b.output(b.add("add", t, y))
    assert fused_ops(check(b.finish(), fuse, exact=True)) == ["transpose matmul", "transpose add"]


def test_an_elementwise_producer_of_a_transpose_joins_it(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(4, 6))
    b.output(b.add("transpose", b.add("exp", x), perm=(1, 0)))
    assert fused_ops(check(b.finish(), fuse, exact=True)) == ["exp transpose"]


def test_concat_takes_in_the_producers_that_only_it_reads(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", f32(4, 3)), b.input("y", f32(4, 2))
    shared = b.add("exp", y)
    joined = b.add("concat", b.add("exp", x), shared, b.add("neg", y), axis=1)
    b.output(b.add("mul", joined, scalar(b, 2.0)))
    b.output(shared)
    assert fused_ops(check(b.finish(), fuse, exact=True)) == ["exp", "exp neg concat mul"]


def test_a_cast_of_a_mask_is_computed_where_it_is_read(check: Check) -> None:
    b = GraphBuilder("g")
    x, mask = b.input("x", f32(4, 3)), b.input("mask", TensorType(dt.i64, (4, 1)))
    b.output(b.add("mul", b.add("exp", x), b.add("cast", mask, dtype=dt.f32, saturate=False)))
    assert fused_ops(check(b.finish(), fuse, exact=True)) == ["exp cast mul"]


def test_the_step_of_a_recurrent_cell_is_one_kernel(check: Check) -> None:
    b = GraphBuilder("g")
    c = b.input("c", f32(2, 4))
    gates = b.add("matmul", b.input("h", f32(2, 4)), b.input("w", f32(4, 16)))
    i, f, g, o = (
        b.add("slice", gates, starts=(0, 4 * k), sizes=(2, 4), steps=(1, 1)) for k in range(4)
    )
    gate = b.add("mul", b.add("sigmoid", i), b.add("tanh", g))
    state = b.add("add", b.add("mul", b.add("sigmoid", f), c), gate)
    b.output(b.add("mul", b.add("tanh", state), b.add("sigmoid", o)))
    b.output(state)
    after = check(b.finish(), fuse, exact=True)
    assert [len(n.outputs) for n in after.nodes] == [1, 2]


def test_results_that_are_inputs_constants_or_movement_stay(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(4, 3))
    b.output(x)
    b.output(b.constant(np.ones(3, np.float32)))
    b.output(b.add("transpose", x, perm=(1, 0)))
    b.output(b.add("iota", shape=(5,), axis=0, dtype=dt.i32))
    b.output(b.add("reshape", b.add("transpose", x, perm=(1, 0)), shape=(12,)))
    check(b.finish(), fuse, exact=True)


def test_a_chain_longer_than_the_limit_is_cut(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(4))
    for _ in range(3 * MAX_NODES):
        x = b.add("tanh", x)
    b.output(x)
    sizes = [len(ops) for ops in bodies(check(b.finish(), fuse, exact=True))]
    assert sum(sizes) == 3 * MAX_NODES
    assert max(sizes) <= MAX_NODES


def test_a_sum_of_many_inputs_is_cut(check: Check) -> None:
    b = GraphBuilder("g")
    total = b.input("x", f32(4))
    for i in range(3 * MAX_INPUTS):
        total = b.add("add", total, b.input(f"x{i}", f32(4)))
    b.output(total)
    assert max(len(n.inputs) for n in check(b.finish(), fuse, exact=True).nodes) <= MAX_INPUTS


def test_bodies_of_equal_layers_are_equal(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(4, 8))
    for _ in range(2):
        w = b.constant(rng.standard_normal((8, 8)).astype(np.float32))
        x = b.add(
            "tanh", b.add("add", b.add("matmul", x, w), b.constant(rng.random(8, np.float32)))
        )
    b.output(x)

    def shape_of(node: Node) -> list[tuple[str, list[str]]]:
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        return [(n.op, [v.name for v in n.inputs]) for n in body.nodes]

    first, second = check(b.finish(), fuse, exact=True).nodes
    assert shape_of(first) == shape_of(second)


def _random_graph(rng: Generator, size: int) -> Graph:
    """A random tangle of 2-d operations on square tensors, so that everything fits anything."""
    b = GraphBuilder("random")
    values = [b.input("x", f32(6, 6)), b.input("y", f32(6, 6)), b.input("r", f32(6, 1))]

    def pick(full: bool = True) -> Value:
        near = values[-6:] if rng.random() < 0.7 else values
        found = near[int(rng.integers(len(near)))]
        return found if not full or found.shape == (6, 6) else values[0]

    for _ in range(size):
        match int(rng.integers(12)):
            case 0:
                new = b.add("matmul", pick(), pick())
            case 1:
                new = b.add("transpose", pick(), perm=(1, 0))
            case 2:
                new = b.add("reduce", pick(), op="max", axes=(1,), keepdims=True)
            case 3:
                new = b.add("reduce", pick(), op="max", axes=(0,), keepdims=True)
            case 4:
                new = b.add("reshape", b.add("reshape", pick(), shape=(36,)), shape=(6, 6))
            case 5:
                half = b.add("slice", pick(), starts=(0, 2), sizes=(6, 3), steps=(1, 1))
                new = b.add("concat", half, b.add("tanh", half), axis=1)
            case 6 | 7:
                new = b.add("tanh", pick(False))
            case _:
                new = b.add("min", pick(False), pick(False))
        values.append(new if new.shape != (1, 6) else b.add("broadcast_to", new, shape=(6, 6)))
    for value in rng.choice(len(values), 4):
        b.output(values[int(value)])
    b.output(values[-1])
    return b.finish()


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_keep_their_results(seed: int, check: Check) -> None:
    check(_random_graph(default_rng(seed), 40), fuse, exact=True)
