"""Depth: a convolution of a volume as one of pictures, whose channels are those of a few of them.

A window of ``k x 3 x 3`` meets ``k`` neighbouring pictures. Stacked along their channels they are
one picture of ``k`` times the channels, over which a window of 3x3 slides: then methods for
pictures apply, of which Winograd's takes less than half of the operations.
"""

from __future__ import annotations

import numpy as np

from ...dtype import f32
from ...ops.op import int_attr, ints_attr
from ...target import Target
from ..ir import Graph, Node, Value
from .rewrite import Rewriter

LEAST_SIDE = 12
"""Rows and columns of a picture, at least, for Winograd's method to pay."""
LEAST_CHANNELS, MOST_CHANNELS = 24, 256
"""Channels of a volume: with few, copies cost more than is saved; many have too many weights."""
MOST_PICTURES = 5
_ZERO = np.zeros((), np.float32)


def stack_depth(graph: Graph, target: Target) -> Graph:
    """Returns the graph with convolutions of pictures for those of volumes where it pays.

    Machines with threads multiply volumes as they are.
    """
    if target.threads is not None or not any(_is_volume(n) for n in graph.nodes):
        return graph
    made = Rewriter(graph)
    for node in graph.nodes:
        new = made.adopt(node)
        if _pays(made, new):
            made.replace(node.outputs[0], _stacked(made, new))
        else:
            made.keep(new)
    return made.finish() if made.changed else graph


def _is_volume(node: Node) -> bool:
    return node.op == "conv" and len(node.inputs[0].shape) == 5


def _pays(made: Rewriter, node: Node) -> bool:
    """Whether Winograd's method takes the convolution once its depth is stacked."""
    if not _is_volume(node) or int_attr(node.attrs, "groups") != 1:
        return False
    image, weights = node.inputs
    if image.dtype is not f32 or made.data(weights) is None:
        return False
    if not all(isinstance(d, int) for d in image.shape):
        return False
    taps = weights.shape[:3]
    ones = (*ints_attr(node.attrs, "strides"), *ints_attr(node.attrs, "dilations"))
    if taps[1:] != (3, 3) or set(ones) != {1} or taps[0] not in range(2, MOST_PICTURES + 1):
        return False
    *_, rows, columns, channels = (d for d in node.outputs[0].shape if isinstance(d, int))
    inner = image.shape[-1]
    fits = all(
        LEAST_CHANNELS <= c <= MOST_CHANNELS for c in (inner, channels) if isinstance(c, int)
    )
    return fits and min(rows, columns) >= LEAST_SIDE


def _stacked(made: Rewriter, node: Node) -> Value:
    """The convolution over pictures of which each holds all that a window meets."""
    image, weights = node.inputs
    batch, _, rows, columns, inner = image.shape
    count, depth = weights.shape[0], node.outputs[0].shape[1]
    (first, *lo), (last, *hi) = (ints_attr(node.attrs, k) for k in ("lo", "hi"))
    assert isinstance(count, int) and isinstance(inner, int) and isinstance(depth, int)
    assert isinstance(batch, int)
    padded = image
    if first or last:
        pads = {"lo": (0, first, 0, 0, 0), "hi": (0, last, 0, 0, 0), "interior": (0,) * 5}
        zero = made.constant(_ZERO, "zero")
        padded = made.add("pad", (image, zero), {**pads, "mode": "constant"}, like=node)
    parts = [
        made.add(
            "slice",
            (padded,),
            {"starts": (0, k, 0, 0, 0), "sizes": (batch, depth, rows, columns, inner),
             "steps": (1,) * 5},
            like=node,
        )
        for k in range(count)
    ]  # fmt: skip
    joined = made.add("concat", parts, {"axis": 4}, like=node)
    flat = (batch * depth, rows, columns, count * inner)
    pictures = made.add("reshape", (joined,), {"shape": flat}, like=node)
    data = made.data(weights)
    assert data is not None
    turned = data.transpose(1, 2, 0, 3, 4).reshape(3, 3, count * inner, -1)
    attrs = {**node.attrs, "lo": tuple(lo), "hi": tuple(hi), "strides": (1, 1), "dilations": (1, 1)}
    result = made.add("conv", (pictures, made.constant(turned, weights.name)), attrs, like=node)
    return made.add("reshape", (result,), {"shape": node.outputs[0].shape}, like=node)
