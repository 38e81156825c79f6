"""The CPU backend: kernels and the program's entry to LLVM IR, to objects, to memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from typing import Any

import llvmlite

from tilewright.errors import TargetError
from tilewright.runtime.cache import Cache
from tilewright.target import Target

from ..backend import Progress, Unit, Work
from .load import CpuEntry
from .target import missing_features, resolve_target, runs_here


def _compiling(function: str, *args: Any) -> Any:
    """Calls a function of ``objects``; a model that is only loaded needs none, and no LLVM."""
    return getattr(import_module(".objects", __package__), function)(*args)


class CpuBackend:
    """Code for CPUs by LLVM (see the Backend protocol)."""

    name = "cpu"
    stages: Mapping[str, Callable[[Unit], str]] = {
        "llvm": partial(_compiling, "llvm_text"),
        "asm": partial(_compiling, "assembly"),
    }
    lacks: Mapping[str, str] = {}
    versions: Mapping[str, str] = {"llvmlite": llvmlite.__version__}

    def resolve(self, name: str) -> Target:
        """The CPU target of that name."""
        return resolve_target(name)

    def check(self, target: Target) -> None:
        """Returns if this CPU has all features that the target requires.

        Raises:
            TargetError: it is of another kind (TW-E0405), or lacks some (TW-E0403).
        """
        if not runs_here(target):
            raise TargetError(
                f"code for target {target.name}: it is for {target.architecture}, and this machine "
                f"is another; compile the model for this machine (native), or export it "
                f"(tilewright export --target {target.name}) for a program on the other one",
                code="TW-E0405",
            )
        missing = missing_features(target)
        if missing:
            raise TargetError(
                f"code for target {target.name}: this CPU lacks {', '.join(missing)}; compile the "
                f"model for this machine (native) or for a lower level",
                code="TW-E0403",
            )

    def compile(
        self, unit: Unit, cache: Cache, progress: Progress | None = None
    ) -> tuple[bytes, ...]:
        """One object for every few kernels, and what they need to be loaded."""
        found: tuple[bytes, ...] = _compiling("compile_unit", unit, cache, progress)
        return found

    def begin(
        self, target: Target, cache: Cache, progress: Progress | None = None
    ) -> AbstractContextManager[Work]:
        """Work whose first objects are made while the last kernels are not known yet."""
        found: AbstractContextManager[Work] = _compiling("begin", target, cache, progress)
        return found

    def rest(self) -> None:
        """Gives back the pages of LLVM, and what it and Python have freed."""
        if f"{__package__}.compile" not in sys.modules:
            # Nothing takes as much as to load LLVM: let there be little else then.
            import_module(".pages", __package__).forget_code()
        import_module(".compile", __package__).rest()

    def load(
        self, target: Target, objects: tuple[bytes, ...], cache: Cache, threads: int | None
    ) -> CpuEntry:
        """Loads objects, once it is known that this CPU can run them."""
        self.check(target)
        return CpuEntry(objects, threads, cache)


BACKEND = CpuBackend()
