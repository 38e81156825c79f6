"""When two computations of a whole model agree."""

from __future__ import annotations

import numpy as np

# Sums are added up in another order; narrow floats are also rounded once to their own width.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


def assert_close(name: str, have: np.ndarray, want: np.ndarray) -> None:
    """Integers are equal; floats differ by little, relative to the largest of them."""
    assert have.shape == want.shape and have.dtype == want.dtype, name
    if want.dtype.kind in "iu":
        np.testing.assert_array_equal(have, want, err_msg=name)
        return
    tolerance = TOLERANCE[want.dtype.name]
    x, y = have.astype(np.float64), want.astype(np.float64)
    scale = float(np.abs(y[np.isfinite(y)]).max())
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale, err_msg=name)
