"""Taking turns: who is called when, how often, and when it ends. No test looks at a clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilewright.benchmarking import measure
from tilewright.benchmarking.measure import Timing, interleave, precise, ratio


class Clock:
    """A clock that only moves when something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[str] = []

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.seen.append(name)
            self.now += seconds

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("tilewright.benchmarking.measure.time.perf_counter", found)
    return found


def turns(seen: list[str]) -> str:
    """The calls without repeats, after those that settle how many there are in a block."""
    text = "".join(seen)
    return "".join(c for k, c in enumerate(text) if k == 0 or text[k - 1] != c)


def test_the_order_is_turned_around_every_round(clock: Clock) -> None:
    calls = [clock.worker(name, 0.01) for name in "ABC"]
    interleave(calls, 0.001)
    # Counting calls goes ABC; rounds then go ABC CBA ABC CBA ABC, neighbours of a kind merged.
    assert turns(clock.seen) == "ABC" + "ABCBABCBABC"


def test_a_block_is_as_long_as_asked_and_its_first_call_is_not_timed(clock: Clock) -> None:
    (timing,) = interleave([clock.worker("A", 0.01)], 0.001, block_seconds=0.05)
    assert len(timing.blocks) == measure.LEAST_ROUNDS
    assert len(timing.calls) == 5 * measure.LEAST_ROUNDS
    assert len(clock.seen) == 4 + 6 * measure.LEAST_ROUNDS
    assert timing.minimum == pytest.approx(0.01)
    assert timing.median == pytest.approx(0.01)


def test_a_call_longer_than_a_block_is_a_block(clock: Clock) -> None:
    (timing,) = interleave([clock.worker("A", 3.0)], 0.001)
    assert len(timing.calls) == len(timing.blocks) == measure.LEAST_ROUNDS


def test_measuring_ends_with_the_budget(clock: Clock) -> None:
    first, second = interleave([clock.worker("A", 0.01), clock.worker("B", 0.02)], 10.0)
    spent = clock.now
    assert 10.0 <= spent < 10.5
    assert len(first.blocks) == len(second.blocks)
    assert ratio(first, second) == pytest.approx(0.5)


def test_measuring_ends_early_once_enough_is_known(clock: Clock) -> None:
    asked: list[int] = []

    def enough(blocks: object) -> bool:
        assert isinstance(blocks, list)
        asked.append(len(blocks[0]))
        return len(blocks[0]) >= 20

    timings = interleave([clock.worker("A", 0.01)] * 2, 1e9, enough=enough, earliest=15)
    assert asked[0] == 15
    assert asked == sorted(set(asked))
    assert len(timings[0].blocks) == asked[-1] >= 20


def test_ratios_are_known_when_all_their_intervals_are_narrow() -> None:
    steady, wild = [1.0] * 20, [1.0, 5.0] * 10
    assert precise(0.02, 1)([steady, steady])
    assert not precise(0.02, 1)([steady, wild])
    assert not precise(0.02, 2)([steady, steady, wild])
    # Contenders that are not asked about may be wild.
    assert precise(0.02, 1)([steady, steady, wild])
    # Two that are wild in the same way have a ratio that is known.
    assert precise(0.02, 1)([wild, wild])
    assert precise(0.02, 0)([steady])
    assert not precise(0.02, 0)([wild])


def test_a_percentile_is_a_time_that_was_measured() -> None:
    timing = Timing(tuple(float(k) for k in range(1, 101)), (1.0,))
    assert timing.percentile(90) == 91.0
    assert timing.percentile(99) == 100.0


def test_calls_are_timed_by_the_clock_that_is_given(clock: Clock) -> None:
    own = Clock()

    def call() -> None:
        clock.now += 0.01
        own.now += 0.004

    (timing,) = interleave([call], 0.001, clock=own, block_seconds=0.02)
    assert timing.median == pytest.approx(0.004)
    assert len(timing.calls) == 5 * len(timing.blocks)
