"""Partition: which nodes become one kernel.

Nodes are taken in order; each joins a group, starts one, or floats. A floating node (data
movement, a cast, an index range) is cheap to repeat, so its readers take a private copy of it;
only where a reader cannot does it get a group, and with it memory, of its own. Reshapes are
views and belong to no group. So are concats along the last axis whose parts can be written right
into place by the contractions and windows that compute them (see lower/parts.py).

Every group has a position, and everything that it reads from other groups has a smaller one.
That is the whole proof that no cycle between groups arises: a node joins a group only if all its
other operands have smaller positions, or if nobody outside has read the group yet, in which case
the group moves down to the node's own position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...ops import OPS
from ...ops.kernel import has_sums, readings
from ...ops.op import axes_attr, ints_attr, same_shape, str_attr
from ...tensor.ir import Dim
from ..ir import Graph, Node, Value
from .convolutions import (
    CHEAP,
    MOST_CHEAP,
    is_worth_bands,
    reads_few_channels,
    takes_prologue,
)
from .in_place import InPlace

GroupKind = Literal[
    "contraction", "row", "elementwise", "window", "reduce", "kernel", "alone", "control"
]
Position = tuple[int, int]
Shape = tuple[Dim, ...]

MAX_NODES = 64
"""The most nodes of a group, so that code and compile time stay bounded."""
MAX_INPUTS = 24
"""The most values that a group reads, so that their addresses do not crowd the registers."""
MAX_ANCHOR_OUTPUTS = 2
"""The most values that a contraction or window group writes from its registers."""

MOVEMENT = frozenset({"transpose", "slice", "broadcast_to"})

_ANCHORS = frozenset({"contraction", "window", "reduce", "kernel"})
_PREFERENCE: dict[GroupKind, int] = {
    "contraction": 3,
    "window": 2,
    "reduce": 2,
    "row": 2,
    "kernel": 2,
}


@dataclass(slots=True, eq=False)
class Group:
    """Nodes that become one kernel.

    Attributes:
        kind: what the code generator will find in it.
        domain: the shape over which it iterates; that of an anchor's output.
        position: see the module.
        members: indices of its own nodes, whose results others may read.
        copies: indices of floating nodes that it repeats for itself.
        trailing: of a row group, how many trailing axes are reduced.
        read: whether a node outside reads it already, which fixes its position.
        sealed: whether nothing more may join.
    """

    kind: GroupKind
    domain: Shape
    position: Position
    members: list[int]
    copies: set[int] = field(default_factory=set)
    trailing: int = 0
    read: bool = False
    sealed: bool = False


@dataclass(slots=True)
class _Reads:
    """What a node reads: the values themselves, floating nodes to copy, and groups upstream."""

    values: list[Value] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Partition:
    """The groups of a graph's nodes; indices are positions in ``graph.nodes``.

    Attributes:
        home: the group that computes each node for others to read; None for views and for
            floating nodes that everyone copied.
        views: the reshapes, and the concats of parts in place, that stand outside all groups.
    """

    graph: Graph
    home: list[Group | None]
    views: set[int]


def partition(graph: Graph, in_place: bool = True, near_bytes: int | None = None) -> Partition:
    """Partitions the nodes of a graph into kernels.

    Args:
        in_place: whether kernels may write parts of concats in place, at any address.
        near_bytes: how much stays near a core between two kernels; None where that is no matter.
    """
    caps: dict[int, int] = {}
    while True:
        found = _Partitioner(graph, caps, in_place, near_bytes).run()
        wide = _too_many_outputs(found)
        if not wide:
            return found
        # A group that took in nodes in the hope that others would follow, which they did not:
        # stop it one node earlier. Each round lowers a cap, so this ends.
        for group in wide:
            caps[group.members[0]] = len(group.members) - 1


def uses_of(graph: Graph) -> dict[Value, list[int]]:
    """Lists, for each value, the nodes that read it (each once, ascending)."""
    uses: dict[Value, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for value in dict.fromkeys(node.inputs):
            uses.setdefault(value, []).append(index)
    return uses


def _too_many_outputs(found: Partition) -> list[Group]:
    graph = found.graph
    uses, results = uses_of(graph), set(graph.outputs)
    groups = dict.fromkeys(g for g in found.home if g is not None and g.kind in _ANCHORS)
    wide = []
    for group in groups:
        inside = set(group.members)
        visible = sum(
            1
            for m in group.members
            for v in graph.nodes[m].outputs
            if v in results or not inside.issuperset(uses.get(v, ()))
        )
        if visible > MAX_ANCHOR_OUTPUTS and len(group.members) > 1:
            wide.append(group)
    return wide


class _Partitioner:
    """The state of one walk over the nodes."""

    def __init__(
        self, graph: Graph, caps: Mapping[int, int], in_place: bool, near_bytes: int | None
    ) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.caps = caps
        self.near_bytes = near_bytes
        self.uses = uses_of(graph)
        self.results = set(graph.outputs)
        self.in_place = InPlace(graph, self.uses) if in_place else None
        self.producer = {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
        self.home: list[Group | None] = [None] * len(graph.nodes)
        self.views: set[int] = set()
        self.floating: set[int] = set()

    def run(self) -> Partition:
        for index, node in enumerate(self.nodes):
            self._place(index, node)
        for value in self.graph.outputs:
            self._materialise(value)
        return Partition(self.graph, self.home, self.views)

    def _place(self, index: int, node: Node) -> None:
        kind = OPS[node.op].kind
        match kind:
            case "elementwise":
                self._place_elementwise(index, node)
            case "injective" if node.op == "reshape":
                self._materialise(node.inputs[0])
                self.views.add(index)
            case "injective" if node.op in MOVEMENT:
                self.floating.add(index)
            case "injective" if node.op == "concat" and self._joins_in_place(index):
                self.views.add(index)
            case "injective":
                self._place_injective(index, node)
            case "source" if node.op in ("iota", "dim"):
                self.floating.add(index)
            case "contraction":
                self._place_contraction(index, node)
            case "reduce" if node.op == "reduce":
                self._place_reduce(index, node)
            case "window":
                self._start("window", index, self._read(index, ()))
            case "irregular" if node.op == "kernel" and len(node.outputs) == 1:
                self._place_kernel(index, node)
            case "control":
                self._start("control", index, self._read(index, ())).sealed = True
            case _:
                self._start("alone", index, self._read(index, ())).sealed = True

    # -------------------------------------------------------------- reading

    def _read(self, index: int, absorbing: Iterable[int]) -> _Reads:
        """Finds what a node reads; operands in ``absorbing`` may be copies, others get memory."""
        reads = _Reads()
        allowed = set(absorbing)
        for position, value in enumerate(self.nodes[index].inputs):
            producer = self.producer.get(value)
            if producer is None or producer not in self.floating:
                self._read_stored(reads, value)
            elif position in allowed:
                self._read_floating(reads, producer)
            else:
                self._materialise(value)
                self._read_stored(reads, value)
        return reads

    def _read_stored(self, reads: _Reads, value: Value) -> None:
        reads.values.append(value)
        reads.groups.extend(self._sources(value))

    def _read_floating(self, reads: _Reads, start: int) -> None:
        pending = [start]
        while pending:
            index = pending.pop()
            if index in reads.copies:
                continue
            reads.copies.append(index)
            for value in self.nodes[index].inputs:
                producer = self.producer.get(value)
                if producer is not None and producer in self.floating:
                    pending.append(producer)
                else:
                    self._read_stored(reads, value)

    def _sources(self, value: Value) -> list[Group]:
        """The groups that a value, or the values that it is a view of, come from."""
        found: dict[Group, None] = {}
        pending = [value]
        while pending:
            producer = self.producer.get(pending.pop())
            if producer is not None and producer in self.views:
                pending.extend(self.nodes[producer].inputs)
            elif producer is not None and (group := self.home[producer]) is not None:
                found[group] = None
        return list(found)

    def _group_of(self, value: Value) -> Group | None:
        """The group that computes a value itself."""
        producer = self.producer.get(value)
        return None if producer is None else self.home[producer]

    def _floats(self, value: Value) -> bool:
        producer = self.producer.get(value)
        return producer is not None and producer in self.floating

    # -------------------------------------------------------------- groups

    def _start(self, kind: GroupKind, index: int, reads: _Reads) -> Group:
        shape = self.nodes[index].outputs[0].shape
        group = Group(kind, shape, (index, 0), [])
        self._add(group, index, reads)
        return group

    def _add(self, group: Group, index: int, reads: _Reads) -> None:
        group.members.append(index)
        group.copies.update(reads.copies)
        self.home[index] = group
        for source in reads.groups:
            if source is not group:
                source.read = True

    def _fits(self, group: Group, reads: _Reads, index: int) -> bool:
        """Whether a node can join without a cycle, and within the limits."""
        if group.sealed or len(group.members) + len(group.copies) >= MAX_NODES:
            return False
        if len(group.members) >= self.caps.get(group.members[0], MAX_NODES):
            return False
        if len(self._inputs(group)) + len(reads.values) > MAX_INPUTS:
            return False
        # A copied movement of the group's own result would need other elements of it.
        direct = [self._group_of(v) for v in self.nodes[index].inputs]
        if reads.groups.count(group) > direct.count(group):
            return False
        return self._lower(group, [g for g in reads.groups if g is not group], index)

    def _lower(self, group: Group, sources: list[Group], index: int) -> bool:
        """Moves a group below its sources where it must and may; says whether it now is."""
        if all(s.position < group.position for s in sources):
            return True
        if group.read:
            return False
        group.position = (index, 0)
        return True

    def _inputs(self, group: Group) -> set[Value]:
        inside = {v for m in (*group.members, *group.copies) for v in self.nodes[m].outputs}
        read = {v for m in (*group.members, *group.copies) for v in self.nodes[m].inputs}
        return read - inside

    def _only_inside(self, value: Value, allowed: set[int]) -> bool:
        return value not in self.results and allowed.issuperset(self.uses.get(value, ()))

    def _ends_in(self, group: Group, *readers: int) -> bool:
        """Whether only these nodes read a group's values."""
        allowed = {*readers, *group.members}
        return all(
            self._only_inside(v, allowed) for m in group.members for v in self.nodes[m].outputs
        )

    # -------------------------------------------------------------- elementwise

    def _place_elementwise(self, index: int, node: Node) -> None:
        groups = {g for v in node.inputs if (g := self._group_of(v)) is not None}
        # Of elementwise groups the one that others read too comes first: the rest can join it.
        order = sorted(
            groups,
            key=lambda g: (_PREFERENCE.get(g.kind, 0), not self._ends_in(g, index), g.position),
            reverse=True,
        )
        for group in order:
            if self._accepts(group, node):
                absorbing = [i for i, v in enumerate(node.inputs) if self._absorbs(group.kind, v)]
                reads = self._read(index, absorbing)
                if self._fits(group, reads, index):
                    self._add(group, index, reads)
                    self._merge_producers(group, index, node)
                    return
        if node.op == "cast":
            self.floating.add(index)
            return
        group = self._start("elementwise", index, self._read(index, range(len(node.inputs))))
        self._merge_producers(group, index, node)

    def _accepts(self, group: Group, node: Node) -> bool:
        """Whether a group's loops could compute an elementwise node as well."""
        shape = node.outputs[0].shape
        match group.kind:
            case "elementwise":
                return same_shape(shape, group.domain)
            case "row":
                return self._accepts_row(group, node)
            case "contraction" | "window" | "reduce" | "kernel":
                return same_shape(shape, group.domain) and self._outputs_left(group, node)
        return False

    def _accepts_row(self, group: Group, node: Node) -> bool:
        shape = node.outputs[0].shape
        rows = group.domain[: len(group.domain) - group.trailing]
        if same_shape(shape, group.domain) or same_shape(shape, (*rows, *(1,) * group.trailing)):
            return all(
                len(v.shape) == len(shape) for v in node.inputs if self._group_of(v) is group
            )
        inside = [v for v in node.inputs if self._group_of(v) is group]
        return same_shape(shape, rows) and all(same_shape(v.shape, rows) for v in inside)

    def _outputs_left(self, group: Group, node: Node) -> bool:
        """Whether an anchor's group would still write few enough values if a node joined."""
        inside = set(group.members)
        certain = 0
        for member in group.members:
            for value in self.nodes[member].outputs:
                outside = [u for u in self.uses.get(value, ()) if u not in inside]
                certain += value in self.results or any(
                    self.nodes[u] is not node and self._stays_out(u, group) for u in outside
                )
        return certain < MAX_ANCHOR_OUTPUTS

    def _stays_out(self, index: int, group: Group) -> bool:
        if self.home[index] is not None or index in self.floating or index in self.views:
            return True
        node = self.nodes[index]
        return OPS[node.op].kind != "elementwise" or not same_shape(
            node.outputs[0].shape, group.domain
        )

    def _absorbs(self, kind: GroupKind, value: Value) -> bool:
        """Whether a group of a kind reads a floating operand in place.

        An epilogue reads its operands along the registers, so their last axis must stay last.
        """
        if kind == "elementwise":
            return True
        while (producer := self.producer.get(value)) is not None and producer in self.floating:
            node = self.nodes[producer]
            if not node.inputs:
                return True
            if node.op == "transpose" and not _keeps_last(node):
                return False
            value = node.inputs[0]
        return True

    def _merge_producers(self, group: Group, index: int, node: Node) -> None:
        """Takes in the elementwise groups that only this node reads."""
        for value in node.inputs:
            if self._floats(value):
                if group.kind == "elementwise":
                    self._merge_behind(group, index, value)
                continue
            other = self._group_of(value)
            if other is None or other is group or other.kind != "elementwise":
                continue
            if node.op == "concat" or self._is_epilogue(group, other):
                self._merge(group, other, {index}, index)

    def _is_epilogue(self, group: Group, other: Group) -> bool:
        """Whether an elementwise group could be computed in another group's loops."""
        if not same_shape(other.domain, group.domain):
            return False
        if group.kind == "elementwise":
            return True
        return all(
            OPS[self.nodes[m].op].kind == "elementwise"
            and same_shape(self.nodes[m].outputs[0].shape, group.domain)
            and all(self._absorbs(group.kind, v) for v in self.nodes[m].inputs)
            for m in other.members
        )

    def _merge_behind(self, group: Group, index: int, value: Value) -> None:
        """Takes in an elementwise group behind a single chain of copied movement."""
        chain: set[int] = set()
        reader = index
        while (producer := self.producer.get(value)) is not None and producer in self.floating:
            node = self.nodes[producer]
            if not self._only_inside(value, {reader}) or not node.inputs:
                return
            if node.op == "broadcast_to":
                return
            chain.add(producer)
            reader, value = producer, node.inputs[0]
        other = self._group_of(value)
        if chain and other is not None and other is not group and other.kind == "elementwise":
            self._merge(group, other, chain, index)

    def _merge(self, group: Group, other: Group, readers: set[int], index: int) -> None:
        """Moves all of another group into this one, if only ``readers`` read it."""
        if other.sealed or group.sealed:
            return
        most = self.caps.get(group.members[0], MAX_NODES)
        if len(group.members) + len(other.members) > most:
            return
        if not self._ends_in(other, *readers, *group.members):
            return
        if len(self._inputs(group) | self._inputs(other)) > MAX_INPUTS:
            return
        if other.position >= group.position and not self._lower(group, [other], index):
            return
        group.members.extend(other.members)
        group.copies.update(other.copies)
        for member in other.members:
            self.home[member] = group

    # -------------------------------------------------------------- the other kinds

    def _joins_in_place(self, index: int) -> bool:
        """Whether the kernels of a concat's parts write them where it wants them."""

        def members(producer: int) -> tuple[str, list[int]]:
            group = self.home[producer]
            if group is None:
                return "view" if producer in self.views else "", []
            return group.kind, group.members

        return self.in_place is not None and self.in_place.takes(index, members)

    def _place_injective(self, index: int, node: Node) -> None:
        """gather, concat, pad: start a group of elementwise kind."""
        # The data of a gather is read where it lies; its indices may be computed on the way.
        absorbing = (
            range(1, len(node.inputs)) if node.op.startswith("gather") else range(len(node.inputs))
        )
        group = self._start("elementwise", index, self._read(index, absorbing))
        if node.op == "concat":
            self._merge_producers(group, index, node)

    def _place_kernel(self, index: int, node: Node) -> None:
        """A user's expression of one result, which recipes schedule: an anchor for what follows.

        Elementwise nodes that only it reads join where that computes no element again, or but few
        times cheaply.
        """
        stages = str_attr(node.attrs, "stages")
        kind: GroupKind = "kernel" if has_sums(stages) else "elementwise"
        group = self._start(kind, index, self._read(index, ()))
        for value, places in zip(node.inputs, readings(stages), strict=True):
            other = self._group_of(value)
            if other is None or other is group or other.kind != "elementwise":
                continue
            if not same_shape(other.domain, value.shape) or any(
                OPS[self.nodes[m].op].kind != "elementwise" for m in other.members
            ):
                continue
            if places == 1 or (1 < places <= MOST_CHEAP and self._is_cheap(other)):
                self._merge(group, other, {index}, index)

    def _place_contraction(self, index: int, node: Node) -> None:
        absorbing = []
        if node.op == "matmul":
            absorbing = [
                i
                for i, v in enumerate(node.inputs[:2])
                if i == 0 or self._absorbs("contraction", v)
            ]
        elif reads_few_channels(node):
            absorbing = [0]
        group = self._start("contraction", index, self._read(index, absorbing))
        if node.op == "matmul":
            self._take_rows(group, index, node)
        elif self.near_bytes is not None:
            self._take_convolution(group, index, self.near_bytes)

    def _take_convolution(self, group: Group, index: int, near_bytes: int) -> None:
        """Takes in what only a convolution reads, if both are better computed together.

        That is so for a convolution if both run in bands of rows, and for a few cheap nodes.
        """
        value = self.nodes[index].inputs[0]
        other = self._group_of(value)
        if other is None or not self._ends_in(other, index):
            return
        worth = {"contraction": is_worth_bands, "elementwise": takes_prologue}.get(other.kind)
        moved = other.kind == "elementwise" and other.copies
        if worth is None or moved or not same_shape(other.domain, value.shape):
            return
        if worth(self.graph, other.members, index, near_bytes):
            self._merge(group, other, {index}, index)

    def _take_rows(self, group: Group, index: int, node: Node) -> None:
        """Takes in ``rows(a @ b)`` where a product ``rows(a @ b) @ c`` is all that reads it.

        The rows of the inner product then never leave the cache: attention is one kernel. Only
        for operands that are no constants, which are as long as the rows: then each row block
        can walk them again.
        """
        left, right = node.inputs
        rows = self._group_of(left)
        if rows is None or rows.kind != "row" or rows.trailing != 1:
            return
        if not same_shape(rows.domain, left.shape) or right in self.graph.constants:
            return
        inner = dict.fromkeys(
            g
            for m in rows.members
            for v in self.nodes[m].inputs
            if (g := self._group_of(v)) is not None and g.kind == "contraction"
        )
        # What follows the product may read the rows' sums.
        followers = self.uses.get(node.outputs[0], ())
        if len(inner) != 1 or not self._ends_in(rows, index, *followers):
            return
        (scores,) = inner
        first = self.nodes[scores.members[0]]
        fits = first.op == "matmul" and first.inputs[1] not in self.graph.constants
        if fits and same_shape(scores.domain, rows.domain) and self._ends_in(scores, *rows.members):
            self._merge(group, rows, {index, *followers}, index)
            if self.home[rows.members[0]] is group:
                self._merge(group, scores, set(group.members), index)

    def _place_reduce(self, index: int, node: Node) -> None:
        shape = node.inputs[0].shape
        axes = axes_attr(node.attrs, "axes", len(shape))
        trailing = len(axes)
        source = self._group_of(node.inputs[0])
        if not axes or axes != tuple(range(len(shape) - trailing, len(shape))):
            group = self._start("reduce", index, self._read(index, ()))
            if source is not None and source.kind == "elementwise" and self._is_cheap(source):
                self._merge(group, source, {index}, index)
            return
        reads = self._read(index, (0,))
        if (
            source is not None
            and self._becomes_row(source, shape, trailing)
            and self._fits(source, reads, index)
        ):
            source.kind, source.trailing = "row", trailing
            self._add(source, index, reads)
            return
        group = self._start("row", index, reads)
        group.domain, group.trailing = shape, trailing

    def _is_cheap(self, group: Group) -> bool:
        """Whether a reduction across rows may compute its operand on the fly."""
        return len(group.members) <= MOST_CHEAP and all(
            self.nodes[m].op in CHEAP for m in group.members
        )

    def _becomes_row(self, group: Group, shape: Shape, trailing: int) -> bool:
        if not same_shape(group.domain, shape):
            return False
        if group.kind == "row":
            return group.trailing == trailing
        return group.kind == "elementwise" and all(
            same_shape(v.shape, shape) and self.nodes[m].op != "concat"
            for m in group.members
            for v in self.nodes[m].outputs
        )

    # -------------------------------------------------------------- memory for floating nodes

    def _materialise(self, value: Value) -> None:
        """Gives a floating value memory: in its producer's kernel where that is free."""
        index = self.producer.get(value)
        if index is None or index not in self.floating:
            return
        node = self.nodes[index]
        if self._join_as_tail(index, node):
            return
        reads = _Reads()
        self._read_floating(reads, index)
        reads.copies.remove(index)
        self.floating.discard(index)
        last = max((g.position for g in reads.groups), default=(-1, 0))
        group = Group("elementwise", value.shape, (last[0], last[1] + 1), [])
        self._add(group, index, reads)

    def _join_as_tail(self, index: int, node: Node) -> bool:
        """Lets the group that computed a value write it transposed or sliced instead."""
        if node.op not in ("transpose", "slice", "cast"):
            return False
        (value,) = node.inputs
        chain = [index]
        producer = self.producer.get(value)
        if (
            producer is not None
            and producer in self.views
            and self.nodes[producer].op == "reshape"
            and self._only_inside(value, {index})
        ):
            chain.insert(0, producer)
            value = self.nodes[producer].inputs[0]
        group = self._group_of(value)
        if group is None or group.sealed or group.read or not self._only_inside(value, {chain[0]}):
            return False
        if group.kind == "elementwise" and len(chain) == 1:
            if not self._ends_in(group, index):
                return False
        elif group.kind != "contraction" or node.op != "transpose" or not _keeps_last(node):
            return False
        else:
            group.sealed = True
        for member in chain:
            group.members.append(member)
            self.home[member] = group
            self.floating.discard(member)
            self.views.discard(member)
        group.domain = node.outputs[0].shape
        return True


def _keeps_last(node: Node) -> bool:
    perm = ints_attr(node.attrs, "perm")
    return not perm or perm[-1] == len(perm) - 1
