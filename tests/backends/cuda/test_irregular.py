"""Scatter, top-k and running sums: threads take the loops that are proven independent."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.backends.cuda.threads import launch_of
from tilewright.dtype import DType, from_numpy
from tilewright.graph.ir import TensorType
from tilewright.lower.nests import free_symbols
from tilewright.ops import OPS
from tilewright.ops.op import Sample
from tilewright.schedule.nest import simplify_func
from tilewright.schedule.recipes.simt import irregular
from tilewright.tensor.check import check
from tilewright.tensor.ir import Buffer, Func

from .executors import in_turn

NAMES = sorted(name for name, op in OPS.items() if op.loops is not None)


def kernels_of(name: str, sample: Sample) -> tuple[tuple[Func, ...], tuple[Buffer, ...]]:
    op = OPS[name]
    assert op.loops is not None
    types = tuple(TensorType(_dtype(a), a.shape) for a in sample.inputs)
    ins = tuple(Buffer(f"x{k}", t.dtype, t.shape) for k, t in enumerate(types))
    results = op.infer(types, sample.attrs)
    outs = tuple(Buffer(f"y{k}", t.dtype, t.shape) for k, t in enumerate(results))
    block = op.loops(ins, outs, sample.attrs)
    assert not free_symbols(list(block), [])
    return irregular(simplify_func(Func(name, (*ins, *outs), block))), outs


def _dtype(a: np.ndarray) -> DType:
    found = from_numpy(a.dtype)
    assert found is not None
    return found


def full(sample: Sample) -> bool:
    return all(a.size for a in sample.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_samples_agree_with_the_reference(name: str) -> None:
    for sample in [s for s in OPS[name].samples() if full(s)][:5]:
        kernels, outs = kernels_of(name, sample)
        for f in kernels:
            check(f)
        given = {f"x{k}": a for k, a in enumerate(sample.inputs)}
        expected = OPS[name].reference(sample.inputs, sample.attrs)
        for found in in_turn(kernels, given, outs):
            for b, want in zip(outs, expected, strict=True):
                np.testing.assert_allclose(found[b.name], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "threads"),
    [("cumulative", [12]), ("topk", [15]), ("scatter_elements", [20, 2]), ("scatter_nd", [60, 15])],
)
def test_independent_loops_are_threads(name: str, threads: list[int]) -> None:
    kernels, _ = kernels_of(name, next(iter(OPS[name].samples())))
    assert len(kernels) == len(threads)
    assert all(launch_of(f).threads == 128 for f in kernels)
