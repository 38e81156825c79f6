"""Primitives that say what becomes of results."""

from __future__ import annotations

from ..tensor.ir import Block, Func, Stmt, Store
from ..tensor.walk import map_block, stores
from .nest import fail


def stream(func: Func, buffer: str) -> Func:
    """Hints that nothing reads a buffer soon: what is stored to it may go past the caches.

    Before:
        for i in vector(64):
            B[i] = A[i] * 2.0
    After ``stream("B")``:
        for i in vector(64):
            stream(B[i], A[i] * 2.0)

    Raises:
        ScheduleError: nothing is stored to the buffer, or it is a temporary.
    """
    found = [x for x in stores(func.body) if x.buffer.name == buffer]
    if not found or any(x.buffer.scope != "global" for x in found):
        raise fail(f"stream({buffer!r})", func, "no such result is stored")

    def edit(stmt: Stmt) -> Block:
        if isinstance(stmt, Store) and stmt.buffer.name == buffer:
            return (Store(stmt.buffer, stmt.indices, stmt.value, streamed=True),)
        return (stmt,)

    return Func(func.name, func.params, map_block(func.body, edit))
