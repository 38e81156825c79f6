"""Converters of ATen's overloads that go step by step, order or search an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType, Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim as canonical
from tilewright.tensor.simplify import product, same_dim

from .context import Context, Converter
from .types import Operand

# Above so many elements an axis is too long to compare all of its pairs.
_MOST_PAIRED = 4096

# ------------------------------------------------------------------ running totals


def _running(op: str) -> Converter:
    def convert(ctx: Context, x: Value, axis: int, **options: object) -> Value:
        del options
        wide = ctx.cast(x, ctx.dtype)
        if not x.shape:
            return wide
        axis %= len(x.shape)
        return ctx.op("cumulative", wide, op=op, axis=axis, exclusive=False, reverse=False)

    return convert


def stepwise(
    ctx: Context,
    rows: Sequence[Value],
    states: Sequence[Value],
    step: Callable[[Context, Sequence[Value], Sequence[Value]], Sequence[Value]],
    all_steps: bool = True,
    held: Sequence[Value] = (),
) -> tuple[Value, ...]:
    """The states after each step, or after the last, of a scan along axis 0 of the rows.

    Args:
        step: from the states, and the current rows and what is held, to the next states.
        held: what every step is given whole.
    """
    if not all_steps and same_dim(rows[0].shape[0], 0):
        return tuple(states)
    body = ctx.fresh("step")
    carried = [body.builder.input(f"state{i}", s.type) for i, s in enumerate(states)]
    given = [
        body.builder.input(f"row{i}", TensorType(r.dtype, r.shape[1:])) for i, r in enumerate(rows)
    ]
    given += [body.builder.input(f"held{i}", h.type) for i, h in enumerate(held)]
    after = step(body, carried, given)
    for value in (*after, *(after if all_steps else ())):
        body.builder.output(value)
    results = ctx.ops(
        "scan", *states, *rows, *held, body=body.builder.finish(), carried=len(states),
        scanned=len(rows), reverse=False,
    )  # fmt: skip
    return results[len(states) :] if all_steps else results


def _along_first(ctx: Context, x: Value, axis: int) -> Value:
    """x with one axis exchanged with the first; applied twice, x itself."""
    order = list(range(len(x.shape)))
    order[0], order[axis] = axis, 0
    return ctx.transpose(x, order)


def _running_extreme(reached: str) -> Converter:
    """The extreme of all elements up to each, and the place of the last that attains it."""

    def convert(ctx: Context, x: Value, axis: int) -> tuple[Value, Value]:
        if not x.shape:
            return x, ctx.scalar(0, dt.i64)
        axis %= len(x.shape)
        ordered = _along_first(ctx, ctx.cast(x, dt.u8) if x.dtype is dt.bool_ else x, axis)
        dtype, shape = ordered.dtype, ordered.shape[1:]
        first: int | float = dtype.lowest if reached == "ge" else dtype.highest
        if dtype.is_float:
            first = -float("inf") if reached == "ge" else float("inf")

        def step(
            body: Context, states: Sequence[Value], rows: Sequence[Value]
        ) -> tuple[Value, Value]:
            (best, place), (row, number) = states, rows
            taken = body.op(reached, row, best)
            if dtype.is_float:
                taken = body.op("or", taken, body.op("isnan", row))
            there = body.op("where", taken, body.broadcast_to(number, shape), place)
            return body.op("where", taken, row, best), there

        states = (ctx.full(shape, first, dtype), ctx.full(shape, 0, dt.i64))
        values, places = stepwise(ctx, (ordered, ctx.iota(ordered.shape[0])), states, step)
        return ctx.cast(_along_first(ctx, values, axis), x.dtype), _along_first(ctx, places, axis)

    return convert


def logcumsumexp(ctx: Context, x: Value, axis: int) -> Value:
    """The logarithm of the running sum of exponentials, never outside of their range.

    Held in f64, as running sums are: in f32 a million steps leave two digits.
    """
    if not x.shape:
        return x
    axis %= len(x.shape)
    rows = _along_first(ctx, ctx.cast(x, dt.f64), axis)

    def step(body: Context, states: Sequence[Value], rows: Sequence[Value]) -> tuple[Value]:
        (total,), (row,) = states, rows
        low, high = body.op("min", total, row), body.op("max", total, row)
        # Infinities of one sign have no difference.
        even = body.op("and", body.op("eq", low, high), body.op("isinf", low))
        apart = body.op("exp", body.op("sub", low, high))
        return (body.op("where", even, row, body.op("add", high, body.op("log1p", apart))),)

    start = ctx.full(rows.shape[1:], -float("inf"), rows.dtype)
    (totals,) = stepwise(ctx, (rows,), (start,), step)
    return ctx.cast(_along_first(ctx, totals, axis), x.dtype)


# ------------------------------------------------------------------ divisors

# Euclid's steps are the most for neighbours among Fibonacci's numbers: this many fit in a type.
_EUCLID = {8: 13, 16: 24, 32: 47, 64: 93}


def gcd(ctx: Context, a: Value, b: Value) -> Value:
    """The greatest common divisor, by as many of Euclid's steps as the type may need."""
    dtype = ctx.dtype
    x, y = (ctx.broadcast_to(ctx.op("abs", ctx.cast(v, dtype)), ctx.shape) for v in (a, b))

    def step(body: Context, states: Sequence[Value], rows: Sequence[Value]) -> tuple[Value, Value]:
        del rows
        larger, smaller = states
        done = body.op("eq", smaller, 0)
        divisor = body.op("where", done, body.scalar(1, dtype), smaller)
        rest = body.op("mod", larger, divisor)
        left = body.op("where", done, larger, smaller)
        return left, body.op("where", done, smaller, rest)

    rounds = ctx.iota(_EUCLID[dtype.bits])
    return stepwise(ctx, (rounds,), (x, y), step, all_steps=False)[0]


def lcm(ctx: Context, a: Value, b: Value) -> Value:
    """The least common multiple, 0 where one is 0."""
    divisor = ctx.op("max", gcd(ctx, a, b), 1)
    part = ctx.op("div", ctx.cast(a, ctx.dtype), divisor)
    return ctx.op("abs", ctx.op("mul", part, ctx.cast(b, ctx.dtype)))


# ------------------------------------------------------------------ orders


def topk(
    ctx: Context,
    x: Value,
    k: Dim,
    axis: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
) -> tuple[Value, Value]:
    """The k first elements of an axis in order, and their places."""
    del sorted
    if not x.shape:
        return x, ctx.scalar(0, dt.i64)
    ordered = ctx.cast(x, dt.u8) if x.dtype is dt.bool_ else x
    values, places = ctx.ops("topk", ordered, k=k, axis=axis % len(x.shape), largest=largest)
    return ctx.cast(values, x.dtype), places


def sort(ctx: Context, x: Value, axis: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """The elements of an axis in order, equal ones as they were, and their places."""
    extent = x.shape[axis] if x.shape else 1
    return topk(ctx, x, extent, axis, descending)


def stable_sort(
    ctx: Context, x: Value, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    """As ``sort``, which is stable anyway."""
    del stable
    return sort(ctx, x, dim, descending)


def argsort(
    ctx: Context, x: Value, *, stable: bool = True, dim: int = -1, descending: bool = False
) -> Value:
    """The places of the elements of an axis in order, equal ones as they were."""
    del stable
    return sort(ctx, x, dim, descending)[1]


def kthvalue(
    ctx: Context, x: Value, k: Dim, axis: int = -1, keepdim: bool = False
) -> tuple[Value, Value]:
    """The k-th smallest element of an axis, and its place."""
    del keepdim
    if not x.shape:
        return x, ctx.scalar(0, dt.i64)
    axis %= len(x.shape)
    values, places = topk(ctx, x, k, axis, False)
    last = canonical(as_expr(k) - 1)
    return tuple(  # type: ignore[return-value]
        ctx.reshape(ctx.slice_axis(v, axis, last, 1), ctx.shape) for v in (values, places)
    )


def _median(skip_nan: bool) -> Converter:
    """The lower middle element of an axis or of all, and its place.

    A nan is the result where there is one, unless nans are skipped.
    """

    def convert(
        ctx: Context, x: Value, axis: int | None = None, keepdim: bool = False
    ) -> Value | tuple[Value, Value]:
        del keepdim
        rows = ctx.reshape(x, (product(x.shape),)) if axis is None or not x.shape else x
        axis_ = 0 if axis is None or not x.shape else axis % len(x.shape)
        extent = rows.shape[axis_]
        if same_dim(extent, 0):
            ctx.unsupported("the median of no elements")
        values, places = sort(ctx, rows, axis_)
        single = tuple(1 if i == axis_ else d for i, d in enumerate(rows.shape))
        middle = ctx.full(single, ctx.scalar(canonical((as_expr(extent) - 1) // 2), dt.i64), dt.i64)
        if x.dtype.is_float:
            # Nans stand behind all numbers.
            number = ctx.cast(ctx.op("not", ctx.op("isnan", rows)), dt.i64)
            count = ctx.reduce(number, "sum", (axis_,), keepdims=True)
            if skip_nan:
                half = ctx.op("floordiv", ctx.op("sub", count, 1), 2)
                middle = ctx.op("max", half, 0)
            else:
                whole = ctx.op("eq", count, ctx.scalar(extent, dt.i64))
                middle = ctx.op("where", whole, middle, count)
        found = [
            ctx.reshape(ctx.op("gather_elements", v, middle, axis=axis_), ctx.shape)
            for v in (values, places)
        ]
        return found[0] if axis is None else (found[0], found[1])

    return convert


def mode(ctx: Context, x: Value, axis: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    """The most frequent element of an axis, the smallest of several, and its last place."""
    del keepdim
    if not x.shape:
        return x, ctx.scalar(0, dt.i64)
    axis %= len(x.shape)
    (extent,) = ctx.ints(x.shape[axis : axis + 1], "sizes of a mode")
    if not 0 < extent <= _MOST_PAIRED:
        ctx.unsupported(f"the mode of {extent} elements")
    values, places = sort(ctx, x, axis)
    across = ctx.reshape(values, (*values.shape[: axis + 1], 1, *values.shape[axis + 1 :]))
    down = ctx.reshape(values, (*values.shape[:axis], 1, *values.shape[axis:]))
    counts = ctx.reduce(ctx.cast(ctx.op("eq", across, down), dt.i64), "sum", (axis + 1,))
    first = ctx.op("argreduce", counts, op="max", axis=axis, keepdims=True, last=False)
    most = ctx.reduce(counts, "max", (axis,), keepdims=True)
    last = ctx.op("sub", ctx.op("add", first, most), 1)
    return tuple(  # type: ignore[return-value]
        ctx.reshape(ctx.op("gather_elements", v, last, axis=axis), ctx.shape)
        for v in (values, places)
    )


# ------------------------------------------------------------------ searches


def nonzero_static(ctx: Context, x: Value, *, size: Dim, fill_value: int = -1) -> Value:
    """The coordinates of the first elements that are not zero, then a filling."""
    count = product(x.shape)
    flat = ctx.reshape(ctx.cast(x, dt.bool_), (count,))
    ones = ctx.cast(flat, dt.i64)
    before = ctx.op("cumulative", ones, op="sum", axis=0, exclusive=True, reverse=False)
    # Elements that are zero, or too many, are written behind the end.
    end = ctx.scalar(size, dt.i64)
    target = ctx.op("where", flat, ctx.op("min", before, end), end)
    room = ctx.full((canonical(as_expr(size) + 1),), 0, dt.i64)
    written = ctx.op("scatter_elements", room, target, ctx.iota(count), axis=0, reduction="none")
    places = ctx.slice_axis(written, 0, 0, size)
    filled = ctx.op("lt", ctx.iota(size), ctx.reduce(ones, "sum", (0,), keepdims=True))
    columns: list[Value] = []
    for extent in reversed(x.shape):
        number = ctx.op("max", ctx.scalar(extent, dt.i64), 1)
        at = ctx.op("where", filled, ctx.op("mod", places, number), ctx.scalar(fill_value, dt.i64))
        columns.insert(0, ctx.unsqueeze(at, (1,)))
        places = ctx.op("floordiv", places, number)
    return ctx.concat(columns, 1) if columns else ctx.full(ctx.shape, 0, dt.i64)


def searchsorted(
    ctx: Context,
    rows: Value,
    wanted: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """Where each number would stand in its sorted row: before equal ones, or behind them.

    A binary search over all numbers at once, one step for each halving of a row.
    """
    del out_int32
    (extent,) = ctx.ints(rows.shape[-1:], "sizes of a search")
    if sorter is not None:
        rows = ctx.op("gather_elements", rows, sorter, axis=len(rows.shape) - 1)
    numbers = ctx.operand(wanted, rows.dtype)
    shape = numbers.shape
    start = ctx.full(shape, 0, dt.i64)
    end = ctx.full(shape, extent, dt.i64)
    passes = "gt" if right or side == "right" else "ge"
    for _ in range(extent.bit_length()):
        middle = ctx.op("floordiv", ctx.op("add", start, end), 2)
        place = ctx.op("min", middle, extent - 1)
        if len(rows.shape) == 1:
            seen = ctx.op("gather", rows, place, axis=0)
        else:
            seen = ctx.op("gather_elements", rows, place, axis=len(rows.shape) - 1)
        open_ = ctx.op("lt", start, end)
        before = ctx.op("not", ctx.op(passes, seen, numbers))
        start = ctx.op("where", ctx.op("and", open_, before), ctx.op("add", middle, 1), start)
        end = ctx.op("where", ctx.op("or", ctx.op("not", open_), before), end, middle)
    return ctx.cast(start, ctx.dtype)


def bucketize(
    ctx: Context,
    wanted: Operand,
    boundaries: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
) -> Value:
    """The bucket between sorted boundaries that each number falls into."""
    return searchsorted(ctx, boundaries, wanted, out_int32=out_int32, right=right)


CONVERTERS: dict[str, Converter] = {
    "argsort.stable": argsort,
    "bucketize.Scalar": bucketize,
    "bucketize.Tensor": bucketize,
    "cummax.default": _running_extreme("ge"),
    "cummin.default": _running_extreme("le"),
    "cumprod.default": _running("prod"),
    "cumsum.default": _running("sum"),
    "gcd.default": gcd,
    "kthvalue.default": kthvalue,
    "lcm.default": lcm,
    "logcumsumexp.default": logcumsumexp,
    "median.default": _median(skip_nan=False),
    "median.dim": _median(skip_nan=False),
    "mode.default": mode,
    "nanmedian.default": _median(skip_nan=True),
    "nanmedian.dim": _median(skip_nan=True),
    "nonzero_static.default": nonzero_static,
    "searchsorted.Scalar": searchsorted,
    "searchsorted.Tensor": searchsorted,
    "sort.default": sort,
    "sort.stable": stable_sort,
    "topk.default": topk,
}
