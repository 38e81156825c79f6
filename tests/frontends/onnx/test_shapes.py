"""Shape arithmetic: what models compute from shapes is known as dims while importing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.graph.ir import Graph

from .models import imported, run

F32 = np.float32


def agree(graph: Graph, expected: object, *inputs: np.ndarray) -> None:
    (y,) = run(graph, *inputs)
    np.testing.assert_array_equal(y, np.asarray(expected))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_reshape_by_parts_of_the_shape_keeps_the_symbol(n: int) -> None:
    graph = imported(
        """agraph (float[N, 6, 4] x) => (y)
        <int64 zero = {0}, int64[1] at = {0}, int64[1] m = {-1}> {
            s = Shape(x)  g = Gather(s, zero)  u = Unsqueeze(g, at)
            t = Concat <axis = 0> (u, m)  y = Reshape(x, t) }"""
    )
    assert [str(n.op) for n in graph.nodes] == ["reshape"]
    assert graph.outputs[0].shape[1] == 24
    x = np.random.default_rng(0).random((n, 6, 4), F32)
    agree(graph, x.reshape(n, -1), x)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_float_arithmetic_on_dims_is_followed_where_it_is_exact(size: int) -> None:
    graph = imported(
        """agraph (float[N] x) => (y)
        <float[1] half = {0.5}, int64[1] zero = {0}> {
            s = Shape(x)  f = Cast <to = 1> (s)  h = Mul(f, half)  d = Floor(h)
            e = Cast <to = 7> (d)  y = Slice(x, zero, e) }"""
    )
    x = np.arange(size, dtype=F32)
    agree(graph, x[: size // 2], x)


def test_a_where_that_replaces_minus_one_in_an_expand_is_decided() -> None:
    graph = imported(
        """agraph (float[1, 3] x, float[N] z) => (y)
        <int64[2] one = {1, 1}, int64[2] minus = {-1, -1}, int64[1] three = {3}> {
            n = Shape(z)  s = Concat <axis = 0> (n, three)
            c = Equal(s, minus)  w = Where(c, one, s)  y = Expand(x, w) }"""
    )
    x = np.array([[1, 2, 3]], F32)
    agree(graph, np.broadcast_to(x, (4, 3)), x, np.zeros(4, F32))


def test_a_range_over_a_symbolic_dim_is_an_iota() -> None:
    graph = imported(
        """agraph (float[N] x) => (y) <int64 zero = {0}, int64 two = {2}> {
            s = Size(x)  y = Range(zero, s, two) }"""
    )
    agree(graph, [0, 2, 4], np.zeros(5, F32))


@pytest.mark.parametrize("step", [1.0, 0.5, -1.0])
def test_a_float_range_up_to_a_dim_has_a_symbolic_size(step: float) -> None:
    graph = imported(
        f"""agraph (float[N] x) => (y) <float zero = {{0}}, float step = {{{step}}}> {{
            s = Size(x)  f = Cast <to = 1> (s)  y = Range(zero, f, step) }}"""
    )
    agree(graph, np.arange(0, 3, step, dtype=F32), np.zeros(3, F32))


def test_a_shape_used_as_data_has_its_run_time_value() -> None:
    graph = imported("agraph (float[N, M] x) => (y) { y = Shape(x) }")
    agree(graph, [2, 3], np.zeros((2, 3), F32))


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 9),
    start=st.integers(-12, 12),
    end=st.integers(-12, 12),
    step=st.integers(-4, 4).filter(bool),
)
def test_symbolic_slices_are_python_slices(size: int, start: int, end: int, step: int) -> None:
    graph = imported(
        f"""agraph (float[N] x) => (y)
        <int64[1] a = {{{start}}}, int64[1] b = {{{end}}}, int64[1] axis = {{0}},
        int64[1] s = {{{step}}}> {{
            y = Slice(x, a, b, axis, s) }}"""
    )
    x = np.arange(size, dtype=F32)
    # ONNX differs from Python in one corner: going back, a start before the tensor is its first.
    first = max(start, -size) if step < 0 else start
    agree(graph, x[first:end:step], x)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 12), parts=st.integers(1, 4))
def test_symbolic_splits_into_equal_parts_join_to_the_whole(size: int, parts: int) -> None:
    names = ", ".join(f"p{i}" for i in range(parts))
    graph = imported(
        f"""agraph (float[N] x) => (y) {{
            {names} = Split <num_outputs = {parts}> (x)  y = Concat <axis = 0> ({names}) }}"""
    )
    x = np.arange(size * parts, dtype=F32)
    agree(graph, x, x)


@pytest.mark.parametrize("n", [3, 4, 9])
def test_center_crop_pad_of_a_symbolic_axis_crops_or_pads(n: int) -> None:
    graph = imported("agraph (float[N] x) => (y) <int64[1] s = {4}> { y = CenterCropPad(x, s) }")
    x = np.arange(1, n + 1, dtype=F32)
    want = {3: [1, 2, 3, 0], 4: [1, 2, 3, 4], 9: [3, 4, 5, 6]}[n]
    agree(graph, np.array(want, F32), x)
