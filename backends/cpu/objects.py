"""What a model becomes for the CPU that runs it: texts on the way, and objects, by LLVM."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate

import llvmlite

from tilewright.runtime.cache import Cache, digest_key
from tilewright.target import Target

from ..backend import Progress, Unit
from ..llvm.emit import emit_module
from . import pool
from .compile import compile_assembly, compile_object
from .program import emit_program
from .target import resolve_target, runs_here

KERNELS_TOGETHER = 4
"""Kernels of one object: LLVM takes 2 ms for a module however small it is, as long as for 60
lines of it, and linking is per object, too. More together would be looked up in vain more often,
since one that differs is enough."""

_TURN_SECONDS = 1e-4
_TURNS = threading.RLock()
"""Held while turns are quick, so that how long they were before is put back in order."""


ENTRY_LEVEL = 0
"""LLVM's code generation level for the entry: it is calls of kernels one after the other, hundreds
for a deep model, and better code for their addresses took seven times as long to make."""


def llvm_text(unit: Unit) -> str:
    """The kernels as one module, then the entry's module."""
    return emit_module(unit.kernels, unit.target) + "\n" + emit_program(unit.program)


def assembly(unit: Unit) -> str:
    """The assembly of the kernels, then the entry's."""
    kernels = compile_assembly(emit_module(unit.kernels, unit.target), unit.target)
    entry = emit_program(unit.program)
    return kernels + compile_assembly(entry, unit.target, opt=ENTRY_LEVEL)


def compile_unit(unit: Unit, cache: Cache, progress: Progress | None = None) -> tuple[bytes, ...]:
    """One object for every few kernels, the entry's, and for a CPU of this kind the pool's.

    Each is looked up by its own text. With the pool's, a model is loaded without LLVM. While texts
    are written here, another thread has LLVM compile the ones before them, which needs no Python.
    """
    with _quick_turns(), ThreadPoolExecutor(1) as worker:
        try:
            objects = _compile_texts(unit, cache, worker, progress)
        except BaseException:
            worker.shutdown(cancel_futures=True)
            raise
    if runs_here(unit.target):
        objects.append(pool_object(cache))
    return tuple(objects)


def _compile_texts(
    unit: Unit, cache: Cache, worker: ThreadPoolExecutor, progress: Progress | None
) -> list[bytes]:
    total = len(unit.kernels) + 1
    pending: list[tuple[int, Future[bytes]]] = []
    for count, text, level in _texts(unit):
        pending.append((count, worker.submit(_object, text, unit.target, cache, level)))
        if progress is not None:
            progress(sum(n for n, future in pending if future.done()), total)
    objects: list[bytes] = []
    for done, (_, future) in zip(accumulate(n for n, _ in pending), pending, strict=True):
        objects.append(future.result())
        if progress is not None:
            progress(done, total)
    return objects


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Lets a thread that comes back from LLVM or a file have the interpreter soon.

    It does so some twenty times for an object, and Python would let it wait 5 ms each time: longer
    than LLVM takes.
    """
    with _TURNS:
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, _TURN_SECONDS))
        try:
            yield
        finally:
            sys.setswitchinterval(before)


def _texts(unit: Unit) -> Iterator[tuple[int, str, int]]:
    """Modules of a few kernels each, then the entry's.

    With each, how many functions it is of, and LLVM's level for it.
    """
    for first in range(0, len(unit.kernels), KERNELS_TOGETHER):
        some = unit.kernels[first : first + KERNELS_TOGETHER]
        yield len(some), emit_module(some, unit.target), 1
    yield 1, emit_program(unit.program), ENTRY_LEVEL


def pool_object(cache: Cache) -> bytes:
    """The object of the worker pool, for the lowest level that code is made for."""
    return _object(pool.TEXT, resolve_target("x86-64-v2"), cache)


def _object(text: str, target: Target, cache: Cache, level: int = 1) -> bytes:
    key = digest_key(
        "object", str(level), text, target.triple, target.cpu, target.features, llvmlite.__version__
    )
    found = cache.get(key)
    if found is None:
        found = compile_object(text, target, opt=level)
        cache.put(key, found)
    return found
