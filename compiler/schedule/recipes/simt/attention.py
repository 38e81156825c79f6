"""A product of rows that are computed on the way: attention in one kernel.

A block takes some rows of one head, each of its warps a few of them. Scores are computed by
tiles, their operands staged; scores and weights of the block's rows stay in shared memory, their
maximum and sum in registers, combined by shuffles. Each thread then accumulates a few columns of
the last product. No score goes to global memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import ScheduleError
from ....target import Target
from ....tensor.ir import Axis, Load
from ...nests import MapStage, Nests, Reduction
from ...schedule import Schedule
from ..chain import can_chain, plan_chain
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile import loads, symbols_of

WARPS = 4
SHARED_BYTES = 46 << 10
"""Of static shared memory on every machine, less room for alignment."""
STAGED_BYTES = 12 << 10
"""What a staged operand may take."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The plan of a chain for blocks of threads.

    Attributes:
        scores, values, last: the inner product, the temporary that holds it, the outer product.
        row, column: final axes of the tile; outer: the others.
        position: of the row among the axes of the scores.
        tm: rows of a warp. tn: columns of a thread.
    """

    scores: Reduction
    values: MapStage
    last: Reduction
    row: Axis
    column: Axis
    outer: tuple[Axis, ...]
    position: int
    tm: int
    tn: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return WARPS * self.tm


def plan_attention(nests: Nests, target: Target, choices: Choices) -> Attention | None:
    """The plan of a chain; None where the scores of a few rows do not fit shared memory."""
    assert target.threads is not None
    if not can_chain(nests, contiguous=False):
        return None
    found = plan_chain(nests, target, Choices())
    warp = target.threads.warp
    length, width = found.scores.spatial[-1].extent, found.column.extent
    if found.row is None or not isinstance(length, int) or not isinstance(width, int):
        return None
    position = _position(found.last, found.scores, found.row)
    tn = next((n for n in range(-(-width // warp), 17) if width % n == 0), None)
    if position is None or tn is None:
        return None
    rank = len(found.scores.spatial)
    wide = [t for t in nests.temporaries if isinstance(t, MapStage) and len(t.axes) == rank]
    each = length * sum(t.buffer.dtype.bytes for t in wide)
    fits = [m for m in (4, 2, 1) if WARPS * m * each <= SHARED_BYTES - 2 * STAGED_BYTES]
    fits = fits or [m for m in (2, 1) if WARPS * m * each <= SHARED_BYTES]
    if not fits:
        return None
    tm = choices.pick("tm", fits[0], tuple(fits))
    return Attention(
        found.scores, found.values, found.last, found.row, found.column, found.outer,
        position, tm, tn,
    )  # fmt: skip


def _position(last: Reduction, scores: Reduction, row: Axis) -> int | None:
    """Which axis of the scores the rows of the outer product are."""
    own = dict(zip(last.axes, last.spatial, strict=True))[row.var.name].var
    for x in loads(last.body):
        if len(x.indices) == len(scores.spatial) and own in x.indices:
            return x.indices.index(own)
    return None


def attention(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Places the whole chain in the loop over blocks of rows."""
    t = plan_attention(nests, target, choices)
    if t is None:
        raise ScheduleError("attention: the scores do not fit shared memory", code="TW-E0701")
    narrow, wide = _operands(t)
    for staged in ((narrow, wide), ((), wide), ((), ())):
        try:
            return _scheduled(nests, t, *staged)
        except ScheduleError:
            # An operand is read in more than one way: it stays in global memory.
            if not any(staged):
                raise
    raise AssertionError


def _operands(t: Attention) -> tuple[tuple[Load, ...], tuple[Load, ...]]:
    """What the scores read that varies along rows only, and along columns only."""
    row, column = t.scores.spatial[t.position].var, t.scores.spatial[-1].var
    over = t.scores.reduce[-1].var
    found = [x for x in loads(t.scores.body) if over in symbols_of(x)]
    narrow = [x for x in found if row in symbols_of(x) and column not in symbols_of(x)]
    wide = [x for x in found if column in symbols_of(x) and row not in symbols_of(x)]
    return tuple(narrow), tuple(wide)


def _scheduled(
    nests: Nests, t: Attention, narrow: tuple[Load, ...], wide: tuple[Load, ...]
) -> Schedule:
    s = Schedule(nests.func)
    row, column = t.row.var.name, t.column.var.name
    s.do("split", row, t.rows, f"{row}_o", f"{row}_i", "guard")
    outer = [a.var.name for a in t.outer]
    s.do("reorder", (*outer, f"{row}_o", f"{row}_i", column))
    block = fuse_all(s, [*outer, f"{row}_o"], "block")
    between = [x for x in nests.temporaries if x is not t.scores and x is not t.last]
    s.do("compute_at", t.last.buffer.name, block)
    for x in reversed(between):
        s.do("compute_at", x.buffer.name, block)
    _tile(s, t, f"{row}_i", column)
    _last(s, t)
    _scores(s, t)
    for load in narrow:
        _stage(s, load, block, f"{load.buffer.name}_q")
    for load in wide:
        _stage(s, load, f"{t.values.axes[-1].var.name}_o", f"{load.buffer.name}_k")
    for x in between:
        match x:
            case Reduction():
                _reduce(s, t, x)
            case MapStage() if x is t.values:
                pass
            case MapStage():
                _map(s, t, x)
    s.do("set_kind", block, "block.x")
    return s


def _rows(s: Schedule, t: Attention, loop: str) -> None:
    """A few neighbouring rows a warp."""
    s.do("split", loop, t.tm, f"{loop}_y", f"{loop}_r", "exact")
    s.do("set_kind", f"{loop}_y", "thread.y")
    s.do("set_kind", f"{loop}_r", "unroll")


def _tile(s: Schedule, t: Attention, m: str, n: str, over: tuple[str, ...] = ()) -> None:
    """A tile of the result a thread, inside of it the loops of a reduction."""
    _rows(s, t, m)
    s.do("split", n, t.tn, f"{n}_x", f"{n}_v", "exact")
    s.do("set_kind", f"{n}_x", "thread.x")
    s.do("set_kind", f"{n}_v", "vector" if t.tn > 1 else "unroll")
    s.do("reorder", (f"{m}_y", f"{n}_x", *over, f"{m}_r", f"{n}_v"))


def _last(s: Schedule, t: Attention) -> None:
    """Accumulators of the outer product, in the registers of their threads."""
    r = t.last
    name, position = r.buffer.name, r.axes.index(t.row.var.name)
    final = len(r.axes) - 1
    _tile(s, t, r.init[position], r.init[final])
    names = [a.var.name for a in r.spatial]
    units = [n for k, n in enumerate(names) if k not in (position, final)]
    over = tuple(a.var.name for a in r.reduce)
    s.do("reorder", (*units, names[position], names[final], *over))
    _tile(s, t, names[position], names[final], over)
    s.do("spread", name, ((position, t.tm), (final, t.tn)))
    s.do("set_scope", name, "register")


def _scores(s: Schedule, t: Attention) -> None:
    """A column of scores a thread at a time, for the rows of its warp."""
    names = [a.var.name for a in t.values.axes]
    row, column = names[t.position], names[-1]
    units = [n for n in names if n not in (row, column)]
    s.do("split", column, 32, f"{column}_o", f"{column}_x", "guard")
    s.do("reorder", (*units, f"{column}_o", row, f"{column}_x"))
    r = t.scores
    s.do("compute_at", r.buffer.name, f"{column}_o")
    _rows(s, t, row)
    s.do("reorder", (f"{row}_y", f"{column}_x", f"{row}_r"))
    s.do("set_kind", f"{column}_x", "thread.x")
    s.do("set_scope", t.values.buffer.name, "shared")
    final = len(r.spatial) - 1
    own = [a.var.name for a in r.spatial]
    units = [n for k, n in enumerate(own) if k not in (t.position, final)]
    over = [a.var.name for a in r.reduce]
    _rows(s, t, r.init[t.position])
    s.do("set_kind", r.init[final], "thread.x")
    s.do("reorder", (f"{r.init[t.position]}_y", r.init[final], f"{r.init[t.position]}_r"))
    s.do("reorder", (*units, own[t.position], own[final], *over))
    _rows(s, t, own[t.position])
    s.do("set_kind", own[final], "thread.x")
    s.do("reorder", (f"{own[t.position]}_y", own[final], *over, f"{own[t.position]}_r"))
    s.do("spread", r.buffer.name, ((t.position, t.tm), (final, 1)))
    s.do("set_scope", r.buffer.name, "register")


def _reduce(s: Schedule, t: Attention, r: Reduction) -> None:
    """A warp reduces each of its rows."""
    own = r.spatial[t.position].var.name
    _rows(s, t, r.init[t.position])
    _rows(s, t, own)
    s.do("combine", r.reduce[0].var.name, 32, 1, f"{r.buffer.name}_p")
    s.do("spread", r.buffer.name, ((t.position, t.tm),))
    s.do("set_scope", r.buffer.name, "register")


def _map(s: Schedule, t: Attention, x: MapStage) -> None:
    """Values of a row or of each column, in the order in which the warp has the scores."""
    names = [a.var.name for a in x.axes]
    row = names[t.position]
    _rows(s, t, row)
    if len(names) < len(t.scores.spatial):
        s.do("spread", x.buffer.name, ((t.position, t.tm),))
        s.do("set_scope", x.buffer.name, "register")
        return
    s.do("split", names[-1], 32, f"{names[-1]}_o", f"{names[-1]}_x", "guard")
    s.do("set_kind", f"{names[-1]}_x", "thread.x")
    s.do("set_scope", x.buffer.name, "shared")


def _stage(s: Schedule, load: Load, loop: str, name: str) -> None:
    """Copies an operand of the scores to shared memory, neighbours by neighbouring threads."""
    s.do("cache_read", load.buffer.name, loop, name)
    rank = len(load.buffer.shape)
    flat = fuse_all(s, [f"{name}_{k}" for k in range(rank)], f"{name}_f")
    s.do("split", flat, 32, f"{name}_c", f"{name}_x", "guard")
    s.do("split", f"{name}_c", WARPS, f"{name}_o", f"{name}_y", "guard")
    s.do("set_kind", f"{name}_y", "thread.y")
    s.do("set_kind", f"{name}_x", "thread.x")
    # A column of what is staged would lie in one bank.
    s.do("pad_dim", name, rank - 1, 1)
