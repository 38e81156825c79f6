"""CUDA targets by name: what code is generated for, as data."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import TargetError
from tilewright.target import Target, Threads


@dataclass(frozen=True, slots=True)
class Architecture:
    """A compute capability.

    Attributes:
        ptx: the version of PTX, in tenths, that its instructions need at least.
        shared_kib: shared memory of one block at most (CUDA Programming Guide, table of
            technical specifications).
        l2_mib, processors: of the largest part on sale; to weigh sizes by.
    """

    ptx: int
    shared_kib: int
    l2_mib: int
    processors: int


ARCHITECTURES: dict[str, Architecture] = {
    "sm_75": Architecture(65, 64, 6, 72),
    "sm_80": Architecture(70, 163, 40, 108),
    "sm_90": Architecture(80, 227, 50, 132),
    "sm_100": Architecture(86, 227, 126, 148),
    "sm_120": Architecture(87, 99, 96, 170),
}
DEFAULT = "sm_80"


def resolve_cuda(name: str) -> Target:
    """The target of a name: ``cuda:sm_80``, or ``cuda-sim`` (``cuda-sim:sm_80``) to simulate it.

    Raises:
        TargetError: there is none of that name (TW-E0401).
    """
    backend, _, architecture = name.partition(":")
    found = ARCHITECTURES.get(architecture or DEFAULT)
    if found is None:
        known = ", ".join(f"{backend}:{a}" for a in ARCHITECTURES)
        raise TargetError(f"target {name!r}: there are {known}", code="TW-E0401")
    sm = architecture or DEFAULT
    return Target(
        name=name,
        backend=backend,
        triple="nvptx64-nvidia-cuda",
        cpu=sm,
        features=f"+ptx{found.ptx}",
        required=(),
        vector_bits=128,
        vector_registers=32,
        masked=False,
        l1_bytes=found.shared_kib << 10,
        l2_bytes=found.l2_mib << 20,
        l3_bytes=found.l2_mib << 20,
        fma=True,
        half=True,
        attributes="nounwind",
        threads=Threads(
            warp=32,
            most=1024,
            shared_bytes=found.shared_kib << 10,
            registers=255,
            block_registers=65536,
            processors=found.processors,
            version=int(sm.removeprefix("sm_")),
        ),
    )
