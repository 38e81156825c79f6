"""Nests without a reduction: one thread for a few neighbouring elements."""

from __future__ import annotations

from ....target import Target
from ....tensor.ir import as_expr
from ....tensor.simplify import dim, same_dim
from ...nest import find_loop
from ...nests import Nests
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all

THREADS = 256


def elementwise(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Threads take vectors of four elements where rows divide into them, else single elements."""
    s = Schedule(nests.func)
    if not nests.axes:
        return s
    loop = fuse_all(s, [a.var.name for a in nests.axes], "e")
    inner = nests.axes[-1].extent
    whole = same_dim(dim(as_expr(inner) % 4), 0)
    width = choices.pick("vector", 4 if whole else 1, (1, 4) if whole else (1,))
    if width > 1:
        s.do("split", loop, width, "e_q", "e_v", "exact")
        s.do("set_kind", "e_v", "vector")
        loop = "e_q"
    share(s, loop, choices)
    return s


def share(s: Schedule, loop: str, choices: Choices) -> None:
    """Cuts the outermost loop in blocks of threads."""
    extent = find_loop(s.func, loop, "simt").extent
    most = choices.pick("threads", THREADS, (64, 128, 256, 512))
    if isinstance(extent, int):
        most = min(most, extent)
    s.do("split", loop, most, f"{loop}_b", f"{loop}_t", "guard")
    s.do("set_kind", f"{loop}_b", "block.x")
    s.do("set_kind", f"{loop}_t", "thread.x")
