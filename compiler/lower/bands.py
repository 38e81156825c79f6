"""Bands: convolutions and pools one after the other, some rows of the image at a time.

Where what lies between two of them is larger than a core's own cache, it is written to memory and
read back for little work: a depthwise convolution multiplies each value a few times only, a pool
takes the greatest of a few. So the chain runs in bands of rows of its last result:

    for each band
        all rows of the first result that the band needs       (kept in the thread's own cache)
        for each row of the band
            one row of the next result, from the rows above
            one row of the last result, from that row          (a product, if it is pointwise)

Rows that two bands need are computed twice, so bands are as high as the cache allows. The last band
is moved back to end with the image. Every row is scheduled by the recipe for contractions, like any
other. Rows outside the image are never read: what stands for them is computed from the nearest row
inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .. import dtype as dt
from ..schedule.loops import rename_loops
from ..schedule.nest import simplify_func
from ..schedule.pack import Packing
from ..schedule.recipes.choices import Choices
from ..schedule.recipes.tile import tile
from ..schedule.recipes.tile_plan import can_tile
from ..target import Target
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import (
    Alloc,
    Axis,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Reduce,
    Stmt,
    Store,
    Var,
    maximum,
    minimum,
)
from ..tensor.simplify import affine, dim, substitute, symbols
from ..tensor.walk import block_loads, stores
from .inline import loads_of, walk
from .nests import to_func
from .winograd import Part
from .winograd_plan import MOST_STACK, imbalance

MOST_AGAIN = 0.34
"""The most rows that may be computed twice, as a share of all."""
LEAST_BANDS, FEW_BANDS = 8, 4
"""How many bands threads share well, and how many at least."""
ROWS_APART = 0.08
"""What a product takes more, as a share, whose tiles are of pixels of one row of the image."""
REACHED = 0.75
"""The share of the multiply-adds that a core could start which a tile reaches."""


@dataclass(frozen=True, slots=True)
class Link:
    """One convolution or pool of a chain.

    Attributes:
        stage: its sum with the epilogue; axes are batch, row, place in the row, column.
        source: the result of the link before it; None for the first.
        stride, lo, reach: it reads ``reach`` rows of the source, from ``row * stride - lo`` on.
    """

    stage: Compute
    source: Buffer | None
    stride: int = 1
    lo: int = 0
    reach: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the axes, all constant."""
        return tuple(a.extent for a in self.stage.axes if isinstance(a.extent, int))

    @property
    def is_pointwise(self) -> bool:
        """Whether a row is computed from the same row of the source alone."""
        return (self.stride, self.lo, self.reach) == (1, 0, 1)


# ------------------------------------------------------------------ finding chains


def find_links(group: ComputeGroup, fixed: frozenset[str]) -> tuple[Link, ...] | None:
    """The convolutions and pools, two or more, of a group, each read by the next alone.

    Args:
        fixed: the names of inputs whose data is known: the weights are among them.
    """
    if len(group.stages) < 2 or group.outputs != (group.stages[-1].output,):
        return None
    links: list[Link] = []
    earlier: set[Buffer] = set()
    before: Buffer | None = None
    for s in group.stages:
        sums = {x for x in walk(s.expr) if isinstance(x, Reduce)}
        if len(sums) != 1 or len(s.axes) != 4 or not all(_is_known(s, r, fixed) for r in sums):
            return None
        if s.output.dtype is not dt.f32 or not all(isinstance(a.extent, int) for a in s.axes):
            return None
        read = {x.buffer for x in loads_of(s.expr)} & earlier
        if read != ({before} if before is not None else set()):
            return None
        link = Link(s, None) if before is None else _link(s, before)
        if link is None:
            return None
        links.append(link)
        earlier.add(s.output)
        before = s.output
    return tuple(links)


def _is_known(s: Compute, r: Reduce, fixed: frozenset[str]) -> bool:
    """Whether a reduction of a stage is a convolution's with constant weights, or a pool's."""
    loads = loads_of(r.body)
    if r.op == "sum" and any(x.buffer.name in fixed for x in loads):
        return True
    places = {a.var for a in s.axes}
    indices = [symbols(i) for x in loads for i in x.indices]
    slides = all(any(a.var in i and i & places for i in indices) for a in r.axes)
    return slides and len({x.buffer for x in loads}) == 1


def _link(s: Compute, source: Buffer) -> Link | None:
    """How a stage reads the rows of another; None if not as a convolution or a pool does."""
    n, h, *_ = s.axes
    (total,) = {x for x in walk(s.expr) if isinstance(x, Reduce)}
    taps = [a.var for a in total.axes]
    inside = {x for x in loads_of(total.body) if x.buffer == source}
    found: set[tuple[int, int, int]] = set()
    for x in loads_of(s.expr):
        if x.buffer != source:
            continue
        batch, row, *rest = x.indices
        alike = batch is n.var or (n.extent == 1 and batch is Const(0))
        # What follows a sum may read its own place.
        own = x in inside or (row, *rest) == tuple(a.var for a in s.axes[1:])
        if not own or not alike or any(h.var in symbols(i) for i in rest):
            return None
        form = affine(row, [h.var, *taps])
        if form is None:
            return None
        slopes, least = form
        lowest = dim(least)
        steps = {v: d for v, d in slopes.items() if isinstance(d, int)}
        if len(steps) != len(slopes) or min(steps.values()) < 0 or not isinstance(lowest, int):
            return None
        reach = 1 + sum(
            steps[a.var] * (a.extent - 1) for a in total.axes if isinstance(a.extent, int)
        )
        found.add((steps[h.var], -lowest, reach))
    if len(found) != 1:
        return None
    ((stride, lo, reach),) = found
    return Link(s, source, stride, lo, reach) if stride >= 1 else None


# ------------------------------------------------------------------ bands


@dataclass(frozen=True, slots=True)
class _Segment:
    """Links that are computed row by row together: all but the first are pointwise.

    Attributes:
        links: in order.
        count: how many rows of them a band needs.
    """

    links: tuple[Link, ...]
    count: int


def _segments(links: tuple[Link, ...], rows: int) -> list[_Segment]:
    """The chain cut where a link reads several rows of the one before it."""
    found: list[_Segment] = []
    here: list[Link] = []
    count = rows
    for link in reversed(links):
        here.insert(0, link)
        if not link.is_pointwise or link.source is None:
            found.insert(0, _Segment(tuple(here), count))
            count = (count - 1) * link.stride + link.reach
            here = []
    return found


def _kept_bytes(segments: list[_Segment]) -> int:
    """The bytes that a thread keeps of a band."""
    total = 0
    for k, segment in enumerate(segments):
        *inner, last = segment.links
        total += sum(prod(link.shape[2:]) for link in inner)
        total += prod(last.shape[2:]) * segment.count if k < len(segments) - 1 else 0
    return 4 * total


def plan_bands(links: tuple[Link, ...], fixed: frozenset[str], target: Target) -> int | None:
    """The rows of a band; None where the chain is better computed link by link.

    The fewest rows are computed twice, and threads get the same number of bands.

    Args:
        fixed: the names of inputs whose data is known.
    """
    if target.threads is not None or not _all_tile(links, fixed):
        return None
    whole = 4 * max(prod(link.shape) for link in links[:-1])
    if whole <= target.l2_bytes // 2:
        return None
    most = _most_again(links, target)
    batch, height = links[-1].shape[:2]
    best: dict[bool, tuple[float, int]] = {}
    for rows in range(1, height + 1):
        segments = _segments(links, rows)
        near = _kept_bytes(segments) <= min(target.l2_bytes * 3 // 8, MOST_STACK)
        bands = -(-height // rows)
        if not near or batch * bands < FEW_BANDS:
            continue
        first = segments[0]
        again = first.count * bands / first.links[0].shape[1]
        if again > 1 + most:
            continue
        cost = (again + rows * bands / height) * imbalance(batch * bands)
        many = batch * bands >= LEAST_BANDS
        best[many] = min(best.get(many, (cost, rows)), (cost, rows))
    return best.get(True, best.get(False, (0.0, None)))[1]


def _most_again(links: tuple[Link, ...], target: Target) -> float:
    """The share of the first link's rows that may be computed twice; below 0, not even none.

    What lies between the links is neither written to memory nor read back, which is worth that
    much time. Only products keep the ports so busy that it is less than the rows take.
    """
    if not any(map(_is_product, links)):
        return MOST_AGAIN
    work = [_cycles(link, target) for link in links]
    between = 4 * sum(prod(link.shape) for link in links[:-1])
    # Writing and reading: several streams get twice what one of them does.
    saved = 2 * between / (2 * target.far_rate)
    apart = sum(w for w, link in zip(work, links, strict=True) if _is_product(link))
    return min(MOST_AGAIN, (saved - ROWS_APART * apart) / work[0])


def _sum_of(link: Link) -> Reduce:
    (total,) = {x for x in walk(link.stage.expr) if isinstance(x, Reduce)}
    return total


def _is_product(link: Link) -> bool:
    """Whether each sum of a link goes over the channels of one pixel."""
    return sum(a.extent != 1 for a in _sum_of(link).axes) == 1


def _cycles(link: Link, target: Target) -> float:
    """How long the multiply-adds of a link take a core."""
    terms = prod(a.extent for a in _sum_of(link).axes if isinstance(a.extent, int))
    return terms * prod(link.shape) / (REACHED * target.ports * target.lanes(32))


def _all_tile(links: tuple[Link, ...], fixed: frozenset[str]) -> bool:
    """Whether the recipe for contractions takes every row."""
    return all(can_tile(to_func(_row_group("row", link, {}, {}), fixed)) for link in links)


def _row_group(
    name: str, link: Link, here: dict[Expr, Expr], moved: dict[Expr, Expr]
) -> ComputeGroup:
    """One row of a link as a group of its own, whose result is ``z``.

    Args:
        here: what stands for the axes of batch and rows.
        moved: loads of the source, before, by where they are read instead.
    """
    s = link.stage
    axes: tuple[Axis, ...] = s.axes[2:]
    expr = substitute(substitute(s.expr, moved), here)
    z = Buffer("z", dt.f32, tuple(a.extent for a in axes))
    inputs = tuple(dict.fromkeys(x.buffer for x in loads_of(expr)))
    return ComputeGroup(name, inputs, (z,), (Compute(z, axes, expr),))


class _Writer:
    """Writes the kernel of one chain."""

    def __init__(
        self, name: str, links: tuple[Link, ...], rows: int, fixed: frozenset[str], target: Target
    ) -> None:
        self.name, self.links, self.fixed, self.target = name, links, fixed, target
        self.rows = rows
        self.segments = _segments(links, rows)
        self.band, self.batch = Var("band"), Var("batch")
        self.packings: list[Packing] = []
        self.steps: list[str] = []

    def part(self) -> Part:
        """The kernel."""
        count, height = self.links[-1].shape[:2]
        bands = -(-height // self.rows)
        starts = [Var(f"start{k}") for k in range(len(self.segments))]
        begin: Expr = self.band % bands * self.rows
        if height % self.rows:
            begin = minimum(begin, height - self.rows)
        lets: list[Stmt] = []
        for k in reversed(range(len(self.segments))):
            lets.append(Let(starts[k], begin))
            first = self.segments[k].links[0]
            begin = starts[k] * first.stride - first.lo
        body: list[Stmt] = [Let(self.batch, self.band // bands), *lets]
        source: tuple[Buffer, Expr] | None = None
        for k, segment in enumerate(self.segments):
            *inner, last = segment.links
            row_buffers = [
                Buffer(f"row{k}{j}", dt.f32, link.shape[2:], "local")
                for j, link in enumerate(inner)
            ]
            body += [Alloc(b) for b in row_buffers]
            counter, row = Var(f"next{k}"), Var(f"at{k}")
            here = starts[k] + counter
            final = k == len(self.segments) - 1
            prefix: tuple[Expr, ...] = (counter,)
            if final:
                kept, prefix = last.stage.output, (self.batch, row)
            else:
                kept = Buffer(f"band{k}", dt.f32, (segment.count, *last.shape[2:]), "local")
                body.append(Alloc(kept))
                here = minimum(maximum(here, 0), last.shape[1] - 1)
            block: list[Stmt] = [Let(row, here)]
            for j, link in enumerate(segment.links):
                ends = link is last
                to = (kept, prefix) if ends else (row_buffers[j], ())
                given = (row_buffers[j - 1], None) if j else source
                block += self._row(f"_{k}{j}", link, row, given, to)
            body.append(For(counter, segment.count, tuple(block)))
            source = (kept, starts[k])
        whole = For(self.band, count * bands, tuple(body), "parallel")
        read = list(dict.fromkeys(x.buffer for x in block_loads((whole,))))
        written = list(dict.fromkeys(s.buffer for s in stores((whole,))))
        params = [b for b in dict.fromkeys((*read, *written)) if b.scope == "global"]
        func = simplify_func(Func(self.name, tuple(params), (whole,)))
        return Part(func, tuple(self.packings), "\n".join(self.steps))

    def _row(
        self,
        suffix: str,
        link: Link,
        row: Var,
        given: tuple[Buffer, Expr | None] | None,
        to: tuple[Buffer, tuple[Expr, ...]],
    ) -> Block:
        """The loops that compute one row of a link.

        Args:
            given: where its source lies, and which row that begins with; None: it is that row.
            to: where it goes, and the indices before those of the row.
        """
        n, h, *_ = link.stage.axes
        moved: dict[Expr, Expr] = {}
        for x in loads_of(link.stage.expr):
            if x.buffer == link.source and given is not None:
                buffer, start = given
                at = () if start is None else (x.indices[1] - start,)
                moved[x] = Load(buffer, (*at, *x.indices[2:]))
        here: dict[Expr, Expr] = {h.var: row, n.var: Const(0) if n.extent == 1 else self.batch}
        nests = to_func(_row_group(f"{self.name}{suffix}", link, here, moved), self.fixed)
        answers = {"parallel": 0}
        far = to[0].scope == "global" and 4 * prod(link.shape) > self.target.l2_bytes // 2
        if far:
            answers["results_ahead"] = 1  # The recipe sees one row of it, which would stay near.
        s = tile(nests, self.target, Choices(answers))
        self.packings += s.packings
        self.steps.append(str(s))
        return _put(rename_loops(s.finish().body, suffix), to)


def _put(block: Block, to: tuple[Buffer, tuple[Expr, ...]]) -> Block:
    """The block with what goes to ``z`` stored elsewhere."""
    buffer, prefix = to
    result: list[Stmt] = []
    for stmt in block:
        match stmt:
            case For():
                body = _put(stmt.body, to)
                result.append(For(stmt.var, stmt.extent, body, stmt.kind, stmt.start))
            case If():
                result.append(If(stmt.cond, _put(stmt.then, to), _put(stmt.orelse, to)))
            case Prefetch() if stmt.buffer.name == "z":
                result.append(Prefetch(buffer, (*prefix, *stmt.indices)))
            case Store() if stmt.buffer.name == "z":
                result.append(Store(buffer, (*prefix, *stmt.indices), stmt.value))
            case _:
                result.append(stmt)
    return tuple(result)


def write_bands(
    name: str, links: tuple[Link, ...], rows: int, fixed: frozenset[str], target: Target
) -> Part:
    """The kernel of a chain in bands of so many rows.

    Args:
        fixed: the names of inputs whose data is known.
    """
    return _Writer(name, links, rows, fixed, target).part()
