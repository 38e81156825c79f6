"""The op table: every primitive operator by name, merged from one file a family."""

from __future__ import annotations

from .elementwise import ELEMENTWISE
from .op import Op, OpError, Sample

FAMILIES: tuple[dict[str, Op], ...] = (ELEMENTWISE,)

OPS: dict[str, Op] = {name: op for family in FAMILIES for name, op in family.items()}

__all__ = ["FAMILIES", "OPS", "Op", "OpError", "Sample"]
