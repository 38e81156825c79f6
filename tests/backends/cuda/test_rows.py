"""Rows: what threads of a warp and of a block combine, and what each of them keeps."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tests.schedule.groups import arg_max, softmax, variables
from tilewright import api
from tilewright import dtype as dt
from tilewright.backends.cuda.host import HostKernels, host_compiler
from tilewright.backends.cuda.threads import launch_of, private
from tilewright.backends.cuda.toolkit import assemble, find_tool
from tilewright.dtype import DType
from tilewright.errors import InternalError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.tensor.check import check
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import Axis, Buffer, Call, Cast, Dim, Reduce, ReduceOp, symbol
from tilewright.tensor.parse import parse_func

from .executors import (
    assert_simulated_equals_group,
    interpreted,
    on_host,
    scheduled,
    simulate,
)

N = symbol("N")


def total(rows: Dim, columns: Dim, op: ReduceOp = "sum", dtype: DType = dt.f32) -> ComputeGroup:
    r, k = variables("r k")
    wide = dt.f32 if dtype in (dt.f16, dt.bf16) else dtype
    x, y = Buffer("x0", dtype, (rows, columns)), Buffer("y0", wide, (rows,))
    value = x[r, k] if wide is dtype else Cast(x[r, k], wide)
    reduced = Reduce(op, (Axis(k, columns),), value)
    return ComputeGroup("total", (x,), (y,), (Compute(y, (Axis(r, rows),), reduced),))


def norm(rows: Dim, columns: int) -> ComputeGroup:
    """(x - mean) * rsqrt(mean((x - mean) ** 2) + 1e-5) * g."""
    r, c, k, unit = variables("r c k unit")
    f32 = dt.f32
    x, g = Buffer("x0", f32, (rows, columns)), Buffer("x1", f32, (columns,))
    y = Buffer("y0", f32, (rows, columns))
    mean, spread = Buffer("t0", f32, (rows, 1)), Buffer("t2", f32, (rows, 1))
    centred = Buffer("t1", f32, (rows, columns))
    row, column, one = Axis(r, rows), Axis(c, columns), Axis(unit, 1)
    along = (Axis(k, columns),)
    square = centred[r, k] * centred[r, k]
    stages = (
        Compute(mean, (row, one), Reduce("sum", along, x[r, k]) * (1 / columns)),
        Compute(centred, (row, column), x[r, c] - mean[r, 0]),
        Compute(spread, (row, one), Reduce("sum", along, square) * (1 / columns) + 1e-5),
        Compute(y, (row, column), centred[r, c] * Call("rsqrt", (spread[r, 0],), f32) * g[c]),
    )
    return ComputeGroup("norm", (x, g), (y,), stages)


@pytest.mark.parametrize(
    "group",
    [softmax(64, 8), softmax(64, 3), softmax(6, 1), softmax(3, 1024), softmax(2, 1030),
     norm(9, 768), norm(32, 20), norm(2, 77),
     total(5, 4096), total(3, 50), total(7, 600, "max"), arg_max(3, 700), arg_max(64, 10),
     total(4, 70, "sum", dt.i64),
     total(4, 96, "sum", dt.f16), total(4, 96, "sum", dt.bf16)],
    ids=lambda g: f"{g.name}{'x'.join(map(str, g.inputs[0].shape))}{g.inputs[0].dtype}",
)  # fmt: skip
def test_rows_of_any_length_are_reduced(group: ComputeGroup) -> None:
    assert_simulated_equals_group(group)


@pytest.mark.parametrize("length", [1, 1500])
def test_rows_of_a_length_known_at_run_time(length: int) -> None:
    assert_simulated_equals_group(softmax(2, N), N=length)
    assert_simulated_equals_group(total(2, N), N=length)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_number_of_rows_known_at_run_time(rows: int) -> None:
    assert_simulated_equals_group(softmax(N, 12), N=rows)
    assert_simulated_equals_group(norm(N, 96), N=rows)


@pytest.mark.parametrize("length", [7, 1000])
def test_one_row_is_one_block(length: int) -> None:
    (k,) = variables("k")
    x, y = Buffer("x0", dt.f32, (N,)), Buffer("y0", dt.f32, ())
    value = Reduce("sum", (Axis(k, N),), x[k])
    group = ComputeGroup("whole", (x,), (y,), (Compute(y, (), value),))
    assert_simulated_equals_group(group, N=length)
    assert launch_of(scheduled(group)).grid == (1, 1, 1)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)], ids=str)
def test_a_sum_of_nothing_is_nothing(shape: tuple[int, ...]) -> None:
    b = GraphBuilder("empty")
    x = b.input("x", TensorType(dt.f32, shape))
    b.output(b.add("reduce", x, op="sum", axes=(len(shape) - 1,), keepdims=False))
    (got,) = tw.compile(b.finish(), target="cuda-sim", cache=False)(np.zeros(shape, np.float32))
    assert got.shape == shape[:-1] and not got.any()


@pytest.mark.parametrize("dtype", [dt.f64, dt.f32, dt.f16], ids=str)
def test_what_threads_keep_of_long_rows_has_registers(dtype: DType) -> None:
    b = GraphBuilder("long")
    x = b.input("x", TensorType(dtype, (1, 40000)))
    top = b.add("reduce", x, op="max", axes=(1,), keepdims=True)
    e = b.add("exp", b.add("sub", x, top))
    b.output(b.add("div", e, b.add("reduce", e, op="sum", axes=(1,), keepdims=True)))
    built = api.build(b.finish(), target="cuda:sm_80", cache=False)
    if find_tool("ptxas") is None:
        return
    for taken in assemble(built.text("ptx"), "sm_80").kernels.values():
        assert taken.spills == 0


@pytest.mark.skipif(find_tool("ptxas") is None, reason="no ptxas: pip install nvidia-cuda-nvcc")
def test_long_rows_along_several_axes_do_not_spill() -> None:
    b = GraphBuilder("axes")
    x = b.input("x", TensorType(dt.f32, (20, 4, 500)))
    b.output(b.add("reduce", x, op="sum", axes=(0, 2), keepdims=False))
    built = api.build(b.finish(), target="cuda:sm_80", cache=False)
    for taken in assemble(built.text("ptx"), "sm_80").kernels.values():
        assert (taken.spills, taken.stack) == (0, 0)


def test_nan_and_infinity_reach_the_result() -> None:
    x = np.zeros((4, 96), np.float32)
    x[0, 50], x[1, 3], x[2, :] = np.nan, -np.inf, 1e30
    for group in (softmax(4, 96), arg_max(4, 96), total(4, 96, "max")):
        assert_simulated_equals_group(group, given={"x0": x})


@pytest.mark.parametrize(("rows", "columns"), [(4, 64), (8, 512), (2, 1024), (3, 4096), (32, 16)])
def test_a_softmax_reads_and_writes_each_byte_once(rows: int, columns: int) -> None:
    counters = assert_simulated_equals_group(softmax(rows, columns), host=False)
    sectors = rows * columns * 4 // 32
    assert counters.global_loads.pieces == counters.global_loads.ideal == sectors
    assert counters.global_stores.pieces == counters.global_stores.ideal == sectors
    assert counters.shared_loads.pieces == counters.shared_loads.ideal


def test_warps_meet_once_for_each_reduction_of_a_block() -> None:
    counters = assert_simulated_equals_group(softmax(2, 2048), host=False)
    warps = 2 * 4
    assert counters.count("bar.sync", "barrier") == 2 * warps
    assert counters.shared_loads.requests == 2 * warps
    assert counters.count("shfl.sync") == 2 * 5 * warps


def test_a_row_of_one_warp_shares_no_memory() -> None:
    launch = launch_of(scheduled(softmax(8, 512)))
    assert launch.shared == ()
    assert launch.block == (32, 4)
    assert launch_of(scheduled(softmax(64, 16))).block == (4, 32)


BUTTERFLY = """
def butterfly(A: f32[8, 32], B: f32[8, 32]):
    for b in block.x(2):
        for ty in thread.y(4):
            p: register[f32, 32]
            for tx in thread.x(32):
                p[tx] = A[b * 4 + ty, tx]
            for tx2 in thread.x(32):
                B[b * 4 + ty, tx2] = p[tx2 ^ 5] + p[3]
"""


def test_threads_read_what_others_of_their_warp_keep() -> None:
    func = parse_func(BUTTERFLY)
    check(func)
    a = np.arange(256, dtype=np.float32).reshape(8, 32)
    want = a[:, np.arange(32) ^ 5] + a[:, 3:4]
    np.testing.assert_array_equal(interpreted(func, {"A": a}, {})["B"], want)
    np.testing.assert_array_equal(simulate(func, {"A": a}, {})["B"], want)
    if host_compiler() is not None:
        for result in on_host(func, {"A": a}, {}):
            np.testing.assert_array_equal(result["B"], want)


def test_threads_cannot_read_what_other_warps_keep() -> None:
    func = parse_func(BUTTERFLY.replace("^ 5", "^ 32").replace("32)", "64)"))
    with pytest.raises(InternalError, match="TW-E0951"):
        private(func)


def test_the_host_notices_a_shuffle_that_not_all_threads_of_a_warp_reach() -> None:
    if host_compiler() is None:
        pytest.skip("no C++ compiler")
    guarded = "                if tx2 < 9:\n                    B["
    func = parse_func(BUTTERFLY.replace("                B[", guarded))
    kernels = HostKernels([func])
    memory = {n: np.zeros((8, 32), np.float32) for n in "AB"}
    with pytest.raises(InternalError, match="TW-E0952"):
        kernels.launch(func.name, memory, {}, (2, 1, 1))
