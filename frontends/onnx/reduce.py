"""Converters of ONNX's reductions, running sums and orderings."""

from __future__ import annotations

from collections.abc import Callable

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import product

from .context import Context, Converter
from .node import NodeView

_HALVES = (dt.f16, dt.bf16)
_Reduction = Callable[[Context, Value, tuple[int, ...], bool], Value]


def _converter(reduction: _Reduction, axes_input_since: int = 18) -> Converter:
    """A reduction whose axes are an attribute, and an input from some opset on."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        x, listed = node.input(0), node.optional(1)
        rank = len(x.shape)
        if ctx.opset < axes_input_since or listed is None:
            given = node.ints("axes")
        else:
            given = ctx.require_ints(listed, "the list of axes")
        if not given:
            given = () if node.int("noop_with_empty_axes", 0) else tuple(range(rank))
        keep = bool(node.int("keepdims", 1))
        return (reduction(ctx, x, ctx.axes(given, rank), keep),)

    return convert


def _plain(op: str) -> _Reduction:
    def reduction(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        return ctx.reduce(x, op, axes, keep)

    return reduction


def _wide(inner: _Reduction) -> _Reduction:
    """Computes half floats in f32, so that squares and sums do not overflow between steps."""

    def reduction(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        if x.dtype in _HALVES:
            return ctx.cast(inner(ctx, ctx.cast(x, dt.f32), axes, keep), x.dtype)
        return inner(ctx, x, axes, keep)

    return reduction


def _real(inner: _Reduction) -> _Reduction:
    """Computes in a float type also where the operand is of integers."""

    def reduction(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        if not x.dtype.is_float:
            return ctx.cast(inner(ctx, ctx.cast(x, dt.f64), axes, keep), x.dtype)
        return _wide(inner)(ctx, x, axes, keep)

    return reduction


def _mean(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    count = product(x.shape[a] for a in axes)
    total = ctx.reduce(x, "sum", axes, keep)
    divisor = float(count) if isinstance(count, int) else ctx.cast(ctx.dim_value(count), x.dtype)
    return ctx.op("div", total, divisor)


def _l1(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx.reduce(ctx.op("abs", x), "sum", axes, keep)


def _sum_square(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx.reduce(ctx.op("mul", x, x), "sum", axes, keep)


def _l2(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx.op("sqrt", _sum_square(ctx, x, axes, keep))


def _log_sum(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx.op("log", ctx.reduce(x, "sum", axes, keep))


def _log_sum_exp(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    if not axes:
        return x
    # The largest element is taken out, so that exp does not overflow; an infinite one stays in.
    largest = ctx.reduce(x, "max", axes, True)
    shift = ctx.op("where", ctx.op("isinf", largest), 0.0, largest)
    total = ctx.reduce(ctx.op("exp", ctx.op("sub", x, shift)), "sum", axes, True)
    result = ctx.op("add", ctx.op("log", total), shift)
    return result if keep else ctx.squeeze(result, axes)


def _arg(op: str) -> Converter:
    """The position of the largest or smallest element along one axis."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        x = node.input(0)
        return (
            ctx.op(
                "argreduce",
                x,
                op=op,
                axis=ctx.axis(node.int("axis", 0), len(x.shape)),
                keepdims=bool(node.int("keepdims", 1)),
                last=bool(node.int("select_last_index", 0)),
            ),
        )

    return convert


def _cumulative(op: str) -> Converter:
    """The running sum or product along one axis."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        x = node.input(0)
        # A vector has one axis: which one is meant does not depend on data.
        axis = 0 if len(x.shape) == 1 else ctx.require_int(node.input(1), "the axis")
        return (
            ctx.op(
                "cumulative",
                x,
                op=op,
                axis=ctx.axis(axis, len(x.shape)),
                exclusive=bool(node.int("exclusive", 0)),
                reverse=bool(node.int("reverse", 0)),
            ),
        )

    return convert


def top_k(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The ``k`` largest (or smallest) elements along one axis, and their places."""
    x = node.input(0)
    old = ctx.opset < 10
    count = node.int("k") if old else ctx.require_dim(node.input(1), "the number k")
    axis = ctx.axis(node.int("axis", -1), len(x.shape))
    return ctx.ops("topk", x, k=count, axis=axis, largest=bool(node.int("largest", 1)))


CONVERTERS: dict[str, Converter] = {
    "ArgMax": _arg("max"),
    "ArgMin": _arg("min"),
    "CumProd": _cumulative("prod"),
    "CumSum": _cumulative("sum"),
    "ReduceL1": _converter(_wide(_l1)),
    "ReduceL2": _converter(_real(_l2)),
    "ReduceLogSum": _converter(_real(_log_sum)),
    "ReduceLogSumExp": _converter(_real(_log_sum_exp)),
    "ReduceMax": _converter(_plain("max")),
    "ReduceMean": _converter(_wide(_mean)),
    "ReduceMin": _converter(_plain("min")),
    "ReduceProd": _converter(_plain("prod")),
    "ReduceSum": _converter(_plain("sum"), axes_input_since=13),
    "ReduceSumSquare": _converter(_wide(_sum_square)),
    "TopK": top_k,
}
