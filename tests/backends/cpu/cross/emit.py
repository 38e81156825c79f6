"""Exports all cases for a target, in a process of its own: LLVM ends the process on some defects.

``python -m tests.backends.cpu.cross.emit TARGET FOLDER`` leaves in the folder an object or module
for each case, and ``calls.json``: what its call needs to know. With a third argument,
``assembly``, the operators are written as assembly instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tilewright.backends import load_backend
from tilewright.backends.cpu.compile import machine_for
from tilewright.backends.cpu.export import export, export_module
from tilewright.pipeline import build
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.shapes import Planner
from tilewright.stages import Log

from .cases import CASES, MODELS


def emit(target: str, folder: Path, as_assembly: bool) -> None:
    """Writes the files of every case."""
    backend = load_backend("cpu")
    resolved = backend.resolve(target)
    calls = {}
    for name, make in CASES.items():
        case = make()
        made = build(case.graph, resolved, backend, NO_CACHE, Log())
        suffix = ".wasm" if target == "wasm32" else ".o"
        files = export(made.unit, made.artifact.constants, folder / f"{name}{suffix}")
        for path, data in files.items():
            path.write_bytes(data)
        if as_assembly and name not in MODELS:
            module = export_module(made.unit, made.artifact.constants, name)
            text = machine_for(resolved).emit_assembly(module)
            (folder / f"{name}.s").write_text(text)
        plan = Planner(made.artifact.program).plan([x.shape for x in case.inputs])
        calls[name] = {"dims": plan.dims, "shapes": [shape for shape, _, _ in plan.outputs]}
    (folder / "calls.json").write_text(json.dumps(calls))


if __name__ == "__main__":
    emit(sys.argv[1], Path(sys.argv[2]), "assembly" in sys.argv[3:])
