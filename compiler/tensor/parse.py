"""Parsing of the text form of the tensor IR (see tensor/text.py, which writes it)."""

from __future__ import annotations

import ast
import struct
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias, get_args

from .. import dtype as dt
from ..dtype import DTYPES, DType
from ..errors import ArtifactError
from .compute import Compute, ComputeGroup
from .intrinsics import call
from .ir import (
    Alloc,
    Axis,
    Barrier,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    LoopKind,
    Prefetch,
    Reduce,
    ReduceOp,
    Scope,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    Wait,
)
from .simplify import ceildiv

Names: TypeAlias = Mapping[str, Var | Buffer]

_OPERATORS: dict[type[ast.AST], BinaryOp] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "shr",
    ast.And: "and",
    ast.Or: "or",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}
_SCOPES: dict[str, Scope] = {
    "global_": "global",
    "local": "local",
    "register": "register",
    "shared": "shared",
    "fragment": "fragment",
}
_KINDS: dict[str, LoopKind] = {kind: kind for kind in get_args(LoopKind)}
_REDUCTIONS: dict[str, ReduceOp] = {op: op for op in get_args(ReduceOp)}


def parse_func(source: str) -> Func:
    """The function that ``text`` would print so: ``parse_func(text(f)) == f``.

    Raises:
        ArtifactError: the text is not that of a function; says where.
    """
    definition = _definition(source)
    params = _params(definition)
    names: dict[str, Var | Buffer] = {p.name: p for p in params}
    return Func(definition.name, params, _block(definition.body, names))


def parse_group(source: str) -> ComputeGroup:
    """The group of Computes that ``text`` would print so.

    Raises:
        ArtifactError: the text is not that of a group; says where.
    """
    definition = _definition(source)
    params = _params(definition)
    names: dict[str, Var | Buffer] = {p.name: p for p in params}
    stages: list[Compute] = []
    *body, last = definition.body
    for node in body:
        stages.append(_compute(node, names))
        names[stages[-1].output.name] = stages[-1].output
    if not (isinstance(last, ast.Return) and last.value is not None):
        _fail(last, "a group ends by returning its outputs")
    outputs = tuple(_buffer(node, names) for node in _elements(last.value))
    inputs = tuple(p for p in params if isinstance(p, Buffer))
    return ComputeGroup(definition.name, inputs, outputs, tuple(stages))


def parse_expr(source: str, names: Names | Sequence[Var | Buffer] = ()) -> Expr:
    """The expression that ``text`` would print so, over the given variables and buffers.

    Raises:
        ArtifactError: the text is not that of an expression, or uses an unknown name.
    """
    known = dict(names) if isinstance(names, Mapping) else {n.name: n for n in names}
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except SyntaxError as error:
        raise ArtifactError(f"not the text of an expression: {error}", code="TW-E0520") from error
    return _expr(tree.body, known)


def parse_dim(source: str, names: Names | Sequence[Var | Buffer] = ()) -> Dim:
    """The dim that ``text`` would print so: an int, or an expression over the given symbols."""
    e = parse_expr(source, names)
    return int(e.value) if isinstance(e, Const) else e


def _fail(node: ast.AST, why: str) -> NoReturn:
    place = f"line {getattr(node, 'lineno', '?')}"
    shown = ast.unparse(node).splitlines()[0]
    raise ArtifactError(f"{place}: {why}: {shown}", code="TW-E0520")


def _definition(source: str) -> ast.FunctionDef:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ArtifactError(f"not the text of a function: {error}", code="TW-E0520") from error
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise ArtifactError("not the text of one function", code="TW-E0520")
    return tree.body[0]


# ------------------------------------------------------------------ declarations


def _params(definition: ast.FunctionDef) -> tuple[Var | Buffer, ...]:
    """The parameters; symbols first, since the shapes of the buffers before them use them."""
    variables: dict[str, Var | Buffer] = {}
    for arg in definition.args.args:
        if arg.annotation is None:
            _fail(arg, "a parameter needs its type")
        if not isinstance(arg.annotation, ast.Subscript):
            variables[arg.arg] = _var(arg.arg, arg.annotation)
    params: list[Var | Buffer] = []
    for arg in definition.args.args:
        assert arg.annotation is not None
        known = variables.get(arg.arg)
        if known is None:
            params.append(_declared(arg.arg, arg.annotation, variables))
        else:
            params.append(known)
    return tuple(params)


def _var(name: str, annotation: ast.expr) -> Var:
    match annotation:
        case ast.Name(id=kind) if kind in DTYPES:
            return Var(name, DTYPES[kind])
        case ast.Call(func=ast.Name(id="symbol"), args=[*ends]):
            dtype = _dtype(ends[2]) if len(ends) > 2 else dt.i64
            values = [_literal(end) for end in ends[:2]]
            bounds = [None if v is None else int(v) for v in values]
            return Var(name, dtype, bounds[0], bounds[1] if len(bounds) > 1 else None)
    _fail(annotation, "not the type of a variable")


def _declared(name: str, annotation: ast.expr, names: Names) -> Buffer:
    dtype, scope, dims = _buffer_type(annotation)
    return Buffer(name, dtype, tuple(_dim(d, names) for d in dims), scope)


def _buffer_type(node: ast.expr) -> tuple[DType, Scope, list[ast.expr]]:
    """The parts of ``f32[M, 4]`` or ``register[f32, 4]``."""
    match node:
        case ast.Subscript(value=ast.Name(id=head), slice=inner):
            parts = _elements(inner)
            if head in DTYPES:
                return DTYPES[head], "global", parts
            if head in _SCOPES and parts:
                return _dtype(parts[0]), _SCOPES[head], parts[1:]
    _fail(node, "not the type of a buffer")


def _compute(node: ast.stmt, names: Names) -> Compute:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
            dtype, scope, dims = _buffer_type(kind)
            axes: list[Axis] = []
            for d in dims:
                match d:
                    case ast.Slice(lower=ast.Name(id=axis), upper=ast.expr() as extent, step=None):
                        axes.append(Axis(Var(axis), _dim(extent, names)))
                    case _:
                        _fail(d, "not an axis")
            inner = {**names, **{a.var.name: a.var for a in axes}}
            output = Buffer(name, dtype, tuple(a.extent for a in axes), scope)
            return Compute(output, tuple(axes), _expr(value, inner))
    _fail(node, "not a stage")


# ------------------------------------------------------------------ statements


def _block(nodes: Sequence[ast.stmt], names: Names) -> Block:
    known = dict(names)
    block: list[Stmt] = []
    for node in nodes:
        match node:
            case ast.Pass():
                continue
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=None):
                buffer = _declared(name, kind, known)
                block.append(Alloc(buffer))
                known[name] = buffer
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as e):
                var = _var(name, kind)
                block.append(Let(var, _expr(e, known)))
                known[name] = var
            case _:
                block.append(_stmt(node, known))
    return tuple(block)


def _stmt(node: ast.stmt, names: Names) -> Stmt:
    match node:
        case ast.For(target=ast.Name(id=name), iter=ast.Call() as header, body=body, orelse=[]):
            var = Var(name)
            kind = _KINDS.get(ast.unparse(header.func))
            if kind is None or len(header.args) != 1:
                _fail(header, "not a kind of loop")
            start: Dim = 0
            for keyword in header.keywords:
                if keyword.arg != "start":
                    _fail(header, "a loop takes an extent and start=")
                start = _dim(keyword.value, names)
            extent = _dim(header.args[0], names)
            return For(var, extent, _block(body, {**names, name: var}), kind, start)
        case ast.Assign(targets=[ast.Subscript(value=target, slice=inner)], value=value):
            indices = tuple(_expr(i, names) for i in _elements(inner))
            return Store(_buffer(target, names), indices, _expr(value, names))
        case ast.Expr(
            value=ast.Call(
                func=ast.Name(id="stream"),
                args=[ast.Subscript(value=target, slice=inner), value],
                keywords=[],
            )
        ):
            indices = tuple(_expr(i, names) for i in _elements(inner))
            return Store(_buffer(target, names), indices, _expr(value, names), streamed=True)
        case ast.Expr(
            value=ast.Call(
                func=ast.Name(id="prefetch"), args=[ast.Subscript(value=target, slice=inner)]
            )
        ):
            return Prefetch(
                _buffer(target, names), tuple(_expr(i, names) for i in _elements(inner))
            )
        case ast.Expr(value=ast.Call(func=ast.Name(id="barrier"), args=[], keywords=[])):
            return Barrier()
        case ast.Expr(value=ast.Call(func=ast.Name(id="commit"), args=[], keywords=[])):
            return Commit()
        case ast.Expr(
            value=ast.Call(
                func=ast.Name(id="wait"), args=[ast.Constant(value=int() as pending)], keywords=[]
            )
        ):
            return Wait(pending)
        case ast.If():
            then, orelse = _block(node.body, names), _block(node.orelse, names)
            return If(_expr(node.test, names), then, orelse)
    _fail(node, "not a statement")


# ------------------------------------------------------------------ expressions


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _dtype(node: ast.expr) -> DType:
    if isinstance(node, ast.Name) and node.id in DTYPES:
        return DTYPES[node.id]
    _fail(node, "not an element type")


def _buffer(node: ast.expr, names: Names) -> Buffer:
    found = names.get(node.id) if isinstance(node, ast.Name) else None
    if not isinstance(found, Buffer):
        _fail(node, "not a buffer that is declared here")
    return found


def _dim(node: ast.expr, names: Names) -> Dim:
    e = _expr(node, names)
    return int(e.value) if isinstance(e, Const) else e


def _literal(node: ast.expr) -> int | float | bool | None:
    """The number that a literal spells, or None where the node is no literal."""
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.Name(id="nan" | "inf" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name() as inner):
            size = _literal(inner)
            return None if size is None or isinstance(size, bool) else -size
        case ast.Call(func=ast.Name(id="nan"), args=[ast.Constant(value=int() as bits)]):
            unpacked: float = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
            return unpacked
    return None


def _expr(node: ast.expr, names: Names) -> Expr:
    value = _literal(node)
    if value is not None:
        kinds = {bool: dt.bool_, int: dt.i64, float: dt.f32}
        return Const(value, kinds[type(value)])
    match node:
        case ast.Name(id=name):
            found = names.get(name)
            if not isinstance(found, Var):
                _fail(node, "not a variable that is bound here")
            return found
        case ast.Subscript(value=target, slice=inner):
            buffer = _buffer(target, names)
            indices = [_expr(i, names) for i in _elements(inner)]
            if len(indices) != len(buffer.shape):
                _fail(node, f"{buffer.name} has {len(buffer.shape)} dims")
            return Load(buffer, indices)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return Unary("neg", _expr(x, names))
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=x):
            return Unary("not", _expr(x, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _binary(node, _OPERATORS[type(op)], [left, right], names)
        case ast.BoolOp(op=op, values=values):
            return _binary(node, _OPERATORS[type(op)], values, names)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return _binary(node, _OPERATORS[type(op)], [left, right], names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(node, name, args, keywords, names)
    _fail(node, "not an expression")


def _binary(node: ast.expr, op: BinaryOp, operands: Sequence[ast.expr], names: Names) -> Expr:
    first, *rest = (_expr(x, names) for x in operands)
    for x in rest:
        if x.dtype is not first.dtype:
            _fail(node, f"operands are {first.dtype} and {x.dtype}")
        first = Binary(op, first, x)
    return first


def _call(
    node: ast.Call,
    name: str,
    args: Sequence[ast.expr],
    keywords: Sequence[ast.keyword],
    names: Names,
) -> Expr:
    if len(args) == 1 and isinstance(args[0], ast.GeneratorExp):
        return _reduce(node, name, args[0], names)
    dtype = _dtype(keywords[0].value) if keywords else None
    if name in DTYPES and len(args) == 1:
        value = _literal(args[0])
        kind = DTYPES[name]
        return Cast(_expr(args[0], names), kind) if value is None else Const(value, kind)
    if name == "cast" and len(args) == 2:
        return Cast(_expr(args[0], names), _dtype(args[1]))
    if name == "call" and args and isinstance(args[0], ast.Constant) and dtype is not None:
        return Call(str(args[0].value), [_expr(a, names) for a in args[1:]], dtype)
    operands = [_expr(a, names) for a in args]
    match name, operands:
        case "neg", [x]:
            return Unary("neg", x)
        case "abs", [x]:
            return Unary("abs", x)
        case "min" | "max", [_, _]:
            return _binary(node, "min" if name == "min" else "max", args, names)
        case "ceildiv", [a, b]:
            rounded = ceildiv(a, b)
            return Const(rounded) if isinstance(rounded, int) else rounded
        case "select", [cond, a, b]:
            if cond.dtype is not dt.bool_ or a.dtype is not b.dtype:
                _fail(node, f"select of {cond.dtype}, {a.dtype}, {b.dtype}")
            return Select(cond, a, b)
    try:
        return call(name, *operands, dtype=dtype)
    except TypeError as error:
        _fail(node, str(error))


def _reduce(node: ast.Call, name: str, generator: ast.GeneratorExp, names: Names) -> Expr:
    op = _REDUCTIONS.get(name)
    if op is None:
        _fail(node, "not a reduction")
    axes: list[Axis] = []
    for clause in generator.generators:
        if not isinstance(clause.target, ast.Name) or clause.ifs:
            _fail(node, "not an axis")
        axes.append(Axis(Var(clause.target.id), _dim(clause.iter, names)))
    inner = {**names, **{a.var.name: a.var for a in axes}}
    return Reduce(op, axes, _expr(generator.elt, inner))
