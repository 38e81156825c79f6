"""Every recipe computes what its group says, for static and symbolic sizes, at all widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.lower.inline import lower_body
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import to_func
from tilewright.lower.pack import pack_array
from tilewright.schedule.nest import loops
from tilewright.schedule.recipes import kind_of, schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.schedule.recipes.tile_plan import nested
from tilewright.target import Target
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.evaluate import evaluate as value_of
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer, If, Prefetch, symbol
from tilewright.tensor.simplify import evaluate, product
from tilewright.tensor.walk import allocations, statements

from .groups import (
    AVX2,
    AVX512,
    SSE,
    add,
    arg_max,
    attention,
    conv,
    matmul,
    max_pool,
    softmax,
    transpose,
)

N, S = symbol("N"), symbol("S")
WEIGHTS = frozenset({"x1", "x2"})


def shape_of(b: Buffer, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(d, dims) for d in b.shape)


def assert_scheduled_equals_group(
    group: ComputeGroup,
    target: Target = AVX512,
    constants: frozenset[str] = frozenset(),
    recipe: str | None = None,
    **dims: int,
) -> None:
    done = schedule(to_func(merge_axes(group), constants), target)
    check(done.func)
    assert recipe is None or done.recipe == recipe
    rng = np.random.default_rng(0)
    given = {
        b.name: rng.standard_normal(shape_of(b, dims)).astype(b.dtype.numpy) for b in group.inputs
    }
    expected = interpret_group(group, given, dims)
    memory: dict[str, np.ndarray] = {}
    for p in done.func.params:
        if isinstance(p, Buffer):
            source = given.get(p.name)
            empty = np.zeros(shape_of(p, dims), p.dtype.numpy)
            memory[p.name] = empty if source is None else source.reshape(shape_of(p, dims))
    for packing in done.packings:
        memory[packing.packed.name] = pack_array(packing, given[packing.source.name])
    interpret(done.func, memory, dims)
    for b in group.outputs:
        got, want = memory[b.name].ravel(), np.asarray(expected[b.name]).ravel()
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("constants", [WEIGHTS, frozenset()], ids=["packed", "unpacked"])
@pytest.mark.parametrize("shape", [(16, 24, 100), (1, 7, 3), (5, 1, 16), (13, 9, 65), (3, 4, 0)])
def test_matmul_tiles(
    shape: tuple[int, int, int], constants: frozenset[str], target: Target
) -> None:
    assert_scheduled_equals_group(matmul(*shape), target, constants)


@pytest.mark.parametrize("rows", [1, 2, 6, 7, 8, 15])
def test_matmul_with_symbolic_rows_is_right_above_and_below_one_tile(rows: int) -> None:
    assert_scheduled_equals_group(matmul(N, 16, 48), AVX512, WEIGHTS, "tile", N=rows)


@pytest.mark.parametrize(
    "shape",
    [(9, 4, 20, 3, 1, 1), (17, 3, 20, 5, 2, 2), (8, 4, 40, 1, 1, 0), (5, 4, 20, 7, 2, 3),
     (3, 2, 4, 3, 1, 1), (30, 2, 33, 3, 1, 1), (12, 5, 7, 3, 3, 0)],
)  # fmt: skip
@pytest.mark.parametrize("target", [AVX512, AVX2], ids=lambda t: t.name)
def test_convolution_tiles_with_edges_of_their_own(
    shape: tuple[int, int, int, int, int, int], target: Target
) -> None:
    assert_scheduled_equals_group(conv(*shape), target, WEIGHTS, "tile")


@pytest.mark.parametrize("size", [1, 5, 8, 20, 33])
def test_convolution_over_a_symbolic_image(size: int) -> None:
    assert_scheduled_equals_group(conv(N, 3, 20, 3, 1, 1), AVX512, WEIGHTS, "tile", N=size)


@pytest.mark.parametrize("shape", [(9, 20, 3, 2, 1), (8, 16, 2, 2, 0), (7, 33, 3, 1, 1)])
def test_max_pool_tiles(shape: tuple[int, int, int, int, int]) -> None:
    assert_scheduled_equals_group(max_pool(*shape), AVX512, frozenset(), "tile")


@pytest.mark.parametrize(("rows", "columns"), [(5, 100), (1, 1), (3, 64), (2, 200)])
def test_softmax_is_one_kernel_of_rows(rows: int, columns: int) -> None:
    assert_scheduled_equals_group(softmax(rows, columns), recipe="rows" if columns > 1 else None)
    assert_scheduled_equals_group(softmax(N, S), recipe="rows", N=rows, S=columns)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "shape", [(3, 13, 70, 5, 33), (2, 6, 64, 8, 64), (2, 1, 17, 4, 3), (1, 20, 2, 3, 130)]
)
def test_attention_is_one_kernel(shape: tuple[int, int, int, int, int], target: Target) -> None:
    assert_scheduled_equals_group(attention(*shape), target, recipe="chain")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 70), (5, 3), (6, 64), (7, 65), (20, 9)])
def test_attention_over_symbolic_rows_and_columns(rows: int, columns: int) -> None:
    group = attention(2, N, S, 4, 24)
    assert_scheduled_equals_group(group, AVX512, recipe="chain", N=rows, S=columns)


@pytest.mark.parametrize(("keys", "last"), [(128, None), (197, 16), (130, 16), (50, None)])
def test_the_last_scores_of_attention_fill_no_more_vectors_than_there_are_keys(
    keys: int, last: int | None
) -> None:
    choices = Choices({"mr": 6, "nr": 64, "score_nr": 64})
    nests = to_func(merge_axes(attention(2, 24, keys, 16, 64)))
    func = schedule(nests, AVX512, choices).func
    tiles = {b.name: b.shape[-1] for b in allocations(func.body) if b.name.startswith("r0")}
    assert tiles == {"r0": 64} | ({} if last is None else {"r0_b0": last})


def test_attention_keeps_only_a_block_of_scores_on_the_stack() -> None:
    limit = symbol("T", 1, 1 << 20)
    func = schedule(to_func(merge_axes(attention(2, N, limit, 4, 24))), AVX512).func
    (branch,) = func.body
    assert isinstance(branch, If)
    sizes = {"T": 1 << 20, "N": 99}
    tall, short = (
        max(evaluate(product(b.shape), sizes) for b in allocations(block))
        for block in (branch.then, branch.orelse)
    )
    assert short == 1 << 20
    height, rest = divmod(tall, short)
    assert rest == 0
    assert 1 < height < 15
    assert not value_of(branch.cond, {limit: 1 << 20, N: 99})
    assert value_of(branch.cond, {limit: 1000, N: height})
    assert not value_of(branch.cond, {limit: 1000, N: height - 1})


def test_arg_max_takes_the_first_of_equals() -> None:
    assert_scheduled_equals_group(arg_max(4, 37))


@pytest.mark.parametrize("shape", [(4, 5, 6), (1,), (64,), (2, 4097), (1000, 3)])
def test_elementwise_covers_every_element(shape: tuple[int, ...]) -> None:
    assert_scheduled_equals_group(add(*shape), recipe="elementwise")


@pytest.mark.parametrize("rows", [1, 5, 6, 11])
def test_elementwise_with_symbolic_rows(rows: int) -> None:
    assert_scheduled_equals_group(add(N, 768), recipe="elementwise", N=rows)


@pytest.mark.parametrize(("rows", "columns"), [(9, 33), (40, 70), (33, 64), (100, 5), (16, 130)])
@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_transpose_is_elementwise(rows: int, columns: int, target: Target) -> None:
    assert_scheduled_equals_group(transpose(rows, columns), target, recipe="elementwise")
    assert_scheduled_equals_group(transpose(N, S), target, N=rows, S=columns)


def test_transpose_walks_along_the_lines_of_its_operand() -> None:
    func = schedule(to_func(merge_axes(transpose(128, 768))), AVX512).func
    _, along, vector = loops(func.body)
    assert (along.extent, vector.extent, vector.kind) == (64, 32, "vector")


def test_pointwise_convolution_becomes_one_matrix_product() -> None:
    nests = to_func(merge_axes(conv(8, 4, 40, 1, 1, 0)))
    assert [a.extent for a in nests.axes] == [64, 40]
    assert kind_of(nests) == "tile"


def test_large_nests_are_shared_among_threads_and_small_ones_are_not() -> None:
    large = schedule(to_func(merge_axes(add(1000, 1000))), AVX512).func
    small = schedule(to_func(merge_axes(add(10, 10))), AVX512).func
    assert any(x.kind == "parallel" for x in loops(large.body))
    assert not any(x.kind == "parallel" for x in loops(small.body))


@pytest.mark.parametrize(
    ("shape", "shared"),
    [((48, 64, 48), False), ((64, 64, 64), True), ((1, 64, 64), False), ((1, 768, 512), True)],
)
def test_products_are_shared_by_their_time(shape: tuple[int, int, int], shared: bool) -> None:
    """Small ones take the time of their multiply-adds, those of one row that of their weights."""
    done = schedule(to_func(merge_axes(matmul(*shape)), WEIGHTS), AVX512)
    assert any(x.kind == "parallel" for x in loops(done.func.body)) == shared


@pytest.mark.parametrize(("fma", "tile"), [(True, (4, 24)), (False, (3, 24))])
def test_a_tile_of_sixteen_registers_leaves_room_for_products_that_need_it(
    fma: bool, tile: tuple[int, int]
) -> None:
    group = matmul(128, 64, 768)
    done = schedule(to_func(group, WEIGHTS), replace(AVX2, fma=fma))
    kept = {b.shape for b in allocations(done.func.body) if b.scope == "register"}
    assert kept == {tile}


@pytest.mark.parametrize(("columns", "width"), [(1024, 64), (256, 128)])
def test_a_row_times_what_comes_from_beyond_l2_takes_narrow_panels(
    columns: int, width: int
) -> None:
    group = matmul(1, 512, columns)
    done = schedule(to_func(group, frozenset(("x1",))), AVX512)
    (packing,) = done.packings
    assert packing.packed.shape[-1] == width


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_one_row_reads_far_panels_in_several_places_within_the_registers(target: Target) -> None:
    small = replace(target, l2_bytes=64 << 10)
    group, constants = matmul(1, 96, 200), frozenset({"x1"})
    done = schedule(to_func(group, constants), small)
    (apart,) = (args for name, args in done.recording.steps if name == "run_apart")
    (packing,) = done.packings
    width, places = packing.packed.shape[-1], apart[1]
    assert isinstance(width, int) and isinstance(places, int) and places >= 3
    assert places * width <= target.lanes(32) * (target.vector_registers - 4)
    assert_scheduled_equals_group(group, small, constants)


@pytest.mark.parametrize("rows", [2, 5, 7])
def test_a_few_rows_read_far_panels_in_several_places(rows: int) -> None:
    small = replace(AVX512, l2_bytes=64 << 10)
    group, constants = matmul(rows, 96, 200), frozenset({"x1"})
    done = schedule(to_func(group, constants), small)
    sums = [b.shape for b in allocations(done.func.body) if len(b.shape) == 3]
    assert [(n, m) for n, m, _ in sums] == [(4, rows)]
    assert_scheduled_equals_group(group, small, constants)


@pytest.mark.parametrize("shape", [(1, 64, 512), (8, 768, 1000), (1, 769, 1000)])
def test_other_products_run_in_one_place(shape: tuple[int, int, int]) -> None:
    """Those whose panels stay near, that use a panel for many rows, or of a depth without parts."""
    done = schedule(to_func(matmul(*shape), frozenset(("x1",))), AVX512)
    assert "run_apart" not in {name for name, _ in done.recording.steps}


def test_what_comes_from_afar_is_asked_for_before_its_tile() -> None:
    """Rows that are much of L2, and all that is more than L2; nothing where all stays in L1."""
    far, much, near = matmul(8192, 256, 64), matmul(768, 256, 64), matmul(32, 256, 64)
    weights = matmul(128, 256, 640)
    names = [
        {
            x.buffer.name
            for x in statements(schedule(nests, AVX512).func.body)
            if isinstance(x, Prefetch)
        }
        for nests in (to_func(merge_axes(g), WEIGHTS) for g in (far, much, near, weights))
    ]
    assert names == [{"x0", "y0"}, {"x0"}, set(), {"x0", "x1_packed"}]


@pytest.mark.parametrize(("shape", "outer"), [((256, 256, 64), "k"), ((128, 256, 640), "k_o")])
def test_rows_that_leave_l1_are_asked_for_a_line_ahead(
    shape: tuple[int, int, int], outer: str
) -> None:
    """Within their own tile, whether or not its reduction is cut for hints at the next panel."""
    group = matmul(*shape)
    done = schedule(to_func(group, WEIGHTS), AVX512)
    (asked,) = (args for name, args in done.recording.steps if name == "prefetch_rows")
    assert asked[1:5] == ("x0", outer, 1, 16)
    assert_scheduled_equals_group(group, AVX512, WEIGHTS)


@pytest.mark.parametrize(("planar", "order"), [(False, "kh kw ci"), (True, "ci kh kw")])
def test_what_lies_far_apart_is_reduced_outside(planar: bool, order: str) -> None:
    """An image in planes is read tap by tap within each plane."""
    b = GraphBuilder("body")
    x = b.input("x", TensorType(dt.f32, (1, 3, 20, 20) if planar else (1, 20, 20, 3)))
    x = b.add("transpose", x, perm=(0, 2, 3, 1)) if planar else x
    w = b.input("w", TensorType(dt.f32, (5, 5, 3, 16)))
    y = b.add("conv", x, w, strides=(2, 2), lo=(0, 0), hi=(0, 0), dilations=(1, 1), groups=1)
    b.output(y, "y")
    group = lower_body("group", b.finish()).group
    (reduction,) = to_func(group).reductions
    assert [a.var.name for a in nested(reduction)] == order.split()
    assert_scheduled_equals_group(group, constants=frozenset({"x1"}))
