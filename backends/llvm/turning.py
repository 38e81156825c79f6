"""Which parallel loops are walked forth and back in turns, so that caches keep what came last.

Each step of a recurrence reads the same weights. Where they are more than a cache holds, a walk
that always goes the same way finds none of them there, since what was read longest ago has made
room for what came last. A walk back begins with what came last: a core with 2 MB of cache reads
6.8 MB of an LSTM's weights in 0.87 of the time, and two cores, each of which walks through its own
half (see cpu/pool.py), in 0.77 of it.

A kernel turns each time it is called. It does not know whether its weights are those of the call
before; where they are not, the way does not matter. Nor does what is computed depend on it.
"""

from __future__ import annotations

from math import prod

from tilewright.tensor.ir import Buffer, For, Load, Prefetch, Store
from tilewright.tensor.walk import block_loads, free_vars, statements, stores

LEAST_ITERATIONS = 8
"""Of fewer, those that a cache still holds are hardly one."""
LEAST_BYTES, MOST_BYTES = 1 << 20, 16 << 20
"""Less stays in the cache whichever way it is walked; of more, next to nothing does."""
READ_PER_WRITTEN = 16
"""How many times as many bytes are read: where there are many rows of results, reading weights is
not what takes the time, and results of other loops are read and written in an order of theirs."""
_PANEL_RANK = 3


def walks_back(loop: For) -> bool:
    """Whether each second walk of a parallel loop should go from its last iteration to its first.

    It should where each iteration reads its own panel of a large operand, writes little, and asks
    ahead for nothing of the next one.
    """
    count = loop.extent
    if not isinstance(count, int) or count < LEAST_ITERATIONS or loop.start != 0:
        return False
    asked = [s for s in statements(loop.body) if isinstance(s, Prefetch)]
    touched: list[Load | Prefetch] = [*block_loads(loop.body), *asked]
    written = {s.buffer for s in stores(loop.body) if s.buffer.scope == "global"}
    panels = {
        x.buffer for x in touched if len(x.indices) >= _PANEL_RANK and loop.var is x.indices[0]
    }
    if not all(_is_own(x, loop) for x in touched if x.buffer in panels):
        return False
    read, results = (sum(map(_bytes, some)) for some in (panels - written, written))
    return LEAST_BYTES <= read <= MOST_BYTES and read >= READ_PER_WRITTEN * results


def _is_own(x: Load | Prefetch | Store, loop: For) -> bool:
    """Whether what is touched is a part of the panel that has the iteration's number."""
    first, *others = x.indices
    return first is loop.var and not any(loop.var in free_vars(i) for i in others)


def _bytes(buffer: Buffer) -> int:
    """The bytes of a buffer; those of symbolic shape count as large."""
    if not all(isinstance(d, int) for d in buffer.shape):
        return MOST_BYTES
    return buffer.dtype.bytes * prod(d for d in buffer.shape if isinstance(d, int))
