"""Engines in processes of their own: what they compute, their turns, what they cannot do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tilewright.benchmarking.engine import Engine
from tilewright.errors import OptionError

from .test_command import write

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A small model."""
    return Path(write(tmp_path / "layer.onnx"))


def feed_file(folder: Path, columns: int = 16) -> Path:
    """A file with the model's input."""
    x = np.random.default_rng(1).standard_normal((4, columns)).astype(np.float32)
    np.savez(folder / f"feed{columns}.npz", x=x)
    return folder / f"feed{columns}.npz"


def state(engine: Engine) -> str:
    """What the system says of its process: S sleeps, T stands still."""
    return Path(f"/proc/{engine._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_engines_compute_the_same_and_stand_still_between_their_turns(
    layer: Path, tmp_path: Path
) -> None:
    feed = feed_file(tmp_path)
    with (
        Engine("tilewright", layer, 1, [feed]) as ours,
        Engine("onnxruntime", layer, 1, [feed]) as other,
    ):
        for engine in (ours, other):
            engine.ready()
            assert engine.version and engine.seconds > 0 and engine.peak_bytes > 10 << 20
            os.waitid(os.P_PID, engine._process.pid, os.WSTOPPED | os.WNOWAIT)
            assert state(engine) == "T"
        np.testing.assert_allclose(ours.outputs[0][0], other.outputs[0][0], rtol=1e-5, atol=1e-5)
        times = other.block(3)
        assert len(times) == 3 and min(times) > 0
        os.waitid(os.P_PID, other._process.pid, os.WSTOPPED | os.WNOWAIT)
        assert state(other) == "T"


def test_an_engine_says_which_file_it_does_not_take(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with Engine("onnxruntime", bad, 1, [feed_file(tmp_path)]) as engine:
        with pytest.raises(OptionError, match=r"onnxruntime [0-9.]+ does not take bad.onnx: ") as e:
            engine.ready()
        assert e.value.code == "TW-E0825"


def test_an_engine_says_why_it_does_not_run_a_model(layer: Path, tmp_path: Path) -> None:
    refused = r"onnxruntime [0-9.]+ does not run it: .*invalid dimensions for input: x"
    with (
        Engine("onnxruntime", layer, 1, [feed_file(tmp_path, 15)]) as engine,
        pytest.raises(OptionError, match=refused),
    ):
        engine.ready()


def test_an_engine_that_dies_is_an_error(layer: Path, tmp_path: Path) -> None:
    with Engine("tilewright", layer, 1, [feed_file(tmp_path)]) as engine:
        engine.ready()
        engine._process.send_signal(signal.SIGKILL)
        with pytest.raises(OptionError, match="tilewright: "):
            engine.block(1)
