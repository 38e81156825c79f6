"""Kernels as graphs of one node, for all sizes or some."""

from __future__ import annotations

from collections.abc import Mapping

from tilewright.errors import OptionError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Attr, Graph, TensorType
from tilewright.ops.kernel import at_dims
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import Const, Expr
from tilewright.tensor.text import group_symbols


def fixed(group: ComputeGroup, dims: Mapping[str, int]) -> ComputeGroup:
    """A group at sizes of some of its symbols.

    Raises:
        OptionError: there is no such symbol (TW-E0823), or the size is outside its range
            (TW-E0810).
    """
    known = {v.name: v for v in group_symbols(group)}
    values: dict[Expr, Expr] = {}
    for name, size in dims.items():
        symbol = known.get(name)
        if symbol is None:
            raise OptionError(
                f"{group.name}: there is no dim {name}; there are {', '.join(known) or 'none'}",
                code="TW-E0823",
            )
        low, high = symbol.lo or 0, symbol.hi
        if type(size) is not int or size < low or (high is not None and size > high):
            raise OptionError(
                f"{group.name}: {name} = {size!r} is no number in {low}..{high or ''}",
                code="TW-E0810",
            )
        values[symbol] = Const(size)
    return at_dims(group, values)


def graph_of(group: ComputeGroup, op: str, attrs: Mapping[str, Attr]) -> Graph:
    """The graph of one node over a group's operands."""
    builder = GraphBuilder(group.name)
    inputs = [builder.input(b.name, TensorType(b.dtype, b.shape)) for b in group.inputs]
    results = builder.add_many(op, *inputs, origin=group.name, **attrs)  # type: ignore[arg-type]
    for value, buffer in zip(results, group.outputs, strict=True):
        builder.output(value, buffer.name)
    return builder.finish()
