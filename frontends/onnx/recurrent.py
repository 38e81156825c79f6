"""Converters of ONNX's recurrent layers: RNN, GRU and LSTM.

The product of the whole input sequence by W is one matrix product outside of the recurrence; each
step of the ``scan`` adds only the product of the state by R. Steps beyond a sequence's length keep
the state and give zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType, Value

from .context import Context, Converter
from .nn import widened
from .node import NodeView

_Activation = Callable[[Context, Value], Value]
_Step = Callable[[Context, Value, Sequence[Value], Sequence[Value]], tuple[Value, ...]]
"""(context, input part of the gates, states, weights) -> new states, the output first."""


# ------------------------------------------------------------------ activations


def _activation(node: NodeView, name: str, given: Callable[[str], float]) -> _Activation:
    """An activation by its name; ``given`` hands out the next alpha or beta of the node."""
    match name.lower():
        case "sigmoid" | "tanh":
            return lambda c, x: c.op(name.lower(), x)
        case "relu":
            return lambda c, x: c.op("max", x, 0.0)
        case "softsign":
            return lambda c, x: c.op("div", x, c.op("add", c.op("abs", x), 1.0))
        case "softplus":
            return _softplus
        case "affine":
            alpha, beta = given("alpha"), given("beta")
            return lambda c, x: c.op("add", c.op("mul", x, alpha), beta)
        case "leakyrelu":
            alpha = given("alpha")
            return lambda c, x: _choose(c, c.op("ge", x, 0.0), x, c.op("mul", x, alpha))
        case "thresholdedrelu":
            alpha = given("alpha")
            return lambda c, x: _choose(c, c.op("gt", x, alpha), x, c.literal(0, x.dtype))
        case "scaledtanh":
            alpha, beta = given("alpha"), given("beta")
            return lambda c, x: c.op("mul", c.op("tanh", c.op("mul", x, beta)), alpha)
        case "hardsigmoid":
            alpha, beta = given("alpha"), given("beta")
            return lambda c, x: _clamped(c, c.op("add", c.op("mul", x, alpha), beta), 0.0, 1.0)
        case "elu":
            alpha = given("alpha")
            return lambda c, x: _choose(
                c, c.op("ge", x, 0.0), x, c.op("mul", c.op("expm1", x), alpha)
            )
    node.broken(f"{name!r} is no activation of recurrent layers")


_DEFAULTS = {
    "leakyrelu": {"alpha": 0.01},
    "thresholdedrelu": {"alpha": 1.0},
    "hardsigmoid": {"alpha": 0.2, "beta": 0.5},
    "elu": {"alpha": 1.0},
}


def _choose(ctx: Context, cond: Value, a: Value, b: Value) -> Value:
    return ctx.op("where", cond, a, b)


def _softplus(ctx: Context, x: Value) -> Value:
    tail = ctx.op("log1p", ctx.op("exp", ctx.op("neg", ctx.op("abs", x))))
    return ctx.op("add", ctx.op("max", x, 0.0), tail)


def _clamped(ctx: Context, x: Value, low: float, high: float) -> Value:
    return ctx.op("min", ctx.op("max", x, low), high)


def _activations(
    ctx: Context, node: NodeView, defaults: Sequence[str], directions: int
) -> list[list[_Activation]]:
    """The activations of each direction, with their alphas and betas taken in order."""
    names = node.strings("activations") or tuple(defaults) * directions
    if len(names) != len(defaults) * directions:
        node.broken(f"needs {len(defaults) * directions} activations, got {list(names)}")
    queues = {
        "alpha": list(node.floats("activation_alpha") or ()),
        "beta": list(node.floats("activation_beta") or ()),
    }
    found: list[_Activation] = []
    for name in names:

        def given(which: str, name: str = name) -> float:
            if queues[which]:
                return queues[which].pop(0)
            default = _DEFAULTS.get(name.lower(), {}).get(which)
            if default is None:
                ctx.unsupported(f"activation {name} without {which}")
            return default

        found.append(_activation(node, name, given))
    per = len(defaults)
    return [found[i * per : (i + 1) * per] for i in range(directions)]


# ------------------------------------------------------------------ what the three share


@dataclass(frozen=True, slots=True)
class _Layer:
    """The operands that RNN, GRU and LSTM have in common, in time-major layout.

    Attributes:
        x: the sequence [T, B, I], in the type that it is computed in.
        hidden: the size of the state.
        reverses: for each direction whether it runs from the end.
        mask: [T, B, 1], true within each sequence; None where all are of full length.
        batch_first: whether the model has the batch axis before the time axis.
    """

    x: Value
    hidden: int
    reverses: tuple[bool, ...]
    mask: Value | None
    batch_first: bool


def _layer(ctx: Context, node: NodeView) -> _Layer:
    x, recurrence = node.input(0), node.input(2)
    if len(x.shape) != 3 or len(recurrence.shape) != 3:
        node.broken(f"needs X and R of rank 3, got {len(x.shape)} and {len(recurrence.shape)}")
    hidden = recurrence.shape[2]
    if not isinstance(hidden, int):
        ctx.unsupported("a symbolic hidden size")
    if node.int("hidden_size", hidden) != hidden:
        node.broken(f"hidden_size is {node.int('hidden_size')}, but R is for {hidden}")
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    reverses = directions.get(node.string("direction", "forward"))
    if reverses is None:
        node.broken(f"direction {node.string('direction')!r} is none of {', '.join(directions)}")
    if recurrence.shape[0] != len(reverses):
        node.broken(f"R is for {recurrence.shape[0]} directions, not for {len(reverses)}")
    batch_first = bool(node.int("layout", 0))
    x = ctx.transpose(x, (1, 0, 2)) if batch_first else x
    return _Layer(widened(ctx, x), hidden, reverses, _mask(ctx, node, x), batch_first)


def _mask(ctx: Context, node: NodeView, x: Value) -> Value | None:
    lengths = node.optional(4)
    if lengths is None:
        return None
    steps = x.shape[0]
    known = ctx.constant(lengths)
    if known is not None and isinstance(steps, int) and bool((known >= steps).all()):
        return None
    times = ctx.op("iota", shape=(steps,), axis=0, dtype=dt.i64)
    inside = ctx.op(
        "lt", ctx.reshape(times, (steps, 1)), ctx.unsqueeze(ctx.cast(lengths, dt.i64), (0,))
    )
    return ctx.unsqueeze(inside, (2,))


def _part(ctx: Context, value: Value, index: int) -> Value:
    """One entry along axis 0, without that axis."""
    known = ctx.constant(value)
    if known is not None:
        return ctx.literal(known[index])
    return ctx.squeeze(ctx.slice_axis(value, 0, index, 1), (0,))


def _turned(ctx: Context, matrix: Value) -> Value:
    """A matrix transposed; a constant is transposed in memory, once."""
    known = ctx.constant(matrix)
    if known is not None:
        return ctx.literal(np.ascontiguousarray(known.T))
    return ctx.transpose(matrix, (1, 0))


def _span(ctx: Context, value: Value, start: int, count: int) -> Value:
    """``count`` entries of the last axis."""
    known = ctx.constant(value)
    if known is not None:
        return ctx.literal(np.ascontiguousarray(known[..., start : start + count]))
    return ctx.slice_axis(value, len(value.shape) - 1, start, count)


def _weights(ctx: Context, layer: _Layer, value: Value, direction: int) -> Value:
    return ctx.cast(_turned(ctx, _part(ctx, value, direction)), layer.x.dtype)


def _initial(ctx: Context, layer: _Layer, given: Value | None, direction: int) -> Value:
    """The state [B, H] that a direction starts from."""
    if given is None:
        return ctx.full((layer.x.shape[1], layer.hidden), 0, layer.x.dtype)
    if layer.batch_first:
        given = ctx.transpose(given, (1, 0, 2))
    return ctx.cast(_part(ctx, given, direction), layer.x.dtype)


def _clipped(node: NodeView) -> _Activation:
    """Bounds the input of activations to [-clip, clip], where that is asked for."""
    if not node.has("clip"):
        return lambda c, x: x
    limit = node.float("clip")
    return lambda c, x: _clamped(c, x, -limit, limit)


def _scanned(
    ctx: Context,
    layer: _Layer,
    reverse: bool,
    gates: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    step: _Step,
    keep: bool,
) -> tuple[tuple[Value, ...], Value | None]:
    """Runs one direction.

    Args:
        gates: the input's part of the gates, [T, B, G].
        states: what the first step starts from, [B, H] each.
        weights: what every step reads.
        step: one step.
        keep: whether the outputs of all steps are wanted.

    Returns:
        The states after the last step, and the outputs [T, B, H] of all steps.
    """
    rows = [gates] + ([] if layer.mask is None else [layer.mask])
    if layer.x.shape[0] == 1:
        parts = [ctx.squeeze(r, (0,)) for r in rows]
        *after, y = _masked(ctx, step, parts, states, weights)
        return tuple(after), ctx.unsqueeze(y, (0,)) if keep else None
    body = ctx.fresh("step")

    def declare(name: str, type_: TensorType) -> Value:
        return body.builder.input(name, type_)

    inner_states = [declare(f"state{i}", s.type) for i, s in enumerate(states)]
    inner_rows = [declare(f"row{i}", TensorType(r.dtype, r.shape[1:])) for i, r in enumerate(rows)]
    captured: list[Value] = []
    inner_weights: list[Value] = []
    for i, weight in enumerate(weights):
        known = ctx.constant(weight)
        if known is not None:
            inner_weights.append(body.literal(known))
            continue
        captured.append(weight)
        inner_weights.append(declare(f"weight{i}", weight.type))
    *after, y = _masked(body, step, inner_rows, inner_states, inner_weights)
    for value in (*after, y) if keep else after:
        body.builder.output(value)
    results = ctx.ops(
        "scan", *states, *rows, *captured,
        body=body.builder.finish(), carried=len(states), scanned=len(rows), reverse=reverse,
    )  # fmt: skip
    return results[: len(states)], results[len(states)] if keep else None


def _masked(
    ctx: Context,
    step: _Step,
    rows: Sequence[Value],
    states: Sequence[Value],
    weights: Sequence[Value],
) -> tuple[Value, ...]:
    """One step: the new states, and the output."""
    new = step(ctx, rows[0], states, weights)
    if len(rows) == 1:
        return (*new, new[0])
    kept = [ctx.op("where", rows[1], a, b) for a, b in zip(new, states, strict=True)]
    return (*kept, ctx.op("where", rows[1], new[0], ctx.literal(0, new[0].dtype)))


def _results(
    ctx: Context,
    node: NodeView,
    layer: _Layer,
    runs: Sequence[tuple[tuple[Value, ...], Value | None]],
) -> tuple[Value | None, ...]:
    """Stacks the directions as the standard wants: Y and the last states."""
    dtype = node.input(0).dtype
    y: Value | None = None
    if node.wants(0):
        parts = [ctx.unsqueeze(seen, (1,)) for _, seen in runs if seen is not None]
        y = parts[0] if len(parts) == 1 else ctx.op("concat", *parts, axis=1)
        y = ctx.cast(ctx.transpose(y, (2, 0, 1, 3)) if layer.batch_first else y, dtype)
    results: list[Value | None] = [y]
    for i in range(len(runs[0][0])):
        ends = [ctx.unsqueeze(states[i], (0,)) for states, _ in runs]
        last = ends[0] if len(ends) == 1 else ctx.op("concat", *ends, axis=0)
        last = ctx.transpose(last, (1, 0, 2)) if layer.batch_first else last
        results.append(ctx.cast(last, dtype))
    return tuple(results)


def _biased(ctx: Context, layer: _Layer, weight: Value, bias: Value | None) -> Value:
    """The input's part of the gates, for all steps at once."""
    gates = ctx.op("matmul", layer.x, weight)
    return gates if bias is None else ctx.op("add", gates, bias)


# ------------------------------------------------------------------ RNN


def rnn(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """``h = f(x W + h R + b)`` step by step."""
    layer = _layer(ctx, node)
    functions = _activations(ctx, node, ["Tanh"], len(layer.reverses))
    clip = _clipped(node)
    bias = node.optional(3)
    runs = []
    for d, reverse in enumerate(layer.reverses):
        both = None if bias is None else ctx.cast(_part(ctx, bias, d), layer.x.dtype)
        total = None if both is None else _sum_of_halves(ctx, both, layer.hidden)
        gates = _biased(ctx, layer, _weights(ctx, layer, node.input(1), d), total)

        def step(
            c: Context,
            x: Value,
            states: Sequence[Value],
            weights: Sequence[Value],
            f: _Activation = functions[d][0],
        ) -> tuple[Value, ...]:
            total = c.op("add", x, c.op("matmul", states[0], weights[0]))
            return (f(c, clip(c, total)),)

        start = [_initial(ctx, layer, node.optional(5), d)]
        weights = [_weights(ctx, layer, node.input(2), d)]
        runs.append(_scanned(ctx, layer, reverse, gates, start, weights, step, keep=node.wants(0)))
    return _results(ctx, node, layer, runs)


def _sum_of_halves(ctx: Context, bias: Value, count: int) -> Value:
    """The bias of the input's product plus that of the state's."""
    return ctx.op("add", _span(ctx, bias, 0, count), _span(ctx, bias, count, count))


# ------------------------------------------------------------------ GRU


def gru(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """A gated recurrent unit: ``h = (1 - z) * candidate + z * h``; gates in the order z, r, h."""
    layer = _layer(ctx, node)
    functions = _activations(ctx, node, ["Sigmoid", "Tanh"], len(layer.reverses))
    clip = _clipped(node)
    after = bool(node.int("linear_before_reset", 0))
    bias, size = node.optional(3), layer.hidden
    runs = []
    for d, reverse in enumerate(layer.reverses):
        dtype = layer.x.dtype
        both = (
            ctx.full((6 * size,), 0, dtype)
            if bias is None
            else ctx.cast(_part(ctx, bias, d), dtype)
        )
        own, recurrent = _span(ctx, both, 0, 3 * size), _span(ctx, both, 3 * size, 3 * size)
        recurrence = _weights(ctx, layer, node.input(2), d)
        weights: list[Value]
        if after:
            # The candidate's recurrent bias is inside the reset gate, hence not outside the scan.
            outside = ctx.op(
                "add",
                own,
                ctx.op(
                    "concat",
                    _span(ctx, recurrent, 0, 2 * size),
                    ctx.full((size,), 0, dtype),
                    axis=0,
                ),
            )
            weights = [recurrence, _span(ctx, recurrent, 2 * size, size)]
        else:
            outside = ctx.op("add", own, recurrent)
            weights = [
                _span(ctx, recurrence, 0, 2 * size),
                _span(ctx, recurrence, 2 * size, size),
            ]
        gates = _biased(ctx, layer, _weights(ctx, layer, node.input(1), d), outside)
        step = _gru_step(size, functions[d], clip, after)
        start = [_initial(ctx, layer, node.optional(5), d)]
        runs.append(_scanned(ctx, layer, reverse, gates, start, weights, step, keep=node.wants(0)))
    return _results(ctx, node, layer, runs)


def _gru_step(size: int, functions: Sequence[_Activation], clip: _Activation, after: bool) -> _Step:
    f, g = functions

    def step(
        c: Context, x: Value, states: Sequence[Value], weights: Sequence[Value]
    ) -> tuple[Value, ...]:
        (h,) = states
        product = c.op("matmul", h, weights[0])

        def gate(index: int) -> Value:
            seen, kept = (_span(c, v, index * size, size) for v in (x, product))
            return f(c, clip(c, c.op("add", seen, kept)))

        z, r = gate(0), gate(1)
        if after:
            kept = c.op("mul", r, c.op("add", _span(c, product, 2 * size, size), weights[1]))
        else:
            kept = c.op("matmul", c.op("mul", r, h), weights[1])
        candidate = g(c, clip(c, c.op("add", _span(c, x, 2 * size, size), kept)))
        fresh = c.op("mul", c.op("sub", c.literal(1, z.dtype), z), candidate)
        return (c.op("add", fresh, c.op("mul", z, h)),)

    return step


# ------------------------------------------------------------------ LSTM


def lstm(ctx: Context, node: NodeView) -> tuple[Value | None, ...]:
    """Long short-term memory; gates in the order input, output, forget, cell."""
    layer = _layer(ctx, node)
    functions = _activations(ctx, node, ["Sigmoid", "Tanh", "Tanh"], len(layer.reverses))
    clip = _clipped(node)
    coupled = bool(node.int("input_forget", 0))
    bias, peephole = node.optional(3), node.optional(7)
    runs = []
    for d, reverse in enumerate(layer.reverses):
        both = None if bias is None else ctx.cast(_part(ctx, bias, d), layer.x.dtype)
        total = None if both is None else _sum_of_halves(ctx, both, 4 * layer.hidden)
        gates = _biased(ctx, layer, _weights(ctx, layer, node.input(1), d), total)
        weights = [_weights(ctx, layer, node.input(2), d)]
        if peephole is not None:
            weights.append(ctx.cast(_part(ctx, peephole, d), layer.x.dtype))
        step = _lstm_step(layer.hidden, functions[d], clip, coupled)
        start = [_initial(ctx, layer, node.optional(i), d) for i in (5, 6)]
        runs.append(_scanned(ctx, layer, reverse, gates, start, weights, step, keep=node.wants(0)))
    return _results(ctx, node, layer, runs)


def _lstm_step(
    size: int, functions: Sequence[_Activation], clip: _Activation, coupled: bool
) -> _Step:
    f, g, h_of = functions

    def step(
        c: Context, x: Value, states: Sequence[Value], weights: Sequence[Value]
    ) -> tuple[Value, ...]:
        h, cell = states
        total = c.op("add", x, c.op("matmul", h, weights[0]))

        def gate(index: int, function: _Activation, hole: int | None, seen: Value) -> Value:
            part = _span(c, total, index * size, size)
            if hole is not None and len(weights) > 1:
                # A peephole: the gate sees the cell as well.
                looked = c.op("mul", _span(c, weights[1], hole * size, size), seen)
                part = c.op("add", part, looked)
            return function(c, clip(c, part))

        i = gate(0, f, 0, cell)
        forget = c.op("sub", c.literal(1, i.dtype), i) if coupled else gate(2, f, 2, cell)
        candidate = gate(3, g, None, cell)
        new = c.op("add", c.op("mul", forget, cell), c.op("mul", i, candidate))
        o = gate(1, f, 1, new)
        return c.op("mul", o, h_of(c, new)), new

    return step


CONVERTERS: dict[str, Converter] = {
    "GRU": gru,
    "LSTM": lstm,
    "RNN": rnn,
}
