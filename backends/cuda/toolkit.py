"""NVIDIA's command-line tools, where they are installed; none is needed to compile or simulate.

They are looked for on the path, then in the wheels that NVIDIA publishes on PyPI, which need
neither a driver nor a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import InternalError, TargetError

TOOLS: Mapping[str, str] = {
    "ptxas": "nvidia-cuda-nvcc",
    "nvcc": "nvidia-cuda-nvcc",
    "nvdisasm": "nvidia-cuda-nvdisasm",
}
"""The package on PyPI that has each tool."""
LIBRARIES: Mapping[str, str] = {
    "libnvrtc.so": "nvidia-cuda-nvrtc",
    "libnvJitLink.so": "nvidia-nvjitlink",
}
"""The package on PyPI that has each library."""

_RESOURCES = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True)
class Resources:
    """What the assembler gives each thread and block of a kernel.

    Attributes:
        registers: of a thread. shared: bytes of a block.
        stack: bytes of local memory of a thread. spills: bytes that it writes there and reads
            again because registers are short.
    """

    registers: int
    shared: int
    stack: int
    spills: int


@dataclass(frozen=True, slots=True)
class Assembled:
    """Machine code, and what its kernels take, by name."""

    cubin: bytes
    kernels: Mapping[str, Resources]


def wheels() -> list[Path]:
    """The folders of NVIDIA's wheels that are installed, one for each major version."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    return [p for place in places or () for p in sorted(Path(place).glob("cu*"), reverse=True)]


def find_tool(name: str) -> Path | None:
    """Where a tool is, or None where it is not installed."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    inside = [p / "bin" / name for p in wheels()]
    return next((p for p in inside if os.access(p, os.X_OK)), None)


def find_library(name: str) -> Path | None:
    """Where a library of the wheels is, or None where it is not installed."""
    return next((p for w in wheels() for p in sorted((w / "lib").glob(f"{name}*"))), None)


def require_tool(name: str) -> Path:
    """Where a tool is.

    Raises:
        TargetError: it is not installed; says how to (TW-E0408).
    """
    found = find_tool(name)
    if found is None:
        raise TargetError(
            f"{name} of NVIDIA's toolkit is not installed: pip install {TOOLS[name]}",
            code="TW-E0408",
        )
    return found


def assemble(ptx: str, sm: str) -> Assembled:
    """Machine code of PTX by NVIDIA's assembler.

    Raises:
        TargetError: there is no assembler (TW-E0408).
        InternalError: it refuses the text (TW-E0954).
    """
    tool = require_tool("ptxas")
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        source, result = Path(folder, "kernels.ptx"), Path(folder, "kernels.cubin")
        source.write_text(ptx)
        log = _run([str(tool), "-v", f"-arch={sm}", str(source), "-o", str(result)])
        return Assembled(result.read_bytes(), _resources(log))


def disassemble(cubin: bytes) -> str:
    """The text of machine code, kernel by kernel.

    Raises:
        TargetError: there is no disassembler (TW-E0408).
    """
    tool = require_tool("nvdisasm")
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        source = Path(folder, "kernels.cubin")
        source.write_bytes(cubin)
        return _run([str(tool), "-c", str(source)])


def emit_sass(ptx: str, sm: str) -> str:
    """PTX as text of the machine code that NVIDIA's assembler makes of it."""
    require_tool("nvdisasm")
    return disassemble(assemble(ptx, sm).cubin)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(
            f"{Path(command[0]).name} refuses generated code: "
            f"{(done.stderr or done.stdout).strip()[:2000]}",
            code="TW-E0954",
        )
    return done.stdout + done.stderr


def _resources(log: str) -> dict[str, Resources]:
    found = {}
    for match in _RESOURCES.finditer(log):
        shared = _SHARED.search(match["rest"])
        found[match["name"]] = Resources(
            registers=int(match["registers"]),
            shared=int(shared[1]) if shared else 0,
            stack=int(match["stack"]),
            spills=int(match["stores"]) + int(match["loads"]),
        )
    return found
