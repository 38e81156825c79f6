"""Every op's samples: its type rule, its reference and its tensor expressions or loops agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tilewright.dtype import from_numpy
from tilewright.ops import OPS, Op, Sample
from tilewright.ops.op import type_of
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer, Func

# In units of the type's own rounding: the sums of the samples have at most some thousand terms.
TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 2e-3, "bf16": 1.6e-2}
OF_ARRAYS = [op for op in OPS.values() if op.kind != "control"]


def named(role: str, arrays: Sequence[np.ndarray]) -> tuple[Buffer, ...]:
    types = [type_of(a) for a in arrays]
    return tuple(Buffer(f"{role}{i}", t.dtype, t.shape) for i, t in enumerate(types))


def expect_close(ours: np.ndarray, wanted: np.ndarray, what: str) -> None:
    assert ours.dtype == wanted.dtype, what
    assert ours.shape == wanted.shape, what
    dtype = from_numpy(wanted.dtype)
    assert dtype is not None
    if not dtype.is_float:
        np.testing.assert_array_equal(ours, wanted, what)
        return
    near = TOLERANCE[dtype.name]
    a, b = ours.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=near, atol=near, err_msg=what)


def computed(op: Op, sample: Sample, references: Sequence[np.ndarray]) -> list[np.ndarray]:
    inputs, outputs = named("x", sample.inputs), named("y", references)
    given = {b.name: a for b, a in zip(inputs, sample.inputs, strict=True)}
    if op.compute is not None:
        stages = op.compute(inputs, outputs, sample.attrs)
        results = interpret_group(ComputeGroup(op.name, inputs, outputs, stages), given)
        return [results[b.name] for b in outputs]
    assert op.loops is not None
    written = {b.name: np.zeros_like(a) for b, a in zip(outputs, references, strict=True)}
    func = Func(op.name, (*inputs, *outputs), op.loops(inputs, outputs, sample.attrs))
    interpret(func, {**given, **written})
    return list(written.values())


@pytest.mark.parametrize("op", OF_ARRAYS, ids=lambda op: op.name)
def test_expressions_and_loops_agree_with_the_reference(op: Op) -> None:
    for sample in op.samples():
        what = f"{op.name}: {sample.note}"
        assert set(sample.attrs) == set(op.attrs), what
        references = op.reference(sample.inputs, sample.attrs)
        types = op.infer(tuple(map(type_of, sample.inputs)), sample.attrs)
        assert tuple(map(type_of, references)) == types, what
        if op.compute is None and op.loops is None:
            continue
        for ours, wanted in zip(computed(op, sample, references), references, strict=True):
            expect_close(ours, wanted, what)


@pytest.mark.parametrize("op", OF_ARRAYS, ids=lambda op: op.name)
def test_references_never_write_their_inputs(op: Op) -> None:
    for sample in op.samples():
        for array in sample.inputs:
            array.flags.writeable = False
        op.reference(sample.inputs, sample.attrs)
