"""Recipes for machines that run blocks of threads, by kind of nest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....target import Target
from ...nests import Nests
from ...schedule import Schedule
from ..chain import can_chain
from ..choices import Choices
from .attention import attention, plan_attention
from .columns import can_columns, columns
from .contraction import contraction, plan
from .elementwise import elementwise
from .irregular import irregular
from .plain import plain
from .rows import rows
from .tensor import plan_products, tensor

Recipe = Callable[[Nests, Target, Choices], Schedule]


def or_product(other: Recipe) -> Recipe:
    """A recipe that leaves products to their own: rows of both operands may be contiguous."""

    def choose(nests: Nests, target: Target, choices: Choices) -> Schedule:
        tiled = plan(nests, target, choices) is not None
        return (product if tiled else other)(nests, target, choices)

    return choose


def product(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Tiles for large products, shared columns for tall sums, else a thread an element.

    Products of halves go to the instructions of warps where the target has them.
    """
    halves = plan_products(nests, target, choices)
    if halves is not None:
        return tensor(halves)
    if plan(nests, target, choices) is not None:
        return contraction(nests, target, choices)
    return (columns if can_columns(nests, target) else plain)(nests, target, choices)


RECIPES: Mapping[str, Recipe] = {
    "elementwise": elementwise,
    "rows": or_product(rows),
    "plain": or_product(plain),
    "tile": product,
    "chain": attention,
}
"""By kind of nest, as ``recipes.kind_of`` names it."""


def kind_of(nests: Nests, kind: str) -> str:
    """The kind of a nest, given what it is for vector registers: chains may have any layout."""
    return "chain" if kind == "plain" and can_chain(nests, contiguous=False) else kind


def fits_one_kernel(nests: Nests, kind: str, target: Target) -> bool:
    """Whether one kernel may compute a group: what its threads share has a place."""
    if kind == "chain":
        return plan_attention(nests, target, Choices()) is not None
    return kind in ("elementwise", "rows") or len(nests.temporaries) == 1


__all__ = ["RECIPES", "fits_one_kernel", "irregular", "kind_of"]
