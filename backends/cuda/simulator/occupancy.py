"""How many blocks one multiprocessor holds at once, and the limits of each generation.

The formula is that of NVIDIA's occupancy calculator; the figures are those of the CUDA C++
Programming Guide, table of technical specifications by compute capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Limiter = Literal["threads", "blocks", "registers", "shared memory"]
_REGISTERS = 65536
_REGISTER_UNIT = 256
_PARTITIONS = 4
_WARP = 32


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """The limits of one generation.

    Attributes:
        threads, blocks: resident at most.
        shared: bytes of shared memory. block_shared: what one block may have of it.
        reserved: bytes that the system takes of each block's. unit: bytes are given in units.
    """

    threads: int
    blocks: int
    shared: int
    block_shared: int
    reserved: int = 1024
    unit: int = 128


_KIB = 1024
MULTIPROCESSORS: Mapping[int, Multiprocessor] = {
    75: Multiprocessor(1024, 16, 64 * _KIB, 64 * _KIB, reserved=0, unit=256),
    80: Multiprocessor(2048, 32, 164 * _KIB, 163 * _KIB),
    86: Multiprocessor(1536, 16, 100 * _KIB, 99 * _KIB),
    87: Multiprocessor(1536, 16, 164 * _KIB, 163 * _KIB),
    89: Multiprocessor(1536, 24, 100 * _KIB, 99 * _KIB),
    90: Multiprocessor(2048, 32, 228 * _KIB, 227 * _KIB),
    100: Multiprocessor(2048, 32, 228 * _KIB, 227 * _KIB),
    103: Multiprocessor(2048, 32, 228 * _KIB, 227 * _KIB),
    120: Multiprocessor(1536, 24, 100 * _KIB, 99 * _KIB),
}
"""By compute capability, times ten."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What fits on a multiprocessor.

    Attributes:
        blocks, warps: resident at once; none if a block does not fit at all.
        share: of the warps that it can hold, from 0 to 1.
        limiter: what allows no more blocks.
    """

    blocks: int
    warps: int
    share: float
    limiter: Limiter


def occupancy(sm: Multiprocessor, threads: int, registers: int, shared: int) -> Occupancy:
    """How many blocks of a kernel one multiprocessor holds.

    Args:
        threads: of a block. registers: of a thread. shared: bytes of a block.
    """
    warps = -(-threads // _WARP)
    for_warp = -(-max(registers, 1) * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    resident = _REGISTERS // _PARTITIONS // for_warp * _PARTITIONS
    taken = -(-(shared + sm.reserved) // sm.unit) * sm.unit
    by_shared = sm.shared // taken if taken else sm.blocks
    limits: dict[Limiter, int] = {
        "threads": sm.threads // _WARP // warps,
        "blocks": sm.blocks,
        "registers": resident // warps if registers <= 255 else 0,
        "shared memory": by_shared if shared <= sm.block_shared else 0,
    }
    limiter = min(limits, key=lambda name: limits[name])
    blocks = limits[limiter]
    most = sm.threads // _WARP
    return Occupancy(blocks, blocks * warps, blocks * warps / most, limiter)


def multiprocessor(target: str) -> Multiprocessor | None:
    """The limits of a PTX target (``sm_90a``); None if it is not in the table."""
    digits = target.removeprefix("sm_").rstrip("abcdefghijklmnopqrstuvwxyz")
    return MULTIPROCESSORS.get(int(digits)) if digits.isdigit() else None
