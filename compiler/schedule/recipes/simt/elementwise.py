"""Nests without a reduction: one thread for a few neighbouring elements.

Where an operand is contiguous along another axis than the result, tiles of both axes go through
shared memory: read along the one, written along the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import ScheduleError
from ....target import Target
from ....tensor.access import flat_index
from ....tensor.ir import Axis, Const, Load, as_expr, eq
from ....tensor.simplify import Ranges, affine, prove, same_dim, substitute, symbols
from ....tensor.walk import block_loads, stores
from ...nest import find_loop
from ...nests import Nests
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile_plan import size

THREADS = 256
VECTOR_BYTES = 16
"""What one thread reads or writes at once, at most."""
TILE, TILE_ROWS = 32, 8
"""A tile of a transpose is TILE x TILE elements; TILE_ROWS of its rows are read at a time."""


def elementwise(nests: Nests, target: Target, choices: Choices) -> Schedule:
    """Threads take a vector where all operands are contiguous and aligned, else one element."""
    crossed = find_crossed(nests)
    if crossed is not None:
        try:
            return _through_tiles(nests, crossed)
        except ScheduleError:
            # What a tile reads is no box: elements are read where they lie.
            pass
    s = Schedule(nests.func)
    if not nests.axes:
        return s
    widest = vector_width(nests)
    width = choices.pick("vector", widest, tuple(w for w in (1, 2, 4) if w <= widest))
    *names, inner = (a.var.name for a in nests.axes)
    if width > 1:
        # Cut before the axes are fused, so that a vector has one index along all the others.
        s.do("split", inner, width, f"{inner}_q", "e_v", "exact")
        s.do("set_kind", "e_v", "vector")
        inner = f"{inner}_q"
    loop = fuse_all(s, [*names, inner], "e")
    share(s, loop, choices)
    return s


def share(s: Schedule, loop: str, choices: Choices) -> None:
    """Cuts the outermost loop in blocks of threads."""
    extent = find_loop(s.func, loop, "simt").extent
    most = choices.pick("threads", THREADS, (64, 128, 256, 512))
    if isinstance(extent, int):
        most = min(most, extent)
    s.do("split", loop, most, f"{loop}_b", f"{loop}_t", "guard")
    s.do("set_kind", f"{loop}_b", "block.x")
    s.do("set_kind", f"{loop}_t", "thread.x")


def vector_width(nests: Nests) -> int:
    """How many neighbours along the last axis every operand has side by side, and aligned."""
    inner = nests.axes[-1]
    ranges = _ranges(nests.axes)
    written = [Load(x.buffer, x.indices) for x in stores(nests.func.body)]
    accesses = [*written, *dict.fromkeys(block_loads(nests.func.body))]
    wide = [x for x in accesses if not _is_uniform(x, inner, ranges)]
    bytes_ = max((x.dtype.bytes for x in wide), default=VECTOR_BYTES)
    width = max(1, min(4, VECTOR_BYTES // bytes_))
    while width > 1 and not (
        prove(eq(as_expr(inner.extent) % width, Const(0))) is True
        and all(_is_aligned(x, inner, width, ranges) for x in wide)
    ):
        width //= 2
    return width


def _ranges(axes: tuple[Axis, ...]) -> Ranges:
    return {a.var: (0, as_expr(a.extent) - 1) for a in axes}


def _is_uniform(x: Load, inner: Axis, ranges: Ranges) -> bool:
    """Whether neighbours along an axis read one element."""
    return inner.var not in flat_index(x, ranges).variables


def _is_aligned(x: Load, inner: Axis, width: int, ranges: Ranges) -> bool:
    """Whether vectors along an axis are aligned vectors in memory."""
    flat = flat_index(x, ranges)
    form = affine(flat, (inner.var,), ranges)
    if form is None or not same_dim(form[0][inner.var], 1):
        return False
    first = substitute(flat, {inner.var: inner.var * width})
    return prove(eq(first % width, Const(0)), ranges) is True


@dataclass(frozen=True, slots=True)
class Crossed:
    """An operand that is contiguous along another axis than the result.

    Attributes:
        load: how it is read. along: the axis along which it is contiguous.
        position: of the dim that this axis indexes.
    """

    load: Load
    along: Axis
    position: int


def find_crossed(nests: Nests) -> Crossed | None:
    """The largest operand that neighbours of the result would read far apart."""
    if len(nests.axes) < 2 or len(tuple(stores(nests.func.body))) != 1:
        return None
    inner = nests.axes[-1]
    ranges = _ranges(nests.axes)
    found: list[Crossed] = []
    for x in dict.fromkeys(block_loads(nests.func.body)):
        form = affine(flat_index(x, ranges), [a.var for a in nests.axes], ranges)
        if form is None or same_dim(form[0][inner.var], 0) or same_dim(form[0][inner.var], 1):
            continue
        along = [a for a in nests.axes[:-1] if same_dim(form[0][a.var], 1)]
        if not along or min(size(along[-1].extent), size(inner.extent)) < TILE_ROWS:
            continue
        dims = [k for k, i in enumerate(x.indices) if along[-1].var in symbols(i)]
        if len(dims) == 1 and not inner.var.variables & symbols(x.indices[dims[0]]):
            found.append(Crossed(x, along[-1], dims[0]))
    buffers = {x.load.buffer for x in found}
    return found[0] if len(found) == 1 and len(buffers) == 1 else None


def _through_tiles(nests: Nests, crossed: Crossed) -> Schedule:
    """Blocks of 8 x 32 threads copy a tile to shared memory and write it the other way round."""
    s = Schedule(nests.func)
    row, column = crossed.along.var.name, nests.axes[-1].var.name
    for name in (row, column):
        s.do("split", name, TILE, f"{name}_b", f"{name}_i", "guard")
    others = [a.var.name for a in nests.axes[:-1] if a is not crossed.along]
    blocks = [*others, f"{row}_b", f"{column}_b"]
    s.do("reorder", (*blocks, f"{row}_i", f"{column}_i"))
    tile = f"{crossed.load.buffer.name}_tile"
    s.do("cache_read", crossed.load.buffer.name, f"{column}_b", tile)
    copies = [f"{tile}_{k}" for k in range(len(crossed.load.indices))]
    across = copies.pop(crossed.position)
    s.do("reorder", (*copies, across))
    rows = fuse_all(s, copies, f"{tile}_f")
    _rows_of_threads(s, rows, across)
    _rows_of_threads(s, f"{row}_i", f"{column}_i")
    # A word more a row, else a column of the tile would lie in one bank.
    s.do("pad_dim", tile, crossed.position, max(1, 4 // crossed.load.dtype.bytes))
    s.do("set_kind", fuse_all(s, blocks, "block"), "block.x")
    return s


def _rows_of_threads(s: Schedule, rows: str, columns: str) -> None:
    """TILE_ROWS rows of a tile at a time, a warp each."""
    s.do("split", rows, TILE_ROWS, f"{rows}_r", f"{rows}_y", "guard")
    s.do("set_kind", f"{rows}_r", "unroll")
    s.do("set_kind", f"{rows}_y", "thread.y")
    s.do("set_kind", columns, "thread.x")
