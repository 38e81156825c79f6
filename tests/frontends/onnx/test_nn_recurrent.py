"""RNN, GRU and LSTM against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.frontends.onnx import import_onnx

from .peer import computed, expect_agreement, normal, one_node

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def operands(op: str, directions: int = 1) -> dict[str, np.ndarray | None]:
    """All operands that the operator takes."""
    gates = GATES[op]
    inputs: dict[str, np.ndarray | None] = {
        "x": normal(STEPS, BATCH, SIZE),
        "w": normal(directions, gates * HIDDEN, SIZE),
        "r": normal(directions, gates * HIDDEN, HIDDEN),
        "b": normal(directions, 2 * gates * HIDDEN),
        "n": np.array([2, STEPS, 3], np.int32),
        "h": normal(directions, BATCH, HIDDEN),
    }
    if op == "LSTM":
        inputs["c"] = normal(directions, BATCH, HIDDEN)
        inputs["p"] = normal(directions, 3 * HIDDEN)
    return inputs


def outputs(op: str) -> tuple[str, ...]:
    return ("y", "yh", "yc") if op == "LSTM" else ("y", "yh")


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("constants", [(), ("w", "r", "b", "p")])
def test_all_operands_agree(op: str, direction: str, constants: tuple[str, ...]) -> None:
    inputs = operands(op, 2 if direction == "bidirectional" else 1)
    attrs = {"hidden_size": HIDDEN, "direction": direction}
    expect_agreement(op, inputs, attrs, outputs=outputs(op), constants=constants, opset=14)


@pytest.mark.parametrize("op", list(GATES))
def test_operands_may_be_left_out_and_dims_symbolic(op: str) -> None:
    inputs = {name: v for name, v in operands(op).items() if name in "xwr"}
    attrs = {"hidden_size": HIDDEN}
    how: dict[str, Any] = {"opset": 14, "outputs": outputs(op), "constants": ("w", "r")}
    expect_agreement(op, inputs, attrs, symbols=("x0", "x1"), **how)
    expect_agreement(op, inputs | {"x": normal(1, 2, SIZE)}, attrs, **how)


@pytest.mark.parametrize("op", list(GATES))
def test_a_batch_first_layout_is_the_same_sequence_transposed(op: str) -> None:
    inputs = {name: v for name, v in operands(op, 2).items() if name in "xwrbh"}
    inputs = {name: inputs.get(name) for name in ("x", "w", "r", "b", "n", "h")}
    attrs = {"hidden_size": HIDDEN, "direction": "bidirectional"}
    how: dict[str, Any] = {"opset": 14, "outputs": ("y", "yh")}
    y, yh = computed(one_node(op, inputs, attrs, **how), inputs)
    x, h = inputs["x"], inputs["h"]
    assert x is not None and h is not None
    turned = inputs | {"x": x.swapaxes(0, 1), "h": h.swapaxes(0, 1)}
    model = one_node(op, turned, attrs | {"layout": 1}, **how)
    y1, yh1 = computed(model, turned)
    np.testing.assert_allclose(y1, y.transpose(2, 0, 1, 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(yh1, yh.swapaxes(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reset_after", [0, 1])
def test_gru_variants_agree(reset_after: int) -> None:
    attrs = {"hidden_size": HIDDEN, "linear_before_reset": reset_after, "clip": 0.6}
    expect_agreement("GRU", operands("GRU"), attrs, outputs=outputs("GRU"), opset=14)


def test_lstm_variants_agree() -> None:
    attrs = {
        "hidden_size": HIDDEN, "input_forget": 1, "clip": 0.8,
        "activations": ["HardSigmoid", "LeakyRelu", "ScaledTanh"],
        "activation_alpha": [0.3, 0.2, 0.9], "activation_beta": [0.4, 0.7],
    }  # fmt: skip
    expect_agreement("LSTM", operands("LSTM"), attrs, outputs=outputs("LSTM"), opset=14)


def test_the_input_is_multiplied_once_for_all_steps() -> None:
    inputs = {name: v for name, v in operands("LSTM").items() if name in "xwr"}
    attrs = {"hidden_size": HIDDEN}
    graph = import_onnx(one_node("LSTM", inputs, attrs, constants=("w", "r"), opset=14))
    assert [n.op for n in graph.nodes].count("matmul") == 1
    (scan,) = (n for n in graph.nodes if n.op == "scan")
    body = scan.attrs["body"]
    assert [n.op for n in body.nodes].count("matmul") == 1  # type: ignore[union-attr]
