"""Interleaved timing: contenders take turns in short blocks of calls.

What disturbs the machine then disturbs them alike; a ratio compares neighbouring blocks. Turns are
ABBA: the order is turned around every round, so that a drift favours nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from .significance import Interval, median_interval, paired_ratio

BLOCK_SECONDS = 0.05
LEAST_ROUNDS = 5
PRECISION = 0.02
"""The relative half-width of the intervals of ratios at which a comparison with others ends."""
_MOST_IN_BLOCK = 1000
_GROWTH = 1.25
"""How many times as many rounds are made before the interval is computed again."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of one contender's calls.

    Attributes:
        calls: all timed calls.
        blocks: the median of each block, one a round.
    """

    calls: tuple[float, ...]
    blocks: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The fastest call."""
        return min(self.calls)

    def percentile(self, percent: float) -> float:
        """The time that ``percent`` of the calls do not exceed."""
        return float(np.percentile(self.calls, percent, method="higher"))

    @property
    def median(self) -> float:
        """The middle of all calls."""
        return median(self.calls)


Clock = Callable[[], float]
Block = Callable[[int], list[float]]
"""Makes one call that is not timed, then so many that are; returns their seconds."""
Enough = Callable[[Sequence[Sequence[float]]], bool]
"""Whether the blocks so far, of each contender, say enough."""


def interleave(
    contenders: Sequence[Callable[[], object]],
    seconds: float,
    *,
    enough: Enough | None = None,
    earliest: int = LEAST_ROUNDS,
    block_seconds: float = BLOCK_SECONDS,
    clock: Clock | None = None,
) -> list[Timing]:
    """Times functions of this process in turns.

    Args:
        contenders: what to call.
        seconds, enough, earliest, block_seconds: as for ``take_turns``.
        clock: what times calls; by default it runs on whatever the calls do, as on a wall.
    """
    blocks = [block_of(c, clock or time.perf_counter) for c in contenders]
    return take_turns(
        blocks, seconds, enough=enough, earliest=earliest, block_seconds=block_seconds
    )


def block_of(call: Callable[[], object], clock: Clock = time.perf_counter) -> Block:
    """What times a function of this process."""
    return partial(_block, call, clock)


def take_turns(
    contenders: Sequence[Block],
    seconds: float,
    *,
    enough: Enough | None = None,
    earliest: int = LEAST_ROUNDS,
    block_seconds: float = BLOCK_SECONDS,
) -> list[Timing]:
    """Times contenders in turns.

    Each round gives every contender one block of calls: the first is not timed, since it finds
    caches and cores as the one before left them.

    Args:
        contenders: what makes and times a block of calls.
        seconds: how long to go on at most, for all together; LEAST_ROUNDS are made in any case.
        enough: asked now and then whether to stop before that.
        earliest: after how many rounds it is asked for the first time.
        block_seconds: how long a block is to take; it is one call at least.
    """
    counts = [_calls_in_block(c, block_seconds) for c in contenders]
    calls: list[list[float]] = [[] for _ in contenders]
    blocks: list[list[float]] = [[] for _ in contenders]
    end = time.perf_counter() + seconds
    rounds, asked = 0, max(earliest, LEAST_ROUNDS)
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        if enough is not None and rounds >= asked:
            if enough(blocks):
                break
            asked = int(rounds * _GROWTH) + 1
        order = range(len(contenders))
        for i in order if rounds % 2 == 0 else reversed(order):
            block = contenders[i](counts[i])
            calls[i] += block
            blocks[i].append(median(block))
        rounds += 1
    return [Timing(tuple(c), tuple(b)) for c, b in zip(calls, blocks, strict=True)]


def _calls_in_block(contender: Block, seconds: float) -> int:
    contender(1)
    once = min(contender(1))
    return max(1, min(_MOST_IN_BLOCK, round(seconds / max(once, 1e-9))))


def _block(call: Callable[[], object], clock: Clock, count: int) -> list[float]:
    call()
    times = []
    for _ in range(count):
        began = clock()
        call()
        times.append(clock() - began)
    return times


def ratio(ours: Timing, theirs: Timing) -> float:
    """Our time over theirs, block by block: below 1, we are faster."""
    return median(a / b for a, b in zip(ours.blocks, theirs.blocks, strict=True))


def precise(half_width: float, others: int) -> Enough:
    """What stops a measurement: all ratios of the first contender to others are known well.

    Args:
        half_width: of the intervals, relative.
        others: how many contenders after the first one count; where there are none, it is the
            first one's own time that is to be known.
    """

    def enough(blocks: Sequence[Sequence[float]]) -> bool:
        return all(i.half_width < half_width for i in _intervals(blocks, others))

    return enough


def _intervals(blocks: Sequence[Sequence[float]], others: int) -> list[Interval]:
    ours, *rest = blocks
    if not others:
        return [median_interval(ours)]
    return [paired_ratio(ours, theirs) for theirs in rest[:others]]
