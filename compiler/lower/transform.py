"""Linear transforms in registers: a matrix along every axis of a small cube, a vector at a time.

A matrix is straight-line code (LinearProgram); its values are elements of a register buffer, so
every step is one instruction, and a sum of products contracts to fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import dtype as dt
from ..tensor.ir import (
    Alloc,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Load,
    LoopKind,
    Stmt,
    Store,
    Var,
    as_expr,
)
from ..tensor.simplify import dim
from ..tensor.winograd import LinearProgram

Index = tuple[Expr, ...]
Source = Callable[[Index], Expr]
Sink = Callable[[Index, Expr], Block]


def over_lanes(
    name: str, extent: Dim, lanes: int, body: Callable[[str, Expr, Var], Block]
) -> Block:
    """A loop over whole vectors of an axis, and one partial vector for the rest.

    Args:
        name: of the loops; those of the rest have the suffix ``_rest``.
        extent: of the axis; where it is symbolic, a multiple of ``lanes``.
        lanes: of a vector.
        body: the statements for one vector, and the registers that they declare, given a prefix
            for names, the position on the axis and the variable of the lane.
    """
    whole = dim(as_expr(extent) // lanes)
    rest = extent % lanes if isinstance(extent, int) else 0
    found: list[Stmt] = []
    if whole != 0:
        chunk, lane = Var(f"{name}_chunk"), Var(f"{name}_lane")
        found.append(
            For(chunk, whole, _vector(body(name, chunk * lanes + lane, lane), lane, lanes))
        )
    if rest:
        lane = Var(f"{name}_rest_lane")
        block = body(f"{name}_rest", as_expr(whole) * lanes + lane, lane)
        found += _vector(block, lane, rest)
    return tuple(found)


def _vector(block: Block, lane: Var, lanes: int) -> Block:
    """The block as a vector loop; what it declares is declared before."""
    declared = tuple(s for s in block if isinstance(s, Alloc))
    return (
        *declared,
        For(lane, lanes, tuple(s for s in block if not isinstance(s, Alloc)), "vector"),
    )


def transform(
    name: str,
    program: LinearProgram,
    dims: int,
    lane: Var,
    lanes: int,
    source: Source,
    sink: Sink,
    looped: bool = False,
) -> Block:
    """Applies one matrix along each axis of a cube in turn, a row of it in registers.

    Args:
        name: a prefix for loops and registers.
        program: the matrix.
        dims: axes of the cube.
        lane, lanes: the vector in which everything is done.
        source: the element of the cube at an index.
        sink: what to do with an element of the result.
        looped: whether loops go through the rows, with all of the cube in memory in between; else
            code is written for each row, and LLVM keeps what it can in registers.
    """
    declared: list[Stmt] = []
    block: list[Stmt] = []
    kind: LoopKind = "serial" if looped else "unroll"
    done, left = len(program.outputs), program.inputs
    for axis in range(dims):
        loops = [Var(f"{name}_{axis}{k}") for k in range(dims)]
        held = Buffer(f"{name}_{axis}", dt.f32, (left + len(program.steps), lanes), "register")
        declared.append(Alloc(held))
        shape = (*(done if k <= axis else left for k in range(dims)), lanes)
        after = Buffer(f"{name}_{axis}_all", dt.f32, shape, "local" if looped else "register")
        if axis + 1 < dims:
            declared.append(Alloc(after))
        to = sink if axis + 1 == dims else _keeper(after, lane)
        body = _apply(program, held, lane, _along(loops, axis), source, to)
        # Axes that are done have the extent of the program's outputs, the others of its inputs.
        for k in reversed(range(dims)):
            if k != axis:
                body = (For(loops[k], done if k < axis else left, body, kind),)
        block += body
        source = _reader(after, lane)
    return (*declared, *block)


def _along(loops: list[Var], axis: int) -> Callable[[int], Index]:
    """The index of the i-th element along an axis, at the loops of the others."""
    return lambda i: tuple(Const(i) if k == axis else v for k, v in enumerate(loops))


def _keeper(b: Buffer, lane: Var) -> Sink:
    return lambda index, x: (Store(b, (*index, lane), x),)


def _reader(b: Buffer, lane: Var) -> Source:
    return lambda index: Load(b, (*index, lane))


def _apply(
    program: LinearProgram,
    held: Buffer,
    lane: Var,
    index: Callable[[int], Index],
    source: Source,
    sink: Sink,
) -> Block:
    """The steps of a program over the elements of one register buffer."""
    lines: list[Stmt] = [
        Store(held, (Const(i), lane), source(index(i))) for i in range(program.inputs)
    ]
    for k, terms in enumerate(program.steps):
        own = held[program.inputs + k, lane]
        for n, (factor, value) in enumerate(terms):
            x: Expr = held[value, lane]
            if factor not in (1, -1):
                x = x * float(factor)
            if factor == -1:
                x = -x if n == 0 else own - x
            elif n > 0:
                x = own + x
            lines.append(Store(held, own.indices, x))
    for k, o in enumerate(program.outputs):
        lines += sink(index(k), held[o, lane])
    return tuple(lines)
