"""Winograd's form as native code: its error, and results that no number of threads changes."""

from __future__ import annotations

import numpy as np
import pytest

import tilewright
from tilewright import dtype as dt
from tilewright.backends.cpu.target import missing_features, resolve_target
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.lower import kernels
from tilewright.lower.winograd import Plan
from tilewright.runtime.executable import Executable
from tilewright.tensor.ir import Dim, symbol

LAYERS = [(56, 64), (28, 128), (14, 256), (7, 512)]
BOUNDS = {2: 2e-6, 4: 1e-5}


def layer(size: Dim, channels: int, columns: int, batch: Dim = 1) -> tuple[Graph, np.ndarray]:
    """relu(conv(x) + b), and the weights."""
    rng = np.random.default_rng(channels)
    w = rng.standard_normal((3, 3, channels, columns)) / np.sqrt(9 * channels)
    w = w.astype(np.float32)
    b = GraphBuilder("layer")
    x = b.input("x", TensorType(dt.f32, (batch, size, size, channels)))
    y = b.add("conv", x, b.constant(w), strides=(1, 1), lo=(1, 1), hi=(1, 1), dilations=(1, 1),
              groups=1)  # fmt: skip
    y = b.add("add", y, b.constant(np.linspace(-1, 1, columns, dtype=np.float32)))
    b.output(b.add("max", y, b.constant(np.float32(0))), "y")
    return b.finish(), w


def exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The layer in float64."""
    n, height, width, _ = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros((n * height * width, w.shape[-1]))
    for i, j in np.ndindex(3, 3):
        seen = padded[:, i : i + height, j : j + width].reshape(len(total), -1)
        total += seen @ w[i, j].astype(np.float64)
    total += np.linspace(-1, 1, w.shape[-1], dtype=np.float32)
    return np.maximum(total, 0).reshape(n, height, width, -1)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def is_rewritten(exe: Executable) -> bool:
    return "winograd" in exe.text("schedule")


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("size", "channels"), LAYERS)
def test_the_error_against_float64_stays_below_its_bound(
    size: int, channels: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "plan_winograd", lambda *_: Plan(m, 4, 4, 16, m == 2))
    graph, w = layer(size, channels, channels)
    x = image(1, size, size, channels)
    want = exact(x, w)
    (got,) = tilewright.compile(graph, cache=False)(x)
    assert np.abs(got - want).max() / np.abs(want).max() < BOUNDS[m]


@pytest.mark.parametrize("target", ["native", "x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(("size", "channels", "columns"), [(30, 19, 37), (14, 64, 80)])
def test_every_target_computes_odd_sizes(
    size: int, channels: int, columns: int, target: str
) -> None:
    if missing := missing_features(resolve_target(target)):
        pytest.skip(f"this CPU lacks {missing[0]}")
    graph, w = layer(size, channels, columns)
    exe = tilewright.compile(graph, target=target, cache=False)
    assert is_rewritten(exe)
    x = image(1, size, size, channels)
    np.testing.assert_allclose(exe(x)[0], exact(x, w), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("size", "channels", "columns"), [(56, 32, 48), (14, 64, 80), (28, 20, 9)])
def test_results_are_the_same_for_any_number_of_threads(
    size: int, channels: int, columns: int
) -> None:
    graph, _ = layer(size, channels, columns)
    x = image(1, size, size, channels)
    exe = tilewright.compile(graph, cache=False, threads=3)
    assert is_rewritten(exe)
    found = []
    for threads in (1, 2, 3):
        exe.threads = threads
        found.append(exe(x)[0].copy())
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_one_program_serves_every_batch() -> None:
    graph, w = layer(14, 32, 32, symbol("N"))
    exe = tilewright.compile(graph, cache=False)
    assert is_rewritten(exe)
    for n in (1, 2, 5):
        x = image(n, 14, 14, 32)
        np.testing.assert_allclose(exe(x)[0], exact(x, w), rtol=0, atol=5e-5)


def test_strict_math_computes_the_plain_sum() -> None:
    graph, w = layer(28, 32, 32)
    exe = tilewright.compile(graph, cache=False, math="strict")
    assert not is_rewritten(exe)
    x = image(1, 28, 28, 32)
    np.testing.assert_allclose(exe(x)[0], exact(x, w), rtol=0, atol=5e-6)
