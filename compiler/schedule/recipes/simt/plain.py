"""The last resort: one thread for each element of the result, its reductions one after another."""

from __future__ import annotations

from ....target import Target
from ...nests import Nests, Reduction
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from .elementwise import share


def plain(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Keeps one scalar accumulator a reduction, in the registers of the element's thread."""
    s = Schedule(nests.func)
    if not nests.axes:
        return s
    loop = fuse_all(s, [a.var.name for a in nests.axes], "p")
    for t in reversed(nests.temporaries):
        s.do("compute_at", t.buffer.name, loop)
        if isinstance(t, Reduction):
            s.do("set_scope", t.buffer.name, "register")
    share(s, loop, choices)
    return s
