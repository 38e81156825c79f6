"""The transform of packed weights as a function: for constants too large to leave it to NumPy.

One function serves all weights that are mixed by one matrix: sizes and steps are its arguments.
It does what ``pack.py`` does with whole arrays, operation by operation and so bit by bit, but a
vector of columns at a time, all of it in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from .. import dtype as dt
from ..errors import TargetError
from ..schedule.nest import simplify_func
from ..tensor.ir import (
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Func,
    Let,
    Load,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
    lt,
    symbol,
)
from ..tensor.winograd import LinearProgram, Matrix, linear_program

Runner = Callable[[Func, Sequence["np.ndarray | int"]], None]
"""Runs a function of arrays and sizes on this machine; TargetError where it cannot."""

LARGE_BYTES = 64 << 20
"""Of constants mixed by one matrix, from which on making code for it takes less CPU than NumPy."""
_LANES = 16


def mix(
    run: Runner,
    matrix: Matrix,
    source: np.ndarray,
    base: int,
    steps: Sequence[int],
    end: int | None,
    out: np.ndarray,
) -> bool:
    """Writes ``out[panel, *places, channel, column]``; False where the function does not fit it.

    Args:
        run: runs the function.
        matrix: applied along each axis of places.
        source: a row of f32 elements.
        base: the element where the walk begins.
        steps: how far apart elements are along each axis, taps in place of places.
        end: of the columns of all panels, those before which are there; None: all are.
        out: f32, contiguous.
    """
    dims = out.ndim - 3
    columns = out.shape[-1]
    if out.dtype != np.float32 or columns % _LANES or min(steps) < 0 or not 1 <= dims <= 2:
        return False
    sizes = (out.shape[0], out.shape[-2], columns // _LANES)
    guard = () if end is None else (end,)
    func = mixing(matrix, dims, guarded=end is not None)
    try:
        run(func, (source, out, source.size, base, *sizes, *steps, *guard))
    except TargetError:
        return False
    return True


@lru_cache
def mixing(matrix: Matrix, dims: int, *, guarded: bool) -> Func:
    """The function for a matrix along each of some axes."""
    program = linear_program(matrix)
    count, base, panels, channels, chunks = (
        symbol(n, 0 if n == "base" else 1)
        for n in ("count", "base", "panels", "channels", "chunks")
    )
    axes = ("panel", *(f"tap{k}" for k in range(dims)), "channel", "column")
    steps = [symbol(f"{n}_step", 0) for n in axes]
    end = symbol("end", 0)
    source = Buffer("source", dt.f32, (count,))
    places = (len(program.outputs),) * dims
    out = Buffer("out", dt.f32, (panels, *places, channels, chunks * _LANES))
    panel, channel, chunk, lane = (Var(n) for n in ("panel", "channel", "chunk", "lane"))
    column = chunk * _LANES + lane

    def read(taps: tuple[int, ...]) -> Expr:
        at: Expr = base
        places: tuple[Dim, ...] = (panel, *taps, channel, column)
        for place, step in zip(places, steps, strict=True):
            at = at + as_expr(place) * step
        value: Expr = Load(source, (at,))
        if guarded:
            inside = lt(panel * (chunks * _LANES) + column, end)
            value = Select(inside, value, Const(0.0, dt.f32))
        return value

    body: list[Stmt] = []
    cube: dict[tuple[int, ...], Expr] = {}
    for taps in product(range(program.inputs), repeat=dims):
        cube[taps] = Var("x" + "_".join(map(str, taps)), dt.f32)
        body.append(Let(_var(cube[taps]), read(taps)))
    for axis in range(dims):
        after: dict[tuple[int, ...], Expr] = {}
        for others in _others(cube, axis):
            values = [cube[_at(others, axis, i)] for i in range(program.inputs)]
            prefix = f"y{axis}_" + "_".join(map(str, others))
            for k, value in enumerate(_apply(program, values, prefix, body)):
                after[_at(others, axis, k)] = value
        cube = after
    for place, x in cube.items():
        body.append(Store(out, out[(panel, *place, channel, column)].indices, x))
    loops: Block = (For(lane, _LANES, tuple(body), "vector"),)
    loops = (For(channel, channels, (For(chunk, chunks, loops),)),)
    params: tuple[Buffer | Var, ...] = (source, out, count, base, panels, channels, chunks, *steps)
    if guarded:
        params = (*params, end)
    name = f"mix{dims}_{len(program.outputs)}_{program.inputs}{'_end' * guarded}"
    return simplify_func(Func(name, params, (For(panel, panels, loops, "parallel"),)))


def _apply(
    program: LinearProgram, values: list[Expr], prefix: str, body: list[Stmt]
) -> Iterator[Expr]:
    """Appends straight-line code to a body; yields what comes out."""
    held = list(values)
    for n, terms in enumerate(program.steps):
        total: Expr | None = None
        for factor, number in terms:
            term = held[number]
            if total is None:
                total = term if factor == 1 else term * float(factor)
            elif factor in (1, -1):
                total = total + term if factor == 1 else total - term
            else:
                total = total + term * float(factor)
        assert total is not None
        name = Var(f"{prefix}_{n}", dt.f32)
        body.append(Let(name, total))
        held.append(name)
    for number in program.outputs:
        yield held[number]


def _others(cube: dict[tuple[int, ...], Expr], axis: int) -> list[tuple[int, ...]]:
    """The places of a cube without one axis, each once."""
    return list(dict.fromkeys((*place[:axis], *place[axis + 1 :]) for place in cube))


def _at(others: tuple[int, ...], axis: int, i: int) -> tuple[int, ...]:
    return (*others[:axis], i, *others[axis:])


def _var(e: Expr) -> Var:
    assert isinstance(e, Var)
    return e
