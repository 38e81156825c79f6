"""Reductions along contiguous rows: softmax, norms, sums over the last axes.

One block takes one row. Its threads reduce what they read, in steps as wide as the block, and
combine their results through shared memory; values that several steps need stay there.
"""

from __future__ import annotations

from ....target import Target
from ...nests import MapStage, Nests, Reduction
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all

MOST_SHARED_BYTES = 40 << 10
"""What a block may declare of shared memory on every machine, less room for partial results."""


def rows(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Places all temporaries in the loop over rows, and spreads each step over the threads."""
    s = Schedule(nests.func)
    held = set(nests.reductions[0].axes)
    outer = [a.var.name for a in nests.axes if a.var.name in held]
    inner = [a.var.name for a in nests.axes if a.var.name not in held]
    threads = choices.pick("threads", 128, (32, 64, 128, 256))
    if outer:
        row = fuse_all(s, outer, "row")
        for t in reversed(nests.temporaries):
            s.do("compute_at", t.buffer.name, row)
        s.do("set_kind", row, "block.x")
    for t in nests.temporaries:
        match t:
            case Reduction():
                _reduce(s, t, threads)
            case MapStage() if len(t.buffer.shape) == len(held):
                s.do("set_scope", t.buffer.name, "register")
            case MapStage():
                s.do("set_scope", t.buffer.name, "shared")
                spread(s, t.axes[-1].var.name, threads)
    if inner:
        spread(s, inner[-1], threads)
    return s


def shared_bytes(nests: Nests) -> int | None:
    """What the values of a row that are kept take of shared memory; None if that is too much."""
    held = len(nests.reductions[0].axes)
    total = 0
    for t in nests.temporaries:
        if isinstance(t, MapStage) and len(t.buffer.shape) > held:
            columns = t.buffer.shape[-1]
            if not isinstance(columns, int):
                return None
            total += columns * t.buffer.dtype.bytes
    return total if total <= MOST_SHARED_BYTES else None


def spread(s: Schedule, loop: str, threads: int) -> None:
    """Gives each thread every ``threads``-th iteration."""
    s.do("split", loop, threads, f"{loop}_o", f"{loop}_t", "guard")
    s.do("set_kind", f"{loop}_t", "thread.x")


def _reduce(s: Schedule, t: Reduction, threads: int) -> None:
    """Each thread's own result first, then all of them, by every thread."""
    s.do("set_scope", t.buffer.name, "register")
    last = t.reduce[-1].var.name
    partial = f"{t.buffer.name}_p"
    s.do("rfactor", last, threads, partial)
    s.do("set_scope", partial, "shared")
    for suffix in ("z", "i", "t"):
        name = f"{last}_{suffix}"
        if name in s.loop_names():
            s.do("set_kind", name, "thread.x")
    s.do("set_kind", f"{last}_r", "serial")
