"""The fundamental types of PTX: how wide each is, and how NumPy views its bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Values of all lanes, or one NumPy scalar where all lanes have the same value."""

Kind = Literal["bits", "unsigned", "signed", "float", "packed", "predicate"]

UNSIGNED: Mapping[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_),
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
"""The type that a register of so many bits has; predicates are booleans."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type of PTX.

    Attributes:
        name: as PTX spells it, without the dot.
        kind: what the bits mean; ``packed`` is a pair in one register.
        bits: width.
        view: the type NumPy computes in; for those it lacks (bf16, tf32, f8), the raw bits.
    """

    name: str
    kind: Kind
    bits: int
    view: np.dtype[Any]

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def raw(self) -> np.dtype[Any]:
        """The type of a register that holds it."""
        return UNSIGNED[self.bits]


def _table() -> dict[str, Scalar]:
    found = [Scalar("pred", "predicate", 1, UNSIGNED[1])]
    for bits in (8, 16, 32, 64):
        found += [
            Scalar(f"b{bits}", "bits", bits, UNSIGNED[bits]),
            Scalar(f"u{bits}", "unsigned", bits, UNSIGNED[bits]),
            Scalar(f"s{bits}", "signed", bits, np.dtype(f"int{bits}")),
        ]
    found += [Scalar(f"f{bits}", "float", bits, np.dtype(f"float{bits}")) for bits in (16, 32, 64)]
    found += [
        Scalar("bf16", "float", 16, UNSIGNED[16]),
        Scalar("tf32", "float", 32, UNSIGNED[32]),
        Scalar("e4m3", "float", 8, UNSIGNED[8]),
        Scalar("e5m2", "float", 8, UNSIGNED[8]),
        Scalar("f16x2", "packed", 32, UNSIGNED[32]),
        Scalar("bf16x2", "packed", 32, UNSIGNED[32]),
        Scalar("f32x2", "packed", 64, UNSIGNED[64]),
        Scalar("u16x2", "packed", 32, UNSIGNED[32]),
        Scalar("s16x2", "packed", 32, UNSIGNED[32]),
        Scalar("e4m3x2", "packed", 16, UNSIGNED[16]),
        Scalar("e5m2x2", "packed", 16, UNSIGNED[16]),
    ]
    return {s.name: s for s in found}


SCALARS: Mapping[str, Scalar] = _table()
"""Every type by its name."""
