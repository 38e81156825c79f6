"""Simplification of expressions, and the algebra of dims and indices.

i64 expressions are put in one canonical form: a sum of integer multiples of products of atoms
(variables, loads, floordiv, mod, min, max, ...) in a fixed order, so that two dims that are equal
as polynomials are the same object. Other types get constant folding and the removal of selects
and conditions that the ranges of the variables decide; floating-point values are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from math import gcd
from operator import mul

from .. import dtype as dt
from .ir import (
    COMPARISONS,
    Axis,
    Binary,
    Call,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Reduce,
    Select,
    Unary,
    Var,
    as_expr,
    binary,
)
from .walk import substitute, visit

__all__ = [
    "Bound",
    "Ranges",
    "affine",
    "bounds",
    "ceildiv",
    "dim",
    "evaluate",
    "multiple_of",
    "product",
    "prove",
    "same_dim",
    "simplify",
    "substitute",
    "symbols",
]

Bound = int | None
Ranges = Mapping[Var, tuple[Dim | None, Dim | None]]
"""Inclusive ranges of variables; an end may itself be an expression over symbols."""

_Monomial = tuple[Expr, ...]
_Linear = dict[_Monomial, int]
_NO_RANGES: Ranges = {}
_FALSE = Const(False, dt.bool_)
_TRUE = Const(True, dt.bool_)
_DEEP = 64
_BOUNDED = frozenset({"mod", "min", "max", "floordiv"})


def simplify(e: Expr, ranges: Ranges = _NO_RANGES) -> Expr:
    """Returns an expression of equal value everywhere in the ranges, in canonical form.

    Args:
        e: any expression.
        ranges: inclusive ranges of loop variables; symbols carry their own.
    """
    simplifier = _simplifier(e, ranges)
    if e.depth > _DEEP:
        # From the bottom up, so that no step recurses far; each result is remembered.
        for node in visit(e):
            if node.depth % _DEEP == 0:
                simplifier.run(node)
    return simplifier.run(e)


def dim(e: Dim) -> Dim:
    """The canonical dim: a Python int when constant, else a canonical i64 expression."""
    if isinstance(e, int):
        return e
    simple = _free().run(e)
    return int(simple.value) if isinstance(simple, Const) else simple


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dims are equal for all values of their symbols (as far as is known)."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return a is b or dim(as_expr(a) - as_expr(b)) == 0


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dims (1 for none)."""
    result: Dim = 1
    for d in dims:
        result = (
            result * d
            if isinstance(result, int) and isinstance(d, int)
            else dim(as_expr(result) * d)
        )
    return result


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded up, for b > 0."""
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    return dim((as_expr(a) + (as_expr(b) - 1)) // b)


def bounds(e: Dim, ranges: Ranges = _NO_RANGES) -> tuple[Bound, Bound]:
    """Inclusive bounds of an i64 expression; None where there is none that is known."""
    if isinstance(e, int):
        return e, e
    return _simplifier(e, ranges).bounds(e)


def prove(condition: Expr, ranges: Ranges = _NO_RANGES) -> bool | None:
    """True or False where the ranges decide a condition, else None."""
    simple = simplify(condition, ranges)
    return bool(simple.value) if isinstance(simple, Const) else None


def multiple_of(e: Dim) -> tuple[Var, int] | None:
    """The symbol and the positive factor of a canonical dim ``s`` or ``s*8``, else None."""
    match e:
        case Var():
            return e, 1
        case Binary(op="mul", a=Var() as variable, b=Const(value=factor)) if factor > 0:
            return variable, int(factor)
        case _:
            return None


def symbols(e: Dim) -> frozenset[Var]:
    """The variables that occur in an expression."""
    if isinstance(e, int):
        return frozenset()
    return e.variables


def evaluate(e: Dim, env: Mapping[str, int]) -> int:
    """The value of a dim for given symbol values (by name).

    Raises:
        KeyError: a symbol has no value.
    """
    if isinstance(e, int):
        return e
    match e:
        case Const():
            return int(e.value)
        case Var():
            return env[e.name]
        case Unary(op="neg"):
            return -evaluate(e.x, env)
        case Cast() if e.dtype.is_integer:
            return evaluate(e.x, env)
        case Select():
            return evaluate(e.a if evaluate(e.cond, env) else e.b, env)
        case Binary():
            return _fold_ints(e.op, evaluate(e.a, env), evaluate(e.b, env))
    raise TypeError(f"not a dim: {e!r}")


def _fold_ints(op: str, a: int, b: int) -> int:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return a // b
        case "mod":
            return a % b
        case "div":
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case "and":
            return a & b
        case "or":
            return a | b
        case "xor":
            return a ^ b
        case "shl":
            return a << b
        case "shr":
            return a >> b
        case "eq":
            return int(a == b)
        case "ne":
            return int(a != b)
        case "lt":
            return int(a < b)
        case "le":
            return int(a <= b)
        case "gt":
            return int(a > b)
        case "ge":
            return int(a >= b)
    raise AssertionError(op)


@lru_cache(maxsize=1 << 16)
def _order(e: Expr) -> tuple[int, str]:
    """A total order of atoms: variables by name first, then the rest by their printed form."""
    if isinstance(e, Var):
        return (0, e.name)
    return (1, _spell(e))


@lru_cache(maxsize=1 << 16)
def _spell(e: Expr) -> str:
    match e:
        case Var():
            return e.name
        case Const():
            return f"{e.value!r}:{e.dtype}"
        case Load():
            return f"{e.buffer.name}[{','.join(map(_spell, e.indices))}]"
        case Binary() | Unary():
            head: str = e.op
        case Call():
            head = e.name
        case _:
            head = type(e).__name__
    return f"{head}({','.join(map(_spell, e.operands))}):{e.dtype}"


def _add(into: _Linear, other: _Linear, scale: int = 1) -> None:
    for monomial, c in other.items():
        total = into.get(monomial, 0) + c * scale
        if total:
            into[monomial] = total
        else:
            into.pop(monomial, None)


def _multiply(a: _Linear, b: _Linear) -> _Linear:
    result: _Linear = {}
    for ma, ca in a.items():
        for mb, cb in b.items():
            monomial = tuple(sorted(ma + mb, key=_order)) if ma and mb else ma + mb
            total = result.get(monomial, 0) + ca * cb
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    return result


def _scaled(monomial: _Monomial, c: int) -> Expr:
    factor: Expr = reduce(mul, monomial)
    return factor if c == 1 else binary("mul", factor, c)


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


class _Simplifier:
    """One simplification under fixed ranges, with its memo tables."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self._names = frozenset(ranges)
        self._done: dict[Expr, Expr] = {}
        self._linear: dict[Expr, _Linear] = {}
        self._ends_of: dict[tuple[frozenset[tuple[_Monomial, int]], bool], Bound] = {}
        self._atoms: dict[Expr, tuple[Bound, Bound]] = {}
        self._boxes: dict[Expr, tuple[Bound, Bound] | None] = {}

    @property
    def size(self) -> int:
        """How much it remembers."""
        return len(self._done) + len(self._linear)

    def is_free(self, e: Expr) -> bool:
        """Whether no variable of the ranges occurs, so that every simplifier agrees on it."""
        return bool(self._names) and self._names.isdisjoint(e.variables)

    def run(self, e: Expr) -> Expr:
        found = self._done.get(e)
        if found is None:
            found = _free().run(e) if self.is_free(e) else self._step(e)
            self._done[e] = found
            self._done[found] = found
        return found

    def _step(self, e: Expr) -> Expr:
        if isinstance(e, Const | Var):
            return e
        if e.dtype is dt.i64 and isinstance(e, Binary | Unary):
            return self.build(self.linear(e))
        match e:
            case Binary():
                a, b = self.run(e.a), self.run(e.b)
                if e.op in COMPARISONS or e.dtype is dt.bool_:
                    return self._binary(e.op, a, b)
                return e if a is e.a and b is e.b else Binary(e.op, a, b)
            case Load():
                return Load(e.buffer, tuple([self.run(i) for i in e.indices]))
            case Select():
                return self._select(self.run(e.cond), e)
            case Cast():
                return self._cast(self.run(e.x), e.dtype)
            case Reduce():
                axes = (Axis(a.var, dim(a.extent)) for a in e.axes)
                return Reduce(e.op, axes, self.run(e.body))
            case Call():
                return Call(e.name, tuple([self.run(a) for a in e.args]), e.dtype)
            case Unary() if e.dtype is dt.bool_:
                return self._negation(self.run(e.x))
        assert isinstance(e, Unary)
        return Unary(e.op, self.run(e.x))

    # -------------------------------------------------------------- conditions and others

    def _select(self, cond: Expr, e: Select) -> Expr:
        if isinstance(cond, Const):
            return self.run(e.a if cond.value else e.b)
        a, b = self.run(e.a), self.run(e.b)
        return a if a is b else Select(cond, a, b)

    def _cast(self, x: Expr, dtype: dt.DType) -> Expr:
        if x.dtype is dtype:
            return x
        if isinstance(x, Const) and x.dtype.is_integer and dtype is dt.i64:
            return Const(_wrap(int(x.value)), dtype)
        return Cast(x, dtype)

    def _negation(self, x: Expr) -> Expr:
        match x:
            case Const():
                return Const(not x.value, dt.bool_)
            case Unary(op="not"):
                return x.x
        return Unary("not", x)

    def _binary(self, op: str, a: Expr, b: Expr) -> Expr:
        if op in COMPARISONS and a.dtype is dt.i64:
            return self._compare(op, a, b)
        if a.dtype is dt.bool_ and op in ("and", "or"):
            keep, drop = (_TRUE, _FALSE) if op == "and" else (_FALSE, _TRUE)
            if a is drop or b is drop:
                return drop
            if a is keep or a is b:
                return b
            if b is keep:
                return a
        return Binary(op, a, b)  # type: ignore[arg-type]

    def _compare(self, op: str, a: Expr, b: Expr) -> Expr:
        if op in ("gt", "ge"):
            op, a, b = ("lt" if op == "gt" else "le"), b, a
        difference = dict(self.linear(b))
        _add(difference, self.linear(a), -1)
        if op in ("eq", "ne"):
            lo, hi = self._linear_bounds(difference)
            if (lo is not None and lo > 0) or (hi is not None and hi < 0):
                return Const(op == "ne", dt.bool_)
            if lo == hi == 0:
                return Const(op == "eq", dt.bool_)
            return Binary(op, a, b)  # type: ignore[arg-type]
        least = 1 if op == "lt" else 0
        lo = self._end(difference, low=True)
        if lo is not None and lo >= least:
            return _TRUE
        hi = self._end(difference, low=False)
        if hi is not None and hi < least:
            return _FALSE
        return Binary(op, a, b)  # type: ignore[arg-type]

    # -------------------------------------------------------------- the linear form

    def linear(self, e: Expr) -> _Linear:
        found = self._linear.get(e)
        if found is None:
            found = _free().linear(e) if self.is_free(e) else self._to_linear(e)
            self._linear[e] = found
        return found

    def _to_linear(self, e: Expr) -> _Linear:
        match e:
            case Const():
                return {(): int(e.value)} if e.value else {}
            case Var():
                return {(e,): 1}
            case Unary(op="neg"):
                return {m: -c for m, c in self.linear(e.x).items()}
            case Binary(op="add" | "sub"):
                total = dict(self.linear(e.a))
                _add(total, self.linear(e.b), 1 if e.op == "add" else -1)
                return self._recombine(total)
            case Binary(op="mul"):
                return self._recombine(_multiply(self.linear(e.a), self.linear(e.b)))
            case Binary(op="floordiv"):
                return self._floordiv(self.linear(e.a), self.linear(e.b))
            case Binary(op="mod"):
                return self._mod(self.linear(e.a), self.linear(e.b))
            case Binary(op="min" | "max"):
                return self._extreme(e.op, self.linear(e.a), self.linear(e.b))
            case Binary():
                a, b = self.run(e.a), self.run(e.b)
                if isinstance(a, Const) and isinstance(b, Const) and _folds(e.op, int(b.value)):
                    return self.linear(Const(_wrap(_fold_ints(e.op, int(a.value), int(b.value)))))
                return {(Binary(e.op, a, b),): 1}
            case Unary():
                return {(Unary(e.op, self.run(e.x)),): 1}
        simple = self.run(e)
        return {(simple,): 1} if simple is e or not _is_arithmetic(simple) else self.linear(simple)

    def _recombine(self, terms: _Linear) -> _Linear:
        """``c * (x // c) + x % c`` is x; ``x - c * (x // c)`` is left (rare)."""
        remainders = [m for m in terms if len(m) == 1 and _is_mod(m[0])]
        for monomial in remainders:
            atom = monomial[0]
            assert isinstance(atom, Binary)
            k = terms[monomial]
            quotient = self._floordiv(self.linear(atom.a), self.linear(atom.b))
            if len(quotient) != 1:
                continue
            scaled = _multiply(_multiply(quotient, self.linear(atom.b)), {(): k})
            if all(terms.get(m) == c for m, c in scaled.items()):
                rest = dict(terms)
                _add(rest, {monomial: k}, -1)
                _add(rest, scaled, -1)
                _add(rest, self.linear(atom.a), k)
                return self._recombine(rest)
        return terms

    def _divide(self, a: _Linear, b: _Linear) -> tuple[_Linear, _Linear]:
        """a == q * b + r with every term of q exact, for b a single term."""
        (divisor, c), *more = b.items()
        quotient: _Linear = {}
        rest: _Linear = {}
        for monomial, k in a.items():
            left = list(monomial)
            exact = not more
            for atom in divisor:
                if atom not in left:
                    exact = False
                    break
                left.remove(atom)
            if exact and k % c == 0:
                _add(quotient, {tuple(left): k // c})
            elif exact and not left and abs(k) > abs(c) and c > 0:
                _add(quotient, {(): k // c})
                _add(rest, {monomial: k % c})
            else:
                _add(rest, {monomial: k})
        return quotient, rest

    def _floordiv(self, a: _Linear, b: _Linear) -> _Linear:
        if b == {(): 1}:
            return a
        if not a:
            return {}
        if a == b and not self._may_be_zero(b):
            return {(): 1}
        lo_b = self._end(b, low=True) if len(b) == 1 else None
        if lo_b is None or lo_b <= 0:
            return {(Binary("floordiv", self.build(a), self.build(b)),): 1}
        quotient, rest = self._divide(a, b)
        if self._within(rest, b):
            return quotient
        below = dict(rest)
        _add(below, b)
        if self._within(below, b):  # -b <= rest < 0
            _add(quotient, {(): -1})
            return quotient
        result = dict(quotient)
        c = b.get((), 0)
        if c:
            g = reduce(gcd, rest.values(), c)
            if g > 1:
                rest = {m: k // g for m, k in rest.items()}
                c //= g
                if c == 1:
                    _add(result, rest)
                    return result
            if len(rest) == 1:
                ((monomial, k),) = rest.items()
                inner = monomial[0] if len(monomial) == 1 and k == 1 else None
                if (
                    isinstance(inner, Binary)
                    and inner.op == "floordiv"
                    and isinstance(inner.b, Const)
                ):
                    below_c = Const(int(inner.b.value) * c)
                    _add(result, self._floordiv(self.linear(inner.a), self.linear(below_c)))
                    return result
                if (
                    isinstance(inner, Binary)
                    and inner.op == "mod"
                    and isinstance(inner.b, Const)
                    and int(inner.b.value) % c == 0
                ):
                    # x % (n * c) // c is x // c % n, whose quotient may be in the same sum.
                    n = int(inner.b.value) // c
                    within = self._floordiv(self.linear(inner.a), {(): c})
                    _add(result, self._mod(within, {(): n}))
                    return result
            _add(result, {(Binary("floordiv", self.build(rest), Const(c)),): 1})
            return result
        _add(result, {(Binary("floordiv", self.build(rest), self.build(b)),): 1})
        return result

    def _mod(self, a: _Linear, b: _Linear) -> _Linear:
        if not a or b == {(): 1}:
            return {}
        lo_b = self._end(b, low=True) if len(b) == 1 else None
        if lo_b is None or lo_b <= 0:
            return {(Binary("mod", self.build(a), self.build(b)),): 1}
        _, rest = self._divide(a, b)
        if self._within(rest, b):
            return rest
        c = b.get((), 0)
        if c:
            g = reduce(gcd, rest.values(), c)
            if g > 1:
                inner = self._mod({m: k // g for m, k in rest.items()}, {(): c // g})
                return {m: k * g for m, k in inner.items()}
            if len(rest) == 1:
                ((monomial, k),) = rest.items()
                inner_atom = monomial[0] if len(monomial) == 1 and k == 1 else None
                if (
                    isinstance(inner_atom, Binary)
                    and inner_atom.op == "mod"
                    and isinstance(inner_atom.b, Const)
                    and int(inner_atom.b.value) % c == 0
                ):
                    return self._mod(self.linear(inner_atom.a), b)
        return {(Binary("mod", self.build(rest), self.build(b)),): 1}

    def _extreme(self, op: str, a: _Linear, b: _Linear) -> _Linear:
        difference = dict(b)
        _add(difference, a, -1)
        lo, hi = self._linear_bounds(difference)
        if lo is not None and lo >= 0:
            return a if op == "min" else b
        if hi is not None and hi <= 0:
            return b if op == "min" else a
        pair = sorted((self.build(a), self.build(b)), key=_order)
        return {(Binary(op, *pair),): 1}  # type: ignore[arg-type]

    def build(self, terms: _Linear) -> Expr:
        """The one expression of a linear form: sums first, then what is taken away."""
        constant = _wrap(terms.get((), 0))
        ordered = [m for m in terms if m]
        if len(ordered) > 1:
            ordered.sort(key=lambda m: [_order(x) for x in m])
        total: Expr | None = None
        for m in ordered:
            if terms[m] > 0:
                term = _scaled(m, terms[m])
                total = term if total is None else Binary("add", total, term)
        if total is None and (constant > 0 or not ordered):
            total, constant = Const(constant), 0
        for m in ordered:
            if terms[m] >= 0:
                continue
            if total is None:
                total = _scaled(m, terms[m])
            else:
                total = Binary("sub", total, _scaled(m, -terms[m]))
        assert total is not None
        if constant:
            total = binary("add" if constant > 0 else "sub", total, abs(constant))
        self._linear.setdefault(total, terms)
        return total

    # -------------------------------------------------------------- ranges

    def _may_be_zero(self, terms: _Linear) -> bool:
        lo, hi = self._linear_bounds(terms)
        return (lo is None or lo <= 0) and (hi is None or hi >= 0)

    def _within(self, terms: _Linear, end: _Linear) -> bool:
        """Whether 0 <= terms < end is certain."""
        if not terms:
            return True
        lo = self._end(terms, low=True)
        if lo is None or lo < 0:
            return False
        gap = dict(end)
        _add(gap, terms, -1)
        least = self._end(gap, low=True)
        return least is not None and least > 0

    def bounds(self, e: Expr) -> tuple[Bound, Bound]:
        return self._linear_bounds(self.linear(e))

    def _linear_bounds(self, terms: _Linear) -> tuple[Bound, Bound]:
        return self._end(terms, low=True), self._end(terms, low=False)

    def _end(self, terms: _Linear, low: bool, depth: int = 8) -> Bound:
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

    def _extreme_value(self, terms: _Linear, low: bool, depth: int) -> Bound:
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
            _add(candidate, _multiply(factor, end))
            value = self._end(candidate, low, depth - 1)
            if value is not None and (best is None or (value > best if low else value < best)):
                best = value
        plain = self._sum_bounds(terms, low)
        if best is None or plain is None:
            return plain if best is None else best
        return max(best, plain) if low else min(best, plain)

    def _sum_bounds(self, terms: _Linear, low: bool) -> Bound:
        total = 0
        for monomial, c in terms.items():
            lo, hi = self._monomial_bounds(monomial)
            end = (lo if c > 0 else hi) if low else (hi if c > 0 else lo)
            if end is None:
                return None
            total += c * end
        return total

    def _pick_atom(
        self, terms: _Linear, low: bool
    ) -> tuple[_Linear, _Linear, list[_Linear]] | None:
        """An atom that has ends: its factor, the terms without it, and its ends."""
        for monomial in terms:
            for atom in monomial:
                if not (atom in self.ranges or (isinstance(atom, Binary) and atom.op in _BOUNDED)):
                    continue
                # Only where it stands linearly with one sign of its whole coefficient.
                factor: _Linear = {}
                rest: _Linear = {}
                for m, c in terms.items():
                    if atom not in m:
                        rest[m] = c
                        continue
                    left = list(m)
                    left.remove(atom)
                    factor[tuple(left)] = c
                if any(atom in m for m in factor):
                    continue
                f_lo = self._end(factor, low=True)
                if f_lo is not None and f_lo >= 0:
                    ends = self._ends(atom, low)
                else:
                    f_hi = self._end(factor, low=False)
                    if f_hi is None or f_hi > 0:
                        continue
                    ends = self._ends(atom, not low)
                if ends:
                    return factor, rest, ends
        return None

    def _ends(self, atom: Expr, low: bool) -> list[_Linear]:
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
                _add(top, {(): 1}, -1)
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
                    _add(inner, _multiply(factor, reached))
                    result.append(self._floordiv(inner, self.linear(atom.b)))
                return result
        return []

    def _monomial_bounds(self, monomial: _Monomial) -> tuple[Bound, Bound]:
        lo: Bound = 1
        hi: Bound = 1
        for atom in monomial:
            lo, hi = _product_bounds((lo, hi), self.atom_bounds(atom))
        return lo, hi

    def atom_bounds(self, e: Expr) -> tuple[Bound, Bound]:
        found = self._atoms.get(e)
        if found is None:
            free = self.is_free(e)
            found = _free().atom_bounds(e) if free else self._bounds_of_atom(e)
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
                    None if lo is None else self._end(self.linear(as_expr(lo)), low=True),
                    None if hi is None else self._end(self.linear(as_expr(hi)), low=False),
                )
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


_MOST_KEPT = 1 << 17
_MOST_RANGES = 512
_shared: list[_Simplifier] = []
_by_ranges: dict[tuple[tuple[Var, tuple[Dim | None, Dim | None]], ...], _Simplifier] = {}


def _free() -> _Simplifier:
    """The simplifier without ranges; its results hold everywhere, so it is kept."""
    if not _shared or _shared[0].size > _MOST_KEPT:
        _shared[:] = [_Simplifier(_NO_RANGES)]
    return _shared[0]


def _simplifier(e: Expr, ranges: Ranges) -> _Simplifier:
    """The simplifier under the ranges that matter for an expression; kept for the next one."""
    used = e.variables
    if not ranges or used.isdisjoint(ranges):
        return _free()
    while True:
        key = tuple([item for item in ranges.items() if item[0] in used])
        wider = used
        for _, ends in key:
            for end in ends:
                if isinstance(end, Expr):
                    wider = wider | end.variables
        if wider is used or len(wider) == len(used):
            break
        used = wider
    found = _by_ranges.get(key)
    if found is None or found.size > _MOST_KEPT:
        if len(_by_ranges) >= _MOST_RANGES:
            _by_ranges.clear()
        found = _by_ranges[key] = _Simplifier(dict(key))
    return found


def _is_mod(e: Expr) -> bool:
    return isinstance(e, Binary) and e.op == "mod"


def _folds(op: str, b: int) -> bool:
    """Whether an operation of two constants has a value, for the second one."""
    match op:
        case "div":
            return b != 0
        case "shl" | "shr":
            return 0 <= b < 64
    return True


def _is_arithmetic(e: Expr) -> bool:
    return isinstance(e, Const | Binary | Unary)


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


def affine(
    e: Expr, variables: Iterable[Var], ranges: Ranges = _NO_RANGES
) -> tuple[dict[Var, Dim], Expr] | None:
    """Coefficients and rest such that e == sum(coefficient * variable) + rest.

    Coefficients are canonical dims without any of the variables (0 where one does not occur).

    Returns:
        None where a variable stands inside a division, another load, or a product with another.
    """
    s = _simplifier(e, ranges)
    wanted = set(variables)
    parts: dict[Var, _Linear] = {v: {} for v in wanted}
    rest: _Linear = {}
    for monomial, c in s.linear(e).items():
        held = [x for x in monomial if isinstance(x, Var) and x in wanted]
        others = tuple(x for x in monomial if x not in wanted)
        if len(held) > 1 or any(not wanted.isdisjoint(x.variables) for x in others):
            return None
        _add(parts[held[0]] if held else rest, {others: c})
    return {v: dim(s.build(p)) for v, p in parts.items()}, s.build(rest)
