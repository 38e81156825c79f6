"""Loop nests that are no expressions: scatter, top-k, running sums, as kernels of threads.

Each nest at the top becomes a kernel of its own, since only a launch orders all threads. In it,
the loops whose iterations are proven independent are shared among threads; each thread runs the
others in order.
"""

from __future__ import annotations

from ....tensor.independence import is_independent
from ....tensor.ir import (
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    Func,
    If,
    Let,
    Stmt,
    Store,
    Var,
    as_expr,
    lt,
)
from ....tensor.simplify import ceildiv, product, symbols
from ....tensor.walk import expressions, free_vars, loads, statements
from ...nest import simplify_func, substitute_block

THREADS = 128


def irregular(func: Func) -> tuple[Func, ...]:
    """The kernels that compute what a function computes, in the order of their calls."""
    if not func.body or not all(isinstance(s, For) for s in func.body):
        return (func,)
    if len(func.body) == 1:
        return (simplify_func(Func(func.name, func.params, _shared(func.body))),)
    return tuple(
        simplify_func(_part(f"{func.name}_{k}", func, _shared((nest,))))
        for k, nest in enumerate(func.body)
    )


def _part(name: str, func: Func, body: Block) -> Func:
    """A kernel of some statements, with the parameters that they need."""
    used: set[Buffer] = set()
    variables: set[Var] = set()
    for stmt in statements(body):
        for e in expressions(stmt):
            used |= {x.buffer for x in loads(e)}
            variables |= free_vars(e)
        if isinstance(stmt, Store):
            used.add(stmt.buffer)
    for b in used:
        for d in b.shape:
            variables |= symbols(d)
    params = [p for p in func.params if (p in used if isinstance(p, Buffer) else p in variables)]
    return Func(name, tuple(params), body)


def _shared(body: Block) -> Block:
    """A nest with its independent loops bound to blocks and threads."""
    if len(body) != 1 or not isinstance(body[0], For):
        return body
    spine, lets, inner = _spine(body[0])
    written = {s.buffer for s in statements(inner) if isinstance(s, Store)}
    if any(x.buffer in written for s in lets for x in loads(s.value)):
        spine, lets, inner = [body[0]], [], body[0].body
    free: list[For] = []
    rest = list(spine)
    bound = {x.var for x in spine} | {s.var for s in lets}
    for loop in spine:
        if (symbols(loop.extent) | symbols(loop.start)) & bound:
            continue
        others = [x for x in rest if x is not loop]
        if is_independent(For(loop.var, loop.extent, _nest(others, (*lets, *inner)))):
            free.append(loop)
            rest = others
    if not free:
        return body
    return _bound(free, _nest(rest, (*lets, *inner)))


def _spine(loop: For) -> tuple[list[For], list[Let], Block]:
    """The loops around a body, each alone in the one before but for names of values."""
    spine, lets = [loop], list[Let]()
    while True:
        body = spine[-1].body
        here = [s for s in body if isinstance(s, Let)]
        others = [s for s in body if not isinstance(s, Let)]
        if len(others) != 1 or not isinstance(others[0], For) or others[0].kind != "serial":
            return spine, lets, body
        if body[-1] is not others[0] or any(isinstance(s, Alloc) for s in body):
            return spine, lets, body
        lets += here
        spine.append(others[0])


def _nest(loops: list[For], body: Block) -> Block:
    for x in reversed(loops):
        body = (For(x.var, x.extent, body, x.kind, x.start),)
    return body


def _bound(free: list[For], body: Block) -> Block:
    """One iteration of all the free loops a thread."""
    total = product(x.extent for x in free)
    names = {x.var.name for x in free}
    block, thread = (_name(n, names) for n in ("block", "thread"))
    position = block * THREADS + thread
    mapping: dict[Expr, Expr] = {}
    rest: Expr = position
    for k, x in enumerate(reversed(free)):
        last = k == len(free) - 1
        mapping[x.var] = (rest if last else rest % as_expr(x.extent)) + x.start
        rest = rest // as_expr(x.extent)
    stmt: Stmt = If(lt(position, as_expr(total)), substitute_block(body, mapping))
    threads = For(thread, THREADS, (stmt,), "thread.x")
    return (For(block, ceildiv(total, THREADS), (threads,), "block.x"),)


def _name(wanted: str, taken: set[str]) -> Var:
    while wanted in taken:
        wanted += "_"
    return Var(wanted)
