"""The rules of an access to memory: inside an allocation, aligned, and of bytes that are written.

Functions here check and count; what they return is where the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .batch import Batch, Window
from .faults import SimulationError
from .memory import FIRST_OFFSET, GLOBAL_BASE, LOCAL_BASE, SHARED_BASE, Layout, Region
from .ptx import Instruction, Space
from .scalars import Array

Kind = Literal["load", "store", "atomic", "read-only load"]


@dataclass(frozen=True, slots=True)
class Access:
    """One instruction's access.

    Attributes:
        width: bytes of an element. count: elements of each lane.
    """

    instruction: Instruction
    space: Space
    kind: Kind
    width: int
    count: int = 1

    @property
    def size(self) -> int:
        return self.width * self.count


def addresses(batch: Batch, slot: int, offset: int) -> Array:
    """The addresses of the active lanes, or one number for all of them."""
    found = batch.r[slot]
    found = found.view(np.int64) if found.itemsize == 8 else found.astype(np.int64)
    if found.ndim:
        index = batch.index()
        if index is not None:
            found = found[index]
    return found + offset if offset else found


def space_of(address: int) -> Space:
    """The space that a generic address leads to."""
    if address < SHARED_BASE:
        return "global"
    return "shared" if address < LOCAL_BASE else "local"


BASES: dict[Space, int] = {"shared": SHARED_BASE, "local": LOCAL_BASE}
"""What generic addresses of a space are more than its own addresses."""


def bounded(batch: Batch, access: Access, layout: Layout, found: Array) -> Region | None:
    """The one region that all accesses lie in; None if they are in several.

    Raises:
        SimulationError: one is in none (TW-E1001), or misaligned (TW-E1002).
    """
    size = access.size
    lowest, highest = int(found.min()), int(found.max())
    region = layout.holding(lowest)
    if region is None or highest + size > region.end:
        wrong = layout.outside(found, size)
        if wrong.any():
            address, lane = first(batch, found, wrong)
            raise batch.fault(
                "TW-E1001",
                access.instruction,
                lane,
                f"{access.kind} of {size} bytes of {access.space} memory at {address:#x} is out of "
                f"bounds: {layout.describe(address, size)}",
            )
        region = None
    misplaced = found & (size - 1)
    if size > 1 and misplaced.any():
        address, lane = first(batch, found, misplaced != 0)
        raise batch.fault(
            "TW-E1002",
            access.instruction,
            lane,
            f"{access.kind} of {size} bytes at {address:#x} is misaligned by {address % size} "
            "bytes",
        )
    return region


def global_index(batch: Batch, access: Access, found: Array) -> Array:
    """Where in global memory the accesses of the active lanes go, after all checks."""
    memory = batch.memory
    region = bounded(batch, access, memory.layout, found)
    index: Array = found - GLOBAL_BASE
    if region is None or not region.written:
        if access.kind == "store":
            memory.stored.add(int(found.min()))
        else:
            wrong = memory.bytes.unwritten(index, access.size)
            if wrong.any():
                address, lane = first(batch, found, wrong)
                name = memory.region(address)
                raise batch.fault(
                    "TW-E1003",
                    access.instruction,
                    lane,
                    f"{access.kind} of {access.size} bytes of {name.name}, offset "
                    f"{address - name.start}, that were never written",
                )
    if batch.sharing is not None:
        batch.sharing.access(batch, access, index)
    if batch.counters is not None:
        batch.counters.global_request(batch, access, found)
    return index


def window_index(batch: Batch, window: Window, access: Access, found: Array) -> Array:
    """Where in the blocks' or threads' own memory the accesses go, after all checks."""
    bounded(batch, access, window.layout, found)
    index = window.index(found, batch.index())
    if access.kind != "store":
        wrong = window.bytes.unwritten(index, access.size)
        if wrong.any():
            raise unwritten(batch, window, access, index, wrong)
    if access.space == "shared":
        if batch.races is not None:
            batch.races.access(batch, access, index)
        if batch.counters is not None:
            batch.counters.shared_request(batch, access, found)
    return index


def unwritten(
    batch: Batch, window: Window, access: Access, index: Array, wrong: Array
) -> SimulationError:
    """The error of a load of bytes that nobody has written, or that are still on their way."""
    at, lane = first(batch, index, wrong)
    address = offset_in(window, at)
    region = window.layout.holding(address)
    assert region is not None
    what = f"{access.kind} of {access.size} bytes of {region.name}, offset {address - region.start}"
    if access.space == "shared" and batch.copies.touches(at, access.size):
        return batch.fault(
            "TW-E1006",
            access.instruction,
            lane,
            f"{what}, where an asynchronous copy is under way that was not waited for",
        )
    return batch.fault("TW-E1003", access.instruction, lane, f"{what}, that were never written")


def first(batch: Batch, found: Array, wrong: Array) -> tuple[int, int]:
    """(address, lane) of the first active lane with something wrong."""
    lanes = batch.numbers()
    if not found.ndim:
        return int(found), int(lanes[0])
    at = int(np.argmax(wrong))
    return int(found[at]), int(lanes[at])


def offset_in(window: Window, index: int) -> int:
    """The address in its piece of a byte of a window."""
    return index % window.stride + FIRST_OFFSET
