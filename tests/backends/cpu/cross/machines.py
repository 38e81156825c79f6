"""Machines that run exported models in tests: qemu-user for other CPUs, wasmtime for WebAssembly.

A machine takes several models at once, since starting tools costs more than running them.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright.backends.cpu.emulators import EMULATORS, missing_tools
from tilewright.backends.cpu.export import functions_of

from .cases import CASES, Case

ROOT = Path(__file__).parents[4]
DRIVER = Path(__file__).parent / "driver.h"
Calls = Mapping[str, Any]
Results = Mapping[str, list[np.ndarray]]
_WASM_PAGE = 1 << 16


FOREIGN = (*EMULATORS, "wasm32")


def need(target: str) -> None:
    """Skips the test where what runs code for the target is not installed."""
    missing = missing_tools(target)
    if missing:
        pytest.skip(f"needs {missing}")


def emit_cases(target: str, folder: Path) -> Calls:
    """Compiles every case into the folder; returns what calls of them need to know."""
    emitter = [sys.executable, "-m", "tests.backends.cpu.cross.emit", target, str(folder)]
    emitter += ["assembly"] if _fails_at_roundings(target) else []
    done = subprocess.run(emitter, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    calls: Calls = json.loads((folder / "calls.json").read_text())
    return calls


def run_cases(target: str, folder: Path, calls: Calls) -> Results:
    """The outputs of every case, computed by the code in the folder on the target's machine."""
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
    target: str, folder: Path, cases: Mapping[str, Case], calls: Calls
) -> dict[str, list[bytes]]:
    link_program(target, folder, cases, calls)
    done = start_program(EMULATORS[target].command, folder)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    found = {}
    with (folder / "outputs").open("rb") as file:
        for name, case in cases.items():
            found[name] = [
                file.read(struct.unpack("<q", file.read(8))[0]) for _ in case.graph.outputs
            ]
    return found


def link_program(target: str, folder: Path, cases: Mapping[str, Case], calls: Calls) -> None:
    """Links the code in the folder to a program, and writes the file of inputs that it reads."""
    emulator = EMULATORS[target]
    source = folder / "models.c"
    source.write_text(_table(cases))
    flags = [*emulator.flags, "-static", "-O1", "-Wall", "-Werror", f"-I{DRIVER.parent}"]
    objects = [str(_code(folder, name)) for name in cases]
    link = [emulator.compiler, *flags, f"-I{folder}", str(source), *objects]
    link += ["-o", str(folder / "program")]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "inputs").open("wb") as file:
        for name, case in cases.items():
            file.write(np.array(calls[name]["dims"], np.int64).tobytes())
            for x in case.inputs:
                data = np.ascontiguousarray(x).tobytes()
                file.write(struct.pack("<q", len(data)) + data)


def start_program(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the program in the folder to its end."""
    run = [*command, *(str(folder / name) for name in ("program", "inputs", "outputs"))]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)


@cache
def _fails_at_roundings(target: str) -> bool:
    """Whether the emulator ends when a vector conversion names its rounding.

    QEMU before 8 does for RISC-V, unless an instruction before it in the same block rounds as the
    state says: its own assertion fails otherwise (``decode_save_opc``).
    """
    if not target.startswith("riscv") or missing_tools(target):
        return False
    emulator = EMULATORS[target].command[0]
    text = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)\.", text.stdout)
    return version is None or int(version[1]) < 8


def _code(folder: Path, name: str) -> Path:
    """The file to link: the object, or assembly with what the emulator needs put in."""
    assembly = folder / f"{name}.s"
    if not assembly.exists():
        return folder / f"{name}.o"
    # It rounds as the state says, and its result goes nowhere; no page ends between the two.
    harmless = r"\t.balign\t8\n\tfcvt.w.s\tzero, ft0, dyn\n\1"
    text = re.sub(r"(?m)^(\tvf[nw]?cvt\.rtz\.)", harmless, assembly.read_text())
    # The list of extensions, which older assemblers do not know all of.
    assembly.write_text(re.sub(r"(?m)^\t\.attribute\t5.*$", "", text))
    return assembly


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
        functions: list[Any] = [exports[f] for f in functions_of(name)]
        self.sizes, self.run = functions
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
    target: str, folder: Path, cases: Mapping[str, Case], calls: Calls
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
