"""What fusion asks of convolutions and pools: how they read images, which run in bands of rows."""

from __future__ import annotations

from collections.abc import Sequence

from ... import dtype as dt
from ...ops.op import ints_attr, same_shape
from ...tensor.simplify import product
from ..ir import Graph, Node

CHEAP = frozenset({"add", "sub", "mul", "neg", "abs", "min", "max", "cast"})
MOST_CHEAP = 4
"""The most nodes that a reduction or product computes for its operand, of the cheap ones."""
PLANAR_CHANNELS = 4
"""The most input channels of a convolution that reads its image in planes."""


def reads_few_channels(node: Node) -> bool:
    """Whether a convolution may read an image plane by plane, as models take it.

    With few channels the planes of one row stay in cache, and no copy in another order is needed.
    """
    channels = node.inputs[0].shape[-1]
    return node.attrs["groups"] == 1 and isinstance(channels, int) and channels <= PLANAR_CHANNELS


def is_worth_bands(graph: Graph, members: Sequence[int], index: int, near_bytes: int) -> bool:
    """Whether a convolution and the one that it reads are better computed some rows at a time.

    One of the two is depthwise, the other pointwise or a first one, and what lies between them is
    more than stays near the core; then it need not go to memory (see lower/bands.py).

    Args:
        members: the nodes of the group that computes what is read, the convolution first.
        index: the node of the other convolution.
        near_bytes: how much stays near a core between two kernels.
    """
    nodes = graph.nodes
    before, kind = (_kind(graph, nodes[i]) for i in (members[0], index))
    if {before, kind} != {"pointwise", "depthwise"}:
        return False
    if kind == "pointwise" and _widens(nodes[index]):
        return False  # It goes with what reads it, which is larger than what it reads.
    convolutions = [nodes[m] for m in members if nodes[m].op == "conv"]
    if kind == "depthwise" and any(_kind(graph, n) == "depthwise" for n in convolutions):
        return False  # Two of them need more rows than stay near, or many rows twice.
    if len(convolutions) > 1:
        return True  # A chain goes on where one between its links was worth it.
    counts = [product(nodes[m].outputs[0].shape) for m in members]
    return all(isinstance(n, int) and 4 * n > near_bytes for n in counts)


def is_worth_pooling(graph: Graph, members: Sequence[int], index: int, near_bytes: int) -> bool:
    """Whether a pool of rows and columns and what computes its image go some rows at a time.

    That is a first convolution, whose sums are short, or a pool of channels: most of their time
    may be that of their results on the way to memory.

    Args:
        members: the nodes of the group that computes the image, its convolution or pool first.
        index: the node of the pool.
        near_bytes: how much stays near a core between two kernels.
    """
    first, pool = graph.nodes[members[0]], graph.nodes[index]
    image = pool.inputs[0]
    count = product(image.shape)
    if not isinstance(count, int) or 4 * count <= near_bytes or image.dtype is not dt.f32:
        return False
    if len(image.shape) != 4 or any(ints_attr(pool.attrs, "window")[k] != 1 for k in (0, 3)):
        return False
    if any(n == 1 for n in pool.outputs[0].shape[1:3]):
        return False
    if first.op == "reduce_window":
        return all(n == 1 for n in ints_attr(first.attrs, "window")[:3])
    return _kind(graph, first) != "" and reads_few_channels(first)


def takes_prologue(graph: Graph, members: Sequence[int], index: int, near_bytes: int) -> bool:
    """Whether a convolution computes on the way what a few cheap nodes make of its image.

    It is pointwise, so that each value is needed once for all columns of a tile of rows.

    Args:
        members: the nodes that compute the image.
        index: the node of the convolution.
        near_bytes: how much stays near a core between two kernels.
    """
    node = graph.nodes[index]
    image = node.inputs[0]
    count = product(image.shape)
    if node.attrs["groups"] != 1 or _kind(graph, node) != "pointwise" or len(members) > MOST_CHEAP:
        return False
    if reads_few_channels(node) or not isinstance(count, int) or 32 * count < near_bytes:
        return False
    return all(
        graph.nodes[m].op in CHEAP and same_shape(graph.nodes[m].outputs[0].shape, image.shape)
        for m in members
    )


def _widens(node: Node) -> bool:
    """Whether the result of a convolution has more channels than its image."""
    given, made = node.inputs[0].shape[-1], node.outputs[0].shape[-1]
    return isinstance(given, int) and isinstance(made, int) and made > given


def _kind(graph: Graph, node: Node) -> str:
    """What a convolution of an image in f32 with constant weights is: depthwise, pointwise."""
    if node.op != "conv" or node.inputs[1] not in graph.constants or len(node.inputs[0].shape) != 4:
        return ""
    if node.inputs[0].dtype is not dt.f32:
        return ""
    *window, _, outputs = node.inputs[1].shape
    if node.attrs["groups"] == 1:
        one = all(k == 1 for k in (*window, *ints_attr(node.attrs, "strides")))
        return "pointwise" if one or reads_few_channels(node) else ""
    return "depthwise" if node.attrs["groups"] == outputs == node.inputs[0].shape[-1] else ""
