"""NVIDIA GPUs: a scheduled function to PTX, and programs that run on a device.

target.py    names to targets         threads.py   blocks, threads, what each one keeps
ptx.py       a function to PTX        backend.py   the Backend: compile, load
fragments.py what a lane of a tile    instructions.py what instructions need
source.py    a function to CUDA C++   host/        runs that text through a host compiler
budget.py    what a kernel takes      equipment.py what doctor shows
alignment.py where vectors may begin
launches.py  grids of launches        run.py       a program on a device
device.py    what a device can do     driver.py    a GPU as a device, by cuda-core
simulator/   executes PTX in NumPy    simulated.py the simulator as a device
toolkit.py   NVIDIA's tools           profile.py   counters and occupancy
roofline.py  the least time of a kernel
"""

from __future__ import annotations

from .backend import CudaBackend
from .driver import open_gpu

BACKEND = CudaBackend("cuda", open_gpu)
