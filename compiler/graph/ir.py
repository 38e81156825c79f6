"""The graph IR: an SSA list of typed nodes over symbolic shapes.

A graph is a topological tuple of nodes, like a jaxpr. There are no use lists: a pass builds a new
graph by iterating over the old one (models are thousands of nodes deep: never recurse).

Nothing here changes once it is made. Of values and nodes, which deep models have tens of thousands
of, the type checker alone sees to that: frozen dataclasses take four times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Union

import numpy as np

from ..dtype import DType
from ..tensor.ir import Dim, Expr, Var


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dtype and a shape; each dim is an int or a canonical i64 expression over symbols."""

    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(slots=True, eq=False)
class Value:
    """The result of a node, a graph input or a constant; equality is identity.

    Attributes:
        name: unique within the graph; source names survive where they can.
        type: its dtype and shape.
    """

    name: Final[str]
    type: Final[TensorType]

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The dims."""
        return self.type.shape


Attr = Union[None, bool, int, float, str, DType, Var, "Graph", np.ndarray, tuple["Attr", ...], Dim]


@dataclass(slots=True, eq=False)
class Node:
    """One primitive operation: ``outputs = op(inputs, **attrs)``.

    Attributes:
        op: a name in the op table (``tilewright.ops.OPS``).
        inputs: values defined before; order as the op declares.
        attrs: exactly the attributes that the op declares, in canonical form (tuples, ints,
            dims, dtypes, Graphs for control flow).
        outputs: the values it defines; the last of them never None.
        origin: where it came from in the source model ("Conv:layer1.0/conv1"), for messages.
    """

    op: Final[str]
    inputs: Final[tuple[Value, ...]]
    attrs: Final[Mapping[str, Attr]]
    outputs: Final[tuple[Value, ...]]
    origin: Final[str] = ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A function of tensors.

    Attributes:
        name: an identifier.
        inputs: the parameters, in calling order.
        nodes: in topological order; every node's inputs are graph inputs, constants or outputs
            of earlier nodes (a subgraph may also read values of the graphs around it).
        outputs: the results, in order; may repeat, and may be inputs or constants.
        constants: data of constant values (possibly memory-mapped, never written).
        output_names: what the outputs are called in public; empty for their own names.
        conditions: what must hold between the symbols for the graph to be meant (bool
            expressions over them); a call with other sizes is refused.
        guards: how many of the last outputs are no results but i64 scalars, called by messages:
            a call fails with the message of one that is not 0. Subgraphs have none.
    """

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[Value, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    output_names: tuple[str, ...] = ()
    conditions: tuple[Expr, ...] = ()
    guards: int = 0


def all_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes of a graph and of all graphs inside them."""
    found: list[Node] = []
    pending = [graph]
    while pending:
        body = pending.pop()
        found += body.nodes
        pending += [a for n in body.nodes for a in n.attrs.values() if isinstance(a, Graph)]
    return tuple(found)
