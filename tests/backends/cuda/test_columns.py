"""Reductions along leading axes: the warps of a block share tall columns."""

from __future__ import annotations

import pytest

from tests.schedule.groups import variables
from tilewright import dtype as dt
from tilewright.backends.cuda.threads import launch_of
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import Axis, Buffer, Dim, Reduce, ReduceOp, symbol

from .executors import assert_simulated_equals_group, scheduled

N = symbol("N")


def down(rows: Dim, columns: Dim, op: ReduceOp = "sum") -> ComputeGroup:
    c, k = variables("c k")
    x, y = Buffer("x0", dt.f32, (rows, columns)), Buffer("y0", dt.f32, (columns,))
    value = Reduce(op, (Axis(k, rows),), x[k, c])
    return ComputeGroup("down", (x,), (y,), (Compute(y, (Axis(c, columns),), value * 0.5),))


def image_mean(batch: int, size: int, channels: int) -> ComputeGroup:
    n, c, h, w = variables("n c h w")
    x = Buffer("x0", dt.f32, (batch, size, size + 1, channels))
    y = Buffer("y0", dt.f32, (batch, channels))
    over = (Axis(h, size), Axis(w, size))
    value = Reduce("sum", over, x[n, h, w, c]) * (1 / size**2)
    axes = (Axis(n, batch), Axis(c, channels))
    return ComputeGroup("mean", (x,), (y,), (Compute(y, axes, value),))


@pytest.mark.parametrize(
    "group",
    [down(100, 40), down(64, 64, "max"), down(33, 8), down(5, 100), image_mean(3, 7, 40)],
    ids=lambda g: f"{g.name}{'x'.join(map(str, g.inputs[0].shape))}",
)
def test_columns_are_reduced(group: ComputeGroup) -> None:
    assert_simulated_equals_group(group)


@pytest.mark.parametrize(("rows", "columns"), [(1, 40), (70, 9)])
def test_sizes_known_at_run_time(rows: int, columns: int) -> None:
    assert_simulated_equals_group(down(N, 40), N=rows)
    assert_simulated_equals_group(down(50, N), N=columns, host=False)


def test_tall_columns_are_read_in_whole_sectors_by_all_warps() -> None:
    counters = assert_simulated_equals_group(down(256, 64), host=False)
    assert launch_of(scheduled(down(256, 64))).block == (32, 8)
    assert counters.global_loads.pieces == counters.global_loads.ideal == 256 * 64 * 4 // 32
    assert counters.global_stores.pieces == 64 * 4 // 32
    assert counters.shared_loads.pieces == counters.shared_loads.ideal
    assert counters.shared_stores.pieces == counters.shared_stores.ideal
