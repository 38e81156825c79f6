"""The text form of the tensor IR: valid Python that parses back to the same thing.

    def matmul(A: f32[M, 768], B: f32[768, 64], C: f32[M, 64], M: symbol(1)):
        for i in parallel(M):
            acc: register[f32, 64]
            for j in vector(64):
                acc[j] = 0.0
            for k in serial(768, start=0):
                ...

i64, f32 and bool constants are written bare (``3``, ``1.0``, ``True``); others name their type
(``f16(1.0)``). A type applied to anything but a literal is a Cast (``f32(x)``); a Cast of a
constant is ``cast(3, f32)``. A loop that does not start at 0 says ``start=``. A reduction is a
generator: ``sum(A[i, k] * B[k, j] for k in 768)``.
"""

from __future__ import annotations

import math
import struct
from keyword import iskeyword
from typing import TypeAlias, assert_never, overload

from .. import dtype as dt
from ..errors import InternalError
from .compute import Compute, ComputeGroup
from .intrinsics import INTRINSICS
from .ir import (
    Alloc,
    Barrier,
    Binary,
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
    Prefetch,
    Reduce,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    Wait,
)
from .walk import visit

Printable: TypeAlias = Func | ComputeGroup | Compute | Stmt | Buffer | Expr | int

_OPERATORS: dict[str, tuple[str, int]] = {
    "or": ("|", 5),
    "xor": ("^", 6),
    "and": ("&", 7),
    "shl": ("<<", 8),
    "shr": (">>", 8),
    "add": ("+", 9),
    "sub": ("-", 9),
    "mul": ("*", 10),
    "div": ("/", 10),
    "floordiv": ("//", 10),
    "mod": ("%", 10),
    "eq": ("==", 4),
    "ne": ("!=", 4),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "gt": (">", 4),
    "ge": (">=", 4),
}
"""The Python operator of each binary operation and how tightly it binds."""

_OR, _AND, _NOT, _COMPARE, _UNARY, _ATOM = 1, 2, 3, 4, 11, 12
_CANONICAL_NAN = struct.pack("<d", math.nan)


@overload
def text(x: Printable) -> str: ...
@overload
def text(x: Block) -> str: ...
def text(x: Printable | Block) -> str:
    """The text form of anything in the tensor IR, without a newline at the end.

    Raises:
        InternalError: a name that no Python text can hold.
    """
    match x:
        case int():
            return str(x)
        case Expr():
            return _expr(x)[0]
        case Buffer():
            return f"{_name(x.name)}: {_buffer_type(x)}"
        case Func():
            return _func(x)
        case ComputeGroup():
            return _group(x)
        case Compute():
            return _compute(x)
        case tuple():
            return "\n".join(_block(x, ""))
    return "\n".join(_block((x,), ""))


# ------------------------------------------------------------------ names, types, dims


def _name(name: str) -> str:
    if not name.isidentifier() or iskeyword(name) or name in ("nan", "inf"):
        raise InternalError(f"text: {name!r} is not an identifier", code="TW-E0923")
    return name


def _dim(d: Dim) -> str:
    return str(d) if isinstance(d, int) else _expr(d)[0]


def _buffer_type(b: Buffer) -> str:
    dims = ", ".join(map(_dim, b.shape))
    if b.scope == "global":
        return f"{b.dtype}[{dims or '()'}]"
    return f"{b.scope}[{b.dtype}{', ' if dims else ''}{dims}]"


def _var_type(v: Var) -> str:
    if v.lo is None and v.hi is None:
        return v.dtype.name
    parts = [str(v.lo)]
    if v.hi is not None or v.dtype is not dt.i64:
        parts.append(str(v.hi))
    if v.dtype is not dt.i64:
        parts.append(v.dtype.name)
    return f"symbol({', '.join(parts)})"


# ------------------------------------------------------------------ expressions


def _literal(value: float | bool) -> str:
    if not isinstance(value, float):
        return repr(value)
    bits = struct.pack("<d", value)
    if math.isnan(value) and bits != _CANONICAL_NAN:
        return f"nan({int.from_bytes(bits, 'little'):#x})"
    return repr(value)


def _const(e: Const) -> tuple[str, int]:
    shown = _literal(e.value)
    if e.dtype in (dt.i64, dt.f32, dt.bool_):
        return shown, _UNARY if shown.startswith("-") else _ATOM
    return f"{e.dtype}({shown})", _ATOM


def _expr(e: Expr) -> tuple[str, int]:
    """The text of an expression and how tightly its outermost operator binds."""
    match e:
        case Const():
            return _const(e)
        case Var():
            return _name(e.name), _ATOM
        case Load():
            return f"{_name(e.buffer.name)}[{_list(e.indices) or '()'}]", _ATOM
        case Unary():
            return _unary(e)
        case Binary():
            return _binary(e)
        case Cast():
            inner = _expr(e.x)[0]
            if isinstance(e.x, Const):
                return f"cast({inner}, {e.dtype})", _ATOM
            return f"{e.dtype}({inner})", _ATOM
        case Select():
            return f"select({_list((e.cond, e.a, e.b))})", _ATOM
        case Call():
            return _call(e), _ATOM
        case Reduce():
            clauses = " ".join(f"for {_name(a.var.name)} in {_dim(a.extent)}" for a in e.axes)
            return f"{e.op}({_expr(e.body)[0]} {clauses})", _ATOM
    raise AssertionError(e)


def _list(items: tuple[Expr, ...]) -> str:
    return ", ".join(_expr(x)[0] for x in items)


def _operand(e: Expr, least: int) -> str:
    shown, binds = _expr(e)
    return shown if binds >= least else f"({shown})"


def _unary(e: Unary) -> tuple[str, int]:
    if e.op == "abs":
        return f"abs({_expr(e.x)[0]})", _ATOM
    if e.op == "not":
        if e.dtype is dt.bool_:
            return f"not {_operand(e.x, _NOT)}", _NOT
        return f"~{_operand(e.x, _UNARY)}", _UNARY
    # A minus sign before a literal is part of the literal.
    if isinstance(e.x, Const):
        return f"neg({_expr(e.x)[0]})", _ATOM
    return f"-{_operand(e.x, _UNARY)}", _UNARY


def _binary(e: Binary) -> tuple[str, int]:
    if e.op in ("min", "max"):
        return f"{e.op}({_list((e.a, e.b))})", _ATOM
    if e.dtype is dt.bool_ and e.op in ("and", "or"):
        binds = _AND if e.op == "and" else _OR
        return f"{_operand(e.a, binds)} {e.op} {_operand(e.b, binds + 1)}", binds
    sign, binds = _OPERATORS[e.op]
    # Python chains comparisons, so one inside another needs its parentheses on both sides.
    left = binds + 1 if binds == _COMPARE else binds
    return f"{_operand(e.a, left)} {sign} {_operand(e.b, binds + 1)}", binds


def _call(e: Call) -> str:
    arguments = [_expr(a)[0] for a in e.args]
    try:
        inferred = INTRINSICS[e.name].infer(tuple(a.dtype for a in e.args))
    except (KeyError, TypeError):
        # Not a call that the table allows: shown all the same, so that errors can show it.
        return f"call({', '.join([repr(e.name), *arguments, f'dtype={e.dtype}'])})"
    if inferred is None:
        arguments.append(f"dtype={e.dtype}")
    elif inferred is not e.dtype:
        return f"call({', '.join([repr(e.name), *arguments, f'dtype={e.dtype}'])})"
    return f"{e.name}({', '.join(arguments)})"


# ------------------------------------------------------------------ statements and functions


def _block(block: Block, indent: str) -> list[str]:
    lines: list[str] = []
    for stmt in block:
        lines += _stmt(stmt, indent)
    return lines or [f"{indent}pass"]


def _stmt(stmt: Stmt, indent: str) -> list[str]:
    deeper = indent + "    "
    match stmt:
        case For():
            if stmt.var is not Var(stmt.var.name):
                raise InternalError(f"text: loop variable {stmt.var!r} not i64", code="TW-E0923")
            start = "" if stmt.start == 0 else f", start={_dim(stmt.start)}"
            head = f"for {_name(stmt.var.name)} in {stmt.kind}({_dim(stmt.extent)}{start}):"
            return [indent + head, *_block(stmt.body, deeper)]
        case Store():
            place = f"{_name(stmt.buffer.name)}[{_list(stmt.indices) or '()'}]"
            if stmt.streamed:
                return [f"{indent}stream({place}, {_expr(stmt.value)[0]})"]
            return [f"{indent}{place} = {_expr(stmt.value)[0]}"]
        case Prefetch():
            place = f"{_name(stmt.buffer.name)}[{_list(stmt.indices) or '()'}]"
            return [f"{indent}prefetch({place})"]
        case Barrier():
            return [f"{indent}barrier()"]
        case Commit():
            return [f"{indent}commit()"]
        case Wait():
            return [f"{indent}wait({stmt.pending})"]
        case If():
            lines = [f"{indent}if {_expr(stmt.cond)[0]}:", *_block(stmt.then, deeper)]
            if stmt.orelse:
                lines += [f"{indent}else:", *_block(stmt.orelse, deeper)]
            return lines
        case Alloc():
            scope = "global_" if stmt.buffer.scope == "global" else stmt.buffer.scope
            dims = "".join(f", {_dim(d)}" for d in stmt.buffer.shape)
            return [f"{indent}{_name(stmt.buffer.name)}: {scope}[{stmt.buffer.dtype}{dims}]"]
        case Let():
            return [
                f"{indent}{_name(stmt.var.name)}: {_var_type(stmt.var)} = {_expr(stmt.value)[0]}"
            ]
    assert_never(stmt)


def _param(p: Buffer | Var) -> str:
    return text(p) if isinstance(p, Buffer) else f"{_name(p.name)}: {_var_type(p)}"


def _func(f: Func) -> str:
    params = ", ".join(map(_param, f.params))
    return "\n".join([f"def {_name(f.name)}({params}):", *_block(f.body, "    ")])


def _compute(c: Compute) -> str:
    extents = tuple(a.extent for a in c.axes)
    if extents != c.output.shape:
        raise InternalError(
            f"text: axes of {c.output.name} run over {extents}, its shape is {c.output.shape}",
            code="TW-E0923",
        )
    axes = ", ".join(f"{_name(a.var.name)}: {_dim(a.extent)}" for a in c.axes)
    if c.output.scope == "global":
        kind = f"{c.output.dtype}[{axes or '()'}]"
    else:
        kind = f"{c.output.scope}[{c.output.dtype}{', ' if axes else ''}{axes}]"
    return f"{_name(c.output.name)}: {kind} = {_expr(c.expr)[0]}"


def _group(g: ComputeGroup) -> str:
    params = [*map(text, g.inputs), *map(_param, group_symbols(g))]
    lines = [f"def {_name(g.name)}({', '.join(params)}):"]
    lines += [f"    {_compute(stage)}" for stage in g.stages]
    lines.append(f"    return {', '.join(_name(b.name) for b in g.outputs) or '()'}")
    return "\n".join(lines)


def group_symbols(g: ComputeGroup) -> tuple[Var, ...]:
    """The symbols that a group's shapes, axes and expressions use, in order of their names."""
    roots: list[Dim] = [d for b in g.inputs for d in b.shape]
    for stage in g.stages:
        roots += [*stage.output.shape, *(a.extent for a in stage.axes), stage.expr]
    found = {n for r in roots if isinstance(r, Expr) for n in visit(r)}
    return tuple(
        sorted((v for v in found if isinstance(v, Var) and v.is_symbol), key=lambda v: v.name)
    )
