"""The arguments of a launch: checked, and as the bytes that a kernel reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .batch import Shape
from .faults import Index, SimulationError
from .memory import Bytes
from .occupancy import multiprocessor
from .ptx import Function, Parameter

Argument = int | float | np.generic | bytes
"""What a kernel takes: addresses and numbers, or the bytes of a structure."""


def index_of(size: int | Sequence[int]) -> Index:
    """A size in three dimensions, given in three or fewer."""
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


def check_shared(kernel: str, target: str, size: int) -> None:
    """Refuses more shared memory than a block of the module's target may have.

    Raises:
        SimulationError: see there (TW-E1013).
    """
    limits = multiprocessor(target)
    if limits is not None and size > limits.block_shared:
        raise SimulationError(
            f"launch of {kernel!r}: {size} bytes of shared memory; a block of {target} may have "
            f"{limits.block_shared}",
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
