"""Pushing transposes down: one walk that computes every node in the layout of its operands.

A value may be *turned*: not stored itself, but known as ``transpose(base, perm)`` of a stored
one. Nodes that work in any layout are computed on the bases, with their axes renamed, and their
results are turned as well; all others get their operands stored as written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np

from ...ops import OPS
from ...ops.op import axes_attr, axis_attr, dims_attr, ints_attr, same_shape
from ...tensor.ir import Dim
from ...tensor.simplify import evaluate, symbols
from ..constants import copy_view, dense
from ..ir import Attr, Graph, Node, Value
from .movement import keeps_order
from .regroup import Regrouped, regroup
from .rewrite import Rewriter
from .stand_ins import derive, reshaped

Perm = tuple[int, ...]
NOMINAL = 64
"""The size that symbolic dims are taken to have when costs are compared."""
_IN_CACHE = 1 << 20
"""Bytes that stay in a cache while they are permuted."""


@dataclass(frozen=True, slots=True)
class Turned:
    """A value as a view of a stored one: its axis ``i`` is axis ``perm[i]`` of ``base``."""

    base: Value
    perm: Perm


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do where; the nodes are named by their first result.

    Attributes:
        stay: nodes whose operands are stored as written: no transpose is pushed through them.
        gather: reshapes that merge axes which do not lie together make only those adjacent,
            and stay turned otherwise; the others store their operand as written.
        trial: whether only the cost counts: large constants need not hold the right numbers.
    """

    stay: frozenset[int] = frozenset()
    gather: frozenset[int] | None = None
    trial: bool = False


class Pusher(Rewriter):
    """One walk under a plan.

    Attributes:
        owner: the old node (by index) on whose behalf each new node stands.
        links: pairs of old nodes between which a turned value passes.
        asked: whether it mattered which nodes the plan gathers.
        exact: whether all constants hold the right numbers.
    """

    def __init__(self, source: Graph, plan: Plan) -> None:
        super().__init__(source)
        self.plan = plan
        self.owner: dict[Value, int] = {}
        self.links: list[tuple[int, int]] = []
        self._turned: dict[Value, Turned] = {}
        self._made_by: dict[Value, int] = {
            v: i for i, n in enumerate(source.nodes) for v in n.outputs
        }
        self._mixed: dict[Value, tuple[tuple[int, ...], Perm]] = {}
        self._readers: dict[Value, list[Node]] = {}
        self._results = set(source.outputs)
        self.index = 0
        self.asked = False
        self.exact = True
        for node in source.nodes:
            for value in dict.fromkeys(node.inputs):
                self._readers.setdefault(value, []).append(node)

    def run(self) -> Graph:
        """Walks over the source, and returns the new graph."""
        for index, node in enumerate(self.source.nodes):
            self.index = index
            if index in self.plan.stay or not self._push(node):
                self._keep(node)
        for value in self.source.outputs:
            self.stored(value)
        return self.finish()

    def _push(self, node: Node) -> bool:
        push = PUSH.get(node.op)
        if push is None:
            return False
        turned = [v for v in node.inputs if v in self._turned]
        if not turned and node.op != "transpose":
            return False
        for value in turned:
            self.links.append((self._made_by[value], self.index))
        return push(self, node)

    def _keep(self, node: Node) -> None:
        for value in node.inputs:
            self.stored(value)
        adopted = self.adopt(node)
        if node.op == "matmul" and node.inputs[0] in self._mixed:
            adopted = self._with_mixed_rows(node, adopted)
        self.keep(adopted)
        for value in node.outputs:
            self.owner.setdefault(self.of(value), self.index)

    # -------------------------------------------------------------- values

    def turned(self, value: Value) -> Turned:
        """A value as it is stored: turned, or as written."""
        found = self._turned.get(value)
        return found or Turned(self.of(value), tuple(range(len(value.shape))))

    def is_turned(self, value: Value) -> bool:
        """Whether a value is known only through its base."""
        return value in self._turned

    def stored(self, value: Value) -> Value:
        """A value stored as written: transposed, if it is turned."""
        turned = self._turned.get(value)
        if turned is None or self.of(value) is not value:
            return self.of(value)
        maker = self._made_by[value]
        new = self.permuted(turned.base, turned.perm, self.source.nodes[maker], maker)
        self.replace(value, new)
        return new

    def permuted(self, value: Value, perm: Perm, like: Node, owner: int | None = None) -> Value:
        """Adds a transpose of a new value; of a constant, at compile time."""
        if perm == tuple(range(len(perm))):
            return value
        data = self.data(value)
        if data is not None:
            return self.constant(derive(np.transpose, data, axes=perm), value.name)
        if keeps_order(perm, value.shape):
            return self.reshaped(value, tuple(value.shape[p] for p in perm), like)
        return self.emit("transpose", (value,), {"perm": perm}, like, owner)

    def reshaped(self, value: Value, shape: tuple[Dim, ...], like: Node) -> Value:
        """Adds a reshape of a new value, if it is one."""
        if same_shape(value.shape, shape):
            return value
        data = self.data(value)
        if data is not None:
            return self.constant(
                derive(reshaped, data, shape=cast("tuple[int, ...]", shape)), value.name
            )
        return self.emit("reshape", (value,), {"shape": shape}, like)

    def arranged(self, value: Value, perm: Perm, like: Node) -> Value:
        """An operand of an elementwise node or concat whose result will be turned by ``perm``."""
        if not value.shape:
            return self.of(value)
        rank = len(perm)
        if len(value.shape) < rank:
            base = self.reshaped(
                self.stored(value), (*(1,) * (rank - len(value.shape)), *value.shape), like
            )
            turned = Turned(base, tuple(range(rank)))
        else:
            turned = self.turned(value)
        back = inverse(perm)
        order = tuple(turned.perm[back[k]] for k in range(rank))
        return self.permuted(turned.base, order, like)

    def emit(
        self,
        op: str,
        inputs: tuple[Value, ...],
        attrs: Mapping[str, Attr],
        like: Node,
        owner: int | None = None,
    ) -> Value:
        """Adds a node on behalf of an old one (the present one)."""
        new = self.add(op, inputs, attrs, like=like)
        self.owner.setdefault(new, self.index if owner is None else owner)
        return new

    def give(self, node: Node, new: Value, perm: Perm) -> bool:
        """Says what stands for an old node's result."""
        (old,) = node.outputs
        if perm == tuple(range(len(perm))):
            self.replace(old, new)
        else:
            self._turned[old] = Turned(new, perm)
        return True

    # -------------------------------------------------------------- rows of weights

    def rows_may_mix(self, value: Value) -> bool:
        """Whether a value is only multiplied by constant matrices, whose rows can be permuted."""
        return value not in self._results and all(
            n.op == "matmul"
            and n.inputs[0] is value
            and n.inputs[1] is not value
            and n.inputs[1] in self.source.constants
            and len(n.inputs[1].shape) == 2
            for n in self._readers.get(value, ())
        )

    def mix_rows(self, value: Value, sizes: tuple[int, ...], order: Perm) -> None:
        """Notes that the last axis of a value, of ``sizes``, is stored with them in ``order``."""
        self._mixed[value] = (sizes, order)

    def _with_mixed_rows(self, node: Node, adopted: Node) -> Node:
        sizes, order = self._mixed[node.inputs[0]]
        data = self.constants[adopted.inputs[1]]
        if self.plan.trial:
            self.exact = False
            mixed = np.broadcast_to(np.zeros((), data.dtype), data.shape)
        else:
            mixed = derive(_permuted_rows, data, sizes=sizes, order=order)
        weights = self.constant(mixed, adopted.inputs[1].name)
        inputs = (adopted.inputs[0], weights)
        return Node(node.op, inputs, node.attrs, node.outputs, node.origin)


def _permuted_rows(matrix: np.ndarray, sizes: tuple[int, ...], order: Perm) -> np.ndarray:
    """Reorders the rows of a matrix, which are numbered by several axes, as those are permuted.

    A matrix that lies transposed in memory stays so: large ones are only read in order.
    """
    if matrix.flags.f_contiguous:
        columns = matrix.T.reshape(-1, *sizes).transpose(0, *(1 + p for p in order))
        if len(matrix) * matrix.itemsize > _IN_CACHE:
            return dense(columns).reshape(matrix.T.shape).T
        # A line of it is permuted in the cache: there is nothing to gain by going over blocks.
        mixed = np.empty(columns.shape, columns.dtype)
        copy_view(mixed, columns, by_blocks=False)
        return mixed.reshape(matrix.T.shape).T
    rows = matrix.reshape(*sizes, -1).transpose(*order, len(order))
    return dense(rows).reshape(matrix.shape)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes one."""
    back = [0] * len(perm)
    for position, axis in enumerate(perm):
        back[axis] = position
    return tuple(back)


def elements(value: Value) -> int:
    """How many elements a value has, with a nominal size for symbols."""
    return prod(
        d if isinstance(d, int) else evaluate(d, {v.name: NOMINAL for v in symbols(d)})
        for d in value.shape
    )


# ------------------------------------------------------------------ the ops that work in any layout


def _transpose(pusher: Pusher, node: Node) -> bool:
    turned = pusher.turned(node.inputs[0])
    perm = tuple(turned.perm[p] for p in ints_attr(node.attrs, "perm"))
    return pusher.give(node, turned.base, perm)


def _elected(pusher: Pusher, node: Node) -> Perm | None:
    """The layout in which most elements of the operands lie; None for as they are written."""
    rank = len(node.outputs[0].shape)
    votes: dict[Perm, int] = {}
    for value in node.inputs:
        if len(value.shape) == rank and value not in pusher.source.constants:
            turned = pusher.turned(value)
            if (
                pusher.is_turned(value)
                or not keeps_order(turned.perm, value.shape)
                or sum(d != 1 for d in value.shape) > 1
            ):
                votes[turned.perm] = votes.get(turned.perm, 0) + elements(value)
    written = tuple(range(rank))
    best = max(votes, key=lambda p: (votes[p], p != written), default=written)
    return None if best == written else best


def _elementwise(pusher: Pusher, node: Node) -> bool:
    perm = _elected(pusher, node)
    if perm is None:
        return False
    inputs = tuple(pusher.arranged(v, perm, node) for v in node.inputs)
    return pusher.give(node, pusher.emit(node.op, inputs, node.attrs, node), perm)


def _concat(pusher: Pusher, node: Node) -> bool:
    perm = _elected(pusher, node)
    if perm is None:
        return False
    inputs = tuple(pusher.arranged(v, perm, node) for v in node.inputs)
    axis = perm[axis_attr(node.attrs, "axis", len(perm))]
    return pusher.give(node, pusher.emit("concat", inputs, {"axis": axis}, node), perm)


def _without(perm: Perm, axes: tuple[int, ...]) -> Perm:
    """The permutation that is left when some axes go."""
    left = [p for i, p in enumerate(perm) if i not in axes]
    rank = sorted(left)
    return tuple(rank.index(p) for p in left)


def _reduce(pusher: Pusher, node: Node) -> bool:
    turned = pusher.turned(node.inputs[0])
    axes = axes_attr(node.attrs, "axes", len(turned.perm))
    attrs = {**node.attrs, "axes": tuple(sorted(turned.perm[a] for a in axes))}
    perm = turned.perm if node.attrs["keepdims"] else _without(turned.perm, axes)
    return pusher.give(node, pusher.emit("reduce", (turned.base,), attrs, node), perm)


def _along_axis(pusher: Pusher, node: Node) -> bool:
    """argreduce and cumulative: one axis, which gets another number."""
    turned = pusher.turned(node.inputs[0])
    axis = axis_attr(node.attrs, "axis", len(turned.perm))
    drops = node.op == "argreduce" and not node.attrs["keepdims"]
    new = pusher.emit(node.op, (turned.base,), {**node.attrs, "axis": turned.perm[axis]}, node)
    return pusher.give(node, new, _without(turned.perm, (axis,)) if drops else turned.perm)


def _by_axis(pusher: Pusher, node: Node) -> bool:
    """reduce_window, pad, slice: attributes with one entry for each axis."""
    turned = pusher.turned(node.inputs[0])
    back = inverse(turned.perm)
    attrs = {
        k: tuple(a[b] for b in back) if isinstance(a, tuple) else a for k, a in node.attrs.items()
    }
    others = tuple(pusher.stored(v) for v in node.inputs[1:])
    return pusher.give(node, pusher.emit(node.op, (turned.base, *others), attrs, node), turned.perm)


def _broadcast(pusher: Pusher, node: Node) -> bool:
    turned = pusher.turned(node.inputs[0])
    shape = dims_attr(node.attrs, "shape")
    extra = len(shape) - len(turned.perm)
    back = inverse(turned.perm)
    wide = (*shape[:extra], *(shape[extra + b] for b in back))
    perm = (*range(extra), *(extra + p for p in turned.perm))
    return pusher.give(
        node, pusher.emit("broadcast_to", (turned.base,), {"shape": wide}, node), perm
    )


def _gather(pusher: Pusher, node: Node) -> bool:
    x, indices = node.inputs
    if not pusher.is_turned(x) or len(indices.shape) > 1:
        return False
    turned = pusher.turned(x)
    axis = axis_attr(node.attrs, "axis", len(turned.perm))
    inputs = (turned.base, pusher.stored(indices))
    new = pusher.emit("gather", inputs, {"axis": turned.perm[axis]}, node)
    return pusher.give(node, new, turned.perm if indices.shape else _without(turned.perm, (axis,)))


def _matmul(pusher: Pusher, node: Node) -> bool:
    a, b = node.inputs
    turned = pusher.turned(a)
    if not pusher.is_turned(a) or len(b.shape) != 2 or pusher.is_turned(b):
        return False
    if turned.perm[-1] != len(turned.perm) - 1:
        return False
    new = pusher.emit("matmul", (turned.base, pusher.stored(b)), node.attrs, node)
    return pusher.give(node, new, turned.perm)


def _reshape(pusher: Pusher, node: Node) -> bool:
    (x,), (result,) = node.inputs, node.outputs
    turned = pusher.turned(x)
    mix = pusher.rows_may_mix(result)
    found = regroup(x.shape, result.shape, turned.perm, keep_mixed=mix)
    if found is None:
        return False
    if found.mixed is not None:
        if _mix(pusher, node, turned, found):
            return True
        found = regroup(x.shape, result.shape, turned.perm)
        assert found is not None
    apart = found.order != tuple(range(len(found.order)))
    gather = pusher.plan.gather
    pusher.asked |= apart
    if apart and gather is not None and pusher.index not in gather:
        return False
    base = pusher.permuted(turned.base, found.order, node)
    return pusher.give(node, pusher.reshaped(base, found.shape, node), found.perm)


def _mix(pusher: Pusher, node: Node, turned: Turned, found: Regrouped) -> bool:
    """Leaves merged axes in stored order, for the rows of the weights behind to follow."""
    (x,), (result,) = node.inputs, node.outputs
    assert found.mixed is not None
    sizes = tuple(x.shape[i] for i in found.mixed.old)
    identity = tuple(range(len(found.order))), tuple(range(len(found.perm)))
    if (found.order, found.perm) != identity or not all(isinstance(d, int) for d in sizes):
        return False
    stored = [turned.perm[i] for i in found.mixed.old]
    order = tuple(sorted(range(len(stored)), key=stored.__getitem__))
    pusher.mix_rows(result, cast("tuple[int, ...]", sizes), order)
    return pusher.give(node, pusher.reshaped(turned.base, found.shape, node), found.perm)


Push = Callable[[Pusher, Node], bool]

PUSH: dict[str, Push] = {
    **{o.name: _elementwise for o in OPS.values() if o.kind == "elementwise"},
    "transpose": _transpose,
    "concat": _concat,
    "reduce": _reduce,
    "argreduce": _along_axis,
    "cumulative": _along_axis,
    "reduce_window": _by_axis,
    "pad": _by_axis,
    "slice": _by_axis,
    "broadcast_to": _broadcast,
    "gather": _gather,
    "matmul": _matmul,
    "reshape": _reshape,
}
"""How each op is computed on turned operands; it says whether it could be."""
