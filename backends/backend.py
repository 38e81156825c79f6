"""What a backend is: targets by name, named stages, a compiler and a loader.

Adding a backend is a folder whose ``BACKEND`` follows this protocol, and a line in ``BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tilewright.runtime.cache import Cache
from tilewright.runtime.executable import Entry
from tilewright.runtime.program import Program
from tilewright.target import Target
from tilewright.tensor.ir import Func

Progress = Callable[[int, int], None]
"""Told how many of how many objects are done."""


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


class Backend(Protocol):
    """A code generator for one kind of machine.

    Attributes:
        name: its key in BACKENDS.
        stages: the texts it makes on the way to object code, in order, by name.
        versions: the tools whose versions decide what code comes out.
    """

    name: str
    stages: Mapping[str, Callable[[Unit], str]]
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
