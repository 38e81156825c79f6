"""Machines that run exported models in tests: qemu-user for other CPUs, wasmtime for WebAssembly.

A machine takes several models at once, since starting tools costs more than running them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.backends.cpu.export import functions_of

from .cases import CASES, Case

ROOT = Path(__file__).parents[4]
DRIVER = Path(__file__).parent / "driver.h"
Results = Mapping[str, list[np.ndarray]]
_WASM_PAGE = 1 << 16


@dataclass(frozen=True)
class Emulator:
    """How code for a target is linked and run on this machine.

    Attributes:
        compiler: the C compiler that links for it. command: what runs the program.
        packages: Debian's names of what has both.
    """

    compiler: str
    command: tuple[str, ...]
    packages: str


_ARM = "qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
_RISCV = "qemu-user gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"
EMULATORS: Mapping[str, Emulator] = {
    "aarch64": Emulator("aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "cortex-a72"), _ARM),
    "aarch64-sve256": Emulator(
        "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "max,sve256=on"), _ARM
    ),
    "riscv64": Emulator(
        "riscv64-linux-gnu-gcc", ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=128"), _RISCV
    ),
    "riscv64-zvl256b": Emulator(
        "riscv64-linux-gnu-gcc", ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=256"), _RISCV
    ),
}
QEMU = tuple(EMULATORS)
WASM = ("wasm32",)


def need(target: str) -> None:
    """Skips the test where what runs code for the target is not installed."""
    missing = lacking(target)
    if missing:
        pytest.skip(missing)


@cache
def lacking(target: str) -> str:
    """Why code for the target cannot be run here; empty where it can."""
    if target == "wasm32":
        found = importlib.util.find_spec("wasmtime")
        return "" if found else "needs the package wasmtime"
    emulator = EMULATORS[target]
    tools = [t for t in (emulator.compiler, emulator.command[0]) if shutil.which(t) is None]
    if tools:
        return f"needs {' and '.join(tools)} (Debian: {emulator.packages})"
    done = subprocess.run([*emulator.command, "/"], capture_output=True, text=True, check=False)
    # An emulator that does not know the processor says so before it looks for the program.
    return f"{emulator.command}: {done.stderr}" if "unable to find CPU" in done.stderr else ""


def run_cases(target: str, folder: Path) -> Results:
    """The outputs of every case, computed by code for the target."""
    emitter = [sys.executable, "-m", "tests.backends.cpu.cross.emit", target, str(folder)]
    done = subprocess.run(emitter, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    calls = json.loads((folder / "calls.json").read_text())
    cases = {name: make() for name, make in CASES.items()}
    run = _run_wasm if target == "wasm32" else _run_emulated
    raw = run(target, folder, cases, calls)
    found = {}
    for name, case in cases.items():
        types = [v.type.dtype.numpy for v in case.graph.outputs]
        shapes = calls[name]["shapes"]
        found[name] = [
            np.frombuffer(data, kind).reshape(shape)
            for data, kind, shape in zip(raw[name], types, shapes, strict=True)
        ]
    return found


# ------------------------------------------------------------------ emulated processors


def _run_emulated(
    target: str, folder: Path, cases: Mapping[str, Case], calls: Mapping[str, Any]
) -> dict[str, list[bytes]]:
    emulator = EMULATORS[target]
    program = folder / "program"
    source = folder / "models.c"
    source.write_text(_table(cases))
    objects = [str(folder / f"{name}.o") for name in cases]
    flags = ["-static", "-O1", "-Wall", "-Werror", f"-I{DRIVER.parent}", f"-I{folder}"]
    link = [emulator.compiler, *flags, str(source), *objects, "-o", str(program)]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "inputs").open("wb") as file:
        for name, case in cases.items():
            file.write(np.array(calls[name]["dims"], np.int64).tobytes())
            for x in case.inputs:
                data = np.ascontiguousarray(x).tobytes()
                file.write(struct.pack("<q", len(data)) + data)
    run = [*emulator.command, str(program), str(folder / "inputs"), str(folder / "outputs")]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    found = {}
    with (folder / "outputs").open("rb") as file:
        for name, case in cases.items():
            found[name] = [
                file.read(struct.unpack("<q", file.read(8))[0]) for _ in case.graph.outputs
            ]
    return found


def _table(cases: Mapping[str, Case]) -> str:
    """The C program: the driver, and the table of models that it goes through."""
    lines = ['#include "driver.h"', *(f'#include "{name}.h"' for name in cases)]
    lines.append("static const model models[] = {")
    for name in cases:
        counts = ", ".join(f"{name}_{kind}" for kind in ("dims", "inputs", "outputs"))
        lines.append(f"  {{ {counts}, {', '.join(functions_of(name))} }},")
    lines += [
        "};",
        "int main(int argc, char **argv) {",
        '  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");',
        '  if (!in || !out) stop("cannot open files, given", argc);',
        "  for (unsigned i = 0; i < sizeof models / sizeof *models; i++)",
        "    run_model(&models[i], in, out);",
        "  return fclose(out) != 0;",
        "}",
    ]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ WebAssembly


class Instance:
    """A module of its own memory, with a model's two functions."""

    def __init__(self, code: bytes, name: str) -> None:
        import wasmtime  # noqa: PLC0415  an optional dependency

        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, code)
        self.imports = [i.name for i in module.imports]
        exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.memory: Any = exports["memory"]
        self.sizes, self.run = (exports[f] for f in functions_of(name))
        heap: Any = exports["__heap_base"]
        self.top = int(heap.value(self.store))

    def place(self, data: bytes | int) -> int:
        """The address of a copy of the data, or of so many zeros."""
        size = data if isinstance(data, int) else len(data)
        address, self.top = self.top, self.top + -(-size // 64) * 64
        lacking = self.top - self.memory.data_len(self.store)
        if lacking > 0:
            self.memory.grow(self.store, -(-lacking // _WASM_PAGE))
        if isinstance(data, bytes) and data:
            self.memory.write(self.store, data, address)
        return address

    def read(self, address: int, size: int) -> bytes:
        """A part of the memory."""
        return bytes(self.memory.read(self.store, address, address + size))


def _run_wasm(
    target: str, folder: Path, cases: Mapping[str, Case], calls: Mapping[str, Any]
) -> dict[str, list[bytes]]:
    found = {}
    for name, case in cases.items():
        one = Instance((folder / f"{name}.wasm").read_bytes(), name)
        dims = one.place(np.array(calls[name]["dims"], np.int64).tobytes())
        count = len(case.graph.outputs)
        needs = one.place(8 * (1 + count))
        assert one.sizes(one.store, dims, needs) == 0
        workspace, *sizes = struct.unpack(f"<{1 + count}q", one.read(needs, 8 * (1 + count)))
        inputs = [one.place(np.ascontiguousarray(x).tobytes()) for x in case.inputs]
        outputs = [one.place(size) for size in sizes]
        arrays = [one.place(struct.pack(f"<{len(a)}I", *a)) for a in (inputs, outputs)]
        assert one.run(one.store, *arrays, one.place(workspace), dims) == 0
        found[name] = [one.read(a, s) for a, s in zip(outputs, sizes, strict=True)]
    return found
