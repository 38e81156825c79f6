"""Pools: a mean over windows and a pointwise convolution go in the order that takes less time.

Both are linear, and each leaves alone what the other sums over: windows reach over places, products
over channels. So either may come first. Fewer places are multiplied behind a pool that has strides
(the transitions of a DenseNet: a quarter of the products), and fewer channels are summed behind a
convolution that has few (the pooled branches of an Inception). Zeros stand for what lies outside of
the image, before a convolution without bias as well as behind it.
"""

from __future__ import annotations

from math import prod

from ...dtype import f32, f64
from ...ops.op import int_attr, ints_attr, same_shape
from ...target import Target
from ...tensor.ir import Dim
from ..ir import Graph, Node, Value
from .rewrite import Rewriter

TERM = 8
"""Multiply-adds that take the time of one term of a window."""


def order_pools(graph: Graph, target: Target) -> Graph:
    """Returns the graph with sums over windows before or behind pointwise convolutions, as pays.

    Sums are rounded in another order then, so 16-bit floats, whose sums are rounded after each
    step, stay as they are.
    """
    del target
    if not any(_is_pool(n) for n in graph.nodes):
        return graph
    made = Rewriter(graph)
    for node in graph.nodes:
        new = made.adopt(node)
        found = _convolved_first(made, new) or _pooled_first(made, new)
        if found is None:
            made.keep(new)
        else:
            made.replace(node.outputs[0], found)
    return made.finish() if made.changed else graph


def _convolved_first(made: Rewriter, conv: Node) -> Value | None:
    """What stands for a convolution of a pool, which may be scaled; None if it is to stay."""
    if not _is_pointwise(conv):
        return None
    scaled = made.producer.get(conv.inputs[0])
    pool, factor = _pool_behind(made, scaled)
    if pool is None or scaled is None:
        return None
    (image,) = pool.inputs
    if not _takes_less(conv, pool, image, conv):
        return None
    first = made.add("conv", (image, conv.inputs[1]), conv.attrs, like=conv)
    result = made.add("reduce_window", (first,), pool.attrs, like=pool)
    if factor is None:
        return result
    operands = [result if v is pool.outputs[0] else v for v in scaled.inputs]
    return made.add(scaled.op, operands, scaled.attrs, like=scaled)


def _pooled_first(made: Rewriter, pool: Node) -> Value | None:
    """What stands for a pool of a convolution; None if it is to stay."""
    if not _is_pool(pool):
        return None
    conv = made.producer.get(pool.inputs[0])
    if conv is None or not _is_pointwise(conv) or made.uses.get(conv.outputs[0]) != 1:
        return None
    image, weights = conv.inputs
    if not _takes_less(conv, pool, image, pool):
        return None
    first = made.add("reduce_window", (image,), pool.attrs, like=pool)
    return made.add("conv", (first, weights), conv.attrs, like=conv)


def _pool_behind(made: Rewriter, node: Node | None) -> tuple[Node | None, Value | None]:
    """The pool whose result a node is, and the factor of each place that it is scaled by."""
    if node is None or made.uses.get(node.outputs[0]) != 1:
        return None, None
    if _is_pool(node):
        return node, None
    if node.op not in ("mul", "div"):
        return None, None
    for value, factor in (node.inputs, node.inputs[::-1])[: 1 if node.op == "div" else 2]:
        pool = made.producer.get(value)
        if pool is None or not _is_pool(pool) or made.uses.get(value) != 1:
            continue
        alike = not factor.shape or factor.shape[-1] == 1
        if alike and same_shape(node.outputs[0].shape, value.shape):
            return pool, factor
    return None, None


def _is_pool(node: Node) -> bool:
    """Whether a node sums over windows of places, each channel for itself."""
    if node.op != "reduce_window" or node.attrs["op"] != "sum":
        return False
    if node.outputs[0].dtype not in (f32, f64) or len(node.outputs[0].shape) < 3:
        return False
    sizes = [ints_attr(node.attrs, k) for k in ("window", "strides")]
    around = [ints_attr(node.attrs, k) for k in ("lo", "hi")]
    whole = all(s[0] == s[-1] == 1 for s in sizes)
    return whole and all(s[0] == s[-1] == 0 for s in around)


def _is_pointwise(node: Node) -> bool:
    """Whether a node multiplies the channels of each place, and does nothing else."""
    if node.op != "conv" or int_attr(node.attrs, "groups") != 1:
        return False
    image, weights = node.inputs
    taps = weights.shape[:-2]
    around = (*ints_attr(node.attrs, "lo"), *ints_attr(node.attrs, "hi"))
    strides = ints_attr(node.attrs, "strides")
    alone = all(d == 1 for d in (*taps, *strides)) and not any(around)
    return alone and node.outputs[0].dtype is image.dtype


def _takes_less(conv: Node, pool: Node, image: Value, first: Node) -> bool:
    """Whether it takes less time to begin with one of the two, of which the other comes first now.

    Args:
        image: what the first of them reads.
    """
    inner, outer = conv.inputs[1].shape[-2:]
    results = pool.outputs[0].shape[1:-1]
    convolved = _time(conv, pool, image.shape[1:-1], outer)
    pooled = _time(conv, pool, results, inner)
    if convolved is None or pooled is None:
        return False
    return convolved < pooled if first is conv else pooled < convolved


def _time(conv: Node, pool: Node, places: tuple[Dim, ...], channels: Dim) -> int | None:
    """Multiply-adds of one image, and what its windows take; None where sizes are not known.

    Args:
        places: where channels are multiplied.
        channels: those that windows sum.
    """
    products = _count((*places, *conv.inputs[1].shape))
    terms = _count((*pool.outputs[0].shape[1:-1], channels))
    if products is None or terms is None:
        return None
    return products + TERM * terms * prod(ints_attr(pool.attrs, "window"))


def _count(dims: tuple[Dim, ...]) -> int | None:
    known = [d for d in dims if isinstance(d, int)]
    return prod(known) if len(known) == len(dims) else None
