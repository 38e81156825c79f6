"""A primitive for weights that are needed before the row that they belong to has ended: online."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import ScheduleError
from ..tensor.ir import (
    Alloc,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Call,
    Const,
    Expr,
    For,
    Func,
    Load,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
    eq,
    lt,
)
from ..tensor.simplify import ceildiv, prove, same_dim, simplify, symbols
from ..tensor.walk import block_loads, loads, stores, substitute
from .loops import rename_loops
from .nest import edit_loop, fail, find_loop, loops

Place = tuple[Expr, ...]


def online(
    func: Func,
    loop: str,
    block: int,
    values: str,
    top: str,
    weights: str,
    sums: Sequence[str],
    name: str,
    shares: str = "",
) -> Func:
    """Computes a softmax and what it weighs in blocks of its axis, one after another.

    The weights are exponentials of how far values are below their maximum; the sums add up
    weights, or products with them. After each block the maximum is that of all values so far,
    and the sums are scaled to it (Milakov and Gimelshein, "Online normalizer calculation for
    softmax", 2018). A value of -inf weighs nothing. Sums are rounded otherwise than before.

    Before:
        for b in serial(16):
            t: local[f32, 64]
            for c in serial(64):
                t[c] = A[b, c]
            m: local[f32]
            m[()] = -inf
            for k in serial(64):
                m[()] = max(m[()], t[k])
            e: local[f32, 64]
            for d in serial(64):
                e[d] = exp(t[d] - m[()])
            s: local[f32]
            s[()] = 0.0
            for j in serial(64):
                s[()] = s[()] + e[j]
            B[b] = s[()]
    After ``online("b", 16, "t", "m", "e", ("s",), "o")``:
        for b in serial(16):
            t: local[f32, 16]
            m: local[f32]
            e: local[f32, 16]
            s: local[f32]
            o_before: local[f32]
            o_scale: local[f32]
            m[()] = -inf
            s[()] = 0.0
            for o in serial(4):
                for c in serial(16):
                    t[c] = A[b, c + o * 16]
                o_before[()] = m[()]
                for k in serial(16):
                    m[()] = max(m[()], t[k])
                o_scale[()] = select(o_before[()] == m[()], 1.0, exp(o_before[()] - m[()]))
                for d in serial(16):
                    e[d] = select(t[d] == -inf, 0.0, exp(t[d] - m[()]))
                s[()] = s[()] * o_scale[()]
                for j in serial(16):
                    s[()] = s[()] + e[j]
            B[b] = s[()]

    Args:
        loop: the loop around all of it. block: values of one block.
        values, top, weights, sums: temporaries of the loop's body, in the order in which they
            are computed.
        name: of the loop over blocks.
        shares: the temporary of what a sum adds up products with, if these are not the weights
            but quotients or products of them and one value a row. What a row's sum is multiplied
            with or divided by is applied to it at the end.

    Raises:
        ScheduleError: the body does not compute these, each in nests of its own.
    """
    step = f"online({loop!r}, {block}, {values!r})"
    target = find_loop(func, loop, step)
    body = _Body(func, target.body, step)
    parts = _parts(body, values, top, weights, sums, shares)
    held = (values, weights, shares) if shares else (values, weights)
    cut = _Cut(body, values, held, block, Var(name))
    before, scale = _beside_tops(body, values, top, name)
    tops = _weights(parts, cut, body.buffer(top), before, scale)
    first, inner, after = _sums(body, parts, cut, (weights, shares), scale)
    kept = [cut.smaller.get(n, b) for n, b in body.buffers.items() if n != shares]
    result = (
        *(Alloc(b) for b in (*kept, before, scale)),
        *(parts.top[0], *first),
        For(cut.number, ceildiv(cut.extent, block), (*tops, *inner)),
        *parts.late,
        *after,
        *parts.rest,
    )
    return edit_loop(func, loop, lambda it: (replace(it, body=result),), step)


def _beside_tops(body: _Body, values: str, top: str, name: str) -> tuple[Buffer, Buffer]:
    """Where the maxima before a block are kept, and what sums are then scaled by.

    Raises:
        ScheduleError: there is not one maximum for each row of values.
    """
    m, v = body.buffer(top), body.buffer(values)
    rows = zip(m.shape, v.shape[:-1], strict=False)
    if len(m.shape) != len(v.shape) - 1 or not all(same_dim(a, b) for a, b in rows):
        raise body.fail(f"{top!r} is not one value for each row of {values!r}")
    before, scale = (Buffer(f"{name}_{x}", m.dtype, m.shape, "local") for x in ("before", "scale"))
    return before, scale


def _weights(parts: _Parts, cut: _Cut, top: Buffer, before: Buffer, scale: Buffer) -> list[Stmt]:
    """The weights of one block below the maximum so far, and what sums are scaled by."""
    start, update = parts.top
    return [
        cut.nest(parts.values, _unset_outside),
        _beside(start, "_before", lambda at: Store(before, at, Load(top, at))),
        cut.nest(update),
        _beside(start, "_scale", lambda at: Store(scale, at, _fall(before, top, at))),
        cut.nest(parts.weights, lambda e, _: _weight(e)),
    ]


def _sums(
    body: _Body, parts: _Parts, cut: _Cut, of: tuple[str, str], scale: Buffer
) -> tuple[list[Stmt], list[Stmt], list[Stmt]]:
    """What the sums are before all blocks, in each of them, and after all.

    Args:
        of: the names of weights and of their shares.
    """
    first, inner, after = list[Stmt](), list[Stmt](), list[Stmt]()
    for start, update in parts.sums:
        first.append(start)
        term, factors = _factored(body, update, of, parts.share)
        of_row = Load(scale, term.indices[:-1])
        inner.append(_times(start, update, "mul", of_row, "scaled"))
        inner.append(cut.nest(_without(update, factors)))
        for k, (op, factor) in enumerate(factors):
            after.append(_times(start, update, op, factor, f"whole{k or ''}"))
    return first, inner, after


class _Body:
    """What a loop holds: temporaries, and the nests that fill them."""

    def __init__(self, func: Func, block: Block, step: str) -> None:
        self.func, self.step = func, step
        self.buffers = {s.buffer.name: s.buffer for s in block if isinstance(s, Alloc)}
        self.nests: list[Stmt] = [s for s in block if not isinstance(s, Alloc)]

    def fail(self, message: str) -> ScheduleError:
        """The error of the step."""
        return fail(self.step, self.func, message)

    def buffer(self, name: str) -> Buffer:
        """The temporary of that name."""
        if name not in self.buffers:
            raise self.fail(f"the loop declares no {name!r}")
        return self.buffers[name]

    def filling(self, name: str, count: int) -> list[Stmt]:
        """The nests that store to a temporary, and to nothing else."""
        found = [s for s in self.nests if any(x.buffer == self.buffer(name) for x in stores((s,)))]
        if len(found) != count or any(len(tuple(stores((s,)))) != 1 for s in found):
            raise self.fail(f"{name!r} is not filled by {count} nests of its own")
        return found


@dataclass(frozen=True, slots=True)
class _Parts:
    """The nests of a softmax and of what it weighs; of a sum, the start and the update.

    Attributes:
        share: the nest that makes shares of weights, if there are any.
        late: the nests of temporaries that need whole sums. rest: those of results.
    """

    values: Stmt
    top: tuple[Stmt, Stmt]
    weights: Stmt
    sums: tuple[tuple[Stmt, Stmt], ...]
    share: Stmt | None
    late: tuple[Stmt, ...]
    rest: tuple[Stmt, ...]


def _parts(
    body: _Body, values: str, top: str, weights: str, sums: Sequence[str], shares: str
) -> _Parts:
    """The nests by what they compute.

    Raises:
        ScheduleError: one computes something else.
    """
    (v,), (e,) = body.filling(values, 1), body.filling(weights, 1)
    reductions = [tuple(body.filling(n, 2)) for n in (top, *sums)]
    for start, _ in reductions:
        if not isinstance(_store(start).value, Const):
            raise body.fail("a sum or the maximum does not begin with one value")
    match _store(e).value:
        case Call(name="exp" | "exp_flushed", args=(Binary(op="sub", a=a, b=b),)) if _is_load(
            a, values
        ) and _is_load(b, top):
            pass
        case _:
            raise body.fail(f"{weights!r} are not exponentials of {values!r} below {top!r}")
    highest = _added(body, reductions[0][1], "max")
    if not _is_load(highest, values):
        raise body.fail(f"{top!r} is not the maximum of {values!r}")
    share = body.filling(shares, 1)[0] if shares else None
    known = [v, e, *(s for both in reductions for s in both), *([share] if share else [])]
    others = [s for s in body.nests if not any(s is k for k in known)]
    if any(x.buffer.name in (values, weights, shares) for x in block_loads(tuple(others))):
        raise body.fail("what has been weighed is read again")
    late = tuple(s for s in others if _store_names(s) <= body.buffers.keys())
    rest = tuple(s for s in others if not any(s is x for x in late))
    both = [(start, update) for start, update in reductions]
    return _Parts(v, both[0], e, tuple(both[1:]), share, late, rest)


def _store_names(stmt: Stmt) -> set[str]:
    return {s.buffer.name for s in stores((stmt,))}


def _store(nest: Stmt) -> Store:
    (found,) = stores((nest,))
    return found


def _bare(e: Expr) -> Expr:
    """A value without guards, where they fail nothing is used."""
    while isinstance(e, Select):
        e = e.a
    return e


def _is_load(e: Expr, *names: str) -> bool:
    e = _bare(e)
    return isinstance(e, Load) and e.buffer.name in names


def _added(body: _Body, nest: Stmt, op: str) -> Expr:
    """What a nest accumulates."""
    store = _store(nest)
    match store.value:
        case Binary(a=own, b=term) if store.value.op == op and own is Load(
            store.buffer, store.indices
        ):
            return term
    raise body.fail(f"{store.buffer.name!r} is not accumulated by {op!r}")


Factor = tuple[BinaryOp, Load]
"""What a sum of a row is multiplied with or divided by."""


def _factored(
    body: _Body, update: Stmt, of: Sequence[str], share: Stmt | None
) -> tuple[Load, list[Factor]]:
    """The weight of a sum's term, and its factors that are the same along the row.

    Raises:
        ScheduleError: the term is no product of one weight and other factors.
    """
    found = _product(_added(body, update, "add"))
    weighed = [x for x in map(_bare, found) if isinstance(x, Load) and x.buffer.name in of]
    if len(weighed) != 1:
        raise body.fail("a sum does not add up weights, or products with them")
    (term,) = weighed
    rows = [x for x in map(_bare, found) if isinstance(x, Load) and _is_of_row(body, x, term)]
    factors: list[Factor] = [("mul", x) for x in rows]
    if share is not None and term.buffer == _store(share).buffer:
        factors += _share(body, share, term, of[0])
    return term, factors


def _product(e: Expr) -> list[Expr]:
    """The factors of a product."""
    if isinstance(e, Binary) and e.op == "mul":
        return [*_product(e.a), *_product(e.b)]
    return [e]


def _is_of_row(body: _Body, x: Load, term: Load) -> bool:
    """Whether a factor is a temporary that does not vary along the axis of the weights."""
    (key,) = {simplify(term.indices[-1])}
    return x.buffer.name in body.buffers and x is not term and not symbols(x) & symbols(key)


def _share(body: _Body, share: Stmt, term: Load, weights: str) -> list[Factor]:
    """What a share is to its weight, for the share that a term loads."""
    s = _store(share)
    where: dict[Expr, Expr] = dict(zip(s.indices, term.indices, strict=True))
    match s.value:
        case Binary(op="div" | "mul" as op, a=a, b=b) if _is_load(a, weights):
            factor = _bare(b)
            if isinstance(factor, Load) and s.indices[-1] not in symbols(factor):
                at = (substitute(i, where) for i in factor.indices)
                return [(op, Load(factor.buffer, at))]
    raise body.fail(f"{s.buffer.name!r} are not shares of {weights!r}")


def _without(update: Stmt, factors: Sequence[Factor]) -> Stmt:
    """The update of a sum whose terms lack some factors."""
    dropped = {x for _, x in factors}

    def visit(stmt: Stmt) -> Stmt:
        if isinstance(stmt, For):
            return replace(stmt, body=tuple(visit(s) for s in stmt.body))
        assert isinstance(stmt, Store) and isinstance(stmt.value, Binary)
        first, *others = [x for x in _product(stmt.value.b) if _bare(x) not in dropped]
        for x in others:
            first = first * x
        return Store(stmt.buffer, stmt.indices, Binary("add", stmt.value.a, first))

    return visit(update) if dropped else update


def _unset_outside(e: Expr, inside: Expr | None) -> Expr:
    """A value that no maximum notices, where there is none."""
    return e if inside is None else Select(inside, e, Const(float("-inf"), e.dtype))


def _weight(e: Expr) -> Expr:
    """The weight of a value: that of -inf is 0, even where all values so far are -inf."""
    assert isinstance(e, Call) and isinstance(e.args[0], Binary)
    value = e.args[0].a
    least = Const(float("-inf"), value.dtype)
    return Select(eq(value, least), Const(0, e.dtype), e)


def _fall(before: Buffer, after: Buffer, at: Place) -> Expr:
    """What sums below one maximum count for below a larger one."""
    old, new = Load(before, at), Load(after, at)
    return Select(eq(old, new), Const(1, old.dtype), Call("exp", (old - new,), old.dtype))


def _beside(start: Stmt, suffix: str, make: Callable[[Place], Store]) -> Stmt:
    """A nest over the elements that another one starts, in loops of its own."""
    (copy,) = rename_loops((start,), suffix)

    def visit(stmt: Stmt) -> Stmt:
        if isinstance(stmt, For):
            return replace(stmt, body=tuple(visit(s) for s in stmt.body))
        assert isinstance(stmt, Store)
        return make(stmt.indices)

    return visit(copy)


def _times(start: Stmt, update: Stmt, op: BinaryOp, factor: Load, suffix: str) -> Stmt:
    """Multiplies or divides a sum by what its update would load of its row."""
    store = _store(update)

    def scaled(at: Place) -> Store:
        where: dict[Expr, Expr] = dict(zip(store.indices, at, strict=True))
        of_row = Load(factor.buffer, (substitute(i, where) for i in factor.indices))
        return Store(store.buffer, at, Binary(op, Load(store.buffer, at), of_row))

    return _beside(start, f"_{suffix}", scaled)


class _Cut:
    """An axis being cut in blocks.

    Attributes:
        held: the temporaries along it, of which there is one block at a time.
        smaller: these as they are then; shares are kept as weights.
        number: counts the blocks. extent: of the axis.
    """

    def __init__(
        self, body: _Body, values: str, held: Sequence[str], block: int, number: Var
    ) -> None:
        self.body, self.block, self.number = body, block, number
        self.held = frozenset(held)
        self.extent = body.buffer(values).shape[-1]
        self.smaller: dict[str, Buffer] = {}
        for name in held[:2]:
            b = body.buffer(name)
            self.smaller[name] = Buffer(name, b.dtype, (*b.shape[:-1], block), b.scope)
        for name in held[2:]:
            self.smaller[name] = self.smaller[held[1]]

    def nest(self, stmt: Stmt, edit: Callable[[Expr, Expr | None], Expr] = lambda e, _: e) -> Stmt:
        """A nest over one block of the axis; ``edit`` gets its value and where the axis is."""
        key = self._key(stmt)
        position = self.number * self.block + key
        whole = prove(eq(as_expr(self.extent) % self.block, Const(0))) is True
        inside = None if whole else lt(position, self.extent)

        def moved(e: Expr) -> Expr:
            mapping: dict[Expr, Expr] = {key: position}
            for x in loads(e):
                if x.buffer.name in self.held:
                    mapping[x] = Load(self.smaller[x.buffer.name], (*x.indices[:-1], key))
                elif inside is not None and key in symbols(x) and x.buffer.scope == "global":
                    there = Load(x.buffer, (moved(i) for i in x.indices))
                    mapping[x] = Select(inside, there, Const(0, x.dtype))
            return substitute(e, mapping)

        def visit(s: Stmt) -> Stmt:
            match s:
                case For():
                    extent = self.block if s.var is key else s.extent
                    body = tuple(visit(x) for x in s.body)
                    return For(s.var, extent, body, s.kind, s.start)
                case Store():
                    b = self.smaller.get(s.buffer.name, s.buffer)
                    return Store(b, s.indices, edit(moved(s.value), inside))
            raise self.body.fail("a nest holds more than loops around a store")

        return visit(stmt)

    def _key(self, stmt: Stmt) -> Var:
        """The loop of a nest along the axis."""
        s = _store(stmt)
        held = [x.indices for x in loads(s.value) if x.buffer.name in self.held]
        held += [s.indices] if s.buffer.name in self.held else []
        found = {simplify(i[-1]) for i in held}
        for loop in loops((stmt,)):
            if found == {loop.var} and loop.start == 0 and same_dim(loop.extent, self.extent):
                return loop.var
        raise self.body.fail(f"a nest for {s.buffer.name!r} has no loop of its own along the axis")
