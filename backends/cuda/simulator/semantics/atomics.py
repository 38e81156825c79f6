"""Atomic changes of memory: atom, which returns what was there, and red, which does not.

Lanes that change one place do so in the order of their numbers. A GPU's order is any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..access import Access, addresses
from ..batch import Batch
from ..code import Assembly, Step
from ..memory import Bytes
from ..ptx import Instruction, Sink
from ..scalars import UNSIGNED, Array, Scalar
from .floating import single
from .lanewise import Builder, pairs, type_of, viewed
from .loads import address_operand, by_space, note_width, place, space_named

Change = Callable[..., Array]
"""(what is there, operand, second operand) -> what is there afterwards; on bits."""


def _increment(old: Array, top: Array) -> Array:
    return np.where(old >= top, np.uint32(0), old + np.uint32(1))


def _decrement(old: Array, top: Array) -> Array:
    return np.where((old == 0) | (old > top), top, old - np.uint32(1))


def _swap(old: Array, wanted: Array, new: Array) -> Array:
    return np.where(old == wanted, new, old)


def _change(code: Assembly, scalar: Scalar, operation: str) -> Change:
    match operation:
        case "exch":
            return lambda old, new: new
        case "cas":
            return _swap
        case "inc":
            return _increment
        case "dec":
            return _decrement
        case "and":
            return np.bitwise_and
        case "or":
            return np.bitwise_or
        case "xor":
            return np.bitwise_xor
        case _:
            pass
    functions: Mapping[str, Change] = {"add": np.add, "min": np.minimum, "max": np.maximum}
    one = single(scalar)
    if operation not in functions or (one.kind == "float" and one.view.kind != "f"):
        raise code.fail("this atomic operation is not modelled")
    function = viewed(functions[operation], one)
    return pairs(function, one) if scalar.kind == "packed" else function


def _atomic(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    raw = UNSIGNED[scalar.bits]
    names = ("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas")
    operation = next((m for m in instruction.modifiers if m in names), "")
    operands = list(instruction.operands)
    target = None
    if instruction.opcode == "atom":
        destination = operands.pop(0)
        if not isinstance(destination, Sink):
            target = code.write(destination, scalar)
    base, offset, _ = code.base(address_operand(code, operands[0]))
    sources = [code.read(o, scalar) for o in operands[1:]]
    change = _change(code, scalar, operation)
    # Sums of integers do not depend on the order, so repeats need no rounds.
    additive = operation == "add" and single(scalar).kind != "float" and scalar.kind != "packed"
    space = space_named(instruction)
    access = Access(instruction, space, "atomic", scalar.bytes)
    note_width(code, space, scalar.bytes)

    def act(batch: Batch, here: Access, found: Array) -> None:
        memory, index = place(batch, here, found)
        lanes = batch.numbers()
        index = np.broadcast_to(index, lanes.shape)
        values = [batch.whole(batch.r[s])[lanes].astype(raw) for s in sources]
        old = (_summed if additive else _in_rounds)(memory, index, here.width, change, values)
        if target is not None:
            full = np.zeros(batch.lanes, raw)
            full[lanes] = old
            batch.put(target, full.astype(batch.r[target].dtype))

    def step(batch: Batch) -> None:
        found = addresses(batch, base, offset)
        if not found.ndim:
            found = np.full(batch.numbers().shape, found)
        by_space(batch, access, found, lambda here, at: act(batch, here, at))

    return step


def _in_rounds(
    memory: Bytes, index: Array, width: int, change: Change, values: list[Array]
) -> Array:
    """What each lane found; lanes with one address take turns."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.diff(np.append(starts, ordered.size))
    old = np.empty(index.size, UNSIGNED[width * 8])
    for turn in range(int(counts.max())):
        lanes = order[starts[counts > turn] + turn]
        at = index[lanes]
        there = memory.load(at, width)
        old[lanes] = there
        memory.store(at, width, change(there, *[v[lanes] for v in values]))
    return old


def _summed(memory: Bytes, index: Array, width: int, change: Change, values: list[Array]) -> Array:
    """The same for sums of integers, without turns: each lane finds the sum of those before."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.diff(np.append(starts, ordered.size))
    added = values[0][order]
    total = np.cumsum(added, dtype=added.dtype)
    before = total - added
    at = ordered[starts]
    there = memory.load(at, width)
    found = before - np.repeat(before[starts], counts) + np.repeat(there, counts)
    last = starts + counts - 1
    memory.store(at, width, found[last] + added[last])
    old = np.empty(index.size, added.dtype)
    old[order] = found
    return old


ATOMICS: Mapping[str, Builder] = {"atom": _atomic, "red": _atomic}
"""Atomic instructions."""
