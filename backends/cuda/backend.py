"""The CUDA backend: kernels to PTX, and a program that runs on a device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import llvmlite.binding as llvm

from tilewright.runtime import text as program_text
from tilewright.runtime.cache import Cache, digest_key
from tilewright.runtime.program import Program
from tilewright.target import Target

from ..backend import Progress, Unit, Work, begin_whole
from ..cpu.compile import rest
from .alignment import Loose, loose_buffers
from .budget import check_budget
from .device import Device
from .launches import Launching, launching_of, read_launching, write_launching
from .ptx import emit_llvm, emit_ptx
from .run import DeviceEntry
from .source import emit_source
from .target import resolve_cuda
from .toolkit import emit_sass


class CudaBackend:
    """Code for NVIDIA GPUs (see the Backend protocol).

    Args:
        name: its key in BACKENDS.
        open_device: makes the device that programs run on; raises TargetError if there is none.
    """

    stages: Mapping[str, Callable[[Unit], str]] = {
        "llvm": lambda unit: emit_llvm(unit.kernels, unit.target, _loose(unit)),
        "cuda": lambda unit: emit_source(unit.kernels, _loose(unit)),
        "ptx": lambda unit: emit_ptx(unit.kernels, unit.target, _loose(unit)),
        "sass": lambda unit: emit_sass(CudaBackend.stages["ptx"](unit), unit.target.cpu),
    }
    lacks: Mapping[str, str] = {}
    versions: Mapping[str, str] = {"llvm": ".".join(map(str, llvm.llvm_version_info))}

    def __init__(self, name: str, open_device: Callable[[Target], Device]) -> None:
        self.name = name
        self._open = open_device

    def resolve(self, name: str) -> Target:
        """The target of that name."""
        return resolve_cuda(name)

    def check(self, target: Target) -> None:
        """Returns if there is a device for the target.

        Raises:
            TargetError: there is none; says what is missing.
        """
        self._open(target)

    def compile(
        self, unit: Unit, cache: Cache, progress: Progress | None = None
    ) -> tuple[bytes, ...]:
        """The PTX of all kernels, then the program with each kernel's launch, as text.

        Raises:
            TargetError: a kernel takes more than the target has (TW-E0410).
        """
        check_budget(unit.kernels, unit.target)
        text = emit_llvm(unit.kernels, unit.target, _loose(unit))
        key = digest_key("ptx", text, unit.target.cpu, unit.target.features, self.versions["llvm"])
        ptx = cache.get(key)
        if ptx is None:
            ptx = emit_ptx(unit.kernels, unit.target, _loose(unit)).encode()
            cache.put(key, ptx)
        if progress is not None:
            progress(1, 1)
        return ptx, _manifest(unit).encode()

    def begin(
        self, target: Target, cache: Cache, progress: Progress | None = None
    ) -> AbstractContextManager[Work]:
        """Work that begins with the program: all kernels are one module."""
        return begin_whole(self, cache, progress)

    def rest(self) -> None:
        """Gives back the pages of LLVM, and what it and Python have freed."""
        rest()

    def load(
        self, target: Target, objects: tuple[bytes, ...], cache: Cache, threads: int | None
    ) -> DeviceEntry:
        """Loads the kernels on a device."""
        ptx, program, launches = read_objects(objects)
        return DeviceEntry(program, launches, ptx, self._open(target))


def _loose(unit: Unit) -> Loose:
    return loose_buffers(unit.program, unit.kernels)


def _manifest(unit: Unit) -> str:
    """The program and the launches, as JSON of texts."""
    launches = {f.name: write_launching(launching_of(f)) for f in unit.kernels}
    return json.dumps({"program": program_text.text(unit.program), "launches": launches})


def read_objects(objects: tuple[bytes, ...]) -> tuple[str, Program, dict[str, Launching]]:
    """The PTX, the program and the launches of what ``compile`` returned."""
    ptx, manifest = objects
    found = json.loads(manifest)
    launches = {k: read_launching(v) for k, v in found["launches"].items()}
    return ptx.decode(), program_text.parse(found["program"]), launches
