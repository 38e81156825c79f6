"""A GPU in NumPy: executes PTX on the CPU, and refuses what a GPU would do wrongly in silence.

    simulator = Simulator()
    module = simulator.load(ptx)                 # PTX of LLVM or of nvcc
    a = simulator.place(array)                   # or allocate and copy_in
    c = simulator.allocate(4 * n, "c")           # an address; the name is for errors
    counters = simulator.launch(module.kernel("add"), grid, block, (a, c, n), shared_bytes=0)
    simulator.copy_out(c, (n,), np.float32)

That is all a device is: allocate, free, copy_in, copy_out, load, launch. A kernel that breaks a
rule raises a SimulationError with its code, the line of the PTX, the thread and the block: an
access out of bounds, misaligned or of bytes that nobody wrote; threads that part at a barrier;
races in shared and global memory; asynchronous copies that are touched before the wait; an
endless loop. Instructions, modifiers and operands that are not modelled are refused when a module
is loaded, never ignored.

What is not modelled: bits of NaN, the last bits of approximations (``ex2.approx`` is correctly
rounded here) and of the sums in ``mma``, textures, clusters, barriers in memory and bulk copies,
wgmma and tcgen05.

The threads of many blocks run at once: a register is an array with one entry a thread, or one
number while all threads agree. In the order of what happens to a kernel:

    scalars      the types of PTX                    ptx         a module as data
    parser       text -> ptx                         code        slots, steps, basic blocks
    semantics/   instruction -> step                 assemble    entry -> program
    rounding     exact sums, rounded once            memory      bytes and allocations
    batch        the threads that run at once        specials    who they are
    launch       arguments and limits                machine     branches, barriers, their order
    access       bounds, alignment, first writes     shadow      races in shared memory
    copies       asynchronous copies                 sharing     races in global memory
    counters     sectors, wavefronts, instructions   occupancy   blocks a multiprocessor holds
    faults       the errors                          simulator   memory, modules, launches
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
