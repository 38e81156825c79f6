"""Volumes are convolved as pictures of more channels where that pays, and give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.graph.passes import run_passes
from tilewright.graph.passes.depth import stack_depth
from tilewright.graph.text import text
from tilewright.tensor.ir import Dim, symbol

CPU = resolve_target("x86-64-v3")
GPU = resolve_cuda("cuda:sm_80")


def volume(
    shape: tuple[Dim, ...] = (2, 4, 13, 12, 24),
    taps: tuple[int, int, int] = (3, 3, 3),
    outputs: int = 24,
    lo: tuple[int, int, int] = (1, 1, 1),
    hi: tuple[int, int, int] = (1, 1, 1),
    dtype: DType = dt.f32,
    known: bool = True,
    groups: int = 1,
    **attrs: Any,
) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, shape))
    inner = shape[-1]
    assert isinstance(inner, int)
    sizes = (*taps, inner // groups, outputs)
    data = np.random.default_rng(0).standard_normal(sizes).astype(dtype.numpy) * 0.1
    w = b.constant(data.astype(dtype.numpy)) if known else b.input("w", TensorType(dtype, sizes))
    given = {"strides": (1, 1, 1), "dilations": (1, 1, 1), **attrs}
    y = b.add("conv", x, w, lo=lo, hi=hi, groups=groups, **given)
    b.output(b.add("max", y, b.constant(np.zeros((), dtype.numpy))), "y")
    return b.finish()


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"lo": (0, 1, 1), "hi": (0, 1, 1)},
        {"lo": (2, 0, 1), "hi": (0, 2, 1)},
        {"taps": (2, 3, 3), "outputs": 30},
        {"taps": (5, 3, 3), "lo": (2, 1, 1), "hi": (2, 1, 1)},
    ],
    ids=["padded", "no depth around", "uneven", "two pictures", "five pictures"],
)
def test_pictures_give_what_volumes_do(given: dict[str, Any]) -> None:
    graph = volume(**given)
    after = stack_depth(graph, CPU)
    (conv,) = (n for n in after.nodes if n.op == "conv")
    assert len(conv.inputs[0].shape) == 4
    x = np.random.default_rng(1).standard_normal((2, 4, 13, 12, 24)).astype(np.float32)
    (want,), (same,) = interpret(graph, {"x": x}), interpret(after, {"x": x})
    np.testing.assert_allclose(same, want, atol=1e-5)
    (got,) = tw.compile(graph, cache=False)(x)
    np.testing.assert_allclose(np.asarray(got), want, atol=1e-4)


N = symbol("N", 1, 8)


@pytest.mark.parametrize(
    "given",
    [
        {"strides": (1, 2, 2)},
        {"strides": (2, 1, 1)},
        {"dilations": (2, 1, 1)},
        {"groups": 2},
        {"taps": (1, 3, 3)},
        {"taps": (3, 1, 1), "lo": (1, 0, 0), "hi": (1, 0, 0)},
        {"shape": (1, 4, 7, 7, 24)},
        {"shape": (1, 4, 13, 12, 3)},
        {"shape": (N, 4, 13, 12, 24)},
        {"dtype": dt.f64},
        {"known": False},
    ],
    ids=str,
)
def test_what_no_method_for_pictures_takes_stays_a_volume(given: dict[str, Any]) -> None:
    graph = volume(**given)
    assert stack_depth(graph, CPU) is graph


def test_machines_of_threads_keep_their_volumes() -> None:
    graph = volume()
    assert stack_depth(graph, GPU) is graph
    assert ops(stack_depth(graph, CPU)) != ops(graph)


def test_strict_math_which_has_no_such_methods_keeps_its_volumes() -> None:
    shapes = {m: _convolved(run_passes(volume(), CPU, math=m)) for m in ("fast", "strict")}
    assert shapes == {"fast": [4], "strict": [5]}
    made = tw.compile(volume(), math="strict", cache=False)
    assert "concat" not in made.text("passes")


def _convolved(graph: Graph) -> list[int]:
    """The ranks of what the convolutions of a graph, fused or not, take."""
    bodies = [n.attrs["body"] if n.op == "fused" else None for n in graph.nodes]
    inside = [n for b in bodies if isinstance(b, Graph) for n in b.nodes]
    return [len(n.inputs[0].shape) for n in (*graph.nodes, *inside) if n.op == "conv"]


def test_what_follows_a_convolution_stays_in_its_kernel() -> None:
    after = run_passes(volume(), CPU)
    (body,) = (b for n in after.nodes if "conv(" in (b := text_of(n.attrs.get("body"))))
    assert "max(" in body


def text_of(body: object) -> str:
    return text(body) if isinstance(body, Graph) else ""
