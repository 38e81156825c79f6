"""The pipeline between a graph and native code: its stages, their texts, its constants."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu import BACKEND
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.graph.text import parse as parse_graph
from tilewright.pipeline import Built, build, graph_text, kernel_text
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.executable import Executable
from tilewright.stages import GRAPH_STAGES, KERNEL_STAGES, Log, fingerprint, uncollected
from tilewright.tensor.ir import symbol

WEIGHT = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)


def layer() -> Graph:
    b = GraphBuilder("layer")
    x = b.input("x", TensorType(dt.f32, (symbol("N"), 6)))
    b.output(b.add("tanh", b.add("matmul", x, b.constant(WEIGHT))), "y")
    return b.finish()


@pytest.fixture(scope="module")
def built() -> Built:
    return build(layer(), BACKEND.resolve("native"), BACKEND, NO_CACHE, Log())


def test_what_is_built_runs(built: Built) -> None:
    entry = BACKEND.load(built.artifact.target, built.artifact.objects, NO_CACHE, 1)
    exe = Executable(built.artifact, entry)
    x = np.ones((3, 6), np.float32)
    np.testing.assert_allclose(exe(x)[0], np.tanh(x @ WEIGHT), rtol=1e-5)


@pytest.mark.parametrize("dtype", [dt.f32, dt.i64], ids=str)
def test_forty_steps_that_each_use_the_last_twice_are_compiled_as_they_are_shared(
    dtype: dt.DType,
) -> None:
    # Spelt out, x = x * x + y would be 2**40 terms.
    b = GraphBuilder("steps")
    x, y = (b.input(n, TensorType(dtype, (100,))) for n in "xy")
    value = x
    for _ in range(40):
        value = b.add("add", b.add("mul", value, value), y)
    b.output(value, "z")
    made = build(b.finish(), BACKEND.resolve("native"), BACKEND, NO_CACHE, Log())
    entry = BACKEND.load(made.artifact.target, made.artifact.objects, NO_CACHE, 1)
    start = np.linspace(-0.5, 0.5, 100) if dtype.is_float else np.arange(100)
    given = start.astype(dtype.numpy), np.full(100, -0.25 if dtype.is_float else 3, dtype.numpy)
    expected = given[0]
    for _ in range(40):
        expected = expected * expected + given[1]
    np.testing.assert_allclose(Executable(made.artifact, entry)(*given)[0], expected, rtol=1e-4)


def test_constants_are_one_aligned_block_that_nobody_writes(built: Built) -> None:
    constants = built.artifact.constants
    assert not constants.flags.writeable
    assert constants.ctypes.data % 64 == 0
    assert constants.nbytes == built.artifact.program.constants_bytes
    assert np.isin(WEIGHT.ravel(), constants.view(np.float32)).all()


def test_every_kernel_says_how_it_came_to_be(built: Built) -> None:
    for kernel in built.kernels:
        assert kernel.recipe and kernel.compute
        assert kernel.func.name in kernel_text("loops", built)
        assert f"# {kernel.func.name}: {kernel.recipe}" in kernel_text("schedule", built)


@pytest.mark.parametrize("stage", KERNEL_STAGES)
def test_stages_of_kernels_have_texts(stage: str, built: Built) -> None:
    assert kernel_text(stage, built).strip()


@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_texts_of_graphs_parse_back(stage: str) -> None:
    b = GraphBuilder("chain")
    x = b.input("x", TensorType(dt.f32, (symbol("N"), 6)))
    b.output(b.add("tanh", b.add("mul", x, x)), "y")
    graph, target = b.finish(), BACKEND.resolve("native")
    shown = graph_text(stage, graph, target)
    assert ("fused" in shown) == (stage == "passes")
    assert graph_text("graph", parse_graph(shown), target) == shown


def test_the_same_graph_gives_the_same_code(built: Built) -> None:
    again = build(layer(), BACKEND.resolve("native"), BACKEND, NO_CACHE, Log())
    assert again.artifact.objects == built.artifact.objects
    assert str(again.artifact.program) == str(built.artifact.program)


def test_a_log_adds_the_times_of_a_stage_that_comes_twice() -> None:
    told: list[str] = []
    log = Log(told.append)
    for _ in range(2):
        with log.stage("one"):
            pass
    assert told == ["one", "one"] and list(log.seconds) == ["one"]


def test_what_a_later_stage_does_within_an_earlier_one_is_not_counted_twice() -> None:
    log = Log()
    began = time.perf_counter()
    with log.stage("outer"):
        with log.part("inner"):
            time.sleep(0.02)
        with log.part("inner"):
            pass
    whole = time.perf_counter() - began
    assert log.seconds["inner"] >= 0.02
    assert log.seconds["outer"] + log.seconds["inner"] <= whole
    assert log.seconds["outer"] < whole - 0.02


def test_an_error_while_kernels_are_made_ends_the_work_on_those_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = threading.active_count()
    during: list[int] = []

    def fail(*_: object) -> None:
        during.append(threading.active_count())
        raise ZeroDivisionError

    monkeypatch.setattr("tilewright.lower.model.lifetimes", fail)
    monkeypatch.setattr("tilewright.backends.cpu.objects.KERNELS_TOGETHER", 1)
    with pytest.raises(ZeroDivisionError):
        build(layer(), BACKEND.resolve("native"), BACKEND, NO_CACHE, Log())
    assert during == [before + 1]
    assert threading.active_count() == before


@pytest.mark.parametrize("left", [0, 1 << 40], ids=["meanwhile", "after"])
def test_constants_are_the_same_whenever_they_are_packed(
    left: int, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewright.pipeline.CODE_BYTES", left)
    monkeypatch.setattr("tilewright.backends.cpu.objects.Objects.is_done", lambda _: False)
    again = build(layer(), BACKEND.resolve("native"), BACKEND, NO_CACHE, Log())
    np.testing.assert_array_equal(again.artifact.constants, built.artifact.constants)
    assert again.artifact.objects == built.artifact.objects


def test_the_fingerprint_is_that_of_the_source() -> None:
    assert len(fingerprint()) == 32
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_a_failure(enabled: bool) -> None:
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError):
            fail()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_what_is_made_uncollected_is_not_searched_as_soon_as_it_is_done() -> None:
    searched: list[str] = []

    def note(phase: str, info: Mapping[str, int]) -> None:
        searched.append(f"{phase} {info}")

    with uncollected():
        made: list[list[int]] = [[] for _ in range(20_000)]
        gc.callbacks.append(note)
    try:
        after: list[list[int]] = [[] for _ in range(10)]
    finally:
        gc.callbacks.remove(note)
    assert not searched and len(made) > len(after)


def test_what_somebody_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        with uncollected():
            frozen = gc.get_freeze_count()
        assert frozen > 0 and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
