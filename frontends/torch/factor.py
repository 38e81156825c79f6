"""Converters of ATen's factors of matrices: LU, Cholesky, QR, and what is solved by them.

Each is a scan over the columns of one matrix, in f64, rounded once at its end. The pivots are
LAPACK's (the first of the largest elements), and so are the signs of reflections.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, minimum
from tilewright.tensor.simplify import dim

from .context import Context, Converter
from .order import stepwise

Some = tuple[Value | None, ...]


def _wide(ctx: Context, x: Value) -> Value:
    return ctx.cast(x, dt.f64)


def _spread(ctx: Context, x: Value, batch: Sequence[Dim], own: int = 2) -> Value:
    """A batch of matrices (or of what has fewer axes of its own) repeated for a larger batch."""
    return ctx.broadcast_to(x, (*batch, *x.shape[len(x.shape) - own :]))


def _place(ctx: Context, x: Value, axis: int) -> Value:
    """The places along an axis of x, counted from its end, to compare others with."""
    rank = len(x.shape)
    return ctx.along(ctx.iota(x.shape[axis]), rank, rank + axis)


def _at(ctx: Context, x: Value, place: Value, axis: int) -> Value:
    """What stands at one place of an axis, which stays with extent 1."""
    rank = len(x.shape)
    return ctx.unsqueeze(ctx.op("gather", x, place, axis=rank + axis), (rank + axis,))


def _least(a: Dim, b: Dim) -> Dim:
    return dim(minimum(as_expr(a), as_expr(b)))


def _half(ctx: Context, x: Value, keeps: str, fill: float = 0.0) -> Value:
    """x where its row compares so with its column, and else a number."""
    kept = ctx.op(keeps, _place(ctx, x, -2), _place(ctx, x, -1))
    return ctx.op("where", kept, x, fill)


def _diagonal(ctx: Context, x: Value) -> Value:
    """The diagonals of square matrices, as columns."""
    return ctx.reduce(_half(ctx, x, "eq"), "sum", (len(x.shape) - 1,), keepdims=True)


def _unit(ctx: Context, batch: Sequence[Dim], rows: Dim, columns: Dim) -> Value:
    """Matrices with ones on the diagonal."""
    return _half(ctx, ctx.full((*batch, rows, columns), 1.0, dt.f64), "eq")


def _rest(ctx: Context, x: Value, rows: Value) -> Value:
    """The rows of each matrix at places of its own, which are a column."""
    return ctx.op("gather_elements", x, ctx.broadcast_to(rows, x.shape), axis=len(x.shape) - 2)


# ------------------------------------------------------------------ triangles


def _solved(ctx: Context, a: Value, b: Value, upper: bool, unit: bool) -> Value:
    """X with ``a X = b`` for a triangular a, whose other half is not read; row by row."""
    size = a.shape[-1]
    steps = ctx.iota(size)
    if upper:
        steps = ctx.op("sub", ctx.scalar(dim(as_expr(size) - 1), dt.i64), steps)
    others = _half(ctx, a, "lt" if upper else "gt")
    divisors = ctx.full(_diagonal(ctx, a).shape, 1.0, dt.f64) if unit else _diagonal(ctx, a)

    def step(body: Context, states: Sequence[Value], given: Sequence[Value]) -> tuple[Value]:
        (x,), (place, others, divisors, b) = states, given
        known = body.op("matmul", _at(body, others, place, -2), x)
        left = body.op("sub", _at(body, b, place, -2), known)
        value = body.op("div", left, _at(body, divisors, place, -2))
        return (body.op("where", body.op("eq", _place(body, x, -2), place), value, x),)

    start = ctx.full(b.shape, 0.0, dt.f64)
    (x,) = stepwise(ctx, (steps,), (start,), step, all_steps=False, held=(others, divisors, b))
    return x


def solve_triangular(
    ctx: Context,
    a: Value,
    b: Value,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Value:
    """X with ``a X = b``, or ``X a = b``, for a triangular a."""
    batch = ctx.shape[:-2]
    a, b = (_spread(ctx, _wide(ctx, x), batch) for x in (a, b))
    if left:
        return ctx.cast(_solved(ctx, a, b, upper, unitriangular), ctx.dtype)
    x = _solved(ctx, ctx.swapped(a), ctx.swapped(b), not upper, unitriangular)
    return ctx.cast(ctx.swapped(x), ctx.dtype)


def triangular_solve(
    ctx: Context,
    b: Value,
    a: Value,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Value, Value]:
    """X with ``a X = b``, or ``a' X = b``, for a triangular a; and a."""
    batch = ctx.result(min(ctx.wanted)).shape[:-2]
    wide = _spread(ctx, _wide(ctx, a), batch)
    given = ctx.swapped(wide) if transpose else wide
    x = _solved(ctx, given, _spread(ctx, _wide(ctx, b), batch), upper != transpose, unitriangular)
    return ctx.cast(x, a.dtype), _spread(ctx, a, batch)


# ------------------------------------------------------------------ Cholesky


def cholesky(
    ctx: Context, a: Value, *, upper: bool = False, check_errors: bool = False
) -> tuple[Value, Value]:
    """The lower triangle l with ``l l' = a``, and the first minor that is not positive, or 0."""
    if check_errors:
        ctx.unsupported("an error that depends on data (check_errors)")
    given = _wide(ctx, ctx.swapped(a) if upper else a)
    batch, size = given.shape[:-2], given.shape[-1]

    def step(body: Context, states: Sequence[Value], rows: Sequence[Value]) -> tuple[Value, Value]:
        (factor, info), (place, a) = states, rows
        before = body.swapped(_at(body, factor, place, -2))
        column = body.op("sub", _at(body, a, place, -1), body.op("matmul", factor, before))
        square = _at(body, column, place, -2)
        fails = body.op("not", body.op("gt", square, 0.0))
        root = body.op("sqrt", square)
        row = _place(body, column, -2)
        below = body.op("where", body.op("gt", row, place), body.op("div", column, root), 0.0)
        column = body.op("where", body.op("eq", row, place), root, below)
        here = body.op("eq", _place(body, factor, -1), place)
        first = body.op("and", fails, body.op("eq", info, 0))
        number = body.op("where", first, body.op("add", place, 1), info)
        return body.op("where", here, column, factor), number

    states = (ctx.full(given.shape, 0.0, dt.f64), ctx.full((*batch, 1, 1), 0, dt.i64))
    steps = (ctx.iota(size),)
    factor, info = stepwise(ctx, steps, states, step, all_steps=False, held=(given,))
    result = ctx.cast(ctx.swapped(factor) if upper else factor, a.dtype)
    return result, ctx.cast(ctx.reshape(info, batch), dt.i32)


def _by_cholesky(ctx: Context, factor: Value, b: Value, upper: bool) -> Value:
    lower = ctx.swapped(factor) if upper else factor
    half = _solved(ctx, lower, b, upper=False, unit=False)
    return ctx.cast(_solved(ctx, ctx.swapped(lower), half, upper=True, unit=False), ctx.dtype)


def cholesky_solve(ctx: Context, b: Value, factor: Value, upper: bool = False) -> Value:
    """X with ``l l' X = b``."""
    batch = ctx.shape[:-2]
    factor, b = (_spread(ctx, _wide(ctx, x), batch) for x in (factor, b))
    return _by_cholesky(ctx, factor, b, upper)


def cholesky_inverse(ctx: Context, factor: Value, upper: bool = False) -> Value:
    """The inverse of ``l l'``."""
    *batch, size, _ = factor.shape
    return _by_cholesky(ctx, _wide(ctx, factor), _unit(ctx, batch, size, size), upper)


# ------------------------------------------------------------------ LU


def _eliminate(
    body: Context, states: Sequence[Value], rows: Sequence[Value]
) -> tuple[Value, Value, Value, Value]:
    """One column of Gaussian elimination by the largest element at or below the diagonal."""
    (a, order, pivots, info), (place,) = states, rows
    rank, row, column = len(a.shape), _place(body, a, -2), _place(body, a, -1)
    sizes = body.op("abs", _at(body, a, place, -1))
    sizes = body.op("where", body.op("ge", row, place), sizes, -1.0)
    best = body.op("argreduce", sizes, op="max", axis=rank - 2, keepdims=True, last=False)
    here, there = body.op("eq", row, place), body.op("eq", row, best)

    def exchanged(x: Value) -> tuple[Value, Value]:
        taken = _at(body, x, place, -2)
        places = body.broadcast_to(best, taken.shape)
        given = body.op("gather_elements", x, places, axis=rank - 2)
        return body.op("where", here, given, body.op("where", there, taken, x)), given

    a, top = exchanged(a)
    order, _ = exchanged(order)
    pivot = _at(body, top, place, -1)
    none = body.op("eq", pivot, 0.0)
    factor = body.op("div", _at(body, a, place, -1), body.op("where", none, 1.0, pivot))
    factor = body.op("where", body.op("gt", row, place), factor, 0.0)
    change = body.op("mul", factor, body.op("where", body.op("gt", column, place), top, 0.0))
    kept = body.op("and", body.op("gt", row, place), body.op("eq", column, place))
    a = body.op("where", kept, factor, body.op("sub", a, change))
    number = body.op("add", best, 1)
    pivots = body.op("where", body.op("eq", _place(body, pivots, -2), place), number, pivots)
    first = body.op("and", none, body.op("eq", info, 0))
    return a, order, pivots, body.op("where", first, body.op("add", place, 1), info)


def _factored(ctx: Context, a: Value) -> tuple[Value, ...]:
    """Both triangles in one matrix; which row stands in each row; the exchanges, from 1 on; and
    the first zero pivot, or 0. All but the first are columns."""
    *batch, rows, columns = a.shape
    steps = ctx.iota(_least(rows, columns))
    states = (
        _wide(ctx, a),
        ctx.broadcast_to(ctx.along(ctx.iota(rows), 2, 0), (*batch, rows, 1)),
        ctx.full((*batch, steps.shape[0], 1), 0, dt.i64),
        ctx.full((*batch, 1, 1), 0, dt.i64),
    )
    return stepwise(ctx, (steps,), states, _eliminate, all_steps=False)


def _flat(ctx: Context, column: Value) -> Value:
    """A column of places as torch gives them."""
    return ctx.cast(ctx.reshape(column, column.shape[:-1]), dt.i32)


def _triangles(ctx: Context, both: Value) -> tuple[Value, Value]:
    """The two factors of an LU decomposition."""
    *batch, rows, columns = both.shape
    rank, inner = len(both.shape), _least(rows, columns)
    lower = _half(ctx, ctx.slice_axis(both, rank - 1, 0, inner), "gt")
    lower = ctx.op("add", lower, ctx.cast(_unit(ctx, batch, rows, inner), both.dtype))
    return lower, _half(ctx, ctx.slice_axis(both, rank - 2, 0, inner), "le")


def _permutation(ctx: Context, order: Value) -> Value:
    """The matrices that bring rows back from an order, as truth values."""
    rows = order.shape[-2]
    return ctx.op("eq", ctx.along(ctx.iota(rows), len(order.shape), len(order.shape) - 2),
                  ctx.swapped(order))  # fmt: skip


def lu_factor(
    ctx: Context, a: Value, *, pivot: bool = True, check_errors: bool = False
) -> tuple[Value, Value, Value]:
    """Both triangles in one matrix, the exchanges of rows, and the first zero pivot, or 0."""
    _expect_plain(ctx, pivot, check_errors)
    both, _, pivots, info = _factored(ctx, a)
    number = ctx.cast(ctx.reshape(info, a.shape[:-2]), dt.i32)
    return ctx.cast(both, a.dtype), _flat(ctx, pivots), number


def lu(ctx: Context, a: Value, *, pivot: bool = True) -> tuple[Value, Value, Value]:
    """A permutation and two triangles, whose product is a."""
    _expect_plain(ctx, pivot, checks=False)
    both, order, _, _ = _factored(ctx, a)
    parts = (_permutation(ctx, order), *_triangles(ctx, both))
    one, two, three = (ctx.cast(p, a.dtype) for p in parts)
    return one, two, three


def _expect_plain(ctx: Context, pivots: bool, checks: bool) -> None:
    if not pivots:
        ctx.unsupported("elimination without pivots")
    if checks:
        ctx.unsupported("an error that depends on data (check_errors)")


def _order_of(ctx: Context, pivots: Value, rows: Dim) -> Value:
    """Which row stands in each row after exchanges one after the other."""

    def step(body: Context, states: Sequence[Value], given: Sequence[Value]) -> tuple[Value]:
        (order,), (place, pivots) = states, given
        best = body.op("sub", _at(body, pivots, place, -2), 1)
        row = _place(body, order, -2)
        mine = _at(body, order, place, -2)
        other = body.op("gather_elements", order, best, axis=len(order.shape) - 2)
        there = body.op("where", body.op("eq", row, best), mine, order)
        return (body.op("where", body.op("eq", row, place), other, there),)

    *batch, steps = pivots.shape
    columns = ctx.cast(ctx.unsqueeze(pivots, (len(pivots.shape),)), dt.i64)
    start = ctx.broadcast_to(ctx.along(ctx.iota(rows), 2, 0), (*batch, rows, 1))
    (order,) = stepwise(
        ctx, (ctx.iota(steps),), (start,), step, all_steps=False, held=(columns,)
    )  # fmt: skip
    return order


def lu_unpack(
    ctx: Context, both: Value, pivots: Value, unpack_data: bool = True, unpack_pivots: bool = True
) -> Some:
    """The permutation and the two triangles that ``lu_factor`` gives in short."""
    if not (unpack_data and unpack_pivots):
        ctx.unsupported("a part of the factors alone")
    order = _order_of(ctx, pivots, both.shape[-2])
    return ctx.cast(_permutation(ctx, order), both.dtype), *_triangles(ctx, both)


def _by_lu(ctx: Context, both: Value, order: Value, b: Value) -> Value:
    """X with ``a X = b``."""
    half = _solved(ctx, both, _rest(ctx, b, order), upper=False, unit=True)
    return _solved(ctx, both, half, upper=True, unit=False)


def _by_lu_transposed(ctx: Context, both: Value, order: Value, b: Value) -> Value:
    """X with ``a' X = b``."""
    turned = ctx.swapped(both)
    half = _solved(ctx, turned, b, upper=False, unit=False)
    half = _solved(ctx, turned, half, upper=True, unit=True)
    there = ctx.cast(_permutation(ctx, order), dt.i64)
    rank = len(there.shape)
    back = ctx.op("argreduce", there, op="max", axis=rank - 1, keepdims=True, last=False)
    return _rest(ctx, half, back)


def lu_solve(
    ctx: Context, both: Value, pivots: Value, b: Value, *, left: bool = True, adjoint: bool = False
) -> Value:
    """X with ``a X = b`` (or ``X a = b``, or a transposed) from the factors of a."""
    batch = ctx.shape[:-2]
    order = _spread(ctx, _order_of(ctx, pivots, both.shape[-2]), batch)
    wide, given = (_spread(ctx, _wide(ctx, x), batch) for x in (both, b))
    solve = _by_lu if left != adjoint else _by_lu_transposed
    if left:
        return ctx.cast(solve(ctx, wide, order, given), ctx.dtype)
    return ctx.cast(ctx.swapped(solve(ctx, wide, order, ctx.swapped(given))), ctx.dtype)


def solve(
    ctx: Context, a: Value, b: Value, *, left: bool = True, check_errors: bool = False
) -> Some:
    """X with ``a X = b``, or ``X a = b``, and the first zero pivot, or 0; b may be a vector."""
    _expect_plain(ctx, True, check_errors)
    both, order, _, info = _factored(ctx, a)
    number = ctx.cast(ctx.reshape(info, a.shape[:-2]), dt.i32)
    if 0 not in ctx.wanted:
        return None, None, None, number
    is_vector = len(ctx.shape) < len(a.shape)
    batch = ctx.shape[:-1] if is_vector else ctx.shape[:-2]
    matrix = ctx.unsqueeze(b, (len(b.shape),)) if is_vector else b
    both, order, given = (_spread(ctx, x, batch) for x in (both, order, _wide(ctx, matrix)))
    if left or is_vector:
        x = _by_lu(ctx, both, order, given)
    else:
        x = ctx.swapped(_by_lu_transposed(ctx, both, order, ctx.swapped(given)))
    return ctx.cast(ctx.reshape(x, ctx.shape), ctx.dtype), None, None, number


def inverse(ctx: Context, a: Value, *, check_errors: bool = False) -> tuple[Value, Value]:
    """The inverse of each matrix, and the first zero pivot, or 0."""
    _expect_plain(ctx, True, check_errors)
    *batch, size, _ = a.shape
    both, order, _, info = _factored(ctx, a)
    x = _by_lu(ctx, both, order, _unit(ctx, batch, size, size))
    return ctx.cast(x, a.dtype), ctx.cast(ctx.reshape(info, batch), dt.i32)


def _sign(ctx: Context, pivots: Value) -> Value:
    """1 or -1 by the number of rows that were exchanged, as a column of one."""
    own = ctx.op("add", _place(ctx, pivots, -2), 1)
    moved = ctx.cast(ctx.op("ne", pivots, own), dt.f64)
    factors = ctx.op("sub", ctx.scalar(1.0, dt.f64), ctx.op("mul", moved, 2.0))
    return ctx.reduce(factors, "prod", (len(factors.shape) - 2,), keepdims=True)


def determinant(ctx: Context, a: Value) -> Some:
    """The determinant of each matrix."""
    both, _, pivots, _ = _factored(ctx, a)
    diagonal = _diagonal(ctx, both)
    product = ctx.reduce(diagonal, "prod", (len(a.shape) - 2,), keepdims=True)
    result = ctx.op("mul", product, _sign(ctx, pivots))
    return ctx.cast(ctx.reshape(result, ctx.shape), ctx.dtype), None, None


def log_determinant(ctx: Context, a: Value) -> Some:
    """The sign of the determinant of each matrix, and the logarithm of its size."""
    both, _, pivots, _ = _factored(ctx, a)
    diagonal = _diagonal(ctx, both)
    axes = (len(a.shape) - 2,)
    sign = ctx.reduce(ctx.op("sign", diagonal), "prod", axes, keepdims=True)
    sign = ctx.op("mul", sign, _sign(ctx, pivots))
    size = ctx.reduce(ctx.op("log", ctx.op("abs", diagonal)), "sum", axes, keepdims=True)
    shape = a.shape[:-2]
    one, two = (ctx.cast(ctx.reshape(x, shape), a.dtype) for x in (sign, size))
    return one, two, None, None


# ------------------------------------------------------------------ QR


def _reflect(body: Context, states: Sequence[Value], rows: Sequence[Value]) -> tuple[Value, Value]:
    """One column of Householder's triangularisation: ``a - scale v (v' a)``; see LAPACK's dlarfg.

    The reflection's vector v, whose own place holds 1, is kept below the diagonal.
    """
    (a, scales), (place,) = states, rows
    axes, row, column = (len(a.shape) - 2,), _place(body, a, -2), _place(body, a, -1)
    is_below = body.op("gt", row, place)
    below = body.op("where", is_below, _at(body, a, place, -1), 0.0)
    own = _at(body, _at(body, a, place, -1), place, -2)
    rest = body.reduce(body.op("mul", below, below), "sum", axes, keepdims=True)
    none = body.op("eq", rest, 0.0)
    size = body.op("sqrt", body.op("add", body.op("mul", own, own), rest))
    after = body.op("where", body.op("ge", own, 0.0), body.op("neg", size), size)
    after = body.op("where", none, own, after)
    whole = body.op("where", none, 1.0, body.op("sub", own, after))
    vector = body.op("div", below, whole)
    safe = body.op("where", none, 1.0, after)
    scale = body.op("where", none, 0.0, body.op("div", body.op("sub", after, own), safe))
    right = body.op("gt", column, place)
    changed = body.op("sub", a, _reflection(body, a, vector, row, place, scale))
    a = body.op("where", right, changed, a)
    is_own = body.op("eq", column, place)
    a = body.op("where", body.op("and", is_own, is_below), vector, a)
    a = body.op("where", body.op("and", is_own, body.op("eq", row, place)), after, a)
    return a, body.op("where", body.op("eq", _place(body, scales, -2), place), scale, scales)


def _reflection(
    body: Context, x: Value, below: Value, row: Value, place: Value, scale: Value
) -> Value:
    """``scale v (v' x)`` for a v that is 0 above its place, 1 there, and given below."""
    vector = body.op("where", body.op("eq", row, place), 1.0, below)
    return body.op("mul", body.op("mul", vector, scale),
                   body.op("matmul", body.swapped(vector), x))  # fmt: skip


def _triangularised(ctx: Context, a: Value) -> tuple[Value, Value]:
    """Reflections below the diagonal and a triangle above; and their scales, as a column."""
    *batch, rows, columns = a.shape
    steps = ctx.iota(_least(rows, columns))
    states = (_wide(ctx, a), ctx.full((*batch, steps.shape[0], 1), 0.0, dt.f64))
    a, scales = stepwise(ctx, (steps,), states, _reflect, all_steps=False)
    return a, scales


def _applied(ctx: Context, vectors: Value, scales: Value, x: Value, transposed: bool) -> Value:
    """The product of all reflections, or its transpose, times x."""
    count = scales.shape[-2]
    steps = ctx.iota(count)
    if not transposed:
        steps = ctx.op("sub", ctx.scalar(dim(as_expr(count) - 1), dt.i64), steps)

    def step(body: Context, states: Sequence[Value], given: Sequence[Value]) -> tuple[Value]:
        (x,), (place, vectors, scales) = states, given
        row = _place(body, vectors, -2)
        column = _at(body, vectors, place, -1)
        below = body.op("where", body.op("gt", row, place), column, 0.0)
        scale = _at(body, scales, place, -2)
        return (body.op("sub", x, _reflection(body, x, below, row, place, scale)),)

    (x,) = stepwise(ctx, (steps,), (x,), step, all_steps=False, held=(vectors, scales))
    return x


def geqrf(ctx: Context, a: Value) -> tuple[Value, Value]:
    """Reflections below the diagonal and a triangle above; and the scales of reflections."""
    both, scales = _triangularised(ctx, a)
    return ctx.cast(both, a.dtype), ctx.cast(ctx.reshape(scales, scales.shape[:-1]), a.dtype)


def householder_product(ctx: Context, vectors: Value, scales: Value) -> Value:
    """The first columns of a product of reflections."""
    *batch, rows, columns = vectors.shape
    given = ctx.unsqueeze(_wide(ctx, scales), (len(scales.shape),))
    unit = _unit(ctx, batch, rows, columns)
    return ctx.cast(_applied(ctx, _wide(ctx, vectors), given, unit, False), ctx.dtype)


def ormqr(
    ctx: Context,
    vectors: Value,
    scales: Value,
    x: Value,
    left: bool = True,
    transpose: bool = False,
) -> Value:
    """A product of reflections, or its transpose, times x, or x times that."""
    given = ctx.unsqueeze(_wide(ctx, scales), (len(scales.shape),))
    wide, other = _wide(ctx, vectors), _wide(ctx, x)
    if left:
        return ctx.cast(_applied(ctx, wide, given, other, transpose), ctx.dtype)
    turned = _applied(ctx, wide, given, ctx.swapped(other), not transpose)
    return ctx.cast(ctx.swapped(turned), ctx.dtype)


def qr(ctx: Context, a: Value, mode: str = "reduced") -> tuple[Value, Value]:
    """An orthogonal and a triangular matrix, whose product is a."""
    *batch, rows, columns = a.shape
    rank, inner = len(a.shape), _least(rows, columns)
    both, scales = _triangularised(ctx, a)
    kept = rows if mode == "complete" else inner
    triangle = ctx.cast(_half(ctx, ctx.slice_axis(both, rank - 2, 0, kept), "le"), a.dtype)
    if mode == "r":
        return ctx.full((0,), 0.0, a.dtype), triangle
    vectors = ctx.slice_axis(both, rank - 1, 0, inner)
    product = _applied(ctx, vectors, scales, _unit(ctx, batch, rows, kept), False)
    return ctx.cast(product, a.dtype), triangle


CONVERTERS: dict[str, Converter] = {
    "_linalg_det.default": determinant,
    "_linalg_slogdet.default": log_determinant,
    "_linalg_solve_ex.default": solve,
    "cholesky_inverse.default": cholesky_inverse,
    "cholesky_solve.default": cholesky_solve,
    "geqrf.default": geqrf,
    "linalg_cholesky_ex.default": cholesky,
    "linalg_householder_product.default": householder_product,
    "linalg_inv_ex.default": inverse,
    "linalg_lu.default": lu,
    "linalg_lu_factor_ex.default": lu_factor,
    "linalg_lu_solve.default": lu_solve,
    "linalg_qr.default": qr,
    "linalg_solve_triangular.default": solve_triangular,
    "lu_unpack.default": lu_unpack,
    "ormqr.default": ormqr,
    "triangular_solve.default": triangular_solve,
}
