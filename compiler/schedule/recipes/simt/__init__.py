"""Recipes for machines that run blocks of threads, by kind of nest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....target import Target
from ...nests import Nests
from ...schedule import Schedule
from ..choices import Choices
from .attention import attention, plan_attention
from .columns import can_columns, columns
from .contraction import contraction, plan
from .elementwise import elementwise
from .irregular import irregular
from .plain import plain
from .rows import rows
from .tensor import plan_products, tensor


def product(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Tiles for a large product, by instructions for halves; shared columns for tall sums, else a thread an element."""
    halves = plan_products(nests, target, choices)
    if halves is not None:
        return tensor(nests, halves)
    if plan(nests, target, choices) is not None:
        return contraction(nests, target, choices)
    return (columns if can_columns(nests, target) else plain)(nests, target, choices)


RECIPES: Mapping[str, Callable[[Nests, Target, Choices], Schedule]] = {
    "elementwise": elementwise,
    "rows": rows,
    "plain": plain,
    "tile": product,
    "chain": attention,
}
"""By kind of nest, as ``recipes.kind_of`` names it."""


def fits_one_kernel(nests: Nests, kind: str, target: Target) -> bool:
    """Whether one kernel may compute a group: what its threads share has a place."""
    if kind == "chain":
        return plan_attention(nests, target, Choices()) is not None
    return kind in ("elementwise", "rows") or len(nests.temporaries) == 1


__all__ = ["RECIPES", "fits_one_kernel", "irregular"]
