"""What a simplification rule may ask and build."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...ops.op import same_shape
from ...tensor.ir import Dim
from ..ir import Attr, Graph, Node, Value
from .rewrite import Rewriter
from .stand_ins import ask

MAX_UNIFORM = 1 << 16
"""Constants up to this many elements are searched for being all alike."""

Number = int | float | bool


class Rules(Rewriter):
    """A rewriter whose new nodes are simplified as they are made.

    Attributes:
        readers: the old nodes that read each old value; a value made since has none listed.
        results: the old graph's outputs.
        bare: constant vectors without axes of size 1, by those that have them.
    """

    def __init__(self, source: Graph) -> None:
        self._stands_for: dict[Value, list[Value]] = {}
        super().__init__(source)
        self.results = frozenset(source.outputs)
        self.readers: dict[Value, list[Node]] = {}
        for node in source.nodes:
            for value in dict.fromkeys(node.inputs):
                self.readers.setdefault(value, []).append(node)
        self.bare: dict[Value, Value] = {}
        self._uniform: dict[Value, Number | None] = {}

    @abstractmethod
    def make(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr], *, like: Node
    ) -> Value:
        """A simplest value equal to the node's; its origin and name are those of ``like``."""

    def replace(self, old: Value, new: Value) -> None:
        """Lets ``new`` stand for ``old``; its readers are found by it, too."""
        super().replace(old, new)
        if old is not new:
            self._stands_for.setdefault(new, []).append(old)

    def readers_of(self, value: Value) -> list[Node]:
        """The old nodes that read a value, or an old one that it stands for."""
        found = list(self.readers.get(value, ()))
        for old in self._stands_for.get(value, ()):
            found += self.readers.get(old, ())
        return found

    def behind(self, value: Value, op: str) -> Node | None:
        """The node behind a value, if it is of this op."""
        node = self.producer.get(value)
        return node if node is not None and node.op == op else None

    def behind_once(self, value: Value, op: str) -> Node | None:
        """The same, if nothing else reads the value, so that the node goes away."""
        return self.behind(value, op) if self.uses.get(value, 0) <= 1 else None

    def number(self, value: Value) -> Number | None:
        """The number that all elements of a constant are, or None."""
        if value in self._uniform:
            return self._uniform[value]
        data = self.data(value)
        found: Number | None = None
        if data is not None and 0 < data.size <= MAX_UNIFORM:
            found = ask(_uniform, data)
        self._uniform[value] = found
        return found

    def like_result(self, value: Value, node: Node) -> Value | None:
        """The value, if it may stand for the node's result as it is."""
        return value if same_shape(value.shape, node.outputs[0].shape) else None

    def array(self, array: np.ndarray, node: Node) -> Value:
        """A constant named after a node."""
        return self.constant(array, f"{node.outputs[0].name}.c")


def _uniform(data: np.ndarray) -> Number | None:
    first = data.flat[0]
    if data.size > 1 and not bool((data == first).all()):
        return None
    found: object = first.item() if hasattr(first, "item") else first
    return found if isinstance(found, int | float) else float(first)


Rule = Callable[[Rules, Node], Value | None]
Shape = tuple[Dim, ...]
