"""Recipe for a product of rows that are computed on the way: attention.

``rows(a @ b) @ c``, where ``rows`` is elementwise along the columns of its operand or reduces
them (scale, mask, softmax). A block of MR rows runs through the whole chain: its scores are
computed by register tiles into the thread's own scratch, reduced and mapped there, and are the
left operand of the last product, whose tiles stay in registers up to its epilogue. No value of
the inner product goes to memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...target import Target
from ...tensor.ir import Axis, Expr, Var, as_expr, le
from ...tensor.simplify import dim, same_dim
from ..keep import own_factor
from ..nest import find_loop, loops, stores
from ..nests import MapStage, Nests, Reduction
from ..schedule import Schedule
from .choices import Choices
from .elementwise import fuse_all, share, vectorise
from .tile import shape_reduction
from .tile_plan import load_strides, loads, symbols_of, tile_costs

SCRATCH_BYTES = 1 << 20
"""The most stack that the scratch of one block may take."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The plan of a chain.

    Attributes:
        last: the outer product; scores: the inner one; values: the temporary that holds it.
        column: the final axis that is vectorised; row: the one that is cut in blocks.
        outer: the other final axes, in order.
        mr: block height.
        nr, score_nr: width of the register tiles of the outer and the inner product, in elements.
        fits: whether the scratch of a block is small enough for the stack.
    """

    last: Reduction
    scores: Reduction
    values: MapStage
    column: Axis
    row: Axis | None
    outer: tuple[Axis, ...]
    mr: int
    nr: int
    score_nr: int
    fits: Expr


def can_chain(nests: Nests, contiguous: bool = True) -> bool:
    """Whether a nest is such a chain: rows of one shape between two products.

    Args:
        contiguous: whether the columns of the products must be contiguous in memory.
    """
    found = _products(nests)
    if found is None or len(nests.axes) < 2:
        return False
    last, scores, _ = found
    column = nests.axes[-1].var.name
    if last.axes[-1:] != (column,) or set(last.axes) != {a.var.name for a in nests.axes}:
        return False
    if contiguous and not (_has_vector_axis(last) and _has_vector_axis(scores)):
        return False
    rank = len(scores.spatial)
    for t in nests.temporaries:
        if t is last or t is scores:
            continue
        axes = t.spatial if isinstance(t, Reduction) else t.axes
        if len(axes) not in (rank, rank - 1):
            return False
        if not _same_extents(axes, scores.spatial):
            return False
        if isinstance(t, Reduction) and (len(axes) == rank or len(t.reduce) != 1):
            return False
    return True


def _products(nests: Nests) -> tuple[Reduction, Reduction, MapStage] | None:
    """The outer product, the inner one, and the temporary that reads it, by their ranks."""
    *others, last = nests.temporaries or (None,)
    if not isinstance(last, Reduction):
        return None
    sums = [t for t in others if isinstance(t, Reduction)]
    scores = [t for t in sums if t is others[0]]
    if len(scores) != 1 or len(others) < 2 or not isinstance(others[1], MapStage):
        return None
    return last, scores[0], others[1]


def _has_vector_axis(r: Reduction) -> bool:
    """Whether every load of a product is contiguous along its last axis, or does not use it."""
    column = r.spatial[-1].var
    steps = [load_strides(r, x) for x in loads(r.body)]
    return all(
        st is not None and (same_dim(st[column], 0) or same_dim(st[column], 1)) for st in steps
    )


def _same_extents(axes: tuple[Axis, ...], like: tuple[Axis, ...]) -> bool:
    return all(same_dim(a.extent, b.extent) for a, b in zip(axes, like, strict=False))


def _row_position(t: Reduction) -> int | None:
    """The position of the last axis that only the left operand of a product uses."""
    column = t.spatial[-1].var
    wide = [x for x in loads(t.body) if column in symbols_of(x)]
    for k in range(len(t.spatial) - 2, -1, -1):
        if not any(t.spatial[k].var in symbols_of(x) for x in wide):
            return k
    return None


def plan_chain(nests: Nests, target: Target, choices: Choices) -> Chain:
    """Decides the axes and the block from extents and the target's registers."""
    found = _products(nests)
    assert found is not None
    last, scores, values = found
    by_name = {a.var.name: a for a in nests.axes}
    column = nests.axes[-1]
    row = None
    position = _row_position(scores)
    if position is not None:
        row = _final_row(last, scores, position, by_name)
    lanes = target.lanes(32)
    widths = tuple(lanes * k for k in range(1, 9))
    outer_costs = tile_costs(row, column, target, contraction=True)
    keys = scores.spatial[-1]
    narrowed = isinstance(keys.extent, int)
    score_costs = tile_costs(row, keys, target, contraction=True, narrowed=narrowed)
    costs = {
        # Keys and values come from L2 again for each block of rows, the less often the taller.
        (m, n, w): (a + b) * (1 + 0.3 / m)
        for (m, n), a in outer_costs.items()
        for (k, w), b in score_costs.items()
        if k == m
    }
    mr, nr, score_nr = min(costs, key=costs.__getitem__)
    choices.weigh(("mr", "nr", "score_nr"), costs)
    mr = choices.pick("mr", mr if row is not None else 1, tuple(range(1, 15)))
    nr = choices.pick("nr", nr, widths)
    score_nr = choices.pick("score_nr", score_nr, widths)
    wide = [t for t in nests.temporaries if isinstance(t, MapStage)]
    held = len(wide) + (own_factor(last.body, last.spatial[-1].var) is not None)
    scratch = dim(as_expr(scores.spatial[-1].extent) * (4 * mr * held))
    outer = tuple(a for a in nests.axes[:-1] if a is not row)
    fits = le(as_expr(scratch), SCRATCH_BYTES)
    return Chain(last, scores, values, column, row, outer, mr, nr, score_nr, fits)


def _final_row(
    last: Reduction, scores: Reduction, position: int, by_name: dict[str, Axis]
) -> Axis | None:
    """The final axis along which the outer product reads the rows of the inner one."""
    column = last.spatial[-1].var
    left = [x for x in loads(last.body) if column not in symbols_of(x)]
    wide = [x for x in loads(last.body) if column in symbols_of(x)]
    for x in left:
        if len(x.indices) != len(scores.spatial):
            continue
        for name, a in zip(last.axes, last.spatial, strict=True):
            if x.indices[position] is a.var and not any(a.var in symbols_of(w) for w in wide):
                return by_name[name]
    return None


def chain(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Places the whole chain in the loop over blocks of rows, each product in register tiles."""
    t = plan_chain(nests, target, choices)
    s = Schedule(nests.func)
    kept = _keep_left(s, t)
    block, panel = _shape_final(s, t)
    s.do("compute_at", t.last.buffer.name, panel)
    s.do("set_scope", t.last.buffer.name, "register")
    shape_reduction(s, t.last, t.row.var.name if t.row else None, t.column.var.name)
    width = target.lanes(32)
    # Exponentials of several vectors run side by side; a rest of any length is best one vector.
    wide = width * (4 if isinstance(t.values.axes[-1].extent, int) else 1)
    between = nests.temporaries[1:-1]
    if kept is not None:
        s.do("compute_at", kept.buffer.name, block)
    for temporary in reversed(between):
        s.do("compute_at", temporary.buffer.name, block)
    for temporary in between:
        match temporary:
            case Reduction():
                _reduce(s, temporary, 4 * width)
            case MapStage() if temporary is t.values:
                _score_tiles(s, t, width)
            case MapStage() if len(temporary.axes) == len(t.scores.spatial):
                vectorise(s, temporary.axes[-1].var.name, wide)
    if kept is not None:
        vectorise(s, kept.axes[-1].var.name, wide)
    for stage in (*between, kept):
        if isinstance(stage, MapStage) and len(stage.axes) == len(t.scores.spatial):
            s.do("align_dim", stage.buffer.name, len(stage.axes) - 1, width)
    share(s, block, (*nests.axes, *t.last.reduce), choices, products=t.mr > 1)
    return s


def _keep_left(s: Schedule, t: Chain) -> MapStage | None:
    """Computes the left operand of the outer product once for all panels, where it is no load."""
    column = t.last.spatial[-1].var
    if own_factor(t.last.body, column) is None:
        return None
    name = f"{t.last.buffer.name}_left"
    s.do("keep_factor", t.last.buffer.name, column.name, name)
    (fill,) = (x for x in stores(s.func.body) if x.buffer.name == name)
    extents = {x.var: x.extent for x in loops(s.func.body)}
    axes = [Axis(v, extents[v]) for v in fill.indices if isinstance(v, Var)]
    return MapStage(fill.buffer, tuple(axes))


def _shape_final(s: Schedule, t: Chain) -> tuple[str, str]:
    """Tiles the final nest; returns the loop over blocks of rows and the one over panels."""
    column = t.column.var.name
    panel, lane = f"{column}_o", f"{column}_i"
    s.do("split", column, t.nr, panel, lane, "guard")
    outer = [a.var.name for a in t.outer]
    inner = [lane]
    if t.row is not None:
        name = t.row.var.name
        s.do("split", name, t.mr, f"{name}_o", f"{name}_i", "assume")
        outer.append(f"{name}_o")
        inner.insert(0, f"{name}_i")
        s.do("reorder", (*outer, panel, *inner))
        s.do("set_kind", inner[0], "unroll")
    s.do("set_kind", lane, "vector")
    return fuse_all(s, outer, "p"), panel


def _score_tiles(s: Schedule, t: Chain, lanes: int) -> None:
    """Register tiles of the inner product, inside the nest that reads it."""
    extent = t.values.axes[-1].extent
    *outer, column = (a.var.name for a in t.values.axes)
    panel, lane = f"{column}_o", f"{column}_i"
    s.do("split", column, t.score_nr, panel, lane, "guard")
    position = _row_position(t.scores)
    assert position is not None or t.row is None
    inner = [lane]
    row = None
    if t.row is not None and position is not None:
        row = outer.pop(position)
        inner.insert(0, row)
    s.do("reorder", (*outer, panel, *inner))
    for name in inner[:-1]:
        s.do("set_kind", name, "unroll")
    s.do("set_kind", lane, "vector")
    s.do("compute_at", t.scores.buffer.name, panel)
    s.do("set_scope", t.scores.buffer.name, "register")
    own = dict(zip((a.var.name for a in t.values.axes), t.scores.axes, strict=True))
    shape_reduction(s, t.scores, row and own[row], own[column])
    if isinstance(extent, int) and t.score_nr < extent and extent % t.score_nr:
        s.do("peel", panel, 0, 1)
        if extent % t.score_nr <= t.score_nr - lanes:
            s.do("narrow", f"{lane}_b0", lanes)


def _reduce(s: Schedule, r: Reduction, width: int) -> None:
    """Several vectors at once along the row, combined at its end."""
    name = r.reduce[0].var.name
    extent = find_loop(s.func, name, "chain").extent
    if isinstance(extent, int) and extent <= width:
        if extent > 1:
            s.do("set_kind", name, "vector")
        return
    s.do("rfactor", name, width, f"{r.buffer.name}_p")
