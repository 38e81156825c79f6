"""The devices that model tests run on: the simulator everywhere, and a GPU where there is one."""

from __future__ import annotations

import pytest

from tilewright.backends.cuda.driver import find_gpu
from tilewright.backends.cuda.target import ARCHITECTURES

TARGETS = ("cuda-sim", pytest.param("cuda", marks=pytest.mark.cuda))


def available(target: str) -> str:
    """The name to compile for; skips the test where there is no GPU for it."""
    if target != "cuda":
        return target
    missing = ""
    for architecture in reversed(ARCHITECTURES):
        found = find_gpu(int(architecture.removeprefix("sm_")))
        if not isinstance(found, str):
            return f"cuda:{architecture}"
        missing = found
    pytest.skip(missing)
