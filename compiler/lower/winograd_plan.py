"""Whether Winograd's method pays for a convolution, and with which blocks: a model of its cost.

All costs are cycles of one core, in terms of what a Target says. The constants were fitted to
kernels measured on an AVX-512 machine; what is compared are ratios of sums of the same terms, so
only their proportions matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..schedule.recipes.choices import Choices
from ..schedule.recipes.tile_plan import size
from ..target import Target
from ..tensor.ir import as_expr
from ..tensor.simplify import bounds, dim, product
from ..tensor.winograd import LinearProgram, filtering, linear_program
from .sliding import Sliding
from .winograd import Plan, is_far, tiles_along

STEP_CYCLES = 20
"""What starting and ending the loop of one register tile costs, in a long sum."""

SLOWNESS = 1.35
"""The cycles of a product's multiply-adds, whose sums are short, by those they take at best."""

ACCUMULATOR_CYCLES = 2.3
"""Clearing an accumulator, and storing what it sums up to."""

PART_CYCLES = 10_000
"""What a kernel of its own for the inputs costs, besides what it computes."""

BEST, WORST = 2.0, 0.35
FITS = 0.8
"""The rates at which transformed inputs are read, by that of L2: a few, and as many as leave no
room in it for the weights that pass through; and the part of L2 that these are."""

LATER_RATE = 1.75
AFAR_RATE = 1.2
MUCH = 13 << 20
"""The rate of weights that were read before in this call, by that of others: usually, and of
more bytes than that."""

GAIN = 1.08
"""How much faster the method must seem to be taken: it rounds more, and needs more memory."""

LEAST_TILES = 4
LEAST_BLOCK = 12
MOST_BLOCK = 56
"""The fewest tiles that are worth it, and the fewest and most of a block where there are more."""
LEAST_HALF = 8
"""The fewest tiles of a block that is half of all: two threads then exchange nothing."""

LEAST_ACCUMULATORS = 12
MOST_ROWS = 16
"""The accumulators that hide the latency of a multiply-add, and the tallest register tile."""

MOST_STACK = 1 << 20
"""The most bytes that a thread keeps of a block."""

MOST_CUBE = 36
"""The most positions of a tile; beyond it the transforms are longer than what they save."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A convolution cut in tiles of m outputs, in numbers.

    Attributes:
        m: outputs of a tile along each of ``dims`` axes.
        cube: positions of a tile's transform.
        least: the fewest tiles there can be. tiles: how many there probably are.
        channels, columns: of the product.
        given, made: cycles of the two transforms for one vector of channels.
    """

    m: int
    cube: int
    least: int
    tiles: int
    channels: int
    columns: int
    given: float
    made: float


def plan_winograd(s: Sliding, target: Target, choices: Choices | None = None) -> Plan | None:
    """The cheapest plan for a convolution; None where the plain sum is cheaper, or none fits.

    The plans are for cores with vectors and caches of their own, not for blocks of threads.

    Args:
        s: the convolution.
        target: what to plan for.
        choices: answers to the questions for a plan: ``form`` (outputs of a tile along each
            axis; 0: the plain sum), and each field of a Plan.
    """
    if target.threads is not None:
        return None
    choices = choices or Choices()
    costs: dict[Plan, float] = {}
    for m in (2, 4):
        work = _sizes(s, m, target)
        if work is not None:
            costs |= _costs(work, target)
    if not costs:
        return None
    best = min(costs, key=costs.__getitem__)
    direct = direct_cost(s, target)
    forms = {(m,): min(c for p, c in costs.items() if p.m == m) for m in {p.m for p in costs}}
    forms[0,] = direct / GAIN
    choices.weigh(("form",), forms)
    usual = 0 if costs[best] * GAIN > direct else best.m
    form = choices.pick("form", usual, tuple(sorted(m for (m,) in forms)))
    return _chosen({p: c for p, c in costs.items() if p.m == form}, choices) if form else None


def _chosen(costs: dict[Plan, float], choices: Choices) -> Plan:
    """The plan of one form that the answers lead to, field by field; the cheapest by default."""
    fields = ("nr", "mr", "block", "by_panels")
    choices.weigh(fields, {tuple(int(getattr(p, f)) for f in fields): c for p, c in costs.items()})
    for field in fields:
        best = min(costs, key=costs.__getitem__)
        options = sorted({int(getattr(p, field)) for p in costs})
        answer = choices.pick(field, int(getattr(best, field)), options)
        costs = {p: c for p, c in costs.items() if int(getattr(p, field)) == answer}
    (plan,) = costs
    return plan


def _sizes(s: Sliding, m: int, target: Target) -> _Sizes | None:
    """The numbers of a convolution; None where it has no such form."""
    taps = {tap.extent for _, tap in s.spatial}
    r = taps.pop()
    if taps or not isinstance(r, int) or r < 2 or not isinstance(s.column.extent, int):
        return None
    dims = len(s.spatial)
    cube = (m + r - 1) ** dims
    if cube > MOST_CUBE or m + r - 1 > 6:
        return None
    along = [
        dim(as_expr(tiles_along(a.extent, step, m)) * step)
        for (a, _), step in zip(s.spatial, s.steps, strict=True)
    ]
    tiles = product([*(a.extent for a in s.batch), *along])
    least, _ = bounds(tiles)
    matrices = filtering(m, r)
    return _Sizes(
        m,
        cube,
        least or 0,
        _places(s, m),
        size(s.channel.extent),
        s.column.extent,
        _transform_cycles(linear_program(matrices.inputs), dims, target.ports),
        _transform_cycles(linear_program(matrices.outputs), dims, target.ports),
    )


def _places(s: Sliding, step: int) -> int:
    """How many places there are in steps along each spatial axis, for the smallest batch."""
    count = 1
    for a in s.batch:
        count *= bounds(a.extent)[0] or 1
    for (a, _), apart in zip(s.spatial, s.steps, strict=True):
        count *= (
            size(a.extent) if step == 1 else apart * size(tiles_along(size(a.extent), apart, step))
        )
    return count


@lru_cache
def _transform_cycles(program: LinearProgram, dims: int, ports: int) -> float:
    """The cycles of one tile's transform for one vector of channels."""
    operations = sum(len(step) for step in program.steps)
    done, left = len(program.outputs), program.inputs
    total = 0.0
    for d in range(dims):
        total += operations * int(done**d) * int(left ** (dims - 1 - d))
    return total / ports + (int(left**dims) + int(done**dims)) * 1.5


def _plans(work: _Sizes, target: Target) -> Iterator[Plan]:
    """The plans worth comparing for tiles of one size."""
    if work.least < LEAST_TILES:
        return
    lanes, registers = target.lanes(32), target.vector_registers
    for v in range(1, 6):
        if v > 1 and (v - 1) * lanes >= work.columns:
            break
        # Accumulators, a row of weights and a broadcast must fit the registers.
        most = min(MOST_ROWS, (registers - 2 - v) // v, work.least)
        fewest = min(-(-LEAST_ACCUMULATORS // v), most)
        for mr in range(max(1, fewest), most + 1):
            rows = -(-min(LEAST_BLOCK, max(LEAST_HALF, work.least // 2), work.least) // mr)
            while rows * mr <= max(MOST_BLOCK, mr):
                block = min(mr * rows, work.least)
                for by_panels in (False, True):
                    held = (0 if by_panels else work.channels) + v * lanes
                    if work.cube * block * held * 4 <= MOST_STACK:
                        yield Plan(work.m, block, mr, v * lanes, by_panels)
                if block == work.least:
                    break
                rows += 1


@lru_cache(maxsize=16)
def _costs(work: _Sizes, target: Target) -> Mapping[Plan, float]:
    """The cycles of each plan: found once for the layers of a model that are of one size."""
    return {p: winograd_cost(work, p, target) for p in _plans(work, target)}


def winograd_cost(work: _Sizes, plan: Plan, target: Target) -> float:
    """The cycles of a plan."""
    lanes, cube = target.lanes(32), work.cube
    v, panels = plan.nr // lanes, -(-work.columns // plan.nr)
    blocks = -(-work.tiles // plan.block)
    # One register tile: its multiply-adds, or its loads where they are more, and its frame.
    tile = plan.mr * v * work.channels / target.ports * SLOWNESS
    tile *= max(1.0, (plan.mr + v) / (plan.mr * v)) * max(1.0, 12 / (plan.mr * v))
    tile += ACCUMULATOR_CYCLES * plan.mr * v
    panel = work.channels * plan.nr * 4
    nbytes = panels * cube * panel
    far = is_far(nbytes // 4, target)
    # The first tile of rows waits for the weights; the others find them near.
    first = max(tile, panel / (target.far_rate * 0.85 if far else target.near_rate))
    rate = target.far_rate * (LATER_RATE if nbytes <= MUCH else AFAR_RATE)
    later = max(tile, panel / rate) if far else first
    again = max(tile, panel / target.near_rate if panel > target.l1_bytes // 2 else 0.0)
    passes = 1 if plan.by_panels else blocks
    steps = blocks * -(-plan.block // plan.mr)
    total = panels * cube * (first + (passes - 1) * later + (steps - passes) * again)
    # The transformed input is read once for each panel, and written and read in between.
    block_bytes = cube * plan.block * work.channels * 4
    held = block_bytes * (blocks if plan.by_panels else 1)
    if plan.by_panels or block_bytes > target.l1_bytes * 3 // 4:
        full = min(1.0, (held + cube * plan.block * plan.nr * 4) / (target.l2_bytes * FITS))
        wait = 1 / BEST + (1 / WORST - 1 / BEST) * full**2
        total += panels * blocks * block_bytes / target.near_rate * wait
    if plan.by_panels:
        total += PART_CYCLES + 2 * held / target.far_rate
    vectors = -(-work.channels // lanes) * work.given + -(-work.columns // lanes) * work.made
    total += blocks * plan.block * vectors
    return total * imbalance(blocks * (panels if plan.by_panels else 1))


def imbalance(units: int) -> float:
    """What is lost where equal units do not divide among two or four threads, in part."""
    lost = [-(-units // n) * n / units - 1 for n in (2, 4)]
    return 1.0 + 0.3 * lost[0] + 0.1 * lost[1]


def direct_cost(s: Sliding, target: Target) -> float:
    """The cycles of the plain sum, tile by tile in registers."""
    lanes = target.lanes(32)
    places = _places(s, 1)
    vectors = -(-size(s.column.extent) // lanes)
    depth = float(size(s.channel.extent))
    for (a, tap), step in zip(s.spatial, s.steps, strict=True):
        n, taps = size(a.extent), size(tap.extent)
        # Taps outside the image are not multiplied: as many as the tile reaches over the edges.
        depth *= max(1.0, taps - step * (taps - 1) * (taps + 1) / 4 / n)
    nbytes = depth * vectors * lanes * 4
    waits = nbytes / target.far_rate * 0.8 if nbytes > target.l2_bytes // 2 else 0.0
    frames = places * vectors / 32 * STEP_CYCLES
    return places * vectors * depth / target.ports * 1.1 + waits + frames
