"""Arithmetic of integers."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..batch import Batch
from ..code import Assembly, Step
from ..ptx import Instruction
from ..scalars import SCALARS, Array, Scalar
from .lanewise import Builder, Function, lanewise, operands, pairs, type_of, viewed


def double(scalar: Scalar) -> Scalar:
    """The type of twice the width."""
    return SCALARS[f"{scalar.name[0]}{scalar.bits * 2}"]


def high_product(scalar: Scalar) -> Function:
    """The upper half of the product."""
    if scalar.bits < 64:
        wide, bits = double(scalar).view, scalar.bits

        def narrow(a: Array, b: Array) -> Array:
            product: Array = (a.view(scalar.view).astype(wide) * b.view(scalar.view)) >> wide.type(
                bits
            )
            return product.astype(scalar.view).view(scalar.raw)

        return narrow

    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)

    def unsigned(a: Array, b: Array) -> Array:
        al, ah, bl, bh = a & low, a >> shift, b & low, b >> shift
        middle = ah * bl + ((al * bl) >> shift)
        other = al * bh + (middle & low)
        out: Array = ah * bh + (middle >> shift) + (other >> shift)
        return out

    if scalar.kind != "signed":
        return unsigned

    def signed(a: Array, b: Array) -> Array:
        zero = np.uint64(0)
        high = unsigned(a, b)
        high = high - np.where(a.view(np.int64) < 0, b, zero)
        out: Array = high - np.where(b.view(np.int64) < 0, a, zero)
        return out

    return signed


def wide_product(scalar: Scalar) -> Function:
    """The whole product, in twice the width."""
    wide = double(scalar)

    def product(a: Array, b: Array) -> Array:
        out: Array = a.view(scalar.view).astype(wide.view) * b.view(scalar.view)
        return out.view(wide.raw)

    return product


def quotient(a: Array, b: Array) -> Array:
    """Division that rounds towards zero; by zero, all bits are set."""
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    out = a // safe
    rest = a - out * safe
    out = out + ((rest != 0) & ((a < 0) != (safe < 0))).astype(b.dtype)
    result: Array = np.where(zero, ~b.dtype.type(0), out)
    return result


def remainder(a: Array, b: Array) -> Array:
    """What the division that rounds towards zero leaves; by zero, the dividend."""
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    rest = a % safe
    rest = rest - np.where((rest != 0) & ((a < 0) != (safe < 0)), safe, b.dtype.type(0))
    return np.where(zero, a, rest)


def _saturated(function: Function) -> Function:
    """32-bit signed results at the end of the range instead of beyond it."""

    def clamped(*values: Array) -> Array:
        wide = function(*[v.view(np.int32).astype(np.int64) for v in values])
        return np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint32)

    return clamped


def _sum(function: Function) -> Builder:
    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        if instruction.has("sat"):
            if scalar.name != "s32":
                raise code.fail("only s32 saturates")
            return lanewise(target, sources, _saturated(function))
        if scalar.kind == "packed":
            return lanewise(target, sources, pairs(function, SCALARS["b16"]))
        if instruction.has("cc") or instruction.opcode in ("addc", "subc"):
            return _carried(code, instruction, scalar, (target, *sources))
        return lanewise(target, sources, function)

    return build


def _carried(
    code: Assembly, instruction: Instruction, scalar: Scalar, slots: tuple[int, ...]
) -> Step:
    """Sums that read the carry (addc, subc) or write it (``.cc``)."""
    target, a, b = slots
    carry = code.carry
    uses = instruction.opcode in ("addc", "subc")
    sets = instruction.has("cc")
    down = instruction.opcode in ("sub", "subc")
    kind = scalar.raw.type

    def step(batch: Batch) -> None:
        x, y = batch.r[a], batch.r[b]
        before = batch.r[carry].astype(scalar.raw) if uses else kind(0)
        if down:
            out = x - y - before
            after = (x < y) | ((x == y) & (before != 0))
        else:
            out = x + y + before
            after = (out < x) | ((out == x) & (before != 0) & (y != 0))
        if sets:
            batch.put(carry, np.asarray(after).astype(np.uint8)[()])
        batch.put(target, out)

    return step


def _product(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    if instruction.opcode in ("mul24", "mad24"):
        raise code.fail("24-bit products are not modelled")
    wide = instruction.has("wide")
    result = double(scalar) if wide else scalar
    target = code.write(instruction.operands[0], result)
    a, b = (code.read(o, scalar) for o in instruction.operands[1:3])
    if wide:
        product = wide_product(scalar)
    else:
        product = high_product(scalar) if instruction.has("hi") else operator.mul
    if instruction.opcode == "mul":
        return lanewise(target, (a, b), product)
    c = code.read(instruction.operands[3], result)
    if instruction.has("cc") or instruction.opcode == "madc":
        part = code.slot(result)
        opcode = "addc" if instruction.opcode == "madc" else "add"
        like = Instruction(
            opcode, instruction.modifiers, (), None, instruction.line, instruction.text
        )
        multiply = lanewise(part, (a, b), product)
        add = _carried(code, like, result, (target, part, c))

        def step(batch: Batch) -> None:
            multiply(batch)
            add(batch)

        return step
    if instruction.has("sat"):
        high = high_product(scalar)

        def clamped(x: Array, y: Array, z: Array) -> Array:
            total = high(x, y).view(np.int32).astype(np.int64) + z.view(np.int32)
            return np.clip(total, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint32)

        return lanewise(target, (a, b, c), clamped)
    return lanewise(target, (a, b, c), lambda x, y, z: product(x, y) + z)


def _simple(function: Function) -> Builder:
    """An instruction whose values are of its type."""

    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target, sources = operands(code, instruction, scalar)
        if scalar.kind == "packed":
            inner = SCALARS[scalar.name[:-2]]
            return lanewise(target, sources, pairs(viewed(function, inner), inner))
        if instruction.has("relu"):
            inner_function = function
            positive = lambda *v: np.maximum(inner_function(*v), scalar.view.type(0))  # noqa: E731
            return lanewise(target, sources, viewed(positive, scalar))
        return lanewise(target, sources, viewed(function, scalar))

    return build


def _absolute_difference(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    target, sources = operands(code, instruction, scalar)

    def function(a: Array, b: Array, c: Array) -> Array:
        x, y = a.view(scalar.view), b.view(scalar.view)
        out: Array = c + np.where(x > y, a - b, b - a)
        return out

    return lanewise(target, sources, function)


def _dot(code: Assembly, instruction: Instruction) -> Step:
    """dp4a and dp2a: sums of products of the bytes of the operands."""
    kinds: list[Any] = [np.int8 if m == "s32" else np.uint8
                        for m in instruction.modifiers if m in ("s32", "u32")]  # fmt: skip
    target, sources = operands(code, instruction, SCALARS["b32"])
    pair = instruction.opcode == "dp2a"
    first = 2 if instruction.has("hi") else 0
    left: Any = (np.int16 if kinds[0] is np.int8 else np.uint16) if pair else kinds[0]

    def function(a: Array, b: Array, c: Array) -> Array:
        x = np.ascontiguousarray(a).reshape(-1).view(left).reshape(-1, 2 if pair else 4)
        y = np.ascontiguousarray(b).reshape(-1).view(kinds[1]).reshape(-1, 4)
        if pair:
            y = y[:, first : first + 2]
        total = (x.astype(np.int64) * y).sum(-1).astype(np.uint32) + c
        single = a.ndim == 0 and b.ndim == 0 and c.ndim == 0
        out: Array = total.reshape(-1)[0] if single else total
        return out

    return lanewise(target, sources, function)


INTEGER: Mapping[str, Builder] = {
    "add": _sum(operator.add),
    "addc": _sum(operator.add),
    "sub": _sum(operator.sub),
    "subc": _sum(operator.sub),
    "mul": _product,
    "mad": _product,
    "madc": _product,
    "div": _simple(quotient),
    "rem": _simple(remainder),
    "abs": _simple(np.abs),
    "neg": _simple(operator.neg),
    "min": _simple(np.minimum),
    "max": _simple(np.maximum),
    "sad": _absolute_difference,
    "dp4a": _dot,
    "dp2a": _dot,
}
"""Instructions on integer types."""
