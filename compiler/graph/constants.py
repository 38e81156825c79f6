"""The data of constants: dense copies of views, and mapped files that take no memory once read."""

from __future__ import annotations

import mmap

import numpy as np

_BLOCK = 128


def dense(array: np.ndarray) -> np.ndarray:
    """Returns an array in row-major order: itself if it is, else a copy."""
    if array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, array.dtype)
    # A block of columns at a time, so that a cache line of a transposed array is fetched once.
    for start in range(0, array.shape[-1], _BLOCK):
        result[..., start : start + _BLOCK] = array[..., start : start + _BLOCK]
    return result


def forget_pages(array: np.ndarray) -> None:
    """Takes an array that lies in a mapped file out of this process's memory.

    Its next use reads it again, from the system's copy of the file as a rule. Nothing is done for
    other arrays, nor for mappings that can be written: private changes would be lost.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or not memoryview(owner).readonly:
        return
    first, end = np.lib.array_utils.byte_bounds(array)
    start = first - np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    # Whole pages only, outwards: the neighbours' parts of the outer two are read again.
    begin = start - start % mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, begin, end - first + start - begin)
