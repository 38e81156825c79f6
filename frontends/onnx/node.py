"""What an operator converter sees of one ONNX node: typed attributes and operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias, TypeVar

import numpy as np

from tilewright.dtype import DType
from tilewright.errors import ModelError
from tilewright.graph.ir import Value

from .messages import AttributeProto, GraphProto, TensorProto
from .read import ExternalData, array_of, dtype_of

_KIND = AttributeProto
_T = TypeVar("_T")
# NodeView has methods called int and float: inside of it these names are not the types.
_Ints: TypeAlias = tuple[int, ...]
_Floats: TypeAlias = tuple[float, ...]
_Kind: TypeAlias = int


class GapError(Exception):
    """A converter found that a node needs something that is not supported (internal).

    The importer catches it, notes the gap with the node's name, and goes on.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class NodeView:
    """One node of the source model, its operands looked up and its attributes typed.

    Attributes:
        op: the operator's name ("Conv").
        domain: "" for ONNX's own.
        name: the node's name, or the name of its first output.
        opset: the version of the domain that the model asks for.
        inputs: the operands; None where an optional one is left out.
        outputs: the names of the results; "" where one is not wanted.
        external: where external data of tensor attributes lies.
    """

    op: Final[str]
    domain: Final[str]
    name: Final[str]
    opset: Final[_Kind]
    inputs: Final[tuple[Value | None, ...]]
    outputs: Final[tuple[str, ...]]
    attributes: Final[Mapping[str, AttributeProto]] = field(repr=False)
    external: Final[ExternalData | None] = None

    # -------------------------------------------------------------- operands

    def input(self, index: int) -> Value:
        """The operand at ``index``, which the operator requires.

        Raises:
            ModelError: it is left out.
        """
        value = self.optional(index)
        if value is None:
            self.broken(f"input {index} is required and is not given")
        return value

    def optional(self, index: int) -> Value | None:
        """The operand at ``index``, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def variadic(self, start: int = 0) -> tuple[Value, ...]:
        """All operands from ``start`` on, each of them required."""
        return tuple(self.input(i) for i in range(start, len(self.inputs)))

    def wants(self, index: int) -> bool:
        """Whether the result at ``index`` has a name, hence may be read."""
        return index < len(self.outputs) and self.outputs[index] != ""

    # -------------------------------------------------------------- attributes

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self.attributes

    def int(self, name: str, default: int | None = None) -> int:
        """The integer attribute; required when there is no default."""
        found = self._attribute(name, _KIND.INT)
        return int(self._default(name, default) if found is None else found.i)

    def float(self, name: str, default: float | None = None) -> float:
        """The float attribute (an f32 by the standard); required when there is no default."""
        found = self._attribute(name, _KIND.FLOAT)
        return float(self._default(name, default) if found is None else found.f)

    def string(self, name: str, default: str | None = None) -> str:
        """The string attribute; required when there is no default."""
        found = self._attribute(name, _KIND.STRING)
        return str(
            self._default(name, default) if found is None else found.s.decode("utf-8", "replace")
        )

    def ints(self, name: str) -> _Ints | None:
        """The list of integers, or None when it is not given."""
        found = self._attribute(name, _KIND.INTS)
        return None if found is None else tuple(found.ints)

    def floats(self, name: str) -> _Floats | None:
        """The list of floats, or None when it is not given."""
        found = self._attribute(name, _KIND.FLOATS)
        return None if found is None else tuple(found.floats)

    def strings(self, name: str) -> tuple[str, ...] | None:
        """The list of strings, or None when it is not given."""
        found = self._attribute(name, _KIND.STRINGS)
        return None if found is None else tuple(s.decode("utf-8", "replace") for s in found.strings)

    def tensor(self, name: str) -> np.ndarray | None:
        """The tensor attribute as an array, or None when it is not given.

        Raises:
            GapError: its element type is not supported.
            ModelError: its data does not fit its shape.
        """
        found = self._attribute(name, _KIND.TENSOR)
        if found is None:
            return None
        if dtype_of(found.t.data_type) is None:
            raise GapError(f"element type {type_name(found.t.data_type)}")
        return array_of(found.t, self.external, f"attribute {name} of {self.label}")

    def graph(self, name: str) -> GraphProto:
        """The graph attribute, which the operator requires."""
        found = self._attribute(name, _KIND.GRAPH)
        if found is None:
            self._default(name, None)
            raise AssertionError(name)
        return found.g

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """The element type that an integer attribute names.

        Raises:
            GapError: it is one that is not supported (fp8, int4, string, complex).
        """
        if default is not None and not self.has(name):
            return default
        code = self._dtype_code(name)
        found = dtype_of(code)
        if found is None:
            raise GapError(f"element type {type_name(code)}")
        return found

    def _dtype_code(self, name: str) -> _Kind:
        given = self.attributes.get(name)
        if given is None or given.type != _KIND.STRING:
            return self.int(name)
        # Before opset 6, Cast named the type by a string.
        spelled = self.string(name)
        known = TensorProto.DataType.keys()
        if spelled not in known:
            self.broken(f"attribute {name} is {spelled!r}, which is no element type")
        code: _Kind = TensorProto.DataType.Value(spelled)
        return code

    # -------------------------------------------------------------- refusals

    @property
    def label(self) -> str:
        """``Op:name``, as messages and origins show it."""
        return f"{self.op}:{self.name}"

    def broken(self, reason: str) -> NoReturn:
        """Refuses a node that breaks the ONNX standard.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.label}: {reason}", code="TW-E0120")

    def _attribute(self, name: str, kind: _Kind) -> AttributeProto | None:
        found = self.attributes.get(name)
        if found is not None and found.type != kind:
            given, wanted = _KIND.AttributeType.Name, _KIND.AttributeType.Name(kind)
            self.broken(f"attribute {name} is of type {given(found.type)}, not {wanted}")
        return found

    def _default(self, name: str, default: _T | None) -> _T:
        if default is None:
            self.broken(f"attribute {name} is required and is not given")
        return default


def type_name(code: int) -> str:
    """The standard's name of an element type ("FLOAT8E4M3FN")."""
    names = TensorProto.DataType
    return names.Name(code) if code in names.values() else f"number {code}"
