"""The text form of graphs: valid Python, printed and parsed back.

    N = symbol(1, 64)

    def model(x: f32[N, 4]):
        w: f32[4, 8] = constant("9f86d081884c7d65")
        one: f32[()] = constant(1.0)
        h: f32[N, 8] = matmul(x, w)  # Gemm:fc
        y: f32[N, 8] = add(h, one)
        return {"output": y}

Constants of more than 16 elements print as a digest; ``parse`` takes their data from a mapping.
Names that are no identifiers are replaced by ones that are; inputs and outputs keep theirs as
strings. An op whose name is a Python keyword prints with an underscore after it. Attributes that
are what their op's entry says where they are left out do not print.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn

import numpy as np
from xxhash import xxh3_64

from .. import dtype as dt
from ..dtype import DTYPES, DType
from ..errors import ArtifactError, InternalError
from ..ops import OPS
from ..ops.op import dim_text, type_of, type_text
from ..tensor.ir import Expr, Var, symbol
from ..tensor.parse import parse_dim
from ..tensor.simplify import dim, symbols
from .build import canonical_attrs, infer
from .ir import Attr, Graph, Node, TensorType, Value

SMALL = 16
"""Constants of at most this many elements print their elements."""

_RESERVED = frozenset({*DTYPES, *OPS, "symbol", "require", "guards", "constant", "nan", "inf"})


def text(graph: Graph) -> str:
    """Returns the text form of a graph: ``text(parse(text(g), digests(g))) == text(g)``."""
    found = sorted(_graph_symbols(graph), key=lambda v: v.name)
    taken = frozenset(v.name for v in found)
    lines = [_declaration(v) for v in found]
    lines += [f"require({dim_text(c)})" for c in graph.conditions]
    if graph.guards:
        lines.append(f"guards({graph.guards})")
    if lines:
        lines.append("")
    lines += _graph(graph, _Scope(taken).claim(graph.name, "graph"), taken)
    return "\n".join(lines) + "\n"


def digest(array: np.ndarray) -> str:
    """Returns 16 hex digits that stand for a constant: of its dtype, shape and bytes."""
    hasher = xxh3_64()
    hasher.update(f"{array.dtype.str}{array.dtype.name}{array.shape}".encode())
    hasher.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return hasher.hexdigest()


def digests(graph: Graph) -> dict[str, np.ndarray]:
    """Returns the constants that the text prints as digests, those of subgraphs too."""
    return {
        digest(data): data
        for inner in _graphs(graph)
        for data in inner.constants.values()
        if data.size > SMALL
    }


def _graphs(graph: Graph) -> Iterator[Graph]:
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        for node in current.nodes:
            pending += [g for g in node.attrs.values() if isinstance(g, Graph)]


def _graph_symbols(graph: Graph) -> set[Var]:
    found: set[Var] = set()
    for inner in _graphs(graph):
        values = [*inner.inputs, *inner.constants, *(v for n in inner.nodes for v in n.outputs)]
        for value in values:
            found.update(*(symbols(d) for d in value.shape))
        for node in inner.nodes:
            for attr in node.attrs.values():
                found.update(_attr_symbols(attr))
    return found


def _attr_symbols(attr: Attr) -> Iterator[Var]:
    match attr:
        case Expr():
            yield from symbols(attr)
        case tuple():
            for item in attr:
                yield from _attr_symbols(item)


def _declaration(found: Var) -> str:
    ends = str(found.lo) if found.hi is None else f"{found.lo}, {found.hi}"
    return f"{found.name} = symbol({ends})"


class _Scope:
    """Turns names into distinct identifiers, first come first served."""

    def __init__(self, taken: frozenset[str]) -> None:
        self._taken = {*_RESERVED, *taken}
        self._counters: dict[str, int] = {}

    def claim(self, name: str, otherwise: str) -> str:
        """Returns the identifier closest to a name that nothing else has."""
        plain = re.sub(r"\W", "_", name, flags=re.ASCII) or otherwise
        if plain[0].isdigit():
            plain = f"_{plain}"
        if keyword.iskeyword(plain):
            plain = f"{plain}_"
        result = plain
        while result in self._taken:
            count = self._counters.get(plain, 0) + 1
            self._counters[plain] = count
            result = f"{plain}_{count}"
        self._taken.add(result)
        return result


def _graph(graph: Graph, name: str, taken: frozenset[str]) -> list[str]:
    scope = _Scope(taken)
    names: dict[Value, str] = {v: scope.claim(v.name, "x") for v in graph.inputs}
    # A default value holds the public name; Python wants one for every parameter after the first.
    named = any(names[v] != v.name for v in graph.inputs)
    params = [
        f"{names[v]}: {type_text(v.type)}" + (f" = {v.name!r}" if named else "")
        for v in graph.inputs
    ]
    body: list[str] = []
    for value, data in graph.constants.items():
        names[value] = scope.claim(value.name, "c")
        body.append(f"{names[value]}: {type_text(value.type)} = constant({_data(data)})")
    for node in graph.nodes:
        body += _node(node, names, scope, taken)
    body.append(f"return {_results(graph, names)}")
    return [f"def {name}({', '.join(params)}):", *(f"    {line}" for line in body)]


def _node(node: Node, names: dict[Value, str], scope: _Scope, taken: frozenset[str]) -> list[str]:
    lines: list[str] = []
    arguments = [names[v] for v in node.inputs]
    entry = OPS.get(node.op)
    usual = {} if entry is None else entry.defaults
    for key, attr in node.attrs.items():
        if key in usual and usual[key] == attr:
            continue
        if isinstance(attr, Graph):
            inner = scope.claim(attr.name, "graph")
            lines += _graph(attr, inner, taken)
            arguments.append(f"{_word(key)}={inner}")
        else:
            arguments.append(f"{_word(key)}={_attr(attr)}")
    for value in node.outputs:
        names[value] = scope.claim(value.name, "v")
    targets = ", ".join(names[v] for v in node.outputs)
    if len(node.outputs) == 1:
        targets = f"{targets}: {type_text(node.outputs[0].type)}"
    comment = node.origin.encode("unicode_escape").decode("ascii")
    call = f"{_word(node.op)}({', '.join(arguments)})"
    return [*lines, f"{targets} = {call}" + (f"  # {comment}" if comment else "")]


def _word(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def _attr(attr: Attr) -> str:
    match attr:
        case Expr():
            return dim_text(attr)
        case DType():
            return attr.name
        case None | bool() | int() | float() | str():
            return repr(attr)
        case tuple():
            inner = ", ".join(map(_attr, attr))
            return f"({inner},)" if len(attr) == 1 else f"({inner})"
        case _:
            raise InternalError(f"the attribute {attr!r} has no text form", code="TW-E0922")


def _results(graph: Graph, names: Mapping[Value, str]) -> str:
    if graph.output_names:
        pairs = zip(graph.output_names, graph.outputs, strict=True)
        return "{" + ", ".join(f"{name!r}: {names[v]}" for name, v in pairs) + "}"
    listed = ", ".join(names[v] for v in graph.outputs)
    return f"({listed},)" if len(graph.outputs) == 1 else f"({listed})"


def _data(array: np.ndarray) -> str:
    if array.size > SMALL:
        return repr(digest(array))
    items = [_number(v, array.dtype) for v in array.ravel()]
    return f"[{', '.join(items)}]" if array.ndim else items[0]


def _number(value: np.generic, dtype: np.dtype) -> str:
    if dtype.kind in "iub":
        return repr(value.item())
    # The shortest decimal that rounds to the same element in its own precision.
    return repr(float(value) if dtype == dt.f64.numpy else float(str(value)))


# ------------------------------------------------------------------ parsing


def parse(source: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Returns the graph that a text describes.

    Args:
        source: what ``text`` printed.
        constants: the data of constants printed as digests (see ``digests``).

    Raises:
        ArtifactError: the text is not that of a graph, or lacks the data of a constant.
        OpError: a node breaks its op's type rule.
    """
    try:
        module = ast.parse(source)
        comments = _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ArtifactError(f"not the text of a graph: {error}", code="TW-E0521") from None
    *declarations, last = module.body or [ast.Pass()]
    if not isinstance(last, ast.FunctionDef):
        _fail(last, "a graph is one function after its symbols")
    found: dict[str, Var] = {}
    conditions: list[Expr] = []
    guards = 0
    for statement in declarations:
        match statement:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="symbol"), args=args, keywords=[]),
            ):
                ends = [_attr_value(a, found, {}) for a in args]
                found[name] = _symbol(name, ends, statement)
            case ast.Expr(ast.Call(func=ast.Name(id="require"), args=[stated], keywords=[])):
                conditions.append(_condition(stated, found))
            case ast.Expr(
                ast.Call(func=ast.Name(id="guards"), args=[ast.Constant(int(guards))], keywords=[])
            ):
                pass
            case _:
                _fail(statement, "only symbols, conditions and guards stand before the function")
    graph = _Parser(found, comments, constants or {}).graph(last)
    return replace(graph, conditions=tuple(conditions), guards=guards)


def _symbol(name: str, ends: list[Attr], place: ast.AST) -> Var:
    match ends:
        case [int(low)]:
            return symbol(name, low)
        case [int(low), int(high)]:
            return symbol(name, low, high)
        case _:
            _fail(place, "a symbol has one or two ends")


def _condition(node: ast.expr, found: Mapping[str, Var]) -> Expr:
    stated = parse_dim(ast.unparse(node), found)
    if isinstance(stated, int) or stated.dtype is not dt.bool_:
        _fail(node, "a condition says what holds between symbols")
    return stated


def _comments(source: str) -> dict[int, str]:
    """Returns the comments by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string[2:] for t in tokens if t.type == tokenize.COMMENT}


class _Parser:
    """Parses functions that share symbols, comments and constants."""

    def __init__(
        self,
        found: Mapping[str, Var],
        comments: Mapping[int, str],
        constants: Mapping[str, np.ndarray],
    ) -> None:
        self._symbols = found
        self._comments = comments
        self._constants = constants

    def graph(self, definition: ast.FunctionDef) -> Graph:
        values: dict[str, Value] = {}
        graphs: dict[str, Graph] = {}
        data: dict[Value, np.ndarray] = {}
        nodes: list[Node] = []
        self._inputs(definition, values)
        inputs = tuple(values.values())
        *statements, last = definition.body
        for statement in statements:
            match statement:
                case ast.FunctionDef():
                    graphs[statement.name] = self.graph(statement)
                case ast.AnnAssign(
                    target=ast.Name(id=name),
                    annotation=annotation,
                    value=ast.Call(func=ast.Name(id="constant"), args=[shown]),
                ):
                    value = Value(name, self._type(annotation))
                    values[name], data[value] = value, self._data(shown, value.type)
                case ast.AnnAssign(
                    target=ast.Name() as target, annotation=annotation, value=ast.Call() as call
                ):
                    wanted = self._type(annotation)
                    node = self._node([target], call, values, graphs)
                    nodes.append(node)
                    if node.outputs[0].type != wanted:
                        have = type_text(node.outputs[0].type)
                        _fail(statement, f"its op gives {have}, not {type_text(wanted)}")
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Call() as call):
                    nodes.append(self._node(targets, call, values, graphs))
                case _:
                    _fail(statement, "a line of a graph assigns a call")
        outputs, names = _outputs(last, values)
        constants = MappingProxyType(data)
        return Graph(definition.name, inputs, tuple(nodes), outputs, constants, names)

    def _inputs(self, definition: ast.FunctionDef, values: dict[str, Value]) -> None:
        arguments = definition.args
        unnamed: list[ast.expr | None] = [None] * len(arguments.args)
        defaults = arguments.defaults or unnamed
        if len(defaults) != len(arguments.args):
            _fail(definition, "either every input or none gives its name")
        for argument, default in zip(arguments.args, defaults, strict=True):
            if argument.annotation is None:
                _fail(argument, "an input needs a type")
            match default:
                case None:
                    name = argument.arg
                case ast.Constant(value=str(name)):
                    pass
                case _:
                    _fail(argument, "the name of an input is a string")
            values[argument.arg] = Value(name, self._type(argument.annotation))

    def _node(
        self,
        targets: list[ast.expr],
        call: ast.Call,
        values: dict[str, Value],
        graphs: Mapping[str, Graph],
    ) -> Node:
        if not isinstance(call.func, ast.Name):
            _fail(call, "an op is called by its name")
        op = call.func.id.rstrip("_")
        inputs = tuple(_value(a, values) for a in call.args)
        attrs: dict[str, Attr] = {}
        for item in call.keywords:
            if item.arg is None:
                _fail(call, "attributes are given by name")
            attrs[item.arg.rstrip("_")] = _attr_value(item.value, self._symbols, graphs)
        comment = self._comments.get(call.end_lineno or 0, "")
        origin = comment.encode("ascii", "backslashreplace").decode("unicode_escape")
        attrs = canonical_attrs(op, attrs)
        types = infer(op, inputs, attrs, origin)
        if len(types) != len(targets):
            _fail(call, f"the op has {len(types)} outputs")
        outputs = []
        for target, type_ in zip(targets, types, strict=True):
            if not isinstance(target, ast.Name) or target.id in values:
                _fail(target, "an output is a new name")
            outputs.append(Value(target.id, type_))
            values[target.id] = outputs[-1]
        return Node(op, inputs, MappingProxyType(attrs), tuple(outputs), origin)

    def _type(self, node: ast.expr) -> TensorType:
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=index) if name in DTYPES:
                # f32[()] is a scalar: its index is an empty tuple.
                items = index.elts if isinstance(index, ast.Tuple) else [index]
                shape = tuple(_dim(i, self._symbols) for i in items)
                return TensorType(DTYPES[name], shape)
            case _:
                _fail(node, "not a type")

    def _data(self, node: ast.expr, type_: TensorType) -> np.ndarray:
        shown = _elements(node)
        if isinstance(shown, str):
            if shown not in self._constants:
                _fail(node, f"the data of constant {shown} was not given")
            array = self._constants[shown]
            if digest(array) != shown:
                _fail(node, f"the data given for constant {shown} has digest {digest(array)}")
        else:
            array = _array(shown, type_, node)
        if type_of(array) != type_:
            _fail(node, f"the data is {type_text(type_of(array))}, not {type_text(type_)}")
        return array


def _array(shown: float | list[float], type_: TensorType, node: ast.expr) -> np.ndarray:
    shape = tuple(d for d in type_.shape if isinstance(d, int))
    try:
        with np.errstate(all="ignore"):
            wide = np.asarray(shown, None if type_.dtype.is_float else type_.dtype.numpy)
            return wide.astype(type_.dtype.numpy).reshape(shape)
    except (ValueError, OverflowError) as error:
        _fail(node, f"not the data of {type_text(type_)} ({error})")


def _elements(node: ast.expr) -> str | float | list[float]:
    match node:
        case ast.Constant(value=str(shown)):
            return shown
        case ast.List(elts=items):
            return [_number_value(i) for i in items]
        case _:
            return _number_value(node)


def _number_value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.Name(id="nan" | "inf" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number_value(operand)
        case _:
            _fail(node, "not a number")


def _value(node: ast.expr, values: Mapping[str, Value]) -> Value:
    if not isinstance(node, ast.Name) or node.id not in values:
        _fail(node, "not a value defined before")
    return values[node.id]


def _outputs(
    node: ast.stmt, values: Mapping[str, Value]
) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    match node:
        case ast.Return(value=ast.Dict(keys=keys, values=items)):
            names = []
            for key in keys:
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    _fail(node, "the name of an output is a string")
                names.append(key.value)
            return tuple(_value(i, values) for i in items), tuple(names)
        case ast.Return(value=ast.Tuple(elts=items)):
            return tuple(_value(i, values) for i in items), ()
        case _:
            _fail(node, "a graph ends by returning its outputs")


def _dim(node: ast.expr, found: Mapping[str, Var]) -> int | Expr:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return dim(parse_dim(ast.unparse(node), found))


def _attr_value(node: ast.expr, found: Mapping[str, Var], graphs: Mapping[str, Graph]) -> Attr:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name(id="inf")):
            return -_number_value(node.operand)
        case ast.Name(id="nan" | "inf"):
            return _number_value(node)
        case ast.Name(id=name) if name in DTYPES:
            return DTYPES[name]
        case ast.Name(id=name) if name in graphs:
            return graphs[name]
        case ast.Tuple(elts=items):
            return tuple(_attr_value(i, found, graphs) for i in items)
        case _:
            return _dim(node, found)


def _fail(node: ast.AST, why: str) -> NoReturn:
    shown = ast.unparse(node).splitlines() or [""]
    place = f"line {getattr(node, 'lineno', '?')}"
    raise ArtifactError(f"{place}: {why}: {shown[0]}", code="TW-E0521")
