"""A product of rows that are computed on the way: attention in one kernel.

A block takes some rows of one head, each of its warps a few of them. Scores are computed by
tiles, their operands staged; scores and weights of the block's rows stay in shared memory, their
maximum and sum in registers, combined by shuffles. Each thread then accumulates a few columns of
the last product. No score goes to global memory.

Rows of any length, and those that do not fit shared memory, are taken a block of keys at a time
(see ``online``). Where each head has one row, all threads of a block share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ....errors import ScheduleError
from ....target import Target
from ....tensor.ir import Axis, Func, Load
from ....tensor.simplify import evaluate, product
from ....tensor.walk import allocations
from ...nests import MapStage, Nests, Reduction
from ...schedule import Schedule
from ..chain import can_chain, plan_chain
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile_plan import loads, symbols_of

WARPS = 4
SHARED_BYTES = 46 << 10
"""Of static shared memory on every machine, less room for alignment."""
STAGED_BYTES = 12 << 10
"""What a staged operand may take."""
KEYS = 128
"""Keys of a block where they are taken in blocks."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The plan of a chain for blocks of threads.

    Attributes:
        scores, values, last: the inner product, the temporary that holds it, the outer product.
        row, column: final axes of the tile; outer: the others. There may be no row.
        position: of the row among the axes of the scores.
        tm: rows of a warp. tn: columns of a thread.
        keys: of a block; 0 where all are taken at once.
        softmax: how those in blocks are weighed.
    """

    scores: Reduction
    values: MapStage
    last: Reduction
    row: Axis | None
    column: Axis
    outer: tuple[Axis, ...]
    position: int | None
    tm: int
    tn: int
    keys: int = 0
    softmax: Softmax | None = None

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return WARPS * self.tm

    @property
    def lanes(self) -> int:
        """Threads that share a row."""
        return 32 if self.row is not None else 32 * WARPS


@dataclass(frozen=True, slots=True)
class Softmax:
    """What is between the two products: temporaries by what they hold.

    Attributes:
        shares: the weights divided by their sum, where the outer product adds up these.
    """

    top: Reduction
    weights: MapStage
    total: Reduction
    shares: MapStage | None


def plan_attention(nests: Nests, target: Target, choices: Choices) -> Attention | None:
    """The plan of a chain; None where the scores of a few rows do not fit shared memory."""
    assert target.threads is not None
    if not can_chain(nests, contiguous=False):
        return None
    found = plan_chain(nests, target, Choices())
    length, width = found.scores.spatial[-1].extent, found.column.extent
    if not isinstance(width, int):
        return None
    position, warp = None, target.threads.warp
    if found.row is not None:
        position = _position(found.last, found.scores, found.row)
        if position is None:
            return None
    lanes = warp if found.row is not None else warp * WARPS
    tn = next((n for n in range(-(-width // lanes), 17) if width % n == 0), None)
    if tn is None:
        return None
    base = Attention(
        found.scores, found.values, found.last, found.row, found.column, found.outer,
        position, 1, tn,
    )  # fmt: skip
    rank = len(found.scores.spatial)
    wide = [t for t in nests.temporaries if isinstance(t, MapStage) and len(t.axes) == rank]
    each = sum(t.buffer.dtype.bytes for t in wide)
    if isinstance(length, int) and found.row is not None:
        fits = _rows_that_fit(length * each, SHARED_BYTES - 2 * STAGED_BYTES, (4, 2, 1))
        fits = fits or _rows_that_fit(length * each, SHARED_BYTES, (2, 1))
        if fits and (fits[0] > 1 or length <= KEYS):
            return replace(base, tm=choices.pick("tm", fits[0], fits))
    softmax = _softmax(nests, base)
    if softmax is None:
        return None
    keys = choices.pick("keys", KEYS, (KEYS,))
    fits = _rows_that_fit(keys * each, SHARED_BYTES - 2 * STAGED_BYTES, (4, 2, 1))
    tm = choices.pick("tm", fits[0], fits) if found.row is not None else 1
    return replace(base, tm=tm, keys=keys, softmax=softmax)


def _rows_that_fit(each: int, most: int, options: tuple[int, ...]) -> tuple[int, ...]:
    """Of so many rows of a warp, those that do not take more than there is."""
    return tuple(m for m in options if WARPS * m * each <= most)


def _softmax(nests: Nests, t: Attention) -> Softmax | None:
    """The softmax between two products; None where there is something else."""
    between = [x for x in nests.temporaries if x not in (t.scores, t.values, t.last)]
    rank = len(t.values.axes)
    match between:
        case [Reduction() as top, MapStage() as weights, Reduction() as total, *later]:
            pass
        case _:
            return None
    if any(isinstance(x, Reduction) for x in later) or len(weights.axes) != rank:
        return None
    wide = [x for x in later if isinstance(x, MapStage) and len(x.axes) == rank]
    kinds = {x.buffer.dtype for x in (t.values, *between)}
    if len(wide) > 1 or len(kinds) > 1 or (top.op, total.op) != ("max", "sum"):
        return None
    return Softmax(top, weights, total, wide[0] if wide else None)


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
    for staged in ((narrow, wide), ((), wide), (narrow, ()), ((), ())):
        try:
            s = _scheduled(nests, t, *staged)
        except ScheduleError:
            # An operand is read in more than one way: it stays in global memory.
            if not any(staged):
                raise
            continue
        if _shared_bytes(s.func) <= SHARED_BYTES:
            return s
    raise ScheduleError("attention: the weights do not fit shared memory", code="TW-E0701")


def _shared_bytes(func: Func) -> int:
    """What a block takes of shared memory."""
    held = (b for b in allocations(func.body) if b.scope == "shared")
    return sum(b.dtype.bytes * evaluate(product(b.shape), {}) for b in held)


def _operands(t: Attention) -> tuple[tuple[Load, ...], tuple[Load, ...]]:
    """What the scores read that varies along rows only, and along columns only."""
    column, over = t.scores.spatial[-1].var, t.scores.reduce[-1].var
    rows = set() if t.position is None else {t.scores.spatial[t.position].var}
    found = [x for x in loads(t.scores.body) if over in symbols_of(x)]
    narrow = [x for x in found if column not in symbols_of(x)]
    wide = [x for x in found if column in symbols_of(x) and not rows & symbols_of(x)]
    return tuple(x for x in narrow if rows <= symbols_of(x)), tuple(wide)


def _scheduled(
    nests: Nests, t: Attention, narrow: tuple[Load, ...], wide: tuple[Load, ...]
) -> Schedule:
    s = Schedule(nests.func)
    column, outer = t.column.var.name, [a.var.name for a in t.outer]
    inner = []
    if t.row is not None:
        row = t.row.var.name
        s.do("split", row, t.rows, f"{row}_o", f"{row}_i", "guard")
        s.do("reorder", (*outer, f"{row}_o", f"{row}_i", column))
        outer, inner = [*outer, f"{row}_o"], [f"{row}_i"]
    block = fuse_all(s, outer, "block")
    between = [x for x in nests.temporaries if x is not t.scores and x is not t.last]
    s.do("compute_at", t.last.buffer.name, block)
    for x in reversed(between):
        s.do("compute_at", x.buffer.name, block)
    if t.keys:
        between = _in_blocks(s, t, block, between)
    _tile(s, t, inner, column)
    _last(s, t)
    _scores(s, t)
    for load in narrow:
        _stage(s, t, load, block, f"{load.buffer.name}_q")
    for load in wide:
        _stage(s, t, load, f"{t.values.axes[-1].var.name}_o", f"{load.buffer.name}_k")
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


def _in_blocks(
    s: Schedule, t: Attention, block: str, between: list[MapStage | Reduction]
) -> list[MapStage | Reduction]:
    """Takes a block of keys at a time; what is left of the temporaries between the products."""
    found = t.softmax
    assert found is not None
    top, total, last = (x.buffer.name for x in (found.top, found.total, t.last))
    shares = "" if found.shares is None else found.shares.buffer.name
    weights = found.weights.buffer.name
    s.do("online", block, t.keys, t.values.buffer.name, top, weights, (total, last), "keys", shares)
    # What is done once a block of keys for each row, by the names that the step gives.
    for start, suffix in ((found.top, "before"), (found.top, "scale"), (found.total, "scaled")):
        rows = [f"{name}_{suffix}" for name in start.init]
        if t.position is not None:
            _rows(s, t, rows[t.position])
    for name in ("keys_before", "keys_scale"):
        if t.position is not None:
            s.do("spread", name, ((t.position, t.tm),))
        s.do("set_scope", name, "register")
    for suffix in ("scaled", "whole", "whole1"):
        names = [f"{name}_{suffix}" for name in t.last.init]
        if names[-1] in s.loop_names():
            _tile_of_last(s, t, names)
    return [x for x in between if x is not found.shares]


def _rows(s: Schedule, t: Attention, loop: str) -> None:
    """A few neighbouring rows a warp."""
    s.do("split", loop, t.tm, f"{loop}_y", f"{loop}_r", "exact")
    s.do("set_kind", f"{loop}_y", "thread.y")
    s.do("set_kind", f"{loop}_r", "unroll")


def _tile(s: Schedule, t: Attention, rows: list[str], n: str, over: tuple[str, ...] = ()) -> None:
    """A tile of the result a thread, inside of it the loops of a reduction."""
    for m in rows:
        _rows(s, t, m)
    s.do("split", n, t.tn, f"{n}_x", f"{n}_v", "exact")
    s.do("set_kind", f"{n}_x", "thread.x")
    s.do("set_kind", f"{n}_v", "vector" if t.tn > 1 else "unroll")
    threads, own = [f"{m}_y" for m in rows], [f"{m}_r" for m in rows]
    s.do("reorder", (*threads, f"{n}_x", *over, *own, f"{n}_v"))


def _tile_of_last(s: Schedule, t: Attention, names: list[str], over: tuple[str, ...] = ()) -> None:
    """The loops of a nest over the outer product: units, and then a tile a thread."""
    rows = [] if t.row is None else [names[t.last.axes.index(t.row.var.name)]]
    units = [n for n in names[:-1] if n not in rows]
    s.do("reorder", (*units, *rows, names[-1], *over))
    _tile(s, t, rows, names[-1], over)


def _last(s: Schedule, t: Attention) -> None:
    """Accumulators of the outer product, in the registers of their threads."""
    r = t.last
    _tile_of_last(s, t, list(r.init))
    over = tuple(a.var.name for a in r.reduce)
    _tile_of_last(s, t, [a.var.name for a in r.spatial], over)
    dims = [] if t.row is None else [(r.axes.index(t.row.var.name), t.tm)]
    s.do("spread", r.buffer.name, (*dims, (len(r.axes) - 1, t.tn)))
    s.do("set_scope", r.buffer.name, "register")


def _scores(s: Schedule, t: Attention) -> None:
    """A column of scores a thread at a time, for the rows of its warp."""
    names = [a.var.name for a in t.values.axes]
    column = names[-1]
    rows = [] if t.position is None else [names[t.position]]
    units = [n for n in names[:-1] if n not in rows]
    s.do("split", column, t.lanes, f"{column}_o", f"{column}_x", "guard")
    s.do("reorder", (*units, f"{column}_o", *rows, f"{column}_x"))
    r = t.scores
    s.do("compute_at", r.buffer.name, f"{column}_o")
    _column(s, t, rows, f"{column}_x")
    s.do("set_scope", t.values.buffer.name, "shared")
    final = len(r.spatial) - 1
    over = [a.var.name for a in r.reduce]
    for own, inside in ((list(r.init), []), ([a.var.name for a in r.spatial], over)):
        rows = [] if t.position is None else [own[t.position]]
        units = [n for n in own[:-1] if n not in rows]
        s.do("reorder", (*units, *rows, own[-1], *inside))
        _column(s, t, rows, own[-1], inside)
    dims = [] if t.position is None else [(t.position, t.tm)]
    s.do("spread", r.buffer.name, (*dims, (final, 1)))
    s.do("set_scope", r.buffer.name, "register")


def _column(
    s: Schedule, t: Attention, rows: list[str], column: str, over: Sequence[str] = ()
) -> None:
    """A column a thread, and in it the loops of a reduction and the rows of the warp."""
    s.do("set_kind", column, "thread.x")
    for m in rows:
        _rows(s, t, m)
        s.do("reorder", (f"{m}_y", column, *over, f"{m}_r"))


def _reduce(s: Schedule, t: Attention, r: Reduction) -> None:
    """The threads of a row reduce it together."""
    if t.position is not None:
        _rows(s, t, r.init[t.position])
        _rows(s, t, r.spatial[t.position].var.name)
    s.do("combine", r.reduce[0].var.name, t.lanes, 1, f"{r.buffer.name}_p")
    if t.position is not None:
        s.do("spread", r.buffer.name, ((t.position, t.tm),))
    s.do("set_scope", r.buffer.name, "register")


def _map(s: Schedule, t: Attention, x: MapStage) -> None:
    """Values of a row or of each column, in the order in which the warp has the scores."""
    names = [a.var.name for a in x.axes]
    if t.position is not None:
        _rows(s, t, names[t.position])
    if len(names) < len(t.scores.spatial):
        if t.position is not None:
            s.do("spread", x.buffer.name, ((t.position, t.tm),))
        s.do("set_scope", x.buffer.name, "register")
        return
    s.do("split", names[-1], t.lanes, f"{names[-1]}_o", f"{names[-1]}_x", "guard")
    s.do("set_kind", f"{names[-1]}_x", "thread.x")
    s.do("set_scope", x.buffer.name, "shared")


def _stage(s: Schedule, t: Attention, load: Load, loop: str, name: str) -> None:
    """Copies an operand of the scores to shared memory, neighbours by neighbouring threads."""
    s.do("cache_read", load.buffer.name, loop, name)
    rank = len(load.buffer.shape)
    flat = fuse_all(s, [f"{name}_{k}" for k in range(rank)], f"{name}_f")
    s.do("split", flat, t.lanes, f"{name}_c", f"{name}_x", "guard")
    if t.row is not None:
        s.do("split", f"{name}_c", WARPS, f"{name}_o", f"{name}_y", "guard")
        s.do("set_kind", f"{name}_y", "thread.y")
    s.do("set_kind", f"{name}_x", "thread.x")
    # A column of what is staged would lie in one bank.
    s.do("pad_dim", name, rank - 1, 1)
