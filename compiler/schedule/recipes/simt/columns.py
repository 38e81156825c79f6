"""Reductions along leading axes: sums over a batch, means over the positions of an image.

A block takes neighbouring columns, one a thread of each warp; its warps share the reduction. For
few columns and many rows, where one thread a column would leave the machine idle.
"""

from __future__ import annotations

from ....target import Target
from ....tensor.simplify import same_dim
from ....tensor.walk import stores
from ...nests import Nests
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile_plan import load_strides, loads, size

COLUMNS = 32
LEAST_ROWS = 32
"""Shorter reductions are left to one thread."""
THREADS_PER_PROCESSOR = 512
"""With so many elements a processor, each has a thread of its own and all are busy."""


def can_columns(nests: Nests, target: Target) -> bool:
    """Whether neighbouring columns are contiguous, and too few for a thread each."""
    assert target.threads is not None
    reductions = nests.reductions
    if not reductions or len(reductions) != len(nests.temporaries) or not nests.axes:
        return False
    column = nests.axes[-1]
    elements, length = 1, 1
    for a in nests.axes:
        elements *= size(a.extent)
    for r in reductions:
        if r.axes != tuple(a.var.name for a in nests.axes):
            return False
        own = r.spatial[-1].var
        steps = [(load_strides(r, x) or {}).get(own) for x in loads(r.body)]
        if not any(d is not None and same_dim(d, 1) for d in steps):
            return False
        rows = 1
        for a in r.reduce:
            rows *= size(a.extent)
        length = max(length, rows)
    busy = target.threads.processors * THREADS_PER_PROCESSOR
    return elements < busy and length >= LEAST_ROWS and size(column.extent) >= 8


def columns(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Blocks of columns, each reduced by the warps of its block together."""
    s = Schedule(nests.func)
    *outer, column = (a.var.name for a in nests.axes)
    warps = choices.pick("warps", 8, (4, 8, 16, 32))
    s.do("split", column, COLUMNS, f"{column}_b", f"{column}_x", "guard")
    block = fuse_all(s, [*outer, f"{column}_b"], "block")
    for r in nests.reductions:
        s.do("compute_at", r.buffer.name, block)
    for r in nests.reductions:
        s.do("set_scope", r.buffer.name, "register")
        own = r.spatial[-1].var.name
        units = [a.var.name for a in r.spatial[:-1]]
        over = [a.var.name for a in r.reduce]
        s.do("reorder", (*units, own, *over))
        rows = fuse_all(s, over, f"{r.buffer.name}_k")
        s.do("combine_columns", own, rows, warps, f"{r.buffer.name}_p")
        s.do("set_kind", r.init[-1], "thread.x")
        position = len(r.spatial) - 1
        if position:
            s.do("spread", r.buffer.name, ((position, 1),))
    s.do("set_kind", f"{column}_x", "thread.x")
    for b in dict.fromkeys(x.name for x in nests.func.params if x.name in _written(nests)):
        s.do("on_one_thread", b, f"{b}_one", "thread.y")
    s.do("set_kind", block, "block.x")
    return s


def _written(nests: Nests) -> frozenset[str]:
    kept = {t.buffer.name for t in nests.temporaries}
    return frozenset(x.buffer.name for x in stores(nests.func.body)) - kept
