"""The op table: every primitive operator by name, merged from one file a family."""

from __future__ import annotations

from .control import CONTROL
from .elementwise import ELEMENTWISE
from .index import INDEX
from .irregular import IRREGULAR
from .kernel import KERNEL
from .linear import LINEAR
from .op import Op, OpError, Sample
from .reduce import REDUCE
from .scan import SCAN
from .shape import SHAPE
from .window import WINDOW

FAMILIES: tuple[dict[str, Op], ...] = (
    ELEMENTWISE,
    SHAPE,
    INDEX,
    REDUCE,
    LINEAR,
    WINDOW,
    SCAN,
    IRREGULAR,
    CONTROL,
    KERNEL,
)

OPS: dict[str, Op] = {name: op for family in FAMILIES for name, op in family.items()}

__all__ = ["FAMILIES", "OPS", "Op", "OpError", "Sample"]
