"""Panels of a factor that is no constant: copied together where they are read, row tile by tile.

A product reads a few columns of each row of its second factor. Where rows lie pages apart, each of
these reads takes an entry of the TLB and falls into the same few sets of the cache; one copy for
all row tiles below it costs a hundredth of them.
"""

from __future__ import annotations

from ...tensor.ir import For, Load
from ..nests import Reduction
from ..schedule import Schedule
from .tile import Tile, load_strides, loads

FAR_BYTES = 2048
"""How far rows lie apart for a copy to pay: several of them share no page."""
LEAST_ROWS = 64
LEAST_TILES = 8
"""The fewest row tiles that use a panel."""
PANEL_BYTES = 1 << 19
"""The most stack that a panel takes, and about half of what L2 holds beside it."""


def far_factor(t: Tile) -> Load | None:
    """The factor whose panels are to be copied, of a product with enough rows below each."""
    row = t.row
    if row is None or row.var.name in t.shared or not isinstance(row.extent, int):
        return None
    if row.extent < LEAST_TILES * t.mr:
        return None
    far = [x for x in loads(t.main.body) if _is_far(t.main, t.column.var.name, t.nr, x)]
    return far[0] if len(far) == 1 and far[0] not in t.packed else None


def copy_panels(s: Schedule, factor: Load) -> None:
    """Copies the panel of a factor that one iteration of the outermost loop reads.

    Args:
        s: a nest whose outermost loop is over panels, its reductions computed inside.
        factor: as the nest reads it.
    """
    outermost = next(x.var.name for x in s.func.body if isinstance(x, For))
    s.do("cache_read", factor.buffer.name, outermost, "panel", "local")
    s.do("set_kind", f"panel_{len(factor.buffer.shape) - 1}", "vector")


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
