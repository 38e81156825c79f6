"""Instructions that compute each lane from the same lane of their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ..batch import Batch
from ..code import Assembly, Step
from ..ptx import Instruction
from ..scalars import SCALARS, UNSIGNED, Array, Scalar

Builder: TypeAlias = Callable[[Assembly, Instruction], Step]
"""Makes the step of an instruction."""
Function: TypeAlias = Callable[..., Array]
"""Computes bits from bits."""


def lanewise(target: int, sources: tuple[int, ...], function: Function) -> Step:
    """The step ``target = function(*sources)``; of registers, in lanes that may change."""
    match sources:
        case (a,):

            def step(batch: Batch) -> None:
                r = batch.r
                value = function(r[a])
                merge = batch.merge
                r[target] = value if merge is None else np.where(merge, value, r[target])

        case (a, b):

            def step(batch: Batch) -> None:
                r = batch.r
                value = function(r[a], r[b])
                merge = batch.merge
                r[target] = value if merge is None else np.where(merge, value, r[target])

        case (a, b, c):

            def step(batch: Batch) -> None:
                r = batch.r
                value = function(r[a], r[b], r[c])
                merge = batch.merge
                r[target] = value if merge is None else np.where(merge, value, r[target])

        case _:

            def step(batch: Batch) -> None:
                batch.put(target, function(*[batch.r[s] for s in sources]))

    return step


def viewed(function: Function, scalar: Scalar, result: Scalar | None = None) -> Function:
    """The function on bits, given one on values of a type that NumPy has."""
    view, raw = scalar.view, (result or scalar).raw
    if view == scalar.raw and view == raw:
        return function

    def on_bits(*values: Array) -> Array:
        out: Array = function(*[v.view(view) for v in values]).view(raw)
        return out

    return on_bits


def pairs(function: Function, scalar: Scalar) -> Function:
    """The function on registers that hold two values, given one on single values' bits."""
    raw, whole = scalar.raw, UNSIGNED[2 * scalar.bits]

    def on_pairs(*values: Array) -> Array:
        parts = [split_pairs(v, raw) for v in values]
        out = np.ascontiguousarray(function(*parts)).view(whole)[:, 0]
        if all(v.ndim == 0 for v in values):
            single: Array = out[0]
            return single
        return out

    return on_pairs


def split_pairs(value: Array, raw: np.dtype[np.generic]) -> Array:
    """The halves of each lane's bits along a new last axis; a value for all lanes as one lane."""
    flat = np.ascontiguousarray(value).reshape(-1)
    return flat.view(raw).reshape(flat.size, -1)


def type_of(code: Assembly, instruction: Instruction) -> Scalar:
    """The last type that the instruction names."""
    for name in reversed(instruction.modifiers):
        if name in SCALARS:
            return SCALARS[name]
    raise code.fail("it names no type")


def types_of(instruction: Instruction) -> list[Scalar]:
    """All types that the instruction names, in order."""
    return [SCALARS[m] for m in instruction.modifiers if m in SCALARS]


def operands(
    code: Assembly, instruction: Instruction, scalar: Scalar, result: Scalar | None = None
) -> tuple[int, tuple[int, ...]]:
    """The slots of the destination and of the sources, all of one type."""
    target, *sources = instruction.operands
    read = tuple(code.read(s, scalar) for s in sources)
    return code.write(target, result or scalar), read
