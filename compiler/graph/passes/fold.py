"""Constant folding: what depends on constants only is computed at compile time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import cast

import numpy as np

from ...errors import TilewrightError
from ...ops import OPS
from ...target import Target
from ...tensor.ir import Expr
from ..ir import Attr, Graph, Node
from .rewrite import Key, Rewriter, node_key
from .stand_ins import derive, recipe_of

MAX_GROWTH = 16
"""A result this many times larger than its operands is computed at run time, if it is large."""
LARGE_BYTES = 1 << 20
"""Results up to this size may grow freely: reading them costs less than a kernel of their own."""
SOURCE_BYTES = 1 << 16
"""The same for broadcasts and index ranges, which cost a reader nothing when left unfolded."""
_MAX_PRODUCTS = 1 << 30
"""Contractions with more products than this stay; NumPy would take seconds for them."""

_EXPANDING = frozenset({"broadcast_to", "iota"})
_VIEWS = frozenset({"reshape", "transpose", "slice"})


def fold(graph: Graph, target: Target) -> Graph:
    """Returns the graph with constants in place of nodes that depend on constants only."""
    del target
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        node = rewriter.adopt(old)
        arrays = folded(node, rewriter)
        if arrays is None:
            rewriter.keep(node)
            continue
        for value, array in zip(old.outputs, arrays, strict=True):
            rewriter.replace(value, rewriter.constant(array, value.name))
    return rewriter.finish() if rewriter.changed else graph


def folded(node: Node, rewriter: Rewriter) -> tuple[np.ndarray, ...] | None:
    """The results of a node whose operands are constants and whose attributes are numbers.

    None where it cannot be computed now, or should not: see the limits of this module.
    """
    arrays: list[np.ndarray] = []
    for value in node.inputs:
        data = rewriter.data(value)
        if data is None:
            return None
        arrays.append(data)
    if OPS[node.op].kind == "control":
        return None
    if not all(_is_number(a) for a in node.attrs.values()) or not _is_worthwhile(node, arrays):
        return None
    count = len(node.outputs)
    try:
        if any(recipe_of(a) is not None for a in arrays):
            one = _Folded(node.op, node_key(node)[2:], node.attrs)
            return tuple(derive(one, *arrays, index=k) for k in range(count))
        return _results(node.op, node.attrs, arrays)
    except (TilewrightError, ArithmeticError, ValueError, IndexError):
        # An operand that breaks a rule only when it runs must fail when it runs.
        return None


@dataclass(frozen=True, slots=True)
class _Folded:
    """One result of a node as a function of its operands."""

    op: str
    key: Key
    attrs: Mapping[str, Attr] = field(compare=False)

    def __call__(self, *arrays: np.ndarray, index: int) -> np.ndarray:
        return _results(self.op, self.attrs, arrays)[index]


def _results(
    op: str, attrs: Mapping[str, Attr], arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        results = OPS[op].reference(arrays, attrs)
    if op in _VIEWS:
        return results
    return tuple(np.ascontiguousarray(r).reshape(r.shape) for r in results)


def _is_number(value: Attr) -> bool:
    if isinstance(value, tuple):
        return all(_is_number(v) for v in value)
    return not isinstance(value, Expr | Graph)


def _is_worthwhile(node: Node, inputs: list[np.ndarray]) -> bool:
    size = 0
    for output in node.outputs:
        if not all(isinstance(d, int) for d in output.shape):
            return False
        size += prod(cast("tuple[int, ...]", output.shape)) * output.dtype.bytes
    if node.op in _EXPANDING:
        return size <= SOURCE_BYTES
    if OPS[node.op].kind == "contraction":
        inner = inputs[1].size // max(1, inputs[1].shape[-1])
        if size // node.outputs[0].dtype.bytes * inner > _MAX_PRODUCTS:
            return False
    return size <= LARGE_BYTES or size <= MAX_GROWTH * sum(a.nbytes for a in inputs)
