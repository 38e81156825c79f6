"""A loop that ends early computes the same, and what it reads is computed for no more than that."""

from __future__ import annotations

import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.narrow import narrow
from tilewright.schedule.nest import find_loop
from tilewright.tensor.ir import Func
from tilewright.tensor.walk import allocations

from .alike import assert_alike, nest


def tile(bound: int, reader: str = "s[i]", after: str = "") -> Func:
    return nest(f"""
        def f(A: f32[8, 64], B: f32[64], C: f32[64]):
            s: register[f32, 64]
            for z in vector(64):
                s[z] = 0.0
            for k in serial(8):
                for j in vector(64):
                    s[j] = s[j] + A[k, j]
            for i in vector(64):
                if i < {bound}:
                    B[i] = {reader}
            {after}""")


@pytest.mark.parametrize(("bound", "used"), [(1, 16), (16, 16), (17, 32), (48, 48)])
def test_a_loop_ends_at_the_last_vector_that_it_uses(bound: int, used: int) -> None:
    before = tile(bound)
    after = narrow(before, "i", 16)
    assert_alike(before, after)
    assert [find_loop(after, name, "test").extent for name in "zji"] == [used] * 3
    assert [b.shape for b in allocations(after.body)] == [(used,)]


@pytest.mark.parametrize("bound", [0, 49, 64])
def test_narrow_refuses_a_loop_that_leaves_out_no_vector_or_all(bound: int) -> None:
    with pytest.raises(ScheduleError, match="does something in"):
        narrow(tile(bound), "i", 16)


def test_narrow_refuses_to_leave_out_what_something_else_reads() -> None:
    after = "for c in vector(64):\n                C[c] = s[c]"
    with pytest.raises(ScheduleError, match="something else needs all of 's'"):
        narrow(tile(21, after=after), "i", 16)


def test_narrow_leaves_what_is_read_elsewhere_in_a_row_as_it_is() -> None:
    before = tile(21, reader="s[i] + s[63 - i]")
    with pytest.raises(ScheduleError, match="something else needs all of 's'"):
        narrow(before, "i", 16)


def test_narrow_keeps_temporaries_of_another_length() -> None:
    before = tile(21, reader="A[0, i]")
    after = narrow(before, "i", 16)
    assert_alike(before, after)
    assert [b.shape for b in allocations(after.body)] == [(64,)]
