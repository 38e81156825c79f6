"""IEEE floats as tensor IR: their bits, and the pieces that polynomial expansions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import dtype as dt
from ..dtype import DType
from .ir import Binary, BinaryOp, Call, Cast, Const, Expr, Select, Unary


@dataclass(frozen=True, slots=True)
class Format:
    """The layout of a float type that expansions compute in.

    Attributes:
        dtype: f32 or f64.
        bits: the signed integer type of the same width.
        mantissa: how many bits the fraction takes.
        bias: what is added to an exponent to store it.
        magic: 1.5 * 2 ** mantissa; adding it leaves the nearest integer in the low bits.
        tiny: below it in magnitude ``x + O(x ** 2)`` rounds to x.
    """

    dtype: DType
    bits: DType
    mantissa: int
    bias: int
    magic: float
    tiny: float

    def const(self, value: float) -> Const:
        """A constant of the format."""
        return Const(value, self.dtype)

    def integer(self, value: int) -> Const:
        """A constant of the integer type of the same width."""
        return Const(value, self.bits)


F32 = Format(dt.f32, dt.i32, 23, 127, 1.5 * 2.0**23, 2.0**-25)
F64 = Format(dt.f64, dt.i64, 52, 1023, 1.5 * 2.0**52, 2.0**-54)


def format_of(x: Expr) -> Format:
    """The format of an operand.

    Raises:
        TypeError: it is neither f32 nor f64.
    """
    if x.dtype is dt.f32:
        return F32
    if x.dtype is dt.f64:
        return F64
    raise TypeError(f"expansions compute in f32 and f64, given {x.dtype}")


def fma(a: Expr, b: Expr, c: Expr | float) -> Expr:
    """``a * b + c``, rounded once."""
    return Call("fma", (a, b, _like(a, c)), a.dtype)


def mad(a: Expr, b: Expr, c: Expr | float) -> Expr:
    """``a * b + c``, rounded once or twice: for terms whose last bit does not matter."""
    return Call("mad", (a, b, _like(a, c)), a.dtype)


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """``c0 + c1 * x + c2 * x ** 2 + ...`` by Horner's rule, one mad for each degree."""
    total: Expr = Const(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        total = mad(total, x, c)
    return total


def sqrt(x: Expr) -> Expr:
    """The correctly rounded square root."""
    return Call("sqrt", (x,), x.dtype)


def copysign(magnitude: Expr, sign: Expr) -> Expr:
    """The magnitude of one value with the sign of another."""
    return Call("copysign", (magnitude, sign), magnitude.dtype)


def absolute(x: Expr) -> Expr:
    """``x`` without its sign."""
    return Unary("abs", x)


def bits_of(x: Expr) -> Expr:
    """The bits of a float as an integer of its width."""
    return Call("bitcast", (x,), format_of(x).bits)


def from_bits(x: Expr, form: Format) -> Expr:
    """The float that has these bits."""
    return Call("bitcast", (x,), form.dtype)


def compare(op: BinaryOp, a: Expr, b: Expr | float) -> Expr:
    """A comparison with a value or a number; False where either is nan, save ``ne``."""
    return Binary(op, a, _like(a, b))


def select(cond: Expr, a: Expr | float, b: Expr | float) -> Expr:
    """``a`` where the condition holds, else ``b``; one of the two may be a number."""
    if isinstance(a, Expr):
        return Select(cond, a, _like(a, b))
    assert isinstance(b, Expr)
    return Select(cond, _like(b, a), b)


def at_most(x: Expr, limit: float) -> Expr:
    """``x`` limited from above; nan stays (one instruction, where min of the IR takes several)."""
    return select(compare("lt", Const(limit, x.dtype), x), limit, x)


def at_least(x: Expr, limit: float) -> Expr:
    """``x`` limited from below; nan stays."""
    return select(compare("gt", Const(limit, x.dtype), x), limit, x)


def both(a: Expr, b: Expr) -> Expr:
    """The logical and of two conditions."""
    return Binary("and", a, b)


def _like(a: Expr, value: Expr | float) -> Expr:
    return value if isinstance(value, Expr) else Const(value, a.dtype)


def scaled_index(x: Expr, factor: float, form: Format, bias: int) -> tuple[Expr, Expr]:
    """The integer nearest to ``x * factor``, as a float, and ``2 ** it`` (times 2 ** (bias - own)).

    The integer is read out of the low bits of a sum with the magic number, so that neither a
    rounding nor a conversion instruction is needed; ``|x * factor|`` must stay below 2 ** 21.
    """
    offset = form.const(form.magic + bias)
    shifted = mad(x, form.const(factor), offset)
    power = from_bits(Binary("shl", bits_of(shifted), form.integer(form.mantissa)), form)
    return shifted - offset, power


def to_f64(x: Expr) -> Expr:
    """The value in f64."""
    return x if x.dtype is dt.f64 else Cast(x, dt.f64)
