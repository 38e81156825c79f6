"""Symbolic dims: one expression or loop nest, made once, is right for every size."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.interpret import resolve_attrs
from tilewright.graph.ir import TensorType
from tilewright.ops import OPS
from tilewright.ops.op import Attrs
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer, Dim, Func, minimum, symbol
from tilewright.tensor.simplify import evaluate

N, H, K = symbol("N", 0), symbol("H"), symbol("K")
SIZES = [{"N": 0, "H": 8, "K": 3}, {"N": 1, "H": 7, "K": 9}, {"N": 5, "H": 12, "K": 1}]
POOL: Attrs = {"strides": (1, 2, 1), "lo": (0, 1, 0), "hi": (0, 1, 0), "dilations": (1, 1, 1)}
CONV: Attrs = {"strides": (2,), "lo": (1,), "hi": (1,), "dilations": (2,), "groups": 1}


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def i64(*shape: Dim) -> TensorType:
    return TensorType(dt.i64, shape)


CASES: list[tuple[str, tuple[TensorType, ...], Attrs]] = [
    ("reduce", (f32(N, H, K),), {"op": "sum", "axes": (0, 2), "keepdims": False}),
    ("reduce", (f32(N, H),), {"op": "max", "axes": (0,), "keepdims": True}),
    ("argreduce", (f32(N, H),), {"op": "max", "axis": 1, "keepdims": False, "last": True}),
    ("argreduce", (i64(H, K),), {"op": "min", "axis": 0, "keepdims": True, "last": False}),
    ("matmul", (f32(1, H, K), f32(N, K, H)), {}),
    ("matmul", (f32(N, 4, N), f32(N, K)), {}),
    ("conv", (f32(N, H, 3), f32(3, 3, 4)), CONV),
    ("conv", (f32(N, H, K), f32(3, K, 4)), CONV),
    ("conv", (f32(1, N + H, 4), f32(2, 1, 8)), {**CONV, "groups": 4}),
    ("reduce_window", (f32(N, H, K),), {**POOL, "window": (1, 3, 1), "op": "max"}),
    ("reduce_window", (f32(N, H, K),), {**POOL, "window": (1, H, 1), "op": "sum"}),
    ("cumulative", (f32(H, N),), {"op": "sum", "axis": 0, "exclusive": True, "reverse": True}),
    ("cumulative", (f32(H, N),), {"op": "prod", "axis": 1, "exclusive": False, "reverse": True}),
    ("scatter_elements", (f32(N, H), i64(K, H), f32(K, H)), {"axis": 0, "reduction": "add"}),
    ("scatter_elements", (f32(H, N), i64(K, N), f32(K, N)), {"axis": 1, "reduction": "none"}),
    ("scatter_nd", (f32(N, H), i64(K, 1), f32(K, H)), {"reduction": "max"}),
    ("scatter_nd", (f32(H, N, K), i64(K, 2), f32(K, K)), {"reduction": "none"}),
    ("topk", (f32(N, H),), {"k": minimum(H, 9), "axis": 1, "largest": True}),
    ("topk", (f32(K, N),), {"k": N, "axis": 1, "largest": False}),
]


def array(rng: np.random.Generator, type_: TensorType, env: dict[str, int]) -> np.ndarray:
    shape = tuple(evaluate(d, env) for d in type_.shape)
    if type_.dtype is dt.i64:
        return rng.integers(-12, 12, shape)
    return rng.standard_normal(shape).astype(type_.dtype.numpy)


@pytest.mark.parametrize(("name", "types", "attrs"), CASES)
def test_one_nest_serves_every_size(name: str, types: tuple[TensorType, ...], attrs: Attrs) -> None:
    op = OPS[name]
    attrs = {**op.defaults, **attrs}
    results = op.infer(types, attrs)
    inputs = tuple(Buffer(f"x{i}", t.dtype, t.shape) for i, t in enumerate(types))
    outputs = tuple(Buffer(f"y{i}", t.dtype, t.shape) for i, t in enumerate(results))
    stages = op.compute(inputs, outputs, attrs) if op.compute is not None else ()
    loops = op.loops(inputs, outputs, attrs) if op.loops is not None else ()
    rng = np.random.default_rng(0)
    for env in SIZES:
        given = {b.name: array(rng, t, env) for b, t in zip(inputs, types, strict=True)}
        wanted = op.reference(list(given.values()), resolve_attrs(attrs, env))
        assert [w.shape for w in wanted] == [
            tuple(evaluate(d, env) for d in t.shape) for t in results
        ]
        if stages:
            ours = interpret_group(ComputeGroup(name, inputs, outputs, stages), given, env)
        else:
            ours = {b.name: np.zeros_like(w) for b, w in zip(outputs, wanted, strict=True)}
            func = Func(name, (*inputs, *outputs, N, H, K), loops)
            check(func)
            interpret(func, {**given, **ours}, env)
        for buffer, w in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(ours[buffer.name], w, rtol=2e-5, atol=2e-5)
