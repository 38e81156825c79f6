"""What the program runs on: a GPU, or what stands for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """Memory and kernels of one GPU; addresses are numbers that only it understands.

    Attributes:
        name: for people.
    """

    name: str

    def allocate(self, nbytes: int) -> int:
        """The address of fresh memory, a multiple of 256; what is in it is not defined."""

    def free(self, address: int) -> None:
        """Gives back what ``allocate`` returned."""

    def copy_in(self, address: int, data: np.ndarray) -> None:
        """Copies an array's bytes to the device."""

    def copy_out(self, address: int, data: np.ndarray) -> None:
        """Fills a contiguous array with bytes from the device, after all launches before."""

    def copy(self, dst: int, src: int, nbytes: int) -> None:
        """Copies inside the device; the ranges do not overlap."""

    def load(self, ptx: str) -> Any:
        """A module of kernels."""

    def launch(
        self,
        module: Any,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int],
        args: Sequence[int],
    ) -> None:
        """Runs a kernel; addresses and i64 values in the order of its parameters."""
