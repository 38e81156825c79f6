"""Arithmetic of floating-point numbers: correctly rounded where IEEE says so.

The approximations of the hardware (``.approx``, ``ex2``, ``sin``) are modelled by the correctly
rounded function: a GPU differs by the few units in the last place that its manual allows. The
bits of a NaN that an operation makes are not modelled.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np

from ..code import Assembly, Step
from ..ptx import Instruction
from ..rounding import (
    DIRECTIONS,
    fma32,
    fma64,
    fma_exact,
    narrow,
    to_odd,
    two_product,
    two_sum,
    widen,
)
from ..scalars import SCALARS, Array, Scalar
from .lanewise import (
    Builder,
    Function,
    lanewise,
    operands,
    pairs,
    type_of,
    types_of,
    viewed,
)


def single(scalar: Scalar) -> Scalar:
    """The type of one half of a packed type, or the type itself."""
    return SCALARS[scalar.name[:-2]] if scalar.kind == "packed" else scalar


def finished(code: Assembly, instruction: Instruction, function: Function) -> Function:
    """The function on bits with the instruction's ``.ftz``, ``.sat``, ``.relu`` and packing."""
    scalar = type_of(code, instruction)
    one = single(scalar)
    if instruction.has("ftz"):
        function = _flushed(function, one)
    if instruction.has("sat"):
        function = _clamped(function, one)
    if instruction.has("relu"):
        function = _positive(function, one)
    return pairs(function, one) if scalar.kind == "packed" else function


def flush(bits: Array, scalar: Scalar) -> Array:
    """Subnormal numbers become zeros of their sign."""
    exponent = {"f16": 0x7C00, "f32": 0x7F800000, "bf16": 0x7F80}.get(scalar.name, 0)
    raw = scalar.raw.type
    small = (bits & raw(exponent)) == 0
    out: Array = np.where(small, bits & raw(1 << (scalar.bits - 1)), bits)
    return out


def _flushed(function: Function, scalar: Scalar) -> Function:
    return lambda *v: flush(function(*[flush(x, scalar) for x in v]), scalar)


def clamp(bits: Array, scalar: Scalar) -> Array:
    """Values in [0, 1]; NaN is 0."""
    values = widen(bits, scalar)
    inside = np.where(values > 0, np.minimum(values, 1.0), 0.0)
    return np.where((values > 0) & (values <= 1), bits, narrow(inside, scalar))


def _clamped(function: Function, scalar: Scalar) -> Function:
    return lambda *v: clamp(function(*v), scalar)


def _positive(function: Function, scalar: Scalar) -> Function:
    raw = scalar.raw.type

    def relu(*values: Array) -> Array:
        bits = function(*values)
        out = widen(bits, scalar)
        return np.where(out < 0, raw(0), np.where(out == 0, raw(0), bits))

    return relu


def direction(instruction: Instruction) -> str:
    """The rounding that the instruction names; to nearest if none."""
    return next((m for m in instruction.modifiers if m in DIRECTIONS), "rn")


def _arithmetic(plain: Function, exact: Function) -> Builder:
    """An instruction of one operation.

    Args:
        plain: the operation as NumPy rounds it, to nearest.
        exact: the operation on f64 rounded to odd.
    """

    def build(code: Assembly, instruction: Instruction) -> Step:
        if len(types_of(instruction)) == 2:
            return _mixed(code, instruction, exact)
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        one = single(scalar)
        rounding = direction(instruction)
        if rounding != "rn" and one.name == "f64":
            raise code.fail("f64 is modelled with rounding to nearest only")
        if rounding == "rn" and one.view.kind == "f":
            function = viewed(plain, one)
        else:
            function = _through_f64(exact, one, rounding)
        return lanewise(target, sources, finished(code, instruction, function))

    return build


def _mixed(code: Assembly, instruction: Instruction, exact: Function) -> Step:
    """``fma.rn.f32.f16``: all operands but the last are of the shorter type."""
    result, short = types_of(instruction)
    target = code.write(instruction.operands[0], result)
    *first, last = instruction.operands[1:]
    sources = (*(code.read(o, short) for o in first), code.read(last, result))
    kinds = (*(short for _ in first), result)
    rounding, saturates = direction(instruction), instruction.has("sat")

    def function(*bits: Array) -> Array:
        values = [widen(b, kind) for b, kind in zip(bits, kinds, strict=True)]
        out = narrow(exact(*values), result, rounding)
        return clamp(out, result) if saturates else out

    return lanewise(target, sources, function)


def _through_f64(exact: Function, scalar: Scalar, rounding: str) -> Function:
    return lambda *v: narrow(exact(*[widen(x, scalar) for x in v]), scalar, rounding)


def _sum_exact(a: Array, b: Array) -> Array:
    return to_odd(*two_sum(a, b))


def _difference_exact(a: Array, b: Array) -> Array:
    return to_odd(*two_sum(a, -b))


def _product_exact(a: Array, b: Array) -> Array:
    return to_odd(*two_product(a, b))


def _quotient_exact(a: Array, b: Array) -> Array:
    q = a / b
    p, e = two_product(q, b)
    rest = (a - p) - e
    return to_odd(q, np.where(np.isfinite(q), rest / b, 0.0))


def _root_exact(a: Array) -> Array:
    s = np.sqrt(a)
    p, e = two_product(s, s)
    rest = (a - p) - e
    return to_odd(s, np.where(np.isfinite(s) & (s != 0), rest / np.where(s != 0, s, 1.0), 0.0))


def _fused(code: Assembly, instruction: Instruction) -> Step:
    """fma, and mad which is the same for floats."""
    if len(types_of(instruction)) == 2:
        return _mixed(code, instruction, fma_exact)
    scalar = type_of(code, instruction)
    target, sources = operands(code, instruction, scalar)
    one = single(scalar)
    rounding = direction(instruction)
    if rounding == "rn" and one.name == "f32":
        function = viewed(fma32, one)
    elif one.name == "f64":
        if rounding != "rn":
            raise code.fail("f64 is modelled with rounding to nearest only")
        function = viewed(fma64, one)
    else:
        function = _through_f64(fma_exact, one, rounding)
    return lanewise(target, sources, finished(code, instruction, function))


def smaller(a: Array, b: Array) -> Array:
    """The smaller of two f64; a number against a NaN; -0 against +0."""
    return np.where(_less(a, b) | np.isnan(b), a, b)


def larger(a: Array, b: Array) -> Array:
    """The larger of two f64; a number against a NaN; +0 against -0."""
    return np.where(_less(b, a) | np.isnan(b), a, b)


def _less(a: Array, b: Array) -> Array:
    less: Array = (a < b) | ((a == b) & np.signbit(a) & ~np.signbit(b))
    return less


def _extreme(name: str) -> Builder:
    fast: Function = np.fmin if name == "min" else np.fmax
    strict: Function = smaller if name == "min" else larger

    def pick(a: Array, b: Array) -> Array:
        out = fast(a, b)
        if (out == 0).any():
            # NumPy does not say which zero it takes.
            return strict(a, b)
        return out

    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        one = single(scalar)
        nan = instruction.has("NaN")
        signs = instruction.has("xorsign")

        def function(*bits: Array) -> Array:
            if one.view.kind == "f":
                values = [b.view(one.view) for b in bits]
            else:
                values = [widen(b, one) for b in bits]
            parts = [np.abs(v) for v in values] if signs else values
            out = parts[0]
            for part in parts[1:]:
                out = pick(out, part)
            if nan:
                for part in parts:
                    out = np.where(np.isnan(part), part, out)
            found = np.asarray(out).view(one.raw) if one.view.kind == "f" else narrow(out, one)
            if signs:
                top = one.raw.type(1 << (one.bits - 1))
                found = (found & ~top) | ((bits[0] ^ bits[1]) & top)
            return found[()]

        return lanewise(target, sources, finished(code, instruction, function))

    return build


def _sign(function: Function) -> Builder:
    """An instruction that changes the sign bit, given the bits and that bit."""

    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        one = single(scalar)
        top = one.raw.type(1 << (one.bits - 1))
        on_bits: Function = lambda *v: function(*v, top)  # noqa: E731
        return lanewise(target, sources, finished(code, instruction, on_bits))

    return build


def _rounded(function: Function) -> Builder:
    """A function that is computed in f64 and rounded once more."""

    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        one = single(scalar)
        if one.name == "f64" and instruction.has("approx"):
            raise code.fail("the 20-bit approximations of f64 are not modelled")
        function_on_bits: Function = lambda *v: narrow(  # noqa: E731
            function(*[widen(x, one) for x in v]), one
        )
        return lanewise(target, sources, finished(code, instruction, function_on_bits))

    return build


def _division(code: Assembly, instruction: Instruction) -> Step:
    return _arithmetic(operator.truediv, _quotient_exact)(code, instruction)


def _reciprocal(code: Assembly, instruction: Instruction) -> Step:
    def plain(a: Array) -> Array:
        out: Array = a.dtype.type(1) / a
        return out

    def exact(a: Array) -> Array:
        return _quotient_exact(np.ones_like(a), a)

    return _arithmetic(plain, exact)(code, instruction)


def _copysign(a: Array, b: Array, top: Array) -> Array:
    """PTX takes the sign of the first operand and the magnitude of the second."""
    out: Array = (a & top) | (b & ~top)
    return out


FLOATING: Mapping[str, Builder] = {
    "add": _arithmetic(operator.add, _sum_exact),
    "sub": _arithmetic(operator.sub, _difference_exact),
    "mul": _arithmetic(operator.mul, _product_exact),
    "div": _division,
    "rcp": _reciprocal,
    "sqrt": _arithmetic(np.sqrt, _root_exact),
    "fma": _fused,
    "mad": _fused,
    "min": _extreme("min"),
    "max": _extreme("max"),
    "abs": _sign(lambda a, top: a & ~top),
    "neg": _sign(lambda a, top: a ^ top),
    "copysign": _sign(_copysign),
    "rsqrt": _rounded(lambda a: 1.0 / np.sqrt(a)),
    "ex2": _rounded(np.exp2),
    "lg2": _rounded(np.log2),
    "sin": _rounded(np.sin),
    "cos": _rounded(np.cos),
    "tanh": _rounded(np.tanh),
}
"""Instructions on float types."""
