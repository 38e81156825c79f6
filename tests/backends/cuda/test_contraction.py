"""Products staged in shared memory: what they compute, and what that takes of the memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.groups import conv, matmul, variables
from tilewright import dtype as dt
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.target import ARCHITECTURES, resolve_cuda
from tilewright.backends.cuda.threads import launch_of
from tilewright.backends.cuda.toolkit import assemble, find_tool
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Barrier, Buffer, Commit, Dim, Reduce, Wait, symbol
from tilewright.tensor.simplify import evaluate, product
from tilewright.tensor.walk import statements

from .executors import assert_simulated_equals_group, random_inputs, scheduled, simulate

N = symbol("N")


@pytest.mark.parametrize(
    "group",
    [matmul(64, 16, 64), matmul(70, 96, 104), matmul(70, 50, 100), matmul(13, 9, 65),
     matmul(33, 12, 33), matmul(100, 8, 16), conv(20, 16, 20, 3, 1, 1), conv(9, 4, 20, 3, 1, 1),
     conv(17, 3, 8, 3, 2, 1)],
    ids=lambda g: f"{g.name}{list(g.inputs[0].shape)}{list(g.inputs[1].shape)}",
)  # fmt: skip
def test_shared_memory_serves_every_request_without_conflicts(group: ComputeGroup) -> None:
    counters = assert_simulated_equals_group(group)
    for traffic in (counters.shared_loads, counters.shared_stores):
        assert traffic.pieces == traffic.ideal
        assert traffic.requests


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_products_of_symbolic_rows_are_what_they_should_be(rows: int) -> None:
    assert_simulated_equals_group(matmul(N, 36, 65), N=rows)


@pytest.mark.parametrize(
    "group", [matmul(64, 24, 64), matmul(70, 50, 100), conv(9, 4, 20, 3, 1, 1)]
)
def test_a_step_waits_before_and_after_it_multiplies_and_not_in_between(
    group: ComputeGroup,
) -> None:
    found = [s for s in statements(scheduled(group).body) if isinstance(s, Barrier)]
    assert len(found) == 2


def test_aligned_operands_are_read_sixteen_bytes_at_a_time() -> None:
    counters = assert_simulated_equals_group(matmul(64, 16, 64))
    assert counters.count("ld.global.v4", "ld.global.nc.v4") == counters.count("ld.global")


def images(count: Dim, size: int, channels: int, out: int) -> ComputeGroup:
    """A convolution of 3x3, not padded, of several images."""
    n, oh, ow, oc, kh, kw, ci = variables("n oh ow oc kh kw ci")
    x = Buffer("x0", dt.f32, (count, size, size, channels))
    w = Buffer("x1", dt.f32, (3, 3, channels, out))
    y = Buffer("y0", dt.f32, (count, size - 2, size - 2, out))
    over = (Axis(kh, 3), Axis(kw, 3), Axis(ci, channels))
    total = Reduce("sum", over, x[n, oh + kh, ow + kw, ci] * w[kh, kw, ci, oc])
    axes = (Axis(n, count), Axis(oh, size - 2), Axis(ow, size - 2), Axis(oc, out))
    return ComputeGroup("images", (x, w), (y,), (Compute(y, axes, total),))


@pytest.mark.parametrize(
    ("group", "count", "blocks"),
    [
        (conv(14, 4, 16, 3, 1, 1), 1, -(-14 * 14 // 64)),
        (conv(7, 4, 16, 3, 1, 1), 1, 1),
        (images(3, 9, 4, 16), 3, -(-3 * 7 * 7 // 64)),
        (images(N, 9, 4, 16), 5, -(-5 * 7 * 7 // 64)),
    ],
    ids=["14x14", "7x7", "three images", "any number of images"],
)
def test_tiles_of_convolutions_run_over_the_ends_of_rows_and_images(
    group: ComputeGroup, count: int, blocks: int
) -> None:
    counters = assert_simulated_equals_group(group, N=count)
    assert counters.blocks == blocks
    # Channels lie side by side, wherever rows end.
    assert counters.count("ld.global.v4", "ld.global.nc.v4") * 2 > counters.count("ld.global")


def test_rows_that_fill_tiles_stay_by_themselves() -> None:
    assert launch_of(scheduled(conv(64, 4, 16, 3, 1, 1))).grid == (64, 1, 1)


def test_long_sums_copy_the_next_tiles_in_the_background() -> None:
    group = matmul(70, 96, 104)
    counters = assert_simulated_equals_group(group)
    assert counters.count("cp.async.cg") == 2 * 3 * (2 * 64 * 32 // 4 // 32) * 2
    assert counters.count("st.shared") == 0
    assert len([s for s in statements(scheduled(group).body) if isinstance(s, Barrier)]) == 2


@pytest.mark.parametrize(
    "given", [{"bm": 128, "bn": 128, "bk": 32, "tm": 2, "tn": 2}, {"bm": 16, "bk": 16}], ids=str
)
def test_every_choice_of_tiles_fits_and_computes_the_same(given: dict[str, int]) -> None:
    group = matmul(130, 96, 136)
    func = schedule(to_func(merge_axes(group)), resolve_cuda("cuda:sm_80"), Choices(given)).func
    launch = launch_of(func)
    assert launch.threads <= 1024
    assert sum(evaluate(product(b.shape), {}) * 4 for b in launch.shared) <= 48 << 10
    inputs = random_inputs(group, {})
    want = interpret_group(group, inputs, {})["y0"]
    np.testing.assert_allclose(simulate(func, inputs, {})["y0"], want, rtol=2e-5, atol=2e-5)


def test_gpus_without_such_copies_wait_for_theirs() -> None:
    func = schedule(to_func(merge_axes(matmul(70, 96, 104))), resolve_cuda("cuda:sm_75")).func
    assert not any(isinstance(s, Commit | Wait) for s in statements(func.body))
    assert "cp.async" not in emit_ptx([func], resolve_cuda("cuda:sm_75"))


@pytest.mark.skipif(
    find_tool("ptxas") is None,
    reason="NVIDIA's assembler is not there (pip install nvidia-cuda-nvcc)",
)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_nvidias_assembler_takes_the_products_without_spills(target: str) -> None:
    for group in (matmul(70, 96, 104), conv(9, 4, 20, 3, 1, 1)):
        func = schedule(to_func(merge_axes(group)), resolve_cuda(f"cuda:{target}")).func
        made = assemble(emit_ptx([func], resolve_cuda(f"cuda:{target}")), target)
        assert all((k.spills, k.stack) == (0, 0) for k in made.kernels.values())
