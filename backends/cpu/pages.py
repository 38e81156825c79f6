"""Memory that a large library takes without need: given back, or not taken in the first place."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from .link import LIBC

_MADV_DONTNEED = 4
_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
"""The number of the system call."""
_OPEN_FLAGS = os.O_CLOEXEC | 1  # with the second, whoever may run programs may call it
_API, _REGISTER = 0xC018AA3F, 0xC020AA00
_API_VERSION, _ASYNCHRONOUS, _WRITE_PROTECT = 0xAA, 1 << 15, 1 << 1
_SMAPS = Path("/proc/self/smaps")
_UNWRITTEN = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) r-([x-])p \S+ \S+ \S+ +(/.+)\n(?:[A-Z].*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)
"""A read-only mapping of a file of which no page was ever written: relocated pages, or those that
a debugger has marked, are the process's own, and the file does not hold what they hold."""


def forget_pages(library: str) -> None:
    """Unmaps the pages of a library that hold what its file holds; they come back when touched.

    Loading LLVM runs thousands of constructors all over its 150 MB and leaves 35 MB of them in
    memory, most of them for nothing. What is needed again costs a minor fault for 64 KB.

    Args:
        library: a part of the file's name.
    """
    for start, end in _known(library):
        LIBC.madvise(start, end - start, _MADV_DONTNEED)


def forget_code() -> None:
    """Unmaps the pages of all libraries that hold what their files hold, as ``forget_pages`` does.

    Compiling goes through much of Python, NumPy and what reads models; running a model touches
    half of it again (4 of 12 MB). To find out what is mapped takes 7 ms.
    """
    mapped = list(_unwritten())
    code = {file for _, _, executable, file in mapped if executable}
    for start, end, _, file in mapped:
        if file in code:
            LIBC.madvise(start, end - start, _MADV_DONTNEED)


@cache
def map_singly(*libraries: str) -> int | None:
    """Has the system map a page of a library when it is touched, and none around it.

    It would map 64 KB around each: to make code, LLVM touches 14 MB all over its library, and 38
    count as this process's memory. Touching them costs 3 ms more, once for each model.

    There is no plain call for this. Watching pages for writes, of which there are none here, has
    it as a side effect (userfaultfd with asynchronous write protection, from Linux 6.7 on); where
    that is not allowed, all stays as it is.

    Args:
        libraries: parts of the files' names.

    Returns:
        The descriptor for as long as which it holds; None where nothing was changed.
    """
    number = _USERFAULTFD.get(platform.machine())
    descriptor = -1 if number is None else LIBC.syscall(number, _OPEN_FLAGS)
    if descriptor < 0:
        return None
    try:
        fcntl.ioctl(descriptor, _API, struct.pack("QQQ", _API_VERSION, _ASYNCHRONOUS, 0))
        for start, end in _named(libraries):
            asked = struct.pack("QQQQ", start, end - start, _WRITE_PROTECT, 0)
            fcntl.ioctl(descriptor, _REGISTER, asked)
    except OSError:
        # What was registered is let go with it.
        os.close(descriptor)
        return None
    return int(descriptor)


def trim_heap() -> None:
    """Gives the system what is free in the C library's heaps, where it can do that."""
    trim = getattr(LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _known(library: str) -> tuple[tuple[int, int], ...]:
    """The mappings to give back; a library stays where it is, and its relocations are done."""
    return tuple(_named((library,)))


def _named(libraries: Sequence[str]) -> list[tuple[int, int]]:
    """The mappings of several libraries, listed once: that takes 4 ms, and 14 beside PyTorch."""
    names = [library.encode() for library in libraries]
    return [(a, b) for a, b, _, file in _unwritten() if any(name in file for name in names)]


def _unwritten() -> Iterator[tuple[int, int, bool, bytes]]:
    """Start, end, whether it is code, and file of each read-only mapping that was never written."""
    try:
        text = _SMAPS.read_bytes()
    except OSError:
        return
    for start, end, executable, file in _UNWRITTEN.findall(text):
        yield int(start, 16), int(end, 16), executable == b"x", file
