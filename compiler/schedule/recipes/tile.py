"""Recipe for reductions with a vector axis: contractions, convolutions, pools, column sums.

A tile of MR rows by NR columns is kept in registers through the whole reduction. Columns are
vectors; an operand that does not vary along them is a scalar broadcast. A constant operand that
does is packed into panels of NR columns. Rows are cut in tiles of one height, the last one moved
back to end at the edge. Padding guards become loop bounds (rows) and edge tiles of their own
(columns of the image).
"""

from __future__ import annotations

from collections.abc import Iterator

from ... import dtype as dt
from ...target import Target
from ...tensor.ir import Axis, Binary, Const, Dim, Load, Var
from ...tensor.simplify import (
    ceildiv,
    prove,
    same_dim,
    simplify,
    substitute,
    symbols,
)
from ...tensor.walk import block_loads
from ..loops import padding_guards
from ..nest import find_loop, loop_range, loops, stores
from ..nests import Nests, Reduction
from ..pack import PackDim
from ..schedule import Schedule
from .choices import Choices
from .elementwise import PARALLEL_ELEMENTS, fuse_all, share, vectorise
from .groups import shape_groups
from .tile_plan import (
    Tile,
    bytes_of,
    load_strides,
    loads,
    nested,
    operand_bytes,
    plan,
    size,
    size_product,
    symbols_of,
)

PREFETCH_BYTES = 6144
"""How far ahead of its use a packed operand is asked for."""

LINE_BYTES = 64
"""Length of a line of the caches."""

PIECE = 16
"""Steps of a reduction between two hints at the next panel, at least."""

ROWS_NEAR = 20
"""Vectors of columns for which rows as large as L2 are not asked for ahead of their use."""

STREAMS = (4, 5, 3, 2)
"""In how many places at once to read what comes from beyond L2; the first that fits."""

SHARED_PANELS = 8
"""How many copies of panels, with all that is multiplied with each, threads share evenly."""


def tile(nests: Nests, target: Target, choices: Choices, copied: bool = False) -> Schedule:
    """Tiles the final nest, keeps the accumulators in registers, packs constant operands.

    Args:
        nests: the function.
        target: what to schedule for.
        choices: answers to the recipe's questions.
        copied: whether panels of the other factor will be copied, one in each iteration of the
            outermost loop.
    """
    t = plan(nests, target, choices)
    s = Schedule(nests.func)
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    for k, load in enumerate(t.packed):
        used = symbols_of(load)
        spatial = [own[a.var.name] for a in (*t.outer, t.row) if a and a.var.name in own]
        dims = [PackDim(a.var, a.extent) for a in spatial if a.var in used]
        column = own[t.column.var.name]
        dims.append(PackDim(column.var, column.extent, t.nr))
        dims += [PackDim(a.var, a.extent) for a in nested(t.main) if a.var in used]
        s.pack(load, dims, f"{load.buffer.name}_packed{k or ''}")
    computed = computed_factor(nests, t)
    names = _shape_final(s, nests, t, target, choices, computed is not None, copied)
    place = names[-1]
    for r in reversed(nests.reductions):
        s.do("compute_at", r.buffer.name, place)
        s.do("set_scope", r.buffer.name, "register")
        row = t.row.var.name if t.row else None
        if t.groups is not None and r is t.main:
            shape_groups(s, r, t.groups, row, t.column.var.name)
        else:
            shape_reduction(s, r, row, t.column.var.name)
    if computed is not None and t.row is not None:
        rows = [own[a.var.name].var.name for a in (*t.outer, t.row) if a.var.name in own]
        s.do("stage", names[0], computed, "left", (*rows, t.main.reduce[0].var.name), "local")
        vectorise(s, f"left_{len(rows)}", target.lanes(32) * 2)
    streams = 0
    if t.groups is None:
        streams = _run_apart(s, nests, t, target, choices)
        _prefetch(s, t, names, target, choices, streams)
    ahead = (place, 1) if copied else (names[0], ceildiv(t.column.extent, t.nr))
    asked = _prefetch_rows(s, t, *ahead, target, choices)
    if streams == 1 and not asked:
        _prefetch_lines(s, t, target, choices)
    _prefetch_results(s, t, place, target, choices)
    if t.row is not None and place == _outer_name(t.row):
        _split_edges(s, t, place)
    share(s, names[0], (*nests.axes, *t.main.reduce), choices, _stays_in_registers(t))
    return s


def _stays_in_registers(t: Tile) -> bool:
    """Whether a small product's time is that of its multiply-adds, not that of its operands."""
    most = max(operand_bytes(t, of_columns=True), operand_bytes(t, of_columns=False))
    return len(loads(t.main.body)) > 1 and most < PARALLEL_ELEMENTS * t.main.buffer.dtype.bytes


def computed_factor(nests: Nests, t: Tile) -> int | None:
    """Which factor of a product is computed from what is read, for rows alone: 0 or 1.

    It is computed once for all panels of a row tile, which then come one after the other.
    """
    body, column = t.main.body, t.main.spatial[t.main.axes.index(t.column.var.name)].var
    alone = len(nests.reductions) == 1 and len(t.main.reduce) == 1 and not t.shared
    if not (isinstance(body, Binary) and body.op == "mul" and t.packed and alone and t.row):
        return None
    if t.row.var.name not in t.main.axes or not isinstance(t.main.reduce[0].extent, int):
        return None
    for side, factor in enumerate((body.a, body.b)):
        if not isinstance(factor, Binary) or factor.dtype is not dt.f32:
            continue
        if column not in symbols(factor) and not _has_guards(nests, t):
            return side
    return None


def _outer_name(a: Axis) -> str:
    return f"{a.var.name}_o"


def _inner_name(a: Axis) -> str:
    return f"{a.var.name}_i"


def _shape_final(
    s: Schedule,
    nests: Nests,
    t: Tile,
    target: Target,
    choices: Choices,
    panels_last: bool,
    copied: bool,
) -> list[str]:
    """Tiles and orders the final nest; returns its outer loops, outermost first.

    Args:
        panels_last: whether all panels are in a loop of their own inside that over row tiles.
        copied: whether the row tiles that use a panel are in a loop of their own inside it.
    """
    s.do(
        "split",
        t.column.var.name,
        t.nr,
        _outer_name(t.column),
        _inner_name(t.column),
        "guard",
    )
    inner = [_inner_name(t.column)]
    rows = [a.var.name for a in t.outer if a.var.name not in t.shared]
    batch = [a.var.name for a in t.outer if a.var.name in t.shared]
    edges = False
    if t.row is not None:
        name = t.row.var.name
        edges = _has_guards(nests, t)
        s.do("split", name, t.mr, _outer_name(t.row), _inner_name(t.row), "assume")
        inner.insert(0, _inner_name(t.row))
        if name in t.shared:
            batch.append(_outer_name(t.row))
        else:
            rows.append(_outer_name(t.row))
    panel = _outer_name(t.column)
    last = rows.pop() if edges and rows else None
    order = [*batch, panel, *rows]
    if copied and t.row is not None:
        order = [*batch, *rows[:-1], *_shared_panels(s, t, panel, rows[-1])]
    elif panels_last or (rows and choices.pick("rows_first", int(_rows_first(t, target)), (0, 1))):
        order = [*batch, *rows, panel]
    elif rows and choices.pick("block_rows", int(_worth_blocking(t, target)), (0, 1)):
        order = _blocked(s, t, batch, panel, rows, last, target)
    final = [*order, *([last] if last else []), *inner]
    s.do("reorder", tuple(final))
    for name in inner[:-1]:
        s.do("set_kind", name, "unroll")
    s.do("set_kind", inner[-1], "vector")
    held = {panel} if panels_last else {rows[-1]} if copied else set()
    serial = [x for x in order if x.endswith("_in") or x in held]
    fused = [x for x in order if x not in serial]
    outermost = fuse_all(s, fused, "p")
    return [outermost, *serial, *([last] if last else [])]


def _shared_panels(s: Schedule, t: Tile, panel: str, row: str) -> list[str]:
    """The loops over panels and over the row tiles of each, so that enough can be shared.

    Where there are few panels their rows are cut in blocks, each with a copy of its own.
    """
    count, panels = find_loop(s.func, row, "tile").extent, -(-size(t.column.extent) // t.nr)
    if not isinstance(count, int) or panels >= SHARED_PANELS:
        return [panel, row]
    blocks = min(-(-SHARED_PANELS // panels), count // SHARED_PANELS)
    if blocks < 2:
        return [panel, row]
    s.do("split", row, -(-count // blocks), f"{row}_block", f"{row}_in", "assume")
    return [panel, f"{row}_block", f"{row}_in"]


def _worth_blocking(t: Tile, target: Target) -> bool:
    """Whether cutting the rows in blocks fetches fewer bytes from beyond L2.

    Without blocks every panel of columns reads the row operand again; with blocks every block
    reads the column operand again.
    """
    rows, columns = (
        operand_bytes(t, of_columns=False),
        operand_bytes(t, of_columns=True),
    )
    panels = -(-size(t.column.extent) // t.nr)
    blocks = -(-rows // (target.l2_bytes // 4))
    again = rows * (panels - 1) if rows > target.l2_bytes * 3 // 4 else 0
    blocked = columns * (blocks - 1) if columns > target.l2_bytes // 2 else 0
    return again > blocked


def _rows_first(t: Tile, target: Target) -> bool:
    """Whether all panels of a row tile come before the next rows.

    Then results and epilogue operands are walked as they lie in memory, at the price of reading
    the column operand from L2 again for every row tile: it must fit there. A window over an image
    that stays in L2 reads nothing again but taps, and fewer columns of it at once stay in L1.
    """
    if t.groups is not None:
        # Pixels of an image lie far apart, and few sets of L1 hold those of a panel alone.
        return all(bytes_of(load) <= target.l2_bytes // 2 for load in t.packed)
    column = t.main.spatial[t.main.axes.index(t.column.var.name)].var
    half, nbytes = target.l2_bytes // 2, operand_bytes(t, of_columns=True)
    result = size_product(t.main.buffer.shape) * t.main.buffer.dtype.bytes
    near = max(result, operand_bytes(t, of_columns=False)) <= half
    if t.packed and nbytes > target.l1_bytes and near:
        # Weights come from afar however few they are, unless the model is small: panel by panel
        # they can be asked for in time, where rows and results stay near meanwhile.
        return False
    fits = nbytes <= half
    return fits != all(column in symbols_of(load) for load in loads(t.main.body))


def _blocked(
    s: Schedule,
    t: Tile,
    batch: list[str],
    panel: str,
    rows: list[str],
    last: str | None,
    target: Target,
) -> list[str]:
    """Cuts the rows in blocks whose operand stays in L2 while all panels pass over it."""
    loop = find_loop(s.func, rows[-1], "tile")
    count = loop.extent
    per_step = size_product(tuple(a.extent for a in t.main.reduce)) * 4
    per_step *= t.mr if last is None else size(t.row.extent) if t.row else 1
    block = max(1, (target.l2_bytes // 4) // max(per_step, 1))
    if not isinstance(count, int) or count <= block:
        return [*batch, panel, *rows]
    block = _even_block(count, block)
    s.do("split", rows[-1], block, f"{rows[-1]}_block", f"{rows[-1]}_in", "assume")
    return [*batch, *rows[:-1], f"{rows[-1]}_block", panel, f"{rows[-1]}_in"]


def _even_block(count: int, most: int) -> int:
    """Tiles in a block, at most so many: the last block, moved back, repeats few of them.

    A divisor of the count repeats none, but one far below the most reads the columns' operand
    again as often.
    """

    def cost(block: int) -> float:
        pieces = -(-count // block)
        return pieces * block / count + 0.05 * pieces * most / count

    return min(range(1, most + 1), key=cost)


def shape_reduction(s: Schedule, r: Reduction, row: str | None, column: str) -> None:
    """Orders the update nest: reduction loops outside, the register tile inside.

    Args:
        row, column: names of the axes of the tile, as the nest that reads the reduction has them.
    """
    own = dict(zip(r.axes, (a.var.name for a in r.spatial), strict=True))
    inner = [own[name] for name in (row, column) if name in own]
    outer = [a.var.name for a in r.spatial if a.var.name not in inner]
    reduce = [a.var.name for a in nested(r)]
    if len(outer) + len(reduce) + len(inner) > 1:
        s.do("reorder", (*outer, *reduce, *inner))
    first = dict(zip(r.axes, r.init, strict=True))
    for name, kind in ((row, "unroll"), (column, "vector")):
        if name in own:
            s.do("set_kind", own[name], kind)
            s.do("set_kind", first[name], kind)
    for name in reduce:
        s.do("tighten", name)


def _run_apart(s: Schedule, nests: Nests, t: Tile, target: Target, choices: Choices) -> int:
    """Reads panels that come from beyond L2 in several places at once; returns in how many.

    A few rows need all of a panel for few operations, so that they wait for memory, and a core is
    given more bytes a second of several streams than of one.
    """
    loop = nested(t.main)[-1].var.name
    alone = all(same_dim(a.extent, 1) for a in t.outer)
    whole = t.row is not None and same_dim(t.row.extent, t.mr)
    few = t.mr == 1 or (alone and whole)
    if not few or len(s.packings) != 1 or len(nests.reductions) != 1:
        return 1
    (packing,) = s.packings
    depth = find_loop(s.func, loop, "tile").extent
    far = size_product(packing.packed.shape) * packing.packed.dtype.bytes > target.l2_bytes // 2
    if not far or not isinstance(depth, int):
        return 1
    free = (target.vector_registers - 4) * target.lanes(32)
    fitting = [k for k in STREAMS if depth % k == 0 and k * t.mr * t.nr <= free]
    if not fitting:
        return 1
    streams = choices.pick("streams", fitting[0], (1, *sorted(fitting)))
    if streams > 1:
        s.do("run_apart", loop, streams, f"{t.main.buffer.name}_s")
    return streams


def _prefetch(
    s: Schedule, t: Tile, names: list[str], target: Target, choices: Choices, streams: int
) -> None:
    """Asks for packed columns ahead of their use where they come from beyond L2.

    The next panel is asked for while the present one is used, a part for each tile of rows. What
    is asked for within the panel is then on its way from L2 to L1, which only panels need that do
    not stay there.

    Args:
        streams: in how many places at once the reduction runs.
    """
    loop = nested(t.main)[-1].var.name
    outer, turns = _panel_turns(s, t, loop, names)
    for packing in s.packings:
        packed = packing.packed
        nbytes = size_product(packed.shape) * packed.dtype.bytes
        streamed = nbytes > target.l2_bytes // 2
        walked = streamed or (nbytes > target.l1_bytes and not _rows_first(t, target))
        panels = choices.pick("panels", int(walked), (0, 1)) if turns > 1 else 0
        panel = nbytes * t.nr // max(t.nr, size(t.column.extent))
        stays = 2 * panel + operand_bytes(t, of_columns=False) <= target.l2_bytes * 3 // 4
        ahead = PREFETCH_BYTES if streamed and not (panels and stays) else 0
        ahead = choices.pick("prefetch", ahead, (0, 3072, 6144, 12288))
        if ahead:
            steps = max(1, ahead // (t.nr * packed.dtype.bytes * streams))
            s.do("prefetch", loop, packed.name, steps)
        if panels:
            own = dict(zip(t.main.axes, t.main.spatial, strict=True))[t.column.var.name]
            position = [v.name for v in packing.axes].index(_outer_name(own))
            rows = -(-PIECE // turns)
            s.do("prefetch_panel", loop, packed.name, outer, position, turns, rows)


def _prefetch_rows(
    s: Schedule, t: Tile, outer: str, turns: Dim, target: Target, choices: Choices
) -> bool:
    """Asks for the next rows of an operand that comes from afar and is walked once.

    Processors foresee one walk through a page; the rows of a tile are several, and short. What
    another core has written comes from afar, too, even where all of it would fit into L2. The
    fewer columns go with an element of a row, the sooner it is waited for.

    Args:
        outer: the loop that goes on to the next rows. turns: in how many iterations.

    Returns: whether it did.
    """
    loop, p = nested(t.main)[-1].var.name, Var(outer)
    for load, here, row, line in _walked_rows(s, t, loop):
        if not isinstance(turns, int):
            continue
        first, second = (
            tuple(simplify(substitute(i, {p: Const(k)})) for i in here.indices) for k in (0, 1)
        )
        far = bytes_of(load) > target.l2_bytes * t.nr // (ROWS_NEAR * target.lanes(32))
        if turns > 1 and first != second:
            continue
        if not choices.pick("rows_ahead", int(far), (0, 1)):
            return False
        s.do("prefetch_rows", loop, load.buffer.name, outer, turns, line, (row,))
        return True
    return False


def _prefetch_lines(s: Schedule, t: Tile, target: Target, choices: Choices) -> None:
    """Asks for the next line of each row of a tile where all rows do not stay in L1.

    The rows of a tile come to the end of their lines at the same time, so that the next ones
    would be waited for together; and they lie in as many pages, more than processors foresee.
    """
    name = nested(t.main)[-1].var.name
    outer, loop = (name, name) if name in s.loop_names() else (f"{name}_o", f"{name}_i")
    for load, _, row, line in _walked_rows(s, t, loop):
        if choices.pick("line_ahead", int(bytes_of(load) > target.l1_bytes), (0, 1)):
            s.do("prefetch_rows", loop, load.buffer.name, outer, 1, line, (row,))
        return


def _walked_rows(s: Schedule, t: Tile, loop: str) -> Iterator[tuple[Load, Load, str, int]]:
    """What a loop walks along the rows of a tile, line by line.

    Yields the load as the reduction has it and as the loop has it, the loop over rows, and how
    many elements a line has.
    """
    if len(t.main.reduce) != 1 or t.row is None or t.mr == 1 or loop not in s.loop_names():
        return
    (along,) = t.main.reduce
    found = find_loop(s.func, loop, "tile")
    own = dict(zip(t.main.axes, t.main.spatial, strict=True))
    row, column = own[t.row.var.name].var, own[t.column.var.name].var
    for load in loads(t.main.body):
        steps = load_strides(t.main, load) or {}
        line = max(1, LINE_BYTES // load.dtype.bytes)
        if not same_dim(steps.get(column, 1), 0) or not same_dim(steps.get(along.var, 0), 1):
            continue
        if found.start != 0 or not isinstance(found.extent, int) or found.extent % line:
            continue
        here = [x for x in block_loads(found.body) if x.buffer == load.buffer]
        if len(here) == 1:
            yield load, here[0], row.name, line


def _prefetch_results(s: Schedule, t: Tile, place: str, target: Target, choices: Choices) -> None:
    """Asks for the lines that a tile will write, and what is added to them, before its sums."""
    if t.row is None or len(loads(t.main.body)) < 2:
        return
    inner = {Var(_inner_name(t.row)), Var(_inner_name(t.column))}
    final = [x for x in stores(find_loop(s.func, place, "tile").body) if x.buffer.scope == "global"]
    touched = [Load(x.buffer, x.indices) for x in final]
    touched += [y for x in final for y in loads(x.value) if y.buffer.scope == "global"]
    for name in dict.fromkeys(x.buffer.name for x in touched):
        ways = {x for x in touched if x.buffer.name == name}
        (one, *others) = ways
        nbytes = size_product(one.buffer.shape) * one.dtype.bytes
        if others or not inner <= symbols_of(one):
            continue
        if choices.pick("results_ahead", int(nbytes > target.l2_bytes // 2), (0, 1)):
            s.do("prefetch", place, name, 0)


def _panel_turns(s: Schedule, t: Tile, loop: str, names: list[str]) -> tuple[str, int]:
    """The loop over row tiles, and how many there are to ask for the next panel in; or 1."""
    inside = find_loop(s.func, loop, "tile")
    one = same_dim(ceildiv(t.column.extent, t.nr), 1)
    if len(s.packings) != 1 or inside.start != 0 or t.mr == 1 or one:
        return names[0], 1
    if not isinstance(inside.extent, int) or inside.extent < 2 * PIECE:
        return names[0], 1
    if len(names) > 1 and names[1] == _outer_name(t.column):
        return names[0], 1
    if len(names) > 1 and names[1].endswith("_in"):
        count = find_loop(s.func, names[1], "tile").extent
        return names[1], min(PIECE, count) if isinstance(count, int) else 1
    extents = [a.extent for a in t.outer if a.var.name not in t.shared]
    if t.row is not None and len(names) == 1 and t.row.var.name not in t.shared:
        extents.append(ceildiv(t.row.extent, t.mr))
    # Of a number that is not known there may be few: asking twice costs less than not at all.
    most = PIECE if all(isinstance(d, int) for d in extents) else PIECE // 2
    return names[0], min(most, size_product(tuple(extents)))


def _has_guards(nests: Nests, t: Tile) -> bool:
    """Whether a padding guard depends on the row axis."""
    if t.row is None:
        return False
    own = dict(zip(t.main.axes, (a.var for a in t.main.spatial), strict=True))
    v = own.get(t.row.var.name)
    return any(
        v in symbols(g)
        for st in stores(nests.func.body)
        if st.buffer == t.main.buffer
        for g in padding_guards(st)
    )


def _split_edges(s: Schedule, t: Tile, place: str) -> None:
    """Gives the tiles at the edges of the image code of their own, where guards are constant."""
    loop = find_loop(s.func, place, "tile")
    inner = {x.var: loop_range(x) for x in loops(loop.body)}
    guards = {g for st in stores(loop.body) for g in padding_guards(st)}
    guards = {g for g in guards if loop.var in symbols(g)}
    if not guards:
        return
    reduce = [a.var.name for a in t.main.reduce]
    guarded = [n for n in reduce if any(Var(n) in symbols(g) for g in guards)]
    if not isinstance(loop.extent, int):
        own = dict(zip(t.main.axes, (a.var.name for a in t.main.spatial), strict=True))
        assert t.row is not None
        s.do("specialise", place, (own[t.row.var.name], *guarded))
        return
    count = loop.extent
    whole = [
        all(prove(g, {**inner, loop.var: (k, k)}) is True for g in guards) for k in range(count)
    ]
    if any(whole):
        front = whole.index(True)
        back = whole[::-1].index(True)
        if not all(whole[front : count - back]):
            front = count
            back = 0
    else:
        front, back = count, 0
    s.do("peel", place, front, back)
    copies = [f"_f{k}" for k in range(front)] + [f"_b{k}" for k in range(back)]
    for suffix in copies:
        for name in guarded:
            s.do("set_kind", name + suffix, "unroll")
