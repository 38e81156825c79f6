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
    def __init__(self, group: ComputeGroup) -> None:
        self.group = group
        self.allocs: list[Stmt] = []
        self.nests: list[Stmt] = []
        self.temporaries: list[Reduction | MapStage] = []
        self.names: set[str] = set()
        self.done: dict[tuple[Expr, tuple[Axis, ...]], Load] = {}

    def name(self, wanted: str) -> str:
        """A loop name that is free."""
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
        while True:
            inner = next(
                (
                    r
                    for r in walk(expr)
                    if isinstance(r, Reduce)
                    and not any(isinstance(x, Reduce) for x in walk(r.body))
                ),
                None,
            )
            if inner is None:
                return expr
            if inner.op in ("argmax", "argmin"):
                expr = substitute(expr, {inner: first_position(inner)})
                continue
            expr = substitute(expr, {inner: self.reduction(inner, stage.axes)})

    def reduction(self, r: Reduce, axes: tuple[Axis, ...]) -> Load:
        """Emits the nests of one reduction and returns how it is read."""
        used = symbols(r.body) | {v for a in r.axes for v in symbols(a.extent)}
        spatial = tuple(a for a in axes if a.var in used)
        key = (r, spatial)
        if key in self.done:
            return self.done[key]
        number = len(self.temporaries)
        buffer = Buffer(f"r{number}", r.dtype, tuple(a.extent for a in spatial), "local")
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


def to_func(group: ComputeGroup, constants: frozenset[str] = frozenset()) -> Nests:
    """Lowers a group to plain nests; output stages of one shape share the last nest.

    Buffer parameters come first (inputs, then outputs), then the symbols of all shapes by name.
    """
    b = _Builder(group)
    outputs = set(group.outputs)
    final: list[tuple[tuple[Axis, ...], list[Stmt]]] = []
    local: dict[Buffer, Buffer] = {}
    for s in group.stages:
        mapping: dict[Expr, Expr] = {
            x: Load(local[x.buffer], x.indices) for x in loads_of(s.expr) if x.buffer in local
        }
        expr = b.replace_reductions(Compute(s.output, s.axes, substitute(s.expr, mapping)))
        direct = _is_reduction(b, expr, s)
        if s.output not in outputs and direct is not None:
            local[s.output] = direct
            continue
        if s.output not in outputs:
            kept = Buffer(s.output.name, s.output.dtype, s.output.shape, "local")
            local[s.output] = kept
            own = b.rename(s.axes, f"{kept.name}_")
            renamed: dict[Expr, Expr] = {v: a.var for v, a in own.items()}
            b.allocs.append(Alloc(kept))
            index = tuple(a.var for a in own.values())
            store = Store(kept, index, substitute(expr, renamed))
            b.nests.append(b.nest(tuple(own.values()), (store,)))
            b.temporaries.append(MapStage(kept, tuple(own.values())))
            continue
        if final and _same_axes(final[-1][0], s.axes):
            axes, body = final[-1]
            renamed = {a.var: f.var for a, f in zip(s.axes, axes, strict=True)}
            index = tuple(a.var for a in axes)
            body.append(Store(s.output, index, substitute(expr, renamed)))
            continue
        own = b.rename(s.axes)
        renamed = {v: a.var for v, a in own.items()}
        axes = tuple(own.values())
        index = tuple(a.var for a in axes)
        final.append((axes, [Store(s.output, index, substitute(expr, renamed))]))
    for axes, body in final:
        if axes:
            b.nests.append(b.nest(axes, tuple(body)))
        else:
            b.nests += body
    params: list[Buffer | Var] = [*group.inputs, *group.outputs]
    func = Func(group.name, (*params, *free_symbols(b.nests, params)), (*b.allocs, *b.nests))
    return Nests(func, tuple(b.temporaries), final[-1][0], constants)


def _is_reduction(b: _Builder, e: Expr, stage: Compute) -> Buffer | None:
    """The temporary that a stage only renames, if that is all it does."""
    if not isinstance(e, Load) or e.indices != tuple(a.var for a in stage.axes):
        return None
    held = {t.buffer for t in b.temporaries if isinstance(t, Reduction)}
    return e.buffer if e.buffer in held else None


def _same_axes(a: tuple[Axis, ...], b: tuple[Axis, ...]) -> bool:
    return len(a) == len(b) and all(same_dim(x.extent, y.extent) for x, y in zip(a, b, strict=True))


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
