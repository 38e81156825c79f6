"""A stand-in for ``cuda.core``: what the driver uses of it, strict in its arguments.

Names, keywords and kinds of arguments are those that cuda-core 1.2 documents. Memory and kernels
are the simulator's; every call that the real package makes of the GPU is written down.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tilewright.backends.cuda.simulator import Kernel as SimulatedKernel
from tilewright.backends.cuda.simulator import LoadedModule, Simulator

DEVICE_BASE = 1 << 60
"""Addresses below are the host's; those of the simulated memory lie this much higher."""


class FakeCore:
    """The module.

    Args:
        architectures: of each GPU, as cuda-core writes them (``"90"``).

    Attributes:
        calls: what was asked for, in order.
    """

    def __init__(self, architectures: tuple[str, ...] = ("90",)) -> None:
        self.simulator = Simulator()
        self.calls: list[str] = []
        self.open = 0
        self.current = False
        self.LaunchConfig = LaunchConfig
        gpus = tuple(FakeGpu(self, arch) for arch in architectures)
        self.Device = SimpleNamespace(get_all_devices=lambda: gpus)
        self.Buffer = SimpleNamespace(from_handle=self.from_handle)
        self.ObjectCode = SimpleNamespace(from_ptx=self.from_ptx)

    def from_handle(self, ptr: int, size: int, *, owner: object = None) -> FakeBuffer:
        assert type(ptr) is int and type(size) is int
        return FakeBuffer(self, ptr, size, owner)

    def from_ptx(self, module: bytes) -> FakeCode:
        assert isinstance(module, bytes), "a str is the path of a file"
        assert self.current
        self.calls.append("from_ptx")
        return FakeCode(self.simulator.load(module.decode()))

    def launch(
        self, stream: FakeStream, config: LaunchConfig, kernel: FakeKernel, *args: int
    ) -> None:
        assert self.current
        assert all(type(a) is int for a in args)
        self.calls.append(f"launch {kernel.kernel.name} {config.grid} {config.block}")
        own = [a - DEVICE_BASE if a >= DEVICE_BASE else a for a in args]
        self.simulator.launch(kernel.kernel, config.grid, config.block, own)


@dataclass(frozen=True)
class LaunchConfig:
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shmem_size: int = 0


@dataclass(frozen=True)
class FakeKernel:
    kernel: SimulatedKernel


@dataclass(frozen=True)
class FakeCode:
    module: LoadedModule

    def get_kernel(self, name: str) -> FakeKernel:
        return FakeKernel(self.module.kernel(name))


class FakeGpu:
    def __init__(self, core: FakeCore, arch: str) -> None:
        self.core = core
        self.name = "Fake GPU"
        self.arch = arch

    def set_current(self) -> None:
        self.core.current = True

    def create_stream(self) -> FakeStream:
        assert self.core.current
        return FakeStream(self.core)

    def allocate(self, size: int, *, stream: FakeStream) -> FakeBuffer:
        assert self.core.current and size > 0
        assert type(stream) is FakeStream
        self.core.calls.append(f"allocate {size}")
        self.core.open += 1
        address = self.core.simulator.allocate(size) + DEVICE_BASE
        return FakeBuffer(self.core, address, size, None, owns=True)


class FakeStream:
    def __init__(self, core: FakeCore) -> None:
        self.core = core

    def sync(self) -> None:
        self.core.calls.append("sync")


class FakeBuffer:
    def __init__(
        self, core: FakeCore, ptr: int, size: int, owner: object, owns: bool = False
    ) -> None:
        self.core, self.ptr, self.size, self.owner, self.owns = core, ptr, size, owner, owns

    @property
    def handle(self) -> Any:
        return np.int64(self.ptr)  # a type of its own, as the bindings have one

    @property
    def on_device(self) -> bool:
        return self.ptr >= DEVICE_BASE

    def close(self, stream: FakeStream) -> None:
        assert self.owns
        assert type(stream) is FakeStream
        self.core.calls.append("free")
        self.core.open -= 1
        self.core.simulator.free(self.ptr - DEVICE_BASE)

    def copy_from(self, src: FakeBuffer, *, stream: FakeStream) -> None:
        assert src.size == self.size
        assert type(stream) is FakeStream
        self.core.calls.append(f"copy {_kind(src)} to {_kind(self)}")
        self.write(src.read())

    def copy_to(self, dst: FakeBuffer, *, stream: FakeStream) -> None:
        assert dst.size == self.size
        assert type(stream) is FakeStream
        self.core.calls.append(f"copy {_kind(self)} to {_kind(dst)}")
        dst.write(self.read())

    def read(self) -> np.ndarray:
        if self.on_device:
            return self.core.simulator.copy_out(self.ptr - DEVICE_BASE, (self.size,), np.uint8)
        return self._host().copy()

    def write(self, data: np.ndarray) -> None:
        if self.on_device:
            self.core.simulator.copy_in(self.ptr - DEVICE_BASE, data)
        else:
            self._host()[:] = data

    def _host(self) -> np.ndarray:
        assert self.owner is not None, "nothing would keep the array alive"
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.ptr))


def _kind(buffer: FakeBuffer) -> str:
    return "device" if buffer.on_device else "host"
