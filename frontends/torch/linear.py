"""Converters of ATen's products: matrices, convolutions, attention.

Where an overload states a product and its bias as one, torch rounds to 16 bits once, behind both:
the product is left in f32, and so is what is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from .context import Context, Converter
from .reduce import open_softmax
from .types import Scalar

# ------------------------------------------------------------------ matrices


def matmul(ctx: Context, a: Value, b: Value) -> Value:
    """numpy.matmul: vectors gain an axis that the result loses again."""
    return _matmul(ctx, a, b, wide=False)


def _matmul(ctx: Context, a: Value, b: Value, wide: bool) -> Value:
    left = ctx.unsqueeze(a, (0,)) if len(a.shape) == 1 else a
    right = ctx.unsqueeze(b, (1,)) if len(b.shape) == 1 else b
    return ctx.reshape(ctx.op("matmul", left, right, wide=wide), ctx.shape)


def linear(ctx: Context, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``x @ weight.T + bias``."""
    if len(weight.shape) == 1:
        return matmul(ctx, x, weight)
    rows = ctx.unsqueeze(x, (0,)) if len(x.shape) == 1 else x
    columns = ctx.swapped(weight)
    if bias is None:
        return ctx.reshape(ctx.op("matmul", rows, columns), ctx.shape)
    result = ctx.reshape(ctx.op("matmul", rows, columns, wide=True), ctx.shape)
    return ctx.cast(ctx.op("add", result, ctx.cast(bias, result.dtype)), ctx.dtype)


def addmm(
    ctx: Context, bias: Value, a: Value, b: Value, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Value:
    """``beta * bias + alpha * (a @ b)``; a bias times 0 is not read."""
    result = _times(ctx, _matmul(ctx, a, b, wide=True), alpha)
    if not isinstance(beta, int | float) or beta != 0:
        result = ctx.op("add", result, _times(ctx, ctx.cast(bias, result.dtype), beta))
    return ctx.cast(result, ctx.dtype)


def addbmm(
    ctx: Context, bias: Value, a: Value, b: Value, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Value:
    """``beta * bias + alpha * sum(a @ b)`` over the batch: one product of joined rows."""
    batch, rows, inner = a.shape
    joined = dim(as_expr(batch) * inner)
    left = ctx.reshape(ctx.transpose(a, (1, 0, 2)), (rows, joined))
    return addmm(ctx, bias, left, ctx.reshape(b, (joined, b.shape[2])), beta=beta, alpha=alpha)


def trilinear(
    ctx: Context,
    a: Value,
    b: Value,
    c: Value,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Value:
    """The sum over axes of the product of three tensors, each with some axes inserted."""
    del unroll_dim
    x, y, z = (
        ctx.unsqueeze(v, at) for v, at in ((a, expand1), (b, expand2), (c, expand3))
    )  # fmt: skip
    whole = ctx.op("mul", ctx.op("mul", x, y), z)
    return ctx.reshape(ctx.reduce(whole, "sum", sumdim), ctx.shape)


def _times(ctx: Context, x: Value, factor: Scalar) -> Value:
    one = isinstance(factor, int | float) and factor == 1
    return x if one else ctx.op("mul", x, factor)


# ------------------------------------------------------------------ convolution


def convolution(
    ctx: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[Dim],
    padding: Sequence[Dim],
    dilation: Sequence[Dim],
    transposed: bool,
    output_padding: Sequence[Dim],
    groups: int,
) -> Value:
    """A convolution of [N, C, *spatial], or its transpose; computed with the channels last."""
    kernel = ctx.ints(weight.shape[2:], "kernel sizes")
    rank = len(kernel)
    batched = len(x.shape) == rank + 2
    image = x if batched else ctx.unsqueeze(x, (0,))
    last = ctx.transpose(image, (0, *range(2, rank + 2), 1))
    strides, pads, dilations, extra = (
        _each(ctx, values, rank) for values in (stride, padding, dilation, output_padding)
    )
    wide = bias is not None
    if transposed:
        result = _transposed(ctx, last, weight, strides, pads, dilations, extra, groups, wide)
    else:
        result = ctx.op(
            "conv", last, ctx.transpose(weight, (*range(2, rank + 2), 1, 0)),
            strides=strides, lo=pads, hi=pads, dilations=dilations, groups=groups, wide=wide,
        )  # fmt: skip
    if bias is not None:
        result = ctx.op("add", result, ctx.cast(bias, result.dtype))
        result = ctx.cast(result, ctx.dtype)
    first = ctx.transpose(result, (0, rank + 1, *range(1, rank + 1)))
    return ctx.reshape(first, ctx.shape)


def _each(ctx: Context, values: Sequence[Dim], rank: int) -> tuple[int, ...]:
    known = ctx.ints(values, "attributes of a convolution")
    return known * rank if len(known) == 1 else known


def _transposed(
    ctx: Context,
    x: Value,
    weight: Value,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
    groups: int,
    wide: bool,
) -> Value:
    """The transpose: a convolution over x with zeros between its elements, the kernel reversed."""
    kernel = ctx.ints(weight.shape[2:], "kernel sizes")
    rank = len(kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    plain = not any((*pads, *extra)) and groups == 1
    if plain and tuple(strides) == tuple(spans) == kernel:
        return _blocks(ctx, x, weight, kernel, wide)
    # Room for the kernel to overhang, less the padding that the forward convolution had.
    lo = [s - 1 - p for s, p in zip(spans, pads, strict=True)]
    hi = [a + e for a, e in zip(lo, extra, strict=True)]
    spread = ctx.pad(
        x,
        (0, *(max(p, 0) for p in lo), 0),
        (0, *(max(p, 0) for p in hi), 0),
        interior=(0, *(s - 1 for s in strides), 0),
    )
    for axis, (before, after) in enumerate(zip(lo, hi, strict=True), 1):
        size = dim(as_expr(spread.shape[axis]) + min(before, 0) + min(after, 0))
        spread = ctx.slice_axis(spread, axis, max(-before, 0), size)
    ones, zeros = (1,) * rank, (0,) * rank
    return ctx.op(
        "conv", spread, _reversed(ctx, weight, groups),
        strides=ones, lo=zeros, hi=zeros, dilations=tuple(dilations), groups=groups, wide=wide,
    )  # fmt: skip


def _reversed(ctx: Context, weight: Value, groups: int) -> Value:
    """[C, M/g, *kernel] as the forward weights [*kernel reversed, C/g, M]."""
    channels, per_group, *kernel = weight.shape
    inner = dim(as_expr(channels) // groups)
    rank = len(weight.shape)
    grouped = ctx.reshape(weight, (groups, inner, per_group, *kernel))
    order = ctx.transpose(grouped, (*range(3, rank + 1), 1, 0, 2))
    merged = ctx.reshape(order, (*kernel, inner, dim(as_expr(per_group) * groups)))
    starts = (*(dim(as_expr(k) - 1) for k in kernel), 0, 0)
    steps = (*(-1,) * len(kernel), 1, 1)
    return ctx.op("slice", merged, starts=starts, sizes=merged.shape, steps=steps)


def _blocks(ctx: Context, x: Value, weight: Value, kernel: tuple[int, ...], wide: bool) -> Value:
    """Where blocks do not overlap: one product for all taps, then blocks side by side."""
    channels, outputs = weight.shape[:2]
    rank = len(kernel)
    columns = ctx.transpose(weight, (0, *range(2, rank + 2), 1))
    flat = ctx.reshape(columns, (channels, dim(as_expr(outputs) * math.prod(kernel))))
    blocks = ctx.op("matmul", x, flat, wide=wide)
    batch, *spatial = x.shape[:-1]
    blocks = ctx.reshape(blocks, (batch, *spatial, *kernel, outputs))
    pairs = [p for axis in range(rank) for p in (1 + axis, 1 + rank + axis)]
    paired = ctx.transpose(blocks, (0, *pairs, 2 * rank + 1))
    sizes = (dim(as_expr(d) * k) for d, k in zip(spatial, kernel, strict=True))
    return ctx.reshape(paired, (batch, *sizes, outputs))


# ------------------------------------------------------------------ attention


def attention(
    ctx: Context,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(Q K' * scale + mask) V``; a bool mask and causality close keys."""
    if dropout_p:
        ctx.unsupported("random numbers (dropout in attention)")
    if enable_gqa and not same_dim(q.shape[-3], k.shape[-3]):
        k, v = (_shared_heads(ctx, x, q.shape[-3]) for x in (k, v))
    wide = ctx.widened(q)
    # Scores are scaled on the side of the queries, which are fewer or as many.
    scaled = ctx.op("mul", wide, _scale(ctx, q, scale, wide.dtype))
    scores = ctx.op("matmul", scaled, ctx.swapped(ctx.widened(k)))
    lowest = ctx.scalar(-float("inf"), scores.dtype)
    if is_causal:
        rows, columns = scores.shape[-2:]
        query, key = ctx.along(ctx.iota(rows), 2, 0), ctx.along(ctx.iota(columns), 2, 1)
        scores = ctx.op("where", ctx.op("le", key, query), scores, lowest)
    if attn_mask is None:
        weights = _plain_softmax(ctx, scores)
    else:
        if attn_mask.dtype is dt.bool_:
            scores = ctx.op("where", attn_mask, scores, lowest)
        else:
            scores = ctx.op("add", scores, ctx.cast(attn_mask, scores.dtype))
        weights = open_softmax(ctx, scores, len(scores.shape) - 1)
    return ctx.cast(ctx.op("matmul", weights, ctx.widened(v)), ctx.dtype)


def _plain_softmax(ctx: Context, scores: Value) -> Value:
    axes = (len(scores.shape) - 1,)
    grown = ctx.op("exp", ctx.op("sub", scores, ctx.reduce(scores, "max", axes, keepdims=True)))
    return ctx.op("div", grown, ctx.reduce(grown, "sum", axes, keepdims=True))


def _scale(ctx: Context, q: Value, scale: float | None, dtype: DType) -> Value:
    if scale is not None:
        return ctx.scalar(scale, dtype)
    size = q.shape[-1]
    if isinstance(size, int):
        return ctx.scalar(1 / math.sqrt(size), dtype)
    return ctx.op("div", ctx.scalar(1, dtype), ctx.op("sqrt", ctx.scalar(size, dtype)))


def _shared_heads(ctx: Context, x: Value, heads: Dim) -> Value:
    """Every head repeated, so that groups of queries find their own."""
    *batch, shared, rows, size = x.shape
    group = dim(as_expr(heads) // shared)
    single = ctx.reshape(x, (*batch, shared, 1, rows, size))
    wide = ctx.broadcast_to(single, (*batch, shared, group, rows, size))
    return ctx.reshape(wide, (*batch, heads, rows, size))


def flash_attention(
    ctx: Context,
    q: Value,
    k: Value,
    v: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value | None, ...]:
    """The variant that CPUs dispatch to; the sums that training needs are not computed."""
    return attention(ctx, q, k, v, attn_mask, dropout_p, is_causal, scale=scale), None


def math_attention(
    ctx: Context,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Value | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Value | None, ...]:
    """The variant made of products; its weights are not given out."""
    if dropout_mask is not None:
        ctx.unsupported("dropout in attention")
    result = attention(
        ctx, q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return result, None


def cdist(ctx: Context, a: Value, b: Value, p: float, compute_mode: int | None) -> Value:
    """Distances between all rows of a and of b, by the p-norm."""
    del compute_mode
    left, right = ctx.unsqueeze(a, (len(a.shape) - 1,)), ctx.unsqueeze(b, (len(b.shape) - 2,))
    apart = ctx.op("abs", ctx.op("sub", left, right))
    axes = (len(apart.shape) - 1,)
    match p:
        case 0.0:
            return ctx.reduce(ctx.cast(ctx.op("ne", apart, 0), a.dtype), "sum", axes)
        case 1.0:
            return ctx.reduce(apart, "sum", axes)
        case 2.0:
            return ctx.op("sqrt", ctx.reduce(ctx.op("mul", apart, apart), "sum", axes))
        case math.inf:
            return ctx.reduce(apart, "max", axes)
    powers = ctx.reduce(ctx.op("pow", apart, p), "sum", axes)
    return ctx.op("pow", powers, 1 / p)


CONVERTERS: dict[str, Converter] = {
    "_cdist_forward.default": cdist,
    "_scaled_dot_product_attention_math.default": math_attention,
    "_scaled_dot_product_flash_attention_for_cpu.default": flash_attention,
    "_trilinear.default": trilinear,
    "addbmm.default": addbmm,
    "addmm.default": addmm,
    "addmv.default": addmm,
    "baddbmm.default": addmm,
    "bmm.default": matmul,
    "convolution.default": convolution,
    "linear.default": linear,
    "matmul.default": matmul,
    "mm.default": matmul,
    "scaled_dot_product_attention.default": attention,
}
