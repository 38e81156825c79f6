"""Small ONNX models for tests, written as text in ONNX's own syntax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tilewright.frontends.onnx import import_onnx
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph


def parsed(body: str, opset: int = 21, ir: int = 9) -> onnx.ModelProto:
    """The model whose graph is ``body``: ``agraph (float[N] x) => (float[N] y) { y = Abs(x) }``."""
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {body}')


def imported(body: str, opset: int = 21, **options: Any) -> Graph:
    """The import of the model whose graph is ``body``."""
    return import_onnx(parsed(body, opset), **options)


def run(model: onnx.ModelProto | Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    """What a model computes, by the interpreter."""
    graph = model if isinstance(model, Graph) else import_onnx(model)
    names = [v.name for v in graph.inputs]
    return interpret(graph, dict(zip(names, inputs, strict=True)))


def with_weight(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """A model that adds an initializer called ``w`` to its input."""
    node = helper.make_node("Add", ["x", "w"], ["y"], name="plus")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "weights", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def external(location: str, offset: str = "0", length: str = "8") -> onnx.TensorProto:
    """Two f32 whose data lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor
