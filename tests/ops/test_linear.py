"""matmul and conv: type rules, references against another engine, forms of the expressions."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops.linear import LINEAR
from tilewright.ops.op import Attrs, OpError, Sample, ints_attr
from tilewright.tensor.compute import Compute
from tilewright.tensor.ir import Buffer, Cast, Dim, Expr, Reduce, Select, symbol
from tilewright.tensor.simplify import same_dim

Peer = Callable[..., list[np.ndarray]]
MATMUL, CONV = LINEAR["matmul"], LINEAR["conv"]
PLAIN: Attrs = {
    "strides": (1, 1), "lo": (0, 0), "hi": (0, 0), "dilations": (1, 1), "groups": 1, "wide": False,
}  # fmt: skip
NARROW: Attrs = {"wide": False}


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def conv_stage(x: tuple[Dim, ...], w: tuple[Dim, ...], attrs: Attrs, dtype: dt.DType) -> Compute:
    types = TensorType(dtype, x), TensorType(dtype, w)
    (out,) = CONV.infer(types, attrs)
    buffers = tuple(Buffer(n, dtype, t.shape) for n, t in zip("xw", types, strict=True))
    assert CONV.compute is not None
    (stage,) = CONV.compute(buffers, (Buffer("y", out.dtype, out.shape),), attrs)
    return stage


def reduction(expr: Expr) -> Reduce:
    assert isinstance(expr, Reduce)
    return expr


def is_f32(sample: Sample) -> bool:
    return sample.inputs[0].dtype == np.float32


@pytest.mark.parametrize("sample", [s for s in MATMUL.samples() if is_f32(s)], ids=lambda s: s.note)
def test_matmul_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    (ours,) = MATMUL.reference(sample.inputs, sample.attrs)
    (theirs,) = peer("MatMul", sample.inputs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sample",
    [s for s in CONV.samples() if is_f32(s) and s.inputs[0].ndim <= 5 and s.inputs[0].size],
    ids=lambda s: s.note,
)
def test_conv_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    x, w = sample.inputs
    lo, hi = (ints_attr(sample.attrs, k) for k in ("lo", "hi"))
    whole = [
        slice(max(-a, 0), n - max(-b, 0)) for n, a, b in zip(x.shape[1:], lo, hi, strict=False)
    ]
    x = x[(slice(None), *whole)]
    attributes = {
        "strides": sample.attrs["strides"],
        "dilations": sample.attrs["dilations"],
        "pads": tuple(max(p, 0) for p in (*lo, *hi)),
        "group": sample.attrs["groups"],
    }
    kernel = np.moveaxis(w, (-1, -2), (0, 1))
    (theirs,) = peer("Conv", [np.moveaxis(x, -1, 1), kernel], attributes)
    (ours,) = CONV.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), rtol=1e-5, atol=1e-5)


def test_matmul_keeps_symbolic_dims_and_broadcasts_batches() -> None:
    batch, rows = symbol("B"), symbol("S")
    (out,) = MATMUL.infer((f32(batch, 12, rows, 64), f32(1, 64, rows)), NARROW)
    assert out == f32(batch, 12, rows, rows)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (f32(4, 5), f32(6, 7), "inner dims of [4, 5] and [6, 7] differ: 5 against 6"),
        (f32(4, symbol("K")), f32(symbol("L"), 7), "differ: K against L"),
        (f32(5), f32(5, 7), "needs matrices, got [5] and [5, 7]"),
        (f32(2, 4, 5), f32(3, 5, 7), "do not broadcast"),
        (f32(4, 5), TensorType(dt.f64, (5, 6)), "one element type, got f32 and f64"),
        (TensorType(dt.bool_, (2, 2)), TensorType(dt.bool_, (2, 2)), "cast first"),
    ],
)
def test_matmul_refuses(a: TensorType, b: TensorType, words: str) -> None:
    with pytest.raises(OpError, match=re.escape(words)):
        MATMUL.infer((a, b), NARROW)


def test_conv_keeps_symbolic_batch_and_sizes() -> None:
    batch, height = symbol("N"), symbol("H", 8)
    attrs = {**PLAIN, "strides": (2, 1), "lo": (1, 1), "hi": (1, 1)}
    (out,) = CONV.infer((f32(batch, height, 20, 3), f32(3, 3, 3, 16)), attrs)
    assert out.shape[0] is batch
    assert same_dim(out.shape[1], (height - 1) // 2 + 1)
    assert out.shape[2:] == (20, 16)


@pytest.mark.parametrize(
    ("x", "w", "changes", "words"),
    [
        ((1, 8, 8, 4), (3, 3, 5, 6), {}, "4 input channels are not 1 groups of 5"),
        ((1, 8, 8, 4), (3, 3, 2, 5), {"groups": 2}, "2 groups do not divide 5 output channels"),
        ((1, 2, 8, 4), (3, 3, 4, 6), {}, "a window of 3 taps at dilation 1 does not fit"),
        ((1, 8, 8, 4), (3, 3, 4, 6), {"strides": (0, 1)}, "must be 1 or more"),
        ((1, 8, 8, 4), (3, 3, 4, 6), {"lo": (-6, 0)}, "8 elements padded by -6 and 0"),
        ((1, 8, 8, 4), (3, 3, 4, 6), {"lo": (0,)}, "of 2 elements"),
        ((1, 8, 8, 4), (3, 4, 6), {}, "needs one rank"),
        ((1, 8), (8, 8), {"strides": ()}, "needs one rank of 3 or more"),
    ],
)
def test_conv_refuses(x: tuple[int, ...], w: tuple[int, ...], changes: Attrs, words: str) -> None:
    with pytest.raises(OpError, match=re.escape(words)):
        CONV.infer((f32(*x), f32(*w)), {**PLAIN, **changes})


def test_conv_without_padding_has_no_guard() -> None:
    stage = conv_stage((1, 8, 8, 4), (3, 3, 4, 6), PLAIN, dt.f32)
    total = reduction(stage.expr)
    assert [a.var.name for a in stage.axes] == ["n", "oh", "ow", "oc"]
    assert [a.var.name for a in total.axes] == ["kh", "kw", "ci"]
    assert not isinstance(total.body.a, Select)  # type: ignore[attr-defined]


def test_conv_guards_only_the_padded_sides() -> None:
    attrs = {**PLAIN, "lo": (1, 0), "hi": (0, 2)}
    stage = conv_stage((1, 8, 9, 4), (3, 3, 4, 6), attrs, dt.f32)
    guarded = reduction(stage.expr).body.a  # type: ignore[attr-defined]
    assert isinstance(guarded, Select)
    low, high = guarded.cond.a, guarded.cond.b  # type: ignore[attr-defined]
    assert (low.op, low.a.value) == ("le", 0)
    assert (high.op, high.b.value) == ("lt", 9)


def test_one_by_one_conv_reduces_over_channels_only() -> None:
    stage = conv_stage((1, 8, 8, 4), (1, 1, 4, 6), PLAIN, dt.f32)
    assert [a.var.name for a in reduction(stage.expr).axes] == ["ci"]


def test_depthwise_conv_does_not_reduce_over_channels() -> None:
    attrs = {**PLAIN, "groups": 6}
    stage = conv_stage((1, 8, 8, 6), (3, 3, 1, 6), attrs, dt.f32)
    total = reduction(stage.expr)
    assert [a.var.name for a in total.axes] == ["kh", "kw"]
    assert total.body.a.indices[-1] is stage.axes[-1].var  # type: ignore[attr-defined]


@pytest.mark.parametrize("half", [dt.f16, dt.bf16])
def test_half_conv_accumulates_in_f32(half: dt.DType) -> None:
    stage = conv_stage((1, 8, 8, 4), (3, 3, 4, 6), PLAIN, half)
    assert isinstance(stage.expr, Cast)
    assert reduction(stage.expr.x).dtype is dt.f32


@pytest.mark.parametrize("half", [dt.f16, dt.bf16])
def test_wide_products_of_halves_are_not_rounded(half: dt.DType) -> None:
    stage = conv_stage((1, 8, 8, 4), (3, 3, 4, 6), {**PLAIN, "wide": True}, half)
    assert reduction(stage.expr).dtype is stage.output.dtype is dt.f32
    x, w = (np.full(shape, 1 + 2.0**-7).astype(half.numpy) for shape in ((1, 1), (1, 1)))
    (exact,) = MATMUL.reference((x, w), {"wide": True})
    assert exact.dtype == np.float32 and exact[0, 0] == (1 + 2.0**-7) ** 2


def test_wide_products_of_other_types_are_as_ever() -> None:
    (out,) = MATMUL.infer((f32(3, 4), f32(4, 5)), {"wide": True})
    assert out == f32(3, 5)
