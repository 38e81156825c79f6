"""Vectors that hold several groups of a convolution: when, and what they compute."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.lower.kernels import KernelTable
from tilewright.lower.merge import divides_columns, merge_axes
from tilewright.lower.nests import to_func
from tilewright.lower.pack import pack_array
from tilewright.schedule.nests import Nests
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.schedule.recipes.groups import find_groups, group_costs
from tilewright.schedule.recipes.tile_plan import plan, worth_joining
from tilewright.target import Target
from tilewright.tensor.check import check
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Buffer

from .groups import AVX2, AVX512, SSE, conv, grouped_conv

WEIGHTS = frozenset({"x1", "x2"})


def numbers(b: Buffer) -> tuple[int, ...]:
    return tuple(d for d in b.shape if isinstance(d, int))


def joined(groups: int, channels: int, columns: int, k: int = 3, stride: int = 1) -> Nests:
    """A convolution whose columns are one axis."""
    group = grouped_conv(10, groups, channels, columns, k, stride)
    return to_func(merge_axes(group, split=False), WEIGHTS)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "shape",
    [
        (8, 4, 4, 3, 1), (4, 8, 8, 3, 1), (16, 2, 2, 3, 2), (8, 2, 4, 1, 1), (8, 8, 4, 3, 1),
        (32, 1, 2, 5, 2), (8, 4, 8, 3, 2),
    ],
)  # fmt: skip
def test_joined_groups_compute_what_the_convolution_says(
    shape: tuple[int, int, int, int, int], target: Target
) -> None:
    groups, channels, columns, k, stride = shape
    group = grouped_conv(10, groups, channels, columns, k, stride)
    done = schedule(joined(*shape), target)
    check(done.func)
    assert done.recipe == "tile"
    rng = np.random.default_rng(0)
    given = {b.name: rng.standard_normal(numbers(b)).astype(np.float32) for b in group.inputs}
    (expected,) = interpret_group(group, given, {}).values()
    memory = dict(given)
    for p in done.func.params:
        assert isinstance(p, Buffer)
        source = given.get(p.name)
        memory[p.name] = np.zeros(numbers(p), np.float32)
        if source is not None:
            memory[p.name] = source.reshape(numbers(p))
    for packing in done.packings:
        memory[packing.packed.name] = pack_array(packing, given[packing.source.name])
    interpret(done.func, memory, {})
    np.testing.assert_allclose(memory["y0"].ravel(), expected.ravel(), rtol=2e-5, atol=2e-5)


def test_groups_of_few_channels_are_joined_where_a_vector_holds_several() -> None:
    assert worth_joining(joined(32, 4, 4), AVX512) is True
    assert worth_joining(joined(32, 8, 8), AVX512) is True
    assert worth_joining(joined(32, 4, 4), AVX2) is True


def test_groups_that_fill_vectors_stay_apart() -> None:
    # A vector holds one group, or groups do not fill it.
    assert worth_joining(joined(32, 16, 16), AVX512) is None
    assert worth_joining(joined(8, 4, 4), SSE) is None
    assert worth_joining(joined(16, 3, 3), AVX512) is None
    # Twenty columns are no whole vectors.
    assert worth_joining(joined(5, 4, 4), AVX512) is None


def test_only_columns_that_come_in_groups_divide_their_axis() -> None:
    assert divides_columns(grouped_conv(10, 4, 4, 4, 3, 1))
    assert not divides_columns(conv(10, 4, 16, 3, 1, 1))


def test_values_of_a_group_are_found_with_the_axis_along_which_rows_share_them() -> None:
    t = plan(joined(8, 4, 4), AVX512, Choices())
    assert t.groups is not None and t.row is not None
    assert (t.groups.width, t.groups.stride) == (4, 4)
    assert [a.var.name for a in t.groups.inner] == ["ci"]
    assert t.groups.tap is not None and t.groups.tap.var.name == "kw"
    assert find_groups(t.main, None) is not None


def test_a_tile_leaves_registers_for_weights_and_values_that_rows_share() -> None:
    t = plan(joined(32, 4, 4), AVX2, Choices())
    assert t.groups is not None
    costs = group_costs(t.groups, t.row, t.column, AVX2)
    assert max(mr * nr // 8 for mr, nr in costs) <= AVX2.vector_registers - 1 - 6


@pytest.mark.parametrize("answer", [0, 1])
def test_joining_is_a_question_of_the_space(answer: int) -> None:
    group = grouped_conv(10, 8, 4, 4, 3, 1)
    table = KernelTable(AVX512, answers=lambda _, __: {"join_groups": answer})
    table.compile(group, WEIGHTS, "conv")
    (decided,) = table.decided
    assert decided.asked["join_groups"] == ((0, 1), answer)
    (kernel,) = table.kernels.values()
    assert len(kernel.func.params[-1].shape) == (3 if answer else 4)  # type: ignore[union-attr]
