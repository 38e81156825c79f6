"""Floating-point formats in exact fractions: an independent account of what rounding means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Format:
    """A binary format: bits of the exponent, bits of the fraction, zero bits below."""

    exponent: int
    fraction: int
    pad: int = 0

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.fraction + self.pad

    def decode(self, code: int) -> Fraction | float:
        """The number; a float where it is infinite, no number, or -0."""
        code >>= self.pad
        digits = code & ((1 << self.fraction) - 1)
        exponent = (code >> self.fraction) & ((1 << self.exponent) - 1)
        negative = code >> (self.fraction + self.exponent) & 1
        if exponent == (1 << self.exponent) - 1:
            return math.nan if digits else (-math.inf if negative else math.inf)
        if exponent == 0 and digits == 0 and negative:
            return -0.0
        lead = 1 if exponent else 0
        scale = max(exponent, 1) - self.bias - self.fraction
        value = Fraction((lead << self.fraction) + digits) * Fraction(2) ** scale
        return -value if negative else value

    def encode(self, value: Fraction | float, direction: str = "rn") -> int:
        """The bits of a number, rounded."""
        sign = 1 << (self.exponent + self.fraction)
        top = ((1 << self.exponent) - 1) << self.fraction
        if isinstance(value, float):
            if math.isnan(value):
                return ((top | (sign >> self.exponent + 1)) | 1) << self.pad
            if math.isinf(value):
                return (top | (sign if value < 0 else 0)) << self.pad
            if value == 0:
                return (sign if math.copysign(1, value) < 0 else 0) << self.pad
            value = Fraction(value)
        negative = value < 0
        magnitude = abs(value)
        if magnitude == 0:
            return 0
        exponent = max(_log2(magnitude), 1 - self.bias)
        unit = Fraction(2) ** (exponent - self.fraction)
        steps = magnitude / unit
        whole = steps.numerator // steps.denominator
        rest = steps - whole
        up = {
            "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
            "rna": rest >= Fraction(1, 2),
            "rz": False,
            "rm": negative and rest > 0,
            "rp": not negative and rest > 0,
        }[direction]
        whole += up
        code = ((exponent + self.bias - 1) << self.fraction) + whole
        if code >= top:
            # Beyond the largest number: infinity, but where rounding goes the other way.
            keeps = direction == "rz" or (direction == "rm" and not negative)
            keeps = keeps or (direction == "rp" and negative)
            code = top - 1 if keeps else top
        return (code | (sign if negative else 0)) << self.pad


def _log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    while Fraction(2) ** guess > value:
        guess -= 1
    while Fraction(2) ** (guess + 1) <= value:
        guess += 1
    return guess


FORMATS = {
    "f16": Format(5, 10),
    "bf16": Format(8, 7),
    "tf32": Format(8, 10, 13),
    "f32": Format(8, 23),
    "f64": Format(11, 52),
}


def is_nan(code: int, name: str) -> bool:
    value = FORMATS[name].decode(code)
    return isinstance(value, float) and math.isnan(value)


def number(code: int, name: str) -> float:
    """The value as a float, which all formats but in their last bit fit."""
    return float(FORMATS[name].decode(code))


def arithmetic(operation: str, name: str, codes: list[int], direction: str = "rn") -> int:
    """The bits of a sum, product, quotient, fused product or root, exact and then rounded."""
    form = FORMATS[name]
    values = [form.decode(c) for c in codes]
    floats = [float(v) for v in values]
    if any(not math.isfinite(f) for f in floats):
        return form.encode(_with_infinities(operation, floats))
    exact = [Fraction(v) for v in values]
    negative = [math.copysign(1, f) < 0 for f in floats]
    match operation:
        case "add":
            out, zero = exact[0] + exact[1], all(negative[:2])
        case "sub":
            out, zero = exact[0] - exact[1], negative[0] and not negative[1]
        case "mul":
            out, zero = exact[0] * exact[1], negative[0] != negative[1]
        case "fma":
            out = exact[0] * exact[1] + exact[2]
            zero = (negative[0] != negative[1]) and negative[2]
        case "div":
            if exact[1] == 0:
                if exact[0] == 0:
                    return form.encode(math.nan)
                return form.encode(-math.inf if negative[0] != negative[1] else math.inf)
            out, zero = exact[0] / exact[1], negative[0] != negative[1]
        case _:
            return _root(form, exact[0], floats[0], direction)
    if out == 0:
        both_zero = _cancels(operation, exact)
        if operation in ("add", "sub", "fma") and both_zero and direction == "rm":
            return form.encode(-0.0)
        if operation in ("add", "sub", "fma") and both_zero:
            return form.encode(0.0)
        if direction == "rm" and operation in ("add", "sub", "fma"):
            signs = _signs_of_zeros(operation, negative)
            return form.encode(-0.0 if any(signs) else 0.0)
        return form.encode(-0.0 if zero else 0.0)
    code = form.encode(out, direction)
    if code == 0 and out < 0:
        return form.encode(-0.0)
    return code


def _cancels(operation: str, exact: list[Fraction]) -> bool:
    """Whether a zero is the difference of numbers that are none."""
    if operation == "fma":
        return exact[2] != 0
    return operation in ("add", "sub") and exact[0] != 0


def _signs_of_zeros(operation: str, negative: list[bool]) -> list[bool]:
    match operation:
        case "add":
            return negative[:2]
        case "sub":
            return [negative[0], not negative[1]]
        case _:
            return [negative[0] != negative[1], negative[2]]


def _root(form: Format, exact: Fraction, value: float, direction: str) -> int:
    if value == 0:
        return form.encode(value)
    if exact < 0:
        return form.encode(math.nan)
    # Far more digits than any format has; a root that ends there is exact.
    scale = 1 << 1200
    digits = math.isqrt(exact.numerator * scale * scale // exact.denominator)
    root = Fraction(digits, scale)
    if root * root != exact:
        root += Fraction(1, 2 * scale)
    return form.encode(root, direction)


def _with_infinities(operation: str, v: list[float]) -> float:
    try:
        match operation:
            case "add":
                return v[0] + v[1]
            case "sub":
                return v[0] - v[1]
            case "mul":
                return _times(v[0], v[1])
            case "fma":
                return _times(v[0], v[1]) + v[2]
            case "div":
                if v[1] == 0 and not math.isnan(v[0]):
                    return math.copysign(math.inf, v[0]) * math.copysign(1, v[1])
                return v[0] / v[1]
            case _:
                return math.sqrt(v[0]) if not v[0] < 0 else math.nan
    except (OverflowError, ValueError):
        return math.nan


def _times(a: float, b: float) -> float:
    """A product whose finite operands cannot overflow: only its sign and its infinity matter."""
    if math.isfinite(a) and math.isfinite(b):
        return math.copysign(1.0, a) * math.copysign(1.0, b) if a and b else a * b
    return a * b
