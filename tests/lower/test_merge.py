"""Merging axes: fewer loops over the same elements, and never other elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Value
from tilewright.lower.inline import lower_body
from tilewright.lower.merge import merge_axes
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Buffer, Dim, Reduce, Var, symbol
from tilewright.tensor.simplify import evaluate, product, same_dim

from .bodies import body, f32, shape_of

N, S = symbol("N"), symbol("S")
CONV: dict[str, Any] = {
    "strides": (1, 1),
    "lo": (0, 0),
    "hi": (0, 0),
    "dilations": (1, 1),
    "groups": 1,
}


def lowered(make: Callable[[GraphBuilder], Value]) -> ComputeGroup:
    return lower_body("g", body(make)).group


def axes_of(group: ComputeGroup) -> list[tuple[Dim, ...]]:
    return [tuple(a.extent for a in s.axes) for s in group.stages]


def assert_same_values(group: ComputeGroup, **sizes: int) -> ComputeGroup:
    """Requires that merging keeps every value and every buffer's size; returns what it made."""
    merged = merge_axes(group)
    rng = np.random.default_rng(1)
    arrays = {b.name: rng.standard_normal(shape_of(b, sizes)) for b in group.inputs}
    arrays = {n: a.astype(np.float32) for n, a in arrays.items()}
    reshaped = {b.name: arrays[b.name].reshape(shape_of(b, sizes)) for b in merged.inputs}
    wanted = interpret_group(group, arrays, sizes)
    found = interpret_group(merged, reshaped, sizes)
    for one, other in zip(group.outputs, merged.outputs, strict=True):
        assert one.name == other.name and same_dim(product(one.shape), product(other.shape))
        np.testing.assert_allclose(
            found[other.name].ravel(), wanted[one.name].ravel(), rtol=1e-4, atol=1e-5
        )
    return merged


def test_an_elementwise_chain_is_one_flat_loop() -> None:
    def chain(b: GraphBuilder) -> Value:
        x, z = b.input("x", f32(N, 3, S, 5)), b.input("z", f32(N, 3, S, 5))
        return b.add("tanh", b.add("add", x, z))

    merged = assert_same_values(lowered(chain), N=2, S=4)
    ((extent,),) = axes_of(merged)
    assert evaluate(extent, {"N": 2, "S": 4}) == 120


def test_a_broadcast_operand_keeps_its_axes_apart() -> None:
    def scaled(b: GraphBuilder) -> Value:
        return b.add("mul", b.input("x", f32(4, 6, 5)), b.input("z", f32(6, 1)))

    assert axes_of(assert_same_values(lowered(scaled))) == [(4, 6, 5)]

    def biased(b: GraphBuilder) -> Value:
        return b.add("add", b.input("x", f32(4, 6, 5)), b.input("z", f32(5)))

    assert axes_of(assert_same_values(lowered(biased))) == [(24, 5)]


def test_a_convolution_of_one_by_one_is_a_matrix_product() -> None:
    def pointwise(b: GraphBuilder) -> Value:
        return b.add("conv", b.input("x", f32(N, 7, 6, 8)), b.input("w", f32(1, 1, 8, 4)), **CONV)

    merged = assert_same_values(lowered(pointwise), N=3)
    ((rows, columns),) = axes_of(merged)
    assert columns == 4 and evaluate(rows, {"N": 3}) == 3 * 7 * 6
    assert [len(b.shape) for b in merged.inputs] == [2, 2]


def test_a_unit_batch_leaves_no_axis() -> None:
    def single(b: GraphBuilder) -> Value:
        return b.add("conv", b.input("x", f32(1, 7, 6, 8)), b.input("w", f32(3, 3, 8, 4)), **CONV)

    assert axes_of(assert_same_values(lowered(single))) == [(5, 4, 4)]


def test_the_channels_of_groups_become_an_axis_of_groups() -> None:
    attrs: dict[str, Any] = {**CONV, "groups": 4}

    def grouped(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 5, 5, 8))
        return b.add("conv", x, b.input("w", f32(3, 3, 2, 12)), **attrs)

    assert axes_of(assert_same_values(lowered(grouped))) == [(3, 3, 4, 3)]


def test_depthwise_channels_stay_one_axis() -> None:
    attrs: dict[str, Any] = {**CONV, "groups": 8}

    def depthwise(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 5, 5, 8))
        return b.add("conv", x, b.input("w", f32(3, 3, 1, 8)), **attrs)

    assert axes_of(assert_same_values(lowered(depthwise))) == [(3, 3, 8)]


def test_reductions_merge_their_axes() -> None:
    def mean(b: GraphBuilder) -> Value:
        x = b.input("x", f32(4, 7, 6, 8))
        return b.add("reduce", x, op="sum", axes=(1, 2), keepdims=False)

    merged = assert_same_values(lowered(mean))
    (reduce,) = (s.expr for s in merged.stages)
    assert isinstance(reduce, Reduce)
    assert [a.extent for a in reduce.axes] == [42]


def test_reductions_over_axes_apart_stay_apart() -> None:
    def outer(b: GraphBuilder) -> Value:
        x = b.input("x", f32(4, 7, 6))
        return b.add("reduce", x, op="max", axes=(0, 2), keepdims=False)

    (reduce,) = (s.expr for s in assert_same_values(lowered(outer)).stages)
    assert isinstance(reduce, Reduce) and len(reduce.axes) == 2


def test_temporaries_are_merged_with_their_readers() -> None:
    def softmax(b: GraphBuilder) -> Value:
        x = b.input("x", f32(N, 3, S, 9))
        e = b.add("exp", b.add("sub", x, b.add("reduce", x, op="max", axes=(3,), keepdims=True)))
        return b.add("div", e, b.add("reduce", e, op="sum", axes=(3,), keepdims=True))

    merged = assert_same_values(lowered(softmax), N=2, S=5)
    assert {len(a) for a in axes_of(merged)} == {1, 2}


def test_a_transpose_keeps_the_axes_that_it_swaps() -> None:
    def swapped(b: GraphBuilder) -> Value:
        return b.add("transpose", b.input("x", f32(4, 6, 5, 7)), perm=(2, 3, 0, 1))

    assert axes_of(assert_same_values(lowered(swapped))) == [(35, 24)]


def test_a_reshape_is_read_as_it_lies() -> None:
    def flat(b: GraphBuilder) -> Value:
        return b.add("exp", b.add("reshape", b.input("x", f32(4, 6, 5)), shape=(4, 30)))

    merged = assert_same_values(lowered(flat))
    assert axes_of(merged) == [(120,)]
    assert [b.shape for b in merged.inputs] == [(120,)]


def test_a_merged_axis_takes_no_name_that_is_in_use() -> None:
    """Axes i and j become one beside an axis that is called ij already."""
    i, j, ij = Var("i"), Var("j"), Var("ij")
    x, z = Buffer("x", dt.f32, (3, 4, 5)), Buffer("z", dt.f32, (5,))
    y = Buffer("y", dt.f32, (3, 4, 5))
    axes = (Axis(i, 3), Axis(j, 4), Axis(ij, 5))
    group = ComputeGroup("g", (x, z), (y,), (Compute(y, axes, x[i, j, ij] * z[ij]),))
    merged = assert_same_values(group)
    names = [a.var.name for s in merged.stages for a in s.axes]
    assert len(names) == len(set(names)) == 2


def test_a_merged_axis_takes_no_name_of_a_reduction() -> None:
    i, j, ij = Var("i"), Var("j"), Var("ij")
    x, y = Buffer("x", dt.f32, (3, 4, 5)), Buffer("y", dt.f32, (3, 4))
    total = Reduce("sum", (Axis(ij, 5),), x[i, j, ij])
    group = ComputeGroup("g", (x,), (y,), (Compute(y, (Axis(i, 3), Axis(j, 4)), total),))
    assert axes_of(assert_same_values(group)) == [(12,)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    perm=st.randoms(use_true_random=False),
    reduced=st.integers(0, 15),
)
def test_merging_keeps_the_values_of_any_view_and_reduction(
    shape: list[int], perm: object, reduced: int
) -> None:
    order = list(range(len(shape)))
    perm.shuffle(order)  # type: ignore[attr-defined]
    axes = tuple(k for k in range(len(shape)) if reduced >> k & 1)

    def made(b: GraphBuilder) -> Value:
        x = b.add("transpose", b.input("x", f32(*shape)), perm=tuple(order))
        flat = b.add("reshape", x, shape=(int(np.prod(shape)),))
        back = b.add("reshape", flat, shape=tuple(shape))
        if not axes:
            return back
        total = b.add("reduce", back, op="sum", axes=axes, keepdims=True)
        return b.add("sub", back, total)

    assert_same_values(lowered(made))


@pytest.mark.parametrize("divisor", [2, 3])
def test_an_axis_is_split_only_where_the_quotient_is_whole(divisor: int) -> None:
    """y[c] = sum(x[c // d * 2 + k]): six channels, groups of two or three."""
    c, k = Var("c"), Var("k")
    x, y = Buffer("x", dt.f32, (12,)), Buffer("y", dt.f32, (6,))
    total = Reduce("sum", (Axis(k, 2),), x[c // divisor * 2 + k])
    group = ComputeGroup("g", (x,), (y,), (Compute(y, (Axis(c, 6),), total),))
    assert axes_of(assert_same_values(group)) == [(6 // divisor, divisor)]
    uneven = Reduce("sum", (Axis(k, 2),), x[c // 4 * 2 + k])
    group = ComputeGroup("g", (x,), (y,), (Compute(y, (Axis(c, 6),), uneven),))
    assert axes_of(assert_same_values(group)) == [(6,)]
