"""sin, cos, tan and their inverses by polynomials.

Angles are reduced by multiples of pi / 2 in f64, with pi / 2 in two parts for f32 and three for
f64 (Cody and Waite 1980); fused products make every step but the last exact. Finite angles
beyond 2 ** 50, where neighbouring f32 are 2 ** 27 apart, count as 0. Coefficients are fitted as
in exponentials.py.
"""

from __future__ import annotations

from .. import dtype as dt
from ..dtype import DType
from .floats import (
    F64,
    Format,
    absolute,
    bits_of,
    compare,
    copysign,
    fma,
    format_of,
    from_bits,
    horner,
    select,
    sqrt,
    to_f64,
)
from .ir import Binary, Cast, Expr

_TWO_OVER_PI = 0.6366197723675814
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_HALF_PI_PARTS: dict[DType, tuple[float, float]] = {
    dt.f32: (1.5707963705062866, -4.371138828673793e-08),
    dt.f64: _HALF_PI[:2],
}
_LARGEST_ANGLE = 2.0**50
_TAN_EIGHTH, _TAN_THREE_EIGHTHS = 0.4142135623730950, 2.414213562373095

# sin(r) = r + r ** 3 * SIN(r * r) and cos(r) = 1 - r * r / 2 + r ** 4 * COS(r * r), |r| <= pi / 4
_SIN: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        -0.1666666716337204, 0.008333372883498669, -0.00019850295211654156,
        2.8043568818247877e-06,
    ),
    dt.f64: (
        -0.16666666666666666, 0.008333333333333099, -0.0001984126984105443,
        2.7557319127763526e-06, -2.505208557243611e-08, 1.605619910353523e-10,
        -7.482494156362772e-13,
    ),
}  # fmt: skip
_COS: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        0.0416666679084301, -0.0013888974208384752, 2.4819732061587274e-05,
        -2.8660747375397477e-07,
    ),
    dt.f64: (
        0.041666666666666664, -0.0013888888888888436, 2.480158730124501e-05,
        -2.7557319093446676e-07, 2.0876730020781166e-09, -1.1467807462180231e-11,
        4.6360312422461374e-14,
    ),
}  # fmt: skip
# asin(x) = x + x ** 3 * ASIN(x * x) for |x| <= 1 / 2
_ASIN: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        0.16666659712791443, 0.07500515133142471, 0.04451541230082512,
        0.031817805022001266, 0.01440736185759306, 0.037553638219833374,
    ),
    dt.f64: (
        0.1666666666666676, 0.07499999999971048, 0.044642857174297765,
        0.030381942724964518, 0.02237221446897879, 0.017351621680535938,
        0.01398070256804337, 0.011399883105498927, 0.010774824438216462,
        0.0037267448301756185, 0.021658578249008832, -0.020930973186465963,
        0.032586801610281546,
    ),
}  # fmt: skip
# atan(z) = z + z ** 3 * ATAN(z * z) for |z| <= tan(pi / 8)
_ATAN: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        -0.3333333134651184, 0.19999827444553375, -0.14280228316783905,
        0.11025848239660263, -0.08383353054523468, 0.04570722579956055,
    ),
    dt.f64: (
        -0.33333333333333326, 0.19999999999997248, -0.1428571428534593,
        0.11111111085986529, -0.09090908076361313, 0.07692281400148648,
        -0.06666208785559587, 0.058768621463498434, -0.05217462679392563,
        0.04500011832970659, -0.03339784948645756, 0.01512236417602945,
    ),
}  # fmt: skip


def _reduce(x: Expr, form: Format) -> tuple[Expr, Expr]:
    """``r`` and an integer ``q`` with |x| == r + (q + 4 * k) * pi / 2 and |r| <= pi / 4."""
    size = absolute(x)
    # x - x is 0 for finite x, and nan for inf and nan.
    size = to_f64(select(compare("lt", size, _LARGEST_ANGLE), size, x - x))
    shifted = fma(size, F64.const(_TWO_OVER_PI), F64.magic)
    n = shifted - F64.magic
    parts = _HALF_PI[:2] if form.dtype is dt.f32 else _HALF_PI
    r = size
    for part in parts:
        r = fma(n, F64.const(-part), r)
    quadrant = bits_of(shifted)
    if form.dtype is dt.f32:
        return Cast(r, dt.f32), Cast(quadrant, dt.i32)
    return r, quadrant


def _sine(r: Expr, form: Format) -> Expr:
    square = r * r
    return fma(square * r, horner(square, _SIN[form.dtype]), r)


def _cosine(r: Expr, form: Format) -> Expr:
    square = r * r
    start = fma(square, form.const(-0.5), 1.0)
    return fma(square * square, horner(square, _COS[form.dtype]), start)


def _is_odd(q: Expr, form: Format) -> Expr:
    return Binary("ne", Binary("and", q, form.integer(1)), form.integer(0))


def _by_quadrant(r: Expr, q: Expr, form: Format) -> Expr:
    """The bits of sin(r + q * pi / 2)."""
    value = select(_is_odd(q, form), _cosine(r, form), _sine(r, form))
    # Bit 1 of the quadrant is the sign.
    sign = Binary("shl", Binary("and", q, form.integer(2)), form.integer(form.dtype.bits - 2))
    return Binary("xor", bits_of(value), sign)


def _sign_bit(x: Expr, form: Format) -> Expr:
    return Binary("and", bits_of(x), form.integer(-(1 << (form.dtype.bits - 1))))


def sin(x: Expr) -> Expr:
    """The sine, within 2 ULP for |x| < 2 ** 50 (f32) and 2 ** 26 (f64)."""
    form = format_of(x)
    r, q = _reduce(x, form)
    return from_bits(Binary("xor", _by_quadrant(r, q, form), _sign_bit(x, form)), form)


def cos(x: Expr) -> Expr:
    """The cosine, within 2 ULP for |x| < 2 ** 50 (f32) and 2 ** 26 (f64)."""
    form = format_of(x)
    r, q = _reduce(x, form)
    return from_bits(_by_quadrant(r, q + 1, form), form)


def tan(x: Expr) -> Expr:
    """The tangent, within 3.5 ULP for |x| < 2 ** 50 (f32) and 2 ** 26 (f64)."""
    form = format_of(x)
    r, q = _reduce(x, form)
    sine, cosine, is_odd = _sine(r, form), _cosine(r, form), _is_odd(q, form)
    value = select(is_odd, cosine, sine) / select(is_odd, -sine, cosine)
    return from_bits(Binary("xor", bits_of(value), _sign_bit(x, form)), form)


def _asin_parts(x: Expr, form: Format) -> tuple[Expr, Expr, Expr]:
    """Whether |x| > 1/2, and ``t``, ``v``: v == asin(t), where t is |x| or sqrt((1 - |x|) / 2)."""
    a = absolute(x)
    is_far = compare("gt", a, 0.5)
    y = select(is_far, fma(a, form.const(-0.5), 0.5), a * a)
    t = select(is_far, sqrt(y), a)
    return is_far, t, fma(t * y, horner(y, _ASIN[form.dtype]), t)


def asin(x: Expr) -> Expr:
    """The inverse sine, within 2.5 ULP (f32, f64); nan beyond 1.

    Beyond 1/2 it is pi / 2 - 2 * asin(sqrt((1 - x) / 2)).
    """
    form = format_of(x)
    high, low = _HALF_PI_PARTS[form.dtype]
    is_far, _, v = _asin_parts(x, form)
    far = form.const(high) - fma(v, form.const(2.0), -low)
    return copysign(select(is_far, far, v), x)


def acos(x: Expr) -> Expr:
    """The inverse cosine, within 1.5 ULP (f32, f64); nan beyond 1."""
    form = format_of(x)
    high, low = _HALF_PI_PARTS[form.dtype]
    is_far, _, v = _asin_parts(x, form)
    is_minus = compare("lt", x, 0.0)
    near = form.const(high) - (copysign(v, x) - low)
    double = v + v
    far = select(is_minus, form.const(2 * high) - (double - 2 * low), double)
    return select(is_far, far, near)


def atan(x: Expr) -> Expr:
    """The inverse tangent, within 2 ULP (f32, f64).

    ``atan(a) == c + atan(z)`` with z = a, (a - 1) / (a + 1) or -1 / a, and c a multiple of pi / 4.
    """
    form = format_of(x)
    high, low = _HALF_PI_PARTS[form.dtype]
    a = absolute(x)
    is_middle = compare("gt", a, _TAN_EIGHTH)
    is_far = compare("gt", a, _TAN_THREE_EIGHTHS)
    above = select(is_far, form.const(-1.0), select(is_middle, a - 1.0, a))
    below = select(is_far, a, select(is_middle, a + 1.0, 1.0))
    z = above / below
    y = z * z

    def offset(part: float) -> Expr:
        return select(is_far, part, select(is_middle, form.const(part / 2), 0.0))

    value = z + fma(z * y, horner(y, _ATAN[form.dtype]), offset(low))
    return copysign(offset(high) + value, x)
