"""Models compiled for other machines compute the reference there, and need no library."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tests.ops.agreement import assert_agree, reference
from tilewright.backends.cpu.emulators import EMULATORS
from tilewright.graph.interpret import interpret

from .agreement import assert_close
from .cases import CASES, FAMILIES, MODELS, dealt
from .elf import undefined_symbols
from .machines import FOREIGN, emit_cases, link_program, need, run_cases, start_program

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


def test_code_for_this_machine_needs_no_library_either(tmp_path: Path) -> None:
    # The level with the fewest instructions: what it lacks must not be a call.
    emit_cases("x86-64-v2", tmp_path)
    for code in tmp_path.glob("*.o"):
        assert undefined_symbols(code.read_bytes()) <= ALLOWED, code.name


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("aarch64-sve256", ("qemu-aarch64", "-cpu", "max,sve128=on,sve256=off")),
        ("aarch64-sve256", ("qemu-aarch64", "-cpu", "max,sve512=on")),
        ("riscv64-zvl256b", ("qemu-riscv64", "-cpu", "rv64,v=true,vlen=128")),
    ],
)
def test_code_for_vectors_of_another_length_says_so_and_computes_nothing(
    target: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    need(target)
    case = MODELS["quantised"]()
    tw.export(case.graph, tmp_path / "quantised.o", target=target)
    calls = {"quantised": {"dims": [len(case.inputs[0])]}}
    link_program(target, tmp_path, {"quantised": case}, calls)
    assert start_program(EMULATORS[target].command, tmp_path).returncode == 0
    done = start_program(command, tmp_path)
    assert done.returncode == 1
    assert "run returned: -3" in done.stderr
