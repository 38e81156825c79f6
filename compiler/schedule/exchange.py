"""Primitives for threads that combine what each of them has: combine, combine_columns."""

from __future__ import annotations

from ..tensor.ir import (
    Alloc,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Func,
    If,
    Load,
    LoopKind,
    Stmt,
    Store,
    Var,
    as_expr,
    eq,
    lt,
)
from ..tensor.simplify import ceildiv, dim, prove, substitute, symbols
from ..tensor.walk import loads
from .nest import edit_loop, fail, find_loop
from .place import identity

UNROLLED = 16
"""Steps of one thread that are written out, so that its loads are under way together."""


def combine(
    func: Func, loop: str, threads: int, width: int, name: str, warp: int = 32, unrolled: int = 0
) -> Func:
    """Shares a reduction loop among threads, which then combine their results.

    Each thread reduces every ``threads``-th vector of ``width`` elements. The threads of a warp
    read each other's results, halfway across, then a quarter, and so on, until all have the
    total; warps exchange theirs through shared memory. The order of operations changes, always
    in the same way.

    Before:
        for k in serial(256):
            s[0] = s[0] + A[k]
    After ``combine("k", 64, 2, "p")``:
        p: register[f32, 64]
        for k_t in thread.x(64):
            p[k_t] = 0.0
            for k_o in unroll(2):
                for k_v in vector(2):
                    p[k_t] = p[k_t] + A[k_o * 128 + k_t * 2 + k_v]
        p_16: register[f32, 64]
        for k_16 in thread.x(64):
            p_16[k_16] = p[k_16] + p[k_16 ^ 16]
        p_8: register[f32, 64]
        for k_8 in thread.x(64):
            p_8[k_8] = p_16[k_8] + p_16[k_8 ^ 8]
        p_4: register[f32, 64]
        for k_4 in thread.x(64):
            p_4[k_4] = p_8[k_4] + p_8[k_4 ^ 4]
        p_2: register[f32, 64]
        for k_2 in thread.x(64):
            p_2[k_2] = p_4[k_2] + p_4[k_2 ^ 2]
        p_1: register[f32, 64]
        for k_1 in thread.x(64):
            p_1[k_1] = p_2[k_1] + p_2[k_1 ^ 1]
        p_w: shared[f32, 2]
        for k_s in thread.x(64):
            if k_s % 32 == 0:
                p_w[k_s // 32] = p_1[k_s]
        for k_w in vector(2):
            s[0] = s[0] + p_w[k_w]

    Args:
        unrolled: the most steps of one thread that are written out; 0 stands for UNROLLED.

    Raises:
        ScheduleError: the loop is no such accumulation, the width does not divide its extent, or
            the threads are neither whole warps nor a power of two below one.
    """
    step = f"combine({loop!r}, {threads}, {width})"
    found = find_loop(func, loop, step)
    store, op, term = _accumulation(func, found, step)
    if threads % warp and (threads > warp or threads & (threads - 1)):
        raise fail(step, func, f"{threads} threads are not whole warps")
    if prove(eq(as_expr(found.extent) % width, Const(0))) is not True:
        raise fail(step, func, f"{width} does not divide the extent {found.extent}")
    vectors = dim(as_expr(found.extent) // width)
    steps = ceildiv(vectors, threads)
    dtype = store.buffer.dtype
    start = Const(identity(op, dtype), dtype)
    partial = Buffer(name, dtype, (threads,), "register")
    t, o, v = (Var(f"{loop}_{x}") for x in "tov")
    vector = o * threads + t
    own = partial[t]
    body: Block = (
        Store(partial, (t,), Binary(op, own, substitute(term, {found.var: vector * width + v}))),
    )
    body = (For(v, width, body, "vector"),) if width > 1 else _at(v, body)
    if prove(eq(as_expr(vectors) % threads, Const(0))) is not True:
        body = (If(lt(vector, vectors), body),)
    short = isinstance(steps, int) and steps <= (unrolled or UNROLLED)
    each: tuple[Stmt, ...] = (
        Store(partial, (t,), start),
        For(o, steps, body, "unroll" if short else "serial"),
    )
    result: list[Stmt] = [Alloc(partial), For(t, threads, each, "thread.x")]
    lanes = min(warp, threads) // 2
    while lanes:
        following = Buffer(f"{name}_{lanes}", dtype, (threads,), "register")
        u = Var(f"{loop}_{lanes}")
        value = Binary(op, partial[u], Load(partial, (Binary("xor", u, Const(lanes)),)))
        result += [Alloc(following), For(u, threads, (Store(following, (u,), value),), "thread.x")]
        partial, lanes = following, lanes // 2
    total = Load(store.buffer, store.indices)
    if threads <= warp:
        result.append(Store(store.buffer, store.indices, Binary(op, total, partial[0])))
    else:
        count = threads // warp
        between = Buffer(f"{name}_w", dtype, (count,), "shared")
        s, w = Var(f"{loop}_s"), Var(f"{loop}_w")
        first = If(eq(s % warp, Const(0)), (Store(between, (s // warp,), partial[s]),))
        last = Store(store.buffer, store.indices, Binary(op, total, between[w]))
        result += [Alloc(between), For(s, threads, (first,), "thread.x")]
        result.append(For(w, count, (last,), "vector"))
    return edit_loop(func, loop, lambda _: tuple(result), step)


def combine_columns(func: Func, column: str, loop: str, threads: int, name: str) -> Func:
    """Shares the reduction of each column among threads that stand below each other.

    Neighbouring columns are neighbouring threads, so that these read side by side; the threads
    of a column exchange their results through shared memory.

    Before:
        s: register[f32, 32]
        for j in serial(32):
            for k in serial(64):
                s[j] = s[j] + A[k, j]
    After ``combine_columns("j", "k", 8, "p")``:
        s: register[f32, 32]
        p: register[f32, 8, 32]
        p_w: shared[f32, 8, 32]
        for k_y in thread.y(8):
            for j_x in thread.x(32):
                p[k_y, j_x] = 0.0
                for k_o in serial(8):
                    p[k_y, j_x] = p[k_y, j_x] + A[k_o * 8 + k_y, j_x]
                p_w[k_y, j_x] = p[k_y, j_x]
        for j in thread.x(32):
            for k_w in unroll(8):
                s[j] = s[j] + p_w[k_w, j]

    Raises:
        ScheduleError: the loop over columns has no constant extent or holds more than the
            reduction, or the reduction is no accumulation in an element of its column.
    """
    step = f"combine_columns({column!r}, {loop!r}, {threads})"
    across, found = find_loop(func, column, step), find_loop(func, loop, step)
    if across.body != (found,) or across.start != 0 or not isinstance(across.extent, int):
        raise fail(step, func, f"{column!r} holds more than {loop!r}, or its extent is not known")
    store, op, term = _accumulation(func, found, step)
    if across.var not in symbols(store.buffer[store.indices]):
        raise fail(step, func, "the accumulator is not indexed by the column")
    dtype = store.buffer.dtype
    shape = (threads, across.extent)
    partial, shown = (
        Buffer(name, dtype, shape, "register"),
        Buffer(f"{name}_w", dtype, shape, "shared"),
    )
    y, o, w, x = Var(f"{loop}_y"), Var(f"{loop}_o"), Var(f"{loop}_w"), Var(f"{column}_x")
    own, position = partial[y, x], o * threads + y
    more = substitute(term, {found.var: position, across.var: x})
    body: Block = (Store(partial, (y, x), Binary(op, own, more)),)
    if prove(eq(as_expr(found.extent) % threads, Const(0))) is not True:
        body = (If(lt(position, found.extent), body),)
    start = Const(identity(op, dtype), dtype)
    first: Block = (
        Store(partial, (y, x), start),
        For(o, ceildiv(found.extent, threads), body),
        Store(shown, (y, x), own),
    )
    total = Load(store.buffer, store.indices)
    last = Store(store.buffer, store.indices, Binary(op, total, shown[w, across.var]))
    result: Block = (
        Alloc(partial),
        Alloc(shown),
        For(y, threads, (For(x, across.extent, first, "thread.x"),), "thread.y"),
        For(across.var, across.extent, (For(w, threads, (last,), "unroll"),), "thread.x"),
    )
    return edit_loop(func, column, lambda _: result, step)


def _at(v: Var, body: Block) -> Block:
    """The body of a loop that runs once."""
    (store,) = body
    assert isinstance(store, Store)
    return (Store(store.buffer, store.indices, substitute(store.value, {v: Const(0)})),)


def _accumulation(func: Func, loop: For, step: str) -> tuple[Store, BinaryOp, Expr]:
    """The store of a loop that accumulates in one element, its operation, and what it adds."""
    store = loop.body[0] if len(loop.body) == 1 else None
    if not isinstance(store, Store) or loop.start != 0:
        raise fail(step, func, "the loop does not hold a single accumulation")
    own, value = Load(store.buffer, store.indices), store.value
    if not (
        isinstance(value, Binary)
        and value.op in ("add", "mul", "max", "min", "and", "or")
        and (value.a is own or value.b is own)
    ):
        raise fail(step, func, "the loop does not hold a single accumulation")
    term = value.b if value.a is own else value.a
    if loop.var in symbols(own) or any(x.buffer == store.buffer for x in loads(term)):
        raise fail(step, func, "the accumulator is indexed by the loop")
    return store, value.op, term


def on_one_thread(func: Func, buffer: str, name: str, kind: LoopKind = "thread.x") -> Func:
    """Lets one thread of a block store what all of them know.

    Before:
        for b in block.x(4):
            s: register[f32, 1]
            s[0] = A[b] * 2.0
            B[b] = s[0]
    After ``on_one_thread("B", "one")``:
        for b in block.x(4):
            s: register[f32, 1]
            s[0] = A[b] * 2.0
            for one in thread.x(1):
                B[b] = s[0]

    Raises:
        ScheduleError: nothing is stored to the buffer outside of loops over threads.
    """
    number = [0]

    def visit(block: Block) -> Block:
        result: list[Stmt] = []
        for stmt in block:
            match stmt:
                case Store() if stmt.buffer.name == buffer:
                    suffix = f"_{number[0]}" if number[0] else ""
                    result.append(For(Var(name + suffix), 1, (stmt,), kind))
                    number[0] += 1
                case For() if stmt.kind != kind:
                    result.append(
                        For(stmt.var, stmt.extent, visit(stmt.body), stmt.kind, stmt.start)
                    )
                case If():
                    result.append(If(stmt.cond, visit(stmt.then), visit(stmt.orelse)))
                case _:
                    result.append(stmt)
        return tuple(result)

    new = Func(func.name, func.params, visit(func.body))
    if not number[0]:
        step = f"on_one_thread({buffer!r})"
        raise fail(step, func, f"nothing is stored to {buffer!r} outside of {kind} loops")
    return new
