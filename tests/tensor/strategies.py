"""Hypothesis strategies: random well-typed expressions, functions and groups."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.dtype import DTYPES, DType
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.intrinsics import INTRINSICS, call
from tilewright.tensor.ir import (
    Alloc,
    Axis,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    LoopKind,
    Reduce,
    ReduceOp,
    Scope,
    Select,
    Stmt,
    Store,
    Unary,
    UnaryOp,
    Var,
    symbol,
)

LOGICAL: list[BinaryOp] = ["and", "or", "xor"]
REDUCTIONS: list[ReduceOp] = ["sum", "prod", "max", "min"]
LOOPS: list[LoopKind] = ["serial", "vector", "unroll"]
SCOPES: list[Scope] = ["local", "register", "shared"]
NUMBERS = [t for t in DTYPES.values() if t is not dt.bool_]
ARITHMETIC: list[BinaryOp] = ["add", "sub", "mul", "div", "min", "max"]
INTEGER_ONLY: list[BinaryOp] = ["floordiv", "mod", "and", "or", "xor", "shl", "shr"]
COMPARISONS: list[BinaryOp] = ["eq", "ne", "lt", "le", "gt", "ge"]
N = symbol("N")
M = symbol("M", 2, 64)


@st.composite
def constants(draw: st.DrawFn, dtype: DType) -> Const:
    if dtype is dt.bool_:
        return Const(draw(st.booleans()), dtype)
    if dtype.is_float:
        return Const(draw(st.floats(width=64)), dtype)
    return Const(draw(st.integers(int(dtype.lowest), int(dtype.highest))), dtype)


@st.composite
def expressions(
    draw: st.DrawFn,
    dtype: DType,
    variables: Sequence[Var] = (),
    buffers: Sequence[Buffer] = (),
    depth: int = 4,
    reductions: bool = False,
) -> Expr:
    """A random expression of a type over given names."""

    def inner(t: DType, less: int = 1) -> Expr:
        e: Expr = draw(expressions(t, variables, buffers, max(0, depth - less), reductions))
        return e

    leaves: list[Expr] = [v for v in variables if v.dtype is dtype]
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        leaf: Expr = draw(
            st.one_of(constants(dtype), *([st.sampled_from(leaves)] if leaves else []))
        )
        return leaf
    kinds = ["binary", "select", "cast", "unary", "load", "call", "compare"]
    match draw(st.sampled_from(kinds + (["reduce"] if reductions else []))):
        case "select":
            return Select(inner(dt.bool_), inner(dtype), inner(dtype))
        case "cast":
            return Cast(inner(draw(st.sampled_from(list(DTYPES.values())))), dtype)
        case "unary" if dtype is dt.bool_:
            return Unary("not", inner(dtype))
        case "unary":
            ops: list[UnaryOp] = ["neg", "abs"]
            ops += [] if dtype.is_float else ["not"]
            return Unary(draw(st.sampled_from(ops)), inner(dtype))
        case "load":
            fitting = [b for b in buffers if b.dtype is dtype]
            if fitting:
                buffer = draw(st.sampled_from(fitting))
                return Load(buffer, [inner(dt.i64, 2) for _ in buffer.shape])
        case "call" if dtype.is_float:
            entries = [e for e in INTRINSICS.values() if e.result == "same"]
            entry = draw(st.sampled_from(entries))
            return call(entry.name, *(inner(dtype, 2) for _ in range(entry.arity)))
        case "call" if dtype is dt.bool_:
            return call(draw(st.sampled_from(["isnan", "isinf"])), inner(dt.f32))
        case "call":
            same = [t for t in NUMBERS if t.bits == dtype.bits]
            return call("bitcast", inner(draw(st.sampled_from(same))), dtype=dtype)
        case "reduce":
            axes = [Axis(Var("r1"), 3), Axis(Var("r2"), N)][: draw(st.integers(1, 2))]
            names = [*variables, *(a.var for a in axes)]
            body = draw(expressions(dtype, names, buffers, depth - 1, False))
            op = draw(st.sampled_from(REDUCTIONS))
            return Reduce(op, axes, body)
    if dtype is dt.bool_:
        if draw(st.booleans()):
            t = draw(st.sampled_from(NUMBERS))
            return Binary(draw(st.sampled_from(COMPARISONS)), inner(t), inner(t))
        return Binary(draw(st.sampled_from(LOGICAL)), inner(dtype), inner(dtype))
    choices = ARITHMETIC if dtype.is_float else ARITHMETIC + INTEGER_ONLY
    return Binary(draw(st.sampled_from(choices)), inner(dtype), inner(dtype))


@st.composite
def dims(draw: st.DrawFn) -> Dim:
    choices: list[Dim] = [1, 2, 7, N, M, N * 2 + 1, (M + 3) // 4]
    return draw(st.sampled_from(choices))


@st.composite
def declared_buffers(draw: st.DrawFn, name: str, scope: Scope = "global") -> Buffer:
    extents = st.integers(1, 8) if scope == "register" else dims()
    shape = tuple(draw(st.lists(extents, max_size=3)))
    return Buffer(name, draw(st.sampled_from(list(DTYPES.values()))), shape, scope)


class _Names:
    def __init__(self) -> None:
        self.count = 0

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"


@st.composite
def _blocks(
    draw: st.DrawFn,
    names: _Names,
    variables: tuple[Var, ...],
    buffers: tuple[Buffer, ...],
    depth: int,
) -> Block:
    block: list[Stmt] = []
    for _ in range(draw(st.integers(0 if depth < 2 else 1, 3))):
        kind = draw(st.sampled_from(["for", "if", "alloc", "let", "store"] if depth else ["store"]))
        match kind:
            case "for":
                loop_kind = draw(st.sampled_from(LOOPS))
                constant = loop_kind != "serial"
                extent = draw(st.integers(1, 9) if constant else dims())
                starts: list[Dim] = [0, 0, 2, N]
                start = draw(st.sampled_from(starts))
                var = Var(names.new("i"))
                body = draw(_blocks(names, (*variables, var), buffers, depth - 1))
                block.append(For(var, extent, body, loop_kind, start))
            case "if":
                cond = draw(expressions(dt.bool_, variables, buffers, 2))
                then = draw(_blocks(names, variables, buffers, depth - 1))
                orelse = draw(_blocks(names, variables, buffers, depth - 1))
                block.append(If(cond, then, orelse))
            case "alloc":
                scope = draw(st.sampled_from(SCOPES))
                buffer = draw(declared_buffers(names.new("b"), scope))
                buffers = (*buffers, buffer)
                block.append(Alloc(buffer))
            case "let":
                var = Var(names.new("v"), draw(st.sampled_from(list(DTYPES.values()))))
                block.append(Let(var, draw(expressions(var.dtype, variables, buffers, 2))))
                variables = (*variables, var)
            case "store":
                buffer = draw(st.sampled_from(buffers))
                index = tuple(
                    draw(expressions(dt.i64, variables, buffers, 2)) for _ in buffer.shape
                )
                value = draw(expressions(buffer.dtype, variables, buffers, 3))
                block.append(Store(buffer, index, value, draw(st.booleans())))
    return tuple(block)


@st.composite
def functions(draw: st.DrawFn) -> Func:
    """A random function that is well-formed by tensor/check.py."""
    buffers = tuple(draw(declared_buffers(f"P{k}")) for k in range(draw(st.integers(1, 3))))
    body = draw(_blocks(_Names(), (N, M), buffers, 3))
    return Func("kernel", (*buffers, N, M), body)


@st.composite
def groups(draw: st.DrawFn) -> ComputeGroup:
    """A random group of one to three stages."""
    known = [draw(declared_buffers(f"P{k}")) for k in range(draw(st.integers(1, 2)))]
    inputs = tuple(known)
    stages: list[Compute] = []
    for k in range(draw(st.integers(1, 3))):
        axes = tuple(Axis(Var(f"a{n}"), draw(dims())) for n in range(draw(st.integers(0, 3))))
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        output = Buffer(f"T{k}", dtype, tuple(a.extent for a in axes))
        names = [N, *(a.var for a in axes)]
        expr = draw(expressions(dtype, names, known, 3, reductions=dtype is not dt.bool_))
        stages.append(Compute(output, axes, expr))
        known.append(output)
    return ComputeGroup("group", inputs, (stages[-1].output,), tuple(stages))
