"""Elementwise nests: vectors where memory allows, and tiles where two axes are contiguous."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedule.groups import add, transpose, variables
from tilewright import dtype as dt
from tilewright.backends.cuda.threads import launch_of
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import Axis, Buffer, Call, Cast, Const, Select, le, lt, symbol

from .executors import Arrays, assert_simulated_equals_group, scheduled

N = symbol("N")
F32 = dt.f32


def shifted(rows: int, columns: int, by: int) -> ComputeGroup:
    """A slice: y[i, j] = x[i, j + by]."""
    i, j = variables("i j")
    x, y = Buffer("x0", F32, (rows, columns + by)), Buffer("y0", F32, (rows, columns))
    axes = (Axis(i, rows), Axis(j, columns))
    return ComputeGroup("shifted", (x,), (y,), (Compute(y, axes, x[i, j + by]),))


def padded(rows: int, columns: int) -> ComputeGroup:
    """A row of zeros before and after, and a column on each side."""
    i, j = variables("i j")
    x, y = Buffer("x0", F32, (rows, columns)), Buffer("y0", F32, (rows + 2, columns + 2))
    inside = [le(1, i), lt(i, rows + 1), le(1, j), lt(j, columns + 1)]
    value = Select(inside[0], x[i - 1, j - 1], Const(0, F32))
    for c in inside[1:]:
        value = Select(c, value, Const(0, F32))
    axes = (Axis(i, rows + 2), Axis(j, columns + 2))
    return ComputeGroup("padded", (x,), (y,), (Compute(y, axes, value),))


def joined(rows: int, a: int, b: int) -> ComputeGroup:
    """A concatenation along columns, of an exponential."""
    i, j = variables("i j")
    x, z = Buffer("x0", F32, (rows, a)), Buffer("x1", F32, (rows, b))
    y = Buffer("y0", F32, (rows, a + b))
    value = Call("exp", (Select(lt(j, a), x[i, j], z[i, j - a]),), F32)
    axes = (Axis(i, rows), Axis(j, a + b))
    return ComputeGroup("joined", (x, z), (y,), (Compute(y, axes, value),))


def crossed_sum(batch: int, rows: int, columns: int, dtype: dt.DType = F32) -> ComputeGroup:
    """y[n, j, i] = x[n, i, j] + z[n, j, i]."""
    n, i, j = variables("n i j")
    x, z = Buffer("x0", dtype, (batch, rows, columns)), Buffer("x1", dtype, (batch, columns, rows))
    y = Buffer("y0", dtype, (batch, columns, rows))
    axes = (Axis(n, batch), Axis(j, columns), Axis(i, rows))
    return ComputeGroup("crossed", (x, z), (y,), (Compute(y, axes, x[n, i, j] + z[n, j, i]),))


def halves(count: int) -> ComputeGroup:
    (i,) = variables("i")
    x, y = Buffer("x0", dt.f16, (count,)), Buffer("y0", F32, (count,))
    return ComputeGroup("halves", (x,), (y,), (Compute(y, (Axis(i, count),), Cast(x[i], F32)),))


@pytest.mark.parametrize(
    "group",
    [add(1000), add(5, 7, 8), shifted(7, 32, 1), shifted(7, 32, 4), padded(9, 33),
     joined(5, 8, 12), joined(5, 3, 6), transpose(70, 33), transpose(9, 8), transpose(3, 100),
     crossed_sum(2, 40, 36), crossed_sum(2, 33, 31, dt.f16), crossed_sum(1, 32, 40, dt.f64),
     halves(72)],
    ids=lambda g: f"{g.name}{'x'.join(map(str, g.inputs[0].shape))}{g.inputs[0].dtype}",
)  # fmt: skip
def test_elements_are_what_the_group_says(group: ComputeGroup) -> None:
    assert_simulated_equals_group(group)


def test_rows_that_indices_choose_are_read_in_vectors() -> None:
    i, j = variables("i j")
    table, rows = Buffer("x0", F32, (50, 64)), Buffer("x1", dt.i64, (9,))
    y = Buffer("y0", F32, (9, 64))
    stage = Compute(y, (Axis(i, 9), Axis(j, 64)), table[rows[i], j])
    group = ComputeGroup("gather", (table, rows), (y,), (stage,))
    rng = np.random.default_rng(0)
    given: Arrays = {"x0": rng.standard_normal((50, 64)).astype(np.float32)}
    given["x1"] = rng.permutation(50)[:9]
    counters = assert_simulated_equals_group(group, given=given)
    assert counters.count("ld.global.nc.v4") == counters.global_stores.requests == 5


@pytest.mark.parametrize("group", [add(4096), add(64, 60), add(3, 8, 16), halves(4096)])
def test_each_sector_is_moved_once_in_vectors(group: ComputeGroup) -> None:
    counters = assert_simulated_equals_group(group, host=False)
    read = sum(b.dtype.bytes * _count(b) for b in group.inputs)
    assert counters.global_loads.pieces == read // 32
    assert counters.global_stores.pieces == 4 * _count(group.outputs[0]) // 32
    requests = -(-_count(group.outputs[0]) // (32 * 4))
    assert counters.global_stores.requests == requests


def _count(b: Buffer) -> int:
    total = 1
    for d in b.shape:
        assert isinstance(d, int)
        total *= d
    return total


@pytest.mark.parametrize("dtype", [dt.f32, dt.f64, dt.f16], ids=str)
def test_a_transpose_moves_whole_sectors_and_meets_no_bank_twice(dtype: dt.DType) -> None:
    counters = assert_simulated_equals_group(crossed_sum(2, 64, 96, dtype), host=False)
    count = 2 * 64 * 96 * dtype.bytes // 32
    assert counters.global_loads.pieces == 2 * count
    assert counters.global_stores.pieces == count
    assert counters.shared_loads.pieces == counters.shared_loads.ideal
    assert counters.shared_stores.pieces == counters.shared_stores.ideal
    warps = 2 * 2 * 3 * 8
    assert counters.count("bar.sync", "barrier") == warps


def test_a_slice_off_the_grid_of_vectors_reads_single_elements() -> None:
    counters = assert_simulated_equals_group(shifted(8, 64, 1), host=False)
    assert counters.global_stores.requests == 8 * 64 // 32
    assert not counters.count("ld.global.v4", "ld.global.nc.v4")


@pytest.mark.parametrize("count", [1, 31, 70, 1025])
def test_sizes_known_at_run_time(count: int) -> None:
    assert_simulated_equals_group(add(N), N=count, host=count == 70)
    assert_simulated_equals_group(add(N, 12), N=count, host=count == 70)


def test_little_work_is_one_block() -> None:
    launch = launch_of(scheduled(add(3, 40)))
    assert launch.grid == (1, 1, 1)
    assert launch.threads == 30
