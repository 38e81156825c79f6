"""Converters of ATen's singular values and symmetric eigenvalues, by Jacobi's rotations.

Hestenes' method (Golub and Van Loan, Matrix Computations, 8.6.3): pairs of columns are rotated
until all are orthogonal; their lengths are the singular values. All columns take part in each
step, in pairs that a round-robin tournament makes, so that a step is a few products of whole
matrices. Everything is in f64, and rounded once at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter
from .factor import qr
from .order import stepwise

SWEEPS = 16
"""How often every pair of columns meets. Jacobi's rotations converge quadratically at last: ten
sweeps are enough for thousands of columns (Drmac and Veselic, SIAM J. Matrix Anal. 29, 2008)."""
_EPSILON = 2.0**-52


def _exchanged(half: int) -> np.ndarray:
    """Where columns go after a round: the first stays, the others move on around the table."""
    left, right = list(range(half)), list(range(half, 2 * half))
    if half == 1:
        return np.array([*left, *right])
    return np.array([0, right[0], *left[1:-1], *right[1:], left[-1]])


def _rotated(ctx: Context, x: Value, cosine: Value, sine: Value) -> Value:
    """Both halves of the columns, turned in the planes of pairs."""
    axis, half = len(x.shape) - 1, cosine.shape[-1]
    left, right = (ctx.slice_axis(x, axis, start, half) for start in (0, half))
    first = ctx.op("sub", ctx.op("mul", cosine, left), ctx.op("mul", sine, right))
    second = ctx.op("add", ctx.op("mul", sine, left), ctx.op("mul", cosine, right))
    return ctx.concat((first, second), axis)


def _round(ctx: Context, states: Sequence[Value], _: Sequence[Value]) -> tuple[Value, ...]:
    """Makes the columns of each pair orthogonal, and pairs them anew."""
    columns = states[0]
    axis = len(columns.shape) - 1
    size = columns.shape[-1]
    assert isinstance(size, int)
    left, right = (ctx.slice_axis(columns, axis, s, size // 2) for s in (0, size // 2))

    def inner(a: Value, b: Value) -> Value:
        return ctx.reduce(ctx.op("mul", a, b), "sum", (axis - 1,), keepdims=True)

    alpha, beta, gamma = inner(left, left), inner(right, right), inner(left, right)
    zeta = ctx.op("div", ctx.op("sub", beta, alpha), ctx.op("mul", gamma, 2.0))
    length = ctx.op("sqrt", ctx.op("add", ctx.op("mul", zeta, zeta), 1.0))
    tangent = ctx.op("div", ctx.scalar(1.0, dt.f64), ctx.op("add", ctx.op("abs", zeta), length))
    tangent = ctx.op("where", ctx.op("lt", zeta, 0.0), ctx.op("neg", tangent), tangent)
    tangent = ctx.op("where", ctx.op("eq", gamma, 0.0), ctx.scalar(0.0, dt.f64), tangent)
    square = ctx.op("add", ctx.op("mul", tangent, tangent), 1.0)
    cosine = ctx.op("div", ctx.scalar(1.0, dt.f64), ctx.op("sqrt", square))
    sine = ctx.op("mul", cosine, tangent)
    order = ctx.literal(_exchanged(size // 2))
    turned = (_rotated(ctx, x, cosine, sine) for x in states)
    return tuple(ctx.op("gather", x, order, axis=axis) for x in turned)


def _orthogonalised(ctx: Context, a: Value) -> tuple[Value, Value, Value]:
    """``a v`` with orthogonal columns from the longest on, v, and their lengths, as a row."""
    *batch, _, count = a.shape
    assert isinstance(count, int)
    rank = len(a.shape)
    odd = count % 2
    unit = ctx.broadcast_to(ctx.literal(np.eye(count)), (*batch, count, count))
    none = (0,) * rank
    start = [ctx.pad(x, none, (*none[1:], odd)) for x in (a, unit)]
    steps = ctx.iota(SWEEPS * (count + odd - 1))
    found = stepwise(ctx, (steps,), start, _round, all_steps=False)
    columns, product = (ctx.slice_axis(x, rank - 1, 0, count) for x in found)
    squares = ctx.op("mul", columns, columns)
    lengths = ctx.op("sqrt", ctx.reduce(squares, "sum", (rank - 2,), keepdims=True))
    lengths, places = ctx.ops("topk", lengths, k=count, axis=rank - 1, largest=True)
    columns, product = (
        ctx.op("gather_elements", x, ctx.broadcast_to(places, x.shape), axis=rank - 1)
        for x in (columns, product)
    )
    return columns, product, lengths


def _scaled(ctx: Context, a: Value) -> tuple[Value, Value]:
    """Each matrix over its largest element, and that: squares then stay in range."""
    rank = len(a.shape)
    largest = ctx.reduce(ctx.op("abs", a), "max", (rank - 2, rank - 1), keepdims=True)
    scale = ctx.op("where", ctx.op("gt", largest, 0.0), largest, ctx.scalar(1.0, dt.f64))
    return ctx.op("div", a, scale), scale


def _directions(ctx: Context, columns: Value, lengths: Value, whole: bool) -> Value:
    """Orthogonal columns of length 1; in place of those of no length, and to be as many as rows,
    others that are orthogonal to them.
    """
    rank = len(columns.shape)
    longest = ctx.slice_axis(lengths, rank - 1, 0, 1)
    most = max(d for d in columns.shape[-2:] if isinstance(d, int))
    given = ctx.op("gt", lengths, ctx.op("mul", longest, most * _EPSILON))
    divisors = ctx.op("where", given, lengths, ctx.scalar(1.0, dt.f64))
    known = ctx.op("where", given, ctx.op("div", columns, divisors), ctx.scalar(0.0, dt.f64))
    others, _ = qr(ctx, known, "complete" if whole else "reduced")
    count = columns.shape[-1]
    first = ctx.op("where", given, known, ctx.slice_axis(others, rank - 1, 0, count))
    if others.shape[-1] is count:
        return first
    rows = columns.shape[-2]
    assert isinstance(rows, int) and isinstance(count, int)
    return ctx.concat((first, ctx.slice_axis(others, rank - 1, count, rows - count)), rank - 1)


def _decomposed(
    ctx: Context, a: Value, whole: bool, vectors: bool
) -> tuple[Value | None, Value, Value | None]:
    """u, the singular values, and v, with ``a = u s v'``, in f64."""
    rows, columns = ctx.ints(a.shape[-2:], "sizes of a singular value decomposition")
    batch = a.shape[:-2]
    if 0 in (rows, columns):
        left, right = (rows, columns) if whole else (0, 0)
        u = ctx.broadcast_to(ctx.literal(np.eye(rows, left)), (*batch, rows, left))
        v = ctx.broadcast_to(ctx.literal(np.eye(columns, right)), (*batch, columns, right))
        return u, ctx.full((*batch, 0), 0.0, dt.f64), v
    wide = rows < columns
    given = ctx.cast(a, dt.f64)
    scaled, scale = _scaled(ctx, ctx.swapped(given) if wide else given)
    turned, product, lengths = _orthogonalised(ctx, scaled)
    values = ctx.reshape(ctx.op("mul", lengths, scale), (*batch, min(rows, columns)))
    if not vectors:
        return None, values, None
    directions = _directions(ctx, turned, lengths, whole)
    return (product, values, directions) if wide else (directions, values, product)


def svd(
    ctx: Context,
    a: Value,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: str | None = None,
) -> tuple[Value | None, ...]:
    """u, s and v' with ``a = u s v'``, the singular values from the largest on."""
    del driver
    vectors = compute_uv and bool(ctx.wanted & {0, 2})
    u, values, v = _decomposed(ctx, a, full_matrices, vectors)
    s = ctx.cast(values, a.dtype)
    if not vectors or u is None or v is None:
        return None, s, None
    return ctx.cast(u, a.dtype), s, ctx.cast(ctx.swapped(v), a.dtype)


def _symmetric(ctx: Context, a: Value, keeps: str) -> Value:
    """The matrix that one half and the diagonal state."""
    rank = len(a.shape)
    row, column = (ctx.along(ctx.iota(a.shape[d]), rank, d) for d in (rank - 2, rank - 1))
    return ctx.op("where", ctx.op(keeps, row, column), a, ctx.swapped(a))


def eigh(
    ctx: Context,
    a: Value,
    UPLO: str = "L",  # noqa: N803
    compute_v: bool = True,
) -> tuple[Value | None, ...]:
    """The eigenvalues of symmetric matrices from the least on, and their vectors.

    A matrix whose elements are at most 1 is positive definite with its size and one more added to
    the diagonal: then its singular values are its eigenvalues, and as much greater.
    """
    del compute_v
    size, _ = ctx.ints(a.shape[-2:], "sizes of an eigenvalue decomposition")
    *batch, _, _ = a.shape
    if size == 0:
        return ctx.full((*batch, 0), 0.0, a.dtype), ctx.full((*batch, 0, 0), 0.0, a.dtype)
    half = _symmetric(ctx, ctx.cast(a, dt.f64), "ge" if UPLO.upper() == "L" else "le")
    scaled, scale = _scaled(ctx, half)
    shift = size + 1.0
    _, vectors, lengths = _orthogonalised(
        ctx, ctx.op("add", scaled, ctx.literal(np.eye(size) * shift))
    )
    values = ctx.op("mul", ctx.op("sub", lengths, shift), scale)
    back = ctx.literal(np.arange(size)[::-1].copy())
    rising = (ctx.op("gather", x, back, axis=len(a.shape) - 1) for x in (values, vectors))
    values, vectors = (ctx.cast(x, a.dtype) for x in rising)
    return ctx.reshape(values, (*batch, size)), vectors


def pseudoinverse(
    ctx: Context,
    a: Value,
    *,
    atol: Value | None = None,
    rtol: Value | None = None,
    hermitian: bool = False,
) -> Value:
    """``v s^-1 u'``, where singular values that are too small count as none."""
    rows, columns = ctx.ints(a.shape[-2:], "sizes of a pseudoinverse")
    if 0 in ctx.ints(ctx.shape, "sizes of a pseudoinverse"):
        return ctx.full(ctx.shape, 0.0, ctx.dtype)
    if rtol is None:
        epsilon = float(np.finfo(a.dtype.numpy).eps)
        usual = ctx.scalar(epsilon * max(rows, columns), dt.f64)
        if atol is not None:
            none = ctx.scalar(0.0, dt.f64)
            usual = ctx.op("where", ctx.op("gt", ctx.cast(atol, dt.f64), 0.0), none, usual)
        rtol = usual
    given = _symmetric(ctx, a, "ge") if hermitian else a
    u, values, v = _decomposed(ctx, given, False, True)
    assert u is not None and v is not None
    largest = ctx.slice_axis(values, len(values.shape) - 1, 0, 1)

    def column(x: Value) -> Value:
        return ctx.unsqueeze(ctx.cast(x, dt.f64), (len(x.shape),))

    least = ctx.op("mul", column(rtol), largest)
    if atol is not None:
        least = ctx.op("max", least, column(atol))
    kept = ctx.op("gt", values, least)
    one, none = ctx.scalar(1.0, dt.f64), ctx.scalar(0.0, dt.f64)
    inverse = ctx.op("where", kept, ctx.op("div", one, values), none)
    scaled = ctx.op("mul", v, ctx.unsqueeze(inverse, (len(inverse.shape) - 1,)))
    return ctx.cast(ctx.op("matmul", scaled, ctx.swapped(u)), a.dtype)


CONVERTERS: dict[str, Converter] = {
    "_linalg_eigh.default": eigh,
    "_linalg_svd.default": svd,
    "linalg_pinv.atol_rtol_tensor": pseudoinverse,
}
