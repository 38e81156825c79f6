"""NVIDIA's assembler, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest


def find_ptxas() -> str | None:
    """On the path, or in the nvidia-cuda-nvcc package."""
    found = shutil.which("ptxas")
    if found is not None:
        return found
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(folder).glob("**/bin/ptxas")):
            return str(path)
    return None


PTXAS = find_ptxas()
needs_ptxas = pytest.mark.skipif(
    PTXAS is None, reason="NVIDIA's assembler is not there (pip install nvidia-cuda-nvcc)"
)


def complaints(text: str, target: str, folder: Path) -> str:
    """What ptxas has to say against a module; nothing if it assembles."""
    assert PTXAS is not None
    source = folder / "module.ptx"
    source.write_text(text)
    done = subprocess.run(
        [PTXAS, f"-arch={target}", "-O0", "-o", str(folder / "module.cubin"), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return "" if done.returncode == 0 else done.stderr + done.stdout
