"""Loading: object code to a callable entry, and the worker pool that it shares."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from importlib import import_module

from tilewright.runtime.cache import NO_CACHE, Cache

from . import pool
from .link import LIBC, Library, map_memory
from .program import FRAME_ENTRY
from .threads import default_threads

_MADV_WIPEONFORK = 18


class CpuEntry:
    """A loaded program: the address of its entry and the context to call it with.

    Args:
        objects: object code that defines the entry of ``emit_program`` and all it calls; the
            pool's, too, or it is made.
        threads: how many threads a call may use; None: what affinity and quota allow.
        cache: where the pool's object code is kept that was made.
    """

    def __init__(
        self, objects: Sequence[bytes], threads: int | None = None, cache: Cache = NO_CACHE
    ) -> None:
        mark = pool.SYMBOL.encode()
        parallel, state = pool_address(cache, next((o for o in objects if mark in o), None))
        self._library = Library([o for o in objects if mark not in o], [FRAME_ENTRY])
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


def pool_address(cache: Cache = NO_CACHE, code: bytes | None = None) -> tuple[int, int]:
    """The addresses of this process's ``parallel`` and of its pool's state; made once.

    Both stay until the process ends, since the workers run there.

    Args:
        cache: where the pool's object code is kept that was made.
        code: the pool's object code; without it, it is made.
    """
    with _POOL_LOCK:
        if not _POOL:
            _POOL.append(_make_pool(code or _pool_object(cache)))
        return _POOL[0]


def _make_pool(code: bytes) -> tuple[int, int]:
    # Its code stays in memory: nobody closes the library.
    library = Library([code], [pool.SYMBOL])
    size = max(pool.STATE_BYTES, mmap.PAGESIZE)
    state = map_memory(size)
    if LIBC.madvise(state, size, _MADV_WIPEONFORK) != 0:
        # Kernels before 4.14, and some sandboxes: wipe by hand, for forks made from Python.
        os.register_at_fork(after_in_child=lambda: ctypes.memset(state, 0, size))
    return library.addresses[pool.SYMBOL], state


def _pool_object(cache: Cache) -> bytes:
    """The pool's object code, made by LLVM, which nothing else here needs."""
    found: bytes = import_module(".objects", __package__).pool_object(cache)
    return found
