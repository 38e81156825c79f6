"""Converters of ATen's special functions, computed in f64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .context import Context, Converter

# Coefficients of Stirling's series, B(2k) / (2k (2k - 1)) and B(2k) / (2k) for k from 1 on
# (Abramowitz and Stegun, 6.1.40 and 6.3.18). From 8 on the first one left out is below 1e-16.
_GAMMA = (
    1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400,
)  # fmt: skip
_DIGAMMA = (
    1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160,
)  # fmt: skip
_SHIFT = 8


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
    sine = ctx.op("log", ctx.op("sin", _fraction(ctx, x)))
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


CONVERTERS: dict[str, Converter] = {
    "digamma.default": _in_f64(_digamma),
    "lgamma.default": _in_f64(_log_gamma),
}
