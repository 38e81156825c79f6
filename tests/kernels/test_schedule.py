"""Hand schedules: every step keeps what the nest computes, and what does not apply is refused."""

# Type checkers and linters take the dims in the annotations of kernels for types.
# mypy: disable-error-code="attr-defined, index, name-defined, no-untyped-call, no-untyped-def"
# mypy: disable-error-code="valid-type"
# ruff: noqa: F821, N803, UP037

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tilewright.kernels import KernelSchedule
from tilewright.schedule.schedule import STEPS
from tilewright.tensor.parse import parse_func
from tilewright.tensor.text import text


@tw.kernel
def gemm(A: tw.f32["M", "K"], B: tw.f32["K", "N"]):
    return tw.compute(lambda i, j: tw.sum(lambda k: A[i, k] * B[k, j]))


@tw.kernel
def softmax(X: tw.f32["N", "C"]):
    e = tw.compute(lambda i, c: np.exp(X[i, c] - tw.max(lambda k: X[i, k])), name="e")
    return tw.compute(lambda i, c: e[i, c] / tw.sum(lambda k: e[i, k]))


@tw.kernel
def blur(X: tw.f32["H", "W"]):
    def element(h: Any, w: Any, r: Any, s: Any) -> Any:
        y, x = h + r - 1, w + s - 1
        inside = (y >= 0) & (y < X.shape[0]) & (x >= 0) & (x < X.shape[1])
        return np.where(inside, X[y, x], 0.0)

    return tw.compute(
        lambda h, w: tw.sum(lambda r, s: element(h, w, r, s), over=(3, 3)), shape=X.shape
    )


def tiled(m: int, k: int, n: int, tail: Any = "exact", threads: int = 1) -> KernelSchedule:
    s = gemm.schedule(M=m, K=k, N=n, threads=threads)
    s.split("i", 4, "i0", "i1", tail).split("j", 32, "j0", "j1", tail)
    s.reorder("j0", "i0", "i1", "j1").compute_at("acc", "i0").set_scope("acc", "register")
    s.reorder("k", "acc_i", "acc_j").unroll("acc_init_i", "acc_i", "i1")
    return s.vectorize("acc_init_j", "acc_j", "j1").pack("B", "j0", "panel").parallel("j0")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(-8, 9, shape).astype(np.float32)


# ------------------------------------------------------------------ what steps keep


@pytest.mark.parametrize(("sizes", "tail"), [((8, 7, 64), "exact"), ((9, 5, 70), "shift"),
                                             ((9, 5, 70), "guard")])  # fmt: skip
@pytest.mark.parametrize("threads", [1, 2])
def test_a_scheduled_product_is_the_product(
    sizes: tuple[int, int, int], tail: str, threads: int
) -> None:
    m, k, n = sizes
    s = tiled(m, k, n, tail, threads).check()
    a, b = numbers(m, k), numbers(k, n)
    np.testing.assert_array_equal(s.build()(a, b), a @ b)


STEPS_OF: dict[str, Callable[[KernelSchedule], object]] = {
    "nothing": lambda s: s,
    "split": lambda s: s.split("acc_i", 5, tail="guard").split("j", 4, tail="peel"),
    "fuse": lambda s: s.fuse("i", "j", "ij").split("ij", 8, tail="shift").vectorize("ij_i"),
    "reorder": lambda s: s.reorder("k", "acc_j", "acc_i").reorder("j", "i"),
    "kinds": lambda s: s.parallel("i", "acc_i").vectorize("acc_init_j").unroll("k"),
    "peel": lambda s: s.peel("acc_i", 1, 2).peel("j", 1),
    "rfactor": lambda s: s.compute_at("acc", "j").rfactor("k", 4, "part"),
    "vectors of a sum": lambda s: s.compute_at("acc", "j").vectorize("k"),
    "prefetch": lambda s: s.prefetch("k", "B", 8),
    "cache_read": lambda s: s.split("k", 4, tail="guard").cache_read("A", "acc_i", "row"),
    "do": lambda s: s.do("set_kind", "i", "serial"),
}


@pytest.mark.parametrize("name", STEPS_OF)
def test_a_step_keeps_what_the_nest_computes(name: str) -> None:
    s = gemm.schedule(M=10, K=9, N=13)
    STEPS_OF[name](s)
    a, b = numbers(10, 9), numbers(9, 13)
    np.testing.assert_array_equal(s.check().build(threads=2)(a, b), a @ b)


def test_stages_are_computed_inside_rows_of_others() -> None:
    s = softmax.schedule(N=6)
    assert s.loops[0].startswith("acc_")
    s.compute_at("acc2", "i").compute_at("e", "i")
    s.check(C=11)
    assert "e: local[f32, 1, C]" in str(s)
    with pytest.raises(tw.ScheduleError, match="no largest size"):
        s.build()


def test_padding_becomes_the_bounds_of_loops() -> None:
    s = blur.schedule(H=9, W=20).compute_at("acc", "w").tighten("r").tighten("s")
    assert "select" not in str(s)
    x = numbers(9, 20)
    padded = np.pad(x, 1)
    want = sum(padded[r : r + 9, c : c + 20] for r in range(3) for c in range(3))
    np.testing.assert_array_equal(s.check().build()(x), want)


def test_sizes_may_stay_symbolic() -> None:
    s = gemm.schedule()
    s.split("j", 16, tail="guard").reorder("j_o", "i", "j_i").compute_at("acc", "i")
    s.set_scope("acc", "register").reorder("k", "acc_j")
    s.vectorize("acc_init_j", "acc_j", "j_i").parallel("j_o").check(M=3, K=4, N=21)
    fast = s.build(threads=2)
    for m, k, n in ((1, 1, 1), (7, 30, 45), (16, 16, 16)):
        a, b = numbers(m, k), numbers(k, n)
        np.testing.assert_array_equal(fast(a, b), a @ b)


def test_an_inlined_stage_is_computed_where_it_is_read() -> None:
    @tw.kernel
    def twice(X: tw.f32["N"]):
        y = tw.compute(lambda i: X[i] * 2, name="y")
        return tw.compute(lambda i: y[i] + y[0])

    s = twice.schedule(N=8)
    assert "y: local" in str(s)
    assert "y" not in str(s.inline("y").check()).partition(":\n")[2].replace("serial", "")


def test_the_nest_and_the_steps_print_and_are_read_again() -> None:
    s = tiled(8, 7, 64)
    assert parse_func(str(s)) == s.func
    again = gemm.schedule(M=8, K=7, N=64)
    for name, args in json.loads(s.json()):
        again.do(name, *args)
    assert str(again) == str(s)
    assert "s.split('i', 4, 'i0', 'i1', 'exact')" in s.steps


def test_every_step_of_recipes_on_cpus_has_a_method_of_its_name() -> None:
    cpu = {"split", "fuse", "reorder", "set_kind", "peel", "tighten", "specialise", "compute_at",
           "set_scope", "rfactor", "prefetch", "cache_read", "inline"}  # fmt: skip
    assert cpu <= STEPS.keys()
    assert all(callable(getattr(KernelSchedule, name)) for name in cpu)


# ------------------------------------------------------------------ what is refused


WRONG: dict[str, tuple[str, Callable[[KernelSchedule], object]]] = {
    "no such loop": ("no loop named 'x'", lambda s: s.split("x", 4)),
    "no such step": ("no such step", lambda s: s.do("twist", "i")),
    "a factor that does not divide": ("7 does not divide", lambda s: s.split("i", 7)),
    "a factor that is no number": ("does not take", lambda s: s.split("i", "7")),  # type: ignore[arg-type]
    "a name that is taken": ("already", lambda s: s.split("i", 4, "j", "ii")),
    "loops that are not nested": ("not nested perfectly", lambda s: s.reorder("k", "i")),
    "vectors of iterations that meet": (
        "or that is not certain", lambda s: s.reorder("k", "acc_i", "acc_j").vectorize("k")),
    "threads of iterations that meet": (
        "or that is not certain", lambda s: s.reorder("k", "acc_i", "acc_j").parallel("k")),
    "threads inside of a loop": ("outermost", lambda s: s.parallel("j")),
    "a temporary that is not there": ("no temporary", lambda s: s.set_scope("B", "register")),
    "a loop that writes it": (
        "written by what reads it", lambda s: s.compute_at("acc", "acc_init_i")),
    "memory that CPUs lack": ("CPUs have not", lambda s: s.set_scope("acc", "shared").build()),
    "more stack than there is": (
        "of a thread's stack", lambda s: gemm.schedule(M=1024, K=1, N=1024).build()),
    "code without end": ("written out", lambda s: s.unroll("acc_i", "acc_j", "k").build()),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_what_does_not_apply_is_refused_with_the_loops_there_are(why: str) -> None:
    words, step = WRONG[why]
    s = gemm.schedule(M=32, K=16, N=32)
    with pytest.raises(tw.ScheduleError, match="TW-E0701") as caught:
        step(s)
    assert words in caught.value.message
    assert "loops: acc_init_i, acc_init_j" in caught.value.message


def test_a_refused_step_leaves_the_schedule_as_it_was() -> None:
    s = gemm.schedule(M=32, K=16, N=32).split("i", 4)
    nest, steps = str(s), s.steps
    for name, *args in (("split", "j", 5), ("split", "j", "5"), ("fuse", "i_o", "j", "f")):
        with pytest.raises(tw.ScheduleError):
            getattr(s, str(name))(*args)
        assert (str(s), s.steps) == (nest, steps)


def test_a_nest_that_computes_something_else_is_found() -> None:
    s = gemm.schedule(M=4, K=4, N=4)
    broken = text(s.func).replace("A[acc_i, k]", "A[k, acc_i]")
    s._schedule.func = parse_func(broken)
    with pytest.raises(tw.ScheduleError, match="TW-E0702") as caught:
        s.check()
    assert "the expression says" in caught.value.message
    s._schedule.func = parse_func(text(s.func).replace("A[k, acc_i]", "A[k + 1, acc_i]"))
    with pytest.raises(tw.ScheduleError, match="TW-E0702"):
        s.check()


def test_a_nest_without_code_is_shown() -> None:
    s = gemm.schedule(M=8, K=8, N=8).vectorize("acc_i", "acc_j")
    with pytest.raises(tw.ScheduleError, match="TW-E0703") as caught:
        s.build()
    assert "for acc_j in vector(8)" in caught.value.message


def test_a_schedule_is_for_cpus_and_for_dims_there_are() -> None:
    with pytest.raises(tw.OptionError, match="TW-E0827"):
        gemm.schedule(target="cuda-sim")
    with pytest.raises(tw.OptionError, match="TW-E0823"):
        gemm.schedule(Q=4)
    with pytest.raises(tw.OptionError, match="TW-E0823"):
        gemm.schedule(M=4).check(K=3)
    with pytest.raises(tw.ScheduleError, match="acc has no largest size"):
        gemm.schedule(M=4).build()
