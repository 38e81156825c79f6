"""What runs code for other machines on this one: emulated processors and a WebAssembly runtime.

None of it is needed to compile; tests run what was compiled, and ``doctor`` says what is there.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Emulator:
    """How code for a target is linked and run.

    Attributes:
        command: what runs the program; the first word is the tool.
        compiler: the C compiler that links it. flags: of the compiler.
        packages: Debian's names of what holds both.
    """

    command: tuple[str, ...]
    compiler: str
    flags: tuple[str, ...]
    packages: tuple[str, ...]


def _arm(processor: str) -> Emulator:
    packages = ("qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")
    return Emulator(("qemu-aarch64", "-cpu", processor), "aarch64-linux-gnu-gcc", (), packages)


def _riscv(bits: int) -> Emulator:
    packages = ("qemu-user", "gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross")
    command = ("qemu-riscv64", "-cpu", f"rv64,v=true,vlen={bits}")
    flags = ("-march=rv64gcv", "-mabi=lp64d")
    return Emulator(command, "riscv64-linux-gnu-gcc", flags, packages)


EMULATORS: Mapping[str, Emulator] = {
    "aarch64": _arm("cortex-a72"),
    "aarch64-sve256": _arm("max,sve256=on"),
    "riscv64": _riscv(128),
    "riscv64-zvl256b": _riscv(256),
}
"""The emulated processor for each target."""

WASM_RUNTIME = "wasmtime"
"""The package, and module, that runs WebAssembly inside Python."""


def missing_tools(target: str) -> str:
    """What is to be installed so that code for a foreign target can run here; empty for nothing."""
    if target not in EMULATORS:
        found = importlib.util.find_spec(WASM_RUNTIME)
        return "" if found else f"{WASM_RUNTIME} (PyPI)"
    emulator = EMULATORS[target]
    tools = [t for t in (emulator.command[0], emulator.compiler) if shutil.which(t) is None]
    return f"{' and '.join(tools)} (Debian: {' '.join(emulator.packages)})" if tools else ""
