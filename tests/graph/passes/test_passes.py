"""The whole list of passes, on graphs that importers make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.frontends.onnx import import_onnx
from tilewright.frontends.onnx.zoo import load_zoo
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.graph.passes import PASSES, run_passes
from tilewright.target import Target

Check = Callable[..., Graph]


def inner_ops(graph: Graph) -> Counter[str]:
    """The ops of all bodies, and of the nodes outside."""
    found: Counter[str] = Counter()
    for node in graph.nodes:
        body = node.attrs.get("body")
        found.update([n.op for n in body.nodes] if isinstance(body, Graph) else [node.op])
    return found


def test_every_pass_has_a_name_of_its_own_and_a_reason() -> None:
    names = [name for name, _, _ in PASSES]
    assert len(set(names)) == len(names)
    assert all(reason for _, _, reason in PASSES)


def test_a_trace_sees_the_graph_after_each_pass(target: Target) -> None:
    b = GraphBuilder("g")
    b.output(b.add("exp", b.input("x", TensorType(dt.f32, (3,)))))
    seen: list[tuple[str, int]] = []
    run_passes(b.finish(), target, lambda name, graph: seen.append((name, len(graph.nodes))))
    assert seen == [(name, 1) for name, _, _ in PASSES]


@pytest.mark.parametrize(("name", "transposes"), [("squeezenet", 1), ("shufflenet", 17)])
def test_a_convolution_network_runs_channels_last(name: str, transposes: int, check: Check) -> None:
    """The one transpose is that of the input; the shuffles of shufflenet are its own."""
    after = check(import_onnx(load_zoo(name)), run_passes)
    found = inner_ops(after)
    assert found["transpose"] == transposes
    convolutions = sum("conv" in _body_ops(n.attrs.get("body")) for n in after.nodes)
    assert convolutions == found["conv"]


def _body_ops(body: object) -> list[str]:
    return [n.op for n in body.nodes] if isinstance(body, Graph) else []


def test_thousands_of_nodes_pass_through_without_recursion(check: Check) -> None:
    b = GraphBuilder("deep")
    x = b.input("x", TensorType(dt.f32, (2, 4)))
    w = b.constant(np.eye(4, dtype=np.float32))
    for _ in range(600):
        x = b.add("transpose", b.add("transpose", b.add("tanh", x), perm=(1, 0)), perm=(1, 0))
        x = b.add(
            "reshape",
            b.add("add", b.add("reshape", x, shape=(8,)), b.constant(np.float32(0.1))),
            shape=(2, 4),
        )
        x = b.add("matmul", x, w)
    b.output(x)
    assert inner_ops(check(b.finish(), run_passes)) == {"tanh": 600, "add": 600, "matmul": 600}
