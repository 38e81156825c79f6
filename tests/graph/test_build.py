"""The graph builder: names, constants, attributes, and errors at the place of the mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.ops import OpError
from tilewright.tensor.ir import as_expr, symbol
from tilewright.tensor.simplify import dim

N = symbol("N")


def test_a_name_that_is_taken_gets_a_number() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (3,)))
    names = [builder.add("neg", x, name="x").name for _ in range(3)]
    assert names == ["x_1", "x_2", "x_3"]


def test_values_without_names_are_called_after_their_op() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (3,)))
    assert [builder.add("exp", x).name for _ in range(2)] == ["exp_1", "exp_2"]


def test_two_inputs_of_one_name_are_refused() -> None:
    builder = GraphBuilder("g")
    builder.input("x", TensorType(dt.f32, ()))
    with pytest.raises(OpError, match="two values are called 'x'"):
        builder.input("x", TensorType(dt.f32, ()))


def test_equal_scalar_constants_are_one_value() -> None:
    builder = GraphBuilder("g")
    one = builder.constant(np.float32(1))
    assert builder.constant(np.array(1, np.float32)) is one
    assert builder.constant(np.float64(1)) is not one
    assert builder.constant(np.float32(-0.0)) is not builder.constant(np.float32(0.0))


def test_constants_are_not_copied() -> None:
    builder = GraphBuilder("g")
    weights = np.ones((4, 4), np.float32)
    value = builder.constant(weights)
    assert builder.data(value) is weights
    assert builder.finish().constants[value] is weights


def test_strided_and_foreign_constants_become_row_major_and_native() -> None:
    builder = GraphBuilder("g")
    strided = np.arange(6.0).reshape(2, 3).T
    foreign = np.arange(3, dtype=">i4")
    for given in (strided, foreign):
        have = builder.data(builder.constant(given))
        assert have is not None and have.flags.c_contiguous and have.dtype.isnative
        np.testing.assert_array_equal(have, given)


def test_attributes_become_canonical() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N, 6)))
    perm: Any = [np.int64(1), 0]
    builder.add("transpose", x, perm=perm)
    builder.add("reshape", x, shape=(as_expr(N) + 0, as_expr(2) * 3))
    graph = builder.finish()
    assert graph.nodes[0].attrs["perm"] == (1, 0)
    assert graph.nodes[1].attrs["shape"] == (N, 6)
    assert type(graph.nodes[1].attrs["shape"][1]) is int


def test_dims_of_inputs_become_canonical() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (as_expr(N) * 2 - N,)))
    assert x.shape[0] is dim(N)


def test_an_error_names_op_types_and_origin() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N, 3)))
    y = builder.input("y", TensorType(dt.f32, (4,)))
    with (
        builder.origin("Add:layer1"),
        pytest.raises(OpError, match=r"add\(f32\[N, 3\], f32\[4\]\).*3 against 4.*Add:layer1"),
    ):
        builder.add("add", x, y)


def test_an_origin_holds_for_its_block_and_a_node_may_name_its_own() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, ()))
    with builder.origin("outer"):
        builder.add("neg", x)
        with builder.origin("inner"):
            builder.add("neg", x)
        builder.add("neg", x, origin="own")
        builder.add("neg", x)
    builder.add("neg", x)
    assert [n.origin for n in builder.finish().nodes] == ["outer", "inner", "own", "outer", ""]


@pytest.mark.parametrize("attrs", [{}, {"perm": (0,), "axis": 0}])
def test_missing_and_extra_attributes_are_refused(attrs: dict[str, Any]) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (3,)))
    with pytest.raises(OpError, match=r"TW-E0152: .*takes the attributes \(perm\)"):
        builder.add("transpose", x, **attrs)


def test_an_unknown_op_is_refused() -> None:
    with pytest.raises(OpError, match="TW-E0151: frobnicate: no such op"):
        GraphBuilder("g").add("frobnicate")


def test_outputs_take_the_name_of_their_value_or_their_own() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, ()))
    builder.output(x)
    builder.output(x, "again")
    graph = builder.finish()
    assert graph.outputs == (x, x) and graph.output_names == ("x", "again")


def test_an_op_with_two_outputs_gives_both() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (N, 5)))
    values, indices = builder.add_many("topk", x, names=("v", "i"), k=2, axis=1, largest=True)
    assert (values.name, indices.name) == ("v", "i")
    assert indices.type == TensorType(dt.i64, (N, 2))
