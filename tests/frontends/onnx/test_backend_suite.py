"""The onnx package's own backend suite: a ratchet that never falls.

Every listed case passes, in native code and by the interpreter; every other case is refused with
its reason. None is wrong, none crashes, none hangs.
"""

from __future__ import annotations

import pytest

from .backend_suite import PASSING, Result, Selection, passing, run_cases

CASES = 2024
PARTS = 3
"""Parts run in processes of their own, so that two cores share the work of a long test."""


def assert_passes_what_is_listed(results: list[Result]) -> None:
    bad = [f"{r.case}: {r.outcome}: {r.detail}" for r in results if r.outcome in ("wrong", "crash")]
    assert not bad, "\n".join(bad)
    passed = {r.case for r in results if r.outcome == "pass"}
    lost = [
        f"{r.case}: {r.detail}" for r in results if r.case in passing() and r.case not in passed
    ]
    assert not lost, "\n".join(lost)
    new = passed - passing()
    assert not new, f"run backend_suite.py --update to add {len(new)} cases to {PASSING.name}"
    assert all(r.detail for r in results if r.outcome == "refused")


@pytest.mark.parametrize("part", range(PARTS))
def test_native_code_passes_every_listed_case(part: int) -> None:
    results = run_cases(Selection((), part, PARTS), "native")
    assert len(results) >= CASES // PARTS
    assert_passes_what_is_listed(results)


def test_the_interpreter_passes_every_listed_case() -> None:
    results = run_cases(Selection(), "interpret")
    assert len(results) >= CASES
    assert_passes_what_is_listed(results)


def test_no_more_cases_are_listed_than_there_are() -> None:
    assert len(passing()) <= CASES
