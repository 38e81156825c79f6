"""Converters of the fused operators that ONNX Runtime's optimiser writes (com.microsoft)."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from .attention import merge_heads, rotated, softmax_of_open, split_heads
from .context import Context, Converter
from .linalg import matrix_product
from .nn import convolve, widened
from .node import NodeView
from .norm import normalized, rms_normalized
from .quant import dequantize_linear, quantize_linear

# ------------------------------------------------------------------ products with an epilogue


def fused_matmul(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``alpha * A' @ B'`` with the last two axes of either operand exchanged on request."""
    if node.int("transBatchA", 0) or node.int("transBatchB", 0):
        ctx.unsupported("transBatchA or transBatchB")
    a = _exchanged(ctx, node.input(0), bool(node.int("transA", 0)))
    b = _exchanged(ctx, node.input(1), bool(node.int("transB", 0)))
    result = matrix_product(ctx, node, a, b)
    alpha = node.float("alpha", 1.0)
    return (result if alpha == 1 else ctx.op("mul", result, alpha),)


def _exchanged(ctx: Context, x: Value, wanted: bool) -> Value:
    rank = len(x.shape)
    if not wanted or rank < 2:
        return x
    return ctx.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


def fused_conv(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A convolution, plus a tensor of the result's shape, under an activation."""
    result = convolve(ctx, node, node.input(0), node.input(1), node.optional(2))
    summand = node.optional(3)
    if summand is not None:
        result = ctx.op("add", result, summand)
    return (_activated(ctx, node, result),)


def _activated(ctx: Context, node: NodeView, x: Value) -> Value:
    given = node.floats("activation_params") or ()
    match node.string("activation", ""), given:
        case "", _:
            return x
        case "Relu", _:
            return ctx.op("max", x, 0.0)
        case "Tanh" | "Sigmoid" as name, _:
            return ctx.op(name.lower(), x)
        case "LeakyRelu", (alpha,):
            return ctx.op("where", ctx.op("ge", x, 0.0), x, ctx.op("mul", x, alpha))
        case "Clip", (low, high):
            return ctx.op("min", ctx.op("max", x, low), high)
        case "HardSigmoid", (alpha, beta):
            line = ctx.op("add", ctx.op("mul", x, alpha), beta)
            return ctx.op("min", ctx.op("max", line, 0.0), 1.0)
        case name, _:
            ctx.unsupported(f"activation {name!r} with {len(given)} parameters")


# ------------------------------------------------------------------ normalisation of sums


def skip_layer_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Layer normalisation of ``x + skip + bias``; the sum is a result as well."""
    total = _sum(ctx, node, node.optional(4))
    epsilon = node.float("epsilon", 1e-12)
    y, mean, inverse = normalized(ctx, total, node.input(2), node.optional(3), epsilon)
    return y, mean, inverse, total


def skip_rms_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Root-mean-square normalisation of ``x + skip + bias``; the sum is a result as well."""
    total = _sum(ctx, node, node.optional(3))
    y, inverse = rms_normalized(ctx, total, node.input(2), node.float("epsilon", 1e-12))
    if node.wants(1):
        ctx.unsupported("the mean of a normalisation that takes none")
    return y, None, inverse, total


def _sum(ctx: Context, node: NodeView, bias: Value | None) -> Value:
    total = ctx.op("add", node.input(0), node.input(1))
    return total if bias is None else ctx.op("add", total, bias)


def embed_layer_normalization(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Layer normalisation of the sum of word, position and segment embeddings."""
    ids, segments = node.input(0), node.optional(1)
    words, positions, segment_table = node.input(2), node.input(3), node.optional(4)
    batch, steps = ids.shape
    total = ctx.op("gather", words, ids, axis=0)
    where = node.optional(8)
    if where is None:
        first = ctx.slice_axis(positions, 0, 0, steps)
        total = ctx.op("add", total, first)
    else:
        total = ctx.op("add", total, ctx.op("gather", positions, where, axis=0))
    if segments is not None:
        if segment_table is None:
            node.broken("segment ids without a segment embedding")
        total = ctx.op("add", total, ctx.op("gather", segment_table, segments, axis=0))
    epsilon = node.float("epsilon", 1e-12)
    y, _, _ = normalized(ctx, total, node.input(5), node.input(6), epsilon)
    mask = node.optional(7)
    counts: Value | None = None
    if node.wants(1):
        if mask is None:
            counts = ctx.full((batch,), 0, dt.i32)
        else:
            counts = ctx.cast(ctx.reduce(mask, "sum", (1,)), dt.i32)
    return y, counts, total


# ------------------------------------------------------------------ attention


def packed_attention(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Self-attention whose projections to queries, keys and values are one matrix."""
    x, weight, bias, mask = node.input(0), node.input(1), node.optional(2), node.optional(3)
    if node.optional(4) is not None or node.int("do_rotary", 0) or node.wants(1):
        ctx.unsupported("a cache of past keys, or rotary positions")
    heads = node.int("num_heads")
    width = weight.shape[1]
    sizes = node.ints("qkv_hidden_sizes")
    if sizes is None:
        if not isinstance(width, int) or width % 3:
            node.broken(f"{width} columns are not three equal projections")
        sizes = (width // 3,) * 3
    if len(sizes) != 3 or any(s % heads for s in sizes):
        node.broken(f"{heads} heads do not divide the sizes {sizes}")
    projected = ctx.op("matmul", x, weight)
    if bias is not None:
        projected = ctx.op("add", projected, bias)
    starts = (0, sizes[0], sizes[0] + sizes[1])
    q, k, v = (
        split_heads(ctx, ctx.slice_axis(projected, 2, start, size), heads)
        for start, size in zip(starts, sizes, strict=True)
    )
    y = _attended(ctx, node, q, k, v, mask, node.optional(5), bool(node.int("unidirectional", 0)))
    return (ctx.cast(y, x.dtype),)


def multi_head_attention(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Attention of queries, keys and values that are projected already."""
    q, k, v = node.input(0), node.optional(1), node.optional(2)
    bias = node.optional(3)
    if k is None or v is None or not len(q.shape) == len(k.shape) == len(v.shape) == 3:
        ctx.unsupported("packed queries, keys or values")
    if any(node.optional(i) is not None for i in range(6, 10)) or node.wants(1):
        ctx.unsupported("a cache of past keys")
    heads = node.int("num_heads")
    operands = [q, k, v]
    if bias is not None:
        start: Dim = 0
        for i, operand in enumerate(operands):
            width = operand.shape[2]
            operands[i] = ctx.op("add", operand, ctx.slice_axis(bias, 0, start, width))
            start = dim(as_expr(start) + width)
    q4, k4, v4 = (split_heads(ctx, operand, heads) for operand in operands)
    one_way = bool(node.int("unidirectional", 0))
    y = _attended(ctx, node, q4, k4, v4, node.optional(4), node.optional(5), one_way)
    return (ctx.cast(y, q.dtype),)


def _attended(
    ctx: Context,
    node: NodeView,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None,
    added: Value | None,
    one_way: bool,
) -> Value:
    """``softmax(q k' * scale + bias) v`` of [B, heads, S, D], with the heads merged."""
    size, queries, keys = q.shape[3], q.shape[2], k.shape[2]
    if not isinstance(size, int):
        ctx.unsupported("a symbolic head size")
    scale = node.float("scale", 0.0) or size**-0.5
    scores = ctx.op(
        "matmul",
        ctx.op("mul", widened(ctx, q), scale),
        ctx.transpose(widened(ctx, k), (0, 1, 3, 2)),
    )
    if mask is not None:
        scores = ctx.op("add", scores, _penalty(ctx, node, mask, keys, scores))
    if added is not None:
        scores = ctx.op("add", scores, ctx.cast(added, scores.dtype))
    if one_way:
        row = ctx.op("iota", shape=(queries, 1), axis=0, dtype=dt.i64)
        column = ctx.op("iota", shape=(1, keys), axis=1, dtype=dt.i64)
        behind = ctx.op("sub", ctx.dim_value(keys), ctx.dim_value(queries))
        seen = ctx.op("le", column, ctx.op("add", row, behind))
        lowest = ctx.literal(-float("inf"), scores.dtype)
        scores = ctx.op("where", seen, scores, lowest)
    weights = softmax_of_open(ctx, scores, all_open=added is None)
    return merge_heads(ctx, ctx.op("matmul", weights, widened(ctx, v)))


def _penalty(ctx: Context, node: NodeView, mask: Value, keys: Dim, scores: Value) -> Value:
    """What is added to the scores of keys that a padding mask excludes."""
    if len(mask.shape) == 2 and same_dim(mask.shape[1], keys):
        open_ = ctx.op("ne", mask, 0)
        open_ = ctx.unsqueeze(open_, (1, 2))
    elif len(mask.shape) == 1 and same_dim(mask.shape[0], scores.shape[0]):
        places = ctx.op("iota", shape=(1, 1, 1, keys), axis=3, dtype=dt.i64)
        lengths = ctx.reshape(ctx.cast(mask, dt.i64), (mask.shape[0], 1, 1, 1))
        open_ = ctx.op("lt", places, lengths)
    else:
        ctx.unsupported(f"a mask of rank {len(mask.shape)}")
    penalty = node.float("mask_filter_value", -10000.0)
    zero, low = (ctx.literal(x, scores.dtype) for x in (0.0, penalty))
    return ctx.op("where", open_, zero, low)


def rotary_embedding(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Rotates pairs of features; positions come before the tables, or one start for all."""
    x, ids, cos, sin = (node.input(i) for i in range(4))
    if node.int("is_packed_batching", 0) or node.float("scale", 1.0) != 1:
        ctx.unsupported("packed batches, or a scale")
    heads, turned = node.int("num_heads", 0), node.int("rotary_embedding_dim", 0)
    steps = x.shape[2] if len(x.shape) == 4 else x.shape[1]
    if len(x.shape) == 3 and not heads:
        if turned or not isinstance(cos.shape[1], int):
            ctx.unsupported("a number of heads that is not given")
        heads_dim = dim(as_expr(x.shape[2]) // (2 * cos.shape[1]))
        if not isinstance(heads_dim, int):
            ctx.unsupported("a symbolic number of heads")
        heads = heads_dim
    if len(ids.shape) == 1:
        ramp = ctx.op("iota", shape=(x.shape[0], steps), axis=1, dtype=dt.i64)
        ids = ctx.op("add", ramp, ctx.cast(ids, dt.i64))
    return (rotated(ctx, node, x, cos, sin, ids, heads=heads, turned=turned),)


CONVERTERS: dict[str, Converter] = {
    "com.microsoft::Attention": packed_attention,
    "com.microsoft::DequantizeLinear": dequantize_linear,
    "com.microsoft::EmbedLayerNormalization": embed_layer_normalization,
    "com.microsoft::FusedConv": fused_conv,
    "com.microsoft::FusedMatMul": fused_matmul,
    "com.microsoft::MultiHeadAttention": multi_head_attention,
    "com.microsoft::QuantizeLinear": quantize_linear,
    "com.microsoft::RotaryEmbedding": rotary_embedding,
    "com.microsoft::SkipLayerNormalization": skip_layer_normalization,
    "com.microsoft::SkipSimplifiedLayerNormalization": skip_rms_normalization,
}
