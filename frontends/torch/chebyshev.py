"""Converters of Chebyshev's polynomials, by their closed forms in f64.

By Abramowitz and Stegun, 22.3.15 and 22.3.16, the polynomials of the four kinds are quotients of
cosines and sines of multiples of acos(x); beyond 1 of hyperbolic ones of acosh(x), and
below -1 by their symmetry. So a degree may be any number, and a tensor of its own.
"""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter
from .types import Operand

_KINDS = ("t", "u", "v", "w")


def _polynomial(kind: str, shifted: bool) -> Converter:
    """The polynomial of a kind and of a degree (cut to a whole number), 0 for negative degrees."""

    def convert(ctx: Context, x: Operand, degree: Operand) -> Value:
        wide = ctx.operand(x, dt.f64)
        if shifted:
            wide = ctx.op("sub", ctx.op("mul", wide, 2.0), 1.0)
        whole = ctx.op("trunc", ctx.operand(degree, dt.f64))
        found = _of_degree(ctx, kind, wide, whole)
        none = ctx.op("lt", whole, 0.0)
        return ctx.cast(ctx.op("where", none, ctx.scalar(0.0, dt.f64), found), ctx.dtype)

    return convert


def _of_degree(ctx: Context, kind: str, x: Value, degree: Value) -> Value:
    size = ctx.op("abs", x)
    angle = ctx.op("acos", ctx.op("min", size, 1.0))
    growth = ctx.op("acosh", ctx.op("max", size, 1.0))
    outside = ctx.op("gt", size, 1.0)

    def of(kind: str) -> Value:
        round_ = _quotient(ctx, kind, angle, degree, "")
        open_ = _quotient(ctx, kind, growth, degree, "h")
        found = ctx.op("where", outside, open_, round_)
        return ctx.op("where", ctx.op("eq", size, 1.0), _at_one(ctx, kind, degree), found)

    # p(-x) is (-1)^n p(x), where the third kind turns into the fourth and back.
    mirror = {"v": "w", "w": "v"}.get(kind, kind)
    half = ctx.op("mul", degree, 0.5)
    odd = ctx.op("ne", half, ctx.op("floor", half))
    other = of(mirror)
    other = ctx.op("where", odd, ctx.op("neg", other), other)
    found = ctx.op("where", ctx.op("lt", x, 0.0), other, of(kind))
    return ctx.op("where", ctx.op("isnan", x), x, found)


def _at_one(ctx: Context, kind: str, degree: Value) -> Value:
    if kind in ("t", "v"):
        return ctx.scalar(1.0, degree.dtype)
    return ctx.op("add", degree if kind == "u" else ctx.op("mul", degree, 2.0), 1.0)


def _quotient(ctx: Context, kind: str, angle: Value, degree: Value, hyperbolic: str) -> Value:
    """The closed form of an angle, round or hyperbolic ("h")."""
    if kind == "t":
        return ctx.op(f"cos{hyperbolic}", ctx.op("mul", degree, angle))
    name = f"cos{hyperbolic}" if kind == "v" else f"sin{hyperbolic}"
    step = 1.0 if kind == "u" else 0.5
    above = ctx.op(name, ctx.op("mul", ctx.op("add", degree, step), angle))
    return ctx.op("div", above, ctx.op(name, ctx.op("mul", angle, step)))


CONVERTERS: dict[str, Converter] = {
    f"special_{prefix}chebyshev_polynomial_{kind}.{form}": _polynomial(kind, bool(prefix))
    for prefix in ("", "shifted_")
    for kind in _KINDS
    for form in ("default", "x_scalar", "n_scalar")
}
