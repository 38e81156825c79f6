"""Jobs build schedules and compare their results and times with the untuned one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.autotune.data import agree, make_data
from tilewright.autotune.job import build, measure, time_base
from tilewright.autotune.task import Task
from tilewright.autotune.timing import LEAST_ROUNDS, pair
from tilewright.backends import load_backend
from tilewright.errors import ScheduleError
from tilewright.lower.alone import lower_alone
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.ir import Axis, Buffer, Var, symbol

from ..schedule.groups import conv, softmax
from .groups import REFUSE, SLOW, WRONG, lower_badly, product

NATIVE = load_backend("cpu").resolve("native")
GIVEN = [{}, {"mr": 2, "nr": 16}, {"rows_first": 0}, {"fission": 1}, {"recipe": 1}]


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_every_schedule_of_a_product_is_right(given: dict[str, int]) -> None:
    task = product(NATIVE, symbol("N"), N=9)
    base = build(task, lower_alone, {})
    candidate = pickle.loads(pickle.dumps(build(task, lower_alone, given)))
    found = measure(task, base, candidate, 1, 0.0)
    assert found.agrees, found.note
    assert found.ratio > 0
    assert found.kind == "measured"


@pytest.mark.parametrize("form", [0, 2, 4])
def test_every_form_of_a_convolution_is_right(form: int) -> None:
    group = conv(14, 16, 32, 3, 1, 1)
    task = Task(group, frozenset({"x1", "x2"}), NATIVE, "fast", "conv", 1, {})
    base = build(task, lower_alone, {})
    candidate = build(task, lower_alone, {"winograd.form": form})
    assert candidate.lowered.asked["winograd.form"][1] == form
    assert measure(task, base, candidate, 1, 0.0).agrees


def test_wrong_values_are_found() -> None:
    task = product(NATIVE)
    base = build(task, lower_badly, {})
    found = measure(task, base, build(task, lower_badly, {"mr": WRONG}), 1, 0.0)
    assert not found.agrees
    assert "y0: differs by" in found.note
    assert found.ratio == 0


def test_a_candidate_that_is_very_slow_is_called_once() -> None:
    task = product(NATIVE)
    base = build(task, lower_badly, {})
    found = measure(task, base, build(task, lower_badly, {"mr": SLOW}), 1, 10.0)
    assert found.agrees
    assert found.ratio > 20
    assert found.rounds == 1


def test_a_schedule_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ScheduleError, match="refused"):
        build(product(NATIVE), lower_badly, {"mr": REFUSE})


def test_the_untuned_schedule_is_timed_alone() -> None:
    task = Task(softmax(20, 33), frozenset(), NATIVE, "fast", "softmax", 1, {})
    found = time_base(task, build(task, lower_alone, {}), 1, 0.0)
    assert found.seconds > 0
    assert found.ratio == 1


def test_answers_that_are_no_options_are_left_aside_together() -> None:
    task = product(NATIVE)
    asked = build(task, lower_alone, {"mr": 1 << 20, "nr": 16}).lowered.asked
    usual = build(task, lower_alone, {}).lowered.asked
    assert asked == usual


# ------------------------------------------------------------------ data


def test_what_is_used_as_an_index_is_inside() -> None:
    n = Var("n")
    table, index = Buffer("x0", dt.f32, (3,)), Buffer("x1", dt.i64, (5,))
    other, y = Buffer("x2", dt.i64, (5,)), Buffer("y0", dt.f32, (5,))
    value = table[index[n]] + table[0]
    stage = Compute(y, (Axis(n, 5),), value)
    group = ComputeGroup("g", (table, index, other), (y,), (stage,))
    data = make_data(Task(group, frozenset(), NATIVE, "fast", "g", 1, {}))
    assert not data["x1"].any()
    assert data["x2"].any()
    assert data["x0"].any()


def test_data_is_the_same_at_every_call() -> None:
    task = product(NATIVE, symbol("N"), N=7)
    first, second = make_data(task), make_data(task)
    assert first["x0"].shape == (7, 32)
    assert first["N_size"].shape == (7, 0)
    assert all(np.array_equal(first[k], second[k]) for k in first)


F, I = (Buffer("y", t, (4,)) for t in (dt.f32, dt.i32))  # noqa: E741


@pytest.mark.parametrize(
    ("a", "b", "buffer", "same"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4 + 1e-5], F, True),
        ([1, 2, 3, 4], [1, 2, 3, 4.01], F, False),
        ([1, np.nan, 3, 4], [1, np.nan, 3, 4], F, True),
        ([1, np.nan, 3, 4], [1, 2, 3, 4], F, False),
        ([1, np.inf, 3, 4], [1, -np.inf, 3, 4], F, False),
        ([0, 0, 0, 0], [0, 0, 0, 0], F, True),
        ([1, 2, 3, 4], [1, 2, 3, 5], I, False),
        ([1, 2, 3, 4], [1, 2, 3, 4], I, True),
    ],
)
def test_results_agree_within_their_type(
    a: list[float], b: list[float], buffer: Buffer, same: bool
) -> None:
    x, y = (np.array(v, buffer.dtype.numpy) for v in (a, b))
    assert (not agree([x], [y], [buffer])) == same


# ------------------------------------------------------------------ timing


def test_both_contenders_are_called_equally_often_in_turns() -> None:
    calls: list[str] = []
    found = pair(lambda: calls.append("a"), lambda: calls.append("b"), 0.0)
    assert found.rounds == LEAST_ROUNDS
    assert calls.count("a") > LEAST_ROUNDS < calls.count("b")
