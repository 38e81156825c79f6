"""Loading: object code to a callable entry, and the worker pool that it shares.

Each set of objects gets an ORC JIT of its own with JITLink: an undefined or doubled symbol is an
exception (MCJIT ends the process), the sections of an object lie in one slab so that no
relocation is out of reach, and everything is freed when the library is closed (one JIT for all
libraries keeps about 10 KB of each).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
from collections.abc import Sequence

import llvmlite.binding as llvm

from tilewright.errors import InternalError
from tilewright.runtime.cache import NO_CACHE, Cache, digest_key

from . import pool
from .compile import compile_object
from .program import FRAME_ENTRY
from .target import resolve_target
from .threads import default_threads

_MADV_WIPEONFORK = 18


class Library:
    """Native code in memory, from one or more objects that may refer to each other.

    Args:
        objects: object code, linked in this order; libc and libm are visible to it.
        exports: the functions whose addresses are wanted.

    Raises:
        InternalError: an object is damaged, or a symbol is missing or defined twice (TW-E0910).
    """

    def __init__(self, objects: Sequence[bytes], exports: Sequence[str]) -> None:
        _initialize()
        builder = llvm.JITLibraryBuilder()
        for code in objects:
            builder.add_object_img(code)
        builder.add_current_process()
        for name in exports:
            builder.export_symbol(name)
        self._jit = llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)
        try:
            self._tracker = builder.link(self._jit, "library")
        except RuntimeError as error:
            self._jit.close()
            raise InternalError(
                f"linking {len(objects)} objects for {', '.join(exports)}: {error}", code="TW-E0910"
            ) from error
        self.addresses = {name: int(self._tracker[name]) for name in exports}

    def close(self) -> None:
        """Frees the code; nothing may be running in it."""
        # While the interpreter ends, LLVM may already be gone; so is the process, soon.
        if not sys.is_finalizing():
            self._tracker.close()
            self._jit.close()

    def keep(self) -> None:
        """Leaves the code in memory until the process ends."""
        self._tracker.detach()
        self._jit.detach()


class CpuEntry:
    """A loaded program: the address of its entry and the context to call it with.

    Args:
        objects: object code that defines the entry of ``emit_program`` and all it calls.
        threads: how many threads a call may use; None: what affinity and quota allow.
        cache: where the pool's object code is kept.
    """

    def __init__(
        self, objects: Sequence[bytes], threads: int | None = None, cache: Cache = NO_CACHE
    ) -> None:
        parallel, state = pool_address(cache)
        self._library = Library(objects, [FRAME_ENTRY])
        self._context = (ctypes.c_int64 * len(pool.CONTEXT_FIELDS))(parallel, state, 1)
        self.address = self._library.addresses[FRAME_ENTRY]
        self.context = ctypes.addressof(self._context)
        self.threads = default_threads() if threads is None else threads

    @property
    def threads(self) -> int:
        """How many threads a call may use; a change holds from the next parallel region on."""
        return int(self._context[2])

    @threads.setter
    def threads(self, count: int) -> None:
        self._context[2] = max(1, count)

    def close(self) -> None:
        """Frees the code; no call may be running or follow."""
        self._library.close()


_POOL: list[tuple[int, int]] = []
_POOL_LOCK = threading.Lock()


def pool_address(cache: Cache = NO_CACHE) -> tuple[int, int]:
    """The addresses of this process's ``parallel`` and of its pool's state; made once.

    Both stay until the process ends, since the workers run there.

    Args:
        cache: where the pool's object code is kept.
    """
    with _POOL_LOCK:
        if not _POOL:
            _POOL.append(_make_pool(cache))
        return _POOL[0]


def _make_pool(cache: Cache) -> tuple[int, int]:
    library = Library([_pool_object(cache)], [pool.SYMBOL])
    library.keep()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = max(pool.STATE_BYTES, mmap.PAGESIZE)
    protection, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    state = libc.mmap(None, size, protection, kind, -1, 0)
    if state is None or state == ctypes.c_void_p(-1).value:
        raise MemoryError(os.strerror(ctypes.get_errno()))
    if libc.madvise(state, size, _MADV_WIPEONFORK) != 0:
        # Kernels before 4.14, and some sandboxes: wipe by hand, for forks made from Python.
        os.register_at_fork(after_in_child=lambda: ctypes.memset(state, 0, size))
    return library.addresses[pool.SYMBOL], int(state)


def _pool_object(cache: Cache) -> bytes:
    target = resolve_target("x86-64-v2")
    key = digest_key("pool", pool.TEXT, target.features, str(llvm.llvm_version_info))
    found = cache.get(key)
    if found is None:
        found = compile_object(pool.TEXT, target)
        cache.put(key, found)
    return found


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
