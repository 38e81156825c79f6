"""Allocations of the simulated GPU: apart, guarded, and used again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.backends.cuda.simulator import SimulationError, Simulator

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(0, 5000)),
        st.tuples(st.just("free"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_allocations_do_not_meet_and_keep_what_is_in_them(steps: list[tuple[str, int]]) -> None:
    simulator = Simulator()
    live: dict[int, bytes] = {}
    rng = np.random.default_rng(0)
    for action, number in steps:
        if action == "allocate":
            address = simulator.allocate(number)
            data = rng.integers(0, 256, number).astype(np.uint8)
            assert address % 256 == 0
            if number:
                with pytest.raises(SimulationError, match="never written"):
                    simulator.copy_out(address, (number,), np.uint8)
            simulator.copy_in(address, data)
            live[address] = data.tobytes()
        elif live:
            address = sorted(live)[number % len(live)]
            simulator.free(address)
            del live[address]
    spans = sorted((address, address + len(data)) for address, data in live.items())
    for (_, end), (start, _) in pairwise(spans):
        assert start - end >= 256
    for address, kept in live.items():
        assert simulator.copy_out(address, (len(kept),), np.uint8).tobytes() == kept


def test_memory_grows_and_is_used_again() -> None:
    simulator = Simulator()
    first = simulator.place(np.arange(1000))
    large = simulator.allocate(10 << 20)
    np.testing.assert_array_equal(simulator.copy_out(first, (1000,), np.int64), np.arange(1000))
    for _ in range(50):
        simulator.free(large)
        large = simulator.allocate(10 << 20)
    assert simulator.memory.bytes.size < 32 << 20


def test_the_host_stays_inside_allocations() -> None:
    simulator = Simulator()
    place = simulator.allocate(64, "x")
    for act in (
        lambda: simulator.copy_in(place, np.zeros(65, np.uint8)),
        lambda: simulator.copy_in(place - 8, np.zeros(4, np.uint8)),
        lambda: simulator.copy_out(place + 60, (2,), np.float32),
        lambda: simulator.free(place + 8),
        lambda: simulator.allocate(-1),
    ):
        with pytest.raises(SimulationError) as caught:
            act()
        assert caught.value.code == "TW-E1016"
    simulator.copy_in(place, np.zeros(16, np.float32))
    partial = simulator.allocate(64)
    with pytest.raises(SimulationError, match="64 of 64 bytes") as caught:
        simulator.copy_out(partial, (16,), np.float32)
    assert caught.value.code == "TW-E1003"
    simulator.copy_out(partial, (16,), np.float32, written=False)
