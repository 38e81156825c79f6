"""Converters of ONNX's elementwise arithmetic, comparisons and logic."""

from __future__ import annotations

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import same_dim

from .context import Context, Converter
from .node import NodeView


def _unary(op: str) -> Converter:
    """An operator that is one primitive of one operand."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        return (ctx.op(op, node.input(0)),)

    return convert


def _binary(op: str) -> Converter:
    """An operator that is one primitive of two operands."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        a, b = operands(ctx, node)
        return (ctx.op(op, a, b),)

    return convert


def operands(ctx: Context, node: NodeView) -> tuple[Value, Value]:
    """The two operands of a binary operator, such that NumPy's broadcasting is meant.

    Before opset 7 the second operand's axes stood at ``axis`` of the first one's (by default at
    its end), and nothing broadcast unless ``broadcast`` said so.
    """
    a, b = node.input(0), node.input(1)
    if ctx.opset >= 7 or node.domain != "":
        return a, b
    if not node.int("broadcast", 0):
        fits = len(a.shape) == len(b.shape) and all(
            same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True)
        )
        if not fits:
            node.broken("its operands differ in shape, and it does not ask for broadcasting")
        return a, b
    if not node.has("axis"):
        return a, b
    axis = ctx.axis(node.int("axis"), len(a.shape))
    trailing = len(a.shape) - axis - len(b.shape)
    if trailing < 0:
        node.broken(f"an operand of rank {len(b.shape)} does not fit at axis {axis}")
    return a, ctx.reshape(b, (*b.shape, *(1,) * trailing))


def reciprocal(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``1 / x``."""
    return (ctx.op("div", 1.0, node.input(0)),)


def power(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x ** y`` in the type of ``x``; the exponent may have another type."""
    x, exponent = operands(ctx, node)
    if x.dtype is exponent.dtype:
        return (ctx.op("pow", x, exponent),)
    work = _power_dtype(x.dtype, exponent.dtype)
    return (ctx.cast(ctx.op("pow", ctx.cast(x, work), ctx.cast(exponent, work)), x.dtype),)


def _power_dtype(x: DType, exponent: DType) -> DType:
    if x.is_float:
        return exponent if exponent.is_float and exponent.bits > x.bits else x
    # Integer powers wrap alike in any wider type; a float exponent needs the exact base.
    return dt.f64 if exponent.is_float else dt.i64


def modulo(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The remainder with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    a, b = operands(ctx, node)
    return (ctx.op("fmod" if node.int("fmod", 0) else "mod", a, b),)


def bit_shift(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Shifts the bits of unsigned integers left or right."""
    match node.string("direction"):
        case "LEFT":
            return (ctx.op("shl", node.input(0), node.input(1)),)
        case "RIGHT":
            return (ctx.op("shr", node.input(0), node.input(1)),)
        case other:
            node.broken(f"direction is {other!r}, not LEFT or RIGHT")


def is_inf(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Whether an element is infinite, of either sign or of the one asked for."""
    x = node.input(0)
    found = ctx.op("isinf", x)
    if not node.int("detect_negative", 1):
        found = ctx.op("and", found, ctx.op("gt", x, 0.0))
    if not node.int("detect_positive", 1):
        found = ctx.op("and", found, ctx.op("lt", x, 0.0))
    return (found,)


def where(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` where the condition holds, else ``y``."""
    return (ctx.op("where", node.input(0), node.input(1), node.input(2)),)


def clip(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``min(max(x, low), high)``; the bounds are attributes before opset 11."""
    x = node.input(0)
    low, high = node.optional(1), node.optional(2)
    if ctx.opset < 11:
        low = ctx.literal(node.float("min"), x.dtype) if node.has("min") else None
        high = ctx.literal(node.float("max"), x.dtype) if node.has("max") else None
    if low is not None:
        x = ctx.op("max", x, _scalar(ctx, low))
    if high is not None:
        x = ctx.op("min", x, _scalar(ctx, high))
    return (x,)


def _scalar(ctx: Context, x: Value) -> Value:
    """A tensor of one element as a scalar (some exporters write bounds of shape [1])."""
    return ctx.reshape(x, ())


def variadic(op: str) -> Converter:
    """An operator that folds any number of operands by one primitive."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        return (_folded(ctx, node, op),)

    return convert


def mean(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The mean of any number of operands."""
    total = _folded(ctx, node, "add")
    return (ctx.op("div", total, float(len(node.inputs))),)


def _folded(ctx: Context, node: NodeView, op: str) -> Value:
    result = node.input(0)
    for x in node.variadic(1):
        result = ctx.op(op, result, x)
    return result


CONVERTERS: dict[str, Converter] = {
    "Abs": _unary("abs"),
    "Acos": _unary("acos"),
    "Acosh": _unary("acosh"),
    "Add": _binary("add"),
    "And": _binary("and"),
    "Asin": _unary("asin"),
    "Asinh": _unary("asinh"),
    "Atan": _unary("atan"),
    "Atanh": _unary("atanh"),
    "BitShift": bit_shift,
    "BitwiseAnd": _binary("and"),
    "BitwiseNot": _unary("not"),
    "BitwiseOr": _binary("or"),
    "BitwiseXor": _binary("xor"),
    "Ceil": _unary("ceil"),
    "Clip": clip,
    "Cos": _unary("cos"),
    "Cosh": _unary("cosh"),
    "Div": _binary("div"),
    "Equal": _binary("eq"),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Floor": _unary("floor"),
    "Greater": _binary("gt"),
    "GreaterOrEqual": _binary("ge"),
    "IsInf": is_inf,
    "IsNaN": _unary("isnan"),
    "Less": _binary("lt"),
    "LessOrEqual": _binary("le"),
    "Log": _unary("log"),
    "Max": variadic("max"),
    "Mean": mean,
    "Min": variadic("min"),
    "Mod": modulo,
    "Mul": _binary("mul"),
    "Neg": _unary("neg"),
    "Not": _unary("not"),
    "Or": _binary("or"),
    "Pow": power,
    "Reciprocal": reciprocal,
    "Round": _unary("round"),
    "Sigmoid": _unary("sigmoid"),
    "Sign": _unary("sign"),
    "Sin": _unary("sin"),
    "Sinh": _unary("sinh"),
    "Sqrt": _unary("sqrt"),
    "Sub": _binary("sub"),
    "Sum": variadic("add"),
    "Tan": _unary("tan"),
    "Tanh": _unary("tanh"),
    "Where": where,
    "Xor": _binary("xor"),
}
