"""Files for other machines are written anywhere, and refused where they cannot run."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tilewright import cli
from tilewright import dtype as dt
from tilewright.backends.cpu.link import Library
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType
from tilewright.tensor.ir import symbol

from .readme_model import write_model


def layer(name: str, scale: float) -> Graph:
    """y = (x + x) * scale for one to eight rows."""
    b = GraphBuilder(name)
    x = b.input("x */ x", TensorType(dt.f32, (symbol("N", 1, 8), 5)))
    b.output(b.add("mul", b.add("add", x, x), b.constant(np.full(5, scale, np.float32))), "y")
    return b.finish()


class Exported:
    """An exported object, linked into this process."""

    def __init__(self, objects: list[Path], name: str) -> None:
        self.library = Library([o.read_bytes() for o in objects], [f"{name}_sizes", f"{name}_run"])
        pointers = [ctypes.c_void_p] * 4
        addresses = self.library.addresses
        self.sizes = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers[:2])(addresses[f"{name}_sizes"])
        self.run = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers)(addresses[f"{name}_run"])

    def call(self, x: np.ndarray) -> tuple[int, np.ndarray]:
        dims = np.array([len(x)], np.int64)
        sizes = np.zeros(2, np.int64)
        y = np.zeros_like(x)
        inputs, outputs = (np.array([a.ctypes.data], np.uint64) for a in (x, y))
        self.sizes(dims.ctypes.data, sizes.ctypes.data)
        workspace = np.zeros(int(sizes[0]) + 64, np.uint8)
        room = workspace.ctypes.data + -workspace.ctypes.data % 64
        code = self.run(inputs.ctypes.data, outputs.ctypes.data, room, dims.ctypes.data)
        return code, y


def test_an_exported_object_runs_without_us_and_beside_another(tmp_path: Path) -> None:
    paths = [tmp_path / "first.o", tmp_path / "second.o"]
    for path, scale in zip(paths, (3.0, -1.0), strict=True):
        files = tw.export(layer("layer", scale), path, target="x86-64-v2")
        assert files == (path, path.with_suffix(".h"))
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    for name, scale in (("first", 3.0), ("second", -1.0)):
        code, y = Exported(paths, name).call(x)
        assert code == 0
        np.testing.assert_array_equal(y, 2 * x * scale)


def test_an_exported_object_refuses_a_dim_outside_its_range(tmp_path: Path) -> None:
    tw.export(layer("layer", 1.0), tmp_path / "m.o", target="x86-64-v2")
    code, y = Exported([tmp_path / "m.o"], "m").call(np.ones((9, 5), np.float32))
    assert code == -2
    assert not y.any()


def test_the_header_describes_the_call_and_survives_any_name(tmp_path: Path) -> None:
    tw.export(layer("layer", 1.0), tmp_path / "2 my-model.o", target="aarch64")
    text = (tmp_path / "2 my-model.h").read_text()
    assert "int32_t _2_my_model_run(" in text
    assert "dims[0]  N: 1..8" in text
    assert "float x * / x[N][5]" in text
    assert text.count("*/") == text.count("/*")


@pytest.mark.parametrize("target", ["aarch64", "riscv64", "wasm32"])
def test_a_file_for_another_machine_is_written_and_not_loaded(target: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    model, file = str(tmp_path / "model.onnx"), tmp_path / "model.tw"
    assert cli.run_command(["compile", model, "--target", target, "-o", str(file)]) == 0
    with pytest.raises(tw.TargetError, match=f"TW-E0405.*{target}.*native.*tilewright export"):
        tw.load(file)


def test_what_cannot_run_here_is_refused_before_anything_is_read() -> None:
    with pytest.raises(tw.TargetError, match="TW-E0405"):
        tw.compile("no such file.onnx", target="wasm32")


@pytest.mark.parametrize(
    ("target", "file", "code"),
    [
        ("aarch64", "m.wasm", "TW-E0406"),
        ("wasm32", "m.tw", "TW-E0406"),
        ("m68k", "m.o", "TW-E0401"),
        ("nowhere:z80", "m.o", "TW-E0404"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_read(
    target: str, file: str, code: str, tmp_path: Path
) -> None:
    with pytest.raises(tw.TargetError, match=code):
        tw.export("no such file.onnx", tmp_path / file, target=target)
    assert not list(tmp_path.iterdir())


def test_inspect_shows_code_for_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["inspect", "zoo:squeezenet", "--target", "riscv64"]) == 0
    assert "riscv64" in capsys.readouterr().out
