"""The Op entry: everything the compiler knows about one primitive operator, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

from ..dtype import DType, from_numpy
from ..errors import ModelError
from ..graph.ir import Attr, Graph, TensorType
from ..tensor.compute import Compute
from ..tensor.ir import Axis, Block, Buffer, Dim, Expr, Var
from ..tensor.simplify import same_dim
from ..tensor.text import text as tensor_text

Attrs = Mapping[str, Attr]
Types = tuple[TensorType, ...]
Buffers = tuple[Buffer, ...]
Arrays = tuple[np.ndarray, ...]
Shape = tuple[Dim, ...]
Kind = Literal[
    "elementwise", "injective", "reduce", "contraction", "window", "scan", "irregular", "control",
    "source",
]  # fmt: skip


class OpError(ModelError):
    """Inputs or attributes that break an operator's type rule; names both sides."""

    def __init__(self, message: str, *, code: str = "TW-E0150") -> None:
        super().__init__(message, code=code)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One call of an operator, for tests: arrays in, attributes, and why it is there."""

    inputs: tuple[np.ndarray, ...]
    attrs: Attrs
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One primitive operator.

    Attributes:
        name: what nodes call it.
        kind: its family, which the passes go by.
        summary: one line that states its law.
        attrs: the exact attribute names.
        infer: the type rule; works on symbolic dims and raises OpError with both values.
        reference: the meaning, in NumPy. Dims in the attributes are ints here, and a Graph is a
            function from a sequence of arrays to a tuple of arrays (see ``function_attr``).
        compute: the tensor expressions, (inputs, outputs, attrs) -> stages; stages may define
            temporaries. None where it is not a set of expressions.
        loops: a plain correct loop nest, for operators that are not one expression.
        samples: calls that cover dtypes, broadcasting, edge sizes, ties and nan.
        defaults: the attributes that a caller may leave out, and what they are then; a node has
            them all.
    """

    name: str
    kind: Kind
    summary: str
    attrs: tuple[str, ...]
    infer: Callable[[Types, Attrs], Types]
    reference: Callable[[Sequence[np.ndarray], Attrs], Arrays]
    compute: Callable[[Buffers, Buffers, Attrs], tuple[Compute, ...]] | None
    loops: Callable[[Buffers, Buffers, Attrs], Block] | None
    samples: Callable[[], Sequence[Sample]]
    defaults: Attrs = field(default_factory=dict)


# ------------------------------------------------------------------ reading attributes


def _wrong(name: str, wanted: str, value: object) -> OpError:
    return OpError(f"attribute {name} must be {wanted}, got {value!r}")


def int_attr(attrs: Attrs, name: str) -> int:
    """Reads an integer attribute."""
    value = attrs[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, "an integer", value)
    return value


def bool_attr(attrs: Attrs, name: str) -> bool:
    """Reads a boolean attribute."""
    value = attrs[name]
    if not isinstance(value, bool):
        raise _wrong(name, "a boolean", value)
    return value


def str_attr(attrs: Attrs, name: str, allowed: Sequence[str] = ()) -> str:
    """Reads a string attribute, one of ``allowed`` where that is given."""
    value = attrs[name]
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    if allowed and value not in allowed:
        raise _wrong(name, f"one of {', '.join(allowed)}", value)
    return value


def dtype_attr(attrs: Attrs, name: str) -> DType:
    """Reads an element type attribute."""
    value = attrs[name]
    if not isinstance(value, DType):
        raise _wrong(name, "an element type", value)
    return value


def ints_attr(attrs: Attrs, name: str, length: int | None = None) -> tuple[int, ...]:
    """Reads a tuple of integers, of ``length`` elements where that is given."""
    value = attrs[name]
    if not isinstance(value, tuple) or not all(type(v) is int for v in value):
        raise _wrong(name, "a tuple of integers", value)
    if length is not None and len(value) != length:
        raise _wrong(name, f"of {length} elements", value)
    return cast("tuple[int, ...]", value)


def dim_attr(attrs: Attrs, name: str) -> Dim:
    """Reads a dim: an integer or an i64 expression."""
    value = attrs[name]
    if not is_dim(value):
        raise _wrong(name, "a dim", value)
    return cast("Dim", value)


def dims_attr(attrs: Attrs, name: str, length: int | None = None) -> tuple[Dim, ...]:
    """Reads a tuple of dims, of ``length`` elements where that is given."""
    value = attrs[name]
    if not isinstance(value, tuple) or not all(is_dim(v) for v in value):
        raise _wrong(name, "a tuple of dims", value)
    if length is not None and len(value) != length:
        raise _wrong(name, f"of {length} elements", value)
    return cast("tuple[Dim, ...]", value)


def axis_attr(attrs: Attrs, name: str, rank: int) -> int:
    """Reads a canonical axis: ``0 <= axis < rank``."""
    axis = int_attr(attrs, name)
    if not 0 <= axis < rank:
        raise OpError(f"attribute {name} is {axis}, but the axes are 0 to {rank - 1}")
    return axis


def axes_attr(attrs: Attrs, name: str, rank: int) -> tuple[int, ...]:
    """Reads canonical axes: ascending, distinct, each in ``0 <= axis < rank``."""
    axes = ints_attr(attrs, name)
    if any(not 0 <= a < rank for a in axes) or list(axes) != sorted(set(axes)):
        raise OpError(f"attribute {name} is {axes}, but must ascend within 0 to {rank - 1}")
    return axes


def graph_attr(attrs: Attrs, name: str) -> Graph:
    """Reads a subgraph."""
    value = attrs[name]
    if not isinstance(value, Graph):
        raise _wrong(name, "a graph", value)
    return value


def function_attr(attrs: Attrs, name: str) -> Callable[[Sequence[np.ndarray]], Arrays]:
    """Reads a subgraph as the function that the interpreter puts in its place for references."""
    value: object = attrs[name]
    if not callable(value):
        raise _wrong(name, "a subgraph bound to the interpreter", value)
    return cast("Callable[[Sequence[np.ndarray]], Arrays]", value)


def is_dim(value: object) -> bool:
    """Whether a value is a dim: an int (no bool) or an i64 expression."""
    if isinstance(value, Expr):
        return value.dtype.name == "i64"
    return isinstance(value, int) and not isinstance(value, bool)


# ------------------------------------------------------------------ rules many families share


def type_of(array: np.ndarray) -> TensorType:
    """Returns the type of an array.

    Raises:
        OpError: its NumPy dtype is no element type.
    """
    dtype = from_numpy(array.dtype)
    if dtype is None:
        raise OpError(f"no element type stores NumPy's {array.dtype}")
    return TensorType(dtype, array.shape)


def expect_inputs(types: Types, low: int, high: int | None = None) -> None:
    """Requires ``low`` inputs, or ``low`` to ``high`` (a negative ``high``: no upper bound)."""
    top = low if high is None else high
    if len(types) < low or (top >= 0 and len(types) > top):
        wanted = str(low) if top == low else f"{low} to {top}" if top >= 0 else f"at least {low}"
        raise OpError(f"takes {wanted} inputs, got {len(types)}")


def expect_same_dtype(types: Types) -> DType:
    """Requires that all inputs have one element type, and returns it."""
    for other in types[1:]:
        if other.dtype is not types[0].dtype:
            raise OpError(f"needs one element type, got {types[0].dtype} and {other.dtype}")
    return types[0].dtype


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes have the same dims."""
    return a is b or (len(a) == len(b) and all(map(same_dim, a, b)))


def broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """Broadcasts shapes by NumPy's rule; a symbolic dim meets only 1 or itself.

    Raises:
        OpError: two dims differ and neither is 1; names both shapes.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for position, dim in enumerate(shape, rank - len(shape)):
            have = result[position]
            if dim is have:
                continue
            if same_dim(have, 1):
                result[position] = dim
            elif not same_dim(dim, 1) and not same_dim(dim, have):
                both = " and ".join(shape_text(s) for s in shapes)
                raise OpError(
                    f"shapes {both} do not broadcast:"
                    f" {dim_text(result[position])} against {dim_text(dim)}"
                )
    return tuple(result)


def output_axes(output: Buffer) -> tuple[Axis, ...]:
    """Returns one axis per dim of an output, named i0, i1, ..."""
    return tuple(Axis(Var(f"i{d}"), extent) for d, extent in enumerate(output.shape))


# ------------------------------------------------------------------ types in messages


def dim_text(dim: Dim) -> str:
    """Prints a dim as Python: ``N``, ``2 * S + 1``, ``(S + 1) // 2``."""
    return tensor_text(dim)


def shape_text(shape: Shape) -> str:
    """Prints a shape: ``[N, 3, 224, 224]``."""
    return f"[{', '.join(dim_text(d) for d in shape)}]"


def type_text(type_: TensorType) -> str:
    """Prints a type: ``f32[N, 3]``; a scalar is ``f32[()]``, which is valid Python."""
    return f"{type_.dtype}{shape_text(type_.shape) if type_.shape else '[()]'}"
