"""Whole kernels of hand-written PTX on the simulated GPU."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import Options, SimulationError, Simulator, simulator

from .kernels import VECTOR_ADD
from .running import EXAMPLES


def test_vector_add_agrees_with_numpy() -> None:
    device = Simulator()
    module = device.load(VECTOR_ADD)
    rng = np.random.default_rng(1)
    n = 100_003
    a, b = rng.standard_normal((2, n)).astype(np.float32)
    pa, pb, pc = device.place(a, "a"), device.place(b, "b"), device.allocate(4 * n, "c")
    device.launch(module.kernel("add"), -(-n // 256), 256, (pa, pb, pc, n))
    np.testing.assert_array_equal(device.copy_out(pc, (n,), np.float32), a + b)


def test_a_missing_bound_is_out_of_bounds_with_its_thread() -> None:
    device = Simulator()
    module = device.load(VECTOR_ADD)
    a = np.zeros(1000, np.float32)
    pa, pb, pc = (device.place(a, name) for name in "abc")
    with pytest.raises(SimulationError, match="0 bytes after the end of a") as caught:
        device.launch(module.kernel("add"), 4, 256, (pa, pb, pc, 1024))
    place = caught.value.place
    assert caught.value.code == "TW-E1001"
    assert place is not None
    assert (place.thread, place.block) == ((232, 0, 0), (3, 0, 0))
    assert place.text.startswith("ld.global.f32")
    assert VECTOR_ADD.splitlines()[place.line - 1].strip().startswith("ld.global.f32")


@pytest.mark.parametrize("name", EXAMPLES)
def test_results_do_not_depend_on_how_many_blocks_run_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = EXAMPLES[name]
    results = []
    for lanes in (1, 512, 1 << 15):
        monkeypatch.setattr(simulator, "LANES", lanes)
        found, _, counters = example.runs[0](example.text, None)
        results.append((found, counters))
    for found, counters in results[1:]:
        np.testing.assert_array_equal(found, results[0][0])
        assert counters == results[0][1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_results_do_not_depend_on_what_is_looked_for(name: str) -> None:
    example = EXAMPLES[name]
    plain = Options(races=False, sharing=False, counters=False)
    first, _, _ = example.runs[0](example.text, None)
    second, _, _ = example.runs[0](example.text, plain)
    np.testing.assert_array_equal(first, second)
