"""Index arithmetic: integer expressions as sums of products, pointers and lane masks from them.

An i64 expression is kept as ``const + stride * lane + sum(coefficient * product of values)``. That
form folds the constants of unrolled loops, tells unit stride from a gather, proves guards by
intervals, and lets each part of an address be computed in the outermost loop that knows it.
"""

from __future__ import annotations

from abc import abstractmethod
from math import gcd

from tilewright import dtype as dt
from tilewright.tensor.ir import Binary, Const, Dim, Expr, Unary, Var

from .builder import Bound, Builder, Pointer, Value
from .index import Form, Index, Monomial, Terms
from .types import vector

# More carried pointers than this in one loop would spill: further ones add counter * step.
_CARRIED_POINTERS = 12
# Products of sizes and loop counters are kept apart up to this many factors.
_LONGEST_PRODUCT = 4
_I32_MAX = (1 << 31) - 1
_BEYOND = 1 << 63


def _wrap(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


class Addresser(Builder):
    """Evaluates i64 expressions in the current bindings.

    Attributes:
        env: what each variable stands for: an Index for i64, else a Value.
        width: the lanes of the current vector chunk (1: scalar code).
        active: how many of those lanes exist.
        lane_constants: what each lane holds of a vector of constants, by its text.
        multiples: what the value of a least or greatest index is a multiple of, by its text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.env: dict[Var, Index | Value] = {}
        self.lane_constants: dict[str, list[int]] = {}
        self.multiples: dict[str, int] = {}
        self.width = 1
        self.active = 1
        self._forms: dict[Expr, Form] = {}
        self._linear: dict[Expr, dict[tuple[Expr, ...], int]] = {}
        self._const_indices: dict[int, Index] = {}

    @abstractmethod
    def compute(self, e: Expr) -> Value:
        """The value of an i64 expression that is not a sum of products."""

    # -------------------------------------------------------------- forms

    def form(self, e: Expr) -> Form:
        """The sum of products that an i64 expression is."""
        found = self._forms.get(e)
        if found is None:
            found = self._forms[e] = Form(self._to_linear(e))
        return found

    def flat_form(self, shape: tuple[Dim, ...], indices: tuple[Expr, ...]) -> Form:
        """The form of the row-major position of ``indices`` in a buffer of ``shape``."""
        total: dict[tuple[Expr, ...], int] = {}
        for position, index in enumerate(indices):
            linear = self._to_linear(index)
            stride = 1
            for dim in shape[position + 1 :]:
                if isinstance(dim, int):
                    stride *= dim
                else:
                    linear = _product(linear, self._to_linear(dim))
            for factors, c in linear.items():
                total[factors] = total.get(factors, 0) + _wrapped(c * stride)
        return Form({f: c for f, c in total.items() if c})

    def _to_linear(self, e: Expr) -> dict[tuple[Expr, ...], int]:
        found = self._linear.get(e)
        if found is not None:
            return found
        result: dict[tuple[Expr, ...], int] = {(e,): 1}
        match e:
            case Const():
                result = {(): int(e.value)}
            case Unary(op="neg"):
                result = {f: -c for f, c in self._to_linear(e.x).items()}
            case Binary(op="add" | "sub"):
                sign = 1 if e.op == "add" else -1
                result = dict(self._to_linear(e.a))
                for f, c in self._to_linear(e.b).items():
                    result[f] = _wrapped(result.get(f, 0) + sign * c)
            case Binary(op="mul"):
                a, b = self._to_linear(e.a), self._to_linear(e.b)
                short = _longest(a) + _longest(b) <= _LONGEST_PRODUCT
                if short and (len(a) == 1 or len(b) == 1):
                    result = _product(a, b)
        self._linear[e] = result
        return result

    # -------------------------------------------------------------- indices

    def const_index(self, value: int) -> Index:
        """A constant index; equal ones are one object, so that memo keys agree."""
        found = self._const_indices.get(value)
        if found is None:
            found = self._const_indices[value] = Index(value)
        return found

    def atom(self, value: Value) -> Index:
        """A value as an index."""
        if value.const is not None:
            return self.const_index(int(value.const))
        return Index(0, 0, (((value,), 1),))

    def index(self, e: Dim) -> Index:
        """Evaluates an i64 expression in the current bindings."""
        if isinstance(e, int):
            return self.const_index(e)
        match e:
            case Const():
                return self.const_index(int(e.value))
            case Var():
                bound = self.env[e]
                assert isinstance(bound, Index), e.name
                return bound
            case Binary(op="add" | "sub") | Unary(op="neg"):
                return self.evaluate(self.form(e))
            case Binary(op="mul"):
                form = self.form(e)
                if form.terms and form.terms[0][1] == (e,):
                    return self.multiply(self.index(e.a), self.index(e.b))
                return self.evaluate(form)
            case Binary(op="floordiv" | "mod" | "div", b=Const(value=divisor)) if divisor > 0:
                a = self.index(e.a)
                lo = self.bounds_of(a)[0]
                if e.op != "div" or (lo is not None and lo >= 0):
                    return self._divide(a, int(divisor), e.op == "mod")
            case Binary(op="min" | "max"):
                return self._extreme(e.op, self.index(e.a), self.index(e.b))
        return self.atom(self.compute(e))

    def evaluate(self, form: Form) -> Index:
        """The sum that a form is in the current bindings."""
        const, stride = form.const, 0
        varying: list[tuple[int, Terms]] = []
        env = self.env
        for c, first, others in form.products:
            found = env.get(first) if type(first) is Var else None
            i = found if type(found) is Index else self.index(first)
            for factor in others:
                i = self.multiply(i, self.index(factor))
            const += c * i.const
            if i.is_const:
                continue
            stride += c * i.stride
            if i.terms:
                varying.append((c, i.terms))
        if not -_BEYOND <= const < _BEYOND:
            const = _wrap(const)
        if not varying:
            return Index(const, stride) if stride else self.const_index(const)
        if varying != form.varying:
            form.varying = varying
            form.sum = _sum_of(varying)
            form.affine = all(v.lanes == 1 for m, _ in form.sum for v in m)
        return Index(const, stride, form.sum, form.affine)

    def add(self, a: Index, b: Index, scale: int = 1) -> Index:
        """a + scale * b."""
        if a.is_const and b.is_const:
            return self.const_index(_wrap(a.const + scale * b.const))
        terms = dict(a.terms)
        for m, k in b.terms:
            terms[m] = terms.get(m, 0) + scale * k
        kept = tuple([item for item in terms.items() if item[1]])
        return Index(_wrap(a.const + scale * b.const), a.stride + scale * b.stride, kept)

    def scale(self, a: Index, by: int) -> Index:
        """by * a."""
        if by == 1:
            return a
        if a.is_const or by == 0:
            return self.const_index(_wrap(a.const * by))
        terms = tuple((m, k * by) for m, k in a.terms)
        return Index(_wrap(a.const * by), a.stride * by, terms)

    def multiply(self, a: Index, b: Index) -> Index:
        """a * b; a product of two varying sums is computed, one of single terms stays symbolic."""
        if a.is_const:
            return self.scale(b, a.const)
        if b.is_const:
            return self.scale(a, b.const)
        left, right = self._single_term(a), self._single_term(b)
        factors = left[0] + right[0]
        if len(factors) > _LONGEST_PRODUCT or any(v.lo is None for v in factors):
            # Data, not sizes and counters: nothing is gained by keeping the factors apart.
            return self.atom(self._arith("mul", self.materialise(a), self.materialise(b)))
        return Index(0, 0, ((tuple(sorted(factors, key=_by_name)), left[1] * right[1]),))

    def _single_term(self, a: Index) -> tuple[Monomial, int]:
        if a.const == 0 and a.stride == 0 and len(a.terms) == 1:
            return a.terms[0]
        return (self.materialise(a),), 1

    def _extreme(self, op: str, a: Index, b: Index) -> Index:
        alo, ahi = self.bounds_of(a)
        blo, bhi = self.bounds_of(b)
        if ahi is not None and blo is not None and ahi <= blo:
            return a if op == "min" else b
        if bhi is not None and alo is not None and bhi <= alo:
            return b if op == "min" else a
        va, vb = self.materialise(a), self.materialise(b)
        lanes = max(va.lanes, vb.lanes)
        va, vb = self.splat(va, lanes), self.splat(vb, lanes)
        result = self.intrinsic("smin" if op == "min" else "smax", va, va, vb)
        known_lo = [x for x in (alo, blo) if x is not None]
        known_hi = [x for x in (ahi, bhi) if x is not None]
        if op == "min":
            result.lo = min(known_lo) if len(known_lo) == 2 else None
            result.hi = min(known_hi, default=None)
        else:
            result.lo = max(known_lo, default=None)
            result.hi = max(known_hi) if len(known_hi) == 2 else None
        self.multiples[result.text] = gcd(_multiple_of(a), _multiple_of(b))
        return self.atom(result)

    # -------------------------------------------------------------- intervals

    def bounds_of(self, a: Index) -> tuple[Bound, Bound]:
        """Inclusive bounds over all existing lanes."""
        lo: Bound = a.const
        hi: Bound = a.const
        if a.stride:
            reach = a.stride * (self.active - 1)
            lo, hi = a.const + min(0, reach), a.const + max(0, reach)
        for monomial, k in a.terms:
            mlo, mhi = _monomial_bounds(monomial)
            if k < 0:
                mlo, mhi = mhi, mlo
            lo = None if lo is None or mlo is None else lo + k * mlo
            hi = None if hi is None or mhi is None else hi + k * mhi
            if lo is None and hi is None:
                break
        return lo, hi

    # -------------------------------------------------------------- values

    def materialise(self, a: Index) -> Value:
        """The value of an index: a scalar, or a vector where lanes differ."""
        if a.is_const:
            return self.constant(a.const, dt.i64)
        if a.is_uniform:
            return self._sum(a.const, a.terms)
        lanes = self.width
        uniform = tuple((m, k) for m, k in a.terms if all(v.lanes == 1 for v in m))
        total: Value | None = None
        if a.stride and not uniform:
            total = self._ramp_from(a.const, a.stride)
        else:
            if a.const or uniform:
                total = self.splat(self._sum(a.const, uniform), lanes)
            if a.stride:
                ramp = self.ramp(lanes, a.stride)
                total = ramp if total is None else self._arith("add", total, ramp)
        for monomial, k in a.terms:
            if all(v.lanes == 1 for v in monomial):
                continue
            term = self._scaled(monomial, k)
            total = term if total is None else self._arith("add", total, term)
        assert total is not None
        if self.active == lanes:
            total.lo, total.hi = self.bounds_of(a)
        return total

    def _ramp_from(self, const: int, stride: int) -> Value:
        items = ", ".join(f"i64 {const + i * stride}" for i in range(self.width))
        return Value(f"<{items}>", vector("i64", self.width), dt.i64, self.width, 0)

    def _sum(self, const: int, terms: Terms) -> Value:
        """A scalar sum, outer levels first so that each partial sum is as invariant as can be."""
        ordered = terms if len(terms) < 2 else sorted(terms, key=_level_of)
        total: Value | None = None
        for monomial, k in ordered:
            if k < 0 and total is not None:
                total = self._arith("sub", total, self._scaled(monomial, -k))
                continue
            term = self._scaled(monomial, k)
            total = term if total is None else self._arith("add", total, term)
        if total is None:
            return self.constant(const, dt.i64)
        return self._arith("add", total, self.constant(const, dt.i64)) if const else total

    def _scaled(self, monomial: Monomial, k: int) -> Value:
        factors = sorted(monomial, key=lambda v: v.level)
        total = factors[0]
        for factor in factors[1:]:
            total = self._arith("mul", total, factor)
        return total if k == 1 else self._arith("mul", total, self.constant(k, dt.i64))

    def _arith(self, op: str, a: Value, b: Value) -> Value:
        lanes = max(a.lanes, b.lanes)
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        level = max(a.level, b.level)
        text = f"{op} {a.type} {a.text}, {b.text}"
        return self.pure(text, a.type, dt.i64, lanes, level)

    # -------------------------------------------------------------- division

    def _divide(self, a: Index, c: int, remainder: bool) -> Index:
        """Floor division by a positive constant, or its remainder.

        Multiples of the divisor are taken out first; a rest that is known to stay inside one
        multiple needs no division at all (``(16 * i + lane) // 16 == i``).
        """
        quotient = tuple((m, k // c) for m, k in a.terms if k % c == 0)
        rest_terms = tuple((m, k) for m, k in a.terms if k % c)
        stride = 0 if a.stride % c == 0 else a.stride
        q = Index(a.const // c, (a.stride - stride) // c, quotient)
        rest = Index(a.const % c, stride, rest_terms)
        lo, hi = self.bounds_of(rest)
        if lo is not None and hi is not None and lo // c == hi // c:
            block = lo // c
            if remainder:
                return self.add(rest, self.const_index(-block * c))
            return self.add(q, self.const_index(block))
        if not rest.terms:
            values = [rest.const + stride * lane for lane in range(self.width)]
            items = [v % c if remainder else v // c for v in values]
            text = ", ".join(f"i64 {v}" for v in items)
            type_ = vector("i64", self.width)
            part = Value(f"<{text}>", type_, dt.i64, self.width, 0, None, min(items), max(items))
            self.lane_constants[part.text] = items
        else:
            part = self._divide_value(self.materialise(rest), c, remainder, lo, hi)
        return self.atom(part) if remainder else self.add(q, self.atom(part))

    def _divide_value(self, a: Value, c: int, remainder: bool, lo: Bound, hi: Bound) -> Value:
        power = c & (c - 1) == 0
        by = self.constant(c, dt.i64, a.lanes)
        known = lo is not None and lo >= 0
        if power and remainder:
            result = self._arith("and", a, self.constant(c - 1, dt.i64, a.lanes))
        elif power:
            # An arithmetic shift rounds down, whatever the sign.
            shift = self.constant(c.bit_length() - 1, dt.i64, a.lanes)
            result = self._arith("lshr" if known else "ashr", a, shift)
        elif known and hi is not None and hi <= _I32_MAX and a.lanes > 1:
            # Vectors have 32-bit multiplies but no 64-bit high multiplies.
            result = self._divide_narrow(a, c, remainder)
        elif known:
            result = self._arith("udiv", a, by)
            if remainder:
                result = self._arith("sub", a, self._arith("mul", result, by))
        else:
            truncated = self._arith("sdiv", a, by)
            rest = self._arith("sub", a, self._arith("mul", truncated, by))
            sign = self._arith("ashr", rest, self.constant(63, dt.i64, a.lanes))
            if remainder:
                result = self._arith("add", rest, self._arith("and", sign, by))
            else:
                result = self._arith("add", truncated, sign)
        if remainder:
            result.lo, result.hi = 0, c - 1
        else:
            result.lo = None if lo is None else lo // c
            result.hi = None if hi is None else hi // c
        return result

    def _divide_narrow(self, a: Value, c: int, remainder: bool) -> Value:
        type_ = vector("i32", a.lanes)
        narrow = self.pure(f"trunc {a.type} {a.text} to {type_}", type_, dt.i32, a.lanes, a.level)
        by = self.constant(c, dt.i32, a.lanes)
        op = "urem" if remainder else "udiv"
        text = f"{op} {type_} {narrow.text}, {by.text}"
        result = self.pure(text, type_, dt.i32, a.lanes, a.level)
        return self.pure(
            f"zext {type_} {result.text} to {a.type}", a.type, dt.i64, a.lanes, a.level
        )

    # -------------------------------------------------------------- comparisons and masks

    def compare(self, op: str, a: Index, b: Index) -> Value:
        """A comparison of indices: a constant where intervals decide, else a scalar or a mask."""
        if op in ("gt", "ge"):
            a, b, op = b, a, {"gt": "lt", "ge": "le"}[op]
        difference = self.add(a, b, -1)
        lo, hi = self.bounds_of(difference)
        decided = _decide(op, lo, hi)
        if decided is not None:
            return self.constant(decided, dt.bool_)
        if op in ("lt", "le") and difference.is_affine and difference.stride in (1, -1):
            # lane < count, or for a falling index lane > last.
            uniform = Index(difference.const, 0, difference.terms)
            last = 0 if op == "lt" else 1
            if difference.stride == 1:
                return self.prefix_mask(self.add(self.const_index(last), uniform, -1))
            inverse = self.prefix_mask(self.add(uniform, self.const_index(1 - last)))
            return self.invert(inverse)
        positive = tuple((m, k) for m, k in difference.terms if k > 0)
        negative = tuple((m, -k) for m, k in difference.terms if k < 0)
        left = Index(max(difference.const, 0), difference.stride, positive)
        right = Index(max(-difference.const, 0), 0, negative)
        x, y = self.materialise(left), self.materialise(right)
        lanes = max(x.lanes, y.lanes)
        x, y = self.splat(x, lanes), self.splat(y, lanes)
        predicate = {"lt": "slt", "le": "sle", "eq": "eq", "ne": "ne"}[op]
        text = f"icmp {predicate} {x.type} {x.text}, {y.text}"
        return self.pure(text, vector("i1", lanes), dt.bool_, lanes, max(x.level, y.level))

    def prefix_mask(self, count: Index) -> Value:
        """The mask of the lanes below ``count``, by one 32-bit comparison."""
        lanes = self.width
        if count.is_const:
            return self.constant_mask(count.const)
        lo, hi = self.bounds_of(count)
        if lo is None or lo < -_I32_MAX:
            count = self._extreme("max", count, self.const_index(0))
        if hi is None or hi > _I32_MAX:
            count = self._extreme("min", count, self.const_index(lanes))
        scalar = self.materialise(count)
        text = f"trunc i64 {scalar.text} to i32"
        narrow = self.pure(text, "i32", dt.i32, 1, scalar.level)
        wide = self.splat(narrow, lanes)
        ramp = self.ramp(lanes, 1, dt.i32)
        text = f"icmp sgt {wide.type} {wide.text}, {ramp.text}"
        return self.pure(text, vector("i1", lanes), dt.bool_, lanes, wide.level)

    def constant_mask(self, count: int) -> Value:
        """The mask of the first ``count`` lanes."""
        if count <= 0 or count >= self.active:
            return self.constant(count > 0, dt.bool_)
        items = ", ".join("i1 true" if i < count else "i1 false" for i in range(self.width))
        return Value(f"<{items}>", vector("i1", self.width), dt.bool_, self.width, 0)

    def invert(self, mask: Value) -> Value:
        """The lanes that a mask leaves out."""
        if mask.const is not None:
            return self.constant(not mask.const, dt.bool_, mask.lanes)
        one = self.constant(True, dt.bool_, mask.lanes)
        text = f"xor {mask.type} {mask.text}, {one.text}"
        return self.pure(text, mask.type, dt.bool_, mask.lanes, mask.level)

    def both(self, a: Value | None, b: Value | None) -> Value | None:
        """The lanes in both masks; None stands for all."""
        if a is None or a.const is True:
            return None if b is not None and b.const is True else b
        if b is None or b.const is True:
            return a
        if a.const is False or b.const is False:
            return self.constant(False, dt.bool_)
        lanes = max(a.lanes, b.lanes)
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        text = f"and {a.type} {a.text}, {b.text}"
        return self.pure(text, a.type, dt.bool_, lanes, max(a.level, b.level))

    # -------------------------------------------------------------- pointers

    def locate(self, base: Pointer, size: int, at: Index) -> Pointer:
        """The pointer to element ``at`` (its lane 0) of ``size`` bytes.

        Terms are added level by level, so each prefix of the sum lives in the outermost loop that
        knows it; a loop's own counter becomes a carried pointer; the constant comes last, where
        the machine's addressing absorbs it.
        """
        if not at.terms:
            return self.offset(base, at.const * size)
        key = (base.text, size, at.terms)
        found = self._pointers.get(key)
        if found is None:
            found = self._pointers[key] = self._locate_terms(base, size, at.terms)
            self.scopes[found.level].keys.append(key)
        return self.offset(found, at.const * size)

    def _locate_terms(self, base: Pointer, size: int, unordered: Terms) -> Pointer:
        pointer = base
        terms = unordered if len(unordered) < 2 else sorted(unordered, key=_level_of)
        position = 0
        while position < len(terms):
            level = _level_of(terms[position])
            end = position
            while end < len(terms) and _level_of(terms[end]) == level:
                end += 1
            pointer = self._advance(pointer, level, terms[position:end], size)
            position = end
        return pointer

    def _advance(
        self,
        pointer: Pointer,
        level: int,
        terms: Terms | list[tuple[Monomial, int]],
        size: int,
    ) -> Pointer:
        scope = self.scopes[level]
        counter = scope.counter
        plain: list[tuple[Monomial, int]] = []
        for monomial, k in terms:
            steps = [v for v in monomial if v is not counter]
            carried = (
                counter is not None
                and len(steps) == len(monomial) - 1
                and all(v.level < level for v in steps)
                and pointer.level < level
                and len(scope.pointers) < _CARRIED_POINTERS
            )
            if not carried:
                plain.append((monomial, k * size))
                continue
            step = (
                self._scaled(tuple(steps), k * size) if steps else self.constant(k * size, dt.i64)
            )
            pointer = self.carried_pointer(level, pointer, step)
        return self.offset(pointer, self._sum(0, tuple(plain))) if plain else pointer


def _sum_of(
    parts: list[tuple[int, Terms]],
) -> Terms:
    """The terms of a sum of multiples."""
    total: dict[Monomial, int] = {}
    for c, terms in parts:
        for monomial, k in terms:
            total[monomial] = total.get(monomial, 0) + c * k
    return tuple([item for item in total.items() if item[1]])


def _product(
    a: dict[tuple[Expr, ...], int], b: dict[tuple[Expr, ...], int]
) -> dict[tuple[Expr, ...], int]:
    result: dict[tuple[Expr, ...], int] = {}
    for fa, ca in a.items():
        for fb, cb in b.items():
            key = tuple(sorted(fa + fb, key=_name_of)) if fa and fb else fa or fb
            result[key] = _wrapped(result.get(key, 0) + ca * cb)
    return result


def _wrapped(c: int) -> int:
    """A coefficient as i64 arithmetic has it: powers of numbers would grow without end."""
    return c if -_BEYOND <= c < _BEYOND else (c + _BEYOND) % (2 * _BEYOND) - _BEYOND


def _name_of(e: Expr) -> str:
    """An order of factors that is the same in every process."""
    return e.name if isinstance(e, Var) else ""


def _longest(linear: dict[tuple[Expr, ...], int]) -> int:
    """The factors of the longest product."""
    return max((len(factors) for factors in linear), default=0)


def _by_name(value: Value) -> str:
    return value.text


def _level_of(term: tuple[Monomial, int]) -> int:
    monomial = term[0]
    return monomial[0].level if len(monomial) == 1 else max(v.level for v in monomial)


def _multiple_of(a: Index) -> int:
    """What an index that is the same in all lanes is a multiple of."""
    return gcd(a.const, *(k for _, k in a.terms)) if a.is_uniform else 1


def _monomial_bounds(monomial: Monomial) -> tuple[Bound, Bound]:
    if len(monomial) == 1:
        return monomial[0].lo, monomial[0].hi
    lo: Bound = 1
    hi: Bound = 1
    for v in monomial:
        if v.lo is None or v.lo < 0:
            return None, None
        lo = None if lo is None else lo * v.lo
        hi = None if hi is None or v.hi is None else hi * v.hi
    return lo, hi


def _decide(op: str, lo: Bound, hi: Bound) -> bool | None:
    """Whether ``d op 0`` holds for all (True) or no (False) values in the interval."""
    match op:
        case "lt":
            return (
                True if hi is not None and hi < 0 else False if lo is not None and lo >= 0 else None
            )
        case "le":
            return (
                True if hi is not None and hi <= 0 else False if lo is not None and lo > 0 else None
            )
        case "eq":
            if lo == 0 and hi == 0:
                return True
            return False if (lo is not None and lo > 0) or (hi is not None and hi < 0) else None
        case _:
            equal = _decide("eq", lo, hi)
            return None if equal is None else not equal
