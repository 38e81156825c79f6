"""Ufuncs: NumPy's own rules pick the loop, and the loop becomes primitive operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value

from .trace import Handler, Trace
from .tracer import Size, Tracer, call_function, element_type, kind_of, operand

Loop = Callable[..., Value]

_COMPARISONS = {
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge",
}  # fmt: skip

_PRODUCTS = frozenset({"matmul", "vecdot", "matvec", "vecmat"})


def elementwise(trace: Trace, ufunc: np.ufunc, *inputs: Any, **kwargs: Any) -> Any:
    """Calls a ufunc on operands of which one at least is traced."""
    name = ufunc.__name__
    who = f"numpy.{name}"
    for key, value in kwargs.items():
        default = value is None or (key == "where" and value is True) or key == "casting"
        if key == "where" and not default:
            trace.unsupported(
                f"{who} with where and no out: the rest would not be initialised; use np.where",
                "TW-E0245",
            )
        if key not in ("dtype", "axis") and not default and (key, value) != ("order", "K"):
            trace.unsupported(f"{who} with the argument {key}", "TW-E0245")
    if name in _PRODUCTS:
        return call_function(trace, name, inputs, {k: v for k, v in kwargs.items() if k == "axis"})
    loop = trace.ufuncs.get(name)
    if loop is None:
        return trace.missing(who)
    if len(inputs) != ufunc.nin:
        trace.unsupported(f"{who} with {len(inputs)} positional arguments", "TW-E0245")
    operands = [np.asarray(x) if _is_plain(x) else x for x in inputs]
    beyond = _beyond(trace, name, operands)
    if beyond is not None:
        return beyond
    types = _resolve(trace, ufunc, operands, kwargs.get("dtype"))
    values = [operand(trace, who, x, t) for x, t in zip(operands, types, strict=False)]
    shape = trace.broadcast(who, [v.shape for v in values])
    made = loop(trace, *values)
    results = made if isinstance(made, tuple) else (made,)
    outputs = tuple(
        Tracer(
            trace,
            trace.cast(value, element_type(trace, who, kind)),
            scalar=not shape,
        )
        for value, kind in zip(results, types[ufunc.nin :], strict=True)
    )
    return outputs if len(outputs) > 1 else outputs[0]


def _is_plain(x: object) -> bool:
    return isinstance(x, list | tuple) and not any(isinstance(i, Tracer | Size) for i in x)


def _resolve(
    trace: Trace, ufunc: np.ufunc, operands: list[Any], dtype: Any
) -> tuple[np.dtype, ...]:
    """The dtypes of the loop that NumPy would run, inputs first."""
    kinds = [kind_of(x) for x in operands]
    for kind in kinds:
        if isinstance(kind, np.dtype):
            element_type(trace, f"numpy.{ufunc.__name__}", kind)
    if all(isinstance(k, type) for k in kinds):
        kinds = [np.dtype(np.int64 if k is int else np.float64) for k in kinds]
    wanted: dict[str, Any] = {}
    if dtype is not None:
        wanted["signature"] = (*[None] * ufunc.nin, *[np.dtype(dtype)] * ufunc.nout)
    try:
        return tuple(ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout), **wanted))
    except TypeError as error:
        trace.refuse(f"numpy.{ufunc.__name__}: {error}")


def _beyond(trace: Trace, name: str, operands: list[Any]) -> Tracer | None:
    """A comparison with a Python integer that the other's dtype cannot hold: known beforehand."""
    if name not in _COMPARISONS:
        return None
    for i in (0, 1):
        number, other = operands[i], operands[1 - i]
        kind = kind_of(other)
        if type(number) is not int or not isinstance(kind, np.dtype) or kind.kind not in "iu":
            continue
        info = np.iinfo(kind)
        if info.min <= number <= info.max:
            continue
        high = number > info.max
        order = {"less": high, "less_equal": high, "greater": not high, "greater_equal": not high}
        known = order.get(name, name == "not_equal")
        if i == 0 and name in order:
            known = not known
        shape = operand(trace, name, other).shape
        value = trace.add("broadcast_to", trace.constant(np.bool_(known)), shape=shape)
        return Tracer(trace, value, scalar=not shape)
    return None


# ------------------------------------------------------------------ loops


def scalar(trace: Trace, number: float, like: Value) -> Value:
    """A constant of a value's type."""
    return trace.constant(np.array(number, like.dtype.numpy))


def _node(op: str) -> Loop:
    return lambda trace, *values: trace.add(op, *values)


def _typed(op: str, boolean: str | None) -> Loop:
    """An operator that has another name for bool, or none."""

    def loop(trace: Trace, a: Value, b: Value) -> Value:
        if a.dtype is dt.bool_ and boolean is not None:
            return trace.add(boolean, a, b)
        return trace.add(op, a, b)

    return loop


def _compare(op: str) -> Loop:
    def loop(trace: Trace, a: Value, b: Value) -> Value:
        if a.dtype is not b.dtype:
            return _compare_signs(trace, op, a, b)
        if a.dtype is dt.bool_ and op not in ("eq", "ne"):
            a, b = trace.cast(a, dt.u8), trace.cast(b, dt.u8)
        return trace.add(op, a, b)

    return loop


def _compare_signs(trace: Trace, op: str, a: Value, b: Value) -> Value:
    """Compares i64 with u64 by value: what is negative is below all of the other."""
    signed = a if a.dtype.is_signed else b
    negative = trace.add("lt", signed, scalar(trace, 0, signed))
    plain = trace.add(op, trace.cast(a, dt.u64), trace.cast(b, dt.u64))
    below = op in ("lt", "le") if signed is a else op in ("gt", "ge")
    return trace.add("where", negative, trace.constant(np.bool_(below or op == "ne")), plain)


def _only_floats(op: str) -> Loop:
    """An operator that leaves integers as they are."""
    return lambda trace, x: trace.add(op, x) if x.dtype.is_float else x


def _tests(op: str) -> Loop:
    """A test that no integer passes."""

    def loop(trace: Trace, x: Value) -> Value:
        if x.dtype.is_float:
            return trace.add(op, x)
        return trace.add("broadcast_to", trace.constant(np.bool_(False)), shape=x.shape)

    return loop


def _finite(trace: Trace, x: Value) -> Value:
    either = trace.add("or", _tests("isnan")(trace, x), _tests("isinf")(trace, x))
    return trace.add("not", either)


def _logical(op: str) -> Loop:
    return lambda trace, *values: trace.add(op, *(trace.cast(v, dt.bool_) for v in values))


def _scaled(op: str, before: float, after: float) -> Loop:
    """``op(x * before) * after``, as exp2 and log10 are."""

    def loop(trace: Trace, x: Value) -> Value:
        if before != 1:
            x = trace.add("mul", x, scalar(trace, before, x))
        x = trace.add(op, x) if op else x
        return trace.add("mul", x, scalar(trace, after, x)) if after != 1 else x

    return loop


def _exp2(trace: Trace, x: Value) -> Value:
    return trace.add("pow", scalar(trace, 2, x), x)


def _square(trace: Trace, x: Value) -> Value:
    return trace.add("and" if x.dtype is dt.bool_ else "mul", x, x)


def _absolute(trace: Trace, x: Value) -> Value:
    return trace.add("abs", x) if x.dtype.is_signed else x


def _power(trace: Trace, a: Value, b: Value) -> Value:
    exponent = trace.builder.data(b)
    negative = exponent is not None and a.dtype.is_integer and bool(np.any(exponent < 0))
    if negative:
        trace.refuse("numpy.power: integers to negative integer powers are not allowed")
    return trace.add("pow", a, b)


def _reciprocal(trace: Trace, x: Value) -> Value:
    if not x.dtype.is_float:
        trace.unsupported("numpy.reciprocal of integers", "TW-E0246")
    return trace.add("div", scalar(trace, 1, x), x)


def _cbrt(trace: Trace, x: Value) -> Value:
    """The cube root by a power of the magnitude; nan and infinities follow."""
    root = trace.add("pow", trace.add("abs", x), scalar(trace, 1 / 3, x))
    return trace.add("mul", trace.add("sign", x), root)


def _divmod(trace: Trace, a: Value, b: Value) -> tuple[Value, Value]:
    return trace.add("floordiv", a, b), trace.add("mod", a, b)


def _modf(trace: Trace, x: Value) -> tuple[Value, Value]:
    whole = trace.add("trunc", x)
    rest = trace.add("sub", x, whole)
    infinite = trace.add("isinf", x)
    return trace.add("where", infinite, scalar(trace, 0, x), rest), whole


def _skip_nan(op: str) -> Loop:
    """fmax and fmin: of a nan and a number, the number."""

    def loop(trace: Trace, a: Value, b: Value) -> Value:
        plain = _typed(op, "or" if op == "max" else "and")(trace, a, b)
        if not a.dtype.is_float:
            return plain
        first = trace.add("where", trace.add("isnan", b), a, plain)
        return trace.add("where", trace.add("isnan", a), b, first)

    return loop


def _hypot(trace: Trace, a: Value, b: Value) -> Value:
    """``sqrt(a*a + b*b)`` with the larger one taken out, so that no square overflows."""
    a, b = trace.add("abs", a), trace.add("abs", b)
    big, small = trace.add("max", a, b), trace.add("min", a, b)
    zero, one = scalar(trace, 0, a), scalar(trace, 1, a)
    flat = trace.add("eq", big, zero)
    ratio = trace.add("div", small, trace.add("where", flat, one, big))
    root = trace.add("sqrt", trace.add("add", trace.add("mul", ratio, ratio), one))
    infinite = trace.add("or", trace.add("isinf", a), trace.add("isinf", b))
    top = scalar(trace, math.inf, a)
    return trace.add("where", infinite, top, trace.add("mul", big, root))


def _logaddexp(base: float) -> Loop:
    """``m + log1p(exp(-|a - b|))`` for the larger m, in a base; equal infinities are themselves."""
    factor = math.log(base)

    def loop(trace: Trace, a: Value, b: Value) -> Value:
        big = trace.add("max", a, b)
        gap = trace.add("neg", trace.add("abs", trace.add("sub", a, b)))
        same = trace.add("eq", a, b)
        gap = trace.add("where", same, scalar(trace, 0, a), gap)
        rest = trace.add("exp", trace.add("mul", gap, scalar(trace, factor, a)))
        rest = trace.add("mul", trace.add("log1p", rest), scalar(trace, 1 / factor, a))
        return trace.add("add", big, rest)

    return loop


def _heaviside(trace: Trace, x: Value, half: Value) -> Value:
    zero = scalar(trace, 0, x)
    step = trace.add("where", trace.add("gt", x, zero), scalar(trace, 1, x), zero)
    step = trace.add("where", trace.add("eq", x, zero), half, step)
    return trace.add("where", trace.add("isnan", x), x, step)


def _arctan2(trace: Trace, y: Value, x: Value) -> Value:
    """The angle of (x, y), of the arc tangent of the smaller over the larger magnitude."""
    zero, one = scalar(trace, 0, x), scalar(trace, 1, x)
    ax, ay = trace.add("abs", x), trace.add("abs", y)
    both = trace.add("and", trace.add("isinf", x), trace.add("isinf", y))
    big, small = trace.add("max", ax, ay), trace.add("min", ax, ay)
    safe = trace.add("where", trace.add("eq", big, zero), one, big)
    ratio = trace.add("where", both, one, trace.add("div", small, safe))
    angle = trace.add("atan", ratio)
    right = trace.add("sub", scalar(trace, math.pi / 2, x), angle)
    angle = trace.add("where", trace.add("gt", ay, ax), right, angle)
    # 1 / x tells the zeros apart, whose sign decides between 0 and pi.
    left = _is_negative(trace, x)
    angle = trace.add("where", left, trace.add("sub", scalar(trace, math.pi, x), angle), angle)
    angle = trace.add("where", _is_negative(trace, y), trace.add("neg", angle), angle)
    undefined = trace.add("or", trace.add("isnan", x), trace.add("isnan", y))
    return trace.add("where", undefined, scalar(trace, math.nan, x), angle)


def _is_negative(trace: Trace, x: Value) -> Value:
    zero = scalar(trace, 0, x)
    inverse = trace.add("div", scalar(trace, 1, x), x)
    is_zero = trace.add("eq", x, zero)
    return trace.add("lt", trace.add("where", is_zero, inverse, x), zero)


def _identity(trace: Trace, x: Value) -> Value:
    return x


UFUNCS: Mapping[str, Handler] = {
    "add": _typed("add", "or"),
    "subtract": _node("sub"),
    "multiply": _typed("mul", "and"),
    "divide": _node("div"),
    "floor_divide": _node("floordiv"),
    "remainder": _node("mod"),
    "fmod": _node("fmod"),
    "divmod": _divmod,
    "power": _power,
    "float_power": _power,
    "negative": _node("neg"),
    "positive": _identity,
    "conjugate": _identity,
    "absolute": _absolute,
    "fabs": _absolute,
    "sign": _node("sign"),
    "square": _square,
    "sqrt": _node("sqrt"),
    "cbrt": _cbrt,
    "reciprocal": _reciprocal,
    "rint": _node("round"),
    "floor": _only_floats("floor"),
    "ceil": _only_floats("ceil"),
    "trunc": _only_floats("trunc"),
    "modf": _modf,
    "exp": _node("exp"),
    "exp2": _exp2,
    "expm1": _node("expm1"),
    "log": _node("log"),
    "log2": _scaled("log", 1, 1 / math.log(2)),
    "log10": _scaled("log", 1, 1 / math.log(10)),
    "log1p": _node("log1p"),
    "logaddexp": _logaddexp(math.e),
    "logaddexp2": _logaddexp(2),
    "sin": _node("sin"),
    "cos": _node("cos"),
    "tan": _node("tan"),
    "arcsin": _node("asin"),
    "arccos": _node("acos"),
    "arctan": _node("atan"),
    "arctan2": _arctan2,
    "hypot": _hypot,
    "sinh": _node("sinh"),
    "cosh": _node("cosh"),
    "tanh": _node("tanh"),
    "arcsinh": _node("asinh"),
    "arccosh": _node("acosh"),
    "arctanh": _node("atanh"),
    "degrees": _scaled("", 180 / math.pi, 1),
    "rad2deg": _scaled("", 180 / math.pi, 1),
    "radians": _scaled("", math.pi / 180, 1),
    "deg2rad": _scaled("", math.pi / 180, 1),
    "maximum": _typed("max", "or"),
    "minimum": _typed("min", "and"),
    "fmax": _skip_nan("max"),
    "fmin": _skip_nan("min"),
    "heaviside": _heaviside,
    "isnan": _tests("isnan"),
    "isinf": _tests("isinf"),
    "isfinite": _finite,
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_xor": _logical("xor"),
    "logical_not": _logical("not"),
    "bitwise_and": _node("and"),
    "bitwise_or": _node("or"),
    "bitwise_xor": _node("xor"),
    "invert": _node("not"),
    "left_shift": _node("shl"),
    "right_shift": _node("shr"),
    **{name: _compare(op) for name, op in _COMPARISONS.items()},
}
"""What the loop of a ufunc becomes, by the ufunc's name; operands have the loop's dtypes."""
