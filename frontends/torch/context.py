"""The context that ATen converters build the graph with.

A converter is a function of the context and the overload's own arguments: tensors are Values,
symbolic integers dims, dtypes element types; what has no meaning here (layout, device, memory
format) is left out. It returns one value, or a tuple for an overload of several results:

    def expm1(ctx: Context, x: Value) -> Value:
        return ctx.op("expm1", ctx.cast(x, ctx.dtype))

The types that torch found for the results are ``ctx.results``; the importer holds a converter to
them. What is not supported raises ``ctx.unsupported("reason")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Attr, TensorType, Value
from tilewright.tensor.ir import Dim, as_expr, lt
from tilewright.tensor.simplify import dim, prove, same_dim

from .types import GapError, Operand, Scalar

Converter = Callable[..., Value | tuple[Value | None, ...]]


class Context:
    """Builds one graph.

    Attributes:
        builder: where nodes go; converters use ``op`` instead.
        origin: the current node's overload and name.
        results: the types of the current node's results, as torch found them.
        wanted: which of the results are used.
        metas: what torch knows of the operands that are nodes (fake tensors with strides).
        line: finds the user's line of the current node; empty where there is none.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self.origin = ""
        self.results: tuple[TensorType | None, ...] = ()
        self.wanted: frozenset[int] = frozenset()
        self.metas: tuple[Any, ...] = ()
        self.line: Callable[[], str] = str

    # -------------------------------------------------------------- the current node

    @property
    def dtype(self) -> DType:
        """The element type of the first result."""
        return self.result(0).dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the first result."""
        return self.result(0).shape

    def result(self, index: int) -> TensorType:
        """The type of a result."""
        found = self.results[index]
        assert found is not None, (self.origin, index)
        return found

    def unsupported(self, reason: str) -> NoReturn:
        """Reports that the current node is not supported.

        Raises:
            GapError: always; the importer collects it.
        """
        raise GapError(reason)

    # -------------------------------------------------------------- adding operations

    def op(self, name: str, *inputs: Operand, **attrs: Attr) -> Value:
        """Adds a primitive operation of one result.

        Args:
            name: an entry of the op table.
            inputs: values; a number becomes a scalar of the first value's dtype (of the second
                one's in ``where``).
            attrs: exactly the attributes that the entry declares, in canonical form.
        """
        (result,) = self.ops(name, *inputs, **attrs)
        return result

    def ops(self, name: str, *inputs: Operand, **attrs: Attr) -> tuple[Value, ...]:
        """Adds a primitive operation and returns all its results."""
        typed = inputs[1:] if name == "where" else inputs
        dtype = next((v.dtype for v in typed if isinstance(v, Value)), None)
        values: list[Value] = []
        for given in inputs:
            assert isinstance(given, Value) or dtype is not None, (name, inputs)
            values.append(given if isinstance(given, Value) else self.scalar(given, dtype))
        with self.builder.origin(self.origin):
            return self.builder.add_many(name, *values, **attrs)  # type: ignore[arg-type]

    def literal(self, array: np.ndarray) -> Value:
        """A constant; the array is not copied and must never be written afterwards."""
        return self.builder.constant(array)

    def scalar(self, number: Scalar, dtype: DType | None) -> Value:
        """A scalar of an element type from a number or a symbolic integer."""
        assert dtype is not None
        if isinstance(number, int | float):
            return self.builder.constant(np.asarray(number).astype(dtype.numpy))
        known = dim(number)
        if isinstance(known, int):
            return self.scalar(known, dtype)
        return self.cast(self.op("dim", value=known), dtype)

    def operand(self, given: Operand, dtype: DType) -> Value:
        """A tensor or a number as a value of an element type."""
        if isinstance(given, Value):
            return self.cast(given, dtype)
        return self.scalar(given, dtype)

    def index(self, indices: Value, size: Dim, signed: bool = False) -> None:
        """Has calls fail whose indices are not in 0..size-1, or, if signed, -size..size-1."""
        line = self.line()
        where = f"{self.origin}{line and f' at {line}'}"
        self.builder.index(indices, (size,), signed, where)

    # -------------------------------------------------------------- frequent operations

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` as another element type (itself when it already is)."""
        return x if x.dtype is dtype else self.op("cast", x, dtype=dtype, saturate=False)

    def widened(self, x: Value) -> Value:
        """``x`` in the type that torch computes it in: f16 and bf16 become f32."""
        return self.cast(x, dt.f32) if x.dtype.is_float and x.dtype.bits == 16 else x

    def reshape(self, x: Value, shape: Iterable[Dim]) -> Value:
        """The same elements in row-major order under another shape."""
        wanted = tuple(shape)
        return x if _same(x.shape, wanted) else self.op("reshape", x, shape=wanted)

    def broadcast_to(self, x: Value, shape: Iterable[Dim]) -> Value:
        """``x`` repeated along new leading axes and along axes of extent 1."""
        wanted = tuple(shape)
        return x if _same(x.shape, wanted) else self.op("broadcast_to", x, shape=wanted)

    def transpose(self, x: Value, perm: Iterable[int]) -> Value:
        """Axis ``i`` of the result is axis ``perm[i]`` of ``x``."""
        order = tuple(perm)
        return x if order == tuple(range(len(order))) else self.op("transpose", x, perm=order)

    def swapped(self, x: Value) -> Value:
        """``x`` with its last two axes exchanged."""
        rank = len(x.shape)
        return self.transpose(x, (*range(rank - 2), rank - 1, rank - 2))

    def unsqueeze(self, x: Value, axes: Iterable[int]) -> Value:
        """Inserts axes of extent 1 so that they stand at ``axes`` of the result."""
        at = set(axes)
        rest = iter(x.shape)
        rank = len(x.shape) + len(at)
        return self.reshape(x, (1 if i in at else next(rest) for i in range(rank)))

    def slice_axis(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """``size`` elements of one axis from ``start`` on, ``step`` apart."""
        if step == 1 and same_dim(start, 0) and same_dim(size, x.shape[axis]):
            return x
        rank = len(x.shape)
        return self.op(
            "slice",
            x,
            starts=tuple(start if i == axis else 0 for i in range(rank)),
            sizes=tuple(size if i == axis else d for i, d in enumerate(x.shape)),
            steps=tuple(step if i == axis else 1 for i in range(rank)),
        )

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
        interior: Sequence[int] = (),
    ) -> Value:
        """Adds ``lo`` elements before and ``hi`` after each axis (itself where there are none)."""
        between = tuple(interior) or (0,) * len(x.shape)
        if all(same_dim(p, 0) for p in (*lo, *hi)) and not any(between):
            return x
        return self.op(
            "pad", x, self.operand(fill, x.dtype),
            lo=tuple(lo), hi=tuple(hi), interior=between, mode=mode,
        )  # fmt: skip

    def reduce(self, x: Value, op: str, axes: Iterable[int], keepdims: bool = False) -> Value:
        """Reduces ``x`` over ``axes`` by sum, prod, max or min."""
        over = tuple(sorted(axes))
        return self.op("reduce", x, op=op, axes=over, keepdims=keepdims) if over else x

    def full(self, shape: Iterable[Dim], value: Operand, dtype: DType) -> Value:
        """A tensor of one repeated number."""
        return self.broadcast_to(self.operand(value, dtype), shape)

    def iota(self, size: Dim, dtype: DType = dt.i64) -> Value:
        """0, 1, 2, ... as a vector."""
        return self.op("iota", shape=(size,), axis=0, dtype=dtype)

    def along(self, vector: Value, rank: int, axis: int) -> Value:
        """A vector shaped to broadcast along one axis of a tensor."""
        return self.reshape(vector, (vector.shape[0] if i == axis else 1 for i in range(rank)))

    # -------------------------------------------------------------- axes and places

    def axes(self, dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
        """Sorted axes counted from the front; None or none given are all."""
        if isinstance(dims, int):
            dims = (dims,)
        return tuple(sorted({d % rank for d in dims} if dims and rank else range(rank)))

    def place(self, index: Dim, extent: Dim) -> Dim:
        """A place on an axis: a negative one counts from the end."""
        negative = index < 0 if isinstance(index, int) else prove(lt(index, 0)) is True
        return dim(as_expr(extent) + index) if negative else index

    def ints(self, sizes: Sequence[Dim], what: str) -> tuple[int, ...]:
        """Sizes that must be known numbers; a gap where one is symbolic."""
        known = tuple(d for d in sizes if isinstance(d, int))
        if len(known) != len(sizes):
            self.unsupported(f"symbolic {what}")
        return known

    def fresh(self, name: str) -> Context:
        """An empty context for a body that a converter writes by itself; the body is closed."""
        inner = Context(GraphBuilder(name))
        inner.origin = self.origin
        return inner


def _same(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
