"""Products of computed rows: what a few cheap nodes make of an image is computed on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret as interpret_graph
from tilewright.graph.ir import Graph, Value
from tilewright.graph.passes.fuse import fuse
from tilewright.lower.kernels import KernelTable
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.walk import allocations

from .bodies import TARGET, body, f32, random_inputs, run_code
from .test_model import assert_runs, calls, graph_of
from .test_parts import conv, relu, weights
from .test_winograd import double

N = symbol("N", 1, 8)


def normalised(x: tuple[Dim, ...], outputs: int, scale: tuple[int, ...]) -> Graph:
    """conv(relu(x * s + b)) + c, with everything but the image constant."""

    def make(b: GraphBuilder) -> Value:
        y = b.add("mul", b.input("x", f32(*x)), b.input("s", f32(*scale)))
        y = relu(b, b.add("add", y, b.input("b", f32(*scale))))
        w = b.input("w", f32(1, 1, scale[-1], outputs))
        zeros, ones = (0, 0), (1, 1)
        y = b.add("conv", y, w, strides=ones, lo=zeros, hi=zeros, dilations=ones, groups=1)
        return b.add("add", y, b.input("c", f32(outputs)))

    return body(make)


@pytest.mark.parametrize(
    ("x", "outputs", "scale", "sizes"),
    [
        ((1, 9, 7, 24), 40, (24,), {}),
        ((2, 5, 6, 19), 11, (19,), {}),
        ((1, 8, 8, 16), 24, (1, 1, 1, 16), {}),
        ((3, 4, 5, 16), 24, (3, 1, 1, 16), {}),
        ((N, 6, 5, 17), 33, (17,), {"N": 3}),
        ((1, 1, 3, 70), 50, (70,), {}),
    ],
)
def test_a_product_of_computed_rows_is_right(
    x: tuple[Dim, ...], outputs: int, scale: tuple[int, ...], sizes: dict[str, int]
) -> None:
    graph = normalised(x, outputs, scale)
    fixed = frozenset(v for v in graph.inputs if v.name in "wc")
    code = KernelTable(TARGET).code(graph, fixed)
    (kernel,) = code.kernels
    assert any(b.name == "left" for b in allocations(kernel.func.body))
    arrays = random_inputs(graph, sizes)
    (found,) = run_code(code, graph, arrays, sizes)
    (want,) = interpret_graph(double(graph), {k: v.astype(float) for k, v in arrays.items()})
    assert np.abs(found - want).max() <= 2e-6 * np.abs(want).max()


def groups(make_operand: str, l2: int = 16 << 10, k: int = 1) -> int:
    """How many kernels ``conv(f(x))`` has."""

    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        x = b.input("x", f32(1, 16, 16, 32))
        y = b.add("mul", x, weights(b, 32))
        if make_operand == "costly":
            y = b.add("exp", y)
        if make_operand == "read twice":
            return conv(b, y, 16, k), b.add("reduce", y, op="sum", axes=(1, 2), keepdims=True)
        return conv(b, y, 16, k)

    fused = fuse(graph_of(make), replace(TARGET, l2_bytes=l2))
    return sum(n.op == "fused" for n in fused.nodes)


def test_fusion_computes_cheap_operands_on_the_way() -> None:
    assert groups("cheap") == 1


def test_operands_that_are_costly_or_small_or_read_twice_get_memory() -> None:
    assert groups("costly") == 2
    assert groups("cheap", l2=4 << 20) == 2
    assert groups("read twice") == 3
    assert groups("cheap", k=3) == 2


def test_native_code_of_computed_rows_is_right() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 32, 32, 96))
        y = relu(b, b.add("add", b.add("mul", x, weights(b, 96)), weights(b, 96)))
        return conv(b, y, 72)

    assert len(calls(assert_runs(graph_of(make)))) == 1
