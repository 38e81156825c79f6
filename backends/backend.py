"""What a backend is: targets by name, named stages, a compiler and a loader.

Adding a backend is a folder whose ``BACKEND`` follows this protocol, and a line in ``BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import Cache
from tilewright.runtime.executable import Entry
from tilewright.runtime.program import Program
from tilewright.target import Target
from tilewright.tensor.ir import Func

Progress = Callable[[int, int], None]
"""Told how many of how many objects are done."""


Runner = Callable[[Func, Sequence["np.ndarray | int"], Cache], None]
"""Runs a function on arrays and sizes, in the order of its parameters; its code may be kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What a backend compiles.

    Attributes:
        program: the steps to run.
        kernels: the scheduled function of every kernel the program calls, with distinct names.
        target: what to generate code for.
    """

    program: Program
    kernels: tuple[Func, ...]
    target: Target


class Work(Protocol):
    """A program's code in the making: kernels may be given before the program is known."""

    def add(self, kernel: Func) -> None:
        """Takes a kernel ahead, in the order of the unit's; code for it may be made at once."""

    def complete(self, unit: Unit) -> None:
        """Takes the unit, which alone decides what comes out.

        Kernels that were given ahead and are not the unit's in its order were given in vain.
        """

    def is_done(self) -> bool:
        """Whether nothing works on the unit in the background, now that it is complete."""

    def objects(self) -> tuple[bytes, ...]:
        """What ``compile`` returns for the unit, once it is there."""


class Whole:
    """Work that begins when the whole unit is there, and its result is asked for.

    Args:
        compile_unit: the backend's ``compile``, for a unit.
    """

    def __init__(self, compile_unit: Callable[[Unit], tuple[bytes, ...]]) -> None:
        self._compile = compile_unit
        self._units: list[Unit] = []

    def add(self, kernel: Func) -> None:
        """Takes a kernel, which is in the unit again."""

    def complete(self, unit: Unit) -> None:
        """Takes the unit."""
        self._units.append(unit)

    def is_done(self) -> bool:
        """True: nothing works in the background."""
        return True

    def objects(self) -> tuple[bytes, ...]:
        """Compiles the unit."""
        return self._compile(self._units.pop())


@contextmanager
def begin_whole(backend: Backend, cache: Cache, progress: Progress | None = None) -> Iterator[Work]:
    """What ``begin`` is for a backend that makes no code before it knows the whole unit."""
    yield Whole(lambda unit: backend.compile(unit, cache, progress))


class Backend(Protocol):
    """A code generator for one kind of machine.

    Attributes:
        name: its key in BACKENDS.
        stages: the texts it makes on the way to object code, in order, by name.
        lacks: operators that it has no code for, by name, and why; a model with one is refused.
        versions: the tools whose versions decide what code comes out.
    """

    name: str
    stages: Mapping[str, Callable[[Unit], str]]
    lacks: Mapping[str, str]
    versions: Mapping[str, str]

    def resolve(self, name: str) -> Target:
        """The target of that name; ``native`` is this machine.

        Raises:
            TargetError: there is none.
        """

    def check(self, target: Target) -> None:
        """Returns if this machine can run code for the target.

        Raises:
            TargetError: it cannot; says what it lacks.
        """

    def compile(
        self, unit: Unit, cache: Cache, progress: Progress | None = None
    ) -> tuple[bytes, ...]:
        """Object code that ``load`` takes; parts that the cache holds are not made again."""

    def begin(
        self, target: Target, cache: Cache, progress: Progress | None = None
    ) -> AbstractContextManager[Work]:
        """Begins to make what ``compile`` would, while the program is still in the making.

        Whatever works on it has ended when the context is left, with or without a result.
        """

    def rest(self) -> None:
        """Gives back memory that compiling took and that nothing needs before the next time."""

    def load(
        self, target: Target, objects: tuple[bytes, ...], cache: Cache, threads: int | None
    ) -> Entry:
        """Loads object code, after ``check``.

        Args:
            target: what the objects were compiled for.
            objects: what ``compile`` returned.
            cache: where code of the runtime itself is kept.
            threads: how many threads a call may use; None: what the system allows.
        """


@dataclass(frozen=True, slots=True)
class Exporter:
    """What makes files of a backend's code that need no Tilewright where they are used.

    Attributes:
        suffixes: what names of such files end in, for a target.
        export: from what is compiled, its constants and a file's name to files and their contents.
    """

    suffixes: Callable[[Target], tuple[str, ...]]
    export: Callable[[Unit, np.ndarray, Path], dict[Path, bytes]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is profiled: one call of a compiled model.

    Attributes:
        artifact: the model.
        inputs: of the call, by name.
        kernels: the scheduled functions by name, where they are known.
        threads: of the call, on a CPU.
        cache: where figures of this machine are kept.
    """

    artifact: Artifact
    inputs: Mapping[str, np.ndarray]
    kernels: Mapping[str, Func]
    threads: int
    cache: Cache


@dataclass(frozen=True, slots=True)
class ProfiledStep:
    """One kernel call or copy of a measured call.

    Attributes:
        number: of the step among the program's kernel calls and copies, in their order.
        start: seconds after the first one began.
        seconds: how long it took.
    """

    number: int
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ProfiledKernel:
    """What a kernel does in one call of a program.

    Attributes:
        name: of the kernel. launches: how often it was launched.
        seconds: the time of all launches.
        limiter: the part of the machine that takes so long.
        figures: counts by name: numbers, words, or counts by name in their turn.
    """

    name: str
    launches: int
    seconds: float
    limiter: str
    figures: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Profile:
    """What the kernels of a program do in one call.

    Attributes:
        kind: where the seconds come from: "measured" or "modelled".
        notes: what is measured or modelled, and how.
        kernels: in the order of their first launch.
        steps: of a measured call, in order; empty where nothing is measured.
        seconds: of the whole measured call; 0 where nothing is measured.
        roofs: what the machine reaches: operations a second as "flops", bytes a second by level.
    """

    kind: str
    notes: tuple[str, ...]
    kernels: tuple[ProfiledKernel, ...]
    steps: tuple[ProfiledStep, ...] = ()
    seconds: float = 0.0
    roofs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profiler:
    """What measures the kernels of a backend, or models them on a machine that has none of it.

    Attributes:
        profile: from what is compiled and the inputs of one call.
        check: returns if the target can be profiled on this machine, and raises TargetError if
            it cannot.
    """

    profile: Callable[[Subject], Profile]
    check: Callable[[Target], None] = lambda _: None
