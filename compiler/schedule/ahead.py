"""Primitives that ask for the operands of the next tiles while the present one is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from ..tensor.ir import Block, Expr, For, Func, Load, Prefetch, Stmt, Var, as_expr
from ..tensor.simplify import dim, substitute, symbols
from ..tensor.walk import block_loads
from .loops import rename_loops
from .nest import edit_loop, fail, find_loop, loops, stores, substitute_block


def prefetch(func: Func, loop: str, buffer: str, distance: int) -> Func:
    """Hints, in each iteration of a loop, at what its body reads ``distance`` iterations later.

    A buffer that the body only writes is asked for where it will be written.

    Before:
        for k in serial(64):
            for j in vector(16):
                B[k, j] = A[k, j]
    After ``prefetch("k", "A", 8)``:
        for k in serial(64):
            for j_ahead in vector(16):
                prefetch(A[k + 8, j_ahead])
            for j in vector(16):
                B[k, j] = A[k, j]

    Raises:
        ScheduleError: the loop does not read the buffer, or reads it in several ways.
    """
    step = f"prefetch({loop!r}, {buffer!r})"
    found = find_loop(func, loop, step)
    reads = {x for x in block_loads(found.body) if x.buffer.name == buffer}
    reads = reads or {
        Load(x.buffer, x.indices) for x in stores(found.body) if x.buffer.name == buffer
    }
    load = _only(reads, func, buffer, step)
    used = _varying(load, found, func, step)
    inner = [x for x in loops(found.body) if x.var in used]
    ahead: dict[Expr, Expr] = {x.var: Var(f"{x.var.name}_ahead") for x in inner}
    ahead[found.var] = found.var + distance
    hint = _over(
        inner, ahead, Prefetch(load.buffer, tuple(substitute(i, ahead) for i in load.indices))
    )

    def edit(it: For) -> Block:
        return (For(it.var, it.extent, (*hint, *it.body), it.kind, it.start),)

    return edit_loop(func, loop, edit, step)


def prefetch_panel(
    func: Func, loop: str, buffer: str, outer: str, position: int, turns: int, rows: int
) -> Func:
    """Hints at the next panel of a buffer, a part in each of ``turns`` runs of a loop.

    The loop is cut in pieces of ``turns * rows`` iterations, and each begins with hints at
    ``rows`` iterations' worth of what the loop reads where the index at ``position`` is one more.
    The runs are told apart by the loop ``outer``: run after run hints at another part, and
    ``turns`` runs at all of it. So a panel that is used by many row tiles and comes from far away
    arrives bit by bit while the one before is multiplied.

    Before:
        for p in serial(8):
            for k in serial(32):
                B[p] = A[p // 4, k]
    After ``prefetch_panel("k", "A", "p", 0, 4, 2)``:
        for p in serial(8):
            for k_o in serial(4):
                for k_n in unroll(2):
                    prefetch(A[p // 4 + 1, k_n + k_o * 2 + p % 4 * 8])
                for k_i in serial(8):
                    B[p] = A[p // 4, k_i + k_o * 8]

    Raises:
        ScheduleError: the loop does not read the buffer in one way that varies with it, does not
            start at 0, or has no constant extent of a piece or more.
    """
    step = f"prefetch_panel({loop!r}, {buffer!r})"
    found = find_loop(func, loop, step)
    around = find_loop(func, outer, step).var
    reads = {x for x in block_loads(found.body) if x.buffer.name == buffer}
    load = _only(reads, func, buffer, step)
    used = _varying(load, found, func, step)
    piece = turns * rows
    if found.start != 0 or not isinstance(found.extent, int) or found.extent < piece:
        raise fail(step, func, f"the loop has no constant extent of {piece} or more")
    count, rest = divmod(found.extent, piece)
    vo, vi, vn, vt = (Var(f"{loop}_{x}") for x in "oint")
    inner = [x for x in loops(found.body) if x.var in used]
    ahead: dict[Expr, Expr] = {x.var: Var(f"{x.var.name}_ahead") for x in inner}
    ahead[found.var] = vn + vo * rows + around % turns * (count * rows)
    indices = [substitute(i, ahead) for i in load.indices]
    indices[position] = indices[position] + 1
    hint = _over(inner, ahead, Prefetch(load.buffer, tuple(indices)))
    hint = (For(vn, rows, hint, "unroll"),)

    def at(place: Expr, v: Var, extent: int, body: Block) -> For:
        return For(v, extent, substitute_block(body, {found.var: place}), found.kind)

    def edit(it: For) -> Block:
        main = at(vo * piece + vi, vi, piece, it.body)
        cut = For(vo, count, (*hint, main), it.kind)
        if not rest:
            return (cut,)
        last = at(vt + as_expr(dim(count * piece)), vt, rest, rename_loops(it.body, "_tail"))
        return (cut, last)

    return edit_loop(func, loop, edit, step)


def prefetch_rows(
    func: Func, loop: str, buffer: str, outer: str, distance: int, line: int, along: Sequence[str]
) -> Func:
    """Hints at what a loop reads of a buffer ``distance`` iterations of an outer loop later.

    The loop is cut in pieces of ``line`` iterations, whose elements lie in one line of the cache,
    and each begins with one hint for each iteration of the loops ``along``: the rows of a tile.
    Where ``outer`` is the loop itself, the hints are at what it reads ``distance`` pieces later.

    Before:
        for p in serial(4):
            for k in serial(32):
                for i in unroll(3):
                    B[p, i] = A[i + p * 3, k]
    After ``prefetch_rows("k", "A", "p", 1, 16, ["i"])``:
        for p in serial(4):
            for k_o in serial(2):
                for i_later in unroll(3):
                    prefetch(A[i_later + p * 3 + 3, k_o * 16])
                for k_i in serial(16):
                    for i in unroll(3):
                        B[p, i] = A[i + p * 3, k_i + k_o * 16]

    Raises:
        ScheduleError: the loop does not read the buffer in one way, does not start at 0, or its
            extent is no multiple of a line.
    """
    step = f"prefetch_rows({loop!r}, {buffer!r})"
    found = find_loop(func, loop, step)
    later = find_loop(func, outer, step).var
    reads = {x for x in block_loads(found.body) if x.buffer.name == buffer}
    load = _only(reads, func, buffer, step)
    if found.start != 0 or not isinstance(found.extent, int) or found.extent % line:
        raise fail(step, func, f"the extent of the loop is no multiple of {line}")
    vo, vi = Var(f"{loop}_o"), Var(f"{loop}_i")
    inner = [x for x in loops(found.body) if x.var in symbols(load)]
    rows = [x for x in inner if x.var.name in along]
    then: dict[Expr, Expr] = {x.var: as_expr(x.start) for x in inner}
    then |= {x.var: Var(f"{x.var.name}_later") for x in rows}
    if later == found.var:
        then |= {found.var: (vo + distance) * line}
    else:
        then |= {found.var: vo * line, later: later + distance}
    hint = _over(
        rows, then, Prefetch(load.buffer, tuple(substitute(i, then) for i in load.indices))
    )

    def edit(it: For) -> Block:
        body = substitute_block(it.body, {found.var: vo * line + vi})
        piece = For(vi, line, body, it.kind)
        return (For(vo, it.extent // line, (*hint, piece), it.kind),)

    return edit_loop(func, loop, edit, step)


def _only(reads: Set[Load], func: Func, buffer: str, step: str) -> Load:
    """The one way in which a buffer is read."""
    if len(reads) != 1:
        raise fail(step, func, f"{buffer!r} is read in {len(reads)} ways")
    (load,) = reads
    return load


def _varying(load: Load, loop: For, func: Func, step: str) -> Set[Var]:
    """The variables that an access goes by, of which the loop's must be one."""
    used = {v for i in load.indices for v in symbols(i)}
    if loop.var not in used:
        raise fail(step, func, f"what is read of {load.buffer.name!r} does not vary with the loop")
    return used


def _over(around: Sequence[For], renamed: Mapping[Expr, Expr], hint: Stmt) -> Block:
    """A hint in loops like those around what is read, under their new names."""
    nest: Block = (hint,)
    for x in reversed(around):
        var = renamed[x.var]
        assert isinstance(var, Var)
        nest = (For(var, x.extent, nest, x.kind, x.start),)
    return nest
