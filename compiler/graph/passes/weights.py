"""The weights of a softmax: none of them is subnormal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...target import Target
from ..ir import Graph, Node, Value

_PASSED_ON = frozenset(
    {"div", "mul", "reshape", "transpose", "broadcast_to", "slice", "concat", "pad", "where"}
)
"""What a weight may go through on its way to a product; sums are, too."""

Readers = Mapping[Value, Sequence[Node]]


def flush_weights(graph: Graph, target: Target) -> Graph:
    """Returns the graph with ``exp_flushed(x - max(x))`` in place of ``exp(x - max(x))``.

    A mask of -100 leaves weights of 1e-44. As the largest weight is 1 they change no sum, but
    CPUs take a hundred steps or more for each product with a subnormal number; other machines
    take one. Where weights go elsewhere than to products they stay: their logarithm is -100.
    """
    if target.threads is not None or not any(n.op == "exp" for n in graph.nodes):
        return graph
    producer = {v: n for n in graph.nodes for v in n.outputs}
    readers: dict[Value, list[Node]] = {}
    for n in graph.nodes:
        for v in n.inputs:
            readers.setdefault(v, []).append(n)
    nodes = tuple(
        Node("exp_flushed", n.inputs, n.attrs, n.outputs, n.origin)
        if n.op == "exp"
        and _is_gap(producer, n.inputs[0])
        and _is_multiplied(n.outputs[0], readers, frozenset(graph.outputs))
        else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _is_multiplied(value: Value, readers: Readers, outputs: frozenset[Value]) -> bool:
    """Whether all that a value goes into are products, of matrices in the end.

    Exporters also ask whether it is nan, which no small number is.
    """
    seen: set[Value] = set()
    pending, found = [value], False
    while pending:
        v = pending.pop()
        if v in outputs:
            return False
        if v in seen:
            continue
        seen.add(v)
        for n in readers.get(v, ()):
            if n.op == "matmul":
                found = True
            elif n.op == "isnan":
                continue
            elif n.op in _PASSED_ON or (n.op == "reduce" and n.attrs["op"] == "sum"):
                pending.extend(n.outputs)
            else:
                return False
    return found


def _is_gap(producer: Mapping[Value, Node], value: Value) -> bool:
    """Whether a value is how far others lie below the largest of them."""
    gap = producer.get(value)
    if gap is None or gap.op != "sub":
        return False
    top = producer.get(gap.inputs[1])
    if top is None or top.op != "reduce" or top.attrs["op"] != "max":
        return False
    return top.inputs[0] is gap.inputs[0]
