"""The public face: what a compilation reads, keeps and imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tilewright import api

_COMPILER = ("pipeline", "graph.passes", "lower", "schedule", "ops", "frontends.onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x @ w."""
    w = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TILEWRIGHT_CACHE", raising=False)
    return tmp_path / "cache"


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has after running some code."""
    shown = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("suffix", [".onnx", ".tw"])
def test_a_compiled_model_loads_without_the_compiler(model: Path, suffix: str) -> None:
    tilewright.compile(model).save(model.with_suffix(".tw"))
    function = "compile" if suffix == ".onnx" else "load"
    path = str(model.with_suffix(suffix))
    found = imported_by(f"import tilewright; tilewright.{function}({path!r})")
    needless = {"onnx", "google.protobuf", *(f"tilewright.{name}" for name in _COMPILER)}
    assert not found & needless
    assert "tilewright.backends.cpu" in found


@pytest.mark.usefixtures("cache")
def test_the_cache_knows_a_model_by_its_content(model: Path, tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    (first,) = tilewright.compile(model)(x)
    changed = onnx.load(model)
    changed.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((4, 3), 2, np.float32), "w")
    )
    onnx.save(changed, model)
    (second,) = tilewright.compile(model)(x)
    np.testing.assert_array_equal(second, 2 * first)


@pytest.mark.parametrize("at", [0, 7, (1 << 20) - 5, (1 << 20) + 1])
def test_a_reference_to_external_data_is_found_wherever_it_lies(tmp_path: Path, at: int) -> None:
    path = tmp_path / "model.onnx"
    entry = onnx.StringStringEntryProto(key="location", value="weights.bin").SerializeToString()
    path.write_bytes(bytes(at) + entry + bytes(100))
    assert api._has_external_data(path)
    path.write_bytes(bytes(at) + entry[1:] + bytes(100))
    assert not api._has_external_data(path)


@pytest.mark.usefixtures("cache")
def test_texts_of_all_stages_can_be_made_again_from_the_source(model: Path) -> None:
    tilewright.compile(model)
    exe = tilewright.compile(model)
    for stage in exe.stages:
        assert exe.text(stage)
