"""Concats without a kernel: every part is written right into its place by who computes it.

The parts of a concat along the last axis are columns of its rows. A contraction or a window whose
loops over rows and columns are apart can write rows that lie further from each other than their
own length, and whoever reads a part element by element can read such rows (see lower/parts.py).
So nothing is copied. Elementwise kernels do the same, unless all that reads the concat is
elementwise, too: then they are one kernel with it. A concat may itself be a part of a wider one:
the layers of a dense block, each of which reads all before, share one buffer.

The parts of a concat along an outer axis, with nothing but ones before it, are slabs: they follow
each other in memory. Whoever computes one writes it there as anywhere else, and it is read there.
An elementwise kernel whose result only the concat reads is one with it instead, and copies
nothing either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ops import OPS
from ...ops.op import ints_attr
from ...tensor.simplify import product, same_dim
from ..ir import Graph, Node, Value

LEAST_COLUMNS = 16
"""The fewest columns of a part that is written in place: one wide vector."""

Members = Callable[[int], tuple[str, Sequence[int]]]
"""The kind of a node's group, or "view", or "" where it has none, and the nodes of the group."""


class InPlace:
    """The parts that have a place so far.

    Args:
        graph: the graph.
        uses: for each value the nodes that read it.
    """

    def __init__(self, graph: Graph, uses: Mapping[Value, Sequence[int]]) -> None:
        self._graph = graph
        self._nodes = graph.nodes
        self._uses = uses
        self._results = frozenset(graph.outputs)
        self._producer = {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
        self._parts: set[Value] = set()

    def takes(self, index: int, members: Members) -> bool:
        """Whether all parts of a concat can be written in place; then they are to be."""
        node = self._nodes[index]
        (result,), parts = node.outputs, node.inputs
        last = len(result.shape) - 1
        if node.attrs["axis"] != last:
            return self._takes_slabs(index, members)
        if len(set(parts)) < len(parts) or self._leaves(result):
            return False
        kinds = ["contraction", "window"]
        readers = (self._nodes[u] for u in self._uses.get(result, ()))
        if any(OPS[n.op].kind in ("contraction", "window") for n in readers):
            kinds.append("elementwise")
        if not all(self._is_part(v, index, kinds, members) for v in parts):
            return False
        self._parts.update(parts)
        return True

    def _takes_slabs(self, index: int, members: Members) -> bool:
        """Whether all parts of a concat along an outer axis can be written in place."""
        node = self._nodes[index]
        (result,) = node.outputs
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        sources = [self._source(v) for v in node.inputs]
        if any(not same_dim(d, 1) for d in result.shape[:axis]) or len(set(sources)) < len(sources):
            return False
        if not all(self._is_slab(v, members) for v in sources):
            return False
        self._parts.update(node.inputs, sources)
        return True

    def _is_slab(self, value: Value, members: Members) -> bool:
        """Whether a value can lie somewhere in another one as a whole."""
        producer = self._producer.get(value)
        count = product(value.shape)
        if producer is None or not isinstance(count, int) or count < LEAST_COLUMNS:
            return False
        if value in self._parts or self._leaves(value):
            return False
        kind, _ = members(producer)
        if kind == "view":
            node = self._nodes[producer]
            return node.op == "concat" and node.attrs["axis"] != len(value.shape) - 1
        return kind not in ("", "control") and (kind != "elementwise" or self._is_shared(value))

    def _is_shared(self, value: Value) -> bool:
        """Whether several nodes read a value, or views of it."""
        readers = self._uses.get(value, ())
        if len(readers) != 1:
            return len(readers) > 1
        node = self._nodes[readers[0]]
        return node.op == "reshape" and self._is_shared(node.outputs[0])

    def _source(self, value: Value) -> Value:
        """The value that a view is of."""
        producer = self._producer.get(value)
        while producer is not None and self._nodes[producer].op == "reshape":
            (value,) = self._nodes[producer].inputs
            producer = self._producer.get(value)
        return value

    def _leaves(self, value: Value) -> bool:
        """Whether a value, or a view of it, is a result of the graph."""
        return value in self._results or any(
            self._leaves(self._nodes[u].outputs[0])
            for u in self._uses.get(value, ())
            if self._nodes[u].op == "reshape"
        )

    def _is_part(self, value: Value, index: int, kinds: Sequence[str], members: Members) -> bool:
        """Whether a value may have longer rows in memory than its own, and be written so.

        Args:
            kinds: of groups that may write it.
        """
        length = value.shape[-1]
        producer = self._producer.get(value)
        if producer is None or not isinstance(length, int) or length < LEAST_COLUMNS:
            return False
        if value in self._parts or value in self._results:
            return False
        readers = (self._nodes[u] for u in self._uses.get(value, ()) if u != index)
        if not all(n.op != "reshape" and _reads_rows(n) for n in readers):
            return False
        kind, inside = members(producer)
        if kind != "view":
            return kind in kinds and self._writes_rows(inside)
        node = self._nodes[producer]
        if node.op == "concat":
            return node.attrs["axis"] == len(value.shape) - 1
        (source,) = node.inputs
        held = self._producer.get(source)
        if held is None or not same_dim(source.shape[-1], length):
            return False
        kind, inside = members(held)
        alone = source not in self._results and list(self._uses[source]) == [producer]
        return alone and kind in kinds and self._writes_rows(inside)

    def _writes_rows(self, members: Sequence[int]) -> bool:
        """Whether a kernel has loops over columns, apart from those over rows."""
        return all(self._keeps_columns(self._nodes[m]) for m in members)

    def _keeps_columns(self, node: Node) -> bool:
        constants = self._graph.constants
        match node.op:
            case "conv":
                outputs, groups = node.inputs[1].shape[-1], node.attrs["groups"]
                alone = groups == 1 or outputs == groups
                return alone and node.inputs[1] in constants
            case "matmul":
                return node.inputs[1] in constants and len(node.inputs[1].shape) == 2
            case "reduce_window":
                window, strides = (ints_attr(node.attrs, k) for k in ("window", "strides"))
                moves = len(window) > 1 and (window[-2] > 1 or strides[-2] > 1)
                return moves and window[-1] == strides[-1] == 1
        return True


def _reads_rows(node: Node) -> bool:
    """Whether a node can read a value whose rows lie apart: it is computed element by element."""
    return OPS[node.op].compute is not None and OPS[node.op].kind != "control"
