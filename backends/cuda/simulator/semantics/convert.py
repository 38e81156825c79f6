"""Conversion between types: cvt in all its roundings and saturations, and cvta."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..access import BASES
from ..code import Assembly, Step
from ..ptx import Instruction, Space, Symbol
from ..rounding import DIRECTIONS, narrow, widen
from ..scalars import SCALARS, Array, Scalar
from .floating import clamp, flush
from .lanewise import Builder, Function, lanewise, types_of

_INTEGRAL: Mapping[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def _convert(code: Assembly, instruction: Instruction) -> Step:
    if instruction.has("pack"):
        raise code.fail("cvt.pack is not modelled")
    types = types_of(instruction)
    if len(types) != 2:
        raise code.fail("a conversion names two types")
    result, source = types
    if result.kind == "packed" and len(instruction.operands) == 3:
        return _convert_pair(code, instruction, result, source)
    target = code.write(instruction.operands[0], result, wider=True)
    slot = code.read(instruction.operands[1], source, wider=True)
    if result.kind == "packed" or source.kind == "packed":
        return lanewise(target, (slot,), _unpack(code, instruction, result, source))
    function = conversion(code, instruction, result, source)
    given, wanted = code.width(slot), code.width(target)

    def fitted(bits: Array) -> Array:
        if given != source.bits:
            bits = bits.astype(source.raw)
        out = function(bits)
        if wanted != result.bits:
            # A wider register is filled with the sign of a signed type, else with zeros.
            out = np.asarray(out).view(result.view).astype(f"i{wanted // 8}")
            out = out.view(f"u{wanted // 8}")[()]
        return out

    plain = given == source.bits and wanted == result.bits
    return lanewise(target, (slot,), function if plain else fitted)


def conversion(
    code: Assembly, instruction: Instruction, result: Scalar, source: Scalar
) -> Function:
    """The conversion of bits of one type to bits of another."""
    floats = (source.kind == "float", result.kind == "float")
    match floats:
        case (False, False):
            return _between_integers(instruction, result, source)
        case (True, False):
            return _to_integer(code, instruction, result, source)
        case (False, True):
            return _from_integer(instruction, result, source)
        case _:
            return _between_floats(instruction, result, source)


def _between_integers(instruction: Instruction, result: Scalar, source: Scalar) -> Function:
    if instruction.has("sat"):
        return lambda bits: _fit(bits.view(source.view), result)
    if result.bits <= source.bits:
        return lambda bits: bits.astype(result.raw)
    wide = np.dtype(f"i{result.bits // 8}") if source.kind == "signed" else result.raw
    return lambda bits: bits.view(source.view).astype(wide).view(result.raw)


def _fit(values: Array, result: Scalar) -> Array:
    """Integers at the end of a type's range instead of beyond it."""
    info = np.iinfo(result.view)
    held = np.iinfo(values.dtype)
    low, high = max(info.min, held.min), min(info.max, held.max)
    return np.clip(values, low, high).astype(result.view).view(result.raw)


def _to_integer(
    code: Assembly, instruction: Instruction, result: Scalar, source: Scalar
) -> Function:
    """Rounds, then clamps to the range; NaN is 0, or the lowest number of 64-bit types."""
    rounding = next((m for m in instruction.modifiers if m in _INTEGRAL), None)
    if rounding is None:
        raise code.fail("a conversion to integers names a rounding")
    integral = _INTEGRAL[rounding]
    info = np.iinfo(result.view)
    flushes = instruction.has("ftz")
    # The first f64 that is beyond the range: 2**63 - 1 itself is none.
    beyond = float(info.max) if result.bits == 64 else float(info.max) + 1

    def function(bits: Array) -> Array:
        values = widen(flush(bits, source) if flushes else bits, source)
        whole = integral(values)
        nan = np.isnan(whole)
        inside = ~nan & (whole > info.min) & (whole < beyond)
        out = np.where(inside, whole, 0.0).astype(result.view)
        out = np.where(whole >= beyond, result.view.type(info.max), out)
        out = np.where(whole <= info.min, result.view.type(info.min), out)
        if result.bits == 64:
            out = np.where(nan, np.uint64(1 << 63).astype(result.view), out)
        return out.view(result.raw)[()]

    return function


def _from_integer(instruction: Instruction, result: Scalar, source: Scalar) -> Function:
    rounding = next((m for m in instruction.modifiers if m in DIRECTIONS), "rn")
    if rounding == "rn" and result.view.kind == "f" and result.bits >= 32:
        return lambda bits: bits.view(source.view).astype(result.view).view(result.raw)

    def function(bits: Array) -> Array:
        values = bits.view(source.view)
        if source.bits < 64:
            return narrow(values.astype(np.float64), result, rounding)
        # 64 bits are more than an f64 holds: the last ones are folded into one that says
        # whether there are any.
        negative = values < 0
        magnitude = np.where(negative, ~bits + np.uint64(1), bits)
        if result.name == "f64":
            exact = _cut_to_f64(magnitude, negative, rounding)
            return narrow(np.where(negative, -exact, exact), result)
        large = magnitude >= np.uint64(1 << 53)
        sticky = (magnitude & np.uint64(0x7FF)) != 0
        folded = ((magnitude >> np.uint64(11)) | sticky).astype(np.float64) * 2048.0
        exact = np.where(large, folded, magnitude.astype(np.float64))
        return narrow(np.where(negative, -exact, exact), result, rounding)

    return function


def _cut_to_f64(magnitude: Array, negative: Array, rounding: str) -> Array:
    """Unsigned 64-bit numbers as f64, rounded as their signed values are; not to nearest."""
    length = np.frexp((magnitude >> np.uint64(11)).astype(np.float64))[1]
    drop = np.maximum(length - 42, 0).astype(np.uint64)
    kept = (magnitude >> drop) << drop
    up = (rounding == "rp") & ~negative | (rounding == "rm") & negative
    step = np.where(up & (kept != magnitude), np.ldexp(1.0, drop.astype(np.int64)), 0.0)
    out: Array = kept.astype(np.float64) + step
    return out


def _between_floats(instruction: Instruction, result: Scalar, source: Scalar) -> Function:
    integral = next((_INTEGRAL[m] for m in instruction.modifiers if m in _INTEGRAL), None)
    rounding = next((m for m in instruction.modifiers if m in (*DIRECTIONS, "rna")), "rn")
    flushes = instruction.has("ftz")
    saturates = instruction.has("sat")
    positive = instruction.has("relu")
    finite = instruction.has("satfinite")

    def function(bits: Array) -> Array:
        if flushes:
            bits = flush(bits, source)
        if source.name == result.name and integral is None:
            out = bits
        else:
            values = widen(bits, source)
            if integral is not None:
                values = integral(values)
            out = narrow(values, result, rounding)
        if finite:
            out = _finite(out, result)
        if flushes:
            out = flush(out, result)
        if saturates:
            out = clamp(out, result)
        if positive:
            negative = (out >> result.raw.type(result.bits - 1)) != 0
            out = np.where(negative & ~np.isnan(widen(out, result)), result.raw.type(0), out)
        return out

    return function


def _finite(bits: Array, scalar: Scalar) -> Array:
    """Infinity becomes the largest number of its sign."""
    exponent = {"f16": 0x7C00, "bf16": 0x7F80, "tf32": 0x7F800000}.get(scalar.name)
    if exponent is None:
        return bits
    raw = scalar.raw.type
    top = raw(1 << (scalar.bits - 1))
    step = raw(0x2000 if scalar.name == "tf32" else 1)
    return np.where((bits & ~top) == raw(exponent), bits - step, bits)


def _convert_pair(code: Assembly, instruction: Instruction, result: Scalar, source: Scalar) -> Step:
    """``cvt.rn.f16x2.f32 d, a, b``: a becomes the upper half, b the lower."""
    one = SCALARS[result.name[:-2]]
    target = code.write(instruction.operands[0], result)
    a, b = (code.read(o, source) for o in instruction.operands[1:])
    function = _between_floats(instruction, one, source)
    half = result.raw.type(result.bits // 2)

    def packed(x: Array, y: Array) -> Array:
        out: Array = function(y).astype(result.raw) | (function(x).astype(result.raw) << half)
        return out

    return lanewise(target, (a, b), packed)


def _unpack(code: Assembly, instruction: Instruction, result: Scalar, source: Scalar) -> Function:
    """Conversions of both halves of a register, as of f8 pairs."""
    if result.kind != "packed" or source.kind != "packed":
        raise code.fail("this conversion of packed types is not modelled")
    to, of = SCALARS[result.name[:-2]], SCALARS[source.name[:-2]]
    function = _between_floats(instruction, to, of)
    mask, half = source.raw.type((1 << of.bits) - 1), source.raw.type(of.bits)
    wide = result.raw.type(to.bits)

    def both(bits: Array) -> Array:
        low = function((bits & mask).astype(of.raw)).astype(result.raw)
        high = function((bits >> half).astype(of.raw)).astype(result.raw)
        out: Array = low | (high << wide)
        return out

    return both


def _convert_address(code: Assembly, instruction: Instruction) -> Step:
    """cvta: between addresses of a space and generic ones."""
    spaces: tuple[Space, ...] = ("global", "shared", "local", "const", "param")
    found = [m.split("::")[0] for m in instruction.modifiers]
    space = next(s for s in spaces if s in found)
    scalar = SCALARS["b64"]
    target = code.write(instruction.operands[0], scalar)
    source = code.read(instruction.operands[1], scalar)
    base = np.uint64(BASES.get(space, 0))
    if isinstance(instruction.operands[1], Symbol) and space == "param":
        raise code.fail("addresses of parameters are not modelled")
    if instruction.has("to"):
        return lanewise(target, (source,), lambda a: a - base)
    return lanewise(target, (source,), lambda a: a + base)


CONVERT: Mapping[str, Builder] = {"cvt": _convert, "cvta": _convert_address}
"""Conversions."""
