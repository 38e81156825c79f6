"""Compiles one Func and calls it on NumPy arrays, with a pool that is a plain loop."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tilewright.backends.cpu.compile import compile_object, machine_for
from tilewright.backends.cpu.target import missing_features, resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.target import Target
from tilewright.tensor.ir import Buffer, Func

_RANGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_PARALLEL = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)


@_PARALLEL
def _run_in_pieces(_ctx: int, fn: int, env: int, n: int) -> None:
    # Uneven pieces: results must not depend on the cut.
    cut = (n + 2) // 3
    for begin, end in ((0, cut), (cut, n)):
        if begin < end:
            _RANGE(fn)(env, begin, end)


_CONTEXT = (ctypes.c_void_p * 1)(ctypes.cast(_run_in_pieces, ctypes.c_void_p))


def compile_func(func: Func, target: str | Target = "native") -> Callable[..., None]:
    """A callable that takes the arrays and sizes of ``func.params`` in order."""
    resolved = resolve_target(target) if isinstance(target, str) else target
    text = emit_kernel(func, resolved)
    data = compile_object(text, resolved, verify=True)
    return load_object(data, func, resolved)


def load_object(data: bytes, func: Func, target: Target) -> Callable[..., None]:
    """Links an object in this process."""
    machine = machine_for(target)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    address = engine.get_function_address(func.name)
    assert address
    kinds = [ctypes.c_void_p if isinstance(p, Buffer) else ctypes.c_int64 for p in func.params]
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *kinds)(address)

    def run(*args: Any) -> None:
        assert len(args) == len(func.params)
        raw = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args]
        entry(ctypes.addressof(_CONTEXT), *raw)

    run.engine = engine  # type: ignore[attr-defined]
    return run


def run_func(
    func: Func, *args: np.ndarray[Any, Any] | int, target: str | Target = "native"
) -> None:
    """Compiles and runs once; outputs are written in place."""
    compile_func(func, target)(*args)


def runs_here(target: str) -> bool:
    """Whether this CPU can run code for a target."""
    return not missing_features(resolve_target(target))


def aligned(shape: Sequence[int] | int, dtype: Any = np.float32, align: int = 64) -> Any:
    """A zeroed array at an aligned address."""
    count = int(np.prod(shape))
    raw = np.zeros(count * np.dtype(dtype).itemsize + align, np.uint8)
    offset = -raw.ctypes.data % align
    return raw[offset : offset + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
