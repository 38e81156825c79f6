"""Each way in which an ONNX model breaks its standard has a code, and says what is wrong where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto, helper

import tilewright
from tilewright.errors import ModelError
from tilewright.frontends.onnx import zoo

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)


def model(
    nodes: Sequence[NodeProto],
    outputs: Sequence[ValueInfoProto] = (Y,),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "bad", [X], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def refuse(broken: onnx.ModelProto | bytes | Path | str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        tilewright.compile(broken, cache=False)


def test_a_file_of_more_than_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    place = tmp_path / "large.onnx"
    with place.open("wb") as file:
        file.truncate((2 << 30) + 1)  # a hole: it takes no space
    refuse(place, "TW-E0102.*2147483649 bytes.*external data")


def test_a_name_that_is_no_text_is_shown(tmp_path: Path) -> None:
    data = model([helper.make_node("Neg", ["x"], ["y"], name="odd-name")]).SerializeToString()
    refuse(data.replace(b"odd-name", b"odd\xffname"), r"TW-E0104.*odd\\xffname.*damaged")


def test_an_onnx_package_without_its_networks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    refuse("zoo:resnet50", "TW-E0105.*light_resnet50.onnx; install onnx from its wheel")


def test_a_graph_without_outputs_computes_nothing() -> None:
    refuse(model([helper.make_node("Neg", ["x"], ["y"])], []), "TW-E0110.*no outputs")


def test_a_body_takes_as_many_values_as_it_is_given() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Neg", ["a"], ["b"])],
            name,
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, [3])],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])],
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], name="choose", **branches),
    ]
    refuse(model(nodes), "TW-E0114.*choose.*'then' has 1 inputs, but 0 values")


def test_a_function_that_calls_itself_ends() -> None:
    again = helper.make_function(
        "own", "Again", ["a"], ["b"],
        [helper.make_node("Again", ["a"], ["b"], domain="own")],
        [helper.make_opsetid("own", 1)],
    )  # fmt: skip
    call = helper.make_node("Again", ["x"], ["y"], domain="own")
    refuse(model([call], functions=[again]), "TW-E0115.*nested more than.*calls itself")


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_lies_within_the_rank(axis: int) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], name="s", axis=axis)
    refuse(model([node]), f"TW-E0121.*Softmax:s: axis {axis} is not within a tensor of rank 2")


def test_a_node_has_no_more_outputs_than_its_operator() -> None:
    node = helper.make_node("Neg", ["x"], ["y", "z"], name="n")
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    refuse(model([node], [Y, z]), "TW-E0122.*Neg:n: it has no output 1")


def test_operands_that_do_not_fit_are_shown_with_the_node() -> None:
    node = helper.make_node("MatMul", ["x", "x"], ["y"], name="m")
    refuse(model([node]), r"TW-E0150.*\[2, 3\].*3 against 2.*MatMul:m")


def test_an_attribute_that_leads_out_of_the_tensor_names_the_node() -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], name="t", perm=[0, 5])
    refuse(model([node]), "TW-E0121.*Transpose:t: axis 5")


def test_an_attribute_of_another_type_names_the_node() -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], name="t")
    node.attribute.append(AttributeProto(name="perm", type=AttributeProto.STRING, s=b"10"))
    refuse(model([node]), "TW-E0120.*Transpose:t: attribute perm is of type STRING, not INTS")


def test_an_operand_of_another_rank_than_the_standard_says_is_the_models_mistake() -> None:
    node = helper.make_node("BatchNormalization", ["x"] * 5, ["y"], name="b")
    refuse(model([node]), "TW-E0123.*BatchNormalization:b: .*not what the operator takes")
