"""How a reduction with a vector axis is tiled: its axes, the tile, and what its operands are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from ...target import Target
from ...tensor import walk
from ...tensor.access import flat_index
from ...tensor.ir import Axis, Dim, Expr, Load, Var
from ...tensor.simplify import affine, bounds, ranges_of_axes, same_dim, symbols
from ..nests import Nests, Reduction
from ..pack import stays_inside
from .choices import Choices
from .groups import Groups, find_groups, group_costs, group_strides

FALLBACK_EXTENT = 256
"""What an unbounded symbolic extent is taken for when sizes are weighed."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The plan of a tiled reduction.

    Attributes:
        main: the reduction with the most work.
        column: the final axis that is vectorised; row: the one that is tiled in registers.
        outer: the other final axes, in order.
        mr, nr: tile height, and width in elements.
        shared: names of outer axes that the column operand varies along (batches).
        packed: the constant loads to pack.
        groups: how the columns come in groups that a vector holds several of; or None.
    """

    main: Reduction
    column: Axis
    row: Axis | None
    outer: tuple[Axis, ...]
    mr: int
    nr: int
    shared: frozenset[str]
    packed: tuple[Load, ...]
    groups: Groups | None = None


def plan(nests: Nests, target: Target, choices: Choices) -> Tile:
    """Decides the axes and the tile from extents and the target's registers."""
    main = max(nests.reductions, key=lambda r: len(loads(r.body)))
    column = nests.axes[-1]
    own_axes = dict(zip(main.axes, main.spatial, strict=True))
    own = {name: a.var for name, a in own_axes.items()}
    v = own[column.var.name]
    wide: list[Load] = []
    narrow: list[Load] = []
    for load in loads(main.body):
        strides = load_strides(main, load) or {}
        (narrow if same_dim(strides.get(v, 0), 0) else wide).append(load)
    others = [a for a in nests.axes[:-1] if a.var.name in own]
    reused = [a for a in others if not any(own[a.var.name] in symbols_of(load) for load in wide)]
    row = next((a for a in reversed(reused or others) if not same_dim(a.extent, 1)), None)
    contraction = bool(narrow) and bool(wide)
    shared = frozenset(
        a.var.name
        for a in others
        if contraction and any(own[a.var.name] in symbols_of(load) for load in wide)
    )
    packed = tuple(
        load
        for load in wide
        if contraction
        and any(a.var in symbols_of(load) for a in main.reduce)
        and can_pack(nests, main, load)
    )
    rows = sum(not same_dim(a.extent, 1) for a in others)
    streamed = rows < 2 and any(bytes_of(load) > target.l2_bytes // 2 for load in packed)
    groups = find_groups(main, None if row is None else own_axes.get(row.var.name))
    costs = {} if groups is None else group_costs(groups, row, column, target)
    if not costs:
        groups, costs = None, tile_costs(row, column, target, contraction, streamed)
    mr, nr = min(costs, key=costs.__getitem__)
    choices.weigh(("mr", "nr"), costs)
    mr = choices.pick("mr", mr, tuple(range(1, 15)))
    widths = tuple(target.lanes(32) * k for k in range(1, 9))
    if groups is not None:
        widths = tuple(n for n in widths if n in {nr for _, nr in costs})
    nr = choices.pick("nr", nr, widths)
    outer = tuple(a for a in nests.axes[:-1] if a is not row)
    return Tile(main, column, row, outer, mr, nr, shared, packed, groups)


def worth_joining(nests: Nests, target: Target) -> bool | None:
    """Whether vectors of several groups take less work than vectors of one group's columns.

    None where columns do not come in groups, or no vector holds several.
    """
    if not can_tile(nests):
        return None
    t = plan(nests, target, Choices())
    if t.groups is None:
        return None
    apart = tile_costs(t.row, Axis(t.column.var, t.groups.width), target, contraction=True)
    return min(group_costs(t.groups, t.row, t.column, target).values()) < min(apart.values())


def tile_costs(
    row: Axis | None,
    column: Axis,
    target: Target,
    contraction: bool,
    streamed: bool = False,
    narrowed: bool = False,
) -> dict[tuple[int, int], float]:
    """The padded work per useful work of each tile, weighed by how well it hides latency.

    Accumulators, one row of column vectors, a broadcast and, where multiply-add is two
    instructions, a product must fit the registers. About 12 accumulators are needed to hide the
    latency of an FMA, 8 that of an add, and loads (MR broadcasts and V vectors for MR * V
    multiply-adds) must not be the limit. Of equal tiles the first is to be taken.

    Args:
        streamed: whether the columns' operand comes from beyond L2, for these rows alone: if they
            are few they wait for it however wide their tile is, narrow panels are shared more
            evenly, and their sums are to fit four times: one set for each place that they are
            read in.
        narrowed: whether the last tile of columns is as narrow as they need.
    """
    lanes = target.lanes(32)
    registers = target.vector_registers
    usable = registers if contraction and target.fma else registers - 1
    # Without FMA a multiply, an add and a shuffle for each broadcast compete for the same ports.
    shuffles = contraction and not target.fma
    n = max(1, size(column.extent))
    m = size(row.extent) if row is not None else 1
    fixed_rows = row is None or isinstance(row.extent, int)
    costs: dict[tuple[int, int], float] = {}
    for v in range(1, 9):
        if v > 1 and (v - 1) * lanes >= n:
            break
        for mr in range(1, 15):
            accumulators = mr * v
            spare = v + 1 if contraction else v
            if accumulators + spare > usable or mr > m:
                break
            width = -(-n // (v * lanes)) * v * lanes / n
            if narrowed:
                width = _narrowed(-(-n // lanes), v, mr) * lanes / n
            height = -(-m // mr) * mr / m if fixed_rows else 1.0 + 0.003 * mr
            hide = min(1.0, accumulators / (8 if shuffles else 12))
            # Loads for each multiply-add: at 0.42 (6x4 vectors) they hide, then they show.
            pressure = (mr + v) / accumulators
            load_limit = max(1.0, pressure) * (1.0 + 0.5 * max(0.0, pressure - 0.42) + 0.2 / mr)
            if shuffles:
                load_limit *= 1.0 + 0.4 / v
            best = min(4, (registers - 4) // (4 * m))
            if streamed and best and fixed_rows:
                hide, load_limit = min(1.0, v / best) * mr / m, 1.0 + 0.05 * max(0, v - best)
            elif not contraction and m == 1:
                # Sums of columns: a few chains take all that memory gives.
                hide, load_limit = min(1.0, accumulators / 5), 1.0
            tall = 1.0 + 0.01 * max(0, mr - 9)
            cost = width * height * load_limit * tall / hide
            if not contraction:
                # A window: the lines of a few rows of the image are to stay in L1.
                cost *= 1.0 + 0.03 * v + (0.2 * max(0, v - 2) if m > 1 else 0.0)
            costs[mr, v * lanes] = cost
    return costs or {(1, lanes): 1.0}


def _narrowed(vectors: int, v: int, mr: int) -> float:
    """The vectors that tiles take the time of where the last of them is only as wide as needed.

    It takes that of 8 accumulators at least, unless none has as many: a chain of FMA each.
    """
    whole, rest = divmod(vectors, v)
    return whole * v + (max(rest, min(v, 8 / mr)) if rest else 0)


def can_tile(nests: Nests) -> bool:
    """Whether the last axis can be the vector axis of every reduction."""
    reductions = nests.reductions
    if not reductions or len(reductions) != len(nests.temporaries) or not nests.axes:
        return False
    column = nests.axes[-1].var.name
    for r in reductions:
        if r.axes != reductions[0].axes:
            return False
        if column not in r.axes:
            return False
        v = r.spatial[r.axes.index(column)].var
        for load in loads(r.body):
            strides = load_strides(r, load)
            if strides is None and group_strides(r, load) is not None:
                continue
            if strides is None:
                return False
            if not (same_dim(strides[v], 0) or same_dim(strides[v], 1)) and not can_pack(
                nests, r, load
            ):
                return False
    return True


def can_pack(nests: Nests, r: Reduction, load: Load) -> bool:
    """Whether a load's operand can be laid out anew: a constant that is read inside its bounds."""
    ranges = ranges_of_axes((*r.spatial, *r.reduce))
    return load.buffer.name in nests.constants and stays_inside(load, ranges)


def load_strides(r: Reduction, load: Load) -> Mapping[Var, Dim] | None:
    """The stride of a load along each axis of the update nest; None if it is not affine."""
    return _strides((*r.spatial, *r.reduce), load)


@lru_cache(maxsize=1 << 12)
def _strides(axes: tuple[Axis, ...], load: Load) -> Mapping[Var, Dim] | None:
    # Remembered, since each recipe that may take a nest asks again.
    ranges = ranges_of_axes(axes)
    form = affine(flat_index(load, ranges), [a.var for a in axes], ranges)
    return None if form is None else MappingProxyType(form[0])


def loads(e: Expr) -> list[Load]:
    """Every distinct load of an expression."""
    return list(walk.loads(e))


def symbols_of(load: Load) -> frozenset[Var]:
    """The variables that the indices of a load use."""
    return frozenset(v for i in load.indices for v in symbols(i))


def nested(r: Reduction) -> list[Axis]:
    """The axes of a reduction as its loops are nested: the operands' long steps outside.

    The image of a first convolution lies in planes: its channels go outside the taps.
    """
    steps = [load_strides(r, load) or {} for load in loads(r.body)]

    def longest(a: Axis) -> int:
        found = (st.get(a.var, 0) for st in steps if len(st) > 0 and _is_shared(r, st))
        return max((abs(d) for d in found if isinstance(d, int)), default=0)

    if any(not isinstance(d, int) for st in steps for d in st.values()):
        return list(r.reduce)
    return sorted(r.reduce, key=longest, reverse=True)


def _is_shared(r: Reduction, steps: Mapping[Var, Dim]) -> bool:
    """Whether an operand does not vary along the vector axis."""
    return same_dim(steps.get(r.spatial[-1].var, 0), 0) if r.spatial else False


def operand_bytes(t: Tile, of_columns: bool) -> int:
    """The bytes of the operand that varies along the columns, or of the one that does not."""
    own = {a.var for a in t.main.spatial}
    column = t.main.spatial[t.main.axes.index(t.column.var.name)].var
    most = 0
    for load in loads(t.main.body):
        used = symbols_of(load)
        if (column in used) == of_columns and used & own:
            most = max(most, bytes_of(load))
    return most


def bytes_of(load: Load) -> int:
    """How large the buffer is that is read."""
    return size_product(load.buffer.shape) * load.dtype.bytes


def size(d: Dim) -> int:
    """A number to weigh an extent by: its upper bound, or a guess where there is none."""
    if isinstance(d, int):
        return d
    lo, hi = bounds(d)
    return min(hi, FALLBACK_EXTENT) if hi is not None else max(lo or 1, FALLBACK_EXTENT)


def size_product(dims: tuple[Dim, ...]) -> int:
    """The product of the sizes of dims, guessed where they are unbounded."""
    total = 1
    for d in dims:
        total *= size(d)
    return total
