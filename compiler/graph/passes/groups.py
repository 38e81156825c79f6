"""Groups of nodes that become one kernel: what they read, what may join, what needs memory.

The state of a partition while nodes are taken one after the other (see partition.py), and the
rules that keep it free of cycles: a group's position is above those of all that it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...ops.op import ints_attr
from ...tensor.ir import Dim
from ..ir import Graph, Node, Value
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
class Reads:
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


def uses_of(graph: Graph) -> dict[Value, list[int]]:
    """Lists, for each value, the nodes that read it (each once, ascending)."""
    uses: dict[Value, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for value in dict.fromkeys(node.inputs):
            uses.setdefault(value, []).append(index)
    return uses


class Groups:
    """The groups so far, over one walk of the nodes."""

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

    # -------------------------------------------------------------- reading

    def read(self, index: int, absorbing: Iterable[int]) -> Reads:
        """Finds what a node reads; operands in ``absorbing`` may be copies, others get memory."""
        reads = Reads()
        allowed = set(absorbing)
        for position, value in enumerate(self.nodes[index].inputs):
            producer = self.producer.get(value)
            if producer is None or producer not in self.floating:
                self.read_stored(reads, value)
            elif position in allowed:
                self.read_floating(reads, producer)
            else:
                self.materialise(value)
                self.read_stored(reads, value)
        return reads

    def read_stored(self, reads: Reads, value: Value) -> None:
        """Notes that a value is read from memory."""
        reads.values.append(value)
        reads.groups.extend(self.sources(value))

    def read_floating(self, reads: Reads, start: int) -> None:
        """Notes that a floating node is copied, with the floating nodes that it reads."""
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
                    self.read_stored(reads, value)

    def sources(self, value: Value) -> list[Group]:
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

    def group_of(self, value: Value) -> Group | None:
        """The group that computes a value itself."""
        producer = self.producer.get(value)
        return None if producer is None else self.home[producer]

    def floats(self, value: Value) -> bool:
        """Whether readers of a value would copy the node that computes it."""
        producer = self.producer.get(value)
        return producer is not None and producer in self.floating

    # -------------------------------------------------------------- groups

    def start(self, kind: GroupKind, index: int, reads: Reads) -> Group:
        """Starts a group with a node."""
        shape = self.nodes[index].outputs[0].shape
        group = Group(kind, shape, (index, 0), [])
        self.add(group, index, reads)
        return group

    def add(self, group: Group, index: int, reads: Reads) -> None:
        """Adds a node to a group."""
        group.members.append(index)
        group.copies.update(reads.copies)
        self.home[index] = group
        for source in reads.groups:
            if source is not group:
                source.read = True

    def fits(self, group: Group, reads: Reads, index: int) -> bool:
        """Whether a node can join without a cycle, and within the limits."""
        if group.sealed or len(group.members) + len(group.copies) >= MAX_NODES:
            return False
        if len(group.members) >= self.caps.get(group.members[0], MAX_NODES):
            return False
        if len(self.inputs(group)) + len(reads.values) > MAX_INPUTS:
            return False
        # A copied movement of the group's own result would need other elements of it.
        direct = [self.group_of(v) for v in self.nodes[index].inputs]
        if reads.groups.count(group) > direct.count(group):
            return False
        return self.lowered(group, [g for g in reads.groups if g is not group], index)

    def lowered(self, group: Group, sources: list[Group], index: int) -> bool:
        """Moves a group below its sources where it must and may; says whether it now is."""
        if all(s.position < group.position for s in sources):
            return True
        if group.read:
            return False
        group.position = (index, 0)
        return True

    def inputs(self, group: Group) -> set[Value]:
        """The values that a group reads from outside."""
        inside = {v for m in (*group.members, *group.copies) for v in self.nodes[m].outputs}
        read = {v for m in (*group.members, *group.copies) for v in self.nodes[m].inputs}
        return read - inside

    def only_inside(self, value: Value, allowed: set[int]) -> bool:
        """Whether only these nodes read a value."""
        return value not in self.results and allowed.issuperset(self.uses.get(value, ()))

    def ends_in(self, group: Group, *readers: int) -> bool:
        """Whether only these nodes read a group's values."""
        allowed = {*readers, *group.members}
        return all(
            self.only_inside(v, allowed) for m in group.members for v in self.nodes[m].outputs
        )

    def merge(self, group: Group, other: Group, readers: set[int], index: int) -> None:
        """Moves all of another group into this one, if only ``readers`` read it."""
        if other.sealed or group.sealed:
            return
        most = self.caps.get(group.members[0], MAX_NODES)
        if len(group.members) + len(other.members) > most:
            return
        if not self.ends_in(other, *readers, *group.members):
            return
        if len(self.inputs(group) | self.inputs(other)) > MAX_INPUTS:
            return
        if other.position >= group.position and not self.lowered(group, [other], index):
            return
        group.members.extend(other.members)
        group.copies.update(other.copies)
        for member in other.members:
            self.home[member] = group

    # -------------------------------------------------------------- memory for floating nodes

    def materialise(self, value: Value) -> None:
        """Gives a floating value memory: in its producer's kernel where that is free."""
        index = self.producer.get(value)
        if index is None or index not in self.floating:
            return
        node = self.nodes[index]
        if self._join_as_tail(index, node):
            return
        reads = Reads()
        self.read_floating(reads, index)
        reads.copies.remove(index)
        self.floating.discard(index)
        last = max((g.position for g in reads.groups), default=(-1, 0))
        group = Group("elementwise", value.shape, (last[0], last[1] + 1), [])
        self.add(group, index, reads)

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
            and self.only_inside(value, {index})
        ):
            chain.insert(0, producer)
            value = self.nodes[producer].inputs[0]
        group = self.group_of(value)
        if group is None or group.sealed or group.read or not self.only_inside(value, {chain[0]}):
            return False
        if group.kind == "elementwise" and len(chain) == 1:
            if not self.ends_in(group, index):
                return False
        elif group.kind != "contraction" or node.op != "transpose" or not keeps_last(node):
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


def keeps_last(node: Node) -> bool:
    """Whether a transpose (or what is none) leaves the last axis last."""
    perm = ints_attr(node.attrs, "perm")
    return not perm or perm[-1] == len(perm) - 1
