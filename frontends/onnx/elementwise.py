"""Converters of ONNX's elementwise operators."""

from __future__ import annotations

from tilewright.graph.ir import Value

from .context import Context, Converter
from .node import NodeView


def softplus(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``log(1 + exp(x))``, computed without overflow."""
    x = node.input(0)
    return (ctx.op("add", ctx.op("max", x, 0.0), ctx.op("log1p", _exp_of_minus_abs(ctx, x))),)


def _exp_of_minus_abs(ctx: Context, x: Value) -> Value:
    return ctx.op("exp", ctx.op("neg", ctx.op("abs", x)))


CONVERTERS: dict[str, Converter] = {
    "Softplus": softplus,
}
