"""Reshapes sink: they move behind the nodes that do not care, where they merge or cost nothing.

A reshape between a contraction and its bias, or between two elementwise nodes, would keep them in
two kernels. Behind them it is a view.
"""

from __future__ import annotations

from ...ops import OPS
from ...ops.op import dims_attr, ints_attr, same_shape
from ...tensor.ir import Dim, as_expr
from ...tensor.simplify import dim, product, same_dim
from ..ir import Node, Value
from .regroup import axis_groups
from .rule import Rule, Rules, Shape

_EPILOGUE = 8
"""How many nodes behind a contraction are looked at to see that they belong to it."""


def reshape_of_reshape(rules: Rules, node: Node) -> Value | None:
    """Reshapes merge."""
    inner = rules.behind(node.inputs[0], "reshape")
    if inner is None:
        return None
    return rules.make("reshape", inner.inputs, node.attrs, like=node)


def keep_reduced_axes(rules: Rules, node: Node) -> Value | None:
    """A reduction keeps its axes at size 1; dropping them is a view.

    The nodes between the reductions of a row then have its shape, and stay in one kernel.
    """
    if node.attrs["keepdims"]:
        return None
    kept = rules.make("reduce", node.inputs, {**node.attrs, "keepdims": True}, like=node)
    return rules.make("reshape", (kept,), {"shape": node.outputs[0].shape}, like=node)


def regroup_before_slice(rules: Rules, node: Node) -> Value | None:
    """A reshape behind a slice of one axis goes in front, if the slice is then of whole rows.

    It may split that axis, or drop it where one row of it is taken. So the three parts of a
    joint query-key-value product are slices of one view, which their readers read in place.
    """
    inner = rules.behind(node.inputs[0], "slice")
    if inner is None or any(s != 1 for s in ints_attr(inner.attrs, "steps")):
        return None
    (x,) = inner.inputs
    view = rules.behind(x, "reshape")
    if rules.behind(x if view is None else view.inputs[0], "transpose") is not None:
        # Layout pushes that below the slice first; a merged axis would be in its way.
        return None
    (narrow,), shape = node.inputs, node.outputs[0].shape
    cut = [d for d, n in enumerate(narrow.shape) if not same_dim(n, x.shape[d])]
    if len(cut) != 1:
        return None
    start = dims_attr(inner.attrs, "starts")[cut[0]]
    placed = _cut_in_result(narrow.shape, shape, cut[0], start, x.shape[cut[0]])
    if placed is None:
        return None
    axis, first, rows = placed
    wide = (*shape[:axis], rows, *shape[axis + 1 :])
    whole = rules.make("reshape", (x,), {"shape": wide}, like=node)
    begin = tuple(first if d == axis else 0 for d in range(len(shape)))
    attrs = {"starts": begin, "sizes": shape, "steps": (1,) * len(shape)}
    return rules.make("slice", (whole,), attrs, like=node)


def _cut_in_result(
    narrow: Shape, shape: Shape, cut: int, start: Dim, size: Dim
) -> tuple[int, Dim, Dim] | None:
    """The axis of a reshape's result that would be cut instead, where it starts, and its size.

    Args:
        narrow, shape: the shapes before and after the reshape.
        cut: the axis of ``narrow`` that is a part, from ``start``, of an axis of this ``size``.
    """
    groups = axis_groups(narrow, shape)
    if groups is None:
        return None
    position = next(i for i, g in enumerate(groups) if cut in g.old)
    group = groups[position]
    if group.old == (cut,) and group.new:
        row = product(shape[j] for j in group.new[1:])
        if row == 0 or any(not same_dim(dim(as_expr(p) % row), 0) for p in (start, size)):
            return None
        return group.new[0], dim(as_expr(start) // row), dim(as_expr(size) // row)
    if group.new or group.old != (cut,):
        return None
    # One row of an axis that goes: a run of the axis behind it.
    following = next((g for g in groups[position + 1 :] if g.new), None)
    if following is None or not following.old:
        return None
    axis = following.new[0]
    return axis, dim(as_expr(start) * shape[axis]), dim(as_expr(size) * shape[axis])


def reshape_after_elementwise(rules: Rules, node: Node) -> Value | None:
    """``f(reshape(x), ...)`` is ``reshape(f(x, ...))`` if the other operands have such a view."""
    views = [rules.behind(v, "reshape") for v in node.inputs]
    main = next(
        (
            n
            for v, n in zip(node.inputs, views, strict=True)
            if n is not None
            and same_shape(v.shape, node.outputs[0].shape)
            and _sinks_everywhere(rules, v, node)
        ),
        None,
    )
    if main is None:
        return None
    anchored = ends_contraction(rules, main.inputs[0])
    (source,), shape = main.inputs, main.outputs[0].shape
    wanted: list[Shape] = []
    for value, view in zip(node.inputs, views, strict=True):
        if view is not None and same_shape(view.inputs[0].shape, source.shape):
            seen = source.shape if same_shape(value.shape, shape) else None
        else:
            seen = _behind_view(rules, value, source.shape, shape)
        if seen is None and anchored and same_shape(value.shape, shape):
            # A residual: seen through a view of its own it joins the contraction's kernel. If it
            # comes out of one itself, the node can join that as it is.
            seen = None if ends_contraction(rules, value) else source.shape
        if seen is None:
            return None
        wanted.append(seen)
    for view in views:
        # Who reads a view reads what is behind it: a contraction there must not be taken to
        # have one reader, and be repeated with scaled weights.
        if view is not None:
            behind, seen_by = view.inputs[0], rules.uses.get(view.outputs[0], 0)
            rules.uses[behind] = max(rules.uses.get(behind, 0), seen_by)
    pairs = zip(node.inputs, wanted, strict=True)
    operands = [rules.make("reshape", (v,), {"shape": s}, like=node) for v, s in pairs]
    moved = rules.make(node.op, operands, node.attrs, like=node)
    return rules.make("reshape", (moved,), {"shape": shape}, like=node)


def ends_contraction(rules: Rules, value: Value) -> bool:
    """Whether a value comes out of a contraction's kernel, by elementwise nodes read once."""
    for _ in range(_EPILOGUE):
        node = rules.producer.get(value)
        if node is None or rules.uses.get(value, 0) > 1:
            return False
        kind = OPS[node.op].kind
        if kind != "elementwise":
            return kind == "contraction"
        value = next((v for v in node.inputs if same_shape(v.shape, value.shape)), value)
    return False


def _sinks_everywhere(rules: Rules, view: Value, node: Node) -> bool:
    """Whether no reader of a view needs it as it is.

    One that does, such as a reduction over its rows, computes what it reads in its own kernel.
    """
    readers = rules.readers.get(view)
    if readers is None:
        return rules.uses.get(view, 0) <= node.inputs.count(view)
    return view not in rules.results and all(
        n.op == "reshape"
        or (OPS[n.op].kind == "elementwise" and same_shape(n.outputs[0].shape, view.shape))
        for n in readers
    )


def _behind_view(rules: Rules, value: Value, source: Shape, shape: Shape) -> Shape | None:
    """The shape in which an operand meets the source of a reshape: a scalar or a last axis."""
    if len(value.shape) > len(shape):
        return None
    if all(same_dim(d, 1) for d in value.shape):
        return ()
    *outer, last = value.shape
    if not source or not all(same_dim(d, 1) for d in outer):
        return None
    if not same_dim(last, shape[-1]) or not same_dim(source[-1], shape[-1]):
        return None
    return (last,) if rules.data(value) is not None else None


def reshape_after_matmul(rules: Rules, node: Node) -> Value | None:
    """``matmul(reshape(x), w)`` is ``reshape(matmul(x, w))`` if the rows stay whole."""
    x, w = node.inputs
    view = rules.behind(x, "reshape")
    if view is None or len(w.shape) != 2:
        return None
    (source,) = view.inputs
    if len(source.shape) < 2 or not same_dim(source.shape[-1], x.shape[-1]):
        return None
    moved = rules.make("matmul", (source, w), node.attrs, like=node)
    return rules.make("reshape", (moved,), {"shape": node.outputs[0].shape}, like=node)


def _elementwise() -> dict[str, tuple[Rule, ...]]:
    names = [o.name for o in OPS.values() if o.kind == "elementwise"]
    return dict.fromkeys(names, (reshape_after_elementwise,))


RULES: dict[str, tuple[Rule, ...]] = {
    **_elementwise(),
    "reshape": (reshape_of_reshape, regroup_before_slice),
    "reduce": (keep_reduced_axes,),
    "matmul": (reshape_after_matmul,),
}
