"""Parts of a reduction that run side by side compute what the whole does."""

from __future__ import annotations

import pytest

from tilewright.errors import ScheduleError
from tilewright.schedule.streams import run_apart
from tilewright.tensor.ir import Func

from .alike import assert_alike, nest


def product(op: str = "+") -> Func:
    first = {"+": "0.0", "max": "-inf"}[op]
    update = "t[i, j1] + A[i, k] * W[k, j1]" if op == "+" else "max(t[i, j1], A[i, k] * W[k, j1])"
    return nest(f"""
        def f(A: f32[3, 24], W: f32[24, 4], B: f32[3, 4]):
            t: register[f32, 3, 4]
            for i0 in unroll(3):
                for j0 in vector(4):
                    t[i0, j0] = {first}
            for k in serial(24):
                for i in unroll(3):
                    for j1 in vector(4):
                        if A[i, k] > 0.0:
                            t[i, j1] = {update}
            for i2 in unroll(3):
                for j2 in vector(4):
                    B[i2, j2] = t[i2, j2]""")


@pytest.mark.parametrize("op", ["+", "max"])
@pytest.mark.parametrize("count", [1, 4, 24])
def test_parts_together_are_the_whole(op: str, count: int) -> None:
    before = product(op)
    assert_alike(before, run_apart(before, "k", count, "p"))


@pytest.mark.parametrize(
    ("loop", "count", "why"),
    [
        ("k", 5, "no constant extent that 5 divides"),
        ("i", 3, "the accumulator is indexed by the loop"),
        ("j2", 2, "does not hold a single accumulation"),
    ],
)
def test_run_apart_refuses(loop: str, count: int, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        run_apart(product(), loop, count, "p")
