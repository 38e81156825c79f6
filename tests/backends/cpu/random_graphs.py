"""Random small graphs whose results are exact: whole numbers small enough for every rounding.

Native code may add in another order and fuse multiplications; on whole numbers that changes
nothing, so a graph of matmuls, convolutions, reductions, selections and index arithmetic must give
the interpreter's result bit by bit. Smooth graphs (softmax, norms, tanh) are compared with a
tolerance instead, and hold no step that makes of a rounding another answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.tensor.ir import Dim, as_expr, symbol
from tilewright.tensor.simplify import bounds, dim, evaluate, product, same_dim, symbols

T = TypeVar("T")

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65)
SYMBOLS = tuple(symbol(name) for name in ("N", "M"))
TYPICAL = {"N": 17, "M": 9}
MOST_ELEMENTS = 1 << 13
LARGEST = 64
DTYPES = (dt.f32, dt.f32, dt.f32, dt.f64, dt.f16, dt.bf16, dt.i32, dt.i64, dt.i8)


@dataclass(frozen=True)
class Made:
    """A random graph and how to feed it.

    Attributes:
        graph: the graph.
        limits: for each input of indices the extent that they count within.
    """

    graph: Graph
    limits: Mapping[str, Dim]

    def feed(self, sizes: Mapping[str, int], seed: int, smooth: bool) -> dict[str, np.ndarray]:
        """Inputs for the given sizes of the symbols."""
        rng = np.random.default_rng(seed)
        found: dict[str, np.ndarray] = {}
        for v in self.graph.inputs:
            shape = tuple(evaluate(d, dict(sizes)) for d in v.shape)
            limit = self.limits.get(v.name)
            if limit is not None:
                most = evaluate(limit, dict(sizes))
                found[v.name] = rng.integers(-most, most, shape, dtype=np.int64)
            elif smooth:
                found[v.name] = rng.uniform(-2, 2, shape).astype(v.dtype.numpy)
            else:
                found[v.name] = rng.integers(-4, 5, shape).astype(v.dtype.numpy)
        return found


@dataclass(eq=False)
class Growth:
    """A graph being grown.

    Attributes:
        draw: hypothesis's source of choices.
        smooth: whether functions that round are allowed, and steps are not.
        symbolic: whether dims may be symbols.
        values: everything computed so far, with a bound of its magnitude.
        limits: for inputs of indices, the extent they count within.
    """

    draw: st.DrawFn
    smooth: bool
    symbolic: bool
    builder: GraphBuilder = field(default_factory=lambda: GraphBuilder("random"))
    values: dict[Value, int] = field(default_factory=dict)
    limits: dict[str, Dim] = field(default_factory=dict)
    used: set[Value] = field(default_factory=set)
    inputs: int = 0

    # -------------------------------------------------------------- choices

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self.draw(st.sampled_from(options))

    def number(self, lo: int, hi: int) -> int:
        """A number in lo..hi."""
        return self.draw(st.integers(lo, hi))

    def maybe(self) -> bool:
        """Yes or no."""
        return self.draw(st.booleans())

    def size(self) -> Dim:
        """A dim: a number, or a symbol or a sum or product with one."""
        if self.symbolic and self.maybe():
            name = self.pick(SYMBOLS)
            return self.pick((name, name, dim(name + 1), dim(name * 2)))
        return self.pick(SIZES)

    def shape(self, rank: int) -> tuple[Dim, ...]:
        """A shape that is not too large."""
        dims: list[Dim] = [self.size() for _ in range(rank)]
        while count(dims) > MOST_ELEMENTS:
            dims[max(range(rank), key=lambda k: count([dims[k]]))] = self.pick((1, 2, 3, 5))
        return tuple(dims)

    # -------------------------------------------------------------- values

    def keep(self, value: Value, bound: int) -> Value:
        """Takes note of a value; one that may have grown too large is clamped."""
        if bound > LARGEST or (value.dtype is dt.i8 and bound > 100):
            low, high = (self.scalar(v, value.dtype) for v in (-8, 8))
            value = self.builder.add("max", self.builder.add("min", value, high), low)
            bound = 8
        self.values[value] = bound
        return value

    def scalar(self, number: float, dtype: DType) -> Value:
        """A constant scalar."""
        return self.builder.constant(np.asarray(number).astype(dtype.numpy))

    def source(self, dtype: DType, shape: tuple[Dim, ...]) -> Value:
        """A fresh input or, where the shape is constant, perhaps a constant."""
        sizes = tuple(d for d in shape if isinstance(d, int))
        if len(sizes) == len(shape) and self.maybe():
            rng = np.random.default_rng(self.number(0, 9))
            data = rng.integers(-3, 4, sizes).astype(dtype.numpy)
            value = self.builder.constant(data)
        else:
            value = self.builder.input(f"x{self.inputs}", TensorType(dtype, shape))
            self.inputs += 1
        self.values[value] = 4
        return value

    def indices(self, shape: tuple[Dim, ...], limit: Dim) -> Value:
        """A fresh input of indices within an extent, from either end."""
        value = self.builder.input(f"i{self.inputs}", TensorType(dt.i64, shape))
        self.inputs += 1
        self.limits[value.name] = limit
        return value

    def number_value(self) -> Value:
        """A value that holds numbers; a new one now and then."""
        known = [v for v in self.values if v.dtype is not dt.bool_]
        if not known or self.number(0, 9) == 0:
            dtype = self.pick((dt.f32, dt.f64)) if self.smooth else self.pick(DTYPES)
            return self.source(dtype, self.shape(self.number(0 if known else 1, 4)))
        # Later values are likelier, so that chains grow.
        index = max(self.number(0, len(known) - 1), self.number(0, len(known) - 1))
        self.used.add(known[index])
        return known[index]

    def operand(self, x: Value) -> Value:
        """Something to combine with ``x``: of its dtype, and a shape that fits by broadcasting."""
        fits = [
            v
            for v in self.values
            if v.dtype is x.dtype and len(v.shape) <= len(x.shape) and broadcasts(v, x)
        ]
        if fits and self.maybe():
            return self.pick(fits)
        kept = x.shape[self.number(0, len(x.shape)) :] if x.shape else ()
        return self.source(x.dtype, tuple(1 if self.number(0, 3) == 0 else d for d in kept))

    def grow(self) -> None:
        """Adds one more step."""
        x = self.number_value()
        steps = SMOOTH if self.smooth else EXACT
        self.pick(steps)(self, x)

    def finish(self) -> Made:
        """The graph: its results are the last value and some of those that nothing reads."""
        read = {v for n in self.builder.finish().nodes for v in n.inputs}
        loose = [v for v in self.values if v not in read]
        for v in loose[-4:]:
            self.builder.output(v)
        # Every symbol is some dim by itself, as the importer sees to it.
        inputs = self.builder.finish().inputs
        found = {s for v in inputs for d in v.shape for s in symbols(d)}
        for s in sorted(found - {d for v in inputs for d in v.shape}, key=str):
            self.builder.input(f"size_{s.name}", TensorType(dt.f32, (s,)))
        return Made(self.builder.finish(), dict(self.limits))


def count(dims: Sequence[Dim]) -> int:
    """About how many elements a shape has."""
    return int(np.prod([evaluate(d, TYPICAL) for d in dims], dtype=np.int64))


def broadcasts(small: Value, large: Value) -> bool:
    """Whether the smaller value fits the larger one's shape."""
    pairs = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return all(same_dim(a, 1) or same_dim(a, b) for a, b in pairs)


# ------------------------------------------------------------------ steps


def unary(g: Growth, x: Value) -> None:
    names = ["neg", "abs"] + ([] if x.dtype.is_integer else ["floor", "trunc"])
    g.keep(g.builder.add(g.pick(names), x), g.values[x] + 1)


def binary(g: Growth, x: Value) -> None:
    y = g.operand(x)
    name = g.pick(["add", "sub", "mul", "max", "min"])
    a, b = g.values[x], g.values[y]
    if name == "mul" and a * b > 100:
        name = "add"
    x, y = (y, x) if g.maybe() else (x, y)
    g.keep(g.builder.add(name, x, y), a * b if name == "mul" else a + b)


def choose(g: Growth, x: Value) -> None:
    y = g.operand(x)
    cond = g.builder.add(g.pick(["lt", "le", "eq", "ne", "gt", "ge"]), x, g.operand(x))
    g.keep(g.builder.add("where", cond, x, y), max(g.values[x], g.values[y]))


def cast(g: Growth, x: Value) -> None:
    dtype = g.pick(DTYPES)
    if dtype is not x.dtype:
        g.keep(g.builder.add("cast", x, dtype=dtype, saturate=False), g.values[x])


def matmul(g: Growth, x: Value) -> None:
    if x.dtype.is_integer or len(x.shape) < 2 or g.values[x] > 8:
        return
    k, n = x.shape[-1], g.size()
    if count([*x.shape[:-1], n]) > MOST_ELEMENTS or count([k]) > 300:
        return
    batch = x.shape[:-2] if g.maybe() else ()
    w = g.source(x.dtype, (*batch, k, n))
    g.keep(g.builder.add("matmul", x, w), LARGEST + 1)


def conv(g: Growth, x: Value) -> None:
    rank = len(x.shape) - 2
    channels = x.shape[-1] if x.shape else 0
    if x.dtype.is_integer or rank not in (1, 2) or not isinstance(channels, int):
        return
    groups = g.pick([n for n in (1, 1, 2, channels) if channels % n == 0])
    each, window = g.number(1, 5), [g.number(1, 3) for _ in range(rank)]
    if g.values[x] > 8 or count([*x.shape[:-1], groups * each]) > MOST_ELEMENTS:
        return
    strides, lo, hi, dilations = (
        tuple(g.number(a, b) for _ in range(rank)) for a, b in ((1, 2), (0, 2), (0, 2), (1, 2))
    )
    for k in range(rank):
        low, _ = bounds(x.shape[1 + k])
        if (low or 0) + lo[k] + hi[k] < dilations[k] * (window[k] - 1) + 1:
            return
    w = g.source(x.dtype, (*window, channels // groups, groups * each))
    y = g.builder.add(
        "conv", x, w, strides=strides, lo=lo, hi=hi, dilations=dilations, groups=groups
    )
    g.keep(y, LARGEST + 1)


def pool(g: Growth, x: Value) -> None:
    rank = len(x.shape)
    if not 2 <= rank <= 4:
        return
    window = [1] * rank
    for k in range(1, rank - 1 if rank > 2 else rank):
        window[k] = g.number(1, 3)
    lo = tuple(g.number(0, w - 1) for w in window)
    hi = tuple(g.number(0, w - 1) for w in window)
    for k in range(rank):
        low, _ = bounds(x.shape[k])
        if (low or 0) + lo[k] + hi[k] < window[k]:
            return
    name = "sum" if g.smooth else g.pick(["max", "sum"])
    if name == "max" and any(w > 1 for w in window):
        name = "max" if not any(lo + hi) else "sum"
    strides = tuple(g.number(1, 2) if w > 1 else 1 for w in window)
    y = g.builder.add(
        "reduce_window", x, op=name, window=tuple(window), strides=strides, lo=lo, hi=hi,
        dilations=(1,) * rank,
    )  # fmt: skip
    g.keep(y, g.values[x] * (9 if name == "sum" else 1))


def reduce(g: Growth, x: Value) -> None:
    if not x.shape or (x.dtype.is_integer and x.dtype.bits < 32) or g.values[x] > LARGEST:
        return
    axes = tuple(sorted(g.draw(st.sets(st.integers(0, len(x.shape) - 1), min_size=1))))
    name = g.pick(["sum", "max", "min"])
    y = g.builder.add("reduce", x, op=name, axes=axes, keepdims=g.maybe())
    g.keep(y, LARGEST + 1 if name == "sum" else g.values[x])


def argreduce(g: Growth, x: Value) -> None:
    if x.shape:
        axis = g.number(0, len(x.shape) - 1)
        name = g.pick(["max", "min"])
        y = g.builder.add("argreduce", x, op=name, axis=axis, keepdims=g.maybe(), last=g.maybe())
        g.keep(y, LARGEST + 1)


def transpose(g: Growth, x: Value) -> None:
    if len(x.shape) > 1:
        perm = tuple(g.draw(st.permutations(range(len(x.shape)))))
        g.keep(g.builder.add("transpose", x, perm=perm), g.values[x])


def reshape(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    k = g.number(0, len(x.shape) - 1)
    d = x.shape[k]
    match g.number(0, 3):
        case 0 if k:
            shape = (*x.shape[: k - 1], product(x.shape[k - 1 : k + 1]), *x.shape[k + 1 :])
        case 1 if isinstance(d, int):
            f = g.pick([n for n in range(1, d + 1) if d % n == 0])
            shape = (*x.shape[:k], f, d // f, *x.shape[k + 1 :])
        case 2:
            shape = (*x.shape[:k], 1, *x.shape[k:])
        case _:
            shape = (product(x.shape),)
    if len(shape) <= 5:
        g.keep(g.builder.add("reshape", x, shape=shape), g.values[x])


def expand(g: Growth, x: Value) -> None:
    shape = tuple(g.pick(SIZES[:6]) if same_dim(d, 1) else d for d in x.shape)
    if len(shape) < 4 and g.maybe():
        shape = (g.pick(SIZES[:6]), *shape)
    if count(shape) <= MOST_ELEMENTS:
        g.keep(g.builder.add("broadcast_to", x, shape=shape), g.values[x])


def cut(g: Growth, x: Value) -> None:
    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    for d in x.shape:
        low, _ = bounds(d)
        least = low or 0
        step = g.pick((1, 1, 1, 2, -1))
        start = g.number(0, max(0, min(least - 1, 3)))
        if step == -1:
            starts.append(dim(as_expr(d) - 1 - start))
            sizes.append(dim(as_expr(d) - start))
        elif step == 2:
            starts.append(start)
            sizes.append(dim((as_expr(d) - start + 1) // 2))
        else:
            starts.append(start)
            end = g.number(0, max(0, min(least - 1 - start, 2)))
            sizes.append(dim(as_expr(d) - start - end))
        steps.append(step)
    y = g.builder.add("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    g.keep(y, g.values[x])


def concat(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axis = g.number(0, len(x.shape) - 1)
    parts, bound = [x], g.values[x]
    for _ in range(g.number(1, 2)):
        fits = [
            v
            for v in g.values
            if v.dtype is x.dtype
            and len(v.shape) == len(x.shape)
            and all(k == axis or same_dim(v.shape[k], x.shape[k]) for k in range(len(x.shape)))
        ]
        part = g.pick(fits)
        bound = max(bound, g.values[part])
        parts.append(part)
    total = dim(sum((as_expr(p.shape[axis]) for p in parts[1:]), as_expr(x.shape[axis])))
    if count([*x.shape[:axis], total, *x.shape[axis + 1 :]]) <= MOST_ELEMENTS:
        g.keep(g.builder.add("concat", *parts, axis=axis), bound)


def pad(g: Growth, x: Value) -> None:
    rank = len(x.shape)
    if not rank or count(x.shape) * 2 > MOST_ELEMENTS:
        return
    mode = g.pick(["constant", "constant", "edge", "reflect", "wrap"])
    lo, hi, interior = [0] * rank, [0] * rank, [0] * rank
    for k in range(rank):
        low, _ = bounds(x.shape[k])
        most = 2 if mode in ("constant", "edge") else min(2, (low or 0) - 1)
        if most > 0 and g.maybe():
            lo[k], hi[k] = g.number(0, most), g.number(0, most)
        if mode == "constant" and g.number(0, 5) == 0:
            interior[k] = 1
    y = g.builder.add(
        "pad", x, g.scalar(g.number(-2, 2), x.dtype), lo=tuple(lo), hi=tuple(hi),
        interior=tuple(interior), mode=mode,
    )  # fmt: skip
    g.keep(y, max(g.values[x], 2))


def gather(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axis = g.number(0, len(x.shape) - 1)
    extent = x.shape[axis]
    shape = tuple(g.size() for _ in range(g.number(0, 2)))
    if count([*x.shape, *shape]) > MOST_ELEMENTS:
        shape = ()
    g.keep(g.builder.add("gather", x, g.indices(shape, extent), axis=axis), g.values[x])


def gather_elements(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axis = g.number(0, len(x.shape) - 1)
    shape = (*x.shape[:axis], g.pick(SIZES[:6]), *x.shape[axis + 1 :])
    if count(shape) <= MOST_ELEMENTS:
        ids = g.indices(shape, x.shape[axis])
        g.keep(g.builder.add("gather_elements", x, ids, axis=axis), g.values[x])


def cumulative(g: Growth, x: Value) -> None:
    if x.shape and x.dtype.bits >= 32:
        axis = g.number(0, len(x.shape) - 1)
        y = g.builder.add(
            "cumulative", x, op="sum", axis=axis, exclusive=g.maybe(), reverse=g.maybe()
        )
        g.keep(y, LARGEST + 1)


def scatter(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axis = g.number(0, len(x.shape) - 1)
    # Adding gives one result in every order; writing is kept to one place by one index.
    reduction = g.pick(["add", "max", "min"])
    shape = (*x.shape[:axis], g.pick(SIZES[:5]), *x.shape[axis + 1 :])
    if count(shape) <= MOST_ELEMENTS and x.dtype.bits >= 32:
        ids = g.indices(shape, x.shape[axis])
        y = g.builder.add(
            "scatter_elements", x, ids, g.source(x.dtype, shape), axis=axis, reduction=reduction
        )
        g.keep(y, LARGEST + 1)


def topk(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axis = g.number(0, len(x.shape) - 1)
    low, _ = bounds(x.shape[axis])
    k = g.number(1, min(low or 1, 5))
    values, ids = g.builder.add_many("topk", x, k=k, axis=axis, largest=g.maybe())
    g.keep(values, g.values[x])
    g.keep(ids, LARGEST + 1)


def count_up(g: Growth, x: Value) -> None:
    if x.shape:
        axis = g.number(0, len(x.shape) - 1)
        if count(x.shape) <= MOST_ELEMENTS:
            y = g.builder.add("iota", shape=x.shape, axis=axis, dtype=x.dtype)
            small = g.builder.add("min", y, g.scalar(8, x.dtype))
            g.keep(g.builder.add("add", small, x), g.values[x] + 8)


def function(g: Growth, x: Value) -> None:
    name = g.pick(["tanh", "sigmoid", "erf", "sin", "cos", "atan", "sqrt", "exp", "log", "div"])
    one = g.scalar(1, x.dtype)
    match name:
        case "sqrt" | "log":
            y = g.builder.add(name, g.builder.add("add", g.builder.add("abs", x), one))
        case "exp":
            y = g.builder.add(name, g.builder.add("min", x, one))
        case "div":
            other = g.operand(x)
            below = g.builder.add("add", g.builder.add("abs", other), one)
            y = g.builder.add("div", x, below)
        case _:
            y = g.builder.add(name, x)
    g.keep(y, max(g.values[x], 3))


def softmax(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    axes = (g.number(0, len(x.shape) - 1),)
    top = g.builder.add("reduce", x, op="max", axes=axes, keepdims=True)
    e = g.builder.add("exp", g.builder.add("sub", x, top))
    total = g.builder.add("reduce", e, op="sum", axes=axes, keepdims=True)
    g.keep(g.builder.add("div", e, total), 1)


def norm(g: Growth, x: Value) -> None:
    if not x.shape:
        return
    first = g.number(0, len(x.shape) - 1)
    axes = tuple(range(first, len(x.shape)))
    size = product(x.shape[first:])
    n = g.builder.add("cast", g.builder.add("dim", value=size), dtype=x.dtype, saturate=False)
    total = g.builder.add("reduce", x, op="sum", axes=axes, keepdims=True)
    away = g.builder.add("sub", x, g.builder.add("div", total, n))
    square = g.builder.add("mul", away, away)
    spread = g.builder.add("reduce", square, op="sum", axes=axes, keepdims=True)
    variance = g.builder.add("add", g.builder.add("div", spread, n), g.scalar(0.5, x.dtype))
    g.keep(g.builder.add("div", away, g.builder.add("sqrt", variance)), 8)


Step = Callable[[Growth, Value], None]
EXACT: tuple[Step, ...] = (
    unary, binary, binary, binary, choose, cast, matmul, matmul, conv, conv, pool, reduce, reduce,
    argreduce, transpose, transpose, reshape, reshape, expand, cut, concat, pad, gather,
    gather_elements, cumulative, scatter, topk, count_up,
)  # fmt: skip
SMOOTH: tuple[Step, ...] = (
    binary, binary, matmul, conv, reduce, function, function, softmax, softmax, norm, norm,
    transpose, reshape, expand, cut, concat, pad, gather, pool,
)  # fmt: skip


@st.composite
def random_graphs(draw: st.DrawFn, smooth: bool, symbolic: bool, most: int = 14) -> Made:
    """Graphs of 3 to ``most`` steps, of which some add nothing."""
    growth = Growth(draw, smooth, symbolic)
    for _ in range(draw(st.integers(3, most))):
        growth.grow()
    return growth.finish()
