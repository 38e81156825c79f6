"""Panels of factors that are no constants are copied where rows lie far apart, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tilewright as tw
from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.lower.nests import to_func
from tilewright.schedule.nests import Nests
from tilewright.schedule.recipes import schedule
from tilewright.schedule.recipes.choices import Choices
from tilewright.schedule.recording import Recording
from tilewright.tensor.check import check
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import For, If, symbol
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


def test_rows_run_in_blocks_whose_count_their_tiles_do_not_divide() -> None:
    """134 tiles of 6 rows: blocks of a divisor, 2 tiles, would read all panels again for each."""
    group = matmul(799, 1536, 512)
    done = schedule(nests_of(group, "x1"), AVX512, Choices({"mr": 6, "nr": 64}))
    (outer,) = done.func.body
    assert isinstance(outer, For) and isinstance(outer.extent, int)
    blocks, left = divmod(outer.extent, 8)
    (tiles,) = (x.extent for x in outer.body if isinstance(x, For))
    assert left == 0 and isinstance(tiles, int)
    assert tiles > 5 and 134 <= blocks * tiles <= 134 * 1.05


M, K, N = map(symbol, "MKN")


def test_sizes_that_are_not_known_choose_whether_panels_are_copied() -> None:
    done = schedule(nests_of(matmul(M, K, N)), AVX512)
    (outer,) = done.func.body
    assert isinstance(outer, If)
    assert "512 <= N and 64 <= K and K <= 2048 and 48 <= M" in text(done.func)
    assert "panel: local[f32, K, 64]" in text(done.func)
    again = Recording.from_json(done.recording.json())
    assert again == done.recording
    assert text(again.replay(nests_of(matmul(M, K, N)).func)[0]) == text(done.func)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(50, 65, 520), (50, 63, 520), (7, 65, 520), (3, 65, 520), (50, 65, 500)]
)
def test_every_version_computes_the_product(m: int, k: int, n: int) -> None:
    b = GraphBuilder("product")
    x, w = b.input("x", TensorType(dt.f32, (M, K))), b.input("w", TensorType(dt.f32, (K, N)))
    b.output(b.add("matmul", x, w), "y")
    made = tw.compile(b.finish(), threads=2, cache=False)
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-4, 5, size).astype(np.float32) for size in ((m, k), (k, n)))
    (found,) = made(left, right)
    np.testing.assert_array_equal(found, left @ right)
