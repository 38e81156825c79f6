"""Simplification: rewrites single nodes by laws of algebra until none applies.

Each rule looks at one node and at the producers of its operands, and gives a value to put in its
place. Rules never make a graph slower: they remove nodes, or bring them into the one form that
other rules and fusion know. New nodes go through the rules as well, so that one sweep does most
of the work; sweeps repeat while anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...target import Target
from ..build import canonical_attrs, infer
from ..ir import Attr, Graph, Node, Value
from . import affine, algebra, forms, movement, views
from .fold import folded
from .rule import Rule, Rules

MAX_SWEEPS = 8
"""Sweeps over the graph at most; models settle in two or three."""
_MAX_DEPTH = 16
"""How many rules may apply inside of one another before the rest waits for the next sweep."""


def _merged(*tables: Mapping[str, tuple[Rule, ...]]) -> dict[str, tuple[Rule, ...]]:
    ops = dict.fromkeys(op for table in tables for op in table)
    return {op: tuple(rule for table in tables for rule in table.get(op, ())) for op in ops}


RULES: dict[str, tuple[Rule, ...]] = _merged(
    algebra.RULES, affine.RULES, forms.RULES, movement.RULES, views.RULES
)
"""The rules for each op, in the order in which they are tried."""


def simplify(graph: Graph, target: Target) -> Graph:
    """Returns the graph in simplest form: folded, without duplicates, with all rules applied."""
    del target
    for _ in range(MAX_SWEEPS):
        simplifier = _Simplifier(graph)
        graph = simplifier.run()
        if not simplifier.changed:
            break
    return graph


class _Simplifier(Rules):
    """One sweep."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._depth = 0

    def run(self) -> Graph:
        for old in self.source.nodes:
            node = self.adopt(old)
            found = self._simpler(node)
            if found is None:
                self.keep(node)
            else:
                for value, new in zip(old.outputs, found, strict=True):
                    self.replace(value, new)
        return self.finish()

    def make(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr], *, like: Node
    ) -> Value:
        canonical = canonical_attrs(op, attrs)
        found = self.find(op, inputs, canonical)
        if found is not None:
            return found[0]
        types = infer(op, inputs, canonical, like.origin)
        outputs = (Value(like.outputs[0].name, types[0]),)
        simpler = self._simpler(Node(op, tuple(inputs), canonical, outputs, like.origin))
        if simpler is not None:
            return simpler[0]
        return self.add(op, inputs, canonical, like=like, types=types)

    def _simpler(self, node: Node) -> tuple[Value, ...] | None:
        arrays = folded(node, self)
        if arrays is not None:
            pairs = zip(arrays, node.outputs, strict=True)
            return tuple(self.constant(a, v.name) for a, v in pairs)
        if self._depth >= _MAX_DEPTH:
            return None
        self._depth += 1
        try:
            for rule in RULES.get(node.op, ()):
                found = rule(self, node)
                if found is not None:
                    return (found,)
        finally:
            self._depth -= 1
        return None
