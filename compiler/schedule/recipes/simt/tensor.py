"""Products of halves by the matrix instructions of warps, from staged tiles.

A block's tile of the result is cut in those of its warps, and these in tiles of the instruction;
sums stay in fragments up to the epilogue. Factors go from shared memory to fragments step by
step. Copies of the next tiles run in the background where the machine has such copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....target import Target
from ....tensor.ir import Cast, Dim
from ...nests import Nests
from ...schedule import Schedule
from ..choices import Choices
from ..elementwise import fuse_all
from ..tile_plan import size
from .contraction import MOST_SHARED_BYTES, Contraction, begin, contiguous, copy, end, plan

ROWS, COLUMNS = 16, 8
"""The tile of the result of one instruction; lanes are 8 rows by 4 pairs of columns."""
DEPTHS = (16, 8, 4)
"""Of instructions along the reduction, the best first."""
PAD = 8
"""Halves that keep the rows of a tile in different banks: 16 bytes each row."""


@dataclass(frozen=True, slots=True)
class Products:
    """The plan of a product by instructions.

    Attributes:
        base: the tile of a block. kind: of the factors, ``f16``, ``bf16`` or ``tf32``.
        depth: of the instruction along the reduction. warps: along rows and columns.
        stages: tiles that are in shared memory at once; 1 where copies cannot wait.
    """

    base: Contraction
    kind: str
    depth: int
    warps: tuple[int, int]
    stages: int

    @property
    def instruction(self) -> str:
        """The name of the matrix instruction."""
        return f"mma.m16n8k{self.depth}.{self.kind}"


def plan_products(nests: Nests, target: Target, choices: Choices) -> Products | None:
    """The plan for a product of two operands of halves; None where there is no instruction."""
    assert target.threads is not None
    t = plan(nests, target, choices)
    if t is None or t.main.axes[-2:] != (t.row.var.name, t.column.var.name):
        return None
    kinds = {x.dtype.name for x in t.factors}
    body = t.main.body
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    # Factors of f32 lose bits: only where somebody says that this will do.
    if kind == "f32" and not choices.pick("tf32", 0, (0,)):
        return None
    if kind != "f32" and not all(isinstance(e, Cast) for e in body.operands):
        return None
    kind = "tf32" if kind == "f32" else kind
    has = target.threads.instructions
    depth = next((d for d in DEPTHS if f"mma.m16n8k{d}.{kind}" in has), 0)
    if not depth or any(contiguous(t, x) is None for x in t.factors):
        return None
    rows, columns, steps = (size(x) for x in (t.row.extent, t.column.extent, _last(t)))
    bm = choices.pick("bm", _tile(rows, 16, 64), (16, 32, 64, 128))
    bn = choices.pick("bn", _tile(columns, 32, 64), (32, 64, 128))
    bk = choices.pick("bk", _tile(steps, 16, 32 if kind == "tf32" else 64), (16, 32, 64))
    warps = (2 if bm >= 32 else 1, 2)
    size_of = t.narrow.dtype.bytes
    background = f"cp.async.{t.narrow.dtype.name}" in has
    stages = choices.pick("stages", 2, (1, 2, 3)) if background else 1
    while size_of * _elements(bm, bn, bk) * stages > MOST_SHARED_BYTES:
        stages, bk = (stages, bk // 2) if bk > 16 else (stages - 1, bk)
    base = replace(t, bm=bm, bn=bn, bk=bk, background=False)
    return Products(base, kind, depth, warps, stages)


def _elements(bm: int, bn: int, bk: int) -> int:
    """Of both tiles in shared memory, whichever way they lie."""
    return max(bm * (bk + PAD), bk * (bm + PAD)) + max(bn * (bk + PAD), bk * (bn + PAD))


def _last(t: Contraction) -> Dim:
    return t.main.reduce[-1].extent


def _tile(extent: int, least: int, most: int) -> int:
    """The largest power of two in a range that is not mostly padding."""
    tile = most
    while tile > least and extent <= tile // 2:
        tile //= 2
    return tile


def tensor(p: Products) -> Schedule:
    """Tiles for blocks, warps and instructions."""
    t = p.base
    s, steps = begin(t)
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    first = dict(zip(t.main.axes, t.main.init, strict=True))
    m, n = t.row.var.name, t.column.var.name
    loop_m, loop_n, loop_k = own[m].var.name, own[n].var.name, steps[-1]
    at = steps[-2]
    sides = {load is t.wide: side for side, load in enumerate(t.factors)}
    tiles: dict[bool, tuple[str, bool]] = {}
    for wide, side in sides.items():
        load, loop = (t.wide, loop_n) if wide else (t.narrow, loop_m)
        name = f"{load.buffer.name}_{'b' if wide else 'a'}"
        along = contiguous(t, load) != loop
        axes = (loop, loop_k) if along else (loop_k, loop)
        s.do("stage", at, side, name, axes, "shared", 4 if p.kind == "tf32" and along else PAD)
        tiles[wide] = name, along
    s.do("drop_guards", at)
    threads = (p.warps[0] * p.warps[1], 32)
    background = [
        copy(s, threads, name, (f"{name}_0", f"{name}_1"), p.stages > 1)
        for name, _ in tiles.values()
    ]
    _instructions(s, p, (loop_m, loop_n, loop_k), sides, tiles)
    r = t.main.buffer.name
    position = t.main.axes.index(m), t.main.axes.index(n)
    s.do("spread", r, ((position[0], ROWS), (position[1], COLUMNS)))
    s.do("spread", r, ((0, t.bm // p.warps[0] // ROWS), (1, t.bn // p.warps[1] // COLUMNS)))
    s.do("merge_dims", r, 0)
    s.do("set_scope", r, "fragment")
    s.do("tensorize", f"{loop_m}_r", p.instruction)
    _lanes(s, p, first[m], first[n])
    s.do("level_guards", _lanes(s, p, f"{m}_i", f"{n}_i"))
    if any(background):
        s.do("pipeline", at, p.stages)
    end(s, t)
    return s


def _instructions(
    s: Schedule,
    p: Products,
    loops: tuple[str, str, str],
    sides: dict[bool, int],
    tiles: dict[bool, tuple[str, bool]],
) -> None:
    """Cuts the nest of a block's tile for warps, and makes what is innermost instructions."""
    m, n, k = loops
    _warps(s, p, m, n)
    s.do("split", k, p.depth, f"{k}_t", f"{k}_r", "exact")
    inner = (f"{m}_t", f"{n}_t", f"{m}_r", f"{n}_r", f"{k}_r")
    s.do("reorder", (f"{m}_w", f"{n}_w", f"{k}_t", *inner))
    s.do("stage", f"{k}_t", sides[False], "fa", (f"{m}_t", f"{m}_r", f"{k}_r"), "fragment")
    s.do("stage", f"{k}_t", sides[True], "fb", (f"{n}_t", f"{k}_r", f"{n}_r"), "fragment")
    (_fetch_each if p.kind == "tf32" else _fetch)(s, p, tiles)
    for loop in (f"{k}_t", f"{m}_t", f"{n}_t"):
        s.do("set_kind", loop, "unroll")
    s.do("set_kind", fuse_all(s, [f"{m}_w", f"{n}_w"], f"{m}_y"), "thread.y")


def _fetch(s: Schedule, p: Products, tiles: dict[bool, tuple[str, bool]]) -> None:
    """Fills fragments of halves by the instruction that reads rows of shared memory."""
    rows = "" if tiles[False][1] else "trans."
    s.do("tensorize", "fa_1", f"ldmatrix.{rows}{p.kind}.1x{ROWS}x{p.depth}")
    s.do("set_kind", "fa_0", "unroll")
    columns = "trans." if tiles[True][1] else ""
    count = 2 if (p.base.bn // p.warps[1] // COLUMNS) % 2 == 0 else 1
    s.do("split", "fb_0", count, "fb_o", "fb_i", "exact")
    s.do("set_kind", "fb_o", "unroll")
    s.do("tensorize", "fb_i", f"ldmatrix.{columns}{p.kind}.{count}x{p.depth}x{COLUMNS}")


def _fetch_each(s: Schedule, p: Products, tiles: dict[bool, tuple[str, bool]]) -> None:
    """Fills fragments of single words: each lane reads what it keeps."""
    del p, tiles
    s.do("split", "fa_1", 8, "fa_h", "fa_g", "exact")
    s.do("split", "fa_2", 4, "fa_c", "fa_t", "exact")
    s.do("reorder", ("fa_g", "fa_t", "fa_0", "fa_h", "fa_c"))
    s.do("split", "fb_1", 4, "fb_c", "fb_t", "exact")
    s.do("reorder", ("fb_2", "fb_t", "fb_0", "fb_c"))
    s.do("set_kind", fuse_all(s, ["fa_g", "fa_t"], "fa_x"), "thread.x")
    s.do("set_kind", fuse_all(s, ["fb_2", "fb_t"], "fb_x"), "thread.x")
    for loop in ("fa_0", "fa_h", "fa_c", "fb_0", "fb_c"):
        s.do("set_kind", loop, "unroll")


def _warps(s: Schedule, p: Products, m: str, n: str) -> None:
    """Cuts rows and columns of a block's tile for warps, and those for instructions."""
    for loop, tile, warps, unit in (
        (m, p.base.bm, p.warps[0], ROWS),
        (n, p.base.bn, p.warps[1], COLUMNS),
    ):
        s.do("split", loop, tile // warps, f"{loop}_w", f"{loop}_u", "exact")
        s.do("split", f"{loop}_u", unit, f"{loop}_t", f"{loop}_r", "exact")


def _lanes(s: Schedule, p: Products, m: str, n: str) -> str:
    """Gives each lane the sums that it keeps: a pair in each half of the rows of each tile."""
    _warps(s, p, m, n)
    s.do("split", f"{m}_r", 8, f"{m}_h", f"{m}_g", "exact")
    s.do("split", f"{n}_r", 2, f"{n}_q", f"{n}_e", "exact")
    lanes, mine = (f"{m}_g", f"{n}_q"), (f"{m}_t", f"{n}_t", f"{m}_h", f"{n}_e")
    s.do("reorder", (f"{m}_w", f"{n}_w", *lanes, *mine))
    s.do("set_kind", fuse_all(s, [f"{m}_w", f"{n}_w"], f"{m}_y"), "thread.y")
    s.do("set_kind", fuse_all(s, list(lanes), f"{m}_x"), "thread.x")
    for loop in mine[:-1]:
        s.do("set_kind", loop, "unroll")
    s.do("set_kind", mine[-1], "vector")
    return mine[-1]
