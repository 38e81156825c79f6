"""The command line for GPUs: compile anywhere, look at stages, profile, and refuse in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tests.readme_model import write_model
from tilewright import cli
from tilewright.backends import BACKENDS, PROFILERS, find_profiler, load_backend
from tilewright.backends.cuda import toolkit
from tilewright.backends.cuda.target import ARCHITECTURES, resolve_cuda
from tilewright.errors import TargetError
from tilewright.runtime import artifact

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """The path of a model with a symbolic batch N, input x of 16 and output y of 8."""
    write_model(tmp_path)
    return str(tmp_path / "model.onnx")


def command(*arguments: str) -> int:
    return cli.run_command(arguments)


# ------------------------------------------------------------------ compile


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_code_for_any_gpu_is_compiled_on_any_machine(
    architecture: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "layer.tw"
    target = f"cuda:{architecture}"
    assert command("compile", layer, "--target", target, "-o", str(output), "--keep", "ptx") == 0
    assert f"for {target}" in capsys.readouterr().out
    assert command("inspect", str(output), "--stage", "ptx") == 0
    assert f".target {architecture}" in capsys.readouterr().out


def test_a_file_for_the_simulator_runs_from_the_file(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "layer.tw"
    assert command("compile", layer, "--target", "cuda-sim:sm_90", "-o", str(output)) == 0
    assert command("run", str(output), "--dim", "N=3") == 0
    assert "3x8" in capsys.readouterr().out
    x = np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32)
    np.testing.assert_allclose(tw.load(output)(x)[0], tw.compile(layer)(x)[0], rtol=1e-5, atol=1e-6)


def test_a_file_for_a_gpu_says_what_is_missing_to_run_it(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewright.backends.cuda.driver.find_gpu", lambda version: "no GPU")
    output = tmp_path / "layer.tw"
    assert command("compile", layer, "--target", "cuda:sm_90", "-o", str(output)) == 0
    assert artifact.read(output).target == resolve_cuda("cuda:sm_90")
    assert command("run", str(output), "--dim", "N=3") == 2
    told = capsys.readouterr().err
    assert "TW-E0407" in told and "cuda-sim:sm_90" in told


def test_run_checks_the_simulator_against_the_reference(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", layer, "--target", "cuda-sim", "--check", "reference") == 0
    assert "agrees with NumPy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cuda:sm_70", "cuda:sm_90a", "cuda-sim:nonsense", "cuda:"])
@pytest.mark.parametrize("verb", ["compile", "inspect", "profile", "run"])
def test_an_unknown_architecture_is_refused_before_anything_is_compiled(
    verb: str, name: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"compile": ["-o", str(tmp_path / "x.tw")], "inspect": ["--stage", "ptx"]}.get(verb, [])
    assert command(verb, layer, "--target", name, *more) == 2
    told = capsys.readouterr().err
    assert "TW-E0401" in told and f"{name.partition(':')[0]}:sm_120" in told
    assert not (tmp_path / "x.tw").exists()


# ------------------------------------------------------------------ inspect


@pytest.mark.parametrize(
    ("stage", "holds"),
    [
        ("llvm", "define ptx_kernel void"),
        ("cuda", "__global__ void"),
        ("ptx", ".target sm_75"),
        ("loops", "in block.x("),
        ("schedule", "block.x"),
    ],
)
def test_inspect_shows_the_stages_of_gpu_code(
    stage: str, holds: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", layer, "--target", "cuda:sm_75", "--stage", stage) == 0
    assert holds in capsys.readouterr().out


@pytest.mark.parametrize("target", ["native", "cuda:sm_80", "cuda-sim"])
def test_inspect_knows_the_stages_of_each_backend_and_no_others(
    target: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"native": "cpu", "cuda:sm_80": "cuda"}.get(target, target)
    stages = tuple(load_backend(name).stages)
    assert command("inspect", layer, "--target", target) == 0
    assert ", ".join(stages) in capsys.readouterr().out
    other = "asm" if "ptx" in stages else "ptx"
    assert command("inspect", layer, "--target", target, "--stage", other) == 2
    told = capsys.readouterr().err
    assert "TW-E0803" in told and ", ".join(stages) in told


# ------------------------------------------------------------------ profile


def profile(layer: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert command("profile", layer, "--json", "--dim", "N=64", *more) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_profile_counts_what_a_kernel_does(
    layer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewright.backends.cuda.profile.find_tool", lambda name: None)
    found = profile(layer, capsys, "--target", "cuda:sm_80")
    assert found["kind"] == "modelled"
    (kernel,) = found["kernels"]
    # x, weights, bias and y, each once.
    assert kernel["operand bytes"] == 4 * (64 * 16 + 16 * 8 + 8 + 64 * 8)
    assert kernel["launches"] == 1 and kernel["registers"] is None
    assert kernel["instructions"]["f32"] > 64 * 16 * 8 // 32
    for traffic in ("global loads", "global stores"):
        figures = kernel[traffic]
        assert figures["sectors"] >= 64 * 8 * 4 // 32
        assert figures["a request"] == round(figures["sectors"] / figures["requests"], 3)
    assert 0 < kernel["occupancy"] <= 1
    parts = kernel["modelled seconds by part"]
    assert kernel["modelled seconds"] == max(parts.values()) == parts[kernel["limited by"]]
    assert parts["DRAM"] == kernel["operand bytes"] / 2039e9
    assert any("registers are not known" in note for note in found["notes"])


def test_profile_is_the_same_at_every_run(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    again = [profile(layer, capsys, "--target", "cuda:sm_90") for _ in range(2)]
    assert again[0] == again[1]


def test_profile_says_that_times_are_modelled(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for architecture, figures in ARCHITECTURES.items():
        assert command("profile", layer, "--target", f"cuda:{architecture}") == 0
        told = capsys.readouterr().out
        assert "modelled, not measured" in told and figures.part in told
        # Every time that is shown has the word before it.
        for line in told.splitlines():
            assert " us" not in line or "modelled" in line, line


def test_profile_takes_a_compiled_file(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "layer.tw"
    assert command("compile", layer, "--target", "cuda:sm_80", "-o", str(output)) == 0
    assert command("profile", str(output), "--dim", "N=4") == 0
    assert "modelled" in capsys.readouterr().out


def test_a_profile_says_that_its_times_are_modelled(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("profile", layer, "--target", "cuda:sm_80", "--dim", "N=3") == 0
    modelled = capsys.readouterr().out
    assert "modelled, not measured" in modelled and "measured us" not in modelled


def test_a_backend_without_a_profiler_is_named_with_those_that_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(PROFILERS, "cuda")
    with pytest.raises(TargetError, match=r"TW-E0409.*'cuda'.*cpu, cuda-sim"):
        find_profiler("cuda")


def test_a_faster_part_takes_less_time(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    times = {
        sm: profile(layer, capsys, "--target", f"cuda:{sm}")["modelled seconds"]
        for sm in ("sm_75", "sm_90")
    }
    assert times["sm_90"] < times["sm_75"]


# ------------------------------------------------------------------ ops and doctor


def test_ops_shows_every_operator_for_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ops") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[2 : 2 + len(BACKENDS)] == list(BACKENDS)
    (row,) = [line.split() for line in lines if line.startswith("topk ")]
    assert row[2 : 2 + len(BACKENDS)] == ["yes"] * len(BACKENDS)


def test_ops_shows_what_a_backend_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_backend("cuda"), "lacks", {"exp": "no table"}, raising=False)
    assert command("ops") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("exp ")]
    assert row[2:5] == ["yes", "-", "yes"]
    assert "cuda has no exp: no table" in lines


def test_an_operator_that_the_target_lacks_is_refused_before_lowering(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    backend = load_backend("cuda")
    monkeypatch.setattr(backend, "lacks", {"fused": "no", "matmul": "no units"}, raising=False)
    monkeypatch.setattr(type(backend), "compile", lambda *_: pytest.fail("code is emitted"))
    output = tmp_path / "x.tw"
    assert command("compile", layer, "--target", "cuda:sm_80", "-o", str(output)) == 3
    told = capsys.readouterr().err
    assert "TW-E0201" in told and "matmul on cuda:sm_80: no units" in told
    assert not output.exists()


def test_doctor_says_what_is_there_for_gpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewright.backends.cuda.equipment.find_tool", lambda name: None)
    monkeypatch.setattr(toolkit, "wheels", list)
    assert command("doctor") == 0
    told = capsys.readouterr().out
    assert "cuda:sm_120" in told and "cuda-sim:sm_75" in told
    assert "pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm nvidia-cuda-nvrtc" in told
    labels = [line.split("  ")[0] for line in told.splitlines()]
    assert {"gpu targets", "gpu", "gpu driver", "cuda-core", "cuda tools"} <= set(labels)
