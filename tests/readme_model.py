"""Writes the README's model.onnx: a layer from 16 to 8 over a symbolic batch.

python tests/readme_model.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(folder: Path) -> None:
    """Writes ``folder/model.onnx``."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((16, 8), dtype=np.float32)
    bias = generator.standard_normal(8, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="fc"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = helper.make_opsetid("", 21)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, folder / "model.onnx")


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
