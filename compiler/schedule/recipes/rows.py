"""Recipe for reductions along contiguous rows: softmax, norms, sums over the last axes.

Every row is one iteration of the shared loop; its temporaries live in registers and in the
thread's own scratch, each reduction runs over several vectors at once and is combined at the end.
"""

from __future__ import annotations

from ...target import Target
from ..nest import find_loop
from ..nests import MapStage, Nests, Reduction
from ..schedule import Schedule
from .choices import Choices
from .elementwise import fuse_all, share, vectorise


def rows(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Places all temporaries inside the loop over rows and vectorises along the row."""
    s = Schedule(nests.func)
    held = set(nests.reductions[0].axes)
    outer = [a.var.name for a in nests.axes if a.var.name in held]
    inner = [a.var.name for a in nests.axes if a.var.name not in held]
    width = target.lanes(32) * choices.pick("unroll", 4, (1, 2, 4))
    if outer:
        row = fuse_all(s, outer, "row")
        for t in reversed(nests.temporaries):
            s.do("compute_at", t.buffer.name, row)
    for t in nests.temporaries:
        match t:
            case Reduction():
                _reduce(s, t, width)
            case MapStage() if len(t.buffer.shape) == len(held):
                s.do("set_scope", t.buffer.name, "register")
            case MapStage():
                vectorise(s, t.axes[-1].var.name, width)
    if inner:
        vectorise(s, inner[-1], width)
    axes = nests.axes if inner else (*nests.axes, *nests.reductions[0].reduce)
    if outer:
        share(s, row, axes, choices)
    return s


def _reduce(s: Schedule, t: Reduction, width: int) -> None:
    s.do("set_scope", t.buffer.name, "register")
    last = t.reduce[-1].var.name
    extent = find_loop(s.func, last, "rows").extent
    if isinstance(extent, int) and extent <= width:
        if extent > 1:
            s.do("set_kind", last, "vector")
        return
    s.do("rfactor", last, width, f"{t.buffer.name}_p")
