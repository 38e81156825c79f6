"""Peaks: the kernels do the work that is counted, and figures are kept and looked up rightly.

How fast a machine is, no test can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tilewright.backends.cpu import peaks as peaks_module
from tilewright.backends.cpu.peaks import (
    Meter,
    Peaks,
    calibration,
    keep_peaks,
    known_peaks,
    measure_peaks,
)
from tilewright.backends.cpu.target import resolve_target
from tilewright.runtime.cache import NO_CACHE, Cache

PEAKS = Peaks(
    threads=4,
    flops=(100.0, 370.0),
    bandwidth={"L1": (90.0, 360.0), "L2": (60.0, 240.0), "L3": (30.0, 90.0), "DRAM": (10.0, 20.0)},
    capacity={"L1": (32, 128), "L2": (1024, 4096), "L3": (9000, 9000), "DRAM": (0, 0)},
)


@pytest.fixture
def meter() -> Iterator[Meter]:
    found = Meter(resolve_target())
    yield found
    found.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_chains_make_every_operation_they_are_counted_for(meter: Meter, threads: int) -> None:
    call, operations = meter.chains(threads, 10)
    assert operations == threads * 10 * 12 * meter.lanes * 2
    call()
    (out,) = (a for a in _arrays(call) if a.size > 4 * meter.lanes)
    values = out.view(np.float32)
    assert values.size == threads * 12 * meter.lanes
    # x = 0.5 at first, then ten times x * 0.5 + 0.5.
    assert np.all(values == np.float32(1 - 2.0**-11))


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_read_every_byte_they_are_counted_for(meter: Meter, threads: int) -> None:
    piece = 12 * meter.lanes * 4
    call, nbytes = meter.sums(threads, 5 * piece + 1, 3)
    assert nbytes == threads * 5 * piece * 3
    data, out = _arrays(call)
    data.view(np.float32)[:] = np.arange(data.nbytes // 4) % 11
    call()
    wanted = 3 * data.view(np.float32).reshape(threads, 5, -1).sum(axis=1)
    assert np.array_equal(out.view(np.float32).reshape(wanted.shape), wanted)


def _arrays(call: object) -> list[np.ndarray]:
    """The arrays that a call of the meter works on, which it keeps alive."""
    inner = next(c.cell_contents for c in call.__closure__ if callable(c.cell_contents))  # type: ignore[attr-defined]
    (arrays,) = inner.__defaults__
    return list(arrays)


def test_the_calibration_is_the_same_code_at_every_run(meter: Meter) -> None:
    again = Meter(resolve_target())
    try:
        assert again.digest == meter.digest
    finally:
        again.close()
    calibration(meter)()


def test_measuring_gives_every_figure() -> None:
    found = measure_peaks(seconds=0.001)
    assert list(found.bandwidth) == list(found.capacity) == ["L1", "L2", "L3", "DRAM"]
    rates = [found.flops, *found.bandwidth.values()]
    assert all(0 < one <= together for one, together in rates)
    assert found.threads >= 1


def test_figures_are_kept_for_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Cache(tmp_path, 1 << 20)
    assert known_peaks(store) is None
    keep_peaks(store, PEAKS)
    assert known_peaks(store) == PEAKS
    assert known_peaks(NO_CACHE) is None
    monkeypatch.setattr(peaks_module, "_processor", lambda: "model name: another")
    assert known_peaks(store) is None


def test_between_one_thread_and_all_figures_grow_in_proportion() -> None:
    assert [PEAKS.flops_of(n) for n in (1, 2, 4, 8)] == [100.0, 190.0, 370.0, 370.0]
    assert PEAKS.bandwidth_of("DRAM", 1) == 10.0
    single = Peaks(1, (5.0, 5.0), {}, {})
    assert single.flops_of(2) == 5.0


def test_data_is_read_from_the_nearest_level_that_holds_it() -> None:
    assert [PEAKS.level_of(n, 1) for n in (32, 33, 1024, 9000, 9001)] == [
        "L1", "L2", "L2", "L3", "DRAM",
    ]  # fmt: skip
    assert PEAKS.level_of(100, 4) == "L1"
