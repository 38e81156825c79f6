"""A real GPU as a device, by NVIDIA's cuda-core: the extra ``[cuda]``, imported when it is opened.

Everything is asked for on one stream, so that launches and copies follow one another without the
host's waiting; only copies from and to the host's memory wait.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from tilewright.errors import TargetError
from tilewright.target import Target

PACKAGE = "cuda.core"
INSTALL = "pip install 'tilewright[cuda]'"
DRIVER = "libcuda.so.1"


class DriverDevice:
    """A Device (see there) that is a GPU.

    Args:
        core: the module ``cuda.core``.
        gpu: one of its devices.
    """

    def __init__(self, core: Any, gpu: Any) -> None:
        self._core = core
        self._gpu = gpu
        self._use()
        self._stream = gpu.create_stream()
        self._held: dict[int, Any] = {}
        self.name = f"{gpu.name} (sm_{gpu.arch})"

    def _use(self) -> None:
        """Makes the GPU current: it is so for each thread of the host by itself."""
        self._gpu.set_current()

    def allocate(self, nbytes: int) -> int:
        self._use()
        buffer = self._gpu.allocate(nbytes, stream=self._stream)
        address = int(buffer.handle)
        self._held[address] = buffer
        return address

    def free(self, address: int) -> None:
        self._use()
        self._held.pop(address).close(self._stream)

    def copy_in(self, address: int, data: np.ndarray) -> None:
        self._use()
        self._at(address, data.nbytes).copy_from(_host(self._core, data), stream=self._stream)
        # The caller may write to its array as soon as this returns.
        self._stream.sync()

    def copy_out(self, address: int, data: np.ndarray) -> None:
        self._use()
        self._at(address, data.nbytes).copy_to(_host(self._core, data), stream=self._stream)
        self._stream.sync()

    def copy(self, dst: int, src: int, nbytes: int) -> None:
        self._use()
        self._at(dst, nbytes).copy_from(self._at(src, nbytes), stream=self._stream)

    def _at(self, address: int, nbytes: int) -> Any:
        """Bytes in the middle of an allocation, as a buffer that owns nothing."""
        return self._core.Buffer.from_handle(address, nbytes)

    def load(self, ptx: str) -> Any:
        self._use()
        # As bytes: a str would be the path of a file.
        return self._core.ObjectCode.from_ptx(ptx.encode())

    def launch(
        self,
        module: Any,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int],
        args: Sequence[int],
    ) -> None:
        self._use()
        # A Python int is passed as 64 bits, the size of every parameter of ours.
        config = self._core.LaunchConfig(grid=grid, block=(*block, 1))
        self._core.launch(self._stream, config, module.get_kernel(kernel), *args)


def _host(core: Any, data: np.ndarray) -> Any:
    """An array's memory as a buffer, which keeps the array alive."""
    return core.Buffer.from_handle(data.ctypes.data, data.nbytes, owner=data)


def open_gpu(target: Target) -> DriverDevice:
    """The first GPU of this machine that runs code for a target.

    Raises:
        TargetError: the package, the driver or the GPU is missing (TW-E0407).
    """
    assert target.threads is not None
    found = find_gpu(target.threads.version)
    if isinstance(found, str):
        raise TargetError(
            f"code for target {target.name} cannot run here: {found}. "
            f"Target cuda-sim:{target.cpu} runs the same code in the simulator, without a GPU",
            code="TW-E0407",
        )
    return found


def find_gpu(version: int = 0) -> DriverDevice | str:
    """The first GPU of at least this version (80 for sm_80), or what is missing for one."""
    try:
        core = import_module(PACKAGE)
    except ImportError as missing:
        return f"cuda-core is not installed ({missing}): {INSTALL}"
    try:
        ctypes.CDLL(DRIVER)
    except OSError as missing:
        return f"there is no NVIDIA driver ({missing})"
    try:
        found = core.Device.get_all_devices()
    except Exception as error:
        # The errors of the driver and of its bindings share no type that can be named here.
        return f"the NVIDIA driver says: {error}"
    if not found:
        return "the NVIDIA driver sees no GPU"
    for gpu in found:
        if int(gpu.arch) >= version:
            return DriverDevice(core, gpu)
    older = ", ".join(f"{gpu.name} (sm_{gpu.arch})" for gpu in found)
    return f"the GPUs here are older than sm_{version}: {older}"
