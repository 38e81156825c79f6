"""Loops over panels of large weights are walked forth and back in turns, with the same results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import tilewright
from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.backends.llvm.turning import walks_back
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.tensor.ir import For, Var
from tilewright.tensor.parse import parse_func

from .run_kernel import CONTEXT, aligned, compile_func


def product(
    panels: int = 9, depth: int = 700, rows: int = 1, panel: str = "p", ahead: str = "p"
) -> str:
    """Rows by weights in panels of 64 columns, one panel in each iteration."""
    return f"""\
def k(x: f32[{rows}, {depth}], w: f32[{panels}, {depth}, 64], y: f32[{rows}, {panels}, 64]):
    for p in parallel({panels}):
        for i in serial({rows}):
            for j0 in vector(64):
                y[i, {panel}, j0] = 0.0
            for k in serial({depth}):
                for j1 in vector(64):
                    prefetch(w[{ahead}, k, j1])
                for j in vector(64):
                    y[i, {panel}, j] = y[i, {panel}, j] + x[i, k] * w[{panel}, k, j]
"""


def loop(text: str) -> For:
    """The outermost loop of a function."""
    (found,) = parse_func(text).body
    assert isinstance(found, For)
    return found


def test_panels_that_are_more_than_a_cache_holds_are_walked_back() -> None:
    assert walks_back(loop(product()))


@pytest.mark.parametrize(
    "text",
    [
        product(panels=7),
        product(depth=400),
        product(panels=99),
        product(rows=50),
        product(panel="(p % 9)", ahead="(p % 9)"),
        product(ahead="(p + 1)"),
        product(ahead="max(p, 1)"),
    ],
    ids=["few", "small", "large", "many rows", "another order", "asks ahead", "asks for others"],
)
def test_other_loops_are_walked_as_they_are(text: str) -> None:
    assert not walks_back(loop(text))


def test_loops_of_unknown_length_or_part_of_one_are_walked_as_they_are() -> None:
    found = loop(product())
    assert not walks_back(replace(found, extent=Var("P", dt.i64, 8, 9)))
    assert not walks_back(replace(found, start=1))


def test_only_code_that_may_keep_something_turns() -> None:
    func = parse_func(product())
    assert "@k.turn0 = internal global" in emit_kernel(func, resolve_target("x86-64-v3"))
    assert "turn" not in emit_kernel(func, resolve_target("wasm32"))


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads kernels are told that there are."""
    before, CONTEXT[2] = CONTEXT[2], request.param
    yield request.param
    CONTEXT[2] = before


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("panels", [9, 16])
def test_each_walk_computes_all_of_the_result(panels: int) -> None:
    rng = np.random.default_rng(0)
    x, w, y = aligned(1, 700), aligned(panels, 700, 64), aligned(1, panels, 64)
    x[:], w[:] = rng.integers(-4, 4, x.shape), rng.integers(-4, 4, w.shape)
    run = compile_func(parse_func(product(panels)))
    for _ in range(4):
        y[:] = np.nan
        run(x, w, y)
        np.testing.assert_array_equal(y[0], np.einsum("k,pkj->pj", x[0], w))


def test_a_model_gives_the_same_bits_at_every_call_and_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    g = GraphBuilder("product")
    x = g.input("x", TensorType(dt.f32, (1, 512)))
    weights = g.constant(rng.standard_normal((512, 1000), np.float32))
    g.output(g.add("matmul", x, weights), "y")
    exe = tilewright.compile(g.finish(), cache=False)
    assert ".turn0 = internal global" in exe.text("llvm")
    given = rng.standard_normal((1, 512), np.float32)
    (first,) = exe(given)
    for threads in (1, 2, 3, 1):
        exe.threads = threads
        for _ in range(3):
            np.testing.assert_array_equal(exe(given)[0], first)
