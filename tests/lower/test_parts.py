"""Parts: concats whose parts are written in place compute the same, and copy nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, Value
from tilewright.graph.passes import run_passes
from tilewright.lower.model import lower_graph
from tilewright.lower.nests import to_func
from tilewright.lower.parts import copy_rows, find_parts, find_slabs, write_wide
from tilewright.runtime.program import OutputStorage, Tensor
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Dim, For, Func, Load, Store, Var, as_expr, symbol

from ..schedule.groups import AVX512
from .bodies import f32
from .test_model import assert_runs, calls, copies, graph_of

N = symbol("N", 1, 64)
RNG = np.random.default_rng(4)


def weights(b: GraphBuilder, *shape: int) -> Value:
    return b.constant((RNG.standard_normal(shape) * 0.2).astype(np.float32))


def conv(b: GraphBuilder, x: Value, outputs: int, k: int = 1, groups: int = 1) -> Value:
    w = weights(b, k, k, int(x.shape[-1]) // groups, outputs)  # type: ignore[arg-type]
    pads = (k // 2, k // 2)
    y = b.add("conv", x, w, strides=(1, 1), lo=pads, hi=pads, dilations=(1, 1), groups=groups)
    return b.add("add", y, weights(b, outputs))


def relu(b: GraphBuilder, x: Value) -> Value:
    return b.add("max", x, b.constant(np.float32(0)))


def join(b: GraphBuilder, *parts: Value) -> Value:
    return b.add("concat", *parts, axis=len(parts[0].shape) - 1)


def tail(b: GraphBuilder, x: Value) -> Value:
    """Something behind a concat, so that it is no result."""
    return conv(b, x, 8)


def has_concat(graph: Graph) -> bool:
    """Whether a kernel of the program copies parts."""
    return any("concat" in c.kernel for c in calls(assert_runs(graph)))


def attend(b: GraphBuilder, keys: Value, queries: Value, values: Value) -> Value:
    """softmax(q k) v of keys [B, S, D], which are transposed first."""
    scores = b.add("matmul", queries, b.add("transpose", keys, perm=(0, 2, 1)))
    top = b.add("reduce", scores, op="max", axes=(2,), keepdims=True)
    e = b.add("exp", b.add("sub", scores, top))
    total = b.add("reduce", e, op="sum", axes=(2,), keepdims=True)
    return b.add("matmul", b.add("div", e, total), values)


def shapes_of(graph: Graph) -> list[tuple[Dim, ...]]:
    """The shapes of all tensors that kernels take on a machine with vectors of 512 bits."""
    program = lower_graph(run_passes(graph, AVX512), AVX512)
    return [t.shape for c in calls(program) for t in c.args if isinstance(t, Tensor)]


@pytest.mark.parametrize(("length", "row"), [(37, 48), (64, 64), (9, 9)])
def test_rows_of_transposed_keys_are_as_long_as_whole_vectors(length: int, row: int) -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(2, length, 8))
        return attend(b, relu(b, x), x, x)

    graph = graph_of(make)
    assert_runs(graph)
    assert [s for s in shapes_of(graph) if s[:2] == (2, 8)] == [(2, 8, row)] * 2


def test_transposed_keys_that_are_a_result_keep_their_rows() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        x = b.input("x", f32(2, 37, 8))
        turned = b.add("transpose", x, perm=(0, 2, 1))
        return b.add("matmul", x, turned), turned

    graph = graph_of(make)
    assert_runs(graph)
    assert all(48 not in shape for shape in shapes_of(graph))


def test_branches_are_written_side_by_side() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 9, 7, 12))
        return tail(b, join(b, relu(b, conv(b, x, 16)), relu(b, conv(b, x, 40, 3))))

    program = assert_runs(graph_of(make))
    assert len(calls(program)) == 3 and not copies(program)


def test_layers_that_read_all_before_them_share_one_buffer() -> None:
    def make(b: GraphBuilder) -> Value:
        parts = [conv(b, b.input("x", f32(1, 6, 6, 8)), 16)]
        for _ in range(3):
            seen = join(b, *parts) if len(parts) > 1 else parts[0]
            normal = relu(b, b.add("mul", seen, weights(b, int(seen.shape[-1]))))  # type: ignore[arg-type]
            parts.append(conv(b, normal, 20, 3))
        return tail(b, relu(b, b.add("mul", join(b, *parts), weights(b, 76))))

    graph = graph_of(make)
    assert not has_concat(graph)
    arena = assert_runs(graph).program.arena_bytes
    assert isinstance(arena, int)
    # All of the block, one normalised copy and what rounding to cache lines adds.
    assert arena <= 4 * 36 * (76 + 76) + 4 * 76 + 4 * 64


def test_a_part_with_other_readers_is_read_in_place() -> None:
    """A skip connection: pooled, added to, flattened in an elementwise kernel, and concatenated."""

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        x = b.input("x", f32(2, 8, 8, 16))
        skip = relu(b, conv(b, x, 32, 3))
        window: dict[str, Any] = {
            "window": (1, 2, 2, 1), "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 1)
        }  # fmt: skip
        zeros = (0, 0, 0, 0)
        pooled = b.add("reduce_window", skip, op="max", lo=zeros, hi=zeros, **window)
        root = b.add("sqrt", b.add("abs", b.add("exp", skip)))
        total = b.add("reduce", skip, op="sum", axes=(3,), keepdims=False)
        mean = b.add("reduce", skip, op="sum", axes=(1, 2), keepdims=True)
        wide = relu(b, conv(b, x, 16))
        return tail(b, join(b, wide, skip)), conv(b, pooled, 8, 3), root, total, mean

    assert not has_concat(graph_of(make))


def test_windows_depthwise_convolutions_and_products_write_parts() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 6, 6, 32))
        window: dict[str, Any] = {
            "window": (1, 3, 3, 1), "strides": (1, 1, 1, 1), "dilations": (1, 1, 1, 1)
        }  # fmt: skip
        pads = (0, 1, 1, 0)
        pooled = b.add("reduce_window", x, op="max", lo=pads, hi=pads, **window)
        deep = conv(b, x, 32, 3, groups=32)
        flat = b.add("matmul", b.add("reshape", x, shape=(36, 32)), weights(b, 32, 24))
        made = b.add("reshape", flat, shape=(1, 6, 6, 24))
        return tail(b, join(b, pooled, made, deep))

    assert not has_concat(graph_of(make))


def test_symbolic_rows_are_written_in_place() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(N, 5, 6, 8))
        return tail(b, join(b, conv(b, x, 16), relu(b, conv(b, x, 17, 3))))

    program = assert_runs(graph_of(make), {"N": 1}, {"N": 3})
    assert not any("concat" in c.kernel for c in calls(program))


@pytest.mark.parametrize("why", ["result", "input", "narrow", "twice", "viewed", "grouped"])
def test_what_cannot_be_written_in_place_is_copied(why: str) -> None:
    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        x = b.input("x", f32(1, 4, 4, 16))
        a = relu(b, conv(b, x, 12 if why == "narrow" else 32, groups=2 if why == "grouped" else 1))
        other = {"input": x, "twice": a}.get(why, relu(b, conv(b, x, 16)))
        both = join(b, a, other)
        if why == "result":
            return both
        if why == "viewed":
            flat = b.add("reshape", a, shape=(4, 128))
            return tail(b, both), b.add("matmul", flat, weights(b, 128, 4))
        return tail(b, both)

    assert has_concat(graph_of(make))


# ------------------------------------------------------------------ single functions


def doubled(*shape: int) -> Func:
    """y = x + x over buffers of one shape."""
    x, y = (Buffer(n, dt.f32, shape) for n in "xy")
    loops = tuple(Var(f"i{k}") for k in range(len(shape)))
    body: tuple[Store | For, ...] = (Store(y, loops, Load(x, loops) + Load(x, loops)),)
    for v, n in reversed(list(zip(loops, shape, strict=True))):
        body = (For(v, n, body),)
    return Func("doubled", (x, y), body)


def test_rows_become_longer_and_keep_their_columns() -> None:
    func = write_wide(doubled(5, 4), "y", 4, 10)
    assert func is not None
    check(func)
    x, y = RNG.standard_normal((5, 4)).astype(np.float32), np.zeros((5, 10), np.float32)
    interpret(func, {"x": x, "y": y})
    np.testing.assert_array_equal(y[:, :4], x + x)
    assert not y[:, 4:].any()


def test_columns_that_are_split_stay_so() -> None:
    func = write_wide(doubled(3, 2, 4), "y", 8, 12)
    assert func is not None and func.params[1] == Buffer("y", dt.f32, (3, 3, 4))


@pytest.mark.parametrize(("shape", "width"), [((20,), 10), ((5, 2, 4), 18), ((2, 10), 8)])
def test_rows_that_are_merged_or_split_elsewhere_are_refused(
    shape: tuple[int, ...], width: int
) -> None:
    assert write_wide(doubled(*shape), "y", 8, width) is None


def test_rows_can_be_copied_into_longer_ones() -> None:
    group = copy_rows(Buffer("a", dt.f32, (3, 4)), Buffer("b", dt.f32, (3, 9)))
    func = to_func(group).func
    check(func)
    a, b = RNG.standard_normal((3, 4)).astype(np.float32), np.zeros((3, 9), np.float32)
    interpret(func, {"a": a, "b": b})
    np.testing.assert_array_equal(b[:, :4], a)
    assert not b[:, 4:].any()


@pytest.mark.parametrize("flat", [True, False])
def test_elementwise_kernels_write_parts(flat: bool) -> None:
    """One whose loops are one is followed by a copy of its own."""

    def make(b: GraphBuilder) -> Value:
        x, y = b.input("x", f32(1, 6, 7, 32)), b.input("y", f32(1, 6, 7, 32))
        made = b.add("exp", b.add("sub", x, y if flat else weights(b, 32)))
        return tail(b, join(b, conv(b, x, 16), made))

    program = assert_runs(graph_of(make))
    assert not any("concat" in c.kernel for c in calls(program))
    assert any("copy" in c.kernel for c in calls(program)) == flat


def test_elementwise_kernels_on_both_sides_of_a_concat_are_one_with_it() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 6, 7, 32))
        both = join(b, b.add("exp", x), b.add("sqrt", b.add("abs", x)))
        return b.add("add", both, weights(b, 64))

    assert len(calls(assert_runs(graph_of(make)))) == 1


def test_parts_of_parts_lie_in_the_widest_concat() -> None:
    def make(b: GraphBuilder) -> Value:
        x, y, z = (b.input(n, f32(2, k)) for n, k in (("x", 3), ("y", 4), ("z", 5)))
        return join(b, join(b, x, y), b.add("reshape", z, shape=(2, 5)))

    graph = graph_of(make)
    x, y, z = graph.inputs
    parts = find_parts(graph)
    assert [parts[v].start for v in (x, y, z)] == [0, 3, 7]
    assert {p.width for p in parts.values()} == {12}


# ------------------------------------------------------------------ slabs


def test_slabs_are_written_into_a_result() -> None:
    """The caches of several layers, each of which is read, too, stacked twice over."""

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        past = b.input("past", f32(2, 2, 1, 3, 6, 16))
        new = b.input("new", f32(3, 1, 16))
        read, stacked = [], []
        for layer in range(2):
            pair = []
            for k in range(2):
                starts = tuple(map(as_expr, (layer, k, 0, 0, 0, 0)))
                old = b.add("slice", past, starts=starts, sizes=(1, 1, 1, 3, 6, 16), steps=(1,) * 6)
                old = b.add("reshape", old, shape=(3, 6, 16))
                grown = b.add("concat", old, b.add("add", new, old_row(b, old)), axis=1)
                read.append(b.add("exp", grown))
                pair.append(b.add("reshape", grown, shape=(1, 1, 3, 7, 16)))
            both = b.add("concat", *pair, axis=0)
            stacked.append(b.add("reshape", both, shape=(1, 2, 1, 3, 7, 16)))
        return (*read, b.add("concat", *stacked, axis=0))

    def old_row(b: GraphBuilder, old: Value) -> Value:
        return b.add("reduce", old, op="max", axes=(1,), keepdims=True)

    graph = graph_of(make)
    program = assert_runs(graph)
    assert not copies(program)
    held = {t.storage for c in calls(program) for t in c.args if isinstance(t, Tensor)}
    size = 3 * 7 * 16 * 4
    assert {OutputStorage(4, k * size) for k in range(4)} <= held


def test_slabs_lie_in_scratch_memory_where_their_concat_is_read() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(1, 5, 16))
        both = b.add("concat", conv1(b, x), conv1(b, x), axis=1)
        return conv1(b, both)

    def conv1(b: GraphBuilder, x: Value) -> Value:
        return b.add("matmul", x, weights(b, 16, 16))

    program = assert_runs(graph_of(make))
    assert len(calls(program)) == 3 and not copies(program)


@pytest.mark.parametrize("case", ["result", "twice", "input", "rows", "symbolic", "elementwise"])
def test_other_concats_along_outer_axes_have_a_kernel(case: str) -> None:
    """A part is a result, too; is there twice; is an input; they alternate; of unknown size."""

    def make(b: GraphBuilder) -> Value | tuple[Value, ...]:
        lead = 2 if case == "rows" else 1
        x = b.input("x", f32(lead, N if case == "symbolic" else 5, 16))
        y = b.add("exp" if case == "elementwise" else "matmul", *(
            (x,) if case == "elementwise" else (x, weights(b, 16, 16))
        ))  # fmt: skip
        z = x if case == "input" else y if case == "twice" else b.add("exp", x)
        if case not in ("input", "twice", "elementwise"):
            z = b.add("matmul", x, weights(b, 16, 16))
        both = b.add("concat", y, z, axis=1)
        return (both, y) if case == "result" else both

    sizes = [{"N": 4}] if case == "symbolic" else []
    program = assert_runs(graph_of(make), *sizes)
    assert any("concat" in c.kernel for c in calls(program))


def test_slabs_of_slabs_begin_in_the_widest_concat() -> None:
    def make(b: GraphBuilder) -> Value:
        x, y, z = (b.input(n, f32(1, k, 4)) for n, k in (("x", 3), ("y", 4), ("z", 5)))
        inner = b.add("concat", x, y, axis=1)
        return b.add("concat", b.add("reshape", z, shape=(1, 5, 4)), inner, axis=1)

    graph = graph_of(make)
    x, y, z = graph.inputs
    slabs = find_slabs(graph)
    assert [slabs[v].offset for v in (z, x, y)] == [0, 80, 128]
    assert {s.whole for s in slabs.values()} == set(graph.outputs)
