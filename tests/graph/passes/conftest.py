"""Fixtures of the pass tests: running a pass and comparing what both graphs compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from tilewright.graph.check import check as require_well_formed
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph
from tilewright.target import Target
from tilewright.tensor.simplify import evaluate

Pass = Callable[[Graph, Target], Graph]
Check = Callable[..., Graph]


@pytest.fixture
def rng() -> Generator:
    return default_rng(7)


@pytest.fixture
def target() -> Target:
    return Target("test", "cpu", "", "", "", (), 256, 16, False, 1 << 15, 1 << 20, 1 << 25)


@pytest.fixture
def check(rng: Generator, target: Target) -> Check:
    """check(graph, function, exact=False, **symbols) -> the graph after the pass.

    Runs both graphs on random inputs and requires equal results: bit by bit, or up to the
    rounding that merged constants and other summation orders bring.
    """

    def run(graph: Graph, function: Pass, exact: bool = False, **sizes: int) -> Graph:
        require_well_formed(graph)
        after = function(graph, target)
        require_well_formed(after)
        arrays = {}
        for value in graph.inputs:
            shape = tuple(evaluate(d, sizes) for d in value.shape)
            if value.dtype.is_float:
                arrays[value.name] = rng.standard_normal(shape).astype(value.dtype.numpy)
            else:
                arrays[value.name] = rng.integers(0, 2, shape).astype(value.dtype.numpy)
        assert [v.type for v in after.outputs] == [v.type for v in graph.outputs]
        for one, other in zip(interpret(graph, arrays), interpret(after, arrays), strict=True):
            if exact or one.dtype.kind != "f":
                np.testing.assert_array_equal(one, other)
            else:
                scale = np.abs(one[np.isfinite(one)]).max(initial=1e-30)
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)
        return after

    return run
