"""Fragments as each lane of a warp keeps them: registers of its own."""

from __future__ import annotations

from tilewright.errors import InternalError
from tilewright.tensor.instructions import Layout, keeper, layouts_of, registers_of
from tilewright.tensor.ir import (
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    as_expr,
)
from tilewright.tensor.simplify import Ranges, same_dim, simplify
from tilewright.tensor.walk import allocations, expressions, loads, substitute


def scattered(func: Func) -> Func:
    """The function with each fragment an array of the registers that one lane keeps of it.

    The tile ``f[..., row, column]`` becomes ``f[..., register]``. Instructions stay as they are:
    they name whole tiles.

    Raises:
        InternalError: no instruction says how a fragment is laid out, or a thread touches an
            element that another lane keeps (TW-E0951).
    """
    fragments = [b for b in allocations(func.body) if b.scope == "fragment"]
    if not fragments:
        return func
    layouts = layouts_of(func.body)
    for b in fragments:
        if b.name not in layouts:
            raise InternalError(
                f"{func.name}: no instruction says how {b.name} is kept", code="TW-E0951"
            )
    body = _Scattering(func.name, layouts, fragments).block(func.body, None, {})
    return Func(func.name, func.params, body)


def lane_array(fragment: Buffer, layout: Layout) -> Buffer:
    """What one lane keeps of a fragment."""
    shape = (*fragment.shape[:-2], registers_of(layout))
    return Buffer(fragment.name, fragment.dtype, shape, "local")


class _Scattering:
    def __init__(self, name: str, layouts: dict[str, Layout], fragments: list[Buffer]) -> None:
        self._name = name
        self._layouts = layouts
        self._arrays = {b: lane_array(b, layouts[b.name]) for b in fragments}

    def block(self, block: Block, lane: Var | None, ranges: Ranges) -> Block:
        return tuple(self._stmt(s, lane, ranges) for s in block)

    def _stmt(self, stmt: Stmt, lane: Var | None, ranges: Ranges) -> Stmt:
        match stmt:
            case For() if stmt.kind == "instruction":
                return stmt
            case For():
                inner = {**ranges, stmt.var: (stmt.start, _last(stmt))}
                lane = stmt.var if stmt.kind == "thread.x" else lane
                body = self.block(stmt.body, lane, inner)
                return For(stmt.var, stmt.extent, body, stmt.kind, stmt.start)
            case If():
                cond = self._expr(stmt.cond, lane, ranges)
                then, orelse = (self.block(b, lane, ranges) for b in (stmt.then, stmt.orelse))
                return If(cond, then, orelse)
            case Store():
                value = self._expr(stmt.value, lane, ranges)
                if stmt.buffer not in self._arrays:
                    return Store(stmt.buffer, stmt.indices, value)
                place = self._place(stmt.buffer, stmt.indices, lane, ranges)
                return Store(self._arrays[stmt.buffer], place, value)
            case Alloc():
                return Alloc(self._arrays.get(stmt.buffer, stmt.buffer))
            case Let():
                return Let(stmt.var, self._expr(stmt.value, lane, ranges))
        assert not any(x.buffer in self._arrays for e in expressions(stmt) for x in loads(e))
        return stmt

    def _expr(self, e: Expr, lane: Var | None, ranges: Ranges) -> Expr:
        found = [x for x in loads(e) if x.buffer in self._arrays]
        mapping: dict[Expr, Expr] = {
            x: Load(self._arrays[x.buffer], self._place(x.buffer, x.indices, lane, ranges))
            for x in found
        }
        return substitute(e, mapping)

    def _place(
        self, b: Buffer, indices: tuple[Expr, ...], lane: Var | None, ranges: Ranges
    ) -> tuple[Expr, ...]:
        *outer, row, column = indices
        layout = self._layouts[b.name]
        owner = simplify(keeper(layout, "lane", row, column), ranges)
        if lane is None or not same_dim(simplify(owner - lane, ranges), 0):
            raise InternalError(
                f"{self._name}: a thread touches {b.name}[..., {row!r}, {column!r}], which "
                "another lane keeps",
                code="TW-E0951",
            )
        return (*outer, simplify(keeper(layout, "register", row, column), ranges))


def _last(loop: For) -> Expr:
    return simplify(as_expr(loop.start) + (as_expr(loop.extent) - 1))
