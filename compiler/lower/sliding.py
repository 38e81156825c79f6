"""Sliding: recognising a group that is one convolution of stride 1, by its axes alone.

Taps may lie some elements apart, all by the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .. import dtype as dt
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Axis, Binary, Buffer, Const, Expr, Load, Reduce, Var
from ..tensor.simplify import affine, same_dim, simplify, substitute, symbols
from .inline import has_reduce, loads_of, walk

TOTAL = Var(".total", dt.f32)
"""Stands for the sum in the results of a Sliding."""


@dataclass(frozen=True, slots=True)
class Sliding:
    """A sum over taps and channels: ``value(place + step * tap, channel) * weight(tap, ...)``.

    Attributes:
        axes: of every result, in order; the last one is ``column``.
        spatial: axes along which the taps slide, each with the axis of its taps.
        steps: how many elements the taps of each of these lie apart.
        batch: the other axes, in order.
        column: the axis along which only the weights vary.
        channel: what is summed over besides taps.
        value: what is weighted: it does not change when a place goes up by a step and its tap
            down by one.
        weight: reads the constant weights.
        results: what is stored to which buffer at each place, in terms of the axes and TOTAL.
    """

    axes: tuple[Axis, ...]
    spatial: tuple[tuple[Axis, Axis], ...]
    steps: tuple[int, ...]
    batch: tuple[Axis, ...]
    column: Axis
    channel: Axis
    value: Expr
    weight: Load
    results: tuple[tuple[Buffer, Expr], ...]


def find_sliding(group: ComputeGroup, constants: frozenset[str]) -> Sliding | None:
    """The one sliding sum of float32 that a group consists of, with its epilogue; or None.

    Args:
        group: as it was lowered, its axes not merged yet.
        constants: names of the inputs whose data is known.
    """
    first, *others = group.stages
    sums = {r for r in walk(first.expr) if isinstance(r, Reduce)}
    if len(sums) != 1 or len(first.axes) < 2:
        return None
    (total,) = sums
    if total.op != "sum" or total.dtype is not dt.f32 or len(total.axes) < 2:
        return None
    results = _results(group, first, others, total)
    if results is None:
        return None
    column = first.axes[-1]
    for weight, value in _products(total.body):
        if weight.buffer.name not in constants or column.var in symbols(value):
            continue
        found = _slides(first, total, value)
        if found is None:
            continue
        spatial, steps, channel = found
        allowed = {tap.var for _, tap in spatial} | {channel.var, column.var}
        held = {a.var for a, _ in spatial}
        batch = tuple(a for a in first.axes[:-1] if a.var not in held)
        if symbols(weight) <= allowed:
            return Sliding(
                first.axes, spatial, steps, batch, column, channel, value, weight, results
            )
    return None


def _products(body: Expr) -> Iterator[tuple[Load, Expr]]:
    """The ways to read a product as a weight and the rest."""
    if isinstance(body, Binary) and body.op == "mul":
        for weight, value in ((body.b, body.a), (body.a, body.b)):
            if isinstance(weight, Load):
                yield weight, value


def _slides(
    stage: Compute, total: Reduce, value: Expr
) -> tuple[tuple[tuple[Axis, Axis], ...], tuple[int, ...], Axis] | None:
    """The pairs of axes and taps along which a value slides, their steps, the axis of channels."""
    spatial: list[tuple[Axis, Axis]] = []
    steps: list[int] = []
    rest = list(total.axes)
    used = symbols(value)
    for a in stage.axes[:-1]:
        for tap in rest:
            if a.var not in used or tap.var not in used:
                continue
            step = _step(value, a.var, tap.var)
            moved = substitute(value, {a.var: a.var + step, tap.var: tap.var - 1})
            if simplify(moved) is simplify(value):
                spatial.append((a, tap))
                steps.append(step)
                rest.remove(tap)
                break
    if not spatial or len(rest) != 1 or not isinstance(rest[0].extent, int):
        return None
    return tuple(spatial), tuple(steps), rest[0]


def _step(value: Expr, place: Var, tap: Var) -> int:
    """By how many places a tap moves what is read, by the first index that goes by both."""
    for load in loads_of(value):
        for index in load.indices:
            if {place, tap} <= symbols(index):
                form = affine(index, (place, tap))
                step = 1 if form is None else form[0][tap]
                return step if isinstance(step, int) and step > 0 else 1
    return 1


def _results(
    group: ComputeGroup, first: Compute, others: list[Compute], total: Reduce
) -> tuple[tuple[Buffer, Expr], ...] | None:
    """What each output is in terms of the sum, if every stage is an epilogue at its own place."""
    known: dict[Buffer, Expr] = {first.output: substitute(first.expr, {total: TOTAL})}
    for s in others:
        if len(s.axes) != len(first.axes):
            return None
        if not all(same_dim(a.extent, b.extent) for a, b in zip(s.axes, first.axes, strict=True)):
            return None
        place = tuple(a.var for a in s.axes)
        inner = [x for x in loads_of(s.expr) if x.buffer in known]
        if any(x.indices != place for x in inner):
            return None
        own: dict[Expr, Expr] = {
            a.var: b.var for a, b in zip(s.axes, first.axes, strict=True) if a.var is not b.var
        }
        marks: dict[Expr, Expr] = {x: Var(f".stage{k}", x.dtype) for k, x in enumerate(inner)}
        expr = substitute(substitute(substitute(s.expr, marks), own), {total: TOTAL})
        if has_reduce(expr):
            return None
        known[s.output] = substitute(expr, {m: known[_load(x)] for x, m in marks.items()})
    return tuple((b, known[b]) for b in group.outputs)


def _load(e: Expr) -> Buffer:
    assert isinstance(e, Load)
    return e.buffer


def is_constant(e: Expr, value: bool) -> bool:
    """Whether a condition is known."""
    return isinstance(e, Const) and e.value is value
