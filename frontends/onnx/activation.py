"""Converters of ONNX's activation functions."""

from __future__ import annotations

import math

from tilewright.graph.ir import Value

from .context import Context, Converter
from .node import NodeView

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def relu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``max(x, 0)``."""
    return (ctx.op("max", node.input(0), 0),)


def leaky_relu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` where it is not negative, else ``alpha * x``."""
    x = node.input(0)
    scaled = ctx.op("mul", x, node.float("alpha", 0.01))
    return (ctx.op("where", ctx.op("lt", x, 0.0), scaled, x),)


def prelu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` where it is not negative, else ``slope * x``; before opset 7 a slope per channel."""
    x, slope = node.input(0), node.input(1)
    if ctx.opset < 7 and len(slope.shape) == 1 and len(x.shape) > 2 and slope.shape[0] != 1:
        slope = ctx.reshape(slope, (*slope.shape, *(1,) * (len(x.shape) - 2)))
    return (ctx.op("where", ctx.op("lt", x, 0), ctx.op("mul", x, slope), x),)


def elu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)``."""
    return (_elu(ctx, node.input(0), node.float("alpha", 1.0), 1.0),)


def selu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``gamma * x`` where it is positive, else ``gamma * alpha * (exp(x) - 1)``."""
    first = ctx.opset < 6
    alpha = node.float("alpha", 1.6732 if first else _SELU_ALPHA)
    gamma = node.float("gamma", 1.0507 if first else _SELU_GAMMA)
    return (_elu(ctx, node.input(0), alpha, gamma),)


def _elu(ctx: Context, x: Value, alpha: float, gamma: float) -> Value:
    # exp sees no positive argument, so that it cannot overflow.
    low = ctx.op("mul", ctx.op("expm1", ctx.op("min", x, 0.0)), alpha * gamma)
    high = x if gamma == 1.0 else ctx.op("mul", x, gamma)
    return ctx.op("where", ctx.op("gt", x, 0.0), high, low)


def celu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))``."""
    x, alpha = node.input(0), node.float("alpha", 1.0)
    inner = ctx.op("expm1", ctx.op("div", ctx.op("min", x, 0.0), alpha))
    low = ctx.op("mul", inner, alpha)
    return (ctx.op("add", ctx.op("max", x, 0.0), ctx.op("min", low, 0.0)),)


def gelu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x * Phi(x)`` with the normal distribution's Phi, by erf or by the tanh approximation."""
    x = node.input(0)
    match node.string("approximate", "none"):
        case "none":
            inner = ctx.op("erf", ctx.op("mul", x, math.sqrt(0.5)))
        case "tanh":
            inner = ctx.op("tanh", _gelu_polynomial(ctx, x))
        case other:
            node.broken(f"approximate is {other!r}, not none or tanh")
    return (_halved(ctx, x, inner),)


def fast_gelu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The tanh approximation of gelu, of ``x`` plus an optional bias."""
    x, bias = node.input(0), node.optional(1)
    if bias is not None:
        x = ctx.op("add", x, bias)
    return (_halved(ctx, x, ctx.op("tanh", _gelu_polynomial(ctx, x))),)


def bias_gelu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """gelu (by erf) of ``x`` plus a bias."""
    x = ctx.op("add", node.input(0), node.input(1))
    return (_halved(ctx, x, ctx.op("erf", ctx.op("mul", x, math.sqrt(0.5)))),)


def quick_gelu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x * sigmoid(alpha * x)``."""
    return (_swish(ctx, node.input(0), node.float("alpha", 1.702)),)


def _halved(ctx: Context, x: Value, inner: Value) -> Value:
    return ctx.op("mul", ctx.op("mul", x, 0.5), ctx.op("add", inner, 1.0))


def _gelu_polynomial(ctx: Context, x: Value) -> Value:
    cube = ctx.op("mul", ctx.op("mul", x, x), x)
    total = ctx.op("add", x, ctx.op("mul", cube, 0.044715))
    return ctx.op("mul", total, math.sqrt(2.0 / math.pi))


def swish(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x * sigmoid(alpha * x)``."""
    return (_swish(ctx, node.input(0), node.float("alpha", 1.0)),)


def _swish(ctx: Context, x: Value, alpha: float) -> Value:
    scaled = x if alpha == 1.0 else ctx.op("mul", x, alpha)
    return ctx.op("mul", x, ctx.op("sigmoid", scaled))


def hard_sigmoid(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``alpha * x + beta`` limited to 0..1."""
    return (_hard_sigmoid(ctx, node.input(0), node.float("alpha", 0.2), node.float("beta", 0.5)),)


def hard_swish(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` times its hard sigmoid of slope 1/6."""
    x = node.input(0)
    return (ctx.op("mul", x, _hard_sigmoid(ctx, x, 1.0 / 6.0, 0.5)),)


def _hard_sigmoid(ctx: Context, x: Value, alpha: float, beta: float) -> Value:
    line = ctx.op("add", ctx.op("mul", x, alpha), beta)
    return ctx.op("min", ctx.op("max", line, 0.0), 1.0)


def softplus(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``log(1 + exp(x))``."""
    return (_softplus(ctx, node.input(0)),)


def mish(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x * tanh(softplus(x))``."""
    x = node.input(0)
    return (ctx.op("mul", x, ctx.op("tanh", _softplus(ctx, x))),)


def _softplus(ctx: Context, x: Value) -> Value:
    # max(x, 0) + log1p(exp(-|x|)): the same function, without overflow.
    small = ctx.op("exp", ctx.op("neg", ctx.op("abs", x)))
    return ctx.op("add", ctx.op("max", x, 0.0), ctx.op("log1p", small))


def softsign(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x / (1 + |x|)``."""
    x = node.input(0)
    return (ctx.op("div", x, ctx.op("add", ctx.op("abs", x), 1.0)),)


def thresholded_relu(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """``x`` where it is above ``alpha``, else 0."""
    x = node.input(0)
    return (ctx.op("where", ctx.op("gt", x, node.float("alpha", 1.0)), x, 0.0),)


def shrink(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Moves ``x`` towards 0 by ``bias`` where it is beyond ``lambd`` of it, else gives 0."""
    x, edge, bias = node.input(0), node.float("lambd", 0.5), node.float("bias", 0.0)
    if not x.dtype.is_float and not (edge.is_integer() and bias.is_integer()):
        ctx.unsupported("fractional lambd or bias on integers")
    low = ctx.op("where", ctx.op("lt", x, -edge), ctx.op("add", x, bias), 0)
    return (ctx.op("where", ctx.op("gt", x, edge), ctx.op("sub", x, bias), low),)


CONVERTERS: dict[str, Converter] = {
    "Celu": celu,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Mish": mish,
    "PRelu": prelu,
    "Relu": relu,
    "Selu": selu,
    "Shrink": shrink,
    "Softplus": softplus,
    "Softsign": softsign,
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
    "com.microsoft::BiasGelu": bias_gelu,
    "com.microsoft::FastGelu": fast_gelu,
    "com.microsoft::Gelu": gelu,
    "com.microsoft::QuickGelu": quick_gelu,
}
