"""scatter_elements, scatter_nd, topk: type rules, references against another engine, the laws."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops.irregular import IRREGULAR
from tilewright.ops.op import Attrs, OpError, Sample
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Dim, Func, minimum, symbol

Peer = Callable[..., list[np.ndarray]]
ELEMENTS, ND, TOPK = IRREGULAR["scatter_elements"], IRREGULAR["scatter_nd"], IRREGULAR["topk"]


def t(dtype: dt.DType, *shape: Dim) -> TensorType:
    return TensorType(dtype, shape)


def in_bounds(sample: Sample, extent: int) -> bool:
    x, indices, _ = sample.inputs
    inside = bool(((-extent <= indices) & (indices < extent)).all())
    return inside and x.dtype == np.float32 and x.size > 0 and not np.isnan(x).any()


@pytest.mark.parametrize(
    "sample",
    [s for s in ELEMENTS.samples() if in_bounds(s, s.inputs[0].shape[s.attrs["axis"]])],  # type: ignore[index]
    ids=lambda s: s.note,
)
def test_scatter_elements_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    (theirs,) = peer("ScatterElements", sample.inputs, sample.attrs)
    (ours,) = ELEMENTS.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "sample",
    [s for s in ND.samples() if in_bounds(s, 3) and s.inputs[1].shape[-1] in (1, 2)],
    ids=lambda s: s.note,
)
def test_scatter_nd_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    x, indices, updates = sample.inputs
    inputs = [x, indices.astype(np.int64), updates]
    (theirs,) = peer("ScatterND", inputs, sample.attrs)
    (ours,) = ND.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "sample",
    [
        s
        for s in TOPK.samples()
        if s.inputs[0].dtype in (np.float32, np.int64)
        and s.inputs[0].size
        and not np.isnan(s.inputs[0]).any()
    ],
    ids=lambda s: s.note,
)
def test_topk_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    k = np.array([sample.attrs["k"]], np.int64)
    attributes = {"axis": sample.attrs["axis"], "largest": int(bool(sample.attrs["largest"]))}
    theirs = peer("TopK", [sample.inputs[0], k], attributes, 2)
    for ours, wanted in zip(TOPK.reference(sample.inputs, sample.attrs), theirs, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_indices_beyond_the_ends_are_clamped_and_negative_ones_wrap_once() -> None:
    inputs = np.zeros(3, np.int32), np.array([-1, -4, 7]), np.array([1, 2, 4], np.int32)
    (y,) = ELEMENTS.reference(inputs, {"axis": 0, "reduction": "add"})
    np.testing.assert_array_equal(y, [2, 0, 5])


def test_the_last_of_equal_indices_wins() -> None:
    inputs = np.zeros(3, np.int32), np.array([1, 1, 1]), np.array([5, 6, 7], np.int32)
    (y,) = ELEMENTS.reference(inputs, {"axis": 0, "reduction": "none"})
    np.testing.assert_array_equal(y, [0, 7, 0])


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_into_a_dim_that_turns_out_empty_writes_nothing(reduction: str) -> None:
    n = symbol("N", 0)
    x, i, u = Buffer("x", dt.f32, (n,)), Buffer("i", dt.i64, (2,)), Buffer("u", dt.f32, (2,))
    y = Buffer("y", dt.f32, (n,))
    assert ELEMENTS.loops is not None
    body = ELEMENTS.loops((x, i, u), (y,), {"axis": 0, "reduction": reduction})
    empty = np.zeros(0, np.float32)
    given = {"x": empty, "i": np.array([0, 1]), "u": np.ones(2, np.float32), "y": empty.copy()}
    interpret(Func("f", (x, i, u, y, n), body), given, {"N": 0})


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ((t(dt.f32, 4, 5), t(dt.i64, 5, 5), t(dt.f32, 5, 5)), "on axis 0: 5 against 4"),
        ((t(dt.f32, 4, 5), t(dt.i64, 2, 5), t(dt.f32, 2, 4)), "the last two one shape"),
        ((t(dt.f32, 4, 5), t(dt.i64, 2), t(dt.f32, 2)), "must have one rank"),
        ((t(dt.f32, 4, 5), t(dt.f32, 2, 2), t(dt.f32, 2, 2)), "must be i32 or i64, got f32"),
        ((t(dt.f32, 4, 5), t(dt.i64, 2, 2), t(dt.f64, 2, 2)), "updates are f64"),
    ],
)
def test_scatter_elements_refuses(types: tuple[TensorType, ...], words: str) -> None:
    with pytest.raises(OpError, match=re.escape(words)):
        ELEMENTS.infer(types, {"axis": 1, "reduction": "none"})


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ((t(dt.f32, 4, 5), t(dt.i64, 2, 1), t(dt.f32, 2, 4)), "[2, 4] must be [2, 5]"),
        ((t(dt.f32, 4, 5), t(dt.i64, 2, 3), t(dt.f32, 2)), "constant from 0 to 2"),
        ((t(dt.f32, 4, 5), t(dt.i64, 2, symbol("D")), t(dt.f32, 2)), "constant from 0 to 2"),
    ],
)
def test_scatter_nd_refuses(types: tuple[TensorType, ...], words: str) -> None:
    with pytest.raises(OpError, match=re.escape(words)):
        ND.infer(types, {"reduction": "none"})


def test_topk_gives_k_values_and_i64_indices() -> None:
    n, s = symbol("N"), symbol("S")
    k = minimum(s, 100)
    attrs: Attrs = {"k": k, "axis": 1, "largest": True}
    values, indices = TOPK.infer((t(dt.f16, n, s),), attrs)
    assert values == t(dt.f16, n, k)
    assert indices == t(dt.i64, n, k)


@pytest.mark.parametrize("k", [9, symbol("K"), -1])
def test_topk_refuses_a_k_that_may_not_fit(k: Dim) -> None:
    with pytest.raises(OpError, match="k is "):
        TOPK.infer((t(dt.f32, 2, 8),), {"k": k, "axis": 1, "largest": True})


def test_topk_puts_nan_first_and_keeps_ties_in_order() -> None:
    x = np.array([1.0, np.nan, 3.0, 1.0, np.nan], np.float32)
    _, indices = TOPK.reference((x,), {"k": 5, "axis": 0, "largest": True})
    np.testing.assert_array_equal(indices, [1, 4, 2, 0, 3])
    _, indices = TOPK.reference((x,), {"k": 5, "axis": 0, "largest": False})
    np.testing.assert_array_equal(indices, [0, 3, 2, 1, 4])
