"""Names while importing: what each one stands for, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tilewright.errors import ModelError
from tilewright.graph.ir import Value

from .context import Context
from .messages import AttributeProto


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands for a value that could not be imported.

    Attributes:
        reason: a gap to report where the value is used; "" when it was reported already.
    """

    reason: str = ""


Binding: TypeAlias = Value | Unknown | None  # None: an operand that is left out


@dataclass(slots=True, eq=False)
class Scope:
    """The names that the nodes of one graph or function body see.

    Attributes:
        context: the graph under construction that these nodes are added to.
        opsets: the version of each domain.
        outer: the scope around it, whose names are seen too; None for the model and functions.
        attributes: in a function body, the attributes of the call.
        path: in a function body, the call's name, which starts the names of its nodes.
        names: what each name stands for.
        captured: in a body of a control-flow node, the values of the graph around it that it
            reads, each with the input that brings it in.
    """

    context: Context
    opsets: Mapping[str, int]
    outer: Scope | None = None
    attributes: Mapping[str, AttributeProto] = field(default_factory=dict)
    path: str = ""
    names: dict[str, Binding] = field(default_factory=dict)
    captured: dict[Value, Value] = field(default_factory=dict)

    def define(self, name: str, binding: Binding) -> None:
        """Gives a name its meaning.

        Raises:
            ModelError: it has one already.
        """
        if name in self.names:
            raise ModelError(
                f"the name {name!r} is defined twice; in ONNX every name is defined once",
                code="TW-E0112",
            )
        self.names[name] = binding

    def lookup(self, name: str) -> Binding:
        """What a name stands for here; a value of an outer graph is captured.

        Raises:
            ModelError: nothing defines it.
        """
        if name in self.names:
            return self.names[name]
        if self.outer is None:
            raise ModelError(
                f"the name {name!r} is used but no node, input or initializer before it defines it",
                code="TW-E0113",
            )
        found = self.outer.lookup(name)
        if not isinstance(found, Value) or self.outer.context is self.context:
            return found
        return self._capture(found)

    def knows(self, name: str) -> bool:
        """Whether a name is defined here or around here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            scope = scope.outer
        return False

    def _capture(self, value: Value) -> Value:
        found = self.captured.get(value)
        if found is not None:
            return found
        assert self.outer is not None
        array = self.outer.context.constant(value)
        dims = self.outer.context.dims(value)
        if array is not None:
            return self.context.literal(array)
        if dims is not None:
            listed = self.context.dims_value(dims)
            return self.context.cast(self.context.reshape(listed, value.shape), value.dtype)
        local = self.context.builder.input(value.name, value.type)
        self.captured[value] = local
        return local
