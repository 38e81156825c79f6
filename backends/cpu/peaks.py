"""What this machine reaches at most: f32 operations and bytes read a second, by cache level.

Two kernels of our own are compiled for the machine and timed: independent chains of multiply-add
that stay in registers, and sums over a block of memory that fits the level. Each figure is the best
of many short runs, since whatever disturbs a run makes it slower. They are the roofs that profiles
are drawn under (Williams, Waterman, Patterson, CACM 52(4), 2009), and are kept in the cache for
the machine they were measured on.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tilewright.runtime.buffer import address_of, aligned_bytes
from tilewright.runtime.cache import Cache, digest_key
from tilewright.target import Target
from tilewright.tensor.parse import parse_func

from ..llvm.emit import emit_module
from . import pool
from .compile import compile_object
from .link import Library
from .load import pool_address
from .target import resolve_target
from .threads import default_threads

_CHAINS = 12
"""Chains side by side: more than latency times ports, and few enough for 16 registers."""
_FLOPS_RUN = 40_000_000
_BYTES_RUN = 40_000_000
_SECONDS = 0.15
"""How long each figure is measured, after which the best run counts."""
_LARGEST = 256 << 20

_CHAINS_TEXT = """\
def chains(x: f32[{lanes}], y: f32[T, {chains}, {lanes}], T: symbol(1), R: symbol(1)):
    for t in parallel(T):
        factor: register[f32, {lanes}]
        acc: register[f32, {chains}, {lanes}]
        for j in vector({lanes}):
            factor[j] = x[j]
        for a in unroll({chains}):
            for j in vector({lanes}):
                acc[a, j] = x[j]
        for r in serial(R):
            for a in unroll({chains}):
                for j in vector({lanes}):
                    acc[a, j] = mad(acc[a, j], factor[j], factor[j])
        for a in unroll({chains}):
            for j in vector({lanes}):
                y[t, a, j] = acc[a, j]
"""
_SUMS_TEXT = """\
def sums(x: f32[T, I, {chains}, {lanes}], y: f32[T, {chains}, {lanes}],
         T: symbol(1), I: symbol(1), R: symbol(1)):
    for t in parallel(T):
        acc: register[f32, {chains}, {lanes}]
        for a in unroll({chains}):
            for j in vector({lanes}):
                acc[a, j] = 0.0
        for r in serial(R):
            for i in serial(I):
                for a in unroll({chains}):
                    for j in vector({lanes}):
                        acc[a, j] = acc[a, j] + x[t, i, a, j]
        for a in unroll({chains}):
            for j in vector({lanes}):
                y[t, a, j] = acc[a, j]
"""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most that one thread and all threads of this machine reach.

    Attributes:
        threads: how many "all" are.
        flops: f32 operations a second, a multiply-add being two; of one thread and of all.
        bandwidth: bytes read a second, of one thread and of all, by level (L1, L2, L3, DRAM).
        capacity: bytes that each level holds: of one thread, of all; 0 for memory.
    """

    threads: int
    flops: tuple[float, float]
    bandwidth: Mapping[str, tuple[float, float]]
    capacity: Mapping[str, tuple[int, int]]

    def flops_of(self, threads: int) -> float:
        """Operations a second of so many threads."""
        return _between(self.flops, threads, self.threads)

    def bandwidth_of(self, level: str, threads: int) -> float:
        """Bytes a second that so many threads read from a level."""
        return _between(self.bandwidth[level], threads, self.threads)

    def level_of(self, nbytes: int, threads: int) -> str:
        """The nearest level that holds so many bytes of so many threads."""
        for level, (one, most) in self.capacity.items():
            if nbytes <= (one if threads == 1 else most):
                return level
        return list(self.capacity)[-1]


def _between(ends: tuple[float, float], threads: int, most: int) -> float:
    """What so many threads reach, where one and all are known: in between in proportion."""
    one, all_of = ends
    if threads <= 1 or most <= 1:
        return one
    share = (min(threads, most) - 1) / (most - 1)
    return one + share * (all_of - one)


class Meter:
    """The two kernels, loaded.

    Args:
        target: what to compile them for; this machine can run it.
    """

    def __init__(self, target: Target) -> None:
        self.lanes = target.lanes(32)
        given = {"lanes": self.lanes, "chains": _CHAINS}
        funcs = [parse_func(text.format(**given)) for text in (_CHAINS_TEXT, _SUMS_TEXT)]
        code = compile_object(emit_module(funcs, target), target)
        self.digest = digest_key(code)
        self._library = Library([code], [f.name for f in funcs])
        parallel, state = pool_address()
        self._context = (ctypes.c_int64 * len(pool.CONTEXT_FIELDS))(parallel, state, 1)
        self._x = aligned_bytes(4 * self.lanes).view(np.float32)
        self._x[:] = 0.5

    def close(self) -> None:
        """Frees the kernels."""
        self._library.close()

    def chains(self, threads: int, rounds: int) -> tuple[Callable[[], None], int]:
        """A call of the multiply-adds, and how many operations it makes."""
        out = aligned_bytes(threads * _CHAINS * self.lanes * 4)
        call = self._bind("chains", [self._x, out], [threads, rounds])
        return self._with(threads, call), 2 * threads * rounds * _CHAINS * self.lanes

    def sums(self, threads: int, nbytes: int, rounds: int) -> tuple[Callable[[], None], int]:
        """A call that sums blocks of so many bytes, one a thread, and the bytes it reads."""
        piece = _CHAINS * self.lanes * 4
        pieces = max(1, nbytes // piece)
        data = aligned_bytes(threads * pieces * piece)
        data[:] = 0
        out = aligned_bytes(threads * piece)
        call = self._bind("sums", [data, out], [threads, pieces, rounds])
        return self._with(threads, call), threads * pieces * piece * rounds

    def _with(self, threads: int, call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self._context[2] = threads
            call()

        return run

    def _bind(
        self, name: str, arrays: Sequence[np.ndarray], sizes: Sequence[int]
    ) -> Callable[[], None]:
        pointers = [ctypes.c_void_p] * (1 + len(arrays))
        kind = ctypes.CFUNCTYPE(None, *pointers, *[ctypes.c_int64] * len(sizes))
        function = kind(self._library.addresses[name])
        places = [ctypes.addressof(self._context), *map(address_of, arrays)]

        def call(_alive: Sequence[np.ndarray] = arrays) -> None:
            function(*places, *sizes)

        return call


def measure_peaks(seconds: float = _SECONDS) -> Peaks:
    """Measures this machine.

    Args:
        seconds: for each of the ten figures.
    """
    target = resolve_target()
    meter = Meter(target)
    threads = default_threads()
    counts = (1, threads)
    capacity = _capacities(target, threads)
    try:
        rounds = _FLOPS_RUN // (2 * _CHAINS * meter.lanes)
        flops = tuple(_rate(*meter.chains(n, rounds), seconds) for n in counts)
        bandwidth = {}
        for level, nbytes in _blocks(target).items():
            rates = []
            for n in counts:
                # What threads share they share here, too.
                own = nbytes // n if level in ("L3", "DRAM") else nbytes
                again = max(1, _BYTES_RUN // own)
                rates.append(_rate(*meter.sums(n, own, again), seconds))
            bandwidth[level] = (rates[0], max(rates))
    finally:
        meter.close()
    return Peaks(threads, (flops[0], max(flops)), bandwidth, capacity)


def _blocks(target: Target) -> dict[str, int]:
    """How much is read to measure each level: well inside it, and well outside the one before."""
    l1, l2, l3 = target.l1_bytes, target.l2_bytes, target.l3_bytes
    return {
        "L1": l1 // 2,
        "L2": l2 // 2,
        "L3": max(min(l3 // 2, 4 * l2), 2 * l2),
        "DRAM": min(_LARGEST, max(4 * l3, 32 << 20)),
    }


def _capacities(target: Target, threads: int) -> dict[str, tuple[int, int]]:
    l1, l2, l3 = target.l1_bytes, target.l2_bytes, target.l3_bytes
    return {
        "L1": (l1, threads * l1),
        "L2": (l2, threads * l2),
        "L3": (l3, l3),
        "DRAM": (0, 0),
    }


def _rate(call: Callable[[], None], work: int, seconds: float) -> float:
    """Work a second, of the fastest call."""
    clock = time.perf_counter
    call()
    best = math.inf
    end = clock() + seconds
    runs = 0
    while runs < 3 or clock() < end:
        began = clock()
        call()
        best = min(best, clock() - began)
        runs += 1
    return work / best


def calibration(meter: Meter) -> Callable[[], None]:
    """A fixed piece of work of some tenths of a millisecond: multiply-adds, and reading 4 MB."""
    compute, _ = meter.chains(1, 5000)
    read, _ = meter.sums(1, 4 << 20, 1)

    def run() -> None:
        compute()
        read()

    return run


# ------------------------------------------------------------------ kept


def known_peaks(store: Cache) -> Peaks | None:
    """What was measured of this machine before; None if it was not, or is not kept."""
    held = store.get(_key())
    if held is None:
        return None
    data = json.loads(held)
    return Peaks(
        threads=int(data["threads"]),
        flops=(data["flops"][0], data["flops"][1]),
        bandwidth={k: (v[0], v[1]) for k, v in data["bandwidth"].items()},
        capacity={k: (v[0], v[1]) for k, v in data["capacity"].items()},
    )


def keep_peaks(store: Cache, peaks: Peaks) -> None:
    """Keeps what was measured for this machine."""
    store.put(_key(), json.dumps(asdict(peaks)).encode())


def _key() -> str:
    """Differs between machines that may reach different figures."""
    return digest_key("peaks", repr(resolve_target()), _processor(), str(default_threads()))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith("model name")), "")
    except OSError:
        return ""
