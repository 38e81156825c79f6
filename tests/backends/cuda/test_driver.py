"""The device on cuda-core: what it calls, in which order, and how it refuses."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilewright as tw
from tests.frontends.onnx.models import parsed
from tilewright import cli
from tilewright.backends.cuda import driver
from tilewright.backends.cuda.driver import DriverDevice, open_gpu
from tilewright.backends.cuda.launches import check_grid
from tilewright.backends.cuda.target import resolve_cuda
from tilewright.errors import TargetError

from .fake_core import FakeCore

LAYER = """agraph (float[N, 8] x, float[8, 12] w) => (float[N, 12] y) {
    h = MatMul(x, w)
    y = Softmax <axis = -1> (h)
}"""
TARGET = resolve_cuda("cuda:sm_80")


def _machine(
    monkeypatch: pytest.MonkeyPatch, core: object | None, driver_there: bool = True
) -> None:
    """A machine with this module as cuda.core, and with a driver or not."""

    def load(name: str) -> Any:
        if name != driver.PACKAGE:
            return import_module(name)
        if core is None:
            raise ModuleNotFoundError("No module named 'cuda'")
        return core

    def library(name: str) -> object:
        assert name == driver.DRIVER
        if not driver_there:
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    monkeypatch.setattr(driver, "import_module", load)
    monkeypatch.setattr(ctypes, "CDLL", library)


def test_a_missing_package_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, None)
    with pytest.raises(TargetError, match=r"TW-E0407.*cuda-core.*pip install.*cuda-sim:sm_80"):
        open_gpu(TARGET)


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, FakeCore(), driver_there=False)
    with pytest.raises(TargetError, match=r"TW-E0407.*no NVIDIA driver.*cuda-sim"):
        open_gpu(TARGET)


def test_a_driver_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore()

    def fail() -> tuple[()]:
        raise RuntimeError("CUDA_ERROR_NO_DEVICE")

    core.Device.get_all_devices = fail
    _machine(monkeypatch, core)
    with pytest.raises(TargetError, match=r"TW-E0407.*CUDA_ERROR_NO_DEVICE"):
        open_gpu(TARGET)


def test_a_machine_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, FakeCore(()))
    with pytest.raises(TargetError, match=r"TW-E0407.*sees no GPU"):
        open_gpu(TARGET)


def test_an_older_gpu_than_the_target_is_said_and_a_newer_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _machine(monkeypatch, FakeCore(("75",)))
    with pytest.raises(TargetError, match=r"TW-E0407.*older than sm_80.*sm_75"):
        open_gpu(TARGET)
    _machine(monkeypatch, FakeCore(("75", "120")))
    assert open_gpu(TARGET).name == "Fake GPU (sm_120)"


def test_copies_are_ordered_and_waited_for() -> None:
    core = FakeCore()
    (gpu,) = core.Device.get_all_devices()
    device = DriverDevice(core, gpu)
    data = np.arange(6, dtype=np.float32)
    a, b = device.allocate(24), device.allocate(24)
    device.copy_in(a, data)
    device.copy(b, a, 24)
    out = np.empty(2, np.float32)
    device.copy_out(b + 8, out)
    device.free(a)
    device.free(b)
    assert out.tolist() == [2, 3]
    assert core.calls == [
        "allocate 24", "allocate 24",
        "copy host to device", "sync",
        "copy device to device",
        "copy device to host", "sync",
        "free", "free",
    ]  # fmt: skip


def test_a_model_runs_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore()
    _machine(monkeypatch, core)
    model = parsed(LAYER)
    exe = tw.compile(model, target="cuda:sm_80", cache=False)
    rng = np.random.default_rng(0)
    cpu = tw.compile(model, cache=False)
    for rows in (3, 5):
        x = rng.standard_normal((rows, 8), dtype=np.float32)
        w = rng.standard_normal((8, 12), dtype=np.float32)
        np.testing.assert_allclose(exe(x, w)[0], cpu(x, w)[0], rtol=1e-5, atol=1e-6)
    assert core.calls.count("from_ptx") == 1
    launches = [c for c in core.calls if c.startswith("launch")]
    last_launch = max(k for k, c in enumerate(core.calls) if c.startswith("launch"))
    assert launches and "copy device to host" in core.calls[last_launch:]
    # The host waits for copies, not between launches.
    assert not any(
        a.startswith("launch") and b == "sync"
        for a, b in zip(core.calls, core.calls[1:], strict=False)
    )
    del exe
    assert core.open == 0


def test_an_empty_batch_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore()
    _machine(monkeypatch, core)
    model = parsed("agraph (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    exe = tw.compile(model, target="cuda", dim_ranges={"N": (0, None)}, cache=False)
    assert exe(np.empty((0, 4), np.float32))[0].shape == (0, 4)
    assert not [c for c in core.calls if c.startswith("launch")]


def test_more_blocks_than_a_launch_has_are_refused() -> None:
    check_grid("k", (2**31 - 1, 65535, 65535))
    with pytest.raises(tw.InputError, match=r"TW-E0313.*1 x 65536 x 1"):
        check_grid("k", (1, 65536, 1))


def test_the_command_line_names_the_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path))
    _machine(monkeypatch, None)
    assert cli.run_command(["run", "zoo:squeezenet", "--target", "cuda:sm_90"]) == 2
    told = capsys.readouterr().err
    assert "TW-E0407" in told and "cuda-sim:sm_90" in told and "pip install" in told
