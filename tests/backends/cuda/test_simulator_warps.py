"""Exchanges within a warp, matrix instructions and atomics, each against a plain formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilewright.backends.cuda.simulator import SimulationError

from .instruction import Array, Case, across, values

ALL = "0xffffffff"


def lanes(count: int = 256) -> Array:
    return np.arange(count, dtype=np.uint32)


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane to read and whether it is in range, step by step as the PTX manual says."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & mask) | (cval & ~mask)
    min_lane = lane & mask
    if mode == "up":
        j = lane - bval
        inside = j >= max_lane
    elif mode == "down":
        j = lane + bval
        inside = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        inside = j <= max_lane
    else:
        j = min_lane | (bval & ~mask)
        inside = j <= max_lane
    return (j if inside else lane), inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8])
def test_shuffles_read_the_lane_of_the_manual(mode: str, width: int) -> None:
    given = values(32, count=235)
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    for b in (0, 1, 3, 8, 16, 31):
        text = f"shfl.sync.{mode}.b32 %d|%e, %a, {b}, {clamp}, {ALL}"
        found, inside = across(Case(text, (32, 1), (32,)), [given[:256]])
        for at in range(256):
            lane, there = shuffled(mode, at % 32, b, clamp)
            assert found[at] == given[at - at % 32 + lane]
            assert bool(inside[at]) == there


def test_shuffles_take_a_lane_for_each_lane() -> None:
    given = [
        values(32, count=235)[:256],
        np.random.default_rng(0).integers(0, 32, 256).astype(np.uint32),
    ]
    (found,) = across(Case(f"shfl.sync.idx.b32 %d, %a, %b, 31, {ALL}", (32,), (32, 32)), given)
    np.testing.assert_array_equal(found, given[0][lanes() // 32 * 32 + given[1]])


def test_votes() -> None:
    given = np.random.default_rng(1).integers(0, 3, 256).astype(np.uint32)
    given[:32], given[32:64] = 0, 1
    text = ".reg .pred %s; setp.ne.u32 %s, %a, 0; "
    rows = given.reshape(-1, 32) != 0
    for mode, expected in (
        ("all", rows.all(1)),
        ("any", rows.any(1)),
        ("uni", rows.all(1) | ~rows.any(1)),
    ):
        (found,) = across(Case(text + f"vote.sync.{mode}.pred %d, %s, {ALL}", (1,), (32,)), [given])
        np.testing.assert_array_equal(found.reshape(-1, 32), np.repeat(expected[:, None], 32, 1))
    (found,) = across(Case(text + f"vote.sync.ballot.b32 %d, !%s, {ALL}", (32,), (32,)), [given])
    for at in range(256):
        assert int(found[at]) == sum(1 << i for i in range(32) if not rows[at // 32, i])


def test_match_finds_equal_values() -> None:
    given = np.random.default_rng(2).integers(0, 5, 256).astype(np.uint32)
    given[:32] = 7
    (found,) = across(Case(f"match.any.sync.b32 %d, %a, {ALL}", (32,), (32,)), [given])
    rows = given.reshape(-1, 32)
    for at in range(256):
        row = rows[at // 32]
        assert int(found[at]) == sum(1 << i for i in range(32) if row[i] == given[at])
    text = f"match.all.sync.b32 %d|%e, %a, {ALL}"
    mask, agree = across(Case(text, (32, 1), (32,)), [given])
    np.testing.assert_array_equal(mask[:32], 0xFFFFFFFF)
    np.testing.assert_array_equal(mask[32:], 0)
    np.testing.assert_array_equal(agree, np.arange(256) < 32)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add.u32", lambda x: x.sum(1)),
        ("min.u32", lambda x: x.min(1)),
        ("max.s32", lambda x: x.view(np.int32).max(1)),
        ("min.s32", lambda x: x.view(np.int32).min(1)),
        ("and.b32", lambda x: np.bitwise_and.reduce(x, axis=1)),
        ("or.b32", lambda x: np.bitwise_or.reduce(x, axis=1)),
        ("xor.b32", lambda x: np.bitwise_xor.reduce(x, axis=1)),
    ],
)
def test_redux_reduces_a_warp(name: str, function: Callable[[Array], Array]) -> None:
    given = values(32, count=235)[:256]
    (found,) = across(Case(f"redux.sync.{name} %d, %a, {ALL}", (32,), (32,)), [given])
    expected = function(given.reshape(-1, 32)).astype(np.int64) & 0xFFFFFFFF
    np.testing.assert_array_equal(found.reshape(-1, 32), np.repeat(expected[:, None], 32, 1))


def test_redux_by_halves_of_a_warp() -> None:
    given = [lanes(), np.where(lanes() % 32 < 16, 0xFFFF, 0xFFFF0000).astype(np.uint32)]
    (found,) = across(Case("redux.sync.add.u32 %d, %a, %b", (32,), (32, 32)), given)
    np.testing.assert_array_equal(
        found.reshape(-1, 16), np.repeat(lanes().reshape(-1, 16).sum(1)[:, None], 16, 1)
    )


def test_elect_and_activemask() -> None:
    text = f"elect.sync %d|%e, {ALL}; activemask.b32 %f"
    leader, chosen, active = across(Case(text, (32, 1, 32), (32,)), [lanes()])
    np.testing.assert_array_equal(leader, 0)
    np.testing.assert_array_equal(chosen, lanes() % 32 == 0)
    np.testing.assert_array_equal(active, 0xFFFFFFFF)


def test_a_lane_outside_its_mask_is_refused() -> None:
    with pytest.raises(SimulationError, match="not in its own mask") as caught:
        across(Case("shfl.sync.idx.b32 %d, %a, 0, 31, 0x0000ffff", (32,), (32,)), [lanes()])
    assert caught.value.code == "TW-E1009"
