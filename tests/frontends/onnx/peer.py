"""One-node models, run by the graph interpreter and by ONNX Runtime, which must agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tilewright.errors import UnsupportedError
from tilewright.frontends.onnx import import_onnx
from tilewright.graph.interpret import interpret

Inputs = Mapping[str, np.ndarray | None]
RNG = np.random.default_rng(20)


def normal(*shape: int) -> np.ndarray:
    """Normal f32 numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def whole(dtype: type, *shape: int) -> np.ndarray:
    """Uniform 8-bit numbers."""
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def one_node(
    op: str,
    inputs: Inputs,
    attrs: Mapping[str, Any],
    *,
    opset: int = 21,
    domain: str = "",
    outputs: Sequence[str] = ("y",),
    constants: Collection[str] = (),
    symbols: Collection[str] = (),
) -> onnx.ModelProto:
    """A model of one node.

    Args:
        inputs: operands by name, in order; None for one that is left out.
        constants: operands that are initializers.
        symbols: dims that are symbolic, as "x0" for axis 0 of ``x``.
    """
    names, declared, initializers = [], [], []
    for name, array in inputs.items():
        names.append("" if array is None else name)
        if array is None:
            continue
        if name in constants:
            initializers.append(numpy_helper.from_array(array, name))
            continue
        dims = [f"{name}{i}" if f"{name}{i}" in symbols else d for i, d in enumerate(array.shape)]
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        declared.append(helper.make_tensor_value_info(name, code, dims))
    node = helper.make_node(op, names, list(outputs), domain=domain, **attrs)
    results = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([node], "one", declared, results, initializers)
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def computed(model: onnx.ModelProto, inputs: Inputs) -> list[np.ndarray]:
    """What the importer and the interpreter make of a model."""
    graph = import_onnx(model)
    return interpret(graph, {v.name: np.asarray(inputs[v.name]) for v in graph.inputs})


def expect_agreement(
    op: str, inputs: Inputs, attrs: Mapping[str, Any], tolerance: float = 1e-4, **how: Any
) -> None:
    """Requires that ONNX Runtime computes the same: max |a - b| <= tolerance * max |b|."""
    runtime = pytest.importorskip("onnxruntime")
    model = one_node(op, inputs, attrs, **how)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {v.name: np.asarray(inputs[v.name]) for v in model.graph.input}
    for ours, theirs in zip(computed(model, inputs), session.run(None, feed), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        scale = float(np.max(np.abs(theirs.astype(np.float64)), initial=1e-9))
        np.testing.assert_allclose(
            ours.astype(np.float64), theirs.astype(np.float64), rtol=0, atol=tolerance * scale
        )


def expect_gap(op: str, inputs: Inputs, attrs: Mapping[str, Any], reason: str, **how: Any) -> None:
    """Requires that the node is refused, for a reason that holds ``reason``."""
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(one_node(op, inputs, attrs, **how))
    assert reason in caught.value.gaps[0].what
