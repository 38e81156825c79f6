"""Converters of ONNX's control flow: If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.ops.op import same_shape, type_text
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import bounds, dim

from .context import Context, Converter
from .messages import GraphProto
from .node import NodeView

# Loops of at most so many constant steps are written out; longer ones become a scan.
_MOST_COPIES = 16


def _scalar(ctx: Context, value: Value) -> Value:
    """A tensor of one element as a scalar (some exporters write conditions of shape [1])."""
    return ctx.reshape(value, ())


def _same_type(a: TensorType, b: TensorType) -> bool:
    return a.dtype is b.dtype and same_shape(a.shape, b.shape)


def _refuse_change(ctx: Context, before: Value, after: Value) -> NoReturn:
    was, now = type_text(before.type), type_text(after.type)
    ctx.unsupported(f"a state that starts as {was} and becomes {now}")


# ------------------------------------------------------------------ If


def if_(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The results of one of two graphs; a condition known while importing leaves only that one."""
    cond = node.input(0)
    then, orelse = node.graph("then_branch"), node.graph("else_branch")
    known = ctx.constant(cond)
    if known is not None:
        return ctx.inline(then if bool(known.reshape(-1)[0]) else orelse)
    (a, b), captured = ctx.bodies((then, ()), (orelse, ()))
    if len(a.outputs) != len(b.outputs):
        node.broken(f"its branches give {len(a.outputs)} and {len(b.outputs)} results")
    for x, y in zip(a.outputs, b.outputs, strict=True):
        if not _same_type(x.type, y.type):
            ctx.unsupported(
                f"branches that give {type_text(x.type)} and {type_text(y.type)} by a condition"
                " that depends on data"
            )
    return ctx.ops("if", _scalar(ctx, cond), *captured, then=a, orelse=b)


# ------------------------------------------------------------------ Loop


def loop(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Runs a graph a number of times that is known up to symbolic dims.

    The condition must be seen to hold always (or, for the first few steps, be known while
    importing): a number of steps that depends on data is refused.
    """
    body = node.graph("body")
    states = node.variadic(2)
    if len(body.input) != 2 + len(states):
        node.broken(f"its body takes {len(body.input)} inputs, not {2 + len(states)}")
    if len(body.output) < 1 + len(states):
        node.broken(f"its body gives {len(body.output)} results, fewer than {1 + len(states)}")
    count = _trip_count(ctx, node)
    cond = node.optional(1)
    known = None if cond is None else ctx.constant(cond)
    if cond is not None and known is None:
        ctx.unsupported("a condition that depends on data")
    if known is not None and not known.reshape(-1)[0]:
        count = 0
    if count is None or (isinstance(count, int) and count <= _MOST_COPIES):
        return _unrolled(ctx, node, body, states, count)
    return _scanned(ctx, node, body, states, count)


def _trip_count(ctx: Context, node: NodeView) -> Dim | None:
    value = node.optional(0)
    if value is None:
        return None
    (count,) = ctx.require_dims(value, "the number of steps")
    return count if not isinstance(count, int) else max(count, 0)


def _unrolled(
    ctx: Context,
    node: NodeView,
    body: GraphProto,
    states: Sequence[Value],
    count: int | None,
) -> tuple[Value, ...]:
    """Writes the steps out, one after the other."""
    carried = list(states)
    rows: list[list[Value]] = [[] for _ in body.output[1 + len(states) :]]
    step = 0
    go = ctx.literal(True, dt.bool_)
    while count is None or step < count:
        if step >= _MOST_COPIES:
            ctx.unsupported("a number of steps that is not known")
        cond, *results = ctx.inline(body, (ctx.literal(step, dt.i64), go, *carried))
        carried = results[: len(states)]
        for row, seen in zip(rows, results[len(states) :], strict=True):
            row.append(seen)
        step += 1
        known = ctx.constant(cond)
        if known is None:
            ctx.unsupported("a condition that depends on data")
        if not known.reshape(-1)[0]:
            break
    if rows and not step:
        ctx.unsupported("no steps: the shapes of its results are not known")
    stacked = [_stacked(ctx, row) for row in rows]
    return (*carried, *stacked)


def _stacked(ctx: Context, row: Sequence[Value]) -> Value:
    if any(not _same_type(v.type, row[0].type) for v in row):
        ctx.unsupported("results of a step that change their shape")
    parts = [ctx.unsqueeze(v, (0,)) for v in row]
    return parts[0] if len(parts) == 1 else ctx.op("concat", *parts, axis=0)


def _scanned(
    ctx: Context, node: NodeView, body: GraphProto, states: Sequence[Value], count: Dim
) -> tuple[Value, ...]:
    """Runs the steps as a scan over their numbers."""
    low = bounds(count)[0]
    if low is None or low < 1:
        ctx.unsupported("a number of steps that may be 0")
    own = (TensorType(dt.i64, ()), TensorType(dt.bool_, ()), *(s.type for s in states))
    (graph,), captured = ctx.bodies((body, own))
    closed = _step_body(ctx, graph, states)
    numbers = ctx.op("iota", shape=(count,), axis=0, dtype=dt.i64)
    return ctx.ops(
        "scan", *states, numbers, *captured,
        body=closed, carried=len(states), scanned=1, reverse=False,
    )  # fmt: skip


def _step_body(ctx: Context, graph: Graph, states: Sequence[Value]) -> Graph:
    """A loop's body as that of a scan: (states, step number, captured) -> (states, results)."""
    number, go, *rest = graph.inputs
    cond, *results = graph.outputs
    known = graph.constants.get(cond)
    if cond is not go and not (known is not None and bool(known.reshape(-1)[0])):
        ctx.unsupported("a condition that depends on data")
    for before, after in zip(states, results, strict=False):
        if not _same_type(before.type, after.type):
            _refuse_change(ctx, before, after)
    count = len(states)
    constants = {**graph.constants, go: np.array(True)}
    return replace(
        graph,
        inputs=(*rest[:count], number, *rest[count:]),
        outputs=tuple(results),
        output_names=(),
        constants=MappingProxyType(constants),
    )


# ------------------------------------------------------------------ Scan


def scan(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Runs a graph once for each entry along an axis of its inputs, carrying states."""
    if ctx.opset < 9:
        ctx.unsupported("Scan before opset 9, with a batch axis")
    body = node.graph("body")
    operands = node.variadic()
    scanned = node.int("num_scan_inputs")
    carried = len(operands) - scanned
    if scanned < 1 or carried < 0 or len(body.input) != len(operands):
        node.broken(f"{scanned} scanned inputs of {len(operands)}; its body has {len(body.input)}")
    states = operands[:carried]
    axes = _list(node, "scan_input_axes", scanned)
    flips = _list(node, "scan_input_directions", scanned)
    rows = [
        _leading(ctx, x, axis, bool(flip))
        for x, axis, flip in zip(operands[carried:], axes, flips, strict=True)
    ]
    slices = [TensorType(r.dtype, r.shape[1:]) for r in rows]
    (graph,), captured = ctx.bodies((body, (*(s.type for s in states), *slices)))
    for before, after in zip(states, graph.outputs, strict=False):
        if not _same_type(before.type, after.type):
            _refuse_change(ctx, before, after)
    results = ctx.ops(
        "scan", *states, *rows, *captured,
        body=graph, carried=carried, scanned=scanned, reverse=False,
    )  # fmt: skip
    seen = results[carried:]
    out_axes = _list(node, "scan_output_axes", len(seen))
    out_flips = _list(node, "scan_output_directions", len(seen))
    placed = (
        _trailing(ctx, y, axis, bool(flip))
        for y, axis, flip in zip(seen, out_axes, out_flips, strict=True)
    )
    return (*results[:carried], *placed)


def _list(node: NodeView, name: str, count: int) -> tuple[int, ...]:
    found = node.ints(name)
    if found is None:
        return (0,) * count
    if len(found) != count:
        node.broken(f"{name} must be {count} numbers, got {found}")
    return found


def _leading(ctx: Context, x: Value, axis: int, backwards: bool) -> Value:
    """The scanned axis first, and turned around where it runs backwards."""
    rank = len(x.shape)
    at = ctx.axis(axis, rank)
    turned = ctx.transpose(x, (at, *(a for a in range(rank) if a != at)))
    return _flipped(ctx, turned) if backwards else turned


def _trailing(ctx: Context, y: Value, axis: int, backwards: bool) -> Value:
    """The stacked axis moved from the front to its place."""
    rank = len(y.shape)
    at = ctx.axis(axis, rank)
    result = _flipped(ctx, y) if backwards else y
    return ctx.transpose(result, (*range(1, at + 1), 0, *range(at + 1, rank)))


def _flipped(ctx: Context, x: Value) -> Value:
    extent = x.shape[0]
    return ctx.slice_axis(x, 0, dim(as_expr(extent) - 1), extent, -1)


CONVERTERS: dict[str, Converter] = {
    "If": if_,
    "Loop": loop,
    "Scan": scan,
}
