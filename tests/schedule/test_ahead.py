"""Hints at the next panel change no result, and together cover the panel."""

from __future__ import annotations

import re

import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.ahead import prefetch_panel, prefetch_rows
from tilewright.schedule.nest import simplify_func
from tilewright.tensor.ir import Block, Expr, For, Func, If, Prefetch, Var, as_expr
from tilewright.tensor.simplify import evaluate as dim_value

from .alike import assert_alike, nest


def product(depth: int) -> Func:
    return nest(f"""
        def f(A: f32[12, {depth}], W: f32[3, {depth}, 4], B: f32[12, 12]):
            for p in serial(36):
                t: register[f32, 4]
                for j0 in vector(4):
                    t[j0] = 0.0
                for k in serial({depth}):
                    for j1 in vector(4):
                        t[j1] = t[j1] + A[p % 12, k] * W[p // 12, k, j1]
                for j2 in vector(4):
                    B[p % 12, p // 12 * 4 + j2] = t[j2]""")


def hints(block: Block, env: dict[Var, int]) -> list[tuple[int, ...]]:
    """The indices of all hints, as they are run."""
    found: list[tuple[int, ...]] = []
    for stmt in block:
        match stmt:
            case For():
                first = int(dim_value(stmt.start, {v.name: n for v, n in env.items()}))
                count = int(dim_value(stmt.extent, {v.name: n for v, n in env.items()}))
                for i in range(first, first + count):
                    found += hints(stmt.body, {**env, stmt.var: i})
            case Prefetch():
                found.append(tuple(value(i, env) for i in stmt.indices))
            case If():
                raise AssertionError("no branches here")
    return found


def value(e: Expr, env: dict[Var, int]) -> int:
    return int(dim_value(as_expr(e), {v.name: n for v, n in env.items()}))


@pytest.mark.parametrize(("depth", "turns", "rows"), [(32, 4, 2), (35, 4, 2), (12, 12, 1)])
def test_hints_change_nothing(depth: int, turns: int, rows: int) -> None:
    before = product(depth)
    assert_alike(before, prefetch_panel(before, "k", "W", "p", 0, turns, rows))


def test_the_runs_of_a_panel_hint_at_all_of_the_next() -> None:
    after = simplify_func(prefetch_panel(product(24), "k", "W", "p", 0, 12, 2))
    seen = hints(after.body, {})
    for panel in range(1, 4):
        assert {x[1:] for x in seen if x[0] == panel} == {
            (k, j) for k in range(24) for j in range(4)
        }
    assert len(seen) == len(set(seen))


def test_prefetch_panel_refuses_what_has_no_panel() -> None:
    before = product(24)
    for loop, buffer, message in (
        ("k", "B", "read in 0 ways"),
        ("j1", "A", "does not vary"),
        ("j1", "W", "constant extent of 8 or more"),
    ):
        with pytest.raises(ScheduleError, match=re.escape(message)):
            prefetch_panel(before, loop, buffer, "p", 0, 4, 2)


@pytest.mark.parametrize(("depth", "line"), [(32, 16), (12, 4)])
def test_hints_at_later_rows_change_nothing(depth: int, line: int) -> None:
    before = product(depth)
    after = prefetch_rows(before, "k", "A", "p", 1, line, ())
    assert_alike(before, after)
    seen = hints(simplify_func(after).body, {})
    assert seen == [((p + 1) % 12, k) for p in range(36) for k in range(0, depth, line)]


def test_hints_at_the_next_lines_of_rows_change_nothing() -> None:
    before = product(32)
    after = prefetch_rows(before, "k", "A", "k", 1, 16, ())
    assert_alike(before, after)
    seen = hints(simplify_func(after).body, {})
    assert seen == [(p % 12, k) for p in range(36) for k in (16, 32)]


def test_prefetch_rows_refuses_a_part_of_a_line() -> None:
    with pytest.raises(ScheduleError, match="no multiple of 16"):
        prefetch_rows(product(24), "k", "A", "p", 1, 16, ())
