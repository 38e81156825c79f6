"""Finding and rewriting loops of a Func by name: what every primitive is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..errors import ScheduleError
from ..tensor.ir import (
    Alloc,
    Block,
    Buffer,
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
    as_expr,
)
from ..tensor.simplify import Ranges, dim, simplify, substitute

LoopEdit = Callable[[For], Block]


def fail(step: str, func: Func, message: str) -> ScheduleError:
    """The error of a step that does not apply: names the step, the function and the loops."""
    names = ", ".join(loop.var.name for loop in loops(func.body))
    return ScheduleError(
        f"{step}: {message} (in {func.name}; loops: {names})", code="TW-E0701"
    )


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


def stores(block: Block) -> Iterator[Store]:
    """Every store of a block, in order."""
    for stmt in block:
        match stmt:
            case Store():
                yield stmt
            case For():
                yield from stores(stmt.body)
            case If():
                yield from stores(stmt.then)
                yield from stores(stmt.orelse)


def find_loop(func: Func, name: str, step: str) -> For:
    """The loop of that name.

    Raises:
        ScheduleError: there is none.
    """
    for loop in loops(func.body):
        if loop.var.name == name:
            return loop
    raise fail(step, func, f"there is no loop named {name!r}")


def edit_loop(func: Func, name: str, edit: LoopEdit, step: str) -> Func:
    """Replaces the loop of that name by the statements that ``edit`` returns.

    Raises:
        ScheduleError: there is no such loop.
    """
    find_loop(func, name, step)

    def visit(block: Block) -> Block:
        result: list[Stmt] = []
        for stmt in block:
            match stmt:
                case For() if stmt.var.name == name:
                    result += edit(stmt)
                case For():
                    result.append(
                        For(
                            stmt.var,
                            stmt.extent,
                            visit(stmt.body),
                            stmt.kind,
                            stmt.start,
                        )
                    )
                case If():
                    result.append(If(stmt.cond, visit(stmt.then), visit(stmt.orelse)))
                case _:
                    result.append(stmt)
        return tuple(result)

    return Func(func.name, func.params, visit(func.body))


def declared(block: Block) -> list[Buffer]:
    """Every buffer that a block declares, in order."""
    found: list[Buffer] = []
    for stmt in block:
        match stmt:
            case Alloc():
                found.append(stmt.buffer)
            case For():
                found += declared(stmt.body)
            case If():
                found += declared(stmt.then) + declared(stmt.orelse)
    return found


def map_block(
    block: Block,
    expr: Callable[[Expr], Expr],
    buffer: Callable[[Buffer], Buffer] = lambda b: b,
) -> Block:
    """Applies ``expr`` to every expression, and ``buffer`` to every stored or declared buffer."""
    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For():
                body = map_block(stmt.body, expr, buffer)
                extent = _map_dim(stmt.extent, expr)
                result.append(
                    For(stmt.var, extent, body, stmt.kind, _map_dim(stmt.start, expr))
                )
            case Store():
                indices = tuple(expr(i) for i in stmt.indices)
                result.append(Store(buffer(stmt.buffer), indices, expr(stmt.value)))
            case If():
                then, orelse = (
                    map_block(b, expr, buffer) for b in (stmt.then, stmt.orelse)
                )
                result.append(If(expr(stmt.cond), then, orelse))
            case Prefetch():
                result.append(Prefetch(buffer(stmt.buffer), tuple(map(expr, stmt.indices))))
            case Alloc():
                result.append(Alloc(buffer(stmt.buffer)))
            case Let():
                result.append(Let(stmt.var, expr(stmt.value)))
    return tuple(result)


def substitute_block(block: Block, mapping: Mapping[Expr, Expr]) -> Block:
    """Replaces variables (or loads) by expressions throughout a block."""
    return map_block(block, lambda e: substitute(e, mapping))


def _map_dim(d: Dim, expr: Callable[[Expr], Expr]) -> Dim:
    return d if isinstance(d, int) else dim(expr(d))


def loop_range(loop: For) -> tuple[Dim, Dim]:
    """The inclusive range of a loop's variable."""
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
                if stmt.extent == 1:
                    once = substitute_block(stmt.body, bind(stmt.var, stmt.start))
                    result += simplify_block(once, ranges)
                    continue
                inner = {**ranges, stmt.var: loop_range(stmt)}
                body = simplify_block(stmt.body, inner)
                extent, start = (
                    _simple_dim(d, ranges) for d in (stmt.extent, stmt.start)
                )
                result.append(For(stmt.var, extent, body, stmt.kind, start))
            case Store():
                indices = tuple(simplify(i, ranges) for i in stmt.indices)
                result.append(Store(stmt.buffer, indices, simplify(stmt.value, ranges)))
            case If():
                cond = simplify(stmt.cond, ranges)
                match getattr(cond, "value", None):
                    case True:
                        result += simplify_block(stmt.then, ranges)
                    case False:
                        result += simplify_block(stmt.orelse, ranges)
                    case _:
                        then = simplify_block(stmt.then, ranges)
                        result.append(
                            If(cond, then, simplify_block(stmt.orelse, ranges))
                        )
            case Prefetch():
                indices = tuple(simplify(i, ranges) for i in stmt.indices)
                result.append(Prefetch(stmt.buffer, indices))
            case Let():
                result.append(Let(stmt.var, simplify(stmt.value, ranges)))
            case Alloc():
                result.append(stmt)
    return tuple(result)


def _simple_dim(d: Dim, ranges: Ranges) -> Dim:
    if isinstance(d, int):
        return d
    return dim(simplify(d, ranges))


def simplify_func(func: Func) -> Func:
    """Returns the function with every expression simplified under the ranges of its loops."""
    return Func(func.name, func.params, simplify_block(func.body, {}))


def fresh_name(func: Func, name: str) -> str:
    """``name``, with a number if a loop of that name is there already."""
    taken = {loop.var.name for loop in loops(func.body)}
    if name not in taken:
        return name
    return next(f"{name}{i}" for i in range(2, 10_000) if f"{name}{i}" not in taken)


def block_loads(block: Block) -> Iterator[Load]:
    """Every load of a block (an expression that recurs is visited once per statement)."""
    for stmt in block:
        match stmt:
            case For():
                yield from block_loads(stmt.body)
            case Store():
                for e in (*stmt.indices, stmt.value):
                    yield from expr_loads(e)
            case If():
                yield from expr_loads(stmt.cond)
                yield from block_loads(stmt.then)
                yield from block_loads(stmt.orelse)
            case Let():
                yield from expr_loads(stmt.value)


def expr_loads(e: Expr) -> Iterator[Load]:
    """Every load inside an expression, each distinct one once, inner ones too."""
    seen: set[Expr] = set()
    todo = [e]
    while todo:
        x = todo.pop()
        if x in seen:
            continue
        seen.add(x)
        if isinstance(x, Load):
            yield x
        todo.extend(children(x))


def children(e: Expr) -> tuple[Expr, ...]:
    """The direct operands of an expression of a Func."""
    from_slots = {
        "Binary": ("a", "b"),
        "Unary": ("x",),
        "Cast": ("x",),
        "Select": ("cond", "a", "b"),
    }.get(type(e).__name__)
    if from_slots is not None:
        return tuple(getattr(e, s) for s in from_slots)
    if isinstance(e, Load):
        return e.indices
    return getattr(e, "args", ())


def bind(var: Var, value: Dim) -> dict[Expr, Expr]:
    """A mapping for substitution of one variable."""
    return {var: as_expr(value)}
