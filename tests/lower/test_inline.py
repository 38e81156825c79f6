"""Inlining: what becomes one expression, what stays a stage, and that no axis is captured."""

from __future__ import annotations

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Value
from tilewright.lower.fission import innermost
from tilewright.lower.inline import has_reduce, inline, lower_body, rename_reduce_axes
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Buffer, Const, Reduce, Var

from .bodies import assert_kernels_compute, body, f32


def stages(make: object) -> tuple[Compute, ...]:
    return lower_body("g", body(make)).group.stages  # type: ignore[arg-type]


def summed(b: GraphBuilder, x: Value, axis: int, keepdims: bool = False) -> Value:
    return b.add("reduce", x, op="sum", axes=(axis,), keepdims=keepdims)


def test_an_elementwise_chain_becomes_one_stage() -> None:
    def chain(b: GraphBuilder) -> Value:
        x = b.input("x", f32(4, 8))
        return b.add("tanh", b.add("mul", b.add("exp", x), x))

    (stage,) = stages(chain)
    assert not has_reduce(stage.expr)


def test_constants_of_one_element_become_numbers() -> None:
    def scaled(b: GraphBuilder) -> Value:
        return b.add("mul", b.input("x", f32(4)), b.constant(np.float32(2.5)))

    lowered = lower_body("g", body(scaled))
    assert [v.name for v in lowered.inputs] == ["x"]
    assert Const(2.5, dt.f32) in lowered.group.stages[0].expr.operands


def test_a_map_after_a_product_is_its_epilogue() -> None:
    def layer(b: GraphBuilder) -> Value:
        x, w = b.input("x", f32(6, 5)), b.input("w", f32(5, 7))
        return b.add("tanh", b.add("add", b.add("matmul", x, w), b.input("c", f32(7))))

    assert len(stages(layer)) == 1
    assert_kernels_compute(body(layer))


def test_an_epilogue_may_be_a_transpose() -> None:
    def layer(b: GraphBuilder) -> Value:
        x, w = b.input("x", f32(2, 6, 5)), b.input("w", f32(5, 7))
        return b.add("transpose", b.add("neg", b.add("matmul", x, w)), perm=(2, 0, 1))

    assert len(stages(layer)) == 1
    assert_kernels_compute(body(layer))


def test_an_epilogue_may_split_dims() -> None:
    def heads(b: GraphBuilder) -> Value:
        x, w = b.input("x", f32(6, 5)), b.input("w", f32(5, 8))
        split = b.add("reshape", b.add("matmul", x, w), shape=(6, 2, 4))
        return b.add("transpose", split, perm=(1, 0, 2))

    assert len(stages(heads)) == 1
    assert_kernels_compute(body(heads))


def test_a_reduction_that_many_elements_read_is_computed_once() -> None:
    def centred(b: GraphBuilder) -> Value:
        x = b.input("x", f32(4, 8))
        return b.add("sub", x, summed(b, x, 1, keepdims=True))

    assert len(stages(centred)) == 2
    assert_kernels_compute(body(centred))


def test_an_expensive_value_that_two_reductions_need_is_kept() -> None:
    def spread(b: GraphBuilder) -> Value:
        e = b.add("exp", b.input("x", f32(4, 8)))
        return b.add("div", e, summed(b, e, 1, keepdims=True))

    def cheap(b: GraphBuilder) -> Value:
        e = b.add("neg", b.input("x", f32(4, 8)))
        return b.add("div", e, summed(b, e, 1, keepdims=True))

    assert len(stages(spread)) == 3
    assert len(stages(cheap)) == 2
    assert_kernels_compute(body(spread))


def test_a_reduction_is_never_repeated_inside_another() -> None:
    def twice(b: GraphBuilder) -> Value:
        x = b.input("x", f32(3, 4, 5))
        return summed(b, b.add("exp", summed(b, x, 2)), 1)

    assert all(
        not has_reduce(r.body) for s in stages(twice) for r in [innermost(s.expr)] if r is not None
    )
    assert_kernels_compute(body(twice))


def test_an_output_that_others_read_is_an_output_still() -> None:
    def both(b: GraphBuilder) -> tuple[Value, ...]:
        h = b.add("neg", b.input("x", f32(4, 8)))
        return h, b.add("exp", h)

    lowered = lower_body("g", body(both))
    assert [o.name for o in lowered.group.outputs] == ["y0", "y1"]
    assert_kernels_compute(body(both))


def test_a_value_that_is_two_outputs_is_computed_once() -> None:
    def twice(b: GraphBuilder) -> tuple[Value, ...]:
        h = b.add("neg", b.input("x", f32(4)))
        return h, h

    assert len(lower_body("g", body(twice)).group.outputs) == 1
    assert_kernels_compute(body(twice))


def test_substitution_does_not_capture_the_axis_of_a_reduction() -> None:
    """t[i] = sum(x[i, k] for k) read at t[k] must not sum over the reader's k."""
    i, k = Var("i"), Var("k")
    x, t, y = Buffer("x", dt.f32, (3, 4)), Buffer("t", dt.f32, (3,)), Buffer("y", dt.f32, (3,))
    total = Compute(t, (Axis(i, 3),), Reduce("sum", (Axis(k, 4),), x[i, k]))
    reader = Compute(y, (Axis(k, 3),), t[k] * 2.0)
    kept = inline([total, reader], {y})
    group = ComputeGroup("g", (x,), (y,), tuple(kept))
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = interpret_group(group, {"x": data}, {})["y"]
    np.testing.assert_array_equal(found, 2 * data.sum(1))


def test_renaming_an_axis_leaves_the_same_name_outside_alone() -> None:
    i, k, fresh = Var("i"), Var("k"), Var("fresh")
    x = Buffer("x", dt.f32, (4, 4))
    inner = Reduce("sum", (Axis(k, 4),), x[i, k])
    renamed = rename_reduce_axes(inner + x[i, k], {k: fresh})
    assert renamed is Reduce("sum", (Axis(fresh, 4),), x[i, fresh]) + x[i, k]


def test_alike_bodies_lower_to_equal_groups() -> None:
    def named(prefix: str) -> object:
        def make(b: GraphBuilder) -> Value:
            x, w = b.input(f"{prefix}x", f32(6, 5)), b.input(f"{prefix}w", f32(5, 7))
            return b.add("tanh", b.add("matmul", x, w))

        return make

    one, other = (lower_body("g", body(named(p))).group for p in "ab")  # type: ignore[arg-type]
    assert one == other and hash(one) == hash(other)
