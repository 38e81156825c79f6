"""Operands to measure with, and whether two results are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.tensor.ir import Buffer, Load
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.text import group_symbols
from tilewright.tensor.walk import visit

from .task import Task

_BLOCK = 1 << 16
"""Random numbers are drawn once and repeated: drawing millions would take longer than timing."""

TOLERANCES: Mapping[str, float] = {"f64": 1e-9, "f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}
"""The greatest difference, as a part of the greatest result, that another order of sums (or
Winograd's method, for f32) leads to."""


def make_data(task: Task) -> dict[str, np.ndarray]:
    """Every operand of a task by name, the same ones at every call; sizes as empty arrays.

    What is used as an index is 0, which is inside of everything that is not empty.
    """
    generator = np.random.default_rng(0)
    indices = _used_as_indices(task)
    found: dict[str, np.ndarray] = {}
    for b in task.group.inputs:
        shape = tuple(evaluate(d, task.sizes) for d in b.shape)
        count = int(np.prod(shape, dtype=np.int64))
        if b in indices:
            found[b.name] = np.zeros(shape, b.dtype.numpy)
        else:
            block = _draw(b.dtype, min(count, _BLOCK), generator)
            found[b.name] = np.resize(block, shape) if count else block.reshape(shape)
    for v in group_symbols(task.group):
        found[f"{v.name}_size"] = np.empty((task.sizes[v.name], 0), np.int64)
    return found


def _draw(dtype: DType, count: int, generator: np.random.Generator) -> np.ndarray:
    if dtype.is_float:
        return generator.standard_normal(count, dtype=np.float32).astype(dtype.numpy)
    if dtype is dt.bool_:
        return generator.integers(0, 2, count).astype(dtype.numpy)
    return generator.integers(0, 8, count).astype(dtype.numpy)


def _used_as_indices(task: Task) -> frozenset[Buffer]:
    """The buffers that are read inside the index of another load."""
    found: set[Buffer] = set()
    for stage in task.group.stages:
        for e in visit(stage.expr):
            if isinstance(e, Load):
                for i in e.indices:
                    found |= {x.buffer for x in visit(i) if isinstance(x, Load)}
    return frozenset(found)


def agree(
    wanted: Sequence[np.ndarray], got: Sequence[np.ndarray], buffers: Sequence[Buffer]
) -> str:
    """What differs between two results; an empty text where nothing does.

    Floats may differ by their type's tolerance, relative to the greatest finite result; nan and
    infinities must be in the same places. Everything else must be equal.
    """
    for a, b, buffer in zip(wanted, got, buffers, strict=True):
        if not buffer.dtype.is_float:
            wrong = int(np.count_nonzero(a != b))
            if wrong:
                return f"{buffer.name}: {wrong} of {a.size} elements differ"
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)):
            return f"{buffer.name}: other elements are finite"
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return f"{buffer.name}: other elements are infinite or nan"
        if not finite.any():
            continue
        scale = float(np.abs(x[finite]).max()) or 1.0
        worst = float(np.abs(x[finite] - y[finite]).max()) / scale
        if worst > TOLERANCES[buffer.dtype.name]:
            return f"{buffer.name}: differs by {worst:.1e} of its greatest element"
    return ""
