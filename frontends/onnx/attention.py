"""Converters of ONNX's attention operators: Attention, RotaryEmbedding, LinearAttention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType, Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, same_dim

from .context import Context, Converter
from .nn import widened
from .node import NodeView

_MINUS_INFINITY = -math.inf

# ------------------------------------------------------------------ heads


def split_heads(ctx: Context, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [B, heads, S, D]."""
    batch, steps, width = x.shape
    size = dim(as_expr(width) // heads)
    return ctx.transpose(ctx.reshape(x, (batch, steps, heads, size)), (0, 2, 1, 3))


def merge_heads(ctx: Context, x: Value) -> Value:
    """[B, heads, S, D] as [B, S, heads * D]."""
    batch, heads, steps, size = x.shape
    turned = ctx.transpose(x, (0, 2, 1, 3))
    return ctx.reshape(turned, (batch, steps, dim(as_expr(heads) * size)))


def _heads(ctx: Context, node: NodeView, x: Value, attribute: str) -> Value:
    """An operand as [B, heads, S, D], whichever of the two layouts it is given in."""
    if len(x.shape) == 4:
        return x
    if len(x.shape) != 3:
        node.broken(f"needs operands of rank 3 or 4, got rank {len(x.shape)}")
    heads = node.int(attribute)
    if heads < 1 or not same_dim(dim(as_expr(x.shape[2]) % heads), 0):
        node.broken(f"{attribute} {heads} does not divide {x.shape[2]}")
    return split_heads(ctx, x, heads)


# ------------------------------------------------------------------ masks


@dataclass(slots=True)
class _Bias:
    """What limits the keys that a query sees.

    Attributes:
        allowed: true where it may, broadcastable to [B, H, Sq, Skv]; None where nothing limits.
        added: what is added to the scores; None for nothing.
    """

    allowed: Value | None = None
    added: Value | None = None

    def restrict(self, ctx: Context, condition: Value) -> None:
        """Allows only what the condition allows too."""
        both = self.allowed
        self.allowed = condition if both is None else ctx.op("and", both, condition)

    @property
    def empty(self) -> bool:
        return self.allowed is None and self.added is None

    def apply(self, ctx: Context, scores: Value) -> Value:
        """The scores with the bias added, minus infinity where a key is not allowed."""
        result = scores
        lowest = ctx.literal(_MINUS_INFINITY, scores.dtype)
        if self.added is not None:
            added = ctx.cast(self.added, scores.dtype)
            # Minus infinity wins over a score of infinity or nan.
            closed = ctx.op("eq", added, lowest)
            result = ctx.op("where", closed, lowest, ctx.op("add", result, added))
        if self.allowed is not None:
            result = ctx.op("where", self.allowed, result, lowest)
        return result


def _positions(ctx: Context, size: Dim, rank: int, axis: int) -> Value:
    ramp = ctx.op("iota", shape=(size,), axis=0, dtype=dt.i64)
    return ctx.reshape(ramp, (size if i == axis else 1 for i in range(rank)))


def _masks(
    ctx: Context, node: NodeView, queries: Dim, keys: Dim, past: Dim | None, valid: Value | None
) -> _Bias:
    bias = _Bias()
    mask = node.optional(3)
    if mask is not None:
        mask = _widened_mask(ctx, node, mask, keys)
        if mask.dtype is dt.bool_:
            bias.allowed = mask
        else:
            bias.added = mask
    key = _positions(ctx, keys, 4, 3)
    lengths = None if valid is None else ctx.reshape(valid, (valid.shape[0], 1, 1, 1))
    if lengths is not None:
        bias.restrict(ctx, ctx.op("lt", key, lengths))
    causal = bool(node.int("is_causal", 0))
    left, right = node.int("left_window_size", -1), node.int("right_window_size", -1)
    if min(left, right) < -1:
        node.broken(f"windows must be -1 or more, got {left} and {right}")
    if not (causal or left >= 0 or right >= 0):
        return bias
    query = _positions(ctx, queries, 4, 2)
    if past is not None:
        query = ctx.op("add", query, ctx.dim_value(past))
    elif lengths is not None:
        query = ctx.op("add", query, ctx.op("sub", lengths, ctx.dim_value(queries)))
    if causal:
        bias.restrict(ctx, ctx.op("le", key, query))
    if left >= 0:
        bias.restrict(ctx, ctx.op("ge", key, ctx.op("sub", query, left)))
    if right >= 0:
        bias.restrict(ctx, ctx.op("le", key, ctx.op("add", query, right)))
    return bias


def _widened_mask(ctx: Context, node: NodeView, mask: Value, keys: Dim) -> Value:
    """A mask that covers all keys: those beyond its end are closed."""
    if not 1 <= len(mask.shape) <= 4:
        node.broken(f"attn_mask must have rank 1 to 4, got {len(mask.shape)}")
    extent = mask.shape[-1]
    if same_dim(extent, keys):
        return mask
    if extent == 1:
        ctx.unsupported("an attn_mask of one key for several")
    closed = ctx.literal(False if mask.dtype is dt.bool_ else _MINUS_INFINITY, mask.dtype)
    none = (0,) * (len(mask.shape) - 1)
    return ctx.op(
        "pad", mask, closed, lo=(*none, 0), hi=(*none, dim(as_expr(keys) - extent)),
        interior=(*none, 0), mode="constant",
    )  # fmt: skip


# ------------------------------------------------------------------ attention


def attention(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """``softmax(Q K' * scale + bias) V`` head by head, with cached keys and grouped queries."""
    q = _heads(ctx, node, node.input(0), "q_num_heads")
    k = _heads(ctx, node, node.input(1), "kv_num_heads")
    v = _heads(ctx, node, node.input(2), "kv_num_heads")
    past_key, past_value, valid = (node.optional(i) for i in (4, 5, 6))
    if (past_key is None) != (past_value is None):
        node.broken("past_key and past_value belong together")
    if valid is not None and past_key is not None:
        node.broken("nonpad_kv_seqlen excludes past_key and past_value")
    past: Dim | None = None
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k = ctx.op("concat", past_key, k, axis=2)
        v = ctx.op("concat", past_value, v, axis=2)
    bias = _masks(ctx, node, q.shape[2], k.shape[2], past, valid)
    scale = node.float("scale", 0.0) if node.has("scale") else _inverse_root(ctx, q.shape[3])
    softcap = node.float("softcap", 0.0)
    # Scores are scaled on the side of the queries, which are fewer or as many.
    scaled = ctx.op("mul", widened(ctx, q), scale)
    scores = raw = grouped_product(ctx, node, scaled, ctx.transpose(widened(ctx, k), (0, 1, 3, 2)))
    if softcap > 0:
        scores = ctx.op("mul", ctx.op("tanh", ctx.op("div", raw, softcap)), softcap)
    biased = bias.apply(ctx, scores)
    precision = node.dtype("softmax_precision", biased.dtype)
    if precision.bits < biased.dtype.bits:
        precision = biased.dtype
    weights = ctx.cast(softmax_of_open(ctx, ctx.cast(biased, precision), bias.empty), biased.dtype)
    y = grouped_product(ctx, node, weights, widened(ctx, v))
    y = ctx.cast(y if len(node.input(0).shape) == 4 else merge_heads(ctx, y), node.input(0).dtype)
    shown: Value | None = None
    if node.wants(3):
        shown = _shown_scores(ctx, node, softcap, raw, scores, biased, weights)
        shown = ctx.cast(shown, node.input(0).dtype)
    return y, k, v, shown


def _inverse_root(ctx: Context, size: Dim) -> float:
    if not isinstance(size, int):
        ctx.unsupported("a symbolic head size")
    return 1 / math.sqrt(size)


def _shown_scores(
    ctx: Context, node: NodeView, softcap: float, raw: Value, capped: Value, biased: Value, p: Value
) -> Value:
    mode = node.int("qk_matmul_output_mode", 0)
    match mode:
        case 0 if softcap > 0:
            # The standard's text and its reference differ in whether the cap is applied here.
            ctx.unsupported("qk_matmul_output_mode 0 with softcap")
        case 0:
            return raw
        case 1:
            return capped
        case 2:
            return biased
        case 3:
            return p
        case _:
            node.broken(f"qk_matmul_output_mode must be 0 to 3, got {mode}")


def grouped_product(ctx: Context, node: NodeView, a: Value, b: Value) -> Value:
    """``a @ b`` where each head of ``b`` serves a group of consecutive heads of ``a``."""
    batch, heads, rows, inner = a.shape
    shared = b.shape[1]
    if same_dim(heads, shared):
        return ctx.op("matmul", a, b)
    if not isinstance(heads, int) or not isinstance(shared, int) or heads % shared:
        node.broken(f"{shared} heads of keys for {heads} heads of queries")
    group = heads // shared
    merged = ctx.reshape(a, (batch, shared, dim(as_expr(rows) * group), inner))
    return ctx.reshape(ctx.op("matmul", merged, b), (batch, heads, rows, b.shape[3]))


def softmax_of_open(ctx: Context, scores: Value, all_open: bool) -> Value:
    """Softmax over the last axis; a row of minus infinity alone gives zeros."""
    axes = (len(scores.shape) - 1,)
    top = ctx.reduce(scores, "max", axes, keepdims=True)
    if not all_open:
        zero = ctx.literal(0, scores.dtype)
        top = ctx.op("where", ctx.op("eq", top, _MINUS_INFINITY), zero, top)
    grown = ctx.op("exp", ctx.op("sub", scores, top))
    total = ctx.reduce(grown, "sum", axes, keepdims=True)
    if not all_open:
        one = ctx.literal(1, scores.dtype)
        total = ctx.op("where", ctx.op("eq", total, 0.0), one, total)
    return ctx.op("div", grown, total)


# ------------------------------------------------------------------ rotary embedding


def rotary_embedding(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Rotates pairs of features by an angle that grows with the position."""
    x, cos, sin = (node.input(i) for i in range(3))
    ids = node.optional(3)
    return (
        rotated(
            ctx, node, x, cos, sin, ids,
            heads=node.int("num_heads", 0), turned=node.int("rotary_embedding_dim", 0),
        ),
    )  # fmt: skip


def rotated(
    ctx: Context,
    node: NodeView,
    x: Value,
    cos: Value,
    sin: Value,
    ids: Value | None,
    heads: int,
    turned: int,
) -> Value:
    """Rotates [B, heads, S, D] or [B, S, heads * D]; tables are [B, S, D/2], or [P, D/2] by id."""
    flat = len(x.shape) == 3
    if flat and heads < 1:
        node.broken(f"num_heads must be given for an input of rank 3, got {heads}")
    if len(x.shape) not in (3, 4):
        node.broken(f"needs an input of rank 3 or 4, got rank {len(x.shape)}")
    full = split_heads(ctx, x, heads) if flat else x
    size = full.shape[3]
    if not isinstance(size, int):
        ctx.unsupported("a symbolic head size")
    width = turned or size
    half = width // 2
    if not 0 < width <= size or width % 2:
        node.broken(f"cannot rotate {width} of {size} features")
    if ids is not None:
        cos, sin = (ctx.op("gather", table, ids, axis=0) for table in (cos, sin))
    if len(cos.shape) != 3 or cos.shape[2] != half or sin.shape[2] != half:
        node.broken(f"tables of shape {cos.shape} and {sin.shape} for {half} pairs")
    cos, sin = (ctx.cast(ctx.unsqueeze(t, (1,)), x.dtype) for t in (cos, sin))
    interleaved = bool(node.int("interleaved", 0))
    start, step = (1, 2) if interleaved else (half, 1)
    a = ctx.slice_axis(full, 3, 0, half, step)
    b = ctx.slice_axis(full, 3, start, half, step)
    real = ctx.op("sub", ctx.op("mul", cos, a), ctx.op("mul", sin, b))
    imaginary = ctx.op("add", ctx.op("mul", sin, a), ctx.op("mul", cos, b))
    if interleaved:
        pairs = ctx.op("concat", *(ctx.unsqueeze(p, (4,)) for p in (real, imaginary)), axis=4)
        result = ctx.reshape(pairs, (*full.shape[:3], width))
    else:
        result = ctx.op("concat", real, imaginary, axis=3)
    if width != size:
        rest = ctx.slice_axis(full, 3, width, size - width)
        result = ctx.op("concat", result, rest, axis=3)
    return merge_heads(ctx, result) if flat else result


# ------------------------------------------------------------------ linear attention


def linear_attention(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """A recurrence over a matrix of state: decay, write ``k v'``, read by ``q``, step by step."""
    rule = node.string("update_rule", "gated_delta")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        node.broken(f"update_rule {rule!r} is not known")
    heads, shared = node.int("q_num_heads"), node.int("kv_num_heads")
    if shared < 1 or heads % shared:
        node.broken(f"{heads} heads of queries for {shared} heads of keys")
    x = node.input(0)
    # Time first: [S, B, heads, D].
    q = _time_first(ctx, x, heads)
    k, v = (_time_first(ctx, node.input(i), shared) for i in (1, 2))
    size, width = k.shape[3], v.shape[3]
    if not isinstance(size, int):
        ctx.unsupported("a symbolic head size")
    scale = node.float("scale", 0.0) or 1 / math.sqrt(size)
    batch = x.shape[0]
    past = node.optional(3)
    state = ctx.full((batch, shared, size, width), 0, q.dtype) if past is None else past
    rows = [ctx.op("mul", q, scale), k, v]
    if rule.startswith("gated"):
        decay = _time_first(ctx, node.input(4), shared)
        rows.append(ctx.op("exp", ctx.reshape(decay, (*decay.shape, 1))))
    if rule.endswith("delta"):
        rate = node.input(5)
        beta = _time_first(ctx, rate, 1 if rate.shape[2] == 1 else shared)
        rows.append(beta)
    initial = widened(ctx, state)
    body = ctx.fresh("linear_attention")
    carried = body.builder.input("state", initial.type)
    slices = [
        body.builder.input(f"row{i}", TensorType(r.dtype, r.shape[1:])) for i, r in enumerate(rows)
    ]
    after, seen = _linear_step(body, rule, heads, carried, slices)
    body.builder.output(after)
    body.builder.output(seen)
    last, outputs = ctx.ops(
        "scan", initial, *rows, body=body.builder.finish(), carried=1, scanned=len(rows),
        reverse=False,
    )  # fmt: skip
    turned = ctx.transpose(outputs, (1, 0, 2, 3))
    flat = ctx.reshape(turned, (batch, x.shape[1], dim(as_expr(width) * heads)))
    return ctx.cast(flat, x.dtype), ctx.cast(last, state.dtype if past is not None else x.dtype)


def _time_first(ctx: Context, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [S, B, heads, D], in the type that it is computed in."""
    batch, steps, width = x.shape
    split = ctx.reshape(widened(ctx, x), (batch, steps, heads, dim(as_expr(width) // heads)))
    return ctx.transpose(split, (1, 0, 2, 3))


def _linear_step(
    ctx: Context, rule: str, heads: int, state: Value, rows: Sequence[Value]
) -> tuple[Value, Value]:
    """One step: the new state [B, H, D, W], and what the queries read from it, [B, Hq, W]."""
    q, k, v, *rest = rows
    batch, shared, size, width = state.shape
    assert isinstance(shared, int)
    column = ctx.unsqueeze(k, (3,))
    if rule.startswith("gated"):
        state = ctx.op("mul", state, rest.pop(0))
    written = ctx.unsqueeze(v, (2,))
    if rule.endswith("delta"):
        known = ctx.op("matmul", ctx.unsqueeze(k, (2,)), state)
        rate = ctx.unsqueeze(rest.pop(0), (3,))
        written = ctx.op("mul", ctx.op("sub", written, known), rate)
    state = ctx.op("add", state, ctx.op("mul", column, written))
    grouped = ctx.reshape(q, (batch, shared, heads // shared, size))
    return state, ctx.reshape(ctx.op("matmul", grouped, state), (batch, heads, width))


CONVERTERS: dict[str, Converter] = {
    "Attention": attention,
    "LinearAttention": linear_attention,
    "RotaryEmbedding": rotary_embedding,
}
