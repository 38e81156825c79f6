"""NVIDIA GPUs: a scheduled function to PTX, and programs that run on a device.

target.py    names to targets         threads.py   blocks, threads, what each one keeps
ptx.py       a function to PTX        backend.py   the Backend: compile, load
run.py       a program on a device    device.py    what a device can do
simulator/   executes PTX in NumPy    simulated.py the simulator as a device
"""

from __future__ import annotations

from tilewright.errors import TargetError
from tilewright.target import Target

from .backend import CudaBackend
from .device import Device


def _open(target: Target) -> Device:
    raise TargetError(
        f"code for target {target.name}: no NVIDIA driver is in use here; compile for "
        f"cuda-sim:{target.cpu} to run it in the simulator",
        code="TW-E0407",
    )


BACKEND = CudaBackend("cuda", _open)
