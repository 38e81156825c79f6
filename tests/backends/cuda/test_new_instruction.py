"""What somebody does who adds an instruction: its entry, with what it computes, and its needs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.groups import matmul
from tilewright.backends.cuda.instructions import NEEDS, Needs
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.errors import TargetError
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.tensor.check import check
from tilewright.tensor.instructions import INSTRUCTIONS, Digit, Instruction
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Func
from tilewright.tensor.parse import parse_func

from .executors import interpreted, profile, random_inputs

NAME = "mma.m16n8k4.tf32"
PRODUCT = """
def product(c: fragment[f32, 16, 8], a: fragment[f32, 16, 4], b: fragment[f32, 4, 8]):
    for i in instruction(16):
        for j in serial(8):
            for k in serial(4):
                c[i, j] = c[i, j] + a[i, k] * b[k, j]
"""
# From the figures of the PTX manual: which lanes and registers count rows, and which columns.
EIGHT, FOUR = Digit("lane", 8, 4), Digit("lane", 4, 1)
LAYOUTS = {
    "c": ((Digit("register", 2, 2), EIGHT), (FOUR, Digit("register", 2, 1))),
    "a": ((Digit("register", 2, 1), EIGHT), (FOUR,)),
    "b": ((FOUR,), (EIGHT,)),
}


@pytest.fixture
def _only_smaller_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has this instruction, and not the larger one of its type."""
    monkeypatch.setitem(INSTRUCTIONS, NAME, Instruction(NAME, parse_func(PRODUCT), LAYOUTS))
    monkeypatch.setitem(NEEDS, NAME, Needs(80, 70, "llvm.nvvm.mma.m16n8k4.row.col.tf32"))
    monkeypatch.delitem(INSTRUCTIONS, "mma.m16n8k8.tf32")


def scheduled() -> Func:
    nests = to_func(merge_axes(matmul(40, 44, 48)))
    # One stage: no copies in the background, which older machines lack, too.
    func = schedule(nests, resolve_cuda("cuda:sm_80"), Choices({"tf32": 1, "stages": 1})).func
    check(func)
    return func


@pytest.mark.usefixtures("_only_smaller_products")
def test_an_entry_and_a_line_are_all_that_an_instruction_needs() -> None:
    func = scheduled()
    group = matmul(40, 44, 48)
    given = random_inputs(group, {})
    want = interpret_group(group, given, {})["y0"]
    np.testing.assert_allclose(interpreted(func, given, {})["y0"], want, rtol=1e-5, atol=1e-5)
    got, counters = profile(func, given, {})
    assert counters.count("mma.sync.aligned.m16n8k4.row.col.f32.tf32") > 0
    sizes = {n: np.abs(a) for n, a in given.items()}
    limit = interpret_group(group, sizes, {})["y0"] * 2.0**-10
    assert (np.abs(got["y0"] - want) <= limit).all()


@pytest.mark.usefixtures("_only_smaller_products")
def test_its_needs_are_checked() -> None:
    assert NAME in resolve_cuda("cuda:sm_80").threads.instructions  # type: ignore[union-attr]
    assert NAME not in resolve_cuda("cuda:sm_75").threads.instructions  # type: ignore[union-attr]
    with pytest.raises(TargetError, match=rf"TW-E0411.*{NAME} needs sm_80"):
        emit_ptx([scheduled()], resolve_cuda("cuda:sm_75"))
