"""Pools and pointwise convolutions go in the order that takes less time, and give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes.fuse import fuse
from tilewright.graph.passes.pools import order_pools
from tilewright.tensor.ir import Dim, symbol

CPU = resolve_target("x86-64-v3")
N, H = symbol("N", 1, 8), symbol("H", 8, 64)
SAME: dict[str, Any] = {
    "window": (1, 3, 3, 1),
    "strides": (1, 1, 1, 1),
    "lo": (0, 1, 1, 0),
    "hi": (0, 1, 1, 0),
}
HALVED: dict[str, Any] = {
    "window": (1, 2, 2, 1),
    "strides": (1, 2, 2, 1),
    "lo": (0, 0, 0, 0),
    "hi": (0, 0, 0, 0),
}


def pool(b: GraphBuilder, x: Value, given: dict[str, Any], op: str = "sum") -> Value:
    return b.add("reduce_window", x, op=op, dilations=(1, 1, 1, 1), **given)


def convolve(
    b: GraphBuilder, x: Value, outputs: int, taps: int = 1, stride: int = 1, groups: int = 1
) -> Value:
    inner = x.shape[-1]
    assert isinstance(inner, int)
    sizes = (taps, taps, inner // groups, outputs)
    data = np.random.default_rng(0).standard_normal(sizes).astype(x.dtype.numpy)
    around = (taps // 2, taps // 2)
    return b.add(
        "conv",
        x,
        b.constant(data),
        strides=(stride, stride),
        lo=around,
        hi=around,
        dilations=(1, 1),
        groups=groups,
    )


def branch(
    shape: tuple[Dim, ...] = (2, 9, 7, 24),
    outputs: int = 5,
    scale: str | None = "div",
    factor: tuple[int, ...] = (1, 9, 7, 1),
    dtype: DType = dt.f32,
    op: str = "sum",
    shown: int = 0,
    **conv: int,
) -> Graph:
    """A pool, a scale and a convolution; ``shown`` adds the pool or the scale to the outputs."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, shape))
    found = [pool(b, x, SAME, op)]
    if scale is not None:
        data = np.random.default_rng(1).uniform(1, 9, factor).astype(dtype.numpy)
        found.append(b.add(scale, found[0], b.constant(data)))
    y = convolve(b, found[-1], outputs, **conv)
    b.output(b.add("max", y, b.constant(np.zeros((), dtype.numpy))), "y")
    if shown:
        b.output(found[shown - 1], "z")
    return b.finish()


def transition(
    shape: tuple[Dim, ...] = (2, 8, 6, 24),
    outputs: int = 12,
    given: dict[str, Any] | None = None,
    dtype: DType = dt.f32,
    bias: bool = False,
    shown: bool = False,
    **conv: int,
) -> Graph:
    """A convolution, whose result may be an output, and a pool."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, shape))
    y = convolve(b, x, outputs, **conv)
    z = b.add("add", y, b.constant(np.arange(outputs).astype(dtype.numpy))) if bias else y
    b.output(pool(b, z, HALVED if given is None else given), "y")
    if shown:
        b.output(y, "z")
    return b.finish()


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def agree(graph: Graph, after: Graph) -> None:
    (spec,) = graph.inputs
    shape = [d if isinstance(d, int) else 3 for d in spec.shape]
    x = np.random.default_rng(2).standard_normal(shape).astype(spec.dtype.numpy)
    want, same = interpret(graph, {"x": x}), interpret(after, {"x": x})
    for a, b in zip(same, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    for a, b in zip(tw.compile(graph, cache=False)(x), want, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scale": "mul"},
        {"scale": "mul", "factor": ()},
        {"scale": None},
        {"factor": (9, 7, 1)},
        {"dtype": dt.f64},
        {"shape": (N, 9, 7, 24)},
    ],
    ids=str,
)
def test_fewer_channels_are_summed_behind_a_convolution(given: dict[str, Any]) -> None:
    graph = branch(**given)
    after = order_pools(graph, CPU)
    assert ops(after)[:2] == ["conv", "reduce_window"]
    agree(graph, after)


@pytest.mark.parametrize(
    "given",
    [
        {"outputs": 24},
        {"outputs": 40},
        {"op": "max"},
        {"factor": (24,)},
        {"factor": (1, 9, 7, 24)},
        {"taps": 3},
        {"stride": 2},
        {"groups": 4, "outputs": 4},
        {"shown": 1},
        {"shown": 2},
        {"scale": "add"},
        {"shape": (2, H, 7, 24), "factor": (1, 1, 1, 1)},
        {"dtype": dt.f16},
    ],
    ids=str,
)
def test_a_pool_stays_first_where_the_order_matters_or_does_not_pay(given: dict[str, Any]) -> None:
    graph = branch(**given)
    assert order_pools(graph, CPU) is graph


def test_a_factor_that_repeats_the_image_keeps_it_first() -> None:
    graph = branch(shape=(1, 9, 7, 24), factor=(3, 9, 7, 1))
    assert order_pools(graph, CPU) is graph


@pytest.mark.parametrize(
    "given",
    [{}, {"dtype": dt.f64}, {"outputs": 60}, {"shape": (N, 8, 6, 24)}],
    ids=str,
)
def test_fewer_places_are_multiplied_behind_a_pool(given: dict[str, Any]) -> None:
    graph = transition(**{"outputs": 48, **given})
    after = order_pools(graph, CPU)
    assert ops(after) == ["reduce_window", "conv"]
    agree(graph, after)


def test_zeros_around_the_image_are_summed_before_and_behind() -> None:
    around = {**HALVED, "lo": (0, 1, 1, 0), "hi": (0, 1, 1, 0)}
    graph = transition(outputs=200, given=around)
    after = order_pools(graph, CPU)
    assert ops(after) == ["reduce_window", "conv"]
    agree(graph, after)


@pytest.mark.parametrize(
    "given",
    [
        {"outputs": 2, "shape": (2, 8, 6, 80)},
        {"given": SAME, "outputs": 12},
        {"given": {**HALVED, "strides": (1, 2, 2, 2), "window": (1, 2, 2, 2)}},
        {"bias": True},
        {"shown": True},
        {"taps": 3},
        {"groups": 4},
        {"dtype": dt.f16},
    ],
    ids=str,
)
def test_a_convolution_stays_first_where_the_order_matters_or_does_not_pay(
    given: dict[str, Any],
) -> None:
    graph = transition(**{"outputs": 48, **given})
    assert order_pools(graph, CPU) is graph


def test_a_graph_without_pools_stays_the_same_object() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dt.f32, (1, 4, 4, 8)))
    b.output(convolve(b, x, 4), "y")
    graph = b.finish()
    assert order_pools(graph, CPU) is graph


def scaled(
    given: dict[str, Any] | None = None, op: str = "sum", cheap: bool = True, shown: bool = False
) -> Graph:
    """A scale and a rectifier, and a pool of what they give, which may be an output, too."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dt.f32, (2, 8, 6, 24)))
    y = b.add("mul", x, b.constant(np.linspace(-1, 1, 24, dtype=np.float32)))
    y = b.add("max" if cheap else "pow", y, b.constant(np.array(0.25, np.float32)))
    b.output(pool(b, y, HALVED if given is None else given, op), "y")
    if shown:
        b.output(y, "z")
    return b.finish()


def bodies(graph: Graph) -> list[str]:
    found = (n.attrs["body"] for n in fuse(graph, CPU).nodes)
    return [" ".join(ops(b)) for b in found if isinstance(b, Graph)]


@pytest.mark.parametrize("op", ["sum", "max"])
def test_what_only_a_pool_of_windows_apart_reads_is_computed_in_its_kernel(op: str) -> None:
    graph = scaled(op=op)
    assert bodies(graph) == ["mul max reduce_window"]
    agree(graph, graph)


@pytest.mark.parametrize(
    "given",
    [
        {"given": SAME},
        {"given": {**HALVED, "window": (1, 3, 2, 1)}},
        {"given": {**HALVED, "lo": (0, 1, 0, 0)}},
        {"cheap": False},
        {"shown": True},
    ],
    ids=str,
)
def test_what_windows_share_or_others_read_has_a_kernel_of_its_own(given: dict[str, Any]) -> None:
    graph = scaled(**given)
    assert sum("reduce_window" in b for b in bodies(graph)) == 1
    assert "reduce_window" in bodies(graph)
    agree(graph, graph)


def normalised(
    window: tuple[int, ...] = (1, 1, 1, 5), op: str = "sum", shown: bool = False
) -> Graph:
    """A rectified product by sums of squares around each of its elements; they may be shown."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dt.f32, (2, 8, 6, 24)))
    y = b.add("max", convolve(b, x, 24), b.constant(np.array(0.25, np.float32)))
    square = b.add("mul", y, y)
    around = {"lo": tuple(n // 2 for n in window), "hi": tuple(n // 2 for n in window)}
    total = pool(b, square, {"window": window, "strides": (1, 1, 1, 1), **around}, op)
    b.output(b.add("div", y, total), "y")
    if shown:
        b.output(square, "z")
    return b.finish()


@pytest.mark.parametrize("window", [(1, 1, 1, 5), (1, 3, 3, 1)], ids=str)
def test_sums_of_squares_that_overlap_square_what_they_read(window: tuple[int, ...]) -> None:
    graph = normalised(window)
    assert bodies(graph) == ["conv max", "mul reduce_window div"]
    agree(graph, graph)


@pytest.mark.parametrize("given", [{"op": "max"}, {"shown": True}], ids=str)
def test_squares_that_others_read_are_computed_once(given: dict[str, Any]) -> None:
    graph = normalised(**given)
    assert bodies(graph) == ["conv max mul", "reduce_window div"]
    agree(graph, graph)
