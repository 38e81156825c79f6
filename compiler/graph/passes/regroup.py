"""Reshapes as groups of axes: which axes of the operand make which axes of the result."""

from __future__ import annotations

from dataclasses import dataclass

from ...tensor.ir import Dim, as_expr
from ...tensor.simplify import dim, same_dim

Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class AxisGroup:
    """Axes ``old`` of the operand, in order, are axes ``new`` of the result; equal products.

    One of the two may be empty, where axes of size 1 come or go.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]


def axis_groups(old: Shape, new: Shape) -> tuple[AxisGroup, ...] | None:
    """Splits a reshape into the smallest independent groups; None where sizes do not tell."""
    groups: list[AxisGroup] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and same_dim(old[i], new[j]):
            groups.append(AxisGroup((i,), (j,)))
            i, j = i + 1, j + 1
        elif i < len(old) and old[i] == 1:
            groups.append(AxisGroup((i,), ()))
            i += 1
        elif j < len(new) and new[j] == 1:
            groups.append(AxisGroup((), (j,)))
            j += 1
        else:
            ends = _next_match(old, new, i, j)
            if ends is None:
                return None
            groups.append(AxisGroup(tuple(range(i, ends[0])), tuple(range(j, ends[1]))))
            i, j = ends
    return tuple(groups)


def _next_match(old: Shape, new: Shape, i: int, j: int) -> tuple[int, int] | None:
    """The ends of the shortest runs from ``i`` and ``j`` whose products are equal."""
    if i == len(old) or j == len(new):
        return None
    left, right = old[i], new[j]
    i, j = i + 1, j + 1
    while not same_dim(left, right):
        if _divides(left, right) and i < len(old):
            left = dim(as_expr(left) * old[i])
            i += 1
        elif _divides(right, left) and j < len(new):
            right = dim(as_expr(right) * new[j])
            j += 1
        elif isinstance(left, int) and isinstance(right, int) and left < right and i < len(old):
            left = dim(as_expr(left) * old[i])
            i += 1
        elif isinstance(left, int) and isinstance(right, int) and right < left and j < len(new):
            right = dim(as_expr(right) * new[j])
            j += 1
        else:
            return None
    return i, j


def _divides(a: Dim, b: Dim) -> bool:
    return a != 0 and same_dim(dim(as_expr(b) % a), 0) and not same_dim(b, 0)


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A reshape done on a permuted operand instead.

    Attributes:
        order: how to permute the stored axes before, so that every merged group lies together.
        shape: the shape to give the stored array then.
        perm: where each axis of the result lies in it.
        mixed: the group that was left in its stored order although the result wants another.
    """

    order: tuple[int, ...]
    shape: Shape
    perm: tuple[int, ...]
    mixed: AxisGroup | None = None


def regroup(
    old: Shape, new: Shape, perm: tuple[int, ...], keep_mixed: bool = False
) -> Regrouped | None:
    """Moves a reshape before a transpose.

    Args:
        old, new: the shapes of the reshape, as written.
        perm: axis ``i`` of its operand is axis ``perm[i]`` of the stored array.
        keep_mixed: leave the group of the last axis in stored order, if its axes lie together.

    Returns:
        None where the groups of axes are not known.
    """
    groups = axis_groups(old, new)
    if groups is None:
        return None
    owner = {perm[i]: g for g in groups for i in g.old}
    mixed: AxisGroup | None = None
    places: dict[AxisGroup, tuple[int, ...]] = {}
    for group in groups:
        stored = tuple(perm[i] for i in group.old)
        together = sorted(stored)
        adjacent = bool(stored) and together == list(range(together[0], together[0] + len(stored)))
        wanted = keep_mixed and group.new == (len(new) - 1,)
        if wanted and adjacent and list(stored) != together:
            mixed, stored = group, tuple(together)
        places[group] = stored
    # Each group stands where the last of its axes is stored.
    sequence = [owner[s] for s in range(len(perm)) if s == max(perm[i] for i in owner[s].old)]
    order = tuple(s for g in sequence for s in places[g])
    # Axes of size 1 that come from nowhere stand behind the group before them.
    leading: list[int] = []
    follow: dict[AxisGroup, list[int]] = {g: list(g.new) for g in sequence}
    last: AxisGroup | None = None
    for group in groups:
        if group.old:
            last = group
        elif last is None:
            leading.extend(group.new)
        else:
            follow[last].extend(group.new)
    axes = [*leading, *(j for g in sequence for j in follow[g])]
    return Regrouped(
        order,
        tuple(new[j] for j in axes),
        tuple(axes.index(j) for j in range(len(new))),
        mixed,
    )
