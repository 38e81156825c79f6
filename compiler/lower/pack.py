"""Evaluating packings on constants when the code is made."""

from __future__ import annotations

import numpy as np

from ..graph.constants import dense
from ..schedule.place import Packing
from ..tensor.access import flat_index
from ..tensor.ir import Const, Load, Select, Var, as_expr
from ..tensor.simplify import affine, bounds, evaluate

TRANSPOSED_ELEMENTS = 1 << 16
TRANSPOSED_BLOCK = 512


def pack_array(packing: Packing, source: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns the packed operand: zero where blocks run past the end of the axis.

    A packing is an affine walk over the source, so one strided view and one copy do it; where
    it mixes elements along some axes, the walk is multiplied by the matrices afterwards.

    Args:
        packing: the record that the schedule made; its shapes are constant.
        source: the constant; its elements in row-major order are those of ``packing.source``.
        out: where to write, of the packed shape; made anew where it is None.

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
    _mix(packing, _walk(packing, walked, source, None), result)
    return result


def _mix(packing: Packing, walked: np.ndarray, out: np.ndarray) -> None:
    """Multiplies along the mixed axes, which are adjacent, by the product of their matrices.

    The matrices are exact to double precision and each product is rounded to the type of the
    weights; blocks of the leading axes are small enough to stay in cache.
    """
    axes = [axis for axis, _ in packing.mixings]
    first, last = axes[0], axes[-1]
    assert axes == list(range(first, last + 1)), packing.packed.name
    matrix = np.ones((1, 1))
    for _, rows in packing.mixings:
        matrix = np.kron(matrix, np.array(rows))
    matrix = matrix.astype(out.dtype)
    rest = int(np.prod(out.shape[last + 1 :]))
    blocks = out.reshape(-1, matrix.shape[0], rest)
    for block, given in zip(blocks, walked.reshape(-1, matrix.shape[1], rest), strict=True):
        np.matmul(matrix, given, out=block)


def _walk(
    packing: Packing, shape: tuple[int, ...], source: np.ndarray, out: np.ndarray | None
) -> np.ndarray:
    """Copies what a packing walks over, of the given shape."""
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
    result = np.empty(shape, source.dtype) if out is None else out
    flat = dense(source).reshape(-1)
    strides = tuple(int(s) * flat.itemsize for s in steps if isinstance(s, int))
    if not isinstance(value, Select):
        _copy(result, flat[base:], strides)
        return result
    _fill_blocks(packing, flat[base:], strides, result, value)
    return result


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
