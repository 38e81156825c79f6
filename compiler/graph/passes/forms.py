"""Forms: what exporters state in several ways is brought into one.

The same layer comes as ``x / sqrt(2)`` or as ``x * 0.7071``, divided by a deviation or multiplied
by its inverse, halved before or after. Fused kernels are the same only if the statements are.
These rules change the rounding of the last bit; each says why it changes nothing else.
"""

from __future__ import annotations

import numpy as np

from ... import dtype as dt
from ...ops import OPS
from ...ops.op import same_shape
from ..ir import Node, Value
from .rule import Rule, Rules
from .stand_ins import derive, reshaped

_TYPES = (dt.f32, dt.f64)
_SMOOTH = ("erf", "sigmoid", "tanh")
_MOST_FACTOR = 1024.0
"""A factor between its inverse and this moves no product to the ends of its type's range but
those that are there already."""
_LEAST_SHIFT = 1e-30
"""The inverse root of a number above it is far inside the range of f32."""
_MOST_STEPS = 16


def factor_last(rules: Rules, node: Node) -> Value | None:
    """``(x * c) * y`` and ``x * (y * c)`` are ``(x * y) * c`` for a number ``c``.

    Only where ``x * c`` has the shape of the result: a factor of rows is cheaper where it is.
    """
    (result,) = node.outputs
    if result.dtype not in _TYPES:
        return None
    for position, value in enumerate(node.inputs):
        inner, other = rules.behind_once(value, "mul"), node.inputs[1 - position]
        if inner is None or rules.data(other) is not None:
            continue
        x, c = inner.inputs
        factor = rules.number(c)
        if factor is None or not 1 / _MOST_FACTOR <= abs(factor) <= _MOST_FACTOR:
            continue
        if not same_shape(x.shape, result.shape):
            continue
        pair = (x, other) if position == 0 else (other, x)
        product = rules.make("mul", pair, {}, like=node)
        scale = rules.array(np.asarray(factor, result.dtype.numpy), node)
        return rules.make("mul", (product, scale), {}, like=node)
    return None


def smooth_of_quotient(rules: Rules, node: Node) -> Value | None:
    """``erf(x / c)`` is ``erf(x * (1 / c))``: a smooth function hides the last bit of its operand.

    Others do not: ``floor(x / 3)`` of a multiple of 3 needs the quotient itself.
    """
    inner = rules.behind_once(node.inputs[0], "div")
    if inner is None or node.outputs[0].dtype not in _TYPES:
        return None
    x, c = inner.inputs
    number = rules.number(c)
    if number is None or not 1 / _MOST_FACTOR <= abs(number) <= _MOST_FACTOR:
        return None
    inverse = rules.array(np.asarray(1 / number, x.dtype.numpy), node)
    scaled = rules.make("mul", (x, inverse), {}, like=inner)
    return rules.make(node.op, (scaled,), node.attrs, like=node)


def inverse_deviation(rules: Rules, node: Node) -> Value | None:
    """``x / sqrt(v + e)`` is ``x * (1 / sqrt(v + e))`` for rows that share one deviation.

    A division for each row in place of one for each element. With ``v`` no less than 0 and a
    positive ``e`` the inverse is finite and normal, and zero only where all quotients are.
    """
    x, deviation = node.inputs
    (result,) = node.outputs
    if x.dtype not in _TYPES or same_shape(deviation.shape, result.shape):
        return None
    root = rules.behind(deviation, "sqrt")
    total = None if root is None else rules.behind(root.inputs[0], "add")
    if total is None or rules.data(x) is not None:
        return None
    variance, shift = total.inputs
    least = rules.number(shift)
    if least is None or not _LEAST_SHIFT <= least <= 1 or not is_never_negative(rules, variance):
        return None
    one = rules.array(np.ones((), x.dtype.numpy), node)
    inverse = rules.make("div", (one, deviation), {}, like=node)
    return rules.make("mul", (x, inverse), {}, like=node)


def inverse_total(rules: Rules, node: Node) -> Value | None:
    """``e / sum(e)`` is ``e * (1 / sum(e))`` for exponentials of which the largest is 1: softmax.

    The sum is then no less than 1 and no more than the length of a row, so its inverse is normal;
    a row that holds nan gives nan either way.
    """
    x, total = node.inputs
    power, whole = rules.behind(x, "exp"), rules.behind(total, "reduce")
    if x.dtype not in _TYPES or power is None or whole is None:
        return None
    shifted = rules.behind(power.inputs[0], "sub")
    largest = None if shifted is None else rules.behind(shifted.inputs[1], "reduce")
    if shifted is None or largest is None or whole.inputs[0] is not x:
        return None
    if largest.inputs[0] is not shifted.inputs[0]:
        return None
    if dict(largest.attrs) != {**whole.attrs, "op": "max"} or whole.attrs["op"] != "sum":
        return None
    one = rules.array(np.ones((), x.dtype.numpy), node)
    return rules.make("mul", (x, rules.make("div", (one, total), {}, like=node)), {}, like=node)


def bare_vector(rules: Rules, node: Node) -> Value | None:
    """A constant vector has no axes of size 1 before its own: a bias of [1, 1, 1, C] is one of [C].

    Operators broadcast by themselves, and kernels that read it are then the same.
    """
    rank = len(node.outputs[0].shape)
    full = [v for v in node.inputs if len(v.shape) == rank and rules.data(v) is None]
    if not full:
        return None
    inputs = tuple(_bare(rules, v) for v in node.inputs)
    if inputs == node.inputs:
        return None
    return rules.make(node.op, inputs, node.attrs, like=node)


def _bare(rules: Rules, value: Value) -> Value:
    data = rules.data(value)
    if data is None or data.ndim < 2 or data.size == 1 or data.shape[-1] != data.size:
        return value
    if value not in rules.bare:
        rules.bare[value] = rules.constant(derive(reshaped, data, shape=(data.size,)), value.name)
    return rules.bare[value]


def is_never_negative(rules: Rules, value: Value) -> bool:
    """Whether a value follows from squares and the like: each element is at least 0, or nan."""
    for _ in range(_MOST_STEPS):
        number = rules.number(value)
        if number is not None:
            return number >= 0
        node = rules.producer.get(value)
        if node is None:
            return False
        match node.op:
            case "abs" | "exp" | "sqrt" | "sigmoid":
                return True
            case "mul" if node.inputs[0] is node.inputs[1]:
                return True
            case "mul" | "div" if _is_count(rules, node.inputs[1]):
                value = node.inputs[0]
            case "reduce" | "reshape" | "transpose" | "broadcast_to":
                value = node.inputs[0]
            case _:
                return False
    return False


def _is_count(rules: Rules, value: Value) -> bool:
    """Whether a value is a number above 0, or the number of elements of some axes."""
    number = rules.number(value)
    if number is not None:
        return number > 0
    node = rules.behind(value, "cast")
    return rules.behind(value if node is None else node.inputs[0], "dim") is not None


_OWN: dict[str, tuple[Rule, ...]] = {
    "mul": (factor_last,),
    "div": (inverse_deviation, inverse_total),
    **dict.fromkeys(_SMOOTH, (smooth_of_quotient,)),
}

RULES: dict[str, tuple[Rule, ...]] = {
    o.name: (*_OWN.get(o.name, ()), bare_vector) for o in OPS.values() if o.kind == "elementwise"
}
