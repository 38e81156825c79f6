"""Chains of sums and products with constants: merged, and folded into constant weights.

This is how batch normalisation disappears: the importer states it as a product and a sum per
channel, both merge with the bias that the convolution may have, the product scales the output
channels of the weights, and one sum is left. Merging changes the rounding of the last bit, as any
such folding does; it is done in f64 and only where no constant overflows or vanishes by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ... import dtype as dt
from ...ops.op import same_shape
from ..ir import Node, Value
from .rule import Rule, Rules
from .stand_ins import ask, derive, reshaped

_FOLDED_TYPES = (dt.f32, dt.f64)
_Wide = np.ndarray


def merge_sums(rules: Rules, node: Node) -> Value | None:
    """``(x + a) + b`` is ``x + (a + b)``."""
    return _merge(rules, node, "add", np.add)


def merge_products(rules: Rules, node: Node) -> Value | None:
    """``(x * a) * b`` is ``x * (a * b)``."""
    return _merge(rules, node, "mul", np.multiply)


def _merge(rules: Rules, node: Node, op: str, join: Callable[..., _Wide]) -> Value | None:
    x, b = node.inputs
    inner = rules.behind_once(x, op)
    if inner is None or rules.data(b) is None or rules.data(inner.inputs[1]) is None:
        return None
    merged = _joined(rules, node, inner.inputs[1], b, join)
    if merged is None:
        return None
    return rules.make(op, (inner.inputs[0], merged), {}, like=node)


def scale_before_shift(rules: Rules, node: Node) -> Value | None:
    """``(y + b) * c`` is ``y * c + b * c`` where ``y`` takes the factor in: it has a constant
    factor already, or is a contraction with constant weights. The same for a division.
    """
    x, c = node.inputs
    shift = rules.behind_once(x, "add")
    if shift is None or rules.data(c) is None or rules.data(shift.inputs[1]) is None:
        return None
    inner = shift.inputs[0]
    scaled = rules.behind_once(inner, "mul")
    merges = node.op == "mul" and scaled is not None and rules.data(scaled.inputs[1]) is not None
    if not merges and weights_to_scale(rules, inner, c) is None:
        return None
    join = np.multiply if node.op == "mul" else np.divide
    moved = _joined(rules, node, shift.inputs[1], c, join)
    if moved is None:
        return None
    product = rules.make(node.op, (inner, c), {}, like=node)
    return rules.make("add", (product, moved), {}, like=node)


def shift_after_scale(rules: Rules, node: Node) -> Value | None:
    """``(x + b) * c + d`` is ``x * c + (b * c + d)``."""
    x, d = node.inputs
    scale = rules.behind_once(x, "mul")
    if scale is None or rules.data(d) is None or rules.data(scale.inputs[1]) is None:
        return None
    shift = rules.behind_once(scale.inputs[0], "add")
    if shift is None or rules.data(shift.inputs[1]) is None:
        return None
    c = scale.inputs[1]
    moved = _joined(rules, node, shift.inputs[1], c, np.multiply)
    total = None if moved is None else _joined(rules, node, moved, d, np.add)
    if total is None:
        return None
    product = rules.make("mul", (shift.inputs[0], c), {}, like=node)
    return rules.make("add", (product, total), {}, like=node)


def _joined(
    rules: Rules, node: Node, a: Value, b: Value, join: Callable[..., _Wide]
) -> Value | None:
    """One constant for two, no larger than the larger of them and as finite as both."""
    left, right = rules.constants[a], rules.constants[b]
    if a.dtype.is_integer:
        with np.errstate(all="ignore"):
            exact = derive(join, left, right)
        return rules.array(exact, node) if exact.size <= max(left.size, right.size) else None
    if not a.dtype.is_float:
        return None
    with np.errstate(all="ignore"):
        merged = derive(join, derive(_widened, left), derive(_widened, right))
        if merged.size > max(left.size, right.size):
            return None
        result = derive(_as_type, merged, dtype=left.dtype)
    if not ask(_keeps_range, merged, result):
        return None
    return rules.array(result, node)


def _widened(array: np.ndarray) -> _Wide:
    return array.astype(np.float64)


def _as_type(array: _Wide, dtype: np.dtype) -> np.ndarray:
    return array.astype(dtype)


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _keeps_range(wide: _Wide, rounded: _Wide) -> bool:
    """Whether rounding made no infinity, nothing subnormal and no zero that was none."""
    smallest = {2: 6.2e-5, 4: 1.2e-38, 8: 2.3e-308}[rounded.dtype.itemsize]
    magnitude = np.abs(rounded.astype(np.float64))
    fine = np.isfinite(magnitude) & ((magnitude >= smallest) | (wide == 0))
    return bool(fine.all())


# ------------------------------------------------------------------ into weights


def weights_to_scale(rules: Rules, product: Value, c: Value) -> Node | None:
    """The contraction behind a value, if scaling its constant weights scales the value by ``c``.

    That is so where ``c`` has one element for each channel of the last axis, or one in all.
    """
    if product.dtype not in _FOLDED_TYPES:
        return None
    for op in ("conv", "matmul"):
        node = rules.behind_once(product, op)
        if node is None or rules.data(node.inputs[1]) is None:
            continue
        if node.inputs[1].dtype is not product.dtype:
            return None  # scaled weights would be rounded to 16 bits
        scale, weights = rules.constants[c], rules.constants[node.inputs[1]]
        channels = scale.size == 1 or (
            scale.shape[-1] == scale.size and scale.size == weights.shape[-1]
        )
        return node if channels and scale.ndim <= len(product.shape) else None
    return None


def scale_weights(rules: Rules, node: Node) -> Value | None:
    """``conv(x, w) * c`` and ``matmul(x, w) * c`` scale the weights instead."""
    x, c = node.inputs
    if rules.data(c) is None:
        return None
    contraction = weights_to_scale(rules, x, c)
    if contraction is None or not same_shape(x.shape, node.outputs[0].shape):
        return None
    weights, scale = rules.constants[contraction.inputs[1]], rules.constants[c]
    by_channel = derive(reshaped, scale, shape=(scale.size,) if scale.size > 1 else ())
    with np.errstate(all="ignore"):
        combine = np.multiply if node.op == "mul" else np.divide
        scaled = derive(combine, weights, by_channel)
    if not ask(_is_finite, scaled):
        return None
    name = contraction.inputs[1].name
    inputs = (contraction.inputs[0], rules.constant(scaled, name))
    return rules.make(contraction.op, inputs, contraction.attrs, like=contraction)


def scale_after_product(rules: Rules, node: Node) -> Value | None:
    """``matmul(x[..] * c, b)`` is ``matmul(x[..], b) * c`` for a number ``c``; the same for ``b``.

    Only where the factor stands between an input or a slice and the product, and would be a
    kernel of its own: behind the product it is part of its kernel.
    """
    for position, operand in enumerate(node.inputs):
        found = _without_factor(rules, operand)
        if found is None:
            continue
        bare, factor = found
        inputs = (bare, node.inputs[1]) if position == 0 else (node.inputs[0], bare)
        product = rules.make("matmul", inputs, node.attrs, like=node)
        number = rules.array(derive(_as_type, factor, dtype=product.dtype.numpy), node)
        return rules.make("mul", (product, number), {}, like=node)
    return None


def normalise_after_product(rules: Rules, node: Node) -> Value | None:
    """``matmul(e / sum(e), b)`` is ``matmul(e, b) / sum(e)`` for ``e = exp(..)``: a softmax.

    One division for each element of the result instead of one for each weight. The weights of a
    softmax are at most 1 before they are divided, too, so nothing overflows that did not.
    """
    weights, b = node.inputs
    quotient = rules.behind_once(weights, "div")
    if quotient is None:
        return None
    e, total = quotient.inputs
    summed = rules.behind(total, "reduce")
    if summed is None or summed.attrs["op"] != "sum" or summed.inputs[0] is not e:
        return None
    if rules.behind(e, "exp") is None or not summed.attrs["keepdims"] or e.dtype is dt.f16:
        return None  # a sum of weights not divided yet may leave the range of f16
    if summed.attrs["axes"] != (len(e.shape) - 1,) or len(b.shape) != len(e.shape):
        return None
    if node.outputs[0].dtype is not total.dtype:
        return None
    product = rules.make("matmul", (e, b), node.attrs, like=node)
    return rules.make("div", (product, total), {}, like=node)


def _without_factor(rules: Rules, value: Value) -> tuple[Value, np.ndarray] | None:
    """A value without the number that multiplies a slice behind its transposes and reshapes."""
    moves: list[Node] = []
    while (move := _moved_once(rules, value)) is not None:
        moves.append(move)
        value = move.inputs[0]
    scaled = rules.behind_once(value, "mul")
    if scaled is None or rules.number(scaled.inputs[1]) is None or not value.dtype.is_float:
        return None
    if value.dtype is dt.f16:
        return None  # what is scaled before may be so to keep the product in the range of f16
    x, c = scaled.inputs
    alone = rules.producer.get(x) is None or rules.behind(x, "slice") is not None
    if not alone or not same_shape(x.shape, value.shape):
        return None
    for move in reversed(moves):
        x = rules.make(move.op, (x,), move.attrs, like=move)
    return x, derive(_first, rules.constants[c])


def _first(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)[:1].reshape(())


def _moved_once(rules: Rules, value: Value) -> Node | None:
    return rules.behind_once(value, "transpose") or rules.behind_once(value, "reshape")


RULES: dict[str, tuple[Rule, ...]] = {
    "add": (merge_sums, shift_after_scale),
    "mul": (merge_products, scale_weights, scale_before_shift),
    "div": (scale_weights, scale_before_shift),
    "matmul": (scale_after_product, normalise_after_product),
}
