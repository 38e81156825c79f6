"""One group as a program of its own: what a search builds and measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from .. import dtype as dt
from ..errors import InternalError
from ..runtime.buffer import aligned_bytes
from ..runtime.program import (
    ALIGNMENT,
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    InputStorage,
    OutputStorage,
    Program,
    Tensor,
    TensorSpec,
)
from ..schedule.pack import Packing
from ..schedule.recipes.choices import Asked, Weighing
from ..target import Target
from ..tensor.compute import ComputeGroup
from ..tensor.ir import Buffer, Dim, Func, Var
from ..tensor.text import group_symbols
from .kernels import KernelTable
from .memory import plan_memory, unplaced
from .pack import pack_array


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant of the program: an input of the group whose data is known.

    Attributes:
        offset, nbytes: its place in the constants.
        source: the input.
        packing: how it is laid out; None: as it is.
    """

    offset: int
    nbytes: int
    source: Buffer
    packing: Packing | None


@dataclass(frozen=True, slots=True)
class Alone:
    """A group, lowered by some answers.

    Attributes:
        program: takes the inputs whose data is not known, then every symbol as a size.
        kernels: what it calls.
        operands: its constants.
        asked, weighed: the questions that the answers were for, see Choices.
    """

    program: Program
    kernels: tuple[Func, ...]
    operands: tuple[Operand, ...]
    asked: Asked
    weighed: tuple[Weighing, ...]

    def constants(self, data: Mapping[str, np.ndarray]) -> np.ndarray:
        """The constants of the program, given the inputs whose data is known by name."""
        block = aligned_bytes(self.program.constants_bytes)
        for o in self.operands:
            place = block[o.offset : o.offset + o.nbytes]
            buffer = o.source if o.packing is None else o.packing.packed
            view = place.view(buffer.dtype.numpy).reshape(_numbers(buffer))
            if o.packing is None:
                view[...] = data[o.source.name]
            else:
                pack_array(o.packing, data[o.source.name], view)
        block.flags.writeable = False
        return block


def lower_alone(
    group: ComputeGroup,
    fixed: frozenset[str],
    target: Target,
    math: str,
    given: Mapping[str, int],
) -> Alone:
    """Lowers a group by given answers, as it would be lowered inside its model.

    Args:
        group: what to compute.
        fixed: the names of its inputs whose data is known when the code is made.
        target: what to schedule for.
        math: "strict" forbids methods that round otherwise than the sums that ops state.
        given: answers to questions; the model answers the others.
    """
    table = KernelTable(target, math, lambda _, __: given)
    kernels, scratch = table.compile(group, fixed, "kernel")
    (decided,) = table.decided
    places: dict[str, Tensor] = {}
    specs: list[TensorSpec] = []
    for b in group.inputs:
        if b.name not in fixed:
            places[b.name] = Tensor(b.name, b.dtype, b.shape, InputStorage(len(specs)))
            specs.append(TensorSpec(b.name, b.dtype, b.shape))
    for k, b in enumerate(group.outputs):
        places[b.name] = Tensor(b.name, b.dtype, b.shape, OutputStorage(k))
    for b in scratch:
        places[b.name] = Tensor(b.name, b.dtype, b.shape, ArenaStorage(unplaced(b.name)))
    symbols = group_symbols(group)
    specs += [TensorSpec(f"{v.name}_size", dt.i64, (v, 0)) for v in symbols]
    operands: list[Operand] = []
    steps = []
    end = 0
    for kernel in kernels:
        packed = {p.packed.name: p for p in kernel.packings}
        sources = {b.name: b for b in group.inputs if b.name in fixed}
        args: list[Tensor | Dim] = []
        for p in kernel.func.params:
            if isinstance(p, Var):
                args.append(p)
                continue
            if p.name not in places or p.name in packed:
                packing = packed.get(p.name)
                source = sources[p.name if packing is None else packing.source.name]
                size = prod(_numbers(p)) * p.dtype.bytes
                operands.append(Operand(end, size, source, packing))
                args.append(Tensor(p.name, p.dtype, p.shape, ConstantStorage(end)))
                end = -(-(end + size) // ALIGNMENT) * ALIGNMENT
                continue
            args.append(places[p.name])
        steps.append(CallKernel(kernel.func.name, tuple(args)))
    program = Program(
        name="alone",
        inputs=tuple(specs),
        outputs=tuple(TensorSpec(b.name, b.dtype, b.shape) for b in group.outputs),
        symbols=symbols,
        steps=tuple(steps),
        constants_bytes=end,
    )
    funcs = tuple(k.func for k in kernels)
    return Alone(plan_memory(program), funcs, tuple(operands), decided.asked, decided.weighed)


def _numbers(b: Buffer) -> tuple[int, ...]:
    """The shape of an operand whose data is known.

    Raises:
        InternalError: it is symbolic (TW-E0906).
    """
    shape = tuple(d for d in b.shape if isinstance(d, int))
    if len(shape) != len(b.shape):
        raise InternalError(f"operand {b.name} has a symbolic shape", code="TW-E0906")
    return shape
