"""Fusion: every group of the partition becomes one ``fused`` node, which becomes one kernel.

What groups there are is decided in partition.py; here their bodies are built. A body is a graph
with canonical names, so that equal layers of a model have equal bodies and share a kernel.
Scalar and small index constants move into the body, where code can be made for their values; all
other constants stay outside and come in as inputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ...errors import InternalError
from ...target import Target
from ..ir import Graph, Node, Value
from .groups import Group, Partition, Position
from .partition import partition

SMALL_CONSTANT = 16
"""The most elements of an integer constant that a body holds itself (floats: one)."""


@dataclass(slots=True, eq=False)
class _Unit:
    """One node of the new graph: a group, a view or a control node.

    Attributes:
        nodes: indices of the old nodes it computes, ascending.
        reads: values from outside, each once, in order of first use.
        position: where it would like to stand.
        group: None for a view.
    """

    nodes: tuple[int, ...]
    reads: tuple[Value, ...]
    position: Position
    group: Group | None


def fuse(graph: Graph, target: Target) -> Graph:
    """Returns the graph with every group of nodes as one ``fused`` node; views and control stay."""
    if any(n.op == "fused" for n in graph.nodes):
        return graph
    # Where threads load wide words, rows must begin at multiples of them.
    alone = target.threads is None
    found = partition(graph, alone, target.l2_bytes // 2 if alone else None)
    units = _live(graph, _units(found))
    needed = {v for unit in units for v in unit.reads} | set(graph.outputs)
    nodes = tuple(_node(graph, unit, needed) for unit in _order(graph, units))
    read = {v for n in nodes for v in n.inputs} | set(graph.outputs)
    constants = {v: a for v, a in graph.constants.items() if v in read}
    return replace(graph, nodes=nodes, constants=MappingProxyType(constants))


def is_body_constant(array: np.ndarray) -> bool:
    """Whether a constant belongs into the bodies that read it."""
    return array.size == 1 or (array.size <= SMALL_CONSTANT and array.dtype.kind in "iub")


def _units(found: Partition) -> list[_Unit]:
    graph = found.graph
    units = []
    for group in dict.fromkeys(g for g in found.home if g is not None):
        nodes = tuple(sorted({*group.members, *group.copies}))
        inside = {v for n in nodes for v in graph.nodes[n].outputs}
        reads = dict.fromkeys(
            v
            for n in nodes
            for v in graph.nodes[n].inputs
            if v not in inside and not _moves_in(graph, group, v)
        )
        units.append(_Unit(nodes, tuple(reads), group.position, group))
    for index in found.views:
        units.append(_Unit((index,), graph.nodes[index].inputs, (index, 0), None))
    return units


def _moves_in(graph: Graph, group: Group, value: Value) -> bool:
    data = graph.constants.get(value)
    return data is not None and group.kind != "control" and is_body_constant(data)


def _results(graph: Graph, unit: _Unit) -> Iterable[Value]:
    """The values that others may read; copies are private."""
    own = unit.nodes if unit.group is None else sorted(unit.group.members)
    return (v for n in own for v in graph.nodes[n].outputs)


def _live(graph: Graph, units: list[_Unit]) -> list[_Unit]:
    """Keeps the units that the graph's outputs need."""
    producer = {v: u for u in units for v in _results(graph, u)}
    kept: dict[_Unit, None] = {}
    pending = [producer[v] for v in graph.outputs if v in producer]
    while pending:
        unit = pending.pop()
        if unit not in kept:
            kept[unit] = None
            pending.extend(producer[v] for v in unit.reads if v in producer)
    return [u for u in units if u in kept]


def _order(graph: Graph, units: list[_Unit]) -> list[_Unit]:
    """Sorts units so that each comes after those it reads, else by position."""
    producer = {v: i for i, u in enumerate(units) for v in _results(graph, u)}
    waiting = [0] * len(units)
    readers: list[list[int]] = [[] for _ in units]
    for index, unit in enumerate(units):
        sources = {producer[v] for v in unit.reads if v in producer}
        waiting[index] = len(sources)
        for source in sources:
            readers[source].append(index)
    ready = [(u.position, i) for i, u in enumerate(units) if not waiting[i]]
    heapq.heapify(ready)
    order = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(units[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (units[reader].position, reader))
    if len(order) != len(units):
        raise InternalError(f"fuse: the groups of {graph.name} form a cycle", code="TW-E0901")
    return order


def _node(graph: Graph, unit: _Unit, needed: set[Value]) -> Node:
    if unit.group is None or unit.group.kind == "control":
        return graph.nodes[unit.nodes[0]]
    outputs = tuple(v for v in _results(graph, unit) if v in needed)
    body = _body(graph, unit, outputs)
    origins = dict.fromkeys(o for m in unit.group.members if (o := graph.nodes[m].origin))
    return Node(
        "fused",
        unit.reads,
        MappingProxyType({"body": body}),
        outputs,
        ", ".join(origins),
    )


def _body(graph: Graph, unit: _Unit, outputs: tuple[Value, ...]) -> Graph:
    """Builds the body of a group, with fresh values under canonical names."""
    inner = {v: Value(f"a{i}", v.type) for i, v in enumerate(unit.reads)}
    inputs = tuple(inner.values())
    constants: dict[Value, np.ndarray] = {}
    nodes: list[Node] = []
    results = 0
    for index in unit.nodes:
        node = graph.nodes[index]
        for value in node.inputs:
            if value not in inner:
                inner[value] = Value(f"c{len(constants)}", value.type)
                constants[inner[value]] = graph.constants[value]
        for value in node.outputs:
            inner[value] = Value(f"t{results}", value.type)
            results += 1
        nodes.append(
            Node(
                node.op,
                tuple(inner[v] for v in node.inputs),
                node.attrs,
                tuple(inner[v] for v in node.outputs),
                node.origin,
            )
        )
    names = tuple(f"y{i}" for i in range(len(outputs)))
    return Graph(
        "body",
        inputs,
        tuple(nodes),
        tuple(inner[v] for v in outputs),
        MappingProxyType(constants),
        names,
    )
