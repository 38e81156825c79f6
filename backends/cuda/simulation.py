"""The backend ``cuda-sim``: the same code as ``cuda``, run by the simulator."""

from __future__ import annotations

from tilewright.target import Target

from .backend import CudaBackend
from .device import Device
from .simulated import SimulatedDevice


def _open(target: Target) -> Device:
    del target
    return SimulatedDevice()


BACKEND = CudaBackend("cuda-sim", _open)
