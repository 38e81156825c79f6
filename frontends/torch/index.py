"""Converters of ATen's overloads that read and write at places given as data."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr
from tilewright.tensor.simplify import dim, product, same_dim

from .context import Context, Converter
from .types import Operand

Places = Sequence[Value | None]

# ------------------------------------------------------------------ reading


def embedding(ctx: Context, table: Value, indices: Value, *options: object) -> Value:
    """The rows of a table at indices."""
    del options
    ctx.index(indices, table.shape[0])
    return ctx.op("gather", table, indices, axis=0)


def index_select(ctx: Context, x: Value, axis: int, indices: Value) -> Value:
    """The elements of an axis at a vector of indices."""
    if not x.shape:
        return ctx.reshape(x, ctx.shape)
    axis %= len(x.shape)
    ctx.index(indices, x.shape[axis])
    places = ctx.reshape(indices, (product(indices.shape),))
    return ctx.op("gather", x, places, axis=axis)


def gather(
    ctx: Context, x: Value, axis: int, indices: Value, *, sparse_grad: bool = False
) -> Value:
    """``y[.., i, ..] = x[.., indices[.., i, ..], ..]``."""
    del sparse_grad
    source = x if x.shape else ctx.reshape(x, (1,))
    places = indices if indices.shape else ctx.reshape(indices, (1,))
    axis %= len(source.shape)
    ctx.index(indices, source.shape[axis])
    return ctx.reshape(ctx.op("gather_elements", source, places, axis=axis), ctx.shape)


def index(ctx: Context, x: Value, indices: Places) -> Value:
    """NumPy's indexing by integer tensors; axes with None are kept whole."""
    axes = _indexed(ctx, indices)
    _guard(ctx, x, indices)
    if len(axes) == 1:
        (axis,) = axes
        place = indices[axis]
        assert place is not None
        return ctx.op("gather", x, place, axis=axis)
    front, places, rank = _joined(ctx, x, indices, axes)
    found = ctx.op("gather_nd", front, places, batch_dims=0)
    return ctx.transpose(found, _order(axes, rank, len(found.shape), inverse=False))


def _indexed(ctx: Context, indices: Places) -> tuple[int, ...]:
    axes = tuple(i for i, place in enumerate(indices) if place is not None)
    if any(p is not None and p.dtype in (dt.bool_, dt.u8) for p in indices):
        ctx.unsupported("indexing by a mask: the shape depends on data")
    return axes


def _guard(ctx: Context, x: Value, indices: Places) -> None:
    """Guards NumPy's indices."""
    for size, place in zip(x.shape, indices, strict=False):
        if place is not None:
            ctx.index(place, size, signed=True)


def _joined(
    ctx: Context, x: Value, indices: Places, axes: Sequence[int]
) -> tuple[Value, Value, int]:
    """x with the indexed axes first, their indices as the rows of one tensor, and its rank."""
    given = [ctx.cast(p, dt.i64) for p in indices if p is not None]
    shape = _broadcast(given)
    columns = [ctx.unsqueeze(ctx.broadcast_to(p, shape), (len(shape),)) for p in given]
    rest = [d for d in range(len(x.shape)) if d not in axes]
    return ctx.transpose(x, (*axes, *rest)), ctx.concat(columns, len(shape)), len(shape)


def _broadcast(values: Sequence[Value]) -> tuple[Dim, ...]:
    rank = max(len(v.shape) for v in values)
    result: list[Dim] = [1] * rank
    for value in values:
        for place, extent in enumerate(value.shape, rank - len(value.shape)):
            if extent != 1:
                result[place] = extent
    return tuple(result)


def _order(axes: Sequence[int], rank: int, total: int, inverse: bool) -> list[int]:
    """The permutation between indexed dims first, and where NumPy puts them: at the first of
    the indexed axes if these are neighbours, else first."""
    start = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
    before = list(range(rank, rank + start))
    order = [*before, *range(rank), *range(rank + start, total)]
    if not inverse:
        return order
    return [order.index(i) for i in range(total)]


# ------------------------------------------------------------------ writing


def index_put(
    ctx: Context, x: Value, indices: Places, values: Value, accumulate: bool = False
) -> Value:
    """x with values written, or added, where ``index`` would read."""
    given = [p for p in indices if p is not None]
    if len(given) == 1 and given[0].dtype in (dt.bool_, dt.u8):
        return _masked_put(ctx, x, indices, values, accumulate)
    axes = _indexed(ctx, indices)
    _guard(ctx, x, indices)
    front, places, rank = _joined(ctx, x, indices, axes)
    shape = (*places.shape[:-1], *front.shape[len(axes) :])
    back = _order(axes, rank, len(shape), inverse=False)
    wide = ctx.broadcast_to(ctx.cast(values, x.dtype), (shape[i] for i in back))
    updates = ctx.transpose(wide, _order(axes, rank, len(shape), inverse=True))
    reduction = "add" if accumulate else "none"
    result = ctx.op("scatter_nd", front, places, updates, reduction=reduction)
    rest = [d for d in range(len(x.shape)) if d not in axes]
    order = [*axes, *rest]
    return ctx.transpose(result, [order.index(i) for i in range(len(order))])


def _masked_put(ctx: Context, x: Value, indices: Places, values: Value, accumulate: bool) -> Value:
    """One number where a mask holds; rows of several would depend on the mask's contents."""
    if values.shape and any(d != 1 for d in values.shape):
        ctx.unsupported("several values under a mask: their places depend on data")
    axis = next(i for i, place in enumerate(indices) if place is not None)
    mask = indices[axis]
    assert mask is not None
    after = len(x.shape) - axis - len(mask.shape)
    shaped = ctx.reshape(ctx.cast(mask, dt.bool_), (*(1,) * axis, *mask.shape, *(1,) * after))
    value = ctx.reshape(ctx.cast(values, x.dtype), ())
    return ctx.op("where", shaped, ctx.op("add", x, value) if accumulate else value, x)


def scatter(ctx: Context, x: Value, axis: int, indices: Value, source: Operand) -> Value:
    """x with elements of the source written along an axis."""
    _guard_axis(ctx, x, axis, indices)
    return _scattered(ctx, x, axis, indices, source, "none")


def scatter_add(ctx: Context, x: Value, axis: int, indices: Value, source: Value) -> Value:
    """x with elements of the source added along an axis."""
    _guard_axis(ctx, x, axis, indices)
    return _scattered(ctx, x, axis, indices, source, "add")


def _guard_axis(ctx: Context, x: Value, axis: int, indices: Value, signed: bool = False) -> None:
    """Guards indices of an axis; a scalar is a vector of one element."""
    ctx.index(indices, x.shape[axis] if x.shape else 1, signed)


def _scattered(
    ctx: Context, x: Value, axis: int, indices: Value, source: Operand, reduction: str
) -> Value:
    shape = x.shape
    if not shape:
        x = ctx.reshape(x, (1,))
    places = indices if indices.shape else ctx.reshape(indices, (1,))
    if isinstance(source, Value) and source.shape:
        zeros = (0,) * len(places.shape)
        whole = all(a is b or a == b for a, b in zip(source.shape, places.shape, strict=True))
        updates = source if whole else ctx.op(
            "slice", source, starts=zeros, sizes=places.shape, steps=(1,) * len(zeros)
        )  # fmt: skip
    else:
        updates = ctx.broadcast_to(ctx.operand(source, x.dtype), places.shape)
    axis %= len(x.shape)
    result = ctx.op("scatter_elements", x, places, updates, axis=axis, reduction=reduction)
    return ctx.reshape(result, shape)


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}


def scatter_reduce(
    ctx: Context,
    x: Value,
    axis: int,
    indices: Value,
    source: Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> Value:
    """x combined with elements of the source; without its own where any is written."""
    _guard_axis(ctx, x, axis, indices)
    return _reduced(ctx, x, axis, indices, source, reduce, include_self)


def _reduced(
    ctx: Context,
    x: Value,
    axis: int,
    indices: Value,
    source: Value,
    reduce: str,
    include_self: bool,
) -> Value:
    start = x
    if not include_self:
        neutral: dict[str, int | float] = {
            "sum": 0, "mean": 0, "prod": 1, "amax": x.dtype.lowest, "amin": x.dtype.highest,
        }  # fmt: skip
        start = _scattered(ctx, x, axis, indices, neutral[reduce], "none")
    total = _scattered(ctx, start, axis, indices, source, _REDUCTIONS[reduce])
    if reduce != "mean":
        return total
    counts = ctx.full(x.shape, 1, x.dtype)
    if not include_self:
        counts = _scattered(ctx, counts, axis, indices, 0, "none")
    counts = _scattered(ctx, counts, axis, indices, 1, "add")
    counts = ctx.op("max", counts, 1)
    return ctx.op("div" if x.dtype.is_float else "floordiv", total, counts)


def _rows(ctx: Context, x: Value, axis: int, indices: Value, source: Value) -> Value:
    """The indices of slices of an axis as the indices of the source's elements."""
    vector = ctx.reshape(indices, (product(indices.shape),))
    rank = max(len(x.shape), 1)
    return ctx.broadcast_to(ctx.along(vector, rank, axis % rank), source.shape or (1,))


def index_add(
    ctx: Context, x: Value, axis: int, indices: Value, source: Value, *, alpha: Operand = 1
) -> Value:
    """x with slices of the source added at indices of an axis."""
    _guard_axis(ctx, x, axis, indices)
    source = source if source.shape else ctx.reshape(source, (1,))
    if not (isinstance(alpha, int | float) and alpha == 1):
        source = ctx.op("and" if source.dtype is dt.bool_ else "mul", source, alpha)
    if x.dtype is dt.bool_:
        added = _scattered(
            ctx, ctx.cast(x, dt.u8), axis, _rows(ctx, x, axis, indices, source),
            ctx.cast(source, dt.u8), "max",
        )  # fmt: skip
        return ctx.cast(added, dt.bool_)
    return _scattered(ctx, x, axis, _rows(ctx, x, axis, indices, source), source, "add")


def index_copy(ctx: Context, x: Value, axis: int, indices: Value, source: Value) -> Value:
    """x with slices of the source written at indices of an axis."""
    _guard_axis(ctx, x, axis, indices)
    return _copied(ctx, x, axis, indices, source)


def _copied(ctx: Context, x: Value, axis: int, indices: Value, source: Value) -> Value:
    source = source if source.shape else ctx.reshape(source, (1,))
    return _scattered(ctx, x, axis, _rows(ctx, x, axis, indices, source), source, "none")


def index_fill(ctx: Context, x: Value, axis: int, indices: Value, value: Operand) -> Value:
    """x with one number in the slices at indices of an axis."""
    if not x.shape:
        return ctx.full((), value, x.dtype)
    axis %= len(x.shape)
    vector = ctx.reshape(indices, (product(indices.shape),))
    shape = (vector.shape[0] if i == axis else d for i, d in enumerate(x.shape))
    _guard_axis(ctx, x, axis, vector, signed=True)
    filled = ctx.full(shape, value, x.dtype)
    return _copied(ctx, x, axis, vector, filled)


def index_reduce(
    ctx: Context,
    x: Value,
    axis: int,
    indices: Value,
    source: Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> Value:
    """x combined with slices of the source at indices of an axis."""
    _guard_axis(ctx, x, axis, indices)
    source = source if source.shape else ctx.reshape(source, (1,))
    places = _rows(ctx, x, axis, indices, source)
    return _reduced(ctx, x, axis, places, source, reduce, include_self)


def scatter_by(
    ctx: Context, x: Value, axis: int, indices: Value, source: Operand, *, reduce: str
) -> Value:
    """x with elements of the source added or multiplied in along an axis."""
    _guard_axis(ctx, x, axis, indices)
    return _scattered(ctx, x, axis, indices, source, {"add": "add", "multiply": "mul"}[reduce])


def take(ctx: Context, x: Value, indices: Value) -> Value:
    """The elements of the flattened x at indices."""
    ctx.index(indices, product(x.shape), signed=True)
    return ctx.op("gather", ctx.reshape(x, (product(x.shape),)), indices, axis=0)


def put(ctx: Context, x: Value, indices: Value, source: Value, accumulate: bool = False) -> Value:
    """x with elements of the source written, or added, at indices into the flattened x."""
    ctx.index(indices, product(x.shape), signed=True)
    flat, places, values = (ctx.reshape(v, (product(v.shape),)) for v in (x, indices, source))
    result = _scattered(ctx, flat, 0, places, values, "add" if accumulate else "none")
    return ctx.reshape(result, x.shape)


def masked_scatter(ctx: Context, x: Value, mask: Value, source: Value) -> Value:
    """x with consecutive elements of the source where the mask holds."""
    holds = ctx.broadcast_to(ctx.cast(mask, dt.bool_), ctx.shape)
    flat = ctx.reshape(holds, (product(holds.shape),))
    before = ctx.op(
        "cumulative", ctx.cast(flat, dt.i64), op="sum", axis=0, exclusive=True, reverse=False
    )
    supply = ctx.reshape(source, (product(source.shape),))
    if same_dim(supply.shape[0], 0):
        return ctx.broadcast_to(x, ctx.shape)
    # Places behind the source's end are those of elements that the mask leaves alone.
    last = ctx.scalar(dim(as_expr(supply.shape[0]) - 1), dt.i64)
    chosen = ctx.op("gather", supply, ctx.op("min", before, last), axis=0)
    return ctx.op("where", holds, ctx.reshape(chosen, ctx.shape), ctx.broadcast_to(x, ctx.shape))


CONVERTERS: dict[str, Converter] = {
    "embedding.default": embedding,
    "gather.default": gather,
    "index.Tensor": index,
    "index_add.default": index_add,
    "index_copy.default": index_copy,
    "index_fill.int_Scalar": index_fill,
    "index_fill.int_Tensor": index_fill,
    "index_put.default": index_put,
    "index_reduce.default": index_reduce,
    "index_select.default": index_select,
    "masked_scatter.default": masked_scatter,
    "put.default": put,
    "scatter.reduce": scatter_by,
    "scatter.src": scatter,
    "scatter.value": scatter,
    "scatter.value_reduce": scatter_by,
    "scatter_add.default": scatter_add,
    "scatter_reduce.two": scatter_reduce,
    "take.default": take,
}
