"""Packing: the layout of an operand that a kernel reads as panels, made before it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tensor.access import flat_index
from ..tensor.ir import (
    Axis,
    Buffer,
    Const,
    Dim,
    Expr,
    Func,
    Load,
    Select,
    Var,
    conjunction,
    le,
    lt,
)
from ..tensor.simplify import (
    Ranges,
    ceildiv,
    product,
    prove,
    ranges_of_axes,
    simplify,
    substitute,
    symbols,
)
from ..tensor.walk import block_loads, substitution
from ..tensor.winograd import Matrix
from .nest import fail, map_block
from .place import in_bounds


@dataclass(frozen=True, slots=True)
class PackDim:
    """One dim of a packed operand: an axis of the nest, whole or in blocks.

    Attributes:
        var: the loop variable that indexes it.
        extent: how far the variable runs.
        factor: the block length where the axis is cut in two (the outer part stands here, the
            inner part at the end of the layout), else None.
    """

    var: Var
    extent: Dim
    factor: int | None = None


@dataclass(frozen=True, slots=True)
class Packing:
    """How a packed operand is made: ``packed[axes] = value``, evaluated on the constant.

    Attributes:
        source: the buffer as the model has it.
        packed: the buffer that the kernel takes in its place.
        axes: the variables that index ``packed``, in order.
        value: an expression over them that loads ``source``; guarded where blocks run past the
            end (those elements are 0).
        mixings: linear maps applied to the result along single axes (axis, matrix): there
            ``packed`` has as many elements as the matrix has rows, and ``value`` is evaluated
            for as many as it has columns.
    """

    source: Buffer
    packed: Buffer
    axes: tuple[Var, ...]
    value: Expr
    mixings: tuple[tuple[int, Matrix], ...] = ()


def pack(func: Func, load: Load, dims: Sequence[PackDim], name: str) -> tuple[Func, Packing]:
    """Gives one operand the layout in which the nest reads it: panels of ``factor`` elements.

    The load ``W[k, j]`` with dims (j in blocks of 64, k) becomes ``P[j // 64, k, j % 64]``; P has
    the shape ``[ceildiv(N, 64), K, 64]``.

    Raises:
        ScheduleError: the buffer is read in another way too, along a loop that is not given, or
            under a guard, with indices that leave it.
    """
    others = {x for x in block_loads(func.body) if x.buffer == load.buffer} - {load}
    if others:
        raise fail(
            f"pack({load.buffer.name!r})",
            func,
            "the buffer is read in more than one way",
        )
    held = {d.var for d in dims}
    if any(v not in held and not v.is_symbol for i in load.indices for v in symbols(i)):
        raise fail(f"pack({load.buffer.name!r})", func, "the load varies along another loop")
    if not stays_inside(load, ranges_of_axes(Axis(d.var, d.extent) for d in dims)):
        raise fail(f"pack({load.buffer.name!r})", func, "the load may leave the buffer")
    shape: list[Dim] = []
    tail: list[Dim] = []
    index: list[Expr] = []
    inner: list[Expr] = []
    outer_vars: list[Var] = []
    inner_vars: list[Var] = []
    back: dict[Expr, Expr] = {}
    guards: list[Expr] = []
    for d in dims:
        if d.factor is None:
            shape.append(d.extent)
            index.append(d.var)
            outer_vars.append(d.var)
            continue
        vo, vi = Var(f"{d.var.name}_o"), Var(f"{d.var.name}_i")
        shape.append(ceildiv(d.extent, d.factor))
        tail.append(d.factor)
        index.append(d.var // d.factor)
        inner.append(d.var % d.factor)
        outer_vars.append(vo)
        inner_vars.append(vi)
        back[d.var] = vo * d.factor + vi
        guards.append(lt(vo * d.factor + vi, d.extent))
    packed = Buffer(name, load.dtype, (*shape, *tail))
    value = substitute(load, back)
    value = simplify(Select(conjunction(guards), value, Const(0, load.dtype)) if guards else value)
    record = Packing(load.buffer, packed, (*outer_vars, *inner_vars), value)
    new_load = Load(packed, (*index, *inner))
    body = map_block(func.body, substitution({load: new_load}))
    params = tuple(packed if p == load.buffer else p for p in func.params)
    return Func(func.name, params, body), record


def stays_inside(load: Load, ranges: Ranges) -> bool:
    """Whether a load certainly reads memory of its buffer (a guarded one need not)."""
    if in_bounds(load, ranges):
        return True
    flat, count = flat_index(load, ranges), product(load.buffer.shape)
    return prove(le(0, flat), ranges) is True and prove(lt(flat, count), ranges) is True
