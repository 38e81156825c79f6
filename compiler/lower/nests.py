"""From a ComputeGroup to a plain Func: one perfect nest a stage, reductions into temporaries."""

from __future__ import annotations

from ..schedule.nests import MapStage, Nests, Reduction
from ..schedule.place import identity
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import (
    Alloc,
    Axis,
    Binary,
    BinaryOp,
    Block,
    Buffer,
    Const,
    Expr,
    For,
    Func,
    If,
    Load,
    Reduce,
    ReduceOp,
    Select,
    Stmt,
    Store,
    Var,
    as_expr,
)
from ..tensor.simplify import same_dim, substitute, symbols
from .fission import innermost
from .inline import loads_of, walk

COMBINE: dict[ReduceOp, BinaryOp] = {
    "sum": "add",
    "prod": "mul",
    "max": "max",
    "min": "min",
}


def first_position(r: Reduce) -> Expr:
    """argmax as two plain reductions: the best value, then the least position that holds it.

    A nan is the best of all, in both senses; the first of equals wins.
    """
    (axis,) = r.axes
    other = Axis(Var(axis.var.name + "_best"), axis.extent)
    best = Reduce(
        "max" if r.op == "argmax" else "min",
        (other,),
        substitute(r.body, {axis.var: other.var}),
    )
    found = Binary("eq", r.body, best)
    if r.body.dtype.is_float:
        both_nan = Binary("and", Binary("ne", r.body, r.body), Binary("ne", best, best))
        found = Binary("or", found, both_nan)
    last = as_expr(axis.extent) - 1
    return Reduce("min", (axis,), Select(found, axis.var, last))


class _Builder:
    """The nests of one group while they are written.

    Attributes:
        allocs, nests: what the function will be made of, in order.
        temporaries: what recipes need to know of its temporaries.
        axes: the loops of the nest of results that was written last.
        finals: how many nests of results were written.
    """

    def __init__(self, group: ComputeGroup) -> None:
        self.outputs = frozenset(group.outputs)
        self.axes: tuple[Axis, ...] = ()
        self.finals = 0
        self.results: list[Store] = []
        self.allocs: list[Stmt] = []
        self.nests: list[Stmt] = []
        self.temporaries: list[Reduction | MapStage] = []
        self.names: set[str] = set()
        self.done: dict[tuple[Expr, tuple[Axis, ...]], Load] = {}

    def name(self, wanted: str) -> str:
        """A name that no loop and no sum has yet."""
        name, k = wanted, 2
        while name in self.names:
            name, k = f"{wanted}{k}", k + 1
        self.names.add(name)
        return name

    def rename(self, axes: tuple[Axis, ...], prefix: str = "") -> dict[Var, Axis]:
        """Fresh loop variables for axes."""
        return {a.var: Axis(Var(self.name(prefix + a.var.name)), a.extent) for a in axes}

    def nest(self, axes: tuple[Axis, ...], body: Block) -> Stmt:
        """A perfect nest."""
        for a in reversed(axes):
            body = (For(a.var, a.extent, body),)
        assert len(body) == 1
        return body[0]

    def replace_reductions(self, stage: Compute) -> Expr:
        """The stage's expression with every reduction computed into a temporary before it."""
        expr = stage.expr
        while (inner := innermost(expr)) is not None:
            if inner.op in ("argmax", "argmin"):
                expr = substitute(expr, {inner: first_position(inner)})
                continue
            expr = substitute(expr, {inner: self.reduction(inner, stage.axes)})
        return expr

    def reduction(self, r: Reduce, axes: tuple[Axis, ...]) -> Load:
        """Emits the nests of one reduction and returns how it is read."""
        used = symbols(r.body) | {v for a in r.axes for v in symbols(a.extent)}
        spatial = tuple(a for a in axes if a.var in used)
        key = (r, spatial)
        if key in self.done:
            return self.done[key]
        number = len(self.temporaries)
        # A loop over an axis may have the name; a text that is read again tells them apart by it.
        free = self.name(f"r{number}")
        buffer = Buffer(free, r.dtype, tuple(a.extent for a in spatial), "local")
        own = self.rename(spatial, f"r{number}_")
        over = self.rename(r.axes)
        first = self.rename(spatial, f"r{number}_init_")
        mapping: dict[Expr, Expr] = {v: a.var for v, a in (own | over).items()}
        body = substitute(r.body, mapping)
        index = tuple(own[a.var].var for a in spatial)
        zero = tuple(first[a.var].var for a in spatial)
        self.allocs.append(Alloc(buffer))
        loops = (*own.values(), *over.values())
        start = Const(identity(r.op, r.dtype), r.dtype)
        self.nests.append(self.nest(tuple(first.values()), (Store(buffer, zero, start),)))
        value = Binary(COMBINE[r.op], Load(buffer, index), body)
        self.nests.append(self.nest(loops, (Store(buffer, index, value),)))
        self.temporaries.append(
            Reduction(
                buffer,
                r.op,
                body,
                tuple(a.var.name for a in first.values()),
                tuple(own.values()),
                tuple(over.values()),
                tuple(a.var.name for a in spatial),
            )
        )
        load = Load(buffer, (a.var for a in spatial))
        self.done[key] = load
        return load

    def keep(self, stage: Compute) -> Buffer:
        """Emits the nest of a stage that is no output and returns the temporary it fills."""
        kept = Buffer(stage.output.name, stage.output.dtype, stage.output.shape, "local")
        own = self.rename(stage.axes, f"{kept.name}_")
        self.allocs.append(Alloc(kept))
        self.nests.append(self.nest(tuple(own.values()), (_store(kept, stage, own),)))
        self.temporaries.append(MapStage(kept, tuple(own.values())))
        return kept

    def result(self, stage: Compute) -> None:
        """Adds an output to the current nest of results, or to a new one."""
        if self.results and not _same_axes(self.axes, stage.axes):
            self.write_results()
        if not self.results:
            self.axes = tuple(self.rename(stage.axes).values())
        own = {a.var: f for a, f in zip(stage.axes, self.axes, strict=True)}
        self.results.append(_store(stage.output, stage, own))

    def write_what(self, stage: Compute) -> None:
        """Writes the results before a stage that reads one of them elsewhere than at its place."""
        held = {x.buffer for x in self.results}
        place = tuple(a.var for a in stage.axes)
        inside = [x for r in walk(stage.expr) if isinstance(r, Reduce) for x in loads_of(r.body)]
        for x in loads_of(stage.expr):
            if x.buffer in held and (
                x in inside or x.indices != place or stage.output not in self.outputs
            ):
                self.write_results()
                return

    def write_results(self) -> None:
        """Ends the current nest of results."""
        if not self.results:
            return
        body = tuple(self.results)
        self.nests += [self.nest(self.axes, body)] if self.axes else body
        self.finals += 1
        self.results = []


def _store(buffer: Buffer, stage: Compute, own: dict[Var, Axis]) -> Store:
    renamed: dict[Expr, Expr] = {v: a.var for v, a in own.items()}
    return Store(buffer, tuple(a.var for a in own.values()), substitute(stage.expr, renamed))


def to_func(group: ComputeGroup, constants: frozenset[str] = frozenset()) -> Nests:
    """Lowers a group to plain nests; neighbouring outputs of one shape share a nest.

    Buffer parameters come first (inputs, then outputs), then the symbols of all shapes by name.
    """
    b = _Builder(group)
    outputs = set(group.outputs)
    local: dict[Buffer, Buffer] = {}
    for s in group.stages:
        mapping: dict[Expr, Expr] = {
            x: Load(local[x.buffer], x.indices) for x in loads_of(s.expr) if x.buffer in local
        }
        stage = Compute(s.output, s.axes, substitute(s.expr, mapping))
        b.write_what(stage)
        stage = Compute(s.output, s.axes, b.replace_reductions(stage))
        if s.output in outputs:
            b.result(stage)
        else:
            renamed = None if _reduced_later(s.output, group) else _renamed_reduction(b, stage)
            local[s.output] = renamed or b.keep(stage)
    b.write_results()
    params: list[Buffer | Var] = [*group.inputs, *group.outputs]
    func = Func(group.name, (*params, *free_symbols(b.nests, params)), (*b.allocs, *b.nests))
    return Nests(func, tuple(b.temporaries), b.axes, constants, b.finals)


def _renamed_reduction(b: _Builder, stage: Compute) -> Buffer | None:
    """The temporary that a stage only renames, if that is all it does."""
    e = stage.expr
    if not isinstance(e, Load) or e.indices != tuple(a.var for a in stage.axes):
        return None
    held = {t.buffer for t in b.temporaries if isinstance(t, Reduction)}
    return e.buffer if e.buffer in held else None


def _reduced_later(buffer: Buffer, group: ComputeGroup) -> bool:
    """Whether some stage reduces a buffer along an axis of its own.

    Then all of a row is needed at once: it gets a nest that stores what the reduction before it
    may have accumulated in registers.
    """
    return any(
        x.buffer == buffer and any(symbols(i) & {a.var for a in r.axes} for i in x.indices)
        for s in group.stages
        for r in walk(s.expr)
        if isinstance(r, Reduce)
        for x in loads_of(r.body)
    )


def _same_axes(a: tuple[Axis, ...], b: tuple[Axis, ...]) -> bool:
    return len(a) == len(b) and all(same_dim(x.extent, y.extent) for x, y in zip(a, b, strict=True))


def element_by_element(group: ComputeGroup) -> Func:
    """Lowers a group of one stage so that each element is computed alone, one scalar a reduction.

    Nothing can keep it from being right, and nothing makes it fast: the last resort.
    """
    (stage,) = group.stages
    body: list[Stmt] = []
    expr = stage.expr
    count = 0
    while (inner := innermost(expr)) is not None:
        if inner.op in ("argmax", "argmin"):
            expr = substitute(expr, {inner: first_position(inner)})
            continue
        total = Buffer(f"r{count}", inner.dtype, (1,), "register")
        over = tuple(Axis(Var(f"r{count}_{a.var.name}"), a.extent) for a in inner.axes)
        own: dict[Expr, Expr] = {a.var: o.var for a, o in zip(inner.axes, over, strict=True)}
        count += 1
        held = total[0]
        value = Binary(COMBINE[inner.op], held, substitute(inner.body, own))
        update: Stmt = Store(total, (Const(0),), value)
        for a in reversed(over):
            update = For(a.var, a.extent, (update,))
        start = Const(identity(inner.op, inner.dtype), inner.dtype)
        body += [Alloc(total), Store(total, (Const(0),), start), update]
        expr = substitute(expr, {inner: held})
    body.append(Store(stage.output, tuple(a.var for a in stage.axes), expr))
    block = tuple(body)
    for a in reversed(stage.axes):
        block = (For(a.var, a.extent, block),)
    params: list[Buffer | Var] = [*group.inputs, *group.outputs]
    return Func(group.name, (*params, *free_symbols(list(block), params)), block)


def free_symbols(block: list[Stmt], params: list[Buffer | Var]) -> list[Var]:
    """The symbols that shapes and statements use, by name."""
    found: set[Var] = set()
    for p in params:
        if isinstance(p, Buffer):
            for d in p.shape:
                found |= symbols(d)
    todo: list[Stmt] = list(block)
    while todo:
        match todo.pop():
            case For(extent=extent, body=body, start=start):
                found |= symbols(extent) | symbols(start)
                todo.extend(body)
            case Store(indices=indices, value=value):
                for e in (*indices, value):
                    found |= symbols(e)
            case If(cond=cond, then=then, orelse=orelse):
                found |= symbols(cond)
                todo.extend(then + orelse)
    return sorted((v for v in found if v.is_symbol), key=lambda v: v.name)
