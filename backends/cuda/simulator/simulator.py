"""A GPU that is not there: memory, modules and launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .assemble import assemble
from .batch import Batch, Shape, Window
from .code import Program
from .copies import AsyncCopies
from .counters import Counters
from .faults import SimulationError
from .launch import Argument, check_shape, check_shared, index_of, pack_arguments
from .machine import Machine
from .memory import FIRST_OFFSET, GUARD, Bytes, GlobalMemory, Layout, Region
from .parser import parse
from .ptx import Function
from .ptx import Module as Ptx
from .scalars import Array
from .shadow import SharedShadow
from .sharing import GlobalShadow
from .specials import special

LANES = 1 << 15
"""How many threads are run at once, at most (but whole blocks)."""
SHARED = 4 << 20
"""How many bytes of shared memory they have, at most."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a simulator looks for.

    Attributes:
        races: races in shared memory and of asynchronous copies.
        sharing: races in global memory, of blocks and of threads (the latter with ``races``).
        counters: the figures of a profile.
        limit: basic blocks that a batch of blocks may execute.
    """

    races: bool = True
    sharing: bool = True
    counters: bool = True
    limit: int = 5_000_000


@dataclass(frozen=True, slots=True)
class Kernel:
    """An entry of a loaded module; ``target`` is what its PTX is for."""

    function: Function
    program: Program
    target: str

    @property
    def name(self) -> str:
        return self.function.name


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """PTX whose global variables are placed in memory.

    Attributes:
        addresses: of those variables, by name.
    """

    ptx: Ptx
    kernels: Mapping[str, Kernel]
    addresses: Mapping[str, int] = field(default_factory=dict)

    def kernel(self, name: str) -> Kernel:
        """The entry of that name.

        Raises:
            SimulationError: there is none (TW-E1014).
        """
        if name not in self.kernels:
            raise SimulationError(
                f"kernel {name!r}: the module has {', '.join(self.kernels) or 'none'}",
                code="TW-E1014",
            )
        return self.kernels[name]


class Simulator:
    """Executes PTX and refuses what a GPU would do wrongly in silence.

    Args:
        options: what to look for.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.memory = GlobalMemory()
        self._sharing = GlobalShadow() if self.options.sharing else None

    def allocate(self, size: int, name: str = "") -> int:
        """The address of ``size`` bytes of global memory, a multiple of 256; nothing is in them.

        Args:
            name: what errors call them.
        """
        if size < 0:
            raise SimulationError(f"allocate: {size} bytes", code="TW-E1016")
        return self.memory.allocate(size, name or f"allocation {len(self.memory.layout.regions)}")

    def free(self, address: int) -> None:
        """Gives an allocation back; see GlobalMemory.free."""
        self.memory.free(address)

    def copy_in(self, address: int, values: Array) -> None:
        """Copies an array into global memory."""
        self.memory.write(address, values)

    def copy_out(
        self,
        address: int,
        shape: Sequence[int],
        dtype: np.dtype[Any] | type[np.generic],
        *,
        written: bool = True,
    ) -> Array:
        """An array with a copy of global memory.

        Args:
            written: whether to refuse bytes that nobody has written (TW-E1003).
        """
        kind = np.dtype(dtype)
        count = int(np.prod(tuple(shape), dtype=np.int64))
        raw = self.memory.read(address, count * kind.itemsize, written=written)
        return raw.view(kind).reshape(tuple(shape))

    def place(self, values: Array, name: str = "") -> int:
        """Allocates memory for an array and copies it there."""
        address = self.allocate(values.nbytes, name)
        self.copy_in(address, values)
        return address

    def load(self, text: str) -> LoadedModule:
        """Reads PTX, places its variables and makes its kernels ready.

        Raises:
            PtxError: the text is not understood (TW-E1011) or not modelled (TW-E1012).
        """
        ptx = parse(text)
        addresses = {}
        for variable in ptx.variables.values():
            if variable.initial is not None:
                name = f".{variable.space} {variable.name}"
                address = self.memory.allocate(variable.size, name, variable.align)
                self.memory.write(address, np.frombuffer(variable.initial, np.uint8))
                addresses[variable.name] = address
        kernels = {
            f.name: Kernel(f, assemble(ptx, f, addresses), ptx.target)
            for f in ptx.functions.values()
            if f.entry
        }
        return LoadedModule(ptx, kernels, addresses)

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> Counters:
        """Runs a kernel to its end.

        Args:
            grid: blocks, as (x, y, z) or fewer. block: threads of a block, likewise.
            args: one value for each parameter.
            shared_bytes: the dynamic part of shared memory.

        Returns:
            What it did; all zero if the options ask for no counters.

        Raises:
            SimulationError: the arguments do not fit (TW-E1013), or the kernel broke a rule.
        """
        shape = Shape(index_of(grid), index_of(block))
        program = kernel.program
        check_shape(kernel.function, shape)
        check_shared(kernel.name, kernel.target, program.shared_bytes + shared_bytes)
        parameters = pack_arguments(kernel.function, args)
        size = batch_blocks(program, shape, shared_bytes)
        counters = Counters(shape.blocks, shape.blocks * shape.threads)
        if self._sharing is not None:
            memory = self.memory.bytes.size
            self._sharing.start(memory, shape.blocks, program.global_cell, program.facts)
        with np.errstate(all="ignore"):
            for first in range(0, shape.blocks, size):
                blocks = min(size, shape.blocks - first)
                batch = Batch(kernel.name, shape, first, blocks, parameters)
                self._prepare(batch, program, shared_bytes)
                batch.counters = counters if self.options.counters else None
                machine = Machine(program, batch, self.options.limit)
                machine.run()
                if batch.counters is not None:
                    batch.counters.executed(program.blocks, machine.executed)
        self.memory.settle_stored()
        return counters

    def _prepare(self, batch: Batch, program: Program, shared_bytes: int) -> None:
        batch.memory = self.memory
        batch.r = list(program.initial)
        shared = list(program.shared)
        if program.dynamic >= 0:
            end = program.dynamic + shared_bytes
            shared.append(Region("dynamic shared memory", program.dynamic, end))
        batch.shared = _window(shared, batch.blocks, batch.block_of)
        owner = np.arange(batch.lanes, dtype=np.int64)
        batch.local = _window(program.local, batch.lanes, owner)
        batch.copies = AsyncCopies()
        batch.sharing = self._sharing
        if self.options.races:
            batch.races = SharedShadow(batch, program.cell, program.facts)
        for name, slot in program.specials.items():
            batch.r[slot] = special(batch.shape, batch.first, batch.blocks, shared_bytes, name)


def batch_blocks(program: Program, shape: Shape, shared_bytes: int) -> int:
    """How many blocks to run at once: enough to share the cost of a step, few enough for caches."""
    shared = program.shared_bytes + shared_bytes
    return max(1, min(LANES // shape.padded, SHARED // max(shared, 1)))


def _window(regions: Sequence[Region], pieces: int, owner: Array) -> Window:
    end = max((r.end for r in regions), default=FIRST_OFFSET)
    stride = -(-(end - FIRST_OFFSET + GUARD) // 128) * 128 if regions else 0
    start = owner * stride - FIRST_OFFSET
    return Window(Bytes(stride * pieces), Layout(regions), stride, start)
