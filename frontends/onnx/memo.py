"""Conversions that come again: a node like one before is added as that one was.

What a converter adds depends on the node's attributes, on the types of its operands and on the
contents of those that it looks at. Deep models repeat the same nodes on other weights, so most of
their conversions were done before: these are not run again, what they added is added once more.
A conversion that does anything else, or looks into a large operand, is not remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tilewright.graph.ir import Graph, Node, Value

from .context import Context, Converter, Record
from .messages import AttributeProto
from .node import NodeView

_LARGE_BYTES = 1024
_PLAIN = frozenset(
    (
        AttributeProto.INT,
        AttributeProto.FLOAT,
        AttributeProto.STRING,
        AttributeProto.INTS,
        AttributeProto.FLOATS,
        AttributeProto.STRINGS,
    )
)

Key = tuple[object, ...]
Results = tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class _Done:
    """What a conversion added.

    What nodes read and what was returned is numbered: 0 is nothing, then come its operands, the
    constants that it made, and what its nodes made.

    Attributes:
        literals: the constants that it made, in order.
        nodes: the nodes that it added, and what each reads.
        results: what it returned.
    """

    literals: tuple[np.ndarray, ...]
    nodes: tuple[tuple[Node, tuple[int, ...]], ...]
    results: tuple[int, ...]


class Memo:
    """The conversions of one import."""

    def __init__(self) -> None:
        self._done: dict[Key, _Done | None] = {}

    def convert(self, ctx: Context, node: NodeView, converter: Converter) -> Results:
        """What the converter returns for a node, by running it or as it was done before."""
        key = _key(ctx, node)
        if key is None or ctx.record is not None:
            return converter(ctx, node)
        found = self._done.get(key)
        if found is not None:
            return _again(ctx, node, found)
        if key in self._done:
            return converter(ctx, node)
        ctx.record = Record()
        mark = ctx.builder.mark()
        try:
            results = converter(ctx, node)
        finally:
            record, ctx.record = ctx.record, None
        self._done[key] = _remembered(ctx, node, record, ctx.builder.added_since(mark), results)
        return results


def _key(ctx: Context, node: NodeView) -> Key | None:
    """What nodes have in common that are converted alike; None for one that is like no other."""
    attributes = []
    for name, attribute in node.attributes.items():
        if attribute.type not in _PLAIN:
            return None
        attributes.append((name, attribute.SerializeToString()))
    operands: list[object] = []
    inputs = node.inputs
    for value in inputs:
        if value is None:
            operands.append(None)
            continue
        content = ctx.outline(value)
        if content is False:
            return None
        # A converter may tell whether two operands are one.
        operands.append((inputs.index(value), value.type.dtype.name, value.type.shape, content))
    wanted = tuple([o != "" for o in node.outputs])
    return (node.domain, node.op, node.opset, wanted, tuple(attributes), tuple(operands))


def _remembered(
    ctx: Context, node: NodeView, record: Record, nodes: Sequence[Node] | None, results: Results
) -> _Done | None:
    """What was done, if it can be done again; None otherwise."""
    if nodes is None or record.looked or any(n.origin != ctx.origin for n in nodes):
        return None
    if any(name or a.nbytes > _LARGE_BYTES for a, _, name in record.literals):
        return None
    known: dict[Value | None, int] = {None: 0}
    for place, operand in enumerate(node.inputs):
        known.setdefault(operand, 1 + place)
    for place, (_, literal, _) in enumerate(record.literals):
        known[literal] = 1 + len(node.inputs) + place
    count = 1 + len(node.inputs) + len(record.literals)
    again: list[tuple[Node, tuple[int, ...]]] = []
    for added in nodes:
        if any(isinstance(a, Graph) for a in added.attrs.values()):
            return None
        followed = [v for v in added.outputs if ctx.outline(v) is False]
        if followed or not known.keys() >= set(added.inputs):
            return None
        again.append((added, tuple([known[v] for v in added.inputs])))
        for value in added.outputs:
            stem, _, number = value.name.rpartition("_")
            if stem != added.op or not number.isdecimal():
                return None
            known[value] = count
            count += 1
    if not known.keys() >= set(results):
        return None
    literals = tuple([a for a, _, _ in record.literals])
    return _Done(literals, tuple(again), tuple([known[v] for v in results]))


def _again(ctx: Context, node: NodeView, done: _Done) -> Results:
    """Adds what was added before, over other operands."""
    stands: list[Value | None] = [None, *node.inputs]
    stands += [ctx.literal(array) for array in done.literals]
    repeat, origin = ctx.builder.repeat, ctx.origin
    for added, reads in done.nodes:
        inputs = cast("tuple[Value, ...]", tuple([stands[i] for i in reads]))
        stands += repeat(added, inputs, origin)
    return tuple([stands[i] for i in done.results])
