"""Records know a kernel by what it computes, for which machine, and by nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from tilewright import dtype as dt
from tilewright.autotune.search import setting_of, work_of
from tilewright.autotune.task import Task
from tilewright.tensor.ir import symbol

from ..schedule.groups import AVX2, AVX512, conv, matmul
from .groups import product


def test_the_names_of_symbols_do_not_count() -> None:
    tasks = [replace(product(rows=symbol(name)), sizes={name: 4}) for name in ("N", "batch", "B")]
    assert len({t.key for t in tasks}) == 1
    assert len({setting_of(t, 1) for t in tasks}) == 1


OTHERS = {
    "sizes": product(rows=16),
    "a symbol": product(rows=symbol("N"), N=8),
    "the range of a symbol": product(rows=symbol("N", 1, 64), N=8),
    "the target": product(AVX2),
    "caches": product(replace(AVX512, l2_bytes=1 << 20)),
    "math": replace(product(), math="strict"),
    "what is known": replace(product(), fixed=frozenset({"x1"})),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_difference_makes_another_kernel(what: str) -> None:
    assert OTHERS[what].key != product().key


def test_title_calls_and_sizes_do_not_count() -> None:
    n = symbol("N")
    assert replace(product(rows=n, N=4), title="other", calls=7, sizes={"N": 9}).key == (
        product(rows=n, N=4).key
    )


def test_another_process_knows_a_task_by_the_same_key() -> None:
    task = product(rows=symbol("N", 1, 64), N=8)
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.key == task.key
    assert again.group.inputs[0].dtype is dt.f32


def test_the_setting_has_threads_and_sizes() -> None:
    assert setting_of(product(), 2) == "threads=2"
    assert setting_of(product(rows=symbol("N"), N=8), 1) == "threads=1 sizes=8"


def test_the_work_of_a_kernel_grows_with_its_loops() -> None:
    small, large = product(), product(rows=64)
    assert work_of(large) == 8 * work_of(small)
    assert work_of(replace(small, calls=3)) == 3 * work_of(small)
    group = conv(8, 4, 16, 3, 1, 1)
    assert work_of(Task(group, frozenset(), AVX512, "fast", "c", 1, {})) > 8 * 8 * 16 * 9 * 4
    assert work_of(Task(matmul(0, 4, 4), frozenset(), AVX512, "fast", "m", 1, {})) == 0
