"""A primitive that ends a loop where it has done all that it does: narrow."""

from __future__ import annotations

from dataclasses import replace

from ..tensor.ir import Alloc, Block, Buffer, For, Func, If, Var
from ..tensor.simplify import prove, simplify
from ..tensor.walk import block_loads, replace_block_buffers
from .nest import edit_loop, fail, find_loop, loops, stores


def narrow(func: Func, loop: str, multiple: int) -> Func:
    """Ends a loop after the last iterations that do something, a multiple of them in all.

    Temporaries of which the loop reads one element in each iteration are then as long as it, and
    so are the loops that fill them.

    Before:
        s: register[f32, 64]
        for z in vector(64):
            s[z] = 0.0
        for k in serial(8):
            for j in vector(64):
                s[j] = s[j] + A[k, j]
        for i in vector(64):
            if i < 21:
                B[i] = s[i]
    After ``narrow("i", 16)``:
        s: register[f32, 32]
        for z in vector(32):
            s[z] = 0.0
        for k in serial(8):
            for j in vector(32):
                s[j] = s[j] + A[k, j]
        for i in vector(32):
            if i < 21:
                B[i] = s[i]

    Raises:
        ScheduleError: the loop does something in each iteration, or in none, or something else
            needs what is left out.
    """
    step = f"narrow({loop!r}, {multiple})"
    found = find_loop(func, loop, step)
    extent = found.extent
    if found.start != 0 or not isinstance(extent, int):
        raise fail(step, func, "the loop does not have a constant number of iterations")
    used = next((n for n in range(0, extent, multiple) if _is_idle(found, n, extent)), extent)
    if not 0 < used < extent:
        raise fail(step, func, f"the loop does something in {used} of {extent} iterations")
    cut: dict[Buffer, int] = {}
    for x in block_loads(found.body):
        at = [simplify(i) for i in x.indices]
        if x.buffer.scope == "register" and found.var in at:
            cut[x.buffer] = at.index(found.var)
    cut = {b: position for b, position in cut.items() if b.shape[position] == extent}

    def visit(block: Block) -> Block:
        if not any(x.var is found.var for x in loops(block)):
            return block
        visited: Block = ()
        for stmt in block:
            match stmt:
                case For():
                    stmt = replace(stmt, body=visit(stmt.body))
                case If():
                    stmt = If(stmt.cond, visit(stmt.then), visit(stmt.orelse))
            visited = (*visited, stmt)
        for b, position in cut.items():
            if Alloc(b) not in visited:
                continue
            shorter = _shorten(visited, b, position, used, found.var)
            if shorter is None:
                raise fail(step, func, f"something else needs all of {b.name!r}")
            visited = shorter
        return visited

    func = Func(func.name, func.params, visit(func.body))
    return edit_loop(func, loop, lambda it: (replace(it, extent=used),), step)


def _is_idle(loop: For, start: int, end: int) -> bool:
    """Whether a loop does nothing in the iterations of a range."""
    ranges = {loop.var: (start, end - 1)}
    return all(
        isinstance(s, If) and not s.orelse and prove(s.cond, ranges) is False for s in loop.body
    )


def _shorten(block: Block, b: Buffer, position: int, extent: int, reader: Var) -> Block | None:
    """The block with fewer elements of a buffer along a dim, and the loops that fill them.

    None where it is used otherwise: by more than these loops and the reader's, or not by all of
    an iteration of theirs.
    """
    places = [x.indices for x in block_loads(block) if x.buffer == b]
    places += [x.indices for x in stores(block) if x.buffer == b]
    used = [simplify(at[position]) for at in places]
    filling = {x.var: x for x in loops(block) if x.var in used and x.var is not reader}
    for loop in filling.values():
        others = any(x.buffer != b for x in stores(loop.body))
        if others or loop.start != 0 or loop.extent != b.shape[position]:
            return None
    if any(i is not reader and i not in filling for i in used):
        return None

    def visit(block: Block) -> Block:
        visited: Block = ()
        for stmt in block:
            match stmt:
                case For():
                    length = extent if stmt.var in filling else stmt.extent
                    stmt = replace(stmt, extent=length, body=visit(stmt.body))
                case If():
                    stmt = If(stmt.cond, visit(stmt.then), visit(stmt.orelse))
            visited = (*visited, stmt)
        return visited

    shape = (*b.shape[:position], extent, *b.shape[position + 1 :])
    return replace_block_buffers(visit(block), {b: Buffer(b.name, b.dtype, shape, b.scope)})
