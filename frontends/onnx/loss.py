"""Converters of ONNX's losses over classes."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import product

from .context import Context, Converter
from .nn import widened
from .node import NodeView
from .norm import log_softmax_over


def negative_log_likelihood(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The weighted mean, sum or list of ``-x[n, target[n], ...]``."""
    x, target, weight = node.input(0), node.input(1), node.optional(2)
    return (ctx.cast(_loss(ctx, node, widened(ctx, x), target, weight), x.dtype),)


def softmax_cross_entropy(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """The negative log-likelihood of the softmax over classes, and its logarithm."""
    x, target, weight = node.input(0), node.input(1), node.optional(2)
    logs = log_softmax_over(ctx, widened(ctx, x), (1,))
    return ctx.cast(_loss(ctx, node, logs, target, weight), x.dtype), ctx.cast(logs, x.dtype)


def _loss(ctx: Context, node: NodeView, x: Value, target: Value, weight: Value | None) -> Value:
    """The loss of log-probabilities [N, C, ...] for targets [N, ...]."""
    if len(x.shape) < 2 or len(target.shape) != len(x.shape) - 1:
        node.broken(f"targets of rank {len(target.shape)} for an input of rank {len(x.shape)}")
    reduction = node.string("reduction", "mean")
    if reduction not in ("mean", "sum", "none"):
        node.broken(f"reduction {reduction!r} is none of mean, sum, none")
    classes = ctx.cast(target, dt.i64)
    kept: Value | None = None
    if node.has("ignore_index"):
        kept = ctx.op("ne", classes, node.int("ignore_index"))
        # Any valid class will do where the target is ignored.
        classes = ctx.op("where", kept, classes, ctx.literal(0, dt.i64))
    zero = ctx.literal(0, x.dtype)
    seen = ctx.op("gather_elements", x, ctx.unsqueeze(classes, (1,)), axis=1)
    loss = ctx.op("neg", ctx.squeeze(seen, (1,)))
    counted: Value | None = None
    if weight is not None:
        counted = ctx.op("gather", ctx.cast(weight, x.dtype), classes, axis=0)
        if kept is not None:
            counted = ctx.op("where", kept, counted, zero)
        loss = ctx.op("mul", loss, counted)
    elif kept is not None:
        counted = ctx.cast(kept, x.dtype)
    if kept is not None:
        loss = ctx.op("where", kept, loss, zero)
    if reduction == "none":
        return loss
    axes = range(len(loss.shape))
    total = ctx.reduce(loss, "sum", axes)
    if reduction == "sum":
        return total
    if counted is not None:
        return ctx.op("div", total, ctx.reduce(counted, "sum", axes))
    return ctx.op("div", total, ctx.cast(ctx.dim_value(product(loss.shape)), x.dtype))


CONVERTERS: dict[str, Converter] = {
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
}
