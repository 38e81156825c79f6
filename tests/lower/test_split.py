"""Long reductions in pieces: when they are cut, how, and that the result is the same."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tests.schedule.groups import AVX512, matmul, softmax, variables
from tilewright import dtype as dt
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.lower.split import plan_pieces, split_reductions
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Buffer, Const, Dim, Reduce, ReduceOp, symbol
from tilewright.tensor.simplify import evaluate

SM80 = resolve_cuda("cuda:sm_80")


def sums(rows: int, length: Dim, op: ReduceOp = "sum", dtype: DType = dt.f32) -> ComputeGroup:
    """The sums of rows, times two."""
    r, k = variables("r k")
    x, y = Buffer("x0", dtype, (rows, length)), Buffer("y0", dtype, (rows,))
    value = Reduce(op, (Axis(k, length),), x[r, k]) * Const(2, dtype)
    return ComputeGroup("sums", (x,), (y,), (Compute(y, (Axis(r, rows),), value),))


def sizes(b: Buffer) -> tuple[int, ...]:
    return tuple(evaluate(d, {}) for d in b.shape)


def test_few_long_rows_are_cut_in_even_pieces() -> None:
    plan = plan_pieces(sums(1, 1 << 18), SM80)
    assert plan is not None
    assert (plan.count, plan.length) == (16, 1 << 14)


@pytest.mark.parametrize(
    "group",
    [sums(1, 4096), sums(500, 1 << 18), matmul(64, 512, 64), matmul(2048, 8192, 2048),
     sums(1, symbol("K")), softmax(4, 40000)],
    ids=["short", "many rows", "shallow", "many tiles", "of any length", "read again"],
)  # fmt: skip
def test_what_keeps_the_machine_busy_or_is_short_stays_whole(group: ComputeGroup) -> None:
    assert split_reductions(group, SM80) is None


def test_machines_of_vectors_have_no_use_for_it() -> None:
    assert split_reductions(sums(1, 1 << 20), AVX512) is None


@pytest.mark.parametrize(
    "group",
    [sums(1, 1 << 17), sums(2, 140001), sums(1, 131072, "max"), sums(1, 131075, "min", dt.i32),
     matmul(16, 4096, 16), matmul(5, 4099, 20)],
    ids=lambda g: f"{g.name}{list(g.inputs[0].shape)}",
)  # fmt: skip
def test_the_pieces_together_are_the_whole(group: ComputeGroup) -> None:
    parts = split_reductions(group, SM80)
    assert parts is not None and len(parts) == 2
    rng = np.random.default_rng(0)
    given = {b.name: rng.integers(-4, 5, sizes(b)).astype(b.dtype.numpy) for b in group.inputs}
    want = interpret_group(group, given, {})["y0"]
    memory = dict(given)
    for part in parts:
        # Axes of one element are gone; the memory is the same.
        inputs = {b.name: memory[b.name].reshape(sizes(b)) for b in part.inputs}
        memory |= interpret_group(part, inputs, {})
    np.testing.assert_array_equal(np.asarray(memory["y0"]).reshape(want.shape), want)


def _graph(shape: tuple[int, ...], axes: tuple[int, ...], op: str) -> Graph:
    b = GraphBuilder("long")
    x = b.input("x", TensorType(dt.f32, shape))
    b.output(b.add("tanh", b.add("reduce", x, op=op, axes=axes, keepdims=False)))
    return b.finish()


@pytest.mark.parametrize(
    ("shape", "axes"), [((1 << 17,), (0,)), ((140000, 8), (0,)), ((40, 4, 3500), (0, 2))], ids=str
)
def test_a_gpu_computes_the_pieces_in_blocks_and_then_their_sum(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    graph = _graph(shape, axes, "max")
    exe = tw.compile(graph, target="cuda-sim", cache=False)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) / 4
    (got,) = exe(x)
    np.testing.assert_allclose(got, interpret(graph, {"x": x})[0], rtol=1e-6)
    launches = exe._entry.device.launches  # type: ignore[attr-defined]
    (_, pieces), (_, whole) = launches
    assert pieces.blocks >= 8 > whole.blocks


def test_every_run_gives_the_same_bits() -> None:
    exe = tw.compile(_graph((1 << 17,), (0,), "sum"), target="cuda-sim", cache=False)
    x = np.random.default_rng(0).standard_normal(1 << 17).astype(np.float32)
    assert exe(x)[0].tobytes() == exe(x)[0].tobytes()
