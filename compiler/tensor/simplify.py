"""Simplification of expressions, and the algebra of dims and indices.

i64 expressions are put in one canonical form: a sum of integer multiples of products of atoms
(variables, loads, floordiv, mod, min, max, ...) in a fixed order, so that two dims that are equal
as polynomials are the same object. Other types get constant folding and the removal of selects
and conditions that the ranges of the variables decide; floating-point values are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from math import gcd

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
from .linear import Linear, add_terms, fold_ints, multiply, order, scaled, wrap
from .ranges import Bound, RangeAnalysis, Ranges
from .walk import loads, substitute, visit

__all__ = [
    "Bound",
    "Ranges",
    "affine",
    "bounds",
    "ceildiv",
    "dim",
    "evaluate",
    "product",
    "prove",
    "ranges_of_axes",
    "same_dim",
    "simplify",
    "substitute",
    "symbols",
]

_NO_RANGES: Ranges = {}
_FALSE = Const(False, dt.bool_)
_TRUE = Const(True, dt.bool_)
_DEEP = 64


def simplify(e: Expr, ranges: Ranges = _NO_RANGES) -> Expr:
    """Returns an expression of equal value everywhere in the ranges, in canonical form.

    Args:
        e: any expression.
        ranges: inclusive ranges of loop variables; symbols carry their own.
    """
    if not e.operands:
        return e
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


def ranges_of_axes(axes: Iterable[Axis]) -> dict[Var, tuple[Dim, Dim]]:
    """The inclusive ranges of axes: ``0`` to ``extent - 1``, numbers where extents are."""
    return {
        a.var: (0, a.extent - 1 if isinstance(a.extent, int) else dim(a.extent - 1)) for a in axes
    }


def prove(condition: Expr, ranges: Ranges = _NO_RANGES) -> bool | None:
    """True or False where the ranges decide a condition, else None."""
    simple = simplify(condition, ranges)
    return bool(simple.value) if isinstance(simple, Const) else None


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
            return fold_ints(e.op, evaluate(e.a, env), evaluate(e.b, env))
    raise TypeError(f"not a dim: {e!r}")


class _Simplifier(RangeAnalysis):
    """One simplification under fixed ranges, with its memo tables."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__(ranges)
        self._done: dict[Expr, Expr] = {}
        self._linear: dict[Expr, Linear] = {}

    def unranged(self) -> _Simplifier:
        """The simplifier without ranges."""
        return _free()

    @property
    def size(self) -> int:
        """How much it remembers."""
        return len(self._done) + len(self._linear)

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
            return Const(wrap(int(x.value)), dtype)
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
        add_terms(difference, self.linear(a), -1)
        if op in ("eq", "ne"):
            lo, hi = self.linear_bounds(difference)
            if (lo is not None and lo > 0) or (hi is not None and hi < 0):
                return Const(op == "ne", dt.bool_)
            if lo == hi == 0:
                return Const(op == "eq", dt.bool_)
            return Binary(op, a, b)  # type: ignore[arg-type]
        least = 1 if op == "lt" else 0
        lo = self.end(difference, low=True)
        if lo is not None and lo >= least:
            return _TRUE
        hi = self.end(difference, low=False)
        if hi is not None and hi < least:
            return _FALSE
        return Binary(op, a, b)  # type: ignore[arg-type]

    # -------------------------------------------------------------- the linear form

    def linear(self, e: Expr) -> Linear:
        found = self._linear.get(e)
        if found is None:
            found = _free().linear(e) if self.is_free(e) else self._to_linear(e)
            self._linear[e] = found
        return found

    def _to_linear(self, e: Expr) -> Linear:
        match e:
            case Const():
                return {(): int(e.value)} if e.value else {}
            case Var():
                return {(e,): 1}
            case Unary(op="neg"):
                return {m: -c for m, c in self.linear(e.x).items()}
            case Binary(op="add" | "sub"):
                total = dict(self.linear(e.a))
                add_terms(total, self.linear(e.b), 1 if e.op == "add" else -1)
                return self._recombine(total)
            case Binary(op="mul"):
                return self._product(self.linear(e.a), self.linear(e.b))
            case Binary(op="floordiv"):
                return self.quotient(self.linear(e.a), self.linear(e.b))
            case Binary(op="mod"):
                return self._mod(self.linear(e.a), self.linear(e.b))
            case Binary(op="min" | "max"):
                return self._extreme(e.op, self.linear(e.a), self.linear(e.b))
            case Binary():
                a, b = self.run(e.a), self.run(e.b)
                if isinstance(a, Const) and isinstance(b, Const) and _folds(e.op, int(b.value)):
                    return self.linear(Const(wrap(fold_ints(e.op, int(a.value), int(b.value)))))
                return {(Binary(e.op, a, b),): 1}
            case Unary():
                return {(Unary(e.op, self.run(e.x)),): 1}
        simple = self.run(e)
        return {(simple,): 1} if simple is e or not _is_arithmetic(simple) else self.linear(simple)

    def _product(self, a: Linear, b: Linear) -> Linear:
        """The product of two forms; of two sums of data, as one term.

        Indices are sums of few terms. Data may be what a program has computed from data step by
        step: written out, ``x = x * x + y`` has twice the terms with each step.
        """
        if max(len(a), len(b)) > 1 and _has_data(a) and _has_data(b):
            a, b = self._as_term(a), self._as_term(b)
        return self._recombine(multiply(a, b))

    def _as_term(self, terms: Linear) -> Linear:
        return terms if len(terms) == 1 else {(self.build(terms),): 1}

    def _recombine(self, terms: Linear) -> Linear:
        """``c * (x // c) + x % c`` is x; ``x - c * (x // c)`` is left (rare)."""
        remainders = [m for m in terms if len(m) == 1 and _is_mod(m[0])]
        for monomial in remainders:
            atom = monomial[0]
            assert isinstance(atom, Binary)
            k = terms[monomial]
            quotient = self.quotient(self.linear(atom.a), self.linear(atom.b))
            if len(quotient) != 1:
                continue
            scaled = multiply(multiply(quotient, self.linear(atom.b)), {(): k})
            if all(terms.get(m) == c for m, c in scaled.items()):
                rest = dict(terms)
                add_terms(rest, {monomial: k}, -1)
                add_terms(rest, scaled, -1)
                add_terms(rest, self.linear(atom.a), k)
                return self._recombine(rest)
        return terms

    def _divide(self, a: Linear, b: Linear) -> tuple[Linear, Linear]:
        """a == q * b + r with every term of q exact, for b a single term."""
        (divisor, c), *more = b.items()
        quotient: Linear = {}
        rest: Linear = {}
        for monomial, k in a.items():
            left = list(monomial)
            exact = not more
            for atom in divisor:
                if atom not in left:
                    exact = False
                    break
                left.remove(atom)
            if exact and k % c == 0:
                add_terms(quotient, {tuple(left): k // c})
            elif exact and not left and abs(k) > abs(c) and c > 0:
                add_terms(quotient, {(): k // c})
                add_terms(rest, {monomial: k % c})
            else:
                add_terms(rest, {monomial: k})
        return quotient, rest

    def quotient(self, a: Linear, b: Linear) -> Linear:
        if b == {(): 1}:
            return a
        if not a:
            return {}
        if a == b and not self.may_be_zero(b):
            return {(): 1}
        if a.keys() == b.keys() == {()}:
            return _number(a[()] // b[()])
        lo_b = self.end(b, low=True) if len(b) == 1 else None
        if lo_b is None or lo_b <= 0:
            return {(Binary("floordiv", self.build(a), self.build(b)),): 1}
        quotient, rest = self._divide(a, b)
        if self.is_within(rest, b):
            return quotient
        below = dict(rest)
        add_terms(below, b)
        if self.is_within(below, b):  # -b <= rest < 0
            add_terms(quotient, {(): -1})
            return quotient
        result = dict(quotient)
        c = b.get((), 0)
        if c:
            g = reduce(gcd, rest.values(), c)
            if g > 1:
                rest = {m: k // g for m, k in rest.items()}
                c //= g
                if c == 1:
                    add_terms(result, rest)
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
                    add_terms(result, self.quotient(self.linear(inner.a), self.linear(below_c)))
                    return result
                if (
                    isinstance(inner, Binary)
                    and inner.op == "mod"
                    and isinstance(inner.b, Const)
                    and int(inner.b.value) % c == 0
                ):
                    # x % (n * c) // c is x // c % n, whose quotient may be in the same sum.
                    n = int(inner.b.value) // c
                    within = self.quotient(self.linear(inner.a), {(): c})
                    add_terms(result, self._mod(within, {(): n}))
                    return result
            add_terms(result, {(Binary("floordiv", self.build(rest), Const(c)),): 1})
            return result
        add_terms(result, {(Binary("floordiv", self.build(rest), self.build(b)),): 1})
        return result

    def _mod(self, a: Linear, b: Linear) -> Linear:
        if not a or b == {(): 1}:
            return {}
        if a.keys() == b.keys() == {()}:
            return _number(a[()] % b[()])
        lo_b = self.end(b, low=True) if len(b) == 1 else None
        if lo_b is None or lo_b <= 0:
            return {(Binary("mod", self.build(a), self.build(b)),): 1}
        _, rest = self._divide(a, b)
        if self.is_within(rest, b):
            return rest
        below = dict(rest)
        add_terms(below, b)
        if self.is_within(below, b):  # -b <= rest < 0
            return below
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

    def _extreme(self, op: str, a: Linear, b: Linear) -> Linear:
        difference = dict(b)
        add_terms(difference, a, -1)
        lo, hi = self.linear_bounds(difference)
        if lo is not None and lo >= 0:
            return a if op == "min" else b
        if hi is not None and hi <= 0:
            return b if op == "min" else a
        pair = sorted((self.build(a), self.build(b)), key=order)
        return {(Binary(op, *pair),): 1}  # type: ignore[arg-type]

    def build(self, terms: Linear) -> Expr:
        """The one expression of a linear form: sums first, then what is taken away."""
        constant = wrap(terms.get((), 0))
        ordered = [m for m in terms if m]
        if len(ordered) > 1:
            ordered.sort(key=lambda m: [order(x) for x in m])
        total: Expr | None = None
        for m in ordered:
            if terms[m] > 0:
                term = scaled(m, terms[m])
                total = term if total is None else Binary("add", total, term)
        if total is None and (constant > 0 or not ordered):
            total, constant = Const(constant), 0
        for m in ordered:
            if terms[m] >= 0:
                continue
            if total is None:
                total = scaled(m, terms[m])
            else:
                total = Binary("sub", total, scaled(m, -terms[m]))
        assert total is not None
        if constant:
            total = binary("add" if constant > 0 else "sub", total, abs(constant))
        self._linear.setdefault(total, terms)
        return total


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
        key = tuple([(v, ranges[v]) for v in used if v in ranges])
        more = [end.variables for _, ends in key for end in ends if isinstance(end, Expr)]
        wider = used.union(*more) if more else used
        if len(wider) == len(used):
            break
        used = wider
    found = _by_ranges.get(key)
    if found is None or found.size > _MOST_KEPT:
        if len(_by_ranges) >= _MOST_RANGES:
            _by_ranges.clear()
        found = _by_ranges[key] = _Simplifier(dict(key))
    return found


def _number(value: int) -> Linear:
    return {(): value} if value else {}


def _has_data(terms: Linear) -> bool:
    return any(next(loads(x), None) is not None for monomial in terms for x in monomial)


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
    parts: dict[Var, Linear] = {v: {} for v in wanted}
    rest: Linear = {}
    for monomial, c in s.linear(e).items():
        held = [x for x in monomial if isinstance(x, Var) and x in wanted]
        others = tuple(x for x in monomial if x not in wanted)
        if len(held) > 1 or any(not wanted.isdisjoint(x.variables) for x in others):
            return None
        add_terms(parts[held[0]] if held else rest, {others: c})
    return {v: _dim_of(s, p) for v, p in parts.items()}, s.build(rest)


def _dim_of(s: _Simplifier, terms: Linear) -> Dim:
    """The canonical dim of a linear form; most are numbers."""
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return wrap(terms[()])
    return dim(s.build(terms))
