"""Building graphs: every node is typed as it is added, so that a mistake is named at its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ..dtype import DType, i64
from ..ops import OPS, OpError
from ..ops.op import type_of, type_text
from ..tensor.ir import Dim, Expr
from ..tensor.simplify import dim
from .ir import Attr, Graph, Node, TensorType, Value


@dataclass(frozen=True, slots=True)
class Indexing:
    """Indices given as data, and what they index.

    Attributes:
        indices: integers.
        sizes: of the axis that they index; of several, the last axis of the indices has one place
            for each.
        signed: whether negative indices count from the end; else they are wrong.
        origin: where it comes from, for messages.
    """

    indices: Value
    sizes: tuple[Dim, ...]
    signed: bool
    origin: str


class GraphBuilder:
    """Collects nodes in order and finishes as a Graph.

    Args:
        name: the graph's name.

    Names of values are made unique by a number at their end. Small scalar constants are shared.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: list[Value] = []
        self._nodes: list[Node] = []
        self._outputs: list[Value] = []
        self._output_names: list[str] = []
        self._conditions: list[Expr] = []
        self._guards: dict[Value, str] = {}
        self._indexings: list[Indexing] = []
        self._constants: dict[Value, np.ndarray] = {}
        self._scalars: dict[tuple[str, bytes], Value] = {}
        self._names: set[str] = set()
        self._counters: dict[str, int] = {}
        self._origin = ""

    def input(self, name: str, type_: TensorType) -> Value:
        """Declares the next parameter; its name must be new.

        Raises:
            OpError: the name is taken.
        """
        if name in self._names:
            raise OpError(f"graph {self.name}: two values are called {name!r}")
        shape = tuple(dim(d) for d in type_.shape)
        value = Value(self._unique(name), TensorType(type_.dtype, shape))
        self._inputs.append(value)
        return value

    def constant(self, array: np.ndarray | np.generic, name: str | None = None) -> Value:
        """Adds a constant; equal scalars are one value.

        The array is not copied, unless it is strided or of the other byte order.

        Raises:
            OpError: no element type stores the array's dtype.
        """
        data = np.asarray(array)
        type_ = type_of(data)
        if not data.dtype.isnative or not data.flags.c_contiguous:
            data = data.astype(type_.dtype.numpy, order="C")
        key = (type_.dtype.name, data.tobytes()) if data.ndim == 0 else None
        if key is not None and key in self._scalars:
            return self._scalars[key]
        value = Value(self._unique(name) if name else self._number("c"), type_)
        self._constants[value] = data
        if key is not None:
            self._scalars[key] = value
        return value

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes so far."""
        return self._nodes

    @property
    def indexings(self) -> Sequence[Indexing]:
        """The indices so far that are given as data."""
        return self._indexings

    def data(self, value: Value) -> np.ndarray | None:
        """Returns the data of a constant, or None for any other value."""
        return self._constants.get(value)

    def add(
        self, op: str, /, *inputs: Value, origin: str = "", name: str | None = None, **attrs: Attr
    ) -> Value:
        """Adds a node with one output and returns it.

        Raises:
            OpError: as for ``add_many``.
        """
        names = None if name is None else (name,)
        outputs = self.add_many(op, *inputs, origin=origin, names=names, **attrs)
        assert len(outputs) == 1, (op, len(outputs))
        return outputs[0]

    def add_many(
        self,
        op: str,
        /,
        *inputs: Value,
        origin: str = "",
        names: Sequence[str] | None = None,
        **attrs: Attr,
    ) -> tuple[Value, ...]:
        """Adds a node and returns its outputs.

        Attributes are put in canonical form first: lists become tuples, NumPy numbers Python
        ones, and expressions canonical dims; those left out take their defaults.

        Raises:
            OpError: the op is unknown, an attribute is missing or extra, or the type rule does
                not hold; names the op, the input types and the origin.
        """
        return self.add_node(op, inputs, attrs, origin, names)

    def add_node(
        self,
        op: str,
        inputs: tuple[Value, ...],
        attrs: Mapping[str, Attr],
        origin: str = "",
        names: Sequence[str] | None = None,
    ) -> tuple[Value, ...]:
        """``add_many`` with operands and attributes at hand.

        Raises:
            OpError: as for ``add_many``.
        """
        origin = origin or self._origin
        canonical = canonical_attrs(op, attrs)
        types = infer(op, inputs, canonical, origin)
        if names:
            chosen = [*map(self._unique, names[: len(types)])]
            chosen += [self._number(op) for _ in types[len(names) :]]
        else:
            chosen = [self._number(op) for _ in types]
        outputs = tuple(map(Value, chosen, types))
        self._nodes.append(Node(op, inputs, MappingProxyType(canonical), outputs, origin))
        return outputs

    def repeat(self, node: Node, inputs: tuple[Value, ...], origin: str) -> tuple[Value, ...]:
        """Adds a node like one that was added before, on operands of the same types."""
        outputs = tuple([Value(self._number(node.op), v.type) for v in node.outputs])
        self._nodes.append(Node(node.op, inputs, node.attrs, outputs, origin))
        return outputs

    def mark(self) -> tuple[int, ...]:
        """How much there is now, for ``added_since``."""
        return (
            len(self._nodes), len(self._inputs), len(self._outputs), len(self._conditions),
            len(self._guards), len(self._indexings),
        )  # fmt: skip

    def added_since(self, mark: tuple[int, ...]) -> tuple[Node, ...] | None:
        """The nodes that were added since; None where anything but nodes and constants was."""
        return tuple(self._nodes[mark[0] :]) if self.mark()[1:] == mark[1:] else None

    def output(self, value: Value, name: str | None = None) -> None:
        """Declares the next result, under the value's own name unless another is given."""
        self._outputs.append(value)
        if name is None:
            # A value may be a result twice, but no two results share a name.
            name = value.name
            while name in self._output_names:
                name = self._unique(value.name)
        self._output_names.append(name)

    def require(self, condition: Expr) -> None:
        """Declares that the graph is meant only where a condition over its symbols holds."""
        self._conditions.append(condition)

    def guard(self, count: Value, message: str) -> None:
        """Declares that a call fails with a message unless an i64 scalar is 0."""
        if count.type != TensorType(i64, ()):
            raise OpError(f"graph {self.name}: a guard is i64[()], not {type_text(count.type)}")
        self._guards[count] = message

    def index(
        self, indices: Value, sizes: Sequence[Dim], signed: bool = True, origin: str | None = None
    ) -> None:
        """Notes indices that are given as data, for ``guard_indices``."""
        where = self._origin if origin is None else origin
        self._indexings.append(Indexing(indices, tuple(sizes), signed, where))

    @contextmanager
    def origin(self, text: str) -> Iterator[None]:
        """Gives the nodes added inside the block an origin, unless they name their own."""
        before = self._origin
        self._origin = text
        try:
            yield
        finally:
            self._origin = before

    def finish(self) -> Graph:
        """Returns the graph of everything added so far."""
        names = list(self._output_names)
        for message in self._guards.values():
            while message in names:
                message += "'"
            names.append(message)
        return Graph(
            self.name,
            tuple(self._inputs),
            tuple(self._nodes),
            (*self._outputs, *self._guards),
            MappingProxyType(dict(self._constants)),
            tuple(names),
            tuple(self._conditions),
            len(self._guards),
        )

    def _unique(self, wanted: str) -> str:
        if wanted in self._names:
            return self._number(wanted)
        self._names.add(wanted)
        return wanted

    def _number(self, wanted: str) -> str:
        names = self._names
        # The counter makes n values of one name cost n steps, not n * n.
        count = self._counters.get(wanted, 0) + 1
        while (name := f"{wanted}_{count}") in names:
            count += 1
        self._counters[wanted] = count
        names.add(name)
        return name


def infer(
    op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr], origin: str = ""
) -> tuple[TensorType, ...]:
    """Returns the types of a node's outputs by its op's type rule.

    Raises:
        OpError: the op is unknown, an attribute is missing or extra, or the rule does not hold;
            names the op, the input types and the origin.
    """
    place = f" (from {origin})" if origin else ""
    entry = OPS.get(op)
    if entry is None:
        raise OpError(f"{op}: no such op{place}", code="TW-E0151")
    if len(attrs) != len(entry.attrs) or not all(map(attrs.__contains__, entry.attrs)):
        raise OpError(
            f"{op}: takes the attributes ({', '.join(entry.attrs)}),"
            f" got ({', '.join(sorted(attrs))}){place}",
            code="TW-E0152",
        )
    types = tuple([v.type for v in inputs])
    try:
        return entry.infer(types, attrs)
    except OpError as error:
        shown = ", ".join(type_text(t) for t in types)
        raise OpError(f"{op}({shown}): {error.message}{place}", code=error.code) from None


def canonical_attrs(op: str, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
    """Returns an op's attributes in canonical form, those left out as the op table says."""
    entry = OPS.get(op)
    given = attrs if entry is None or not entry.defaults else {**entry.defaults, **attrs}
    return {key: canonical_attr(value) for key, value in given.items()}


_CANONICAL = (int, bool, float, str, DType, Graph, type(None))


def canonical_attr(value: Attr) -> Attr:
    """Returns an attribute in canonical form: tuples, Python numbers, canonical dims."""
    if type(value) in _CANONICAL:
        return value
    given: object = value
    match given:
        case np.bool_():
            return bool(given)
        case np.integer():
            return int(given)
        case np.floating():
            return float(given)
        case list() | tuple():
            return tuple(canonical_attr(v) for v in given)
        case Expr():
            return dim(given)
        case _:
            return value
