"""Arrays at the border: aligned memory, addresses, and DLPack tensors without a copy.

DLPack is read from its C structures (dlpack.h), so that element types NumPy's own reader does
not know (bf16) pass too. A capsule is borrowed: it is kept alive while the call runs and never
consumed, so its maker frees it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from .. import dtype as dt
from ..dtype import DType
from .recycle import Block, Recycler, share_of_memory

ALIGNMENT = 64
_LARGE = 1 << 18
_HUGE_PAGE = 2 << 20

_BYTE = np.dtype(np.uint8)
_CPU_DEVICES = frozenset((1, 3))  # kDLCPU, kDLCUDAHost
_BF16_CODE = 4
_DLPACK_TYPES: dict[tuple[int, int], DType] = {
    **{(0, t.bits): t for t in (dt.i8, dt.i16, dt.i32, dt.i64)},
    **{(1, t.bits): t for t in (dt.u8, dt.u16, dt.u32, dt.u64)},
    **{(2, t.bits): t for t in (dt.f16, dt.f32, dt.f64)},
    (_BF16_CODE, 16): dt.bf16,
    (6, 8): dt.bool_,
}


class BorrowError(ValueError):
    """A DLPack tensor cannot be read here; the message says why."""


class SupportsDlpack(Protocol):
    """An object that exports itself by DLPack."""

    def __dlpack__(self) -> object:
        """A capsule of one tensor."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Device kind and number."""


# ------------------------------------------------------------------ addresses and allocation


def _documented(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _direct(
    array: np.ndarray,
    read: Callable[[int], ctypes.c_uint64] = ctypes.c_uint64.from_address,
    header: int = object.__basicsize__,
) -> int:
    return read(id(array) + header).value


def _reader() -> Callable[[np.ndarray], int]:
    """How to read an address: from the array's first field after the object header.

    ``PyArrayObject`` begins with the header and the data pointer; that is part of NumPy's binary
    interface. It is checked once on real arrays, and the documented way (ten times slower) is
    taken where it does not hold.
    """
    sample = np.arange(24, dtype=np.float64).reshape(4, 6)
    trials = [sample, sample[1:, 2:], sample[::-1], np.empty((3, 0)), np.array(1.5)]
    cpython = sys.implementation.name == "cpython"
    exact = cpython and all(_direct(t) == _documented(t) for t in trials)
    return _direct if exact else _documented


address_of = _reader()
"""The address of an array's first element."""


def aligned_bytes(size: int) -> np.ndarray:
    """Uninitialised u8 memory of ``size`` bytes that starts at a multiple of 64.

    From a megabyte on it lies in huge pages, where the system has them: kernels that walk along
    many rows need one translation of an address for 2 MB of it.

    Raises:
        MemoryError: there is not that much memory.
    """
    if size >= _HUGE_PAGE // 2 and hasattr(mmap, "MADV_HUGEPAGE"):
        return _huge_bytes(size)
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -address_of(raw) % ALIGNMENT
    return raw[start : start + size]


def _huge_bytes(size: int) -> np.ndarray:
    """Memory that starts with a huge page, and ends in one if half of that is used."""
    room = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        pages = mmap.mmap(-1, room + _HUGE_PAGE, flags=private)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no memory for {size} bytes: {error}") from error
    raw = np.frombuffer(pages, np.uint8)
    start = -address_of(raw) % _HUGE_PAGE
    whole = (size + _HUGE_PAGE // 2) // _HUGE_PAGE * _HUGE_PAGE
    # A system without huge pages refuses, and gives small ones.
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE, start, whole)
    return raw[start : start + size]


def _aligned_block(size: int) -> Block:
    raw = np.empty(size + ALIGNMENT, _BYTE)
    address = address_of(raw)
    start = -address % ALIGNMENT
    return Block(raw, start, address + start)


_RECYCLER = Recycler(_aligned_block, share_of_memory())


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, size: int) -> tuple[np.ndarray, int]:
    """An uninitialised array of ``size`` bytes at a multiple of 64, and its address.

    Large ones may use memory of earlier ones that are gone.

    Raises:
        MemoryError: there is not that much memory.
    """
    if size >= _LARGE:
        return _RECYCLER.empty(shape, dtype, size)
    raw = np.empty(size + ALIGNMENT, _BYTE)
    address = address_of(raw)
    start = -address % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start), address + start


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy of an array at a multiple of 64."""
    copy, _ = aligned_empty(array.shape, array.dtype, array.nbytes)
    copy[...] = array
    return copy


# ------------------------------------------------------------------ DLPack


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("rank", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_PYTHON = ctypes.PyDLL(None)
_capsule_is = _PYTHON.PyCapsule_IsValid
_capsule_is.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer = _PYTHON.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p


class _Borrowed:
    """Memory of a DLPack capsule as NumPy's array interface; holds the capsule."""

    def __init__(self, capsule: object, interface: dict[str, object]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def borrow(tensor: SupportsDlpack) -> np.ndarray:
    """A read-only array over the memory of a DLPack tensor, which it keeps alive.

    Raises:
        BorrowError: the tensor is not in CPU memory, has an element type that is not supported,
            is negated lazily, or its library refuses to export it.
    """
    try:
        kind, _ = tensor.__dlpack_device__()
        if kind not in _CPU_DEVICES:
            raise BorrowError(f"it is on DLPack device {kind}, not in CPU memory")
        # A view whose elements are to be negated is exported as if they were not.
        if getattr(tensor, "is_neg", bool)():
            raise BorrowError("its elements are negated only when they are read; resolve that")
        capsule = tensor.__dlpack__()
    except BorrowError:
        raise
    except Exception as error:  # whatever the library raises is the user's answer
        raise BorrowError(str(error)) from error
    if not _capsule_is(capsule, b"dltensor"):
        raise BorrowError("its __dlpack__() did not return a 'dltensor' capsule")
    view = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    found = _DLPACK_TYPES.get((view.dtype.code, view.dtype.bits))
    if found is None or view.dtype.lanes != 1:
        t = view.dtype
        raise BorrowError(f"its DLPack type (code {t.code}, {t.bits} bits) is not supported")
    shape = tuple(view.shape[: view.rank])
    strides = tuple(s * found.bytes for s in view.strides[: view.rank]) if view.strides else None
    if math.prod(shape) == 0:
        return np.empty(shape, found.numpy)
    stored = np.dtype(np.uint16) if found is dt.bf16 else found.numpy
    address = (view.data or 0) + view.byte_offset
    array = np.asarray(
        _Borrowed(
            capsule,
            {
                "version": 3,
                "shape": shape,
                "typestr": stored.str,
                "data": (address, True),
                "strides": strides,
            },
        )
    )
    return array.view(found.numpy) if found is dt.bf16 else array


class _Bfloat16Export:
    """Exports bf16 memory by DLPack, which NumPy's writer cannot name: as u16, then renamed."""

    def __init__(self, array: np.ndarray) -> None:
        self._words = array.view(np.uint16)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: object) -> object:
        capsule = self._words.__dlpack__()
        view = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
        view.dtype.code = _BF16_CODE
        return capsule


def library_of(value: object) -> str:
    """The top-level module that defines a value's type ("torch" for a torch.Tensor)."""
    return type(value).__module__.partition(".")[0]


def exporter(library: str) -> Callable[[np.ndarray], Any] | None:
    """How to hand an array to a library that is already imported; None where it has no way."""
    module: ModuleType | None = sys.modules.get(library)
    receive = getattr(module, "from_dlpack", None)
    if receive is None:
        return None

    def export(array: np.ndarray) -> Any:
        return receive(_Bfloat16Export(array) if array.dtype == dt.bf16.numpy else array)

    return export
