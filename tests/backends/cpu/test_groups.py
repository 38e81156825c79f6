"""Convolutions in groups compute what they say at every level, however groups fit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.api import compile as compile_model
from tilewright.backends.cpu.target import resolve_target, runs_here
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "native")
SHAPES = {
    # groups, channels and columns of each, taps, stride, step of taps, height and width
    "4 of 4": (8, 4, 4, 3, 1, 1, 6, 15),
    "8 of 8": (4, 8, 8, 3, 1, 1, 7, 7),
    "8 of 8, stride 2": (4, 8, 8, 3, 2, 1, 9, 12),
    "2 of 2, dilated": (16, 2, 2, 3, 1, 2, 9, 11),
    "4 columns of 8 channels": (8, 8, 4, 3, 1, 1, 6, 9),
    "8 columns of 4 channels": (4, 4, 8, 3, 2, 1, 6, 9),
    "two columns of one channel": (32, 1, 2, 5, 2, 1, 9, 9),
    "4 of 4, no taps": (16, 4, 4, 1, 1, 1, 5, 9),
    "part of a vector": (5, 4, 4, 3, 1, 1, 6, 9),
    "3 of 3": (16, 3, 3, 3, 1, 1, 6, 9),
    "4 columns of 3 channels": (8, 3, 4, 3, 1, 1, 6, 9),
}


def convolution(
    groups: int, channels: int, columns: int, k: int, stride: int, step: int, h: int, w: int
) -> Graph:
    b = GraphBuilder("grouped")
    x = b.input("x", TensorType(dt.f32, (2, h, w, groups * channels)))
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((k, k, channels, groups * columns)).astype(np.float32)
    edge = (step * (k - 1) // 2,) * 2
    y = b.add(
        "conv", x, b.constant(weights), strides=(stride,) * 2, lo=edge, hi=edge,
        dilations=(step,) * 2, groups=groups, wide=False,
    )  # fmt: skip
    b.output(y)
    return b.finish()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_convolution_in_groups_is_right(name: str, level: str) -> None:
    if not runs_here(resolve_target(level)):
        pytest.skip(f"this machine does not run {level}")
    graph = convolution(*SHAPES[name])
    rng = np.random.default_rng(1)
    shape = tuple(d for d in graph.inputs[0].shape if isinstance(d, int))
    given = {"x": rng.standard_normal(shape).astype(np.float32)}
    (expected,) = interpret(graph, given)
    (got,) = compile_model(graph, target=level, cache=False, threads=2)(given["x"])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
