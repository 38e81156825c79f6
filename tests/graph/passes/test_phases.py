"""Transposed convolutions multiply no stretched zeros, and give what the stretched ones gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator, default_rng

import tilewright as tw
from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes.phases import phases
from tilewright.tensor.ir import Dim, as_expr, symbol

Check = Callable[..., Graph]


def stretched(
    shape: tuple[Dim, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    lo: tuple[int, ...],
    hi: tuple[int, ...],
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
    outputs: int = 8,
    tail: Callable[[GraphBuilder, Value], Value] | None = None,
) -> Graph:
    """A convolution over an image with zeros put between, cut off where lo or hi is below 0."""
    b, rng = GraphBuilder("net"), default_rng(3)
    x = b.input("x", TensorType(dt.f32, shape))
    channels = shape[-1]
    assert isinstance(channels, int)
    zeros = (0,) * len(kernel)
    value = b.add(
        "pad",
        x,
        b.constant(np.array(0, np.float32)),
        lo=(0, *(max(p, 0) for p in lo), 0),
        hi=(0, *(max(p, 0) for p in hi), 0),
        interior=(0, *(s - 1 for s in strides), 0),
        mode="constant",
    )
    if min(*lo, *hi) < 0:
        edges = zip(value.shape[1:], lo, hi, strict=False)
        sizes = [as_expr(d) + min(before, 0) + min(after, 0) for d, before, after in edges]
        value = b.add(
            "slice",
            value,
            starts=(0, *(max(-p, 0) for p in lo), 0),
            sizes=(shape[0], *sizes, channels),
            steps=(1,) * len(shape),
        )
    w = rng.standard_normal((*kernel, channels // groups, outputs)).astype(np.float32)
    y = b.add(
        "conv", value, b.constant(w), strides=(1,) * len(kernel), lo=zeros, hi=zeros,
        dilations=dilations or (1,) * len(kernel), groups=groups,
    )  # fmt: skip
    b.output(tail(b, y) if tail else y, "y")
    return b.finish()


def images(graph: Graph) -> list[tuple[Dim, ...]]:
    """What each convolution of a graph slides over."""
    return [n.inputs[0].shape[1:-1] for n in graph.nodes if n.op == "conv"]


def taps(graph: Graph) -> list[tuple[Dim, ...]]:
    return [n.inputs[1].shape[:-2] for n in graph.nodes if n.op == "conv"]


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "lo", "hi", "more"),
    [
        ((1, 4, 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), {}),
        ((2, 4, 5, 6), (3, 3), (2, 2), (1, 1), (1, 1), {}),
        ((1, 4, 5, 6), (3, 3), (2, 2), (1, 1), (2, 2), {}),
        ((1, 4, 5, 6), (5, 3), (3, 2), (3, 1), (4, 0), {}),
        ((1, 4, 5, 6), (3, 3), (2, 2), (-1, 1), (2, -2), {}),
        ((1, 4, 5, 6), (3, 2), (4, 3), (2, 1), (2, 1), {}),
        ((1, 4, 5, 6), (3, 3), (2, 3), (4, 4), (4, 4), {"dilations": (2, 2)}),
        ((1, 4, 5, 6), (3, 3), (4, 6), (4, 6), (4, 6), {"dilations": (2, 4)}),
        ((1, 4, 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), {"groups": 2}),
        ((1, 4, 5, 8), (3, 3), (3, 2), (1, 1), (1, 1), {"groups": 8}),
        ((1, 4, 5, 4), (2, 3), (2, 2), (1, 1), (0, 1), {"groups": 2, "outputs": 6}),
        ((1, 7, 6), (7,), (3,), (4,), (4,), {}),
        ((1, 3, 4, 3, 2), (4, 3, 4), (2, 1, 2), (2, 1, 2), (2, 1, 2), {}),
        ((symbol("N"), symbol("H"), 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), {}),
        ((1, symbol("H"), symbol("W"), 6), (3, 3), (2, 2), (1, 1), (1, 1), {}),
    ],
)
def test_phases_give_what_the_stretched_image_gave(
    check: Check,
    shape: tuple[Dim, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    lo: tuple[int, ...],
    hi: tuple[int, ...],
    more: dict[str, Any],
) -> None:
    after = check(stretched(shape, kernel, strides, lo, hi, **more), phases, N=2, H=4, W=3)
    assert set(images(after)) == {shape[1:-1]}
    assert not any(n.op == "pad" for n in after.nodes)


def test_a_wide_result_has_a_convolution_for_each_phase(check: Check) -> None:
    after = check(stretched((1, 4, 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), outputs=32), phases)
    assert taps(after) == [(2, 2)] * 4


def test_the_phases_of_a_narrow_result_are_columns_of_one_convolution(check: Check) -> None:
    after = check(stretched((1, 4, 5, 6), (3, 3), (2, 2), (1, 1), (2, 2), outputs=2), phases)
    assert taps(after) == [(2, 2)]


def test_what_follows_is_computed_for_each_phase(check: Check) -> None:
    def silu(b: GraphBuilder, y: Value) -> Value:
        y = b.add("add", y, b.constant(np.arange(32, dtype=np.float32)))
        return b.add("mul", y, b.add("sigmoid", y))

    graph = stretched((1, 4, 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), outputs=32, tail=silu)
    after = check(graph, phases)
    assert [n.op for n in after.nodes].count("sigmoid") == 4
    assert [n.op for n in after.nodes[-3:]] == ["reshape", "transpose", "reshape"]


def test_a_sum_with_another_image_stays_behind(check: Check) -> None:
    def residual(b: GraphBuilder, y: Value) -> Value:
        return b.add("add", b.add("abs", y), b.input("z", y.type))

    graph = stretched((1, 4, 5, 6), (4, 4), (2, 2), (2, 2), (2, 2), outputs=32, tail=residual)
    assert [n.op for n in check(graph, phases).nodes][-1] == "add"


def test_weights_that_are_no_constants_are_left_alone(check: Check) -> None:
    b = GraphBuilder("net")
    x, w = b.input("x", TensorType(dt.f32, (1, 4, 2))), b.input("w", TensorType(dt.f32, (3, 2, 2)))
    zero = b.constant(np.array(0, np.float32))
    wide = b.add("pad", x, zero, lo=(0, 1, 0), hi=(0, 1, 0), interior=(0, 1, 0), mode="constant")
    y = b.add("conv", wide, w, strides=(1,), lo=(0,), hi=(0,), dilations=(1,), groups=1)
    b.output(y, "y")
    graph = b.finish()
    assert check(graph, phases) is graph


def test_ones_between_elements_are_left_alone(check: Check, rng: Generator) -> None:
    b = GraphBuilder("net")
    x, one = b.input("x", TensorType(dt.f32, (1, 4, 2))), b.constant(np.array(1, np.float32))
    wide = b.add("pad", x, one, lo=(0, 1, 0), hi=(0, 1, 0), interior=(0, 1, 0), mode="constant")
    w = b.constant(rng.standard_normal((3, 2, 2)).astype(np.float32))
    y = b.add("conv", wide, w, strides=(1,), lo=(0,), hi=(0,), dilations=(1,), groups=1)
    b.output(y, "y")
    graph = b.finish()
    assert check(graph, phases) is graph


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize(
    ("channels", "attrs"),
    [
        ((24, 32, 4), {"stride": 2, "padding": 1}),
        ((24, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((24, 32, 5), {"stride": 3, "padding": 1, "groups": 4}),
        ((32, 32, 4), {"stride": 2, "padding": 1, "groups": 32}),
        ((24, 32, 3), {"stride": 2, "padding": 2, "dilation": 2}),
    ],
)
def test_native_code_agrees_with_torch(
    rng: Generator, channels: tuple[int, int, int], attrs: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    given, outputs, kernel = channels
    torch.manual_seed(1)
    layer = torch.nn.ConvTranspose2d(given, outputs, kernel, **attrs)
    module = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    x = torch.from_numpy(rng.standard_normal((1, given, 6, 7)).astype(np.float32))
    with torch.no_grad():
        expected = module(x).numpy()
        (found,) = tw.compile(module, (x,))(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
