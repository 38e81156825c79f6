"""Converters of ATen's overloads that move, repeat and make elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, lt, maximum
from tilewright.tensor.simplify import dim, product, prove, same_dim

from .context import Context, Converter
from .types import Operand, Scalar

# Above so many elements a table of places is too large to build while importing.
_MOST_ENTRIES = 1 << 22


# ------------------------------------------------------------------ shapes


def reshaped(ctx: Context, x: Value, *sizes: object, **options: object) -> Value:
    """The elements of x in row-major order, in the shape of the result."""
    del sizes, options
    return ctx.reshape(x, ctx.shape)


def permute(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    """Axis i of the result is axis dims[i] of x."""
    rank = len(x.shape)
    return ctx.transpose(x, (d % rank for d in dims))


def transposed(ctx: Context, x: Value, a: int = 0, b: int = 1) -> Value:
    """x with two axes exchanged."""
    rank = len(x.shape)
    if rank < 2:
        return x
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return ctx.transpose(x, order)


def expand(ctx: Context, x: Value, sizes: Sequence[Dim], *, implicit: bool = False) -> Value:
    """x repeated along axes of extent 1 and new leading axes."""
    del sizes, implicit
    return ctx.broadcast_to(x, ctx.shape)


def repeat(ctx: Context, x: Value, repeats: Sequence[Dim]) -> Value:
    """x side by side with itself, so many times along each axis."""
    shape = (*(1,) * (len(repeats) - len(x.shape)), *x.shape)
    paired = [d for extent in shape for d in (1, extent)]
    wide = [d for times, extent in zip(repeats, shape, strict=True) for d in (times, extent)]
    return ctx.reshape(ctx.broadcast_to(ctx.reshape(x, paired), wide), ctx.shape)


def as_strided(
    ctx: Context,
    x: Value,
    size: Sequence[Dim],
    stride: Sequence[Dim],
    storage_offset: Dim | None = None,
) -> Value:
    """Elements of the row-major x at a start and steps counted in elements."""
    places = _strided_places(ctx, size, stride, storage_offset)
    flat = ctx.reshape(x, (product(x.shape),))
    return ctx.op("gather", flat, places, axis=0)


def as_strided_scatter(
    ctx: Context,
    x: Value,
    source: Value,
    size: Sequence[Dim],
    stride: Sequence[Dim],
    storage_offset: Dim | None = None,
) -> Value:
    """x with the source in place of what ``as_strided`` reads."""
    places = _strided_places(ctx, size, stride, storage_offset)
    count = product(places.shape)
    flat = ctx.reshape(x, (product(x.shape),))
    written = ctx.op(
        "scatter_elements", flat, ctx.reshape(places, (count,)), ctx.reshape(source, (count,)),
        axis=0, reduction="none",
    )  # fmt: skip
    return ctx.reshape(written, x.shape)


def _strided_places(
    ctx: Context, size: Sequence[Dim], stride: Sequence[Dim], storage_offset: Dim | None
) -> Value:
    # Steps count in storage, which is known here only of a dense tensor that begins it.
    dense = ctx.metas[0]
    if not dense.is_contiguous() or dense.storage_offset() != 0:
        ctx.unsupported("as_strided of a tensor that is a view")
    shape = ctx.ints(size, "sizes of as_strided")
    steps = ctx.ints(stride, "strides of as_strided")
    (start,) = ctx.ints((storage_offset or 0,), "offsets of as_strided")
    count = int(np.prod(shape, dtype=np.int64))
    if count > _MOST_ENTRIES:
        ctx.unsupported(f"as_strided to {count} elements")
    places = np.full(shape, start, np.int64)
    for axis, step in enumerate(steps):
        places += np.indices(shape, sparse=True)[axis] * step
    return ctx.literal(places)


# ------------------------------------------------------------------ parts


def slice_(
    ctx: Context,
    x: Value,
    axis: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> Value:
    """Every step-th element of an axis between two places."""
    del end
    axis %= len(x.shape)
    size = ctx.shape[axis]
    return ctx.slice_axis(x, axis, _start(ctx, start, x.shape[axis], size), size, step)


def _start(ctx: Context, start: Dim | None, extent: Dim, size: Dim) -> Dim:
    """Where a slice starts: counted from the front, and at 0 where it takes nothing or all."""
    if start is None or same_dim(size, 0):
        return 0
    place = ctx.place(start, extent)
    below = place < 0 if isinstance(place, int) else prove(lt(place, 0)) is True
    return 0 if below else place


def select(ctx: Context, x: Value, axis: int, index: Dim) -> Value:
    """One element of an axis, which goes."""
    axis %= len(x.shape)
    return ctx.reshape(ctx.slice_axis(x, axis, ctx.place(index, x.shape[axis]), 1), ctx.shape)


def split(ctx: Context, x: Value, sizes: Dim | list[Dim], axis: int = 0) -> tuple[Value, ...]:
    """Consecutive parts of an axis, of given sizes or of one size."""
    axis %= len(x.shape)
    extent = x.shape[axis]
    if not isinstance(sizes, list):
        # All parts but the last have this size.
        size: Dim = sizes
        before = dim(as_expr(size) * (len(ctx.results) - 1))
        sizes = [size] * (len(ctx.results) - 1) + [dim(as_expr(extent) - before)]
    parts: list[Value] = []
    start: Dim = 0
    for size in sizes:
        parts.append(ctx.slice_axis(x, axis, start, size))
        start = dim(as_expr(start) + size)
    return tuple(parts)


def unbind(ctx: Context, x: Value, axis: int = 0) -> tuple[Value, ...]:
    """Every element of an axis, which goes."""
    axis %= len(x.shape)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    count = len(ctx.results)
    return tuple(ctx.reshape(ctx.slice_axis(x, axis, i, 1), rest) for i in range(count))


def diagonal(ctx: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The diagonal of two axes, as the last one: a slice of the flattened matrix."""
    rank = len(x.shape)
    first, second = dim1 % rank, dim2 % rank
    rest = [d for d in range(rank) if d not in (first, second)]
    matrix = ctx.transpose(x, (*rest, first, second))
    (columns,) = ctx.ints(matrix.shape[-1:], "columns of a diagonal")
    flat = ctx.reshape(matrix, (*matrix.shape[:-2], product(matrix.shape[-2:])))
    size = ctx.shape[-1]
    start = 0 if same_dim(size, 0) else offset if offset >= 0 else -offset * columns
    return ctx.slice_axis(flat, len(rest), start, size, columns + 1)


def diagonal_scatter(
    ctx: Context, x: Value, source: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    """x with the source in place of the diagonal of two axes."""
    rank = len(x.shape)
    first, second = dim1 % rank, dim2 % rank
    order = [*(d for d in range(rank) if d not in (first, second)), first, second]
    matrix = ctx.transpose(x, order)
    (columns,) = ctx.ints(matrix.shape[-1:], "columns of a diagonal")
    flat = ctx.reshape(matrix, (*matrix.shape[:-2], product(matrix.shape[-2:])))
    if not same_dim(source.shape[-1], 0):
        start = offset if offset >= 0 else -offset * columns
        flat = _strided_scatter(ctx, flat, source, rank - 2, start, columns + 1)
    return ctx.transpose(ctx.reshape(flat, matrix.shape), [order.index(d) for d in range(rank)])


def unfold(ctx: Context, x: Value, axis: int, size: Dim, step: int) -> Value:
    """Windows of an axis, ``step`` apart, their elements along a new last axis."""
    if not x.shape:
        return ctx.reshape(x, ctx.shape)
    axis %= len(x.shape)
    first = ctx.op("mul", ctx.iota(ctx.shape[axis]), step)
    places = ctx.op("add", ctx.along(first, 2, 0), ctx.along(ctx.iota(size), 2, 1))
    found = ctx.op("gather", x, places, axis=axis)
    rank = len(found.shape)
    return ctx.transpose(found, [*(d for d in range(rank) if d != axis + 1), axis + 1])


def narrow(ctx: Context, x: Value, axis: int, start: Dim, length: Dim) -> Value:
    """Consecutive elements of an axis."""
    axis %= len(x.shape)
    return ctx.slice_axis(x, axis, ctx.place(start, x.shape[axis]), length)


def _triangle(inside: str) -> Converter:
    """The rows and columns of a matrix's elements below (le) or above (ge) a diagonal."""

    def convert(
        ctx: Context, row: Dim, col: Dim, offset: int = 0, *, dtype: DType | None = None
    ) -> Value:
        del dtype
        rows, columns = ctx.ints((row, col), "sizes of a triangle")
        at = np.indices((rows, columns)).reshape(2, -1)
        apart = at[1] - at[0]
        chosen = at[:, apart <= offset if inside == "le" else apart >= offset]
        return ctx.literal(chosen.astype(ctx.dtype.numpy))

    return convert


def flip(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    """x with some axes backwards."""
    axes = {d % len(x.shape) for d in dims} if x.shape else set()
    if not axes:
        return x
    last = [dim(as_expr(d) - 1) if i in axes else 0 for i, d in enumerate(x.shape)]
    if any(same_dim(d, 0) for d in x.shape):
        return x
    steps = tuple(-1 if i in axes else 1 for i in range(len(x.shape)))
    return ctx.op("slice", x, starts=tuple(last), sizes=x.shape, steps=steps)


def roll(ctx: Context, x: Value, shifts: Sequence[Dim], dims: Sequence[int] = ()) -> Value:
    """x moved along axes; what leaves at one end enters at the other."""
    if not dims:
        flat = ctx.reshape(x, (product(x.shape),))
        return ctx.reshape(_rolled(ctx, flat, 0, shifts[0]), x.shape)
    for shift, axis in zip(shifts, dims, strict=True):
        x = _rolled(ctx, x, axis % len(x.shape), shift)
    return x


def _rolled(ctx: Context, x: Value, axis: int, shift: Dim) -> Value:
    extent = x.shape[axis]
    if same_dim(extent, 0):
        return x
    moved = dim(as_expr(shift) % extent)
    if same_dim(moved, 0):
        return x
    rest = dim(as_expr(extent) - moved)
    tail, head = ctx.slice_axis(x, axis, rest, moved), ctx.slice_axis(x, axis, 0, rest)
    return ctx.concat((tail, head), axis)


# ------------------------------------------------------------------ joining and padding


def cat(ctx: Context, tensors: Sequence[Value], axis: int = 0) -> Value:
    """Tensors one after another; those of shape [0] are left out."""
    rank = len(ctx.shape)
    parts = [t for t in tensors if len(t.shape) == rank]
    parts = [t for t in parts if not same_dim(t.shape[axis], 0)] or parts[:1]
    return ctx.concat([ctx.cast(t, ctx.dtype) for t in parts], axis % rank)


def stack(ctx: Context, tensors: Sequence[Value], axis: int = 0) -> Value:
    """Tensors one after another along a new axis."""
    axis %= len(ctx.shape)
    return ctx.concat([ctx.unsqueeze(ctx.cast(t, ctx.dtype), (axis,)) for t in tensors], axis)


def constant_pad(ctx: Context, x: Value, pad: Sequence[Dim], value: Scalar = 0) -> Value:
    """x with a number around it; negative widths cut off."""
    return _padded(ctx, x, pad, value, "constant")


def _pad_by(mode: str) -> Converter:
    def convert(ctx: Context, x: Value, pad: Sequence[Dim]) -> Value:
        return _padded(ctx, x, pad, 0, mode)

    return convert


def _padded(ctx: Context, x: Value, pad: Sequence[Dim], value: Scalar, mode: str) -> Value:
    """Pads the last axes; widths come in pairs, the last axis first."""
    rank = len(x.shape)
    lo: list[Dim] = [0] * rank
    hi: list[Dim] = [0] * rank
    for i in range(len(pad) // 2):
        axis = rank - 1 - i
        for side, width in ((lo, pad[2 * i]), (hi, pad[2 * i + 1])):
            if isinstance(width, int) and width < 0:
                left = dim(as_expr(x.shape[axis]) + width)
                x = ctx.slice_axis(x, axis, -width if side is lo else 0, left)
            else:
                side[axis] = width
    return ctx.pad(x, lo, hi, value, mode)


# ------------------------------------------------------------------ replacing parts


def slice_scatter(
    ctx: Context,
    x: Value,
    source: Value,
    axis: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> Value:
    """x with the source in place of a slice."""
    del end
    axis %= len(x.shape)
    extent, count = x.shape[axis], source.shape[axis]
    if same_dim(count, 0):
        return x
    first = _start(ctx, start, extent, count)
    source = ctx.cast(source, x.dtype)
    if step != 1:
        return _strided_scatter(ctx, x, source, axis, first, step)
    after = dim(as_expr(first) + count)
    parts = [
        ctx.slice_axis(x, axis, 0, first),
        ctx.broadcast_to(source, (count if i == axis else d for i, d in enumerate(x.shape))),
        ctx.slice_axis(x, axis, after, dim(as_expr(extent) - after)),
    ]
    return ctx.concat([p for p in parts if not same_dim(p.shape[axis], 0)], axis)


def _strided_scatter(
    ctx: Context, x: Value, source: Value, axis: int, first: Dim, step: int
) -> Value:
    rank, extent = len(x.shape), x.shape[axis]
    span = dim((as_expr(source.shape[axis]) - 1) * step + 1)
    rest = dim(as_expr(extent) - first - span)
    spread = ctx.pad(
        source,
        [first if i == axis else 0 for i in range(rank)],
        [rest if i == axis else 0 for i in range(rank)],
        interior=[step - 1 if i == axis else 0 for i in range(rank)],
    )
    place = ctx.op("sub", ctx.iota(extent), ctx.scalar(first, dt.i64))
    past = ctx.op("lt", place, ctx.scalar(span, dt.i64))
    inside = ctx.op("and", ctx.op("ge", place, 0), past)
    hit = ctx.op("and", inside, ctx.op("eq", ctx.op("mod", place, step), 0))
    return ctx.op("where", ctx.along(hit, rank, axis), spread, x)


def select_scatter(ctx: Context, x: Value, source: Value, axis: int, index: Dim) -> Value:
    """x with the source in place of one element of an axis."""
    axis %= len(x.shape)
    place = ctx.place(index, x.shape[axis])
    return slice_scatter(ctx, x, ctx.unsqueeze(source, (axis,)), axis, place)


# ------------------------------------------------------------------ making


def full(
    ctx: Context, size: object, value: Operand, *, dtype: DType | None = None, **options: object
) -> Value:
    """One number everywhere."""
    del size, dtype, options
    return ctx.full(ctx.shape, value, ctx.dtype)


def zeros(ctx: Context, *sizes: object, **options: object) -> Value:
    """Zeros; also in place of memory that nothing has written."""
    del sizes, options
    return ctx.full(ctx.shape, 0, ctx.dtype)


def ones(ctx: Context, *sizes: object, **options: object) -> Value:
    """Ones."""
    del sizes, options
    return ctx.full(ctx.shape, 1, ctx.dtype)


def scalar_tensor(ctx: Context, value: Operand, *, dtype: DType | None = None) -> Value:
    """One number as a tensor without dims."""
    del dtype
    return ctx.operand(value, ctx.dtype)


def arange(
    ctx: Context, start: Scalar, end: Scalar, step: Scalar = 1, *, dtype: DType | None = None
) -> Value:
    """``start + step * i``, as many as torch has found."""
    del end, dtype
    size = ctx.shape[0]
    if not ctx.dtype.is_float:
        # torch takes the whole part of each number before it counts.
        start, step = (int(v) if isinstance(v, float) else v for v in (start, step))
    whole = not any(isinstance(v, float) for v in (start, step))
    # torch counts in f64 and rounds once.
    wide = dt.i64 if whole else dt.f64
    ramp = ctx.iota(size, wide)
    if not (isinstance(step, int | float) and step == 1):
        ramp = ctx.op("mul", ramp, step)
    if not (isinstance(start, int | float) and start == 0):
        ramp = ctx.op("add", ramp, start)
    return ctx.cast(ramp, ctx.dtype)


def linspace(
    ctx: Context, start: Operand, end: Operand, steps: Dim, *, dtype: DType | None = None
) -> Value:
    """So many numbers from start to end, counted from the nearer of the two.

    Both are converted to the type of the result before anything is computed, in f64.
    """
    del dtype
    first, last = (
        ctx.cast(ctx.reshape(ctx.operand(x, ctx.dtype), ()), dt.f64) for x in (start, end)
    )
    after, half = (dim(maximum(n, 1)) for n in (as_expr(steps) - 1, as_expr(steps) // 2))
    step = ctx.op("div", ctx.op("sub", last, first), after)
    ramp = ctx.iota(steps, dt.f64)
    left = ctx.op("sub", ctx.scalar(after, dt.f64), ramp)
    value = ctx.op(
        "where", ctx.op("lt", ramp, half), ctx.op("add", first, ctx.op("mul", ramp, step)),
        ctx.op("sub", last, ctx.op("mul", left, step)),
    )  # fmt: skip
    return ctx.cast(value, ctx.dtype)


_RESHAPES = (
    "_unsafe_view.default", "reshape.default", "squeeze.default", "squeeze.dim",
    "squeeze.dims", "unsqueeze.default", "view.default", "view_copy.default", "flatten.using_ints",
)  # fmt: skip

CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(_RESHAPES, reshaped),
    **{f"reflection_pad{n}d.default": _pad_by("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d.default": _pad_by("edge") for n in (1, 2, 3)},
    "arange.start_step": arange,
    "as_strided.default": as_strided,
    "as_strided_copy.default": as_strided,
    "as_strided_scatter.default": as_strided_scatter,
    "cat.default": cat,
    "constant_pad_nd.default": constant_pad,
    "diagonal.default": diagonal,
    "diagonal_scatter.default": diagonal_scatter,
    "empty.memory_format": zeros,
    "empty_permuted.default": zeros,
    "empty_strided.default": zeros,
    "expand.default": expand,
    "fill.Scalar": lambda ctx, x, value: ctx.full(x.shape, value, x.dtype),
    "flip.default": flip,
    "full.default": full,
    "full_like.default": full,
    "linspace.Scalar_Tensor": linspace,
    "linspace.Tensor_Scalar": linspace,
    "linspace.Tensor_Tensor": linspace,
    "linspace.default": linspace,
    "narrow_copy.default": narrow,
    "ones.default": ones,
    "ones_like.default": ones,
    "permute.default": permute,
    "permute_copy.default": permute,
    "repeat.default": repeat,
    "roll.default": roll,
    "scalar_tensor.default": scalar_tensor,
    "select.int": select,
    "select_scatter.default": select_scatter,
    "slice.Tensor": slice_,
    "slice_scatter.default": slice_scatter,
    "split.Tensor": split,
    "split_with_sizes.default": split,
    "stack.default": stack,
    "t.default": transposed,
    "transpose.int": transposed,
    "tril_indices.default": _triangle("le"),
    "triu_indices.default": _triangle("ge"),
    "unbind.int": unbind,
    "unbind_copy.int": unbind,
    "unfold.default": unfold,
    "unfold_copy.default": unfold,
    "zeros.default": zeros,
    "zeros_like.default": zeros,
}
