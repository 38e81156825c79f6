"""Compiles one Func and calls it on NumPy arrays, with a pool that is a plain loop."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tilewright.backends.cpu.compile import compile_object, machine_for
from tilewright.backends.cpu.target import missing_features, resolve_target
from tilewright.backends.llvm.emit import emit_kernel
from tilewright.target import Target
from tilewright.tensor.interpret import interpret
from tilewright.tensor.ir import Buffer, Func

Array = np.ndarray[Any, np.dtype[Any]]
TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "native")
_LIBC = ctypes.CDLL(None, use_errno=True)

_RANGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_PARALLEL = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)


@_PARALLEL  # type: ignore[untyped-decorator]
def _run_in_pieces(_ctx: int, fn: int, env: int, n: int, _rows: int) -> None:
    # Uneven pieces: results must not depend on the cut.
    cut = (n + 2) // 3
    for begin, end in ((0, cut), (cut, n)):
        if begin < end:
            _RANGE(fn)(env, begin, end)


CONTEXT = (ctypes.c_void_p * 3)(ctypes.cast(_run_in_pieces, ctypes.c_void_p), 0, 2)


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
        entry(ctypes.addressof(CONTEXT), *raw)

    run.engine = engine  # type: ignore[attr-defined]
    return run


def run_func(func: Func, *args: Array | int, target: str | Target = "native") -> None:
    """Compiles and runs once; outputs are written in place."""
    compile_func(func, target)(*args)


def runs_here(target: str) -> bool:
    """Whether this CPU can run code for a target."""
    return not missing_features(resolve_target(target))


def agree(
    func: Func,
    arrays: dict[str, Array],
    symbols: dict[str, int] | None = None,
    *,
    targets: Sequence[str] = TARGETS,
    rtol: float = 0.0,
) -> dict[str, Array]:
    """Checks that compiled code leaves in every buffer what the interpreter does.

    Inputs and outputs end at the edge of a page that may not be touched.

    Returns:
        The arrays as they are afterwards.
    """
    symbols = symbols or {}
    expected = {name: a.copy() for name, a in arrays.items()}
    interpret(func, expected, symbols)
    for target in targets:
        if not runs_here(target):
            continue
        fenced = {name: _fenced(a) for name, a in arrays.items()}
        args = [fenced[p.name] if isinstance(p, Buffer) else symbols[p.name] for p in func.params]
        compile_func(func, target)(*args)
        for name, want in expected.items():
            if rtol:
                np.testing.assert_allclose(fenced[name], want, rtol=rtol, err_msg=target)
            else:
                np.testing.assert_array_equal(fenced[name], want, err_msg=f"{name} on {target}")
    return expected


def aligned(*shape: int, dtype: Any = np.float32, align: int = 64) -> Array:
    """A zeroed array at an aligned address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + align, np.uint8)
    offset = -raw.ctypes.data % align
    new: Array = raw[offset : offset + size].view(dtype).reshape(shape)
    return new


def _fenced(array: Array) -> Array:
    """A copy whose last byte is the last one before a page that may not be touched."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert _LIBC.mprotect(ctypes.c_void_p(start + size), page, 0) == 0
    offset = size - array.nbytes
    new = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    new[...] = array
    return new
