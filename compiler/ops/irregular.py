"""Operators whose places depend on data: scatter_elements, scatter_nd, topk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..graph.ir import TensorType
from ..tensor.ir import (
    Alloc,
    Axis,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    If,
    Let,
    Load,
    Select,
    Store,
    Var,
    as_expr,
    binary,
    conjunction,
    eq,
    le,
    lt,
    maximum,
    minimum,
)
from ..tensor.simplify import dim, prove, same_dim
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    axis_attr,
    bool_attr,
    dim_attr,
    dim_text,
    expect_inputs,
    output_axes,
    same_shape,
    shape_text,
    str_attr,
)
from .reduce import accumulator, widened
from .scan import converted, loops_over

_REDUCTIONS = ("none", "add", "mul", "max", "min")
_COMBINE: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}
# On bool the NumPy functions above are these.
_BOOL_COMBINE: dict[str, BinaryOp] = {"add": "or", "mul": "and", "max": "or", "min": "and"}
_NUMBER_COMBINE: dict[str, BinaryOp] = {"add": "add", "mul": "mul", "max": "max", "min": "min"}


# ------------------------------------------------------------------ scatter


def _scatter_types(types: Types, attrs: Attrs) -> tuple[TensorType, TensorType, TensorType]:
    expect_inputs(types, 3)
    x, indices, updates = types
    str_attr(attrs, "reduction", _REDUCTIONS)
    if indices.dtype not in (dt.i32, dt.i64):
        raise OpError(f"indices must be i32 or i64, got {indices.dtype}")
    if updates.dtype is not x.dtype:
        raise OpError(f"updates are {updates.dtype}, but the data is {x.dtype}")
    return x, indices, updates


def _wrapped(index: np.ndarray, extent: int) -> np.ndarray:
    wide = index.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + extent, wide), 0, extent - 1)


def _place(index: Expr, extent: Dim) -> Expr:
    """The place that an index means: a negative one counts from the end, then it is clamped."""
    wide = converted(index, dt.i64)
    wrapped = Select(lt(wide, 0), wide + extent, wide)
    return minimum(maximum(wrapped, 0), as_expr(extent) - 1)


def _serial_update(
    y: np.ndarray, places: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str
) -> None:
    """Combines updates into ``y[places]`` one after the other, in row-major order."""
    flat = np.ravel_multi_index(places, y.shape).ravel()
    target = y.reshape(-1)
    values = updates.ravel()
    if reduction == "none":
        # The last of equal indices wins, whatever order NumPy assigns in.
        unique, last = np.unique(flat[::-1], return_index=True)
        target[unique] = values[::-1][last]
        return
    with np.errstate(over="ignore", invalid="ignore"):
        _COMBINE[reduction].at(target, flat, values)


def _update(y: Buffer, place: Sequence[Expr], value: Expr, reduction: str) -> Store:
    indices = tuple(place)
    if reduction == "none":
        return Store(y, indices, value)
    if y.dtype is dt.bool_:
        return Store(y, indices, Binary(_BOOL_COMBINE[reduction], Load(y, indices), value))
    wide = accumulator(y.dtype)
    old, new = converted(Load(y, indices), wide), converted(value, wide)
    return Store(y, indices, converted(Binary(_NUMBER_COMBINE[reduction], old, new), y.dtype))


def _copied(x: Buffer, y: Buffer) -> Block:
    axes = output_axes(y)
    place = tuple(a.var for a in axes)
    return loops_over(axes, (Store(y, place, Load(x, place)),))


def _where_not_empty(extents: Sequence[Dim], body: Block) -> Block:
    """Guards a body that writes somewhere within extents: an empty extent has no place at all."""
    known = [(prove(lt(0, as_expr(e))), e) for e in extents]
    if any(holds is False for holds, _ in known):
        return ()
    doubtful = [lt(0, as_expr(e)) for holds, e in known if holds is None]
    return (If(conjunction(doubtful), body),) if doubtful else body


# ------------------------------------------------------------------ scatter_elements


def _elements_infer(types: Types, attrs: Attrs) -> Types:
    x, indices, updates = _scatter_types(types, attrs)
    axis = axis_attr(attrs, "axis", len(x.shape))
    if len(indices.shape) != len(x.shape) or not same_shape(indices.shape, updates.shape):
        raise OpError(
            f"data {shape_text(x.shape)}, indices {shape_text(indices.shape)} and updates"
            f" {shape_text(updates.shape)} must have one rank, the last two one shape"
        )
    for d, (have, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if d != axis and prove(le(as_expr(wanted), as_expr(have))) is False:
            raise OpError(
                f"indices {shape_text(indices.shape)} reach beyond data {shape_text(x.shape)}"
                f" on axis {d}: {dim_text(wanted)} against {dim_text(have)}"
            )
    return (x,)


def _elements_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, indices, updates = inputs
    axis = axis_attr(attrs, "axis", x.ndim)
    within = tuple(
        slice(None) if d == axis else slice(min(extent, indices.shape[d]))
        for d, extent in enumerate(x.shape)
    )
    indices, updates = indices[within], updates[within]
    y = np.array(x, order="C")
    if indices.size == 0 or y.size == 0:
        return (y,)
    grid = np.indices(indices.shape)
    grid[axis] = _wrapped(indices, x.shape[axis])
    _serial_update(y, tuple(grid), updates, str_attr(attrs, "reduction", _REDUCTIONS))
    return (y,)


def _elements_loops(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> Block:
    (x, indices, updates), (y,) = inputs, outputs
    axis = axis_attr(attrs, "axis", len(x.shape))
    axes = []
    for d, (have, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
        # Where the shapes do not tell, entries beyond the data are left out.
        fits = d == axis or prove(le(as_expr(wanted), as_expr(have)))
        axes.append(Axis(Var(f"j{d}"), wanted if fits else dim(minimum(as_expr(wanted), have))))
    source = tuple(a.var for a in axes)
    place = Var("place")
    target = [place if d == axis else a.var for d, a in enumerate(axes)]
    reduction = str_attr(attrs, "reduction", _REDUCTIONS)
    body: Block = (
        Let(place, _place(Load(indices, source), x.shape[axis])),
        _update(y, target, Load(updates, source), reduction),
    )
    return (*_copied(x, y), *_where_not_empty([x.shape[axis]], loops_over(axes, body)))


def _scatter_arrays(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _elements_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(7)
    samples = []

    def add(x: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int, note: str) -> None:
        for reduction in _REDUCTIONS:
            attrs: Attrs = {"axis": axis, "reduction": reduction}
            samples.append(Sample((x, indices, updates), attrs, f"{reduction}: {note}"))

    x = _scatter_arrays(rng, (4, 5))
    some = np.array([[1, 3, 1], [0, 0, 4]])
    add(x, some, _scatter_arrays(rng, (2, 3)), 1, "duplicates: the last one wins or all count")
    add(x, some.astype(np.int32) % 4, _scatter_arrays(rng, (2, 3)), 0, "i32 indices")
    add(x, some - 5, _scatter_arrays(rng, (2, 3)), 1, "negative from the end")
    add(x, some * 100 - 150, _scatter_arrays(rng, (2, 3)), 1, "far outside: clamped")
    add(x, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32), 1, "no indices")
    add(x[:, :0], np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32), 1, "no places")
    cube = _scatter_arrays(rng, (2, 3, 4))
    add(cube, rng.integers(-3, 3, (2, 5, 4)), _scatter_arrays(rng, (2, 5, 4)), 1, "middle axis")
    nans = np.array([1.0, np.nan, 3.0], np.float32)
    add(nans, np.array([0, 1, 2]), np.array([np.nan, 1.0, 9.0], np.float32), 0, "nan")
    for dtype in (np.int32, np.int8, np.uint8, np.float64, np.bool_):
        many = rng.integers(-5, 5, 12)
        add(
            (x[0] * 9).astype(dtype),
            many,
            (_scatter_arrays(rng, (12,)) * 9).astype(dtype),
            0,
            str(np.dtype(dtype)),
        )
    for half in (dt.f16, dt.bf16):
        twelve = _scatter_arrays(rng, (12,)).astype(half.numpy)
        add(x[0].astype(half.numpy), rng.integers(0, 5, 12), twelve, 0, half.name)
    return samples


# ------------------------------------------------------------------ scatter_nd


def _nd_depth(shape: tuple[Dim, ...], indices: tuple[Dim, ...]) -> int:
    if not indices or not isinstance(indices[-1], int) or not 0 <= indices[-1] <= len(shape):
        raise OpError(
            f"the last dim of indices {shape_text(indices)} must be a constant from 0 to"
            f" {len(shape)}, the rank of data {shape_text(shape)}"
        )
    return indices[-1]


def _nd_infer(types: Types, attrs: Attrs) -> Types:
    x, indices, updates = _scatter_types(types, attrs)
    depth = _nd_depth(x.shape, indices.shape)
    wanted = (*indices.shape[:-1], *x.shape[depth:])
    if not same_shape(updates.shape, wanted):
        raise OpError(
            f"updates {shape_text(updates.shape)} must be {shape_text(wanted)} for data"
            f" {shape_text(x.shape)} and indices {shape_text(indices.shape)}"
        )
    return (x,)


def _nd_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    x, indices, updates = inputs
    y = np.array(x, order="C")
    if updates.size == 0 or y.size == 0:
        return (y,)
    depth = indices.shape[-1]
    outer, inner = indices.ndim - 1, x.ndim - depth
    grid = np.indices(updates.shape)
    rows = [
        _wrapped(indices[..., d], x.shape[d]).reshape(indices.shape[:-1] + (1,) * inner)
        for d in range(depth)
    ]
    places = (*(np.broadcast_to(r, updates.shape) for r in rows), *grid[outer:])
    _serial_update(y, places, updates, str_attr(attrs, "reduction", _REDUCTIONS))
    return (y,)


def _nd_loops(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> Block:
    (x, indices, updates), (y,) = inputs, outputs
    depth = _nd_depth(x.shape, indices.shape)
    outer = len(indices.shape) - 1
    axes = [Axis(Var(f"j{d}"), extent) for d, extent in enumerate(updates.shape)]
    source = tuple(a.var for a in axes)
    places = [Var(f"place{d}") for d in range(depth)]
    lets = tuple(
        Let(place, _place(Load(indices, (*source[:outer], Const(d))), x.shape[d]))
        for d, place in enumerate(places)
    )
    reduction = str_attr(attrs, "reduction", _REDUCTIONS)
    body = (_update(y, [*places, *source[outer:]], Load(updates, source), reduction),)
    nest = loops_over(axes[:outer], (*lets, *loops_over(axes[outer:], body)))
    return (*_copied(x, y), *_where_not_empty(x.shape[:depth], nest))


def _nd_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(8)
    samples = []

    def add(x: np.ndarray, indices: np.ndarray, note: str) -> None:
        shape = indices.shape[:-1] + x.shape[indices.shape[-1] :]
        updates = (rng.standard_normal(shape) * 9).astype(x.dtype)
        for reduction in _REDUCTIONS:
            samples.append(
                Sample((x, indices, updates), {"reduction": reduction}, f"{reduction}: {note}")
            )

    x = _scatter_arrays(rng, (4, 5, 3))
    add(x, np.array([[0], [2], [0]]), "rows, with duplicates")
    add(x, np.array([[[0, 1], [3, -1]], [[0, 1], [-4, 4]]]), "pairs, negative from the end")
    add(x, np.array([[1, 2, 0], [99, -99, 1]], np.int32), "single elements, clamped, i32")
    add(x, np.zeros((2, 0), np.int64), "depth 0: the whole data, twice")
    add(x, np.zeros((0, 2), np.int64), "no indices")
    add(x[:0], np.array([[1]]), "no places")
    add(x, np.array([2]), "one row, indices of rank 1")
    for dtype in (np.int64, np.uint8, np.float64, np.bool_, dt.f16.numpy, dt.bf16.numpy):
        add(abs(x * 9).astype(dtype), np.array([[0], [2], [0]]), str(np.dtype(dtype)))
    return samples


# ------------------------------------------------------------------ topk


def _topk_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1)
    (x,) = types
    axis = axis_attr(attrs, "axis", len(x.shape))
    bool_attr(attrs, "largest")
    k = dim_attr(attrs, "k")
    if x.dtype is dt.bool_:
        raise OpError(f"bool {shape_text(x.shape)} has no order here; cast first")
    if prove(le(0, as_expr(k))) is False or not _at_most(k, x.shape[axis]):
        raise OpError(
            f"k is {dim_text(k)}, but axis {axis} of {shape_text(x.shape)} is only known to have"
            f" {dim_text(x.shape[axis])} elements; take min(k, {dim_text(x.shape[axis])})"
        )
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return TensorType(x.dtype, shape), TensorType(dt.i64, shape)


def _at_most(k: Dim, extent: Dim) -> bool:
    """Whether ``k <= extent`` for all values of the symbols."""
    if prove(le(as_expr(k), as_expr(extent))):
        return True
    if isinstance(k, Binary) and k.op == "min":
        return _at_most(k.a, extent) or _at_most(k.b, extent)
    return same_dim(k, extent)


def _topk_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    (x,) = inputs
    axis = axis_attr(attrs, "axis", x.ndim)
    k = dim_attr(attrs, "k")
    assert isinstance(k, int)
    wide = widened(x)
    if bool_attr(attrs, "largest"):
        # A stable ascending sort of the reversed row, read backwards, is descending and keeps
        # the lower index first; NumPy sorts nan last, so that it comes first here.
        backwards = np.argsort(np.flip(wide, axis), axis=axis, kind="stable")
        order = np.flip(x.shape[axis] - 1 - backwards, axis)
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    chosen = np.ascontiguousarray(order[(slice(None),) * axis + (slice(k),)], np.int64)
    return np.take_along_axis(x, chosen, axis), chosen


def _precedes(a: Expr, b: Expr, largest: bool) -> Expr:
    """Whether a comes strictly before b in the result; nan counts as the largest value."""
    beats = binary("gt" if largest else "lt", a, b)
    if not a.dtype.is_float:
        return beats
    greater, other = (a, b) if largest else (b, a)
    nan = Binary("and", binary("ne", greater, greater), eq(other, other))
    return Binary("or", beats, nan)


def _topk_loops(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> Block:
    """Insertion: the outputs hold the best elements so far, in order."""
    (x,), (values, indices) = inputs, outputs
    axis = axis_attr(attrs, "axis", len(x.shape))
    largest = bool_attr(attrs, "largest")
    k = as_expr(values.shape[axis])
    axes = output_axes(values)
    item, shift = Var("item"), Var("shift")
    start, value = Var("start"), Var("value", x.dtype)
    slot = Buffer("slot", dt.i64, (1,), "local")
    first = (Const(0),)

    def at(place: Expr) -> tuple[Expr, ...]:
        return tuple(place if d == axis else a.var for d, a in enumerate(axes))

    free = Load(slot, first)
    before = free - 1
    # Elements before the slot are in order: once one stays, all that precede it stay.
    move: Block = (
        If(
            conjunction(
                [eq(free, start - shift), _precedes(value, Load(values, at(before)), largest)]
            ),
            (
                Store(values, at(free), Load(values, at(before))),
                Store(indices, at(free), Load(indices, at(before))),
                Store(slot, first, before),
            ),
        ),
    )
    # Nothing is read of the outputs before it is written: the first k elements enter unseen.
    choose: Block = (
        Store(slot, first, k),
        If(
            lt(item, k),
            (Store(slot, first, item),),
            (If(_precedes(value, Load(values, at(k - 1)), largest), (Store(slot, first, k - 1),)),),
        ),
    )
    insert: Block = (
        Let(start, free),
        For(shift, start, move),
        Store(values, at(free), value),
        Store(indices, at(free), item),
    )
    each: Block = (Let(value, Load(x, at(item))), *choose, If(lt(free, k), insert))
    scan: Block = (Alloc(slot), For(item, x.shape[axis], each))
    rows = loops_over([a for d, a in enumerate(axes) if d != axis], scan)
    return _where_not_empty([values.shape[axis]], rows)


def _topk_samples() -> Sequence[Sample]:
    rng = np.random.default_rng(9)
    samples = []

    def add(x: np.ndarray, k: int, axis: int, note: str) -> None:
        for largest in (True, False):
            samples.append(Sample((x,), {"k": k, "axis": axis, "largest": largest}, note))

    x = rng.standard_normal((3, 7, 5)).astype(np.float32)
    add(x, 3, 1, "middle axis")
    add(x, 5, 2, "all of the last axis: a sort")
    add(x, 1, 0, "the best of the first axis")
    add(x, 0, 1, "none")
    add(x[:, :0], 0, 1, "none of none")
    add(x[:0], 2, 1, "no rows")
    add(rng.integers(0, 3, (4, 9)), 6, 1, "ties: lower index first")
    add(np.array([1.0, np.nan, 3.0, np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32), 8, 0, "nan")
    add(np.array([-128, 127, 0, -128], np.int8), 4, 0, "i8 extremes")
    add(np.array([0, 255, 128, 127], np.uint8), 3, 0, "u8")
    add(np.array([2**63, 1, 2**64 - 1], np.uint64), 2, 0, "u64 above i64")
    for dtype in (np.float64, dt.f16.numpy, dt.bf16.numpy, np.int32):
        add((x * 9).astype(dtype), 4, 1, str(np.dtype(dtype)))
    return samples


IRREGULAR: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="scatter_elements",
            kind="irregular",
            summary="y = x, then y[.., indices[j], ..] is combined with updates[j], in order of j.",
            attrs=("axis", "reduction"),
            infer=_elements_infer,
            reference=_elements_reference,
            compute=None,
            loops=_elements_loops,
            samples=_elements_samples,
        ),
        Op(
            name="scatter_nd",
            kind="irregular",
            summary="y = x, then the slices y[indices[j]] are combined with updates[j], in order.",
            attrs=("reduction",),
            infer=_nd_infer,
            reference=_nd_reference,
            compute=None,
            loops=_nd_loops,
            samples=_nd_samples,
        ),
        Op(
            name="topk",
            kind="irregular",
            summary="values and i64 indices of the k first along axis in order; nan is largest.",
            attrs=("k", "axis", "largest"),
            infer=_topk_infer,
            reference=_topk_reference,
            compute=None,
            loops=_topk_loops,
            samples=_topk_samples,
        ),
    )
}
