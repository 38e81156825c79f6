"""Subgraphs get the constants they capture, and known branches are spliced in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes import run_passes
from tilewright.graph.passes.control import simplify_control

Check = Callable[..., Graph]


def f32(*shape: int) -> TensorType:
    return TensorType(dt.f32, shape)


def branch(name: str, op: str) -> Graph:
    b = GraphBuilder(name)
    x, w = b.input("x", f32(2, 3)), b.input("w", f32(3))
    b.output(b.add("tanh", b.add(op, x, w)))
    return b.finish()


def choose(b: GraphBuilder, cond: Value, *captured: Value) -> Value:
    return b.add("if", cond, *captured, then=branch("then", "add"), orelse=branch("orelse", "mul"))


def test_a_branch_on_a_constant_is_spliced_in(check: Check) -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", f32(2, 3)), b.input("w", f32(3))
    for taken in (True, False):
        b.output(choose(b, b.constant(np.array(taken)), x, w))
    after = check(b.finish(), simplify_control, exact=True)
    assert [n.op for n in after.nodes] == ["add", "tanh", "mul", "tanh"]


def test_captured_constants_move_into_both_branches(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x, cond = b.input("x", f32(2, 3)), b.input("cond", TensorType(dt.bool_, ()))
    b.output(choose(b, cond, x, b.constant(rng.random(3, np.float32))))
    after = check(b.finish(), simplify_control, exact=True)
    (node,) = after.nodes
    assert [v.name for v in node.inputs] == ["cond", "x"]
    for name in ("then", "orelse"):
        body = node.attrs[name]
        assert isinstance(body, Graph)
        assert len(body.constants) == 1


def recurrence(rng: Generator, inner: bool) -> Graph:
    """A scan whose step multiplies by a captured weight, perhaps in one more subgraph."""
    step = GraphBuilder("step")
    h, x = step.input("h", f32(2, 3)), step.input("x", f32(2, 3))
    w = step.input("w", f32(3))
    step.input("unused", f32(3))
    if inner:
        positive = step.add("reduce", x, op="max", axes=(0, 1), keepdims=False)
        cond = step.add("gt", positive, step.constant(np.array(0, np.float32)))
        new = choose(step, cond, h, w)
    else:
        new = step.add("mul", h, w)
    total = step.add("add", new, x)
    step.output(total)
    step.output(step.add("exp", total))
    b = GraphBuilder("g")
    h0, xs, other = b.input("h", f32(2, 3)), b.input("xs", f32(5, 2, 3)), b.input("o", f32(3))
    weight = b.constant(rng.random(3, np.float32))
    results = b.add_many(
        "scan", h0, xs, weight, other, body=step.finish(), carried=1, scanned=1, reverse=False
    )
    for value in results:
        b.output(value)
    return b.finish()


def test_a_scan_takes_in_its_weights_and_drops_what_it_does_not_read(
    rng: Generator, check: Check
) -> None:
    (node,) = check(recurrence(rng, inner=False), simplify_control, exact=True).nodes
    assert len(node.inputs) == 2


def test_constants_reach_the_innermost_subgraph(rng: Generator, check: Check) -> None:
    (node,) = check(recurrence(rng, inner=True), simplify_control, exact=True).nodes
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    (choice,) = [n for n in body.nodes if n.op == "if"]
    assert len(choice.inputs) == 2


def test_all_passes_run_inside_subgraphs(rng: Generator, check: Check) -> None:
    for inner in (False, True):
        (node,) = check(recurrence(rng, inner), run_passes).nodes
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        assert {n.op for n in body.nodes} <= {"fused", "if", "reshape"}
