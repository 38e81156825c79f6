"""The commands take files of torch.export.save as they take any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilewright import cli

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore")


class Spectrum(nn.Module):  # type: ignore[misc, name-defined]
    """Something that has no compiled form."""

    def forward(self, x: Any) -> Any:
        return torch.fft.fft(x).abs()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """The file of ``relu(x @ w + b)`` for [3, 6]."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU()).eval()
    path = tmp_path / "layer.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(3, 6),)), path)
    return str(path)


def command(*arguments: str) -> int:
    return cli.run_command(arguments)


def test_compile_run_and_inspect_take_a_saved_program(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(tmp_path / "layer.tw")
    assert command("compile", layer, "-o", made) == 0
    np.save(tmp_path / "x.npy", np.ones((3, 6), np.float32))
    results = []
    for model in (layer, made):
        out = tmp_path / "out.npz"
        assert (
            command("run", model, "--input", f"input={tmp_path}/x.npy", "--output", str(out)) == 0
        )
        with np.load(out) as archive:
            results += [archive[name] for name in archive.files]
    assert np.array_equal(*results)
    assert results[0].shape == (3, 5)
    assert command("inspect", layer, "--stage", "graph") == 0
    assert "matmul" in capsys.readouterr().out


def test_run_checks_a_saved_program_against_numpy(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", layer, "--check", "reference") == 0
    assert "agrees with NumPy" in capsys.readouterr().out


def test_bench_measures_a_saved_program(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", layer, "--time-budget", "0.05") == 0
    assert "tilewright" in capsys.readouterr().out


def test_ops_for_a_saved_program_counts_or_lists(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("ops", "--for", layer) == 0
    assert "matmul" in capsys.readouterr().out
    path = tmp_path / "spectrum.pt2"
    torch.export.save(torch.export.export(Spectrum(), (torch.ones(8),)), path)
    assert command("ops", "--for", str(path)) == 3
    assert "_fft_r2c" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["compile", "run", "bench", "inspect"])
def test_a_damaged_program_is_one_paragraph_and_a_code(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "layer.pt2"
    path.write_bytes(b"no archive")
    more = ("-o", str(tmp_path / "out.tw")) if name == "compile" else ()
    assert command(name, str(path), *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: TW-E0164") and error.count("\n") == 1
