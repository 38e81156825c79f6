"""Laws of data movement: identities go, pairs become one, padding joins the window behind it."""

from __future__ import annotations

from typing import cast

import numpy as np

from ...ops.op import axes_attr, axis_attr, dims_attr, ints_attr, same_shape
from ...tensor.ir import Dim, as_expr, le
from ...tensor.simplify import dim, prove, same_dim
from ..ir import Node, Value
from .rule import Rule, Rules


def same_shape_movement(rules: Rules, node: Node) -> Value | None:
    """A reshape or broadcast to the shape that is there already is nothing."""
    return rules.like_result(node.inputs[0], node)


def transpose(rules: Rules, node: Node) -> Value | None:
    """Transposes merge; one that moves only axes of size 1 is a reshape."""
    (x,) = node.inputs
    perm = ints_attr(node.attrs, "perm")
    if perm == tuple(range(len(perm))):
        return x
    inner = rules.behind(x, "transpose")
    if inner is not None:
        first = ints_attr(inner.attrs, "perm")
        joined = tuple(first[p] for p in perm)
        return rules.make("transpose", inner.inputs, {"perm": joined}, like=node)
    if keeps_order(perm, x.shape):
        return rules.make("reshape", (x,), {"shape": node.outputs[0].shape}, like=node)
    return None


def keeps_order(perm: tuple[int, ...], shape: tuple[Dim, ...]) -> bool:
    """Whether a transpose moves no element: the axes longer than 1 stay in order."""
    long = [p for p in perm if shape[p] != 1]
    return long == sorted(long)


def broadcast_of_broadcast(rules: Rules, node: Node) -> Value | None:
    """Broadcasts merge."""
    inner = rules.behind(node.inputs[0], "broadcast_to")
    if inner is None:
        return None
    return rules.make("broadcast_to", inner.inputs, node.attrs, like=node)


def whole_slice(rules: Rules, node: Node) -> Value | None:
    """A slice of everything is nothing."""
    (x,) = node.inputs
    if any(s != 1 for s in ints_attr(node.attrs, "steps")):
        return None
    if any(not same_dim(s, 0) for s in dims_attr(node.attrs, "starts")):
        return None
    return rules.like_result(x, node)


def slice_of_slice(rules: Rules, node: Node) -> Value | None:
    """Slices merge."""
    inner = rules.behind(node.inputs[0], "slice")
    if inner is None:
        return None
    outer_steps, inner_steps = (ints_attr(n.attrs, "steps") for n in (node, inner))
    places = zip(
        dims_attr(node.attrs, "starts"), dims_attr(inner.attrs, "starts"), inner_steps, strict=True
    )
    attrs = {
        "starts": tuple(dim(as_expr(b) + as_expr(a) * step) for a, b, step in places),
        "sizes": dims_attr(node.attrs, "sizes"),
        "steps": tuple(a * b for a, b in zip(outer_steps, inner_steps, strict=True)),
    }
    return rules.make("slice", inner.inputs, attrs, like=node)


def slice_of_concat(rules: Rules, node: Node) -> Value | None:
    """A slice that lies in one part of a concat is a slice of that part."""
    inner = rules.behind(node.inputs[0], "concat")
    if inner is None:
        return None
    axis = axis_attr(inner.attrs, "axis", len(node.inputs[0].shape))
    starts, sizes = dims_attr(node.attrs, "starts"), dims_attr(node.attrs, "sizes")
    if ints_attr(node.attrs, "steps")[axis] != 1:
        return None
    offset: Dim = 0
    for part in inner.inputs:
        end = dim(as_expr(offset) + part.shape[axis])
        stop = as_expr(starts[axis]) + sizes[axis]
        if prove(le(as_expr(offset), starts[axis])) and prove(le(stop, end)):
            start = dim(as_expr(starts[axis]) - offset)
            moved = {**node.attrs, "starts": (*starts[:axis], start, *starts[axis + 1 :])}
            return rules.make("slice", (part,), moved, like=node)
        offset = end
    return None


def concat(rules: Rules, node: Node) -> Value | None:
    """A concat of one is nothing; parts without elements go; a concat that only it reads joins.

    One that is there already and begins with the same parts is read instead of them: layers that
    each read all before them then share one buffer.
    """
    axis = axis_attr(node.attrs, "axis", len(node.outputs[0].shape))
    parts: list[Value] = []
    for value in node.inputs:
        inner = rules.behind_once(value, "concat")
        if inner is not None and inner.attrs["axis"] == axis:
            parts.extend(inner.inputs)
        else:
            parts.append(value)
    filled = [v for v in parts if v.shape[axis] != 0] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    begun: Value | None = None
    # Each of them may itself read one before it, so the longest comes last.
    while (longer := _begun(rules, filled, node)) is not None:
        begun, count = longer
        filled = [begun, *filled[count:]]
    if begun is not None:
        # It has another reader now, and must not join this one again.
        rules.uses[begun] = rules.uses.get(begun, 0) + 2
    if filled == list(node.inputs):
        return None
    return rules.make("concat", filled, node.attrs, like=node)


def _begun(rules: Rules, parts: list[Value], node: Node) -> tuple[Value, int] | None:
    """A concat of the first of the parts, of as many as there are, which others read as well."""
    for count in range(len(parts) - 1, 1, -1):
        found = rules.find("concat", parts[:count], node.attrs)
        if found is not None and any(n.op != "concat" for n in rules.readers_of(found[0])):
            return found[0], count
    return None


def no_padding(rules: Rules, node: Node) -> Value | None:
    """A pad by nothing is nothing."""
    del rules
    amounts = (
        *dims_attr(node.attrs, "lo"),
        *dims_attr(node.attrs, "hi"),
        *ints_attr(node.attrs, "interior"),
    )
    return node.inputs[0] if all(same_dim(a, 0) for a in amounts) else None


def pad_into_window(rules: Rules, node: Node) -> Value | None:
    """A pad with the neutral element of the convolution or window behind it becomes its own."""
    pad = rules.behind(node.inputs[0], "pad")
    if pad is None or pad.attrs["mode"] != "constant" or any(ints_attr(pad.attrs, "interior")):
        return None
    x, value = pad.inputs
    neutral = x.dtype.lowest if node.op == "reduce_window" and node.attrs["op"] == "max" else 0
    if rules.number(value) != neutral:
        return None
    lo, hi = dims_attr(pad.attrs, "lo"), dims_attr(pad.attrs, "hi")
    if node.op == "conv":
        if any(not same_dim(d, 0) for d in (lo[0], lo[-1], hi[0], hi[-1])):
            return None
        lo, hi = lo[1:-1], hi[1:-1]
    attrs = {
        **node.attrs,
        "lo": _sums(dims_attr(node.attrs, "lo"), lo),
        "hi": _sums(dims_attr(node.attrs, "hi"), hi),
    }
    return rules.make(node.op, (x, *node.inputs[1:]), attrs, like=node)


def _sums(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return tuple(dim(as_expr(x) + y) for x, y in zip(a, b, strict=True))


def trivial_reduce(rules: Rules, node: Node) -> Value | None:
    """A reduction over no axes, or over axes of size 1, moves nothing."""
    (x,) = node.inputs
    if any(x.shape[a] != 1 for a in axes_attr(node.attrs, "axes", len(x.shape))):
        return None
    return rules.make("reshape", (x,), {"shape": node.outputs[0].shape}, like=node)


def window_of_one(rules: Rules, node: Node) -> Value | None:
    """Windows of one element each, one after the other, are the elements themselves."""
    (x,) = node.inputs
    attrs = node.attrs
    ones = (*ints_attr(attrs, "window"), *ints_attr(attrs, "strides"))
    pads = (*dims_attr(attrs, "lo"), *dims_attr(attrs, "hi"))
    if any(n != 1 for n in ones) or not all(same_dim(p, 0) for p in pads):
        return None
    return x


def gather_of_constant(rules: Rules, node: Node) -> Value | None:
    """Elements taken at constant, evenly spaced places are a slice."""
    x, indices = node.inputs
    places = rules.data(indices)
    axis = axis_attr(node.attrs, "axis", len(x.shape))
    size = x.shape[axis]
    if places is None or places.ndim > 1 or places.size == 0:
        return None
    line = [int(p) for p in places.reshape(-1)[:2]]
    step = line[1] - line[0] if len(line) == 2 else 1
    even = line[0] + step * np.arange(places.size)
    last = int(even[-1])
    if step == 0 or not np.array_equal(even, places.reshape(-1)) or (line[0] < 0) != (last < 0):
        return None
    low, high = min(line[0], last), max(line[0], last)
    inside = le(as_expr(size) * -1, low) if low < 0 else le(as_expr(high + 1), size)
    if not prove(inside):
        return None
    start: Dim = line[0] if line[0] >= 0 else dim(as_expr(size) + line[0])
    rank = len(x.shape)
    starts = [cast("Dim", 0)] * rank
    sizes, steps = list(x.shape), [1] * rank
    starts[axis], sizes[axis], steps[axis] = start, int(places.size), step
    attrs = {"starts": tuple(starts), "sizes": tuple(sizes), "steps": tuple(steps)}
    part = rules.make("slice", (x,), attrs, like=node)
    if same_shape(part.shape, node.outputs[0].shape):
        return part
    return rules.make("reshape", (part,), {"shape": node.outputs[0].shape}, like=node)


RULES: dict[str, tuple[Rule, ...]] = {
    "reshape": (same_shape_movement,),
    "broadcast_to": (same_shape_movement, broadcast_of_broadcast),
    "transpose": (transpose,),
    "slice": (whole_slice, slice_of_slice, slice_of_concat),
    "concat": (concat,),
    "pad": (no_padding,),
    "conv": (pad_into_window,),
    "reduce_window": (window_of_one, pad_into_window),
    "reduce": (trivial_reduce,),
    "gather": (gather_of_constant,),
}
