"""From a Python function and the arguments of one call to a Graph that serves other sizes too."""

from __future__ import annotations

import dis
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, ModuleType
from typing import Any, Literal

import numpy as np

from tilewright import dtype as dt
from tilewright.errors import InputError, InternalError
from tilewright.graph.ir import Graph, TensorType
from tilewright.tensor.ir import Dim, Expr, Var, as_expr
from tilewright.tensor.simplify import dim, substitute

from .choice import CREATION, is_symbolic
from .table import FUNCTIONS, REFUSED
from .trace import Restart, Trace
from .tracer import Family, Size, Tracer, bind, element_type, name_of
from .ufuncs import UFUNCS

_MOST_RESTARTS = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """A leaf of what the function returned.

    Attributes:
        kind: an array, a NumPy scalar, a Python number, or an object known beforehand.
        output: the position among the graph's outputs.
        value: the known object.
    """

    kind: Literal["array", "scalar", "python", "known"]
    output: int = 0
    value: Any = None


@dataclass(frozen=True, slots=True)
class Traced:
    """What tracing made.

    Attributes:
        graph: its inputs are the arrays among the arguments, in order.
        guards: conditions on sizes under which it is the function, and how each turned out.
        result: tuples, lists and dicts as returned, with a Result at each leaf.
    """

    graph: Graph
    guards: tuple[tuple[Expr, bool], ...]
    result: Any


def trace_function(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    dynamic: bool,
) -> Traced:
    """Runs a function on symbolic arrays in place of the arrays among its arguments.

    Args:
        function: the user's.
        args: as in the call; arrays and NumPy scalars at any depth of tuples, lists and dicts.
        kwargs: likewise.
        names: a name for each array, in order of occurrence.
        dynamic: whether sizes above 1 are symbols.

    Raises:
        UnsupportedError, InputError: each names NumPy's function and the user's line.
    """
    known: dict[Var, Dim] = {}
    for _ in range(_MOST_RESTARTS):
        try:
            return _trace_once(function, args, kwargs, names, dynamic, known)
        except Restart as restart:
            known = {v: _replace(d, restart.replace) for v, d in known.items()}
            known.update(restart.replace)
    raise InternalError(f"{function!r}: sizes cannot be made to agree", code="TW-E0930")


def _replace(size: Dim, new: Mapping[Var, Dim]) -> Dim:
    if isinstance(size, int):
        return size
    return dim(substitute(size, {v: as_expr(d) for v, d in new.items()}))


def _trace_once(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    dynamic: bool,
    known: Mapping[Var, Dim],
) -> Traced:
    name = getattr(function, "__name__", "function")
    env: dict[str, int] = {}
    trace = Trace(name, env, FUNCTIONS, UFUNCS, REFUSED)
    rest = iter(names)

    def shape_of(array: np.ndarray, label: str) -> tuple[Dim, ...]:
        dims: list[Dim] = []
        for axis, size in enumerate(array.shape):
            symbol = Var(f"{label}_{axis}", dt.i64, 2)
            if size < 2 or not dynamic:
                dims.append(size)
                continue
            env[symbol.name] = size
            dims.append(known.get(symbol, symbol))
        return tuple(dims)

    def symbolic(x: Any) -> Any:
        match x:
            case np.ndarray() | np.generic():
                label = next(rest)
                kind = element_type(trace, f"argument {label}", x.dtype)
                array = np.asarray(x)
                value = trace.builder.input(label, TensorType(kind, shape_of(array, label)))
                return Tracer(trace, value, scalar=isinstance(x, np.generic), family=Family(True))
            case list():
                return [symbolic(i) for i in x]
            case tuple():
                return tuple(symbolic(i) for i in x)
            case dict():
                return {k: symbolic(v) for k, v in x.items()}
            case _:
                return x

    given = [symbolic(x) for x in args]
    named = {k: symbolic(v) for k, v in kwargs.items()}
    returned = _with_names(function, trace)(*given, **named)
    outputs: list[Tracer] = []
    result = _results(trace, returned, outputs)
    for output in outputs:
        trace.builder.output(output.value)
    return Traced(trace.builder.finish(), tuple(trace.guards.items()), result)


def _results(trace: Trace, x: Any, outputs: list[Tracer]) -> Any:
    match x:
        case Tracer():
            if x.tracing is not trace:
                trace.refuse("an array of another traced call is returned", "TW-E0321")
            outputs.append(x)
            kind: Literal["array", "scalar", "python"] = "scalar" if x.scalar else "array"
            return Result("python" if x.weak else kind, len(outputs) - 1)
        case Size():
            outputs.append(Tracer(trace, trace.add("dim", value=x.dim)))
            return Result("python", len(outputs) - 1)
        case tuple() if type(x) is tuple:
            return tuple(_results(trace, i, outputs) for i in x)
        case list():
            return [_results(trace, i, outputs) for i in x]
        case dict():
            return {k: _results(trace, v, outputs) for k, v in x.items()}
        case None | bool() | int() | float() | str() | np.ndarray() | np.generic() | np.dtype():
            return Result("known", value=x)
        case _:
            raise InputError(
                f"{trace.name}: returns a {type(x).__name__}; a traced function returns arrays,"
                " numbers, or tuples, lists and dicts of them",
                code="TW-E0322",
            )


# ------------------------------------------------------------------ names that the function sees


def _with_names(function: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """The function, with NumPy's creation functions replaced in the names that it sees.

    Functions of the same module that it calls see the replaced names too. A function that
    assigns to a global name is left alone: it would assign to a copy.
    """
    if not isinstance(function, FunctionType) or _assigns_globals(function):
        return function
    module = function.__globals__
    names: dict[str, Any] = dict(module)
    for key, value in module.items():
        if isinstance(value, FunctionType) and value.__globals__ is module:
            if not _assigns_globals(value):
                names[key] = _copied(value, names, trace)
        else:
            names[key] = _replaced(value, trace)
    return _copied(function, names, trace)


def _assigns_globals(function: FunctionType) -> bool:
    return any(
        i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") for i in dis.get_instructions(function)
    )


def _copied(function: FunctionType, names: dict[str, Any], trace: Trace) -> FunctionType:
    cells = None
    if function.__closure__ is not None:
        cells = tuple(_cell(cell, trace) for cell in function.__closure__)
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _cell(cell: CellType, trace: Trace) -> CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # a name that has no value yet
        return cell
    replaced = _replaced(value, trace)
    return cell if replaced is value else CellType(replaced)


def _replaced(value: Any, trace: Trace) -> Any:
    if value is np:
        return _NumPy(trace)
    if _is_random(value):
        return _Random(value, trace)
    if _is_random(getattr(value, "__self__", None)):
        return getattr(_Random(value.__self__, trace), value.__name__)
    if callable(value) and getattr(value, "__module__", "") == "numpy":
        return _creation(value, trace)
    return value


def _creation(function: Any, trace: Trace) -> Any:
    """NumPy's function, unless it is one that would not ask a symbolic argument."""
    try:
        handler = CREATION.get(function)
    except TypeError:
        return function
    if handler is None:
        return function

    def create(*args: Any, **kwargs: Any) -> Any:
        if is_symbolic(args, kwargs):
            return bind(trace, name_of(function), handler, args, kwargs)
        return function(*args, **kwargs)

    return create


class _NumPy(ModuleType):
    """The module ``numpy`` as a traced function sees it."""

    def __init__(self, trace: Trace) -> None:
        super().__init__("numpy")
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return _replaced(getattr(np, name), self._trace)


_SEEDED = ("default_rng", "RandomState", "SeedSequence")


def _is_random(value: Any) -> bool:
    """Whether a value is the module ``numpy.random`` or a generator of it."""
    if isinstance(value, ModuleType):
        return value.__name__ == "numpy.random"
    return not isinstance(value, type) and type(value).__module__.startswith("numpy.random")


class _Random(ModuleType):
    """``numpy.random``, or a generator from outside, as a traced function sees it."""

    def __init__(self, given: Any, trace: Trace) -> None:
        super().__init__("numpy.random")
        self._given, self._trace = given, trace

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._given, name)
        if not callable(found):
            return found

        def draw(*args: Any, **kwargs: Any) -> Any:
            if name in _SEEDED and (args or kwargs):
                return found(*args, **kwargs)
            self._trace.unsupported(
                f"numpy.random.{name}: the function runs once, so that every call would see the"
                " same numbers; draw them outside, and give them as an argument"
            )

        return draw
