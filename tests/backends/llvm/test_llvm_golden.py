"""The emitted text of a few kernels, kept in golden/*.ll.

``python -m tests.backends.llvm.test_llvm_golden`` writes the files anew: read the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.compile import compile_assembly
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.tensor.ir import (
    Buffer,
    Const,
    For,
    Func,
    If,
    Select,
    Store,
    Var,
    conjunction,
    le,
    lt,
    maximum,
    symbol,
)

from .test_llvm_loops import matmul

GOLDEN = Path(__file__).parent / "golden"
I, J = Var("i"), Var("j")  # noqa: E741


def add_relu() -> Func:
    """A symbolic tail: the mask is computed once and covers both loads and the store."""
    n = symbol("n")
    a, b, y = (Buffer(name, dt.f32, (n,)) for name in "aby")
    at = I * 16 + J
    body = If(lt(at, n), (Store(y, (at,), maximum(a[at] + b[at], 0.0)),))
    return Func(
        "add_relu", (a, b, y, n), (For(I, (n + 15) // 16, (For(J, 16, (body,), "vector"),)),)
    )


def padded_row() -> Func:
    """Padding of rows by a selected pointer, of columns by masks known when emitting."""
    x, y = Buffer("x", dt.f32, (4, 20)), Buffer("y", dt.f32, (6, 22))
    inside = conjunction((le(1, I), lt(I, 5), le(1, J), lt(J, 21)))
    value = Select(inside, x[I - 1, J - 1], Const(0, dt.f32))
    return Func(
        "padded_row", (x, y), (For(I, 6, (For(J, 22, (Store(y, (I, J), value),), "vector"),)),)
    )


KERNELS: dict[str, tuple[Callable[[], Func], str]] = {
    "matmul_v4": (lambda: matmul(4, 64, 512, 2, 32), "x86-64-v4"),
    "matmul_symbolic_v3": (lambda: matmul(symbol("M"), 16, symbol("K"), 2, 16), "x86-64-v3"),
    "add_relu_v4": (add_relu, "x86-64-v4"),
    "padded_row_v4": (padded_row, "x86-64-v4"),
}


def emitted(name: str) -> str:
    func, target = KERNELS[name]
    return emit_kernel(func(), resolve_target(target))


@pytest.mark.parametrize("name", KERNELS)
def test_text_is_as_kept(name: str) -> None:
    assert emitted(name) == (GOLDEN / f"{name}.ll").read_text()


@pytest.mark.parametrize("name", ["matmul_v4", "matmul_symbolic_v3", "add_relu_v4"])
def test_the_larger_of_a_number_and_zero_is_one_instruction(name: str) -> None:
    func, target = KERNELS[name]
    machine = resolve_target(target)
    assembly = compile_assembly(emit_kernel(func(), machine), machine)
    assert "vmaxps" in assembly and "vcmp" not in assembly


def test_the_inner_loop_of_a_matmul_holds_nothing_but_its_work() -> None:
    target = resolve_target("x86-64-v4")
    assembly = compile_assembly(emit_kernel(matmul(6, 64, 512, 6, 64), target), target)
    loops = [part for part in assembly.split(".LBB") if part.count("vfmadd") == 24]
    assert len(loops) == 1
    lines = [line.split()[0] for line in loops[0].splitlines()[1:] if line.startswith("\t")]
    body = lines[: next(n for n, op in enumerate(lines) if op.startswith("j")) + 1]
    # 4 vectors of B, 6 broadcasts of A, 24 fused multiply-adds; two pointers, count, test, branch.
    assert len(body) <= 4 + 6 + 24 + 5, body


if __name__ == "__main__":
    for kernel in KERNELS:
        (GOLDEN / f"{kernel}.ll").write_text(emitted(kernel))
