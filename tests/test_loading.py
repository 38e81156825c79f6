"""What a process imports that only loads a compiled model."""

from __future__ import annotations

import subprocess
import sys
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
