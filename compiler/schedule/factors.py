"""Primitives for sums of products: stage, drop_guards, widen.

What a factor reads is copied to memory near the threads, for many iterations at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import dtype as dt
from ..dtype import DType
from ..tensor.access import flat_index
from ..tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    Cast,
    Const,
    Expr,
    For,
    Func,
    If,
    Load,
    Scope,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    conjunction,
)
from ..tensor.simplify import Ranges, same_dim, simplify, symbols
from ..tensor.walk import map_block, stores, substitute
from .loops import conjuncts
from .nest import bind, edit_loop, fail, find_loop, loop_range, loops
from .place import ranges_to


@dataclass(frozen=True, slots=True)
class _Product:
    """The accumulation ``s[...] = s[...] + a * b`` in a loop, and the guards around it."""

    store: Store
    factors: tuple[Expr, Expr]
    guards: tuple[Expr, ...]


def _product_of(func: Func, loop: For, step: str) -> _Product:
    found = [(s, g) for s, g in _guarded_stores(loop.body) if _factors(s) is not None]
    if len(found) != 1:
        raise fail(step, func, "the loop does not hold one sum of products")
    store, guards = found[0]
    factors = _factors(store)
    assert factors is not None
    return _Product(store, factors, guards)


def _factors(s: Store) -> tuple[Expr, Expr] | None:
    """Both factors of ``s = s + a * b``; None for any other store."""
    own = Load(s.buffer, s.indices)
    match s.value:
        case Binary(op="add", a=old, b=Binary(op="mul", a=a, b=b)) if old is own:
            return a, b
    return None


def _guarded_stores(
    block: Block, around: tuple[Expr, ...] = ()
) -> Iterator[tuple[Store, tuple[Expr, ...]]]:
    """Every store, with the conditions of the branches around it."""
    for stmt in block:
        match stmt:
            case Store():
                yield stmt, around
            case For():
                yield from _guarded_stores(stmt.body, around)
            case If():
                yield from _guarded_stores(stmt.then, (*around, *conjuncts(stmt.cond)))
                yield from _guarded_stores(stmt.orelse, (*around, Unary("not", stmt.cond)))


def _bare(e: Expr) -> tuple[Expr, tuple[Expr, ...], tuple[DType, ...]]:
    """A factor without its guards and conversions: it is 0 where a guard fails, whatever else."""
    guards: list[Expr] = []
    casts: list[DType] = []
    while True:
        match e:
            case Select(b=Const(value=0)):
                guards += conjuncts(e.cond)
                e = e.a
            case Cast() if e.dtype.is_float and e.x.dtype.is_float:
                casts.append(e.dtype)
                e = e.x
            case _:
                return e, tuple(dict.fromkeys(guards)), tuple(reversed(casts))


def stage(
    func: Func,
    loop: str,
    side: int,
    name: str,
    axes: Sequence[str],
    scope: Scope = "shared",
    pad: int = 0,
) -> Func:
    """Keeps a factor of a sum of products for all iterations of inner loops, in other memory.

    The copy is a nest of its own, with a loop ``<name>_<k>`` for each axis, before the loops that
    use it. It holds 0 where a guard of the factor fails, and the guards are gone from the loops;
    conversions of the factor stay there. Guards of the whole product are kept in both places
    (see ``drop_guards``). The last dim may be longer by some elements that nobody uses.

    Before:
        for ko in serial(4):
            for i in serial(8):
                for k in serial(16):
                    if ko * 16 + k < 60:
                        B[i] = B[i] + A[i, ko * 16 + k] * C[ko * 16 + k]
    After ``stage("ko", 0, "S", ("k", "i"))``:
        for ko in serial(4):
            S: shared[f32, 16, 8]
            for S_0 in serial(16):
                for S_1 in serial(8):
                    S[S_0, S_1] = select(S_0 + ko * 16 < 60, A[S_1, S_0 + ko * 16], 0.0)
            for i in serial(8):
                for k in serial(16):
                    if k + ko * 16 < 60:
                        B[i] = B[i] + S[k, i] * C[k + ko * 16]

    Args:
        side: 0 for the first factor, 1 for the second.
        axes: the loops that index the copy, in the order of its dims.
        pad: elements to add to the last dim.

    Raises:
        ScheduleError: no such loop, it holds no sum of products, an axis has no constant extent
            from 0, or the factor varies along a loop that is no axis.
    """
    step = f"stage({loop!r}, {side}, {name!r})"
    target = find_loop(func, loop, step)
    update = _product_of(func, target, step)
    inner = {x.var: x for x in loops(target.body)}
    by_name = {x.var.name: x for x in inner.values()}
    if any(a not in by_name for a in axes):
        raise fail(step, func, f"not all of {tuple(axes)} are loops inside")
    chosen = [by_name[a] for a in axes]
    if any(x.start != 0 or not isinstance(x.extent, int) for x in chosen):
        raise fail(step, func, "an axis has no constant extent from 0")
    value, guards, casts = _bare(update.factors[side])
    along = {x.var for x in chosen}
    if (symbols(value) | {v for g in guards for v in symbols(g)}) & inner.keys() - along:
        raise fail(step, func, "the factor varies along a loop that is no axis")
    shared = [g for g in update.guards if not symbols(g) & inner.keys() - along]
    guards = tuple(dict.fromkeys((*guards, *shared)))
    if guards:
        zero = Const(0, value.dtype) if value.dtype is not dt.bool_ else Const(False, dt.bool_)
        value = Select(conjunction(guards), value, zero)
    own = tuple(Var(f"{name}_{k}") for k in range(len(chosen)))
    shape = [int(x.extent) for x in chosen if isinstance(x.extent, int)]
    ranges = {**(ranges_to(func.body, loop) or {}), target.var: loop_range(target)}
    ranges |= {v: (0, n - 1) for v, n in zip(own, shape, strict=True)}
    value = substitute(value, dict(zip((x.var for x in chosen), own, strict=True)))
    copy = Buffer(name, value.dtype, (*shape[:-1], shape[-1] + pad), scope)
    nest: Block = (Store(copy, own, simplify(value, ranges)),)
    for v, n in zip(reversed(own), reversed(shape), strict=True):
        nest = (For(v, n, nest),)
    used: Expr = Load(copy, (x.var for x in chosen))
    for kind in casts:
        used = Cast(used, kind)
    factors = (used, update.factors[1]) if side == 0 else (update.factors[0], used)
    total = Load(update.store.buffer, update.store.indices) + factors[0] * factors[1]

    def each(stmt: Stmt) -> Block:
        if isinstance(stmt, Store) and stmt == update.store:
            return (Store(stmt.buffer, stmt.indices, total),)
        return (stmt,)

    def edit(it: For) -> Block:
        body = (Alloc(copy), *nest, *map_block(it.body, each))
        return (For(it.var, it.extent, body, it.kind, it.start),)

    return edit_loop(func, loop, edit, step)


def drop_guards(func: Func, loop: str) -> Func:
    """Drops guards of a sum of products where both factors are 0 wherever a guard fails.

    Both must be kept by ``stage`` inside the loop, whose copies know where they are 0.

    Before:
        for ko in serial(4):
            S: shared[f32, 16]
            for s in serial(16):
                S[s] = select(s + ko * 16 < 60, A[s + ko * 16], 0.0)
            for k in serial(16):
                if k + ko * 16 < 60:
                    B[0] = B[0] + S[k] * S[k]
    After ``drop_guards("ko")``:
        for ko in serial(4):
            S: shared[f32, 16]
            for s in serial(16):
                S[s] = select(ko * 16 + s < 60, A[ko * 16 + s], 0.0)
            for k in serial(16):
                B[0] = B[0] + S[k] * S[k]

    Raises:
        ScheduleError: a factor may be anything where a guard fails.
    """
    step = f"drop_guards({loop!r})"
    target = find_loop(func, loop, step)
    update = _product_of(func, target, step)
    inner = {x.var: loop_range(x) for x in loops(target.body)}
    ranges = {**(ranges_to(func.body, loop) or {}), target.var: loop_range(target), **inner}
    zeros = [_zero_unless(target.body, f, ranges) for f in update.factors]
    for guard in update.guards:
        if any(simplify(guard, ranges) not in z for z in zeros):
            raise fail(step, func, "a factor may be anything where a guard fails")

    def each(stmt: Stmt) -> Block:
        return stmt.then if isinstance(stmt, If) and update.store in stmt.then else (stmt,)

    def edit(it: For) -> Block:
        body = it.body
        while (new := map_block(body, each)) != body:
            body = new
        return (For(it.var, it.extent, body, it.kind, it.start),)

    return edit_loop(func, loop, edit, step) if update.guards else func


def _zero_unless(block: Block, factor: Expr, ranges: Ranges) -> set[Expr]:
    """The conditions without which a factor is 0, by the nest that fills what it reads."""
    value, guards, _ = _bare(factor)
    found = {simplify(g, ranges) for g in guards}
    if not isinstance(value, Load):
        return found
    for s in stores(block):
        if s.buffer == value.buffer and all(isinstance(i, Var) for i in s.indices):
            _, own, _ = _bare(s.value)
            at: dict[Expr, Expr] = dict(zip(s.indices, value.indices, strict=True))
            found |= {simplify(substitute(g, at), ranges) for g in own}
    return found


def widen(func: Func, loop: str, width: int) -> Func:
    """Cuts the last loop of a copy so that ``width`` neighbours are copied by one access.

    A guard must hold for all of them or for none; it no longer varies with the neighbour.

    Before:
        S: shared[f32, 16]
        for i in serial(16):
            S[i] = select(i + 32 < 40, A[i + 32], 0.0)
    After ``widen("i", 4)``:
        S: shared[f32, 16]
        for i in serial(4):
            for i_v in vector(4):
                S[i * 4 + i_v] = select(i * 4 + 32 < 40, A[i * 4 + i_v + 32], 0.0)

    Raises:
        ScheduleError: no such loop, its extent is no multiple, it holds more than one store, or
            a guard may change within a vector.
    """
    step = f"widen({loop!r}, {width})"
    target = find_loop(func, loop, step)
    store = target.body[0]
    if len(target.body) != 1 or not isinstance(store, Store):
        raise fail(step, func, "the loop holds more than one store")
    if not isinstance(target.extent, int) or target.extent % width or target.start != 0:
        raise fail(step, func, f"{width} does not divide the extent {target.extent}")
    ranges = {**(ranges_to(func.body, loop) or {}), target.var: (0, target.extent // width - 1)}
    value, guards, casts = _bare(store.value)
    if casts:
        raise fail(step, func, "the copy converts")
    start = target.var * width
    firsts = [uniform_guard(g, target.var, width, ranges) for g in guards]
    if any(g is None for g in firsts):
        raise fail(step, func, "a guard may change within a vector")
    cond = conjunction(g for g in firsts if g is not None)

    v = Var(f"{loop}_v")
    at = bind(target.var, start + v)
    whole = substitute(value, at)
    if guards:
        whole = Select(cond, whole, Const(0, store.buffer.dtype))
    place = tuple(substitute(i, at) for i in store.indices)
    vector = For(v, width, (Store(store.buffer, place, whole),), "vector")

    def edit(it: For) -> Block:
        return (For(it.var, it.extent // width, (vector,), it.kind),)

    return edit_loop(func, loop, edit, step)


def uniform_guard(guard: Expr, var: Var, width: int, ranges: Ranges) -> Expr | None:
    """The guard of a whole vector ``var * width + v``; None where it may change with v."""
    if var not in symbols(guard):
        return guard
    v = Var(".v")
    return at_first(substitute(guard, bind(var, var * width + v)), v, width, ranges)


def at_first(guard: Expr, var: Var, width: int, ranges: Ranges) -> Expr | None:
    """The guard where ``var`` is 0; None where it may change with it, up to ``width``."""
    if var not in symbols(guard):
        return guard
    first = substitute(guard, bind(var, 0))
    if not (isinstance(guard, Binary) and guard.op in ("lt", "le")):
        return None
    low, high = simplify(first.operands[0], ranges), simplify(first.operands[1], ranges)
    moved = [simplify(substitute(x, bind(var, var + 1)) - x) for x in guard.operands]
    slopes = [int(x.value) if isinstance(x, Const) else None for x in moved]
    multiple = all(same_dim(simplify(x % width, ranges), 0) for x in (low, high))
    # 0 <= a * 8 + v and a * 8 + v < b * 8 do not depend on v in 0..7.
    rising = (guard.op, slopes) in (("lt", [1, 0]), ("le", [0, 1]))
    return simplify(first, ranges) if multiple and rising else None


def vector_width(func: Func, loop: str, most: int) -> int:
    """How many neighbours of a copy's last loop one access may read: a power of two.

    They lie side by side, aligned to their common size, and ``widen`` can cut the loop so.

    Args:
        most: bytes that one access reads at most.
    """
    step = f"vector_width({loop!r})"
    target = find_loop(func, loop, step)
    store = target.body[0]
    if len(target.body) != 1 or not isinstance(store, Store) or target.start != 0:
        return 1
    value, guards, casts = _bare(store.value)
    if casts or not isinstance(value, Load) or not isinstance(target.extent, int):
        return 1
    around = {**(ranges_to(func.body, loop) or {}), target.var: loop_range(target)}
    at = flat_index(value, around)
    if not same_dim(simplify(substitute(at, bind(target.var, target.var + 1)) - at), 1):
        return 1
    width = most // value.dtype.bytes
    while width > 1:
        ranges = {**around, target.var: (0, target.extent // width - 1)}
        start = substitute(at, bind(target.var, target.var * width))
        if (
            target.extent % width == 0
            and same_dim(simplify(start % width, ranges), 0)
            and all(uniform_guard(g, target.var, width, ranges) is not None for g in guards)
        ):
            return width
        width //= 2
    return 1


def level_guards(func: Func, loop: str) -> Func:
    """Takes the guards of a loop out of it, where they hold for all of its iterations or none.

    Before:
        for i in serial(16):
            for v in vector(4):
                if i * 4 + v < 40:
                    B[i * 4 + v] = A[i * 4 + v]
    After ``level_guards("v")``:
        for i in serial(16):
            if i * 4 < 40:
                for v in vector(4):
                    B[i * 4 + v] = A[i * 4 + v]

    Raises:
        ScheduleError: no such loop, or its extent is not constant.
    """
    step = f"level_guards({loop!r})"
    target = find_loop(func, loop, step)
    if not isinstance(target.extent, int) or target.start != 0:
        raise fail(step, func, "its extent is not constant from 0")
    width, around = target.extent, ranges_to(func.body, loop) or {}

    def edit(it: For) -> Block:
        body, conditions = it.body, []
        while len(body) == 1 and isinstance(body[0], If) and not body[0].orelse:
            cond = at_first(body[0].cond, it.var, width, around)
            if cond is None:
                break
            conditions.append(cond)
            body = body[0].then
        new: Block = (For(it.var, it.extent, body, it.kind),)
        for cond in reversed(conditions):
            new = (If(cond, new),)
        return new

    return edit_loop(func, loop, edit, step)
