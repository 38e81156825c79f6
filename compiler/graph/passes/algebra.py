"""Laws of elementwise operators: neutral operands, inverses, cheaper equals.

Floating-point laws hold up to the sign of zero; none changes a nan or an infinity, except that
the square root takes the place of the power one half, whose values at minus infinity differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ... import dtype as dt
from ...dtype import DType
from ...ops import OPS
from ...ops.op import OpError, broadcast_shapes, dtype_attr, same_shape
from ..ir import Node, Value
from .rule import Rule, Rules
from .stand_ins import ask, derive

COMMUTATIVE = frozenset({"add", "mul", "min", "max", "and", "or", "xor", "eq", "ne"})
_NEUTRAL_RIGHT: Mapping[str, int] = {
    "add": 0, "sub": 0, "mul": 1, "div": 1, "floordiv": 1, "pow": 1, "shl": 0, "shr": 0, "xor": 0,
}  # fmt: skip
_INVOLUTIONS = frozenset({"neg", "not"})
_IDEMPOTENT = frozenset({"abs", "floor", "ceil", "round", "trunc", "sign"})


def constant_last(rules: Rules, node: Node) -> Value | None:
    """``c + x`` is ``x + c``: other rules look for constants on the right."""
    a, b = node.inputs
    if rules.data(a) is None or rules.data(b) is not None:
        return None
    return rules.make(node.op, (b, a), node.attrs, like=node)


def neutral_operand(rules: Rules, node: Node) -> Value | None:
    """``x + 0``, ``x - 0``, ``x * 1``, ``x / 1``, ``x ** 1`` are ``x``."""
    x, c = node.inputs
    number = rules.number(c)
    if number is None or number != _NEUTRAL_RIGHT[node.op]:
        return None
    if node.op == "floordiv" and x.dtype.is_float:
        return None
    return rules.like_result(x, node)


def neutral_condition(rules: Rules, node: Node) -> Value | None:
    """``x and True``, ``x or False`` are ``x``."""
    x, c = node.inputs
    if x.dtype is not dt.bool_ or rules.number(c) is not (node.op == "and"):
        return None
    return rules.like_result(x, node)


def involution(rules: Rules, node: Node) -> Value | None:
    """``-(-x)`` and ``not not x`` are ``x``."""
    inner = rules.behind(node.inputs[0], node.op)
    return None if inner is None else inner.inputs[0]


def idempotence(rules: Rules, node: Node) -> Value | None:
    """``floor(floor(x))`` is ``floor(x)``."""
    return node.inputs[0] if rules.behind(node.inputs[0], node.op) is not None else None


def power(rules: Rules, node: Node) -> Value | None:
    """Small powers are products, roots and reciprocals."""
    x, c = node.inputs
    exponent = rules.number(c)
    if exponent is None or not same_shape(x.shape, node.outputs[0].shape):
        return None
    if exponent in (2, 3):
        square = rules.make("mul", (x, x), {}, like=node)
        return square if exponent == 2 else rules.make("mul", (square, x), {}, like=node)
    if not x.dtype.is_float or exponent not in (0.5, -0.5, -1):
        return None
    root = x if exponent == -1 else rules.make("sqrt", (x,), {}, like=node)
    if exponent == 0.5:
        return root
    one = rules.array(np.ones((), x.dtype.numpy), node)
    return rules.make("div", (one, root), {}, like=node)


def signs(rules: Rules, node: Node) -> Value | None:
    """``x + -y`` is ``x - y`` and ``x - -y`` is ``x + y``."""
    x, y = node.inputs
    minus = rules.behind(y, "neg")
    if minus is not None:
        op = "sub" if node.op == "add" else "add"
        return rules.make(op, (x, minus.inputs[0]), {}, like=node)
    minus = rules.behind(x, "neg")
    if minus is not None and node.op == "add":
        return rules.make("sub", (y, minus.inputs[0]), {}, like=node)
    return None


def minus_constant(rules: Rules, node: Node) -> Value | None:
    """``x - c`` is ``x + -c``, which merges with other sums."""
    x, c = node.inputs
    data = rules.data(c)
    if data is None or not x.dtype.is_signed or x.dtype is dt.bool_:
        return None
    with np.errstate(all="ignore"):
        return rules.make("add", (x, rules.array(derive(np.negative, data), node)), {}, like=node)


def divide_by_power_of_two(rules: Rules, node: Node) -> Value | None:
    """``x / c`` is ``x * (1 / c)`` where the reciprocal is exact."""
    x, c = node.inputs
    data = rules.data(c)
    if data is None or not x.dtype.is_float:
        return None
    # Far inside the range of the type, so that neither c nor 1 / c is subnormal.
    if not ask(_are_powers_of_two, data, limit=14 if x.dtype is dt.f16 else 126):
        return None
    return rules.make("mul", (x, rules.array(derive(_reciprocal, data), node)), {}, like=node)


def _are_powers_of_two(data: np.ndarray, limit: int) -> bool:
    mantissas, exponents = np.frexp(data.astype(np.float64))
    return bool(((np.abs(mantissas) == 0.5) & (np.abs(exponents) < limit)).all())


def _reciprocal(data: np.ndarray) -> np.ndarray:
    found: np.ndarray = (1 / data.astype(np.float64)).astype(data.dtype)
    return found


def minus_one(rules: Rules, node: Node) -> Value | None:
    """``x * -1`` is ``-x``."""
    x, c = node.inputs
    if rules.number(c) != -1 or not x.dtype.is_signed:
        return None
    if not same_shape(x.shape, node.outputs[0].shape):
        return None
    return rules.make("neg", (x,), {}, like=node)


def extreme(rules: Rules, node: Node) -> Value | None:
    """``max(x, x)``, ``max(x, lowest)`` are ``x``; the maxima with two constants merge."""
    x, y = node.inputs
    if x is y:
        return x
    bound = rules.number(y)
    if bound is None:
        return None
    if bound == (x.dtype.lowest if node.op == "max" else x.dtype.highest):
        return rules.like_result(x, node)
    inner = rules.behind(x, node.op)
    if inner is None or rules.data(inner.inputs[1]) is None:
        return None
    pick = np.maximum if node.op == "max" else np.minimum
    a, b = rules.constants[inner.inputs[1]], rules.constants[y]
    merged = rules.array(derive(pick, a, b), node)
    if merged.type.shape != inner.inputs[1].shape:
        return None
    return rules.make(node.op, (inner.inputs[0], merged), {}, like=node)


def choice(rules: Rules, node: Node) -> Value | None:
    """``where(True, a, b)`` is ``a``, ``where(c, a, a)`` is ``a``, ``where(not c, a, b)`` swaps."""
    c, a, b = node.inputs
    if a is b:
        return rules.like_result(a, node)
    known = rules.number(c)
    if known is not None:
        return rules.like_result(a if known else b, node)
    inverse = rules.behind(c, "not")
    if inverse is not None:
        return rules.make("where", (inverse.inputs[0], b, a), {}, like=node)
    return None


def conversion(rules: Rules, node: Node) -> Value | None:
    """A cast to the same type is nothing; one after a cast that keeps every value skips that."""
    (x,) = node.inputs
    if x.dtype is dtype_attr(node.attrs, "dtype"):
        return x
    inner = rules.behind(x, "cast")
    if inner is None or not keeps_every_value(inner.inputs[0].dtype, x.dtype):
        return None
    return rules.make("cast", (inner.inputs[0],), node.attrs, like=node)


def keeps_every_value(source: DType, wide: DType) -> bool:
    """Whether each value of one type exists in another."""
    if source is wide or source is dt.bool_:
        return True
    if wide is dt.bool_:
        return False
    if source.is_float:
        narrow = source in (dt.f16, dt.bf16)
        return wide.is_float and (wide is dt.f64 or (wide is dt.f32 and narrow))
    bits = source.bits - source.is_signed
    if wide.is_float:
        return bits <= {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}[wide.name]
    return (wide.is_signed or not source.is_signed) and bits <= wide.bits - wide.is_signed


def implicit_broadcast(rules: Rules, node: Node) -> Value | None:
    """Elementwise operators broadcast by themselves: an explicit broadcast of an operand goes."""
    inputs = list(node.inputs)
    for position, value in enumerate(inputs):
        wide = rules.behind(value, "broadcast_to")
        if wide is None:
            continue
        inputs[position] = wide.inputs[0]
        try:
            shape = broadcast_shapes([v.shape for v in inputs])
        except OpError:
            shape = ()
        if not same_shape(shape, node.outputs[0].shape):
            inputs[position] = value
    if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
        return None
    return rules.make(node.op, tuple(inputs), node.attrs, like=node)


def _rules() -> dict[str, tuple[Rule, ...]]:
    table: dict[str, list[Rule]] = {}

    def put(rule: Rule, *ops: str) -> None:
        for op in ops:
            table.setdefault(op, []).append(rule)

    many = [o.name for o in OPS.values() if o.kind == "elementwise" and o.name != "cast"]
    put(constant_last, *sorted(COMMUTATIVE))
    put(neutral_operand, *_NEUTRAL_RIGHT)
    put(neutral_condition, "and", "or")
    put(involution, *sorted(_INVOLUTIONS))
    put(idempotence, *sorted(_IDEMPOTENT))
    put(power, "pow")
    put(signs, "add", "sub")
    put(minus_constant, "sub")
    put(divide_by_power_of_two, "div")
    put(minus_one, "mul")
    put(extreme, "min", "max")
    put(choice, "where")
    put(conversion, "cast")
    put(implicit_broadcast, *many)
    return {op: tuple(rules) for op, rules in table.items()}


RULES: dict[str, tuple[Rule, ...]] = _rules()
