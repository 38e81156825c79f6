"""Models compiled for other machines compute the reference there, and need no library."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.ops.agreement import assert_agree, reference
from tilewright.graph.interpret import interpret

from .agreement import assert_close
from .cases import CASES, FAMILIES, MODELS, dealt
from .elf import undefined_symbols
from .machines import FOREIGN, emit_cases, need, run_cases

# What LLVM may call for a copy or a fill; every C library has them, and so has every kernel.
ALLOWED = {"memcpy", "memmove", "memset"}
MACHINES = [
    pytest.param(target, marks=pytest.mark.wasm if target == "wasm32" else pytest.mark.qemu)
    for target in FOREIGN
]


@cache
def wanted(name: str) -> list[np.ndarray]:
    """What the graph of a model gives, computed operator by operator in NumPy."""
    case = CASES[name]()
    names = [v.name for v in case.graph.inputs]
    with np.errstate(all="ignore"):
        return interpret(case.graph, dict(zip(names, case.inputs, strict=True)))


@pytest.mark.parametrize("target", MACHINES)
def test_code_for_another_machine_computes_the_reference_there(target: str, tmp_path: Path) -> None:
    # One test for all of them: a second worker would have to compile everything again.
    calls = emit_cases(target, tmp_path)
    for code in tmp_path.glob("*.o"):
        assert undefined_symbols(code.read_bytes()) <= ALLOWED, code.name
    need(target)
    results = run_cases(target, tmp_path, calls)
    for name in MODELS:
        for have, want in zip(results[name], wanted(name), strict=True):
            assert_close(name, have, want)
    for family in range(FAMILIES):
        found = iter(results[f"operators{family}"])
        for op, sample in dealt(family):
            for expected in reference(op, sample):
                assert_agree(op, sample, next(found), np.asarray(expected))
        assert not list(found)
