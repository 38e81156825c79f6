"""CUDA targets by name: what code is generated for, as data."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import TargetError
from tilewright.target import Target, Threads

from .instructions import instructions_for


@dataclass(frozen=True, slots=True)
class Architecture:
    """A compute capability, and the largest part on sale that has it, to weigh sizes by.

    Attributes:
        ptx: the version of PTX, in tenths, that its instructions need at least.
        shared_kib: shared memory of one block at most (CUDA Programming Guide, table of
            technical specifications).
        l2_mib, processors: of the part.
        part: its name. mhz: its boost clock. dram_gbs: of its memory, in 1e9 bytes a second.
        l2_clock: bytes that its second-level cache gives all multiprocessors in one clock; where
            NVIDIA publishes none, the figure of the generation before.
        f32, f64: additions or multiplications of lanes, a clock and multiprocessor (CUDA
            Programming Guide, table of arithmetic throughput).
        tensor: operations of its matrix units on f16 summed in f32, likewise.
    """

    ptx: int
    shared_kib: int
    l2_mib: int
    processors: int
    part: str
    mhz: int
    dram_gbs: int
    l2_clock: int
    f32: int
    f64: int
    tensor: int


# Clocks, bandwidths and matrix units: NVIDIA's whitepapers of Turing, A100, H100 and RTX Blackwell,
# and the data sheet of B200; processors * tensor * clock is the peak that they state.
ARCHITECTURES: dict[str, Architecture] = {
    "sm_75": Architecture(65, 64, 6, 72, "Quadro RTX 6000", 1770, 672, 2048, 64, 2, 1024),
    "sm_80": Architecture(70, 163, 40, 108, "A100 80GB SXM", 1410, 2039, 5120, 64, 32, 2048),
    "sm_90": Architecture(80, 227, 50, 132, "H100 SXM", 1830, 3352, 5120, 128, 64, 4096),
    "sm_100": Architecture(86, 227, 126, 148, "B200", 1850, 8000, 10240, 128, 64, 8192),
    "sm_120": Architecture(87, 99, 96, 170, "GeForce RTX 5090", 2407, 1792, 5120, 128, 2, 512),
}
DEFAULT = "sm_80"


def resolve_cuda(name: str) -> Target:
    """The target of a name: ``cuda:sm_80``, or ``cuda-sim`` (``cuda-sim:sm_80``) to simulate it.

    Raises:
        TargetError: there is none of that name (TW-E0401).
    """
    backend, given, architecture = name.partition(":")
    sm = architecture if given else DEFAULT
    found = ARCHITECTURES.get(sm)
    if found is None:
        known = ", ".join(f"{backend}:{a}" for a in ARCHITECTURES)
        raise TargetError(f"target {name!r}: there are {known}", code="TW-E0401")
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
            instructions=instructions_for(int(sm.removeprefix("sm_")), found.ptx),
        ),
    )
