"""exp, exp2, expm1, sigmoid, tanh, sinh, cosh and erf by polynomials and rational functions.

Reduction: Cody and Waite (1980) with ln 2 in two parts, the first short enough that its product
with the exponent is exact. Coefficients: weighted least squares on Chebyshev nodes in 200-bit
arithmetic, lowest coefficient first, each rounded to the format before the rest is fitted again.
The stated bounds are those that tests/tensor/test_polynomials.py holds them to.
"""

from __future__ import annotations

from .. import dtype as dt
from ..dtype import DType
from .floats import (
    Format,
    absolute,
    at_least,
    at_most,
    compare,
    copysign,
    fma,
    format_of,
    horner,
    scaled_index,
    select,
)
from .ir import Expr

_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
_LN2_PARTS: dict[DType, tuple[float, float]] = {
    dt.f32: (0.693145751953125, 1.428606765330187e-06),
    dt.f64: (0.693147180559663, 2.8235290563031577e-13),
}

FLUSHED = -87.0
"""Below it the weights of a softmax are taken for 0: a little above the subnormal ones of f32."""

# exp(r) = 1 + r * (1 + r * EXP(r)) for |r| <= ln 2
_EXP: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        0.5, 0.16666673123836517, 0.04166662320494652, 0.00833257008343935,
        0.0013890925329178572, 0.00020104149007238448, 2.469105675118044e-05,
    ),
    dt.f64: (
        0.5, 0.16666666666666655, 0.041666666666666886, 0.008333333333337536,
        0.0013888888888843797, 0.00019841269836118184, 2.480158733472502e-05,
        2.7557322208417137e-06, 2.7557308217688137e-07, 2.5051219749484485e-08,
        2.0878353251425955e-09, 1.6190549004112686e-10, 1.1415529345731269e-11,
    ),
}  # fmt: skip

# expm1(r) = r + r * r * EXPM1(r) for |r| <= ln 2 / 2
_EXPM1: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        0.4999999701976776, 0.16666541993618011, 0.041667528450489044,
        0.008366692811250687, 0.00138621567748487,
    ),
    dt.f64: (
        0.5000000000000006, 0.166666666666666, 0.04166666666657362, 0.008333333333383519,
        0.0013888888932399315, 0.00019841269731676298, 2.480150439420565e-05,
        2.755739643193934e-06, 2.762635760774076e-07, 2.5057264000887157e-08,
    ),
}  # fmt: skip

# sinh(x) = x + x ** 3 * SINH(x * x) for |x| <= 1
_SINH: dict[DType, tuple[float, ...]] = {
    dt.f32: (
        0.1666666716337204, 0.008333316072821617, 0.0001984139089472592,
        2.791893393805367e-06,
    ),
    dt.f64: (
        0.16666666666666666, 0.008333333333333517, 0.00019841269841136108,
        2.7557319272234427e-06, 2.50520988099145e-08, 1.6060108834113603e-10,
        7.584817119561862e-13, 4.317879624838354e-15,
    ),
}  # fmt: skip

# f32: erf(x) = x + x * ERF(x * x) for |x| <= 1, and 1 - exp(LOG_ERFC(x)) for 1 <= x <= 3.95
_ERF_F32 = (
    0.12837916612625122, -0.3761262893676758, 0.11283618211746216, -0.026855116710066795,
    0.005190691910684109, -0.0008030160679481924, 7.917599577922374e-05,
)  # fmt: skip
_LOG_ERFC = (
    -0.0003409503260627389, -1.1270925998687744, -0.6381371021270752, -0.1031155064702034,
    0.02184334583580494, -0.0029492806643247604, 0.00018657819600775838,
)  # fmt: skip

# f64: erf(x) = x * ERF(x * x) for |x| <= 1, and
# erfc(x) = exp(-x * x) * ERFCX((x - 2) / (x + 2)) for 1 <= x <= 6
_ERF = (
    1.1283791670955126, -0.3761263890318354, 0.11283791670946218, -0.0268661706434128,
    0.005223977606691985, -0.0008548325739170633, 0.00012055274238906429,
    -1.4923787844608323e-05, 1.6420327208641466e-06, -1.569774046289258e-07,
    7.244165982074412e-09, 4.692667945551438e-09, -2.9557322264777106e-09,
    9.228750678625779e-10, -1.2662407707229074e-10,
)  # fmt: skip
_ERFCX = (
    0.25539567631050575, -0.4271858474139583, 0.2416581942424643, -0.07897858101577444,
    0.003732892404462257, 0.006997461744868728, -0.0008471432359236924,
    -0.0009819772844912064, 4.355408592504657e-05, 0.00017436420075630702,
    2.7568480636788935e-05, -2.7521404334597667e-05, -1.4383800766024205e-05,
    -5.4743588465659306e-08, 3.825615938756135e-06, 8.2733583169359e-06,
    1.1393094034127858e-05, 5.616297117537723e-06,
)  # fmt: skip


def _largest_exponent(form: Format) -> float:
    return form.bias + 1.0


def _zero_exponent(form: Format) -> float:
    """The exponent whose half is stored as all zeros: the power is then 0 itself, not 2 ** h.

    Products with it are 0 at once, where tiny powers would underflow, which takes processors a
    hundred steps or more: what is masked off in attention costs no more than the rest.
    """
    return -2.0 * form.bias


def _exp_of(r: Expr, form: Format) -> Expr:
    return horner(r, (1.0, 1.0, *_EXP[form.dtype]))


def exp(x: Expr) -> Expr:
    """e ** x, within 1.5 ULP (f32, f64; without a fused multiply-add 2), subnormals included.

    The exponent is taken even, ``x = 2 * h * ln 2 + r``, so that one power ``2 ** h``, multiplied
    twice, covers the whole range of the format: no result under- or overflows on the way.
    """
    return exp_of_sum(x, None)


def exp_flushed(x: Expr) -> Expr:
    """e ** x, within 1.5 ULP (f32, f64; without a fused multiply-add 2), and 0 below FLUSHED.

    A power of f32 further below is subnormal, and all that is computed with it takes processors a
    hundred steps or more; of weights whose largest is 1 it is none that any sum would show.
    """
    form = format_of(x)
    value = _exp_in_range(at_most(x, (_largest_exponent(form) + 1) * _LN2))
    return select(compare("lt", x, FLUSHED), form.const(0.0), value)


def exp_of_sum(x: Expr, low: Expr | None) -> Expr:
    """e ** (x + low), where ``low`` is below an ULP or so of x (None: 0), and 0 for huge x."""
    form = format_of(x)
    x = at_most(x, (_largest_exponent(form) + 1) * _LN2)
    return _exp_in_range(at_least(x, _zero_exponent(form) * _LN2), low)


def _exp_in_range(x: Expr, low: Expr | None = None) -> Expr:
    form = format_of(x)
    high_ln2, low_ln2 = _LN2_PARTS[form.dtype]
    half, power = scaled_index(x, _LOG2_E / 2, form, form.bias)
    r = fma(half, form.const(-2 * high_ln2), x)
    r = fma(half, form.const(-2 * low_ln2), r)
    return _exp_of(r if low is None else r + low, form) * power * power


def exp2(x: Expr) -> Expr:
    """2 ** x, within 2 ULP (f32, f64)."""
    form = format_of(x)
    x = at_least(at_most(x, _largest_exponent(form) + 1), _zero_exponent(form))
    half, power = scaled_index(x, 0.5, form, form.bias)
    r = fma(half, form.const(-2.0), x) * _LN2
    return _exp_of(r, form) * power * power


def _expm1_parts(x: Expr, form: Format, offset: int) -> tuple[Expr, Expr]:
    """``q`` and ``p = 2 ** (n - offset)`` with e ** x == (1 + q) * 2 ** n and |q| < 0.42."""
    high, low = _LN2_PARTS[form.dtype]
    n, power = scaled_index(x, _LOG2_E, form, form.bias - offset)
    r = fma(n, form.const(-high), x)
    r = fma(n, form.const(-low), r)
    return fma(r * r, horner(r, _EXPM1[form.dtype]), r), power


def expm1(x: Expr) -> Expr:
    """e ** x - 1, within 2.5 ULP (f32, f64), close to 0 included."""
    form = format_of(x)
    limited = at_most(x, (_largest_exponent(form) + 0.25) * _LN2)
    limited = at_least(limited, -(form.mantissa + 4) * _LN2)
    q, half_power = _expm1_parts(limited, form, 1)
    value = fma(q, half_power, half_power - 0.5) * 2.0
    return select(compare("lt", absolute(x), form.tiny), x, value)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e ** -x), within 2.5 ULP (f32, f64; without a fused multiply-add 3.5).

    Both terms of the sum are ``2 ** -k`` times as large, so that the exponential is finite
    wherever the result is not 0, and the division alone may come to a subnormal number.
    """
    form = format_of(x)
    k = form.mantissa + 1
    limited = at_least(at_most(x, (form.bias - 1 - k) * _LN2), -(form.bias + k) * _LN2)
    high, low = _LN2_PARTS[form.dtype]
    n, power = scaled_index(limited, -_LOG2_E, form, form.bias - k)
    # e ** -x == e ** -r * 2 ** n
    r = fma(n, form.const(low), fma(n, form.const(high), limited))
    signs = (1, -1)
    turned = [c * signs[degree % 2] for degree, c in enumerate(_EXPM1[form.dtype])]
    q = fma(r * r, horner(r, turned), -r)
    one = form.const(2.0**-k)
    return one / (one + fma(q, power, power))


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent, within 2.5 ULP (f32, f64).

    With ``t = expm1(2 * |x|) / 2`` it is ``t / (t + 1)``.
    """
    form = format_of(x)
    a = at_most(absolute(x), (form.mantissa + 4) * _LN2 / 2)
    q, half_power = _expm1_parts(a + a, form, 1)
    t = fma(q, half_power, half_power - 0.5)
    return copysign(t / (t + 1.0), x)


def _quarter_exp(a: Expr, form: Format) -> Expr:
    """e ** a / 4 for a >= 0, finite wherever e ** a / 2 is."""
    limited = at_most(a, (_largest_exponent(form) + 1.4) * _LN2)
    q, power = _expm1_parts(limited, form, 2)
    return fma(q, power, power)


def sinh(x: Expr) -> Expr:
    """The hyperbolic sine, within 2 ULP (f32, f64)."""
    form = format_of(x)
    a = absolute(x)
    w = _quarter_exp(a, form)
    large = fma(w, form.const(2.0), form.const(-0.125) / w)
    y = a * a
    small = fma(y * a, horner(y, _SINH[form.dtype]), a)
    return copysign(select(compare("lt", a, 1.0), small, large), x)


def cosh(x: Expr) -> Expr:
    """The hyperbolic cosine, within 2 ULP (f32, f64)."""
    form = format_of(x)
    w = _quarter_exp(absolute(x), form)
    return fma(w, form.const(2.0), form.const(0.125) / w)


def erf(x: Expr) -> Expr:
    """The error function, within 1.5 ULP (f32, f64): one polynomial below 1, one of erfc above."""
    form = format_of(x)
    magnitude = absolute(x)
    if form.dtype is dt.f32:
        a = at_most(magnitude, 3.95)
        y = a * a
        tail = _exp_in_range(horner(a, _LOG_ERFC))
        near = fma(a, horner(y, _ERF_F32), a)
    else:
        a = at_most(magnitude, 6.0)
        y = a * a
        tail = _exp_in_range(-y) * horner((a - 2.0) / (a + 2.0), _ERFCX)
        near = a * horner(y, _ERF)
    value = select(compare("lt", a, 1.0), near, form.const(1.0) - tail)
    return copysign(value, x)
