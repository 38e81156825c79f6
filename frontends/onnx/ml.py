"""Converters of the operators of ai.onnx.ml that are arithmetic on tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter
from .node import NodeView


def scaler(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``(x - offset) * scale`` by feature, as f32."""
    x = ctx.cast(node.input(0), dt.f32)
    offset, scale = node.floats("offset") or (0.0,), node.floats("scale") or (1.0,)
    shifted = ctx.op("sub", x, _by_feature(ctx, offset))
    return (ctx.op("mul", shifted, _by_feature(ctx, scale)),)


def _by_feature(ctx: Context, numbers: Sequence[float]) -> Value:
    return ctx.literal(np.array(numbers, np.float32))


def binarizer(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """1 where an element is above the threshold, else 0."""
    x = node.input(0)
    threshold = node.float("threshold", 0.0)
    if not x.dtype.is_float and not threshold.is_integer():
        ctx.unsupported("a fractional threshold on integers")
    return (ctx.cast(ctx.op("gt", x, threshold), x.dtype),)


def array_feature_extractor(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The elements of the last axis at the given places."""
    x, places = node.input(0), node.input(1)
    flat = ctx.reshape(places, (places.shape[-1],) if places.shape else (1,))
    taken = ctx.op("gather", x, flat, axis=len(x.shape) - 1)
    return (ctx.unsqueeze(taken, (0,)) if len(x.shape) == 1 else taken,)


CONVERTERS: dict[str, Converter] = {
    "ai.onnx.ml::ArrayFeatureExtractor": array_feature_extractor,
    "ai.onnx.ml::Binarizer": binarizer,
    "ai.onnx.ml::Scaler": scaler,
}
