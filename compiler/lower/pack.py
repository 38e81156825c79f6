"""Evaluating packings on constants when the code is made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from operator import mul

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from ..graph.constants import copy_view, dense
from ..schedule.pack import Packing
from ..tensor.access import flat_index
from ..tensor.ir import Const, Dim, Expr, Load, Select, Var, as_expr
from ..tensor.simplify import Ranges, affine, bounds, evaluate
from ..tensor.winograd import LinearProgram, linear_program
from .mixing import Runner, mix

_TOGETHER = 1 << 20
"""Bytes of what is mixed together: NumPy takes as long to begin as for a few thousand elements."""


def pack_array(
    packing: Packing,
    source: np.ndarray,
    out: np.ndarray | None = None,
    run: Runner | None = None,
) -> np.ndarray:
    """Returns the packed operand: zero where blocks run past the end of the axis.

    A packing is an affine walk over the source, so one strided view and one copy do it; where
    it mixes elements along some axes, the walk is multiplied by the matrices afterwards.

    Args:
        packing: the record that the schedule made; its shapes are constant.
        source: the constant; its elements in row-major order are those of ``packing.source``.
        out: where to write, of the packed shape; made anew where it is None.
        run: runs functions natively; None: NumPy does all.

    Raises:
        ValueError: the packing is not affine, or a shape is symbolic.
    """
    shape = tuple(d for d in packing.packed.shape if isinstance(d, int))
    if len(shape) != len(packing.packed.shape):
        raise ValueError(f"the shape of {packing.packed.name} is symbolic")
    if not packing.mixings:
        return _walk(packing, shape, source, out)
    columns = {axis: len(matrix[0]) for axis, matrix in packing.mixings}
    walked = tuple(columns.get(k, n) for k, n in enumerate(shape))
    result = np.empty(shape, source.dtype) if out is None else out
    if run is not None and _mix_natively(packing, walked, source, result, run):
        return result
    _mix(packing, _walk(packing, walked, source, None), result)
    return result


def _mix(packing: Packing, walked: np.ndarray, out: np.ndarray) -> None:
    """Multiplies by a matrix along each mixed axis; they are adjacent.

    Blocks of the axes before them are small enough to stay in cache.
    """
    first = packing.mixings[0][0]
    programs = [linear_program(matrix) for _, matrix in packing.mixings]
    assert [axis for axis, _ in packing.mixings] == list(range(first, first + len(programs)))
    for block in _blocks(out.shape[:first], prod(out.shape[first:]) * out.itemsize):
        done = walked[block]
        before = done.ndim - (out.ndim - first)
        for k, program in enumerate(programs, before):
            last = k - before == len(programs) - 1
            shape = (*done.shape[:k], len(program.outputs), *done.shape[k + 1 :])
            into = out[block] if last else np.empty(shape, out.dtype)
            _run(program, np.moveaxis(done, k, 0), np.moveaxis(into, k, 0))
            done = into


def _blocks(shape: tuple[int, ...], nbytes: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices of all places of leading axes, along the last as many together as stay in cache."""
    if not shape:
        yield ()
        return
    count = max(1, _TOGETHER // nbytes)
    for outer in np.ndindex(*shape[:-1]):
        for start in range(0, shape[-1], count):
            yield (*outer, slice(start, start + count))


def _run(program: LinearProgram, x: np.ndarray, out: np.ndarray) -> None:
    """Runs straight-line code on whole arrays, in the type of the weights."""
    values = list(x)
    places: dict[int, np.ndarray] = {}
    for k, value in enumerate(program.outputs):
        places.setdefault(value, out[k])
    scaled = np.empty(out.shape[1:], out.dtype)
    for terms in _scalars(program, out.dtype):
        place = places.get(len(values))
        if place is None:
            place = np.empty(out.shape[1:], out.dtype)
        total: np.ndarray | None = None
        for sign, factor, value in terms:
            term = values[value]
            if total is None:
                total = term if sign == 1 else np.multiply(term, factor, out=place)
            elif sign:
                total = (np.add if sign == 1 else np.subtract)(total, term, out=place)
            else:
                total = np.add(total, np.multiply(term, factor, out=scaled), out=place)
        assert total is not None
        if total is not place:
            place[...] = total
        values.append(place)
    for k, value in enumerate(program.outputs):
        if value < program.inputs or value in program.outputs[:k]:
            out[k] = values[value]


@lru_cache
def _scalars(
    program: LinearProgram, dtype: np.dtype
) -> tuple[tuple[tuple[int, np.generic, int], ...], ...]:
    """The steps of straight-line code, each term with its sign where its factor is 1 or -1."""
    return tuple(
        [
            tuple([(int(f) if abs(f) == 1 else 0, dtype.type(f), value) for f, value in terms])
            for terms in program.steps
        ]
    )


def _walk(
    packing: Packing, shape: tuple[int, ...], source: np.ndarray, out: np.ndarray | None
) -> np.ndarray:
    """Copies what a packing walks over, of the given shape."""
    view, _ = _view(packing, shape, source)
    result = np.empty(shape, source.dtype) if out is None else out
    value = packing.value
    if isinstance(value, Select):
        _fill_blocks(packing, view, result, value)
    else:
        copy_view(result, view)
    return result


def _view(
    packing: Packing, shape: tuple[int, ...], source: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The source as a packing walks over it, and what was walked: the source, or a copy of it.

    The walk goes past the end where a guard keeps readers away.

    A source in another order than its elements is walked as it lies, without a copy of it, where
    the packing goes along its axes by constant steps.
    """
    load = _load_of(packing)
    if not source.flags.c_contiguous:
        ranges = {v: (0, n - 1) for v, n in zip(packing.axes, shape, strict=True)}
        held = _of_shape(source, packing.source.shape)
        forms = [_steps(i, packing.axes, ranges) for i in load.indices]
        walks = [form for form in forms if form is not None and form[0] >= 0]
        if held is not None and len(walks) == len(forms):
            start = held[tuple(slice(first, first + 1) for first, _ in walks)]
            along = zip(*(steps for _, steps in walks), strict=True)
            strides = [sum(map(mul, steps, held.strides)) for steps in along]
            return as_strided(start, shape, strides), source
    base, steps = _form(packing, shape)
    flat = dense(source).reshape(-1)
    return as_strided(flat[base:], shape, [s * flat.itemsize for s in steps]), flat


def _load_of(packing: Packing) -> Load:
    value = packing.value
    load = value.a if isinstance(value, Select) else value
    if not isinstance(load, Load):
        raise ValueError(f"{packing.packed.name} is not a plain walk over its source")
    return load


@lru_cache
def _form(packing: Packing, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    """Where a walk over a row of elements begins and how far it goes along each axis.

    Found once for the layers of a model that share a packing.
    """
    ranges = {v: (0, n - 1) for v, n in zip(packing.axes, shape, strict=True)}
    form = _steps(flat_index(_load_of(packing), ranges), packing.axes, ranges)
    if form is None:
        raise ValueError(f"{packing.packed.name} does not walk its source by constant steps")
    if form[0] < 0:
        raise ValueError(f"{packing.packed.name} starts {-form[0]} elements before its source")
    return form


def _of_shape(source: np.ndarray, shape: tuple[Dim, ...]) -> np.ndarray | None:
    """An array with axes of size 1 put in and left out; None where more than that differs."""
    lengths = [n for n in source.shape if n != 1]
    if not source.size or lengths != [n for n in shape if n != 1]:
        return None
    strides = (s for n, s in zip(source.shape, source.strides, strict=True) if n != 1)
    numbers = tuple(n for n in shape if isinstance(n, int))
    return as_strided(source, numbers, [0 if n == 1 else next(strides) for n in numbers])


def _steps(index: Expr, axes: tuple[Var, ...], ranges: Ranges) -> tuple[int, list[int]] | None:
    """Where an index begins and how far it goes along each axis; None where that varies."""
    form = affine(index, axes, ranges)
    if form is None or not isinstance(form[1], Const):
        return None
    steps = [s for s in map(form[0].__getitem__, axes) if isinstance(s, int)]
    return (int(form[1].value), steps) if len(steps) == len(axes) else None


def _mix_natively(
    packing: Packing, walked: tuple[int, ...], source: np.ndarray, out: np.ndarray, run: Runner
) -> bool:
    """Walks and multiplies in one go; False, and nothing done, where that has no function."""
    first, matrix = packing.mixings[0]
    axes = [axis for axis, _ in packing.mixings]
    if axes != list(range(first, len(walked) - 2)) or any(m != matrix for _, m in packing.mixings):
        return False
    value, end = packing.value, None
    if isinstance(value, Select):
        end = _guard_end(value, packing.axes[first - 1], packing.axes[-1], walked[-1])
    view, held = _view(packing, walked, source)
    if any(s < 0 or s % source.itemsize for s in view.strides):
        return False
    steps = [s // source.itemsize for s in view.strides[first - 1 :]]
    last = byte_bounds(held)[1]
    for block in np.ndindex(walked[: first - 1]):
        length = (last - byte_bounds(view[block])[0]) // source.itemsize
        row = as_strided(view[block], (length,), (source.itemsize,))
        if not mix(run, matrix, row, 0, steps, end, out[block]):
            return False
    return True


def _fill_blocks(packing: Packing, view: np.ndarray, result: np.ndarray, value: Select) -> None:
    """Copies all blocks that are whole as one view, and the last one up to its end."""
    cond = value.cond
    assert not isinstance(cond, Const)
    # The guard is `outer * factor + inner < extent`; inner is the last axis of the packing.
    inner = packing.axes[-1]
    names = [v.name for v in packing.axes]
    outer = names.index(inner.name.removesuffix("_i") + "_o")
    factor = result.shape[-1]
    end = _guard_end(value, packing.axes[outer], inner, factor)
    whole = end // factor
    shape = list(result.shape)
    shape[outer] = whole
    if whole:
        head = tuple(slice(0, n) for n in shape)
        copy_view(result[head], view[head])
    rest = end - whole * factor
    if whole < result.shape[outer]:
        tail = [slice(None)] * len(shape)
        tail[outer] = slice(whole, None)
        result[tuple(tail)] = 0
        if rest:
            tail[-1] = slice(0, rest)
            copy_view(result[tuple(tail)], view[tuple(tail)])


@lru_cache
def _guard_end(value: Select, outer: Var, inner: Var, factor: int) -> int:
    """The extent of the axis that was cut in blocks, from the guard ``position < extent``."""
    cond = value.cond
    gap = getattr(cond, "b", None)
    position = getattr(cond, "a", None)
    assert gap is not None and position is not None
    difference = as_expr(gap) - position
    zero = {outer.name: 0, inner.name: 0}
    end = evaluate(difference, zero)
    assert bounds(end) == (end, end) and factor > 0
    return end
