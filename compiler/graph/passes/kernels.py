"""Nests that users scheduled by hand, where the target has no use for them."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ...target import Target
from ..ir import Graph, Node


def restate(graph: Graph, target: Target) -> Graph:
    """Returns the graph with a kernel's expression in place of a nest that was made for CPUs.

    Machines with threads get their schedule from a recipe: the nest says nothing of blocks.
    """
    if target.threads is None or not any(n.op == "scheduled_kernel" for n in graph.nodes):
        return graph
    return replace(graph, nodes=tuple(map(_restated, graph.nodes)))


def _restated(node: Node) -> Node:
    if node.op != "scheduled_kernel":
        return node
    attrs = MappingProxyType({"stages": node.attrs["stages"]})
    return Node("kernel", node.inputs, attrs, node.outputs, node.origin)
