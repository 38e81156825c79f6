"""Where the time of a call goes, measured: each kernel call between two readings of the clock.

The program's entry is compiled once more with the processor's time stamp read before and after
each kernel call and copy; the kernels are those of the model, called as always, in the caches that
the kernel before left them. A kernel's share of the roofline is the least time that the machine
needs for its work over the time that it took:

    max(operations / peak, constants / bandwidth of the level that holds all constants
                           + other bytes / bandwidth of the level that holds the arena)

Bytes count once for each element of an operand that is used, so that a lookup in a large table
counts what is looked up. Operations are those of the scheduled loops (tensor/work.py).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from tilewright.errors import InternalError
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.buffer import address_of, aligned_bytes
from tilewright.runtime.executable import Executable
from tilewright.runtime.program import (
    CallKernel,
    ConstantStorage,
    CopyTensor,
    LoopStep,
    Program,
    Tensor,
    walk_steps,
)
from tilewright.target import Target
from tilewright.tensor.ir import Buffer, Func, Var
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.work import Work, count_work

from ..backend import Profile, ProfiledKernel, ProfiledStep, Profiler, Subject
from . import BACKEND
from .compile import compile_object
from .link import Library
from .load import pool_address
from .objects import ENTRY_LEVEL
from .peaks import Peaks, keep_peaks, known_peaks, measure_peaks
from .program import ENTRY, FRAME_ENTRY, emit_program

_MOST_ENTRIES = 1 << 18
_WARMING = 3
_LEAST_CALLS = 15
_MOST_CALLS = 2000
_SECONDS = 1.0
COPIES = "copy"
"""What all copies together are called among the kernels."""


class TimedEntry:
    """A program whose kernel calls are entered in a log (see the Entry protocol).

    Args:
        built: a compiled model for this machine.
        threads: how many a call may use.
    """

    def __init__(self, built: Artifact, threads: int) -> None:
        # The model's own entry goes: this one calls the same kernels.
        kernels = [code for code in built.objects if ENTRY.encode() not in code]
        if len(kernels) == len(built.objects):
            raise InternalError(
                f"{built.program.name}: none of its objects holds {ENTRY}", code="TW-E0936"
            )
        entry = emit_program(built.program, timed=True)
        timed = compile_object(entry, built.target, opt=ENTRY_LEVEL)
        self._library = Library([*kernels, timed], [FRAME_ENTRY])
        self._log = aligned_bytes(8 * (2 + 3 * _MOST_ENTRIES)).view(np.int64)
        self._log[:2] = 0, _MOST_ENTRIES
        parallel, state = pool_address()
        self._context = (ctypes.c_int64 * 4)(parallel, state, threads, address_of(self._log))
        self.address = self._library.addresses[FRAME_ENTRY]
        self.context = ctypes.addressof(self._context)
        self.threads = threads

    def close(self) -> None:
        """Frees the code."""
        self._library.close()

    def take(self) -> np.ndarray:
        """The entries since the last time: rows of number, start and end in ticks."""
        count = min(int(self._log[0]), _MOST_ENTRIES)
        self._log[0] = 0
        return self._log[2 : 2 + 3 * count].reshape(-1, 3).copy()


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time of calls goes.

    Attributes:
        steps: seconds of each timed step in one call, all its runs together: the medians.
        runs: how often each step runs in one call.
        call: the call of median length, as it went.
        seconds: the length of that call, from outside.
        calls: how many were measured.
    """

    steps: tuple[float, ...]
    runs: tuple[int, ...]
    call: tuple[ProfiledStep, ...]
    seconds: float
    calls: int


def time_steps(
    built: Artifact, inputs: Mapping[str, np.ndarray], threads: int, seconds: float = _SECONDS
) -> Times:
    """Times every kernel call and copy of a model, over many calls."""
    entry = TimedEntry(built, threads)
    exe = Executable(built, entry)
    arrays = [inputs[spec.name] for spec in exe.inputs]
    for _ in range(_WARMING):
        exe(*arrays)
    entry.take()
    clock = time.perf_counter
    logs: list[np.ndarray] = []
    lengths: list[float] = []
    began = clock()
    while len(logs) < _LEAST_CALLS or (clock() - began < seconds and len(logs) < _MOST_CALLS):
        start = clock()
        exe(*arrays)
        lengths.append(clock() - start)
        logs.append(entry.take())
    tick = _seconds_a_tick(began, clock(), logs)
    count = sum(isinstance(s, (CallKernel, CopyTensor)) for s in walk_steps(built.program.steps))
    sums = [np.bincount(g[:, 0], (g[:, 2] - g[:, 1]) * tick, count) for g in logs]
    middle = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
    shown = logs[middle]
    first = int(shown[0, 1]) if len(shown) else 0
    return Times(
        steps=tuple(median(float(s[k]) for s in sums) for k in range(count)),
        runs=tuple(int(n) for n in np.bincount(shown[:, 0], minlength=count)),
        call=tuple(
            ProfiledStep(int(n), (int(a) - first) * tick, (int(b) - int(a)) * tick)
            for n, a, b in shown
        ),
        seconds=lengths[middle],
        calls=len(logs),
    )


def _seconds_a_tick(began: float, ended: float, logs: Sequence[np.ndarray]) -> float:
    """The length of a tick, from all calls together, which take a second or so."""
    used = [g for g in logs if len(g)]
    if not used:
        return 0.0
    ticks = int(used[-1][-1, 2]) - int(used[0][0, 1])
    return (ended - began) / max(1, ticks)


# ------------------------------------------------------------------ the roofline


@dataclass(frozen=True, slots=True)
class _Roofline:
    """What one call of a model may take at least, kernel by kernel.

    Attributes:
        peaks: of the machine.
        threads: of the call.
        constants_level, arena_level: which level holds all constants, and all that calls write.
    """

    peaks: Peaks
    threads: int
    constants_level: str
    arena_level: str

    def bounds(self, work: Work | None, constants: int, others: int) -> dict[str, float]:
        """Seconds at least, by what they are spent on."""
        found = {} if work is None else {"compute": work.flops / self.flops}
        bandwidth = self.peaks.bandwidth_of
        memory = constants / bandwidth(self.constants_level, self.threads)
        memory += others / bandwidth(self.arena_level, self.threads)
        slower = constants > others * self._ratio()
        found[self.constants_level if slower else self.arena_level] = memory
        return found

    @property
    def flops(self) -> float:
        """Operations a second at most."""
        return self.peaks.flops_of(self.threads)

    def _ratio(self) -> float:
        a, b = (
            self.peaks.bandwidth_of(level, self.threads)
            for level in (self.constants_level, self.arena_level)
        )
        return a / b


@dataclass(slots=True)
class _Sum:
    """All calls of one kernel."""

    seconds: float = 0.0
    runs: int = 0
    flops: int | None = 0
    nbytes: int = 0
    bounds: dict[str, float] | None = None


def profile(subject: Subject) -> Profile:
    """Measures where the time of a call goes."""
    built, threads = subject.artifact, subject.threads
    peaks = known_peaks(subject.cache)
    if peaks is None:
        peaks = measure_peaks()
        keep_peaks(subject.cache, peaks)
    times = time_steps(built, subject.inputs, threads)
    sizes = sizes_of(built.program, subject.inputs)
    roofline = _roofline(built.program, sizes, peaks, threads)
    sums: dict[str, _Sum] = {}
    timed = [s for s in walk_steps(built.program.steps) if isinstance(s, (CallKernel, CopyTensor))]
    counted: dict[tuple[object, ...], Work | None] = {}
    for k, step in enumerate(timed):
        if not times.runs[k]:
            continue
        _add(sums, step, times, k, subject.kernels, sizes, roofline, counted)
    covered = sum(times.steps)
    notes = (
        f"measured: medians of {times.calls} calls with {threads} threads; a time stamp is read "
        f"before and after each kernel call",
        f"a call takes {times.seconds * 1e6:.1f} us, of which {covered * 1e6:.1f} are in kernels",
        f"roofline: {roofline.flops / 1e9:.0f} GFLOP/s of f32; constants come from "
        f"{roofline.constants_level}, other operands from {roofline.arena_level}",
    )
    kernels = tuple(_kernel(name, found) for name, found in sums.items())
    levels = {level: peaks.bandwidth_of(level, threads) for level in peaks.bandwidth}
    return Profile(
        "measured", notes, kernels, times.call, times.seconds,
        {"flops": roofline.flops, **levels},
    )  # fmt: skip


def _roofline(program: Program, sizes: Mapping[str, int], peaks: Peaks, threads: int) -> _Roofline:
    arena = evaluate(program.arena_bytes, dict(sizes))
    return _Roofline(
        peaks,
        threads,
        peaks.level_of(program.constants_bytes + arena, threads),
        peaks.level_of(arena, threads),
    )


def _add(
    sums: dict[str, _Sum],
    step: CallKernel | CopyTensor,
    times: Times,
    number: int,
    kernels: Mapping[str, Func],
    sizes: Mapping[str, int],
    roofline: _Roofline,
    counted: dict[tuple[object, ...], Work | None],
) -> None:
    """Adds one step to the sum of its kernel."""
    name = step.kernel if isinstance(step, CallKernel) else COPIES
    total = sums.setdefault(name, _Sum())
    runs = times.runs[number]
    total.seconds += times.steps[number]
    total.runs += runs
    known = _known(step, sizes)
    if known is None:
        total.flops = total.bounds = None
        return
    work = _work(step, kernels.get(name), known, counted)
    constants, others = _bytes(step, kernels.get(name), work, known)
    total.nbytes += runs * (constants + others)
    if work is None:
        total.flops = None
    elif total.flops is not None:
        total.flops += runs * work.flops
    bounds = roofline.bounds(work, constants, others)
    total.bounds = total.bounds or {}
    for part, least in bounds.items():
        total.bounds[part] = total.bounds.get(part, 0.0) + runs * least


def _known(step: CallKernel | CopyTensor, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes, if they settle all dims of a step: those read from data are not known."""
    tensors = [step.src, step.dst] if isinstance(step, CopyTensor) else list(step.args)
    for t in tensors:
        for d in t.shape if isinstance(t, Tensor) else (t,):
            if not isinstance(d, int) and not {v.name for v in d.variables} <= sizes.keys():
                return None
    return dict(sizes)


def _work(
    step: CallKernel | CopyTensor,
    func: Func | None,
    sizes: dict[str, int],
    counted: dict[tuple[object, ...], Work | None],
) -> Work | None:
    if isinstance(step, CopyTensor):
        return Work(0, {})
    if func is None:
        return None
    given = {
        p.name: evaluate(a, sizes)
        for p, a in zip(func.params, step.args, strict=True)
        if isinstance(p, Var) and not isinstance(a, Tensor)
    }
    key = (func.name, *given.items())
    if key not in counted:
        counted[key] = count_work(func, given)
    return counted[key]


def _bytes(
    step: CallKernel | CopyTensor, func: Func | None, work: Work | None, sizes: dict[str, int]
) -> tuple[int, int]:
    """Bytes of constants and of other operands, as far as they are used."""
    if isinstance(step, CopyTensor):
        return 0, 2 * _size(step.src, sizes)
    constants = others = 0
    params = [p.name if isinstance(p, Buffer) else "" for p in func.params] if func else []
    for k, a in enumerate(step.args):
        if not isinstance(a, Tensor):
            continue
        nbytes = _size(a, sizes)
        if work is not None and func is not None:
            nbytes = min(nbytes, work.accesses[params[k]] * a.dtype.bytes)
        if isinstance(a.storage, ConstantStorage):
            constants += nbytes
        else:
            others += nbytes
    return constants, others


def _size(t: Tensor, sizes: dict[str, int]) -> int:
    nbytes = t.dtype.bytes
    for d in t.shape:
        nbytes *= evaluate(d, sizes)
    return nbytes


def sizes_of(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The symbols that the inputs settle; loop variables count as 0, where views begin."""
    sizes: dict[str, int] = {}
    for spec in program.inputs:
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
            if isinstance(dim, Var):
                sizes.setdefault(dim.name, size)
    for step in walk_steps(program.steps):
        if isinstance(step, LoopStep):
            sizes.setdefault(step.var.name, 0)
    return sizes


def _kernel(name: str, found: _Sum) -> ProfiledKernel:
    seconds = found.seconds
    least = max(found.bounds.values()) if found.bounds else None
    limiter = max(found.bounds, key=found.bounds.__getitem__) if found.bounds else "unknown"
    figures: dict[str, object] = {
        "of roofline": least / seconds if least is not None and seconds else None,
        "flops": found.flops,
        "operand bytes": found.nbytes,
        "GFLOP/s": found.flops / seconds / 1e9 if found.flops and seconds else None,
        "GB/s": found.nbytes / seconds / 1e9 if seconds else None,
    }
    return ProfiledKernel(name, found.runs, seconds, limiter, figures)


def _check(target: Target) -> None:
    BACKEND.check(target)


PROFILER = Profiler(profile, _check)
