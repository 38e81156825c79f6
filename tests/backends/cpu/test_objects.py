"""Compiling a unit: which objects come out, in which order, and what is left as it was."""

from __future__ import annotations

import sys
import threading

import pytest

from tilewright import dtype as dt
from tilewright.backends.backend import Unit
from tilewright.backends.cpu import BACKEND, objects
from tilewright.backends.llvm.emit import emit_module
from tilewright.errors import InternalError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType
from tilewright.graph.passes import run_passes
from tilewright.lower.model import lower_graph
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.program import Program
from tilewright.tensor.ir import Func

NOTHING = Program("nothing", (), (), (), (), 0, 0)


def compile_nothing() -> list[tuple[int, int]]:
    """Compiles a program without kernels; returns the progress that was reported."""
    told: list[tuple[int, int]] = []
    unit = Unit(NOTHING, (), BACKEND.resolve("native"))
    objects.compile_unit(unit, NO_CACHE, lambda done, total: told.append((done, total)))
    return told


def test_progress_ends_with_everything() -> None:
    assert compile_nothing()[-1] == (1, 1)


def test_turns_of_threads_are_as_long_after_compiling_as_before() -> None:
    before = sys.getswitchinterval()
    compile_nothing()
    assert sys.getswitchinterval() == before


def test_what_llvm_refuses_is_an_error_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "emit_program", lambda _: "define")
    before = sys.getswitchinterval()
    with pytest.raises(InternalError, match="refuses"):
        compile_nothing()
    assert sys.getswitchinterval() == before


# ------------------------------------------------------------------ kernels ahead of their program

COUNT = 2 * objects.KERNELS_TOGETHER + 1


def unit_of_sums() -> Unit:
    """A program whose kernels sum rows of different lengths: two whole groups and one more."""
    b = GraphBuilder("sums")
    for n in range(COUNT):
        x = b.input(f"x{n}", TensorType(dt.f32, (3, 5 + n)))
        b.output(b.add("reduce", x, op="sum", axes=(1,), keepdims=False), f"y{n}")
    target = BACKEND.resolve("native")
    lowered = lower_graph(run_passes(b.finish(), target), target)
    return Unit(lowered.program, tuple(k.func for k in lowered.kernels.values()), target)


@pytest.fixture(scope="module")
def sums() -> Unit:
    return unit_of_sums()


@pytest.fixture(scope="module")
def wanted(sums: Unit) -> tuple[bytes, ...]:
    assert len(sums.kernels) == COUNT
    return objects.compile_unit(sums, NO_CACHE)


def others(kernels: tuple[Func, ...]) -> tuple[Func, ...]:
    """The kernels, with another in the place of one of the second group."""
    place = objects.KERNELS_TOGETHER + 1
    return (*kernels[:place], kernels[0], *kernels[place + 1 :])


@pytest.mark.parametrize("count", [0, 1, objects.KERNELS_TOGETHER, COUNT - 1, COUNT])
def test_objects_are_the_same_however_many_kernels_come_ahead(
    count: int, sums: Unit, wanted: tuple[bytes, ...]
) -> None:
    with BACKEND.begin(sums.target, NO_CACHE) as work:
        for kernel in sums.kernels[:count]:
            work.add(kernel)
        work.complete(sums)
        assert work.objects() == wanted
        assert work.is_done()


def test_kernels_that_the_program_does_not_have_are_given_in_vain(
    sums: Unit, wanted: tuple[bytes, ...]
) -> None:
    for ahead in (others(sums.kernels), sums.kernels[::-1], (*sums.kernels, *sums.kernels)):
        with BACKEND.begin(sums.target, NO_CACHE) as work:
            for kernel in ahead:
                work.add(kernel)
            work.complete(sums)
            assert work.objects() == wanted


@pytest.mark.parametrize("cpus", [1, 2])
def test_whole_groups_are_emitted_once_and_ahead_where_there_is_room(
    cpus: int, sums: Unit, wanted: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[int] = []

    def count(kernels: tuple[Func, ...], target: object) -> str:
        emitted.append(len(kernels))
        return emit_module(kernels, sums.target)

    monkeypatch.setattr(objects, "emit_module", count)
    monkeypatch.setattr(objects, "default_threads", lambda: cpus)
    ahead = [objects.KERNELS_TOGETHER] * 2 if cpus > 1 else []
    with BACKEND.begin(sums.target, NO_CACHE) as work:
        for kernel in sums.kernels:
            work.add(kernel)
        assert emitted == ahead
        work.complete(sums)
        assert work.objects() == wanted
    assert emitted == [objects.KERNELS_TOGETHER] * 2 + [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_work_that_is_given_up_leaves_no_thread(
    error: type[BaseException], sums: Unit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, turns = threading.active_count(), sys.getswitchinterval()
    monkeypatch.setattr(objects, "default_threads", lambda: 2)

    def give_up() -> None:
        with BACKEND.begin(sums.target, NO_CACHE) as work:
            for kernel in sums.kernels:
                work.add(kernel)
            assert threading.active_count() == before + 1
            raise error

    with pytest.raises(error):
        give_up()
    assert threading.active_count() == before
    assert sys.getswitchinterval() == turns


def test_turns_are_put_back_in_order_by_the_last_that_compiles() -> None:
    before = sys.getswitchinterval()
    target = BACKEND.resolve("native")
    first, second = BACKEND.begin(target, NO_CACHE), BACKEND.begin(target, NO_CACHE)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < before
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == before
