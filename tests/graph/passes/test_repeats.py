"""Layers that repeat: passes over a few of them give what passes over all of them give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, default_rng

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes import run_passes
from tilewright.graph.passes.repeats import KEPT, LEAST, lengthened, shortened
from tilewright.graph.passes.stand_ins import Guard, Leaf, OpaqueError, ask, derive, stand_in
from tilewright.graph.text import text
from tilewright.target import Target

Check = Callable[..., Graph]
Layer = Callable[[GraphBuilder, Value, int], Value]

WIDTH = 24
ROWS = 4
TARGET = Target("test", "cpu", "", "", "", (), 256, 16, False, 1 << 15, 1 << 20, 1 << 25)


def stack(layer: Layer, count: int) -> Graph:
    """``count`` layers between an elementwise operation and a transpose."""
    b = GraphBuilder("g")
    x = b.add("tanh", b.input("x", TensorType(dt.f32, (ROWS, WIDTH))))
    for index in range(count):
        with b.origin(f"layer {index}"):
            x = layer(b, x, index)
    b.output(b.add("transpose", x, perm=(1, 0)))
    return b.finish()


def weight(b: GraphBuilder, random: Generator, *shape: int) -> Value:
    return b.constant(random.standard_normal(shape).astype(np.float32))


def dense_layer(b: GraphBuilder, x: Value, index: int) -> Value:
    """Sums, products and movements that passes merge with each other and with the weights."""
    random = default_rng(index)
    y = b.add("matmul", x, weight(b, random, WIDTH, WIDTH))
    y = b.add("add", y, weight(b, random, 1, WIDTH))
    y = b.add("mul", y, weight(b, random, WIDTH))
    y = b.add("add", y, weight(b, random, WIDTH))
    y = b.add("max", y, b.constant(np.zeros((), np.float32)))
    turned = b.add("transpose", b.constant(random.standard_normal((WIDTH, WIDTH)).astype("f4")),
                   perm=(1, 0))  # fmt: skip
    y = b.add("reshape", b.add("matmul", y, turned), shape=(2, ROWS // 2, WIDTH))
    return b.add("add", x, b.add("reshape", y, shape=(ROWS, WIDTH)))


def over_all(graph: Graph) -> str:
    """The graph after passes that went over all of it."""
    return text(run_passes(graph, TARGET, lambda name, after: None))


def over_few(graph: Graph) -> str | None:
    """The graph after passes over a few layers; None where there is no short form."""
    short = shortened(graph)
    if short is None:
        return None
    made = run_passes(short.graph, TARGET, lambda name, after: None)
    try:
        return text(lengthened(short, made))
    except OpaqueError:
        return None


@pytest.mark.parametrize("count", [LEAST, 30])
def test_passes_over_a_few_layers_give_what_passes_over_all_give(count: int, check: Check) -> None:
    graph = stack(dense_layer, count)
    short = shortened(graph)
    assert short is not None and len(short.graph.nodes) < len(graph.nodes)
    assert short.stretch.count - short.missing == KEPT
    assert over_few(graph) == over_all(graph) == text(run_passes(graph, TARGET))
    check(graph, run_passes)


def test_few_layers_are_passed_over_as_they_are() -> None:
    assert shortened(stack(dense_layer, LEAST - 1)) is None


def test_a_layer_that_answers_otherwise_is_not_taken_for_its_neighbours(check: Check) -> None:
    """All the sums of one layer are with zeros, so that passes leave them out there."""

    def layer(b: GraphBuilder, x: Value, index: int) -> Value:
        bias = default_rng(index).standard_normal(WIDTH).astype(np.float32) * (index != 7)
        return b.add("add", b.add("sin", x), b.constant(bias))

    graph = stack(layer, 12)
    assert shortened(graph) is not None
    assert over_few(graph) is None
    assert text(run_passes(graph, TARGET)) == over_all(graph)
    check(graph, run_passes)


def test_layers_that_share_weights_in_part_have_no_short_form() -> None:
    shared = np.ones((WIDTH, WIDTH), np.float32)

    def layer(b: GraphBuilder, x: Value, index: int) -> Value:
        data = shared if index % 2 else default_rng(index).standard_normal((WIDTH, WIDTH))
        return b.add("tanh", b.add("matmul", x, b.constant(data.astype(np.float32, copy=False))))

    assert shortened(stack(layer, 12)) is None


def test_halves_of_layers_are_not_taken_for_layers(check: Check) -> None:
    """After passes both halves of a layer look alike: what differs between them is gone."""

    def layer(b: GraphBuilder, x: Value, index: int) -> Value:
        y = b.add("cumulative", x, op="sum", axis=0, exclusive=False, reverse=False)
        y = b.add("reshape", b.add("reshape", y, shape=(WIDTH, ROWS)), shape=(ROWS, WIDTH))
        return b.add("cumulative", y, op="sum", axis=0, exclusive=False, reverse=False)

    graph = stack(layer, 12)
    assert text(run_passes(graph, TARGET)) == over_all(graph)
    check(graph, run_passes)


def test_results_of_layers_between_the_first_and_the_last_are_kept(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dt.f32, (ROWS, WIDTH)))
    for index in range(12):
        x = dense_layer(b, x, index)
        b.output(b.add("neg", x))
    graph = b.finish()
    assert shortened(graph) is None
    check(graph, run_passes)


STEPS: dict[str, Callable[[GraphBuilder, Value, Generator], Value]] = {
    "scale": lambda b, x, r: b.add("mul", x, weight(b, r, WIDTH)),
    "shift": lambda b, x, r: b.add("add", x, weight(b, r, 1, WIDTH)),
    "less": lambda b, x, r: b.add("sub", x, weight(b, r, WIDTH)),
    "part": lambda b, x, r: b.add("div", x, b.constant(np.float32(2) ** r.integers(1, 9, WIDTH)
                                                       .astype(np.float32))),
    "product": lambda b, x, r: b.add("matmul", x, weight(b, r, WIDTH, WIDTH)),
    "sigmoid": lambda b, x, r: b.add("sigmoid", x),
    "softened": lambda b, x, r: b.add("div", x, b.add("sqrt", b.add("add", b.add(
        "reduce", b.add("mul", x, x), op="sum", axes=(1,), keepdims=True),
        b.constant(np.ones((), np.float32))))),
    "around": lambda b, x, r: b.add("transpose", b.add("exp", b.add(
        "transpose", x, perm=(1, 0))), perm=(1, 0)),
    "apart": lambda b, x, r: b.add("concat", *(
        b.add("slice", x, starts=(0, s), sizes=(ROWS, WIDTH // 2), steps=(1, 1))
        for s in (WIDTH // 2, 0)), axis=1),
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=8),
    residual=st.booleans(),
    count=st.integers(LEAST, 14),
)
def test_layers_of_any_steps_become_the_same_graph(
    steps: list[str], residual: bool, count: int
) -> None:
    def layer(b: GraphBuilder, x: Value, index: int) -> Value:
        random, y = default_rng(index), x
        for step in steps:
            y = STEPS[step](b, y, random)
        return b.add("add", x, y) if residual else y

    graph = stack(layer, count)
    assert text(run_passes(graph, TARGET)) == over_all(graph)


# ------------------------------------------------------------------ stand-ins


def test_a_stand_in_shows_its_type_and_nothing_else() -> None:
    hidden = stand_in(np.arange(6.0).reshape(2, 3), Leaf(0, 0), [])
    assert (hidden.dtype.name, hidden.shape, hidden.size, hidden.ndim) == ("float64", (2, 3), 6, 2)
    looks: list[Callable[[], object]] = [
        lambda: np.asarray(hidden), lambda: hidden[0], lambda: hidden + 1, lambda: 1 - hidden,
        lambda: hidden == hidden, lambda: bool(hidden), lambda: hidden.tobytes().hex(),
        lambda: np.abs(hidden), lambda: hidden.T, lambda: list(hidden), lambda: np.all(hidden),
        lambda: hidden.astype(np.float32), lambda: memoryview(hidden.data),
    ]  # fmt: skip
    for look in looks:
        with pytest.raises(OpaqueError):
            look()


def test_what_is_derived_of_a_stand_in_is_one_and_what_is_asked_is_noted() -> None:
    guards: list[Guard] = []
    hidden = stand_in(np.array([3.0, 4.0]), Leaf(2, 1), guards)
    twice = derive(np.add, hidden, np.array([1.0, 1.0]))
    assert ask(np.max, twice) == 5
    assert [guard.answer for guard in guards] == [5]
    with pytest.raises(OpaqueError):
        np.asarray(twice)
