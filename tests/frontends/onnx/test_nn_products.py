"""Matrix products, normalisations, quantised operators, losses and scatters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.errors import ModelError
from tilewright.frontends.onnx import import_onnx

from .peer import computed, expect_agreement, normal, one_node, whole

# ------------------------------------------------------------------ products


@pytest.mark.parametrize(
    ("a", "b"),
    [((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)),
     ((2, 1, 3, 4), (5, 4, 2))],
)  # fmt: skip
def test_matmul_treats_vectors_as_numpy_does(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    inputs = {"a": normal(*a), "b": normal(*b)}
    (y,) = computed(one_node("MatMul", inputs, {}), inputs)
    np.testing.assert_allclose(y, np.matmul(inputs["a"], inputs["b"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", [None, (3, 4), (4,), (1,), (3, 1), (1, 4)])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_agrees(c: tuple[int, ...] | None, turned: int) -> None:
    a, b = normal(3, 5), normal(5, 4)
    inputs = {
        "a": np.ascontiguousarray(a.T) if turned else a,
        "b": np.ascontiguousarray(b.T) if turned else b,
        "c": None if c is None else normal(*c),
    }
    attrs = {"transA": turned, "transB": turned, "alpha": 0.5, "beta": 0.25}
    expect_agreement("Gemm", inputs, attrs, opset=13)


def test_one_operator_on_halves_rounds_once() -> None:
    def halves(*shape: int, scale: float = 1) -> np.ndarray:
        return (normal(*shape) * scale).astype(np.float16)

    a, b, c = halves(40, 96), halves(96, 48), halves(48, scale=5)
    x, w, bias = halves(1, 1, 9, 9), halves(24, 1, 3, 3), halves(24, scale=5)
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0].astype(np.float64), (3, 3))
    seen = np.einsum("hwij,oij->ohw", windows, w[:, 0].astype(np.float64))
    factors = {"alpha": 0.5, "beta": 0.25}
    product = a.astype(np.float64) @ b.astype(np.float64)
    for op, inputs, attrs, exact in (
        ("Gemm", (a, b, c), factors, product * 0.5 + c.astype(np.float64) * 0.25),
        ("Gemm", (a, b), {"alpha": 3.0}, product * 3),
        ("Conv", (x, w, bias), {}, (seen + bias.astype(np.float64)[:, None, None])[None]),
    ):
        named = dict(zip("xwb", inputs, strict=False))
        (y,) = computed(one_node(op, named, attrs, opset=13), named)
        assert y.dtype == np.float16
        assert (y != exact.astype(np.float16)).mean() <= 0.005, op


@pytest.mark.parametrize("op", ["Gemm", "Conv"])
def test_a_bias_of_another_type_is_refused(op: str) -> None:
    shapes = ((3, 4), (4, 5)) if op == "Gemm" else ((1, 4, 5, 5), (5, 4, 3, 3))
    inputs = dict(zip("xw", (normal(*s).astype(np.float16) for s in shapes), strict=True))
    with pytest.raises(ModelError, match="float32|f32"):
        import_onnx(one_node(op, {**inputs, "b": normal(5)}, {}, opset=13))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij , bjk", [(2, 3, 4), (2, 4, 5)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]),
        ("iij->j", [(3, 3, 4)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bqhd,bkhd->bhqk", [(2, 3, 4, 5), (2, 6, 4, 5)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ijk,jil->kl", [(2, 3, 4), (3, 2, 5)]),
        ("a,b,c->abc", [(2,), (3,), (4,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("ij->", [(3, 4)]),
        ("i...->...", [(3, 4, 2)]),
        ("...,...->...", [(3, 1), (1, 4)]),
    ],
)
def test_einsum_is_numpys(equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = {f"x{i}": normal(*s) for i, s in enumerate(shapes)}
    (y,) = computed(one_node("Einsum", inputs, {"equation": equation}), inputs)
    expected = np.einsum(equation.replace(" ", ""), *inputs.values())
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_einsum_names_labels_that_do_not_fit() -> None:
    inputs = {"a": normal(2, 3), "b": normal(4, 5)}
    with pytest.raises(ModelError, match="label 'j' has extents 3 and 4"):
        import_onnx(one_node("Einsum", inputs, {"equation": "ij,jk->ik"}))


# ------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_family_agrees(op: str, opset: int, axis: int) -> None:
    x = np.round(normal(3, 4, 5) * 3)  # ties for hardmax
    expect_agreement(op, {"x": x}, {"axis": axis}, opset=opset, symbols=("x0", "x2"))


def test_old_softmax_sums_over_all_trailing_axes() -> None:
    x = normal(2, 3, 4)
    (y,) = computed(one_node("Softmax", {"x": x}, {}, opset=11), {"x": x})
    np.testing.assert_allclose(y.sum(axis=(1, 2)), [1, 1], rtol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization_agrees(axis: int) -> None:
    x = normal(3, 4, 5) + 10
    shape = x.shape[axis:]
    inputs = {"x": x, "s": normal(*shape), "b": normal(*shape)}
    how: dict[str, Any] = {"opset": 17, "outputs": ("y", "m", "i"), "symbols": ("x0",)}
    expect_agreement("LayerNormalization", inputs, {"axis": axis}, **how)


def test_layer_normalization_of_halves_is_computed_in_f32() -> None:
    x = (normal(2, 512) + 300).astype(np.float16)
    inputs = {"x": x, "s": np.ones(512, np.float16)}
    (y,) = computed(one_node("LayerNormalization", inputs, {}, opset=17), inputs)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_scales_groups_and_later_channels(opset: int) -> None:
    x = normal(2, 6, 3, 4)
    scale, bias = (normal(3 if opset < 21 else 6) for _ in range(2))
    inputs = {"x": x, "s": scale, "b": bias}
    model = one_node("GroupNormalization", inputs, {"num_groups": 3}, opset=opset)
    (y,) = computed(model, inputs)
    groups = x.reshape(2, 3, -1).astype(np.float64)
    mean, var = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    normalised = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    per_channel = (np.repeat(v, 6 // len(v)).reshape(1, 6, 1, 1) for v in (scale, bias))
    s, b = per_channel
    np.testing.assert_allclose(y, normalised * s + b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_leaves_zeros_alone(p: int) -> None:
    x = normal(3, 4)
    x[1] = 0
    (y,) = computed(one_node("LpNormalization", {"x": x}, {"p": p}), {"x": x})
    np.testing.assert_array_equal(y[1], np.zeros(4, np.float32))
    norms = (np.abs(y[[0, 2]]) ** p).sum(-1)
    np.testing.assert_allclose(norms, [1, 1], rtol=1e-5)


# ------------------------------------------------------------------ quantised operators


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("per_axis", [False, True])
def test_quantisation_agrees(dtype: type, per_axis: bool) -> None:
    x = normal(2, 3, 4) * 40
    scale: np.ndarray = np.abs(normal(3)) + 0.1 if per_axis else np.array(0.3, np.float32)
    zero: np.ndarray = (np.arange(3) * 7).astype(dtype) if per_axis else np.array(5, dtype)
    expect_agreement("QuantizeLinear", {"x": x, "s": scale, "z": zero}, {"axis": 1}, 0.0)
    q = whole(dtype, 2, 3, 4)
    expect_agreement("DequantizeLinear", {"x": q, "s": scale, "z": zero}, {"axis": 1}, 1e-6)


def test_quantisation_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9], np.float32)
    inputs: dict[str, np.ndarray] = {
        "x": x, "s": np.array(1, np.float32), "z": np.array(0, np.int8),
    }  # fmt: skip
    (y,) = computed(one_node("QuantizeLinear", inputs, {}), inputs)
    assert y.tolist() == [0, 2, 2, 0, 127, -128]


def test_blocks_share_a_scale() -> None:
    q = whole(np.int8, 2, 5)
    scale = np.array([[0.5, 1, 2], [3, 4, 5]], np.float32)
    inputs = {"x": q, "s": scale}
    model = one_node("DequantizeLinear", inputs, {"axis": 1, "block_size": 2})
    (y,) = computed(model, inputs)
    np.testing.assert_array_equal(y, q * np.repeat(scale, 2, 1)[:, :5])


def test_integer_products_agree() -> None:
    a, b = whole(np.uint8, 3, 5), whole(np.int8, 5, 4)
    zeros: dict[str, np.ndarray] = {"az": np.array(7, np.uint8), "bz": whole(np.int8, 4)}
    expect_agreement("MatMulInteger", {"a": a, "b": b, **zeros}, {}, 0.0)
    x, w = whole(np.uint8, 1, 3, 6, 5), whole(np.uint8, 4, 3, 3, 2)
    zeros = {"xz": np.array(100, np.uint8), "wz": np.array(3, np.uint8)}
    expect_agreement("ConvInteger", {"x": x, "w": w, **zeros}, {"pads": [1, 1, 1, 1]}, 0.0)


def test_requantised_products_agree() -> None:
    scale = np.array(0.02, np.float32)
    small = np.abs(normal(4)) * 0.1 + 0.01
    result: dict[str, np.ndarray] = {"ys": np.array(0.3, np.float32), "yz": np.array(120, np.uint8)}
    a = {"a": whole(np.uint8, 3, 5), "as": scale, "az": np.array(9, np.uint8)}
    b = {"b": whole(np.int8, 5, 4), "bs": small, "bz": np.zeros(4, np.int8)}
    expect_agreement("QLinearMatMul", {**a, **b, **result}, {}, 0.0)
    x = {"x": whole(np.uint8, 1, 3, 6, 5), "xs": scale, "xz": np.array(9, np.uint8)}
    w = {"w": whole(np.int8, 4, 3, 3, 2), "ws": small, "wz": np.zeros(4, np.int8)}
    bias = {"c": np.array([5, -900, 30, 4], np.int32)}
    expect_agreement("QLinearConv", {**x, **w, **result, **bias}, {"pads": [1, 0, 1, 0]}, 0.0)


def test_dynamic_quantisation_of_zeros_does_not_divide_by_zero() -> None:
    x = np.zeros((2, 3), np.float32)
    model = one_node("DynamicQuantizeLinear", {"x": x}, {}, outputs=("y", "s", "z"))
    y, scale, zero = computed(model, {"x": x})
    assert not y.any() and scale == 1 and zero == 0
    expect_agreement("DynamicQuantizeLinear", {"x": normal(4, 5)}, {}, outputs=("y", "s", "z"))


# ------------------------------------------------------------------ losses and scatters


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_agrees(reduction: str, weighted: bool) -> None:
    target = np.array([[0, 4, 2], [1, 1, 4]])
    inputs = {"x": normal(2, 5, 3), "t": target, "w": np.abs(normal(5)) if weighted else None}
    attrs = {"reduction": reduction, "ignore_index": 4}
    expect_agreement("SoftmaxCrossEntropyLoss", inputs, attrs, opset=13)
    expect_agreement("NegativeLogLikelihoodLoss", inputs, attrs, opset=13)


def test_scatters_agree() -> None:
    indices = np.array([[0, -1, 2], [1, 0, -3]])
    inputs = {"x": normal(3, 3), "i": indices, "u": normal(2, 3)}
    for reduction in ("none", "add", "mul", "max", "min"):
        expect_agreement("ScatterElements", inputs, {"axis": 0, "reduction": reduction}, opset=18)
    nd = {"x": normal(4, 3), "i": np.array([[1], [3], [1]]), "u": normal(3, 3)}
    expect_agreement("ScatterND", nd, {"reduction": "add"}, opset=18)
