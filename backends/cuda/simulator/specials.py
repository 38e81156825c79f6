"""The special registers: who a lane is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .batch import WARP, Shape
from .scalars import Array


def special(shape: Shape, first: int, blocks: int, shared_bytes: int, name: str) -> Array:
    """The value of a special register in every lane of a batch.

    Args:
        first, blocks: the blocks of the batch.
        shared_bytes: the dynamic part of shared memory.
        name: without the percent sign.
    """
    head, _, axis = name.partition(".")
    at = "xyz".find(axis)
    match head:
        case "tid" | "laneid" | "warpid":
            return _of_thread(shape, blocks, name)
        case "ctaid":
            return _of_block(shape, first, blocks, at)
        case "ntid":
            return _same(shape.block[at])
        case "nctaid":
            return _same(shape.grid[at])
        case "dynamic_smem_size" | "total_smem_size":
            return _same(shared_bytes)
        case "nwarpid":
            return _same(shape.padded // WARP)
        case "nsmid":
            return _same(1)
        case _ if head.startswith("lanemask"):
            return _of_thread(shape, blocks, name)
        case _:
            return _same(0)


def _same(value: int) -> Array:
    return np.asarray(value, np.uint32)[()]


def _of_block(shape: Shape, first: int, blocks: int, at: int) -> Array:
    x, y, _ = shape.grid
    number = np.arange(first, first + blocks)
    found = (number % x, number // x % y, number // (x * y))[at].astype(np.uint32)
    if (found == found[0]).all():
        return _same(int(found[0]))
    return np.repeat(found, shape.padded)


@lru_cache(maxsize=64)
def _of_thread(shape: Shape, blocks: int, name: str) -> Array:
    """What depends on the place in the block only: the same for all batches of a launch."""
    x, y, _ = shape.block
    thread = np.arange(shape.padded)
    lane = thread % WARP
    one = np.int64(1) << lane
    values = {
        "tid.x": thread % x,
        "tid.y": thread // x % y,
        "tid.z": thread // (x * y),
        "laneid": lane,
        "warpid": thread // WARP,
        "lanemask_eq": one,
        "lanemask_lt": one - 1,
        "lanemask_le": 2 * one - 1,
        "lanemask_gt": -2 * one,
        "lanemask_ge": -one,
    }[name]
    found = np.tile(values.astype(np.uint32), blocks)
    found.flags.writeable = False
    return found
