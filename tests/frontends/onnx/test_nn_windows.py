"""Convolutions and pools against ONNX Runtime, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.errors import ModelError
from tilewright.frontends.onnx import import_onnx

from .peer import computed, expect_agreement, expect_gap, normal, one_node


@pytest.mark.parametrize("symbols", [(), ("x0", "x2", "x3")])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 3]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        {"auto_pad": "VALID", "strides": [1, 2]},
        {"group": 2, "pads": [1, 1, 1, 1]},
    ],
)
def test_conv_agrees(attrs: dict[str, object], symbols: tuple[str, ...]) -> None:
    group = int(attrs.get("group", 1))  # type: ignore[call-overload]
    inputs = {"x": normal(2, 4, 8, 7), "w": normal(6, 4 // group, 3, 2), "b": normal(6)}
    expect_agreement("Conv", inputs, attrs, symbols=symbols)
    expect_agreement("Conv", inputs | {"b": None}, attrs, constants=("w",))


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_agrees_in_other_ranks(rank: int) -> None:
    inputs = {"x": normal(1, 4, *(6,) * rank), "w": normal(4, 1, *(3,) * rank)}
    expect_agreement("Conv", inputs, {"group": 4, "pads": [1] * 2 * rank})


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 3], "output_padding": [1, 2]},
        {"strides": [3, 2]},  # blocks that do not overlap
        {"strides": [2, 2], "pads": [2, 1, 0, 1]},
        {"dilations": [2, 2], "strides": [1, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
        {"output_shape": [9, 8], "strides": [2, 2]},
        {"group": 2},
        {"pads": [3, 2, 3, 2]},  # more than the kernel overhangs
    ],
)
def test_conv_transpose_agrees(attrs: dict[str, object]) -> None:
    inputs = {"x": normal(2, 4, 5, 4), "w": normal(4, 3, 3, 2), "b": None}
    symbols = () if "output_shape" in attrs else ("x0", "x2", "x3")
    expect_agreement("ConvTranspose", inputs, attrs)
    expect_agreement("ConvTranspose", inputs, attrs, symbols=symbols)


def test_conv_transpose_refuses_an_output_that_the_kernel_does_not_reach() -> None:
    inputs = {"x": normal(1, 2, 3, 3), "w": normal(2, 2, 1, 1)}
    attrs = {"strides": [3, 3], "output_shape": [9, 9]}
    expect_gap("ConvTranspose", inputs, attrs, "more than the kernel reaches")


def test_conv_names_a_kernel_shape_that_does_not_fit_its_weights() -> None:
    inputs = {"x": normal(1, 2, 5, 5), "w": normal(2, 2, 3, 3)}
    with pytest.raises(ModelError, match="kernel_shape"):
        import_onnx(one_node("Conv", inputs, {"kernel_shape": [2, 2]}))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 3], "ceil_mode": 1},
        {"strides": [2, 3], "ceil_mode": 1, "pads": [0, 1, 1, 1]},
        {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
        {"dilations": [2, 1], "strides": [1, 2]},
    ],
)
@pytest.mark.parametrize("symbols", [(), ("x0", "x2", "x3")])
def test_pools_agree(op: str, attrs: dict[str, object], symbols: tuple[str, ...]) -> None:
    given = {"kernel_shape": [3, 2], **attrs}
    expect_agreement(op, {"x": normal(2, 3, 8, 9)}, given, opset=19, symbols=symbols)


@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_average_pool_counts_padding_but_not_what_ceil_mode_adds(ceil_mode: int) -> None:
    attrs = {
        "kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 2, 1, 0],
        "count_include_pad": 1, "ceil_mode": ceil_mode,
    }  # fmt: skip
    expect_agreement("AveragePool", {"x": normal(1, 2, 8, 7)}, attrs, opset=19)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("symbols", [(), ("x0", "x2", "x3")])
def test_max_pool_indices_agree(order: int, symbols: tuple[str, ...]) -> None:
    attrs = {
        "kernel_shape": [2, 3],
        "strides": [2, 2],
        "pads": [1, 1, 0, 1],
        "storage_order": order,
    }
    x = np.round(normal(2, 3, 6, 7))  # ties: the first element wins
    expect_agreement("MaxPool", {"x": x}, attrs, outputs=("y", "at"), symbols=symbols)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pools_agree_over_symbolic_extents(op: str) -> None:
    expect_agreement(op, {"x": normal(2, 3, 5, 4)}, {}, symbols=("x0", "x2", "x3"))


def test_max_unpool_undoes_max_pool() -> None:
    x = np.array([[[[0, 0, 0, 0], [0, 3, 0, 2], [0, 0, 5, 0], [1, 0, 0, 0]]]], np.float32)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    largest, at = computed(one_node("MaxPool", {"x": x}, pool, outputs=("y", "at")), {"x": x})
    inputs = {"y": largest, "at": at}
    (back,) = computed(one_node("MaxUnpool", inputs, pool, outputs=("x",)), inputs)
    np.testing.assert_array_equal(back, x)


def test_integer_pools_ignore_padding() -> None:
    x = np.full((1, 1, 2, 2), -100, np.int8)
    attrs = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}
    (y,) = computed(one_node("MaxPool", {"x": x}, attrs), {"x": x})
    np.testing.assert_array_equal(y, np.full((1, 1, 3, 3), -100, np.int8))


@pytest.mark.parametrize("opset", [9, 15])
def test_batch_normalization_agrees(opset: int) -> None:
    inputs = {"x": normal(2, 3, 4, 5), "s": normal(3), "b": normal(3), "m": normal(3)}
    inputs["v"] = np.abs(normal(3))
    expect_agreement("BatchNormalization", inputs, {}, opset=opset, symbols=("x0", "x2"))


def test_batch_normalization_with_constant_statistics_is_one_product_and_one_sum() -> None:
    inputs = {"x": normal(2, 3, 4, 5), "s": normal(3), "b": normal(3), "m": normal(3)}
    inputs["v"] = np.abs(normal(3))
    graph = import_onnx(one_node("BatchNormalization", inputs, {}, constants=("s", "b", "m", "v")))
    assert [n.op for n in graph.nodes] == ["mul", "add"]


def test_dropout_refuses_to_drop_at_random() -> None:
    inputs: dict[str, np.ndarray] = {
        "x": normal(3), "r": np.array(0.5, np.float32), "t": np.array(True),
    }  # fmt: skip
    expect_gap("Dropout", inputs, {}, "at random", constants=("r", "t"))
    (y,) = computed(one_node("Dropout", {"x": inputs["x"]}, {}), inputs)
    np.testing.assert_array_equal(y, inputs["x"])


def test_instance_normalization_agrees() -> None:
    x = normal(2, 6, 4, 5)
    inputs = {"x": x, "s": normal(6), "b": normal(6)}
    expect_agreement("InstanceNormalization", inputs, {}, symbols=("x0", "x3"))


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.7, 0.75, 1.0])
def test_lrn_agrees_whatever_power_it_divides_by(beta: float) -> None:
    attrs = {"size": 3, "alpha": 0.5, "beta": beta, "bias": 1.5}
    expect_agreement("LRN", {"x": normal(2, 6, 4, 5)}, attrs)


@pytest.mark.parametrize("group", [1, 2])
def test_causal_conv_carries_its_history(group: int) -> None:
    x, w = normal(2, 3, 8), normal(3, 1, 4)
    model = one_node("CausalConvWithState", {"x": x, "w": w}, {}, opset=27, outputs=("y", "s"))
    y, _ = computed(model, {"x": x, "w": w})
    halves = np.split(x, 2, axis=2)
    first, state = computed(
        one_node("CausalConvWithState", {"x": halves[0], "w": w}, {}, opset=27, outputs=("y", "s")),
        {"x": halves[0], "w": w},
    )
    inputs = {"x": halves[1], "w": w, "b": None, "p": state}
    model = one_node("CausalConvWithState", inputs, {}, opset=27, outputs=("y", "s"))
    second, _ = computed(model, inputs)
    np.testing.assert_allclose(np.concatenate([first, second], 2), y, rtol=1e-5, atol=1e-6)
