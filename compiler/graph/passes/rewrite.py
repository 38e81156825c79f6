"""The rewriter: builds a new graph from an old one, node by node, sharing equal nodes.

A pass walks over the old nodes in order and for each either keeps it or says which new value
takes the place of its result. Whatever nothing needs in the end is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ...dtype import DType
from ...ops.op import same_shape, type_of
from ...tensor.ir import Expr
from ..build import canonical_attrs, infer
from ..ir import Attr, Graph, Node, TensorType, Value
from .stand_ins import recipe_of

Key = tuple[object, ...]

SHARED_BYTES = 1024
"""Constants up to this size are compared by content; larger ones are one only if they are."""


class Rewriter:
    """Collects the nodes of a new graph; equal nodes and equal small constants become one.

    Args:
        source: the old graph. Its values keep their identity where they are not replaced.

    Attributes:
        constants: data of the constants, old and new.
        producer: the node behind each new value.
        uses: how often each value is read, at most: reads by nodes that were replaced since
            still count. A value that stands for another inherits its uses.
    """

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.constants: dict[Value, np.ndarray] = dict(source.constants)
        self.producer: dict[Value, Node] = {}
        self.uses: dict[Value, int] = {}
        self._nodes: list[Node] = []
        self._replaced: dict[Value, Value] = {}
        self._memo: dict[Key, tuple[Value, ...]] = {}
        self._shared: dict[Key, Value] = {}
        self._names: set[str] = set()
        self._counters: dict[str, int] = {}
        self.changed = False
        uses = self.uses
        for values in (*[n.inputs for n in source.nodes], source.outputs):
            for value in values:
                uses[value] = uses.get(value, 0) + 1
        for value, array in source.constants.items():
            key = constant_key(array)
            first = self._shared.setdefault(key, value)
            if first is not value:
                self.replace(value, first)

    def of(self, value: Value) -> Value:
        """The value that stands for an old one in the new graph."""
        return self._replaced.get(value, value)

    def data(self, value: Value) -> np.ndarray | None:
        """The data of a constant, or None for any other value."""
        return self.constants.get(value)

    def replace(self, old: Value, new: Value) -> None:
        """Lets ``new`` stand for ``old`` from now on; their types are equal."""
        assert old.dtype is new.dtype, (old, new)
        assert same_shape(old.shape, new.shape), (old, new)
        if old is new:
            return
        self._replaced[old] = new
        self.uses[new] = self.uses.get(new, 0) + self.uses.get(old, 0)
        self.changed = True

    def adopt(self, node: Node) -> Node:
        """An old node over new operands, not yet added."""
        replaced = self._replaced
        if replaced.keys().isdisjoint(node.inputs):
            return node
        inputs = tuple([replaced.get(v, v) for v in node.inputs])
        if inputs == node.inputs:
            return node
        return Node(node.op, inputs, node.attrs, node.outputs, node.origin)

    def keep(self, node: Node) -> None:
        """Adds an adopted node under its own values, or reuses an equal one."""
        key = node_key(node)
        found = self._memo.get(key)
        if found is not None:
            for old, new in zip(node.outputs, found, strict=True):
                self.replace(old, new)
            return
        self._memo[key] = node.outputs
        self._append(node)

    def find(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr]
    ) -> tuple[Value, ...] | None:
        """The results of an equal node that is there already."""
        return self._memo.get(_key(op, inputs, attrs))

    def add(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr],
        *,
        like: Node,
        types: tuple[TensorType, ...] | None = None,
    ) -> Value:
        """Adds a node with one result, or reuses an equal one; named and placed like ``like``."""
        canonical = canonical_attrs(op, attrs)
        key = _key(op, inputs, canonical)
        found = self._memo.get(key)
        if found is not None:
            return found[0]
        if types is None:
            types = infer(op, inputs, canonical, like.origin)
        stem = like.outputs[0].name if like.op == op else f"{like.outputs[0].name}.{op}"
        outputs = tuple(Value(self._unique(stem), t) for t in types)
        self._memo[key] = outputs
        for value in inputs:
            self.uses[value] = self.uses.get(value, 0) + 1
        self._append(Node(op, tuple(inputs), MappingProxyType(canonical), outputs, like.origin))
        self.changed = True
        return outputs[0]

    def copy(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """Adds a node of another graph over new operands of the same types, or an equal one."""
        found = self._memo.get(_key(node.op, inputs, node.attrs))
        if found is not None:
            return found
        outputs = tuple(Value(self._unique(v.name), v.type) for v in node.outputs)
        self._memo[_key(node.op, inputs, node.attrs)] = outputs
        for value in inputs:
            self.uses[value] = self.uses.get(value, 0) + 1
        self._append(Node(node.op, inputs, node.attrs, outputs, node.origin))
        self.changed = True
        return outputs

    def constant(self, array: np.ndarray, stem: str) -> Value:
        """Adds a constant without copying it, or reuses an equal one."""
        key = constant_key(array)
        found = self._shared.get(key)
        if found is None:
            found = Value(self._unique(stem), type_of(array))
            self.constants[found] = array
            self._shared[key] = found
        return found

    def finish(self) -> Graph:
        """The new graph, without what its outputs do not need."""
        source = self.source
        outputs = tuple(self.of(v) for v in source.outputs)
        names = source.output_names or tuple(v.name for v in source.outputs)
        return prune(source, source.inputs, self._nodes, outputs, self.constants, names)

    def _append(self, node: Node) -> None:
        self._nodes.append(node)
        for output in node.outputs:
            self.producer[output] = node

    def _unique(self, stem: str) -> str:
        if not self._names:
            source = self.source
            self._names.update([v.name for v in (*source.inputs, *source.constants)])
            self._names.update([v.name for n in source.nodes for v in n.outputs])
        name = stem
        while name in self._names:
            count = self._counters.get(stem, 0) + 1
            self._counters[stem] = count
            name = f"{stem}_{count}"
        self._names.add(name)
        return name


def prune(
    source: Graph,
    inputs: tuple[Value, ...],
    nodes: Sequence[Node],
    outputs: tuple[Value, ...],
    constants: Mapping[Value, np.ndarray],
    names: tuple[str, ...],
) -> Graph:
    """Builds a graph of the nodes and constants that the outputs need."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    kept.reverse()
    data = MappingProxyType({v: a for v, a in constants.items() if v in needed})
    return replace(
        source, inputs=inputs, nodes=tuple(kept), outputs=outputs, constants=data,
        output_names=names,
    )  # fmt: skip


def remove_dead(graph: Graph) -> Graph:
    """Returns the graph without nodes and constants that no output needs."""
    return prune(
        graph,
        graph.inputs,
        graph.nodes,
        graph.outputs,
        graph.constants,
        graph.output_names,
    )


def merge_duplicates(graph: Graph) -> Graph:
    """Returns the graph with equal nodes on equal operands as one node."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        rewriter.keep(rewriter.adopt(node))
    return rewriter.finish() if rewriter.changed else graph


def node_key(node: Node) -> Key:
    """What equal nodes have in common: op, operands and, if there are any, attributes."""
    return _key(node.op, node.inputs, node.attrs)


def _key(op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Key:
    if not attrs:
        return op, tuple(inputs)
    return op, tuple(inputs), tuple([(k, frozen(attrs[k])) for k in sorted(attrs)])


def frozen(value: Attr) -> object:
    """A hashable stand-in that tells 1, 1.0 and True apart, and nan equal to itself."""
    kind = type(value)
    if kind is int or kind is str or kind is bool:
        return (kind.__name__, value)
    match value:
        case tuple():
            return tuple([frozen(v) for v in value])
        case float():
            return ("float", struct.pack("<d", value))
        case np.ndarray():
            return constant_key(value)
        case Expr() | DType() | Graph():
            return value
        case _:
            return (type(value).__name__, value)


def constant_key(array: np.ndarray) -> Key:
    """What equal constants have in common: the bytes of small ones, the place of large ones."""
    recipe = recipe_of(array)
    if recipe is not None:
        return ("stand-in", recipe)
    if array.nbytes <= SHARED_BYTES:
        return (array.dtype, array.shape, array.tobytes())
    pointer = array.__array_interface__["data"][0]
    return (array.dtype, array.shape, array.strides, pointer)
