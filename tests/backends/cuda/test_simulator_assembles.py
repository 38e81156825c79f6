"""The kernels that the simulator is tested with are kernels to NVIDIA's assembler."""

from __future__ import annotations

from pathlib import Path

import pytest

from .assembler import complaints, needs_ptxas
from .running import EXAMPLES


@needs_ptxas
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_assemble(name: str, target: str, tmp_path: Path) -> None:
    assert complaints(EXAMPLES[name].text, target, tmp_path) == ""
