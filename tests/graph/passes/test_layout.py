"""Layout leaves no transpose inside a convolution trunk and never moves more than before."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes.layout import layout
from tilewright.graph.passes.regroup import AxisGroup, axis_groups, regroup
from tilewright.graph.passes.simplify import simplify
from tilewright.target import Target
from tilewright.tensor.ir import Dim, symbol
from tilewright.tensor.simplify import dim, evaluate

Check = Callable[..., Graph]
N, S = symbol("N", 1, 64), symbol("S", 1, 64)
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def f32(*shape: Dim) -> TensorType:
    return TensorType(dt.f32, shape)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def both(graph: Graph, target: Target) -> Graph:
    return simplify(layout(simplify(graph, target), target), target)


def moved(graph: Graph) -> int:
    """How many elements the transposes of a graph move, with small symbols."""
    env = {"N": 3, "S": 5}
    shapes = [n.outputs[0].shape for n in graph.nodes if n.op == "transpose"]
    return sum(prod(evaluate(d, env) for d in s) for s in shapes)


class Net:
    """Builds convolution networks as the importer does: every value is channels-first."""

    def __init__(self, rng: Generator, channels: int = 4, size: int = 6) -> None:
        self.b = GraphBuilder("net")
        self.rng = rng
        self.x = self.b.input("x", f32(N, channels, size, size))

    def weights(self, *shape: int) -> Value:
        scale = np.sqrt(prod(shape[:-1]))
        return self.b.constant((self.rng.standard_normal(shape) / scale).astype(np.float32))

    def conv(self, x: Value, channels: int, kernel: int = 3) -> Value:
        last = self.b.add("transpose", x, perm=TO_LAST)
        w = self.weights(kernel, kernel, int(str(x.shape[1])), channels)
        pad = (kernel // 2,) * 2
        y = self.b.add("conv", last, w, strides=(1, 1), lo=pad, hi=pad, dilations=(1, 1), groups=1)
        y = self.b.add("add", y, self.weights(channels))
        return self.b.add("transpose", y, perm=TO_FIRST)

    def norm(self, x: Value) -> Value:
        scale, shift = (self.weights(int(str(x.shape[1])), 1, 1) for _ in range(2))
        return self.b.add("add", self.b.add("mul", x, scale), shift)

    def relu(self, x: Value) -> Value:
        return self.b.add("max", x, self.b.constant(np.array(0, np.float32)))

    def pool(self, x: Value) -> Value:
        y = self.b.add("transpose", x, perm=TO_LAST)
        no, one, two = (0,) * 4, (1,) * 4, (1, 2, 2, 1)
        y = self.b.add(
            "reduce_window", y, op="max", window=two, strides=two, lo=no, hi=no, dilations=one
        )
        return self.b.add("transpose", y, perm=TO_FIRST)

    def mean(self, x: Value, keepdims: bool = True) -> Value:
        total = self.b.add("reduce", x, op="sum", axes=(2, 3), keepdims=keepdims)
        size = int(str(x.shape[2])) * int(str(x.shape[3]))
        return self.b.add("mul", total, self.b.constant(np.array(1 / size, np.float32)))

    def flat(self, x: Value) -> Value:
        width = prod(int(str(d)) for d in x.shape[1:])
        return self.b.add("reshape", x, shape=(N, width))

    def dense(self, x: Value, outputs: int) -> Value:
        y = self.b.add("matmul", x, self.weights(int(str(x.shape[1])), outputs))
        return self.b.add("add", y, self.weights(outputs))

    def done(self, *results: Value) -> Graph:
        for value in results:
            self.b.output(value)
        return self.b.finish()


def test_a_residual_trunk_keeps_one_transpose_at_its_input(rng: Generator, check: Check) -> None:
    net = Net(rng)
    x = net.relu(net.norm(net.conv(net.x, 8)))
    for channels in (8, 12):
        y = net.norm(net.conv(net.relu(net.norm(net.conv(x, channels))), channels))
        side = x if channels == 8 else net.norm(net.conv(x, channels, 1))
        x = net.relu(net.b.add("add", y, side))
    x = net.pool(x)
    graph = net.done(net.dense(net.flat(net.mean(x)), 5))
    after = check(graph, both, N=2)
    assert ops(after).count("transpose") == 1
    # The one product left is the mean's: all normalisations are in the weights.
    assert ops(after).count("mul") == 1
    assert after.nodes[0].op == "transpose"


def test_a_result_with_channels_first_gets_the_other_transpose(
    rng: Generator, check: Check
) -> None:
    net = Net(rng)
    after = check(net.done(net.relu(net.conv(net.relu(net.conv(net.x, 8)), 8))), both, N=2)
    assert ops(after) == ["transpose", "conv", "add", "max", "conv", "add", "max", "transpose"]


def test_concats_of_branches_stay_channels_last(rng: Generator, check: Check) -> None:
    net = Net(rng)
    x = net.relu(net.conv(net.x, 8))
    for _ in range(3):
        y = net.conv(net.relu(net.norm(x)), 4)
        x = net.b.add("concat", x, y, axis=1)
    after = check(net.done(net.flat(net.mean(x, keepdims=False))), both, N=2)
    assert ops(after).count("transpose") == 1


def test_a_gate_over_channels_stays_channels_last(rng: Generator, check: Check) -> None:
    net = Net(rng)
    x = net.conv(net.x, 8)
    gate = net.b.add("sigmoid", net.conv(net.relu(net.conv(net.mean(x), 2, 1)), 8, 1))
    y = net.conv(net.b.add("mul", x, gate), 4)
    after = check(net.done(net.flat(net.mean(y))), both, N=2)
    assert ops(after).count("transpose") == 1


def test_slices_pads_and_softmax_over_channels_move_with_the_layout(
    rng: Generator, check: Check
) -> None:
    net = Net(rng)
    x = net.conv(net.x, 8)
    half = net.b.add("slice", x, starts=(0, 4, 0, 0), sizes=(N, 4, 6, 6), steps=(1,) * 4)
    no = (0,) * 4
    value = net.b.constant(np.array(2, np.float32))
    wide = net.b.add(
        "pad", half, value, lo=(0, 0, 1, 2), hi=(0, 0, 0, 1), interior=no, mode="constant"
    )
    top = net.b.add("reduce", wide, op="max", axes=(1,), keepdims=True)
    e = net.b.add("exp", net.b.add("sub", wide, top))
    y = net.b.add("div", e, net.b.add("reduce", e, op="sum", axes=(1,), keepdims=True))
    after = check(net.done(net.mean(net.conv(y, 3), keepdims=False)), both, N=2)
    assert ops(after).count("transpose") == 1


def test_a_channel_shuffle_costs_one_transpose_of_its_own(rng: Generator, check: Check) -> None:
    net = Net(rng)
    x = net.conv(net.x, 8)
    parts = net.b.add("reshape", x, shape=(N, 2, 4, 6, 6))
    turned = net.b.add("transpose", parts, perm=(0, 2, 1, 3, 4))
    y = net.conv(net.b.add("reshape", turned, shape=(N, 8, 6, 6)), 8)
    after = check(net.done(net.mean(y, keepdims=False)), both, N=2)
    assert ops(after).count("transpose") == 2


def test_a_classifier_behind_a_map_permutes_its_rows(rng: Generator, check: Check) -> None:
    net = Net(rng)
    y = net.relu(net.dense(net.flat(net.pool(net.relu(net.conv(net.x, 8)))), 5))
    after = check(net.done(y), both, N=2)
    assert ops(after).count("transpose") == 1


def test_a_flat_map_that_is_also_a_result_keeps_its_order(rng: Generator, check: Check) -> None:
    net = Net(rng)
    flat = net.flat(net.conv(net.x, 8))
    after = check(net.done(net.dense(flat, 5), flat), both, N=2)
    assert ops(after).count("transpose") == 2


def test_patches_of_a_vision_transformer_need_no_transpose(rng: Generator, check: Check) -> None:
    net = Net(rng)
    x = net.b.add("reshape", net.conv(net.x, 8), shape=(N, 8, 36))
    x = net.b.add("transpose", x, perm=(0, 2, 1))
    y = net.b.add("add", net.b.add("matmul", x, net.weights(8, 8)), net.weights(36, 8))
    after = check(net.done(y), both, N=2)
    assert ops(after) == ["transpose", "conv", "add", "matmul", "reshape", "add"]


def test_attention_moves_no_more_than_before(rng: Generator, check: Check) -> None:
    b = GraphBuilder("attention")
    x = b.input("x", f32(N, S, 12))
    heads = []
    for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        w = b.constant(rng.standard_normal((12, 12)).astype(np.float32))
        y = b.add("reshape", b.add("matmul", x, w), shape=(N, S, 3, 4))
        heads.append(b.add("transpose", y, perm=perm))
    scores = b.add(
        "matmul", b.add("mul", heads[0], b.constant(np.array(0.5, np.float32))), heads[1]
    )
    top = b.add("reduce", scores, op="max", axes=(3,), keepdims=True)
    e = b.add("exp", b.add("sub", scores, top))
    p = b.add("div", e, b.add("reduce", e, op="sum", axes=(3,), keepdims=True))
    y = b.add("transpose", b.add("matmul", p, heads[2]), perm=(0, 2, 1, 3))
    b.output(b.add("reshape", y, shape=(N, S, 12)))
    graph = b.finish()
    after = check(graph, both, N=2, S=3)
    assert moved(after) == moved(graph)
    # The scale has moved in front of the transpose, and from there into the weights; the one
    # product left is that of the weights of the rows with the inverses of their sums.
    assert ops(after).count("mul") == 1


def test_a_transpose_above_a_fork_stays_above_it(check: Check) -> None:
    b = GraphBuilder("g")
    t = b.add("transpose", b.input("x", f32(N, 4, 6)), perm=(0, 2, 1))
    for op in ("tanh", "exp"):
        b.output(b.add("reshape", b.add(op, t), shape=(dim(N * 24),)))
    assert ops(check(b.finish(), layout, N=2)).count("transpose") == 1


def test_a_softmax_over_rows_is_not_turned_into_one_over_columns(check: Check) -> None:
    b = GraphBuilder("g")
    t = b.add("transpose", b.input("x", f32(N, 4, 6)), perm=(0, 2, 1))
    top = b.add("reduce", t, op="max", axes=(2,), keepdims=True)
    b.output(b.add("reshape", b.add("sub", t, top), shape=(dim(N * 24),)))
    after = check(b.finish(), layout, N=2)
    assert ops(after) == ["transpose", "reduce", "sub", "reshape"]


# ------------------------------------------------------------------ regrouping


def test_axis_groups_of_splits_merges_and_ones() -> None:
    def groups(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[tuple[tuple[int, ...], ...]]:
        found = axis_groups(old, new)
        assert found is not None
        return [(g.old, g.new) for g in found]

    assert groups((2, 3, 4), (6, 4)) == [((0, 1), (0,)), ((2,), (1,))]
    assert groups((N, 12), (N, 3, 4)) == [((0,), (0,)), ((1,), (1, 2))]
    assert groups((N, S, 8), (dim(N * S), 8)) == [((0, 1), (0,)), ((2,), (1,))]
    assert groups((dim(N * S), 8), (N, S, 8)) == [((0,), (0, 1)), ((1,), (2,))]
    assert groups((N, 8, 1, 1), (N, 8)) == [((0,), (0,)), ((1,), (1,)), ((2,), ()), ((3,), ())]
    assert groups((4, 6), (3, 8)) == [((0, 1), (0, 1))]
    assert axis_groups((N, 4), (S, 4)) is None


@pytest.mark.parametrize("seed", range(60))
def test_regrouping_moves_a_reshape_before_a_transpose(seed: int) -> None:
    rng = default_rng(seed)
    old = tuple(int(d) for d in rng.choice([1, 2, 3, 4, 6], int(rng.integers(1, 5))))
    new = list(old)
    for _ in range(int(rng.integers(3))):
        at = int(rng.integers(len(new)))
        if rng.random() < 0.5 and at + 1 < len(new):
            new[at : at + 2] = [new[at] * new[at + 1]]
        else:
            factor = next((f for f in (2, 3) if new[at] % f == 0), 1)
            new[at : at + 1] = [factor, new[at] // factor]
    perm = tuple(int(p) for p in rng.permutation(len(old)))
    stored_shape = [0] * len(old)
    for i, p in enumerate(perm):
        stored_shape[p] = old[i]
    base = rng.random(stored_shape)
    found = regroup(old, tuple(new), perm)
    assert found is not None
    shape = tuple(evaluate(d, {}) for d in found.shape)
    result = base.transpose(found.order).reshape(shape).transpose(found.perm)
    np.testing.assert_array_equal(result, base.transpose(perm).reshape(new))


def test_a_group_without_axes_on_one_side_is_of_ones() -> None:
    assert axis_groups((1,), ()) == (AxisGroup((0,), ()),)
    assert axis_groups((), (1, 1)) == (AxisGroup((), (0,)), AxisGroup((), (1,)))


# ------------------------------------------------------------------ random networks


def random_net(rng: Generator) -> Graph:
    net = Net(rng)
    b = net.b
    values = [net.x]

    def pick() -> Value:
        return values[max(0, len(values) - 1 - int(rng.geometric(0.5)))]

    def same(x: Value) -> list[Value]:
        return [v for v in values if v.shape == x.shape]

    for _ in range(14):
        x = pick()
        channels, size = (int(str(d)) for d in x.shape[1:3])
        match int(rng.integers(11)):
            case 0 | 1:
                new = net.conv(x, int(rng.choice([4, 8])), int(rng.choice([1, 3])))
            case 2:
                new = net.relu(net.norm(x))
            case 3:
                others = same(x)
                new = b.add("add", x, others[int(rng.integers(len(others)))])
            case 4:
                others = same(x)
                new = b.add("concat", x, others[int(rng.integers(len(others)))], axis=1)
            case 5 if size > 2:
                new = net.pool(x)
            case 6:
                new = b.add("mul", x, b.add("sigmoid", net.mean(x)))
            case 7:
                split = b.add("reshape", x, shape=(N, 2, channels // 2, size, size))
                split = b.add("transpose", split, perm=(0, 2, 1, 3, 4))
                new = b.add("reshape", split, shape=x.shape)
            case 8:
                rows = b.add("reshape", x, shape=(N, channels, size * size))
                rows = b.add("transpose", rows, perm=(0, 2, 1))
                rows = b.add("matmul", rows, net.weights(channels, channels))
                rows = b.add("transpose", rows, perm=(0, 2, 1))
                new = b.add("reshape", rows, shape=x.shape)
            case 9:
                new = b.add("transpose", b.add("tanh", x), perm=(0, 1, 3, 2))
            case _:
                line = b.constant(np.arange(size)[::-1].copy())
                new = b.add("gather", x, line, axis=3)
        values.append(new)
    tail = net.dense(net.flat(values[-1]), 3)
    return net.done(tail, net.flat(net.mean(values[-2])), values[-3])


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_keep_their_results_and_move_no_more(
    seed: int, check: Check, target: Target
) -> None:
    graph = simplify(random_net(default_rng(seed)), target)
    after = check(graph, layout, N=2)
    assert moved(after) <= moved(graph)
    for op in ("conv", "matmul"):
        assert ops(simplify(after, target)).count(op) <= ops(graph).count(op)
