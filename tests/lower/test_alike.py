"""Bodies are alike only if they lower alike: names do not matter, everything else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.lower.alike import body_key, sources
from tilewright.lower.kernels import KernelTable
from tilewright.tensor.ir import symbol

from .bodies import TARGET, body, f32

N = symbol("N")


def layer(
    rows: object = N, factor: float = 2.0, axis: int = 1, name: str = "x", known: bool = False
) -> tuple[Graph, frozenset[Value]]:
    def make(b: GraphBuilder) -> Value:
        x = b.input(name, TensorType(dt.f32, (rows, 8)))  # type: ignore[arg-type]
        w = b.input(f"{name}w", f32(8))
        y = b.add("mul", x, b.constant(np.float32(factor)))
        y = b.add("add", y, w)
        return b.add("reduce", y, op="sum", axes=(axis,), keepdims=False)

    graph = body(make)
    return graph, frozenset(graph.inputs[1:] if known else ())


def test_names_do_not_matter() -> None:
    one, other = layer(), layer(name="other")
    assert body_key(*one, None) == body_key(*other, None) is not None


CHANGES: dict[str, Callable[[], tuple[Graph, frozenset[Value]]]] = {
    "shape": lambda: layer(rows=4),
    "scalar": lambda: layer(factor=3.0),
    "sign of zero": lambda: layer(factor=-0.0),
    "attribute": lambda: layer(axis=0),
    "known data": lambda: layer(known=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_everything_else_does(change: str) -> None:
    base = layer(factor=0.0) if change == "sign of zero" else layer()
    assert body_key(*base, None) != body_key(*CHANGES[change](), None)


def test_rows_that_are_part_of_longer_ones_are_told_apart() -> None:
    graph, known = layer()
    assert body_key(graph, known, {graph.inputs[0]: 16}) != body_key(graph, known, None)


def test_a_layer_that_comes_again_gets_its_own_values_in_the_same_kernels() -> None:
    table = KernelTable(TARGET)
    first, second = layer()[0], layer(name="other")[0]
    one, other = table.code(first, frozenset()), table.code(second, frozenset())
    assert one.kernels == other.kernels and len(table.kernels) == 1
    assert {v for _, v in one.inputs} <= set(sources(first))
    assert {v for _, v in other.inputs} <= set(sources(second))
    assert [v for _, v in other.outputs] == list(second.outputs)
    assert [n for n, _ in one.inputs] == [n for n, _ in other.inputs]
