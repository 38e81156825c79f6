"""Random programs of NumPy functions give what NumPy gives, at two sizes, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tilewright as tw

Step = Callable[[Any, Any], Any]


def written(x: Any, y: Any) -> Any:
    z = np.zeros_like(x)
    z[1:] = x[:-1]
    z[0] = y[0] / 2
    z[:, -1] += 1
    return z


def written_under_a_mask(x: Any, y: Any) -> Any:
    z = x.copy()
    z[z > 1] = 1
    z[y[:, 0] > 0] = x[0]
    np.minimum(z, y, out=z, where=y > 0)
    return z


def accumulated(x: Any, y: Any) -> Any:
    z = y.copy()
    np.add.at(z, [0, 2, 0], x[:3])
    return z


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
    "median": lambda x, y: x - np.median(y, 0),
    "quantile": lambda x, y: x - np.quantile(y, [0.2, 0.7], axis=1).sum(0)[:, None],
    "sorted": lambda x, y: np.sort(x, 1) + y,
    "ranks": lambda x, y: x + np.argsort(np.argsort(y, 0), 0),
    "einsum": lambda x, y: np.einsum("ij,kj->ik", x, y) @ y / x.size,
    "gradient": lambda x, y: np.gradient(x, axis=0) + y,
    "masked sum": lambda x, y: x - np.mean(x, 1, where=np.abs(y) >= 0, keepdims=True),
    "interpolated": lambda x, y: np.interp(x, [-2, 0, 2], [1.0, -1.0, 3.0]) + y,
    "written": written,
    "written under a mask": written_under_a_mask,
    "accumulated": accumulated,
    "padded": lambda x, y: np.pad(x, 1, "symmetric")[1:-1, 2:] + y,
    "turned": lambda x, y: np.rot90(np.rot90(x), 2).T[:, ::-1] + y,
    "normed": lambda x, y: x / (1 + np.linalg.norm(y, axis=1, keepdims=True)),
    "outer": lambda x, y: x + np.multiply.outer(x[:, 0], y[0]),
    "differences": lambda x, y: np.diff(x, axis=1, prepend=y[:, :1]),
    "correlated": lambda x, y: x @ np.cov(y, rowvar=False) / x.shape[1],
    "taken": lambda x, y: np.take_along_axis(x, np.argmax(y, 1)[:, None], 1) + y,
    "sizes": lambda x, y: x / x.shape[0] + y * (x.shape[1] // 2),
}


@settings(max_examples=15, deadline=None)
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
