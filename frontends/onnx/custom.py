"""Kernels of users' own in place of operators."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tilewright.graph.ir import Value

from ..kernel import Kernel
from .context import Context
from .node import GapError, NodeView


def convert_kernel(ctx: Context, node: NodeView, kernel: Kernel) -> tuple[Value, ...]:
    """A node as a kernel: its attributes are the parameters that are no arrays, by name."""
    inputs = [v for v in node.inputs if v is not None]
    if len(inputs) != len(node.inputs) or len(inputs) != len(kernel.operands):
        raise GapError(
            f"the kernel {kernel.name} takes {', '.join(kernel.operands)}; the node has"
            f" {len(inputs)} operands"
        )
    statics: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if name not in kernel.statics:
            raise GapError(f"the attribute {name}, which the kernel {kernel.name} has not")
        value = import_module("onnx.helper").get_attribute_value(attribute)
        kind = kernel.statics[name]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if kind is bool and value in (0, 1):
            value = bool(value)
        if type(value) is not kind:
            raise GapError(f"the attribute {name}, which is {kind.__name__} in {kernel.name}")
        statics[name] = value
    missing = sorted(kernel.statics.keys() - statics.keys() - kernel.defaults.keys())
    if missing:
        raise GapError(f"the kernel {kernel.name} needs the attribute {missing[0]}")
    op, attrs = kernel.node(statics)
    return ctx.ops(op, *inputs, **attrs)
