"""A GPU in NumPy: executes PTX on the CPU, and refuses what a GPU would do wrongly in silence.

    simulator = Simulator()
    module = simulator.load(ptx)
    a = simulator.place(array)                   # or allocate and copy_in
    c = simulator.allocate(4 * n, "c")
    simulator.launch(module.kernel("add"), grid, block, (a, c, n), shared_bytes=0)
    simulator.copy_out(c, (n,), np.float32)

The threads of many blocks run at once: a register is an array with one entry a thread, or one
number while all threads agree. In the order of what happens to a kernel:

    scalars     the types of PTX                 ptx          a module as data
    parser      text -> ptx                      code         slots, steps, basic blocks
    semantics/  instruction -> step              assemble     entry -> program
    memory      bytes and allocations            batch        the threads that run at once
    access      the rules of an access           machine      branches, barriers, their order
    faults      the errors                       simulator    memory, modules, launches
"""

from .counters import Counters, Traffic, wavefronts
from .faults import Place, PtxError, SimulationError
from .simulator import Kernel, LoadedModule, Options, Simulator

__all__ = [
    "Counters",
    "Kernel",
    "LoadedModule",
    "Options",
    "Place",
    "PtxError",
    "SimulationError",
    "Simulator",
    "Traffic",
    "wavefronts",
]
