"""What guarded equalities say of symbolic sizes: symbols written in terms of others.

Torch traces on with ``s0 // 2 == s1`` or ``s0 % 2 == 0`` once it has noted them as conditions of
the program, and gives sizes that agree only by them. Dims agree where they are one expression: so
s1 becomes ``s0 // 2``, and an even s0 twice a new symbol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy

from tilewright.dtype import i64
from tilewright.tensor.ir import Binary, Const, Dim, Expr, Var, as_expr, symbol
from tilewright.tensor.simplify import affine, dim, symbols
from tilewright.tensor.walk import substitute, visit

from .types import GapError, of_sympy


def settled(given: Mapping[str, Var], guards: Iterable[Any]) -> Mapping[str, Dim]:
    """The symbols by torch's name, so written that sizes which guards equate are equal.

    Args:
        given: the symbols as they are.
        guards: conditions of torch's that hold for every call; those that are no equalities, or
            that say nothing simple of one symbol, are left out.
    """
    found: dict[str, Dim] = dict(given)
    equalities = [g for g in guards if isinstance(g, sympy.Eq)]
    grown = bool(equalities)
    while grown:
        grown = False
        for guard in list(equalities):
            try:
                left, right = (of_sympy(a, found) for a in guard.args)
            except GapError:
                equalities.remove(guard)
                continue
            solution = _solution(left, right, {v.name for d in found.values() for v in symbols(d)})
            if solution is None:
                continue
            (which, value), grown = solution, True
            replaced: dict[Expr, Expr] = {which: as_expr(value)}
            found = {k: dim(substitute(as_expr(d), replaced)) for k, d in found.items()}
    return found


def _solution(left: Dim, right: Dim, taken: set[str]) -> tuple[Var, Dim] | None:
    """A symbol of ``left == right`` in terms of others; None where it has no simple one."""
    for this, other in ((left, right), (right, left)):
        if isinstance(this, Var) and this not in symbols(other):
            return this, other
    apart = dim(as_expr(left) - right)
    if isinstance(apart, int):
        return None
    for part in visit(apart):
        parted = _parted(part)
        if parted is not None:
            solution = _by_parts(apart, *parted, taken)
            if solution is not None:
                return solution
    return None


def _parted(e: Expr) -> tuple[Var, int, int] | None:
    """The symbol, the shift and the divisor of ``(symbol + shift) // divisor`` or ``% divisor``."""
    match e:
        case Binary(op="floordiv" | "mod", a=a, b=Const(value=divisor)) if divisor > 1:
            inner = symbols(a)
            parts = affine(a, tuple(inner)) if len(inner) == 1 else None
            if parts is not None:
                (which,) = inner
                coefficients, rest = parts
                shift = dim(rest)
                if coefficients[which] == 1 and isinstance(shift, int):
                    return which, shift, int(divisor)
    return None


def _by_parts(
    apart: Expr, which: Var, shift: int, divisor: int, taken: set[str]
) -> tuple[Var, Dim] | None:
    """The symbol where ``apart`` is 0, as ``divisor * quotient + rest - shift``, one part known."""
    low, high = (
        (end + shift) // divisor if isinstance(end, int) else end for end in (which.lo, which.hi)
    )
    quotient = Var(_fresh(f"{which.name}_q", taken), i64, low, high)
    rest = symbol(_fresh(f"{which.name}_r", taken), 0, divisor - 1)
    whole = quotient * divisor + rest - shift
    left = dim(substitute(apart, {which: whole}))
    parts = affine(as_expr(left), (quotient, rest))
    if parts is None:
        return None
    coefficients, remaining = parts
    number = dim(remaining)
    match coefficients[quotient], coefficients[rest]:
        case 0, (1 | -1) as factor if isinstance(number, int) and 0 <= -number * factor < divisor:
            return which, dim(substitute(whole, {rest: Const(-number * factor)}))
        case (1 | -1) as factor, 0 if which not in symbols(number):
            known = as_expr(number) * -factor
            return which, dim(substitute(whole, {quotient: known}))
    return None


def _fresh(name: str, taken: set[str]) -> str:
    """A name for a symbol that no other has."""
    while name in taken:
        name += "_"
    return name
