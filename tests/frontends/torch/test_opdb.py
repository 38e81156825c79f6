"""torch's own operator database: a ratchet that never falls.

Every listed sample passes, or is refused with an error that has a code; none is wrong, crashes or
hangs. A few samples of each operator run here; all of them where the environment variable
TILEWRIGHT_TEST_OPDB is ``all``, or by ``python -m tests.frontends.torch.opdb``.
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch's operator database needs it")

from .opdb import run
from .opdb_ratchet import Key, Result, lost, read_ratchet, write_ratchet

PARTS = 2
"""Parts run in processes of their own, so that two cores share the work of a long test."""

JUDGED = ("pass", "refused")


def assert_keeps_the_ratchet(keys: list[Key]) -> None:
    results = run(keys)
    gone = [f"{r.key}: {r.outcome}: {r.detail}" for r in lost(results, read_ratchet())]
    assert not gone, "\n".join(gone)
    assert all(r.detail for r in results if r.outcome != "pass")


def one_of_each_operator() -> list[Key]:
    """A sample of each operator, another place and type from one operator to the next."""
    judged = [k for k, outcome in read_ratchet().items() if outcome in JUDGED]
    chosen = []
    for number, (_, group) in enumerate(groupby(judged, key=lambda k: k.op)):
        keys = list(group)
        chosen.append(keys[number * 7 % len(keys)])
    return chosen


@pytest.mark.parametrize("part", range(PARTS))
def test_a_sample_of_each_operator_keeps_its_outcome(part: int) -> None:
    keys = one_of_each_operator()[part::PARTS]
    assert len(keys) > 200
    assert_keeps_the_ratchet(keys)


@pytest.mark.skipif(
    os.environ.get("TILEWRIGHT_TEST_OPDB") != "all",
    reason="takes an hour; set TILEWRIGHT_TEST_OPDB=all",
)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_sample_keeps_its_outcome(part: int) -> None:
    assert_keeps_the_ratchet(list(read_ratchet())[part::PARTS])


def test_two_thirds_of_what_torch_exports_pass_and_nothing_is_wrong() -> None:
    counts = Counter(read_ratchet().values())
    assert counts["wrong"] == counts["crash"] == 0
    assert counts["pass"] >= 0.65 * (counts["pass"] + counts["refused"])


def test_the_ratchet_reads_what_it_writes(tmp_path: Path) -> None:
    outcomes = {Key("add", "f32", place): "pass" for place in (0, 1, 2, 5)}
    outcomes |= {Key("add", "f32", 3): "refused", Key("add.out", "bool", 4): "random"}
    path = tmp_path / "ratchet.txt"
    write_ratchet(outcomes, path)
    assert read_ratchet(path) == outcomes
    assert "add f32: pass 0-2,5; refused 3" in path.read_text()


def test_what_passed_and_what_is_wrong_is_lost() -> None:
    before = {Key("add", "f32", place): "pass" for place in range(3)}
    results = [
        Result(Key("add", "f32", 0), "pass"),
        Result(Key("add", "f32", 1), "refused", "a gap"),
        Result(Key("new", "f32", 0), "crash", "a signal"),
        Result(Key("new", "f32", 1), "refused", "a gap"),
    ]
    assert [r.key.place for r in lost(results, before)] == [1, 0]
