"""Products of two operands: matrix products, convolutions as implicit matrix products.

A block computes a tile of rows and columns. In steps along the reduction, its threads stage what
the tile reads of both operands in shared memory; each thread then multiplies a small tile of its
own, whose accumulators stay in registers up to the epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....target import Target
from ....tensor.access import flat_index
from ....tensor.ir import Axis, Binary, Expr, Load, Select, Store, as_expr
from ....tensor.simplify import Ranges, dim, same_dim, simplify, substitute, symbols
from ...factors import vector_width
from ...nest import find_loop
from ...nests import Nests, Reduction
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile_plan import load_strides, loads, size, symbols_of
from .flatten import flatten, neighbours

MOST_SHARED_BYTES = 48 << 10
"""What a block may declare of shared memory on every machine."""
MOST_ROWS = 64
"""Of a tile by default."""
UNROLLED = 8
"""Rounds of a copy that are written out, so that a thread's loads are under way together."""


@dataclass(frozen=True, slots=True)
class Contraction:
    """The plan of a tiled product.

    Attributes:
        start: the schedule of the nest so far: its rows are one axis.
        main: the reduction. row, column: the final axes of the tile; outer: the others.
        narrow, wide: the operands that vary along the row and along the column.
        factors: both, as they stand in the product.
        bm, bn, bk: the block's tile. tm, tn: a thread's.
        background: whether the next tiles are copied while a step is computed.
    """

    start: Schedule
    main: Reduction
    row: Axis
    column: Axis
    outer: tuple[Axis, ...]
    narrow: Load
    wide: Load
    factors: tuple[Load, Load]
    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    background: bool = False

    @property
    def threads(self) -> tuple[int, int]:
        """Threads along y and x."""
        return self.bm // self.tm, self.bn // self.tn


def plan(nests: Nests, target: Target, choices: Choices) -> Contraction | None:
    """The plan for a nest of one product; None where it is none, or too small for tiles."""
    found = _operands(nests)
    if found is None or any(load_strides(found.main, x) is None for x in found.factors):
        return None
    s = Schedule(nests.func)
    joined = neighbours(nests, found.main, found.rows) if found.rows else []
    if len(joined) > 1 and not _fills_tiles(joined[-1]):
        nests = flatten(s, nests, joined)
        found = _operands(nests)
        assert found is not None
    main, factors, column = found.main, found.factors, nests.axes[-1]
    if not found.rows or size(found.rows[-1].extent) < 8 or size(column.extent) < 8:
        return None
    row = found.rows[-1]
    bm = choices.pick("bm", _tile(size(row.extent)), (16, 32, 64, 128))
    bn = choices.pick("bn", _tile(size(column.extent)), (16, 32, 64, 128))
    own = main.spatial[main.axes.index(column.var.name)]
    along = (load_strides(main, found.wide) or {}).get(own.var, 0)
    background = same_dim(along, 1) and _in_background(main, factors, target)
    bk = choices.pick("bk", 32 if background else 8, (8, 16, 32))
    tm = choices.pick("tm", 4 if bm >= 32 else 2, (2, 4, 8))
    tn = choices.pick("tn", 4 if bn >= 32 else 2, (2, 4, 8))
    assert target.threads is not None
    while (bm // tm) * (bn // tn) > target.threads.most:
        tm, tn = 2 * tm, 2 * tn
    each = max(x.dtype.bytes for x in factors) * (2 if background else 1)
    while each * (bm * (bk + 4) + bn * (bk + 4) + 8 * bk) > MOST_SHARED_BYTES and bk > 8:
        bk //= 2
    outer = tuple(a for a in nests.axes[:-1] if a is not row)
    return Contraction(
        s, main, row, column, outer, found.narrow, found.wide, factors, bm, bn, bk, tm, tn,
        background,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Operands:
    """What a nest multiplies.

    Attributes:
        factors: both operands, as they stand in the product.
        narrow, wide: the one that does not vary along the last axis, and the one that does.
        rows: the axes that only the narrow one varies along.
    """

    main: Reduction
    factors: tuple[Load, Load]
    narrow: Load
    wide: Load
    rows: list[Axis]


def _operands(nests: Nests) -> _Operands | None:
    """The operands of a nest that sums one product; None where it does something else."""
    if len(nests.temporaries) != 1 or len(nests.axes) < 2:
        return None
    (main,) = nests.reductions or (None,)
    if main is None or main.op != "sum":
        return None
    factors = _factors(main)
    own = dict(zip(main.axes, (a.var for a in main.spatial), strict=True))
    column = own.get(nests.axes[-1].var.name)
    if factors is None or column is None:
        return None
    wide = [x for x in factors if column in symbols_of(x)]
    narrow = [x for x in factors if column not in symbols_of(x)]
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
    return _Operands(main, factors, narrow[0], wide[0], rows)


def _fills_tiles(row: Axis) -> bool:
    """Whether tiles along an axis are whole, so that they need no rows of the next one."""
    return same_dim(dim(as_expr(row.extent) % MOST_ROWS), 0)


def _in_background(main: Reduction, factors: tuple[Load, Load], target: Target) -> bool:
    """Whether rows of both operands are copied in whole pieces by an instruction, for long sums."""
    assert target.threads is not None
    whole = all(same_dim(dim(as_expr(x.buffer.shape[-1]) % 4), 0) for x in factors)
    has = all(f"cp.async.{x.dtype.name}" in target.threads.instructions for x in factors)
    return has and whole and factors[0].dtype.bytes == 4 and size(main.reduce[-1].extent) >= 32


def _factors(main: Reduction) -> tuple[Load, Load] | None:
    """The loads of a product of two operands, which may be guarded and converted."""
    if not (isinstance(main.body, Binary) and main.body.op == "mul"):
        return None
    found = [loads(e) for e in (main.body.a, main.body.b)]
    if any(len(x) != 1 for x in found):
        return None
    return found[0][0], found[1][0]


def _tile(extent: int) -> int:
    """The largest tile of at most 64 that is not mostly padding."""
    return next((t for t in (64, 32) if extent > t // 2), 16)


def contraction(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Tiles for blocks and threads, with both operands staged."""
    t = plan(nests, target, choices)
    assert t is not None
    s, steps = begin(t)
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    first = dict(zip(t.main.axes, t.main.init, strict=True))
    m, n = t.row.var.name, t.column.var.name
    loop_m, loop_n, inner = own[m].var.name, own[n].var.name, steps[-1]
    at = steps[-2]
    position = t.main.axes.index(m), t.main.axes.index(n)
    copies = []
    for side, load in enumerate(t.factors):
        loop = loop_n if load is t.wide else loop_m
        name = f"{load.buffer.name}_{'ba'[load is t.narrow]}"
        across = contiguous(t, load) != loop
        # Threads write what lies along the reduction as columns, or read it as columns where it
        # is copied as it is: four more elements a row put these in other banks.
        axes = (loop, inner) if across and t.background else (inner, loop)
        s.do("stage", at, side, name, axes, "shared", 4 if across else 0)
        swap = across and not t.background
        order = (f"{name}_1", f"{name}_0") if swap else (f"{name}_0", f"{name}_1")
        s.do("reorder", order)
        copies.append((name, order))
    s.do("drop_guards", at)
    for name, order in copies:
        copy(s, t.threads, name, order, t.background)
    _threads(s, t, f"{m}_i", f"{n}_i")
    _threads(s, t, first[m], first[n])
    _threads(s, t, loop_m, loop_n)
    tile = (f"{loop_m}_y", f"{loop_n}_x", inner, f"{loop_m}_r", f"{loop_n}_r")
    s.do("reorder", tile)
    if t.background:
        # Four steps at once read their elements of a row together.
        s.do("split", inner, 4, f"{inner}_o", f"{inner}_r", "exact")
        s.do("set_kind", f"{inner}_r", "unroll")
    s.do("spread", t.main.buffer.name, ((position[0], t.tm), (position[1], t.tn)))
    s.do("set_scope", t.main.buffer.name, "register")
    if t.background:
        s.do("pipeline", at, 2)
    end(s, t)
    return s


def begin(t: Contraction) -> tuple[Schedule, list[str]]:
    """Cuts the result in tiles of blocks and the reduction in steps; the loops of the reduction.

    The nest that sums up is left with the steps outside, and then row, column and the last loop
    of the reduction, which are all of the tile's size.
    """
    s = Schedule(t.start.func, list(t.start.steps))
    m, n = t.row.var.name, t.column.var.name
    s.do("split", m, t.bm, f"{m}_b", f"{m}_i", "guard")
    s.do("split", n, t.bn, f"{n}_b", f"{n}_i", "guard")
    outer = [a.var.name for a in t.outer]
    s.do("reorder", (*outer, f"{m}_b", f"{n}_b", f"{m}_i", f"{n}_i"))
    s.do("compute_at", t.main.buffer.name, f"{n}_b")
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    *others, last = (a.var.name for a in t.main.reduce)
    loop_m, loop_n = own[m].var.name, own[n].var.name
    units = [a.var.name for a in t.main.spatial if a.var.name not in (loop_m, loop_n)]
    s.do("split", last, t.bk, f"{last}_o", f"{last}_i", "guard")
    steps = [*others, f"{last}_o", f"{last}_i"]
    s.do("reorder", (*units, *steps[:-1], loop_m, loop_n, steps[-1]))
    return s, steps


def end(s: Schedule, t: Contraction) -> None:
    """Makes the tiles blocks of one grid."""
    blocks = [a.var.name for a in t.outer] + [f"{t.row.var.name}_b", f"{t.column.var.name}_b"]
    s.do("set_kind", fuse_all(s, blocks, "block"), "block.x")


def contiguous(t: Contraction, load: Load) -> str | None:
    """The loop of the update nest along which neighbours of an operand lie side by side."""
    axes = (*t.main.spatial, *t.main.reduce)
    ranges = {a.var: (0, as_expr(a.extent) - 1) for a in axes}
    at = flat_index(load, ranges)
    for a in axes:
        # An index of rows that are one axis is not affine along it, but along all others.
        if a.var in symbols(at) and same_dim(_step(at, a, ranges), 1):
            return a.var.name
    return None


def _step(at: Expr, a: Axis, ranges: Ranges) -> Expr:
    """How far a position moves with one iteration of an axis."""
    return simplify(substitute(at, {a.var: a.var + 1}) - at, ranges)


def _threads(s: Schedule, t: Contraction, m: str, n: str) -> None:
    """Cuts the loops of a nest over the block's tile in the tiles of threads."""
    s.do("split", m, t.tm, f"{m}_y", f"{m}_r", "exact")
    s.do("split", n, t.tn, f"{n}_x", f"{n}_r", "exact")
    s.do("reorder", (f"{m}_y", f"{n}_x", f"{m}_r", f"{n}_r"))
    s.do("set_kind", f"{m}_y", "thread.y")
    s.do("set_kind", f"{n}_x", "thread.x")
    s.do("set_kind", f"{m}_r", "unroll")
    s.do("set_kind", f"{n}_r", "vector")


def copy(
    s: Schedule,
    threads: tuple[int, int],
    name: str,
    order: tuple[str, str],
    background: bool,
) -> bool:
    """Shares a staged tile among the threads: neighbours side by side, vectors where they fit.

    Args:
        threads: along y and x. order: the loops of the copy.
        background: whether to copy by an instruction, where pieces are of its size.

    Returns:
        Whether an instruction copies.
    """
    width = vector_width(s.func, order[1], 16)
    if width > 1:
        s.do("widen", order[1], width)
    if width > 1 and background:
        (store,) = find_loop(s.func, f"{order[1]}_v", "simt").body
        assert isinstance(store, Store)
        kind = store.buffer.dtype
        background = width * kind.bytes == 16
        guarded = ".guarded" if isinstance(store.value, Select) else ""
        if background:
            s.do("tensorize", f"{order[1]}_v", f"cp.async.{kind}{guarded}")
    bind_copy(s, threads, name, order)
    return background and width > 1


def bind_copy(s: Schedule, threads: tuple[int, int], name: str, order: tuple[str, str]) -> None:
    """Deals the rounds of a copy to the threads along y and x."""
    fused = fuse_all(s, list(order), f"{name}_f")
    y, x = threads
    s.do("split", fused, x, f"{name}_q", f"{name}_x", "guard")
    s.do("split", f"{name}_q", y, f"{name}_o", f"{name}_y", "guard")
    s.do("set_kind", f"{name}_y", "thread.y")
    s.do("set_kind", f"{name}_x", "thread.x")
    if f"{order[1]}_v" in s.loop_names():
        s.do("level_guards", f"{order[1]}_v")
    rounds = find_loop(s.func, f"{name}_o", "simt").extent
    if isinstance(rounds, int) and rounds <= UNROLLED:
        s.do("set_kind", f"{name}_o", "unroll")
