"""Jobs: building one schedule of a task, and measuring it against the untuned one.

Both are plain functions of values that can be sent to another process or another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from tilewright.backends import find_profiler, load_backend
from tilewright.backends.backend import Subject, Unit
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.executable import Executable
from tilewright.runtime.program import Program
from tilewright.schedule.recipes.choices import Asked, Weighing
from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import Func

from .data import agree, make_data
from .loaded import Loaded
from .task import Task
from .timing import pair, seconds_of

SIMULATOR = "{backend}-sim"

_HOPELESS, _LONG_SECONDS = 20.0, 0.05
"""A candidate is not called again whose first call takes so many times as long as the untuned
schedule's, and so long: the others would hold the search."""


class Lowered(Protocol):
    """A group as a program of its own (lower.alone makes it)."""

    @property
    def program(self) -> Program:
        """Takes the inputs whose data is not known, then every symbol as a size."""

    @property
    def kernels(self) -> tuple[Func, ...]:
        """What it calls."""

    @property
    def asked(self) -> Asked:
        """The questions, with options and answers."""

    @property
    def weighed(self) -> tuple[Weighing, ...]:
        """What the analytic model expects of the options."""

    def constants(self, data: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its constants, given the known inputs by name."""


class Lower(Protocol):
    """Lowers a group by given answers; a function of a module, so that it can be sent."""

    def __call__(
        self,
        group: ComputeGroup,
        fixed: frozenset[str],
        target: Target,
        math: str,
        given: Mapping[str, int],
    ) -> Lowered:
        """The group as a program."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule of a task, built.

    Attributes:
        given: the answers that made it.
        lowered: its program.
        objects: its code.
        seconds: how long that took.
    """

    given: Mapping[str, int]
    lowered: Lowered
    objects: tuple[bytes, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """How a candidate compares with the untuned schedule.

    Attributes:
        agrees: whether its results do.
        ratio: its time over the untuned one's.
        seconds: the time of the untuned one.
        rounds: how many pairs of blocks were timed.
        kind: "measured" or "modelled".
        note: where the results differ.
        took: seconds of all of it: making data, loading, calling.
    """

    agrees: bool
    ratio: float
    seconds: float
    rounds: int
    kind: str
    note: str = ""
    took: float = 0.0


def build(task: Task, lower: Lower, given: Mapping[str, int]) -> Candidate:
    """Builds a schedule of a task.

    Raises:
        TilewrightError: no code can be made of it.
    """
    began = perf_counter()
    made = lower(task.group, task.fixed, task.target, task.math, given)
    unit = Unit(made.program, made.kernels, task.target)
    objects = load_backend(task.target.backend).compile(unit, NO_CACHE)
    return Candidate(given, made, objects, perf_counter() - began)


def is_modelled(target: Target) -> bool:
    """Whether schedules for a target are compared by a model, and not by the clock."""
    return target.threads is not None


def measure(
    task: Task, base: Candidate, candidate: Candidate, threads: int, seconds: float
) -> Measured:
    """Compares a candidate's results and time with those of the untuned schedule.

    Args:
        task: what both compute.
        base: the untuned schedule.
        candidate: the other one.
        threads: of a call.
        seconds: how long to time at most; a candidate that is clearly slower takes less.
    """
    if is_modelled(task.target):
        return _model(task, base, candidate, make_data(task))
    data, ours = _held_base(task, base, threads)
    with _load(task, candidate, data, threads) as other:
        first, second = seconds_of(ours.call), seconds_of(other.call)
        difference = agree(ours.outputs(), other.outputs(), task.group.outputs)
        if difference:
            return Measured(False, 0.0, 0.0, 0, "measured", difference)
        if second > _HOPELESS * first and second > _LONG_SECONDS:
            return Measured(True, second / first, first, 1, "measured")
        found = pair(ours.call, other.call, seconds)
        return Measured(True, found.ratio, found.seconds, found.rounds, "measured")


def time_base(task: Task, base: Candidate, threads: int, seconds: float) -> Measured:
    """The time of the untuned schedule alone."""
    began = perf_counter()
    if is_modelled(task.target):
        data = make_data(task)
        modelled = _modelled_seconds(task, base, data)
        return Measured(True, 1.0, modelled, 1, "modelled", took=perf_counter() - began)
    _, ours = _held_base(task, base, threads)
    found = pair(ours.call, ours.call, seconds)
    took = perf_counter() - began
    return Measured(True, 1.0, found.seconds, found.rounds, "measured", took=took)


_HELD: dict[tuple[str, str, int], tuple[dict[str, np.ndarray], Loaded]] = {}


def _held_base(task: Task, base: Candidate, threads: int) -> tuple[dict[str, np.ndarray], Loaded]:
    """The operands and the untuned schedule of a task; those of the last task are kept.

    Making them takes longer than most measurements.
    """
    key = (task.key, repr(sorted(task.sizes.items())), threads)
    if key not in _HELD:
        for _, loaded in _HELD.values():
            loaded.close()
        _HELD.clear()
        data = make_data(task)
        _HELD[key] = data, _load(task, base, data, threads)
    return _HELD[key]


def _load(task: Task, candidate: Candidate, data: Mapping[str, np.ndarray], threads: int) -> Loaded:
    made = candidate.lowered
    backend = load_backend(task.target.backend)
    entry = backend.load(task.target, candidate.objects, NO_CACHE, threads)
    inputs = [data[spec.name] for spec in made.program.inputs]
    return Loaded(entry, made.program, inputs, made.constants(data), task.target.l2_bytes)


# ------------------------------------------------------------------ by a model


def _model(
    task: Task, base: Candidate, candidate: Candidate, data: Mapping[str, np.ndarray]
) -> Measured:
    """Compares what a model says of both; results are those of the simulator."""
    key = (task.key, repr(sorted(task.sizes.items())), 0)
    if key not in _MODELLED:
        _MODELLED.clear()
        _MODELLED[key] = _simulate(task, base, data), _modelled_seconds(task, base, data)
    wanted, ours = _MODELLED[key]
    difference = agree(wanted, _simulate(task, candidate, data), task.group.outputs)
    if difference:
        return Measured(False, 0.0, 0.0, 0, "modelled", difference)
    other = _modelled_seconds(task, candidate, data)
    return Measured(True, other / max(ours, 1e-12), ours, 1, "modelled")


_MODELLED: dict[tuple[str, str, int], tuple[tuple[np.ndarray, ...], float]] = {}
"""The results and the modelled seconds of the untuned schedule of the last task."""


def _modelled_seconds(task: Task, c: Candidate, data: Mapping[str, np.ndarray]) -> float:
    kernels = {f.name: f for f in c.lowered.kernels}
    subject = Subject(_artifact(task, c, data), _feed(c, data), kernels, 1, NO_CACHE)
    profile = find_profiler(task.target.backend).profile(subject)
    return sum(k.seconds for k in profile.kernels)


def _simulate(task: Task, c: Candidate, data: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    backend = task.target.backend
    backend = backend if backend.endswith("-sim") else SIMULATOR.format(backend=backend)
    built = _artifact(task, c, data)
    entry = load_backend(backend).load(built.target, built.objects, NO_CACHE, 1)
    outputs = Executable(built, entry).run(_feed(c, data))
    return tuple(np.asarray(x) for x in outputs.values())


def _artifact(task: Task, c: Candidate, data: Mapping[str, np.ndarray]) -> Artifact:
    constants = c.lowered.constants(data)
    return Artifact(c.lowered.program, task.target, c.objects, constants, {}, {})


def _feed(c: Candidate, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {spec.name: data[spec.name] for spec in c.lowered.program.inputs}
