"""Linear forms: sums of integer multiples of products of atoms, and integer arithmetic."""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import mul

from xxhash import xxh3_128_hexdigest

from .ir import Binary, Call, Const, Expr, Load, Unary, Var, binary

Monomial = tuple[Expr, ...]
"""A product of atoms in their fixed order; the empty one is 1."""

Linear = dict[Monomial, int]
"""Coefficients by monomial; none is 0."""

_LONGEST = 4096
"""Characters of a printed form that decides the order of two atoms; digests decide beyond."""


def fold_ints(op: str, a: int, b: int) -> int:
    """The value of an i64 operation on constants, before wrapping; comparisons give 0 or 1."""
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
def order(e: Expr) -> tuple[int, str]:
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
    spelt = f"{head}({','.join(map(_spell, e.operands))}):{e.dtype}"
    if len(spelt) <= _LONGEST:
        return spelt
    # What is shared would be spelt out at each use: ``x = x * x`` is twice as long each step.
    return f"{head}({xxh3_128_hexdigest(spelt.encode())}):{e.dtype}"


def add_terms(into: Linear, other: Linear, scale: int = 1) -> None:
    """Adds ``scale * other`` to a form in place."""
    for monomial, c in other.items():
        total = into.get(monomial, 0) + c * scale
        if total:
            into[monomial] = total
        else:
            into.pop(monomial, None)


def multiply(a: Linear, b: Linear) -> Linear:
    """The product of two forms."""
    result: Linear = {}
    for ma, ca in a.items():
        for mb, cb in b.items():
            monomial = tuple(sorted(ma + mb, key=order)) if ma and mb else ma + mb
            total = result.get(monomial, 0) + ca * cb
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    return result


def scaled(monomial: Monomial, c: int) -> Expr:
    """The expression of one term."""
    factor: Expr = reduce(mul, monomial)
    return factor if c == 1 else binary("mul", factor, c)


def wrap(value: int) -> int:
    """The value modulo 2**64, as an i64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
