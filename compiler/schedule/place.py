"""Primitives that say where values are computed and kept: set_scope, compute_at, rfactor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import dtype as dt
from ..dtype import Kind
from ..tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
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
from ..tensor.simplify import (
    Ranges,
    affine,
    ceildiv,
    dim,
    prove,
    same_dim,
    simplify,
    substitute,
    symbols,
)
from ..tensor.walk import block_loads, expressions, loads, replace_loads, statements, visit
from .loops import conjuncts
from .nest import (
    edit_loop,
    fail,
    find_loop,
    loop_range,
    loops,
    map_block,
    simplify_update,
    stores,
)

Spans = Mapping[Var, tuple[Dim, Dim]]
"""Inclusive ranges of loop variables, with both ends."""


def set_scope(func: Func, buffer: str, scope: Scope) -> Func:
    """Keeps a temporary in another memory; the values stay the same.

    Raises:
        ScheduleError: no temporary of that name is declared.
    """
    old = declared(func, buffer, "set_scope")
    return replace_buffer(func, old, Buffer(old.name, old.dtype, old.shape, scope))


def declared(func: Func, name: str, step: str) -> Buffer:
    """The temporary of that name.

    Raises:
        ScheduleError: there is none.
    """
    todo: list[Stmt] = list(func.body)
    while todo:
        stmt = todo.pop()
        match stmt:
            case Alloc() if stmt.buffer.name == name:
                return stmt.buffer
            case For():
                todo.extend(stmt.body)
            case If():
                todo.extend(stmt.then + stmt.orelse)
    raise fail(step, func, f"no temporary is named {name!r}")


def replace_buffer(func: Func, old: Buffer, new: Buffer) -> Func:
    """Replaces a buffer by another of the same rank everywhere."""

    def expr(e: Expr) -> Expr:
        return replace_loads(e, {old: new}) if any(x.buffer == old for x in loads(e)) else e

    body = map_block(func.body, expr, lambda b: new if b == old else b)
    params = tuple(new if p == old else p for p in func.params)
    return Func(func.name, params, body)


def resize(func: Func, old: Buffer, position: int, extent: Expr) -> Func:
    """Gives one dim of a temporary another extent."""
    shape = (*old.shape[:position], dim(extent), *old.shape[position + 1 :])
    return replace_buffer(func, old, Buffer(old.name, old.dtype, shape, old.scope))


def align_dim(func: Func, buffer: str, position: int, multiple: int) -> Func:
    """Rounds a dim of a temporary up to a multiple; what is added is not used.

    So every row begins at a vector's boundary, and no vector lies across two lines.

    Before:
        t: local[f32, 6, 197]
        for i in serial(6):
            for j in serial(197):
                t[i, j] = A[i, j]
    After ``align_dim("t", 1, 16)``:
        t: local[f32, 6, 208]
        for i in serial(6):
            for j in serial(197):
                t[i, j] = A[i, j]

    Raises:
        ScheduleError: no temporary of that name is declared.
    """
    old = declared(func, buffer, f"align_dim({buffer!r}, {position})")
    return resize(func, old, position, as_expr(ceildiv(old.shape[position], multiple)) * multiple)


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a buffer that a consumer reads: start and extent per dim.

    Attributes:
        start, extent: per dim.
        masked: whether reads under a condition may lie before the buffer, and so the start.
    """

    start: tuple[Expr, ...]
    extent: tuple[Dim, ...]
    masked: bool = False


def compute_at(func: Func, buffer: str, loop: str) -> Func:
    """Computes a temporary inside a loop of its consumer, just the part that one iteration reads.

    The nests that produce the temporary move to the front of the loop's body, their loops
    shrink to the region that the iteration reads, and the buffer shrinks with them.

    Before:
        t: local[f32, 64]
        for i in serial(64):
            t[i] = A[i] * 2.0
        for jo in serial(8):
            for ji in serial(8):
                B[jo * 8 + ji] = t[jo * 8 + ji]
    After ``compute_at("t", "jo")``:
        for jo in serial(8):
            t: local[f32, 8]
            for i in serial(8):
                t[i] = A[i + jo * 8] * 2.0
            for ji in serial(8):
                B[ji + jo * 8] = t[ji]

    Raises:
        ScheduleError: no such temporary or loop, something outside the loop reads it, a
            producing loop has been split already or does not cover the temporary, or the region
            is not a box.
    """
    step = f"compute_at({buffer!r}, {loop!r})"
    old = declared(func, buffer, step)
    target = find_loop(func, loop, step)
    producers = [s for s in func.body if isinstance(s, For | Store) and _writes(s, old)]
    if not producers or Alloc(old) not in func.body:
        raise fail(step, func, f"{buffer!r} is not produced by nests of its own at the top")
    others = tuple(s for s in func.body if not any(s is p for p in producers))
    if any(_contains(p, target) for p in producers) or any(_writes(s, old) for s in others):
        raise fail(step, func, f"{buffer!r} is written by what reads it")
    hollow = edit_loop(Func(func.name, (), others), loop, lambda _: (), step)
    if any(x.buffer == old for x in block_loads(hollow.body)):
        raise fail(step, func, f"{buffer!r} is read outside the loop")
    around = ranges_to(func.body, loop) or {}
    region = region_of(func, old, target, around, step)
    new = Buffer(old.name, old.dtype, region.extent, old.scope)
    around = {**around, target.var: loop_range(target)}
    moved: list[Stmt] = [Alloc(new)]
    for nest in producers:
        moved += _shrink(func, nest, old, region, around, step)

    def relative(load: Load) -> Load:
        return Load(new, (i - s for i, s in zip(load.indices, region.start, strict=True)))

    def consume(e: Expr) -> Expr:
        return substitute(e, {x: relative(x) for x in loads(e) if x.buffer == old})

    def edit(it: For) -> Block:
        body = map_block(it.body, consume)
        moved_block = map_block(tuple(moved), lambda e: e, lambda b: new if b == old else b)
        moved_block = map_block(moved_block, lambda e: _retarget(e, old, new))
        return (For(it.var, it.extent, (*moved_block, *body), it.kind, it.start),)

    dropped = {id(p) for p in producers}
    kept = tuple(s for s in func.body if id(s) not in dropped and s != Alloc(old))
    return edit_loop(Func(func.name, func.params, kept), loop, edit, step)


def _retarget(e: Expr, old: Buffer, new: Buffer) -> Expr:
    """Loads of the producer's own accumulator keep their (already local) indices."""
    return substitute(e, {x: Load(new, x.indices) for x in loads(e) if x.buffer == old})


def _writes(stmt: Stmt, buffer: Buffer) -> bool:
    return any(s.buffer == buffer for s in stores((stmt,)))


def _contains(stmt: Stmt, loop: For) -> bool:
    return any(x is loop or x == loop for x in loops((stmt,)))


def ranges_to(block: Block, name: str) -> dict[Var, tuple[Dim, Dim]] | None:
    """The ranges of the loops around the loop of that name."""
    for stmt in block:
        match stmt:
            case For() if stmt.var.name == name:
                return {}
            case For():
                below = ranges_to(stmt.body, name)
                if below is not None:
                    return {stmt.var: loop_range(stmt), **below}
            case If():
                for branch in (stmt.then, stmt.orelse):
                    below = ranges_to(branch, name)
                    if below is not None:
                        return below
    return None


def region_of(func: Func, old: Buffer, target: For, around: Ranges, step: str) -> Region:
    """The part of a buffer that one iteration of a loop reads.

    Args:
        around: the ranges of the loops around it.

    Raises:
        ScheduleError: it is no box, or several reads differ in it.
    """
    ranges = {**around, target.var: loop_range(target)}
    inner = {x.var: loop_range(x) for x in loops(target.body)}
    found: Region | None = None
    for load in {x: None for x in block_loads(target.body) if x.buffer == old}:
        starts: list[Expr] = []
        extents: list[Dim] = []
        for index in load.indices:
            ends = _ends(index, inner, ranges)
            if ends is None:
                raise fail(step, func, f"the index {index!r} of {old.name!r} is not affine")
            starts.append(ends[0])
            extents.append(dim(ends[1] - ends[0] + 1))
        this = Region(tuple(starts), tuple(extents))
        if found is not None and not _same_region(found, this):
            raise fail(step, func, f"{old.name!r} is read at two different regions")
        found = this
    if found is None:
        raise fail(step, func, f"the loop does not read {old.name!r}")
    return Region(found.start, found.extent, _is_masked(target.body, old))


def _is_masked(block: Block, buffer: Buffer) -> bool:
    """Whether a condition around a read of a buffer is what keeps an index from being negative."""
    guarded: list[tuple[Expr, Load]] = []
    for stmt in statements(block):
        if isinstance(stmt, If):
            guarded += ((stmt.cond, x) for x in block_loads(stmt.then))
        for e in expressions(stmt):
            if any(x.buffer == buffer for x in loads(e)):
                arms = (x for x in visit(e) if isinstance(x, Select))
                guarded += ((arm.cond, x) for arm in arms for x in loads(arm.a))
    return any(
        _implies_positive(c, index)
        for cond, load in guarded
        if load.buffer == buffer
        for c in conjuncts(cond)
        for index in load.indices
    )


def _implies_positive(cond: Expr, index: Expr) -> bool:
    """Whether ``0 <= index`` follows from a comparison, by the difference of both."""
    if not (isinstance(cond, Binary) and cond.op in ("lt", "le") and cond.a.dtype is dt.i64):
        return False
    gap = cond.b - cond.a - (1 if cond.op == "lt" else 0)
    return prove(le(gap, index)) is True


def _same_region(a: Region, b: Region) -> bool:
    pairs = [*zip(a.start, b.start, strict=True), *zip(a.extent, b.extent, strict=True)]
    return all(same_dim(x, y) for x, y in pairs)


def _ends(index: Expr, inner: Spans, outer: Ranges) -> tuple[Expr, Expr] | None:
    """The least and greatest value of an affine index over the inner loops."""
    ranges = {**outer, **inner}
    low = high = simplify(index, ranges)
    for v, (first, last) in inner.items():
        if v not in symbols(low) and v not in symbols(high):
            continue
        forms = affine(low, (v,), ranges), affine(high, (v,), ranges)
        slopes = {form[0][v] for form in forms if form is not None}
        if None in forms or len(slopes) != 1:
            return None
        slope = slopes.pop()
        if not isinstance(slope, int):
            return None
        ends = (as_expr(first), as_expr(last))
        low = simplify(substitute(low, {v: ends[0 if slope >= 0 else 1]}), ranges)
        high = simplify(substitute(high, {v: ends[1 if slope >= 0 else 0]}), ranges)
    # An end may be in terms of a loop that is inside the region.
    left = (symbols(low) | symbols(high)) & set(inner)
    return None if left else (low, high)


def _shrink(
    func: Func, nest: Stmt, old: Buffer, region: Region, around: Ranges, step: str
) -> Block:
    """A producing nest with its spatial loops cut to the region."""
    written = tuple(stores((nest,)))
    indices = written[0].indices
    if any(s.buffer != old or s.indices != indices for s in written):
        raise fail(step, func, f"the nest that produces {old.name!r} writes more than it")
    extents = {x.var: x.extent for x in loops((nest,)) if x.start == 0}
    moved: dict[Var, tuple[Expr, Dim, Dim]] = {}
    shift: dict[Expr, Expr] = {}
    for index, start, extent, whole in zip(
        indices, region.start, region.extent, old.shape, strict=True
    ):
        if isinstance(index, Const):
            if not (same_dim(whole, 1) and same_dim(index, start)):
                raise fail(step, func, f"one element of {old.name!r} is not a region of it")
            continue
        if not isinstance(index, Var) or index in moved:
            raise fail(step, func, f"the loops that produce {old.name!r} have been split already")
        if index not in extents or not same_dim(extents[index], whole):
            raise fail(step, func, f"a loop does not produce all of {old.name!r}")
        moved[index] = (start, extent, whole)
        shift[index] = start + index

    def visit(stmt: Stmt, ranges: Ranges) -> Stmt:
        match stmt:
            case For():
                extent = moved[stmt.var][1] if stmt.var in moved else _shift(stmt.extent, shift)
                start = 0 if stmt.var in moved else _shift(stmt.start, shift)
                first = For(stmt.var, extent, stmt.body, stmt.kind, start)
                inner = {**ranges, stmt.var: loop_range(first)}
                body = tuple(visit(s, inner) for s in stmt.body)
                return For(stmt.var, extent, body, stmt.kind, start)
            case Store():
                return Store(stmt.buffer, stmt.indices, value(stmt.value, ranges))
            case If():
                then, orelse = (
                    tuple(visit(s, ranges) for s in b) for b in (stmt.then, stmt.orelse)
                )
                return If(value(stmt.cond, ranges), then, orelse)
        raise fail(step, func, "the producing nest holds a declaration")

    def value(e: Expr, ranges: Ranges) -> Expr:
        own = [x for x in loads(e) if x.buffer == old]
        if any(x.indices != indices for x in own):
            raise fail(step, func, f"an element of {old.name!r} depends on another")
        marks: dict[Expr, Expr] = {x: Var(f".own{k}", x.dtype) for k, x in enumerate(own)}
        back = {m: x for x, m in marks.items()}
        shifted = substitute(substitute(e, marks), shift)
        inside = simplify(shifted, ranges)
        for mark in back:
            inside = simplify_update(shifted, mark, ranges)
        guards = [
            (v, lt(start + v, whole))
            for v, (start, extent, whole) in moved.items()
            if prove(le(start + as_expr(extent), whole), around) is not True
        ]
        guards += [
            (v, le(0, start + v))
            for v, (start, _, _) in moved.items()
            if region.masked and prove(le(0, start), around) is not True
        ]
        if guards:
            inside = _guard_loads(inside, guards, ranges)
        return substitute(inside, back)

    if not moved:
        return (nest,)
    return (visit(nest, around),)


def _shift(d: Dim, shift: dict[Expr, Expr]) -> Dim:
    return d if isinstance(d, int) else dim(substitute(d, shift))


def _guard_loads(e: Expr, guards: list[tuple[Var, Expr]], ranges: Ranges) -> Expr:
    """Zero instead of a load where a tile reaches past the end; what it feeds is never used."""
    mapping: dict[Expr, Expr] = {}
    for load in loads(e):
        used = symbols(load)
        needed = [g for v, g in guards if v in used]
        if needed and not in_bounds(load, ranges):
            zero = Const(0, load.dtype) if load.dtype is not dt.bool_ else Const(False, dt.bool_)
            mapping[load] = Select(conjunction(needed), load, zero)
    return substitute(e, mapping)


def in_bounds(load: Load, ranges: Ranges) -> bool:
    """Whether every index is certainly inside the buffer."""
    checks = (
        prove(c, ranges)
        for i, d in zip(load.indices, load.buffer.shape, strict=True)
        for c in (le(0, i), lt(i, d))
    )
    return all(c is True for c in checks)


def rfactor(func: Func, loop: str, lanes: int, name: str) -> Func:
    """Splits a reduction loop into ``lanes`` running results that are combined at the end.

    The loop must hold one accumulation ``s[...] = s[...] op x`` that does not index by it, and
    must stand in the body next to its initialisation. The order of operations changes (floating
    point sums differ in the last bits), always in the same way.

    Before:
        for k in serial(64):
            s[0] = s[0] + A[k]
    After ``rfactor("k", 16, "p")``:
        p: register[f32, 16]
        for k_z in vector(16):
            p[k_z] = 0.0
        for k_o in serial(4):
            for k_i in vector(16):
                p[k_i] = p[k_i] + A[k_i + k_o * 16]
        for k_r in vector(16):
            s[0] = s[0] + p[k_r]

    Raises:
        ScheduleError: the loop is not such an accumulation.
    """
    step = f"rfactor({loop!r}, {lanes})"
    found = find_loop(func, loop, step)
    if lanes < 1:
        raise fail(step, func, "there must be a lane")
    if len(found.body) != 1 or not isinstance(found.body[0], Store) or found.start != 0:
        raise fail(step, func, "the loop does not hold a single accumulation")
    store = found.body[0]
    own = store.buffer[store.indices]
    value, term = accumulated(store, found, func, step)
    partial = Buffer(name, store.buffer.dtype, (lanes,), "register")
    vo, vi, vz, vr, vt = (Var(f"{loop}_{x}") for x in ("o", "i", "z", "r", "t"))
    full = dim(as_expr(found.extent) // lanes)
    rest = dim(as_expr(found.extent) - as_expr(full) * lanes)

    def accumulate(v: Var, position: Expr) -> Store:
        new = Binary(value.op, partial[v], substitute(term, {found.var: position}))
        return Store(partial, (v,), new)

    def edit(it: For) -> Block:
        zero = Const(identity(value.op, store.buffer.dtype), store.buffer.dtype)
        body: list[Stmt] = [
            Alloc(partial),
            For(vz, lanes, (Store(partial, (vz,), zero),), "vector"),
        ]
        main = For(vi, lanes, (accumulate(vi, vo * lanes + vi),), "vector")
        if full != 0:
            body.append(For(vo, full, (main,)))
        if isinstance(rest, int) and rest:
            body.append(For(vt, rest, (accumulate(vt, as_expr(full) * lanes + vt),), "vector"))
        elif not isinstance(rest, int):
            guard = lt(as_expr(full) * lanes + vt, it.extent)
            tail = If(guard, (accumulate(vt, as_expr(full) * lanes + vt),))
            body.append(For(vt, lanes, (tail,), "vector"))
        last = Store(store.buffer, store.indices, Binary(value.op, own, partial[vr]))
        body.append(For(vr, lanes, (last,), "vector"))
        return tuple(body)

    return edit_loop(func, loop, edit, step)


def accumulated(store: Store, loop: For, func: Func, step: str) -> tuple[Binary, Expr]:
    """What an accumulation stores, and the operand of it that is not the accumulator.

    Raises:
        ScheduleError: it is none, or the loop indexes the accumulator.
    """
    own, value = store.buffer[store.indices], store.value
    if not (
        isinstance(value, Binary)
        and value.op in ("add", "mul", "max", "min", "and", "or")
        and (value.a is own or value.b is own)
    ):
        raise fail(step, func, "the loop does not hold a single accumulation")
    term = value.b if value.a is own else value.a
    if loop.var in symbols(own) or any(x.buffer == store.buffer for x in loads(term)):
        raise fail(step, func, "the accumulator is indexed by the loop")
    return value, term


def identity(op: str, dtype: dt.DType) -> int | float | bool:
    """The value that leaves the other operand of an associative operation unchanged."""
    match op:
        case "add" | "sum" | "or":
            return 0
        case "mul" | "prod":
            return 1
        case "and":
            return True if dtype is dt.bool_ else dtype.highest if dtype.kind is Kind.UINT else -1
        case "max":
            return dtype.lowest
    return dtype.highest
