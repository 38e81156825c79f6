"""Attention, rotary embedding and the fused operators of com.microsoft against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .peer import computed, expect_agreement, expect_gap, normal, one_node

BATCH, QUERIES, KEYS, SIZE, WIDTH = 2, 3, 5, 4, 6
MS: dict[str, Any] = {"domain": "com.microsoft", "opset": 17}


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize(
    "attrs", [{}, {"is_causal": 1}, {"softcap": 2.0, "scale": 0.3}, {"softmax_precision": 1}]
)
def test_attention_agrees(shared: int, rank: int, attrs: dict[str, object]) -> None:
    shapes = [(4, QUERIES, SIZE), (shared, KEYS, SIZE), (shared, KEYS, WIDTH)]
    if rank == 4:
        inputs = {n: normal(BATCH, *s) for n, s in zip("qkv", shapes, strict=True)}
    else:
        inputs = {n: normal(BATCH, t, h * d) for n, (h, t, d) in zip("qkv", shapes, strict=True)}
        attrs = {**attrs, "q_num_heads": 4, "kv_num_heads": shared}
    expect_agreement("Attention", inputs, attrs, opset=23)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1, 3, 5), (2, 4, 3, 5)])
def test_attention_masks_agree(shape: tuple[int, ...]) -> None:
    inputs = {n: normal(BATCH, 4, t, SIZE) for n, t in (("q", 3), ("k", 5), ("v", 5))}
    mask = normal(*shape)
    expect_agreement("Attention", {**inputs, "m": mask}, {}, opset=23)
    open_ = mask > 0
    open_[..., 0] = True
    expect_agreement("Attention", {**inputs, "m": open_}, {}, opset=23)


def test_attention_appends_to_its_cache() -> None:
    names = ("q", "k", "v", "m", "pk", "pv")
    given = [normal(BATCH, 2, t, SIZE) for t in (3, 3, 3)]
    past = [normal(BATCH, 2, 4, SIZE) for _ in range(2)]
    inputs = dict(zip(names, [*given, None, *past], strict=True))
    expect_agreement("Attention", inputs, {}, opset=23, outputs=("y", "k2", "v2"))


def test_a_query_without_keys_gives_zeros() -> None:
    inputs = {n: normal(1, 1, 2, SIZE) for n in "qkv"}
    inputs["m"] = np.array([[True, True], [False, False]])
    (y,) = computed(one_node("Attention", inputs, {}, opset=23), inputs)
    assert np.all(y[0, 0, 1] == 0) and np.all(np.isfinite(y))


def test_one_artefact_serves_all_lengths() -> None:
    inputs = {n: normal(BATCH, 4, KEYS, SIZE) for n in "qkv"}
    symbols = [f"{n}{axis}" for n in "qkv" for axis in (2,)]
    model = one_node("Attention", inputs, {"is_causal": 1}, opset=23, symbols=symbols)
    for k in "kv":
        dims = model.graph.input["qkv".index(k)].type.tensor_type.shape.dim
        dims[2].dim_param = "k2"
    for queries, keys in ((1, 7), (4, 4)):
        sizes = {"q": queries, "k": keys, "v": keys}
        small = {n: normal(BATCH, 4, t, SIZE) for n, t in sizes.items()}
        (y,) = computed(model, small)
        fixed = one_node("Attention", small, {"is_causal": 1}, opset=23)
        np.testing.assert_allclose(y, computed(fixed, small)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("turned", [0, 4])
def test_rotation_keeps_lengths(interleaved: int, turned: int) -> None:
    angle = normal(9, (turned or 8) // 2)
    inputs = {
        "x": normal(2, 3, 5, 8), "c": np.cos(angle), "s": np.sin(angle),
        "p": np.arange(10).reshape(2, 5) % 9,
    }  # fmt: skip
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": turned}
    model = one_node("RotaryEmbedding", inputs, attrs, opset=23)
    (y,) = computed(model, inputs)
    x = inputs["x"]
    np.testing.assert_allclose((y**2).sum(-1), (x**2).sum(-1), rtol=1e-4)
    assert not np.allclose(y, x)


# ------------------------------------------------------------------ com.microsoft


def test_fused_products_agree() -> None:
    inputs = {"a": normal(2, 4, 3), "b": normal(2, 5, 4)}
    attrs: dict[str, Any] = {"transA": 1, "transB": 1, "alpha": 0.5}
    expect_agreement("FusedMatMul", inputs, attrs, **MS)
    inputs = {"x": normal(1, 3, 5, 5), "w": normal(4, 3, 3, 3), "b": normal(4)}
    attrs = {"activation": "LeakyRelu", "activation_params": [0.3], "pads": [1, 1, 1, 1]}
    expect_agreement("FusedConv", inputs, attrs, **MS)
    expect_gap("FusedConv", inputs, {"activation": "Mystery"}, "'Mystery'", **MS)


def test_normalisations_of_sums_agree() -> None:
    inputs = {"x": normal(2, 3, 8), "s": normal(2, 3, 8), "g": normal(8)}
    how: dict[str, Any] = {"outputs": ("y", "", "", "t"), **MS}
    shifts = {"b": normal(8), "c": normal(8)}
    expect_agreement("SkipLayerNormalization", {**inputs, **shifts}, {"epsilon": 1e-5}, **how)
    expect_agreement(
        "SkipSimplifiedLayerNormalization", {**inputs, "c": normal(8)}, {"epsilon": 1e-5}, **how
    )


def test_embeddings_agree() -> None:
    inputs = {
        "i": np.array([[1, 5, 0], [2, 2, 7]], np.int32), "t": np.array([[0, 1, 1]] * 2, np.int32),
        "w": normal(9, 8), "p": normal(6, 8), "s": normal(2, 8), "g": normal(8), "b": normal(8),
        "m": np.array([[1, 1, 0], [1, 0, 0]], np.int32),
    }  # fmt: skip
    expect_agreement("EmbedLayerNormalization", inputs, {}, outputs=("y", "n"), **MS)


@pytest.mark.parametrize("mask", [None, np.array([[1, 1, 0, 0]] * 2), np.array([3, 2])])
def test_packed_attention_agrees(mask: np.ndarray | None) -> None:
    inputs = {
        "x": normal(2, 4, 8), "w": normal(8, 24), "b": normal(24),
        "m": None if mask is None else mask.astype(np.int32),
    }  # fmt: skip
    expect_agreement("Attention", inputs, {"num_heads": 2}, **MS)
    inputs = {"q": normal(2, 3, 8), "k": normal(2, 4, 8), "v": normal(2, 4, 8), "b": normal(24)}
    expect_agreement("MultiHeadAttention", inputs, {"num_heads": 2}, **MS)
