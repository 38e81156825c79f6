"""Guards: which indices are certain to be inside, and what becomes of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtype as dt
from tilewright.errors import InputError, InternalError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.check import GraphError, check
from tilewright.graph.guards import guard_indices
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.text import digests, parse, text
from tilewright.ops import OpError
from tilewright.tensor.ir import symbol

N = symbol("n", 0)
WIDTH = symbol("w", 1)
Places = Callable[[GraphBuilder, Value], Value]


def _graph(places: Places, signed: bool = True) -> Graph:
    """``x[places(i)]`` for x of 10 rows."""
    builder = GraphBuilder("rows")
    x = builder.input("x", TensorType(dt.f32, (10, 4)))
    i = builder.input("i", TensorType(dt.i64, (N,)))
    chosen = places(builder, i)
    builder.index(chosen, (10,), signed, "rows of x")
    builder.output(builder.add("gather", x, chosen, axis=0), "y")
    guard_indices(builder)
    graph = builder.finish()
    check(graph)
    return graph


def _number(builder: GraphBuilder, value: int) -> Value:
    return builder.constant(np.int64(value))


def _clamped(builder: GraphBuilder, i: Value) -> Value:
    low = builder.add("max", i, _number(builder, -10))
    return builder.add("min", low, _number(builder, 9))


def _last_digit(builder: GraphBuilder, i: Value) -> Value:
    return builder.add("mod", builder.add("mul", i, i), _number(builder, 10))


def _narrowed(builder: GraphBuilder, i: Value) -> Value:
    clamped = builder.add("reshape", _clamped(builder, i), shape=(1, N))
    return builder.add("cast", clamped, dtype=dt.i32, saturate=False)


def _shifted(builder: GraphBuilder, i: Value) -> Value:
    return builder.add("add", _clamped(builder, i), _number(builder, 1))


def _counted(builder: GraphBuilder, i: Value) -> Value:
    del i
    return builder.add("iota", shape=(10,), axis=0, dtype=dt.i64)


def _constant(builder: GraphBuilder, i: Value) -> Value:
    del i
    return builder.constant(np.array([-10, 3, 9]))


@pytest.mark.parametrize("places", [_clamped, _last_digit, _narrowed, _counted, _constant])
def test_indices_that_are_certain_to_be_inside_need_no_guard(places: Places) -> None:
    assert _graph(places).guards == 0


@pytest.mark.parametrize("places", [lambda _, i: i, _shifted])
def test_other_indices_are_guarded(places: Places) -> None:
    assert _graph(places).guards == 1


def test_negative_indices_that_do_not_count_from_the_end_are_guarded() -> None:
    assert _graph(_clamped, signed=False).guards == 1
    assert _graph(_last_digit, signed=False).guards == 0


def test_indices_that_index_two_tensors_of_one_size_have_one_guard() -> None:
    builder = GraphBuilder("twice")
    i = builder.input("i", TensorType(dt.i64, (3,)))
    for _ in range(2):
        builder.index(i, (10,))
    builder.index(i, (12,))
    guard_indices(builder)
    assert builder.finish().guards == 2


def test_a_graph_with_guards_prints_and_parses() -> None:
    graph = _graph(lambda _, i: i)
    printed = text(graph)
    assert "guards(1)" in printed
    assert text(parse(printed, digests(graph))) == printed


def test_wrong_indices_fail_interpreted_compiled_and_loaded_calls(tmp_path: Path) -> None:
    graph = _graph(lambda _, i: i)
    compiled = tw.compile(graph)
    compiled.save(tmp_path / "rows.tw")
    loaded = tw.load(tmp_path / "rows.tw")
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    runs: list[Callable[[np.ndarray], Any]] = [
        lambda i: interpret(graph, {"x": x, "i": i})[0],
        lambda i: compiled(x, i)[0],
        lambda i: loaded(x, i)[0],
    ]
    assert [o.name for o in compiled.outputs] == ["y"]
    for run in runs:
        got = run(np.array([-10, 9, 3]))
        np.testing.assert_array_equal(got, x[[0, 9, 3]])
        for wrong in (-11, 10, 2**62, -(2**63)):
            with pytest.raises(InputError, match="rows of x: an index is outside of -10 to 9") as e:
                run(np.array([1, wrong]))
            assert e.value.code == "TW-E0314"
        assert run(np.empty(0, np.int64)).shape == (0, 4)


def test_each_place_of_a_vector_of_indices_has_its_own_range() -> None:
    builder = GraphBuilder("places")
    x = builder.input("x", TensorType(dt.f32, (3, WIDTH)))
    i = builder.input("i", TensorType(dt.i32, (5, 2)))
    builder.index(i, (3, WIDTH), origin="at")
    builder.output(builder.add("gather_nd", x, i, batch_dims=0), "y")
    guard_indices(builder)
    executable = tw.compile(builder.finish())
    values = np.arange(21, dtype=np.float32).reshape(3, 7)
    places = np.array([[0, 6], [2, -7], [-3, 0], [1, 1], [2, 6]], np.int32)
    np.testing.assert_array_equal(executable(values, places)[0], values[tuple(places.T)])
    for place in ([3, 0], [0, 7], [-4, 0], [0, -8]):
        places[3] = place
        with pytest.raises(InputError, match="at: an index is outside of -3 to 2, "):
            executable(values, places)


def test_guards_that_are_no_i64_scalars_are_refused() -> None:
    builder = GraphBuilder("g")
    with pytest.raises(OpError, match=r"a guard is i64\[\(\)\]"):
        builder.guard(builder.input("x", TensorType(dt.f32, ())), "wrong")
    x = builder.input("y", TensorType(dt.i64, (2,)))
    with pytest.raises((GraphError, InternalError), match="the guard y is"):
        check(Graph("g", (x,), (), (x,), output_names=("x",), guards=1))
