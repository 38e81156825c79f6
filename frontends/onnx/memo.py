"""Conversions that come again: a node like one before is added as that one was.

What a converter adds depends on the node's attributes, on the types of its operands and on the
contents of those that it looks at. Deep models repeat the same nodes on other weights, so most of
their conversions were done before: these are not run again, what they added is added once more.
A conversion that does anything else, or looks into a large operand, is not remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.graph.ir import Graph, Node, Value

from .context import Context, Converter, Record
from .messages import AttributeProto
from .node import NodeView
from .shapes import MAX_CONTENT

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

    Attributes:
        operands: its operands.
        literals: the constants that it made, in order.
        nodes: the nodes that it added.
        results: what it returned.
    """

    operands: Results
    literals: tuple[tuple[np.ndarray, Value], ...]
    nodes: tuple[Node, ...]
    results: Results


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
    for value in node.inputs:
        if value is None:
            operands.append(None)
            continue
        # A converter may tell whether two operands are one.
        first = node.inputs.index(value)
        array = ctx.held(value)
        content: object = None
        if array is not None:
            content = array.tobytes() if array.size <= MAX_CONTENT else True
        elif ctx.is_followed(value):
            return None
        operands.append((first, value.type, content))
    wanted = tuple([bool(o) for o in node.outputs])
    return (node.domain, node.op, node.opset, wanted, tuple(attributes), tuple(operands))


def _remembered(
    ctx: Context, node: NodeView, record: Record, nodes: Sequence[Node] | None, results: Results
) -> _Done | None:
    """What was done, if it can be done again; None otherwise."""
    if nodes is None or record.looked or any(n.origin != ctx.origin for n in nodes):
        return None
    if any(name or a.nbytes > _LARGE_BYTES for a, _, name in record.literals):
        return None
    known: set[Value | None] = {None, *node.inputs, *(v for _, v, _ in record.literals)}
    for added in nodes:
        if any(isinstance(a, Graph) for a in added.attrs.values()):
            return None
        if not known.issuperset(added.inputs) or any(map(ctx.is_followed, added.outputs)):
            return None
        for value in added.outputs:
            stem, _, count = value.name.rpartition("_")
            if stem != added.op or not count.isdecimal():
                return None
            known.add(value)
    if not known.issuperset(results):
        return None
    literals = tuple((a, v) for a, v, _ in record.literals)
    return _Done(node.inputs, literals, tuple(nodes), results)


def _again(ctx: Context, node: NodeView, done: _Done) -> Results:
    """Adds what was added before, over other operands."""
    stands: dict[Value | None, Value | None] = dict(zip(done.operands, node.inputs, strict=True))
    stands[None] = None
    for array, value in done.literals:
        stands[value] = ctx.literal(array)
    for added in done.nodes:
        inputs = _values([stands[v] for v in added.inputs])
        outputs = ctx.builder.repeat(added, inputs, ctx.origin)
        stands.update(zip(added.outputs, outputs, strict=True))
    return tuple([stands[v] for v in done.results])


def _values(found: Sequence[Value | None]) -> tuple[Value, ...]:
    return tuple([v for v in found if v is not None])
