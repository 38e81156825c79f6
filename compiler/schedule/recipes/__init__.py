"""Recipes: an ordinary function for each kind of nest, chosen by analysing its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...target import Target
from ...tensor.ir import Expr, Func, as_expr, conjunction, le
from ...tensor.simplify import bounds, prove, same_dim
from ..nests import Nests
from ..pack import Packing
from ..recording import Recording, either, record, record_either
from ..schedule import Schedule
from . import simt
from .chain import can_chain, chain, plan_chain
from .choices import Choices
from .elementwise import elementwise
from .panels import copy_panels, far_factor
from .plain import plain
from .rows import rows
from .tile import tile
from .tile_plan import Tile, can_tile, load_strides, loads, plan

RECIPES: Mapping[str, Callable[[Nests, Target, Choices], Schedule]] = {
    "elementwise": elementwise,
    "rows": rows,
    "plain": plain,
}
"""The recipes that make one version of a kernel; "tile" and "chain" may make two."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A kernel ready for a backend.

    Attributes:
        func: the scheduled function.
        packings: operands to pack before the call.
        recipe: the name of the recipe.
        recording: the steps of the schedule.
    """

    func: Func
    packings: tuple[Packing, ...]
    recipe: str
    recording: Recording


def schedule(
    nests: Nests, target: Target, choices: Choices | None = None, kind: str | None = None
) -> Scheduled:
    """Schedules a plain function by a recipe.

    Args:
        nests: the function.
        target: what to schedule for.
        choices: answers to the recipe's questions.
        kind: the recipe; by default the one for its kind of nest.

    Raises:
        ScheduleError: a step of the recipe does not apply.
    """
    choices = choices or Choices()
    kind = kind or _kind_for(nests, target)
    if target.threads is not None:
        s = simt.RECIPES[kind](nests, target, choices)
        s.do("place_barriers")
        return _single(s, kind)
    if kind == "tile":
        return _tile(nests, target, choices)
    if kind == "chain":
        return _chain(nests, target, choices)
    recipe = RECIPES[kind]
    s = recipe(nests, target, choices)
    return _single(s, kind)


def spread_loops(func: Func, target: Target) -> tuple[Func, ...]:
    """The kernels of a loop nest that no recipe knows, in the order of their calls."""
    return (func,) if target.threads is None else simt.irregular(func)


def kind_of(nests: Nests) -> str:
    """The kind of a nest: elementwise, tile, rows, chain, or plain; by its axes alone."""
    if not nests.temporaries:
        return "elementwise"
    along = can_rows(nests)
    if can_tile(nests):
        return "tile"
    if along:
        return "rows"
    if can_chain(nests):
        return "chain"
    return "plain"


def kinds_of(nests: Nests, target: Target) -> tuple[str, ...]:
    """The recipes that take a nest, the usual one first."""
    usual = _kind_for(nests, target)
    both = target.threads is None and usual == "tile" and can_rows(nests)
    return (usual, "rows") if both else (usual,)


def _kind_for(nests: Nests, target: Target) -> str:
    """The kind of a nest on a machine of that kind."""
    kind = kind_of(nests)
    if target.threads is None:
        return kind
    if kind == "plain" and can_rows(nests, longest=None):
        return "rows"
    return simt.kind_of(nests, kind)


def fits_one_kernel(nests: Nests, target: Target) -> bool:
    """Whether a group has one final nest, and one loop of it can hold all its temporaries."""
    if nests.finals > 1:
        return False
    if target.threads is not None:
        return simt.fits_one_kernel(nests, _kind_for(nests, target), target)
    return kind_of(nests) != "plain" or len(nests.temporaries) == 1


def can_rows(nests: Nests, longest: int | None = 1 << 16) -> bool:
    """Whether every temporary belongs to a row, and rows are contiguous.

    Final axes must be the rows' axes and then at most one more.

    Args:
        longest: a row whose values are kept, in elements; None: they need not be kept.
    """
    reductions = nests.reductions
    if not reductions:
        return False
    held = reductions[0].axes
    names = tuple(a.var.name for a in nests.axes)
    if names[: len(held)] != held or len(names) > len(held) + 1:
        return False
    for r in reductions:
        if r.axes != held:
            return False
        last = r.reduce[-1].var
        steps = [load_strides(r, load) for load in loads(r.body)]
        if any(st is None for st in steps):
            return False
        if not any(same_dim((st or {}).get(last, 0), 1) for st in steps):
            return False
    for t in nests.temporaries:
        if t in reductions:
            continue
        if len(t.buffer.shape) == len(held):
            continue
        if len(t.buffer.shape) != len(held) + 1:
            return False
        _, most = bounds(t.buffer.shape[-1])
        if longest is not None and most is not None and most > longest:
            return False
    return True


def _tile(nests: Nests, target: Target, choices: Choices) -> Scheduled:
    """The tile recipe; with a version that copies panels of a factor where sizes make it pay."""
    t = plan(nests, target, choices)
    far = far_factor(t)
    if far is None or not choices.pick("copy_panels", 1, (0, 1)):
        return _tall_or_low(nests, target, choices, t)
    factor, conditions = far
    s = tile(nests, target, choices, copied=True)
    copy_panels(s, factor)
    if not conditions:
        return _single(s, "tile")
    near = _tall_or_low(nests, target, choices.but(mr=t.mr, nr=t.nr), t)
    return _either(conjunction(conditions), s, near, "tile")


def _tall_or_low(nests: Nests, target: Target, choices: Choices, t: Tile) -> Scheduled:
    """The tile recipe; with a second version of one-row tiles where the rows may be too few."""
    s = tile(nests, target, choices)
    if t.row is None:
        return _single(s, "tile")
    least, _ = bounds(t.row.extent)
    if t.mr == 1 or (least is not None and least >= t.mr):
        return _single(s, "tile")
    low = _single(tile(nests, target, choices.but(mr=1, nr=t.nr)), "tile")
    if isinstance(t.row.extent, int):
        return low
    return _either(le(t.mr, t.row.extent), s, low, "tile")


def _chain(nests: Nests, target: Target, choices: Choices) -> Scheduled:
    """The chain recipe; with a second version of one-row blocks for few or very long rows."""
    t = plan_chain(nests, target, choices)
    s = chain(nests, target, choices)
    conditions = []
    if t.row is not None and t.mr > 1:
        conditions = [c for c in (le(t.mr, as_expr(t.row.extent)), t.fits) if prove(c) is not True]
    if not conditions:
        return _single(s, "chain")
    low = _single(chain(nests, target, choices.but(mr=1, nr=t.nr)), "chain")
    if any(prove(c) is False for c in conditions):
        return low
    return _either(conjunction(conditions), s, low, "chain")


def _single(s: Schedule, recipe: str) -> Scheduled:
    """A kernel with one version."""
    return Scheduled(s.finish(), tuple(s.packings), recipe, record(s))


def _either(cond: Expr, tall: Schedule, low: Scheduled, recipe: str) -> Scheduled:
    """Both versions in one kernel: the first where the condition holds."""
    func = either(cond, tall, low.func)
    recording = record_either(cond, tall, low.recording)
    return Scheduled(func, tuple(tall.packings), recipe, recording)
