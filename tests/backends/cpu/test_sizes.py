"""The native function of sizes says what a call needs, and which dims it refuses."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llvmlite.binding as llvm
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.program import emit_sizes
from tilewright.runtime.program import Program, TensorSpec
from tilewright.tensor.ir import lt, symbol
from tilewright.tensor.simplify import dim

N, M = symbol("N", 1, 100), symbol("M")
SPECS = (TensorSpec("x", dt.f32, (N, M)),)
OUTPUTS = (TensorSpec("y", dt.f32, (N, dim(M * 2))),)
PROGRAM = Program("p", SPECS, OUTPUTS, (M, N), (), dim(M * 64), 0, (lt(N, M),))


def sizes(dims: Sequence[int]) -> tuple[int, list[int]]:
    """The result of the function, and what it writes."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    with llvm.create_mcjit_compiler(llvm.parse_assembly(emit_sizes(PROGRAM, "f")), machine) as code:
        code.finalize_object()
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
        given, found = (ctypes.c_int64 * 2)(*dims), (ctypes.c_int64 * 2)()
        status = kind(code.get_function_address("f"))(given, found)
    return status, list(found)


def test_the_bytes_of_the_arena_and_the_outputs_are_written() -> None:
    assert sizes((5, 3)) == (0, [320, 120])


@pytest.mark.parametrize("dims", [(5, 0), (200, 101), (5, 5), (5, 6)])
def test_dims_outside_their_range_or_against_a_condition_are_refused(dims: tuple[int, int]) -> None:
    status, _ = sizes(dims)
    assert status == -2
