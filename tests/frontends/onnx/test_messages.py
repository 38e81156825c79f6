"""Messages come from a file of the onnx package, and are those that the package has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tilewright.frontends.onnx import messages

COMPILES = """
import sys
import tilewright
exe = tilewright.compile(sys.argv[1], cache=False)
assert "onnx" not in sys.modules, "the whole package was imported"
import onnx
from tilewright.frontends.onnx import messages
assert onnx.ModelProto is messages.ModelProto
assert onnx.onnx_ml_pb2.NodeProto is messages.NodeProto
assert tilewright.compile(onnx.load(sys.argv[1]), cache=False).outputs == exe.outputs
"""


def test_the_classes_are_those_of_the_package() -> None:
    for name in messages.__all__:
        assert getattr(messages, name) is getattr(onnx, name)


def test_a_model_is_compiled_without_the_rest_of_the_package(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 3]) for n in "xy")
    w = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    command = [sys.executable, "-W", "error", "-c", COMPILES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
