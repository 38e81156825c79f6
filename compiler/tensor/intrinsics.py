"""The table of scalar functions that a Call may name.

Functions with an instruction on every target (``sqrt floor fma ...``) are native: a backend emits
them as they are. Every other one has an expansion into native ones (tensor/polynomials.py), so a
backend needs no math library and the interpreter can check what will run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import erf
from typing import Any, Literal

import numpy as np

from .. import dtype as dt
from ..dtype import DType
from .exponentials import FLUSHED
from .ir import Call, Cast, Expr
from .polynomials import EXPANSIONS
from .walk import children, rebuild, visit

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Intrinsic:
    """One scalar function.

    Attributes:
        name: the name in a Call.
        arity: how many operands it takes, all of one type.
        result: ``same`` as the operands, ``bool``, or ``any`` type of the same width (bitcast).
        floats_only: whether integers are refused.
        reference: what it computes, on arrays of one type; floats narrower than f64 come as f64
            and are rounded afterwards, except where ``exact_type`` says that the type matters.
        exact_type: whether ``reference`` is given the arrays in their own type.
        expand: the same value by native functions only, or None for a native one; its operands
            are f32, f64 or integers.
    """

    name: str
    arity: int
    reference: Callable[..., Array]
    result: Literal["same", "bool", "any"] = "same"
    floats_only: bool = True
    exact_type: bool = False
    expand: Callable[..., Expr] | None = None

    def infer(self, operands: tuple[DType, ...]) -> DType | None:
        """The type of the result, or None where it is the caller's choice (``any``).

        Raises:
            TypeError: the number of operands or their types do not fit.
        """
        if len(operands) != self.arity:
            raise TypeError(f"{self.name}: takes {self.arity} operands, given {len(operands)}")
        first = operands[0]
        if any(t is not first for t in operands):
            raise TypeError(f"{self.name}: operands of different types {operands}")
        if self.floats_only and not first.is_float:
            raise TypeError(f"{self.name}: needs floats, given {first}")
        match self.result:
            case "same":
                return first
            case "bool":
                return dt.bool_
            case "any":
                return None


def call(name: str, *args: Expr, dtype: DType | None = None) -> Call:
    """Builds a Call of a function in the table, with the result type that its rule gives.

    Args:
        name: a name in INTRINSICS.
        args: the operands.
        dtype: the result type, needed for ``bitcast`` alone.

    Raises:
        TypeError: an unknown name, or operands or a result type that do not fit.
    """
    entry = INTRINSICS.get(name)
    if entry is None:
        raise TypeError(f"{name}: not a scalar function; known: {', '.join(sorted(INTRINSICS))}")
    inferred = entry.infer(tuple(a.dtype for a in args))
    result = inferred if dtype is None else dtype
    if result is None:
        raise TypeError(f"{name}: needs the type of its result")
    if inferred is not None and inferred is not result:
        raise TypeError(f"{name}: gives {inferred}, not {result}")
    if inferred is None and result.bits != args[0].dtype.bits:
        raise TypeError(f"{name}: {args[0].dtype} and {result} differ in width")
    return Call(name, args, result)


@lru_cache(maxsize=1 << 10)
def expand(e: Expr) -> Expr:
    """Replaces every Call that is not native by its expansion, over and over until none is left.

    f16 and bf16 are computed in f32 and rounded. The result holds only Const, Var, Load, Unary,
    Binary, Cast, Select, Reduce and native Calls; shared parts stay shared.
    """
    if not any(isinstance(node, Call) for node in visit(e)):
        return e
    memo: dict[Expr, Expr] = {}
    stack: list[Expr] = [e]
    # An entry is finished when its operands are; a Call then may wait for its own expansion.
    waiting: dict[Expr, Expr] = {}
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        if node in waiting:
            memo[node] = memo[waiting.pop(node)]
            stack.pop()
            continue
        operands = children(node)
        missing = [child for child in operands if child not in memo]
        if missing:
            stack.extend(missing)
            continue
        new = tuple(memo[child] for child in operands)
        built = node if new == operands else rebuild(node, new)
        once = _expand_once(built)
        if once is built:
            memo[node] = built
            stack.pop()
        else:
            waiting[node] = once
            stack.append(once)
    return memo[e]


def _expand_once(e: Expr) -> Expr:
    if not isinstance(e, Call):
        return e
    entry = INTRINSICS.get(e.name)
    if entry is None:
        raise TypeError(f"{e.name}: not a scalar function")
    if entry.expand is None:
        return e
    if not e.args[0].dtype.is_float or e.args[0].dtype.bits > 16:
        return entry.expand(*e.args)
    wide = entry.expand(*(Cast(a, dt.f32) for a in e.args))
    return wide if e.dtype is dt.bool_ else Cast(wide, e.dtype)


def reference(e: Call, args: tuple[Array, ...]) -> Array:
    """The value of a Call on arrays, by NumPy.

    Floats narrower than f64 are computed in f64 and rounded once, so that the result is the
    correctly rounded one (up to NumPy's own f64 error) whatever the type.
    """
    entry = INTRINSICS[e.name]
    operand = e.args[0].dtype
    if e.name == "bitcast":
        return np.ascontiguousarray(args[0]).view(e.dtype.numpy).reshape(np.shape(args[0]))
    if operand.is_float and operand.bits < 64 and not entry.exact_type:
        args = tuple(a.astype(np.float64) for a in args)
    with np.errstate(all="ignore"):
        return np.asarray(entry.reference(*args)).astype(e.dtype.numpy, copy=False)


# ------------------------------------------------------------------ references


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(erf, otypes=[np.float64])(x))


def _exp_flushed(x: Array) -> Array:
    return np.where(x < FLUSHED, 0.0, np.exp(x))


def _sigmoid(x: Array) -> Array:
    # Both halves of the line use the exponential that cannot overflow.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def _fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once, for any float type.

    f32 products are exact in f64, where only the sum rounds: it is rounded to odd so that the
    second rounding (to f32) is right. f64 uses error-free transformations (Dekker 1971; Boldo and
    Melquiond 2008) on operands scaled to about 1; only a subnormal result is rounded twice.
    """
    if a.dtype.itemsize < 8:
        product = a.astype(np.float64) * b.astype(np.float64)
        return _to_odd_sum(product, c.astype(np.float64)).astype(a.dtype)
    plain = a * b + c
    (ma, ea), (mb, eb), (mc, ec) = np.frexp(a), np.frexp(b), np.frexp(c)
    # Further than 2 ** 200 apart the smaller of product and addend only breaks ties.
    addend = np.ldexp(mc, np.clip(ec - ea - eb, -200, 200))
    product, low = _two_product(ma, mb)
    partial, lowest = _two_sum(addend, low)
    high, middle = _two_sum(product, partial)
    fused = np.ldexp(_to_odd_sum(lowest, middle) + high, ea + eb)
    fused = np.where((ec - ea - eb > 200) & (c != 0), c, fused)
    is_plain = (a == 0) | (b == 0) | ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
    return np.where(is_plain, plain, fused)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    p = a * b
    ah, al = _halves(a)
    bh, bl = _halves(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _halves(a: Array) -> tuple[Array, Array]:
    t = 134217729.0 * a
    high = t - (t - a)
    return high, a - high


def _to_odd_sum(a: Array, b: Array) -> Array:
    """a + b rounded to odd in f64: an inexact result has its last bit set."""
    s, error = _two_sum(a, b)
    s, error = np.atleast_1d(s), np.atleast_1d(error)
    bits = s.view(np.int64).copy()
    even = (error != 0) & np.isfinite(error) & ((bits & 1) == 0)
    # Towards the true value: one step up in magnitude when the error has the sign of the sum.
    bits += np.where(even, np.where((error > 0) == (s > 0), 1, -1), 0)
    return bits.view(np.float64).reshape(np.shape(a + b))


def _integer_pow(x: Array, y: Array) -> Array:
    """x ** y by squaring, wrapping; a negative power truncates 1 / x ** -y (0 to it gives 0)."""
    x, y = np.broadcast_arrays(np.asarray(x), np.asarray(y))
    result, base, power = np.ones_like(x), x.copy(), y.copy()
    for _ in range(8 * x.dtype.itemsize - (1 if x.dtype.kind == "i" else 0)):
        result = np.where(power & 1, result * base, result)
        base, power = base * base, power >> 1
    if x.dtype.kind == "u":
        return result
    minus = np.where(x == 1, 1, np.where(x == -1, np.where(y & 1, -1, 1), 0))
    return np.where(y < 0, minus.astype(x.dtype), result)


def _pow(x: Array, y: Array) -> Array:
    return np.power(x, y) if x.dtype.kind not in "iu" else _integer_pow(x, y)


# ------------------------------------------------------------------ the table


def _entry(
    name: str,
    arity: int,
    reference: Callable[..., Array],
    *,
    result: Literal["same", "bool", "any"] = "same",
    floats_only: bool = True,
    exact_type: bool = False,
) -> Intrinsic:
    return Intrinsic(name, arity, reference, result, floats_only, exact_type, EXPANSIONS.get(name))


INTRINSICS: dict[str, Intrinsic] = {
    entry.name: entry
    for entry in (
        # Native: one instruction on every target. abs, min and max are operators of the IR.
        _entry("sqrt", 1, np.sqrt),
        _entry("floor", 1, np.floor),
        _entry("ceil", 1, np.ceil),
        _entry("trunc", 1, np.trunc),
        _entry("round", 1, np.rint),
        _entry("fma", 3, _fma, exact_type=True),
        # The same, but rounded twice on machines without the instruction.
        _entry("mad", 3, _fma, exact_type=True),
        _entry("copysign", 2, np.copysign),
        _entry("bitcast", 1, np.positive, result="any", floats_only=False, exact_type=True),
        # Short forms over native ones.
        _entry("rsqrt", 1, lambda x: 1.0 / np.sqrt(x)),
        _entry("isnan", 1, np.isnan, result="bool"),
        _entry("isinf", 1, np.isinf, result="bool"),
        # Polynomials.
        _entry("exp", 1, np.exp),
        _entry("exp_flushed", 1, _exp_flushed),
        _entry("exp2", 1, np.exp2),
        _entry("expm1", 1, np.expm1),
        _entry("log", 1, np.log),
        _entry("log2", 1, np.log2),
        _entry("log1p", 1, np.log1p),
        _entry("sin", 1, np.sin),
        _entry("cos", 1, np.cos),
        _entry("tan", 1, np.tan),
        _entry("asin", 1, np.arcsin),
        _entry("acos", 1, np.arccos),
        _entry("atan", 1, np.arctan),
        _entry("sinh", 1, np.sinh),
        _entry("cosh", 1, np.cosh),
        _entry("tanh", 1, np.tanh),
        _entry("asinh", 1, np.arcsinh),
        _entry("acosh", 1, np.arccosh),
        _entry("atanh", 1, np.arctanh),
        _entry("erf", 1, _erf),
        _entry("sigmoid", 1, _sigmoid),
        _entry("pow", 2, _pow, floats_only=False),
        _entry("fmod", 2, np.fmod, floats_only=False),
    )
}
