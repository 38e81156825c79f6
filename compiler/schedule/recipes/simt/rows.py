"""Reductions along contiguous rows: softmax, norms, sums over the last axes.

Short rows take a warp each, or a part of one; longer rows a block. Each thread takes every
T-th vector of its row; what several steps need of the row stays in the registers of the thread
that reads it, and partial results are combined across warps. Rows too long for registers are read
again in each step, and what is derived from them is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....errors import ScheduleError
from ....target import Target
from ....tensor.ir import Axis, Buffer, Dim, as_expr, eq
from ....tensor.simplify import dim, prove
from ....tensor.walk import block_loads, stores
from ...nest import find_loop
from ...nests import MapStage, Nests, Reduction
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all

VECTOR = 4
"""Elements that a thread reads at once where rows divide into so many."""
WARP_ELEMENTS = 24
"""Elements of a row that one thread of a warp takes at most."""
KEPT = 64
"""32-bit registers that hold what one thread keeps of a row at most, all kept values together."""
WORKING = 24
"""Registers that a thread needs besides, to find and compute what it does not keep."""
THREAD_ELEMENTS = 16
"""Elements of a row that one thread of a larger block takes, where there are threads enough."""
AHEAD = 4
"""Vectors that a thread reads at once of a row that it does not keep."""
LONG_ROW_THREADS = 256
BLOCK_THREADS = 128
"""Threads of a block whose warps have a row each."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The plan of a nest of rows.

    Attributes:
        threads: that share a row. together: rows of a block.
        width: elements of a vector. steps: vectors that a thread takes; None if not known.
    """

    threads: int
    together: int
    width: int
    steps: int | None

    @property
    def elements(self) -> int | None:
        """Elements of a row that one thread takes."""
        return None if self.steps is None else self.steps * self.width


def plan_rows(nests: Nests, target: Target, choices: Choices) -> Rows:
    """Decides who takes a row, by the longest of the axes along rows."""
    threads = target.threads
    assert threads is not None
    extents = _extents(nests)
    rows = [a for a in nests.axes if a.var.name in set(nests.reductions[0].axes)]
    width = VECTOR if all(_divides(d, VECTOR) for d in extents) else 1
    width = choices.pick("vector", width, (1, width))
    known = [d for d in extents if isinstance(d, int)]
    if len(known) < len(extents):
        count = choices.pick("threads", LONG_ROW_THREADS, (128, 256, 512, 1024))
        return Rows(count, 1, width, None)
    longest = max(known)
    if rows and longest <= WARP_ELEMENTS * threads.warp:
        lanes, together = _warps(rows, -(-longest // width), threads.warp)
        return Rows(lanes, together, width, -(-longest // (lanes * width)))
    # Rows along several axes are found by divisions, for which a full block has no registers.
    single = all(len(r.reduce) == 1 for r in nests.reductions)
    most = threads.most if single else LONG_ROW_THREADS
    count = threads.warp * 2
    while count < most and count * THREAD_ELEMENTS < longest:
        count *= 2
    count = choices.pick("threads", count, (64, 128, 256, 512, 1024))
    return Rows(count, 1, width, -(-longest // (count * width)))


def _warps(rows: list[Axis], vectors: int, warp: int) -> tuple[int, int]:
    """How many lanes take a row, and how many rows a block: whole warps at all times."""
    total: Dim = 1
    for a in rows:
        total = dim(as_expr(total) * a.extent)
    lanes = 1
    while lanes < min(vectors, warp):
        lanes *= 2
    together = BLOCK_THREADS // lanes
    while lanes < warp and not _divides(total, together):
        if together * lanes > warp:
            together //= 2
        else:
            lanes, together = lanes * 2, BLOCK_THREADS // (lanes * 2)
    return lanes, together


def _extents(nests: Nests) -> list[Dim]:
    """The extents of all axes along rows."""
    held = nests.reductions[0].axes
    found: list[Dim] = [a.extent for a in nests.axes if a.var.name not in held]
    for t in nests.temporaries:
        if isinstance(t, Reduction):
            extent: Dim = 1
            for a in t.reduce:
                extent = dim(as_expr(extent) * a.extent)
            found.append(extent)
        elif len(t.axes) > len(held):
            found.append(t.axes[-1].extent)
    return found


def _divides(extent: Dim, factor: int) -> bool:
    return prove(eq(as_expr(extent) % factor, 0)) is True


def rows(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Places all temporaries in the loop over rows, and shares each step among the threads.

    What is read in several steps is kept in registers, if each thread only needs what it read
    itself; else it is read, and computed, again.
    """
    plan = _one_width(nests, plan_rows(nests, target, choices))
    held = nests.reductions[0].axes
    wide = [t for t in nests.temporaries if isinstance(t, MapStage) and len(t.axes) > len(held)]
    most = _kept_registers(plan, target)
    most -= sum(_registers(t.buffer, plan) for t in wide)
    known = plan.steps is not None
    kept = [(_that_fit(nests, plan, most), wide), ([], wide)] if known and most >= 0 else []
    for inputs, values in kept:
        try:
            return _scheduled(nests, plan, inputs, values)
        except ScheduleError:
            # A thread needs what another one read: the next form keeps less.
            continue
    return _scheduled(nests, plan, [], [])


def _kept_registers(plan: Rows, target: Target) -> int:
    """How many registers a thread has for what it keeps, with so many threads in a block."""
    assert target.threads is not None
    each = target.threads.block_registers // (plan.threads * plan.together)
    return max(0, min(KEPT, each - WORKING))


def _registers(buffer: Buffer, plan: Rows) -> int:
    """The registers for a thread's part of a row."""
    return (plan.elements or 0) * -(-buffer.dtype.bytes // 4)


def _that_fit(nests: Nests, plan: Rows, most: int) -> list[str]:
    """As many of the shared inputs as there are registers for."""
    sizes = {p.name: p for p in nests.func.params if isinstance(p, Buffer)}
    chosen: list[str] = []
    for name in _shared_inputs(nests):
        most -= _registers(sizes[name], plan)
        if most < 0:
            break
        chosen.append(name)
    return chosen


def _shared_inputs(nests: Nests) -> list[str]:
    """The inputs of which several nests read whole rows."""
    if any(len(r.reduce) != 1 for r in nests.reductions) or not nests.reductions[0].axes:
        return []
    count = len(nests.reductions[0].axes)
    readers: dict[str, int] = {}
    for nest in nests.func.body:
        read = {x.buffer for x in block_loads((nest,)) if x.buffer in nests.func.params}
        for b in read:
            if len(b.shape) > 1 and len(b.shape) >= count:
                readers[b.name] = readers.get(b.name, 0) + 1
    return [name for name, times in readers.items() if times > 1]


def _scheduled(nests: Nests, plan: Rows, inputs: list[str], wide: list[MapStage]) -> Schedule:
    """The schedule that keeps these inputs and these values in registers."""
    s = Schedule(nests.func)
    unrolled = KEPT if inputs or wide else AHEAD
    held = nests.reductions[0].axes
    outer = [a.var.name for a in nests.axes if a.var.name in held]
    inner = [a.var.name for a in nests.axes if a.var.name not in held]
    again = [
        t
        for t in nests.temporaries
        if isinstance(t, MapStage) and len(t.axes) > len(held) and t not in wide
    ]
    for stage in again:
        s.do("inline", stage.buffer.name)
    here = [t for t in nests.temporaries if t not in again]
    row = fuse_all(s, outer, "row") if outer else None
    if row:
        for t in reversed(here):
            s.do("compute_at", t.buffer.name, row)
        for name in inputs:
            s.do("cache_read", name, row, f"{name}_r", "register")
    ranks = {p.name: len(p.shape) for p in nests.func.params if isinstance(p, Buffer)}
    kept: list[tuple[str, int]] = []
    for name in inputs:
        rank = ranks[name]
        share_steps(s, f"{name}_r_{rank - 1}", plan, unrolled)
        kept.append((f"{name}_r", rank - 1))
    for t in here:
        match t:
            case Reduction():
                _reduce(s, t, plan, unrolled)
            case MapStage() if t in wide:
                s.do("set_scope", t.buffer.name, "register")
                share_steps(s, t.axes[-1].var.name, plan, unrolled)
                kept.append((t.buffer.name, len(t.axes) - 1))
            case MapStage():
                s.do("set_scope", t.buffer.name, "register")
    if inner:
        share_steps(s, inner[-1], plan, unrolled)
    else:
        for p in _stored_alone(nests):
            s.do("on_one_thread", p, f"{p}_one")
    for name, position in kept:
        s.do("interleave", name, position, plan.threads, plan.width)
    if row:
        _blocks(s, row, plan)
    return s


def _one_width(nests: Nests, plan: Rows) -> Rows:
    """Single elements where a row lies along several axes, whose vectors may not be contiguous."""
    if plan.width == 1 or all(len(r.reduce) == 1 for r in nests.reductions):
        return plan
    steps = None if plan.elements is None else plan.elements
    return replace(plan, width=1, steps=steps)


def _stored_alone(nests: Nests) -> list[str]:
    """The outputs, by name."""
    kept = {t.buffer.name for t in nests.temporaries}
    written = [x.buffer.name for x in stores(nests.func.body) if x.buffer.name not in kept]
    return list(dict.fromkeys(written))


def _blocks(s: Schedule, row: str, plan: Rows) -> None:
    """A block for each row, or for several whose threads stand side by side."""
    if plan.together == 1:
        s.do("set_kind", row, "block.x")
        return
    s.do("split", row, plan.together, f"{row}_b", f"{row}_y", "guard")
    s.do("set_kind", f"{row}_b", "block.x")
    s.do("set_kind", f"{row}_y", "thread.y")


def share_steps(s: Schedule, loop: str, plan: Rows, unrolled: int) -> None:
    """Gives each thread every T-th vector of a loop, written out where they are few."""
    quotient = loop
    if plan.width > 1:
        s.do("split", loop, plan.width, f"{loop}_q", f"{loop}_v", "exact")
        s.do("set_kind", f"{loop}_v", "vector")
        quotient = f"{loop}_q"
    s.do("split", quotient, plan.threads, f"{loop}_o", f"{loop}_t", "guard")
    s.do("set_kind", f"{loop}_t", "thread.x")
    steps = find_loop(s.func, f"{loop}_o", "rows").extent
    if isinstance(steps, int) and steps <= unrolled:
        s.do("set_kind", f"{loop}_o", "unroll")


def _reduce(s: Schedule, t: Reduction, plan: Rows, unrolled: int) -> None:
    """The threads' own results first, then their sum, in every thread."""
    s.do("set_scope", t.buffer.name, "register")
    last = fuse_all(s, [a.var.name for a in t.reduce], f"{t.buffer.name}_k")
    s.do("combine", last, plan.threads, plan.width, f"{t.buffer.name}_p", 32, unrolled)
