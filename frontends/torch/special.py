"""Converters of ATen's special functions, computed in f64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter
from .types import Operand

# Coefficients of Stirling's series, B(2k) / (2k (2k - 1)) and B(2k) / (2k) for k from 1 on
# (Abramowitz and Stegun, 6.1.40 and 6.3.18). From 8 on the first one left out is below 1e-16.
_GAMMA = (
    1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400,
)  # fmt: skip
_DIGAMMA = (
    1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160,
)  # fmt: skip
_SHIFT = 8
# B(2k) / (2k)! for k from 1 on, and how many terms stand before the series that they begin.
_ZETA = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000,
    1 / 74724249600, -3617 / 10670622842880000, 43867 / 5109094217170944000,
)  # fmt: skip
_ZETA_TERMS = 12
_MOST_DERIVATIVES = 170
# Chebyshev coefficients of (1 + 2 x) exp(x^2) erfc(x) for x from 0 on, by y = 1 - 7.5 / (x + 3.75)
# (Shepherd and Laframboise, Mathematics of Computation 36, 1981), from values at 60 nodes in 40
# digits. What is left out is below 1e-16.
_COMPLEMENT = (
    1.1775789345674017, -0.004590054580646478, -0.08424913336651792, 0.05920993999819189,
    -0.026658668435305753, 0.009074997670705265, -0.002413163540417608, 0.0004907758365258086,
    -6.916973302501207e-05, 4.13902798607301e-06, 7.74038306619849e-07, -2.1886401049234397e-07,
    1.076499946567091e-08, 4.521959811218287e-09, -7.754400208831351e-10, -6.318088340886684e-11,
    2.86879501093067e-11, 1.9455868545777347e-13, -9.65469674843344e-13, 3.25254814814874e-14,
    3.3478119482868056e-14, -1.864562880419313e-15, -1.2507950530688648e-15,
)  # fmt: skip


def _in_f64(function: Callable[[Context, Value], Value]) -> Converter:
    def convert(ctx: Context, x: Value) -> Value:
        return ctx.cast(function(ctx, ctx.cast(x, dt.f64)), ctx.dtype)

    return convert


def _series(ctx: Context, x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial ``c[0] + c[1] x + c[2] x^2 + ...``."""
    total = ctx.scalar(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        total = ctx.op("add", ctx.op("mul", x, total), c)
    return total


def _shifted(ctx: Context, x: Value) -> tuple[Value, Value, list[Value]]:
    """Whether x is below 8; x where it is not, else x + 8; and x, x + 1, ... to x + 7."""
    below = ctx.op("lt", x, float(_SHIFT))
    steps = [x, *(ctx.op("add", x, float(i)) for i in range(1, _SHIFT))]
    return below, ctx.op("where", below, ctx.op("add", x, float(_SHIFT)), x), steps


def _fraction(ctx: Context, x: Value) -> Value:
    """Pi times what x is above a whole number."""
    return ctx.op("mul", ctx.op("sub", x, ctx.op("floor", x)), math.pi)


def _log_gamma(ctx: Context, x: Value) -> Value:
    """The logarithm of the absolute value of the gamma function, by Stirling's series."""
    negative = ctx.op("lt", x, 0.0)
    mirrored = ctx.op("where", negative, ctx.op("sub", ctx.scalar(1.0, x.dtype), x), x)
    below, large, steps = _shifted(ctx, mirrored)
    product = steps[0]
    for step in steps[1:]:
        product = ctx.op("mul", product, step)
    passed = ctx.op("where", below, ctx.op("log", product), 0.0)
    inverse = ctx.op("div", ctx.scalar(1.0, x.dtype), large)
    rest = ctx.op("mul", _series(ctx, ctx.op("mul", inverse, inverse), _GAMMA), inverse)
    main = ctx.op("mul", ctx.op("sub", large, 0.5), ctx.op("log", large))
    main = ctx.op("add", ctx.op("sub", main, large), 0.5 * math.log(2 * math.pi))
    value = ctx.op("sub", ctx.op("add", main, rest), passed)
    # gamma(x) gamma(1 - x) = pi / sin(pi x)
    apart = ctx.op("mul", ctx.op("abs", ctx.op("sub", x, ctx.op("round", x))), math.pi)
    sine = ctx.op("log", ctx.op("sin", apart))
    beyond = ctx.op("sub", ctx.op("sub", ctx.scalar(math.log(math.pi), x.dtype), sine), value)
    result = ctx.op("where", negative, beyond, value)
    return ctx.op("where", ctx.op("isinf", x), ctx.scalar(math.inf, x.dtype), result)


def _digamma(ctx: Context, x: Value) -> Value:
    """The derivative of the logarithm of the gamma function; nan at negative whole numbers."""
    one = ctx.scalar(1.0, x.dtype)
    negative = ctx.op("lt", x, 0.0)
    mirrored = ctx.op("where", negative, ctx.op("sub", one, x), x)
    below, large, steps = _shifted(ctx, mirrored)
    total = ctx.op("div", one, steps[0])
    for step in steps[1:]:
        total = ctx.op("add", total, ctx.op("div", one, step))
    passed = ctx.op("where", below, total, 0.0)
    inverse = ctx.op("div", one, large)
    square = ctx.op("mul", inverse, inverse)
    rest = ctx.op("mul", _series(ctx, square, _DIGAMMA), square)
    main = ctx.op("sub", ctx.op("log", large), ctx.op("mul", inverse, 0.5))
    value = ctx.op("sub", ctx.op("sub", main, rest), passed)
    # digamma(1 - x) - digamma(x) = pi / tan(pi x)
    angle = _fraction(ctx, x)
    beyond = ctx.op("sub", value, ctx.op("div", ctx.scalar(math.pi, x.dtype), ctx.op("tan", angle)))
    beyond = ctx.op("where", ctx.op("eq", angle, 0.0), ctx.scalar(math.nan, x.dtype), beyond)
    result = ctx.op("where", negative, beyond, value)
    # At zero the sign of the infinity is the other one of the zero's.
    return ctx.op("where", ctx.op("eq", x, 0.0), ctx.op("neg", ctx.op("div", one, x)), result)


def _scaled_complement(ctx: Context, x: Value) -> Value:
    """``exp(x^2) erfc(x)`` for x from 0 on, by Clenshaw's sum."""
    inverse = ctx.op("div", ctx.scalar(7.5, x.dtype), ctx.op("add", x, 3.75))
    y = ctx.op("sub", ctx.scalar(1.0, x.dtype), inverse)
    twice = ctx.op("mul", y, 2.0)
    total, before = ctx.scalar(_COMPLEMENT[-1], x.dtype), ctx.scalar(0.0, x.dtype)
    for c in reversed(_COMPLEMENT[1:-1]):
        grown = ctx.op("add", ctx.op("sub", ctx.op("mul", twice, total), before), c)
        total, before = grown, total
    total = ctx.op("add", ctx.op("sub", ctx.op("mul", y, total), before), _COMPLEMENT[0])
    return ctx.op("div", total, ctx.op("add", ctx.op("mul", x, 2.0), 1.0))


def _complement(ctx: Context, x: Value) -> Value:
    """``1 - erf(x)``, without a loss of digits where that is small."""
    size = ctx.op("abs", x)
    bell = ctx.op("exp", ctx.op("neg", ctx.op("mul", x, x)))
    part = ctx.op("mul", bell, _scaled_complement(ctx, size))
    other = ctx.op("sub", ctx.scalar(2.0, x.dtype), part)
    return ctx.op("where", ctx.op("lt", x, 0.0), other, part)


def _exponential_complement(ctx: Context, x: Value) -> Value:
    """``exp(x^2) erfc(x)``, which does not leave the range of numbers where erfc does."""
    part = _scaled_complement(ctx, ctx.op("abs", x))
    grown = ctx.op("mul", ctx.op("exp", ctx.op("mul", x, x)), 2.0)
    return ctx.op("where", ctx.op("lt", x, 0.0), ctx.op("sub", grown, part), part)


# ------------------------------------------------------------------ zeta and its kin


def _zeta_of_positive(ctx: Context, s: Value, q: Value) -> Value:
    """``sum((q + k)^-s)`` over k from 0 on, for s above 1 and q above 0.

    Twelve terms, then Euler and Maclaurin's sum of the rest (Abramowitz and Stegun, 23.1.30).
    """
    power = ctx.op("neg", s)
    # Terms along an axis of their own: a power is long, and one loop holds it once.
    exponent, shift = (ctx.unsqueeze(v, (len(v.shape),)) for v in (power, q))
    terms = ctx.op("pow", ctx.op("add", shift, ctx.iota(_ZETA_TERMS, q.dtype)), exponent)
    total = ctx.reduce(terms, "sum", (len(terms.shape) - 1,))
    end = ctx.op("add", q, float(_ZETA_TERMS))
    last = ctx.op("pow", end, power)
    total = ctx.op("add", total, ctx.op("div", ctx.op("mul", last, end), ctx.op("sub", s, 1.0)))
    total = ctx.op("add", total, ctx.op("mul", last, 0.5))
    factor = ctx.op("div", ctx.op("mul", last, s), end)
    square = ctx.op("mul", end, end)
    for k, c in enumerate(_ZETA):
        total = ctx.op("add", total, ctx.op("mul", factor, c))
        grown = ctx.op("mul", ctx.op("add", s, 2.0 * k + 1), ctx.op("add", s, 2.0 * k + 2))
        factor = ctx.op("mul", factor, ctx.op("div", grown, square))
    return total


def _zeta_of(ctx: Context, s: Value, q: Value) -> Value:
    """Hurwitz's zeta function, infinite at its poles, nan where it is not real."""
    one, nan = ctx.scalar(1.0, q.dtype), ctx.scalar(math.nan, q.dtype)
    infinity = ctx.scalar(math.inf, q.dtype)
    negative = ctx.op("lt", q, 0.0)
    whole = ctx.op("eq", q, ctx.op("floor", q))
    rest = ctx.op("sub", q, ctx.op("floor", q))
    # The terms below 0 mirror those from 1 - rest to -q.
    start = ctx.op("where", negative, rest, q)
    start = ctx.op("where", ctx.op("le", start, 0.0), one, start)
    value = _zeta_of_positive(ctx, s, start)
    mirrored = ctx.op("where", negative, ctx.op("sub", one, rest), one)
    passed = ctx.op("where", negative, ctx.op("sub", one, q), one)
    below = ctx.op("sub", _zeta_of_positive(ctx, s, mirrored), _zeta_of_positive(ctx, s, passed))
    half = ctx.op("mul", s, 0.5)
    even = ctx.op("eq", half, ctx.op("floor", half))
    below = ctx.op("where", even, below, ctx.op("neg", below))
    value = ctx.op("where", negative, ctx.op("add", value, below), value)
    real = ctx.op("or", ctx.op("eq", s, ctx.op("floor", s)), ctx.op("not", negative))
    value = ctx.op("where", real, value, nan)
    pole = ctx.op("and", whole, ctx.op("le", q, 0.0))
    value = ctx.op("where", pole, infinity, value)
    value = ctx.op("where", ctx.op("lt", s, 1.0), nan, value)
    return ctx.op("where", ctx.op("eq", s, 1.0), infinity, value)


def zeta(ctx: Context, s: Operand, q: Operand) -> Value:
    """Hurwitz's zeta function."""
    return ctx.cast(_zeta_of(ctx, ctx.operand(s, dt.f64), ctx.operand(q, dt.f64)), ctx.dtype)


def polygamma(ctx: Context, order: int, x: Value) -> Value:
    """A derivative of the digamma function, by Hurwitz's zeta function of x."""
    wide = ctx.cast(x, dt.f64)
    if order == 0:
        return ctx.cast(_digamma(ctx, wide), ctx.dtype)
    if order > _MOST_DERIVATIVES:
        ctx.unsupported(f"derivative {order} of digamma, whose factor no f64 holds")
    factor = math.factorial(order) * (1.0 if order % 2 else -1.0)
    found = _zeta_of(ctx, ctx.scalar(order + 1.0, dt.f64), wide)
    found = ctx.cast(ctx.op("mul", found, factor), ctx.dtype)
    if order > 1:
        return found
    endless = ctx.op("eq", wide, math.inf)
    found = ctx.op("where", endless, ctx.scalar(0.0, ctx.dtype), found)
    # Torch mirrors the first by the sine of pi x, which rounds to other numbers than 0 at poles.
    given = ctx.widened(ctx.cast(x, ctx.dtype))
    sine = ctx.op("sin", ctx.op("mul", given, math.pi))
    large = ctx.op("div", ctx.scalar(math.pi, given.dtype), sine)
    large = ctx.cast(ctx.op("mul", large, large), ctx.dtype)
    return ctx.op("where", ctx.op("isinf", found), large, found)


CONVERTERS: dict[str, Converter] = {
    "digamma.default": _in_f64(_digamma),
    "erfc.default": _in_f64(_complement),
    "lgamma.default": _in_f64(_log_gamma),
    "polygamma.default": polygamma,
    "special_erfcx.default": _in_f64(_exponential_complement),
    "special_zeta.default": zeta,
    "special_zeta.other_scalar": zeta,
    "special_zeta.self_scalar": zeta,
}
