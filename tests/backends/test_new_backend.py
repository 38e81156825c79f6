"""What somebody does who adds a backend: a module that follows the protocol, and a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tilewright as tw
from tests.readme_model import write_model
from tilewright import cli
from tilewright.backends import BACKENDS


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, where there is one backend more."""
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(BACKENDS, "abacus", "tests.backends.abacus")
    write_model(tmp_path)
    return tmp_path / "model.onnx"


def test_a_line_is_all_that_a_backend_needs_to_compile_save_and_run(
    layer: Path, tmp_path: Path
) -> None:
    exe = tw.compile(layer, target="abacus")
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    (want,) = tw.compile(layer)(x)
    np.testing.assert_allclose(exe(x)[0], want, rtol=1e-5, atol=1e-6)
    exe.save(tmp_path / "layer.tw")
    np.testing.assert_array_equal(tw.load(tmp_path / "layer.tw")(x)[0], exe(x)[0])


def test_commands_know_it_and_its_stages(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["inspect", str(layer), "--target", "abacus", "--stage", "beads"]) == 0
    assert "for " in capsys.readouterr().out
    assert cli.run_command(["run", str(layer), "--target", "abacus", "--check", "reference"]) == 0
    assert "agrees with NumPy" in capsys.readouterr().out
    assert cli.run_command(["profile", str(layer), "--target", "abacus"]) == 2
    assert "TW-E0409" in capsys.readouterr().err
    assert cli.run_command(["compile", str(layer), "--target", "abacus:x", "-o", "x.tw"]) == 2
    assert "TW-E0401" in capsys.readouterr().err
