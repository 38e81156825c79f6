"""Which loops may run their iterations in any order, decided from their indices alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .ir import (
    Alloc,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    If,
    Let,
    Load,
    Store,
    Var,
    as_expr,
)
from .simplify import bounds, simplify
from .walk import expressions, free_vars, loads, statements, substitute

_MOST_ACCESSES = 32
"""Beyond this many different accesses to one buffer the pairs are too many to compare."""


@dataclass(frozen=True, slots=True)
class _Access:
    """One read or write: its index, and the inclusive ranges of the loops around it."""

    indices: tuple[Expr, ...]
    ranges: tuple[tuple[Var, Dim, Dim], ...]


def is_independent(loop: For) -> bool:
    """Whether no two iterations of a loop touch one element that either of them writes.

    Buffers declared inside the body belong to their iteration. The answer is a proof when True;
    False means only that none was found.
    """
    written = {s.buffer for s in statements(loop.body) if isinstance(s, Store)}
    written -= {s.buffer for s in statements(loop.body) if isinstance(s, Alloc)}
    found: dict[Buffer, set[_Access]] = {b: set() for b in written}
    _collect(loop.body, {}, (), found)
    return all(_never_meet(loop.var, b, list(found[b])) for b in written)


def _collect(
    block: Block,
    lets: Mapping[Expr, Expr],
    ranges: tuple[tuple[Var, Dim, Dim], ...],
    found: dict[Buffer, set[_Access]],
) -> None:
    lets = dict(lets)
    for stmt in block:
        for e in expressions(stmt):
            for load in loads(e):
                if load.buffer in found:
                    indices = tuple(substitute(i, lets) for i in load.indices)
                    found[load.buffer].add(_Access(indices, ranges))
        match stmt:
            case Store() if stmt.buffer in found:
                indices = tuple(substitute(i, lets) for i in stmt.indices)
                found[stmt.buffer].add(_Access(indices, ranges))
            case Let():
                lets[stmt.var] = substitute(stmt.value, lets)
            case If():
                _collect(stmt.then, lets, ranges, found)
                _collect(stmt.orelse, lets, ranges, found)
            case For():
                start = substitute(as_expr(stmt.start), lets)
                last = start + substitute(as_expr(stmt.extent), lets) - 1
                inner = (*ranges, (stmt.var, start, last))
                _collect(stmt.body, lets, inner, found)


def _never_meet(var: Var, buffer: Buffer, accesses: list[_Access]) -> bool:
    if len(accesses) > _MOST_ACCESSES:
        return False
    rank = len(buffer.shape)
    # What an index loads may change while the loop runs, so it proves nothing.
    known = [d for d in range(rank) if not any(_has_loads(a.indices[d]) for a in accesses)]
    if any(_separates(var, [(a.indices[d], a) for a in accesses]) for d in known):
        return True
    # A flat number that is cut into indices is told apart by itself, whatever the shape.
    joined = [_joined(a.indices) for a in accesses]
    if len(known) == rank and len({cuts for _, cuts in joined}) == 1 and joined[0][1]:
        for d in range(len(joined[0][0])):
            flat = [(indices[d], a) for (indices, _), a in zip(joined, accesses, strict=True)]
            if _separates(var, flat):
                return True
    # A loop over several dims at once shows only in the position in memory.
    if rank == 1 or len(known) < rank:
        return False
    return _separates(var, [(_position(buffer, a.indices), a) for a in accesses])


def _joined(indices: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], tuple[tuple[int, int], ...]]:
    """Indices with ``e // n, e % n`` as one, ``e``; and the dims and divisors of such pairs."""
    result = list(indices)
    cuts: list[tuple[int, int]] = []
    for d in range(len(indices) - 2, -1, -1):
        match result[d], result[d + 1]:
            case (
                Binary(op="floordiv", a=high, b=Const(value=n)),
                Binary(op="mod", a=low, b=Const(value=m)),
            ) if high is low and n == m:
                result[d : d + 2] = [high]
                cuts.append((d, int(n)))
            case (
                Binary(op="mod", a=Binary(op="floordiv", a=high, b=Const(value=n)), b=Const() as k),
                Binary(op="mod", a=low, b=Const(value=m)),
            ) if high is low and n == m:
                result[d : d + 2] = [Binary("mod", high, Const(int(n) * int(k.value)))]
                cuts.append((d, int(n)))
    return tuple(result), tuple(cuts)


def _has_loads(e: Expr) -> bool:
    return any(True for _ in loads(e))


def _position(buffer: Buffer, indices: tuple[Expr, ...]) -> Expr:
    position: Expr = Const(0)
    for index, size in zip(indices, buffer.shape, strict=True):
        position = position * size + index
    return simplify(position)


def _separates(var: Var, uses: list[tuple[Expr, _Access]]) -> bool:
    """Whether an index alone tells iterations apart: ``c * var + rest``, and rest spans under c."""
    first = _step(var, uses[0][0])
    if first is None:
        return False
    for n, (p, access_p) in enumerate(uses):
        if _step(var, p) != first:
            return False
        for q, access_q in uses[n:]:
            if not _spans_less(var, abs(first), first, (p, access_p), (q, access_q)):
                return False
    return True


def _step(var: Var, index: Expr) -> int | None:
    """How far an index moves when ``var`` grows by one; None where that is 0 or varies."""
    moved = simplify(substitute(index, {var: var + 1}) - index)
    return int(moved.value) if isinstance(moved, Const) and moved.value else None


def _spans_less(
    var: Var, width: int, step: int, p: tuple[Expr, _Access], q: tuple[Expr, _Access]
) -> bool:
    """Whether the indices of two accesses, less their part in ``var``, differ by under a step."""
    own = {v for v, _, _ in q[1].ranges} | {var}
    other: dict[Expr, Expr] = {v: Var(v.name + "'", v.dtype) for v in own}
    difference = (p[0] - var * step) - substitute(q[0] - var * step, other)
    ranges: dict[Var, tuple[Dim | None, Dim | None]] = {}
    for v, start, last in p[1].ranges:
        ranges[v] = (start, last)
    for v, start, last in q[1].ranges:
        renamed = other[v]
        assert isinstance(renamed, Var)
        ranges[renamed] = (
            substitute(as_expr(start), other),
            substitute(as_expr(last), other),
        )
    lo, hi = bounds(simplify(difference), ranges)
    return lo is not None and hi is not None and -width < lo and hi < width


@dataclass(frozen=True, slots=True)
class Accumulation:
    """A nest of loops around ``b[i] = op(b[i], term)`` where ``i`` stays the same throughout."""

    loops: tuple[For, ...]
    store: Store
    op: BinaryOp
    term: Expr


def accumulation(loop: For) -> Accumulation | None:
    """The accumulation that a loop is, or None where it is something else."""
    nest = [loop]
    while len(nest[-1].body) == 1 and isinstance(nest[-1].body[0], For):
        nest.append(nest[-1].body[0])
    if len(nest[-1].body) != 1:
        return None
    store = nest[-1].body[0]
    if not (isinstance(store, Store) and isinstance(store.value, Binary)):
        return None
    value = store.value
    if value.op not in ("add", "mul", "min", "max", "and", "or", "xor"):
        return None
    own = Load(store.buffer, store.indices)
    if value.a is not own and value.b is not own:
        return None
    term = value.b if value.a is own else value.a
    inner = {f.var for f in nest}
    if any(load.buffer == store.buffer for load in loads(term)):
        return None
    if any(free_vars(i) & inner or any(True for _ in loads(i)) for i in store.indices):
        return None
    return Accumulation(tuple(nest), store, value.op, term)
