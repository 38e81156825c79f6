"""What tells the bodies of fused nodes apart: equal layers of a model are lowered once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ..dtype import DType
from ..graph.ir import Attr, Graph, Value
from ..tensor.ir import Expr

Key = tuple[object, ...]


def sources(body: Graph) -> list[Value]:
    """The values that a body is given or holds, each once; alike bodies have them in one order."""
    return list(dict.fromkeys((*body.inputs, *body.constants)))


def body_key(
    body: Graph, known: Collection[Value], widths: Mapping[Value, int] | None
) -> Key | None:
    """A key that two bodies share only if they lower alike, names of values left out.

    Args:
        body: the body of a fused node.
        known: those of its values whose data is known when the code is made.
        widths: the lengths of the rows that some of its values are a part of.

    Returns:
        None where an attribute is no plain data: such a body is like no other.
    """
    numbers: dict[Value, int] = {}
    parts: list[object] = []

    def declare(v: Value) -> None:
        numbers[v] = len(numbers)
        width = widths.get(v) if widths else None
        parts.append((v.dtype.name, v.shape, v in known, width))

    for v in sources(body):
        declare(v)
        data = body.constants.get(v)
        if data is not None and data.size == 1:
            # The code is made for the values of scalars.
            parts.append((str(data.dtype), np.asarray(data).tobytes()))
    for node in body.nodes:
        attrs = []
        for name in sorted(node.attrs):
            plain = _plain(node.attrs[name])
            if plain is None:
                return None
            attrs.append((name, plain))
        parts.append((node.op, tuple([numbers[v] for v in node.inputs]), tuple(attrs)))
        for v in node.outputs:
            declare(v)
    parts.append(tuple([numbers[v] for v in body.outputs]))
    return tuple(parts)


def are_copies(body: Graph, other: Graph) -> bool:
    """Whether two bodies are the same nodes over the same values, wherever those come from."""
    return (
        body.inputs is other.inputs
        and body.outputs is other.outputs
        and body.constants is other.constants
        and len(body.nodes) == len(other.nodes)
        and all(
            a.op == b.op and a.inputs is b.inputs and a.outputs is b.outputs and a.attrs is b.attrs
            for a, b in zip(body.nodes, other.nodes, strict=True)
        )
    )


def _plain(value: Attr) -> Key | None:
    """A stand-in that tells 1, 1.0, True, 0.0 and -0.0 apart; None for what is no plain data."""
    kind = type(value)
    if kind is tuple:
        assert isinstance(value, tuple)
        items = [_plain(v) for v in value]
        return None if None in items else tuple(items)
    if kind is float:
        return (kind, repr(value))
    if kind in (int, bool, str, type(None)) or isinstance(value, Expr | DType):
        return (kind, value)
    return None
