"""Range analysis: what values an i64 expression can take, from the ranges of its variables."""

from __future__ import annotations

from collections.abc import Mapping

from .. import dtype as dt
from .ir import Binary, Cast, Const, Dim, Expr, Select, Var, as_expr
from .linear import Linear, Monomial, add_terms, multiply

Bound = int | None
Ranges = Mapping[Var, tuple[Dim | None, Dim | None]]
"""Inclusive ranges of variables; an end may itself be an expression over symbols."""


_BOUNDED = frozenset({"mod", "min", "max", "floordiv"})


class RangeAnalysis:
    """Bounds under fixed ranges; a simplifier adds linear forms and quotients of them."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self._names = frozenset(ranges)
        self._ends_of: dict[tuple[frozenset[tuple[Monomial, int]], bool], Bound] = {}
        self._atoms: dict[Expr, tuple[Bound, Bound]] = {}
        self._boxes: dict[Expr, tuple[Bound, Bound] | None] = {}

    def linear(self, e: Expr) -> Linear:
        """The linear form of an i64 expression."""
        raise NotImplementedError

    def quotient(self, a: Linear, b: Linear) -> Linear:
        """The linear form of ``a // b``."""
        raise NotImplementedError

    def unranged(self) -> RangeAnalysis:
        """The analysis without ranges."""
        raise NotImplementedError

    def is_free(self, e: Expr) -> bool:
        """Whether no variable of the ranges occurs, so that every analysis agrees on it."""
        return bool(self._names) and self._names.isdisjoint(e.variables)

    def may_be_zero(self, terms: Linear) -> bool:
        """Whether 0 is not excluded."""
        lo, hi = self.linear_bounds(terms)
        return (lo is None or lo <= 0) and (hi is None or hi >= 0)

    def is_within(self, terms: Linear, end: Linear) -> bool:
        """Whether 0 <= terms < end is certain."""
        if not terms:
            return True
        lo = self.end(terms, low=True)
        if lo is None or lo < 0:
            return False
        gap = dict(end)
        add_terms(gap, terms, -1)
        least = self.end(gap, low=True)
        return least is not None and least > 0

    def bounds(self, e: Expr) -> tuple[Bound, Bound]:
        """Inclusive bounds of an expression; None where none is known."""
        return self.linear_bounds(self.linear(e))

    def linear_bounds(self, terms: Linear) -> tuple[Bound, Bound]:
        """Inclusive bounds of a linear form."""
        return self.end(terms, low=True), self.end(terms, low=False)

    def end(self, terms: Linear, low: bool, depth: int = 8) -> Bound:
        """The least (low) or greatest value of a linear form that is known."""
        total = 0
        for monomial, c in terms.items():
            if not monomial:
                total += c
                continue
            box = self._box(monomial[0]) if len(monomial) == 1 else None
            if box is None:
                break
            end = box[0 if low == (c > 0) else 1]
            if end is None:
                return None
            total += c * end
        else:
            # Variables that vary independently between known ends: no more can be said.
            return total
        place = (frozenset(terms.items()), low)
        if place not in self._ends_of:
            self._ends_of[place] = self._extreme_value(terms, low, depth)
        return self._ends_of[place]

    def _box(self, atom: Expr) -> tuple[Bound, Bound] | None:
        """The ends of a variable whose range is numbers; None for all else."""
        if atom in self._boxes:
            return self._boxes[atom]
        box: tuple[Bound, Bound] | None = None
        if isinstance(atom, Var):
            lo, hi = self.ranges.get(atom, (atom.lo, atom.hi))
            if not isinstance(lo, Expr) and not isinstance(hi, Expr):
                box = (lo, hi)
        self._boxes[atom] = box
        return box

    def _extreme_value(self, terms: Linear, low: bool, depth: int) -> Bound:
        """Replaces loop variables, minima, quotients ... by ends over symbols, then adds up.

        Where an atom has several ends (``min(a, b)`` is below both), the best result counts.
        """
        found = self._pick_atom(terms, low) if depth else None
        if found is None:
            return self._sum_bounds(terms, low)
        factor, rest, ends = found
        best: Bound = None
        for end in ends:
            candidate = dict(rest)
            add_terms(candidate, multiply(factor, end))
            value = self.end(candidate, low, depth - 1)
            if value is not None and (best is None or (value > best if low else value < best)):
                best = value
        plain = self._sum_bounds(terms, low)
        if best is None or plain is None:
            return plain if best is None else best
        return max(best, plain) if low else min(best, plain)

    def _sum_bounds(self, terms: Linear, low: bool) -> Bound:
        total = 0
        for monomial, c in terms.items():
            lo, hi = self._monomial_bounds(monomial)
            end = (lo if c > 0 else hi) if low else (hi if c > 0 else lo)
            if end is None:
                return None
            total += c * end
        return total

    def _pick_atom(self, terms: Linear, low: bool) -> tuple[Linear, Linear, list[Linear]] | None:
        """An atom that has ends: its factor, the terms without it, and its ends."""
        for monomial in terms:
            for atom in monomial:
                if not (atom in self.ranges or (isinstance(atom, Binary) and atom.op in _BOUNDED)):
                    continue
                # Only where it stands linearly with one sign of its whole coefficient.
                factor: Linear = {}
                rest: Linear = {}
                for m, c in terms.items():
                    if atom not in m:
                        rest[m] = c
                        continue
                    left = list(m)
                    left.remove(atom)
                    factor[tuple(left)] = c
                if any(atom in m for m in factor):
                    continue
                f_lo = self.end(factor, low=True)
                if f_lo is not None and f_lo >= 0:
                    ends = self._ends(atom, low)
                else:
                    f_hi = self.end(factor, low=False)
                    if f_hi is None or f_hi > 0:
                        continue
                    ends = self._ends(atom, not low)
                if ends:
                    return factor, rest, ends
        return None

    def _ends(self, atom: Expr, low: bool) -> list[Linear]:
        """Expressions that an atom is never below (low) or above."""
        match atom:
            case Var():
                end = self.ranges[atom][0 if low else 1]
                return [] if end is None else [self.linear(as_expr(end))]
            case Binary(op="mod") if not low:
                lo, _ = self.bounds(atom.b)
                if lo is None or lo <= 0:
                    return []
                top = dict(self.linear(atom.b))
                add_terms(top, {(): 1}, -1)
                return [top]
            case Binary(op="min") if not low:
                return [self.linear(atom.a), self.linear(atom.b)]
            case Binary(op="max") if low:
                return [self.linear(atom.a), self.linear(atom.b)]
            case Binary(op="floordiv"):
                lo, _ = self.bounds(atom.b)
                found = self._pick_atom(self.linear(atom.a), low) if lo and lo > 0 else None
                if found is None:
                    return []
                factor, rest, ends = found
                result = []
                for reached in ends:
                    inner = dict(rest)
                    add_terms(inner, multiply(factor, reached))
                    result.append(self.quotient(inner, self.linear(atom.b)))
                return result
        return []

    def _monomial_bounds(self, monomial: Monomial) -> tuple[Bound, Bound]:
        lo: Bound = 1
        hi: Bound = 1
        for atom in monomial:
            lo, hi = _product_bounds((lo, hi), self.atom_bounds(atom))
        return lo, hi

    def atom_bounds(self, e: Expr) -> tuple[Bound, Bound]:
        """Inclusive bounds of one atom."""
        found = self._atoms.get(e)
        if found is None:
            free = self.is_free(e)
            found = self.unranged().atom_bounds(e) if free else self._bounds_of_atom(e)
            self._atoms[e] = found
        return found

    def _bounds_of_atom(self, e: Expr) -> tuple[Bound, Bound]:
        match e:
            case Const():
                return int(e.value), int(e.value)
            case Var():
                given = self.ranges.get(e)
                if given is None:
                    return e.lo, e.hi
                lo, hi = given
                return (
                    None if lo is None else self.end(self.linear(as_expr(lo)), low=True),
                    None if hi is None else self.end(self.linear(as_expr(hi)), low=False),
                )
            case Binary(op="add" | "sub"):  # a factor of a product of data
                return self.bounds(e)
            case Binary(op="floordiv"):
                return self._floordiv_bounds(self.bounds(e.a), self.bounds(e.b))
            case Binary(op="mod"):
                lo_a, hi_a = self.bounds(e.a)
                lo_b, hi_b = self.bounds(e.b)
                if lo_b is None or lo_b <= 0:
                    return None, None
                top = None if hi_b is None else hi_b - 1
                if lo_a is not None and lo_a >= 0 and hi_a is not None:
                    top = hi_a if top is None else min(top, hi_a)
                return 0, top
            case Binary(op="min" | "max"):
                pick = min if e.op == "min" else max
                (la, ha), (lb, hb) = self.bounds(e.a), self.bounds(e.b)
                return _pick(pick, la, lb, e.op == "max"), _pick(pick, ha, hb, e.op == "min")
            case Binary(op="and") if (self.bounds(e.b)[0] or 0) > 0:
                return 0, self.bounds(e.b)[1]
            case Select():
                (la, ha), (lb, hb) = self.bounds(e.a), self.bounds(e.b)
                lo = None if la is None or lb is None else min(la, lb)
                return lo, None if ha is None or hb is None else max(ha, hb)
            case Cast() if e.x.dtype is dt.bool_:
                return 0, 1
            case Cast() if e.x.dtype.is_integer and e.x.dtype.bits < 64:
                return int(e.x.dtype.lowest), int(e.x.dtype.highest)
        return None, None

    def _floordiv_bounds(
        self, a: tuple[Bound, Bound], b: tuple[Bound, Bound]
    ) -> tuple[Bound, Bound]:
        lo_b, hi_b = b
        if lo_b is None or lo_b <= 0:
            return None, None
        lo_a, hi_a = a
        lo: Bound
        hi: Bound
        if lo_a is None:
            lo = None
        elif lo_a >= 0:
            lo = 0 if hi_b is None else lo_a // hi_b
        else:
            lo = lo_a // lo_b
        if hi_a is None:
            hi = None
        elif hi_a >= 0:
            hi = hi_a // lo_b
        else:
            hi = -1 if hi_b is None else hi_a // hi_b
        return lo, hi


def _pick(pick: object, a: Bound, b: Bound, either: bool) -> Bound:
    """min/max of two bounds; an unknown one is skipped where the other alone is a valid bound."""
    if a is None or b is None:
        return (a if b is None else b) if either else None
    return pick(a, b)  # type: ignore[operator,no-any-return]


def _product_bounds(a: tuple[Bound, Bound], b: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    (la, ha), (lb, hb) = a, b
    if la is not None and lb is not None and la >= 0 and lb >= 0:
        return la * lb, None if ha is None or hb is None else ha * hb
    if None in (la, ha, lb, hb):
        return None, None
    ends = [x * y for x in (la, ha) for y in (lb, hb)]  # type: ignore[operator]
    return min(ends), max(ends)
