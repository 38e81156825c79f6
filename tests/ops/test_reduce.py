"""reduce and argreduce: type rules, references against another engine, forms."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops.op import Attrs, OpError, Sample
from tilewright.ops.reduce import REDUCE
from tilewright.tensor.compute import Compute
from tilewright.tensor.ir import Buffer, Cast, Dim, Load, Reduce, symbol

Peer = Callable[..., list[np.ndarray]]
SUM, ARG = REDUCE["reduce"], REDUCE["argreduce"]
PEERS = {"sum": "ReduceSum", "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}


def is_plain(sample: Sample) -> bool:
    x = sample.inputs[0]
    return x.dtype in (np.float32, np.int32) and x.size > 0 and not np.isnan(x).any()


def stage_of(
    dtype: dt.DType, op: str, shape: tuple[Dim, ...] = (3, 4), axes: tuple[int, ...] = (1,)
) -> Compute:
    kept = tuple(n for d, n in enumerate(shape) if d not in axes)
    x, y = Buffer("x", dtype, shape), Buffer("y", dtype, kept)
    assert SUM.compute is not None
    (stage,) = SUM.compute((x,), (y,), {"op": op, "axes": axes, "keepdims": False})
    return stage


@pytest.mark.parametrize(
    "sample",
    [s for s in SUM.samples() if is_plain(s) and s.attrs["axes"]],
    ids=lambda s: s.note,
)
def test_reduce_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    x, axes = sample.inputs[0], np.array(sample.attrs["axes"], np.int64)
    attributes = {"keepdims": int(bool(sample.attrs["keepdims"]))}
    (theirs,) = peer(PEERS[str(sample.attrs["op"])], [x, axes], attributes)
    (ours,) = SUM.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sample", [s for s in ARG.samples() if is_plain(s)], ids=lambda s: s.note)
def test_argreduce_agrees_with_another_engine(sample: Sample, peer: Peer) -> None:
    attributes = {
        "axis": sample.attrs["axis"],
        "keepdims": int(bool(sample.attrs["keepdims"])),
        "select_last_index": int(bool(sample.attrs["last"])),
    }
    name = "ArgMax" if sample.attrs["op"] == "max" else "ArgMin"
    (theirs,) = peer(name, sample.inputs, attributes)
    (ours,) = ARG.reference(sample.inputs, sample.attrs)
    np.testing.assert_array_equal(ours, theirs)


def test_reduced_dims_go_or_become_one_and_symbols_stay() -> None:
    n, s = symbol("N"), symbol("S")
    x = TensorType(dt.f32, (n, s, 8))
    attrs: Attrs = {"op": "max", "axes": (1,), "keepdims": False}
    assert SUM.infer((x,), attrs) == (TensorType(dt.f32, (n, 8)),)
    assert SUM.infer((x,), {**attrs, "keepdims": True}) == (TensorType(dt.f32, (n, 1, 8)),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": (2, 1)}, "axes is (2, 1), but must ascend within 0 to 2"),
        ({"axes": (3,)}, "axes is (3,), but must ascend within 0 to 2"),
        ({"axes": (-1,)}, "axes is (-1,)"),
        ({"op": "mean"}, "one of sum, prod, max, min"),
        ({"keepdims": 1}, "keepdims must be a boolean"),
    ],
)
def test_reduce_refuses(changes: Attrs, words: str) -> None:
    attrs = {"op": "sum", "axes": (0,), "keepdims": False, **changes}
    with pytest.raises(OpError, match=re.escape(words)):
        SUM.infer((TensorType(dt.f32, (2, 3, 4)),), attrs)


def test_sum_of_bool_is_refused_and_any_is_not() -> None:
    x = TensorType(dt.bool_, (2, 3))
    attrs: Attrs = {"op": "sum", "axes": (0,), "keepdims": False}
    with pytest.raises(OpError, match="cast"):
        SUM.infer((x,), attrs)
    assert SUM.infer((x,), {**attrs, "op": "max"}) == (TensorType(dt.bool_, (3,)),)


def test_argmax_of_an_empty_axis_is_refused() -> None:
    attrs: Attrs = {"op": "max", "axis": 1, "keepdims": False, "last": False}
    with pytest.raises(OpError, match=re.escape("argmax over axis 1 of [2, 0]")):
        ARG.infer((TensorType(dt.f32, (2, 0)),), attrs)


@pytest.mark.parametrize("half", [dt.f16, dt.bf16])
def test_half_sums_accumulate_in_f32(half: dt.DType) -> None:
    expr = stage_of(half, "sum").expr
    assert isinstance(expr, Cast)
    assert isinstance(expr.x, Reduce)
    assert expr.x.dtype is dt.f32


def test_f32_sums_carry_no_cast() -> None:
    expr = stage_of(dt.f32, "sum").expr
    assert isinstance(expr, Reduce)
    assert isinstance(expr.body, Load)


@pytest.mark.parametrize(
    ("shape", "axes", "wide"),
    [
        ((20_000, 3), (0,), dt.f64),
        ((8_000, 3), (0,), dt.f32),
        ((3, 20_000), (1,), dt.f32),
        ((3, 1_000_000), (1,), dt.f64),
        ((symbol("N"), 1_000_000), (1,), dt.f64),
        ((symbol("N"), 300), (1,), dt.f32),
        ((symbol("N"), 3), (0,), dt.f64),
        ((3, symbol("N")), (1,), dt.f64),
        ((300, 300, 4), (0, 1), dt.f64),
    ],
)
def test_sums_of_f32_that_may_be_long_are_held_in_f64(
    shape: tuple[Dim, ...], axes: tuple[int, ...], wide: dt.DType
) -> None:
    for op, held in (("sum", wide), ("max", dt.f32)):
        expr = stage_of(dt.f32, op, shape, axes).expr
        total = expr.x if isinstance(expr, Cast) else expr
        assert isinstance(total, Reduce)
        assert total.dtype is held


@pytest.mark.parametrize(("op", "last", "wanted"), [("min", False, 1), ("max", True, 3)])
def test_nan_wins_both_ways(op: str, last: bool, wanted: int) -> None:
    x = np.array([-np.inf, np.nan, np.inf, np.nan], np.float32)
    attrs: Attrs = {"op": op, "axis": 0, "keepdims": False, "last": last}
    assert ARG.reference((x,), attrs)[0] == wanted
