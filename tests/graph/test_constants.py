"""Constant data: dense copies, and mapped weights that leave memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tilewright.graph.constants import (
    copy_view,
    dense,
    forget_files,
    forget_pages,
    mapped_files,
)


def resident(path: Path) -> int:
    """The kB of a file's mappings that are in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()
        if "-" in head[0] and ":" not in head[0]:
            inside = head[-1] == str(path)
        elif inside and head[0] == "Rss:":
            total += int(head[1])
    return total


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    np.arange(1 << 18, dtype=np.float32).tofile(path)
    return path


def test_dense_copies_only_what_is_not_row_major() -> None:
    array = np.arange(600, dtype=np.float32).reshape(2, 300)
    assert dense(array) is array
    turned = dense(array.T)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, array.T)


def test_pages_of_a_mapped_file_leave_memory_and_keep_their_values(weights: Path) -> None:
    mapped = np.memmap(weights, np.float32, "r")
    part = mapped[1000:-1000].reshape(2, -1).T
    before = part.copy()
    assert resident(weights) >= 1000
    forget_pages(part)
    assert resident(weights) <= 8
    np.testing.assert_array_equal(part, before)


def test_private_changes_to_a_mapping_are_never_forgotten(weights: Path) -> None:
    mapped = np.memmap(weights, np.float32, "c")
    mapped[:] = 7
    mapped.flags.writeable = False
    forget_pages(mapped[5:])
    assert (mapped == 7).all()


def test_arrays_in_plain_memory_are_left_alone() -> None:
    array = np.arange(10)
    forget_pages(array[::2])
    forget_pages(np.array(3, np.float32))
    forget_pages(np.empty((0, 3)))
    np.testing.assert_array_equal(array, np.arange(10))


@pytest.mark.parametrize("shape", [(), (0, 3), (7, 1), (300, 5, 260), (1, 3, 1500, 1000)])
@pytest.mark.parametrize("by_blocks", [True, False])
def test_views_are_copied_whatever_their_order(shape: tuple[int, ...], by_blocks: bool) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    swapped = array.swapaxes(0, -2) if len(shape) > 2 else array
    for view in (array, array.T, array[::-1] if shape else array, swapped):
        out = np.empty(view.shape, np.float32)
        copy_view(out, view, by_blocks=by_blocks)
        np.testing.assert_array_equal(out, view)


def test_large_copies_are_whole_on_more_cpus_than_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    array = np.arange(3 * (1 << 21), dtype=np.float32).reshape(3, -1)
    for view in (array, array[:, ::-1]):
        out = np.empty(view.shape, np.float32)
        copy_view(out, view)
        np.testing.assert_array_equal(out, view)


@pytest.mark.parametrize("cpus", [1, 3])
def test_a_large_file_leaves_memory_as_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    path = tmp_path / "large"
    np.arange(5 << 20, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r")
    rows = mapped.reshape(80, 256, 256)
    turned = np.lib.stride_tricks.as_strided(mapped, rows.shape, (1 << 18, 4, 1 << 10))
    columns = mapped.reshape(1 << 10, -1).T
    panels = mapped.reshape(1 << 10, 40, 128).transpose(1, 0, 2)
    for view in (rows, rows[::-1], turned, rows[None], columns, panels):
        out = np.empty(view.shape, np.float32)
        copy_view(out, view)
        assert resident(path) <= 128
        np.testing.assert_array_equal(out, view)
        forget_pages(mapped)


def test_what_is_read_again_and_again_stays_while_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    np.arange(5 << 20, dtype=np.float32).tofile(path)
    windows = sliding_window_view(np.memmap(path, np.float32, "r"), 4)
    forgotten: list[np.ndarray] = []
    monkeypatch.setattr("tilewright.graph.constants.forget_pages", forgotten.append)
    out = np.empty(windows.shape, np.float32)
    copy_view(out, windows)
    assert not forgotten
    np.testing.assert_array_equal(out, windows)


def test_a_file_leaves_memory_whole_and_is_named_once(weights: Path) -> None:
    mapped = np.memmap(weights, np.float32, "r")
    files = mapped_files([mapped[10:20].reshape(2, 5), np.ones(3), mapped[1 << 17 :]])
    assert len(files) == 1
    total = float(mapped.sum())
    assert resident(weights) > 900
    forget_files(files)
    assert resident(weights) == 0
    assert float(mapped.sum()) == total


def test_files_that_can_be_written_are_not_forgotten(weights: Path) -> None:
    assert mapped_files([np.memmap(weights, np.float32, "c")]) == []
