"""Fission: cutting a group that no single kernel can hold into pieces that one can."""

from __future__ import annotations

from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Axis, Buffer, Expr, Load, Reduce
from ..tensor.simplify import substitute, symbols
from .inline import has_reduce, loads_of, walk


def fission(group: ComputeGroup) -> list[ComputeGroup]:
    """Cuts a group into one group a reduction and one a map, joined by buffers in memory.

    Each piece has one stage, and a reduction is the whole of its stage. Every output of a piece
    that is no output of the group is a buffer of its own; equal reductions share theirs.
    """
    stages: list[Compute] = []
    held: dict[tuple[Reduce, tuple[Axis, ...]], Buffer] = {}
    for s in group.stages:
        expr = s.expr
        while (inner := innermost(expr)) is not None and inner is not expr:
            used = symbols(inner)
            axes = tuple(a for a in s.axes if a.var in used)
            buffer = held.get((inner, axes))
            if buffer is None:
                buffer = Buffer(f"s{len(held)}", inner.dtype, tuple(a.extent for a in axes))
                held[inner, axes] = buffer
                stages.append(Compute(buffer, axes, inner))
            mapping: dict[Expr, Expr] = {inner: Load(buffer, (a.var for a in axes))}
            expr = substitute(expr, mapping)
        stages.append(Compute(s.output, s.axes, expr))
    return by_stage(ComputeGroup(group.name, group.inputs, group.outputs, tuple(stages)))


def by_stage(group: ComputeGroup) -> list[ComputeGroup]:
    """A group for each stage, as it is."""
    pieces: list[ComputeGroup] = []
    for s in group.stages:
        sources = dict.fromkeys(x.buffer for x in loads_of(s.expr))
        pieces.append(ComputeGroup(group.name, tuple(sources), (s.output,), (s,)))
    return pieces


def innermost(e: Expr) -> Reduce | None:
    """A reduction of an expression that holds no other one."""
    for r in walk(e):
        if isinstance(r, Reduce) and not has_reduce(r.body):
            return r
    return None
