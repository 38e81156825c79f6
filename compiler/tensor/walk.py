"""Walking and rebuilding expressions, statements and functions.

Expressions are shared graphs, so every walk here sees each distinct node once and keeps its own
stack: depth is bounded by memory, not by Python's recursion limit. Statements nest only as deep
as loops do, so their walks recurse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias, assert_never

from .ir import (
    Alloc,
    Axis,
    Barrier,
    Binary,
    Block,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Reduce,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
    Wait,
    as_expr,
)

ExprFn: TypeAlias = Callable[[Expr], Expr]

_DEEP = 64
"""Levels of an expression that a function recurses through."""

# ------------------------------------------------------------------ expressions


def children(e: Expr) -> tuple[Expr, ...]:
    """The operands of one node, in the order that ``rebuild`` takes them.

    The operands of a Reduce are its body and then the extents of its axes. The shape of a loaded
    buffer is not an operand.
    """
    return e.operands


def rebuild(e: Expr, new: tuple[Expr, ...]) -> Expr:
    """The node ``e`` over other operands; ``rebuild(e, children(e)) is e``.

    A Call keeps its result type. An extent that became constant becomes an int.
    """
    make = _REBUILD.get(type(e))
    if make is None:
        assert not new, e
        return e
    return make(e, new)


def _rebuild_reduce(e: Reduce, new: tuple[Expr, ...]) -> Reduce:
    axes = (Axis(a.var, _as_dim(x)) for a, x in zip(e.axes, new[1:], strict=True))
    return Reduce(e.op, axes, new[0])


# By type, since rebuilding is the step that every substitution spends its time in.
_REBUILD: dict[type[Expr], Callable[..., Expr]] = {
    Binary: lambda e, new: Binary(e.op, new[0], new[1]),
    Load: lambda e, new: Load(e.buffer, new),
    Unary: lambda e, new: Unary(e.op, new[0]),
    Cast: lambda e, new: Cast(new[0], e.dtype),
    Select: lambda e, new: Select(new[0], new[1], new[2]),
    Call: lambda e, new: Call(e.name, new, e.dtype),
    Reduce: _rebuild_reduce,
}


def _as_dim(e: Expr) -> Dim:
    return int(e.value) if isinstance(e, Const) else e


def visit(e: Expr) -> Iterator[Expr]:
    """Yields each distinct node of an expression once, operands before the nodes that use them."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(e, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
            continue
        if node in seen:
            continue
        seen.add(node)
        if not node.operands:
            yield node
            continue
        stack.append((node, True))
        stack += [(child, False) for child in reversed(node.operands) if child not in seen]


def rewrite(e: Expr, f: ExprFn) -> Expr:
    """Replaces every node by ``f(node)``, operands first.

    ``f`` sees a node whose operands are already rewritten and is called once for each distinct
    one; its result is not rewritten again.
    """
    memo: dict[Expr, Expr] = {}
    for node in visit(e):
        old = node.operands
        new = tuple([memo[child] for child in old])
        memo[node] = f(node if new == old else rebuild(node, new))
    return memo[e]


def loads(e: Expr) -> Iterator[Load]:
    """Yields each distinct Load of an expression once, inner ones first."""
    return iter(_loads(e))


@lru_cache(maxsize=1 << 14)
def _loads(e: Expr) -> tuple[Load, ...]:
    return tuple(node for node in visit(e) if isinstance(node, Load))


def free_vars(e: Dim) -> frozenset[Var]:
    """The variables an expression needs: all that occur, less the axes of its own Reduces.

    Variables that occur only in the shapes of loaded buffers are not counted.
    """
    if isinstance(e, int):
        return frozenset()
    return _free_vars(e) if e.operands else e.variables


@lru_cache(maxsize=1 << 14)
def _free_vars(e: Expr) -> frozenset[Var]:
    known: dict[Expr, frozenset[Var]] = {}
    for node in visit(e):
        if isinstance(node, Var):
            known[node] = frozenset((node,))
            continue
        parts = [known[child] for child in node.operands]
        if isinstance(node, Reduce):
            parts[0] -= {axis.var for axis in node.axes}
        known[node] = frozenset().union(*parts)
    return known[e]


def substitute(e: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """Replaces sub-expressions (variables, loads) by others, outermost first and once.

    A replacement is not searched again, so ``{i: j, j: i}`` swaps. Buffers keep their shapes.
    """
    return substitution(mapping)(e) if mapping else e


def substitution(mapping: Mapping[Expr, Expr]) -> ExprFn:
    """The function that substitutes by a mapping; expressions that share parts share the work."""
    memo: dict[Expr, Expr] = dict(mapping)
    # What has none of the variables of any key does not hold a key.
    marks: frozenset[Var] | None = frozenset().union(*[key.variables for key in mapping])
    if not all(key.variables for key in mapping):
        marks = None

    def whole(e: Expr) -> Expr:
        if e.depth > _DEEP:
            # From the bottom up, so that no step recurses far.
            for node in visit(e):
                if node.depth % _DEEP == 0:
                    _replaced(node, memo, marks)
        return _replaced(e, memo, marks)

    return whole


def _replaced(e: Expr, memo: dict[Expr, Expr], marks: frozenset[Var] | None) -> Expr:
    """What becomes of an expression; one without the marks stays as it is."""
    found = memo.get(e)
    if found is not None:
        return found
    operands = e.operands
    if not operands or (marks is not None and marks.isdisjoint(e.variables)):
        return e
    new = tuple([_replaced(x, memo, marks) for x in operands])
    found = memo[e] = e if new == operands else rebuild(e, new)
    return found


# ------------------------------------------------------------------ statements


def statements(block: Block) -> Iterator[Stmt]:
    """Yields every statement of a block, each before the statements inside it."""
    found: list[Stmt] = []
    _gather(block, found)
    return iter(found)


def _gather(block: Block, found: list[Stmt]) -> None:
    # Not a generator: each statement would pass through one for every loop around it.
    for stmt in block:
        found.append(stmt)
        if isinstance(stmt, For):
            _gather(stmt.body, found)
        elif isinstance(stmt, If):
            _gather(stmt.then, found)
            _gather(stmt.orelse, found)


def expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that one statement itself evaluates, without those of nested statements.

    A For evaluates its start and extent, an Alloc the dims of its buffer; those that are ints
    come as constants.
    """
    match stmt:
        case Store():
            return (*stmt.indices, stmt.value)
        case For():
            return (as_expr(stmt.start), as_expr(stmt.extent))
        case Prefetch():
            return stmt.indices
        case Barrier() | Commit() | Wait():
            return ()
        case If():
            return (stmt.cond,)
        case Alloc():
            return tuple(as_expr(d) for d in stmt.buffer.shape)
        case Let():
            return (stmt.value,)
    assert_never(stmt)


def stores(block: Block) -> Iterator[Store]:
    """Yields every Store of a block, in program order."""
    return (stmt for stmt in statements(block) if isinstance(stmt, Store))


def block_loads(block: Block) -> Iterator[Load]:
    """Yields the Loads of a block, statement by statement (a Load may come again in another)."""
    for stmt in statements(block):
        for e in expressions(stmt):
            yield from _loads(e)


def loops(func: Func) -> tuple[For, ...]:
    """Every loop of a function, outer before inner, in program order."""
    return tuple(stmt for stmt in statements(func.body) if isinstance(stmt, For))


def allocations(block: Block) -> tuple[Buffer, ...]:
    """Every buffer that a block declares, in program order."""
    return tuple(stmt.buffer for stmt in statements(block) if isinstance(stmt, Alloc))


def map_block(block: Block, f: Callable[[Stmt], Block]) -> Block:
    """Replaces every statement by the statements ``f`` gives for it, inner statements first.

    Example: ``map_block(b, lambda s: () if isinstance(s, Let) else (s,))`` drops every Let.
    """
    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For():
                body = map_block(stmt.body, f)
                result += f(For(stmt.var, stmt.extent, body, stmt.kind, stmt.start))
            case If():
                then, orelse = map_block(stmt.then, f), map_block(stmt.orelse, f)
                result += f(If(stmt.cond, then, orelse))
            case _:
                result += f(stmt)
    return tuple(result)


def rewrite_block(block: Block, f: ExprFn) -> Block:
    """Replaces every expression that a statement evaluates by ``f`` of the whole of it.

    Constant ints among loop bounds are left alone, and a bound that becomes constant becomes an
    int. Declared variables, buffers and their shapes stay as they are.
    """

    def each(stmt: Stmt) -> Block:
        match stmt:
            case For():
                start, extent = _rewrite_dim(stmt.start, f), _rewrite_dim(stmt.extent, f)
                return (For(stmt.var, extent, stmt.body, stmt.kind, start),)
            case Store():
                indices = tuple(f(i) for i in stmt.indices)
                return (Store(stmt.buffer, indices, f(stmt.value), stmt.streamed),)
            case Prefetch():
                return (Prefetch(stmt.buffer, tuple(f(i) for i in stmt.indices)),)
            case If():
                return (If(f(stmt.cond), stmt.then, stmt.orelse),)
            case Alloc() | Barrier() | Commit() | Wait():
                return (stmt,)
            case Let():
                return (Let(stmt.var, f(stmt.value)),)
        assert_never(stmt)

    return map_block(block, each)


def _rewrite_dim(d: Dim, f: ExprFn) -> Dim:
    return d if isinstance(d, int) else _as_dim(f(d))


def substitute_block(block: Block, mapping: Mapping[Expr, Expr]) -> Block:
    """Replaces sub-expressions in every statement of a block (see ``substitute``).

    Meant for variables that the block does not bind itself. The shapes of buffers that it
    declares are replaced too, with every use of them.
    """
    if not mapping:
        return block
    changed = {}
    replaced = substitution(mapping)
    for buffer in allocations(block):
        shape = tuple(_rewrite_dim(d, replaced) for d in buffer.shape)
        if shape != buffer.shape:
            changed[buffer] = Buffer(buffer.name, buffer.dtype, shape, buffer.scope)
    new = rewrite_block(block, replaced)
    return replace_block_buffers(new, changed)


def replace_block_buffers(block: Block, mapping: Mapping[Buffer, Buffer]) -> Block:
    """Replaces buffers wherever a block declares, reads or writes them, by others of equal rank.

    The new buffer's type must be the old one's: nothing is cast.
    """
    if not mapping:
        return block

    def each(stmt: Stmt) -> Block:
        match stmt:
            case Store():
                target = mapping.get(stmt.buffer, stmt.buffer)
                return (Store(target, stmt.indices, stmt.value, stmt.streamed),)
            case Prefetch():
                return (Prefetch(mapping.get(stmt.buffer, stmt.buffer), stmt.indices),)
            case Alloc():
                return (Alloc(mapping.get(stmt.buffer, stmt.buffer)),)
            case _:
                return (stmt,)

    return map_block(rewrite_block(block, lambda e: replace_loads(e, mapping)), each)


def replace_loads(e: Expr, mapping: Mapping[Buffer, Buffer]) -> Expr:
    """Makes every Load of a mapped buffer a Load of the other buffer at the same index."""

    def each(node: Expr) -> Expr:
        if isinstance(node, Load) and node.buffer in mapping:
            return Load(mapping[node.buffer], node.indices)
        return node

    return rewrite(e, each)


def replace_buffers(func: Func, mapping: Mapping[Buffer, Buffer]) -> Func:
    """Replaces buffers everywhere in a function, its parameters included."""
    params = tuple(mapping.get(p, p) if isinstance(p, Buffer) else p for p in func.params)
    return Func(func.name, params, replace_block_buffers(func.body, mapping))


def rename_vars(func: Func, mapping: Mapping[Var, Var]) -> Func:
    """Renames variables everywhere: where they are bound, used, and in the shapes of buffers."""

    def new(d: Dim) -> Dim:
        return d if isinstance(d, int) else substitute(d, exprs)

    def buffer(b: Buffer) -> Buffer:
        return Buffer(b.name, b.dtype, tuple(new(d) for d in b.shape), b.scope)

    def binder(stmt: Stmt) -> Block:
        match stmt:
            case For():
                var = mapping.get(stmt.var, stmt.var)
                return (For(var, stmt.extent, stmt.body, stmt.kind, stmt.start),)
            case Let():
                return (Let(mapping.get(stmt.var, stmt.var), stmt.value),)
            case _:
                return (stmt,)

    exprs: dict[Expr, Expr] = {old: mapping[old] for old in mapping}
    owned = [p for p in func.params if isinstance(p, Buffer)] + list(allocations(func.body))
    params = tuple(p if isinstance(p, Buffer) else mapping.get(p, p) for p in func.params)
    body = map_block(rewrite_block(func.body, lambda e: substitute(e, exprs)), binder)
    return replace_buffers(Func(func.name, params, body), {b: buffer(b) for b in owned})
