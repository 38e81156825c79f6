"""Panels of a factor that is no constant: copied together where they are read, row tile by tile.

A product reads a few columns of each row of its second factor. Where rows lie pages apart, each of
these reads takes an entry of the TLB and falls into the same few sets of the cache; one copy for
all row tiles below it costs a hundredth of them.
"""

from __future__ import annotations

from ...tensor.ir import Alloc, Block, For, Load
from ...tensor.simplify import product
from ...tensor.walk import allocations
from ..nests import Reduction
from ..schedule import Schedule
from .choices import Choices
from .tile import load_strides, loads

FAR_BYTES = 2048
"""How far rows lie apart for a copy to pay: several of them share no page."""
LEAST_ROWS = 64
LEAST_TILES = 8
"""The fewest row tiles that use a panel."""
PANEL_BYTES = 1 << 19
"""The most stack that a panel takes, and about half of what L2 holds beside it."""


def copy_panels(s: Schedule, main: Reduction, column: str, nr: int, choices: Choices) -> None:
    """Copies the panel of a factor that one iteration of the outermost loop reads.

    Args:
        s: a tiled nest, its reductions computed inside.
        main: the product.
        column: the axis that is vectorised.
        nr: the columns of a panel.
        choices: asked whether to.
    """
    around = _around(s.func.body, main.buffer.name)
    tiles = product(x.extent for x in around[1:])
    found = [x for x in loads(main.body) if _is_far(main, column, nr, x)]
    known = {p.source.name for p in s.packings}
    if len(found) != 1 or found[0].buffer.name in known or not around:
        return
    if not isinstance(tiles, int) or tiles < LEAST_TILES:
        return
    if choices.pick("copy_panels", 1, (0, 1)):
        s.do("cache_read", found[0].buffer.name, around[0].var.name, "panel", "local")
        s.do("set_kind", f"panel_{len(found[0].buffer.shape) - 1}", "vector")


def _around(block: Block, buffer: str) -> list[For]:
    """The loops around the declaration of a buffer, outermost first."""
    for stmt in block:
        if isinstance(stmt, Alloc) and stmt.buffer.name == buffer:
            return []
        if isinstance(stmt, For) and any(b.name == buffer for b in allocations(stmt.body)):
            return [stmt, *_around(stmt.body, buffer)]
    return []


def _is_far(main: Reduction, column: str, nr: int, load: Load) -> bool:
    """Whether a factor is read by columns along rows that lie far apart, and by no row of ours."""
    if len(main.reduce) != 1 or column not in main.axes:
        return False
    (along,) = main.reduce
    own = main.spatial[main.axes.index(column)].var
    strides = load_strides(main, load)
    if strides is None or not isinstance(along.extent, int):
        return False
    step, rows, nbytes = strides.get(along.var, 0), along.extent, load.dtype.bytes
    others = [a.var for a in main.spatial if a.var is not own]
    return (
        strides.get(own, 0) == 1
        and isinstance(step, int)
        and step * nbytes >= FAR_BYTES
        and LEAST_ROWS <= rows <= PANEL_BYTES // (nr * nbytes)
        and not any(v in i.variables for v in others for i in load.indices)
    )
