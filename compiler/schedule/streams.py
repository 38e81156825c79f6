"""A primitive that reads what a reduction walks over in several places at once."""

from __future__ import annotations

from ..tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Func,
    If,
    Stmt,
    Store,
    Var,
)
from ..tensor.simplify import symbols
from .loops import rename_loops
from .nest import edit_loop, fail, find_loop, loops, stores, substitute_block
from .place import accumulated, identity


def run_apart(func: Func, loop: str, count: int, name: str) -> Func:
    """Cuts a reduction loop in ``count`` parts that run side by side, each with its own results.

    A core waits for few lines of one stream from memory at a time; several streams come faster.
    The loop must hold one accumulation ``s[...] = s[...] op x`` that does not index by it, and
    must stand in the body next to its initialisation. The order of operations changes (floating
    point sums differ in the last bits), always in the same way.

    Before:
        s: register[f32, 16]
        for k in serial(64):
            for j in vector(16):
                s[j] = s[j] + A[k, j]
    After ``run_apart("k", 2, "p")``:
        s: register[f32, 16]
        p: register[f32, 2, 16]
        for k_z in unroll(2):
            for j_z in vector(16):
                p[k_z, j_z] = 0.0
        for k in serial(32):
            for k_s in unroll(2):
                for j in vector(16):
                    p[k_s, j] = p[k_s, j] + A[k + k_s * 32, j]
        for k_r in unroll(2):
            for j_r in vector(16):
                s[j_r] = s[j_r] + p[k_r, j_r]

    Raises:
        ScheduleError: the loop is not such an accumulation, or cannot be cut in equal parts.
    """
    step = f"run_apart({loop!r}, {count})"
    found = find_loop(func, loop, step)
    extent = found.extent
    if found.start != 0 or not isinstance(extent, int) or count < 1 or extent % count:
        raise fail(step, func, f"the loop has no constant extent that {count} divides")
    accumulations = list(stores(found.body))
    if len(accumulations) != 1:
        raise fail(step, func, "the loop does not hold a single accumulation")
    (store,) = accumulations
    own = store.buffer[store.indices]
    value, term = accumulated(store, found, func, step)
    partial = Buffer(name, store.buffer.dtype, (count, *store.buffer.shape), "register")
    vs, vz, vr = (Var(f"{loop}_{x}") for x in "szr")
    mine = {v for i in store.indices for v in symbols(i)}

    def around(var: Var, last: Store, suffix: str) -> For:
        """The last statement in loops like those that the accumulation is indexed by."""
        nest: Block = (last,)
        for x in reversed([x for x in loops(found.body) if x.var in mine]):
            nest = (For(x.var, x.extent, nest, x.kind, x.start),)
        return For(var, count, rename_loops(nest, suffix), "unroll")

    def replaced(block: Block) -> Block:
        result: list[Stmt] = []
        for stmt in block:
            match stmt:
                case For():
                    body = replaced(stmt.body)
                    result.append(For(stmt.var, stmt.extent, body, stmt.kind, stmt.start))
                case If():
                    result.append(If(stmt.cond, replaced(stmt.then), replaced(stmt.orelse)))
                case Store():
                    at = (vs, *stmt.indices)
                    result.append(Store(partial, at, Binary(value.op, partial[at], term)))
                case _:
                    result.append(stmt)
        return tuple(result)

    def edit(it: For) -> Block:
        zero = Const(identity(value.op, store.buffer.dtype), store.buffer.dtype)
        length = extent // count
        position: dict[Expr, Expr] = {it.var: it.var + vs * length}
        body = substitute_block(replaced(it.body), position)
        joined = Binary(value.op, own, partial[(vr, *store.indices)])
        return (
            Alloc(partial),
            around(vz, Store(partial, (vz, *store.indices), zero), "_z"),
            For(it.var, length, (For(vs, count, body, "unroll"),), it.kind),
            around(vr, Store(store.buffer, store.indices, joined), "_r"),
        )

    return edit_loop(func, loop, edit, step)
