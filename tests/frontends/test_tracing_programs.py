"""Random programs of NumPy functions give what NumPy gives, at two sizes, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tilewright as tw

Step = Callable[[Any, Any], Any]

STEPS: dict[str, Step] = {
    "x + y": lambda x, y: x + y,
    "x - y.mean(0)": lambda x, y: x - y.mean(0),
    "x * 2": lambda x, y: x * 2,
    "x / (1 + y * y)": lambda x, y: x / (1 + y * y),
    "tanh": lambda x, y: np.tanh(x) + 1,
    "where": lambda x, y: np.where(x > y, x, y / 2),
    "minimum": lambda x, y: np.minimum(x, y) + 1,
    "softmax": lambda x, y: np.exp(x - x.max(1, keepdims=True)) / (1 + np.abs(y)),
    "flip": lambda x, y: x[::-1] + y,
    "roll": lambda x, y: np.roll(x, 1, axis=1) - y,
    "joined": lambda x, y: np.concatenate([x, y], 1)[:, : x.shape[1]],
    "row": lambda x, y: x + y[0],
    "column": lambda x, y: x * y[:, -1:],
    "flat": lambda x, y: (x.reshape(-1) + y.ravel()).reshape(x.shape),
    "product": lambda x, y: (x @ y.T) @ x / (x.shape[0] * x.shape[1]),
    "transposed": lambda x, y: (x.T + y.T).T,
    "running": lambda x, y: np.cumsum(x, 1) / 4,
    "masked": lambda x, y: np.tril(x) + y,
    "rounded": lambda x, y: np.floor(x * 4) / 4 + y,
    "clip": lambda x, y: np.clip(x, -1, 1),
    "stacked": lambda x, y: np.stack([x, y]).sum(0),
    "cube": lambda x, y: x**3 / 9 + y**2 / 9,
    "sizes": lambda x, y: x / x.shape[0] + y * (x.shape[1] // 2),
}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5), st.integers(0, 99))
def test_programs_agree_with_numpy(names: list[str], seed: int) -> None:
    def program(x: np.ndarray, y: np.ndarray) -> Any:
        for name in names:
            x, y = STEPS[name](x, y), x
        return x, x.sum(), x.max(0)

    jitted = tw.jit(program)
    rng = np.random.default_rng(seed)
    for shape in ((3, 5), (6, 4), (17, 33)):
        x, y = rng.standard_normal(shape), rng.standard_normal(shape)
        for found, wanted in zip(jitted(x, y), program(x, y), strict=True):
            assert found.dtype == wanted.dtype and found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert jitted.compiles == 1
