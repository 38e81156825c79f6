"""What calls and models take of a kernel, whether it was scheduled by hand or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tilewright.errors import Gap, InputError, OptionError, UnsupportedError
from tilewright.frontends import CUSTOM
from tilewright.graph.ir import Attr
from tilewright.runtime.executable import Executable
from tilewright.stages import load_function

from .statement import Static


class Operation(ABC):
    """A function of arrays that is one node of a graph.

    Attributes:
        name: what errors and generated code call it.
        operands: the names of its arrays, in order.
        statics: the types of its parameters that are no arrays, by name.
        defaults: the values of those that may be left out.
    """

    name: str
    operands: tuple[str, ...]
    statics: Mapping[str, type]
    defaults: Mapping[str, Static]

    @abstractmethod
    def node(self, statics: Mapping[str, Static]) -> tuple[str, dict[str, Attr]]:
        """The operator and attributes of a graph's node that computes it."""

    @abstractmethod
    def executable(self, **statics: Static) -> Executable:
        """What calls run, for all sizes that it takes."""

    def executable_for(self, arrays: Sequence[Any], statics: Mapping[str, Static]) -> Executable:
        """What a call with these arrays runs."""
        return self.executable(**statics)

    @property
    def is_fixed(self) -> bool:
        """Whether its text says all of it: it has no parameters but arrays."""
        return not self.statics

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes it; returns an array, or a tuple of them where it states several.

        Raises:
            InputError: arguments that do not fit (TW-E0301 to TW-E0308, TW-E0324).
            UnsupportedError: a tensor that needs gradients (TW-E0251).
        """
        arrays, statics = self._arguments(args, kwargs)
        for name, x in zip(self.operands, arrays, strict=True):
            add = getattr(type(x), "__tilewright_node__", None)
            if add is not None:
                return _unpacked(add(x, *self.node(statics), arrays))
            if getattr(x, "requires_grad", False) is True:
                gap = Gap("gradients of a kernel: give the tensor's detach()", (name,))
                raise UnsupportedError([gap], code="TW-E0251", model=self.name)
        return _unpacked(self.executable_for(arrays, statics)(*arrays))

    def _arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Static]]:
        names = self.operands
        if not kwargs and len(args) == len(names):
            return list(args), {}
        statics = {n: v for n, v in kwargs.items() if n in self.statics}
        given = dict(zip(names, args, strict=False))
        twice = [n for n in kwargs if n in given]
        given |= {n: v for n, v in kwargs.items() if n not in statics}
        if len(args) > len(names) or twice or given.keys() != set(names):
            raise InputError(
                f"{self.name}: takes the arrays {', '.join(names)}"
                f"{'; by name ' + ', '.join(self.statics) if self.statics else ''}; got"
                f" {len(args)} in order, and by name {', '.join(kwargs) or 'none'}",
                code="TW-E0301",
            )
        return [given[n] for n in names], statics

    def register(self, name: str, framework: str = next(iter(CUSTOM))) -> Any:
        """Makes it an operator of another framework, and returns that operator.

        Calls of it take the framework's tensors without a copy, also where the framework captures
        or compiles what is around them. It has no gradient.

        Args:
            name: ``namespace::name``; what was registered under it before is replaced.
            framework: whose; by default the first of those that have such operators.

        Raises:
            OptionError: the framework does not take the name (TW-E0826), or there is no such one
                (TW-E0828).
        """
        place = CUSTOM.get(framework)
        if place is None:
            raise OptionError(
                f"{self.name}: no framework {framework!r} has operators of users' own; there are"
                f" {', '.join(CUSTOM)}",
                code="TW-E0828",
            )
        return load_function(place)(name, self)


def _unpacked(results: Sequence[Any]) -> Any:
    """One result by itself, several as a tuple."""
    return results[0] if len(results) == 1 else tuple(results)
