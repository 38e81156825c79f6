"""The data of constants: dense copies of views, and mapped files that take no memory once read."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

_BLOCK = 128
_NEAR = 96 << 10
"""Bytes of rows that are copied together to places far apart: they stay in cache meanwhile."""
_LARGE = 16 << 20
"""Bytes from which a copy takes long enough, 3 ms and more, for threads to pay."""
_PIECE = 4 << 20
"""Bytes of a mapped file that are in memory while they are copied: as much as is no matter."""


Copy = Callable[[np.ndarray, np.ndarray], object]
"""What copies from the second array to the first."""


def dense(array: np.ndarray) -> np.ndarray:
    """Returns an array in row-major order: itself if it is, else a copy."""
    if array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, array.dtype)
    copy_view(result, array)
    return result


def copy_view(out: np.ndarray, view: np.ndarray, *, by_blocks: bool = True) -> None:
    """Copies what may be a transposed view to an array of its shape in row-major order.

    Large ones are copied by all CPUs: memory, and the system that hands out its pages, give one
    of them half of what they give two.

    Args:
        out: where to.
        view: from where.
        by_blocks: whether a block of columns is copied at a time, so that a cache line of the view
            is fetched once; it need not be where a row of ``out`` reads what stays in cache.
    """
    copy: Copy = _copy_blocks if by_blocks else np.copyto
    if out.nbytes <= _PIECE:
        # Deep models have thousands of these.
        copy(out, view)
        return
    cpus = len(os.sched_getaffinity(0))
    axis = _slowest(view)
    if axis is not None and _is_read_once(view, axis):
        copy = _forgetting(copy, axis)
    if axis is None or cpus == 1 or out.nbytes < _LARGE:
        copy(out, view)
        return
    size = out.shape[axis]
    ends = [size * k // cpus for k in range(cpus + 1)]
    cuts = [(*[slice(None)] * axis, slice(a, b)) for a, b in pairwise(ends)]
    with ThreadPoolExecutor(cpus) as workers:
        for done in [workers.submit(copy, out[cut], view[cut]) for cut in cuts]:
            done.result()


def _slowest(view: np.ndarray) -> int | None:
    """The axis along which a view goes furthest: the rows of what it is a view of."""
    axes = [k for k, n in enumerate(view.shape) if n > 1]
    return max(axes, key=lambda k: abs(view.strides[k]), default=None)


def _is_read_once(view: np.ndarray, axis: int) -> bool:
    """Whether a view is of a mapped file, each part of which is read at one place of an axis."""
    if _mapped_file(view) is None:
        return False
    first, end = np.lib.array_utils.byte_bounds(view[(*[slice(None)] * axis, slice(0, 1))])
    return end - first <= abs(view.strides[axis])


def _forgetting(copy: Copy, axis: int) -> Copy:
    """Copies some places of an axis at a time, and has them leave memory."""

    def in_pieces(out: np.ndarray, view: np.ndarray) -> None:
        size = out.shape[axis]
        step = max(1, size * _PIECE // max(1, out.nbytes))
        for start in range(0, size, step):
            cut = (*[slice(None)] * axis, slice(start, start + step))
            copy(out[cut], view[cut])
            forget_pages(view[cut])

    return in_pieces


def _copy_blocks(out: np.ndarray, view: np.ndarray) -> None:
    axis, step = view.ndim - 1, _BLOCK
    if view.ndim == 0 or view.strides[-1] == view.itemsize:
        # A panel of columns is a piece of every row: rows are read in their order, as memory is
        # fastest, and not anew for each panel.
        axis = _slowest(view) or 0
        step = view.shape[axis] * _NEAR // out.nbytes if axis and out.nbytes else 0
        if not 0 < step < view.shape[axis]:
            out[...] = view
            return
    for start in range(0, view.shape[axis], step):
        cut = (*[slice(None)] * axis, slice(start, start + step))
        out[cut] = view[cut]


def mapped_files(arrays: Iterable[np.ndarray]) -> list[mmap.mmap]:
    """The files, mapped to be read, that arrays lie in, each once."""
    found = {id(file): file for file in map(_mapped_file, arrays) if file is not None}
    return list(found.values())


def forget_files(files: Iterable[mmap.mmap]) -> None:
    """Takes all of mapped files out of this process's memory, as ``forget_pages`` does."""
    for file in files:
        file.madvise(mmap.MADV_DONTNEED)


def forget_pages(array: np.ndarray) -> None:
    """Takes an array that lies in a mapped file out of this process's memory.

    Its next use reads it again, from the system's copy of the file as a rule. Nothing is done for
    other arrays, nor for mappings that can be written: private changes would be lost.
    """
    owner = _mapped_file(array)
    if owner is None:
        return
    first, end = np.lib.array_utils.byte_bounds(array)
    start = first - np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    # Whole pages only, outwards: the neighbours' parts of the outer two are read again.
    begin = start - start % mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, begin, end - first + start - begin)


def _mapped_file(array: np.ndarray) -> mmap.mmap | None:
    """The file, mapped to be read only, that an array lies in; None where it lies elsewhere."""
    owner: object = array
    # What holds the array of a view with other strides has a base, too.
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    return owner if owner is not None and memoryview(owner).readonly else None
