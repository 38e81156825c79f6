"""Barriers between the loops of threads that exchange values through shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..tensor.independence import is_independent
from ..tensor.ir import (
    Barrier,
    Binary,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Stmt,
    Store,
    Var,
)
from ..tensor.simplify import Ranges, simplify
from ..tensor.walk import allocations, expressions, loads, statements, substitute
from .nest import loop_range

Owner = tuple[tuple[str, int], ...]
"""For each kind of thread loop, the position of the index that tells whose an element is."""
Access = tuple[Buffer, Owner | None, Expr | None]
"""A buffer, whose an element is, and its first index where that is the same for all threads."""


@dataclass
class _Since:
    """What threads did with shared memory since they last waited for each other."""

    reads: set[Access] = field(default_factory=set)
    writes: set[Access] = field(default_factory=set)

    def add(self, later: _Since) -> None:
        self.reads |= later.reads
        self.writes |= later.writes

    def moved(self, var: Var, by: Expr | None) -> _Since:
        """The same where ``var`` is something else; None: anything."""

        def move(a: Access) -> Access:
            if a[2] is None or var not in a[2].variables:
                return a
            return a[0], a[1], None if by is None else simplify(substitute(a[2], {var: by}))

        return _Since({move(a) for a in self.reads}, {move(a) for a in self.writes})

    def clear(self) -> None:
        self.reads.clear()
        self.writes.clear()


def place_barriers(func: Func) -> Func:
    """Puts a barrier wherever a loop of threads needs what other threads wrote or still read.

    Two loops need none between them if each thread touches the same elements in both.

    Before:
        for b in block.x(4):
            s: shared[f32, 8]
            for t in thread.x(8):
                s[t] = A[b, t]
            for u in thread.x(8):
                B[b, u] = s[7 - u]
    After ``place_barriers()``:
        for b in block.x(4):
            s: shared[f32, 8]
            for t in thread.x(8):
                s[t] = A[b, t]
            barrier()
            for u in thread.x(8):
                B[b, u] = s[7 - u]
    """
    return Func(func.name, func.params, _Placing(func).block(func.body, _Since()))


class _Placing:
    """One function's barriers being placed.

    Attributes:
        counts: how many threads a block has, by kind of loop.
    """

    def __init__(self, func: Func) -> None:
        self.counts: dict[str, int] = {}
        for s in statements(func.body):
            if isinstance(s, For) and s.kind.startswith("thread."):
                assert isinstance(s.extent, int)
                self.counts[s.kind] = max(s.extent, self.counts.get(s.kind, 1))

    def block(self, block: Block, since: _Since) -> Block:
        """The statements with their barriers; ``since`` is what came before, and then after."""
        result: list[Stmt] = []
        for stmt in block:
            done = self._statement(stmt, since)
            result += done
        return tuple(result)

    def _statement(self, stmt: Stmt, since: _Since) -> Block:
        match stmt:
            case For() if not stmt.kind.startswith("thread.") and _has_threads(stmt.body):
                return self._loop(stmt, since)
            case If() if _has_threads(stmt.then) or _has_threads(stmt.orelse):
                # All threads of a block choose the same arm.
                then, orelse = (self.block(b, _Since()) for b in (stmt.then, stmt.orelse))
                stmt = If(stmt.cond, then, orelse)
        here = self._accesses((stmt,))
        waits = self._meet(since, here)
        if waits:
            since.clear()
        since.add(here)
        return (Barrier(), stmt) if waits else (stmt,)

    def _loop(self, loop: For, since: _Since) -> Block:
        after = _Since()
        body = self.block(loop.body, after)
        first = self._until_barrier(body)
        if loop.kind == "serial" and self._repeats(loop, body, after, first):
            # The end of one iteration meets the start of the next.
            body = (*body, Barrier())
            after.clear()
        waits = self._meet(since, first)
        if waits or any(isinstance(s, Barrier) for s in statements(body)):
            since.clear()
        since.add(after.moved(loop.var, None))
        new = For(loop.var, loop.extent, body, loop.kind, loop.start)
        return (Barrier(), new) if waits else (new,)

    def _repeats(self, loop: For, body: Block, after: _Since, first: _Since) -> bool:
        """Whether threads must wait between two iterations of a loop."""
        if loop.extent == 1:
            return False
        if self._meet(after, first.moved(loop.var, loop.var + 1)):
            return not _is_free(loop)
        if any(isinstance(s, Barrier) for s in statements(body)):
            return False
        # Without any barrier, iterations that are further apart meet as well.
        apart = self._meet(after, first.moved(loop.var, None))
        return apart and not _is_free(loop)

    def _until_barrier(self, block: Block) -> _Since:
        """What a block touches before it waits for the first time, or at most."""
        found = _Since()
        for stmt in block:
            if isinstance(stmt, Barrier):
                break
            found.add(self._accesses((stmt,)))
            if any(isinstance(s, Barrier) for s in statements((stmt,))):
                break
        return found

    def _meet(self, before: _Since, later: _Since) -> bool:
        """Whether another thread may have written what is touched, or touched what is written."""
        return (
            _conflict(before.writes, later.reads)
            or _conflict(before.writes, later.writes)
            or _conflict(before.reads, later.writes)
        )

    def _accesses(self, block: Block) -> _Since:
        """Every access to shared memory, and whether each element belongs to one thread."""
        own: dict[Var, str] = {}
        ranges: dict[Var, tuple[Dim, Dim]] = {}
        for s in statements(block):
            if isinstance(s, For):
                ranges[s.var] = loop_range(s)
                if s.kind.startswith("thread."):
                    own[s.var] = s.kind
        found = _Since()
        for stmt in statements(block):
            for e in expressions(stmt):
                for x in loads(e):
                    if x.buffer.scope == "shared":
                        owner = self._owner(x.indices, own, ranges)
                        found.reads.add((x.buffer, owner, _stage(x.indices, ranges)))
            if isinstance(stmt, Store) and stmt.buffer.scope == "shared":
                owner = self._owner(stmt.indices, own, ranges)
                found.writes.add((stmt.buffer, owner, _stage(stmt.indices, ranges)))
        return found

    def _owner(
        self, indices: tuple[Expr, ...], own: Mapping[Var, str], ranges: Ranges
    ) -> Owner | None:
        """Which index tells the thread: it is the thread's number, modulo their count."""
        found: dict[str, int] = {}
        for position, index in enumerate(indices):
            for v, kind in own.items():
                rest = simplify((index - v) % self.counts[kind], ranges)
                if isinstance(rest, Const) and rest.value == 0:
                    found[kind] = position
        return tuple(sorted(found.items())) if found.keys() == self.counts.keys() else None


def _is_free(loop: For) -> bool:
    """Whether iterations touch different elements; a shared buffer of each is in one place."""
    return is_independent(loop) and not any(b.scope == "shared" for b in allocations(loop.body))


def _has_threads(block: Block) -> bool:
    return any(isinstance(s, For) and s.kind.startswith("thread.") for s in statements(block))


def _conflict(a: set[Access], b: set[Access]) -> bool:
    """Whether two threads may touch one element: the same buffer, and not each its own."""
    return any(
        x[0] == y[0] and not (x[1] is not None and x[1] == y[1]) and not _apart(x[2], y[2])
        for x in a
        for y in b
    )


def _stage(indices: tuple[Expr, ...], ranges: Ranges) -> Expr | None:
    """The first index, if it does not vary among the iterations of the loops at hand."""
    return simplify(indices[0]) if indices and not indices[0].variables & ranges.keys() else None


def _apart(a: Expr | None, b: Expr | None) -> bool:
    """Whether two indices certainly differ; most are stages that take turns: ``k % 2``."""
    if a is None or b is None:
        return False
    match a, b:
        case Binary(op="mod", b=Const(value=m)), Binary(op="mod", b=Const(value=n)) if m == n:
            gap = simplify(a.a - b.a)
            return isinstance(gap, Const) and gap.value % m != 0
    gap = simplify(a - b)
    return isinstance(gap, Const) and gap.value != 0
