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
from .faults import Index, SimulationError
from .machine import Machine
from .memory import FIRST_OFFSET, GUARD, Bytes, GlobalMemory, Layout, Region
from .occupancy import multiprocessor
from .parser import parse
from .ptx import Function, Parameter
from .ptx import Module as Ptx
from .scalars import Array
from .shadow import GlobalShadow, SharedShadow

Argument = int | float | np.generic | bytes
"""What a kernel takes: addresses and numbers, or the bytes of a structure."""
LANES = 1 << 15
"""How many threads are run at once, at most (but whole blocks)."""
SHARED = 4 << 20
"""How many bytes of shared memory they have, at most."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a simulator looks for.

    Attributes:
        races: races in shared memory and of asynchronous copies.
        sharing: bytes of global memory that two blocks of a launch touch, at least one writing.
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
        shape = Shape(_index(grid), _index(block))
        check_shape(kernel.function, shape)
        check_shared(kernel, shared_bytes)
        parameters = pack_arguments(kernel.function, args)
        program = kernel.program
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
        if self.options.races and shared:
            batch.races = SharedShadow(batch, program.cell, program.facts)
        for name, slot in program.specials.items():
            batch.r[slot] = special(batch, name, shared_bytes)


def batch_blocks(program: Program, shape: Shape, shared_bytes: int) -> int:
    """How many blocks to run at once: enough to share the cost of a step, few enough for caches."""
    shared = program.shared_bytes + shared_bytes
    return max(1, min(LANES // shape.padded, SHARED // max(shared, 1)))


def _window(regions: Sequence[Region], pieces: int, owner: Array) -> Window:
    end = max((r.end for r in regions), default=FIRST_OFFSET)
    stride = -(-(end - FIRST_OFFSET + GUARD) // 128) * 128 if regions else 0
    start = owner * stride - FIRST_OFFSET
    return Window(Bytes(stride * pieces), Layout(regions), stride, start)


def _index(size: int | Sequence[int]) -> Index:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    x, y, z = (*sizes, 1, 1, 1)[:3]
    return int(x), int(y), int(z)


def check_shape(function: Function, shape: Shape) -> None:
    """Refuses grids and blocks that no GPU runs, or that the kernel does not allow.

    Raises:
        SimulationError: see there (TW-E1013).
    """
    limits = (1024, 1024, 64)
    if min(*shape.grid, *shape.block) < 1 or any(
        size > limit for size, limit in zip(shape.block, limits, strict=True)
    ):
        problem = f"a grid of {shape.grid} blocks of {shape.block} threads is not possible"
    elif shape.threads > (function.block_limit or 1024):
        problem = f"{shape.threads} threads in a block; at most {function.block_limit or 1024}"
    else:
        return
    raise SimulationError(f"launch of {function.name!r}: {problem}", code="TW-E1013")


def check_shared(kernel: Kernel, dynamic: int) -> None:
    """Refuses more shared memory than a block of the module's target may have.

    Raises:
        SimulationError: see there (TW-E1013).
    """
    limits = multiprocessor(kernel.target)
    total = kernel.program.shared_bytes + dynamic
    if limits is not None and total > limits.block_shared:
        raise SimulationError(
            f"launch of {kernel.name!r}: {total} bytes of shared memory; a block of "
            f"{kernel.target} may have {limits.block_shared}",
            code="TW-E1013",
        )


def pack_arguments(function: Function, args: Sequence[Argument]) -> Bytes:
    """The arguments as the bytes of the parameter space.

    Raises:
        SimulationError: their number or a type does not fit (TW-E1013).
    """
    parameters = function.parameters
    if len(args) != len(parameters):
        raise SimulationError(
            f"launch of {function.name!r}: {len(args)} arguments for {len(parameters)} parameters",
            code="TW-E1013",
        )
    packed = bytearray()
    for parameter, value in zip(parameters, args, strict=True):
        packed += bytes(-len(packed) % parameter.align)
        packed += argument_bytes(function, parameter, value)
    out = Bytes(max(64, len(packed)))
    out.data[: len(packed)] = np.frombuffer(bytes(packed), np.uint8)
    return out


def argument_bytes(function: Function, parameter: Parameter, value: Argument) -> bytes:
    """The bytes of one argument."""
    if isinstance(value, bytes):
        data = value
    elif isinstance(value, np.generic):
        data = value.tobytes()
    elif isinstance(value, float):
        data = (
            np.asarray(value, f"f{parameter.size}").tobytes() if parameter.size in (4, 8) else b""
        )
    else:
        bits = parameter.size * 8
        fits = -(1 << (bits - 1)) <= value < 1 << bits
        data = (value % (1 << bits)).to_bytes(parameter.size, "little") if fits else b""
    if len(data) != parameter.size:
        raise SimulationError(
            f"launch of {function.name!r}: {value!r} does not fit the {parameter.size} bytes of "
            f"{parameter.name}",
            code="TW-E1013",
        )
    return data


def special(batch: Batch, name: str, shared_bytes: int) -> Array:
    """The value of a special register in every lane."""
    shape = batch.shape
    head, _, axis = name.partition(".")
    u32 = np.uint32
    at = "xyz".find(axis) if axis else 0
    match head:
        case "tid":
            x, y, _ = shape.block
            thread = batch.thread_of
            return (thread % x, thread // x % y, thread // (x * y))[at].astype(u32)
        case "ctaid":
            x, y, _ = shape.grid
            number = batch.block_of + batch.first
            found = (number % x, number // x % y, number // (x * y))[at].astype(u32)
            return found[0] if (found == found[0]).all() else found
        case "ntid":
            return u32(shape.block[at])  # type: ignore[return-value]
        case "nctaid":
            return u32(shape.grid[at])  # type: ignore[return-value]
        case "laneid":
            return (batch.thread_of % 32).astype(u32)
        case "warpid":
            return (batch.thread_of // 32).astype(u32)
        case _ if head.startswith("lanemask"):
            lane = batch.thread_of % 32
            one = np.int64(1) << lane
            masks = {"eq": one, "lt": one - 1, "le": 2 * one - 1, "gt": -2 * one, "ge": -one}
            return masks[head.split("_")[1]].astype(u32)
        case "dynamic_smem_size" | "total_smem_size":
            return u32(shared_bytes)  # type: ignore[return-value]
        case "nwarpid":
            return u32(shape.padded // 32)  # type: ignore[return-value]
        case _:
            return u32(0)  # type: ignore[return-value]
