"""CUDA C++ through a host compiler, loaded and launched."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tilewright.errors import InternalError, TargetError
from tilewright.tensor.ir import Buffer, Func

from ..source import emit_source
from ..threads import launch_of
from .matrices import MATRICES
from .shim import SHIM

ORDERS = ("forwards", "backwards", "mixed")
"""The orders in which threads take their turns between two barriers."""


def host_compiler() -> str | None:
    """The C++ compiler of this machine, if there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


class HostKernels:
    """Kernels compiled for the host; threads of a block run one after another between barriers.

    Args:
        funcs: scheduled functions with distinct names.
        sanitize: whether the compiler is to watch for overruns and undefined behaviour.

    Raises:
        TargetError: there is no compiler (TW-E0407).
        InternalError: it refuses the text (TW-E0952).
    """

    def __init__(self, funcs: Sequence[Func], flags: Sequence[str] = ()) -> None:
        compiler = host_compiler()
        if compiler is None:
            raise TargetError(
                "no C++ compiler is on the path: kernels cannot run on the host", code="TW-E0407"
            )
        self._funcs = {f.name: f for f in funcs}
        wrappers = "\n".join(_wrapper(f) for f in funcs)
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            source.write_text("\n".join([SHIM, MATRICES, emit_source(funcs), wrappers]))
            command = [compiler, "-std=c++17", "-O1", "-fwrapv", "-ffp-contract=off", "-w", *flags]
            command += ["-shared", "-fPIC", str(source), "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InternalError(
                    f"the host compiler refuses the kernels: {done.stderr[:2000]}", code="TW-E0952"
                )
            self._library = ctypes.CDLL(str(library))

    def launch(
        self,
        name: str,
        memory: Mapping[str, np.ndarray],
        symbols: Mapping[str, int],
        grid: Sequence[int],
        order: str = "forwards",
    ) -> None:
        """Runs a kernel on arrays, which it writes in place.

        Args:
            memory: a contiguous array for every buffer.
            symbols: a value for every symbol.
            grid: blocks along x, y, z.
            order: see ORDERS.

        Raises:
            InternalError: some threads of a block end while others wait (TW-E0952).
        """
        func = self._funcs[name]
        values = []
        for p in func.params:
            if isinstance(p, Buffer):
                array = memory[p.name]
                assert array.flags.c_contiguous
                values.append(array.ctypes.data)
            else:
                values.append(symbols[p.name])
        arguments = (ctypes.c_void_p * max(1, len(values)))(*(v & (1 << 64) - 1 for v in values))
        block = launch_of(func).block
        status = self._library.tw_launch(
            ctypes.cast(getattr(self._library, f"tw_run_{name}"), ctypes.c_void_p),
            arguments,
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block, 1),
            ORDERS.index(order),
        )
        if status:
            raise InternalError(f"{name}: threads of a block part at a barrier", code="TW-E0952")


def _wrapper(func: Func) -> str:
    """A function that takes all arguments as an array."""
    args = [f"tw_argument(a[{k}])" for k in range(len(func.params))]
    return f'extern "C" void tw_run_{func.name}(void** a) {{ {func.name}({", ".join(args)}); }}'
