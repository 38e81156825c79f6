"""Measured profiles: every call is entered, nothing else changes, and the roofline is arithmetic.

How long anything takes, no test looks at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tilewright
from tests.profiling.models import convolutions, recurrent
from tilewright.api import import_graph
from tilewright.backends.backend import Profile, Subject
from tilewright.backends.cpu import BACKEND
from tilewright.backends.cpu import profile as profile_module
from tilewright.backends.cpu.load import CpuEntry
from tilewright.backends.cpu.peaks import Peaks
from tilewright.backends.cpu.profile import PROFILER, TimedEntry, sizes_of, time_steps
from tilewright.backends.cpu.target import resolve_target
from tilewright.errors import InternalError
from tilewright.pipeline import build
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import NO_CACHE
from tilewright.runtime.executable import Executable
from tilewright.runtime.program import CallKernel, CopyTensor, LoopStep, walk_steps
from tilewright.stages import Log
from tilewright.tensor.ir import Func
from tilewright.tensor.simplify import evaluate


def built(model: str) -> tuple[Artifact, dict[str, Func]]:
    """A compiled model and the functions of its kernels."""
    done = build(import_graph(model), resolve_target(), BACKEND, NO_CACHE, Log())
    return done.artifact, {k.func.name: k.func for k in done.kernels}


def inputs(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def expected_runs(artifact: Artifact, sizes: Mapping[str, int]) -> list[int]:
    """How often each timed step runs, by the loops around it."""
    runs: list[int] = []

    def go(steps: tuple[object, ...], times: int) -> None:
        for step in steps:
            match step:
                case CallKernel() | CopyTensor():
                    runs.append(times)
                case LoopStep(trip=trip, body=body):
                    go(body, times * evaluate(trip, dict(sizes)))

    go(artifact.program.steps, 1)
    return runs


@pytest.mark.parametrize("threads", [1, 2])
def test_a_timed_program_gives_the_same_results(tmp_path: Path, threads: int) -> None:
    artifact, _ = built(convolutions(tmp_path))
    feed = inputs(1, 3, 20, 20)
    plain = Executable(artifact, CpuEntry(artifact.objects, threads)).run(feed)
    timed = Executable(artifact, TimedEntry(artifact, threads)).run(feed)
    assert all(np.array_equal(plain[name], timed[name]) for name in plain)


def test_every_kernel_call_is_entered_once_and_in_order(tmp_path: Path) -> None:
    artifact, _ = built(convolutions(tmp_path))
    entry = TimedEntry(artifact, 1)
    exe = Executable(artifact, entry)
    exe.run(inputs(1, 3, 20, 20))
    log = entry.take()
    assert log[:, 0].tolist() == list(range(len(log)))
    assert len(log) == sum(isinstance(s, CallKernel) for s in walk_steps(artifact.program.steps))
    assert np.all(log[:, 1] <= log[:, 2])
    assert np.all(log[1:, 1] >= log[:-1, 2])
    assert len(entry.take()) == 0


@pytest.mark.parametrize("rows", [1, 4])
def test_steps_of_a_loop_are_entered_as_often_as_they_run(tmp_path: Path, rows: int) -> None:
    artifact, _ = built(recurrent(tmp_path))
    assert any(isinstance(s, LoopStep) for s in walk_steps(artifact.program.steps))
    times = time_steps(artifact, inputs(rows, 1, 6), 1, seconds=0.0)
    assert list(times.runs) == expected_runs(artifact, {"S": rows})
    counted = Counter(s.number for s in times.call)
    assert [counted[k] for k in range(len(times.runs))] == list(times.runs)
    assert len(times.steps) == len(times.runs)


def test_a_log_that_is_full_keeps_what_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "_MOST_ENTRIES", 3)
    artifact, _ = built(recurrent(tmp_path))
    entry = TimedEntry(artifact, 1)
    exe = Executable(artifact, entry)
    wanted = tilewright.compile(str(tmp_path / "recurrent.onnx")).run(inputs(5, 1, 6))
    found = exe.run(inputs(5, 1, 6))
    assert all(np.array_equal(wanted[n], found[n]) for n in wanted)
    assert len(entry.take()) == 3


def test_objects_without_an_entry_are_a_defect(tmp_path: Path) -> None:
    artifact, _ = built(convolutions(tmp_path))
    with pytest.raises(InternalError, match="TW-E0936"):
        TimedEntry(replace(artifact, objects=artifact.objects[:1]), 1)


# ------------------------------------------------------------------ the roofline


def peaks(flops: float, near: float, far: float) -> Peaks:
    """A machine with one small cache; bytes a second from it and from memory."""
    rates = {"L1": (near, near), "DRAM": (far, far)}
    return Peaks(1, (flops, flops), rates, {"L1": (1 << 14, 1 << 14), "DRAM": (0, 0)})


def profiled(
    model: str, feed: dict[str, np.ndarray], machine: Peaks, monkeypatch: pytest.MonkeyPatch,
    *, known: bool = True,
) -> Profile:  # fmt: skip
    artifact, funcs = built(model)
    monkeypatch.setattr(profile_module, "known_peaks", lambda _: machine)
    monkeypatch.setattr(profile_module, "_SECONDS", 0.0)
    return PROFILER.profile(Subject(artifact, feed, funcs if known else {}, 1, NO_CACHE))


def test_work_is_counted_from_the_loops_and_the_operands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = profiled(
        convolutions(tmp_path), inputs(1, 3, 20, 20), peaks(1e9, 1e9, 1e9), monkeypatch
    )
    assert found.kind == "measured"
    head = next(k for k in found.kernels if k.name.startswith("matmul"))
    assert head.launches == 1
    assert head.figures["flops"] == 2 * 16 * 16
    assert head.figures["operand bytes"] == 4 * (16 + 16 * 16 + 16)
    assert head.figures["GFLOP/s"] == pytest.approx(512 / head.seconds / 1e9)
    total = sum(int(str(k.figures["flops"])) for k in found.kernels)
    nominal = 2 * (400 * 16 * 27 + 400 * 16 * 144) + 2 * 256
    # Edges do less and joins more; Winograd's method, where it is taken, needs fewer.
    assert 0.3 * nominal < total < 1.3 * nominal
    assert len(found.steps) == sum(k.launches for k in found.kernels)


@pytest.mark.parametrize(
    ("machine", "limiter", "least"),
    [
        (peaks(1e3, 1e12, 1e12), "compute", 512 / 1e3),
        # All constants do not fit the cache; what calls write does not either.
        (peaks(1e15, 1e12, 1e3), "DRAM", 4 * 288 / 1e3),
    ],
)
def test_the_roofline_is_the_slower_of_work_and_bytes(
    machine: Peaks, limiter: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = profiled(convolutions(tmp_path), inputs(1, 3, 20, 20), machine, monkeypatch)
    head = next(k for k in found.kernels if k.name.startswith("matmul"))
    assert head.limiter == limiter
    assert head.figures["of roofline"] == pytest.approx(least / head.seconds)
    assert found.roofs == {"flops": machine.flops[0], "L1": machine.bandwidth["L1"][0],
                           "DRAM": machine.bandwidth["DRAM"][0]}  # fmt: skip


def test_without_the_loops_only_bytes_bound_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = profiled(
        convolutions(tmp_path), inputs(1, 3, 20, 20), peaks(1e3, 1e3, 1e3), monkeypatch,
        known=False,
    )  # fmt: skip
    for kernel in found.kernels:
        assert kernel.figures["flops"] is None
        assert kernel.limiter in ("L1", "DRAM")


def test_sizes_come_from_the_inputs(tmp_path: Path) -> None:
    artifact, _ = built(recurrent(tmp_path))
    sizes = sizes_of(artifact.program, inputs(7, 1, 6))
    assert sizes["S"] == 7


def test_copies_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = profiled(recurrent(tmp_path), inputs(3, 1, 6), peaks(1e9, 1e9, 1e9), monkeypatch)
    names = [k.name for k in found.kernels]
    assert len(set(names)) == len(names)
    artifact, _ = built(str(tmp_path / "recurrent.onnx"))
    if any(isinstance(s, CopyTensor) for s in walk_steps(artifact.program.steps)):
        copies = next(k for k in found.kernels if k.name == "copy")
        assert copies.figures["flops"] == 0
        assert int(str(copies.figures["operand bytes"])) > 0
