"""The figures of a profile: the same at every run, and those that one counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Options, Simulator, Traffic, wavefronts
from tilewright.backends.cuda.simulator.occupancy import (
    MULTIPROCESSORS,
    multiprocessor,
    occupancy,
)

from .kernels import HISTOGRAM, SGEMM, VECTOR_ADD, tensor_core_gemm
from .running import add, gemm, histogram, sgemm


def test_vector_add_reads_each_sector_once() -> None:
    _, _, counters = add(VECTOR_ADD, n=16384)
    assert counters.global_loads == Traffic(1024, 4096, 4096)
    assert counters.global_stores == Traffic(512, 2048, 2048)
    assert counters.instructions["add.f32"] == 512
    assert counters.divergent_branches == 0
    assert counters.count("ld.", "st.") == 4 * 512 + 2 * 512 + 512
    assert (counters.blocks, counters.threads) == (64, 16384)


def test_a_ragged_end_parts_one_warp() -> None:
    _, _, counters = add(VECTOR_ADD, n=1000)
    assert counters.divergent_branches == 1
    assert counters.global_stores == Traffic(32, 125, 125)


def test_padding_frees_ldmatrix_of_conflicts() -> None:
    """The figures of 128 x 128 x 128 on a GPU: 6 wavefronts for 1 without padding."""
    _, _, padded = gemm(tensor_core_gemm(), m=128, n=128, k=128)
    _, _, plain = gemm(tensor_core_gemm(padded=False), m=128, n=128, k=128)
    assert padded.shared_loads == Traffic(512, 2048, 2048)
    assert plain.shared_loads == Traffic(512, 12288, 2048)
    # Rows of 80 bytes keep loads apart, but two rows of a copy meet in the banks.
    assert padded.shared_stores == Traffic(256, 1536, 1024)
    for counters in (padded, plain):
        assert counters.tensor_flops == 2 * 128**3
        assert counters.global_loads == Traffic(256, 4096, 4096)
        assert counters.count("mma.sync") == 128**3 // (16 * 8 * 16)
        assert counters.count("bar.sync") == 2 * 4 * 16
        assert counters.divergent_branches == 0


def test_broadcasts_are_no_conflicts() -> None:
    _, _, counters = sgemm(SGEMM, m=32, n=32, k=32)
    # A warp has two rows of 16 threads: each load of a takes two words, each of b sixteen.
    assert counters.shared_loads.requests == counters.shared_loads.pieces
    assert counters.shared_stores.requests == counters.shared_stores.pieces


def test_divergence_is_counted_by_warps() -> None:
    _, _, first = histogram(HISTOGRAM)
    _, _, second = histogram(HISTOGRAM)
    assert first.divergent_branches == second.divergent_branches > 0
    assert first.instructions == second.instructions
    assert first.shared_atomics.pieces >= first.shared_atomics.requests > 0
    assert first.global_atomics.requests == 32


def test_counters_can_be_left_out() -> None:
    _, _, counters = add(VECTOR_ADD, Options(counters=False))
    assert not counters.instructions
    assert counters.global_loads.requests == 0


MATRIX_ROWS = """
.version 7.0
.target sm_80
.address_size 64

.visible .entry rows(.param .u64 out)
{{
    .reg .b32 %r<12>;
    .reg .b64 %d<4>;
    .shared .align 16 .b8 tile[2048];

    mov.u32 %r1, %tid.x;
    mov.u32 %r2, tile;
    mad.lo.u32 %r3, %r1, {stride}, %r2;
    mov.b32 %r4, 0;
    st.shared.v4.b32 [%r3], {{%r4, %r4, %r4, %r4}};
    bar.warp.sync 0xffffffff;
    ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{registers}}}, [%r3];
    ld.param.u64 %d1, [out];
    mad.wide.u32 %d2, %r1, 4, %d1;
    st.global.b32 [%d2], %r5;
    ret;
}}
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("stride", "times"), [(16, 1), (32, 2), (64, 4)])
def test_ldmatrix_takes_a_wavefront_a_tile_whose_rows_lie_in_other_banks(
    count: int, stride: int, times: int
) -> None:
    # Only lanes 0 to 8 * count - 1 name rows (PTX manual, ldmatrix).
    registers = ", ".join(f"%r{5 + k}" for k in range(count))
    simulator = Simulator()
    text = MATRIX_ROWS.format(count=count, registers=registers, stride=stride)
    out = simulator.allocate(128, "out")
    counters = simulator.launch(simulator.load(text).kernel("rows"), 1, 32, (out,))
    assert counters.shared_loads == Traffic(1, count * times, count)


@pytest.mark.parametrize(
    ("stride", "width", "expected"),
    [(1, 1, 1), (2, 1, 2), (32, 1, 32), (33, 1, 1), (0, 1, 1), (4, 1, 4), (17, 1, 1)],
)
def test_wavefronts_of_strides(stride: int, width: int, expected: int) -> None:
    assert wavefronts(np.arange(32)[None] * stride, width) == expected


def test_wavefronts_of_quarter_warps() -> None:
    rows = np.arange(8)[None]
    assert wavefronts(rows * 4, 4) == 1
    assert wavefronts(rows * 16, 4) == 4
    assert wavefronts(rows * 20, 4) == 1


@pytest.mark.parametrize(
    ("sm", "threads", "registers", "shared", "blocks", "limiter"),
    [
        (80, 128, 32, 0, 16, "threads"),
        (80, 32, 16, 0, 32, "blocks"),
        (80, 256, 128, 0, 2, "registers"),
        (80, 128, 64, 48 * 1024, 3, "shared memory"),
        (90, 1024, 64, 0, 1, "registers"),
        (90, 128, 168, 100 * 1024, 2, "shared memory"),
        (75, 1024, 65, 0, 0, "registers"),
        (120, 128, 32, 100 * 1024, 0, "shared memory"),
        (75, 256, 32, 16 * 1024, 4, "threads"),
    ],
)
def test_occupancy(
    sm: int, threads: int, registers: int, shared: int, blocks: int, limiter: str
) -> None:
    found = occupancy(MULTIPROCESSORS[sm], threads, registers, shared)
    assert (found.blocks, found.limiter) == (blocks, limiter)
    assert found.share == blocks * -(-threads // 32) * 32 / MULTIPROCESSORS[sm].threads


def test_targets_with_letters_are_known() -> None:
    assert multiprocessor("sm_90a") is MULTIPROCESSORS[90]
    assert multiprocessor("sm_999") is None
