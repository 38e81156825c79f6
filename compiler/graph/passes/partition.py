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

from ...ops import OPS
from ...ops.kernel import has_sums, readings
from ...ops.op import axes_attr, ints_attr, same_shape, str_attr
from ..ir import Graph, Node, Value
from .convolutions import (
    CHEAP,
    MOST_CHEAP,
    is_worth_bands,
    is_worth_pooling,
    reads_few_channels,
    takes_prologue,
)
from .groups import (
    Group,
    GroupKind,
    Groups,
    Partition,
    Shape,
    keeps_last,
    uses_of,
)

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
        if visible > _most_outputs(graph, group) and len(group.members) > 1:
            wide.append(group)
    return wide


def _most_outputs(graph: Graph, group: Group) -> int:
    """The most values that a group may write: a pool by rows writes its own result alone."""
    if group.kind != "window":
        return MAX_ANCHOR_OUTPUTS
    anchors = [m for m in group.members if OPS[graph.nodes[m].op].kind in _ANCHORS]
    return MAX_ANCHOR_OUTPUTS if len(anchors) == 1 else 1


class _Partitioner(Groups):
    """One walk over the nodes: where each goes, by its kind."""

    def run(self) -> Partition:
        for index, node in enumerate(self.nodes):
            self._place(index, node)
        for value in self.graph.outputs:
            self.materialise(value)
        return Partition(self.graph, self.home, self.views)

    def _place(self, index: int, node: Node) -> None:
        kind = OPS[node.op].kind
        match kind:
            case "elementwise":
                self._place_elementwise(index, node)
            case "injective" if node.op == "reshape":
                self.materialise(node.inputs[0])
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
                self._place_window(index, node)
            case "irregular" if node.op == "kernel" and len(node.outputs) == 1:
                self._place_kernel(index, node)
            case "control":
                self.start("control", index, self.read(index, ())).sealed = True
            case _:
                self.start("alone", index, self.read(index, ())).sealed = True

    # -------------------------------------------------------------- elementwise

    def _place_elementwise(self, index: int, node: Node) -> None:
        if self._is_summed_square(index, node):
            self.start("elementwise", index, self.read(index, ()))
            return
        groups = {g for v in node.inputs if (g := self.group_of(v)) is not None}
        # Of elementwise groups the one that others read too comes first: the rest can join it.
        order = sorted(
            groups,
            key=lambda g: (_PREFERENCE.get(g.kind, 0), not self.ends_in(g, index), g.position),
            reverse=True,
        )
        for group in order:
            if self._accepts(group, node):
                absorbing = [i for i, v in enumerate(node.inputs) if self._absorbs(group.kind, v)]
                reads = self.read(index, absorbing)
                if self.fits(group, reads, index):
                    self.add(group, index, reads)
                    self._merge_producers(group, index, node)
                    return
        if node.op == "cast":
            self.floating.add(index)
            return
        group = self.start("elementwise", index, self.read(index, range(len(node.inputs))))
        self._merge_producers(group, index, node)

    def _is_summed_square(self, index: int, node: Node) -> bool:
        """Whether a node squares what others read, too, for sums over windows alone.

        They square it themselves: a multiply-add takes as long as an add, and one value less goes
        to memory.
        """
        if self.near_bytes is None or node.op != "mul" or node.inputs[0] is not node.inputs[1]:
            return False
        readers = self.uses.get(node.outputs[0], ())
        if len(readers) != 1 or not self.only_inside(node.outputs[0], set(readers)):
            return False
        reader = self.nodes[readers[0]]
        sums = reader.op == "reduce_window" and reader.attrs["op"] == "sum"
        return sums and not self.only_inside(node.inputs[0], {index})

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
            return all(len(v.shape) == len(shape) for v in node.inputs if self.group_of(v) is group)
        inside = [v for v in node.inputs if self.group_of(v) is group]
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
        return certain < _most_outputs(self.graph, group)

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
            if node.op == "transpose" and not keeps_last(node):
                return False
            value = node.inputs[0]
        return True

    def _merge_producers(self, group: Group, index: int, node: Node) -> None:
        """Takes in the elementwise groups that only this node reads."""
        for value in node.inputs:
            if self.floats(value):
                if group.kind == "elementwise":
                    self._merge_behind(group, index, value)
                continue
            other = self.group_of(value)
            if other is None or other is group or other.kind != "elementwise":
                continue
            if node.op == "concat" or self._is_epilogue(group, other):
                self.merge(group, other, {index}, index)

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
            if not self.only_inside(value, {reader}) or not node.inputs:
                return
            if node.op == "broadcast_to":
                return
            chain.add(producer)
            reader, value = producer, node.inputs[0]
        other = self.group_of(value)
        if chain and other is not None and other is not group and other.kind == "elementwise":
            self.merge(group, other, chain, index)

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
        group = self.start("elementwise", index, self.read(index, absorbing))
        if node.op == "concat":
            self._merge_producers(group, index, node)

    def _place_kernel(self, index: int, node: Node) -> None:
        """A user's expression of one result, which recipes schedule: an anchor for what follows.

        Elementwise nodes that only it reads join where that computes no element again, or but few
        times cheaply.
        """
        stages = str_attr(node.attrs, "stages")
        kind: GroupKind = "kernel" if has_sums(stages) else "elementwise"
        group = self.start(kind, index, self.read(index, ()))
        for value, places in zip(node.inputs, readings(stages), strict=True):
            other = self.group_of(value)
            if other is None or other is group or other.kind != "elementwise":
                continue
            if not same_shape(other.domain, value.shape) or any(
                OPS[self.nodes[m].op].kind != "elementwise" for m in other.members
            ):
                continue
            if places == 1 or (1 < places <= MOST_CHEAP and self._is_cheap(other)):
                self.merge(group, other, {index}, index)

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
        group = self.start("contraction", index, self.read(index, absorbing))
        if node.op == "matmul":
            self._take_rows(group, index, node)
        elif self.near_bytes is not None:
            self._take_convolution(group, index, self.near_bytes)

    def _place_window(self, index: int, node: Node) -> None:
        """A pool; with the few cheap nodes that only it reads, if no two windows share an element.

        Windows that overlap would compute their elements again, and zeros around are not computed:
        only squares are summed by any window.
        """
        group = self.start("window", index, self.read(index, ()))
        image = node.inputs[0]
        other = self.group_of(image)
        if self.near_bytes is None or other is None:
            return
        if other.kind in ("contraction", "window"):
            self._take_pooled(group, other, index, self.near_bytes)
        if other.kind != "elementwise" or other.copies:
            return
        if not self.ends_in(other, index) or not self._is_cheap(other):
            return
        window, strides, lo, hi = (
            ints_attr(node.attrs, k) for k in ("window", "strides", "lo", "hi")
        )
        apart = all(w <= s for w, s in zip(window, strides, strict=True))
        alike = all(same_shape(self.nodes[m].outputs[0].shape, image.shape) for m in other.members)
        squares = [m for m in other.members if self._is_summed_square(m, self.nodes[m])]
        if (apart and alike and not any((*lo, *hi))) or squares == other.members:
            self.merge(group, other, {index}, index)

    def _take_pooled(self, group: Group, other: Group, index: int, near_bytes: int) -> None:
        """Takes in what computes the image of a pool, if both are better computed by rows."""
        if not self.ends_in(other, *group.members):
            return
        if not is_worth_pooling(self.graph, other.members, index, near_bytes):
            return
        self.merge(group, other, {index}, index)
        if self.home[other.members[0]] is not group:
            return
        # A pool of channels may read a convolution in turn.
        read = (v for m in other.members for v in self.nodes[m].inputs)
        sources = {g for v in read if (g := self.group_of(v)) is not None and g is not group}
        if other.kind == "window" and len(sources) == 1:
            self._take_pooled(group, sources.pop(), index, near_bytes)

    def _take_convolution(self, group: Group, index: int, near_bytes: int) -> None:
        """Takes in what only a convolution reads, if both are better computed together.

        That is so for a convolution if both run in bands of rows, and for a few cheap nodes.
        """
        value = self.nodes[index].inputs[0]
        other = self.group_of(value)
        if other is None or not self.ends_in(other, index):
            return
        worth = {"contraction": is_worth_bands, "elementwise": takes_prologue}.get(other.kind)
        moved = other.kind == "elementwise" and other.copies
        if worth is None or moved or not same_shape(other.domain, value.shape):
            return
        if worth(self.graph, other.members, index, near_bytes):
            self.merge(group, other, {index}, index)

    def _take_rows(self, group: Group, index: int, node: Node) -> None:
        """Takes in ``rows(a @ b)`` where a product ``rows(a @ b) @ c`` is all that reads it.

        The rows of the inner product then never leave the cache: attention is one kernel. Only
        for operands that are no constants, which are as long as the rows: then each row block
        can walk them again.
        """
        left, right = node.inputs
        rows = self.group_of(left)
        if rows is None or rows.kind != "row" or rows.trailing != 1:
            return
        if not same_shape(rows.domain, left.shape) or right in self.graph.constants:
            return
        inner = dict.fromkeys(
            g
            for m in rows.members
            for v in self.nodes[m].inputs
            if (g := self.group_of(v)) is not None and g.kind == "contraction"
        )
        # What follows the product may read the rows' sums.
        followers = self.uses.get(node.outputs[0], ())
        if len(inner) != 1 or not self.ends_in(rows, index, *followers):
            return
        (scores,) = inner
        first = self.nodes[scores.members[0]]
        fits = first.op == "matmul" and first.inputs[1] not in self.graph.constants
        if fits and same_shape(scores.domain, rows.domain) and self.ends_in(scores, *rows.members):
            self.merge(group, rows, {index, *followers}, index)
            if self.home[rows.members[0]] is group:
                self.merge(group, scores, set(group.members), index)

    def _place_reduce(self, index: int, node: Node) -> None:
        shape = node.inputs[0].shape
        axes = axes_attr(node.attrs, "axes", len(shape))
        trailing = len(axes)
        source = self.group_of(node.inputs[0])
        if not axes or axes != tuple(range(len(shape) - trailing, len(shape))):
            group = self.start("reduce", index, self.read(index, ()))
            if source is not None and source.kind == "elementwise" and self._is_cheap(source):
                self.merge(group, source, {index}, index)
            return
        reads = self.read(index, (0,))
        if (
            source is not None
            and self._becomes_row(source, shape, trailing)
            and self.fits(source, reads, index)
        ):
            source.kind, source.trailing = "row", trailing
            self.add(source, index, reads)
            return
        group = self.start("row", index, reads)
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
