"""Primitives that say where threads keep values: cache_read, spread, interleave, pad_dim."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import dtype as dt
from ..tensor.ir import (
    Alloc,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Func,
    Load,
    Scope,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
    conjunction,
    le,
    lt,
)
from ..tensor.simplify import dim, prove, simplify, symbols
from ..tensor.walk import block_loads, loads, map_block, rewrite_block, substitute
from .nest import edit_loop, fail, find_loop, loop_range, loops
from .place import declared, ranges_to, region_of, resize


def cache_read(func: Func, buffer: str, loop: str, name: str, scope: Scope = "shared") -> Func:
    """Copies what one iteration of a loop reads of a buffer to other memory, at its start.

    The copy is a nest of its own with a loop ``<name>_<k>`` for each dim. Where the region may
    reach past the buffer, the copy holds 0 there; the caller vouches that such elements are not
    used, or are multiplied by 0.

    Before:
        for ko in serial(4):
            for i in serial(8):
                for k in serial(16):
                    B[i] = B[i] + A[i, ko * 16 + k]
    After ``cache_read("A", "ko", "S")``:
        for ko in serial(4):
            S: shared[f32, 8, 16]
            for S_0 in serial(8):
                for S_1 in serial(16):
                    S[S_0, S_1] = A[S_0, S_1 + ko * 16]
            for i in serial(8):
                for k in serial(16):
                    B[i] = B[i] + S[i, k]

    Raises:
        ScheduleError: no such loop, it does not read the buffer, or reads no box of it.
    """
    step = f"cache_read({buffer!r}, {loop!r})"
    target = find_loop(func, loop, step)
    found = {x.buffer for x in block_loads(target.body) if x.buffer.name == buffer}
    if len(found) != 1:
        raise fail(step, func, f"the loop does not read {buffer!r}")
    (old,) = found
    around = {**(ranges_to(func.body, loop) or {}), target.var: loop_range(target)}
    region = region_of(func, old, target, around, step)
    if any(v in around for d in region.extent for v in symbols(as_expr(d))):
        raise fail(step, func, f"what is read of {buffer!r} varies in size")
    copy = Buffer(name, old.dtype, region.extent, scope)
    axes = tuple(Var(f"{name}_{k}") for k in range(len(region.extent)))
    place = tuple(simplify(s + v, around) for s, v in zip(region.start, axes, strict=True))
    own = zip(axes, region.extent, strict=True)
    inner = {**around, **{v: (0, dim(as_expr(d) - 1)) for v, d in own}}
    guards = [
        c
        for i, d in zip(place, old.shape, strict=True)
        for c in (le(0, i), lt(i, d))
        if prove(c, inner) is not True
    ]
    value: Expr = Load(old, place)
    if guards:
        zero = Const(0, old.dtype) if old.dtype is not dt.bool_ else Const(False, dt.bool_)
        value = Select(conjunction(guards), value, zero)
    nest: Block = (Store(copy, axes, value),)
    for v, d in zip(reversed(axes), reversed(region.extent), strict=True):
        nest = (For(v, d, nest),)

    def relative(x: Load) -> Load:
        return Load(copy, (i - s for i, s in zip(x.indices, region.start, strict=True)))

    def read(e: Expr) -> Expr:
        return substitute(e, {x: relative(x) for x in loads(e) if x.buffer == old})

    def edit(it: For) -> Block:
        body = (Alloc(copy), *nest, *rewrite_block(it.body, read))
        return (For(it.var, it.extent, body, it.kind, it.start),)

    return edit_loop(func, loop, edit, step)


def spread(func: Func, buffer: str, dims: Sequence[tuple[int, int]]) -> Func:
    """Cuts dims of a temporary in blocks; the numbers of the blocks become its first dims.

    So each thread's part of it stands by itself.

    Before:
        t: local[f32, 8, 6]
        for i in serial(8):
            for j in serial(6):
                t[i, j] = A[i, j]
    After ``spread("t", ((0, 4), (1, 2)))``:
        t: local[f32, 2, 3, 4, 2]
        for i in serial(8):
            for j in serial(6):
                t[i // 4, j // 2, i % 4, j % 2] = A[i, j]

    Raises:
        ScheduleError: no such temporary, or a block does not divide its dim.
    """
    step = f"spread({buffer!r}, {tuple(dims)})"
    old = declared(func, buffer, step)
    factors = dict(dims)
    front: list[Dim] = []
    for d, factor in dims:
        size = old.shape[d]
        if not isinstance(size, int) or size % factor:
            raise fail(step, func, f"{factor} does not divide dim {d} of {buffer!r}")
        front.append(size // factor)
    back = tuple(factors.get(k, d) for k, d in enumerate(old.shape))
    new = Buffer(old.name, old.dtype, (*front, *back), old.scope)
    ranges = {x.var: loop_range(x) for x in loops(func.body)}

    def place(indices: Sequence[Expr]) -> tuple[Expr, ...]:
        numbers = [indices[d] // factor for d, factor in dims]
        inside = [i % factors[k] if k in factors else i for k, i in enumerate(indices)]
        return tuple(simplify(i, ranges) for i in (*numbers, *inside))

    return relayout(func, old, new, place)


def interleave(func: Func, buffer: str, position: int, threads: int, width: int) -> Func:
    """Deals the vectors of a dim of a temporary out to threads, whose number becomes the first dim.

    The dim ``i`` becomes the thread ``i // width % threads``, the step ``i // width // threads``
    and the element ``i % width``. Each thread may touch its own elements only.

    Before:
        t: local[f32, 8]
        for o in unroll(2):
            for x in thread.x(2):
                for v in vector(2):
                    t[o * 4 + x * 2 + v] = A[o * 4 + x * 2 + v]
    After ``interleave("t", 0, 2, 2)``:
        t: local[f32, 2, 2, 2]
        for o in unroll(2):
            for x in thread.x(2):
                for v in vector(2):
                    t[x, o, v] = A[o * 4 + v + x * 2]

    Raises:
        ScheduleError: no such temporary, its dim is not constant, or a thread touches an element
            of another.
    """
    step = f"interleave({buffer!r}, {position}, {threads}, {width})"
    old = declared(func, buffer, step)
    size = old.shape[position]
    if not isinstance(size, int):
        raise fail(step, func, f"dim {position} of {buffer!r} is not constant")
    steps = -(-size // (threads * width))
    rest = (*old.shape[:position], steps, width, *old.shape[position + 1 :])
    new = Buffer(old.name, old.dtype, (threads, *rest), old.scope)
    ranges = {x.var: loop_range(x) for x in loops(func.body)}
    threaded = {x.var for x in loops(func.body) if x.kind == "thread.x"}

    def place(indices: Sequence[Expr]) -> tuple[Expr, ...]:
        i = indices[position]
        cut = (i // (width * threads), i % width)
        moved = (i // width % threads, *indices[:position], *cut, *indices[position + 1 :])
        whole = tuple(simplify(x, ranges) for x in moved)
        if whole[0] not in threaded:
            raise fail(step, func, f"a thread touches {buffer!r} at {i}, which is not its own")
        return whole

    return relayout(func, old, new, place)


def pad_dim(func: Func, buffer: str, position: int, by: int) -> Func:
    """Makes a dim of a temporary longer; what is added is not used.

    So the elements of a column of shared memory lie in different banks.

    Before:
        t: shared[f32, 32, 32]
        for i in serial(32):
            for j in serial(32):
                t[i, j] = A[i, j]
    After ``pad_dim("t", 1, 1)``:
        t: shared[f32, 32, 33]
        for i in serial(32):
            for j in serial(32):
                t[i, j] = A[i, j]

    Raises:
        ScheduleError: no temporary of that name is declared.
    """
    old = declared(func, buffer, f"pad_dim({buffer!r}, {position}, {by})")
    return resize(func, old, position, as_expr(old.shape[position]) + by)


def relayout(
    func: Func, old: Buffer, new: Buffer, place: Callable[[tuple[Expr, ...]], tuple[Expr, ...]]
) -> Func:
    """Keeps a temporary in another shape; ``place`` says where an element of the old one lies."""

    def read(e: Expr) -> Expr:
        return substitute(e, {x: Load(new, place(x.indices)) for x in loads(e) if x.buffer == old})

    def each(stmt: Stmt) -> Block:
        match stmt:
            case Store() if stmt.buffer == old:
                return (Store(new, place(stmt.indices), stmt.value),)
            case Alloc() if stmt.buffer == old:
                return (Alloc(new),)
        return (stmt,)

    return Func(func.name, func.params, map_block(rewrite_block(func.body, read), each))
