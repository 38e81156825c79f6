"""Products of two operands: matrix products, convolutions as implicit matrix products.

A block computes a tile of rows and columns. In steps along the reduction, its threads stage what
the tile reads of both operands in shared memory; each thread then multiplies a small tile of its
own, whose accumulators stay in registers up to the epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....target import Target
from ....tensor.ir import Axis, Load
from ....tensor.simplify import same_dim
from ...nest import find_loop
from ...nests import Nests, Reduction
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile import load_strides, loads, size, symbols_of


@dataclass(frozen=True, slots=True)
class Contraction:
    """The plan of a tiled product.

    Attributes:
        main: the reduction. row, column: the final axes of the tile; outer: the others.
        narrow, wide: the operands that vary along the row and along the column.
        bm, bn, bk: the block's tile. tm, tn: a thread's.
    """

    main: Reduction
    row: Axis
    column: Axis
    outer: tuple[Axis, ...]
    narrow: Load
    wide: Load
    bm: int
    bn: int
    bk: int
    tm: int
    tn: int

    @property
    def threads(self) -> tuple[int, int]:
        """Threads along y and x."""
        return self.bm // self.tm, self.bn // self.tn


def plan(nests: Nests, target: Target, choices: Choices) -> Contraction | None:
    """The plan for a nest of one product; None where it is none, or too small for tiles."""
    if len(nests.temporaries) != 1 or len(nests.axes) < 2:
        return None
    (main,) = nests.reductions or (None,)
    if main is None or main.op != "sum":
        return None
    operands = loads(main.body)
    if len(operands) != 2 or any(load_strides(main, x) is None for x in operands):
        return None
    own = dict(zip(main.axes, (a.var for a in main.spatial), strict=True))
    column = nests.axes[-1]
    if column.var.name not in own:
        return None
    wide = [x for x in operands if own[column.var.name] in symbols_of(x)]
    narrow = [x for x in operands if own[column.var.name] not in symbols_of(x)]
    if len(wide) != 1 or len(narrow) != 1:
        return None
    rows = [
        a
        for a in nests.axes[:-1]
        if a.var.name in own
        and own[a.var.name] in symbols_of(narrow[0])
        and own[a.var.name] not in symbols_of(wide[0])
        and not same_dim(a.extent, 1)
    ]
    if not rows or size(rows[-1].extent) < 8 or size(column.extent) < 8:
        return None
    row = rows[-1]
    last = main.reduce[-1].extent
    bm = choices.pick("bm", _tile(size(row.extent)), (16, 32, 64, 128))
    bn = choices.pick("bn", _tile(size(column.extent)), (16, 32, 64, 128))
    bk = choices.pick("bk", 16 if size(last) >= 16 else 8, (8, 16, 32))
    tm = choices.pick("tm", 4 if bm >= 32 else 2, (2, 4, 8))
    tn = choices.pick("tn", 4 if bn >= 32 else 2, (2, 4, 8))
    outer = tuple(a for a in nests.axes[:-1] if a is not row)
    return Contraction(main, row, column, outer, narrow[0], wide[0], bm, bn, bk, tm, tn)


def _tile(extent: int) -> int:
    """The largest tile of at most 64 that is not mostly padding."""
    return next((t for t in (64, 32) if extent > t // 2), 16)


def contraction(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Tiles for blocks and threads, with both operands staged."""
    t = plan(nests, target, choices)
    assert t is not None
    s = Schedule(nests.func)
    r = t.main.buffer.name
    m, n = t.row.var.name, t.column.var.name
    s.do("split", m, t.bm, f"{m}_b", f"{m}_i", "guard")
    s.do("split", n, t.bn, f"{n}_b", f"{n}_i", "guard")
    outer = [a.var.name for a in t.outer]
    s.do("reorder", (*outer, f"{m}_b", f"{n}_b", f"{m}_i", f"{n}_i"))
    s.do("compute_at", r, f"{n}_b")
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    first = dict(zip(t.main.axes, t.main.init, strict=True))
    position = t.main.axes.index(m), t.main.axes.index(n)
    _threads(s, t, f"{m}_i", f"{n}_i")
    _threads(s, t, first[m], first[n])
    *others, last = (a.var.name for a in t.main.reduce)
    loop_m, loop_n = own[m].var.name, own[n].var.name
    units = [a.var.name for a in t.main.spatial if a.var.name not in (loop_m, loop_n)]
    whole = same_dim(find_loop(s.func, last, "simt").extent, t.bk)
    if not whole:
        s.do("split", last, t.bk, f"{last}_o", f"{last}_i", "guard")
    inner = f"{last}_i" if not whole else last
    _threads(s, t, loop_m, loop_n)
    tile = [f"{loop_m}_y", f"{loop_n}_x", inner, f"{loop_m}_r", f"{loop_n}_r"]
    steps = [*others, *([f"{last}_o"] if not whole else [])]
    s.do("reorder", (*units, *steps, *tile))
    s.do("spread", r, ((position[0], t.tm), (position[1], t.tn)))
    s.do("set_scope", r, "register")
    at = steps[-1] if steps else f"{n}_b"
    for operand, name in ((t.narrow, "a"), (t.wide, "b")):
        staged = f"{operand.buffer.name}_{name}"
        s.do("cache_read", operand.buffer.name, at, staged)
        _copy(s, t, staged, len(operand.buffer.shape))
    blocks = [*outer, f"{m}_b", f"{n}_b"]
    s.do("set_kind", fuse_all(s, blocks, "block"), "block.x")
    return s


def _threads(s: Schedule, t: Contraction, m: str, n: str) -> None:
    """Cuts the loops of a nest over the block's tile in the tiles of threads."""
    s.do("split", m, t.tm, f"{m}_y", f"{m}_r", "exact")
    s.do("split", n, t.tn, f"{n}_x", f"{n}_r", "exact")
    s.do("reorder", (f"{m}_y", f"{n}_x", f"{m}_r", f"{n}_r"))
    s.do("set_kind", f"{m}_y", "thread.y")
    s.do("set_kind", f"{n}_x", "thread.x")
    s.do("set_kind", f"{m}_r", "unroll")
    s.do("set_kind", f"{n}_r", "vector")


def _copy(s: Schedule, t: Contraction, name: str, rank: int) -> None:
    """Shares the elements of a staged operand among the threads, neighbours side by side."""
    y, x = t.threads
    loop = fuse_all(s, [f"{name}_{k}" for k in range(rank)], f"{name}_f")
    s.do("split", loop, x, f"{name}_q", f"{name}_x", "guard")
    s.do("split", f"{name}_q", y, f"{name}_o", f"{name}_y", "guard")
    s.do("set_kind", f"{name}_y", "thread.y")
    s.do("set_kind", f"{name}_x", "thread.x")
