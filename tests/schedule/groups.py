"""Compute groups that the schedule tests share, written by hand."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.target import Target
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import (
    Axis,
    Buffer,
    Call,
    Const,
    Dim,
    Expr,
    Reduce,
    Select,
    Var,
    conjunction,
    le,
    lt,
    maximum,
)

AVX512 = Target("test-512", "cpu", "", "", "", (), 512, 32, True, 48 << 10, 2 << 20, 32 << 20)
AVX2 = Target("test-256", "cpu", "", "", "", (), 256, 16, True, 32 << 10, 1 << 20, 8 << 20)
SSE = Target("test-128", "cpu", "", "", "", (), 128, 16, False, 32 << 10, 1 << 20, 8 << 20)


def variables(names: str) -> list[Var]:
    return [Var(n) for n in names.split()]


def matmul(m_: Dim, k_: Dim, n_: Dim) -> ComputeGroup:
    m, n, k = variables("m n k")
    a, w = Buffer("x0", dt.f32, (m_, k_)), Buffer("x1", dt.f32, (k_, n_))
    bias, y = Buffer("x2", dt.f32, (n_,)), Buffer("y0", dt.f32, (m_, n_))
    product = Reduce("sum", (Axis(k, k_),), a[m, k] * w[k, n])
    value = maximum(product + bias[n], 0.0)
    return ComputeGroup(
        "matmul", (a, w, bias), (y,), (Compute(y, (Axis(m, m_), Axis(n, n_)), value),)
    )


def conv(size: Dim, c: int, o: int, k: int, stride: int, pad: int) -> ComputeGroup:
    n, oh, ow, oc, kh, kw, ci = variables("n oh ow oc kh kw ci")
    out: Dim = (size + 2 * pad - k) // stride + 1
    x, w = Buffer("x0", dt.f32, (1, size, size, c)), Buffer("x1", dt.f32, (k, k, c, o))
    bias, y = Buffer("x2", dt.f32, (o,)), Buffer("y0", dt.f32, (1, out, out, o))
    ih, iw = oh * stride + kh - pad, ow * stride + kw - pad
    value: Expr = x[n, ih, iw, ci]
    if pad:
        inside = conjunction([le(0, ih), lt(ih, size), le(0, iw), lt(iw, size)])
        value = Select(inside, value, Const(0, dt.f32))
    total = Reduce("sum", (Axis(kh, k), Axis(kw, k), Axis(ci, c)), value * w[kh, kw, ci, oc])
    axes = (Axis(n, 1), Axis(oh, out), Axis(ow, out), Axis(oc, o))
    result = maximum(total + bias[oc], 0.0)
    return ComputeGroup("conv", (x, w, bias), (y,), (Compute(y, axes, result),))


def grouped_conv(
    size: int, groups: int, channels: int, columns: int, k: int, stride: int
) -> ComputeGroup:
    """A convolution of ``groups`` groups, each with its own channels and columns."""
    oh, ow, oc, kh, kw, ci = variables("oh ow oc kh kw ci")
    pad = k // 2
    out = (size + 2 * pad - k) // stride + 1
    x = Buffer("x0", dt.f32, (size, size, groups * channels))
    every = groups * columns
    w, bias = Buffer("x1", dt.f32, (k, k, channels, every)), Buffer("x2", dt.f32, (every,))
    y = Buffer("y0", dt.f32, (out, out, every))
    ih, iw = oh * stride + kh - pad, ow * stride + kw - pad
    value: Expr = x[ih, iw, oc // columns * channels + ci]
    if pad:
        inside = conjunction([le(0, ih), lt(ih, size), le(0, iw), lt(iw, size)])
        value = Select(inside, value, Const(0, dt.f32))
    total = Reduce("sum", (Axis(kh, k), Axis(kw, k), Axis(ci, channels)), value * w[kh, kw, ci, oc])
    axes = (Axis(oh, out), Axis(ow, out), Axis(oc, every))
    result = maximum(total + bias[oc], 0.0)
    return ComputeGroup("conv", (x, w, bias), (y,), (Compute(y, axes, result),))


def max_pool(size: int, c: int, k: int, stride: int, pad: int) -> ComputeGroup:
    oh, ow, ch, kh, kw = variables("oh ow c kh kw")
    out = (size + 2 * pad - k) // stride + 1
    x, y = Buffer("x0", dt.f32, (size, size, c)), Buffer("y0", dt.f32, (out, out, c))
    ih, iw = oh * stride + kh - pad, ow * stride + kw - pad
    inside = conjunction([le(0, ih), lt(ih, size), le(0, iw), lt(iw, size)])
    value = Select(inside, x[ih, iw, ch], Const(dt.f32.lowest, dt.f32))
    best = Reduce("max", (Axis(kh, k), Axis(kw, k)), value)
    axes = (Axis(oh, out), Axis(ow, out), Axis(ch, c))
    return ComputeGroup("pool", (x,), (y,), (Compute(y, axes, best),))


def softmax(rows: Dim, columns: Dim) -> ComputeGroup:
    r, c, k, unit = variables("r c k unit")
    x, y = Buffer("x0", dt.f32, (rows, columns)), Buffer("y0", dt.f32, (rows, columns))
    top, total = Buffer("t0", dt.f32, (rows, 1)), Buffer("t2", dt.f32, (rows, 1))
    e = Buffer("t1", dt.f32, (rows, columns))
    row, column, one = Axis(r, rows), Axis(c, columns), Axis(unit, 1)
    along = (Axis(k, columns),)
    stages = (
        Compute(top, (row, one), Reduce("max", along, x[r, k])),
        Compute(e, (row, column), Call("exp", (x[r, c] - top[r, 0],), dt.f32)),
        Compute(total, (row, one), Reduce("sum", along, e[r, k])),
        Compute(y, (row, column), e[r, c] / total[r, 0]),
    )
    return ComputeGroup("softmax", (x,), (y,), stages)


def attention(heads: Dim, rows: Dim, columns: Dim, depth: int, width: int) -> ComputeGroup:
    """softmax(q k + mask) v, with the keys transposed and the sum divided by at the end."""
    h, r, c, k, d, unit = variables("h r c k d unit")
    f32 = dt.f32
    q, keys = Buffer("x0", f32, (heads, rows, depth)), Buffer("x1", f32, (heads, depth, columns))
    mask, v = Buffer("x2", f32, (rows, columns)), Buffer("x3", f32, (heads, columns, width))
    scores, e = (Buffer(n, f32, (heads, rows, columns)) for n in ("t0", "t2"))
    top, total = (Buffer(n, f32, (heads, rows, 1)) for n in ("t1", "t3"))
    y = Buffer("y0", f32, (heads, rows, width))
    head, row, column, one = Axis(h, heads), Axis(r, rows), Axis(c, columns), Axis(unit, 1)
    along = (Axis(k, columns),)
    dot = Reduce("sum", (Axis(k, depth),), q[h, r, k] * keys[h, k, c])
    mixed = Reduce("sum", along, e[h, r, k] * v[h, k, d])
    stages = (
        Compute(scores, (head, row, column), dot * 0.5 + mask[r, c]),
        Compute(top, (head, row, one), Reduce("max", along, scores[h, r, k])),
        Compute(e, (head, row, column), Call("exp", (scores[h, r, c] - top[h, r, 0],), f32)),
        Compute(total, (head, row, one), Reduce("sum", along, e[h, r, k])),
        Compute(y, (head, row, Axis(d, width)), mixed / total[h, r, 0]),
    )
    return ComputeGroup("attention", (q, keys, mask, v), (y,), stages)


def arg_max(rows: int, columns: int) -> ComputeGroup:
    r, k = variables("r k")
    x, y = Buffer("x0", dt.f32, (rows, columns)), Buffer("y0", dt.i64, (rows,))
    best = Reduce("argmax", (Axis(k, columns),), x[r, k])
    return ComputeGroup("argmax", (x,), (y,), (Compute(y, (Axis(r, rows),), best),))


def add(*shape: Dim) -> ComputeGroup:
    axes = tuple(Axis(Var(f"i{k}"), d) for k, d in enumerate(shape))
    index = tuple(a.var for a in axes)
    x, z, y = (Buffer(n, dt.f32, shape) for n in ("x0", "x1", "y0"))
    return ComputeGroup("add", (x, z), (y,), (Compute(y, axes, x[index] + z[index]),))


def transpose(a: Dim, b: Dim) -> ComputeGroup:
    i, j = variables("i j")
    x, y = Buffer("x0", dt.f32, (a, b)), Buffer("y0", dt.f32, (b, a))
    return ComputeGroup("transpose", (x,), (y,), (Compute(y, (Axis(i, b), Axis(j, a)), x[j, i]),))
