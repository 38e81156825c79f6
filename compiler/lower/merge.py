"""Merging axes: fewer, longer loops over the same elements.

Two adjacent axes of a group become one where every access walks them as one: a 1x1 convolution
over [N, H, W, C] becomes a matrix product over N*H*W rows, an elementwise chain one flat loop.
"""

from __future__ import annotations

from collections.abc import Collection

from ..tensor.access import flat_index
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Axis, Binary, Buffer, Const, Expr, Load, Reduce, Var, as_expr
from ..tensor.simplify import (
    affine,
    dim,
    same_dim,
    simplify,
    substitute,
    symbols,
)
from .inline import loads_of, ranges_of, walk


def merge_axes(group: ComputeGroup, split: bool = True) -> ComputeGroup:
    """Returns an equal group with unit axes dropped and adjacent axes merged where possible.

    The axes at one position of all stages are merged together, since temporaries connect them.
    Parameters keep their memory and change only their shape.

    Args:
        group: the group.
        split: whether axes whose quotient picks what is read become two.
    """
    group = _drop_units(group)
    if split:
        group = _split_divided(group)
    position = 0
    while position + 1 < max((len(s.axes) for s in group.stages), default=0):
        if _mergeable(group, position):
            group = _merge(group, position)
        else:
            position += 1
    group = _merge_reduce_axes(group)
    return _review(group)


def _drop_units(group: ComputeGroup) -> ComputeGroup:
    """Removes axes of extent 1, from temporaries and outputs too."""
    keep: dict[Buffer, tuple[int, ...]] = {}
    changed: dict[Buffer, Buffer] = {}
    stages: list[Compute] = []
    for s in group.stages:
        kept = tuple(k for k, a in enumerate(s.axes) if not same_dim(a.extent, 1))
        keep[s.output] = kept
        new = Buffer(s.output.name, s.output.dtype, tuple(s.axes[k].extent for k in kept))
        zero: dict[Expr, Expr] = {
            a.var: Const(0) for k, a in enumerate(s.axes) if k not in set(kept)
        }
        expr = _reshape_loads(substitute(s.expr, zero) if zero else s.expr, keep, changed)
        changed[s.output] = new
        expr = _drop_unit_reductions(expr)
        axes = tuple(s.axes[k] for k in kept)
        done = Compute(new, axes, expr)
        stages.append(Compute(new, axes, simplify(expr, ranges_of(done))))
    outputs = tuple(changed.get(b, b) for b in group.outputs)
    return ComputeGroup(group.name, group.inputs, outputs, tuple(stages))


def _split_divided(group: ComputeGroup) -> ComputeGroup:
    """Splits axes whose quotient by a constant picks what is read: the groups of a convolution.

    With ``oc == g * 16 + oi`` the channel ``oc // 16 * 8 + ci`` becomes the affine ``g * 8 + ci``.
    """
    for _ in range(4):
        found = _divided_axis(group)
        if found is None:
            return group
        group = _split_axis(group, *found)
    return group


def divides_columns(group: ComputeGroup) -> bool:
    """Whether the quotient of the last axis picks what is read: channels in groups."""
    found = _divided_axis(group)
    return found is not None and all(len(s.axes) == found[0] + 1 for s in group.stages)


def _divided_axis(group: ComputeGroup) -> tuple[int, int] | None:
    """The position of an axis that a reduction's loads divide, and the divisor."""
    for s in group.stages:
        for r in walk(s.expr):
            if not isinstance(r, Reduce):
                continue
            for x in walk(r.body):
                if not (isinstance(x, Binary) and x.op == "floordiv" and isinstance(x.b, Const)):
                    continue
                for k, a in enumerate(s.axes):
                    factor = int(x.b.value)
                    whole = isinstance(a.extent, int) and a.extent % factor == 0
                    if x.a is a.var and whole and all(_has_axis(t, k, a) for t in group.stages):
                        return k, factor
    return None


def _has_axis(s: Compute, k: int, like: Axis) -> bool:
    return k < len(s.axes) and same_dim(s.axes[k].extent, like.extent)


def _split_axis(group: ComputeGroup, p: int, factor: int) -> ComputeGroup:
    """Replaces the axis at position ``p`` of every stage by a quotient and a remainder."""
    changed: dict[Buffer, Buffer] = {}
    stages: list[Compute] = []
    for s in group.stages:
        a = s.axes[p]
        assert isinstance(a.extent, int)
        high, low = Var(f"{a.var.name}_g"), Var(f"{a.var.name}_e")
        axes = (
            *s.axes[:p],
            Axis(high, a.extent // factor),
            Axis(low, factor),
            *s.axes[p + 1 :],
        )
        out = Buffer(s.output.name, s.output.dtype, tuple(x.extent for x in axes))
        done = Compute(out, axes, s.expr)
        ranges = {**ranges_of(done), a.var: (0, a.extent - 1)}
        loads: dict[Expr, Expr] = {
            x: Load(
                changed[x.buffer],
                (
                    *x.indices[:p],
                    x.indices[p] // factor,
                    x.indices[p] % factor,
                    *x.indices[p + 1 :],
                ),
            )
            for x in loads_of(s.expr)
            if x.buffer in changed
        }
        joined: dict[Expr, Expr] = {a.var: high * factor + low}
        expr = substitute(substitute(s.expr, loads), joined)
        changed[s.output] = out
        stages.append(Compute(out, axes, simplify(expr, ranges)))
    outputs = tuple(changed[x] for x in group.outputs)
    return ComputeGroup(group.name, group.inputs, outputs, tuple(stages))


def _drop_unit_reductions(e: Expr) -> Expr:
    mapping: dict[Expr, Expr] = {}
    for r in walk(e):
        if not isinstance(r, Reduce) or r.op in ("argmax", "argmin"):
            continue
        kept = tuple(a for a in r.axes if not same_dim(a.extent, 1))
        if len(kept) == len(r.axes):
            continue
        zero: dict[Expr, Expr] = {a.var: Const(0) for a in r.axes if a not in kept}
        body = substitute(r.body, zero)
        mapping[r] = Reduce(r.op, kept, body) if kept else body
    return substitute(e, mapping)


def _reshape_loads(
    e: Expr, keep: dict[Buffer, tuple[int, ...]], changed: dict[Buffer, Buffer]
) -> Expr:
    mapping: dict[Expr, Expr] = {
        x: Load(changed[x.buffer], (x.indices[k] for k in keep[x.buffer]))
        for x in loads_of(e)
        if x.buffer in changed
    }
    return substitute(e, mapping)


def _mergeable(group: ComputeGroup, p: int) -> bool:
    temps = {s.output for s in group.stages}
    first = group.stages[-1]
    if len(first.axes) <= p + 1:
        return False
    extents = (first.axes[p].extent, first.axes[p + 1].extent)
    for s in group.stages:
        if len(s.axes) <= p + 1:
            return False
        a, b = s.axes[p], s.axes[p + 1]
        if not (same_dim(a.extent, extents[0]) and same_dim(b.extent, extents[1])):
            return False
        ranges = ranges_of(s)
        pair = {a.var, b.var}
        for load in loads_of(s.expr):
            if load.buffer in temps:
                if load.indices[p : p + 2] != (a.var, b.var):
                    return False
                if any(
                    symbols(i) & pair for k, i in enumerate(load.indices) if k not in (p, p + 1)
                ):
                    return False
                continue
            if any(symbols(i) & pair for i in load.indices):
                form = affine(flat_index(load, ranges), (a.var, b.var), ranges)
                if form is None:
                    return False
                slopes = form[0]
                if not same_dim(slopes[a.var], dim(as_expr(slopes[b.var]) * b.extent)):
                    return False
        if _used_outside_loads(s.expr, pair):
            return False
    return True


def _used_outside_loads(e: Expr, variables: set[Var]) -> bool:
    """Whether a variable stands anywhere but in the indices of a load."""
    mapping: dict[Expr, Expr] = {x: Var(f".load{k}", x.dtype) for k, x in enumerate(loads_of(e))}
    return bool(symbols(substitute(e, mapping)) & variables)


def _merge(group: ComputeGroup, p: int) -> ComputeGroup:
    changed: dict[Buffer, Buffer] = {}
    stages: list[Compute] = []
    for s in group.stages:
        a, b = s.axes[p], s.axes[p + 1]
        extent = dim(as_expr(a.extent) * b.extent)
        new = Axis(_joined(a.var, b.var, ranges_of(s)), extent)
        axes = (*s.axes[:p], new, *s.axes[p + 2 :])
        out = Buffer(s.output.name, s.output.dtype, tuple(x.extent for x in axes))
        split: dict[Expr, Expr] = {
            a.var: new.var // as_expr(b.extent),
            b.var: new.var % as_expr(b.extent),
        }
        reshaped: dict[Expr, Expr] = {
            x: Load(changed[x.buffer], (*x.indices[:p], new.var, *x.indices[p + 2 :]))
            for x in loads_of(s.expr)
            if x.buffer in changed
        }
        expr = substitute(substitute(s.expr, reshaped), split)
        changed[s.output] = out
        done = Compute(out, axes, expr)
        stages.append(Compute(out, axes, simplify(expr, ranges_of(done))))
    outputs = tuple(changed[x] for x in group.outputs)
    return ComputeGroup(group.name, group.inputs, outputs, tuple(stages))


def _joined(a: Var, b: Var, taken: Collection[Var]) -> Var:
    """The name of two axes merged: both, unless that is long or some axis of the stage has it."""
    both = Var(a.name + b.name)
    return both if len(both.name) <= 12 and both not in taken else Var(a.name)


def _merge_reduce_axes(group: ComputeGroup) -> ComputeGroup:
    """Merges adjacent axes of a reduction where every access walks them as one."""
    stages = []
    for s in group.stages:
        expr = s.expr
        for _ in range(8):
            mapping = _one_reduce_merge(Compute(s.output, s.axes, expr))
            if mapping is None:
                break
            expr = substitute(expr, mapping)
        done = Compute(s.output, s.axes, expr)
        stages.append(Compute(s.output, s.axes, simplify(expr, ranges_of(done))))
    return ComputeGroup(group.name, group.inputs, group.outputs, tuple(stages))


def _one_reduce_merge(s: Compute) -> dict[Expr, Expr] | None:
    ranges = ranges_of(s)
    for r in walk(s.expr):
        if not isinstance(r, Reduce) or r.op in ("argmax", "argmin"):
            continue
        for k in range(len(r.axes) - 1):
            a, b = r.axes[k], r.axes[k + 1]
            if _used_outside_loads(r.body, {a.var, b.var}):
                continue
            forms = [
                affine(flat_index(x, ranges), (a.var, b.var), ranges)
                for x in loads_of(r.body)
                if any(symbols(i) & {a.var, b.var} for i in x.indices)
            ]
            if all(
                f is not None and same_dim(f[0][a.var], dim(as_expr(f[0][b.var]) * b.extent))
                for f in forms
            ):
                new = Axis(
                    _joined(a.var, b.var, ranges),
                    dim(as_expr(a.extent) * b.extent),
                )
                split: dict[Expr, Expr] = {
                    a.var: new.var // as_expr(b.extent),
                    b.var: new.var % as_expr(b.extent),
                }
                axes = (*r.axes[:k], new, *r.axes[k + 2 :])
                inner = {**ranges, new.var: (0, dim(as_expr(new.extent) - 1))}
                return {r: Reduce(r.op, axes, simplify(substitute(r.body, split), inner))}
    return None


def _review(group: ComputeGroup) -> ComputeGroup:
    """Gives inputs the shape in which they are read: x[f // 56, f % 56] becomes x[f]."""
    for buffer in group.inputs:
        current = buffer
        position = 0
        while position + 1 < len(current.shape):
            merged = _merge_dims(group, current, position)
            if merged is None:
                position += 1
            else:
                group, current = merged
                position = 0
    return group


def _merge_dims(group: ComputeGroup, b: Buffer, p: int) -> tuple[ComputeGroup, Buffer] | None:
    width = as_expr(b.shape[p + 1])
    shape = (*b.shape[:p], dim(as_expr(b.shape[p]) * width), *b.shape[p + 2 :])
    new = Buffer(b.name, b.dtype, shape)
    stages: list[Compute] = []
    gained = False
    for s in group.stages:
        ranges = ranges_of(s)
        mapping: dict[Expr, Expr] = {}
        for x in loads_of(s.expr):
            if x.buffer != b:
                continue
            high, low = x.indices[p], x.indices[p + 1]
            joined = simplify(high * width + low, ranges)
            before = _weight(high) + _weight(low)
            unit = same_dim(b.shape[p], 1) or same_dim(b.shape[p + 1], 1)
            if not unit and _weight(joined) + 1 > before - 1:
                return None
            gained = gained or unit or _weight(joined) < before
            mapping[x] = Load(new, (*x.indices[:p], joined, *x.indices[p + 2 :]))
        stages.append(Compute(s.output, s.axes, substitute(s.expr, mapping)))
    if not gained:
        return None
    inputs = tuple(new if x == b else x for x in group.inputs)
    return ComputeGroup(group.name, inputs, group.outputs, tuple(stages)), new


def _weight(e: Expr) -> int:
    """How involved an index is: constants 0, a variable or sum 1, divisions more."""
    if isinstance(e, Const):
        return 0
    return 1 + sum(1 for x in walk(e) if getattr(x, "op", "") in ("floordiv", "mod"))
