"""Vectors only where they are aligned: a row of a scan may begin at any element."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright as tw
from tests.schedule.groups import matmul
from tilewright import api
from tilewright import dtype as dt
from tilewright.backends.cuda.alignment import loose_buffers
from tilewright.backends.cuda.ptx import emit_ptx
from tilewright.backends.cuda.simulator import Simulator
from tilewright.backends.cuda.source import emit_source
from tilewright.backends.cuda.threads import launch_of
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    InputStorage,
    Program,
    Storage,
    Tensor,
)
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Var, as_expr, symbol
from tilewright.tensor.parse import parse_func
from tilewright.tensor.simplify import dim

from .executors import SM80, random_inputs, scheduled
from .networks import NETWORKS


def pieces_of_rows(dtype: DType, row: int, used: int) -> Graph:
    """A running sum of the first elements of each row: the rows are no multiple of a vector."""
    step = GraphBuilder("step")
    total = step.input("total", TensorType(dtype, (used,)))
    x = step.input("x", TensorType(dtype, (row,)))
    piece = step.add("slice", x, starts=(0,), sizes=(used,), steps=(1,))
    added = step.add("add", total, step.add("tanh", piece))
    step.output(added)
    step.output(step.add("mul", added, piece))
    b = GraphBuilder("rows")
    start = b.input("start", TensorType(dtype, (used,)))
    rows = b.input("rows", TensorType(dtype, (5, row)))
    for v in b.add_many(
        "scan", start, rows, body=step.finish(), carried=1, scanned=1, reverse=False
    ):
        b.output(v)
    return b.finish()


@pytest.mark.parametrize("dtype", [dt.f32, dt.f16], ids=str)
def test_rows_of_a_scan_that_begin_anywhere_are_read_by_elements(dtype: DType) -> None:
    graph = pieces_of_rows(dtype, 6, 4)
    rng = np.random.default_rng(0)
    shapes = {"start": (4,), "rows": (5, 6)}
    inputs = {n: rng.standard_normal(s).astype(dtype.numpy) for n, s in shapes.items()}
    got = tw.compile(graph, target="cuda-sim", cache=False)(**inputs)
    for have, want in zip(got, interpret(graph, inputs), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5 if dtype is dt.f32 else 4e-3)


def test_rows_of_whole_vectors_are_read_by_vectors() -> None:
    # The state is always in a buffer of its own.
    for row, count in ((8, 2), (6, 1)):
        built = api.build(pieces_of_rows(dt.f32, row, 4), target="cuda:sm_80", cache=False)
        assert built.text("ptx").count("ld.global.nc.v4") == count


@pytest.mark.parametrize(
    ("storage", "loose"),
    [
        (InputStorage(0), False),
        (ConstantStorage(64), False),
        (ArenaStorage(128), False),
        (ArenaStorage(dim(as_expr(symbol("N")) * 64)), False),
        (ArenaStorage(dim(Var("t") * 48 + 64)), False),
        (ArenaStorage(dim(Var("t") * 24)), True),
        (ArenaStorage(dim(symbol("N") * 4)), True),
    ],
    ids=str,
)
def test_a_buffer_is_loose_where_no_call_proves_its_place(storage: Storage, loose: bool) -> None:
    func = parse_func("""
def k(x: f32[8], y: f32[8]):
    for t in thread.x(8):
        y[t] = x[t]
""")
    given = Tensor("x", dt.f32, (8,), storage)
    result = Tensor("y", dt.f32, (8,), ArenaStorage(0))
    steps = (CallKernel("k", (given, result)),)
    found = loose_buffers(Program("p", (), (), (), steps, 0, 0), (func,))
    assert found == ({"k": frozenset({"x"})} if loose else {})


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_pays_for_it(name: str) -> None:
    built = api.build(NETWORKS[name].model(), target="cuda:sm_80", cache=False)
    text = built.text("llvm")
    assert text.count("noalias align ") == text.count("noalias align 16 ") > 0


def test_copies_in_the_background_from_anywhere_become_loads() -> None:
    group = matmul(70, 96, 104)
    func = scheduled(group)
    assert "cp.async.cg" in emit_ptx([func], SM80)
    loose = {func.name: frozenset({"x0", "x1"})}
    ptx = emit_ptx([func], SM80, loose)
    assert "cp.async.cg" not in ptx
    assert "tw_copy16(x" not in emit_source([func], loose)
    given = random_inputs(group, {})
    simulator = Simulator()
    places = {}
    for name, array in given.items():
        # One element behind a multiple of sixteen bytes, where the buffer may be there.
        shift = 4 if name in loose[func.name] else 0
        places[name] = simulator.allocate(array.nbytes + shift, name) + shift
        simulator.copy_in(places[name], array)
    places["y0"] = simulator.allocate(70 * 104 * 4, "y0")
    launch = launch_of(func)
    grid = tuple(d if isinstance(d, int) else 0 for d in launch.grid)
    kernel = simulator.load(ptx).kernel(func.name)
    simulator.launch(kernel, grid, (*launch.block, 1), [places[p.name] for p in func.params])
    got = simulator.copy_out(places["y0"], (70, 104), np.float32)
    want = interpret_group(group, given, {})["y0"]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
