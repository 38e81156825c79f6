"""Finding and rewriting loops of a Func by name: what every primitive is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..errors import ScheduleError
from ..tensor.ir import (
    BOUND_KINDS,
    Alloc,
    Barrier,
    Binary,
    Block,
    Buffer,
    Commit,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Stmt,
    Store,
    Var,
    Wait,
    as_expr,
)
from ..tensor.simplify import Ranges, dim, simplify
from ..tensor.walk import allocations, replace_block_buffers, stores, substitution

__all__ = [
    "LoopEdit",
    "bind",
    "edit_loop",
    "fail",
    "find_loop",
    "loop_range",
    "loops",
    "map_block",
    "simplify_block",
    "simplify_func",
    "simplify_update",
    "stores",
    "substitute_block",
]

LoopEdit = Callable[[For], Block]


def fail(step: str, func: Func, message: str) -> ScheduleError:
    """The error of a step that does not apply: names the step, the function and the loops."""
    names = ", ".join(loop.var.name for loop in loops(func.body))
    return ScheduleError(f"{step}: {message} (in {func.name}; loops: {names})", code="TW-E0701")


def loops(block: Block) -> Iterator[For]:
    """Every loop of a block, outer before inner."""
    for stmt in block:
        match stmt:
            case For():
                yield stmt
                yield from loops(stmt.body)
            case If():
                yield from loops(stmt.then)
                yield from loops(stmt.orelse)


def find_loop(func: Func, name: str, step: str) -> For:
    """The loop of that name.

    Raises:
        ScheduleError: there is none.
    """
    for loop in loops(func.body):
        if loop.var.name == name:
            return loop
    raise _no_loop(func, name, step)


def _no_loop(func: Func, name: str, step: str) -> ScheduleError:
    return fail(step, func, f"there is no loop named {name!r}")


def edit_loop(func: Func, name: str, edit: LoopEdit, step: str) -> Func:
    """Replaces the loop of that name by the statements that ``edit`` returns.

    Raises:
        ScheduleError: there is no such loop.
    """
    body = _edited(func.body, name, edit)
    if body is None:
        raise _no_loop(func, name, step)
    return Func(func.name, func.params, body)


def _edited(block: Block, name: str, edit: LoopEdit) -> Block | None:
    """The block with the loops of that name replaced; None where there is none."""
    for k, stmt in enumerate(block):
        new: Block | None = None
        match stmt:
            case For() if stmt.var.name == name:
                new = edit(stmt)
            case For():
                body = _edited(stmt.body, name, edit)
                if body is not None:
                    new = (For(stmt.var, stmt.extent, body, stmt.kind, stmt.start),)
            case If():
                then, orelse = _edited(stmt.then, name, edit), _edited(stmt.orelse, name, edit)
                if then is not None or orelse is not None:
                    then = stmt.then if then is None else then
                    orelse = stmt.orelse if orelse is None else orelse
                    new = (If(stmt.cond, then, orelse),)
        if new is not None:
            rest = _edited(block[k + 1 :], name, edit)
            return (*block[:k], *new, *(block[k + 1 :] if rest is None else rest))
    return None


def map_block(
    block: Block,
    expr: Callable[[Expr], Expr],
    buffer: Callable[[Buffer], Buffer] = lambda b: b,
) -> Block:
    """Applies ``expr`` to every expression, and ``buffer`` to every stored or declared buffer.

    Statements in which nothing changes stay the same objects.
    """
    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For():
                body = map_block(stmt.body, expr, buffer)
                extent, start = _map_dim(stmt.extent, expr), _map_dim(stmt.start, expr)
                same = body is stmt.body and extent is stmt.extent and start is stmt.start
                result.append(stmt if same else For(stmt.var, extent, body, stmt.kind, start))
            case Store():
                indices = tuple([expr(i) for i in stmt.indices])
                target, value = buffer(stmt.buffer), expr(stmt.value)
                same = value is stmt.value and target is stmt.buffer and indices == stmt.indices
                result.append(stmt if same else Store(target, indices, value, stmt.streamed))
            case If():
                then, orelse = (map_block(b, expr, buffer) for b in (stmt.then, stmt.orelse))
                cond = expr(stmt.cond)
                same = then is stmt.then and orelse is stmt.orelse and cond is stmt.cond
                result.append(stmt if same else If(cond, then, orelse))
            case Prefetch():
                result.append(Prefetch(buffer(stmt.buffer), tuple(map(expr, stmt.indices))))
            case Barrier() | Commit() | Wait():
                result.append(stmt)
            case Alloc():
                target = buffer(stmt.buffer)
                result.append(stmt if target is stmt.buffer else Alloc(target))
            case Let():
                value = expr(stmt.value)
                result.append(stmt if value is stmt.value else Let(stmt.var, value))
    same = len(result) == len(block) and all(a is b for a, b in zip(result, block, strict=True))
    return block if same else tuple(result)


def substitute_block(block: Block, mapping: Mapping[Expr, Expr]) -> Block:
    """Replaces variables (or loads) by expressions throughout a block.

    The shapes of buffers that the block declares are replaced too, with every use of them.
    """
    if not mapping:
        return block
    resized: dict[Buffer, Buffer] = {}
    replaced = substitution(mapping)
    for b in allocations(block):
        shape = tuple(_map_dim(d, replaced) for d in b.shape)
        if shape != b.shape:
            resized[b] = Buffer(b.name, b.dtype, shape, b.scope)
    new = map_block(block, replaced)
    return replace_block_buffers(new, resized)


def _map_dim(d: Dim, expr: Callable[[Expr], Expr]) -> Dim:
    if isinstance(d, int):
        return d
    new = expr(d)
    return d if new is d else dim(new)


def loop_range(loop: For) -> tuple[Dim, Dim]:
    """The inclusive range of a loop's variable."""
    if isinstance(loop.start, int) and isinstance(loop.extent, int):
        return loop.start, loop.start + loop.extent - 1
    last = dim(as_expr(loop.start) + (as_expr(loop.extent) - 1))
    return loop.start, last


def simplify_block(block: Block, ranges: Ranges) -> Block:
    """Simplifies every expression by the ranges of the loops around it; drops dead branches."""
    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For():
                if stmt.extent == 0:
                    continue
                if stmt.extent == 1 and stmt.kind not in BOUND_KINDS:
                    once = substitute_block(stmt.body, bind(stmt.var, stmt.start))
                    result += simplify_block(once, ranges)
                    continue
                inner = {**ranges, stmt.var: loop_range(stmt)}
                body = simplify_block(stmt.body, inner)
                extent, start = (_simple_dim(d, ranges) for d in (stmt.extent, stmt.start))
                result.append(For(stmt.var, extent, body, stmt.kind, start))
            case Store():
                indices = tuple(simplify(i, ranges) for i in stmt.indices)
                old = Load(stmt.buffer, stmt.indices)
                value = simplify_update(stmt.value, old, ranges)
                result.append(Store(stmt.buffer, indices, value, stmt.streamed))
            case If():
                cond = simplify(stmt.cond, ranges)
                match getattr(cond, "value", None):
                    case True:
                        result += simplify_block(stmt.then, ranges)
                    case False:
                        result += simplify_block(stmt.orelse, ranges)
                    case _:
                        then = simplify_block(stmt.then, ranges)
                        result.append(If(cond, then, simplify_block(stmt.orelse, ranges)))
            case Prefetch():
                indices = tuple(simplify(i, ranges) for i in stmt.indices)
                result.append(Prefetch(stmt.buffer, indices))
            case Let():
                result.append(Let(stmt.var, simplify(stmt.value, ranges)))
            case Alloc() | Barrier() | Commit() | Wait():
                result.append(stmt)
    return tuple(result)


def simplify_update(value: Expr, old: Expr, ranges: Ranges) -> Expr:
    """Simplifies what is stored in place of ``old``; an update ``op(old, rest)`` stays one.

    Integers would lose that form: ``old + (a - b)`` is the sum ``old + a - b`` of three terms.
    """
    if isinstance(value, Binary) and (value.a is old or value.b is old):
        return Binary(value.op, simplify(value.a, ranges), simplify(value.b, ranges))
    return simplify(value, ranges)


def _simple_dim(d: Dim, ranges: Ranges) -> Dim:
    if isinstance(d, int):
        return d
    return dim(simplify(d, ranges))


def simplify_func(func: Func) -> Func:
    """Returns the function with every expression simplified under the ranges of its loops."""
    return Func(func.name, func.params, simplify_block(func.body, {}))


def bind(var: Var, value: Dim) -> dict[Expr, Expr]:
    """A mapping for substitution of one variable."""
    return {var: as_expr(value)}
