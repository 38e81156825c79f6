"""log, log2, log1p, asinh, acosh, atanh and pow by polynomials.

A value is split as ``m * 2 ** e`` with m between sqrt(1/2) and sqrt(2), by integer arithmetic on
its bits. f32 takes log(1 + f) as a polynomial in f; f64 as one in s = f / (2 + f), arranged so
that the leading term stays exact (Tang 1990). Coefficients are fitted as in exponentials.py.
"""

from __future__ import annotations

from math import inf, nan

from .. import dtype as dt
from ..dtype import DType
from .exponentials import exp_of_sum
from .floats import (
    F64,
    Format,
    absolute,
    at_least,
    at_most,
    bits_of,
    both,
    compare,
    copysign,
    fma,
    format_of,
    from_bits,
    horner,
    scaled_index,
    select,
    sqrt,
    to_f64,
)
from .ir import Binary, Call, Cast, Expr

_LN2 = 0.6931471805599453
_LOG2_E = 1.4426950408889634
_LN2_PARTS: dict[DType, tuple[float, float]] = {
    dt.f32: (0.693145751953125, 1.428606765330187e-06),
    dt.f64: (0.693147180559663, 2.8235290563031577e-13),
}
_SQRT_HALF_BITS: dict[DType, int] = {dt.f32: 0x3F3504F3, dt.f64: 0x3FE6A09E667F3BCD}
_SMALLEST_NORMAL: dict[DType, float] = {dt.f32: 2.0**-126, dt.f64: 2.0**-1022}

# f32: log(1 + f) = f - f * f / 2 + f ** 3 * LOG(f)
_LOG_F32 = (
    0.3333331048488617, -0.25000014901161194, 0.20002226531505585, -0.16667726635932922,
    0.14217562973499298, -0.12409746646881104, 0.11905413120985031, -0.1165514588356018,
    0.06684155762195587,
)  # fmt: skip
# f64: log((1 + s) / (1 - s)) = 2 * s + s ** 3 * LOG(s * s)
_LOG_F64 = (
    0.6666666666666737, 0.3999999999939863, 0.28571428745551214, 0.22222198273544116,
    0.1818357906686337, 0.1531368752092411, 0.14799487338447104,
)  # fmt: skip
# The same with 2 / 3 taken out: 2 * s + s ** 3 * (2 / 3 + s * s * TAIL(s * s))
_LOG_TAIL = (
    0.39999999999999974, 0.28571428571446694, 0.2222222221721108, 0.18181818905015118,
    0.15384554771347336, 0.13336390183866967, 0.11673471560320936, 0.1199934463524945,
)  # fmt: skip
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)
# f32's pow: the same as LOG_F64, good to 2 ** -44; and 2 ** r for |r| <= 1 / 2, to 2 ** -29
_LOG_SHORT = (
    0.66666666676074, 0.39999995544796024, 0.28572116428020244, 0.22175907593207028,
    0.19587986027758336,
)  # fmt: skip
_EXP2_SHORT = (
    1.0, 0.6931472067106199, 0.24022651084149668, 0.055503272142092296,
    0.009618035958600904, 0.0013400432165377564, 0.0001546736497289471,
)  # fmt: skip


def _split(x: Expr, form: Format) -> tuple[Expr, Expr]:
    """``m`` and the integer ``e`` of a positive normal x == m * 2 ** e."""
    bits = bits_of(x)
    shift = form.integer(form.mantissa)
    above = bits - _SQRT_HALF_BITS[form.dtype]
    e = Binary("shr", above, shift)
    return from_bits(bits - Binary("shl", e, shift), form), e


def _split_any(x: Expr, form: Format) -> tuple[Expr, Expr]:
    """``m`` and ``e`` as a float, for positive subnormals too."""
    is_small = compare("lt", x, _SMALLEST_NORMAL[form.dtype])
    lift = form.mantissa + 1
    m, e = _split(select(is_small, x * 2.0**lift, x), form)
    exponent = Cast(e, form.dtype)
    return m, select(is_small, exponent - float(lift), exponent)


def _log_near(f: Expr, e: Expr | None, form: Format) -> Expr:
    """log(1 + f) + e * ln 2 for 1 + f between sqrt(1/2) and sqrt(2)."""
    high, low = _LN2_PARTS[form.dtype]
    square = f * f
    if form.dtype is dt.f32:
        rest = square * f * horner(f, _LOG_F32)
        rest = rest if e is None else fma(e, form.const(low), rest)
        value = f + fma(square, form.const(-0.5), rest)
    else:
        s = f / (f + 2.0)
        z = s * s
        half = square * 0.5
        rest = s * fma(z, horner(z, _LOG_F64), half)
        rest = rest if e is None else fma(e, form.const(low), rest)
        value = f - (half - rest)
    return value if e is None else fma(e, form.const(high), value)


def _with_ends(x: Expr, value: Expr) -> Expr:
    """``value`` for positive finite x; inf for inf, -inf for 0, nan for the rest."""
    above = select(compare("lt", x, inf), value, x)
    return select(compare("gt", x, 0.0), above, _pole(x))


def _pole(x: Expr) -> Expr:
    form = format_of(x)
    return select(compare("eq", x, 0.0), form.const(-inf), form.const(nan))


def log(x: Expr) -> Expr:
    """The natural logarithm, within 1 ULP (f32, f64)."""
    form = format_of(x)
    m, e = _split_any(x, form)
    return _with_ends(x, _log_near(m - 1.0, e, form))


def log2(x: Expr) -> Expr:
    """The logarithm to base 2, within 2 ULP (f32, f64) and exact for powers of 2."""
    form = format_of(x)
    m, e = _split_any(x, form)
    return _with_ends(x, fma(_log_near(m - 1.0, None, form), form.const(_LOG2_E), e))


def log1p(x: Expr) -> Expr:
    """log(1 + x), within 2 ULP (f32, f64), close to 0 included.

    ``1 + x`` is rounded only to find its exponent; the reduced argument ``(1 + x) * 2 ** -e - 1``
    is one fma of x itself.
    """
    form = format_of(x)
    u = x + 1.0
    _, e = _split(u, form)
    # 2 ** (2 - e) rather than 2 ** -e, which is subnormal for the largest x.
    power = Binary("shl", form.integer(form.bias + 2) - e, form.integer(form.mantissa))
    scale = from_bits(power, form)
    f = fma(x * 0.25, scale, fma(scale, form.const(0.25), -1.0))
    value = _with_ends(u, _log_near(f, Cast(e, form.dtype), form))
    return select(compare("lt", absolute(x), form.tiny), x, value)


def _log1p_or_double(u: Expr, a: Expr, form: Format) -> Expr:
    """log1p(u), or log(2 * a) where a is so large that its square may overflow."""
    is_large = compare("gt", a, 2.0 ** (form.mantissa + 7))
    value = log1p(select(is_large, a, u))
    return select(is_large, value + _LN2, value)


def asinh(x: Expr) -> Expr:
    """The inverse hyperbolic sine, within 2.5 ULP (f32, f64)."""
    form = format_of(x)
    a = absolute(x)
    square = a * a
    u = a + square / (sqrt(square + 1.0) + 1.0)
    return copysign(_log1p_or_double(u, a, form), x)


def acosh(x: Expr) -> Expr:
    """The inverse hyperbolic cosine, within 2.5 ULP (f32, f64); nan below 1."""
    above = x - 1.0
    u = above + sqrt(above * (x + 1.0))
    value = _log1p_or_double(u, x, format_of(x))
    return select(compare("ge", x, 1.0), value, nan)


def atanh(x: Expr) -> Expr:
    """The inverse hyperbolic tangent, within 2.5 ULP (f32, f64); inf at 1, nan beyond."""
    a = absolute(x)
    return copysign(log1p((a + a) / (format_of(x).const(1.0) - a)) * 0.5, x)


# ------------------------------------------------------------------ pow


def pow_(x: Expr, y: Expr) -> Expr:
    """x ** y with every special case of IEEE 754's pow, within 1 ULP (f32) and 2 ULP (f64)."""
    a = absolute(x)
    size = _pow_f32(a, y) if x.dtype is dt.f32 else _pow_f64(a, y)
    # (-1) ** inf is 1, where the logarithm is 0 and the product nan.
    size = select(both(compare("eq", a, 1.0), compare("eq", y, y)), 1.0, size)
    form = format_of(x)
    half = y * 0.5
    is_whole = compare("eq", _trunc(y), y)
    is_odd = both(is_whole, compare("ne", _trunc(half), half))
    is_minus = Binary("lt", bits_of(x), form.integer(0))
    value = select(both(is_odd, is_minus), -size, size)
    is_bad = both(both(compare("lt", x, 0.0), compare("gt", x, -inf)), compare("ne", _trunc(y), y))
    value = select(is_bad, form.const(nan), value)
    is_one = Binary("or", compare("eq", x, 1.0), compare("eq", y, 0.0))
    return select(is_one, 1.0, value)


def _trunc(x: Expr) -> Expr:
    return Call("trunc", (x,), x.dtype)


def _pow_f32(a: Expr, y: Expr) -> Expr:
    """a ** y for a >= 0 by way of f64, where 2 ** -36 of the logarithm is enough."""
    wide = to_f64(a)
    m, e = _split(wide, F64)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    logarithm = fma(s * z, horner(z, _LOG_SHORT), s + s)
    exponent = _with_ends(wide, fma(logarithm, F64.const(_LOG2_E), Cast(e, dt.f64))) * to_f64(y)
    exponent = at_least(at_most(exponent, 200.0), -200.0)
    n, power = scaled_index(exponent, 1.0, F64, F64.bias)
    return Cast(horner(exponent - n, _EXP2_SHORT) * power, dt.f32)


def _pow_f64(a: Expr, y: Expr) -> Expr:
    """a ** y for a >= 0: the logarithm is a sum of two floats, good to 2 ** -64."""
    high, low = _log_pair(a)
    high = _with_ends(a, high)
    product = y * high
    rest = fma(y, high, -product) + y * low
    is_moderate = compare("lt", absolute(product), 800.0)
    return exp_of_sum(product, select(is_moderate, rest, 0.0))


def _log_pair(a: Expr) -> tuple[Expr, Expr]:
    """log(a) as a sum of two f64 for positive finite a (double-double, Dekker 1971)."""
    m, e = _split_any(a, F64)
    f = m - 1.0
    d_high = f + 2.0
    d_low = f - (d_high - 2.0)
    s_high = f / d_high
    s_low = (fma(-s_high, d_high, f) - s_high * d_low) / d_high
    z_high = s_high * s_high
    z_low = fma(s_high, s_high, -z_high) + (s_high + s_high) * s_low
    # k = 2 / 3 + z * TAIL(z), then q = 2 + z * k, then s * q
    tail = z_high * horner(z_high, _LOG_TAIL)
    k_high = tail + _TWO_THIRDS[0]
    k_low = (tail - (k_high - _TWO_THIRDS[0])) + _TWO_THIRDS[1]
    p_high = z_high * k_high
    p_low = fma(z_high, k_high, -p_high) + fma(z_high, k_low, z_low * k_high)
    q_high = p_high + 2.0
    q_low = (p_high - (q_high - 2.0)) + p_low
    l_high = s_high * q_high
    l_low = fma(s_high, q_high, -l_high) + fma(s_high, q_low, s_low * q_high)
    # Plus e * ln 2, whose high part is exact and, unless 0, the larger.
    ln2_high, ln2_low = _LN2_PARTS[dt.f64]
    whole = e * ln2_high
    total = whole + l_high
    rest = fma(e, F64.const(ln2_low), (l_high - (total - whole)) + l_low)
    high = total + rest
    return high, rest - (high - total)
