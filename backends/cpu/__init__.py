"""The CPU backend: kernels and the program's entry to LLVM IR, to objects, to memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import llvmlite.binding as llvm

from tilewright.errors import TargetError
from tilewright.runtime.cache import Cache, digest_key
from tilewright.target import Target

from ..backend import Progress, Unit
from ..llvm.emit import emit_module
from .compile import compile_assembly, compile_object
from .load import CpuEntry
from .program import emit_program
from .target import missing_features, resolve_target, runs_here

KERNELS_TOGETHER = 4
"""Kernels of one object: LLVM takes 2 ms for a module however small it is, as long as for 60
lines of it, and linking is per object, too. More together would be looked up in vain more often,
since one that differs is enough."""


def _llvm_text(unit: Unit) -> str:
    """The kernels as one module, then the entry's module."""
    return emit_module(unit.kernels, unit.target) + "\n" + emit_program(unit.program)


def _assembly(unit: Unit) -> str:
    return compile_assembly(emit_module(unit.kernels, unit.target), unit.target) + compile_assembly(
        emit_program(unit.program), unit.target
    )


class CpuBackend:
    """Code for CPUs by LLVM (see the Backend protocol)."""

    name = "cpu"
    stages: Mapping[str, Callable[[Unit], str]] = {"llvm": _llvm_text, "asm": _assembly}
    lacks: Mapping[str, str] = {}
    versions: Mapping[str, str] = {"llvm": ".".join(map(str, llvm.llvm_version_info))}

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
        """One object for every few kernels, then the entry's; each is looked up by its own text."""
        total = len(unit.kernels) + 1
        objects = []
        for first in range(0, len(unit.kernels), KERNELS_TOGETHER):
            some = unit.kernels[first : first + KERNELS_TOGETHER]
            objects.append(self._object(emit_module(some, unit.target), unit.target, cache))
            if progress is not None:
                progress(first + len(some), total)
        objects.append(self._object(emit_program(unit.program), unit.target, cache))
        if progress is not None:
            progress(total, total)
        return tuple(objects)

    def load(
        self, target: Target, objects: tuple[bytes, ...], cache: Cache, threads: int | None
    ) -> CpuEntry:
        """Loads objects, once it is known that this CPU can run them."""
        self.check(target)
        return CpuEntry(objects, threads, cache)

    def _object(self, text: str, target: Target, cache: Cache) -> bytes:
        key = digest_key(
            "object", text, target.triple, target.cpu, target.features, self.versions["llvm"]
        )
        found = cache.get(key)
        if found is None:
            found = compile_object(text, target)
            cache.put(key, found)
        return found


BACKEND = CpuBackend()
