"""NVIDIA's own tools take what is generated: for every target, with no spills."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.frontends.onnx.models import parsed
from tilewright import api, cli
from tilewright.backends.cuda import toolkit
from tilewright.backends.cuda.target import ARCHITECTURES
from tilewright.backends.cuda.toolkit import assemble, emit_sass, find_library, find_tool
from tilewright.errors import InternalError, TargetError

ROOT = Path(__file__).parents[3]
SUM = parsed("agraph (float[N] x, float[N] y) => (float[N] z) { z = Add(x, y) }")

needs_ptxas = pytest.mark.skipif(
    find_tool("ptxas") is None, reason="no ptxas: pip install nvidia-cuda-nvcc"
)


def emitted(sm: str, folder: Path) -> Mapping[str, Mapping[str, str]]:
    """The code of all networks for a target, made by a process of its own."""
    output = folder / "code.json"
    command = [sys.executable, "-m", "tests.backends.cuda.emit_all", f"cuda:{sm}", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{sm}: {done.returncode}: {done.stderr[-2000:]}"
    found: Mapping[str, Mapping[str, str]] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_nvidias_tools_take_every_kernel_and_spill_nothing(sm: str, tmp_path: Path) -> None:
    # One test for both tools: making the code takes longer than they do.
    networks = emitted(sm, tmp_path)
    version = ARCHITECTURES[sm].ptx
    for name, code in networks.items():
        # A newer number than its instructions need would shut out drivers that could run it.
        assert f".version {version // 10}.{version % 10}\n.target {sm}" in code["ptx"], name
    missing = []
    if find_tool("ptxas") is None:
        missing.append("no ptxas: pip install nvidia-cuda-nvcc")
    else:
        for name, code in networks.items():
            _assert_assembles(name, code["ptx"], sm)
    if find_library("libnvrtc.so") is None:
        missing.append("no NVRTC: pip install nvidia-cuda-nvrtc")
    else:
        for name, code in networks.items():
            problem = _nvrtc(code["cuda"], sm)
            assert not problem, f"{name} for {sm}: {problem}"
    if len(missing) == 2:
        pytest.skip("; ".join(missing))


def _assert_assembles(name: str, ptx: str, sm: str) -> None:
    kernels = assemble(ptx, sm).kernels
    assert len(kernels) == ptx.count(".visible .entry"), name
    for kernel, taken in kernels.items():
        assert taken.spills == 0, f"{name}, {kernel} for {sm}: {taken}"
        assert taken.registers <= 255 and taken.shared <= 48 << 10


def _nvrtc(source: str, sm: str) -> str:
    """What NVRTC has against a text; empty where it takes it."""
    place = find_library("libnvrtc.so")
    library = ctypes.CDLL(str(place))
    program = ctypes.c_void_p()
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
    )
    assert made == 0
    options = [f"--gpu-architecture={sm}", "--std=c++17"]
    options += [f"--include-path={w / 'include'}" for w in toolkit.wheels()]
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = library.nvrtcCompileProgram(program, len(options), given)
    log = b""
    if failed:
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, text)
        log = text.value or b"?"
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log.decode()[:2000]


def test_a_spill_is_seen() -> None:
    log = (
        "ptxas info    : Compiling entry function 'k' for 'sm_80'\n"
        "ptxas info    : Function properties for k\n"
        "    24 bytes stack frame, 16 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, "
        "1024 bytes smem\n"
    )
    assert toolkit._resources(log) == {"k": toolkit.Resources(255, 1024, 24, 24)}


@needs_ptxas
def test_text_that_the_assembler_refuses_is_a_coded_error() -> None:
    with pytest.raises(InternalError, match=r"TW-E0954.*ptxas refuses"):
        assemble(".version 7.0\n.target sm_80\n.address_size 64\nnonsense", "sm_80")


@pytest.mark.skipif(
    find_tool("ptxas") is None or find_tool("nvdisasm") is None,
    reason="no ptxas or nvdisasm: pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm",
)
def test_sass_is_shown() -> None:
    built = api.build(SUM, target="cuda:sm_80", cache=False)
    found = emit_sass(built.text("ptx"), "sm_80")
    assert "LDG" in found and "FADD" in found and "EXIT" in found
    assert built.text("sass") == found


@pytest.mark.parametrize("missing", ["ptxas", "nvdisasm"])
def test_a_missing_tool_is_said_with_its_package(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"ptxas": Path("/there/ptxas"), "nvdisasm": Path("/there/nvdisasm")}
    monkeypatch.setattr(toolkit, "find_tool", lambda name: {**there, missing: None}[name])
    monkeypatch.setattr(toolkit, "_run", lambda command: "")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")
    with pytest.raises(TargetError, match=rf"TW-E0408: {missing} .*pip install nvidia-cuda-"):
        emit_sass("", "sm_80")


def test_tools_are_found_in_wheels_and_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit, "wheels", lambda: [tmp_path])
    monkeypatch.setenv("PATH", "")
    assert find_tool("ptxas") is None
    tool = tmp_path / "bin" / "ptxas"
    tool.parent.mkdir()
    tool.write_text("")
    tool.chmod(0o755)
    assert find_tool("ptxas") == tool
    monkeypatch.setenv("PATH", str(tool.parent))
    assert find_tool("ptxas") == tool
    assert find_library("libnvrtc.so") is None


def test_the_command_line_names_what_sass_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(toolkit, "find_tool", lambda name: None)
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    path = tmp_path / "sum.onnx"
    path.write_bytes(SUM.SerializeToString())
    given = ["inspect", str(path), "--target", "cuda:sm_80", "--stage", "sass"]
    assert cli.run_command(given) == 2
    assert "TW-E0408" in capsys.readouterr().err
