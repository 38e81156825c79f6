"""What a model becomes for the CPU that runs it: texts on the way, and objects, by LLVM."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, takewhile

import llvmlite

from tilewright.runtime.cache import Cache, digest_key
from tilewright.target import Target
from tilewright.tensor.ir import Func

from ..backend import Progress, Unit
from ..llvm.emit import emit_module
from . import pool
from .compile import compile_assembly, compile_object
from .program import emit_program
from .target import resolve_target, runs_here
from .threads import default_threads

KERNELS_TOGETHER = 4
"""Kernels of one object: LLVM takes 2 ms for a module however small it is, as long as for 60
lines of it, and linking is per object, too. More together would be looked up in vain more often,
since one that differs is enough."""

_TURN_SECONDS = 1e-4
_TURNS: list[float] = []
"""How long turns were for each that compiles now when it began; the first one's is put back."""
_TURNS_LOCK = threading.Lock()

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

    Each is looked up by its own text. With the pool's, a model is loaded without LLVM.
    """
    with begin(unit.target, cache, progress) as work:
        work.complete(unit)
        return work.objects()


@contextmanager
def begin(target: Target, cache: Cache, progress: Progress | None = None) -> Iterator[Objects]:
    """Begins to make a program's objects, by a thread that ends with the context.

    An error, or a result that is not asked for, leaves what has not begun undone.
    """
    with _quick_turns(), ThreadPoolExecutor(1) as worker:
        try:
            yield Objects(target, cache, progress, worker)
        finally:
            worker.shutdown(cancel_futures=True)


class Objects:
    """The objects of a program in the making (see the Work protocol).

    While texts are written here and kernels are thought out elsewhere, another thread has LLVM
    compile the texts before them, which needs no Python. Where there is one CPU for both, nothing
    is done ahead: to go back and forth took 7 to 10 % more time than one after the other.
    """

    def __init__(
        self, target: Target, cache: Cache, progress: Progress | None, worker: ThreadPoolExecutor
    ) -> None:
        self._target, self._cache, self._progress, self._worker = target, cache, progress, worker
        # The same for all programs, and so there to begin with.
        self._pool = worker.submit(pool_object, cache) if runs_here(target) else None
        self._has_room = default_threads() > 1
        self._ahead: list[Func] = []
        self._pending: list[tuple[int, Future[bytes]]] = []

    def add(self, kernel: Func) -> None:
        """Takes a kernel; the text of every few of them goes to LLVM at once."""
        if not self._has_room:
            return
        self._ahead.append(kernel)
        if len(self._ahead) % KERNELS_TOGETHER == 0:
            self._submit_kernels(self._ahead[-KERNELS_TOGETHER:])

    def complete(self, unit: Unit) -> None:
        """Has LLVM compile what is missing: objects are the same whatever was given ahead."""
        pairs = zip(self._ahead, unit.kernels, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        groups = common // KERNELS_TOGETHER
        for _, future in self._pending[groups:]:
            future.cancel()
        del self._pending[groups:]
        total = len(unit.kernels) + 1
        for first in range(groups * KERNELS_TOGETHER, len(unit.kernels), KERNELS_TOGETHER):
            self._submit_kernels(unit.kernels[first : first + KERNELS_TOGETHER])
            self._tell(sum(n for n, future in self._pending if future.done()), total)
        self._submit(1, emit_program(unit.program), ENTRY_LEVEL)

    def is_done(self) -> bool:
        """Whether LLVM has compiled all there is."""
        return all(future.done() for _, future in self._pending)

    def objects(self) -> tuple[bytes, ...]:
        """All objects, in order, once LLVM has made them."""
        objects: list[bytes] = []
        done = list(accumulate(n for n, _ in self._pending))
        for count, (_, future) in zip(done, self._pending, strict=True):
            objects.append(future.result())
            self._tell(count, done[-1])
        if self._pool is not None:
            objects.append(self._pool.result())
        return tuple(objects)

    def _submit_kernels(self, kernels: Sequence[Func]) -> None:
        self._submit(len(kernels), emit_module(kernels, self._target), 1)

    def _submit(self, count: int, text: str, level: int) -> None:
        made = self._worker.submit(_object, text, self._target, self._cache, level)
        self._pending.append((count, made))

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Lets a thread that comes back from LLVM or a file have the interpreter soon.

    It does so some twenty times for an object, and Python would let it wait 5 ms each time: longer
    than LLVM takes. The first that compiles makes turns quick, and the last that does so puts them
    back in order.
    """
    with _TURNS_LOCK:
        _TURNS.append(sys.getswitchinterval())
        sys.setswitchinterval(min(_TURNS[0], _TURN_SECONDS))
    try:
        yield
    finally:
        with _TURNS_LOCK:
            before = _TURNS.pop()
            if not _TURNS:
                sys.setswitchinterval(before)


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
