"""A factor that is computed once leaves the same result, and only what is computed is kept."""

from __future__ import annotations

import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.keep import keep_factor
from tilewright.tensor.ir import Func, Store
from tilewright.tensor.walk import statements

from .alike import assert_alike, nest


def product(factor: str, rows: int | str = 3) -> Func:
    symbol = f", {rows}: symbol(1)" if isinstance(rows, str) else ""
    return nest(f"""
        def f(A: f32[{rows}, 4], W: f32[4, 5], B: f32[{rows}, 5]{symbol}):
            t: local[f32, {rows}, 5]
            for i0 in serial({rows}):
                for j0 in serial(5):
                    t[i0, j0] = 0.0
            for i in serial({rows}):
                for j in serial(5):
                    for k in serial(4):
                        t[i, j] = t[i, j] + {factor}
            for i1 in serial({rows}):
                for j1 in serial(5):
                    B[i1, j1] = t[i1, j1]""")


@pytest.mark.parametrize("factor", ["(A[i, k] + 2.0) * W[k, j]", "W[k, j] * (A[i, k] * A[i, k])"])
def test_a_kept_factor_changes_nothing(factor: str) -> None:
    before = product(factor)
    after = keep_factor(before, "t", "j", "a")
    assert_alike(before, after)
    kept = [s for s in statements(after.body) if isinstance(s, Store) and s.buffer.name == "a"]
    assert [s.buffer.shape for s in kept] == [(3, 4)]


def test_a_kept_factor_has_rows_of_any_number() -> None:
    before = product("(A[i, k] + 2.0) * W[k, j]", "N")
    assert_alike(before, keep_factor(before, "t", "j", "a"), N=6)


@pytest.mark.parametrize("factor", ["A[i, k] * W[k, j]", "(A[i, k] + W[k, j]) * W[k, j]"])
def test_keep_factor_refuses_what_is_no_factor_of_its_own(factor: str) -> None:
    with pytest.raises(ScheduleError, match="no nest adds products"):
        keep_factor(product(factor), "t", "j", "a")
