"""What the importer makes of models: symbols, scopes, functions, gaps and broken graphs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tilewright.errors import InputError, ModelError, OptionError, UnsupportedError
from tilewright.frontends.onnx import import_onnx
from tilewright.graph.ir import Graph
from tilewright.tensor.ir import Var

from .models import imported, parsed, run

ABS = "agraph (float[N, 3] x) => (float[N, 3] y) { y = Abs(x) }"
F32 = np.float32


def broken(body: str, opset: int = 21) -> str:
    with pytest.raises(ModelError) as caught:
        imported(body, opset)
    return caught.value.code


def gaps(body: str) -> dict[str, tuple[str, ...]]:
    with pytest.raises(UnsupportedError) as caught:
        imported(body)
    return {gap.what: gap.nodes for gap in caught.value.gaps}


# ------------------------------------------------------------------ symbols


def test_named_dims_are_symbols_of_at_least_one() -> None:
    n = imported(ABS).inputs[0].shape[0]
    assert isinstance(n, Var) and (n.name, n.lo, n.hi) == ("N", 1, None)


def test_dim_ranges_bound_a_symbol() -> None:
    n = imported(ABS, dim_ranges={"N": (2, 64)}).inputs[0].shape[0]
    assert isinstance(n, Var) and (n.lo, n.hi) == (2, 64)


def test_shapes_replace_declared_dims_by_numbers_or_names() -> None:
    assert imported(ABS, shapes={"x": [7, 3]}).outputs[0].shape == (7, 3)
    m = imported(ABS, shapes={"x": ["M", 3]}).inputs[0].shape[0]
    assert isinstance(m, Var) and m.name == "M"


def test_unnamed_dims_are_named_by_input_and_axis() -> None:
    model = parsed(ABS)
    for given in ("", "?"):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = given
        n = import_onnx(model).inputs[0].shape[0]
        assert isinstance(n, Var) and n.name == "x_0"


@pytest.mark.parametrize(
    "options",
    [
        {"shapes": {"z": [1]}},
        {"shapes": {"x": [1]}},
        {"shapes": {"x": [-1, 3]}},
        {"dim_ranges": {"M": (1, 2)}},
        {"dim_ranges": {"N": (3, 2)}},
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        imported(ABS, **options)


def test_symbols_that_must_be_equal_become_one() -> None:
    graph = imported("agraph (float[A, 4] a, float[B, 4] b) => (y) { y = Add(a, b) }")
    assert graph.inputs[0].shape[0] is graph.inputs[1].shape[0]
    with pytest.raises(InputError):
        run(graph, np.zeros((2, 4), F32), np.zeros((3, 4), F32))


def test_a_sum_of_symbols_replaces_the_dim_that_must_equal_it() -> None:
    body = """agraph (float[P] past, float[S] now, float[T] mask) => (y) {
        all = Concat <axis = 0> (past, now)  y = Mul(all, mask) }"""
    graph = imported(body)
    (y,) = run(graph, np.ones(2, F32), np.ones(3, F32), np.arange(5, dtype=F32))
    assert y.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError):
        run(graph, np.ones(2, F32), np.ones(3, F32), np.ones(4, F32))


def test_a_network_that_halves_and_doubles_takes_multiples() -> None:
    graph = imported(
        """agraph (float[1, H, 1] x) => (y)
        <int64[1] zero = {0}, int64[1] end = {9999999999}, int64[1] one = {1},
        int64[1] two = {2}, int64[3] r = {1, 2, 1}> {
            half = Slice(x, zero, end, one, two)  back = Tile(half, r)  y = Add(x, back) }"""
    )
    (y,) = run(graph, np.ones((1, 6, 1), F32))
    assert y.shape == (1, 6, 1)
    with pytest.raises(InputError):
        run(graph, np.ones((1, 7, 1), F32))


def test_a_dim_that_must_be_a_number_narrows_the_range_of_its_symbol() -> None:
    graph = imported(
        """agraph (float[1, 1, H] x, float[1, 1, 1] z) => (y) {
            p = MaxPool <kernel_shape = [2], strides = [4]> (x)  y = Concat <axis = 1> (p, z) }"""
    )
    h = graph.inputs[0].shape[2]
    assert isinstance(h, Var) and (h.lo, h.hi) == (2, 5)


# ------------------------------------------------------------------ broken graphs


def test_cyclic_graphs_are_refused() -> None:
    node = [helper.make_node("Add", ["x", b], [a]) for a, b in (("p", "q"), ("q", "p"))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("q", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph(node, "cycle", [x], [y]))
    with pytest.raises(ModelError, match="cyclic") as caught:
        import_onnx(model)
    assert caught.value.code == "TW-E0111"


def test_nodes_out_of_order_are_sorted() -> None:
    model = parsed("agraph (float[1] x) => (y) { t = Neg(x)  y = Abs(t) }")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert [n.op for n in import_onnx(model).nodes] == ["neg", "abs"]


def test_undefined_and_duplicate_names_are_refused() -> None:
    assert broken("agraph (float[1] x) => (y) { y = Abs(z) }") == "TW-E0113"
    assert broken("agraph (float[1] x) => (z) { y = Abs(x) }") == "TW-E0113"
    assert broken("agraph (float[1] x) => (y) { y = Abs(x)  y = Neg(x) }") == "TW-E0112"


@pytest.mark.parametrize(
    "body",
    [
        "agraph (float[2, 3] x) => (y) { y = Abs() }",
        "agraph (float[2, 3] x) => (y) { y = Transpose <perm = [0, 0]> (x) }",
        "agraph (float[2, 3] x) => (y) { y = Flatten <axis = 3> (x) }",
        "agraph (float[2, 3] x) => (y) { y = Concat <axis = 2> (x, x) }",
        "agraph (float[2, 3] x) => (y) { y = Concat(x, x) }",
        "agraph (float[2, 3] x) => (y) { y = Concat <axis = 1.5> (x, x) }",
        "agraph (float[2, 3] x, float[4] z) => (y) { y = Add(x, z) }",
        "agraph (float[2, 3] x, int64[2, 3] z) => (y) { y = Add(x, z) }",
        "agraph (float[2, 3] x) => (y) <int64[1] s = {7}> { y = Reshape(x, s) }",
        "agraph (float[2, 3] x) => (y) <int64[2] s = {-1, -1}> { y = Reshape(x, s) }",
        "agraph (float[2, 3] x) => (y) <int64[1] a = {0}> { y = Squeeze(x, a) }",
        "agraph (float[2, 3] x) => (y, z, w) { y, z, w = TopK(x, x) }",
        "agraph (float[2, 3] x) => (y, z) <int64[2] k = {1, 1}> { y, z = TopK(x, k) }",
        "agraph (float[2, 3] x) => (y) { y = Split <num_outputs = 1099511627776> (x) }",
        "agraph (float[2, 3] x) => (y) <int64[2] s = {1099511627776, 1099511627776}>"
        " { y = ConstantOfShape(s) }",
        "agraph (float[2, 3] x) => (y) <float a = {0}, float b = {inf}> { y = Range(a, b, b) }",
    ],
)
def test_nodes_that_break_the_standard_are_one_coded_error(body: str) -> None:
    with pytest.raises((ModelError, UnsupportedError)) as caught:
        imported(body)
    assert caught.value.code.startswith(("TW-E01", "TW-E02"))


def test_a_function_that_calls_itself_is_refused() -> None:
    model = parsed("agraph (float[1] x) => (y) { y = local.F(x) }")
    model.opset_import.append(helper.make_opsetid("local", 1))
    call = helper.make_node("F", ["a"], ["b"], domain="local")
    opsets = [helper.make_opsetid("local", 1)]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [call], opsets))
    with pytest.raises(ModelError, match="calls itself"):
        import_onnx(model)


# ------------------------------------------------------------------ gaps


def test_all_gaps_are_listed_at_once_with_their_nodes() -> None:
    found = gaps(
        """agraph (float[4] x, float8e5m2[2] w) => (y, z) {
            [first] a = Unique(x)  [second] b = foo.Bar(a)  [third] z = Unique(x)
            [fourth] y = foo.Baz(x) }"""
    )
    named = {name for nodes in found.values() for name in nodes}
    assert named == {"w", "first", "second", "third", "fourth"}
    assert len(found) == 4


def test_what_depends_on_a_gap_is_not_a_gap_of_its_own() -> None:
    found = gaps(
        "agraph (float[4] x) => (y) { [u] a = Unique(x)  [b] c = Abs(a)  [d] y = Add(c, c) }"
    )
    assert list(found.values()) == [("u",)]


def test_a_shape_that_depends_on_data_is_a_gap() -> None:
    found = gaps("agraph (float[4] x, int64[2] s) => (y) { [r] y = Reshape(x, s) }")
    assert found == {"Reshape: the shape depends on data": ("r",)}


def test_a_version_newer_than_known_is_read_as_the_newest_known() -> None:
    (y,) = run(parsed("agraph (float[2] x) => (y) { y = Abs(x) }", opset=9999), -np.ones(2, F32))
    assert y.tolist() == [1.0, 1.0]


# ------------------------------------------------------------------ functions and old versions


def test_local_functions_are_inlined_with_their_attributes_and_defaults() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 21, "local" : 1]>
        agraph (float[2] x) => (y) { t = local.Leak <alpha = 0.5> (x)  y = local.Leak(t) }
        <domain: "local", opset_import: ["" : 21]>
        Leak <alpha: float = 0.25> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"""
    )
    (y,) = run(model, np.array([-8, 8], F32))
    assert y.tolist() == [-1.0, 8.0]


def test_operators_without_converter_are_expanded_by_the_standard() -> None:
    body = "agraph (float[3] x) => (y) { y = NegativeLogLikelihoodLoss(x, t) }"
    assert gaps(body.replace("NegativeLogLikelihoodLoss(x, t)", "foo.Bar(x)"))
    model = parsed(
        "agraph (float[2, 3] x, int64[2] t) => (y) { y = NegativeLogLikelihoodLoss(x, t) }"
    )
    x = np.log(np.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], F32))
    (y,) = run(model, x, np.array([1, 0]))
    np.testing.assert_allclose(y, np.log(2), rtol=1e-6)


def test_before_opset_7_operands_are_aligned_by_axis() -> None:
    body = """agraph (float[2, 3, 4] x, float[3] b) => (y) {
        y = Add <broadcast = 1, axis = 1> (x, b) }"""
    b = np.arange(3, dtype=F32)
    (y,) = run(parsed(body, opset=6), np.zeros((2, 3, 4), F32), b)
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None], (2, 3, 4)))
    assert broken(body.replace("broadcast = 1", "broadcast = 0"), opset=6) == "TW-E0120"


@pytest.mark.parametrize(
    ("opset", "node"),
    [(1, "Clip <min = -1.0, max = 1.0> (x)"), (10, "Clip <min = -1.0, max = 1.0> (x)"),
     (11, "Clip(x, low, high)"), (21, "Clip(x, low, high)")],
)  # fmt: skip
def test_attributes_that_became_inputs_are_read_in_either_form(opset: int, node: str) -> None:
    body = f"agraph (float[3] x) => (y) <float low = {{-1}}, float high = {{1}}> {{ y = {node} }}"
    (y,) = run(parsed(body, opset), np.array([-3, 0.5, 3], F32))
    assert y.tolist() == [-1.0, 0.5, 1.0]


def test_cast_named_its_type_by_a_string_before_opset_6() -> None:
    body = 'agraph (float[1] x) => (y) { y = Cast <to = "INT32"> (x) }'
    (y,) = run(parsed(body, opset=5), np.ones(1, F32))
    assert y.dtype == np.int32


# ------------------------------------------------------------------ graphs inside of nodes

CHOICE = """agraph (bool c, float[N] x, float[N] z) => (y) {
    s = Shape(x)  t = Neg(x)
    y = If (c) <
        then_branch = yes () => (float[N] a) { a = Add(t, z) },
        else_branch = no () => (float[N] b) { r = Cast <to = 1> (s)  b = Mul(z, r) }
    > }"""


@pytest.mark.parametrize("choice", [True, False])
def test_branches_read_the_values_around_them(choice: bool) -> None:
    graph = imported(CHOICE)
    x, z = np.array([1, 2], F32), np.array([10, 20], F32)
    (y,) = run(graph, np.array(choice), x, z)
    np.testing.assert_array_equal(y, z - x if choice else z * 2)


def test_branches_are_closed_and_take_the_same_captured_values() -> None:
    (node,) = [n for n in imported(CHOICE).nodes if n.op == "if"]
    then, orelse = node.attrs["then"], node.attrs["orelse"]
    assert isinstance(then, Graph) and isinstance(orelse, Graph)
    for branch in (then, orelse):
        defined = {*branch.inputs, *branch.constants}
        for inner in branch.nodes:
            assert defined.issuperset(inner.inputs)
            defined.update(inner.outputs)
        assert [v.type for v in branch.inputs] == [v.type for v in node.inputs[1:]]


def test_a_branch_inside_of_a_branch_captures_through_both() -> None:
    body = """agraph (bool c, bool d, float[2] x) => (y) {
        y = If (c) <
            then_branch = yes () => (float[2] a) {
                a = If (d) <
                    then_branch = both () => (float[2] p) { p = Neg(x) },
                    else_branch = one () => (float[2] q) { q = Add(x, x) }
                > },
            else_branch = no () => (float[2] b) { b = Identity(x) }
        > }"""
    graph = imported(body)
    x = np.array([1, 2], F32)
    for c, d, factor in ((True, True, -1), (True, False, 2), (False, True, 1)):
        (y,) = run(graph, np.array(c), np.array(d), x)
        np.testing.assert_array_equal(y, x * F32(factor))


def test_a_gap_inside_of_a_branch_is_named() -> None:
    found = gaps(CHOICE.replace("b = Mul(z, r)", "[inner] b = Unique(z)"))
    assert {name for nodes in found.values() for name in nodes} == {"inner"}


# ------------------------------------------------------------------ the frontends table


def test_importing_the_table_of_frontends_does_not_import_onnx() -> None:
    code = "import sys, tilewright.frontends; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
