"""When two computations of an op agree: the tolerance follows from the op and the dtype."""

from __future__ import annotations

import numpy as np

from tilewright.dtype import bf16, f16, f32, f64, from_numpy
from tilewright.graph.interpret import resolve_attrs
from tilewright.ops import Op, Sample

# Functions that NumPy and the expressions may each round in their own last bit.
# fmt: off
ROUNDED = frozenset({
    "exp", "exp_flushed", "log", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "pow",
})
# fmt: on
ULPS = 4
EPSILON = {f64: 2.0**-52, f32: 2.0**-23, f16: 2.0**-10, bf16: 2.0**-7}


def reference(op: Op, sample: Sample) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        return op.reference(sample.inputs, resolve_attrs(sample.attrs, {}))


def assert_agree(op: Op, sample: Sample, have: np.ndarray, want: np.ndarray) -> None:
    note = f"{op.name}: {sample.note} {dict(sample.attrs)}"
    assert have.dtype == want.dtype and have.shape == want.shape, note
    dtype = from_numpy(want.dtype)
    assert dtype is not None
    if not dtype.is_float:
        np.testing.assert_array_equal(have, want, err_msg=note)
        return
    # f64 holds every float, and NumPy knows the nan of f64, but not that of bf16.
    wide_have, wide_want = have.astype(np.float64), want.astype(np.float64)
    exact = op.kind in ("injective", "source")
    if exact or (op.kind == "elementwise" and op.name not in ROUNDED):
        np.testing.assert_array_equal(wide_have, wide_want, err_msg=note)
        return
    tolerance = ULPS * EPSILON[dtype]
    finite = wide_want[np.isfinite(wide_want)]
    # Sums are compared relative to their largest term, elementwise results each to itself.
    scale = 0.0 if op.kind == "elementwise" else float(np.abs(finite).max(initial=0.0))
    smallest = float(np.finfo(np.float16).tiny) * tolerance if dtype is f16 else 1e-38
    np.testing.assert_allclose(
        wide_have,
        wide_want,
        rtol=tolerance,
        atol=tolerance * scale + smallest,
        err_msg=note,
    )
