"""Every op's samples as native code, against the op's reference, at every vector width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.ops.agreement import assert_agree, reference
from tilewright.api import compile as compile_model
from tilewright.backends.cpu.target import missing_features, resolve_target
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph
from tilewright.ops import OPS, Op, Sample
from tilewright.ops.op import type_of

PER_PROGRAM = 24
"""Samples that one program computes: compiling one program for each would take much longer."""

NARROW = ("add", "cast", "cumulative", "div", "exp", "matmul", "mod", "reduce", "where", "topk")
"""Ops that stand for all others where only the width of vectors differs."""


def _keywords(sample: Sample) -> dict[str, Any]:
    """Attributes as keywords; the few that are not attributes have types of their own."""
    return dict(sample.attrs)


def program_of(op: Op, samples: Sequence[Sample]) -> Graph:
    """One graph that computes samples side by side, each from inputs of its own."""
    builder = GraphBuilder(op.name)
    for s, sample in enumerate(samples):
        inputs = [builder.input(f"x{s}_{k}", type_of(x)) for k, x in enumerate(sample.inputs)]
        for k, value in enumerate(builder.add_many(op.name, *inputs, **_keywords(sample))):
            builder.output(value, f"y{s}_{k}")
    return builder.finish()


def batches(op: Op) -> Iterator[Sequence[Sample]]:
    samples = op.samples()
    for first in range(0, len(samples), PER_PROGRAM):
        yield samples[first : first + PER_PROGRAM]


def assert_computes_its_samples(op: Op, target: str) -> None:
    for samples in batches(op):
        run = compile_model(program_of(op, samples), target=target, threads=1, cache=False)
        found = iter(run(*(x for sample in samples for x in sample.inputs)))
        for sample in samples:
            for want in reference(op, sample):
                assert_agree(op, sample, next(found), np.asarray(want))
        assert not list(found)


@pytest.mark.parametrize("name", sorted(OPS))
def test_native_code_computes_the_reference(name: str) -> None:
    assert_computes_its_samples(OPS[name], "native")


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("name", NARROW)
def test_narrower_vectors_compute_the_reference(name: str, target: str) -> None:
    if missing_features(resolve_target(target)):
        pytest.skip(f"this CPU is below {target}")
    assert_computes_its_samples(OPS[name], target)
