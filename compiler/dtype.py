"""Element types: the one table of names, widths and NumPy equivalents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np


class Kind(Enum):
    """The family of an element type."""

    FLOAT = "float"
    INT = "int"
    UINT = "uint"
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class Declared:
    """What a parameter of a kernel is: ``f32["M", 64]``.

    Attributes:
        dtype: the element type.
        dims: numbers, or texts of expressions over symbols ("M", "2*M + 1").
    """

    dtype: DType
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: a name, a family and a width.

    Attributes:
        name: the short name that the text forms print (``f32``).
        kind: the family.
        bits: the width of one element in memory; ``bool`` is stored in 8.
        numpy: the NumPy type that stores it (bf16 by ml_dtypes).
    """

    name: str
    kind: Kind
    bits: int
    numpy: np.dtype

    def __hash__(self) -> int:
        # Types are part of most keys, and a hash of all fields took long.
        return hash(self.name)

    @property
    def bytes(self) -> int:
        """The size of one element in memory, in bytes."""
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return self.kind is Kind.FLOAT

    @property
    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer (bool is not)."""
        return self.kind is Kind.INT or self.kind is Kind.UINT

    @property
    def is_signed(self) -> bool:
        """Whether it can hold negative values."""
        return self.kind is Kind.INT or self.kind is Kind.FLOAT

    @property
    def lowest(self) -> int | float | bool:
        """The identity of max: minus infinity, the smallest integer, or False."""
        if self.kind is Kind.FLOAT:
            return -float("inf")
        return False if self.kind is Kind.BOOL else int(np.iinfo(self.numpy).min)

    @property
    def highest(self) -> int | float | bool:
        """The identity of min: infinity, the largest integer, or True."""
        if self.kind is Kind.FLOAT:
            return float("inf")
        return True if self.kind is Kind.BOOL else int(np.iinfo(self.numpy).max)

    def __getitem__(self, dims: int | str | tuple[int | str, ...]) -> Declared:
        """An array of this type, for the parameters of kernels."""
        return Declared(self, dims if isinstance(dims, tuple) else (dims,))

    def __reduce__(self) -> str:
        """In another process, too, it is the one of its name in this module."""
        return self.name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


f64 = DType("f64", Kind.FLOAT, 64, np.dtype(np.float64))
f32 = DType("f32", Kind.FLOAT, 32, np.dtype(np.float32))
f16 = DType("f16", Kind.FLOAT, 16, np.dtype(np.float16))
bf16 = DType("bf16", Kind.FLOAT, 16, np.dtype(ml_dtypes.bfloat16))
i64 = DType("i64", Kind.INT, 64, np.dtype(np.int64))
i32 = DType("i32", Kind.INT, 32, np.dtype(np.int32))
i16 = DType("i16", Kind.INT, 16, np.dtype(np.int16))
i8 = DType("i8", Kind.INT, 8, np.dtype(np.int8))
u64 = DType("u64", Kind.UINT, 64, np.dtype(np.uint64))
u32 = DType("u32", Kind.UINT, 32, np.dtype(np.uint32))
u16 = DType("u16", Kind.UINT, 16, np.dtype(np.uint16))
u8 = DType("u8", Kind.UINT, 8, np.dtype(np.uint8))
bool_ = DType("bool_", Kind.BOOL, 8, np.dtype(np.bool_))

DTYPES: dict[str, DType] = {
    t.name: t for t in (f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, bool_)
}
_BY_NUMPY: dict[np.dtype, DType] = {t.numpy: t for t in DTYPES.values()}


def from_numpy(dtype: np.dtype | type) -> DType | None:
    """Returns the element type stored by a NumPy dtype, or None where there is none."""
    given = np.dtype(dtype)
    return _BY_NUMPY.get(given if given.isnative else given.newbyteorder("="))
