"""Groups of columns: operands that are the same for a few neighbouring columns, but not for all.

A convolution in groups of 4 channels has no more than 4 columns that share what they read. Here
one vector holds whole groups: each of its lanes takes the value of its own group, by a shuffle
of the vector in which the values of all these groups lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ...target import Target
from ...tensor.access import flat_index
from ...tensor.ir import Axis, Binary, Const, Dim, Expr, Load, Var
from ...tensor.simplify import affine, ranges_of_axes, same_dim, substitute
from ...tensor.walk import visit
from ..nests import Reduction
from ..schedule import Schedule

GROUP = Var(".group")
ROWS = 8
"""Rows of the tile by which axes are compared."""
MOST_VECTORS = 2
MOST_PRODUCTS = 1024
"""The most multiply-adds that a tile writes out: so many instructions stay in the cache."""


@dataclass(frozen=True, slots=True)
class Groups:
    """How the columns of a reduction come in groups.

    Attributes:
        width: columns of a group.
        stride: how far the values of two groups lie apart.
        inner: the axes of the reduction along which the values of one group lie.
        tap: another, along which a row reads what other rows of a tile read; or None.
        step, tap_step: how far values lie apart from row to row, and from tap to tap.
    """

    width: int
    stride: int
    inner: tuple[Axis, ...]
    tap: Axis | None
    step: int
    tap_step: int


def group_strides(r: Reduction, load: Load) -> tuple[int, Mapping[Var, Dim]] | None:
    """The columns of a group, and the strides of a load along its axes and from group to group.

    The load's position is affine in the axes and in ``column // width``, the variable GROUP.
    """
    if not r.spatial or not isinstance(r.spatial[-1].extent, int):
        return None
    column = r.spatial[-1]
    axes = (*r.spatial, *r.reduce)
    ranges = ranges_of_axes(axes)
    flat = flat_index(load, ranges)
    divided = {
        e for e in visit(flat) if isinstance(e, Binary) and e.op == "floordiv" and e.a is column.var
    }
    if len(divided) != 1:
        return None
    (quotient,) = divided
    assert isinstance(quotient, Binary)
    width = quotient.b.value if isinstance(quotient.b, Const) else 0
    if not isinstance(width, int) or width < 2 or r.spatial[-1].extent % width:
        return None
    mapping: dict[Expr, Expr] = {quotient: GROUP}
    form = affine(substitute(flat, mapping), [*(a.var for a in axes), GROUP], ranges)
    if form is None or not same_dim(form[0][column.var], 0):
        return None
    return width, form[0]


def find_groups(r: Reduction, row: Axis | None) -> Groups | None:
    """How the columns come in groups, in the one operand in which they do.

    Args:
        row: the axis of the reduction that is tiled in registers.
    """
    loads = [x for x in dict.fromkeys(visit(r.body)) if isinstance(x, Load)]
    found = [g for x in loads if (g := group_strides(r, x)) is not None]
    if len(found) != 1:
        return None
    ((width, strides),) = found
    numbers = {v: d for v, d in strides.items() if isinstance(d, int)}
    if len(numbers) != len(strides) or not all(isinstance(a.extent, int) for a in r.reduce):
        return None
    stride = numbers[GROUP]
    inner = tuple(a for a in r.reduce if 0 < abs(numbers[a.var]) < abs(stride))
    outer = {a: 1.0 for a in r.reduce if a not in inner}
    if row is not None:
        outer = {a: _reads(numbers[row.var], numbers[a.var], a, ROWS) for a in outer}
    tap = min(outer, key=lambda a: outer[a], default=None)
    if tap is None or outer[tap] == 1:
        return Groups(width, stride, inner, None, 0, 1)
    assert row is not None
    return Groups(width, stride, inner, tap, numbers[row.var], numbers[tap.var])


def _reads(step: int, tap_step: int, tap: Axis, rows: int) -> float:
    """The values that rows read for each multiply-add, where they share what is the same."""
    assert isinstance(tap.extent, int)
    places = {r * step + k * tap_step for r in range(rows) for k in range(tap.extent)}
    return len(places) / (rows * tap.extent)


def group_costs(
    groups: Groups, row: Axis | None, column: Axis, target: Target
) -> dict[tuple[int, int], float]:
    """The work of each tile for useful work, as ``tile_costs`` weighs it; none where none works.

    A vector of values is shuffled for each element of a group, and used for every row that reads
    it. Multiply-adds and shuffles take turns.
    """
    lanes, most = target.lanes(32), column.extent
    reach = lanes // groups.width * groups.stride
    whole = reach == 2 * lanes or (reach <= lanes and reach & (reach - 1) == 0)
    if lanes % groups.width or groups.width == lanes or not whole or reach < 1:
        return {}
    m = 1 if row is None else row.extent
    if not isinstance(m, int) or not isinstance(most, int):
        return {}
    terms, taps = _count(groups.inner), _count((groups.tap,) if groups.tap else ())
    costs: dict[tuple[int, int], float] = {}
    for v in range(1, 1 + MOST_VECTORS):
        if most % (v * lanes):
            break
        # The weights of all taps, and the values that the next rows read again.
        spare = v * (2 * taps if taps <= 3 else 7)
        for mr in range(1, 15):
            if mr * v + spare > target.vector_registers - 1 or mr > m:
                break
            if mr * v * taps * terms > MOST_PRODUCTS:
                break
            shuffles = 1.0
            if groups.tap is not None:
                shuffles = _reads(groups.step, groups.tap_step, groups.tap, mr)
            height = -(-m // mr) * mr / m
            costs[mr, v * lanes] = height * (1.0 + shuffles) / min(1.0, mr * v / 12)
    return costs


def _count(axes: tuple[Axis, ...]) -> int:
    return prod(a.extent for a in axes if isinstance(a.extent, int))


def shape_groups(s: Schedule, r: Reduction, groups: Groups, row: str | None, column: str) -> None:
    """Orders the update nest of a tile: for each value of a group all rows, for each row its taps.

    Then the shuffled values of a few rows are in registers at a time, and all that reads them.

    Args:
        row, column: names of the axes of the tile, as the nest that reads the reduction has them.
    """
    own = dict(zip(r.axes, (a.var.name for a in r.spatial), strict=True))
    first = dict(zip(r.axes, r.init, strict=True))
    last = [own[column]]
    tap = [] if groups.tap is None else [groups.tap.var.name]
    rows = [own[row]] if row in own else []
    inner = [a.var.name for a in groups.inner]
    held = {*inner, *rows, *tap, *last}
    outer = [a.var.name for a in (*r.spatial, *r.reduce) if a.var.name not in held]
    s.do("reorder", (*outer, *inner, *rows, *tap, *last))
    for name in outer:
        s.do("tighten", name)
    for name in (*inner, *rows, *tap):
        s.do("set_kind", name, "unroll")
    s.do("set_kind", own[column], "vector")
    if row in first:
        s.do("set_kind", first[row], "unroll")
    s.do("set_kind", first[column], "vector")
