"""Primitives that shape loops: split, reorder, set_kind, peel, tighten, specialise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .. import dtype as dt
from ..tensor.ir import (
    Binary,
    Block,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    LoopKind,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
    conjunction,
    le,
    lt,
    maximum,
    minimum,
)
from ..tensor.simplify import (
    affine,
    bounds,
    ceildiv,
    dim,
    prove,
    same_dim,
    simplify,
    substitute,
    symbols,
)
from ..tensor.walk import (
    allocations,
    block_loads,
    loads,
    replace_block_buffers,
    stores,
    substitution,
)
from .nest import (
    bind,
    edit_loop,
    fail,
    find_loop,
    loop_range,
    loops,
    map_block,
    simplify_block,
    substitute_block,
)

Tail = Literal["exact", "guard", "shift", "assume", "peel"]


def split(func: Func, loop: str, factor: int, outer: str, inner: str, tail: Tail = "exact") -> Func:
    """Splits a loop so that loop == outer * factor + inner, with 0 <= inner < factor.

    Tails, where the extent is not a multiple of the factor:
        exact: refuse.
        guard: the body runs under ``if loop < extent``.
        shift: the last tile is moved back to end at the extent, so that it repeats iterations
            of the one before; where the extent may be below the factor, the loop stays as it is
            on a second branch. Only for bodies that may run twice: none that accumulates.
        assume: as shift, where the caller vouches that the extent is at least the factor.
        peel: whole tiles first, then the rest (loops ``<name>_tail``), guarded where its length
            is not a constant.

    Before:
        for i in serial(96):
            B[i] = A[i]
    After ``split("i", 8, "io", "ii")``:
        for io in serial(12):
            for ii in serial(8):
                B[ii + io * 8] = A[ii + io * 8]

    Raises:
        ScheduleError: no such loop, a start other than 0, or the tail rule does not allow it.
    """
    step = f"split({loop!r}, {factor})"
    found = find_loop(func, loop, step)
    if factor < 1:
        raise fail(step, func, "the factor is not positive")
    if found.start != 0:
        raise fail(step, func, "the loop does not start at 0")
    extent = found.extent
    exact = prove(Binary("eq", as_expr(dim(as_expr(extent) % factor)), Const(0))) is True
    if tail == "exact" and not exact:
        raise fail(step, func, f"{factor} does not divide the extent {extent}")
    if tail in ("shift", "assume") and not exact and not _repeatable(found.body):
        raise fail(step, func, "the body accumulates, so a shifted tile would add twice")
    _check_free(func, found, (outer, inner), step)
    vo, vi = Var(outer), Var(inner)
    whole = vo * factor + vi

    def tile(count: Dim, position: Expr, body: Block) -> For:
        mapped = substitute_block(body, {found.var: position})
        return For(vo, count, (For(vi, factor, mapped),))

    def edit(it: For) -> Block:
        if exact:
            return (tile(dim(as_expr(extent) // factor), whole, it.body),)
        if tail == "guard":
            return (
                tile(
                    ceildiv(extent, factor),
                    whole,
                    _guarded(it.body, lt(it.var, extent)),
                ),
            )
        if tail == "peel":
            full = dim(as_expr(extent) // factor)
            main = (tile(full, whole, it.body),) if full != 0 else ()
            left = dim(as_expr(extent) - as_expr(full) * factor)
            known = isinstance(left, int)
            body = it.body if known else _guarded(it.body, lt(it.var, extent))
            rest_body = rename_loops(body, "_tail")
            vt = Var(f"{inner}_tail")
            position = as_expr(full) * factor + vt
            count = left if known else factor
            rest = For(vt, count, substitute_block(rest_body, {found.var: position}))
            return (*main, rest)
        base = minimum(vo * factor, as_expr(extent) - factor)
        shifted = tile(ceildiv(extent, factor), base + vi, it.body)
        lo, _ = bounds(extent)
        if tail == "assume" or (lo is not None and lo >= factor):
            return (shifted,)
        short = For(it.var, it.extent, rename_loops(it.body, "_short"), it.kind)
        return (If(le(factor, as_expr(extent)), (shifted,), (short,)),)

    return edit_loop(func, loop, edit, step)


def _repeatable(block: Block) -> bool:
    """Whether running a body twice is as good as once: it reads nothing that it writes.

    Buffers that the body itself declares are fresh each time.
    """
    own = set(allocations(block))
    written = {s.buffer for s in stores(block)} - own
    return not any(load.buffer in written for load in block_loads(block))


def _check_free(func: Func, loop: For, names: Sequence[str], step: str) -> None:
    """Refuses a new loop name that another loop has around or inside the one that is replaced."""
    if len(set(names)) != len(names):
        raise fail(step, func, f"{names[0]!r} is given to two loops")
    near = {x.var.name for x in loops(loop.body)} | enclosing(func.body, loop)
    for name in names:
        if name in near and name != loop.var.name:
            raise fail(step, func, f"there is a loop named {name!r} already")


def enclosing(block: Block, loop: For) -> set[str]:
    """The names of the loops around a loop."""
    for stmt in block:
        match stmt:
            case For():
                if any(x is loop for x in loops(stmt.body)):
                    return {stmt.var.name} | enclosing(stmt.body, loop)
            case If():
                for branch in (stmt.then, stmt.orelse):
                    if any(x is loop for x in loops(branch)):
                        return enclosing(branch, loop)
    return set()


def _guarded(block: Block, cond: Expr) -> Block:
    """Puts a guard around the innermost body of a chain of loops."""
    if len(block) == 1 and isinstance(block[0], For):
        inner = block[0]
        return (
            For(
                inner.var,
                inner.extent,
                _guarded(inner.body, cond),
                inner.kind,
                inner.start,
            ),
        )
    return (If(cond, block),)


def rename_loops(block: Block, suffix: str) -> Block:
    """Gives every loop and declared buffer of a copied block a name of its own."""
    mapping: dict[Expr, Expr] = {v.var: Var(v.var.name + suffix) for v in loops(block)}
    buffers = {b: Buffer(b.name + suffix, b.dtype, b.shape, b.scope) for b in allocations(block)}

    def rename(b: Block) -> Block:
        result: list[Stmt] = []
        for stmt in b:
            match stmt:
                case For():
                    new = mapping[stmt.var]
                    assert isinstance(new, Var)
                    result.append(For(new, stmt.extent, rename(stmt.body), stmt.kind, stmt.start))
                case If():
                    result.append(If(stmt.cond, rename(stmt.then), rename(stmt.orelse)))
                case _:
                    result.append(stmt)
        return tuple(result)

    return replace_block_buffers(substitute_block(rename(block), mapping), buffers)


def reorder(func: Func, names: Sequence[str]) -> Func:
    """Puts perfectly nested loops in the given order, outermost first.

    The caller vouches that iterations may run in another order: loops made from the axes of a
    Compute always may, since its reductions are over an associative operation.

    Before:
        for i in serial(4):
            for j in serial(8):
                B[i, j] = A[i, j]
    After ``reorder(["j", "i"])``:
        for j in serial(8):
            for i in serial(4):
                B[i, j] = A[i, j]

    Raises:
        ScheduleError: the loops are not nested perfectly, or one's extent depends on another.
    """
    step = f"reorder({list(names)})"
    if len(names) < 2:
        return func
    wanted = set(names)
    first = next((x for x in loops(func.body) if x.var.name in wanted), None)
    if first is None:
        raise fail(step, func, "there are no such loops")
    chain: list[For] = []
    body: Block = (first,)
    while wanted:
        if len(body) != 1 or not isinstance(body[0], For):
            raise fail(
                step,
                func,
                f"{sorted(wanted)} are not nested perfectly below {first.var.name}",
            )
        chain.append(body[0])
        wanted.discard(body[0].var.name)
        body = body[0].body
    if any(symbols(d) & {c.var for c in chain} for c in chain for d in (c.extent, c.start)):
        raise fail(step, func, "an extent depends on another of the loops")
    by_name = {c.var.name: c for c in chain}
    ordered = iter([by_name[n] for n in names])
    # Loops of the chain that are not named keep their places.
    final = [next(ordered) if c.var.name in set(names) else c for c in chain]
    for c in reversed(final):
        body = (For(c.var, c.extent, body, c.kind, c.start),)
    result = body
    return edit_loop(func, first.var.name, lambda _: result, step)


def set_kind(func: Func, loop: str, kind: LoopKind) -> Func:
    """Makes a loop serial, parallel, vector or unroll; the iterations stay the same.

    Before:
        for i in serial(8):
            B[i] = A[i]
    After ``set_kind("i", "vector")``:
        for i in vector(8):
            B[i] = A[i]

    Raises:
        ScheduleError: a vector or unroll loop whose extent is not constant, or a parallel loop
            that another loop is around.
    """
    step = f"set_kind({loop!r}, {kind!r})"
    found = find_loop(func, loop, step)
    if kind in ("vector", "unroll") and not isinstance(found.extent, int):
        raise fail(step, func, f"the extent {found.extent} is not a constant")
    if kind == "parallel" and not _is_outermost(func.body, found):
        raise fail(step, func, "only an outermost loop may be parallel")
    return edit_loop(
        func, loop, lambda it: (For(it.var, it.extent, it.body, kind, it.start),), step
    )


def _is_outermost(block: Block, loop: For) -> bool:
    """Whether no loop stands around it (a branch may)."""
    return any(
        stmt == loop
        or (
            isinstance(stmt, If)
            and (_is_outermost(stmt.then, loop) or _is_outermost(stmt.orelse, loop))
        )
        for stmt in block
    )


def fuse(func: Func, outer: str, inner: str, name: str) -> Func:
    """Makes one loop of two nested ones: outer == name // extent, inner == name % extent.

    Before:
        for i in serial(4):
            for j in serial(8):
                B[i, j] = A[i, j]
    After ``fuse("i", "j", "f")``:
        for f in serial(32):
            B[f // 8, f % 8] = A[f // 8, f % 8]

    Raises:
        ScheduleError: the loops are not perfectly nested, or the inner one depends on the outer.
    """
    step = f"fuse({outer!r}, {inner!r})"
    found = find_loop(func, outer, step)
    if not (len(found.body) == 1 and isinstance(found.body[0], For)):
        raise fail(step, func, "the loops are not nested perfectly")
    below = found.body[0]
    if below.var.name != inner or found.start != 0 or below.start != 0:
        raise fail(
            step,
            func,
            f"{inner!r} is not directly inside {outer!r}, or a start is not 0",
        )
    if found.var in symbols(below.extent):
        raise fail(step, func, "the inner extent depends on the outer loop")
    _check_free(func, below, (name,), step)
    new = Var(name)
    mapping: dict[Expr, Expr] = {
        found.var: new // as_expr(below.extent),
        below.var: new % as_expr(below.extent),
    }
    body = substitute_block(below.body, mapping)
    extent = dim(as_expr(found.extent) * below.extent)
    return edit_loop(func, outer, lambda _: (For(new, extent, body, found.kind),), step)


def peel(func: Func, loop: str, front: int, back: int) -> Func:
    """Writes the first ``front`` and last ``back`` iterations of a loop out as copies.

    The copies stand before and after the loop; the loops inside them carry the suffixes
    ``_f0``, ``_f1`` ... and ``_b0`` ... So a guard that only edge tiles need becomes constant in
    the copies and is true in between.

    Before:
        for i in serial(8):
            B[i] = A[i]
    After ``peel("i", 1, 1)``:
        B[0] = A[0]
        for i in serial(6, start=1):
            B[i] = A[i]
        B[7] = A[7]

    Raises:
        ScheduleError: the extent is not a constant that large.
    """
    step = f"peel({loop!r}, {front}, {back})"
    found = find_loop(func, loop, step)
    if (
        not isinstance(found.extent, int)
        or found.extent < front + back
        or found.start != 0
        or min(front, back) < 0
    ):
        raise fail(step, func, f"the loop does not have {front + back} constant iterations")
    middle = found.extent - front - back

    def copy(position: int, suffix: str) -> Block:
        return rename_loops(substitute_block(found.body, bind(found.var, position)), suffix)

    def edit(it: For) -> Block:
        result: list[Stmt] = []
        for k in range(front):
            result += copy(k, f"_f{k}")
        if middle:
            result.append(For(it.var, middle, it.body, it.kind, front))
        for k in range(back):
            result += copy(front + middle + k, f"_b{k}")
        return tuple(result)

    return edit_loop(func, loop, edit, step)


def tighten(func: Func, loop: str) -> Func:
    """Turns guards on a loop's variable into the bounds of the loop.

    Applies to a loop over an accumulation ``s = s + select(guard, x, 0) * w`` (or of max with
    its identity), which adds nothing where the guard is false. Guards of the form
    ``0 <= a*loop + rest`` and ``a*loop + rest < end`` with a constant a are used where they
    cover every store of the body; the rest must not vary inside the loop.

    Before:
        s: register[f32, 1]
        s[0] = 0.0
        for i in serial(8):
            for k in serial(3):
                s[0] = s[0] + select(0 <= i + k - 1, A[i + k - 1], 0.0)
    After ``tighten("k")``:
        s: register[f32, 1]
        s[0] = 0.0
        for i in serial(8):
            for k in serial(3 - max(0, 1 - i), start=max(0, 1 - i)):
                s[0] = s[0] + A[i + k - 1]

    Raises:
        ScheduleError: no such loop, or a vector or unroll loop whose extent would vary.
    """
    step = f"tighten({loop!r})"

    def edit(it: For) -> Block:
        inner = {x.var for x in loops(it.body)}
        # A store that a guard does not cover needs every iteration.
        first, *others = [padding_guards(s) for s in stores(it.body)] or [()]
        guards = [g for g in first if all(g in other for other in others)]
        lows: list[Expr] = []
        highs: list[Expr] = []
        dropped: dict[Expr, Expr] = {}
        for g in guards:
            bound = _loop_bound(g, it.var, inner)
            if bound is None or any(True for _ in loads(g)):
                continue
            (lows if bound[0] == "low" else highs).append(bound[1])
            dropped[g] = Const(True, dt.bool_)
        if not dropped:
            return (it,)
        start: Expr = as_expr(it.start)
        end: Expr = start + it.extent
        for x in lows:
            start = maximum(start, x)
        for x in highs:
            end = minimum(end, x)
        body = map_block(it.body, substitution(dropped))
        begin = dim(start)
        # An empty range must not become negative: loops count from start by extent.
        extent = dim(maximum(end - as_expr(begin), 0))
        if it.kind in ("vector", "unroll") and not isinstance(extent, int):
            raise fail(step, func, f"the extent of a {it.kind} loop would vary")
        return (For(it.var, extent, body, it.kind, begin),)

    return edit_loop(func, loop, edit, step)


def padding_guards(s: Store) -> tuple[Expr, ...]:
    """The distinct conjuncts of selects that make an accumulation a no-op where one is false."""
    value = s.value
    if not (isinstance(value, Binary) and value.op in ("add", "max", "min")):
        return ()
    self_load = s.buffer[s.indices]
    if value.a is self_load:
        term = value.b
    elif value.b is self_load:
        term = value.a
    else:
        return ()
    factors = [term]
    found: dict[Expr, None] = {}
    while factors:
        t = factors.pop()
        match t:
            case Binary(op="mul") if value.op == "add":
                factors += [t.a, t.b]
            case Select() if _is_identity(value.op, t.b):
                found |= dict.fromkeys(conjuncts(t.cond))
            case Cast() if value.op == "add" or t.x.dtype.is_float:
                # Zero stays zero, and infinities stay; the lowest integer would not.
                factors.append(t.x)
    return tuple(found)


def _is_identity(op: str, e: Expr) -> bool:
    if not isinstance(e, Const):
        return False
    match op:
        case "add":
            return e.value == 0
        case "max":
            return e.value == e.dtype.lowest
    return bool(e.value == e.dtype.highest)


def conjuncts(e: Expr) -> list[Expr]:
    """The parts of a conjunction, in order."""
    if isinstance(e, Binary) and e.op == "and" and e.dtype is dt.bool_:
        return [*conjuncts(e.a), *conjuncts(e.b)]
    return [e]


def _loop_bound(guard: Expr, var: Var, inner: set[Var]) -> tuple[str, Expr] | None:
    """For a guard on ``a*var + rest``: ("low", first) or ("high", end) of the variable's range."""
    if not (isinstance(guard, Binary) and guard.op in ("lt", "le")):
        return None
    gap = simplify(guard.b - guard.a)  # guard: gap > 0 or gap >= 0
    slope = simplify(substitute(gap, bind(var, 1)) - substitute(gap, bind(var, 0)))
    rest = simplify(substitute(gap, bind(var, 0)))
    if not isinstance(slope, Const) or slope.value == 0 or symbols(gap) & inner:
        return None
    if not same_dim(gap, slope * var + rest):
        return None
    a = int(slope.value)
    slack = rest if guard.op == "le" else rest - 1  # a*var + slack >= 0
    if a > 0:
        return "low", simplify((-slack + (a - 1)) // a)
    return "high", simplify(slack // (-a) + 1)


def specialise(func: Func, loop: str, inner: Sequence[str]) -> Func:
    """Gives the tiles of a loop that lie wholly inside a body of their own, without guards.

    The guards considered are those of padding selects on the loop's variable and the ``inner``
    loops' variables. The body becomes ``if every guard holds over the whole tile: fast body,
    else: guarded body`` (loops there carry the suffix ``_edge``). For extents that are not known
    when the code is made; where they are, ``peel`` is better.

    Raises:
        ScheduleError: no such loop.
    """
    step = f"specialise({loop!r})"

    def edit(it: For) -> Block:
        ranges = {x.var: loop_range(x) for x in loops(it.body)}
        names = set(inner)
        inner_vars = {v for v in ranges if v.name in names}
        whole: list[Expr] = []
        dropped: dict[Expr, Expr] = {}
        for s in stores(it.body):
            for g in padding_guards(s):
                used = symbols(g)
                if g in dropped or not used & (inner_vars | {it.var}):
                    continue
                if used & (set(ranges) - inner_vars):
                    continue
                worst = _worst_case(g, {v: ranges[v] for v in used & inner_vars})
                # A range may depend on a loop that is not open yet.
                if worst is not None and symbols(worst).isdisjoint(ranges):
                    whole.append(worst)
                    dropped[g] = Const(True, dt.bool_)
        if not dropped:
            return (it,)
        fast = map_block(it.body, substitution(dropped))
        fast = simplify_block(fast, {it.var: loop_range(it)})
        slow = rename_loops(it.body, "_edge")
        body = (If(conjunction(whole), fast, slow),)
        return (For(it.var, it.extent, body, it.kind, it.start),)

    return edit_loop(func, loop, edit, step)


def _worst_case(guard: Expr, ranges: dict[Var, tuple[Dim, Dim]]) -> Expr | None:
    """The guard with each variable at the end of its range where the guard is hardest to meet."""
    if not (isinstance(guard, Binary) and guard.op in ("lt", "le")):
        return None
    gap: Expr = guard.b - guard.a
    for v, (lo, hi) in ranges.items():
        form = affine(gap, (v,))
        slope = None if form is None else form[0][v]
        if not isinstance(slope, int) or any(True for _ in loads(gap)):
            return None
        gap = substitute(gap, bind(v, lo if slope > 0 else hi))
    return Binary(guard.op, Const(0), simplify(gap))
