"""The context that operator converters build the graph with.

A converter is a function of the context and one source node that adds primitive operations and
returns the node's results:

    def softplus(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        x = node.input(0)
        return (ctx.op("log1p", ctx.op("exp", x)),)

It returns at least as many values as the node has named outputs (None for one that is not wanted),
raises ``ctx.unsupported("reason")`` for what is not supported, and ``node.broken("reason")`` for
what breaks the standard. Every operation is added through the context, never through the builder
directly, because the context also evaluates: an operation on constants gives a constant, and the
contents of small integer tensors are followed as expressions over symbolic dims (shapes.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, TypeAlias, cast

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.errors import ModelError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Attr, Graph, TensorType, Value
from tilewright.ops import OpError
from tilewright.ops.op import type_text
from tilewright.tensor.ir import Dim, Expr
from tilewright.tensor.simplify import dim, same_dim

from .equal import conflict, solved
from .messages import GraphProto
from .node import GapError, NodeView
from .read import MAX_ELEMENTS
from .shapes import (
    MAX_CONTENT,
    Content,
    content_dims,
    content_fraction,
    fold_constants,
    fold_contents,
    may_have_content,
)

Number: TypeAlias = int | float | bool
Operand: TypeAlias = Value | Number
Converter: TypeAlias = "Callable[[Context, NodeView], tuple[Value | None, ...]]"


class SubgraphImporter(Protocol):
    """What a context asks of the importer for nodes that hold graphs."""

    def inline(self, ctx: Context, graph: GraphProto, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Adds the nodes of ``graph`` to ``ctx`` and returns its outputs."""
        ...

    def bodies(
        self, ctx: Context, graphs: Sequence[tuple[GraphProto, Sequence[TensorType]]]
    ) -> tuple[tuple[Graph, ...], tuple[Value, ...]]:
        """Imports graphs as closed graphs with one common list of captured values."""
        ...


@dataclass(slots=True)
class Record:
    """What a converter did besides adding nodes.

    Attributes:
        literals: the constants that it made, each with its value and the name that it asked for.
        looked: whether it looked into a constant that has many elements.
    """

    literals: list[tuple[np.ndarray, Value, str | None]] = field(default_factory=list)
    looked: bool = False


class Context:
    """Builds one graph (the model's, or one body of a control-flow node).

    Attributes:
        builder: where nodes go; converters use ``op`` instead.
        opset: the version of the current node's domain.
        record: where to note what the current converter does, if that is wanted (see memo.py).
    """

    def __init__(self, builder: GraphBuilder, importer: SubgraphImporter) -> None:
        self.builder = builder
        self.opset = 0
        self.origin = ""
        self.record: Record | None = None
        self._importer = importer
        self._arrays: dict[Value, np.ndarray] = {}
        self._contents: dict[Value, Content] = {}

    # -------------------------------------------------------------- adding operations

    def op(self, name: str, *inputs: Operand, **attrs: Attr) -> Value:
        """Adds a primitive operation of one result.

        Args:
            name: an entry of the op table.
            inputs: values; a Python number becomes a scalar of the first value's dtype (of the
                second one's in ``where``).
            attrs: exactly the attributes that the entry declares, in canonical form.
        """
        (result,) = self.ops(name, *inputs, **attrs)
        return result

    def ops(self, name: str, *inputs: Operand, **attrs: Attr) -> tuple[Value, ...]:
        """Adds a primitive operation and returns all its results."""
        values = self._operands(name, inputs)
        arrays = self._known(values)
        folded = None if arrays is None else fold_constants(name, arrays, attrs)
        if folded is not None:
            return tuple(self.literal(a) for a in folded)
        try:
            results = self.builder.add_node(name, values, attrs, self.origin)
        except OpError:
            cause = conflict(name, values, attrs)
            if cause is not None:
                raise cause from None
            raise
        for result in results:
            self._check_size(result)
        if not may_have_content(name, results[0]):
            return results
        content = fold_contents(name, [self.content(v) for v in values], values, attrs, results[0])
        if content is None:
            return results
        known = content.array(results[0].dtype)
        if known is not None:
            return (self.literal(known),)
        self._contents[results[0]] = content
        return results

    def literal(
        self, array: np.ndarray | Number, dtype: DType | None = None, name: str | None = None
    ) -> Value:
        """A constant; a Python number needs a ``dtype`` (wrapping or rounding to it).

        Arrays are not copied and must never be written afterwards.
        """
        data = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype.numpy)
        value = self.builder.constant(data, name)
        self._arrays[value] = data
        if self.record is not None:
            self.record.literals.append((data, value, name))
        return value

    def dims_value(self, dims: Sequence[Dim]) -> Value:
        """The i64[n] tensor of the run-time values of dims."""
        return self.op("dims", values=tuple(dims))

    def dim_value(self, value: Dim) -> Value:
        """The i64 scalar of the run-time value of a dim."""
        return self.op("dim", value=value)

    # -------------------------------------------------------------- what is known of values

    def constant(self, value: Value) -> np.ndarray | None:
        """The contents of a value that is known while importing, else None."""
        found = self._arrays.get(value)
        if found is not None and self.record is not None and found.size > MAX_CONTENT:
            self.record.looked = True
        if found is None and 0 in value.shape and all(isinstance(d, int) for d in value.shape):
            # A tensor without elements has no contents that could vary.
            return np.empty(tuple(d for d in value.shape if isinstance(d, int)), value.dtype.numpy)
        return found

    def _known(self, values: Sequence[Value]) -> list[np.ndarray] | None:
        """The contents of all values; None where one of them is not known."""
        if any(v not in self._arrays and 0 not in v.shape for v in values):
            return None
        arrays: list[np.ndarray] = []
        for value in values:
            array = self.constant(value)
            if array is None:
                return None
            arrays.append(array)
        return arrays

    def content(self, value: Value) -> Content | None:
        """What is known of a small tensor's elements, as expressions over symbolic dims."""
        found = self._contents.get(value)
        if found is not None:
            return found
        array = self._arrays.get(value)
        if array is not None and array.size > MAX_CONTENT:
            return None
        array = self.constant(value)
        return None if array is None else Content.of(array)

    def outline(self, value: Value) -> bytes | bool | None:
        """What a converter can know of a value's elements without looking into a large one.

        The bytes of a small constant, True for a large one, None for elements that are computed;
        False where they are followed as expressions.
        """
        array = self._arrays.get(value)
        if array is not None:
            return array.tobytes() if array.size <= MAX_CONTENT else True
        return False if value in self._contents else None

    def dims(self, value: Value) -> tuple[Dim, ...] | None:
        """The elements of a small integer tensor (rank 0 or 1) as dims, or None if not known."""
        content = self.content(value)
        return None if content is None else content_dims(content, value.type)

    def fraction(self, value: Value) -> tuple[Dim, int] | None:
        """A float of one element as a dim over a small power of two, where that is exact."""
        content = self.content(value)
        return None if content is None else content_fraction(content)

    def require_constant(self, value: Value, what: str) -> np.ndarray:
        """The contents of a value; a gap ("`what` depends on data") where they are not known."""
        found = self.constant(value)
        if found is None:
            self.unsupported(f"{what} is not a constant")
        return found

    def require_dims(self, value: Value, what: str) -> tuple[Dim, ...]:
        """The elements of an integer tensor as dims; a gap where they depend on run-time data."""
        found = self.dims(value)
        if found is None:
            self.unsupported(f"{what} depends on data")
        return found

    def require_ints(self, value: Value, what: str) -> tuple[int, ...]:
        """The elements of an integer tensor as ints; a gap where they are not constant."""
        found = self.require_dims(value, what)
        ints = tuple(d for d in found if isinstance(d, int))
        if len(ints) != len(found):
            self.unsupported(f"{what} is not a constant")
        return ints

    def need_equal(self, a: Dim, b: Dim) -> None:
        """Starts the import again where one symbol can be replaced so that two dims are equal."""
        cause = solved(a, b)
        if cause is not None:
            raise cause

    def require_dim(self, value: Value, what: str) -> Dim:
        """The one element of an integer tensor as a dim; a gap where it depends on run-time data.

        Raises:
            ModelError: it has not one element.
        """
        found = self.require_dims(value, what)
        if len(found) != 1:
            raise ModelError(
                f"{self.origin}: {what} has {len(found)} elements, not one", code="TW-E0121"
            )
        return found[0]

    def require_int(self, value: Value, what: str) -> int:
        """The one element of an integer tensor as a number; a gap where it is not a constant.

        Raises:
            ModelError: it has not one element.
        """
        found = self.require_dim(value, what)
        if not isinstance(found, int):
            self.unsupported(f"{what} is not a constant")
        return found

    # -------------------------------------------------------------- refusals

    def unsupported(self, reason: str) -> NoReturn:
        """Reports that the current node is not supported.

        Raises:
            GapError: always; the importer collects it.
        """
        raise GapError(reason)

    # -------------------------------------------------------------- frequent operations

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` as another element type (itself when it already is)."""
        return x if x.dtype is dtype else self.op("cast", x, dtype=dtype, saturate=False)

    def reshape(self, x: Value, shape: Iterable[Dim]) -> Value:
        """The same elements in row-major order under another shape."""
        return self._movement("reshape", x, tuple(shape))

    def broadcast_to(self, x: Value, shape: Iterable[Dim]) -> Value:
        """``x`` repeated along new leading axes and along axes of extent 1."""
        return self._movement("broadcast_to", x, tuple(shape))

    def transpose(self, x: Value, perm: Iterable[int]) -> Value:
        """Axis ``i`` of the result is axis ``perm[i]`` of ``x``."""
        order = tuple(perm)
        return x if order == tuple(range(len(order))) else self.op("transpose", x, perm=order)

    def unsqueeze(self, x: Value, axes: Iterable[int]) -> Value:
        """Inserts axes of extent 1 so that they stand at ``axes`` of the result."""
        at = set(axes)
        rest = iter(x.shape)
        rank = len(x.shape) + len(at)
        return self.reshape(x, (1 if i in at else next(rest) for i in range(rank)))

    def squeeze(self, x: Value, axes: Iterable[int]) -> Value:
        """Drops axes of extent 1."""
        at = set(axes)
        return self.reshape(x, (d for i, d in enumerate(x.shape) if i not in at))

    def slice_axis(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """``size`` elements of one axis from ``start`` on, ``step`` apart."""
        rank = len(x.shape)
        return self.slice(
            x,
            [start if i == axis else 0 for i in range(rank)],
            [size if i == axis else d for i, d in enumerate(x.shape)],
            [step if i == axis else 1 for i in range(rank)],
        )

    def slice(
        self,
        x: Value,
        starts: Sequence[Dim],
        sizes: Sequence[Dim],
        steps: Sequence[int] | None = None,
    ) -> Value:
        """Elements of each axis from ``start`` on, ``step`` apart; itself where all are kept."""
        strides = tuple(steps or (1,) * len(starts))
        whole = all(same_dim(s, 0) for s in starts) and set(strides) <= {1}
        if whole and all(same_dim(a, b) for a, b in zip(sizes, x.shape, strict=True)):
            return x
        return self.op("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=strides)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Joins tensors along one axis."""
        return parts[0] if len(parts) == 1 else self.op("concat", *parts, axis=axis)

    def pad(
        self,
        x: Value,
        lo: Sequence[Dim],
        hi: Sequence[Dim],
        fill: Operand = 0,
        mode: str = "constant",
    ) -> Value:
        """Adds ``lo`` elements before and ``hi`` after each axis (itself where there are none)."""
        if all(same_dim(p, 0) for p in (*lo, *hi)):
            return x
        interior = (0,) * len(x.shape)
        return self.op("pad", x, fill, lo=tuple(lo), hi=tuple(hi), interior=interior, mode=mode)

    def reduce(self, x: Value, op: str, axes: Iterable[int], keepdims: bool = False) -> Value:
        """Reduces ``x`` over ``axes`` by sum, prod, max or min."""
        over = tuple(sorted(axes))
        return self.op("reduce", x, op=op, axes=over, keepdims=keepdims) if over else x

    def full(self, shape: Iterable[Dim], value: Number, dtype: DType) -> Value:
        """A tensor of one repeated number."""
        return self.broadcast_to(self.literal(value, dtype), shape)

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front.

        Raises:
            ModelError: it is not within the rank.
        """
        if not -rank <= axis < rank:
            raise ModelError(
                f"{self.origin}: axis {axis} is not within a tensor of rank {rank}",
                code="TW-E0121",
            )
        return axis % rank

    def axes(self, axes: Iterable[int], rank: int) -> tuple[int, ...]:
        """Sorted axes counted from the front.

        Raises:
            ModelError: one is not within the rank, or is named twice.
        """
        found = sorted(self.axis(a, rank) for a in axes)
        if len(set(found)) != len(found):
            raise ModelError(f"{self.origin}: an axis is named twice: {found}", code="TW-E0121")
        return tuple(found)

    # -------------------------------------------------------------- nodes that hold graphs

    def inline(self, graph: GraphProto, inputs: Sequence[Value] = ()) -> tuple[Value, ...]:
        """Adds the nodes of a graph attribute in place and returns its outputs."""
        return self._importer.inline(self, graph, inputs)

    def bodies(
        self, *graphs: tuple[GraphProto, Sequence[TensorType]]
    ) -> tuple[tuple[Graph, ...], tuple[Value, ...]]:
        """Imports graph attributes as closed graphs.

        Args:
            graphs: pairs of a graph attribute and the types of its own inputs.

        Returns:
            The graphs, and the values of this context that they read: the inputs of each are its
            own inputs followed by one for each captured value (the same list for all of them).
        """
        return self._importer.bodies(self, graphs)

    def index(self, indices: Value, *sizes: Dim) -> None:
        """Has calls fail whose indices are not in -size..size-1, as the standard asks.

        Inside of bodies (of If, Loop and Scan) nothing fails: such indices are clamped there.

        Args:
            sizes: of the axis that they index; of several axes, the last axis of the indices has
                one place for each.
        """
        self.builder.index(indices, sizes, origin=self.origin)

    def fresh(self, name: str) -> Context:
        """An empty context for a body that a converter writes by itself.

        The body declares its inputs by ``builder.input`` and its results by ``builder.output``,
        and is closed: it reads no value of this context.
        """
        inner = Context(GraphBuilder(name), self._importer)
        inner.opset, inner.origin = self.opset, self.origin
        return inner

    # -------------------------------------------------------------- private

    def _check_size(self, result: Value) -> None:
        extents = [d for d in result.type.shape if type(d) is int]
        if math.prod(extents) > MAX_ELEMENTS and 0 not in extents:
            raise ModelError(
                f"{self.origin}: its result {type_text(result.type)} does not fit in any memory",
                code="TW-E0133",
            )

    def _movement(self, name: str, x: Value, shape: tuple[Dim, ...]) -> Value:
        wanted = tuple(dim(d) for d in shape)
        same = len(wanted) == len(x.shape) and all(
            a is b or (not isinstance(a, Expr) and a == b)
            for a, b in zip(wanted, x.shape, strict=True)
        )
        return x if same else self.op(name, x, shape=wanted)

    def _operands(self, name: str, inputs: Sequence[Operand]) -> tuple[Value, ...]:
        if all(isinstance(x, Value) for x in inputs):
            return cast("tuple[Value, ...]", tuple(inputs))
        typed = inputs[1:] if name == "where" else inputs
        like = next((x.dtype for x in typed if isinstance(x, Value)), dt.f32)
        return tuple(x if isinstance(x, Value) else self.literal(x, like) for x in inputs)
