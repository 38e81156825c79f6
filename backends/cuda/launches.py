"""How kernels are launched: what is kept of them beside their code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.errors import InputError
from tilewright.tensor.ir import Dim, Func, Var
from tilewright.tensor.parse import parse_dim
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.text import text

from .threads import launch_of

MOST_BLOCKS = (2**31 - 1, 65535, 65535)
"""Blocks of a launch along x, y and z (CUDA Programming Guide, technical specifications)."""


@dataclass(frozen=True, slots=True)
class Launching:
    """The geometry of a kernel's launches.

    Attributes:
        grid: blocks along x, y and z, over the kernel's symbols.
        block: threads along x and y.
        symbols: the kernel's symbols, and which of its arguments each one is.
    """

    grid: tuple[Dim, Dim, Dim]
    block: tuple[int, int]
    symbols: tuple[tuple[Var, int], ...]

    def blocks(self, args: Sequence[int]) -> tuple[int, int, int]:
        """The grid of a launch with these arguments."""
        env = {v.name: args[k] for v, k in self.symbols}
        x, y, z = (evaluate(d, env) for d in self.grid)
        return x, y, z


def launching_of(func: Func) -> Launching:
    """The geometry of a scheduled function's launches.

    Raises:
        InternalError: its loops over blocks do not make one grid (TW-E0951).
    """
    launch = launch_of(func)
    symbols = tuple((p, k) for k, p in enumerate(func.params) if isinstance(p, Var))
    return Launching(launch.grid, launch.block, symbols)


def check_grid(kernel: str, grid: tuple[int, int, int]) -> None:
    """Refuses more blocks than a launch can have.

    Raises:
        InputError: there are (TW-E0313).
    """
    if any(n > most for n, most in zip(grid, MOST_BLOCKS, strict=True)):
        raise InputError(
            f"{kernel}: inputs of these sizes need {' x '.join(map(str, grid))} blocks; a launch "
            f"has at most {' x '.join(map(str, MOST_BLOCKS))}",
            code="TW-E0313",
        )


def write_launching(launching: Launching) -> dict[str, Any]:
    """The geometry as data for JSON."""
    return {
        "grid": [d if isinstance(d, int) else text(d) for d in launching.grid],
        "block": list(launching.block),
        "symbols": [[v.name, v.lo, v.hi, k] for v, k in launching.symbols],
    }


def read_launching(data: Mapping[str, Any]) -> Launching:
    """The geometry that ``write_launching`` wrote."""
    symbols = tuple((Var(n, lo=lo, hi=hi), k) for n, lo, hi, k in data["symbols"])
    names = [v for v, _ in symbols]
    x, y, z = (d if isinstance(d, int) else parse_dim(d, names) for d in data["grid"])
    width, height = data["block"]
    return Launching((x, y, z), (width, height), symbols)
