"""Well-formedness of graphs: what every pass may rely on and must keep."""

from __future__ import annotations

import numpy as np

from ..dtype import DType, bool_, i64
from ..errors import InternalError
from ..ops import OPS, OpError
from ..ops.op import dim_text, is_dim, same_shape, type_of, type_text
from ..tensor.ir import Dim, Expr, Var
from ..tensor.simplify import dim, symbols
from ..tensor.solve import sources
from .build import infer
from .ir import Attr, Graph, Node, TensorType, Value

Symbols = dict[str, Var]


class GraphError(InternalError):
    """A graph that breaks the rules of the graph IR: a defect of the pass that made it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="TW-E0921")


def check(graph: Graph) -> None:
    """Requires that a graph is well formed.

    Every value is defined once, before its use, under a name of its own; every node's op,
    attributes and output types are what the op table says; constants fit their types; dims are
    canonical, and every symbol is an identifier with one range that the sizes of the inputs settle
    (see tensor/solve.py). Conditions are bool. Subgraphs are held to the same rules, are closed,
    and use only symbols of the graphs around them.

    Raises:
        GraphError: on the first breach, naming the graph, the node and the value.
    """
    pending: list[tuple[Graph, Symbols | None]] = [(graph, None)]
    while pending:
        current, outer = pending.pop()
        known = _input_symbols(current) if outer is None else outer
        for node in _check_one(current, known):
            pending += [(g, known) for g in node.attrs.values() if isinstance(g, Graph)]


def _check_one(graph: Graph, known: Symbols) -> tuple[Node, ...]:
    """Checks a graph without its subgraphs, and returns its nodes."""
    defined: set[Value] = set()
    names: set[str] = set()

    def define(value: Value, where: str) -> None:
        if value in defined:
            raise GraphError(f"{where}: {value.name} is defined twice")
        if value.name in names:
            raise GraphError(f"{where}: two values are called {value.name!r}")
        for size in value.shape:
            _check_dim(size, known, f"{where}: {value.name}")
        defined.add(value)
        names.add(value.name)

    for value in graph.inputs:
        define(value, f"{graph.name}: input")
    for value, data in graph.constants.items():
        define(value, f"{graph.name}: constant")
        if type_of(data) != value.type:
            have = type_text(type_of(data))
            raise GraphError(
                f"{graph.name}: constant {value.name} is {have}, not {type_text(value.type)}"
            )
    for node in graph.nodes:
        where = f"{graph.name}: {node_label(node)}"
        for value in node.inputs:
            if value not in defined:
                raise GraphError(f"{where}: reads {value.name}, which nothing before it defines")
        for name, attr in node.attrs.items():
            _check_attr(attr, known, f"{where}: attribute {name}")
        _check_types(node, where)
        for value in node.outputs:
            define(value, where)
    for value in graph.outputs:
        if value not in defined:
            raise GraphError(f"{graph.name}: returns {value.name}, which nothing defines")
    _check_output_names(graph)
    _check_conditions(graph, known)
    _check_guards(graph)
    return graph.nodes


def _check_conditions(graph: Graph, known: Symbols) -> None:
    for condition in graph.conditions:
        unknown = [v.name for v in condition.variables if known.get(v.name) is not v]
        if condition.dtype is not bool_ or unknown:
            raise GraphError(f"{graph.name}: {dim_text(condition)} is no condition on its symbols")


def _check_guards(graph: Graph) -> None:
    if not 0 <= graph.guards <= len(graph.outputs):
        raise GraphError(f"{graph.name}: {graph.guards} guards of {len(graph.outputs)} outputs")
    for value in graph.outputs[len(graph.outputs) - graph.guards :]:
        if value.dtype is not i64 or value.shape:
            raise GraphError(f"{graph.name}: the guard {value.name} is {type_text(value.type)}")


def _check_output_names(graph: Graph) -> None:
    names = graph.output_names
    if names and len(names) != len(graph.outputs):
        raise GraphError(f"{graph.name}: {len(graph.outputs)} outputs, but {len(names)} names")
    if len(set(names)) != len(names):
        raise GraphError(f"{graph.name}: two outputs have one name: {', '.join(names)}")


def node_label(node: Node) -> str:
    """Returns how messages name a node: its op, first output and origin."""
    first = node.outputs[0].name if node.outputs else "nothing"
    return f"{node.op} -> {first}" + (f" (from {node.origin})" if node.origin else "")


def _check_types(node: Node, where: str) -> None:
    if node.op not in OPS:
        raise GraphError(f"{where}: no such op")
    try:
        types = infer(node.op, node.inputs, node.attrs)
    except OpError as error:
        raise GraphError(f"{where}: {error.message}") from None
    have = tuple(v.type for v in node.outputs)
    if len(types) != len(have) or not all(map(_same_type, types, have)):
        raise GraphError(
            f"{where}: its outputs are {', '.join(map(type_text, have))},"
            f" but its op gives {', '.join(map(type_text, types))}"
        )


def _same_type(a: TensorType, b: TensorType) -> bool:
    return a.dtype is b.dtype and same_shape(a.shape, b.shape)


def _check_attr(attr: Attr, known: Symbols, where: str) -> None:
    match attr:
        case Graph() | DType() | np.ndarray() | None | bool() | int() | float() | str():
            return
        case tuple():
            for item in attr:
                _check_attr(item, known, where)
        case Expr() if is_dim(attr):
            _check_dim(attr, known, where)
        case _:
            raise GraphError(f"{where}: {attr!r} is no attribute value in canonical form")


def _check_dim(size: Dim, known: Symbols, where: str) -> None:
    if not is_dim(size):
        raise GraphError(f"{where}: {size!r} is no dim")
    if isinstance(size, int):
        return
    if dim(size) is not size:
        raise GraphError(
            f"{where}: the dim {dim_text(size)} is not canonical: {dim_text(dim(size))}"
        )
    for found in symbols(size):
        declared = known.get(found.name)
        if declared is None:
            raise GraphError(f"{where}: no input's size settles {found.name!r}")
        if declared is not found:
            raise GraphError(f"{where}: the symbol {found.name} has two ranges")


def _input_symbols(graph: Graph) -> Symbols:
    """Returns the symbols that the sizes of the inputs settle, by name."""
    found: Symbols = {}
    for symbol in sources([v.shape for v in graph.inputs]):
        if symbol.is_symbol and symbol.name.isidentifier():
            found.setdefault(symbol.name, symbol)
    return found
