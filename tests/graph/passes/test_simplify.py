"""Simplification keeps every result, removes what is idle and settles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes.fold import fold
from tilewright.graph.passes.layout import layout
from tilewright.graph.passes.simplify import MAX_SWEEPS, RULES, simplify
from tilewright.ops import OPS
from tilewright.target import Target
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.simplify import dim

Check = Callable[..., Graph]
Make = Callable[[GraphBuilder, Value], Value]
N, S = symbol("N", 1, 64), symbol("S", 1, 64)


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def const(b: GraphBuilder, *values: float, shape: tuple[int, ...] = ()) -> Value:
    return b.constant(
        np.array(values, np.float32).reshape(shape if shape else (-1,)[: len(values) > 1])
    )


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def cast(b: GraphBuilder, x: Value, dtype: DType) -> Value:
    return b.add("cast", x, dtype=dtype, saturate=False)


def reduce(b: GraphBuilder, x: Value, keepdims: bool, *axes: int) -> Value:
    return b.add("reduce", x, op="sum", axes=axes, keepdims=keepdims)


def cut(b: GraphBuilder, x: Value, starts: tuple[Dim, ...], sizes: tuple[Dim, ...]) -> Value:
    return b.add("slice", x, starts=starts, sizes=sizes, steps=(1,) * len(starts))


def pad(b: GraphBuilder, x: Value, value: float, lo: tuple[int, ...]) -> Value:
    no = (0,) * len(lo)
    return b.add("pad", x, const(b, value), lo=lo, hi=lo, interior=no, mode="constant")


CASES: dict[str, tuple[tuple[Dim, ...], Make, list[str]]] = {
    "x + 0": ((N, 3), lambda b, x: b.add("add", x, const(b, 0)), []),
    "0 + x": ((N, 3), lambda b, x: b.add("add", const(b, 0), x), []),
    "x + zeros": ((N, 3), lambda b, x: b.add("add", x, const(b, 0, 0, 0)), []),
    "x - 0": ((N, 3), lambda b, x: b.add("sub", x, const(b, 0)), []),
    "x * 1": ((N, 3), lambda b, x: b.add("mul", x, const(b, 1)), []),
    "x / 1": ((N, 3), lambda b, x: b.add("div", x, const(b, 1)), []),
    "a sum with zero that broadcasts stays": (
        (3,),
        lambda b, x: b.add("add", x, const(b, *[0] * 6, shape=(2, 3))),
        ["add"],
    ),
    "x ** 1": ((N, 3), lambda b, x: b.add("pow", x, const(b, 1)), []),
    "x ** 2": ((N, 3), lambda b, x: b.add("pow", x, const(b, 2)), ["mul"]),
    "x ** 3": ((N, 3), lambda b, x: b.add("pow", x, const(b, 3)), ["mul", "mul"]),
    "x ** 0.5": (
        (N, 3),
        lambda b, x: b.add("pow", b.add("abs", x), const(b, 0.5)),
        ["abs", "sqrt"],
    ),
    "x ** -1": ((N, 3), lambda b, x: b.add("pow", x, const(b, -1)), ["div"]),
    "x / 8": ((N, 3), lambda b, x: b.add("div", x, const(b, 8)), ["mul"]),
    "x / 3 stays": ((N, 3), lambda b, x: b.add("div", x, const(b, 3)), ["div"]),
    "x * -1": ((N, 3), lambda b, x: b.add("mul", x, const(b, -1)), ["neg"]),
    "--x": ((N, 3), lambda b, x: b.add("neg", b.add("neg", x)), []),
    "x + -y": (
        (N, 3),
        lambda b, x: b.add("add", x, b.add("neg", b.add("exp", x))),
        ["exp", "sub"],
    ),
    "floor floor": ((N, 3), lambda b, x: b.add("floor", b.add("floor", x)), ["floor"]),
    "x + 1 + 2": (
        (N, 3),
        lambda b, x: b.add("add", b.add("add", x, const(b, 1)), const(b, 2)),
        ["add"],
    ),
    "x * 2 * 3": (
        (N, 3),
        lambda b, x: b.add("mul", b.add("mul", x, const(b, 2)), const(b, 3)),
        ["mul"],
    ),
    "(x - m) * s + t": (
        (N, 3),
        lambda b, x: b.add(
            "add",
            b.add("mul", b.add("sub", x, const(b, 1, 2, 3)), const(b, 4, 5, 6)),
            const(b, 7, 8, 9),
        ),
        ["mul", "add"],
    ),
    "row and column constants stay apart": (
        (2, 3),
        lambda b, x: b.add("add", b.add("add", x, const(b, 1, 2, 3)), const(b, 1, 2, shape=(2, 1))),
        ["add", "add"],
    ),
    "relu relu": (
        (N, 3),
        lambda b, x: b.add("max", b.add("max", x, const(b, 0)), const(b, 0)),
        ["max"],
    ),
    "max with minus infinity": (
        (N, 3),
        lambda b, x: b.add("max", x, const(b, -float("inf"))),
        [],
    ),
    "clip stays": (
        (N, 3),
        lambda b, x: b.add("min", b.add("max", x, const(b, 0)), const(b, 6)),
        ["max", "min"],
    ),
    "where true": (
        (N, 3),
        lambda b, x: b.add("where", b.constant(np.array(True)), x, b.add("exp", x)),
        [],
    ),
    "where not": (
        (N, 3),
        lambda b, x: b.add("where", b.add("not", b.add("lt", x, const(b, 0))), x, b.add("neg", x)),
        ["lt", "neg", "where"],
    ),
    "cast to itself": ((N, 3), lambda b, x: cast(b, x, dt.f32), []),
    "cast up and back": ((N, 3), lambda b, x: cast(b, cast(b, x, dt.f64), dt.f32), []),
    "cast down and back stays": (
        (N, 3),
        lambda b, x: cast(b, cast(b, x, dt.f16), dt.f32),
        ["cast", "cast"],
    ),
    "transpose twice": (
        (N, 3, 4),
        lambda b, x: b.add("transpose", b.add("transpose", x, perm=(2, 0, 1)), perm=(1, 2, 0)),
        [],
    ),
    "transpose of a size-1 axis": (
        (N, 1, 4),
        lambda b, x: b.add("transpose", x, perm=(1, 0, 2)),
        ["reshape"],
    ),
    "reshape twice": (
        (N, 3, 4),
        lambda b, x: b.add("reshape", b.add("reshape", x, shape=(dim(N * 12),)), shape=(N, 12)),
        ["reshape"],
    ),
    "reshape and back": (
        (N, 3, 4),
        lambda b, x: b.add("reshape", b.add("reshape", x, shape=(dim(N * 12),)), shape=(N, 3, 4)),
        [],
    ),
    "an explicit broadcast": (
        (N, 3),
        lambda b, x: b.add("mul", x, b.add("broadcast_to", reduce(b, x, True, 1), shape=(N, 3))),
        ["reduce", "mul"],
    ),
    "slice of all": ((N, 3), lambda b, x: cut(b, x, (0, 0), (N, 3)), []),
    "slice of slice": (
        (N, 9),
        lambda b, x: cut(b, cut(b, x, (0, 2), (N, 6)), (0, 1), (N, 2)),
        ["slice"],
    ),
    "slice of a part of a concat": (
        (N, 4),
        lambda b, x: cut(b, b.add("concat", b.add("exp", x), x, axis=1), (0, 5), (N, 2)),
        ["slice"],
    ),
    "concat of one": ((N, 4), lambda b, x: b.add("concat", x, axis=1), []),
    "concats that begin alike": (
        (N, 4),
        lambda b, x: b.add(
            "concat",
            b.add("exp", b.add("concat", x, x, axis=1)),
            b.add("concat", x, x, b.add("sqrt", x), axis=1),
            axis=1,
        ),
        ["concat", "exp", "sqrt", "concat"],
    ),
    "concat of concat": (
        (N, 4),
        lambda b, x: b.add("concat", b.add("concat", x, x, axis=1), x, axis=1),
        ["concat"],
    ),
    "pad by nothing": ((N, 4), lambda b, x: pad(b, x, 0, (0, 0)), []),
    "reduce of a size-1 axis": ((N, 1, 4), lambda b, x: reduce(b, x, False, 1), ["reshape"]),
    "reduce and put back": (
        (N, 4, 3),
        lambda b, x: b.add("reshape", reduce(b, x, False, 1), shape=(N, 1, 3)),
        ["reduce"],
    ),
    "take one": (
        (N, 4, 3),
        lambda b, x: b.add("gather", x, b.constant(np.array(-1)), axis=1),
        ["reshape", "slice"],
    ),
    "take evenly": (
        (N, 8, 3),
        lambda b, x: b.add("gather", x, b.constant(np.array([5, 3, 1])), axis=1),
        ["slice"],
    ),
    "take unevenly stays": (
        (N, 8, 3),
        lambda b, x: b.add("gather", x, b.constant(np.array([5, 3, 2])), axis=1),
        ["gather"],
    ),
    "a reshape sinks below what it does not concern": (
        (N, 4, 6),
        lambda b, x: b.add(
            "tanh",
            b.add(
                "mul",
                b.add("add", b.add("reshape", x, shape=(dim(N * 4), 6)), const(b, *range(6))),
                const(b, 3),
            ),
        ),
        ["add", "mul", "tanh", "reshape"],
    ),
    "equal reshapes of two operands sink": (
        (N, 4, 6),
        lambda b, x: b.add(
            "add",
            b.add("reshape", x, shape=(N, 24)),
            b.add("reshape", b.add("exp", x), shape=(N, 24)),
        ),
        ["exp", "add", "reshape"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_law(name: str, check: Check) -> None:
    shape, make, wanted = CASES[name]
    b = GraphBuilder("g")
    b.output(make(b, b.input("x", f32(*shape))), "y")
    after = check(b.finish(), simplify, N=5)
    assert ops(after) == wanted
    assert after.output_names == ("y",)


def test_rules_name_ops_that_exist() -> None:
    assert set(RULES) <= set(OPS)


def conv(b: GraphBuilder, x: Value, w: np.ndarray) -> Value:
    return b.add(
        "conv", x, b.constant(w), strides=(1, 1), lo=(1, 1), hi=(1, 1), dilations=(1, 1), groups=1
    )


def test_batch_normalisation_folds_into_the_weights_and_the_bias(
    rng: Generator, check: Check
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 5, 5, 4))
    y = conv(b, x, rng.standard_normal((3, 3, 4, 6)).astype(np.float32))
    vectors = [b.constant(rng.random(6, np.float32) + 0.5) for _ in range(5)]
    bias, mean, root, scale, shift = vectors
    y = b.add("sub", b.add("add", y, bias), mean)
    y = b.add("add", b.add("mul", b.add("div", y, root), scale), shift)
    b.output(b.add("max", y, const(b, 0)))
    assert ops(check(b.finish(), simplify, N=2)) == ["conv", "add", "max"]


def test_batch_normalisation_after_a_product_folds(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    y = b.add("matmul", b.input("x", f32(N, 4)), b.constant(rng.random((4, 6), np.float32)))
    y = b.add("mul", b.add("add", y, b.constant(rng.random(6, np.float32))), const(b, *range(1, 7)))
    b.output(y)
    assert ops(check(b.finish(), simplify, N=2)) == ["matmul", "add"]


def test_weights_that_another_node_reads_through_the_same_convolution_stay(
    rng: Generator, check: Check
) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 5, 5, 4))
    y = conv(b, x, rng.random((3, 3, 4, 6), np.float32))
    b.output(b.add("mul", y, const(b, *range(1, 7))))
    b.output(b.add("exp", y))
    assert ops(check(b.finish(), simplify, N=2)).count("conv") == 1


def test_a_product_read_through_views_is_not_repeated(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    rows = b.add("reshape", b.input("x", f32(N, S, 4)), shape=(dim(N * S), 4))
    y = b.add("matmul", rows, b.constant(rng.random((4, 6), np.float32)))
    y = b.add("reshape", y, shape=(N, S, 6))
    half = b.add("mul", y, const(b, 0.5))
    b.output(b.add("mul", half, b.add("tanh", b.add("mul", b.add("mul", y, y), y))))
    assert ops(check(b.finish(), simplify, N=2, S=3)).count("matmul") == 1


def test_a_product_that_would_overflow_does_not_merge(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 4))
    b.output(b.add("mul", b.add("mul", x, const(b, 1e-30)), const(b, 1e-30)))
    b.output(b.add("mul", b.add("mul", x, const(b, 1e30)), const(b, 1e30)))
    assert ops(check(b.finish(), simplify, exact=True, N=2)) == ["mul"] * 4


def test_zero_padding_joins_the_convolution(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 5, 5, 4))
    y = conv(b, pad(b, x, 0, (0, 1, 2, 0)), rng.random((3, 3, 4, 6), np.float32))
    b.output(conv(b, pad(b, y, 1, (0, 1, 2, 0)), rng.random((3, 3, 6, 6), np.float32)))
    assert ops(check(b.finish(), simplify, N=2)) == ["conv", "pad", "conv"]


@pytest.mark.parametrize(("step", "left"), [(1, ["neg"]), (2, ["reduce_window", "neg"])])
def test_windows_of_one_element_are_the_elements(step: int, left: list[str], check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 5, 5, 4))
    one, none = (1, 1, 1, 1), (0, 0, 0, 0)
    y = b.add(
        "reduce_window", x, op="sum", window=one, strides=(1, step, step, 1), lo=none, hi=none,
        dilations=one,
    )  # fmt: skip
    b.output(b.add("neg", y))
    assert ops(check(b.finish(), simplify, N=2)) == left


def test_projections_through_flat_rows_lose_their_reshapes(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, S, 8))
    rows = b.add("reshape", x, shape=(dim(N * S), 8))
    y = b.add("matmul", rows, b.constant(rng.random((8, 8), np.float32)))
    y = b.add("add", y, b.constant(rng.random(8, np.float32)))
    b.output(b.add("add", b.add("reshape", y, shape=(N, S, 8)), x))
    assert ops(check(b.finish(), simplify, N=2, S=3)) == ["matmul", "add", "add"]


def test_a_residual_joins_a_projection_of_flat_rows(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(1, S, 8))
    turned = b.add("transpose", b.add("reshape", x, shape=(1, S, 2, 4)), perm=(0, 1, 3, 2))
    y = b.add(
        "matmul", b.add("reshape", turned, shape=(S, 8)), b.constant(rng.random((8, 8), np.float32))
    )
    b.output(b.add("tanh", b.add("add", b.add("reshape", y, shape=(1, S, 8)), x)))
    after = check(b.finish(), simplify, S=3)
    assert ops(after)[-4:] == ["reshape", "add", "tanh", "reshape"]


def test_joint_projections_split_as_slices_of_one_view(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, S, 24))
    for part in range(3):
        y = cut(b, b.add("tanh", x), (0, 0, 8 * part), (N, S, 8))
        y = b.add("reshape", y, shape=(N, S, 2, 4))
        b.output(b.add("transpose", y, perm=(0, 2, 1, 3)))
    after = check(b.finish(), simplify, N=2, S=3)
    assert ops(after) == ["tanh", "reshape"] + ["slice", "transpose"] * 3


def test_a_joint_projection_of_scaled_heads_is_read_in_place(rng: Generator, check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, S, 8))
    joint = b.add("matmul", x, b.constant(rng.random((8, 24), np.float32)))
    joint = b.add("reshape", joint, shape=(N, S, 3, 2, 4))
    parts = []
    for part, perm in enumerate(((0, 2, 1, 3), (0, 2, 3, 1))):
        one = cut(b, joint, (0, 0, part, 0, 0), (N, S, 1, 2, 4))
        parts.append(b.add("transpose", b.add("reshape", one, shape=(N, S, 2, 4)), perm=perm))
    b.output(b.add("matmul", b.add("mul", parts[0], const(b, 3)), parts[1]))
    after = check(b.finish(), lambda g, t: simplify(layout(simplify(g, t), t), t), N=2, S=3)
    assert sorted(ops(after)) == sorted(
        ["matmul", "reshape"] + ["slice", "transpose"] * 2 + ["matmul", "mul"]
    )
    assert ops(after)[-2:] == ["matmul", "mul"]


def test_duplicates_become_one(check: Check) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 4))
    ys = [b.add("mul", b.add("exp", x), const(b, 3)) for _ in range(3)]
    b.output(b.add("add", b.add("sub", ys[0], ys[1]), ys[2]))
    assert ops(check(b.finish(), simplify, N=2)) == ["exp", "mul", "sub", "add"]


def test_folding_leaves_large_broadcasts_to_their_readers(check: Check) -> None:
    b = GraphBuilder("g")
    wide = b.add("broadcast_to", const(b, 3), shape=(1024, 1024))
    b.output(b.add("add", b.add("mul", wide, wide), b.input("x", f32(1024, 1))))
    b.output(b.add("add", const(b, 3), const(b, 4)))
    after = check(b.finish(), fold)
    assert ops(after) == ["broadcast_to", "mul", "add"]
    assert max(a.nbytes for a in after.constants.values()) == 4


def test_folding_reshapes_and_transposes_large_weights_without_a_copy(check: Check) -> None:
    b = GraphBuilder("g")
    w = np.arange(1 << 20, dtype=np.float32).reshape(1024, 1024)
    y = b.add("transpose", b.add("reshape", b.constant(w), shape=(2048, 512)), perm=(1, 0))
    b.output(b.add("matmul", b.input("x", f32(1, 512)), y))
    after = check(b.finish(), fold)
    assert ops(after) == ["matmul"]
    (weights,) = after.constants.values()
    assert np.shares_memory(weights, w)


@pytest.mark.parametrize("seed", range(40))
def test_reshapes_of_slices_keep_their_elements(seed: int, check: Check) -> None:
    rng = default_rng(seed)
    b = GraphBuilder("g")
    full = [int(d) for d in rng.choice([1, 2, 3, 4, 6, 8], int(rng.integers(1, 5)))]
    axis = int(rng.integers(len(full)))
    start = int(rng.integers(full[axis]))
    new = list(full)
    new[axis] = int(rng.integers(1, full[axis] - start + 1))
    starts = tuple(start if d == axis else 0 for d in range(len(full)))
    x = cut(b, b.add("tanh", b.input("x", f32(*full))), starts, tuple(new))
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(new) + 1))
        if rng.random() < 0.3:
            new.insert(at, 1)
        elif 1 in new and rng.random() < 0.4:
            new.remove(1)
        elif at + 1 < len(new) and rng.random() < 0.5:
            new[at : at + 2] = [new[at] * new[at + 1]]
        elif at < len(new):
            factor = next((f for f in (2, 3) if new[at] % f == 0), 1)
            new[at : at + 1] = [new[at] // factor, factor]
    b.output(b.add("reshape", x, shape=tuple(new)))
    check(b.finish(), simplify, exact=True)


# ------------------------------------------------------------------ random graphs


def random_graph(rng: Generator, size: int) -> Graph:
    b = GraphBuilder("random")
    x = b.input("x", f32(N, 4, 6))
    values = [x, b.add("tanh", x)]
    unary = ["neg", "abs", "floor", "tanh", "sigmoid", "sign"]
    binary = ["add", "sub", "mul", "min", "max"]

    def pick() -> Value:
        return values[max(0, len(values) - 1 - int(rng.geometric(0.4)))]

    def number() -> Value:
        choice = [-1.0, 0.0, 1.0, 2.0, 0.5, -3.0, 0.25]
        shape = [(), (6,), (4, 1), (1, 1, 6), (1,)][int(rng.integers(5))]
        if rng.random() < 0.5:
            return b.constant(np.full(shape, rng.choice(choice), np.float32))
        return b.constant(rng.choice(choice, shape).astype(np.float32))

    for _ in range(size):
        match int(rng.integers(13)):
            case 0:
                new = b.add(str(rng.choice(unary)), pick())
            case 1:
                new = b.add(str(rng.choice(binary)), pick(), pick())
            case 2 | 3 | 4:
                pair = (pick(), number())
                new = b.add(str(rng.choice(binary)), *(pair if rng.random() < 0.5 else pair[::-1]))
            case 5:
                flat = b.add("reshape", pick(), shape=(N, 24))
                new = b.add("reshape", b.add("tanh", flat), shape=(N, 4, 6))
            case 6:
                turned = b.add("transpose", pick(), perm=(0, 2, 1))
                new = b.add("transpose", b.add("abs", turned), perm=(0, 2, 1))
            case 7:
                new = b.add("add", pick(), b.add("broadcast_to", number(), shape=(N, 4, 6)))
            case 8:
                both = b.add("concat", pick(), pick(), axis=2)
                new = cut(b, both, (0, 0, int(rng.choice([0, 6, 3]))), (N, 4, 6))
            case 9:
                new = b.add("mul", pick(), reduce(b, pick(), True, 1))
            case 10:
                sums = b.add("reshape", reduce(b, pick(), False, 2), shape=(N, 4, 1))
                new = b.add("max", pick(), sums)
            case 11:
                new = b.add("div", pick(), const(b, float(rng.choice([2, 8, 3, 1]))))
            case _:
                w = rng.standard_normal((6, 6)).astype(np.float32) / 3
                rows = b.add("reshape", pick(), shape=(dim(4 * N), 6))
                new = b.add("reshape", b.add("matmul", rows, b.constant(w)), shape=(N, 4, 6))
        values.append(b.add("tanh", new) if rng.random() < 0.2 else new)
    b.output(values[-1])
    b.output(values[-2])
    return b.finish()


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_keep_their_results_and_settle(
    seed: int, check: Check, target: Target
) -> None:
    graph = random_graph(default_rng(seed), 25)
    after = check(graph, simplify, N=3)
    assert len(after.nodes) <= len(graph.nodes)
    assert ops(after).count("matmul") <= ops(graph).count("matmul")
    again = simplify(after, target)
    assert ops(again) == ops(after)


def test_a_deep_chain_takes_one_sweep_per_constant_number_of_nodes(target: Target) -> None:
    b = GraphBuilder("g")
    x = b.input("x", f32(N, 4))
    for _ in range(3000):
        x = b.add("add", b.add("mul", x, const(b, 1.001)), const(b, 0.001))
    b.output(x)
    assert MAX_SWEEPS < 3000
    assert len(simplify(b.finish(), target).nodes) < 6000


def softmax_product(b: GraphBuilder, x: Value, y: Value) -> Value:
    e = b.add("exp", x)
    return b.add("matmul", b.add("div", e, reduce(b, e, True, 2)), y)


def test_a_softmax_divides_behind_the_product(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", f32(N, S, 5)), b.input("y", f32(N, 5, 4))
    b.output(softmax_product(b, x, y))
    after = check(b.finish(), simplify, N=2, S=3)
    assert ops(after) == ["exp", "reduce", "matmul", "div"]


def test_a_softmax_of_half_precision_divides_before_its_sums_can_overflow(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = (b.input(n, TensorType(dt.f16, s)) for n, s in (("x", (N, S, 5)), ("y", (N, 5, 4))))
    b.output(softmax_product(b, x, y))
    after = check(b.finish(), simplify, N=2, S=3)
    assert ops(after) == ["exp", "reduce", "div", "matmul"]


def test_a_factor_of_an_input_moves_behind_the_product(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", f32(N, S, 5)), b.input("y", f32(N, 5, 4))
    b.output(b.add("matmul", b.add("mul", x, const(b, 0.5)), y))
    assert ops(check(b.finish(), simplify, N=2, S=3)) == ["matmul", "mul"]


def test_a_factor_that_keeps_a_product_in_the_range_of_halves_stays(check: Check) -> None:
    b = GraphBuilder("g")
    x, y = (b.input(n, TensorType(dt.f16, s)) for n, s in (("x", (N, S, 5)), ("y", (N, 5, 4))))
    half = b.constant(np.array(0.5, np.float16))
    b.output(b.add("matmul", b.add("mul", x, half), y))
    assert ops(check(b.finish(), simplify, N=2, S=3)) == ["mul", "matmul"]
