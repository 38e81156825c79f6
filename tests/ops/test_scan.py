"""cumulative: type rule and reference against another engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops.op import Attrs, OpError, Sample
from tilewright.ops.scan import SCAN
from tilewright.tensor.ir import symbol

Peer = Callable[..., list[np.ndarray]]
OP = SCAN["cumulative"]
ATTRS: Attrs = {"op": "sum", "axis": 0, "exclusive": False, "reverse": False}


def is_sum(sample: Sample) -> bool:
    x = sample.inputs[0]
    # Other engines add long rows up in f32.
    plain = x.size < 1000 and x.dtype in (np.float32, np.int64, np.float64)
    return plain and sample.attrs["op"] == "sum"


@pytest.mark.parametrize("sample", [s for s in OP.samples() if is_sum(s)], ids=lambda s: s.note)
def test_sums_agree_with_another_engine(sample: Sample, peer: Peer) -> None:
    attributes = {name: int(bool(sample.attrs[name])) for name in ("exclusive", "reverse")}
    axis = np.array(sample.attrs["axis"], np.int64)
    (theirs,) = peer("CumSum", [sample.inputs[0], axis], attributes)
    (ours,) = OP.reference(sample.inputs, sample.attrs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_exclusive_reverse_products_start_at_one_from_the_end() -> None:
    attrs = {**ATTRS, "op": "prod", "exclusive": True, "reverse": True}
    (y,) = OP.reference((np.array([2, 3, 5, 7], np.int32),), attrs)
    np.testing.assert_array_equal(y, np.array([105, 35, 7, 1], np.int32))


def test_a_long_running_sum_of_f32_does_not_drift() -> None:
    x = np.full(10_000, 0.1, np.float32)
    (y,) = OP.reference((x,), ATTRS)
    np.testing.assert_allclose(y, np.cumsum(x, dtype=np.float64), rtol=1e-6)


def test_the_type_is_kept() -> None:
    x = TensorType(dt.f16, (symbol("N"), 3))
    assert OP.infer((x,), ATTRS) == (x,)


def test_bool_is_refused() -> None:
    with pytest.raises(OpError, match="cast first"):
        OP.infer((TensorType(dt.bool_, (3,)),), ATTRS)
