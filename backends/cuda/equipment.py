"""What this machine has for GPUs: the driver, the GPUs, and the tools that check code."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib import metadata

from .driver import DRIVER, INSTALL, find_gpu
from .host.execute import host_compiler
from .target import ARCHITECTURES
from .toolkit import LIBRARIES, TOOLS, find_library, find_tool


def facts() -> Iterator[tuple[str, str]]:
    """A label and a line for each thing; what is missing says how it is got."""
    yield "gpu targets", ", ".join(f"{p}:{a}" for p in ("cuda", "cuda-sim") for a in ARCHITECTURES)
    yield "gpu", _gpu()
    yield "gpu driver", _driver()
    yield "cuda-core", _core()
    found = [(name, find_tool(name), package) for name, package in TOOLS.items()]
    found += [(name, find_library(name), package) for name, package in LIBRARIES.items()]
    there = [name for name, place, _ in found if place is not None]
    missing = sorted({package for _, place, package in found if place is None})
    gets = f"; for the others pip install {' '.join(missing)}" if missing else ""
    yield "cuda tools", f"{', '.join(there) or 'none'} (to check code; none is needed){gets}"
    compiler = host_compiler()
    yield "kernel host", f"{compiler or 'no C++ compiler'} (runs CUDA C++ kernels in the tests)"


def _gpu() -> str:
    found = find_gpu()
    return f"none in use: {found}" if isinstance(found, str) else found.name


def _driver() -> str:
    try:
        library = ctypes.CDLL(DRIVER)
    except OSError:
        return f"{DRIVER} is not there; install NVIDIA's driver to run on a GPU"
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _core() -> str:
    try:
        return metadata.version("cuda-core")
    except metadata.PackageNotFoundError:
        return f"not installed: {INSTALL}"
