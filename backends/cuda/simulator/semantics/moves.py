"""mov: copies, addresses, and packing and unpacking of registers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..batch import Batch
from ..code import CLOCKS, Assembly, Step
from ..ptx import Instruction, Sink, Special, Vector
from ..scalars import SCALARS, Array, Scalar
from .lanewise import Builder, lanewise, type_of


def _move(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    target, source = instruction.operands
    match target, source:
        case Vector(items=parts), _:
            return _unpack(code, instruction, scalar, parts)
        case _, Vector():
            return _pack(code, instruction, scalar)
        case _:
            pass
    if scalar.name == "pred":
        slot, negated = code.predicate(source)
        invert = lambda p: ~p if negated else p  # noqa: E731
        return lanewise(code.write(target, scalar), (slot,), invert)
    if isinstance(source, Special) and source.name in CLOCKS:
        return _clock(code, code.write(target, scalar), scalar)
    written, read = code.write(target, scalar), code.read(source, scalar)
    return lanewise(written, (read,), lambda a: a)


def _clock(code: Assembly, target: int, scalar: Scalar) -> Step:
    """Time is counted in basic blocks."""
    raw = scalar.raw.type
    mask = (1 << scalar.bits) - 1
    return lambda batch: batch.put(target, raw(batch.steps & mask))


def _pack(code: Assembly, instruction: Instruction, scalar: Scalar) -> Step:
    target, source = instruction.operands
    assert isinstance(source, Vector)
    bits = scalar.bits // len(source.items)
    part = SCALARS[f"b{bits}"]
    slots = tuple(code.read(o, part) for o in source.items)
    raw = scalar.raw

    def function(*values: Array) -> Array:
        out: Array = values[0].astype(raw)
        for number, value in enumerate(values[1:], 1):
            out = out | (value.astype(raw) << raw.type(bits * number))
        return out

    return lanewise(code.write(target, scalar), slots, function)


def _unpack(
    code: Assembly, instruction: Instruction, scalar: Scalar, parts: tuple[object, ...]
) -> Step:
    target = instruction.operands[0]
    assert isinstance(target, Vector)
    bits = scalar.bits // len(parts)
    part = SCALARS[f"b{bits}"]
    read = code.read(instruction.operands[1], scalar)
    slots = [None if isinstance(o, Sink) else code.write(o, part) for o in target.items]

    def step(batch: Batch) -> None:
        value = batch.r[read]
        if value.ndim:
            halves = np.ascontiguousarray(value).view(part.raw).reshape(value.size, -1)
            found = [halves[:, number] for number in range(len(slots))]
        else:
            found = [
                part.raw.type((int(value) >> (bits * number)) & ((1 << bits) - 1))
                for number in range(len(slots))
            ]
        for slot, half in zip(slots, found, strict=True):
            if slot is not None:
                batch.put(slot, half)

    return step


def _nothing(code: Assembly, instruction: Instruction) -> Step:
    """Hints and delays, which change no result."""
    return lambda batch: None


MOVES: Mapping[str, Builder] = {
    "mov": _move,
    "prefetch": _nothing,
    "prefetchu": _nothing,
    "applypriority": _nothing,
    "discard": _nothing,
    "nanosleep": _nothing,
    "setmaxnreg": _nothing,
    "griddepcontrol": _nothing,
    "pmevent": _nothing,
}
"""Moves, and instructions that do nothing here."""
