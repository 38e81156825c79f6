"""The graph interpreter: runs the NumPy reference of every node. The oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..dtype import from_numpy
from ..errors import InputError, InternalError
from ..ops import OPS
from ..ops.op import Attrs, dim_text, shape_text, type_of, type_text
from ..tensor.ir import Expr, Var
from ..tensor.simplify import evaluate, symbols
from ..tensor.solve import solve, sources
from .ir import Graph, Node, Value

Env = dict[str, int]


def interpret(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a graph for inputs given by name.

    Symbols take their values from the shapes of the inputs; every dim is then checked.

    Raises:
        InputError: an input is missing, unknown, or of the wrong dtype or shape.
    """
    names = [v.name for v in graph.inputs]
    for name in inputs:
        if name not in names:
            raise InputError(
                f"{graph.name}: no input is called {name!r}; the inputs are {', '.join(names)}",
                code="TW-E0301",
            )
    arrays = []
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(f"{graph.name}: input {value.name!r} is missing", code="TW-E0301")
        arrays.append(np.asarray(inputs[value.name]))
    results = list(_run(graph, arrays, {}))
    end = len(results) - graph.guards
    for message, count in zip(graph.output_names[end:], results[end:], strict=True):
        if count:
            raise InputError(f"{graph.name}: {message}", code="TW-E0314")
    return results[:end]


def resolve_attrs(attrs: Attrs, env: Mapping[str, int]) -> Attrs:
    """Returns attributes as references take them: dims as ints, subgraphs as functions.

    Args:
        attrs: the attributes of a node.
        env: the value of every symbol, by name.
    """
    # Attrs describes what nodes hold; a bound subgraph is the one thing more (see function_attr).
    return {name: _resolve(value, env) for name, value in attrs.items()}  # type: ignore[misc]


def bind_symbols(values: Sequence[Value], arrays: Sequence[np.ndarray], outer: Env) -> Env:
    """Returns the values of the symbols that the sizes of inputs settle, and ``outer``.

    Raises:
        InputError: a dtype, a rank or a dim does not fit, or a symbol leaves its range.
    """
    env = dict(outer)
    for value, array in zip(values, arrays, strict=True):
        wanted = f"input {value.name!r} must be {type_text(value.type)}"
        if from_numpy(array.dtype) is not value.dtype:
            raise InputError(f"{wanted}, got {array.dtype}", code="TW-E0302")
        if array.ndim != len(value.shape):
            raise InputError(f"{wanted}, got the shape {list(array.shape)}", code="TW-E0303")
    known = frozenset(s for v in values for d in v.shape for s in symbols(d) if s.name in env)
    found = sources([v.shape for v in values], known)
    for symbol, size in solve(found, [a.shape for a in arrays], env):
        env[symbol.name] = size
        value = values[found[symbol].index]
        _check_range(symbol, size, f"input {value.name!r} must be {type_text(value.type)}")
    for value, array in zip(values, arrays, strict=True):
        shape = _shape(value, env)
        if shape != array.shape:
            raise InputError(
                f"input {value.name!r} must be {type_text(value.type)}, here {list(shape)},"
                f" got the shape {list(array.shape)}",
                code="TW-E0304",
            )
    return env


def _check_range(symbol: Var, size: int, wanted: str) -> None:
    low, high = symbol.lo or 0, symbol.hi
    if size < low or (high is not None and size > high):
        ends = f"at least {low}" if high is None else f"{low} to {high}"
        raise InputError(f"{wanted} with {symbol.name} {ends}, got {size}", code="TW-E0306")


def _run(graph: Graph, arrays: Sequence[np.ndarray], outer: Env) -> tuple[np.ndarray, ...]:
    env = bind_symbols(graph.inputs, arrays, outer)
    for condition in graph.conditions:
        if not evaluate(condition, env):
            raise InputError(
                f"{graph.name} is meant for sizes with {dim_text(condition)}", code="TW-E0312"
            )
    store: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
    store.update(graph.constants)
    last = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs}
    kept = set(graph.outputs)
    for i, node in enumerate(graph.nodes):
        results = _apply(node, [store[v] for v in node.inputs], env)
        store.update(zip(node.outputs, results, strict=True))
        for value in node.inputs:
            if last[value] == i and value not in kept:
                store.pop(value, None)
    return tuple(store[v] for v in graph.outputs)


def _apply(node: Node, inputs: Sequence[np.ndarray], env: Env) -> tuple[np.ndarray, ...]:
    entry = OPS[node.op]
    with np.errstate(all="ignore"):
        results = entry.reference(inputs, resolve_attrs(node.attrs, env))
    for value, array in zip(node.outputs, results, strict=True):
        shape = _shape(value, env)
        if from_numpy(array.dtype) is not value.dtype or array.shape != shape:
            raise InternalError(
                f"{node.op} ({node.origin or value.name}): its type rule says"
                f" {type_text(value.type)}, here {shape_text(shape)}, but its reference returned"
                f" {type_text(type_of(array))}",
                code="TW-E0920",
            )
    return results


def _shape(value: Value, env: Env) -> tuple[int, ...]:
    try:
        return tuple(evaluate(d, env) for d in value.shape)
    except KeyError as error:
        raise InputError(
            f"{value.name!r}: no input has the dim {error.args[0]} alone, so its size in"
            f" {type_text(value.type)} is not known",
            code="TW-E0311",
        ) from None


def _resolve(value: object, env: Mapping[str, int]) -> object:
    match value:
        case Expr():
            return evaluate(value, env)
        case tuple():
            return tuple(_resolve(v, env) for v in value)
        case Graph():
            return _function(value, dict(env))
        case _:
            return value


def _function(graph: Graph, env: Env) -> Callable[[Sequence[np.ndarray]], tuple[np.ndarray, ...]]:
    return lambda arrays: _run(graph, arrays, env)
