"""Bits, comparisons and choices."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import numpy as np

from ..batch import Batch
from ..code import Assembly, Step
from ..ptx import Immediate, Instruction, Pair
from ..rounding import widen
from ..scalars import SCALARS, Array, Scalar
from .floating import flush, single
from .lanewise import Builder, Function, lanewise, operands, split_pairs, type_of, types_of


def _bitwise(function: Function) -> Builder:
    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        if scalar.name != "pred":
            target, sources = operands(code, instruction, scalar)
            return lanewise(target, sources, function)
        target = code.write(instruction.operands[0], scalar)
        read = [code.predicate(o) for o in instruction.operands[1:]]
        slots = tuple(slot for slot, _ in read)
        if not any(negated for _, negated in read):
            return lanewise(target, slots, function)
        return lanewise(
            target,
            slots,
            lambda *v: function(*[~x if n else x for x, (_, n) in zip(v, read, strict=True)]),
        )

    return build


def _cnot(a: Array) -> Array:
    out: Array = (a == 0).astype(a.dtype)
    return out


def _shift(code: Assembly, instruction: Instruction) -> Step:
    """shl and shr: amounts beyond the width shift everything out."""
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], scalar)
    a = code.read(instruction.operands[1], scalar)
    b = code.read(instruction.operands[2], SCALARS["u32"])
    raw, bits = scalar.raw, scalar.bits
    left = instruction.opcode == "shl"
    view = scalar.view if scalar.kind == "signed" else raw

    def function(value: Array, amount: Array) -> Array:
        if left or view == raw:
            inside = np.minimum(amount, np.uint32(bits - 1)).astype(raw)
            moved = value << inside if left else value >> inside
            kept: Array = np.where(amount >= bits, raw.type(0), moved)
            return kept
        inside = np.minimum(amount, np.uint32(bits - 1)).astype(view)
        out: Array = (value.view(view) >> inside).view(raw)
        return out

    amount = code.initial[b] if b in code.constants.values() else None
    if amount is not None and int(amount) < bits:
        # The usual case: a literal.
        if left:
            count = raw.type(int(amount))
            return lanewise(target, (a,), lambda v: v << count)
        count = view.type(int(amount))
        return lanewise(target, (a,), lambda v: (v.view(view) >> count).view(raw))
    return lanewise(target, (a, b), function)


def _funnel(code: Assembly, instruction: Instruction) -> Step:
    """shf: a shift of two registers, of which one half is kept."""
    target, sources = operands(code, instruction, SCALARS["b32"])
    left, clamp = instruction.has("l"), instruction.has("clamp")

    def function(a: Array, b: Array, c: Array) -> Array:
        count = np.minimum(c, np.uint32(32)) if clamp else c & np.uint32(31)
        wide = (b.astype(np.uint64) << np.uint64(32)) | a
        if left:
            moved = (wide << count.astype(np.uint64)) >> np.uint64(32)
        else:
            moved = wide >> count.astype(np.uint64)
        return moved.astype(np.uint32)

    return lanewise(target, sources, function)


def _lop3(code: Assembly, instruction: Instruction) -> Step:
    """Any function of three bits, by the table of its eight values."""
    scalar = SCALARS["b32"]
    destination, *rest = instruction.operands
    table = rest[3]
    if not isinstance(table, Immediate):
        raise code.fail("the table must be a literal")
    if isinstance(destination, Pair):
        raise code.fail("lop3 with a predicate is not modelled")
    lut = int(table.value)
    target = code.write(destination, scalar)
    sources = tuple(code.read(o, scalar) for o in rest[:3])

    def function(a: Array, b: Array, c: Array) -> Array:
        out: Array = (a ^ a) | (b ^ b) | (c ^ c)
        for row in range(8):
            if lut >> row & 1:
                x = a if row & 4 else ~a
                y = b if row & 2 else ~b
                z = c if row & 1 else ~c
                out = out | (x & y & z)
        return out

    return lanewise(target, sources, function)


def _permute(code: Assembly, instruction: Instruction) -> Step:
    """prmt: four bytes picked from eight."""
    modes = ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    mode = next((m for m in instruction.modifiers if m in modes), "")
    target, sources = operands(code, instruction, SCALARS["b32"])
    tables = {
        "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        "rc8": [[i] * 4 for i in range(4)],
        "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
    }
    eight, one = np.uint64(8), np.uint32(1)

    def function(a: Array, b: Array, c: Array) -> Array:
        wide = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
        out: Array = np.uint32(0)  # type: ignore[assignment]
        for byte in range(4):
            if mode:
                pick = np.asarray(tables[mode])[(c & np.uint32(3)).astype(np.int64), byte]
                sign = np.zeros_like(c)
            else:
                nibble = (c >> np.uint32(4 * byte)) & np.uint32(15)
                pick, sign = nibble & np.uint32(7), nibble >> np.uint32(3)
            value = (wide >> (np.asarray(pick).astype(np.uint64) * eight)).astype(np.uint32)
            value = value & np.uint32(255)
            filled = (value >> np.uint32(7)) * np.uint32(255)
            value = np.where(sign == one, filled, value)
            out = out | (value << np.uint32(8 * byte))
        return out

    return lanewise(target, sources, function)


def _extract(code: Assembly, instruction: Instruction) -> Step:
    """bfe: a field of bits, with the sign of its last bit if the type is signed."""
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], scalar)
    a = code.read(instruction.operands[1], scalar)
    b, c = (code.read(o, SCALARS["u32"]) for o in instruction.operands[2:])
    raw, bits = scalar.raw, scalar.bits
    signed = scalar.kind == "signed"

    def function(value: Array, start: Array, count: Array) -> Array:
        start = (start & np.uint32(255)).astype(np.int64)
        count = (count & np.uint32(255)).astype(np.int64)
        field = np.where(
            start < bits, value >> np.minimum(start, bits - 1).astype(raw), raw.type(0)
        )
        mask = _low_bits(count, scalar)
        out: Array = field & mask
        if signed:
            last = np.minimum(start + count - 1, bits - 1)
            bit = (value >> np.maximum(last, 0).astype(raw)) & raw.type(1)
            inside = np.minimum(count, np.maximum(bits - start, 0))
            out = np.where(
                (bit != 0) & (count > 0),
                (out & _low_bits(inside, scalar)) | ~_low_bits(inside, scalar),
                out,
            )
        return out

    return lanewise(target, (a, b, c), function)


def _low_bits(count: Array, scalar: Scalar) -> Array:
    """A mask of the lowest bits."""
    raw, bits = scalar.raw, scalar.bits
    inside = np.minimum(count, bits - 1).astype(raw)
    mask: Array = np.where(count >= bits, ~raw.type(0), (raw.type(1) << inside) - raw.type(1))
    return mask


def _insert(code: Assembly, instruction: Instruction) -> Step:
    """bfi: a field of bits of b replaced by the lowest bits of a."""
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], scalar)
    a, b = (code.read(o, scalar) for o in instruction.operands[1:3])
    c, d = (code.read(o, SCALARS["u32"]) for o in instruction.operands[3:])
    raw, bits = scalar.raw, scalar.bits

    def function(a: Array, b: Array, c: Array, d: Array) -> Array:
        start = (c & np.uint32(255)).astype(np.int64)
        count = (d & np.uint32(255)).astype(np.int64)
        inside = np.minimum(start, bits - 1).astype(raw)
        mask = np.where(start < bits, _low_bits(count, scalar) << inside, raw.type(0))
        out: Array = (b & ~mask) | ((a << inside) & mask)
        return out

    return lanewise(target, (a, b, c, d), function)


def _count(function: Function) -> Builder:
    """Instructions whose result is a 32-bit count."""

    def build(code: Assembly, instruction: Instruction) -> Step:
        scalar = type_of(code, instruction)
        target = code.write(instruction.operands[0], SCALARS["u32"])
        source = code.read(instruction.operands[1], scalar)
        return lanewise(target, (source,), function)

    return build


def _leading_zeros(a: Array) -> Array:
    return (np.uint32(a.itemsize * 8) - _bit_length(a)).astype(np.uint32)


def _bit_length(a: Array) -> Array:
    wide = a.astype(np.uint64)
    high, low = (wide >> np.uint64(32)).astype(np.float64), (wide & np.uint64(0xFFFFFFFF))
    _, upper = np.frexp(high)
    _, lower = np.frexp(low.astype(np.float64))
    return np.where(high != 0, upper + 32, lower).astype(np.uint32)


def _find(code: Assembly, instruction: Instruction) -> Step:
    """bfind: the place of the highest bit that differs from the sign; all ones if there is none."""
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], SCALARS["u32"])
    source = code.read(instruction.operands[1], scalar)
    amount = instruction.has("shiftamt")

    def function(a: Array) -> Array:
        if scalar.kind == "signed":
            a = np.where(a.view(scalar.view) < 0, ~a, a)
        length = _bit_length(a)
        place = length - np.uint32(1)
        if amount:
            place = np.uint32(scalar.bits - 1) - place
        return np.where(length == 0, np.uint32(0xFFFFFFFF), place)

    return lanewise(target, (source,), function)


def reversed_bits(a: Array) -> Array:
    """The bits from the last to the first."""
    flat = np.ascontiguousarray(a).reshape(-1)
    octets = np.unpackbits(flat.view(np.uint8).reshape(flat.size, -1), axis=1, bitorder="little")
    out = np.packbits(octets[:, ::-1], axis=1, bitorder="little").view(a.dtype)[:, 0]
    result: Array = out if a.ndim else out[0]
    return result


_COMPARE: Mapping[str, Function] = {
    "eq": operator.eq,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "lo": operator.lt,
    "ls": operator.le,
    "hi": operator.gt,
    "hs": operator.ge,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": operator.ne,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
_INTEGER_NE: Function = operator.ne
_COMBINE: Mapping[str, Function] = {
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}


def _comparison(code: Assembly, instruction: Instruction, scalar: Scalar) -> Function:
    """The comparison that the instruction names, on bits."""
    name = next((m for m in instruction.modifiers if m in _COMPARE), None)
    if name is None:
        raise code.fail("it names no comparison")
    one = single(scalar)
    floats = one.kind == "float"
    function = _INTEGER_NE if name == "ne" and not floats else _COMPARE[name]
    flushes = instruction.has("ftz")

    def compare(a: Array, b: Array) -> Array:
        if flushes:
            a, b = flush(a, one), flush(b, one)
        if floats and one.view.kind != "f":
            return function(widen(a, one), widen(b, one))
        return function(a.view(one.view), b.view(one.view))

    return compare


def _set_predicate(code: Assembly, instruction: Instruction) -> Step:
    """setp: the comparison and its negation, combined with a predicate."""
    scalar = type_of(code, instruction)
    destination, first, second, *rest = instruction.operands
    pred = SCALARS["pred"]
    pair = isinstance(destination, Pair)
    target = code.write(destination.first if isinstance(destination, Pair) else destination, pred)
    other = code.write(destination.second, pred) if isinstance(destination, Pair) else None
    a, b = code.read(first, scalar), code.read(second, scalar)
    compare = _comparison(code, instruction, scalar)
    combine = next((m for m in instruction.modifiers if m in _COMBINE), None)
    if (combine is None) != (not rest):
        raise code.fail("a third operand and its combination go together")
    packed = scalar.kind == "packed"
    if not pair and combine is None and not packed:
        return lanewise(target, (a, b), compare)
    extra, negated = code.predicate(rest[0]) if rest else (0, False)
    join = _COMBINE[combine] if combine else None
    raw = single(scalar).raw

    def step(batch: Batch) -> None:
        x, y = batch.r[a], batch.r[b]
        if packed:
            found = compare(split_pairs(x, raw), split_pairs(y, raw))
            # The two predicates are those of the two halves.
            yes, no = found[:, 0], found[:, 1]
            if x.ndim == 0 and y.ndim == 0:
                yes, no = yes[0], no[0]
        else:
            yes = compare(x, y)
            no = np.logical_not(yes)
        if join is not None:
            p = batch.r[extra]
            p = ~p if negated else p
            yes, no = join(yes, p), join(no, p)
        batch.put(target, yes)
        if other is not None:
            batch.put(other, no)

    return step


def _set(code: Assembly, instruction: Instruction) -> Step:
    """set: the comparison as all ones, or as 1.0."""
    result, scalar = types_of(instruction)[-2:]
    target = code.write(instruction.operands[0], result)
    a, b = (code.read(o, scalar) for o in instruction.operands[1:3])
    compare = _comparison(code, instruction, scalar)
    combine = next((m for m in instruction.modifiers if m in _COMBINE), None)
    if combine is not None:
        raise code.fail("set with a predicate is not modelled")
    one = single(result)
    yes = {"f16": 0x3C00, "bf16": 0x3F80, "f32": 0x3F800000}.get(one.name, (1 << one.bits) - 1)
    true, false = one.raw.type(yes), one.raw.type(0)
    if scalar.kind != "packed":
        return lanewise(target, (a, b), lambda x, y: np.where(compare(x, y), true, false))
    raw = single(scalar).raw

    def function(x: Array, y: Array) -> Array:
        found = np.where(compare(split_pairs(x, raw), split_pairs(y, raw)), true, false)
        out = np.ascontiguousarray(found).view(np.uint32)[:, 0]
        picked: Array = out if x.ndim or y.ndim else out[0]
        return picked

    return lanewise(target, (a, b), function)


def _select(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], scalar)
    a, b = (code.read(o, scalar) for o in instruction.operands[1:3])
    p, negated = code.predicate(instruction.operands[3])

    def function(x: Array, y: Array, c: Array) -> Array:
        if not c.ndim:
            return y if bool(c) == negated else x
        return np.where(c, y, x) if negated else np.where(c, x, y)

    return lanewise(target, (a, b, p), function)


def _select_by_sign(code: Assembly, instruction: Instruction) -> Step:
    """slct: a where c >= 0, else b."""
    scalar, sign = types_of(instruction)[-2:]
    target = code.write(instruction.operands[0], scalar)
    a, b = (code.read(o, scalar) for o in instruction.operands[1:3])
    c = code.read(instruction.operands[3], sign)

    def function(x: Array, y: Array, z: Array) -> Array:
        return np.where(z.view(sign.view) >= 0, x, y)

    return lanewise(target, (a, b, c), function)


def _test(code: Assembly, instruction: Instruction) -> Step:
    """testp: the class of a number."""
    scalar = type_of(code, instruction)
    target = code.write(instruction.operands[0], SCALARS["pred"])
    source = code.read(instruction.operands[1], scalar)
    tiny = np.finfo(scalar.view).tiny
    tests: Mapping[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny),
        "subnormal": lambda a: (a != 0) & (np.abs(a) < tiny),
    }
    test = next(tests[m] for m in instruction.modifiers if m in tests)
    return lanewise(target, (source,), lambda a: test(a.view(scalar.view)))


LOGIC: Mapping[str, Builder] = {
    "and": _bitwise(operator.and_),
    "or": _bitwise(operator.or_),
    "xor": _bitwise(operator.xor),
    "not": _bitwise(operator.invert),
    "cnot": _bitwise(_cnot),
    "shl": _shift,
    "shr": _shift,
    "shf": _funnel,
    "lop3": _lop3,
    "prmt": _permute,
    "bfe": _extract,
    "bfi": _insert,
    "popc": _count(lambda a: np.bitwise_count(a).astype(np.uint32)),
    "clz": _count(_leading_zeros),
    "bfind": _find,
    "brev": lambda code, i: lanewise(*operands(code, i, type_of(code, i)), reversed_bits),
    "setp": _set_predicate,
    "set": _set,
    "selp": _select,
    "slct": _select_by_sign,
    "testp": _test,
}
"""Instructions on bits and predicates, and comparisons of all types."""
