"""What is run on every machine: samples of the operators, and whole small models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.ops import OPS, Op, Sample
from tilewright.ops.op import type_of
from tilewright.tensor.ir import Dim, symbol


@dataclass(frozen=True)
class Case:
    """A model, and the inputs of one call."""

    graph: Graph
    inputs: tuple[np.ndarray, ...]


# ------------------------------------------------------------------ operators

SAMPLES = 3
"""How many samples of an operator are run: its first, its last, and some between."""

FAMILIES = 6
"""Programs that the samples are dealt to: one for all would be long to compile at once."""


def chosen() -> Iterator[tuple[Op, Sample]]:
    """The samples that are run, evenly spread over those of each operator.

    Groups of operators are left out: the pass that makes them takes graphs without any.
    """
    for name in sorted(OPS.keys() - {"fused"}):
        samples = OPS[name].samples()
        count = min(len(samples), SAMPLES)
        for k in range(count):
            yield OPS[name], samples[k * (len(samples) - 1) // max(count - 1, 1)]


def dealt(family: int) -> list[tuple[Op, Sample]]:
    """The samples of one program."""
    return [pair for k, pair in enumerate(chosen()) if k % FAMILIES == family]


def operators(family: int) -> Case:
    """One graph that computes samples side by side, each from inputs of its own."""
    b = GraphBuilder(f"operators{family}")
    inputs: list[np.ndarray] = []
    for s, (op, sample) in enumerate(dealt(family)):
        given = [b.input(f"x{s}_{k}", type_of(x)) for k, x in enumerate(sample.inputs)]
        inputs += sample.inputs
        attrs: dict[str, Any] = dict(sample.attrs)
        for k, value in enumerate(b.add_many(op.name, *given, **attrs)):
            b.output(value, f"y{s}_{k}")
    return Case(b.finish(), tuple(inputs))


# ------------------------------------------------------------------ models


class _Network:
    """A builder with seeded weights, for layers that are composites."""

    def __init__(self, name: str) -> None:
        self.b = GraphBuilder(name)
        self.random = np.random.default_rng(len(name))

    def weights(self, *shape: int, scale: float = 0.3) -> Value:
        values = self.random.standard_normal(shape) * scale
        return self.b.constant(values.astype(np.float32))

    def given(self, name: str, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, dtype=np.float32)

    def number(self, value: float) -> Value:
        return self.b.constant(np.float32(value))

    def dense(self, x: Value, inner: int, outer: int) -> Value:
        return self.b.add("add", self.b.add("matmul", x, self.weights(inner, outer)),
                          self.weights(outer))  # fmt: skip

    def reduce(self, x: Value, op: str, *axes: int, keepdims: bool = True) -> Value:
        return self.b.add("reduce", x, op=op, axes=axes, keepdims=keepdims)

    def softmax(self, x: Value, axis: int) -> Value:
        e = self.b.add("exp", self.b.add("sub", x, self.reduce(x, "max", axis)))
        return self.b.add("div", e, self.reduce(e, "sum", axis))

    def norm(self, x: Value, axis: int, size: int) -> Value:
        mean = self.b.add("div", self.reduce(x, "sum", axis), self.number(size))
        centred = self.b.add("sub", x, mean)
        square = self.b.add("mul", centred, centred)
        variance = self.b.add("div", self.reduce(square, "sum", axis), self.number(size))
        root = self.b.add("sqrt", self.b.add("add", variance, self.number(1e-5)))
        return self.b.add("mul", self.b.add("div", centred, root), self.weights(size))

    def conv(self, x: Value, kernel: int, inner: int, outer: int, stride: int = 1,
             groups: int = 1) -> Value:  # fmt: skip
        edge = (kernel // 2, kernel // 2)
        y = self.b.add(
            "conv", x, self.weights(kernel, kernel, inner // groups, outer),
            strides=(stride, stride), lo=edge, hi=edge, dilations=(1, 1), groups=groups,
        )  # fmt: skip
        y = self.b.add("add", y, self.weights(outer))
        return self.b.add("max", y, self.number(0))


def f32(*shape: Dim) -> TensorType:
    """An array of f32."""
    return TensorType(dt.f32, shape)


def mlp() -> Case:
    """Three layers and a softmax, on a batch whose size is a symbol."""
    n = _Network("mlp")
    x = n.b.input("x", f32(symbol("N", 1), 40))
    h: Value = x
    for inner, outer in ((40, 64), (64, 50), (50, 10)):
        h = n.b.add("tanh", n.dense(h, inner, outer))
    n.b.output(n.softmax(h, 1), "y")
    return Case(n.b.finish(), (n.given("x", 7, 40),))


def cnn() -> Case:
    """Convolutions, one strided and one depthwise, a residual, pools and a softmax."""
    n = _Network("cnn")
    x = n.b.input("x", f32(2, 17, 17, 3))
    h = n.conv(x, 3, 3, 24)
    h = n.b.add(
        "reduce_window", h, op="max", window=(1, 3, 3, 1), strides=(1, 2, 2, 1), lo=(0, 1, 1, 0),
        hi=(0, 1, 1, 0), dilations=(1, 1, 1, 1),
    )  # fmt: skip
    d = n.conv(h, 3, 24, 24, groups=24)
    h = n.b.add("add", h, n.conv(d, 1, 24, 24))
    h = n.conv(h, 3, 24, 20, stride=2)
    pooled = n.b.add("div", n.reduce(h, "sum", 1, 2, keepdims=False), n.number(25))
    n.b.output(n.softmax(n.dense(pooled, 20, 10), 1), "y")
    return Case(n.b.finish(), (n.given("x", 2, 17, 17, 3),))


def transformer() -> Case:
    """One encoder layer of two heads, on a sequence whose length is a symbol."""
    n = _Network("transformer")
    length = symbol("T", 1, 64)
    x = n.b.input("x", f32(1, length, 32))
    h = n.norm(x, 2, 32)
    parts = []
    for _ in range(3):
        split = n.b.add("reshape", n.dense(h, 32, 32), shape=(1, length, 2, 16))
        parts.append(n.b.add("transpose", split, perm=(0, 2, 1, 3)))
    q, k, v = parts
    scores = n.b.add("matmul", q, n.b.add("transpose", k, perm=(0, 1, 3, 2)))
    weights = n.softmax(n.b.add("mul", scores, n.number(0.25)), 3)
    mixed = n.b.add("transpose", n.b.add("matmul", weights, v), perm=(0, 2, 1, 3))
    mixed = n.b.add("reshape", mixed, shape=(1, length, 32))
    x = n.b.add("add", x, n.dense(mixed, 32, 32))
    wide = n.dense(n.norm(x, 2, 32), 32, 64)
    erf = n.b.add("erf", n.b.add("mul", wide, n.number(0.5**0.5)))
    gelu = n.b.add("mul", wide, n.b.add("add", erf, n.number(1)))
    n.b.output(n.b.add("add", x, n.dense(gelu, 64, 32)), "y")
    return Case(n.b.finish(), (n.given("x", 1, 11, 32),))


def quantised() -> Case:
    """A layer of bytes with sums in i32, scaled, rounded and saturated to bytes again."""
    n = _Network("quantised")
    x = n.b.input("x", TensorType(dt.i8, (symbol("N", 1), 33)))
    weights = n.random.integers(-128, 128, (33, 21)).astype(np.int8)
    wide = [n.b.add("cast", v, dtype=dt.i32, saturate=False) for v in (x, n.b.constant(weights))]
    sums = n.b.add("cast", n.b.add("matmul", *wide), dtype=dt.f32, saturate=False)
    scaled = n.b.add("round", n.b.add("mul", sums, n.number(1 / 512)))
    n.b.output(n.b.add("cast", scaled, dtype=dt.i8, saturate=True), "y")
    return Case(n.b.finish(), (n.random.integers(-128, 128, (5, 33)).astype(np.int8),))


def halves() -> Case:
    """f16 and bf16: converted there and back, multiplied, added up."""
    n = _Network("halves")
    outputs = []
    inputs = []
    for kind in (dt.f16, dt.bf16):
        x = n.b.input(f"x_{kind.name}", TensorType(kind, (6, 37)))
        w = n.b.constant(n.random.standard_normal((37, 19)).astype(kind.numpy))
        product = n.b.add("matmul", x, w)
        up = n.b.add("cast", product, dtype=dt.f32, saturate=False)
        outputs += [product, up, n.reduce(x, "sum", 1),
                    n.b.add("cast", n.b.add("exp", up), dtype=kind, saturate=False)]  # fmt: skip
        inputs.append(n.random.standard_normal((6, 37)).astype(kind.numpy))
    for k, value in enumerate(outputs):
        n.b.output(value, f"y{k}")
    return Case(n.b.finish(), tuple(inputs))


def _family(family: int) -> Callable[[], Case]:
    return lambda: operators(family)


MODELS: Mapping[str, Callable[[], Case]] = {
    "mlp": mlp, "cnn": cnn, "transformer": transformer, "quantised": quantised, "halves": halves,
}  # fmt: skip
CASES: Mapping[str, Callable[[], Case]] = {
    **MODELS,
    **{f"operators{k}": _family(k) for k in range(FAMILIES)},
}
"""Every case by name; made anew at each call, always the same."""
