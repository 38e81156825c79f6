"""The last resort: loops as lowering wrote them, with each reduction next to its use."""

from __future__ import annotations

from ...target import Target
from ..nests import Nests, Reduction
from ..schedule import Schedule
from .choices import Choices
from .elementwise import fuse_all, share


def plain(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Keeps one scalar accumulator a reduction and shares the outermost loop."""
    s = Schedule(nests.func)
    if not nests.axes:
        return s
    names = [a.var.name for a in nests.axes]
    innermost = fuse_all(s, names, "p")
    for t in reversed(nests.temporaries):
        s.do("compute_at", t.buffer.name, innermost)
        if isinstance(t, Reduction):
            s.do("set_scope", t.buffer.name, "register")
    axes = nests.axes
    for r in nests.reductions:
        axes = (*axes, *r.reduce)
    share(s, innermost, axes, choices)
    return s
