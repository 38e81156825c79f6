"""``tw.kernel``: an operator that a user states as a tensor expression."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from threading import RLock
from types import MappingProxyType
from typing import Any, overload

from tilewright.api import compile as compile_graph
from tilewright.errors import InputError
from tilewright.graph.ir import Attr, Graph
from tilewright.ops.kernel import sizes
from tilewright.runtime.executable import Executable
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.text import text

from .graph import fixed, graph_of
from .operation import Operation
from .schedule import KernelSchedule
from .statement import DimRanges, Static, read_signature, state

MOST_COMPILED = 256
"""Executables that one kernel keeps; beyond them it begins anew."""


class Kernel(Operation):
    """An operator stated as a tensor expression; calling it computes it.

    Arguments are NumPy arrays, or CPU tensors of another library, which are read in place; where
    all are of one library, so are the results. Inside a function of ``tw.jit`` the call is part
    of the traced program. Parameters that are no arrays are part of the program, too: each of
    their values is compiled by itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        dim_ranges: DimRanges | None = None,
        target: str | None = None,
        threads: int | None = None,
        dynamic: bool = True,
        around: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._function = function
        self._signature = read_signature(function, dim_ranges, around)
        self.name = getattr(function, "__name__", "kernel")
        self.operands = tuple(self._signature.operands)
        self.statics = self._signature.statics
        self.defaults = self._signature.defaults
        self._target = target
        self._threads = threads
        self._dynamic = dynamic
        self._lock = RLock()
        self._groups: dict[tuple[tuple[str, type, Static], ...], ComputeGroup] = {}
        self._made: dict[tuple[tuple[str, type, Static], ...], Executable] = {}
        update_wrapper(self, function)
        if self._signature.defaults.keys() == self._signature.statics.keys():
            self.group()

    # ---------------------------------------------------------- what it states

    def group(self, **statics: Static) -> ComputeGroup:
        """The stages that it states, at values of the parameters that are no arrays.

        Raises:
            ModelError: it states something that cannot be meant (TW-E026x).
            InputError: such a parameter is missing, unknown or of another type (TW-E0324).
        """
        values = self._statics(statics)
        key = tuple((n, type(v), v) for n, v in values.items())
        with self._lock:
            found = self._groups.get(key)
            if found is None:
                found = self._groups[key] = state(self._function, self._signature, values)
        return found

    def _statics(self, given: Mapping[str, Static]) -> dict[str, Static]:
        values: dict[str, Static] = {}
        wanted = self._signature.statics
        unknown = sorted(given.keys() - wanted.keys())
        for name, kind in wanted.items():
            value = given.get(name, self._signature.defaults.get(name))
            if kind is float and type(value) is int:
                value = float(value)
            if value is None or type(value) is not kind:
                unknown.append(name)
            else:
                values[name] = value
        if unknown:
            listed = ", ".join(f"{n}: {t.__name__}" for n, t in wanted.items()) or "none"
            raise InputError(
                f"{self.name}: the parameter {unknown[0]} is missing, unknown or of another type;"
                f" beside arrays it takes {listed}",
                code="TW-E0324",
            )
        return values

    def node(self, statics: Mapping[str, Static]) -> tuple[str, dict[str, Attr]]:
        """The operator and attributes of a graph's node that computes it."""
        return "kernel", {"stages": text(self.group(**statics))}

    # ---------------------------------------------------------- what to do with it

    def graph(self, *, statics: Mapping[str, Static] | None = None, **dims: int) -> Graph:
        """The graph of it alone: for ``tw.compile`` and ``tilewright tune``.

        Args:
            statics: values of its parameters that are no arrays.
            dims: sizes by the names of its dims; those not given stay symbolic.
        """
        group = fixed(self.group(**(statics or {})), dims)
        return graph_of(group, "kernel", {"stages": text(group)})

    def schedule(
        self,
        *,
        target: str | None = None,
        threads: int | None = None,
        statics: Mapping[str, Static] | None = None,
        **dims: int,
    ) -> KernelSchedule:
        """Its loop nest before any step, to be scheduled by hand.

        Args:
            target: a CPU: ``native`` or a level (``x86-64-v3``).
            threads: the most threads a call may use.
            statics: values of its parameters that are no arrays.
            dims: sizes by the names of its dims; those not given stay symbolic.
        """
        group = fixed(self.group(**(statics or {})), dims)
        return KernelSchedule(group, target or self._target, threads or self._threads)

    def executable(self, **statics: Static) -> Executable:
        """What calls run, for all sizes."""
        return self._executable(statics, {})

    def executable_for(self, arrays: Sequence[Any], statics: Mapping[str, Static]) -> Executable:
        """What a call with these arrays runs: code for their sizes alone, where asked for."""
        if self._dynamic:
            return self._executable(statics, {})
        group = self.group(**statics)
        shapes = [tuple(getattr(x, "shape", ())) for x in arrays]
        if [len(s) for s in shapes] != [len(b.shape) for b in group.inputs]:
            return self._executable(statics, {})  # which says what does not fit
        return self._executable(statics, sizes(group, shapes))

    def _executable(self, statics: Mapping[str, Static], dims: Mapping[str, int]) -> Executable:
        key = tuple((n, type(v), v) for n, v in (*statics.items(), *dims.items()))
        found = self._made.get(key)
        if found is None:
            with self._lock:
                found = self._made.get(key)
                if found is None:
                    graph = self.graph(statics=statics, **dims)
                    found = compile_graph(graph, target=self._target, threads=self._threads)
                    if len(self._made) >= MOST_COMPILED:
                        self._made.clear()
                    self._made[key] = found
        return found

    def __str__(self) -> str:
        return text(self.group())

    def __repr__(self) -> str:
        """Differs where what it computes does, as far as that is known before its parameters."""
        return f"<kernel {text(self.group())}>" if self.is_fixed else f"<kernel {self.name}>"


@overload
def kernel(function: Callable[..., Any], /) -> Kernel: ...


@overload
def kernel(
    *,
    dim_ranges: DimRanges | None = None,
    target: str | None = None,
    threads: int | None = None,
    dynamic: bool = True,
) -> Callable[[Callable[..., Any]], Kernel]: ...


def kernel(
    function: Callable[..., Any] | None = None,
    /,
    *,
    dim_ranges: DimRanges | None = None,
    target: str | None = None,
    threads: int | None = None,
    dynamic: bool = True,
) -> Any:
    """Makes an operator of a function that states it; also a decorator with options.

    Args:
        function: from arrays, annotated ``tw.f32["M", "K"]``, to what ``tw.compute`` gives.
        dim_ranges: inclusive ranges by the names of dims; by default at least 1.
        target: what calls compile for; by default this CPU.
        threads: the most threads a call may use; by default what affinity and quota allow.
        dynamic: whether compiled code serves all sizes; if not, each shape is compiled.

    Raises:
        ModelError: it states something that cannot be meant (TW-E026x).
    """
    # Annotations that are texts name what is around the function, not only what it uses.
    frame = inspect.currentframe()
    caller = None if frame is None else frame.f_back
    around = {} if caller is None else dict(caller.f_locals)
    if function is None:
        return lambda f: Kernel(f, dim_ranges, target, threads, dynamic, around)
    return Kernel(function, dim_ranges, target, threads, dynamic, around)
