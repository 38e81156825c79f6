"""Asynchronous copies from global to shared memory, fences, and traps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..access import Access, addresses, global_index, window_index
from ..batch import Batch
from ..code import Assembly, Step
from ..memory import SHARED_BASE
from ..ptx import Immediate, Instruction
from ..scalars import SCALARS, Array
from .lanewise import Builder
from .loads import address_operand, note_width


def _copy(code: Assembly, instruction: Instruction) -> Step:
    if instruction.has("bulk", "mbarrier", "reduce"):
        raise code.fail("bulk copies and barriers in memory are not modelled")
    if instruction.has("commit_group"):
        return lambda batch: batch.copies.commit(batch)
    if instruction.has("wait_all", "wait_group"):
        return _wait(code, instruction)
    return _start(code, instruction)


def _wait(code: Assembly, instruction: Instruction) -> Step:
    if instruction.has("wait_all"):

        def step(batch: Batch) -> None:
            batch.copies.commit(batch)
            batch.copies.wait(batch, 0)

        return step
    left = instruction.operands[0]
    if not isinstance(left, Immediate):
        raise code.fail("the number of groups is no literal")
    count = int(left.value)
    return lambda batch: batch.copies.wait(batch, count)


def _start(code: Assembly, instruction: Instruction) -> Step:
    """cp.async: 4, 8 or 16 bytes, of which the last may be zeros instead."""
    target, source, size, *rest = instruction.operands
    if not isinstance(size, Immediate) or size.value not in (4, 8, 16):
        raise code.fail("a copy has 4, 8 or 16 bytes")
    total = int(size.value)
    if "cg" in instruction.modifiers and total != 16:
        raise code.fail("a copy past the first cache has 16 bytes")
    shared, shared_offset, _ = code.base(address_operand(code, target))
    far, far_offset, _ = code.base(address_operand(code, source))
    # A predicate there would say whether to ignore the source.
    given = code.read(rest[0], SCALARS["u32"]) if rest else None
    width = min(total, 8)
    store = Access(instruction, "shared", "store", width, total // width)
    note_width(code, "shared", total)
    code.global_cell = min(code.global_cell, 4)

    def step(batch: Batch) -> None:
        lanes = batch.numbers()
        data = np.zeros((lanes.size, total), np.uint8)
        sizes = None if given is None else batch.r[given]
        if sizes is None or (not sizes.ndim and int(sizes) == total):
            _fetch(batch, instruction, far, far_offset, total, data)
        else:
            _fetch_parts(batch, instruction, far, far_offset, batch.whole(sizes), data)
        found = np.broadcast_to(addresses(batch, shared, shared_offset), lanes.shape)
        if int(found.min()) >= SHARED_BASE:
            found = found - SHARED_BASE
        races, batch.races = batch.races, None
        index = window_index(batch, batch.shared, store, found)
        batch.races = races
        if races is not None:
            races.issue(batch, store, index)
        batch.copies.issue(batch, index, data.view(f"u{width}"))

    return step


def _fetch(
    batch: Batch, instruction: Instruction, slot: int, offset: int, size: int, data: Array
) -> None:
    """Reads the source of the active lanes' copies."""
    # A copy is aligned to its whole size, also where it reads less.
    width = min(size, 8)
    access = Access(instruction, "global", "load", width, size // width)
    found = np.broadcast_to(addresses(batch, slot, offset), (len(data),))
    index = global_index(batch, access, found)
    rows = batch.memory.bytes.load_vector(index, width, size // width)
    data[:, :size] = np.ascontiguousarray(rows).view(np.uint8)


def _fetch_parts(
    batch: Batch, instruction: Instruction, slot: int, offset: int, sizes: Array, data: Array
) -> None:
    """Reads as many bytes as each lane says; the others stay zero."""
    lanes = batch.numbers()
    total = data.shape[1]
    mine = sizes[lanes].astype(np.int64)
    if (mine > total).any():
        lane = int(lanes[np.argmax(mine > total)])
        message = f"a copy of {total} bytes is told to read {int(mine.max())}"
        raise batch.fault("TW-E1001", instruction, lane, message)
    kept = batch.active, batch.merge
    for size in np.unique(mine):
        if size == 0:
            continue
        chosen = mine == size
        mask = np.zeros(batch.lanes, np.bool_)
        mask[lanes[chosen]] = True
        batch.active = batch.merge = mask
        part = np.zeros((int(chosen.sum()), total), np.uint8)
        # The largest piece that divides the size is read again and again.
        piece = int(size & -size)
        for start in range(0, int(size), piece):
            rows = np.zeros((len(part), piece), np.uint8)
            _fetch(batch, instruction, slot, offset + start, piece, rows)
            part[:, start : start + piece] = rows
        data[chosen] = part
    batch.active, batch.merge = kept


def _fence(code: Assembly, instruction: Instruction) -> Step:
    """Orders accesses, which are executed in order here."""
    code.facts.add("fence")
    return lambda batch: None


def _trap(code: Assembly, instruction: Instruction) -> Step:
    def step(batch: Batch) -> None:
        lane = int(batch.numbers()[0])
        raise batch.fault("TW-E1015", instruction, lane, "the kernel gives up")

    return step


TRANSFERS: Mapping[str, Builder] = {
    "cp": _copy,
    "membar": _fence,
    "fence": _fence,
    "trap": _trap,
}
"""Asynchronous copies and the order of memory."""
