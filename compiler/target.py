"""Targets: what the code is generated for, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threads:
    """A machine that runs blocks of threads: what recipes for them ask.

    Attributes:
        warp: threads that run in step.
        most: threads of a block at most.
        shared_bytes: memory that the threads of a block share, at most, a block.
        registers: 32-bit registers of one thread at most.
        block_registers: of all threads of a block.
        processors: multiprocessors that blocks are spread over; to weigh sizes by.
        version: of the instruction set, as the maker counts (80 for sm_80).
        instructions: names of those that compute a whole nest (tensor/instructions.py).
    """

    warp: int
    most: int
    shared_bytes: int
    registers: int
    block_registers: int
    processors: int
    version: int
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for; passes ask it for numbers, never for its name.

    Attributes:
        name: what the user wrote (``x86-64-v3``) or ``native``.
        backend: the key in the BACKENDS table (``cpu``).
        triple, cpu, features: LLVM's terms; features is the flattened ``+avx2,-avx512f`` string.
        required: CPU features (Linux names) that must be present where the code runs.
        vector_bits: width of one vector register.
        vector_registers: how many there are.
        masked: whether masked loads and stores of f32 are cheap.
        l1_bytes, l2_bytes, l3_bytes: data cache sizes of one core (l3: shared).
        fma: whether multiply-add is one instruction, rounded once.
        half: whether f16 and f32 are converted by an instruction.
        gather: whether loads through a vector of indices are one instruction.
        abi: LLVM's name of the calling convention, where the triple does not settle it.
        relocation: how code refers to data: ``pic`` (it may lie anywhere) or ``static``.
        attributes: LLVM's attributes of every function.
        scales: where the machine chooses the length of its vectors: the least and the largest
            length that the code is right for, in units of LLVM's vscale; 0 stands for any.
        threads: of a machine that runs blocks of threads; None for one of vector registers.
        ports: vector multiply-adds, and vector loads, that a core starts in a cycle.
        near_rate, far_rate: bytes a cycle that a core gets from its L2 cache, and from beyond:
            constants come from there whenever a model has more of them than the caches hold.
    """

    name: str
    backend: str
    triple: str
    cpu: str
    features: str
    required: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    masked: bool
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    fma: bool = False
    half: bool = False
    gather: bool = False
    abi: str = ""
    relocation: str = "pic"
    attributes: str = "nounwind"
    scales: tuple[int, int] = (0, 0)
    threads: Threads | None = None
    ports: int = 2
    near_rate: int = 40
    far_rate: int = 8

    @property
    def architecture(self) -> str:
        """The kind of processor, by the triple's first word (``x86_64``, ``aarch64``)."""
        return self.triple.partition("-")[0]

    def lanes(self, bits: int) -> int:
        """How many elements of ``bits`` bits one vector register holds."""
        return max(1, self.vector_bits // bits)
