"""What the ONNX package knows of operators: versions, and functions that define some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from tilewright.graph.ir import Value

from .messages import AttributeProto, FunctionProto, NodeProto, TypeProto
from .node import GapError, NodeView
from .read import code_of


class _Default(Protocol):
    @property
    def default_value(self) -> AttributeProto: ...


class _Schema(Protocol):
    """The part of onnx.defs.OpSchema that is used (its stub file leaves some of it out)."""

    @property
    def attributes(self) -> Mapping[str, _Default]: ...
    @property
    def function_opset_versions(self) -> Sequence[int]: ...
    @property
    def context_dependent_function_opset_versions(self) -> Sequence[int]: ...
    def get_function_with_opset_version(self, version: int) -> bytes: ...
    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: list[bytes]
    ) -> bytes: ...


def newest(domain: str) -> int:
    """The version of a domain that the model does not state."""
    return int(_package("defs").onnx_opset_version()) if domain == "" else 1


def gap_of(domain: str, op: str, opset: int) -> str:
    """Why an operator without converter cannot be imported; "" where a function defines it."""
    schema = _schema(domain, op, opset)
    if schema is None:
        return "unknown operator"
    defined = _static(schema, opset) or _shaped(schema, opset)
    return "" if defined else "operator is not supported"


def function_of(view: NodeView, node: NodeProto) -> FunctionProto:
    """The function that defines a node's operator, for its operands and attributes.

    Raises:
        GapError: the operator is unknown, or no function defines it.
    """
    schema = _schema(view.domain, view.op, view.opset)
    gap = gap_of(view.domain, view.op, view.opset)
    if gap or schema is None:
        raise GapError(gap)
    static, shaped = _static(schema, view.opset), _shaped(schema, view.opset)
    if static:
        data = schema.get_function_with_opset_version(max(static))
    else:
        concrete = NodeProto()
        concrete.CopyFrom(node)
        del concrete.attribute[:]
        concrete.attribute.extend(view.attributes.values())
        types = [_type_proto(v).SerializeToString() for v in view.inputs]
        data = schema.get_context_dependent_function_with_opset_version(
            max(shaped), concrete.SerializeToString(), types
        )
    function = FunctionProto()
    function.ParseFromString(data)
    if not function.node:
        raise GapError("operator is not supported with these operands")
    for name, attribute in schema.attributes.items():
        if name not in view.attributes and attribute.default_value.name:
            function.attribute_proto.append(attribute.default_value)
    return function


def _schema(domain: str, op: str, opset: int) -> _Schema | None:
    defs = _package("defs")
    # A version newer than all known ones is read as the newest known.
    try:
        return cast("_Schema", defs.get_schema(op, min(opset, 2**31 - 1), domain))
    except defs.SchemaError:
        return None


def _static(schema: _Schema, opset: int) -> list[int]:
    return [v for v in schema.function_opset_versions if v <= opset]


def _shaped(schema: _Schema, opset: int) -> list[int]:
    return [v for v in schema.context_dependent_function_opset_versions if v <= opset]


def _type_proto(value: Value | None) -> TypeProto:
    """A value's type as the standard's function builders want it."""
    if value is None:
        return TypeProto()
    dims = [d if isinstance(d, int) else None for d in value.shape]
    made: TypeProto = _package("helper").make_tensor_type_proto(code_of(value.dtype), dims)
    return made


def _package(module: str) -> Any:
    """A module of the onnx package, which most models need nothing of."""
    return import_module(f"onnx.{module}")
