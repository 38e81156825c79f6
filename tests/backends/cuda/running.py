"""Runs the kernels of kernels.py on inputs whose results NumPy knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tilewright.backends.cuda.simulator import Counters, Options, Simulator

from .kernels import HISTOGRAM, SGEMM, SOFTMAX, VECTOR_ADD, tensor_core_gemm

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[str, Options | None], tuple[Array, Array, Counters]]
"""PTX and options to (what it computes, what it should, what it did)."""


@dataclass(frozen=True, slots=True)
class Example:
    """A kernel with inputs that need each of its barriers, waits and masks.

    Attributes:
        tolerance: how much of the largest result may be wrong.
    """

    text: str
    runs: tuple[Run, ...]
    tolerance: float = 0.0

    def wrong(self, text: str, options: Options | None = None) -> bool:
        """Whether a changed kernel computes something else."""
        return any(self._differs(run, text, options) for run in self.runs)

    def _differs(self, run: Run, text: str, options: Options | None) -> bool:
        found, expected, _ = run(text, options)
        finite = np.abs(expected[np.isfinite(expected)])
        bound = self.tolerance * float(finite.max())
        return not np.allclose(found, expected, rtol=0, atol=bound, equal_nan=True)


def add(text: str, options: Options | None = None, n: int = 1000) -> tuple[Array, Array, Counters]:
    simulator = Simulator(options)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, n)).astype(np.float32)
    pa, pb, pc = simulator.place(a, "a"), simulator.place(b, "b"), simulator.allocate(4 * n, "c")
    kernel = simulator.load(text).kernel("add")
    counters = simulator.launch(kernel, -(-n // 256), 256, (pa, pb, pc, n))
    return simulator.copy_out(pc, (n,), np.float32), a + b, counters


def sgemm(
    text: str, options: Options | None = None, m: int = 40, n: int = 50, k: int = 37
) -> tuple[Array, Array, Counters]:
    simulator = Simulator(options)
    rng = np.random.default_rng(2)
    a = rng.standard_normal((m, k)).astype(np.float32)
    b = rng.standard_normal((k, n)).astype(np.float32)
    pa, pb = simulator.place(a, "A"), simulator.place(b, "B")
    pc = simulator.allocate(4 * m * n, "C")
    kernel = simulator.load(text).kernel("sgemm")
    grid = (-(-n // 16), -(-m // 16))
    counters = simulator.launch(kernel, grid, (16, 16), (pa, pb, pc, m, n, k))
    found = simulator.copy_out(pc, (m, n), np.float32)
    return found, a.astype(np.float64) @ b.astype(np.float64), counters


def softmax(
    text: str, options: Options | None = None, rows: int = 5, n: int = 300
) -> tuple[Array, Array, Counters]:
    simulator = Simulator(options)
    x = np.random.default_rng(3).standard_normal((rows, n)).astype(np.float32) * 3
    px, py = simulator.place(x, "X"), simulator.allocate(x.nbytes, "Y")
    counters = simulator.launch(simulator.load(text).kernel("softmax"), rows, 128, (px, py, n))
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return simulator.copy_out(py, x.shape, np.float32), e / e.sum(1, keepdims=True), counters


def histogram(
    text: str, options: Options | None = None, n: int = 5001
) -> tuple[Array, Array, Counters]:
    simulator = Simulator(options)
    v = np.random.default_rng(4).integers(0, 1000, n).astype(np.int32)
    pv, ph = simulator.place(v, "V"), simulator.place(np.zeros(256, np.int32), "H")
    kernel = simulator.load(text).kernel("histogram")
    counters = simulator.launch(kernel, 4, 256, (pv, ph, n))
    expected = np.bincount(v[v % 3 == 0] & 255, minlength=256)
    expected += 2 * np.bincount(v[v % 3 == 1] & 255, minlength=256)
    return simulator.copy_out(ph, (256,), np.int32), expected, counters


def gemm(
    text: str,
    options: Options | None = None,
    m: int = 100,
    n: int = 72,
    k: int = 104,
    *,
    infinite: bool = False,
) -> tuple[Array, Array, Counters]:
    simulator = Simulator(options)
    rng = np.random.default_rng(5)
    a = rng.standard_normal((m, k)).astype(np.float16)
    b = rng.standard_normal((k, n)).astype(np.float16)
    if infinite:
        # What is padded must be zero on both sides: zero times infinity is no number.
        a[0, 0] = b[0, 0] = np.inf
    pa, pb = simulator.place(a, "A"), simulator.place(b, "B")
    pc = simulator.allocate(4 * m * n, "C")
    kernel = simulator.load(text).kernel("gemm")
    grid = (-(-n // 64), -(-m // 64))
    counters = simulator.launch(kernel, grid, 128, (pa, pb, pc, m, n, k))
    found = simulator.copy_out(pc, (m, n), np.float32)
    with np.errstate(invalid="ignore"):
        return found, a.astype(np.float64) @ b.astype(np.float64), counters


EXAMPLES = {
    "vector add": Example(VECTOR_ADD, (add,)),
    "sgemm": Example(SGEMM, (sgemm,), 1e-6),
    "softmax": Example(SOFTMAX, (softmax, partial(softmax, rows=2, n=100)), 1e-6),
    "histogram": Example(HISTOGRAM, (histogram, partial(histogram, n=1000))),
    "tensor-core gemm": Example(
        tensor_core_gemm(),
        (
            gemm,
            partial(gemm, m=40, n=40, k=24, infinite=True),
            partial(gemm, m=70, n=72, k=104, infinite=True),
            partial(gemm, m=20, n=24, k=8, infinite=True),
            partial(gemm, m=20, n=72, k=56),
        ),
        1e-6,
    ),
}
