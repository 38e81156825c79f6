"""Resize, sampling and spectral operators against ONNX Runtime, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright.frontends.onnx import import_onnx

from .peer import computed, expect_agreement, expect_gap, normal, one_node

TRANSFORMS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SIZES = {"x": normal(1, 2, 5, 6), "r": None, "s": None, "n": np.array([1, 2, 9, 4])}


def scaled(*scales: float) -> dict[str, np.ndarray | None]:
    return {"x": SIZES["x"], "r": None, "s": np.array([1, 1, *scales], np.float32)}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_agrees(transform: str, rounding: str) -> None:
    attrs = {"coordinate_transformation_mode": transform, "nearest_mode": rounding}
    for symbols in ((), ("x2", "x3")):
        how: dict[str, Any] = {"constants": ("n", "s"), "symbols": symbols}
        expect_agreement("Resize", SIZES, attrs, **how)
        expect_agreement("Resize", scaled(2, 3), attrs, **how)


@pytest.mark.parametrize("transform", [*TRANSFORMS, "half_pixel_symmetric"])
@pytest.mark.parametrize("symbols", [(), ("x2", "x3")])
def test_linear_agrees(transform: str, symbols: tuple[str, ...]) -> None:
    attrs = {"mode": "linear", "coordinate_transformation_mode": transform}
    expect_agreement("Resize", SIZES, attrs, constants=("n",), symbols=symbols)
    expect_agreement("Resize", scaled(2, 3), attrs, constants=("s",), symbols=symbols)


@pytest.mark.parametrize("exclude", [0, 1])
def test_cubic_agrees(exclude: int) -> None:
    attrs = {"mode": "cubic", "exclude_outside": exclude, "cubic_coeff_a": -0.6}
    expect_agreement("Resize", SIZES, attrs, constants=("n",))


def test_regions_of_interest_agree() -> None:
    inputs = SIZES | {"r": np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32)}
    attrs = {
        "mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 7.0,
    }  # fmt: skip
    expect_agreement("Resize", inputs, attrs, constants=("r", "n"))


def test_whole_factors_need_no_indices() -> None:
    for symbols in ((), ("x2", "x3")):
        model = one_node("Resize", scaled(2, 2), {}, constants=("s",), symbols=symbols)
        ops = {n.op for n in import_onnx(model).nodes}
        assert ops == {"transpose", "reshape", "broadcast_to"}


def test_older_forms_agree() -> None:
    inputs = {"x": normal(1, 2, 4, 5), "s": np.array([1, 1, 2.6, 1.5], np.float32)}
    for mode in ("nearest", "linear"):
        expect_agreement("Upsample", inputs, {"mode": mode}, opset=9, constants=("s",))
        expect_agreement("Resize", inputs, {"mode": mode}, opset=10, constants=("s",))


def test_resize_refuses_what_is_not_agreed_upon() -> None:
    attrs = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    expect_gap("Resize", scaled(0.7, 0.7), attrs, "a fraction of an element", constants=("s",))
    expect_gap("Resize", scaled(2, 2), {}, "scales is not a constant")
    expect_gap(
        "Resize",
        scaled(0.5, 0.5),
        {"mode": "linear", "antialias": 1},
        "antialias",
        constants=("s",),
    )


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_grid_sample_agrees(padding: str, aligned: int) -> None:
    inputs = {"x": normal(2, 3, 4, 5), "g": normal(2, 3, 6, 2) * np.float32(1.3)}
    for mode in ("nearest", "linear", "cubic"):
        attrs = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        if (mode, padding) == ("cubic", "border"):
            expect_gap("GridSample", inputs, attrs, "cubic interpolation with border", opset=20)
            continue
        expect_agreement("GridSample", inputs, attrs, 1e-3, opset=20, symbols=("x2", "g1"))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("opset", [10, 16])
def test_roi_align_agrees(mode: str, opset: int) -> None:
    regions = np.array([[0, 0, 5, 4], [1, 2, 9, 8], [-3, -3, 1, 1], [90, 9, 99, 11]], np.float32)
    inputs = {"x": normal(2, 3, 7, 8), "r": regions, "b": np.array([0, 1, 1, 0])}
    attrs = {
        "output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.8,
        "mode": mode,
    }  # fmt: skip
    expect_agreement("RoiAlign", inputs, attrs, opset=opset)
    expect_gap("RoiAlign", inputs, attrs | {"sampling_ratio": 0}, "depends on data", opset=opset)


def test_deform_conv_without_offsets_is_a_convolution() -> None:
    x, w = normal(2, 4, 6, 7), normal(6, 2, 3, 2)
    attrs = {"group": 2, "pads": [1, 0, 1, 1], "strides": [2, 1]}
    (expected,) = computed(one_node("Conv", {"x": x, "w": w}, attrs), {"x": x, "w": w})
    offsets = np.zeros((2, 2 * 3 * 2 * 2, *expected.shape[2:]), np.float32)
    inputs = {"x": x, "w": w, "o": offsets}
    model = one_node("DeformConv", inputs, attrs | {"offset_group": 2}, opset=19)
    np.testing.assert_allclose(computed(model, inputs)[0], expected, rtol=1e-4, atol=1e-4)


def test_an_identity_grid_gives_the_image_back() -> None:
    x = normal(1, 2, 4, 5)
    theta = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    inputs = {"t": theta, "n": np.array(x.shape)}
    model = one_node("AffineGrid", inputs, {"align_corners": 0}, constants=("n",), opset=20)
    (grid,) = computed(model, inputs)
    sample = one_node("GridSample", {"x": x, "g": grid}, {}, opset=20)
    np.testing.assert_allclose(computed(sample, {"x": x, "g": grid})[0], x, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ spectral


def test_fourier_transforms_are_numpys() -> None:
    x = normal(3, 10)
    inputs = {"x": x[..., None], "n": np.array(12)}
    model = one_node("DFT", inputs, {"onesided": 1}, opset=17, constants=("n",))
    (half,) = computed(model, inputs)
    expected = np.fft.rfft(x, 12)
    np.testing.assert_allclose(half[..., 0] + 1j * half[..., 1], expected, rtol=1e-4, atol=1e-5)
    back = one_node("DFT", {"x": half}, {"onesided": 1, "inverse": 1}, opset=17)
    (signal,) = computed(back, {"x": half})
    np.testing.assert_allclose(signal[:, :10, 0], x, rtol=1e-4, atol=1e-5)


def test_short_transforms_agree_for_symbolic_lengths() -> None:
    inputs = {"x": normal(2, 20, 1), "s": np.array(3), "w": normal(6), "n": np.array(6)}
    how: dict[str, Any] = {"opset": 17, "constants": ("s", "w", "n"), "symbols": ("x0", "x1")}
    expect_agreement("STFT", inputs, {"onesided": 1}, 1e-3, **how)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows_agree(op: str, periodic: int) -> None:
    how: dict[str, Any] = {"opset": 17, "constants": ("n",)}
    expect_agreement(op, {"n": np.array(9)}, {"periodic": periodic}, 1e-3, **how)


def test_col2im_agrees() -> None:
    inputs = {"x": normal(2, 12, 12), "i": np.array([5, 6]), "b": np.array([2, 3])}
    attrs = {"strides": [2, 1], "pads": [1, 0, 0, 0]}
    expect_agreement("Col2Im", inputs, attrs, opset=18, constants=("i", "b"))
