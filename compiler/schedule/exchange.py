"""Primitives for threads that combine what each of them has: combine, combine_columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..dtype import DType
from ..tensor.ir import (
    Alloc,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Dim,
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
from .nest import edit_loop, fail, find_loop
from .place import accumulated, identity

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
    shared = _accumulation(func, found, step)
    if threads % warp and (threads > warp or threads & (threads - 1)):
        raise fail(step, func, f"{threads} threads are not whole warps")
    if prove(eq(as_expr(found.extent) % width, Const(0))) is not True:
        raise fail(step, func, f"{width} does not divide the extent {found.extent}")
    vectors = dim(as_expr(found.extent) // width)
    partial = Buffer(name, shared.dtype, (threads,), "register")
    t, o, v = (Var(f"{loop}_{x}") for x in "tov")
    vector = o * threads + t
    position = vector * width + v if width > 1 else vector
    body: Block = (shared.accumulate(partial, (t,), {found.var: position}),)
    body = (For(v, width, body, "vector"),) if width > 1 else body
    body = _while_below(vector, vectors, threads, body)
    steps = ceildiv(vectors, threads)
    short = isinstance(steps, int) and steps <= (unrolled or UNROLLED)
    each: Block = (
        shared.start(partial, (t,)),
        For(o, steps, body, "unroll" if short else "serial"),
    )
    result: list[Stmt] = [Alloc(partial), For(t, threads, each, "thread.x")]
    partial, exchanged = _butterfly(shared, partial, min(warp, threads), loop)
    result += exchanged
    if threads <= warp:
        result.append(shared.add(partial[0]))
    else:
        between = Buffer(f"{name}_w", shared.dtype, (threads // warp,), "shared")
        s, w = Var(f"{loop}_s"), Var(f"{loop}_w")
        first = If(eq(s % warp, Const(0)), (Store(between, (s // warp,), partial[s]),))
        result += [Alloc(between), For(s, threads, (first,), "thread.x")]
        result.append(For(w, threads // warp, (shared.add(between[w]),), "vector"))
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
    shared = _accumulation(func, found, step)
    if across.var not in symbols(shared.whole):
        raise fail(step, func, "the accumulator is not indexed by the column")
    shape = (threads, across.extent)
    partial = Buffer(name, shared.dtype, shape, "register")
    shown = Buffer(f"{name}_w", shared.dtype, shape, "shared")
    y, o, w, x = Var(f"{loop}_y"), Var(f"{loop}_o"), Var(f"{loop}_w"), Var(f"{column}_x")
    position = o * threads + y
    more = shared.accumulate(partial, (y, x), {found.var: position, across.var: x})
    body = _while_below(position, found.extent, threads, (more,))
    first: Block = (
        shared.start(partial, (y, x)),
        For(o, ceildiv(found.extent, threads), body),
        Store(shown, (y, x), partial[y, x]),
    )
    last = For(w, threads, (shared.add(shown[w, across.var]),), "unroll")
    result: Block = (
        Alloc(partial),
        Alloc(shown),
        For(y, threads, (For(x, across.extent, first, "thread.x"),), "thread.y"),
        For(across.var, across.extent, (last,), "thread.x"),
    )
    return edit_loop(func, column, lambda _: result, step)


def _butterfly(
    shared: _Accumulation, partial: Buffer, lanes: int, loop: str
) -> tuple[Buffer, list[Stmt]]:
    """Each of so many neighbouring threads gets all their parts: its buffer, and the steps."""
    name, (threads,) = partial.name, partial.shape
    result: list[Stmt] = []
    while lanes := lanes // 2:
        following = Buffer(f"{name}_{lanes}", shared.dtype, (threads,), "register")
        u = Var(f"{loop}_{lanes}")
        value = Binary(shared.op, partial[u], Load(partial, (Binary("xor", u, Const(lanes)),)))
        result += [Alloc(following), For(u, threads, (Store(following, (u,), value),), "thread.x")]
        partial = following
    return partial, result


@dataclass(frozen=True, slots=True)
class _Accumulation:
    """What a loop accumulates in one element: ``whole = whole op term``."""

    whole: Load
    op: BinaryOp
    term: Expr

    @property
    def dtype(self) -> DType:
        """Of the element."""
        return self.whole.dtype

    def start(self, partial: Buffer, place: tuple[Expr, ...]) -> Store:
        """The part of a thread that has accumulated nothing."""
        return Store(partial, place, Const(identity(self.op, self.dtype), self.dtype))

    def accumulate(
        self, partial: Buffer, place: tuple[Expr, ...], at: Mapping[Expr, Expr]
    ) -> Store:
        """One more term in the part of a thread, with other variables."""
        term = substitute(self.term, at)
        return Store(partial, place, Binary(self.op, Load(partial, place), term))

    def add(self, part: Expr) -> Store:
        """A part in the element."""
        return Store(self.whole.buffer, self.whole.indices, Binary(self.op, self.whole, part))


def _accumulation(func: Func, loop: For, step: str) -> _Accumulation:
    """The accumulation that is all of a loop's body."""
    store = loop.body[0] if len(loop.body) == 1 else None
    if not isinstance(store, Store) or loop.start != 0:
        raise fail(step, func, "the loop does not hold a single accumulation")
    value, term = accumulated(store, loop, func, step)
    return _Accumulation(Load(store.buffer, store.indices), value.op, term)


def _while_below(position: Expr, extent: Dim, threads: int, body: Block) -> Block:
    """The body for positions that exist, where the last step has fewer than there are threads."""
    if prove(eq(as_expr(extent) % threads, Const(0))) is True:
        return body
    return (If(lt(position, extent), body),)


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
