"""Kernels: alike groups share one, fission keeps the values, no failed step reaches a user."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tilewright
from tilewright.errors import ScheduleError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret as interpret_graph
from tilewright.graph.ir import Graph, Value
from tilewright.lower import kernels
from tilewright.lower.fission import fission
from tilewright.lower.inline import lower_body
from tilewright.lower.kernels import KernelTable
from tilewright.lower.nests import to_func
from tilewright.ops import OPS
from tilewright.ops.op import type_of
from tilewright.schedule.recipes import Scheduled, fits_one_kernel, schedule
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import symbol

from .bodies import TARGET, assert_kernels_compute, body, f32, random_inputs

N = symbol("N")


def layer(b: GraphBuilder) -> Value:
    x, w = b.input("x", f32(9, 6)), b.input("w", f32(6, 20))
    return b.add("tanh", b.add("matmul", x, w))


def softmax(b: GraphBuilder) -> Value:
    x = b.input("x", f32(5, 19))
    e = b.add("exp", b.add("sub", x, b.add("reduce", x, op="max", axes=(1,), keepdims=True)))
    return b.add("div", e, b.add("reduce", e, op="sum", axes=(1,), keepdims=True))


def argmax(b: GraphBuilder) -> Value:
    return b.add(
        "argreduce", b.input("x", f32(5, 19)), op="max", axis=1, keepdims=False, last=False
    )


def normal(b: GraphBuilder) -> tuple[Value, ...]:
    """Rows less their mean, and the means: results of two shapes."""
    x = b.input("x", f32(5, 19))
    total = b.add("reduce", x, op="sum", axes=(1,), keepdims=True)
    mean = b.add("div", total, b.constant(np.float32(19)))
    return b.add("sub", x, mean), mean


def two_directions(b: GraphBuilder) -> Value:
    """x / sum of its row / sum of its column: no loop holds both sums."""
    x = b.input("x", f32(5, 7))
    rows = b.add("reduce", x, op="sum", axes=(1,), keepdims=True)
    columns = b.add("reduce", x, op="sum", axes=(0,), keepdims=True)
    return b.add("mul", b.add("mul", x, rows), columns)


def strided_sum(b: GraphBuilder) -> Value:
    """A sum along axis 0 of a transposed operand: neither rows nor columns are contiguous."""
    x = b.add("transpose", b.input("x", f32(6, 5, 4)), perm=(2, 1, 0))
    return b.add("reduce", b.add("exp", x), op="sum", axes=(1,), keepdims=False)


def flat(b: GraphBuilder) -> Value:
    return b.add("exp", b.input("x", f32(N, 3)))


BODIES: list[Callable[[GraphBuilder], Value | tuple[Value, ...]]] = [
    layer, softmax, argmax, normal, two_directions, strided_sum, flat
]  # fmt: skip
every_body = pytest.mark.parametrize("make", BODIES, ids=lambda f: f.__name__)


@every_body
def test_kernels_compute_what_the_ops_say(
    make: Callable[[GraphBuilder], Value],
) -> None:
    assert_kernels_compute(body(make), N=7)


def test_alike_groups_share_their_kernel() -> None:
    table = KernelTable(TARGET)
    one, other = (table.code(body(layer), frozenset()) for _ in range(2))
    assert one.kernels[0] is other.kernels[0]
    assert len(table.kernels) == 1


def test_groups_with_and_without_constants_do_not_share() -> None:
    table, graph = KernelTable(TARGET), body(layer)
    plain = table.code(graph, frozenset())
    packed = table.code(graph, frozenset({graph.inputs[1]}))
    assert not plain.kernels[0].packings and packed.kernels[0].packings
    assert len(table.kernels) == 2


def test_names_of_kernels_are_unique() -> None:
    table = KernelTable(TARGET)
    for make in BODIES:
        table.code(body(make), frozenset())
    assert [k.func.name for k in table.kernels.values()] == list(table.kernels)


def test_the_kernel_of_an_op_with_loops_of_its_own_is_shared() -> None:
    def sums(axis: int) -> Graph:
        def make(b: GraphBuilder) -> Value:
            x = b.input("x", f32(4, 5))
            return b.add("cumulative", x, op="sum", axis=axis, exclusive=False, reverse=False)

        return body(make)

    table = KernelTable(TARGET)
    for axis in (0, 1, 0):
        assert_kernels_compute(sums(axis), table)
    assert len(table.kernels) == 2


@pytest.mark.parametrize("name", ["scatter_elements", "topk", "cumulative"])
def test_ops_with_loops_of_their_own(name: str) -> None:
    op = OPS[name]
    for sample in list(op.samples())[:4]:

        def make(b: GraphBuilder) -> tuple[Value, ...]:
            given = [b.input(f"x{k}", type_of(x)) for k, x in enumerate(sample.inputs)]  # noqa: B023
            return b.add_many(name, *given, **sample.attrs)  # type: ignore[arg-type]  # noqa: B023

        code = KernelTable(TARGET).code(body(make), frozenset())
        assert [k.recipe for k in code.kernels] == ["loops"]


# ------------------------------------------------------------------ fission


@every_body
def test_fission_keeps_the_values(make: Callable[[GraphBuilder], Value]) -> None:
    graph = body(make)
    group = lower_body("g", graph).group
    sizes = {"N": 7}
    arrays = random_inputs(graph, sizes)
    memory = {b.name: arrays[v.name] for b, v in zip(group.inputs, graph.inputs, strict=True)}
    wanted = interpret_group(group, memory, sizes)
    for piece in fission(group):
        given = {b.name: memory[b.name] for b in piece.inputs}
        memory |= interpret_group(piece, given, sizes)
    for b in group.outputs:
        np.testing.assert_allclose(memory[b.name], wanted[b.name], rtol=1e-5, atol=1e-6)


@every_body
def test_every_piece_fits_one_kernel(make: Callable[[GraphBuilder], Value]) -> None:
    for piece in fission(lower_body("g", body(make)).group):
        assert len(piece.outputs) == 1
        assert fits_one_kernel(to_func(piece), TARGET) or make is argmax


def test_equal_reductions_are_one_piece() -> None:
    group = lower_body("g", body(normal)).group
    assert len(fission(group)) == len(group.outputs) + 1


def test_a_group_with_two_final_nests_is_cut() -> None:
    graph = body(normal)
    assert not fits_one_kernel(to_func(lower_body("g", graph).group), TARGET)
    assert len(assert_kernels_compute(graph).kernels) > 1


# ------------------------------------------------------------------ recipes that do not apply


def failing(*kinds: str) -> Callable[..., Scheduled]:
    """``schedule``, but some recipes raise."""

    def replaced(*arguments: object) -> Scheduled:
        done = schedule(*arguments)  # type: ignore[arg-type]
        if done.recipe in kinds:
            raise ScheduleError(f"{done.recipe}: on purpose", code="TW-E0701")
        return done

    return replaced


@every_body
@pytest.mark.parametrize(
    "kinds",
    [("tile",), ("rows",), ("tile", "rows", "elementwise"),
     ("tile", "rows", "elementwise", "plain")],
    ids="-".join,
)  # fmt: skip
def test_a_recipe_that_does_not_apply_gives_way(
    make: Callable[[GraphBuilder], Value],
    kinds: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "schedule", failing(*kinds))
    code = assert_kernels_compute(body(make), N=7)
    assert not {k.recipe for k in code.kernels} & set(kinds)


def test_the_recipe_says_which_step_did_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "schedule", failing("tile"))
    product, epilogue = assert_kernels_compute(body(layer)).kernels
    assert product.recipe.startswith("plain (its own recipe: TW-E0701: tile: on purpose")
    assert epilogue.recipe.startswith("elementwise (the whole group: TW-E0701: tile: on purpose")


def test_the_last_resort_is_unscheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "schedule", failing("tile", "rows", "plain", "elementwise"))
    code = assert_kernels_compute(body(softmax))
    assert all(k.recipe.startswith("unscheduled (plain: TW-E0701") for k in code.kernels)


def test_native_code_is_right_without_any_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "schedule", failing("tile", "rows", "plain", "elementwise"))
    for make in (layer, softmax, argmax):
        graph = body(make)
        arrays = random_inputs(graph, {})
        exe = tilewright.compile(graph, cache=False, threads=1)
        assert "unscheduled" in exe.text("schedule")
        for got, want in zip(exe(*arrays.values()), interpret_graph(graph, arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
