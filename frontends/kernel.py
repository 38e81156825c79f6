"""What frontends know of an operator that a user has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tilewright.graph.ir import Attr


class Kernel(Protocol):
    """What takes the place of an operator: an ``Operation`` of tilewright.kernels."""

    name: str
    operands: tuple[str, ...]
    statics: Mapping[str, type]
    defaults: Mapping[str, Any]

    def node(self, statics: Mapping[str, Any]) -> tuple[str, dict[str, Attr]]:
        """The operator and attributes of a node that computes it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes it."""
