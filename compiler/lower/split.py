"""Long reductions of few results on machines of many blocks: pieces first, then their sum.

A block is the most that works on one result, or on one tile of them. Where results are few and
the reduction is long, most of the machine would be idle: here each block takes a piece, and a
second kernel combines the pieces of each result. The pieces are the same at every run, and with
them the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..schedule.place import identity
from ..schedule.recipes import can_rows
from ..target import Target
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Axis, Binary, Buffer, Cast, Const, Expr, Load, Reduce, Select, Var, lt
from ..tensor.simplify import simplify, substitute, symbols
from .fission import fission
from .inline import loads_of, ranges_of, walk
from .merge import merge_axes
from .nests import to_func

LEAST_TERMS, LEAST_PIECES = 1 << 14, 8
"""Terms of one piece, and pieces, at least: one block soon combines fewer."""
LEAST_DEPTH, LEAST_SLICES = 1 << 10, 4
"""The same of a product, whose blocks compute a tile of results each."""
CHAINED = 8
"""How many times as long a reduction must be for others after it to become kernels, too."""
COLUMNS, TILE = 32, 32 * 32
"""Results that one block computes at least where neighbours lie along the results; of a product."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a reduction is cut.

    Attributes:
        reduce: the reduction; its first axis is cut.
        count, length: pieces, and iterations of the axis in one.
    """

    reduce: Reduce
    count: int
    length: int


def split_reductions(group: ComputeGroup, target: Target) -> list[ComputeGroup] | None:
    """The group as several, each long reduction of few results in pieces; None if there is none.

    The outputs of those that come first are read by the later ones.
    """
    if target.threads is None:
        return None
    parts = [group] if len(group.stages) == 1 else fission(group)
    found: list[ComputeGroup] = []
    for number, part in enumerate(parts):
        merged = merge_axes(part)
        plan = plan_pieces(merged, target, 1 if len(parts) == 1 else CHAINED)
        found += [part] if plan is None else _in_pieces(merged, plan, number)
    return found if len(found) > len(parts) else None


def plan_pieces(group: ComputeGroup, target: Target, times: int = 1) -> Pieces | None:
    """The pieces of a group of one stage; None where its blocks are many, or its sum is short.

    Args:
        times: how many times as long as is worth two kernels it must be.
    """
    assert target.threads is not None
    (stage,) = group.stages
    reductions = {e for e in walk(stage.expr) if isinstance(e, Reduce)}
    if len(reductions) != 1:
        return None
    (r,) = reductions
    terms, results = _count(r.axes), _count(_spatial(stage, r))
    first = r.axes[0].extent
    if r.op in ("argmax", "argmin") or not terms or not results or not isinstance(first, int):
        return None
    if is_product(r):
        least, pieces, blocks = LEAST_DEPTH, LEAST_SLICES, -(-results // TILE)
    elif can_rows(to_func(group), longest=None):
        least, pieces, blocks = LEAST_TERMS, LEAST_PIECES, results
    else:
        least, pieces, blocks = LEAST_TERMS, LEAST_PIECES, -(-results // COLUMNS)
    most = min(2 * target.threads.processors // blocks, terms // (least * times), first)
    if most < pieces:
        return None
    # Pieces of one length need no guard; vectors fit them where they fit the whole.
    even = (n for n in range(most, most // 2, -1) if first % n == 0 and (first // n) % 4 == 0)
    count = next(even, most)
    length = -(-first // count)
    length = -(-length // 4) * 4 if length > 4 else length
    return Pieces(r, -(-first // length), length)


def is_product(r: Reduce) -> bool:
    """Whether a reduction sums products of what two operands hold."""
    return (
        r.op == "sum"
        and isinstance(r.body, Binary)
        and r.body.op == "mul"
        and all(len(set(loads_of(x))) == 1 and _is_bare(x) for x in (r.body.a, r.body.b))
    )


def _is_bare(e: Expr) -> bool:
    """Whether a factor is 0 where what it loads is: a load, guarded or converted."""
    match e:
        case Load():
            return True
        case Cast():
            return _is_bare(e.x)
        case Select(b=Const(value=0)):
            return _is_bare(e.a)
    return False


def _spatial(stage: Compute, r: Reduce) -> tuple[Axis, ...]:
    """The axes of a stage that a reduction depends on."""
    used = symbols(r)
    return tuple(a for a in stage.axes if a.var in used)


def _count(axes: tuple[Axis, ...]) -> int | None:
    """How many elements axes have; None where that is not known."""
    total = 1
    for a in axes:
        if not isinstance(a.extent, int):
            return None
        total *= a.extent
    return total


def _in_pieces(group: ComputeGroup, plan: Pieces, number: int) -> list[ComputeGroup]:
    """The group of the pieces, and the group that combines them."""
    (stage,) = group.stages
    r = plan.reduce
    cut, *others = r.axes
    taken = {v.name for v in ranges_of(stage)} | {a.var.name for a in r.axes}
    piece, inside, again = (_free(n, taken) for n in ("piece", "inside", "again"))
    spatial = _spatial(stage, r)
    shape = (plan.count, *(a.extent for a in spatial))
    held = Buffer(f"pieces{number}", r.dtype, shape)
    position = piece * plan.length + inside
    body = substitute(r.body, {cut.var: position})
    if plan.count * plan.length != cut.extent:
        assert isinstance(cut.extent, int)
        body = _guarded(r, body, lt(position, cut.extent))
    part = Reduce(r.op, (Axis(inside, plan.length), *others), body)
    first = Compute(held, (Axis(piece, plan.count), *spatial), part)
    place = (again, *(a.var for a in spatial))
    whole = Reduce(r.op, (Axis(again, plan.count),), Load(held, place))
    last = Compute(stage.output, stage.axes, substitute(stage.expr, {r: whole}))
    return [ComputeGroup(group.name, _read(s), (s.output,), (_simple(s),)) for s in (first, last)]


def _guarded(r: Reduce, body: Expr, inside: Expr) -> Expr:
    """A term that changes nothing beyond the end, and loads nothing there."""
    if not is_product(r):
        return Select(inside, body, Const(identity(r.op, r.dtype), r.dtype))
    guards: dict[Expr, Expr] = {
        x: Select(inside, x, Const(0, x.dtype)) for x in set(loads_of(body))
    }
    return substitute(body, guards)


def _simple(s: Compute) -> Compute:
    return Compute(s.output, s.axes, simplify(s.expr, ranges_of(s)))


def _read(s: Compute) -> tuple[Buffer, ...]:
    return tuple(dict.fromkeys(x.buffer for x in loads_of(s.expr)))


def _free(name: str, taken: set[str]) -> Var:
    while name in taken:
        name += "_"
    return Var(name)
