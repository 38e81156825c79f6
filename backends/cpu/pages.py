"""Memory that a large library does not need after it was loaded, given back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .link import LIBC

_MADV_DONTNEED = 4
_SMAPS = Path("/proc/self/smaps")
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p .*?(\S+)$")


def forget_pages(library: str) -> None:
    """Unmaps the pages of a library that hold what its file holds; they come back when touched.

    Loading LLVM runs thousands of constructors all over its 150 MB and leaves 35 MB of them in
    memory, most of them for nothing. What is needed again costs a minor fault for 64 KB.

    Args:
        library: a part of the file's name.
    """
    for start, end in _known(library):
        LIBC.madvise(start, end - start, _MADV_DONTNEED)


def trim_heap() -> None:
    """Gives the system what is free in the C library's heaps, where it can do that."""
    trim = getattr(LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _known(library: str) -> tuple[tuple[int, int], ...]:
    """The mappings to give back; a library stays where it is, and its relocations are done."""
    return tuple(_unwritten(library))


def _unwritten(library: str) -> Iterator[tuple[int, int]]:
    """The read-only mappings of the library's file of which no page was ever written."""
    try:
        lines = _SMAPS.read_text().splitlines()
    except OSError:
        return
    current: tuple[int, int] | None = None
    for line in lines:
        if line.startswith("Anonymous:"):
            # Relocated pages are the process's own: the file does not hold what they hold.
            if current is not None and line.split()[1] == "0":
                yield current
            current = None
        elif found := _RANGE.match(line):
            mine = library in found[3]
            current = (int(found[1], 16), int(found[2], 16)) if mine else None
