"""Tasks and ways to lower them, good and bad, that the tests of the search share."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace

from tilewright import dtype as dt
from tilewright.autotune.task import Task
from tilewright.errors import ScheduleError
from tilewright.lower.alone import Alone, lower_alone
from tilewright.target import Target
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import Axis, Cast, Const, Dim, Reduce, Var

from ..schedule.groups import AVX512, matmul

WEIGHTS = frozenset({"x1", "x2"})
CRASH, HANG, WRONG, SLOW, REFUSE = 3, 4, 5, 6, 7
"""Heights of tiles that the bad ways to lower do not survive."""


def product(target: Target = AVX512, rows: Dim = 8, calls: int = 1, **sizes: int) -> Task:
    """relu(x @ w + b) with weights that are known."""
    return Task(matmul(rows, 32, 32), WEIGHTS, target, "fast", "product", calls, sizes)


def lower_badly(
    group: ComputeGroup,
    fixed: frozenset[str],
    target: Target,
    math: str,
    given: Mapping[str, int],
) -> Alone:
    """Lowers well but for some heights of tiles, of which each has something else wrong."""
    match given.get("mr"):
        case 3:
            os.abort()
        case 4:
            time.sleep(3600)
        case 7:
            raise ScheduleError("this height is refused", code="TW-E0701")
        case 5:
            # The same interface, other values: the bias is added twice.
            (stage,) = group.stages
            bias = next(b for b in group.inputs if b.name == "x2")
            doubled = replace(stage, expr=stage.expr + bias[stage.axes[1].var])
            group = replace(group, stages=(doubled,))
        case 6:
            # The same values, and a long sum of almost nothing.
            (stage,) = group.stages
            many = Axis(Var("many"), 1 << 20)
            little = Cast(many.var, dt.f32) * Const(1e-30, dt.f32)
            longer = replace(stage, expr=stage.expr + Reduce("sum", (many,), little))
            group = replace(group, stages=(longer,))
    return lower_alone(group, fixed, target, math, given)
