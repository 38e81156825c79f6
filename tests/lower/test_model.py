"""From graphs to programs: views, repeated and passed-through results, control flow, symbols."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright
from tilewright import dtype as dt
from tilewright.backends.cpu.target import resolve_target
from tilewright.graph.build import GraphBuilder
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.graph.passes import run_passes
from tilewright.lower.kernels import GroupCode, KernelTable
from tilewright.lower.model import ConstantEntry, Lowered, fill_constants, filling, lower_graph
from tilewright.runtime.check import check as check_program
from tilewright.runtime.program import CallKernel, CopyTensor, LoopStep, walk_steps
from tilewright.tensor.ir import Dim, Func, symbol

from .bodies import f32, random_inputs

N, T = symbol("N", 1, 64), symbol("T")
COND = TensorType(dt.bool_, ())


def graph_of(make: Callable[[GraphBuilder], Value | tuple[Value, ...]]) -> Graph:
    builder = GraphBuilder("model")
    made = make(builder)
    for k, v in enumerate(made if isinstance(made, tuple) else (made,)):
        builder.output(v, f"out{k}")
    return builder.finish()


def lowered(graph: Graph) -> Lowered:
    target = resolve_target("native")
    return lower_graph(run_passes(graph, target), target)


def assert_runs(graph: Graph, *sizes: dict[str, int], **given: np.ndarray) -> Lowered:
    """Requires that native code computes the graph for every set of sizes."""
    program = lowered(graph)
    check_program(program.program)
    exe = tilewright.compile(graph, cache=False, threads=2)
    for size in sizes or ({},):
        arrays = {**random_inputs(graph, size), **given}
        results = exe(*(arrays[v.name] for v in graph.inputs))
        for got, want in zip(results, interpret(graph, arrays), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            if got.dtype.kind == "f":
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
            else:
                np.testing.assert_array_equal(got, want)
    return program


def calls(program: Lowered) -> list[CallKernel]:
    return [s for s in walk_steps(program.program.steps) if isinstance(s, CallKernel)]


def copies(program: Lowered) -> list[CopyTensor]:
    return [s for s in walk_steps(program.program.steps) if isinstance(s, CopyTensor)]


# ------------------------------------------------------------------ views and results


def test_a_reshape_between_kernels_moves_nothing() -> None:
    def make(b: GraphBuilder) -> Value:
        h = b.add("matmul", b.input("x", f32(4, 6)), b.input("w", f32(6, 10)))
        flat = b.add("reshape", h, shape=(8, 5))
        return b.add("matmul", flat, b.input("v", f32(5, 3)))

    assert not copies(assert_runs(graph_of(make)))


def test_a_reshaped_result_is_written_in_place() -> None:
    def make(b: GraphBuilder) -> Value:
        h = b.add("matmul", b.input("x", f32(4, 6)), b.input("w", f32(6, 10)))
        return b.add("reshape", h, shape=(2, 20))

    assert not copies(assert_runs(graph_of(make)))


def test_a_chain_of_reshapes_of_an_input_is_one_copy() -> None:
    def make(b: GraphBuilder) -> Value:
        h = b.add("reshape", b.input("x", f32(4, 6)), shape=(24,))
        return b.add("reshape", h, shape=(2, 12))

    assert len(copies(assert_runs(graph_of(make)))) == 1


def test_a_value_and_its_reshape_are_both_results() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        h = b.add("exp", b.input("x", f32(4, 6)))
        return h, b.add("reshape", h, shape=(24,)), b.add("reshape", h, shape=(3, 8))

    assert_runs(graph_of(make))


def test_an_input_is_a_result() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        x = b.input("x", f32(4, 6))
        return x, b.add("neg", x)

    assert_runs(graph_of(make))


def test_the_caller_owns_a_result_that_is_an_input() -> None:
    exe = tilewright.compile(graph_of(lambda b: b.input("x", f32(3))), cache=False)
    x = np.ones(3, np.float32)
    (y,) = exe(x)
    y[:] = 5
    assert (x == 1).all()


def test_a_constant_is_a_result() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        c = b.constant(np.arange(6, dtype=np.int64).reshape(2, 3))
        return c, b.input("x", f32(2))

    graph = graph_of(make)
    exe = tilewright.compile(graph, cache=False)
    for _ in range(2):
        y, _x = exe(np.zeros(2, np.float32))
        np.testing.assert_array_equal(y, np.arange(6).reshape(2, 3))
        y[:] = 0


def test_a_value_is_several_results() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        x = b.input("x", f32(4, 6))
        h = b.add("exp", x)
        return h, h, x, x, b.add("neg", h), h

    assert_runs(graph_of(make))


def test_a_result_is_read_by_others() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        h = b.add("matmul", b.input("x", f32(4, 6)), b.input("w", f32(6, 6)))
        return h, b.add("matmul", h, b.input("v", f32(6, 6)))

    assert_runs(graph_of(make))


def test_constants_are_placed_once() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)

    def make(b: GraphBuilder) -> Value:
        w = b.constant(weight)
        h = b.add("tanh", b.add("matmul", b.input("x", f32(4, 16)), w))
        return b.add("matmul", h, w)

    program = assert_runs(graph_of(make))
    assert len(program.constants) == 1


def test_alike_layers_call_one_kernel() -> None:
    rng = np.random.default_rng(0)

    def make(b: GraphBuilder) -> Value:
        h = b.input("x", f32(4, 16))
        for _ in range(5):
            w = b.constant(rng.standard_normal((16, 16)).astype(np.float32))
            h = b.add("tanh", b.add("matmul", h, w))
        return h

    program = assert_runs(graph_of(make))
    assert len(calls(program)) == 5 and len(program.kernels) == 1


# ------------------------------------------------------------------ symbols


def test_one_program_serves_all_sizes() -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(N, T, 8))
        h = b.add("matmul", x, b.constant(np.ones((8, 6), np.float32)))
        scores = b.add("matmul", h, b.add("transpose", h, perm=(0, 2, 1)))
        return b.add("exp", scores)

    sizes = [{"N": n, "T": t} for n, t in ((1, 1), (3, 5), (2, 17), (64, 2), (1, 33))]
    assert_runs(graph_of(make), *sizes)


def test_the_program_knows_only_symbols_that_it_uses() -> None:
    def make(b: GraphBuilder) -> Value:
        return b.add("exp", b.input("x", f32(N, 4)))

    assert [s.name for s in lowered(graph_of(make)).program.symbols] == ["N"]


def test_dims_of_inputs_become_values() -> None:
    def make(b: GraphBuilder) -> tuple[Value, ...]:
        b.input("x", f32(N, T))
        return b.add("dims", values=(N, T, N * T)), b.add("dim", value=T)

    assert_runs(graph_of(make), {"N": 3, "T": 5}, {"N": 1, "T": 1})


# ------------------------------------------------------------------ control flow


def branch(op: str, *shapes: tuple[Dim, ...]) -> Graph:
    """A binary op over its inputs."""
    b = GraphBuilder(op)
    x, y = (b.input(f"a{k}", f32(*s)) for k, s in enumerate(shapes))
    b.output(b.add(op, x, y))
    return b.finish()


@pytest.mark.parametrize("cond", [True, False])
def test_if_runs_the_branch_that_is_chosen(cond: bool) -> None:
    def make(b: GraphBuilder) -> Value:
        c, x, y = b.input("c", COND), b.input("x", f32(N, 4)), b.input("y", f32(N, 4))
        then, orelse = (branch(op, (N, 4), (N, 4)) for op in ("add", "mul"))
        return b.add("neg", b.add("if", c, x, y, then=then, orelse=orelse))

    assert_runs(graph_of(make), {"N": 1}, {"N": 5}, c=np.array(cond))


@pytest.mark.parametrize("cond", [True, False])
def test_a_branch_may_hand_back_what_it_is_given_twice_over(cond: bool) -> None:
    def passed(constant: bool) -> Graph:
        b = GraphBuilder("branch")
        x = b.input("x", f32(3))
        y = b.constant(np.ones(3, np.float32)) if constant else x
        b.output(y)
        b.output(x)
        b.output(y)
        return b.finish()

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        c, x = b.input("c", COND), b.input("x", f32(3))
        return b.add_many("if", c, x, then=passed(True), orelse=passed(False))

    assert_runs(graph_of(make), c=np.array(cond))


def recurrence(weight: np.ndarray | None, batch: Dim) -> Graph:
    """``h, x, w -> tanh(h @ w) + x, h * x``, the weight captured or a constant."""
    b = GraphBuilder("step")
    h, x = b.input("h", f32(batch, 6)), b.input("x", f32(batch, 6))
    w = b.input("w", f32(6, 6)) if weight is None else b.constant(weight)
    b.output(b.add("add", b.add("tanh", b.add("matmul", h, w)), x))
    b.output(b.add("mul", h, x))
    return b.finish()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("captured", [False, True])
def test_scan_carries_and_stacks(reverse: bool, captured: bool) -> None:
    weight = np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32)

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        given = [b.input("h", f32(N, 6)), b.input("xs", f32(T, N, 6))]
        if captured:
            given.append(b.input("w", f32(6, 6)))
        step = recurrence(None if captured else weight, N)
        return b.add_many("scan", *given, body=step, carried=1, scanned=1, reverse=reverse)

    program = assert_runs(graph_of(make), {"N": 1, "T": 1}, {"N": 3, "T": 7}, {"N": 2, "T": 4})
    assert any(isinstance(s, LoopStep) for s in walk_steps(program.program.steps))


def test_scan_hands_back_its_carry_and_rows_unchanged() -> None:
    def step() -> Graph:
        b = GraphBuilder("step")
        h, x = b.input("h", f32(4)), b.input("x", f32(4))
        b.output(x)
        b.output(h)
        b.output(x)
        return b.finish()

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        h, xs = b.input("h", f32(4)), b.input("xs", f32(5, 4))
        return b.add_many("scan", h, xs, body=step(), carried=1, scanned=1, reverse=False)

    assert_runs(graph_of(make))


def test_two_carries_may_change_places() -> None:
    def step() -> Graph:
        b = GraphBuilder("step")
        p, q, x = (b.input(n, f32(4)) for n in "pqx")
        b.output(q)
        b.output(b.add("add", p, x))
        b.output(p)
        return b.finish()

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        p, q, xs = b.input("p", f32(4)), b.input("q", f32(4)), b.input("xs", f32(5, 4))
        return b.add_many("scan", p, q, xs, body=step(), carried=2, scanned=1, reverse=False)

    assert_runs(graph_of(make))


def test_scan_inside_scan() -> None:
    def inner() -> Graph:
        b = GraphBuilder("inner")
        h, x = b.input("h", f32(3)), b.input("x", f32(3))
        total = b.add("add", h, x)
        b.output(total)
        b.output(b.add("exp", total))
        return b.finish()

    def outer() -> Graph:
        b = GraphBuilder("outer")
        h, rows = b.input("h", f32(3)), b.input("rows", f32(4, 3))
        last, all_ = b.add_many("scan", h, rows, body=inner(), carried=1, scanned=1, reverse=True)
        b.output(b.add("tanh", last))
        b.output(all_)
        return b.finish()

    def make(b: GraphBuilder) -> tuple[Value, ...]:
        h, xs = b.input("h", f32(3)), b.input("xs", f32(5, 4, 3))
        return b.add_many("scan", h, xs, body=outer(), carried=1, scanned=1, reverse=False)

    assert_runs(graph_of(make))


def test_weights_are_let_go_one_by_one_and_the_largest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = [np.full((n << 14, 16), n, np.float32) for n in (1, 4, 2)]
    alive = [weakref.ref(a) for a in arrays]
    entries = [
        ConstantEntry(offset, a.nbytes, a, None)
        for offset, a in zip((0, 1 << 20, 5 << 20), arrays, strict=True)
    ]
    del arrays
    held: list[int] = []

    def forget(array: np.ndarray) -> None:
        held.append(sum(ref() is not None for ref in alive))
        assert len(array) >> 14 == (4, 2, 1)[len(held) - 1]

    monkeypatch.setattr("tilewright.lower.model.forget_pages", forget)
    out = np.ones(7 << 20, np.uint8)
    fill_constants(entries, out)
    assert held == [3, 2, 1] and not entries
    packed = out.view(np.float32).reshape(7, -1)
    assert np.all(packed == np.array([[1], [4], [4], [4], [4], [2], [2]]))


def test_small_weights_leave_memory_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    np.arange(6 << 18, dtype=np.float32).tofile(file)
    mapped = np.memmap(file, np.float32, "r").reshape(12, -1)
    entries = [ConstantEntry(k << 19, 1 << 19, a, None) for k, a in enumerate(mapped)]
    left: list[int] = []

    def forget(files: Iterable[mmap.mmap]) -> None:
        assert len(list(files)) == 1
        left.append(len(entries))

    monkeypatch.setattr("tilewright.lower.model.forget_files", forget)
    out = np.ones(6 << 20, np.uint8)
    fill_constants(entries, out)
    assert left == [4] and not entries
    assert np.array_equal(out.view(np.float32), np.arange(6 << 18))


def test_constants_wait_one_by_one_for_whoever_wants_them_packed() -> None:
    sizes = (64, 256, 128)
    arrays = [np.full(n, n // 64, np.uint8) for n in sizes]
    alive = [weakref.ref(a) for a in arrays]
    entries = [
        ConstantEntry(offset, a.nbytes, a, None)
        for offset, a in zip((0, 64, 320), arrays, strict=True)
    ]
    del arrays
    out = np.zeros(sum(sizes), np.uint8)
    steps = filling(entries, out)
    assert next(steps) == 0 and not out.any()
    assert next(steps) == 256 - 128 and alive[1]() is None
    assert np.all(out[64:320] == 4) and len(entries) == 2
    assert list(steps) == [256 - 64] and not entries
    assert np.all(out[:64] == 1) and np.all(out[320:] == 2)


def test_constants_from_a_file_add_up_and_have_less_to_spare_each_time(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    np.arange(48, dtype=np.float32).tofile(file)
    mapped = np.memmap(file, np.float32, "r").reshape(3, 16)
    entries = [ConstantEntry(64 * k, 64, a, None) for k, a in enumerate(mapped)]
    assert list(filling(entries, np.zeros(192, np.uint8))) == [128, 64, 0]


# ------------------------------------------------------------------ kernels handed over


def test_kernels_are_handed_over_in_order_and_as_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(b: GraphBuilder) -> Value:
        # Parts of one whole are rewritten as rows of it, after they have become kernels.
        x = b.input("x", f32(1, 9, 9, 8))
        weights = [np.ones((k, k, 8, 24), np.float32) for k in (1, 3)]
        parts = [
            b.add("conv", x, b.constant(w), strides=(1, 1), lo=(p, p), hi=(p, p),
                  dilations=(1, 1), groups=1)
            for p, w in enumerate(weights)
        ]  # fmt: skip
        return b.add("exp", b.add("concat", *parts, axis=3))

    target = resolve_target("native")
    graph = run_passes(graph_of(make), target)
    handed: list[Func] = []
    groups: list[int] = []
    code = KernelTable.code

    def count(self: KernelTable, *args: Any) -> GroupCode:
        groups.append(len(handed))
        return code(self, *args)

    monkeypatch.setattr(KernelTable, "code", count)
    found = lower_graph(graph, target, take=handed.append)
    assert len(handed) > 2 and groups == sorted(set(groups))
    pairs = zip(handed, found.kernels.values(), strict=True)
    assert all(func is kernel.func for func, kernel in pairs)
