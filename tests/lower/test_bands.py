"""Bands: chains of convolutions by rows compute what their links do; others are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret as interpret_graph
from tilewright.graph.ir import Graph, Value
from tilewright.graph.passes.fuse import fuse
from tilewright.lower.bands import find_links, plan_bands
from tilewright.lower.inline import lower_body
from tilewright.lower.kernels import KernelTable
from tilewright.target import Threads
from tilewright.tensor.ir import Dim, symbol

from .bodies import TARGET, body, f32, random_inputs, run_code
from .test_model import assert_runs, calls, graph_of
from .test_winograd import double

SMALL = replace(TARGET, l2_bytes=32 << 10)
H = symbol("H", 8)


def conv(
    b: GraphBuilder,
    x: Value,
    outputs: int,
    name: str = "",
    k: int = 1,
    stride: int = 1,
    lo: int = 0,
    hi: int = 0,
    groups: int = 1,
) -> Value:
    """A convolution with weights that are an input, if they have a name, else a constant."""
    shape = (k, k, int(x.shape[-1]) // groups, outputs)  # type: ignore[arg-type]
    if name:
        w = b.input(name, f32(*shape))
    else:
        w = b.constant(np.random.default_rng(len(shape)).standard_normal(shape, np.float32) * 0.2)
    strides, ones = (stride, stride), (1, 1)
    return b.add("conv", x, w, strides=strides, lo=(lo, lo), hi=(hi, hi), dilations=ones,
                 groups=groups)  # fmt: skip


def relu6(b: GraphBuilder, x: Value) -> Value:
    return b.add("min", b.add("max", x, b.constant(np.float32(0))), b.constant(np.float32(6)))


def silu(b: GraphBuilder, x: Value) -> Value:
    return b.add("mul", x, b.add("sigmoid", x))


def block(
    x: tuple[Dim, ...],
    wide: int = 20,
    outputs: int = 11,
    epilogue: Any = relu6,
    expand: int = 1,
    project: bool = True,
    residual: bool = False,
    **depthwise: int,
) -> Graph:
    """Expand (taps of the first convolution; 0: none), depthwise, project."""

    def make(b: GraphBuilder) -> Value:
        y = given = b.input("x", f32(*x))
        if expand:
            pads = {"lo": expand // 2, "hi": expand // 2}
            y = epilogue(b, conv(b, y, wide, "w0", expand, **pads))
        y = conv(b, y, int(y.shape[-1]), "w1", groups=int(y.shape[-1]), **depthwise)  # type: ignore[arg-type]
        y = epilogue(b, b.add("add", y, b.input("b1", f32(int(y.shape[-1])))))  # type: ignore[arg-type]
        if project:
            y = b.add("add", conv(b, y, outputs, "w2"), b.input("b2", f32(outputs)))
        return b.add("add", y, given) if residual else y

    return body(make)


def code_of(graph: Graph, l2: int) -> tuple[Any, float]:
    """The code of a chain for a core with so small a cache, and its greatest relative error."""
    fixed = frozenset(v for v in graph.inputs if v.name[0] in "wb")
    code = KernelTable(replace(TARGET, l2_bytes=l2)).code(graph, fixed)
    arrays = random_inputs(graph, {})
    found = run_code(code, graph, arrays, {})
    exact = interpret_graph(double(graph), {k: v.astype(np.float64) for k, v in arrays.items()})
    (got,), (want,) = found, exact
    return code, float(np.abs(got - want).max() / np.abs(want).max())


THREE: dict[str, Any] = {"k": 3, "lo": 1, "hi": 1}
CASES: dict[str, dict[str, Any]] = {
    "3x3": {"x": (1, 32, 12, 6), **THREE},
    "stride 2": {"x": (1, 32, 13, 6), "stride": 2, **THREE},
    "residual": {"x": (1, 32, 12, 11), "residual": True, **THREE},
    "5x5 of stride 2, padded at the end": {
        "x": (1, 48, 15, 8),
        "k": 5,
        "stride": 2,
        "lo": 1,
        "hi": 2,
    },
    "batch": {"x": (2, 32, 9, 4), **THREE},
    "no padding": {"x": (1, 34, 14, 5), "k": 3},
    "without expansion": {"x": (1, 32, 11, 20), "expand": 0, **THREE},
    "image of three channels": {"x": (1, 32, 16, 3), "expand": 3, **THREE},
    "without projection": {"x": (1, 32, 12, 6), "project": False, **THREE},
    "silu": {"x": (1, 32, 12, 6), "epilogue": silu, **THREE},
}


def rows_in_cache(x: tuple[int, ...], count: int) -> int:
    """The bytes of so many rows of 20 columns."""
    return 4 * 20 * x[2] * count


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_a_chain_in_bands_computes_its_convolutions(given: dict[str, Any]) -> None:
    code, error = code_of(block(**given), rows_in_cache(given["x"], 44))
    (kernel,) = code.kernels
    assert kernel.recipe.startswith("bands") and not code.scratch
    assert error < 1e-6


def test_a_chain_that_stays_near_is_computed_link_by_link() -> None:
    code, error = code_of(block((1, 32, 12, 6), **THREE), 1 << 20)
    assert len(code.kernels) == 3 and len(code.scratch) == 2
    assert not any(k.recipe.startswith("bands") for k in code.kernels)
    assert error < 1e-6


def plan_of(graph: Graph, **target: Any) -> int | None:
    group = lower_body("group", graph).group
    fixed = frozenset(b.name for b in group.inputs[1:])
    links = find_links(group, fixed)
    assert links is not None
    return plan_bands(links, fixed, replace(SMALL, **target))


def pooled(
    x: tuple[int, ...],
    op: str = "max",
    rows: tuple[int, ...] = (3, 2, 1, 1),
    squares: bool = False,
    weights: bool = True,
) -> Graph:
    """A first convolution, sums of squares of neighbour channels, a pool.

    Args:
        rows: window, stride and padding of the pool.
        weights: whether there is a convolution.
    """
    window, stride, lo, hi = rows

    def make(b: GraphBuilder) -> Value:
        y = b.input("x", f32(*x))
        if weights:
            y = conv(b, y, 20, "w0", k=3, stride=2, lo=1)
            y = b.add("max", b.add("add", y, b.input("b0", f32(20))), b.constant(np.float32(0)))
        ones = (1, 1, 1, 1)
        if squares:
            q = b.add("reduce_window", b.add("mul", y, y), op="sum", window=(1, 1, 1, 5),
                      strides=ones, dilations=ones, lo=(0, 0, 0, 2), hi=(0, 0, 0, 2))  # fmt: skip
            y = b.add("div", y, b.add("sqrt", b.add("add", q, b.constant(np.float32(2)))))
        return b.add("reduce_window", y, op=op, window=(1, window, window, 1),
                     strides=(1, stride, stride, 1), dilations=ones,
                     lo=(0, lo, lo, 0), hi=(0, hi, hi, 0))  # fmt: skip

    return body(make)


POOLED: dict[str, dict[str, Any]] = {
    "largest": {"x": (1, 64, 24, 3)},
    "sums": {"x": (1, 64, 24, 3), "op": "sum"},
    "rows that bands do not divide": {"x": (1, 69, 23, 3), "rows": (3, 2, 0, 0)},
    "batch": {"x": (2, 64, 23, 3)},
    "windows apart": {"x": (1, 64, 24, 3), "rows": (2, 2, 0, 0)},
    "windows that overlap": {"x": (1, 64, 24, 3), "rows": (2, 1, 0, 1)},
    "sums of squares": {"x": (1, 64, 24, 3), "squares": True},
    "sums of squares of a batch": {"x": (2, 61, 24, 3), "squares": True, "rows": (3, 2, 0, 1)},
    "no convolution": {"x": (1, 33, 12, 20), "squares": True, "weights": False},
}


@pytest.mark.parametrize("given", POOLED.values(), ids=POOLED)
def test_a_pool_in_bands_computes_its_chain(given: dict[str, Any]) -> None:
    code, error = code_of(pooled(**given), 4 * 20 * 12 * 20)
    (kernel,) = code.kernels
    assert kernel.recipe.startswith("bands") and not code.scratch
    assert error < 1e-6


@pytest.mark.parametrize("given", POOLED.values(), ids=POOLED)
def test_a_pool_whose_image_stays_near_is_a_kernel_of_its_own(given: dict[str, Any]) -> None:
    code, error = code_of(pooled(**given), 1 << 20)
    assert len(code.kernels) == 1 + given.get("weights", True) + given.get("squares", False)
    assert error < 1e-6


def test_bands_are_as_high_as_the_cache_allows() -> None:
    graph = block((1, 128, 12, 6), **THREE)
    low, high = plan_of(graph), plan_of(graph, l2_bytes=60 << 10)
    assert low is not None and high is not None and low < high <= 16


def test_machines_of_threads_get_no_bands() -> None:
    threads = Threads(32, 1024, 48 << 10, 255, 65536, 132, 90)
    assert plan_of(block((1, 64, 12, 6), **THREE)) is not None
    assert plan_of(block((1, 64, 12, 6), **THREE), threads=threads) is None


def test_more_rows_twice_than_it_is_worth_are_refused() -> None:
    """Bands of one row of 5x5 taps would compute every row five times."""
    assert plan_of(block((1, 64, 40, 6), k=5, lo=2, hi=2)) is None


def test_reductions_without_weights_are_no_chain() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 8, 8, 16))
        total = b.add("reduce", x, op="sum", axes=(3,), keepdims=True)
        d = b.add("sub", x, total)
        return b.add("reduce", b.add("mul", d, d), op="sum", axes=(3,), keepdims=True)

    assert find_links(lower_body("group", body(make)).group, frozenset()) is None


def inverted(x: tuple[Dim, ...], *, pooled: bool = False, wide: int = 32) -> Graph:
    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        y = relu6(b, conv(b, b.input("x", f32(*x)), wide))
        y = relu6(b, conv(b, y, wide, k=3, lo=1, hi=1, groups=wide))
        z = conv(b, y, 8)
        if not pooled:
            return z
        return z, b.add("reduce", y, op="sum", axes=(1, 2), keepdims=True)

    return graph_of(make)


def groups_of(graph: Graph, l2: int) -> list[int]:
    """How many convolutions each group has."""
    fused = fuse(graph, replace(TARGET, l2_bytes=l2))
    bodies = [n.attrs["body"] for n in fused.nodes if isinstance(n.attrs.get("body"), Graph)]
    return [sum(n.op == "conv" for n in b.nodes) for b in bodies if isinstance(b, Graph)]


def test_fusion_joins_chains_that_do_not_stay_near() -> None:
    assert groups_of(inverted((1, 32, 32, 8)), 64 << 10) == [3]
    assert groups_of(inverted((1, 32, 32, 8)), 1 << 20) == [1, 1, 1]


@pytest.mark.parametrize(("l2", "count"), [(64 << 10, 1), (1 << 20, 2)], ids=["far", "near"])
def test_fusion_joins_a_pool_with_a_first_convolution_that_does_not_stay_near(
    l2: int, count: int
) -> None:
    def make(b: GraphBuilder) -> Value:
        y = relu6(b, conv(b, b.input("x", f32(1, 64, 64, 3)), 32, k=3, stride=2, lo=1, hi=1))
        ones = (1, 1, 1, 1)
        return b.add("reduce_window", y, op="max", window=(1, 3, 3, 1), strides=(1, 2, 2, 1),
                     dilations=ones, lo=(0, 1, 1, 0), hi=(0, 1, 1, 0))  # fmt: skip

    assert len(groups_of(graph_of(make), l2)) == count


@pytest.mark.parametrize("second", [False, True], ids=["one result", "two results"])
def test_what_follows_a_pool_in_bands_joins_unless_it_is_a_second_result(second: bool) -> None:
    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        y = conv(b, b.input("x", f32(1, 256, 256, 3)), 32, k=3, stride=2, lo=1, hi=1)
        ones, zeros = (1, 1, 1, 1), (0, 0, 0, 0)
        y = b.add("reduce_window", y, op="max", window=(1, 2, 2, 1), strides=(1, 2, 2, 1),
                  dilations=ones, lo=zeros, hi=zeros)  # fmt: skip
        z = relu6(b, y)
        return (y, z) if second else z

    graph = graph_of(make)
    assert len(groups_of(graph, 64 << 10)) == (2 if second else 1)
    assert_runs(graph)


def test_a_link_that_others_read_ends_its_chain() -> None:
    assert sorted(groups_of(inverted((1, 32, 32, 8), pooled=True), 64 << 10)) == [0, 1, 2]


def test_chains_of_symbolic_size_are_left_apart() -> None:
    assert groups_of(inverted((1, H, 32, 8)), 1 << 10) == [1, 1, 1]


def test_native_bands_are_right() -> None:
    program = assert_runs(inverted((1, 128, 128, 8), wide=96))
    assert len(calls(program)) == 1


def separable(channels: tuple[int, ...]) -> Graph:
    """Depthwise and pointwise convolutions in turns, each with an epilogue."""

    def make(b: GraphBuilder) -> Value:
        y = b.input("x", f32(1, 32, 32, channels[0]))
        for outputs in channels[1:]:
            given = int(y.shape[-1])  # type: ignore[arg-type]
            y = relu6(b, conv(b, y, given, k=3, lo=1, hi=1, groups=given))
            y = relu6(b, conv(b, y, outputs))
        return y

    return graph_of(make)


def test_a_chain_holds_one_depthwise_convolution() -> None:
    assert groups_of(separable((32, 32, 32, 32)), 64 << 10) == [2, 2, 2]
    assert_runs(separable((32, 32, 32, 32)))


def test_a_convolution_that_widens_goes_with_what_reads_it() -> None:
    assert groups_of(separable((32, 64, 32)), 64 << 10) == [1, 3]


def test_products_of_many_channels_are_not_computed_twice() -> None:
    """What is saved is the same for each element, whatever its sum takes."""
    few, many = (
        plan_of(block((1, 56, 56, n), 144, 24, **THREE), l2_bytes=1 << 20, vector_bits=512)
        for n in (24, 96)
    )
    assert few is not None and many is None
