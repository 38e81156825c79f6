"""Converters of ATen's elementwise overloads."""

from __future__ import annotations

import math

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value

from .context import Context, Converter
from .types import Operand, Scalar, promoted

_LN2, _LN10 = math.log(2.0), math.log(10.0)


# ------------------------------------------------------------------ one operand


def _math(name: str) -> Converter:
    """A function of floats; integers and bools become floats first."""

    def convert(ctx: Context, x: Value) -> Value:
        return ctx.op(name, ctx.cast(x, ctx.dtype))

    return convert


def _rounding(name: str) -> Converter:
    """A function that leaves integers as they are."""

    def convert(ctx: Context, x: Value) -> Value:
        return ctx.op(name, x) if x.dtype.is_float else x

    return convert


def _number(name: str) -> Converter:
    """A function of numbers that leaves bools as they are."""

    def convert(ctx: Context, x: Value) -> Value:
        return x if x.dtype is dt.bool_ else ctx.op(name, x)

    return convert


def _test(name: str) -> Converter:
    def convert(ctx: Context, x: Value) -> Value:
        return ctx.op(name, x) if x.dtype.is_float else ctx.full(x.shape, False, dt.bool_)

    return convert


def _float(ctx: Context, x: Value) -> Value:
    """An operand in the type that a float result is computed in."""
    return ctx.widened(ctx.cast(x, ctx.dtype))


def round_decimals(ctx: Context, x: Value, *, decimals: int) -> Value:
    """Rounds to a number of digits behind the point."""
    if not x.dtype.is_float:
        return x if decimals >= 0 else ctx.unsupported("negative decimals of integers")
    scale = 10.0 ** abs(decimals)
    first, last = ("mul", "div") if decimals >= 0 else ("div", "mul")
    scaled = ctx.op("round", ctx.op(first, ctx.widened(x), scale))
    return ctx.cast(ctx.op(last, scaled, scale), x.dtype)


def reciprocal(ctx: Context, x: Value) -> Value:
    """``1 / x``."""
    wide = ctx.cast(x, ctx.dtype)
    return ctx.op("div", ctx.scalar(1, wide.dtype), wide)


def rsqrt(ctx: Context, x: Value) -> Value:
    """``1 / sqrt(x)``."""
    wide = _float(ctx, x)
    return ctx.cast(ctx.op("div", ctx.scalar(1, wide.dtype), ctx.op("sqrt", wide)), ctx.dtype)


def log2(ctx: Context, x: Value) -> Value:
    """The logarithm to base 2."""
    return ctx.cast(ctx.op("div", ctx.op("log", _float(ctx, x)), _LN2), ctx.dtype)


def log10(ctx: Context, x: Value) -> Value:
    """The logarithm to base 10."""
    return ctx.cast(ctx.op("div", ctx.op("log", _float(ctx, x)), _LN10), ctx.dtype)


def exp2(ctx: Context, x: Value) -> Value:
    """2 to the x."""
    wide = _float(ctx, x)
    return ctx.cast(ctx.op("pow", ctx.scalar(2, wide.dtype), wide), ctx.dtype)


def relu(ctx: Context, x: Value) -> Value:
    """``max(x, 0)``."""
    return ctx.op("max", x, 0)


def gelu(ctx: Context, x: Value, *, approximate: str = "none") -> Value:
    """x times the normal distribution's integral, exactly or by tanh."""
    wide = _float(ctx, x)
    if approximate == "tanh":
        cube = ctx.op("mul", ctx.op("mul", wide, wide), wide)
        inner = ctx.op("add", wide, ctx.op("mul", cube, 0.044715))
        grown = ctx.op("tanh", ctx.op("mul", inner, math.sqrt(2 / math.pi)))
    else:
        grown = ctx.op("erf", ctx.op("mul", wide, math.sqrt(0.5)))
    half = ctx.op("mul", wide, 0.5)
    return ctx.cast(ctx.op("mul", half, ctx.op("add", grown, 1)), x.dtype)


def silu(ctx: Context, x: Value) -> Value:
    """``x * sigmoid(x)``."""
    wide = _float(ctx, x)
    return ctx.cast(ctx.op("mul", wide, ctx.op("sigmoid", wide)), x.dtype)


def elu(
    ctx: Context, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Value:
    """x above 0, else ``alpha * expm1(x * input_scale)``; all times ``scale``."""
    wide = _float(ctx, x)
    below = ctx.op("mul", ctx.op("expm1", ctx.op("mul", wide, input_scale)), alpha * scale)
    chosen = ctx.op("where", ctx.op("gt", wide, 0), ctx.op("mul", wide, scale), below)
    return ctx.cast(chosen, x.dtype)


def leaky_relu(ctx: Context, x: Value, negative_slope: float = 0.01) -> Value:
    """x above 0, else x times the slope."""
    wide = ctx.widened(x)
    below = ctx.op("mul", wide, negative_slope)
    return ctx.cast(ctx.op("where", ctx.op("gt", wide, 0), wide, below), x.dtype)


def softplus(ctx: Context, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """``log(1 + exp(beta * x)) / beta``; x itself where ``beta * x`` exceeds the threshold."""
    wide = _float(ctx, x)
    scaled = ctx.op("mul", wide, beta)
    soft = ctx.op("div", ctx.op("log1p", ctx.op("exp", scaled)), beta)
    return ctx.cast(ctx.op("where", ctx.op("gt", scaled, threshold), wide, soft), x.dtype)


def hardtanh(ctx: Context, x: Value, min_val: Scalar = -1, max_val: Scalar = 1) -> Value:
    """x within the bounds."""
    return ctx.op("min", ctx.op("max", x, min_val), max_val)


def hardsigmoid(ctx: Context, x: Value) -> Value:
    """``min(max(x + 3, 0), 6) / 6``."""
    wide = ctx.widened(x)
    return ctx.cast(ctx.op("div", hardtanh(ctx, ctx.op("add", wide, 3), 0, 6), 6), x.dtype)


def hardswish(ctx: Context, x: Value) -> Value:
    """``x * min(max(x + 3, 0), 6) / 6``."""
    wide = ctx.widened(x)
    gate = hardtanh(ctx, ctx.op("add", wide, 3), 0, 6)
    return ctx.cast(ctx.op("div", ctx.op("mul", wide, gate), 6), x.dtype)


def logical_not(ctx: Context, x: Value) -> Value:
    """Whether x is zero."""
    return ctx.op("not", ctx.cast(x, dt.bool_))


# ------------------------------------------------------------------ arithmetic


def _scaled(ctx: Context, x: Value, alpha: Scalar) -> Value:
    if isinstance(alpha, int | float) and alpha == 1:
        return x
    return ctx.op("and" if x.dtype is dt.bool_ else "mul", x, alpha)


def add(ctx: Context, a: Operand, b: Operand, *, alpha: Scalar = 1) -> Value:
    """``a + alpha * b``; of bools: or."""
    dtype = ctx.dtype
    second = _scaled(ctx, ctx.operand(b, dtype), alpha)
    return ctx.op("or" if dtype is dt.bool_ else "add", ctx.operand(a, dtype), second)


def sub(ctx: Context, a: Operand, b: Operand, *, alpha: Scalar = 1) -> Value:
    """``a - alpha * b``."""
    return ctx.op("sub", ctx.operand(a, ctx.dtype), _scaled(ctx, ctx.operand(b, ctx.dtype), alpha))


def rsub(ctx: Context, a: Operand, b: Operand, alpha: Scalar = 1) -> Value:
    """``b - alpha * a``."""
    return sub(ctx, b, a, alpha=alpha)


def mul(ctx: Context, a: Operand, b: Operand) -> Value:
    """``a * b``; of bools: and."""
    dtype = ctx.dtype
    name = "and" if dtype is dt.bool_ else "mul"
    return ctx.op(name, ctx.operand(a, dtype), ctx.operand(b, dtype))


def div(ctx: Context, a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Value:
    """The quotient: true, truncated or rounded down."""
    x, y = (ctx.operand(v, ctx.dtype) for v in (a, b))
    if rounding_mode == "floor":
        return ctx.op("floordiv", x, y)
    if rounding_mode == "trunc" and ctx.dtype.is_float:
        quotient = ctx.op("div", ctx.widened(x), ctx.widened(y))
        return ctx.cast(ctx.op("trunc", quotient), ctx.dtype)
    return ctx.op("div", x, y)


def floor_divide(ctx: Context, a: Operand, b: Operand) -> Value:
    """The quotient rounded down."""
    return div(ctx, a, b, rounding_mode="floor")


def _binary(name: str) -> Converter:
    """A function of two operands in the result's type."""

    def convert(ctx: Context, a: Operand, b: Operand) -> Value:
        return ctx.op(name, ctx.operand(a, ctx.dtype), ctx.operand(b, ctx.dtype))

    return convert


def remainder(ctx: Context, a: Operand, b: Operand) -> Value:
    """The remainder with the sign of b; one of 0 keeps the sign of a."""
    x, y = (ctx.operand(v, ctx.dtype) for v in (a, b))
    if not ctx.dtype.is_float:
        return ctx.op("mod", x, y)
    rest = ctx.op("fmod", x, y)
    differ = ctx.op("xor", ctx.op("lt", rest, 0), ctx.op("lt", y, 0))
    moved = ctx.op("where", differ, ctx.op("add", rest, y), rest)
    return ctx.op("where", ctx.op("eq", rest, 0), rest, moved)


def _either(ctx: Context, name: str, a: Value, b: Value) -> Value:
    """The extreme (max or min) of two operands; of bools: or, and."""
    if ctx.dtype is dt.bool_:
        name = "or" if name == "max" else "and"
    return ctx.op(name, ctx.cast(a, ctx.dtype), ctx.cast(b, ctx.dtype))


def _extreme(name: str) -> Converter:
    return lambda ctx, a, b: _either(ctx, name, a, b)


def power(ctx: Context, a: Operand, b: Operand) -> Value:
    """a to the b; small known exponents are products and roots."""
    dtype = ctx.dtype
    if isinstance(a, Value) and isinstance(b, int | float) and dtype.is_float:
        wide = ctx.widened(ctx.cast(a, dtype))
        result = _known_power(ctx, wide, float(b))
        if result is not None:
            return ctx.cast(result, dtype)
    return ctx.op("pow", ctx.operand(a, dtype), ctx.operand(b, dtype))


def _known_power(ctx: Context, x: Value, exponent: float) -> Value | None:
    one = ctx.scalar(1, x.dtype)
    match exponent:
        case 1.0:
            return x
        case 2.0:
            return ctx.op("mul", x, x)
        case 3.0:
            return ctx.op("mul", ctx.op("mul", x, x), x)
        case 0.5:
            return ctx.op("sqrt", x)
        case -0.5:
            return ctx.op("div", one, ctx.op("sqrt", x))
        case -1.0:
            return ctx.op("div", one, x)
        case _:
            return None


def square(ctx: Context, x: Value) -> Value:
    """``x * x``."""
    return mul(ctx, x, x)


def atan2(ctx: Context, y: Operand, x: Operand) -> Value:
    """The angle of the point (x, y), in -pi..pi."""
    a, b = (ctx.widened(ctx.operand(v, ctx.dtype)) for v in (y, x))
    dtype = a.dtype
    # A zero has the sign of its reciprocal: -0.0 counts as negative.
    left = ctx.op("lt", ctx.op("where", ctx.op("eq", b, 0), _sign_of_zero(ctx, b), b), 0)
    below = ctx.op("lt", ctx.op("where", ctx.op("eq", a, 0), _sign_of_zero(ctx, a), a), 0)
    both = ctx.op("and", ctx.op("isinf", a), ctx.op("isinf", b))
    neither = ctx.op("and", ctx.op("eq", a, 0), ctx.op("eq", b, 0))
    special = ctx.op("or", both, neither)
    # Infinity over infinity stands for 1, zero over zero for 0.
    corner = ctx.op("where", both, ctx.scalar(1, dtype), ctx.scalar(0, dtype))
    ratio = ctx.op("where", special, corner, ctx.op("abs", ctx.op("div", a, b)))
    angle = ctx.op("atan", ratio)
    mirrored = ctx.op("where", left, ctx.op("sub", ctx.scalar(math.pi, dtype), angle), angle)
    return ctx.cast(ctx.op("where", below, ctx.op("neg", mirrored), mirrored), ctx.dtype)


def _sign_of_zero(ctx: Context, x: Value) -> Value:
    return ctx.op("div", ctx.scalar(1, x.dtype), x)


def hypot(ctx: Context, a: Value, b: Value) -> Value:
    """``sqrt(a * a + b * b)``, scaled so that nothing overflows; infinite where either is."""
    x, y = (ctx.op("abs", ctx.widened(ctx.cast(v, ctx.dtype))) for v in (a, b))
    large, small = ctx.op("max", x, y), ctx.op("min", x, y)
    plain = ctx.op("or", ctx.op("eq", large, 0), ctx.op("isinf", large))
    ratio = ctx.op("where", plain, ctx.scalar(0, x.dtype), ctx.op("div", small, large))
    root = ctx.op("sqrt", ctx.op("add", ctx.op("mul", ratio, ratio), 1))
    endless = ctx.op("or", ctx.op("isinf", x), ctx.op("isinf", y))
    infinity = ctx.scalar(math.inf, x.dtype)
    found = ctx.op("where", endless, infinity, ctx.op("mul", large, root))
    return ctx.cast(found, ctx.dtype)


# ------------------------------------------------------------------ comparison and choice


def _compare(name: str) -> Converter:
    def convert(ctx: Context, a: Value, b: Operand) -> Value:
        dtype = promoted((a, b))
        # Bools have an order, too: False before True.
        wide: DType = dt.u8 if dtype is dt.bool_ and name not in ("eq", "ne") else dtype
        return ctx.op(name, *(ctx.cast(ctx.operand(v, dtype), wide) for v in (a, b)))

    return convert


def _logical(name: str) -> Converter:
    def convert(ctx: Context, a: Value, b: Value) -> Value:
        return ctx.op(name, ctx.cast(a, dt.bool_), ctx.cast(b, dt.bool_))

    return convert


def clamp(
    ctx: Context,
    x: Value,
    min: Operand | None = None,  # noqa: A002
    max: Operand | None = None,  # noqa: A002
) -> Value:
    """x within the bounds; where they cross, the upper one."""
    result = ctx.cast(x, ctx.dtype)
    larger, smaller = ("or", "and") if ctx.dtype is dt.bool_ else ("max", "min")
    if min is not None:
        result = ctx.op(larger, result, ctx.operand(min, ctx.dtype))
    if max is not None:
        result = ctx.op(smaller, result, ctx.operand(max, ctx.dtype))
    return result


def where(ctx: Context, condition: Value, a: Operand, b: Operand) -> Value:
    """a where the condition holds, else b."""
    holds = ctx.cast(condition, dt.bool_)
    return ctx.op("where", holds, ctx.operand(a, ctx.dtype), ctx.operand(b, ctx.dtype))


def masked_fill(ctx: Context, x: Value, mask: Value, value: Operand) -> Value:
    """x with one number where the mask holds."""
    return ctx.op("where", ctx.cast(mask, dt.bool_), ctx.operand(value, x.dtype), x)


# ------------------------------------------------------------------ conversion


def identity(ctx: Context, x: Value, *rest: object, **options: object) -> Value:
    """x itself."""
    del ctx, rest, options
    return x


def to_copy(ctx: Context, x: Value, *, dtype: DType | None = None) -> Value:
    """x as another element type."""
    return ctx.cast(x, dtype or x.dtype)


def copy(ctx: Context, x: Value, source: Value, non_blocking: bool = False) -> Value:
    """The source in the shape and type of x."""
    del non_blocking
    return ctx.broadcast_to(ctx.cast(source, x.dtype), x.shape)


def dropout(ctx: Context, x: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    """x itself, outside of training."""
    if train is not False and p > 0:
        ctx.unsupported("random numbers (put the module in eval mode)")
    return x, ctx.full(x.shape, True, dt.bool_)


# ------------------------------------------------------------------ signs


def negative(ctx: Context, x: Value) -> Value:
    """Whether the sign of x is set, also that of a zero; a nan counts as positive."""
    if x.dtype is dt.bool_:
        return ctx.full(x.shape, False, dt.bool_)
    if not x.dtype.is_float:
        return ctx.op("lt", x, 0)
    wide = ctx.widened(x)
    return ctx.op("lt", ctx.op("where", ctx.op("eq", wide, 0), _sign_of_zero(ctx, wide), wide), 0)


def sign(ctx: Context, x: Value) -> Value:
    """-1, 0 or 1; 0 for a nan."""
    if not x.dtype.is_float:
        return _number("sign")(ctx, x)  # type: ignore[return-value]
    return ctx.op("where", ctx.op("isnan", x), 0, ctx.op("sign", x))


def copysign(ctx: Context, a: Value, b: Operand) -> Value:
    """The size of a with the sign of b."""
    size = ctx.op("abs", ctx.cast(a, ctx.dtype))
    return ctx.op("where", negative(ctx, ctx.operand(b, ctx.dtype)), ctx.op("neg", size), size)


def angle(ctx: Context, x: Value) -> Value:
    """Pi for negative numbers, else 0; nan stays."""
    wide = ctx.cast(x, ctx.dtype)
    turned = ctx.op("where", ctx.op("lt", wide, 0), ctx.scalar(math.pi, ctx.dtype), 0.0)
    return ctx.op("where", ctx.op("isnan", wide), wide, turned)


def _present(name: str) -> Converter:
    """The extreme of two operands where one nan counts as absent."""

    def convert(ctx: Context, a: Value, b: Value) -> Value:
        result = _either(ctx, name, a, b)
        if not ctx.dtype.is_float:
            return result
        x, y = ctx.cast(a, ctx.dtype), ctx.cast(b, ctx.dtype)
        other = ctx.op("where", ctx.op("isnan", y), x, result)
        return ctx.op("where", ctx.op("isnan", x), y, other)

    return convert


_MATH = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "exp", "expm1", "log",
    "log1p", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_BITS = ("and", "or", "xor")
_KINDS = ("Tensor", "Scalar", "Scalar_Tensor")
_SHIFTS = ("Tensor", "Tensor_Scalar", "Scalar_Tensor")

CONVERTERS: dict[str, Converter] = {
    **{f"{name}.default": _math(name) for name in _MATH},
    **{f"{name}.default": _rounding(name) for name in ("ceil", "floor", "round", "trunc")},
    **{f"{name}.default": _number(name) for name in ("abs", "neg")},
    **{f"{name}.default": _test(name) for name in ("isinf", "isnan")},
    **{f"{n}.{kind}": _compare(n) for n in _COMPARISONS for kind in ("Tensor", "Scalar")},
    **{f"bitwise_{n}.{kind}": _binary(n) for n in _BITS for kind in _KINDS},
    **{f"bitwise_left_shift.{kind}": _binary("shl") for kind in _SHIFTS},
    **{f"bitwise_right_shift.{kind}": _binary("shr") for kind in _SHIFTS},
    **{f"__lshift__.{kind}": _binary("shl") for kind in ("Tensor", "Scalar")},
    **{f"__rshift__.{kind}": _binary("shr") for kind in ("Tensor", "Scalar")},
    **{f"logical_{n}.default": _logical(n) for n in _BITS},
    "_to_copy.default": to_copy,
    "add.Scalar": add,
    "add.Tensor": add,
    "alias.default": identity,
    "angle.default": angle,
    "atan2.default": atan2,
    "bitwise_not.default": lambda ctx, x: ctx.op("not", x),
    "clamp.Tensor": clamp,
    "clamp.default": clamp,
    "clamp_max.default": lambda ctx, x, high: clamp(ctx, x, None, high),
    "clamp_min.default": clamp,
    "clone.default": identity,
    "contiguous.default": identity,
    "copy.default": copy,
    "copysign.Scalar": copysign,
    "copysign.Tensor": copysign,
    "detach.default": identity,
    "detach_copy.default": identity,
    "div.Scalar": div,
    "div.Scalar_mode": div,
    "div.Tensor": div,
    "div.Tensor_mode": div,
    "elu.default": elu,
    "exp2.default": exp2,
    "floor_divide.default": floor_divide,
    "fmax.default": _present("max"),
    "fmin.default": _present("min"),
    "fmod.Scalar": _binary("fmod"),
    "fmod.Tensor": _binary("fmod"),
    "gelu.default": gelu,
    "hardsigmoid.default": hardsigmoid,
    "hardswish.default": hardswish,
    "hardtanh.default": hardtanh,
    "hypot.default": hypot,
    "leaky_relu.default": leaky_relu,
    "lift_fresh_copy.default": identity,
    "log10.default": log10,
    "log2.default": log2,
    "logical_not.default": logical_not,
    "masked_fill.Scalar": masked_fill,
    "masked_fill.Tensor": masked_fill,
    "maximum.default": _extreme("max"),
    "minimum.default": _extreme("min"),
    "mul.Scalar": mul,
    "mul.Tensor": mul,
    "native_dropout.default": dropout,
    "pow.Scalar": power,
    "pow.Tensor_Scalar": power,
    "pow.Tensor_Tensor": power,
    "reciprocal.default": reciprocal,
    "relu.default": relu,
    "remainder.Scalar": remainder,
    "remainder.Scalar_Tensor": remainder,
    "remainder.Tensor": remainder,
    "round.decimals": round_decimals,
    "rsqrt.default": rsqrt,
    "rsub.Scalar": rsub,
    "rsub.Tensor": rsub,
    "sign.default": sign,
    "signbit.default": negative,
    "silu.default": silu,
    "softplus.default": softplus,
    "square.default": square,
    "sub.Scalar": sub,
    "sub.Tensor": sub,
    "where.ScalarOther": where,
    "where.self": where,
}
