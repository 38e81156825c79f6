"""The simulator as a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .simulator import LoadedModule, Options, Simulator
from .simulator.counters import Counters


class SimulatedDevice:
    """A Device (see there) without a GPU: executes PTX in NumPy and checks every access.

    Attributes:
        simulator: whose memory it is.
        launches: the name and the counters of every launch since they were last taken.
    """

    name = "simulated GPU"

    def __init__(self, options: Options | None = None) -> None:
        self.simulator = Simulator(options)
        self.launches: list[tuple[str, Counters]] = []
        self._module: LoadedModule | None = None

    def allocate(self, nbytes: int) -> int:
        return self.simulator.allocate(nbytes)

    def free(self, address: int) -> None:
        self.simulator.free(address)

    def copy_in(self, address: int, data: np.ndarray) -> None:
        self.simulator.copy_in(address, data)

    def copy_out(self, address: int, data: np.ndarray) -> None:
        data.reshape(-1).view(np.uint8)[:] = self.simulator.copy_out(
            address, (data.nbytes,), np.uint8
        )

    def copy(self, dst: int, src: int, nbytes: int) -> None:
        self.simulator.copy_in(dst, self.simulator.copy_out(src, (nbytes,), np.uint8))

    def load(self, ptx: str) -> LoadedModule:
        self._module = self.simulator.load(ptx)
        return self._module

    def shared_bytes(self, kernel: str) -> int:
        """Shared memory that a block of a loaded kernel takes."""
        assert self._module is not None
        return self._module.kernel(kernel).program.shared_bytes

    def launch(
        self,
        module: LoadedModule,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int],
        args: Sequence[int],
    ) -> None:
        found = module.kernel(kernel)
        self.launches.append((kernel, self.simulator.launch(found, grid, (*block, 1), args)))
