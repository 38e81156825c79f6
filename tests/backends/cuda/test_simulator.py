"""Whole kernels of hand-written PTX on the simulated GPU."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import SimulationError, Simulator

from .kernels import VECTOR_ADD


def test_vector_add_agrees_with_numpy() -> None:
    simulator = Simulator()
    module = simulator.load(VECTOR_ADD)
    rng = np.random.default_rng(1)
    n = 100_003
    a, b = rng.standard_normal((2, n)).astype(np.float32)
    pa, pb, pc = simulator.place(a, "a"), simulator.place(b, "b"), simulator.allocate(4 * n, "c")
    simulator.launch(module.kernel("add"), -(-n // 256), 256, (pa, pb, pc, n))
    np.testing.assert_array_equal(simulator.copy_out(pc, (n,), np.float32), a + b)


def test_a_missing_bound_is_out_of_bounds_with_its_thread() -> None:
    simulator = Simulator()
    module = simulator.load(VECTOR_ADD)
    a = np.zeros(1000, np.float32)
    pa, pb, pc = (simulator.place(a, name) for name in "abc")
    with pytest.raises(SimulationError, match="0 bytes after the end of a") as caught:
        simulator.launch(module.kernel("add"), 4, 256, (pa, pb, pc, 1024))
    place = caught.value.place
    assert caught.value.code == "TW-E1001"
    assert place is not None
    assert (place.thread, place.block) == ((232, 0, 0), (3, 0, 0))
    assert place.text.startswith("ld.global.f32")
    assert VECTOR_ADD.splitlines()[place.line - 1].strip().startswith("ld.global.f32")
