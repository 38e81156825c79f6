"""An engine that shares no code with tilewright, for checking references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

Peer = Callable[..., list[np.ndarray]]


def _run(
    op: str,
    inputs: Sequence[np.ndarray],
    attributes: Mapping[str, object] | None = None,
    outputs: int = 1,
) -> list[np.ndarray]:
    ins = [f"x{i}" for i in range(len(inputs))]
    outs = [f"y{i}" for i in range(outputs)]
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in zip(ins, inputs, strict=True)
    ]
    node = helper.make_node(op, ins, outs)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in (attributes or {}).items())
    graph = helper.make_graph(
        [node],
        "peer",
        declared,
        [onnx.ValueInfoProto(name=name) for name in outs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[np.ndarray] = session.run(None, dict(zip(ins, inputs, strict=True)))
    return results


@pytest.fixture(scope="session")
def peer() -> Peer:
    """``peer(op, inputs, attributes, outputs=1)`` runs one ONNX operator in ONNX Runtime."""
    return _run
