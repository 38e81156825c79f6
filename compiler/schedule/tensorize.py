"""Primitives for instructions that compute a whole nest: tensorize, merge_dims, pipeline."""

from __future__ import annotations

from ..tensor.instructions import INSTRUCTIONS, match
from ..tensor.ir import (
    Alloc,
    Block,
    Buffer,
    Commit,
    Const,
    Expr,
    For,
    Func,
    If,
    Load,
    Stmt,
    Store,
    Wait,
    as_expr,
    lt,
)
from ..tensor.simplify import dim, simplify
from ..tensor.walk import (
    allocations,
    block_loads,
    loads,
    map_block,
    rewrite_block,
    statements,
    stores,
    substitute,
)
from .loops import rename_loops
from .nest import bind, edit_loop, fail, find_loop, loop_range, loops, substitute_block
from .place import declared, ranges_to
from .stage import relayout


def tensorize(func: Func, loop: str, instruction: str) -> Func:
    """Makes a nest one instruction of the machine, which computes the same.

    Before:
        c: fragment[f32, 16, 8]
        a: fragment[f32, 16, 8]
        b: fragment[f32, 8, 8]
        for i in serial(16):
            for j in serial(8):
                for k in serial(8):
                    c[i, j] = c[i, j] + a[i, k] * b[k, j]
    After ``tensorize("i", "mma.m16n8k8.tf32")``:
        c: fragment[f32, 16, 8]
        a: fragment[f32, 16, 8]
        b: fragment[f32, 8, 8]
        for i in instruction(16):
            for j in serial(8):
                for k in serial(8):
                    c[i, j] = c[i, j] + a[i, k] * b[k, j]

    Raises:
        ScheduleError: no such loop or instruction, or the nest computes something else.
    """
    step = f"tensorize({loop!r}, {instruction!r})"
    found = find_loop(func, loop, step)
    wanted = INSTRUCTIONS.get(instruction)
    if wanted is None:
        raise fail(step, func, f"there are {', '.join(INSTRUCTIONS)}")
    if match(wanted, found, ranges_to(func.body, loop)) is None:
        raise fail(step, func, "the nest is not what the instruction computes")

    def edit(it: For) -> Block:
        return (For(it.var, it.extent, it.body, "instruction"),)

    return edit_loop(func, loop, edit, step)


def merge_dims(func: Func, buffer: str, position: int) -> Func:
    """Makes one dim of two of a temporary that follow each other.

    Before:
        t: local[f32, 2, 4]
        for i in serial(8):
            t[i // 4, i % 4] = A[i]
    After ``merge_dims("t", 0)``:
        t: local[f32, 8]
        for i in serial(8):
            t[i] = A[i]

    Raises:
        ScheduleError: no such temporary, or it has no such dims.
    """
    step = f"merge_dims({buffer!r}, {position})"
    old = declared(func, buffer, step)
    if not 0 <= position < len(old.shape) - 1:
        raise fail(step, func, f"{buffer!r} has no dims {position} and {position + 1}")
    inner = old.shape[position + 1]
    size = dim(as_expr(old.shape[position]) * inner)
    shape = (*old.shape[:position], size, *old.shape[position + 2 :])
    new = Buffer(old.name, old.dtype, shape, old.scope)
    ranges = {x.var: loop_range(x) for x in loops(func.body)}

    def place(indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        joined = simplify(indices[position] * inner + indices[position + 1], ranges)
        return (*indices[:position], joined, *indices[position + 2 :])

    return relayout(func, old, new, place)


def pipeline(func: Func, loop: str, stages: int) -> Func:
    """Starts the copies of a loop's later iterations before it works on an iteration's own.

    The copies are the nests at the start of the body that fill what the body declares in shared
    memory. There are ``stages`` of each buffer, which take turns. Copies that instructions make
    in the background are waited for at the end of the iteration before they are needed. A loop
    of one iteration has no later ones: it only waits.

    Before:
        for k in serial(6):
            S: shared[f32, 8]
            for t in thread.x(8):
                S[t] = A[k * 8 + t]
            for u in thread.x(8):
                B[u] = B[u] + S[7 - u]
    After ``pipeline("k", 2)``:
        S: shared[f32, 2, 8]
        for t_0 in thread.x(8):
            S[0, t_0] = A[t_0]
        commit()
        wait(0)
        for k in serial(6):
            if k + 1 < 6:
                for t in thread.x(8):
                    S[(k + 1) % 2, t] = A[k * 8 + t + 8]
            commit()
            for u in thread.x(8):
                B[u] = B[u] + S[k % 2, 7 - u]
            wait(0)

    Raises:
        ScheduleError: no such loop, it is not serial from 0, fewer than two stages, or the body
            does not begin with copies.
    """
    step = f"pipeline({loop!r}, {stages})"
    target = find_loop(func, loop, step)
    if target.kind != "serial" or target.start != 0 or stages < 2:
        raise fail(step, func, "the loop is not serial from 0, or there are fewer than two stages")
    shared = [b for b in allocations(target.body) if b.scope == "shared"]
    allocated: list[Stmt] = [Alloc(b) for b in shared]
    copies = tuple(s for s in target.body if isinstance(s, For) and _fills(s, shared))
    rest = tuple(s for s in target.body if not any(s is c for c in copies) and s not in allocated)
    if not copies or any(s.buffer in shared for s in stores(rest)):
        raise fail(step, func, "the body does not begin with copies to shared memory")
    if any(x.buffer in shared for x in block_loads(copies)):
        raise fail(step, func, "a copy needs another")
    if target.extent == 1:
        once = substitute_block((*copies, Commit(), Wait(0), *rest), bind(target.var, 0))
        return edit_loop(func, loop, lambda _: (*map(Alloc, shared), *once), step)
    staged = {b: Buffer(b.name, b.dtype, (stages, *b.shape), b.scope) for b in shared}

    def at(block: Block, iteration: Expr) -> Block:
        """Statements of an iteration, on its stage of each buffer."""
        which = simplify(iteration % stages)

        def read(e: Expr) -> Expr:
            found: dict[Expr, Expr] = {
                x: Load(staged[x.buffer], (which, *x.indices))
                for x in loads(e)
                if x.buffer in staged
            }
            return substitute(e, found)

        def each(stmt: Stmt) -> Block:
            if isinstance(stmt, Store) and stmt.buffer in staged:
                return (Store(staged[stmt.buffer], (which, *stmt.indices), stmt.value),)
            return (stmt,)

        new = bind(target.var, iteration)
        block = substitute_block(block, new) if iteration is not target.var else block
        return map_block(rewrite_block(block, read), each)

    body: list[Stmt] = []
    ahead = target.var + (stages - 1)
    body.append(If(lt(ahead, target.extent), at(copies, ahead)))
    body += [Commit(), *at(rest, target.var), Wait(stages - 2)]
    before: list[Stmt] = [Alloc(b) for b in staged.values()]
    for k in range(stages - 1):
        first = rename_loops(at(copies, Const(k)), f"_{k}")
        known = isinstance(target.extent, int) and k < target.extent
        before += first if known else (If(lt(k, as_expr(target.extent)), first),)
        before.append(Commit())
    before.append(Wait(stages - 2))

    def edit(it: For) -> Block:
        return (*before, For(it.var, it.extent, tuple(body)))

    return edit_loop(func, loop, edit, step)


def _fills(nest: For, shared: list[Buffer]) -> bool:
    """Whether a nest does nothing but fill buffers of a list."""
    return all(s.buffer in shared for s in stores((nest,))) and not any(
        isinstance(s, Alloc) for s in statements((nest,))
    )
