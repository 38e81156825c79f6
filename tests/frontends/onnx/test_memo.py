"""Conversions that come again: what was done before is done once more, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tilewright import dtype as dt
from tilewright.frontends.onnx import import_onnx, memo
from tilewright.frontends.onnx.context import Context, Converter
from tilewright.frontends.onnx.node import NodeView
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, Value
from tilewright.graph.text import text

from .models import parsed, run

Results = tuple[Value | None, ...]

LAYER = """
    n{0} = LayerNormalization(x{0}, g, b)
    m{0} = MatMul(n{0}, w)
    a{0} = Gelu(m{0})
    s{0} = Softmax <axis = {1}> (a{0})
    r{0} = Reshape(s{0}, t{1})
    q{0} = Reshape(r{0}, t0)
    x{2} = Add(x{0}, q{0})
"""
WEIGHTS = """
    int64[2] t0 = {3, 4}, int64[2] t1 = {2, 6}, int64[2] t2 = {6, 2},
    float[4] g = {1.0, 2.0, 3.0, 4.0}, float[4] b = {0.1, 0.2, 0.3, 0.4},
    float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6}
"""


def layers(count: int) -> onnx.ModelProto:
    """Layers of equal nodes, every second with other attributes and another shape."""
    body = "".join(LAYER.format(k, 1 + k % 2 if k else 1, k + 1) for k in range(count))
    body = body.replace("axis = 2", "axis = 0")
    head = f"agraph (float[3, 4] x0) => (float[3, 4] x{count}) <{WEIGHTS}>"
    return parsed(f"{head} {{ {body} }}")


class Counted(memo.Memo):
    """A memo that counts the conversions that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        counters.append(self)

    def convert(self, ctx: Context, node: NodeView, converter: Converter) -> Results:
        def counted(ctx: Context, node: NodeView) -> Results:
            self.names.append(node.op)
            return converter(ctx, node)

        return super().convert(ctx, node, counted)


counters: list[Counted] = []


class Forgetful(memo.Memo):
    """A memo that runs every conversion."""

    def convert(self, ctx: Context, node: NodeView, converter: Converter) -> Results:
        return converter(ctx, node)


def imported(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto, kind: type) -> Graph:
    monkeypatch.setattr("tilewright.frontends.onnx.importer.Memo", kind)
    return import_onnx(model)


def test_nodes_that_come_again_are_added_as_if_each_was_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = layers(8)
    once = imported(monkeypatch, model, Counted)
    each = imported(monkeypatch, model, Forgetful)
    assert text(once) == text(each)
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(run(once, x), run(each, x))


def test_what_was_converted_is_not_converted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    imported(monkeypatch, layers(8), Counted)
    names = counters[-1].names
    # Two axes of softmax; from three shapes and to one of three.
    assert {n: names.count(n) for n in set(names)} == {
        "LayerNormalization": 1, "MatMul": 1, "Gelu": 1, "Softmax": 2, "Reshape": 4, "Add": 1,
    }  # fmt: skip


def context() -> Context:
    class Nobody:
        """No node of these tests holds a graph."""

        def inline(self, *_: object) -> tuple[Value, ...]:
            raise NotImplementedError

        def bodies(self, *_: object) -> tuple[tuple[Graph, ...], tuple[Value, ...]]:
            raise NotImplementedError

    return Context(GraphBuilder("g"), Nobody())


def view(*inputs: Value) -> NodeView:
    return NodeView("Odd", "", "n", 21, inputs, ("y",), {})


@pytest.mark.parametrize("size", [4, 1000])
def test_a_converter_that_looks_into_an_operand_is_run_for_each(size: int) -> None:
    def total(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        return (ctx.literal(float(ctx.require_constant(node.input(0), "x").sum()), dt.f64),)

    ctx, conversions = context(), memo.Memo()
    for k in range(3):
        operand = ctx.literal(np.full(size, k, np.float64))
        (result,) = conversions.convert(ctx, view(operand), total)
        assert result is not None
        assert ctx.constant(result) == k * size


def test_one_operand_twice_is_not_two_operands() -> None:
    def same(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        a, b = node.inputs
        return (ctx.literal(a is b),)

    ctx, conversions = context(), memo.Memo()
    one, other = (ctx.literal(np.full(1000, k, np.float32)) for k in (1, 2))
    for a, b in ((one, one), (one, other), (other, other)):
        (result,) = conversions.convert(ctx, view(a, b), same)
        assert result is not None
        assert ctx.constant(result) == (a is b)
