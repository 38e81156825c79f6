"""Panels of a factor that is no constant: copied together where they are read, row tile by tile.

A product reads a few columns of each row of its second factor. Where rows lie pages apart, each of
these reads takes an entry of the TLB and falls into the same few sets of the cache; one copy for
all row tiles below it costs a hundredth of them.
"""

from __future__ import annotations

from ...tensor.ir import Expr, For, Load, as_expr, le
from ...tensor.simplify import prove, same_dim
from ..schedule import Schedule
from .tile_plan import Tile, load_strides, loads

FAR_BYTES = 2048
"""How far rows lie apart for a copy to pay: several of them share no page."""
LEAST_ROWS = 64
LEAST_TILES = 8
"""The fewest row tiles that use a panel."""
PANEL_BYTES = 1 << 19
"""The most stack that a panel takes, and about half of what L2 holds beside it."""


def far_factor(t: Tile) -> tuple[Load, list[Expr]] | None:
    """The factor whose panels may be copied, and the conditions on sizes under which it pays."""
    main = t.main
    if t.row is None or t.row.var.name in t.shared or len(main.reduce) != 1:
        return None
    (along,) = main.reduce
    own = main.spatial[main.axes.index(t.column.var.name)].var
    others = [a.var for a in main.spatial if a.var is not own]
    found: list[tuple[Load, list[Expr]]] = []
    for load in loads(main.body):
        strides, nbytes = load_strides(main, load) or {}, load.dtype.bytes
        if not same_dim(strides.get(own, 0), 1):
            continue
        if load in t.packed or any(v in i.variables for v in others for i in load.indices):
            continue
        extent = as_expr(along.extent)
        conditions = [
            le(FAR_BYTES // nbytes, as_expr(strides.get(along.var, 0))),
            le(LEAST_ROWS, extent),
            le(extent, PANEL_BYTES // (t.nr * nbytes)),
            le(LEAST_TILES * t.mr, as_expr(t.row.extent)),
        ]
        proved = [prove(c) for c in conditions]
        if False not in proved:
            found.append((load, [c for c, p in zip(conditions, proved, strict=True) if not p]))
    return found[0] if len(found) == 1 else None


def copy_panels(s: Schedule, factor: Load) -> None:
    """Copies the panel of a factor that one iteration of the outermost loop reads.

    Args:
        s: a nest whose outermost loop is over panels, its reductions computed inside.
        factor: as the nest reads it.
    """
    outermost = next(x.var.name for x in s.func.body if isinstance(x, For))
    s.do("cache_read", factor.buffer.name, outermost, "panel", "local")
    s.do("set_kind", f"panel_{len(factor.buffer.shape) - 1}", "vector")
