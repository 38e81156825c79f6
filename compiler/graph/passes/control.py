"""Control flow: branches that are known are spliced in, and subgraphs get constants of their own.

A weight that a loop captures is a constant inside as well. Only there can it be folded, packed
and fused like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from ...ops.op import graph_attr, int_attr
from ...target import Target
from ..ir import Attr, Graph, Node, Value
from .rewrite import Rewriter

_SUBGRAPHS = {"if": ("then", "orelse"), "scan": ("body",)}


def simplify_control(graph: Graph, target: Target) -> Graph:
    """Returns the graph without branches on constants, and with captured constants moved inside."""
    if not any(n.op in _SUBGRAPHS for n in graph.nodes):
        return graph
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.adopt(old)
        known = rewriter.data(node.inputs[0]) if node.op == "if" else None
        if known is not None:
            taken = graph_attr(node.attrs, "then" if bool(known) else "orelse")
            for value, new in zip(
                old.outputs, _splice(rewriter, taken, node.inputs[1:]), strict=True
            ):
                rewriter.replace(value, new)
        elif node.op in _SUBGRAPHS:
            rewriter.keep(_with_own_constants(rewriter, node, target))
        else:
            rewriter.keep(node)
    return rewriter.finish() if rewriter.changed else graph


def _splice(rewriter: Rewriter, graph: Graph, arguments: Sequence[Value]) -> list[Value]:
    """Copies the nodes of a subgraph into the graph around it."""
    outer = dict(zip(graph.inputs, arguments, strict=True))
    for value, array in graph.constants.items():
        outer[value] = rewriter.constant(array, value.name)
    for node in graph.nodes:
        copies = rewriter.copy(node, tuple(outer[v] for v in node.inputs))
        outer.update(zip(node.outputs, copies, strict=True))
    return [outer[v] for v in graph.outputs]


def _with_own_constants(rewriter: Rewriter, node: Node, target: Target) -> Node:
    """Moves captured constants into the subgraphs, and drops captured values that none reads."""
    names = _SUBGRAPHS[node.op]
    bodies = [graph_attr(node.attrs, name) for name in names]
    first = 1
    if node.op == "scan":
        first = int_attr(node.attrs, "carried") + int_attr(node.attrs, "scanned")
    # The inputs of an ``if`` start with the condition, which its branches do not take.
    shift = 1 if node.op == "if" else 0
    read = [{v for n in b.nodes for v in n.inputs} | set(b.outputs) for b in bodies]
    gone: dict[int, np.ndarray | None] = {}
    for position in range(first, len(node.inputs)):
        data = rewriter.data(node.inputs[position])
        used = any(b.inputs[position - shift] in r for b, r in zip(bodies, read, strict=True))
        if data is not None or not used:
            gone[position] = data
    if not gone:
        return node
    rewriter.changed = True
    attrs: dict[str, Attr] = dict(node.attrs)
    for name, body in zip(names, bodies, strict=True):
        own = {body.inputs[p - shift]: a for p, a in gone.items() if a is not None}
        inside = Graph(
            body.name,
            tuple(v for p, v in enumerate(body.inputs, shift) if p not in gone),
            body.nodes,
            body.outputs,
            MappingProxyType({**body.constants, **own}),
            body.output_names,
        )
        # What came in may be captured once more, further inside.
        attrs[name] = simplify_control(inside, target)
    inputs = tuple(v for p, v in enumerate(node.inputs) if p not in gone)
    return Node(node.op, inputs, MappingProxyType(attrs), node.outputs, node.origin)
