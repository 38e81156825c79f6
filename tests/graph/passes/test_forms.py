"""What exporters state in several ways becomes one graph, and only where nothing is lost by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes import run_passes
from tilewright.graph.passes.simplify import simplify
from tilewright.graph.text import text
from tilewright.tensor.ir import Dim, symbol

Check = Callable[..., Graph]
Make = Callable[[GraphBuilder, Value], Value]
N = symbol("N", 1, 64)


def const(b: GraphBuilder, value: float, dtype: DType = dt.f32) -> Value:
    return b.constant(np.asarray(value, dtype.numpy))


def made(make: Make, shape: Sequence[Dim], dtype: DType = dt.f32) -> Graph:
    b = GraphBuilder("g")
    b.output(make(b, b.input("x", TensorType(dtype, tuple(shape)))), "y")
    return b.finish()


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def total(b: GraphBuilder, x: Value) -> Value:
    return b.add("reduce", x, op="sum", axes=(1,), keepdims=True)


# ------------------------------------------------------------------ gelu


def halved_first(b: GraphBuilder, x: Value) -> Value:
    grown = b.add("erf", b.add("mul", x, const(b, math.sqrt(0.5))))
    return b.add("mul", b.add("mul", x, const(b, 0.5)), b.add("add", grown, const(b, 1)))


def halved_last(b: GraphBuilder, x: Value) -> Value:
    grown = b.add("add", b.add("erf", b.add("div", x, const(b, math.sqrt(2)))), const(b, 1))
    return b.add("mul", const(b, 0.5), b.add("mul", x, grown))


def halved_within(b: GraphBuilder, x: Value) -> Value:
    grown = b.add("add", b.add("erf", b.add("div", x, const(b, math.sqrt(2)))), const(b, 1))
    return b.add("mul", x, b.add("mul", grown, const(b, 0.5)))


def test_gelu_has_one_form(check: Check) -> None:
    forms = [
        text(check(made(make, (N, 8)), simplify, N=5)).split("def ")[1]
        for make in (halved_first, halved_last, halved_within)
    ]
    plain = [[line.partition(" = ")[2] for line in f.splitlines()] for f in forms]
    assert [[p.partition("(")[0] for p in f] for f in plain] == [
        [p.partition("(")[0] for p in plain[0]]
    ] * 3
    assert ops(check(made(halved_within, (N, 8)), simplify, N=5)) == [
        "mul", "erf", "add", "mul", "mul",
    ]  # fmt: skip


@pytest.mark.parametrize("op", ["floor", "round", "sign"])
def test_a_quotient_that_is_rounded_stays_a_quotient(op: str, check: Check) -> None:
    graph = made(lambda b, x: b.add(op, b.add("div", x, const(b, 49.0))), (N, 8))
    assert ops(check(graph, simplify, exact=True, N=5)) == ["div", op]


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_factors_far_from_one_stay_where_they_are(factor: float, check: Check) -> None:
    graph = made(
        lambda b, x: b.add("mul", b.add("mul", x, const(b, factor)), b.add("exp", x)), (N, 8)
    )
    after = check(graph, simplify, N=5)
    assert after.nodes[-1].inputs[1] not in after.constants


def test_a_factor_of_rows_stays_with_the_rows(check: Check) -> None:
    graph = made(
        lambda b, x: b.add("mul", x, b.add("mul", total(b, x), const(b, 0.5))),
        (N, 8),
    )
    after = check(graph, simplify, N=5)
    assert after.nodes[-1].inputs[1] not in after.constants


@pytest.mark.parametrize("dtype", [dt.f16, dt.bf16, dt.i32])
def test_factors_of_narrow_types_and_integers_stay(dtype: DType, check: Check) -> None:
    graph = made(
        lambda b, x: b.add("mul", b.add("mul", x, const(b, 2, dtype)), b.add("neg", x)),
        (N, 8),
        dtype,
    )
    after = check(graph, simplify, N=5)
    assert after.nodes[-1].inputs[1] not in after.constants


# ------------------------------------------------------------------ normalisation


def centred(b: GraphBuilder, x: Value) -> tuple[Value, Value]:
    apart = b.add("sub", x, b.add("div", total(b, x), const(b, 6)))
    return apart, b.add("div", total(b, b.add("mul", apart, apart)), const(b, 6))


def divided(b: GraphBuilder, x: Value) -> Value:
    apart, variance = centred(b, x)
    return b.add("div", apart, b.add("sqrt", b.add("add", variance, const(b, 1e-5))))


def multiplied(b: GraphBuilder, x: Value) -> Value:
    apart, variance = centred(b, x)
    root = b.add("sqrt", b.add("add", variance, const(b, 1e-5)))
    return b.add("mul", apart, b.add("div", const(b, 1), root))


def by_power(b: GraphBuilder, x: Value) -> Value:
    apart, variance = centred(b, x)
    shifted = b.add("add", const(b, 1e-5), variance)
    return b.add("mul", apart, b.add("pow", shifted, const(b, -0.5)))


def test_normalisation_has_one_form(check: Check) -> None:
    found = [ops(check(made(m, (N, 6)), simplify, N=5)) for m in (divided, multiplied, by_power)]
    assert found[0] == found[1] == found[2]
    assert found[0][-3:] == ["sqrt", "div", "mul"]


def shifted_by(shift: float, squared: bool) -> Make:
    def make(b: GraphBuilder, x: Value) -> Value:
        summed = total(b, b.add("mul", x, x) if squared else x)
        return b.add("div", x, b.add("sqrt", b.add("add", summed, const(b, shift))))

    return make


@pytest.mark.parametrize("make", [shifted_by(0.0, True), shifted_by(1e-5, False)])
def test_rows_whose_deviation_may_vanish_are_divided(make: Make, check: Check) -> None:
    assert ops(check(made(make, (N, 6)), simplify, N=5))[-1] == "div"


def test_a_deviation_of_each_element_divides(check: Check) -> None:
    graph = made(
        lambda b, x: b.add(
            "div", x, b.add("sqrt", b.add("add", b.add("mul", x, x), const(b, 1e-5)))
        ),
        (N, 6),
    )
    assert ops(check(graph, simplify, N=5)) == ["mul", "add", "sqrt", "div"]


def test_rows_of_zeros_and_of_huge_numbers_are_normalised_alike(check: Check) -> None:
    x = np.array([[0.0] * 6, [1e-30] * 6, [1e30, -1e30] * 3, [3e38] * 6], np.float32)
    before = made(divided, (4, 6))
    after = check(before, simplify)
    from_pass, from_graph = (_evaluated(g, x) for g in (after, before))
    np.testing.assert_allclose(from_pass, from_graph, rtol=1e-6)


def _evaluated(graph: Graph, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return interpret(graph, {"x": x})[0]


# ------------------------------------------------------------------ vectors


def test_a_bias_is_a_vector_however_many_axes_it_came_with(check: Check) -> None:
    bias = np.arange(4, dtype=np.float32)
    graph = made(lambda b, x: b.add("add", x, b.constant(bias.reshape(1, 1, 4))), (N, 3, 4))
    (node,) = check(graph, simplify, exact=True, N=5).nodes
    assert node.inputs[1].shape == (4,)


def test_a_bias_that_gives_the_result_its_axes_keeps_them(check: Check) -> None:
    bias = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    graph = made(lambda b, x: b.add("add", x, b.constant(bias)), (4,))
    (node,) = check(graph, simplify, exact=True).nodes
    assert node.inputs[1].shape == (1, 1, 4)


def test_a_vector_that_many_read_is_still_one(check: Check) -> None:
    bias = np.arange(400, dtype=np.float32).reshape(1, 400)
    graph = made(
        lambda b, x: b.add("add", b.add("exp", b.add("sub", x, held := b.constant(bias))), held),
        (N, 400),
    )
    after = check(graph, simplify, N=5)
    assert len({id(a) for a in after.constants.values() if a.size == 400}) <= 2


# ------------------------------------------------------------------ loops


def test_weights_that_were_transposed_outside_are_constants_of_a_loop(check: Check) -> None:
    rng = np.random.default_rng(3)
    step = GraphBuilder("step")
    h, x = (step.input(n, TensorType(dt.f32, (2, 3))) for n in "hx")
    w = step.input("w", TensorType(dt.f32, (3, 3)))
    h = step.add("tanh", step.add("add", x, step.add("matmul", h, w)))
    step.output(h)
    step.output(h)
    b = GraphBuilder("g")
    start, xs = (
        b.input("h", TensorType(dt.f32, (2, 3))),
        b.input("xs", TensorType(dt.f32, (4, 2, 3))),
    )
    weights = b.add("transpose", b.constant(rng.random((3, 3), np.float32)), perm=(1, 0))
    last, _ = b.add_many(
        "scan", start, xs, weights, body=step.finish(), carried=1, scanned=1, reverse=False
    )
    b.output(last)
    after = check(b.finish(), run_passes)
    (scan,) = (n for n in after.nodes if n.op == "scan")
    body = scan.attrs["body"]
    assert isinstance(body, Graph)
    assert len(body.constants) == 1


# ------------------------------------------------------------------ softmax


def softmax_over(axes: tuple[int, ...], largest: bool = True) -> Make:
    def make(b: GraphBuilder, x: Value) -> Value:
        if largest:
            x = b.add("sub", x, b.add("reduce", x, op="max", axes=(1,), keepdims=True))
        power = b.add("exp", x)
        return b.add("div", power, b.add("reduce", power, op="sum", axes=axes, keepdims=True))

    return make


def test_softmax_divides_once_for_each_row(check: Check) -> None:
    before = made(softmax_over((1,)), (4, 9))
    after = check(before, simplify)
    assert ops(after).count("div") == 1
    (quotient,) = (n for n in after.nodes if n.op == "div")
    assert quotient.outputs[0].shape == (4, 1)
    x = np.array([[-1e30, 0, 3, -np.inf, 88, 1, 2, 3, 4], [np.nan] * 9, [-np.inf] * 9, [5.0] * 9])
    given = {"x": x.astype(np.float32)}
    with np.errstate(invalid="ignore"):
        (want,), (got,) = interpret(before, given), interpret(after, given)
    np.testing.assert_allclose(got, want, rtol=3e-7)


@pytest.mark.parametrize(("axes", "largest"), [((1,), False), ((0, 1), True)])
def test_a_total_that_may_be_tiny_still_divides(
    axes: tuple[int, ...], largest: bool, check: Check
) -> None:
    after = check(made(softmax_over(axes, largest), (4, 9)), simplify)
    (quotient,) = (n for n in after.nodes if n.op == "div")
    assert quotient.outputs[0].shape == (4, 9)
