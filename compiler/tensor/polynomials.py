"""The expansions of scalar functions into native ones: vector code without a math library.

Each is branch-free: what a polynomial cannot give (poles, ends of the range) is selected.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from .. import dtype as dt
from .exponentials import cosh, erf, exp, exp2, exp_flushed, expm1, sigmoid, sinh, tanh
from .floats import absolute, compare, copysign, fma, format_of, select, sqrt, to_f64
from .ir import Binary, Call, Cast, Const, Expr, Select
from .logarithms import acosh, asinh, atanh, log, log1p, log2, pow_
from .trigonometry import acos, asin, atan, cos, sin, tan


def rsqrt(x: Expr) -> Expr:
    """1 / sqrt(x), both correctly rounded: within 1.5 ULP."""
    return format_of(x).const(1.0) / sqrt(x)


def isnan(x: Expr) -> Expr:
    """Whether x is not a number."""
    return Binary("ne", x, x)


def isinf(x: Expr) -> Expr:
    """Whether x is an infinity of either sign."""
    return compare("eq", absolute(x), inf)


def fmod(x: Expr, y: Expr) -> Expr:
    """The exact remainder of x / y with the sign of x (integers: of the truncating division).

    Each step takes away a multiple ``q * y``, q the rounded quotient: the rest is exact as an fma
    and 2 ** 52 times smaller, so a fixed number of steps covers every pair of operands.
    """
    if not x.dtype.is_float:
        return x - (x / y) * y
    if x.dtype is dt.f32:
        wide = _fmod_sizes(to_f64(absolute(x)), [to_f64(absolute(y))], 6)
        size: Expr = Cast(wide, dt.f32)
    else:
        a = absolute(y)
        # Steps by large multiples of y first, since x / y itself may overflow.
        once = select(compare("lt", a, 2.0**300), a * 2.0**700, a)
        twice = select(compare("lt", a, 2.0**-377), a * 2.0**700 * 2.0**700, once)
        size = _fmod_sizes(absolute(x), [twice, once, a], 14)
    size = select(compare("gt", absolute(y), absolute(x)), absolute(x), size)
    return copysign(size, x)


def _fmod_sizes(x: Expr, moduli: list[Expr], steps: int) -> Expr:
    """x modulo the last modulus, for x and moduli >= 0 (each a multiple of the next)."""
    rest = x
    for y in moduli:
        for _ in range(steps):
            quotient = rest / y
            rest = fma(-Call("trunc", (quotient,), dt.f64), y, rest)
    return select(compare("lt", rest, 0.0), rest + moduli[-1], rest)


def pow_or_integer_pow(x: Expr, y: Expr) -> Expr:
    """x ** y; integers by squaring, wrapping, with 1 / x ** -y truncated for negative y."""
    if x.dtype.is_float:
        return pow_(x, y)
    kind = x.dtype
    zero, one = Const(0, kind), Const(1, kind)
    result: Expr = one
    base, power = x, y
    for step in range(kind.bits - (1 if kind.is_signed else 0)):
        if step:
            base = base * base
            power = Binary("shr", power, one)
        is_odd = Binary("ne", Binary("and", power, one), zero)
        result = Select(is_odd, result * base, result)
    if not kind.is_signed:
        return result
    y_is_odd = Binary("ne", Binary("and", y, one), zero)
    of_minus_one = Select(y_is_odd, Const(-1, kind), one)
    of_small = Select(Binary("eq", x, Const(-1, kind)), of_minus_one, zero)
    inverse = Select(Binary("eq", x, one), one, of_small)
    return Select(Binary("lt", y, zero), inverse, result)


EXPANSIONS: dict[str, Callable[..., Expr]] = {
    "rsqrt": rsqrt,
    "isnan": isnan,
    "isinf": isinf,
    "exp": exp,
    "exp_flushed": exp_flushed,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log2": log2,
    "log1p": log1p,
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "asin": asin,
    "acos": acos,
    "atan": atan,
    "sinh": sinh,
    "cosh": cosh,
    "tanh": tanh,
    "asinh": asinh,
    "acosh": acosh,
    "atanh": atanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "pow": pow_or_integer_pow,
    "fmod": fmod,
}
