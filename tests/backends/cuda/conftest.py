"""Every instruction that a test runs must be one that NVIDIA's assembler takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import instruction
from .assembler import PTXAS, complaints


@pytest.fixture(scope="module", autouse=True)
def _assembled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Assembles what the module's tests have run, where ptxas is installed."""
    instruction.SEEN.clear()
    yield
    if PTXAS is None or not instruction.SEEN:
        return
    folder: Path = tmp_path_factory.mktemp("ptxas")
    for target in sorted(set(instruction.SEEN.values())):
        cases = [case for case, needs in instruction.SEEN.items() if needs == target]
        head = instruction.HEAD.replace("sm_90", target)
        texts = [instruction.kernel(case, f"k{i}", "lanes") for i, case in enumerate(cases)]
        found = complaints(head + "".join(texts), target, folder)
        assert not found, found[:2000]
