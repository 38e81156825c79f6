"""Rows of several axes as one: tiles of a convolution that run over the ends of image rows.

The rows of a product are the final axes that its narrow operand varies along and the wide one
does not: images, and their rows and columns. A row of an image is often shorter than a tile, or
no multiple of it; as one axis they fill whole tiles up to the last.
"""

from __future__ import annotations

from dataclasses import replace

from ....tensor.ir import Axis, Expr, Var, as_expr
from ....tensor.simplify import Ranges, dim, simplify, substitute
from ...nests import Nests, Reduction
from ...place import declared
from ...schedule import Schedule


def neighbours(nests: Nests, main: Reduction, rows: list[Axis]) -> list[Axis]:
    """The last of some final axes that follow each other, in the result and in what is summed."""
    count = 1
    while count < len(rows) and all(
        _follow(order, rows[-count - 1].var.name, rows[-count].var.name)
        for order in ([a.var.name for a in nests.axes], list(main.axes))
    ):
        count += 1
    return rows[-count:]


def _follow(order: list[str], first: str, second: str) -> bool:
    return order.index(second) == order.index(first) + 1


def flatten(s: Schedule, nests: Nests, rows: list[Axis]) -> Nests:
    """Makes one axis of neighbouring final axes of a nest whose only temporary is a reduction.

    Args:
        s: a schedule of the nest, to which the steps are added.

    Returns:
        What the schedule has made of it.
    """
    joined, *others = rows
    for a in others:
        nests, joined = _join(s, nests, joined, a)
    return nests


def _join(s: Schedule, nests: Nests, a: Axis, b: Axis) -> tuple[Nests, Axis]:
    (main,) = nests.reductions
    k, position = nests.axes.index(a), main.axes.index(a.var.name)
    u, v = main.spatial[position : position + 2]
    first, second = main.init[position : position + 2]
    names = []
    for x, y in ((a.var.name, b.var.name), (u.var.name, v.var.name), (first, second)):
        names.append(f"{x}_{y}")
        s.do("fuse", x, y, names[-1])
    s.do("merge_dims", main.buffer.name, position)
    final, own = (Axis(Var(n), dim(as_expr(a.extent) * b.extent)) for n in names[:2])
    spatial = (*main.spatial[:position], own, *main.spatial[position + 2 :])
    ranges: Ranges = {x.var: (0, dim(as_expr(x.extent) - 1)) for x in (*spatial, *main.reduce)}
    cut: dict[Expr, Expr] = {u.var: own.var // v.extent, v.var: own.var % v.extent}
    main = replace(
        main,
        buffer=declared(s.func, main.buffer.name, "flatten"),
        body=simplify(substitute(main.body, cut), ranges),
        init=(*main.init[:position], names[2], *main.init[position + 2 :]),
        spatial=spatial,
        axes=(*main.axes[:position], names[0], *main.axes[position + 2 :]),
    )
    axes = (*nests.axes[:k], final, *nests.axes[k + 2 :])
    return replace(nests, func=s.func, temporaries=(main,), axes=axes), final
