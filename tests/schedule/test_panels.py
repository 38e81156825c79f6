"""Panels of factors that are no constants are copied where rows lie far apart, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright.lower.nests import to_func
from tilewright.schedule.nests import Nests
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import For
from tilewright.tensor.text import text

from .groups import AVX512, matmul

SMALL = replace(AVX512, l2_bytes=1 << 17)
"""A machine whose L2 makes blocks of rows of small products."""


def nests_of(group: ComputeGroup, *constants: str) -> Nests:
    return to_func(group, frozenset(constants))


@pytest.mark.parametrize(
    ("sizes", "constants", "copied"),
    [
        ((480, 64, 512), (), True),
        ((500, 64, 530), (), True),
        ((480, 64, 500), (), False),  # rows of 2000 bytes
        ((480, 63, 512), (), False),  # few rows
        ((12, 64, 512), (), False),  # few tiles would use a copy
        ((480, 64, 512), ("x1",), False),  # packed when the code is made
    ],
)
def test_a_panel_is_copied_where_its_rows_lie_far_apart(
    sizes: tuple[int, int, int], constants: tuple[str, ...], copied: bool
) -> None:
    done = schedule(nests_of(matmul(*sizes), *constants), SMALL)
    assert ("panel: local" in text(done.func)) is copied


def test_a_choice_leaves_the_factor_where_it_is() -> None:
    choices = Choices({"copy_panels": 0})
    done = schedule(nests_of(matmul(480, 64, 512)), SMALL, choices)
    assert "panel" not in text(done.func)
    assert choices.asked["copy_panels"] == ((0, 1), 0)


def test_a_panel_is_copied_once_for_all_row_tiles() -> None:
    done = schedule(nests_of(matmul(480, 64, 512)), SMALL)
    (outer,) = done.func.body
    assert isinstance(outer, For)
    panels, rows = 8, 80
    assert outer.extent == panels
    assert [x.extent for x in outer.body if isinstance(x, For)] == [64, rows]


def test_rows_are_cut_in_blocks_where_panels_are_too_few_to_share() -> None:
    done = schedule(nests_of(matmul(480, 64, 512)), SMALL, Choices({"mr": 4, "nr": 128}))
    (outer,) = done.func.body
    assert isinstance(outer, For)
    assert outer.extent == 8
    assert [x.extent for x in outer.body if isinstance(x, For)] == [64, 60]


@pytest.mark.parametrize("answers", [{}, {"mr": 4, "nr": 128}])
def test_the_copy_computes_the_product(answers: dict[str, int]) -> None:
    group = matmul(500, 64, 530)
    done = schedule(nests_of(group), SMALL, Choices(answers))
    check(done.func)
    assert "panel: local" in text(done.func)
    rng = np.random.default_rng(0)
    given = {
        b.name: rng.integers(-4, 5, tuple(map(int, b.shape))).astype(np.float32)  # type: ignore[arg-type]
        for b in (*group.inputs, *group.outputs)
    }
    expected = interpret_group(group, given)
    interpret(done.func, given)
    np.testing.assert_array_equal(given["y0"], expected["y0"])
