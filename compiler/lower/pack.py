"""Evaluating packings on constants when the code is made."""

from __future__ import annotations

import numpy as np

from ..graph.constants import dense
from ..schedule.pack import Packing
from ..tensor.access import flat_index
from ..tensor.ir import Const, Load, Select, Var, as_expr
from ..tensor.simplify import affine, bounds, evaluate
from ..tensor.winograd import LinearProgram, linear_program
from .mixing import Runner, mix

TRANSPOSED_ELEMENTS = 1 << 16
TRANSPOSED_BLOCK = 512


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
    for block in np.ndindex(*out.shape[:first]):
        done = walked[block]
        for k, program in enumerate(programs):
            last = k == len(programs) - 1
            shape = (*done.shape[:k], len(program.outputs), *done.shape[k + 1 :])
            into = out[block] if last else np.empty(shape, out.dtype)
            _run(program, np.moveaxis(done, k, 0), np.moveaxis(into, k, 0))
            done = into


def _run(program: LinearProgram, x: np.ndarray, out: np.ndarray) -> None:
    """Runs straight-line code on whole arrays, in the type of the weights."""
    values = list(x)
    for terms in program.steps:
        total: np.ndarray | None = None
        for factor, value in terms:
            term = values[value]
            if total is None:
                total = np.multiply(term, out.dtype.type(factor))
            elif factor in (1, -1):
                (np.add if factor == 1 else np.subtract)(total, term, out=total)
            else:
                np.add(total, np.multiply(term, out.dtype.type(factor)), out=total)
        assert total is not None
        values.append(total)
    for k, value in enumerate(program.outputs):
        out[k] = values[value]


def _walk(
    packing: Packing, shape: tuple[int, ...], source: np.ndarray, out: np.ndarray | None
) -> np.ndarray:
    """Copies what a packing walks over, of the given shape."""
    base, steps = _steps(packing, shape)
    result = np.empty(shape, source.dtype) if out is None else out
    flat = dense(source).reshape(-1)
    strides = tuple(s * flat.itemsize for s in steps)
    value = packing.value
    if not isinstance(value, Select):
        _copy(result, flat[base:], strides)
        return result
    _fill_blocks(packing, flat[base:], strides, result, value)
    return result


def _steps(packing: Packing, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    """The element where a packing begins, and how far apart elements are along each axis."""
    value = packing.value
    load = value.a if isinstance(value, Select) else value
    if not isinstance(load, Load):
        raise ValueError(f"{packing.packed.name} is not a plain walk over its source")
    ranges = {v: (0, n - 1) for v, n in zip(packing.axes, shape, strict=True)}
    form = affine(flat_index(load, ranges), packing.axes, ranges)
    if form is None or not isinstance(form[1], Const):
        raise ValueError(f"{packing.packed.name} does not walk its source by constant steps")
    steps = [form[0][v] for v in packing.axes]
    base = int(form[1].value)
    if base < 0:
        raise ValueError(f"{packing.packed.name} starts {-base} elements before its source")
    return base, [int(s) for s in steps if isinstance(s, int)]


def _mix_natively(
    packing: Packing, walked: tuple[int, ...], source: np.ndarray, out: np.ndarray, run: Runner
) -> bool:
    """Walks and multiplies in one go; False, and nothing done, where that has no function."""
    matrix = packing.mixings[0][1]
    axes = [axis for axis, _ in packing.mixings]
    if axes != list(range(1, len(walked) - 2)) or any(m != matrix for _, m in packing.mixings):
        return False
    value, end = packing.value, None
    if isinstance(value, Select):
        end = _guard_end(value, packing.axes[0], packing.axes[-1], walked[-1])
    base, steps = _steps(packing, walked)
    return mix(run, matrix, dense(source).reshape(-1), base, steps, end, out)


def _copy(out: np.ndarray, flat: np.ndarray, strides: tuple[int, ...]) -> None:
    """Copies a strided walk, in blocks along the axis in which the source is contiguous.

    Where that is not the last axis, the copy is a transposition: a block of it stays in cache.
    """
    view = np.lib.stride_tricks.as_strided(flat, out.shape, strides)
    unit = [k for k, s in enumerate(strides) if s == flat.itemsize and out.shape[k] > 1]
    last = len(strides) - 1
    if not unit or last in unit or out.size < TRANSPOSED_ELEMENTS or last == 0:
        out[...] = view
        return
    along = unit[-1]
    others = [k for k in range(last) if k != along]
    outer = max(others, key=lambda k: out.shape[k]) if others else None
    for first in range(0, out.shape[along], TRANSPOSED_BLOCK):
        block = [slice(None)] * len(strides)
        block[along] = slice(first, first + TRANSPOSED_BLOCK)
        for k in range(out.shape[outer] if outer is not None else 1):
            if outer is not None:
                block[outer] = slice(k, k + 1)
            out[tuple(block)] = view[tuple(block)]


def _fill_blocks(
    packing: Packing,
    flat: np.ndarray,
    strides: tuple[int, ...],
    result: np.ndarray,
    value: Select,
) -> None:
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
        _copy(result[head], flat, strides)
    rest = end - whole * factor
    if whole < result.shape[outer]:
        tail = [slice(None)] * len(shape)
        tail[outer] = slice(whole, None)
        result[tuple(tail)] = 0
        if rest:
            shape[outer], shape[-1] = 1, rest
            tail[-1] = slice(0, rest)
            start = flat[whole * strides[outer] // flat.itemsize :]
            _copy(result[tuple(tail)], start, strides)


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
