"""Exact sums and products, and their rounding to any format in any direction.

A sum or product that f64 cannot hold is kept by rounding to odd: the last bit of an inexact
result is set, so that a second rounding to a shorter format sees on which side of every midpoint
the exact value lies (Boldo, Melquiond: Emulation of FMA and correctly rounded sums, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from .scalars import SCALARS, Array, Scalar

_F64 = np.float64
_TIE = np.uint64(0x10000000)
_BELOW = np.uint64(0x1FFFFFFF)
DIRECTIONS = ("rn", "rz", "rm", "rp")
"""To nearest (ties to even), towards zero, down, up."""


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """(s, e) with s == round(a + b) and s + e == a + b exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """(p, e) with p == round(a * b) and p + e == a * b exactly, without overflow (Dekker)."""
    p = a * b
    split = _F64(134217729.0)
    ca, cb = split * a, split * b
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def to_odd(s: Array, e: Array) -> Array:
    """The f64 of ``s + e`` rounded to odd, where s is the sum rounded to nearest."""
    bits = np.asarray(s).view(np.int64)
    inexact = (e != 0) & np.isfinite(s) & np.isfinite(e) & ((bits & 1) == 0)
    # Towards e: up in magnitude where both have one sign.
    up = (e > 0) == (s > 0)
    moved = np.where(up, bits + 1, bits - 1)
    out: Array = np.where(inexact, moved, bits).view(_F64)
    return out


def fma_exact(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of values of at most 24 bits, as f64 rounded to odd."""
    return to_odd(*two_sum(a.astype(_F64) * b.astype(_F64), c.astype(_F64)))


def fma32(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of f32 with one rounding, to nearest."""
    total = a.astype(_F64) * b + c
    # f64 holds the product, and the sum but for its last bit: rounding twice differs only where
    # the sum looks like a midpoint of f32 or is below its normal range.
    try:
        with np.errstate(under="raise"):
            out = total.astype(np.float32)
    except FloatingPointError:
        return fma_exact(a, b, c).astype(np.float32)
    if ((np.asarray(total).view(np.uint64) & _BELOW) == _TIE).any():
        return fma_exact(a, b, c).astype(np.float32)
    return out


def fma64(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of f64 with one rounding, to nearest (Boldo, Melquiond, algorithm 5)."""
    a, b, c = np.broadcast_arrays(a, b, c)
    uh, ul = two_product(a, b)
    th, tl = two_sum(c, ul)
    vh, vl = two_sum(uh, th)
    out = vh + to_odd(*two_sum(tl, vl))
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    out = np.where(finite, out, np.where(np.isfinite(a) & np.isfinite(b), c, a * b + c))
    # Near the ends of the range the parts of a product overflow or vanish.
    small = (np.abs(uh) < 1e-280) & (a != 0) & (b != 0)
    extreme = finite & (small | (np.abs(a) > 1e290) | (np.abs(b) > 1e290) | ~np.isfinite(vh))
    for at in zip(*np.nonzero(extreme), strict=True) if extreme.ndim else [()] * int(extreme):
        out[at] = _fma_of_fractions(float(a[at]), float(b[at]), float(c[at]))
    result: Array = out[()]
    return result


def _fma_of_fractions(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        # The quotient of two integers is rounded once.
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def widen(bits: Array, scalar: Scalar) -> Array:
    """The values of a float format as f64, exactly."""
    return _WIDEN[scalar.name](bits)


def narrow(values: Array, scalar: Scalar, direction: str = "rn") -> Array:
    """The bits of f64 values rounded to a format.

    Args:
        values: exact, or rounded to odd.
        direction: one of DIRECTIONS, or ``rna`` (ties away from zero, tf32 only).
    """
    match scalar.name:
        case "f64":
            return np.asarray(values).view(np.uint64)[()]
        case "f32" | "f16":
            return _directed(values, scalar, direction)
        case "bf16":
            return _cut(to_odd_f32(values), 16, direction).astype(np.uint16)
        case "tf32":
            return (_cut(to_odd_f32(values), 13, direction) << np.uint32(13)).astype(np.uint32)
        case _:
            return _float8(values, scalar)


def _directed(values: Array, scalar: Scalar, direction: str) -> Array:
    out = values.astype(scalar.view)
    if direction != "rn":
        back = out.astype(_F64)
        view = scalar.view.type
        if direction == "rz":
            wrong, towards = np.abs(back) > np.abs(values), view(0)
        elif direction == "rm":
            wrong, towards = back > values, view(-np.inf)
        else:
            wrong, towards = back < values, view(np.inf)
        out = np.where(wrong, np.nextafter(out, towards), out)
        # An exact difference of zero is -0 when rounding down; the sign is that of the sum else.
    bits: Array = np.asarray(out).view(scalar.raw)[()]
    return bits


def to_odd_f32(values: Array) -> Array:
    """The bits of f64 values as f32 rounded to odd."""
    near = np.asarray(values.astype(np.float32))
    bits = near.view(np.uint32)
    back = near.astype(_F64)
    inexact = (back != values) & ~np.isnan(values) & ((bits & np.uint32(1)) == 0)
    over = np.abs(back) > np.abs(values)
    moved = np.where(over, bits - np.uint32(1), bits + np.uint32(1))
    out: Array = np.where(inexact, moved, bits)
    return out


def _cut(bits: Array, drop: int, direction: str) -> Array:
    """f32 bits without the last ``drop`` bits of the fraction, rounded, shifted to the right."""
    one = np.uint32(1)
    shift = np.uint32(drop)
    kept = bits >> shift
    rest = bits & np.uint32((1 << drop) - 1)
    half = np.uint32(1 << (drop - 1))
    negative = (bits >> np.uint32(31)) != 0
    match direction:
        case "rn":
            up = (rest > half) | ((rest == half) & ((kept & one) != 0))
        case "rna":
            up = rest >= half
        case "rz":
            up = np.zeros_like(negative)
        case "rm":
            up = negative & (rest != 0)
        case _:
            up = ~negative & (rest != 0)
    rounded = kept + up.astype(np.uint32)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    infinite = (bits & np.uint32(0x7FFFFFFF)) == np.uint32(0x7F800000)
    out: Array = np.where(nan, np.uint32(0x7FFFFFFF >> drop), np.where(infinite, kept, rounded))
    return out


def _float8(values: Array, scalar: Scalar) -> Array:
    """Rounds to nearest with saturation to the largest number, as cvt.satfinite does."""
    bias, fraction, largest = (7, 3, 448.0) if scalar.name == "e4m3" else (15, 2, 57344.0)
    magnitude = np.minimum(np.abs(values), largest)
    _, exponent = np.frexp(magnitude)
    exponent = np.maximum(exponent - 1, 1 - bias)
    unit = np.ldexp(1.0, exponent - fraction)
    number = np.minimum(np.rint(magnitude / unit) * unit, largest)
    _, exponent = np.frexp(number)
    exponent = np.maximum(exponent - 1, 1 - bias)
    steps = (number / np.ldexp(1.0, exponent - fraction)).astype(np.int64)
    normal = steps >= (1 << fraction)
    code = np.where(normal, ((exponent + bias) << fraction) + (steps - (1 << fraction)), steps)
    code = np.where(np.isnan(values), 0x7F, code | (np.signbit(values).astype(np.int64) << 7))
    return code.astype(np.uint8)


def _widen_float8(exponent_bits: int, bias: int) -> Callable[[Array], Array]:
    fraction = 7 - exponent_bits
    codes = np.arange(256)
    exponent = (codes >> fraction) & ((1 << exponent_bits) - 1)
    digits = codes & ((1 << fraction) - 1)
    value = np.where(
        exponent == 0,
        np.ldexp(digits.astype(_F64), 1 - bias - fraction),
        np.ldexp((digits + (1 << fraction)).astype(_F64), exponent - bias - fraction),
    )
    if exponent_bits == 4:
        value = np.where((codes & 0x7F) == 0x7F, np.nan, value)
    else:
        value = np.where(exponent == 31, np.where(digits == 0, np.inf, np.nan), value)
    value = np.where(codes & 0x80, -value, value)
    return lambda bits: np.asarray(value[bits])


def widen_bf16(bits: Array) -> Array:
    """bf16 bits as f32."""
    out: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return out


_WIDEN: Mapping[str, Callable[[Array], Array]] = {
    "f64": lambda bits: bits.view(np.float64),
    "f32": lambda bits: bits.view(np.float32).astype(_F64),
    "tf32": lambda bits: (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(_F64),
    "f16": lambda bits: bits.view(np.float16).astype(_F64),
    "bf16": lambda bits: widen_bf16(bits).astype(_F64),
    "e4m3": _widen_float8(4, 7),
    "e5m2": _widen_float8(5, 15),
}

FLOATS = {name: SCALARS[name] for name in _WIDEN}
"""The float formats."""
