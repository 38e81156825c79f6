"""reduce_window: type rule, reference against another engine, form of the expression."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops.op import Attrs, OpError, Sample, ints_attr
from tilewright.ops.window import WINDOW
from tilewright.tensor.ir import Buffer, Const, Load, Reduce, Select, symbol
from tilewright.tensor.simplify import same_dim

Peer = Callable[..., list[np.ndarray]]
OP = WINDOW["reduce_window"]
POOL: Attrs = {
    "op": "max",
    "window": (1, 3, 3, 1),
    "strides": (1, 2, 2, 1),
    "lo": (0, 1, 1, 0),
    "hi": (0, 1, 1, 0),
    "dilations": (1, 1, 1, 1),
}


def spatial(sample: Sample, name: str) -> tuple[int, ...]:
    return ints_attr(sample.attrs, name)[1:-1]


def is_pool(sample: Sample) -> bool:
    """Whether ONNX can state it: only inner dims slide, f32, padding less than the window."""
    x = sample.inputs[0]
    if x.dtype != np.float32 or not 3 <= x.ndim <= 5 or x.size == 0:
        return False
    ends = [ints_attr(sample.attrs, n) for n in ("window", "strides")]
    edges = zip(
        spatial(sample, "window"), spatial(sample, "lo"), spatial(sample, "hi"), strict=True
    )
    outer = all(e[0] == e[-1] == 1 for e in ends)
    return outer and all(0 <= lo < size and 0 <= hi < size for size, lo, hi in edges)


@pytest.mark.parametrize("sample", [s for s in OP.samples() if is_pool(s)], ids=lambda s: s.note)
def test_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    summed = sample.attrs["op"] == "sum"
    attributes: dict[str, object] = {
        "kernel_shape": spatial(sample, "window"),
        "strides": spatial(sample, "strides"),
        "dilations": spatial(sample, "dilations"),
        "pads": spatial(sample, "lo") + spatial(sample, "hi"),
    }
    if summed:
        attributes["count_include_pad"] = 1
    x = np.moveaxis(sample.inputs[0], -1, 1)
    (theirs,) = peer("AveragePool" if summed else "MaxPool", [x], attributes)
    scale = prod(spatial(sample, "window")) if summed else 1
    (ours,) = OP.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1) * scale, rtol=1e-5, atol=1e-5)


def test_symbolic_sizes_stay_symbolic() -> None:
    batch, height = symbol("N"), symbol("H")
    (out,) = OP.infer((TensorType(dt.f32, (batch, height, 9, 4)),), POOL)
    assert out.shape[0] is batch
    assert same_dim(out.shape[1], (height - 1) // 2 + 1)
    assert out.shape[2:] == (5, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": (1, 0, 3, 1)}, "axis 1: a window needs 1 tap or more, got 0"),
        ({"window": (1, 3, 3)}, "of 4 elements"),
        ({"window": (1, 9, 3, 1)}, "axis 1: a window of 9 taps at dilation 1 does not fit into 5"),
        ({"dilations": (1, 0, 1, 1)}, "axis 1: stride and dilation must be 1 or more"),
        ({"hi": (0, -4, 1, 0)}, "axis 1: a window of 3 taps at dilation 1 does not fit into 5"),
        ({"op": "mean"}, "one of max, sum"),
    ],
)
def test_refuses(changes: Attrs, words: str) -> None:
    with pytest.raises(OpError, match=re.escape(words)):
        OP.infer((TensorType(dt.f32, (1, 5, 5, 2)),), {**POOL, **changes})


def test_refuses_bool() -> None:
    with pytest.raises(OpError, match="cast first"):
        OP.infer((TensorType(dt.bool_, (1, 5, 5, 2)),), POOL)


def test_padding_reads_the_identity_and_windows_of_one_add_no_axis() -> None:
    x, y = Buffer("x", dt.i8, (1, 5, 5, 2)), Buffer("y", dt.i8, (1, 3, 3, 2))
    assert OP.compute is not None
    (stage,) = OP.compute((x,), (y,), POOL)
    assert isinstance(stage.expr, Reduce)
    assert [a.var.name for a in stage.expr.axes] == ["kh", "kw"]
    body = stage.expr.body
    assert isinstance(body, Select)
    assert body.b is Const(-128, dt.i8)
    assert isinstance(body.a, Load)
    assert body.a.indices[0] is stage.axes[0].var
