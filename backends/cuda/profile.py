"""What kernels of a program do in the simulator, and the least time that a GPU takes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tilewright.runtime.executable import Executable

from ..backend import Profile, ProfiledKernel, Profiler, Subject
from .backend import read_objects
from .launches import Launching
from .roofline import bounds_of, mix
from .run import DeviceEntry
from .simulated import SimulatedDevice
from .simulator import Counters, Traffic
from .simulator.occupancy import multiprocessor, occupancy
from .target import ARCHITECTURES, Architecture
from .toolkit import TOOLS, Resources, assemble, find_tool

FORMULA = (
    "t = max(operand bytes / DRAM bandwidth, sectors / L2 bandwidth, work of the busiest "
    "multiprocessor / its rate of issue, shared memory, f32, f64, special functions, tensor)"
)


@dataclass(slots=True)
class _Launches:
    """All launches of one kernel."""

    counters: list[Counters] = field(default_factory=list)
    operands: list[int] = field(default_factory=list)


def profile(subject: Subject) -> Profile:
    """Runs a program once in the simulator and models its kernels."""
    built = subject.artifact
    ptx, program, launches = read_objects(built.objects)
    device = SimulatedDevice()
    seen: dict[str, _Launches] = {}

    def watch(kernel: str, nbytes: int) -> None:
        of_kernel = seen.setdefault(kernel, _Launches())
        of_kernel.counters.append(device.launches[-1][1])
        of_kernel.operands.append(nbytes)

    entry = DeviceEntry(program, launches, ptx, device, watch)
    Executable(built, entry).run(subject.inputs)
    machine = ARCHITECTURES[built.target.cpu]
    known = find_tool("ptxas") is not None
    resources = assemble(ptx, built.target.cpu).kernels if known else {}
    kernels = [
        _kernel(name, found, launches[name], device, resources.get(name), built.target.cpu)
        for name, found in seen.items()
    ]
    notes = [
        f"modelled, not measured: the least time that {machine.part} ({built.target.cpu}) may take",
        FORMULA,
    ]
    if not known:
        notes.append(
            "registers are not known, so they do not limit occupancy here: "
            f"pip install {TOOLS['ptxas']}"
        )
    return Profile("modelled", tuple(notes), tuple(kernels))


def _kernel(
    name: str,
    seen: _Launches,
    how: Launching,
    device: SimulatedDevice,
    resources: Resources | None,
    sm: str,
) -> ProfiledKernel:
    machine: Architecture = ARCHITECTURES[sm]
    bounds = [bounds_of(c, n, machine) for c, n in zip(seen.counters, seen.operands, strict=True)]
    total = {part: sum(b[part] for b in bounds) for part in bounds[0]}
    shared = device.shared_bytes(name)
    threads = how.block[0] * how.block[1]
    limits = multiprocessor(sm)
    assert limits is not None, sm
    held = occupancy(limits, threads, resources.registers if resources else 1, shared)
    limiter = max(total, key=lambda part: total[part])
    counters = seen.counters
    figures: dict[str, object] = {
        "blocks": sum(c.blocks for c in counters),
        "threads": threads,
        "shared bytes": shared,
        "registers": resources.registers if resources else None,
        "spilled bytes": resources.spills if resources else None,
        "occupancy": round(held.share, 4),
        "occupancy limited by": held.limiter,
        "operand bytes": sum(seen.operands),
        "instructions": _added([mix(c) for c in counters]),
        "global loads": _traffic([c.global_loads for c in counters], "sectors"),
        "global stores": _traffic([c.global_stores for c in counters], "sectors"),
        "global atomics": _traffic([c.global_atomics for c in counters], "sectors"),
        "shared loads": _traffic([c.shared_loads for c in counters], "wavefronts"),
        "shared stores": _traffic([c.shared_stores for c in counters], "wavefronts"),
        "barriers": sum(c.count("bar", "barrier") for c in counters),
        "divergent branches": sum(c.divergent_branches for c in counters),
        "tensor operations": sum(c.tensor_flops for c in counters),
        "modelled seconds by part": total,
    }
    # The parts of one launch overlap; launches follow one another.
    seconds = sum(max(b.values()) for b in bounds)
    return ProfiledKernel(name, len(counters), seconds, limiter, figures)


def _traffic(all_of: Sequence[Traffic], pieces: str) -> dict[str, object]:
    requests = sum(t.requests for t in all_of)
    found = sum(t.pieces for t in all_of)
    ideal = sum(t.ideal for t in all_of)
    each = round(found / requests, 3) if requests else 0.0
    return {"requests": requests, pieces: found, "ideal": ideal, "a request": each}


def _added(mixes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for m in mixes for name in m)
    added = {name: sum(m.get(name, 0) for m in mixes) for name in names}
    return dict(sorted(added.items(), key=lambda item: -item[1]))


PROFILER = Profiler(profile)
