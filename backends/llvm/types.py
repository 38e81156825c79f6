"""How element types are spelled in LLVM IR, in memory and in registers, and how constants are."""

from __future__ import annotations

import struct

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType, Kind

# A bool is stored in a byte and computed as i1. f16 and bf16 are carried as their bits: arithmetic
# is done in f32 and rounded, so that no target needs half-precision instructions or library calls.
_MEMORY = {
    "f64": "double", "f32": "float", "f16": "i16", "bf16": "i16", "i64": "i64", "i32": "i32",
    "i16": "i16", "i8": "i8", "u64": "i64", "u32": "i32", "u16": "i16", "u8": "i8", "bool_": "i8",
}  # fmt: skip
_OVERLOAD = {"double": "f64", "float": "f32", "half": "f16", "ptr": "p0"}
_VECTORS: dict[tuple[str, int], str] = {}


def memory_type(dtype: DType) -> str:
    """The LLVM type of one element in memory."""
    return _MEMORY[dtype.name]


def register_type(dtype: DType) -> str:
    """The LLVM type of one element in a register: that of memory, but i1 for bool."""
    return "i1" if dtype is dt.bool_ else _MEMORY[dtype.name]


def vector(scalar: str, lanes: int) -> str:
    """The LLVM type of ``lanes`` elements; one lane is the scalar itself."""
    if lanes == 1:
        return scalar
    key = (scalar, lanes)
    found = _VECTORS.get(key)
    if found is None:
        found = _VECTORS[key] = f"<{lanes} x {scalar}>"
    return found


def overload(scalar: str, lanes: int) -> str:
    """The suffix by which an intrinsic's name tells its type (``v16f32``)."""
    name = _OVERLOAD.get(scalar, scalar)
    return name if lanes == 1 else f"v{lanes}{name}"


def is_half(dtype: DType) -> bool:
    """Whether it is a float that is carried as 16 bits."""
    return dtype.kind is Kind.FLOAT and dtype.bits == 16


def literal(value: float | bool, dtype: DType) -> str:
    """A scalar constant, by its exact bits."""
    match dtype.name:
        case "bool_":
            return "true" if value else "false"
        case "f64":
            return f"0x{_bits64(float(value)):016X}"
        case "f32":
            with np.errstate(over="ignore"):
                return f"0x{_bits64(float(np.float32(value))):016X}"
        case "f16" | "bf16":
            with np.errstate(over="ignore"):
                return str(int(np.asarray(value, dtype.numpy).view(np.uint16)))
        case _:
            bits = dtype.bits
            wrapped = int(value) & ((1 << bits) - 1)
            return str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)


def splat_literal(text: str, scalar: str, lanes: int) -> str:
    """A constant whose lanes are all the scalar constant ``text``."""
    return text if lanes == 1 else f"splat ({scalar} {text})"


def _bits64(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])
