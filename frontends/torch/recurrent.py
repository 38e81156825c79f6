"""Converters of ATen's recurrent layers, as scans over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright.graph.ir import TensorType, Value

from .context import Context, Converter

Cell = Callable[[Context, Value, Sequence[Value], Sequence[Value]], tuple[Value, ...]]
"""(context, gates of the inputs [B, G*H], states, recurrent weights) -> new states."""


def lstm(
    ctx: Context,
    x: Value,
    hx: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, ...]:
    """Layers of long short-term memory: the last layer's steps, and all final states."""
    _expect_inference(ctx, dropout, train, num_layers)
    if not same_width(hx):
        ctx.unsupported("projections of the hidden state")
    return _layers(
        ctx, _lstm_cell, x, hx, params, has_biases, num_layers, bidirectional, batch_first
    )


def _simple(cell: Cell) -> Converter:
    def convert(
        ctx: Context,
        x: Value,
        hx: Value,
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Value, ...]:
        _expect_inference(ctx, dropout, train, num_layers)
        return _layers(
            ctx, cell, x, (hx,), params, has_biases, num_layers, bidirectional, batch_first
        )

    return convert


def same_width(states: Sequence[Value]) -> bool:
    """Whether all states have one number of features."""
    return all(s.shape[-1] == states[0].shape[-1] for s in states)


def _expect_inference(ctx: Context, dropout: float, train: bool, layers: int) -> None:
    if train and dropout and layers > 1:
        ctx.unsupported("random numbers (put the module in eval mode)")


# ------------------------------------------------------------------ layers


def _layers(
    ctx: Context,
    cell: Cell,
    x: Value,
    states: Sequence[Value],
    params: Sequence[Value],
    biased: bool,
    layers: int,
    both: bool,
    batch_first: bool,
) -> tuple[Value, ...]:
    unbatched = len(x.shape) == 2
    if unbatched:
        x = ctx.unsqueeze(x, (0 if batch_first else 1,))
        states = [ctx.unsqueeze(s, (1,)) for s in states]
    steps = ctx.transpose(x, (1, 0, 2)) if batch_first else x
    width = 4 if biased else 2
    directions = 2 if both else 1
    final: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            weights = params[number * width : (number + 1) * width]
            first = [ctx.slice_axis(s, 0, number, 1) for s in states]
            first = [ctx.reshape(s, s.shape[1:]) for s in first]
            seen, last = _direction(ctx, cell, steps, first, weights, direction == 1)
            outputs.append(seen)
            for collected, state in zip(final, last, strict=True):
                collected.append(ctx.unsqueeze(state, (0,)))
        steps = ctx.concat(outputs, 2)
    y = ctx.transpose(steps, (1, 0, 2)) if batch_first else steps
    results = [y, *(ctx.concat(c, 0) for c in final)]
    return tuple(
        ctx.reshape(r, t.shape) if t else r for r, t in zip(results, ctx.results, strict=True)
    )


def _direction(
    ctx: Context,
    cell: Cell,
    steps: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    backwards: bool,
) -> tuple[Value, tuple[Value, ...]]:
    """One scan: the inputs' gates are one product for all steps, the recurrence the body."""
    gates = ctx.op("matmul", steps, ctx.swapped(weights[0]))
    recurrent = [ctx.swapped(weights[1])]
    if len(weights) == 4:
        # Only what a GRU resets must know the recurrent bias apart.
        apart = cell is _gru_cell
        bias = weights[2] if apart else ctx.op("add", weights[2], weights[3])
        gates = ctx.op("add", gates, bias)
        recurrent += [weights[3]] if apart else []
    body = ctx.fresh("cell")
    carried = [body.builder.input(f"state{i}", s.type) for i, s in enumerate(states)]
    row = body.builder.input("row", TensorType(gates.dtype, gates.shape[1:]))
    inner = [body.builder.input(f"weight{i}", w.type) for i, w in enumerate(recurrent)]
    after = cell(body, row, carried, inner)
    for value in (*after, after[0]):
        body.builder.output(value)
    *last, seen = ctx.ops(
        "scan", *states, gates, *recurrent,
        body=body.builder.finish(), carried=len(states), scanned=1, reverse=backwards,
    )  # fmt: skip
    return seen, tuple(last)


# ------------------------------------------------------------------ cells


def _recurrent(ctx: Context, h: Value, weights: Sequence[Value]) -> Value:
    product = ctx.op("matmul", h, weights[0])
    return ctx.op("add", product, weights[1]) if len(weights) > 1 else product


def _gates(ctx: Context, x: Value, size: int) -> list[Value]:
    (width,) = ctx.ints(x.shape[-1:], "sizes of a recurrent layer")
    part = width // size
    return [ctx.slice_axis(x, 1, i * part, part) for i in range(size)]


def _lstm_cell(
    ctx: Context, row: Value, states: Sequence[Value], weights: Sequence[Value]
) -> tuple[Value, ...]:
    h, c = states
    total = ctx.op("add", row, _recurrent(ctx, h, weights))
    i, f, g, o = _gates(ctx, total, 4)
    kept = ctx.op("mul", ctx.op("sigmoid", f), c)
    cell = ctx.op("add", kept, ctx.op("mul", ctx.op("sigmoid", i), ctx.op("tanh", g)))
    return ctx.op("mul", ctx.op("sigmoid", o), ctx.op("tanh", cell)), cell


def _gru_cell(
    ctx: Context, row: Value, states: Sequence[Value], weights: Sequence[Value]
) -> tuple[Value, ...]:
    (h,) = states
    xr, xz, xn = _gates(ctx, row, 3)
    hr, hz, hn = _gates(ctx, _recurrent(ctx, h, weights), 3)
    r, z = (ctx.op("sigmoid", ctx.op("add", a, b)) for a, b in ((xr, hr), (xz, hz)))
    n = ctx.op("tanh", ctx.op("add", xn, ctx.op("mul", r, hn)))
    return (ctx.op("add", ctx.op("mul", ctx.op("sub", h, n), z), n),)


def _plain_cell(function: str) -> Cell:
    def cell(
        ctx: Context, row: Value, states: Sequence[Value], weights: Sequence[Value]
    ) -> tuple[Value, ...]:
        total = ctx.op("add", row, _recurrent(ctx, states[0], weights))
        return (ctx.op("max", total, 0) if function == "relu" else ctx.op(function, total),)

    return cell


CONVERTERS: dict[str, Converter] = {
    "gru.input": _simple(_gru_cell),
    "lstm.input": lstm,
    "rnn_relu.input": _simple(_plain_cell("relu")),
    "rnn_tanh.input": _simple(_plain_cell("tanh")),
}
