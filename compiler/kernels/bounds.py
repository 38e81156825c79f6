"""Whether every element that an expression reads is inside its array, for all sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright import dtype as dt
from tilewright.ops.op import dim_text
from tilewright.tensor.ir import (
    Axis,
    Binary,
    Dim,
    Expr,
    Load,
    Reduce,
    Select,
    Unary,
    Var,
    as_expr,
    le,
)
from tilewright.tensor.simplify import Ranges, dim, prove
from tilewright.tensor.text import text

from .scalar import plain, stem, wrong

Gaps = frozenset[Expr]
"""Expressions that are not negative where a read takes place."""

_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def check_reads(axes: Sequence[Axis], value: Expr) -> None:
    """Returns if every read is certain to be inside, under the conditions of ``where`` around it.

    Raises:
        ModelError: one is not (TW-E0267); says which, and over which ranges.
    """
    _visit(value, _ranges(axes), frozenset(), set())


def _ranges(axes: Sequence[Axis]) -> dict[Var, tuple[Dim, Dim]]:
    return {a.var: (0, dim(as_expr(a.extent) - 1)) for a in axes}


def _visit(e: Expr, ranges: Ranges, gaps: Gaps, seen: set[tuple[Expr, Gaps]]) -> None:
    if (e, gaps) in seen:
        return
    seen.add((e, gaps))
    match e:
        case Load():
            for position in range(len(e.indices)):
                _check(e, position, ranges, gaps)
        case Select():
            _visit(e.cond, ranges, gaps, seen)
            _visit(e.a, ranges, gaps | _gaps_of(e.cond, True), seen)
            _visit(e.b, ranges, gaps | _gaps_of(e.cond, False), seen)
            return
        case Reduce():
            # A reduction is computed before what chooses between it and something else.
            _visit(e.body, {**ranges, **_ranges(e.axes)}, frozenset(), set())
            return
    for x in e.operands:
        _visit(x, ranges, gaps, seen)


def _gaps_of(cond: Expr, holds: bool) -> Gaps:
    """What is not negative where a condition holds, or where it does not."""
    match cond:
        case Unary(op="not"):
            return _gaps_of(cond.x, not holds)
        case Binary(op="and" | "or") if cond.dtype is dt.bool_:
            if (cond.op == "and") == holds:
                return _gaps_of(cond.a, holds) | _gaps_of(cond.b, holds)
        case Binary() if cond.a.dtype is dt.i64:
            op = cond.op if holds else _OPPOSITE.get(cond.op, {"ne": "eq"}.get(cond.op, ""))
            a, b = cond.a, cond.b
            match op:
                case "lt":
                    return frozenset({b - a - 1})
                case "le":
                    return frozenset({b - a})
                case "gt":
                    return frozenset({a - b - 1})
                case "ge":
                    return frozenset({a - b})
                case "eq":
                    return frozenset({a - b, b - a})
    return frozenset()


def _check(load: Load, position: int, ranges: Ranges, gaps: Gaps) -> None:
    index, extent = load.indices[position], as_expr(load.buffer.shape[position])
    for needed in (index, extent - 1 - index):
        if not _follows(needed, ranges, gaps):
            raise wrong(_outside(load, position, ranges), "TW-E0267")


def _follows(needed: Expr, ranges: Ranges, gaps: Gaps) -> bool:
    """Whether ``needed`` is not negative: by itself, or as it is no less than one or two gaps."""
    if prove(le(0, needed), ranges) is True:
        return True
    if any(prove(le(g, needed), ranges) is True for g in gaps):
        return True
    return any(prove(le(g + h, needed), ranges) is True for g in gaps for h in gaps if g is not h)


def _outside(load: Load, position: int, ranges: Ranges) -> str:
    used = load.indices[position].variables
    over = [
        f"{stem(v.name)} in 0..{dim_text(last)}" for v, (_, last) in _sorted(ranges) if v in used
    ]
    clean = plain(load)
    assert isinstance(clean, Load)
    last = dim_text(dim(as_expr(load.buffer.shape[position]) - 1))
    return (
        f"{text(clean)}: the index {text(clean.indices[position])} may be outside of 0..{last}"
        f"{' for ' + ', '.join(over) if over else ''}; read it in np.where(inside, ..., 0) within"
        " the same sum, or clamp it with np.clip"
    )


def _sorted(ranges: Ranges) -> list[tuple[Var, tuple[Dim, Dim]]]:
    known: Mapping[Var, tuple[Dim, Dim]] = dict(ranges)  # type: ignore[arg-type]
    return sorted(known.items(), key=lambda item: item[0].name)
