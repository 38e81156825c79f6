"""Timing two calls in turns, so that what disturbs the machine disturbs both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST_ROUNDS = 5
MOST_ROUNDS = 200
BLOCK_SECONDS = 0.001
"""A block of calls lasts at least this long, so that the clock is exact enough."""
HOPELESS = 1.15
"""A candidate whose ratio is above this after the least rounds is not timed any longer."""
_FAR = 3.0
"""One whose first calls take this many times as long is not timed at all."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contenders timed in turns.

    Attributes:
        ratio: the second one's time over the first one's, of their shortest blocks.
        seconds: the first one's time of a call in its shortest block.
        rounds: how many there were.
    """

    ratio: float
    seconds: float
    rounds: int


def pair(first: Callable[[], object], second: Callable[[], object], seconds: float) -> Pair:
    """Times two contenders in turns of short blocks; the order is turned around every round.

    What else the machine does makes blocks longer, never shorter: each contender's shortest block
    counts. Where most blocks are disturbed, as on a machine with more to do than cores, medians and
    quartiles are of disturbed blocks, too.

    Args:
        first, second: what to call.
        seconds: how long to go on; at least five rounds are made.
    """
    once = [_seconds(c) for c in (first, second)]
    if once[1] > _FAR * once[0]:
        once = [min(t, _seconds(c)) for t, c in zip(once, (first, second), strict=True)]
        if once[1] > _FAR * once[0]:
            return Pair(once[1] / once[0], once[0], 1)
    counts = [max(1, min(10_000, round(BLOCK_SECONDS / t))) for t in once]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < MOST_ROUNDS:
        done = len(times[0])
        if done >= LEAST_ROUNDS:
            over = time.perf_counter() >= end
            if over or (done == LEAST_ROUNDS and _ratio(times) > HOPELESS):
                break
        for i in (0, 1) if done % 2 == 0 else (1, 0):
            times[i].append(_block((first, second)[i], counts[i]))
    return Pair(_ratio(times), min(times[0]), len(times[0]))


def _ratio(times: tuple[list[float], list[float]]) -> float:
    return min(times[1]) / min(times[0])


def _seconds(call: Callable[[], object]) -> float:
    """The seconds of the faster of two calls after the first."""
    call()
    return max(1e-8, min(seconds_of(call), seconds_of(call)))


def seconds_of(call: Callable[[], object]) -> float:
    """The seconds of one call."""
    return _block(call, 1)


def _block(call: Callable[[], object], count: int) -> float:
    """The seconds of one of several calls in a row."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
