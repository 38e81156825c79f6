"""``tw.jit``: a NumPy function compiled at its first call, for arrays of all sizes."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from threading import RLock
from types import BuiltinFunctionType, EllipsisType, FunctionType, NoneType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import numpy as np

from tilewright.api import compile as compile_graph
from tilewright.errors import InputError, OptionError
from tilewright.frontends.numpy.importer import Result, Traced, trace_function
from tilewright.runtime.buffer import BorrowError, borrow, exporter, library_of
from tilewright.runtime.executable import READY, Executable
from tilewright.runtime.shapes import Plan
from tilewright.tensor.ir import Var
from tilewright.tensor.simplify import evaluate

_MOST_SHAPES = 1024
_STATIC = (
    bool, int, str, bytes, NoneType, EllipsisType, type, np.dtype, np.ufunc, enum.Enum,
    FunctionType, BuiltinFunctionType,
)  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Variant:
    """Compiled code, and the sizes that it serves.

    Attributes:
        traced: the graph, with the conditions on sizes.
        executable: what runs.
        single: whether the function returns one array, which needs no unpacking.
        library: the one library that all arrays among the arguments come from, if not NumPy.
    """

    traced: Traced
    executable: Executable
    single: bool
    library: str

    def serves(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether arrays of these shapes lead to the same graph."""
        try:
            return self._serves(shapes)
        except ZeroDivisionError:  # a size that it divides by would be 0
            return False

    def _serves(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        env: dict[str, int] = {}
        inputs = self.traced.graph.inputs
        for value, shape in zip(inputs, shapes, strict=True):
            for size, given in zip(value.shape, shape, strict=True):
                if isinstance(size, Var):
                    env.setdefault(size.name, given)
                    if size.lo is not None and given < size.lo:
                        return False
        return all(
            evaluate(size, env) == given
            for value, shape in zip(inputs, shapes, strict=True)
            for size, given in zip(value.shape, shape, strict=True)
        ) and all(bool(evaluate(c, env)) == held for c, held in self.traced.guards)


Known = tuple[Variant, Plan | None]
"""What arguments lead to: the code, and what it needs to know of their shapes."""


class Jitted(Generic[P, R]):
    """A function of NumPy arrays that runs as native code.

    Arrays and NumPy scalars among the arguments, also in tuples, lists and dicts, are data, and
    so are tensors of other libraries in CPU memory, which are read in place by DLPack; where all
    data are tensors of one library (torch), so are the arrays of the result. All
    else (Python numbers, strings, dtypes, functions) is part of the program. The function runs
    once in Python for each combination of dtypes, ranks and such arguments, with sizes symbolic.
    Sizes 0 and 1 are programs of their own, since broadcasting depends on them, and so is each
    outcome of what the function decides by a size. Arrays that the function takes from around it
    are constants, as they were then.

    Attributes:
        executables: what was compiled so far, in order.
    """

    def __init__(
        self,
        function: Callable[P, R],
        target: str | None,
        threads: int | None,
        dynamic: bool,
    ) -> None:
        self._function = function
        self._target = target
        self._threads = threads
        self._dynamic = dynamic
        self._shapes: dict[tuple[Any, ...], Known] = {}
        self._variants: dict[tuple[Any, ...], list[Variant]] = {}
        self._lock = RLock()
        self.executables: tuple[Executable, ...] = ()
        update_wrapper(self, function)

    @property
    def compiles(self) -> int:
        """How often the function was compiled."""
        return len(self.executables)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function.

        Raises:
            UnsupportedError: it uses something that has no compiled form (TW-E024x).
            InputError: the arguments do not go with the function, or with each other (TW-E032x).
        """
        key: list[Any] = []
        arrays: list[np.ndarray] = []
        for x in args:
            if type(x) is np.ndarray:
                key.append(x.dtype)
                key.append(x.shape)
                arrays.append(x)
            else:
                self._flatten(x, key, arrays)
        if kwargs:
            for name in sorted(kwargs):
                key.append(name)
                self._flatten(kwargs[name], key, arrays)
        exact = tuple(key)
        found = self._shapes.get(exact)
        if found is None:
            found = self._find(exact, arrays, args, kwargs)
        variant, plan = found
        for array in arrays:
            if array.flags.num & READY != READY:
                plan = None
        executable = variant.executable
        outputs = executable(*arrays) if plan is None else executable.enter(plan, arrays)
        if variant.library:
            export = exporter(variant.library)
            outputs = outputs if export is None else tuple(map(export, outputs))
        if variant.single:
            return cast("R", outputs[0])
        return cast("R", _unpacked(variant.traced.result, outputs))

    def _flatten(self, x: Any, key: list[Any], arrays: list[np.ndarray]) -> None:
        """Adds what decides the program to the key, and data to the arrays.

        An entry that is a shape is a tuple; all others are not, or stand behind their type.
        """
        kind = type(x)
        if kind is np.ndarray or isinstance(x, np.generic):
            array = np.asarray(x)
            key += (array.dtype, array.shape) if kind is np.ndarray else ("scalar", array.dtype, ())
            arrays.append(array)
        elif kind is float:
            # By its digits: 0.0 and -0.0 are two programs, and a nan is one.
            key += (float, x.hex())
        elif isinstance(x, _STATIC):
            key += (kind, _Static(x))
        elif kind in (tuple, list):
            key += (kind, len(x))
            for item in x:
                self._flatten(item, key, arrays)
        elif kind is dict:
            key += (dict, len(x))
            for name, item in x.items():
                key.append(_Static(name))
                self._flatten(item, key, arrays)
        elif _is_tensor(x):
            array = self._borrowed(x)
            key += (kind, library_of(x), array.dtype, array.shape)
            arrays.append(array)
        else:
            raise self._unknown(
                x,
                "give NumPy arrays, tensors of another library, numbers, strings, or tuples, lists"
                " and dicts of them",
            )

    def _borrowed(self, x: Any) -> np.ndarray:
        try:
            return borrow(x)
        except BorrowError as error:
            raise self._unknown(x, f"which cannot be read in place: {error}") from error

    def _unknown(self, x: object, why: str) -> InputError:
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        return InputError(f"{self._name}: an argument is a {kind}; {why}", code="TW-E0323")

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", "function")

    def _find(
        self,
        exact: tuple[Any, ...],
        arrays: Sequence[np.ndarray],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Known:
        """A variant that serves these shapes, compiled now if there is none, and its plan.

        There is no plan where the executable has arguments to convert.
        """
        shapes = [a.shape for a in arrays]
        general = tuple(len(k) if type(k) is tuple else k for k in exact)
        with self._lock:
            known = self._variants.setdefault(general, [])
            variant = next((v for v in known if v.serves(shapes)), None)
            if variant is None:
                variant = self._compile(args, kwargs)
                known.append(variant)
            executable = variant.executable
            fits = all(
                a.dtype == s.dtype.numpy for a, s in zip(arrays, executable.inputs, strict=True)
            )
            plan = executable.plan(tuple(shapes)) if fits else None
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[exact] = variant, plan
        return variant, plan

    def _compile(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Variant:
        # Sorted, as the key is: the arrays come in this order.
        named = {name: kwargs[name] for name in sorted(kwargs)}
        libraries: set[str] = set()
        args = [_as_arrays(x, libraries) for x in args]
        named = {name: _as_arrays(x, libraries) for name, x in named.items()}
        names = _names(self._function, args, named)
        traced = trace_function(self._function, args, named, names, self._dynamic)
        executable = compile_graph(traced.graph, target=self._target, threads=self._threads)
        self.executables = (*self.executables, executable)
        result = traced.result
        single = isinstance(result, Result) and result.kind == "array" and result.output == 0
        library = libraries.pop() if len(libraries) == 1 else "numpy"
        return Variant(traced, executable, single, "" if library == "numpy" else library)


class _Static:
    """A key that differs for equal values of different types (1, True, 1.0), also inside."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Static)
            and type(self.value) is type(other.value)
            and bool(self.value == other.value)
        )


def _is_tensor(x: object) -> bool:
    return hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__") and not isinstance(
        x, np.ndarray
    )  # fmt: skip


def _as_arrays(x: Any, libraries: set[str]) -> Any:
    """An argument with arrays in place of tensors; collects where data come from."""
    match x:
        case np.ndarray() | np.generic():
            libraries.add("numpy")
        case tuple() | list():
            return type(x)(_as_arrays(item, libraries) for item in x)
        case dict():
            return {name: _as_arrays(item, libraries) for name, item in x.items()}
        case _ if _is_tensor(x) and not isinstance(x, _STATIC):
            libraries.add(library_of(x))
            return borrow(x)
        case _:
            pass
    return x


def _names(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """A name for each array among the arguments: that of its parameter, numbered inside nests."""
    names: list[str] = []
    try:
        parameters = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # a function without a signature
        parameters = []
    parameters += [f"arg{i}" for i in range(len(parameters), len(args))]

    def visit(x: Any, name: str) -> None:
        if isinstance(x, np.ndarray | np.generic):
            names.append(name)
        elif isinstance(x, tuple | list):
            for i, item in enumerate(x):
                visit(item, f"{name}_{i}")
        elif isinstance(x, dict):
            for i, item in enumerate(x.values()):
                visit(item, f"{name}_{i}")

    for name, x in zip(parameters, args, strict=False):
        visit(x, name)
    for name, x in kwargs.items():
        visit(x, name)
    taken: set[str] = set()
    for i, name in enumerate(names):
        while name in taken:
            name += "_"
        taken.add(name)
        names[i] = name
    return tuple(names)


def _unpacked(result: Any, outputs: Sequence[np.ndarray]) -> Any:
    match result:
        case Result(kind="array"):
            return outputs[result.output]
        case Result(kind="scalar"):
            return outputs[result.output][()]
        case Result(kind="python"):
            return outputs[result.output].item()
        case Result():
            # Constants are copied: the caller may write into them.
            known = result.value
            return known.copy() if isinstance(known, np.ndarray) else known
        case tuple():
            return tuple(_unpacked(r, outputs) for r in result)
        case list():
            return [_unpacked(r, outputs) for r in result]
        case _:
            return {k: _unpacked(r, outputs) for k, r in result.items()}


@overload
def jit(
    function: Callable[P, R],
    /,
    *,
    target: str | None = None,
    threads: int | None = None,
    dynamic: bool = True,
) -> Jitted[P, R]: ...


@overload
def jit(
    *, target: str | None = None, threads: int | None = None, dynamic: bool = True
) -> Callable[[Callable[P, R]], Jitted[P, R]]: ...


def jit(
    function: Callable[..., Any] | None = None,
    /,
    *,
    target: str | None = None,
    threads: int | None = None,
    dynamic: bool = True,
) -> Any:
    """Makes a function of NumPy arrays run as native code; also a decorator with options.

    Args:
        function: what to compile, at its first call.
        target: ``native`` (this CPU) or a level (``x86-64-v3``).
        threads: the most threads a call may use; by default what affinity and quota allow.
        dynamic: whether compiled code serves all sizes; if not, each shape is compiled.

    Raises:
        OptionError: what is given is no function (TW-E0801).
    """
    if function is None:
        return lambda f: jit(f, target=target, threads=threads, dynamic=dynamic)
    if not callable(function):
        raise OptionError(
            f"jit takes a function of arrays, not a {type(function).__name__}; options are given "
            f"by name, as in jit(threads=2)",
            code="TW-E0801",
        )
    return Jitted(function, target, threads, dynamic)
