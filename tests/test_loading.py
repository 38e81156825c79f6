"""What a process imports that only loads a compiled model."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright

_COMPILER = ("pipeline", "graph.passes", "lower", "schedule", "ops", "frontends.onnx")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """y = x @ w, and a cache of its own."""
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    w = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has after running some code."""
    shown = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("suffix", [".onnx", ".tw"])
def test_a_compiled_model_loads_without_the_compiler(model: Path, suffix: str) -> None:
    tilewright.compile(model).save(model.with_suffix(".tw"))
    function = "compile" if suffix == ".onnx" else "load"
    path = str(model.with_suffix(suffix))
    found = imported_by(f"import tilewright; tilewright.{function}({path!r})")
    needless = {f"tilewright.{name}" for name in _COMPILER}
    needless |= {"onnx", "google.protobuf", "llvmlite.binding", "rich", "click"}
    assert not found & needless
    assert "tilewright.backends.cpu" in found


_SERVE = """
import sys, numpy as np, tilewright
exe = tilewright.load(sys.argv[1])
exe(np.ones((1, 512), np.float32))
print("ready", flush=True)
sys.stdin.read()
"""


def kilobytes(process: int, file: str) -> dict[str, int]:
    """What the kernel tells of a process's mappings of a file, added up."""
    found: dict[str, int] = {}
    mine = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            mine = line.endswith(file)
        elif mine and line.endswith("kB"):
            name, size, _ = line.split()
            found[name.removesuffix(":")] = found.get(name.removesuffix(":"), 0) + int(size)
    return found


def test_processes_share_the_weights_of_a_model_they_load(tmp_path: Path) -> None:
    w = numpy_helper.from_array(np.ones((512, 1024), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1024])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    file = str(tmp_path / "model.tw")
    tilewright.compile(model.SerializeToString()).save(file)
    with ExitStack() as stack:
        told = []
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.enter_context(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            told.append(process.pid)
        for pid in told:
            found = kilobytes(pid, "model.tw")
            assert found["Shared_Clean"] >= 2048
            assert found["Private_Dirty"] == found["Anonymous"] == 0
