"""Groups scheduled for blocks of threads compute the same as PTX in the simulator."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.schedule.groups import (
    add,
    arg_max,
    conv,
    matmul,
    max_pool,
    softmax,
    transpose,
)
from tilewright.backends.cuda.ptx import emit_llvm, emit_ptx
from tilewright.backends.cuda.target import ARCHITECTURES, resolve_cuda
from tilewright.backends.cuda.threads import launch_of
from tilewright.errors import TargetError
from tilewright.lower.kernels import KernelTable
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import symbol
from tilewright.tensor.parse import parse_func

from .executors import SM80, assert_simulated_equals_group, scheduled, simulate

N = symbol("N")


@pytest.mark.parametrize(
    "group",
    [add(1000, 7), add(4, 5, 8), add(3), transpose(9, 33), softmax(5, 300), softmax(3, 64),
     matmul(13, 9, 65), matmul(70, 50, 100), matmul(64, 32, 64),
     conv(20, 16, 20, 3, 1, 1), conv(9, 4, 20, 3, 1, 1), conv(7, 2, 4, 3, 2, 0),
     max_pool(9, 20, 3, 2, 1),
     arg_max(4, 37)],
    ids=lambda g: g.name,
)  # fmt: skip
def test_a_group_computes_the_same_in_threads(group: ComputeGroup) -> None:
    assert_simulated_equals_group(group)


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_symbolic_sizes_are_arguments_of_kernels(rows: int) -> None:
    assert_simulated_equals_group(add(N, 12), N=rows)
    assert_simulated_equals_group(softmax(N, 40), N=rows)
    assert_simulated_equals_group(matmul(N, 5, 9), N=rows)


@pytest.mark.parametrize("rows", [3, 70])
def test_products_of_symbolic_rows_go_through_shared_memory(rows: int) -> None:
    func = schedule(to_func(merge_axes(matmul(N, 33, 65))), SM80).func
    assert launch_of(func).shared
    assert_simulated_equals_group(matmul(N, 33, 65), N=rows)


def test_what_threads_share_of_an_unbounded_row_is_computed_again() -> None:
    table = KernelTable(SM80)
    kernels, scratch = table.compile(softmax(4, N), frozenset(), "softmax")
    assert (len(kernels), scratch) == (1, ())


TILED = """
def tiled(A: f32[64, 32], B: f32[32, 64], C: f32[64, 64]):
    for bm in block.x(2):
        for bn in block.y(2):
            acc: register[f32, 8, 8, 4, 4]
            for ty in thread.y(8):
                for tx in thread.x(8):
                    for i in unroll(4):
                        for j in vector(4):
                            acc[ty, tx, i, j] = 0.0
            for ko in serial(4):
                As: shared[f32, 8, 32]
                Bs: shared[f32, 8, 32]
                for ty2 in thread.y(8):
                    for tx2 in thread.x(8):
                        for q in unroll(4):
                            As[tx2, ty2*4 + q] = A[bm*32 + ty2*4 + q, ko*8 + tx2]
                        for q2 in vector(4):
                            Bs[ty2, tx2*4 + q2] = B[ko*8 + ty2, bn*32 + tx2*4 + q2]
                barrier()
                for ty3 in thread.y(8):
                    for tx3 in thread.x(8):
                        for k in serial(8):
                            for i3 in unroll(4):
                                for j3 in vector(4):
                                    acc[ty3, tx3, i3, j3] = acc[ty3, tx3, i3, j3] + As[k, ty3*4 + i3] * Bs[k, tx3*4 + j3]
                barrier()
            for ty4 in thread.y(8):
                for tx4 in thread.x(8):
                    for i4 in unroll(4):
                        for j4 in vector(4):
                            C[bm*32 + ty4*4 + i4, bn*32 + tx4*4 + j4] = acc[ty4, tx4, i4, j4]
"""  # noqa: E501


def test_a_product_in_tiles_of_shared_memory_is_what_the_interpreter_says() -> None:
    func = parse_func(TILED)
    check(func)
    rng = np.random.default_rng(1)
    given = {
        n: rng.integers(-9, 9, s).astype(np.float32) for n, s in (("A", (64, 32)), ("B", (32, 64)))
    }
    memory = {**given, "C": np.zeros((64, 64), np.float32)}
    interpret(func, memory, {})
    np.testing.assert_array_equal(simulate(func, given, {})["C"], memory["C"])
    np.testing.assert_array_equal(memory["C"], given["A"] @ given["B"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_its_ptx(name: str) -> None:
    func = schedule(to_func(merge_axes(softmax(4, 40))), SM80).func
    text = emit_ptx([func], resolve_cuda(f"cuda:{name}"))
    assert f".target {name}" in text


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"TW-E0401.*cuda:sm_90"):
        resolve_cuda("cuda:sm_12")


def test_long_loops_are_written_out_in_part_and_loops_around_others_not_at_all() -> None:
    text = emit_llvm([scheduled(matmul(17, 4099, 20))], SM80)
    hinted = [int(n) for n in re.findall(r"!llvm\.loop !(\d+)", text)]
    assert hinted == list(range(len(hinted))) and hinted
    for k in hinted:
        assert f"!{k} = distinct !{{!{k}, !" in text
    assert "llvm.loop.unroll.disable" in text
    short = emit_llvm([scheduled(matmul(17, 40, 20))], SM80)
    assert "llvm.loop" not in short
