"""Winograd: a convolution as input transform, batched product and output transform.

One sliding sum of stride 1 becomes three steps over blocks of tiles, each tile m outputs wide
along every spatial axis:

    v[x, tile, k] = the transform of t x t inputs          (x: t * t positions)
    p[x, tile, j] = sum(v[x, tile, k] * u[x, k, j])        a product for each position
    y[m x m places of the tile, j] = epilogue(the transform of p)

The weights are transformed when the code is made. The product is scheduled by the recipe for
contractions, like any other. Edges are clipped: inputs outside the image are zero, places
outside the result are not stored.

Two ways to join the steps: one kernel shared by blocks, where a block's ``v`` stays in the
thread's own cache (many tiles); or all of ``v`` first and then one kernel shared by panels of
columns, each of which reads its weights once (few tiles).

Errors against float64, greatest relative to the greatest result (root mean square of both), for
normal inputs, and 3x3 weights of as many columns as channels:

    channels @ image     plain sum           m = 2               m = 4
    64 @ 56x56           8.5e-7 (3.7e-7)     3.1e-7 (2.3e-7)     1.7e-6 (7.1e-7)
    128 @ 28x28          8.8e-7 (5.1e-7)     3.7e-7 (3.1e-7)     1.7e-6 (9.5e-7)
    256 @ 14x14          1.5e-6 (7.0e-7)     4.9e-7 (4.3e-7)     2.6e-6 (1.3e-6)
    512 @ 7x7            2.0e-6 (9.6e-7)     9.1e-7 (5.8e-7)     3.6e-6 (1.6e-6)
    512 @ 28x28          2.2e-6 (1.0e-6)     1.3e-6 (5.9e-7)     3.4e-6 (1.8e-6)

Most of it is of the sums over channels, which outputs add up. Transforming weights in float64
instead of float32 changes 2 % of it with 64 channels, and nothing with 256.

The bounds that tests hold it to are 2e-6 and 1e-5. An infinity or a nan in the input reaches all
places of the tiles that read it, not only those under the taps.

A convolution whose taps lie d elements apart is d * d of this kind, of every d-th row and column
each: their tiles are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product as product_of
from math import gcd

from .. import dtype as dt
from ..errors import ArtifactError
from ..schedule.loops import conjuncts
from ..schedule.nest import simplify_func, substitute_block
from ..schedule.nests import Nests
from ..schedule.pack import Packing
from ..schedule.recipes.choices import Choices
from ..schedule.recipes.tile import LINE_BYTES, PREFETCH_BYTES, STREAMS, tile
from ..schedule.recipes.tile_plan import size
from ..schedule.recording import Recording
from ..schedule.schedule import Schedule, Steps
from ..target import Target
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import (
    Alloc,
    Axis,
    Binary,
    Block,
    Buffer,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Reduce,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
    conjunction,
    lt,
    minimum,
)
from ..tensor.simplify import Ranges, affine, ceildiv, dim, product, simplify, substitute, symbols
from ..tensor.walk import block_loads, stores
from ..tensor.winograd import Filtering, filtering, linear_program
from .inline import walk
from .nests import free_symbols, to_func
from .sliding import TOTAL, Sliding, is_constant
from .transform import over_lanes, transform

METHOD = "winograd"

PLACES = "streams"
"""What a recording calls the places in which weights are read: it does not ask the target again."""

FEW_STREAMS = 2
"""In how many places to read weights that come from beyond L2 for the first block only."""

PAGE_BYTES = 4096
"""Addresses that differ by this belong to the same set of L1, whatever its size."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one convolution is computed.

    Attributes:
        m: outputs of a tile along each spatial axis.
        block: tiles of a block.
        mr, nr: the register tile of the product; ``nr`` columns are a panel.
        by_panels: whether the transformed input is computed whole, before all panels.
    """

    m: int
    block: int
    mr: int
    nr: int
    by_panels: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel of the rewrite.

    Attributes:
        func: the function. packings: what it takes packed.
        steps: what shaped its product, as text; empty where it has none.
        recording: the plan and those steps; ``replay`` makes all kernels of the rewrite again.
            None where another rewrite made it.
    """

    func: Func
    packings: tuple[Packing, ...]
    steps: str
    recording: Recording | None = None


def tiles_along(extent: Dim, step: int, m: int) -> Dim:
    """How many tiles of m places there are along an axis, of each of its ``step`` images."""
    return ceildiv(ceildiv(extent, step), m)


def is_far(count: int, target: Target) -> bool:
    """Whether that many transformed weights come from beyond L2 at each call."""
    return count * 4 > target.l2_bytes // 2


def arrives(count: int, target: Target) -> bool:
    """Whether that many transformed weights are worth asking for ahead of their use.

    The first block of tiles waits for them at each call: only small models stay in L2.
    """
    return count * 4 > target.l2_bytes // 8


def streams(count: Dim, channels: int, target: Target) -> int:
    """In how many places at once weights are read, ``count`` of them for each channel.

    A core is given more bytes a second of several streams than of one.
    """
    assert isinstance(count, int)
    if not arrives(count * channels, target):
        return 1
    many = STREAMS if is_far(count * channels, target) else (FEW_STREAMS,)
    return next((k for k in many if channels % k == 0), 1)


def apart_in_cache(positions: int, rows: int, length: int, target: Target) -> tuple[int, int]:
    """Rows, and elements of each, that keep one line of every position in L1 at once.

    The transform of a tile goes through a line at each position. If these lie a multiple of a
    large power of two apart, all the lines belong to the same few sets of the cache, which then
    drops some that are still written to: that took three times as long.

    Args:
        positions: of a tile. rows, length: what each holds, at least.
    """
    for more, longer in ((0, 0), (1, 0), (0, LINE_BYTES // 4), (1, LINE_BYTES // 4)):
        apart = gcd((rows + more) * (length + longer) * 4, PAGE_BYTES)
        sets = PAGE_BYTES // max(apart, LINE_BYTES)
        if -(-positions // sets) * PAGE_BYTES <= target.l1_bytes * 3 // 4:
            return rows + more, length + longer
    return rows, length


class _Writer:
    """Writes the kernels of one convolution; its product by recorded steps where there are some.

    The steps are for weights that are read in ``recorded_streams`` places.
    """

    def __init__(
        self,
        name: str,
        s: Sliding,
        plan: Plan,
        target: Target,
        recorded: Steps | None = None,
        recorded_streams: int = 1,
    ) -> None:
        self.name, self.s, self.plan, self.target = name, s, plan, target
        self.recorded = recorded
        taps = s.spatial[0][1].extent
        assert isinstance(taps, int) and isinstance(s.channel.extent, int)
        assert isinstance(s.column.extent, int)
        self.channels, self.columns = s.channel.extent, s.column.extent
        self.matrices: Filtering = filtering(plan.m, taps)
        self.t = plan.m + taps - 1
        self.lanes = target.lanes(32)
        self.dims = len(s.spatial)
        self.counts: list[Dim] = [a.extent for a in s.batch]
        self.steps = dict(zip((a for a, _ in s.spatial), s.steps, strict=True))
        self.rows = {a: tiles_along(a.extent, step, plan.m) for a, step in self.steps.items()}
        self.counts += [dim(as_expr(self.rows[a]) * step) for a, step in self.steps.items()]
        self.tiles = product(self.counts)
        self.blocks = ceildiv(self.tiles, plan.block)
        self.panels = -(-self.columns // plan.nr)
        cube = (self.t,) * self.dims
        self.streams = recorded_streams
        if recorded is None:
            self.streams = streams(product((self.panels, *cube)) * plan.nr, self.channels, target)
        weights = (self.streams, self.panels, *cube, self.channels // self.streams, plan.nr)
        self.u = Buffer(f"{s.weight.buffer.name}_transformed", dt.f32, weights)
        block = (*cube, *apart_in_cache(self.t**self.dims, plan.block, self.channels, target))
        if plan.by_panels:
            self.v = Buffer("v", dt.f32, (self.blocks, *block))
        else:
            self.v = Buffer("v", dt.f32, block, "local")
        held = apart_in_cache(self.t**self.dims, plan.block, plan.nr, target)
        self.p = Buffer("products", dt.f32, (*cube, *held), "local")
        self.block, self.panel, self.first = Var("block"), Var("panel"), Var("first")
        self.ranges: Ranges = {
            self._at(a): (0, dim(as_expr(n) - 1))
            for a, n in zip((*s.batch, *(a for a, _ in s.spatial)), self.counts, strict=True)
        }
        for a, step in self.steps.items():
            if step > 1:
                last = (as_expr(self.rows[a]) - 1) * (plan.m * step) + (step - 1)
                self.ranges[Var(f"from_{a.var.name}")] = (0, dim(last))

    # -------------------------------------------------------------- where a tile lies

    def _at(self, a: Axis) -> Var:
        """The position of the tile along an axis, counted in tiles."""
        return Var(f"at_{a.var.name}")

    def _from(self, a: Axis) -> Expr:
        """The first place of the tile along an axis; the others follow step by step."""
        return self._at(a) * self.plan.m if self.steps[a] == 1 else Var(f"from_{a.var.name}")

    def _places(self, number: Expr) -> list[Stmt]:
        """Binds the position of a tile along every axis.

        Where taps lie some elements apart, places that far apart make an image of their own: the
        tiles of the first one come before those of the next.
        """
        axes = [*self.s.batch, *(a for a, _ in self.s.spatial)]
        found: list[Stmt] = []
        for k in range(len(axes) - 1, -1, -1):
            count = as_expr(self.counts[k])
            found.insert(0, Let(self._at(axes[k]), number if k == 0 else number % count))
            number = number // count
        for a, step in self.steps.items():
            if step > 1:
                rows = as_expr(self.rows[a])
                image, tile_ = self._at(a) // rows, self._at(a) % rows
                found.append(Let(Var(f"from_{a.var.name}"), image + tile_ * (self.plan.m * step)))
        return found

    def _start(self) -> Let:
        """The first tile of a block; the last block is moved back to end with the tiles."""
        return Let(
            self.first,
            simplify(
                minimum(self.block * self.plan.block, as_expr(self.tiles) - self.plan.block),
                {self.block: (0, dim(as_expr(self.blocks) - 1))},
            ),
        )

    # -------------------------------------------------------------- input

    def _input(self, number: Expr) -> Block:
        """The transform of one tile's input, all channels: reads the image, writes ``v``."""
        s, m, t = self.s, self.plan.m, self.t
        taps = [Var(f"in_{tap.var.name}") for _, tap in s.spatial]
        mapping: dict[Expr, Expr] = {a.var: self._at(a) for a in s.batch}
        for (a, tap), i in zip(s.spatial, taps, strict=True):
            mapping |= {a.var: self._from(a), tap.var: i}
        ranges = {**self.ranges, **dict.fromkeys(taps, (0, t - 1))}
        # A tile may reach past the last place; what lies there belongs to no result.
        own = [
            lt(self._from(a) + i * self.steps[a], as_expr(a.extent) + (t - m) * self.steps[a])
            for (a, _), i in zip(s.spatial, taps, strict=True)
        ]
        value = substitute(s.value, mapping)
        guarded = simplify(Select(conjunction(own), value, Const(0.0, dt.f32)), ranges)
        guards = [
            g
            for e in walk(guarded)
            if isinstance(e, Select)
            for g in conjuncts(e.cond)
            if symbols(g) & set(taps)
        ]
        inside, sure = _interior(list(dict.fromkeys(guards)), taps, t)
        inside = simplify(inside, self.ranges)
        free = simplify(substitute(guarded, {g: Const(True, dt.bool_) for g in sure}), ranges)
        program = linear_program(self.matrices.inputs)
        before: tuple[Expr, ...] = (self.block,) if self.plan.by_panels else ()

        def version(name: str, e: Expr) -> Block:
            # Loops are a third of the code. Where something is checked for each element they are
            # as fast, else Winograd's kernels take 2 to 4 % longer with them.
            looped = e is guarded and e is not free

            def vector(prefix: str, channel: Expr, lane: Var) -> Block:
                def source(index: tuple[Expr, ...]) -> Expr:
                    here: dict[Expr, Expr] = dict(zip(taps, index, strict=True))
                    return simplify(substitute(e, {**here, s.channel.var: channel}), self.ranges)

                def sink(index: tuple[Expr, ...], x: Expr) -> Block:
                    return (Store(self.v, (*before, *index, number, channel), x),)

                return transform(prefix, program, self.dims, lane, self.lanes, source, sink, looped)

            return over_lanes(name, self.channels, self.lanes, vector)

        if is_constant(inside, True):
            return version("d", free)
        if is_constant(inside, False) or not self._mostly_inside():
            return version("d", guarded)
        return (If(inside, version("d", free), version("edge", guarded)),)

    def _mostly_inside(self) -> bool:
        """Whether enough tiles touch no edge for code of their own."""
        share = 1.0
        for n in self.rows.values():
            if isinstance(n, int):
                share *= max(0, n - 2) / n
        return share > 0.3

    # -------------------------------------------------------------- product

    def _product(self) -> tuple[Block, Recording]:
        """The product of one block and one panel: reads ``v`` and ``u``, writes ``p``."""
        cube = [Axis(Var(f"x{k}"), self.t) for k in range(self.dims)]
        row, column = Axis(Var("row"), self.plan.block), Axis(Var("col"), self.plan.nr)
        apart, depth = Axis(Var("s"), self.streams), self.channels // self.streams
        over = Axis(Var("k"), depth)
        several = self.streams > 1
        stream: Expr = apart.var if several else Const(0)
        x = [a.var for a in cube]
        prefix: tuple[Expr, ...] = (self.block,) if self.plan.by_panels else ()
        channel = stream * depth + over.var if several else over.var
        a = Load(self.v, (*prefix, *x, row.var, channel))
        b = Load(self.u, (stream, self.panel, *x, over.var, column.var))
        total = Reduce("sum", (apart, over) if several else (over,), a * b)
        stage = Compute(self.p, (*cube, row, column), total)
        group = ComputeGroup("product", (self.v, self.u), (self.p,), (stage,))
        nests = to_func(group)
        if self.recorded is None:
            done = self._schedule(nests)
        else:
            done = Schedule(nests.func).replay(self.recorded)
        plan = tuple((f.name, int(getattr(self.plan, f.name))) for f in fields(Plan))
        plan = (*plan, (PLACES, self.streams))
        recording = Recording(tuple(done.steps), method=METHOD, plan=plan)
        return tuple(_serial(stmt) for stmt in done.func.body), recording

    def _schedule(self, nests: Nests) -> Schedule:
        """The product as the recipe shapes it, for weights that may come from afar."""
        count, given = product(self.u.shape), product(self.v.shape)
        assert isinstance(count, int)
        answers = {"mr": self.plan.mr, "nr": self.plan.nr, "rows_first": 0}
        tiles = size(given) * 4
        together = tiles + count * 4 // self.panels
        if tiles > self.target.l2_bytes // 4 and together > self.target.l2_bytes * 5 // 8:
            # L2 does not hold the tiles together with a panel of weights, and another core has
            # transformed half of them.
            answers["rows_ahead"] = 1
        done = tile(nests, self.target, Choices(answers))
        if self.streams > 1:
            done.do("reorder", ("k", "s", "r0_row", "r0_col")).do("set_kind", "s", "unroll")
        if arrives(count, self.target):
            # The recipe may have cut the loop.
            inner = "k" if "k" in done.loop_names() else "k_i"
            row = self.plan.nr * 4 * self.streams
            done.do("prefetch", inner, self.u.name, PREFETCH_BYTES // row)
        return done

    # -------------------------------------------------------------- output

    def _output(self, number: Expr) -> Block:
        """The transform of one tile's products in one panel, with the epilogue, to the results."""
        s, m = self.s, self.plan.m
        program = linear_program(self.matrices.outputs)
        start = self.panel * self.plan.nr

        def vector(prefix: str, offset: Expr, lane: Var) -> Block:
            column = start + offset

            def source(index: tuple[Expr, ...]) -> Expr:
                return Load(self.p, (*index, number, offset))

            def sink(index: tuple[Expr, ...], x: Expr) -> Block:
                here: dict[Expr, Expr] = {a.var: self._at(a) for a in s.batch}
                here[s.column.var] = column
                checks: list[Expr] = []
                for (a, _), i in zip(s.spatial, index, strict=True):
                    place = self._from(a) + i * self.steps[a]
                    here[a.var] = place
                    ranges = {**self.ranges, **dict.fromkeys(symbols(i), (0, m - 1))}
                    check = simplify(lt(place, as_expr(a.extent)), ranges)
                    if not is_constant(check, True):
                        checks.append(check)
                stores: Block = tuple(
                    Store(b, tuple(substitute(a.var, here) for a in s.axes), e)
                    for b, e in (
                        (b, substitute(substitute(e, here), {TOTAL: x})) for b, e in s.results
                    )
                )
                if self.columns % self.lanes:
                    stores = (If(lt(column, self.columns), stores),)
                return (If(conjunction(checks), stores),) if checks else stores

            return transform(prefix, program, self.dims, lane, self.lanes, source, sink)

        left = ceildiv(dim(as_expr(self.columns) - start), self.lanes)
        whole = self.plan.nr // self.lanes
        if self.columns % self.plan.nr == 0:
            chunks: Dim = whole
        else:
            chunks = dim(simplify(minimum(as_expr(left), whole)))
        return over_lanes("o", dim(as_expr(chunks) * self.lanes), self.lanes, vector)

    # -------------------------------------------------------------- kernels

    def parts(self) -> tuple[tuple[Part, ...], tuple[Buffer, ...]]:
        """The kernels in order, and the buffers between them."""
        product_, recording = self._product()
        made = Var("made")
        output = (*self._places(self.first + made), *self._output(made))
        each = (Alloc(self.p), *product_, For(made, self.plan.block, output))
        if not self.plan.by_panels:
            given = Var("given")
            read = (*self._places(self.first + given), *self._input(given))
            panels = For(self.panel, self.panels, each)
            body = (self._start(), Alloc(self.v), For(given, self.plan.block, read), panels)
            whole = For(self.block, self.blocks, body, "parallel")
            return (self._part(self.name, (whole,), recording),), ()
        # Every tile of every block by itself: there may be fewer blocks than threads.
        shared = Var("shared")
        number, block = shared % self.plan.block, shared // self.plan.block
        alone = (self._start(), *self._places(self.first + number), *self._input(number))
        alone = substitute_block(alone, {self.block: block})
        every = For(shared, dim(as_expr(self.blocks) * self.plan.block), alone, "parallel")
        count = as_expr(self.blocks)
        split: dict[Expr, Expr] = {self.panel: shared // count, self.block: shared % count}
        work = substitute_block((self._start(), *each), split)
        second = For(shared, dim(count * self.panels), work, "parallel")
        parts = (
            replace(self._part(f"{self.name}_in", (every,), recording), steps=""),
            self._part(self.name, (second,), recording),
        )
        return parts, (self.v,)

    def _part(self, name: str, body: Block, recording: Recording) -> Part:
        read = list(dict.fromkeys(x.buffer for x in block_loads(body)))
        written = list(dict.fromkeys(s.buffer for s in stores(body)))
        buffers = [b for b in dict.fromkeys((*read, *written)) if b.scope == "global"]
        packings = (self._packing(),) if self.u in buffers else ()
        params: list[Buffer | Var] = list(buffers)
        func = Func(name, (*params, *free_symbols(list(body), params)), body)
        return Part(simplify_func(func), packings, str(recording), recording)

    def _packing(self) -> Packing:
        """The transform of the weights: panels of columns, then a matrix along every tap axis."""
        s, nr = self.s, self.plan.nr
        panel, column = Var("column_o"), Var("column_i")
        taps = [Var(f"u_{tap.var.name}") for _, tap in s.spatial]
        stream, channel = Var("u_stream"), Var("u_channel")
        position = panel * nr + column
        depth = self.channels // self.streams
        here: dict[Expr, Expr] = {s.column.var: position, s.channel.var: stream * depth + channel}
        here |= {tap.var: v for (_, tap), v in zip(s.spatial, taps, strict=True)}
        value: Expr = substitute(s.weight, here)
        if self.columns % nr:
            value = Select(lt(position, self.columns), value, Const(0.0, dt.f32))
        mixings = tuple((2 + k, self.matrices.weights) for k in range(self.dims))
        axes = (stream, panel, *taps, channel, column)
        return Packing(s.weight.buffer, self.u, axes, simplify(value), mixings)


def _serial(stmt: Stmt) -> Stmt:
    if isinstance(stmt, For) and stmt.kind == "parallel":
        return For(stmt.var, stmt.extent, stmt.body, "serial", stmt.start)
    return stmt


def _interior(guards: Sequence[Expr], taps: Sequence[Var], t: int) -> tuple[Expr, list[Expr]]:
    """The condition under which guards hold at every tap, and the guards that it covers.

    An affine guard holds between two points where it holds.
    """
    ends: dict[Expr, None] = {}
    sure: list[Expr] = []
    for g in guards:
        if not (isinstance(g, Binary) and g.op in ("lt", "le")):
            continue
        used = [v for v in taps if v in symbols(g)]
        if g.a.dtype is not dt.i64 or affine(g.b - g.a, used) is None:
            continue
        sure.append(g)
        for corner in product_of((0, t - 1), repeat=len(used)):
            mapping: dict[Expr, Expr] = {v: Const(i) for v, i in zip(used, corner, strict=True)}
            ends[substitute(g, mapping)] = None
    return conjunction(ends), sure


def rewrite(
    name: str, s: Sliding, plan: Plan, target: Target
) -> tuple[tuple[Part, ...], tuple[Buffer, ...]]:
    """The kernels of a convolution in Winograd's form, in order, and the buffers between them."""
    return _Writer(name, s, plan, target).parts()


def replay(
    recording: Recording, name: str, s: Sliding, target: Target
) -> tuple[tuple[Part, ...], tuple[Buffer, ...]]:
    """The kernels that a recording of this method is of, by its plan and its steps.

    Raises:
        ArtifactError: it is no recording of this method, or its weights cannot be read in so many
            places (TW-E0522).
        ScheduleError: a step does not apply: it is another convolution.
    """
    names = {*(f.name for f in fields(Plan)), PLACES}
    if recording.method != METHOD or {n for n, _ in recording.plan} != names:
        raise ArtifactError(f"{recording.method or 'a schedule'} is no {METHOD}", code="TW-E0522")
    given = dict(recording.plan)
    by_panels, places = bool(given.pop("by_panels")), given.pop(PLACES)
    channels = size(s.channel.extent)
    if places < 1 or channels % places:
        raise ArtifactError(
            f"{METHOD}: weights of {channels} channels are not read in {places} places at once",
            code="TW-E0522",
        )
    plan = Plan(**given, by_panels=by_panels)
    return _Writer(name, s, plan, target, recording.steps, places).parts()
