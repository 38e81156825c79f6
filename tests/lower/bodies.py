"""Running the kernels of one fused body in the interpreter, against the references of its ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret as interpret_graph
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.lower.kernels import GroupCode, KernelTable
from tilewright.lower.pack import pack_array
from tilewright.target import Target
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Dim
from tilewright.tensor.simplify import evaluate

TARGET = Target("test", "cpu", "", "", "", (), 256, 16, True, 32 << 10, 1 << 20, 8 << 20)


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def body(make: Callable[[GraphBuilder], Value | tuple[Value, ...]]) -> Graph:
    """The graph whose outputs ``make`` returns."""
    builder = GraphBuilder("body")
    made = make(builder)
    for k, v in enumerate(made if isinstance(made, tuple) else (made,)):
        builder.output(v, f"out{k}")
    return builder.finish()


def shape_of(b: Buffer | Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(d, sizes) for d in b.shape)


def random_inputs(graph: Graph, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {}
    for v in graph.inputs:
        if v.dtype.is_float:
            found[v.name] = rng.standard_normal(shape_of(v, sizes)).astype(v.dtype.numpy)
        else:
            found[v.name] = rng.integers(0, 3, shape_of(v, sizes)).astype(v.dtype.numpy)
    return found


def run_code(
    code: GroupCode, graph: Graph, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]
) -> list[np.ndarray]:
    """What the kernels of a body compute, by the interpreter."""
    data = {**graph.constants, **{v: arrays[v.name] for v in graph.inputs}}
    sources = {name: np.asarray(data[v]) for name, v in code.inputs}
    memory = {name: np.empty(shape_of(v, sizes), v.dtype.numpy) for name, v in code.outputs}
    memory |= {b.name: np.empty(shape_of(b, sizes), b.dtype.numpy) for b in code.scratch}
    for kernel in code.kernels:
        check(kernel.func)
        packed = {p.packed.name: p for p in kernel.packings}
        given: dict[str, np.ndarray] = {}
        for p in kernel.func.params:
            if not isinstance(p, Buffer):
                continue
            if p.name in packed:
                given[p.name] = pack_array(packed[p.name], sources[packed[p.name].source.name])
            else:
                held = memory[p.name] if p.name in memory else sources[p.name]
                given[p.name] = held.reshape(shape_of(p, sizes))
        interpret(kernel.func, given, dict(sizes))
    by_value = {v: memory[name] for name, v in code.outputs}
    return [by_value[v] for v in graph.outputs]


def assert_kernels_compute(
    graph: Graph, table: KernelTable | None = None, **sizes: int
) -> GroupCode:
    """Requires that the kernels of a body compute what its ops say; returns them."""
    code = (table or KernelTable(TARGET)).code(graph, frozenset())
    arrays = random_inputs(graph, sizes)
    found = run_code(code, graph, arrays, sizes)
    for got, want in zip(found, interpret_graph(graph, arrays), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
        else:
            np.testing.assert_array_equal(got, want)
    return code
