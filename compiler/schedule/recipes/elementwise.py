"""Recipe for nests without a reduction: long vectors inside, threads outside."""

from __future__ import annotations

from ...target import Target
from ...tensor.access import flat_index
from ...tensor.ir import Axis, Call, Dim, Load, as_expr
from ...tensor.simplify import affine, bounds, product, same_dim
from ...tensor.walk import visit
from ..nest import find_loop, loops, stores
from ..nests import Nests
from ..schedule import Schedule
from .choices import Choices

PARALLEL_ELEMENTS = 1 << 15
"""Below this many elements a region costs more to share than to run."""

PRODUCTS_PER_ELEMENT = 8
"""How many multiply-adds of a register tile take the time of one element that is loaded."""

TURNED_ELEMENTS = 64
"""How far a tile of a transposition reaches along the lines of its operand."""


def elementwise(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Vectorises the innermost axis, cuts a single long axis in blocks, shares the outermost."""
    s = Schedule(nests.func)
    if not nests.axes:
        return s
    inner = nests.axes[-1]
    lanes = target.lanes(32)
    width = lanes * choices.pick("unroll", _unroll(nests), (1, 2, 4))
    names = [a.var.name for a in nests.axes]
    if len(names) == 1:
        _, most = bounds(inner.extent)
        # An extent that is not known may be small: fewer elements than a block are not shared.
        usual = 256 if most is None else 64
        block = width * choices.pick("block", usual, (16, 64, 256))
        if most is None or most > block:
            name = inner.var.name
            s.do("split", name, block, f"{name}_b", f"{name}_w", "shift")
            vectorise(s, f"{name}_w", width)
            if any(x.var.name == name for x in loops(s.func.body)):
                vectorise(s, name, width)
            share(s, f"{name}_b", nests.axes, choices)
            return s
        vectorise(s, names[0], width)
        return s
    turned = _turned_axis(nests, lanes)
    if turned is not None and choices.pick("turn", 1, (0, 1)):
        outer = _turn(s, nests, turned, 2 * lanes)
        share(s, outer, nests.axes, choices)
        return s
    vectorise(s, names[-1], width)
    outer = fuse_all(s, names[:-1], "p")
    share(s, outer, nests.axes, choices)
    return s


def _turned_axis(nests: Nests, lanes: int) -> Axis | None:
    """The axis along which an operand lies that is read across memory by the innermost one."""
    inner = nests.axes[-1]
    if isinstance(inner.extent, int) and inner.extent < lanes:
        return None
    ranges = {a.var: (0, as_expr(a.extent) - 1) for a in nests.axes}
    found = {x for st in stores(nests.func.body) for x in visit(st.value) if isinstance(x, Load)}
    for load in found:
        form = affine(flat_index(load, ranges), [a.var for a in nests.axes], ranges)
        if form is None or any(same_dim(form[0][inner.var], d) for d in (0, 1)):
            continue
        for a in nests.axes[:-1]:
            if same_dim(form[0][a.var], 1) and not same_dim(a.extent, 1):
                return a
    return None


def _turn(s: Schedule, nests: Nests, turned: Axis, width: int) -> str:
    """Walks a transposition by tiles, so that a line is used up while it is in the cache.

    The lines of a tile, one for each of its columns, stay in the cache of one core while the loop
    walks along them.
    """
    inner, along = nests.axes[-1].var.name, turned.var.name
    for name, extent, factor in (
        (inner, nests.axes[-1].extent, width),
        (along, turned.extent, TURNED_ELEMENTS),
    ):
        least, _ = bounds(extent)
        tail = "assume" if least is not None and least >= factor else "guard"
        s.do("split", name, factor, f"{name}_o", f"{name}_i", tail)
    outer = [a.var.name for a in nests.axes[:-1] if a is not turned]
    outer += [f"{along}_o", f"{inner}_o"]
    s.do("reorder", (*outer, f"{along}_i", f"{inner}_i"))
    s.do("set_kind", f"{inner}_i", "vector")
    return fuse_all(s, outer, "p")


def share(
    s: Schedule, loop: str, axes: tuple[Axis, ...], choices: Choices, products: bool = False
) -> None:
    """Shares a loop among threads where the nest over those axes is worth it.

    Args:
        products: whether its steps are multiply-adds on registers, of which many take the time of
            one step that reads and writes memory.
    """
    least = PARALLEL_ELEMENTS * (PRODUCTS_PER_ELEMENT if products else 1)
    if choices.pick("parallel", int(is_large(axes, least)), (0, 1)):
        s.do("set_kind", loop, "parallel")


def _unroll(nests: Nests) -> int:
    """Cheap bodies take four vectors at a time; bodies with polynomials are long as it is."""
    calls = {e for st in stores(nests.func.body) for e in visit(st.value) if isinstance(e, Call)}
    return 1 if len(calls) > 1 else 2 if calls else 4


def is_large(axes: tuple[Axis, ...], least: int = PARALLEL_ELEMENTS) -> bool:
    """Whether a nest may have enough elements to be worth sharing among threads."""
    _, most = bounds(product(a.extent for a in axes))
    return most is None or most >= least


def fuse_all(s: Schedule, names: list[str], name: str) -> str:
    """Fuses perfectly nested loops, given outermost first, into one; returns its name."""
    current = names[0]
    for k, inner in enumerate(names[1:]):
        new = name if k == len(names) - 2 else f"{name}_{k}"
        s.do("fuse", current, inner, new)
        current = new
    return current


def vectorise(s: Schedule, loop: str, width: int) -> None:
    """Makes a loop vectors of ``width``, with the rest as a shorter vector."""
    extent: Dim = find_loop(s.func, loop, "vectorise").extent
    if isinstance(extent, int) and extent <= width:
        if extent > 1:
            s.do("set_kind", loop, "vector")
        return
    s.do("split", loop, width, f"{loop}_o", f"{loop}_i", "peel")
    here = {x.var.name for x in loops(s.func.body)}
    for name in (f"{loop}_i", f"{loop}_i_tail"):
        if name in here:
            s.do("set_kind", name, "vector")
