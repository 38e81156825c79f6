"""Large results that nothing in the model reads go past the caches, and are what they were."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.api import compile as compile_model
from tilewright.backends.cpu.target import resolve_target
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.graph.passes import run_passes
from tilewright.lower.model import Lowered, lower_graph
from tilewright.schedule.recording import Recording
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.walk import stores

V4 = resolve_target("x86-64-v4")


def doubled(*shape: Dim, summed: bool = False) -> Graph:
    b = GraphBuilder("doubled")
    x = b.input("x", TensorType(dt.f32, shape))
    y = b.add("mul", x, b.constant(np.float32(2)))
    b.output(y)
    if summed:
        b.output(b.add("cumulative", y, op="sum", axis=0, exclusive=False, reverse=False))
    return b.finish()


def lowered(graph: Graph, given: Mapping[str, int] | None = None) -> Lowered:
    answers = None if given is None else lambda _, __: given
    return lower_graph(run_passes(graph, V4), V4, answers=answers)


def streamed(made: Lowered) -> list[bool]:
    return [s.streamed for k in made.kernels.values() for s in stores(k.func.body)]


def test_a_large_result_goes_past_the_caches() -> None:
    made = lowered(doubled(1000, 1000))
    assert streamed(made) and all(streamed(made))
    (kernel,) = made.kernels.values()
    assert kernel.steps.endswith("s.stream('y0')")
    assert kernel.recording is not None
    assert Recording.from_json(kernel.recording.json()) == kernel.recording


def test_a_result_that_a_cache_holds_or_another_kernel_reads_does_not() -> None:
    assert not any(streamed(lowered(doubled(100, 1000))))
    assert not any(streamed(lowered(doubled(1000, 1000, summed=True))))
    assert not any(streamed(lowered(doubled(symbol("N"), 1000))))


def test_streaming_is_a_question_of_the_space() -> None:
    made = lowered(doubled(1000, 1000), {"stream": 0})
    assert not any(streamed(made))
    assert made.decided[0].asked["stream"] == ((0, 1), 0)


@pytest.mark.parametrize("shape", [(1000, 1000), (1001, 1003), (9, 1024, 512), (7, 200_003)])
@pytest.mark.parametrize("threads", [1, 2])
def test_streamed_results_are_right(shape: tuple[int, ...], threads: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    executable = compile_model(doubled(*shape), cache=False, threads=threads)
    for _ in range(2):
        np.testing.assert_array_equal(executable(x)[0], x * 2)
