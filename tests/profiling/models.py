"""Small models with all kinds of steps, for the tests of profiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.3


def _save(path: Path, nodes: list[onnx.NodeProto], x: list[int | str], y: str,
          weights: dict[str, np.ndarray]) -> str:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return str(path)


def convolutions(folder: Path) -> str:
    """Two convolutions with a residual, pooling and a layer: x is f32[1, 3, 20, 20]."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"], name="join"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w3"], ["y"], name="head"),
    ]
    weights = {
        "w1": _weights(1, 16, 3, 3, 3),
        "w2": _weights(2, 16, 16, 3, 3),
        "w3": _weights(3, 16, 16),
    }
    return _save(folder / "convolutions.onnx", nodes, [1, 3, 20, 20], "y", weights)


def recurrent(folder: Path) -> str:
    """An LSTM over a symbolic number of rows, which is a loop: x is f32[S, 1, 6]."""
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="cell", hidden_size=5)]
    weights = {"w": _weights(4, 1, 20, 6), "r": _weights(5, 1, 20, 5)}
    return _save(folder / "recurrent.onnx", nodes, ["S", 1, 6], "y", weights)
