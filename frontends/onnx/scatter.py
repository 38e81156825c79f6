"""Converters of ONNX's operators that write to places that depend on data."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import same_dim

from .context import Context, Converter
from .node import NodeView

_REDUCTIONS = ("none", "add", "mul", "max", "min")


def _reduction(node: NodeView) -> str:
    found = node.string("reduction", "none")
    if found not in _REDUCTIONS:
        node.broken(f"reduction {found!r} is none of {', '.join(_REDUCTIONS)}")
    return found


def scatter_elements(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Writes each update to the place along an axis that the index beside it names."""
    x, indices, updates = (node.input(i) for i in range(3))
    axis = ctx.axis(node.int("axis", 0), len(x.shape))
    ctx.index(indices, x.shape[axis])
    return (
        ctx.op(
            "scatter_elements", x, indices, updates, axis=axis, reduction=_reduction(node)
        ),
    )  # fmt: skip


def scatter_nd(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Writes each slice of the updates to the place that a vector of indices names."""
    x, indices, updates = (node.input(i) for i in range(3))
    written = ctx.op("scatter_nd", x, indices, updates, reduction=_reduction(node))
    depth = indices.shape[-1]
    assert isinstance(depth, int), "the op's rule"
    ctx.index(indices, *x.shape[:depth])
    return (written,)


def tensor_scatter(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Writes a run of entries into a cache, from a start of each batch element's own."""
    cache, update, starts = node.input(0), node.input(1), node.optional(2)
    rank = len(cache.shape)
    axis = ctx.axis(node.int("axis", -2), rank)
    if axis == 0 or len(update.shape) != rank:
        node.broken(f"cannot write rank {len(update.shape)} along axis {axis} of rank {rank}")
    mode = node.string("mode", "linear")
    if mode not in ("linear", "circular"):
        node.broken(f"mode {mode!r} is neither linear nor circular")
    for a in range(rank):
        if a != axis and not same_dim(cache.shape[a], update.shape[a]):
            node.broken(f"an update of shape {update.shape} for a cache of {cache.shape}")
    steps, extent = update.shape[axis], cache.shape[axis]
    places = ctx.op("iota", shape=(steps,), axis=0, dtype=dt.i64)
    places = ctx.reshape(places, (steps if a == axis else 1 for a in range(rank)))
    if starts is not None:
        begin = ctx.reshape(starts, (starts.shape[0], *(1,) * (rank - 1)))
        places = ctx.op("add", places, ctx.cast(begin, dt.i64))
    if mode == "circular":
        places = ctx.op("mod", places, ctx.dim_value(extent))
    places = ctx.broadcast_to(places, update.shape)
    return (ctx.op("scatter_elements", cache, places, update, axis=axis, reduction="none"),)


CONVERTERS: dict[str, Converter] = {
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
}
