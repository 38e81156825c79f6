"""Timing two calls in turns, so that what disturbs the machine disturbs both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

LEAST_ROUNDS = 5
MOST_ROUNDS = 200
BLOCK_SECONDS = 0.001
"""A block of calls lasts at least this long, so that the clock is exact enough."""
HOPELESS = 1.15
"""A candidate whose ratio is above this after the least rounds is not timed any longer."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contenders timed in turns.

    Attributes:
        ratio: the second one's time over the first one's: the median over rounds.
        seconds: the first one's time of a call.
        rounds: how many there were.
    """

    ratio: float
    seconds: float
    rounds: int


def pair(first: Callable[[], object], second: Callable[[], object], seconds: float) -> Pair:
    """Times two contenders in turns of short blocks; the order is turned around every round.

    Args:
        first, second: what to call.
        seconds: how long to go on; at least five rounds are made.
    """
    counts = [_calls_in_block(c) for c in (first, second)]
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
    return Pair(_ratio(times), median(times[0]), len(times[0]))


def _ratio(times: tuple[list[float], list[float]]) -> float:
    return median(b / a for a, b in zip(*times, strict=True))


def _calls_in_block(call: Callable[[], object]) -> int:
    call()
    once = min(_block(call, 1) for _ in range(2))
    return max(1, min(10_000, round(BLOCK_SECONDS / max(once, 1e-8))))


def _block(call: Callable[[], object], count: int) -> float:
    """The seconds of one of several calls in a row."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
