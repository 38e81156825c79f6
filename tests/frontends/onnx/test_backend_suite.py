"""The onnx package's own backend suite, run by the interpreter: a ratchet that never falls."""

from __future__ import annotations

import pytest

from .backend_suite import PASSING, Result, all_cases, passing, run_cases


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run_cases(list(all_cases()), seconds=20.0)


def test_the_suite_has_all_its_cases(results: list[Result]) -> None:
    assert len(results) == len(all_cases()) >= 2024


def test_no_case_is_wrong_or_crashes(results: list[Result]) -> None:
    bad = [f"{r.case}: {r.outcome}: {r.detail}" for r in results if r.outcome in ("wrong", "crash")]
    assert not bad, "\n".join(bad)


def test_every_listed_case_passes(results: list[Result]) -> None:
    lost = passing() - {r.case for r in results if r.outcome == "pass"}
    assert not lost, "\n".join(sorted(lost))


def test_every_case_that_passes_is_listed(results: list[Result]) -> None:
    new = {r.case for r in results if r.outcome == "pass"} - passing()
    assert not new, f"run backend_suite.py --update to add {len(new)} cases to {PASSING.name}"


def test_every_refusal_names_its_nodes_and_reasons(results: list[Result]) -> None:
    assert all(r.detail for r in results if r.outcome == "refused")
