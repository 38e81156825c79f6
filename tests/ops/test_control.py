"""if, scan, fused: type rules, and their meaning through the graph interpreter."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.ops.control import CONTROL
from tilewright.ops.op import Attrs, OpError, Sample, type_of
from tilewright.tensor.ir import Dim, symbol

IF, SCAN, FUSED = CONTROL["if"], CONTROL["scan"], CONTROL["fused"]
COND = TensorType(dt.bool_, ())


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def unary(op: str, type_: TensorType) -> Graph:
    builder = GraphBuilder(op)
    builder.output(builder.add(op, builder.input("x", type_)))
    return builder.finish()


def step(carry: TensorType, row: TensorType) -> Graph:
    """``carry, x -> carry + x, carry * x``"""
    builder = GraphBuilder("step")
    a, x = builder.input("a", carry), builder.input("x", row)
    builder.output(builder.add("add", a, x))
    builder.output(builder.add("mul", a, x))
    return builder.finish()


def run(name: str, sample: Sample) -> list[np.ndarray]:
    builder = GraphBuilder("main")
    inputs = [builder.input(f"x{i}", type_of(x)) for i, x in enumerate(sample.inputs)]
    for value in builder.add_many(name, *inputs, origin="", names=None, **sample.attrs):
        builder.output(value)
    return interpret(builder.finish(), {f"x{i}": x for i, x in enumerate(sample.inputs)})


@pytest.mark.parametrize("name", CONTROL)
def test_samples_run_and_have_their_inferred_types(name: str) -> None:
    for sample in CONTROL[name].samples():
        types = CONTROL[name].infer(tuple(map(type_of, sample.inputs)), sample.attrs)
        assert tuple(map(type_of, run(name, sample))) == types


@pytest.mark.parametrize("cond", [True, False])
def test_if_runs_one_branch(cond: bool) -> None:
    x = np.array([4.0, 9.0], np.float32)
    attrs: Attrs = {"then": unary("sqrt", f32(2)), "orelse": unary("neg", f32(2))}
    (y,) = run("if", Sample((np.array(cond), x), attrs))
    np.testing.assert_array_equal(y, np.sqrt(x) if cond else -x)


@pytest.mark.parametrize(
    ("cond", "orelse", "words"),
    [
        (f32(), unary("neg", f32(2)), "the condition must be bool_[()], got f32[()]"),
        (TensorType(dt.bool_, (1,)), unary("neg", f32(2)), "got bool_[1]"),
        (COND, unary("neg", f32(3)), "orelse: input x is f32[3], given f32[2]"),
        (COND, unary("isnan", f32(2)), "f32[2] in then, but bool_[2] in orelse"),
        (COND, step(f32(2), f32(2)), "orelse takes 2 inputs, but is given 1"),
    ],
)
def test_if_refuses(cond: TensorType, orelse: Graph, words: str) -> None:
    attrs: Attrs = {"then": unary("neg", f32(2)), "orelse": orelse}
    with pytest.raises(OpError, match=re.escape(words)):
        IF.infer((cond, f32(2)), attrs)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_carries_in_order_and_stacks_by_step(reverse: bool) -> None:
    xs = np.arange(8, dtype=np.float32).reshape(4, 2)
    init = np.ones(2, np.float32)
    body = step(f32(2), f32(2))
    attrs: Attrs = {"body": body, "carried": 1, "scanned": 1, "reverse": reverse}
    total, ys = run("scan", Sample((init, xs), attrs))
    carry, wanted = init, np.empty_like(xs)
    for t in reversed(range(4)) if reverse else range(4):
        wanted[t] = carry * xs[t]
        carry = carry + xs[t]
    np.testing.assert_array_equal(total, carry)
    np.testing.assert_array_equal(ys, wanted)


def test_scan_keeps_a_symbolic_number_of_steps() -> None:
    steps, batch = symbol("T"), symbol("B")
    row = f32(batch, 2)
    attrs: Attrs = {"body": step(row, row), "carried": 1, "scanned": 1, "reverse": False}
    types = SCAN.infer((row, f32(steps, batch, 2)), attrs)
    assert types == (row, f32(steps, batch, 2))


@pytest.mark.parametrize(
    ("types", "changes", "words"),
    [
        ((f32(2), f32(4, 3)), {}, "body: input x is f32[2], given f32[3]"),
        ((f32(2), f32(0, 2)), {}, "scans no steps"),
        ((f32(2), f32()), {}, "scans along axis 0, but an input is f32[()]"),
        ((f32(2), f32(4, 2)), {"scanned": 0}, "at least 1"),
        ((f32(2), f32(4, 2)), {"carried": 2}, "do not fit 2 inputs"),
        ((f32(4, 2), f32(5, 2)), {"carried": 0, "scanned": 2}, "have 4 and 5 steps"),
        ((f32(1), f32(4, 2)), {"body": step(f32(1), f32(2))}, "a carried value keeps its type"),
    ],
)
def test_scan_refuses(types: tuple[TensorType, ...], changes: Attrs, words: str) -> None:
    body = step(f32(2), f32(2))
    attrs = {"body": body, "carried": 1, "scanned": 1, "reverse": False, **changes}
    with pytest.raises(OpError, match=re.escape(words)):
        SCAN.infer(types, attrs)


def test_fused_refuses_inputs_that_its_body_does_not_take() -> None:
    with pytest.raises(OpError, match=re.escape("body: input x is f32[2], given f32[3]")):
        FUSED.infer((f32(3),), {"body": unary("neg", f32(2))})
