"""Every op's samples: the type rule against the reference, and the expressions against it too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tilewright.ops import FAMILIES, OPS, Op, Sample
from tilewright.ops.op import type_of
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer, Func

from .agreement import assert_agree, reference


def buffers(op: Op, sample: Sample) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...]]:
    types = tuple(type_of(x) for x in sample.inputs)
    results = op.infer(types, sample.attrs)
    return (
        tuple(Buffer(f"x{k}", t.dtype, t.shape) for k, t in enumerate(types)),
        tuple(Buffer(f"y{k}", t.dtype, t.shape) for k, t in enumerate(results)),
    )


def constant_shape(buffer: Buffer) -> tuple[int, ...]:
    return tuple(d for d in buffer.shape if isinstance(d, int))


def computed(op: Op, sample: Sample) -> list[np.ndarray]:
    """What the op's expressions, or else its loops, give."""
    inputs, outputs = buffers(op, sample)
    given: Mapping[str, np.ndarray] = {
        b.name: np.ascontiguousarray(x).reshape(x.shape)
        for b, x in zip(inputs, sample.inputs, strict=True)
    }
    if op.compute is not None:
        stages = op.compute(inputs, outputs, sample.attrs)
        found = interpret_group(ComputeGroup("g", inputs, outputs, stages), given)
        return [found[b.name] for b in outputs]
    assert op.loops is not None
    fresh = {b.name: np.zeros(constant_shape(b), b.dtype.numpy) for b in outputs}
    interpret(
        Func("f", (*inputs, *outputs), op.loops(inputs, outputs, sample.attrs)),
        {**given, **fresh},
    )
    return [fresh[b.name] for b in outputs]


def test_every_op_is_in_one_family_only() -> None:
    assert sum(map(len, FAMILIES)) == len(OPS)


@pytest.mark.parametrize("name", sorted(OPS))
def test_an_entry_is_named_as_its_key_and_states_its_law_in_one_line(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.summary and "\n" not in op.summary


@pytest.mark.parametrize("name", sorted(OPS))
def test_samples_give_exactly_the_declared_attributes(name: str) -> None:
    op = OPS[name]
    samples = op.samples()
    assert samples, name
    for sample in samples:
        assert set(sample.attrs) == set(op.attrs), sample.note


@pytest.mark.parametrize("name", sorted(OPS))
def test_the_type_rule_foretells_the_reference(name: str) -> None:
    op = OPS[name]
    for sample in op.samples():
        types = op.infer(tuple(type_of(x) for x in sample.inputs), sample.attrs)
        results = reference(op, sample)
        assert tuple(type_of(x) for x in results) == types, sample.note


@pytest.mark.parametrize("name", sorted(OPS))
def test_a_reference_leaves_its_inputs_as_they_were(name: str) -> None:
    op = OPS[name]
    for sample in op.samples():
        before = [x.tobytes() for x in sample.inputs]
        reference(op, sample)
        assert [x.tobytes() for x in sample.inputs] == before, sample.note


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if op.compute or op.loops))
def test_the_expressions_compute_the_reference(name: str) -> None:
    op = OPS[name]
    for sample in op.samples():
        wanted = reference(op, sample)
        for have, want in zip(computed(op, sample), wanted, strict=True):
            assert_agree(op, sample, have, want)


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if op.kind != "control"))
def test_an_op_has_expressions_or_loops(name: str) -> None:
    assert (OPS[name].compute is None) != (OPS[name].loops is None)
