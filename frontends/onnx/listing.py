"""Nodes as Python lists: each of their fields is read once, since reading a message takes long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .messages import AttributeProto, NodeProto


class Listed(NamedTuple):
    """A node and its fields.

    Attributes:
        proto: the node.
        op, domain, name: as it has them.
        inputs, outputs: the names of its operands and results; "" where one is left out.
        attributes: in order.
    """

    proto: NodeProto
    op: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[AttributeProto]


def listed(nodes: Iterable[NodeProto]) -> list[Listed]:
    """The nodes with their fields."""
    return [
        Listed(n, n.op_type, n.domain, n.name, n.input[:], n.output[:], n.attribute[:])
        for n in nodes
    ]
