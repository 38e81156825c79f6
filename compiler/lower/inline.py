"""From the nodes of one fused group to the stages of one ComputeGroup.

Each node lowers to its Compute; producers are then substituted into their consumers, until only
the outputs, the reductions that more than one element needs, and expensive values that several
reductions need are stages of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..graph.ir import Graph, Value
from ..ops import OPS
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import (
    Axis,
    Binary,
    Buffer,
    Call,
    Const,
    Dim,
    Expr,
    Load,
    Reduce,
    Var,
)
from ..tensor.simplify import (
    product,
    ranges_of_axes,
    same_dim,
    simplify,
    substitute,
    symbols,
)

CHEAP_CALLS = frozenset(
    {"bitcast", "floor", "ceil", "round", "trunc", "fma", "mad", "isnan", "isinf"}
)


@dataclass(frozen=True, slots=True)
class LoweredGroup:
    """A ComputeGroup and the body values that its parameters stand for.

    Attributes:
        group: the stages; its inputs and outputs are in the order of the value tuples.
        inputs: body inputs, or body constants, that the inputs hold.
        outputs: body outputs, without repeats.
    """

    group: ComputeGroup
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@lru_cache(maxsize=1 << 12)
def walk(e: Expr) -> tuple[Expr, ...]:
    """Every distinct sub-expression, parents before their operands."""
    seen: dict[Expr, None] = {}
    todo = [e]
    while todo:
        x = todo.pop()
        if x not in seen:
            seen[x] = None
            todo += x.operands
    return tuple(seen)


@lru_cache(maxsize=1 << 12)
def loads_of(e: Expr) -> tuple[Load, ...]:
    """Every distinct load of an expression."""
    return tuple(x for x in walk(e) if isinstance(x, Load))


@lru_cache(maxsize=1 << 12)
def has_reduce(e: Expr) -> bool:
    """Whether a reduction stands anywhere in the expression."""
    return any(isinstance(x, Reduce) for x in walk(e))


def innermost(e: Expr) -> Reduce | None:
    """A reduction of an expression that holds no other one."""
    for r in walk(e):
        if isinstance(r, Reduce) and not has_reduce(r.body):
            return r
    return None


def lower_body(name: str, body: Graph) -> LoweredGroup:
    """Lowers the body of a fused node whose operators all have a Compute.

    Buffers are named by position (x0.., y0.., t0..), so that alike groups lower to equal ones.
    """
    names: dict[Value, Buffer] = {}
    scalars: dict[Buffer, Const] = {}
    inputs: list[tuple[Value, Buffer]] = []
    for v in body.inputs:
        if v not in names:
            names[v] = Buffer(f"x{len(inputs)}", v.dtype, v.shape)
            inputs.append((v, names[v]))
    for v, data in body.constants.items():
        if data.size == 1:
            names[v] = Buffer(f"c{len(scalars)}", v.dtype, v.shape)
            scalars[names[v]] = Const(np.asarray(data).reshape(()).item(), v.dtype)
        else:
            names[v] = Buffer(f"x{len(inputs)}", v.dtype, v.shape)
            inputs.append((v, names[v]))
    outputs: dict[Value, None] = dict.fromkeys(body.outputs)
    stages: list[Compute] = []
    temps = 0
    for node in body.nodes:
        results = []
        for v in node.outputs:
            if v in outputs:
                position = list(outputs).index(v)
                results.append(Buffer(f"y{position}", v.dtype, v.shape))
            else:
                results.append(Buffer(f"t{temps}", v.dtype, v.shape))
                temps += 1
            names[v] = results[-1]
        compute = OPS[node.op].compute
        assert compute is not None, node.op
        sources = tuple(names[v] for v in node.inputs)
        stages += compute(sources, tuple(results), node.attrs)
    stages = [_fold_scalars(s, scalars) for s in stages]
    kept = _unique_axes(_common_axes(inline(stages, {names[v] for v in outputs})))
    used = {load.buffer for s in kept for load in loads_of(s.expr)}
    live = [(v, b) for v, b in inputs if b in used]
    group = ComputeGroup(
        name, tuple(b for _, b in live), tuple(names[v] for v in outputs), tuple(kept)
    )
    return LoweredGroup(group, tuple(v for v, _ in live), tuple(outputs))


def _fold_scalars(stage: Compute, scalars: Mapping[Buffer, Const]) -> Compute:
    mapping: dict[Expr, Expr] = {
        load: scalars[load.buffer] for load in loads_of(stage.expr) if load.buffer in scalars
    }
    return Compute(stage.output, stage.axes, substitute(stage.expr, mapping)) if mapping else stage


def ranges_of(stage: Compute) -> dict[Var, tuple[Dim, Dim]]:
    """The inclusive ranges of a stage's axes, those of its reductions too."""
    axes = list(stage.axes)
    for e in walk(stage.expr):
        if isinstance(e, Reduce):
            axes += e.axes
    return ranges_of_axes(axes)


def inline(stages: Sequence[Compute], outputs: set[Buffer]) -> list[Compute]:
    """Substitutes producers into consumers; keeps what must be a stage of its own.

    A stage without a reduction goes into all its consumers, unless it is expensive and a
    reduction and another stage both need it. A stage with a reduction goes into a consumer that
    reads it at one element per element (an epilogue), outside any reduction.
    """
    defined: dict[Buffer, Compute] = {}
    result: list[Compute] = []
    readers: dict[Buffer, list[Compute]] = {}
    for s in stages:
        for b in {load.buffer for load in loads_of(s.expr)}:
            readers.setdefault(b, []).append(s)
    for s in stages:
        expr = s.expr
        for _ in range(64):
            mapping: dict[Expr, Expr] = {}
            for load in loads_of(expr):
                source = defined.get(load.buffer)
                if source is None or any(x in mapping for x in loads_of(load) if x is not load):
                    continue
                if _may_inline(source, load, s, expr, readers):
                    mapping[load] = _at(source, load.indices)
            if not mapping:
                break
            expr = substitute(expr, mapping)
        expr = simplify(expr, ranges_of(Compute(s.output, s.axes, expr)))
        final = Compute(s.output, s.axes, expr)
        defined[s.output] = final
        result.append(final)
    needed = set(outputs)
    kept: list[Compute] = []
    for s in reversed(result):
        if s.output in needed:
            kept.append(s)
            needed |= {load.buffer for load in loads_of(s.expr)}
    return kept[::-1]


def _may_inline(
    source: Compute,
    load: Load,
    consumer: Compute,
    expr: Expr,
    readers: Mapping[Buffer, list[Compute]],
) -> bool:
    if has_reduce(source.expr):
        users = readers.get(source.output, [])
        if any(_is_reduced(source.output, u) for u in users):
            return False
        # So must they where one of several users makes of them alone what is reduced.
        if len(users) > 1 and any(
            not has_reduce(u.expr)
            and {x.buffer for x in loads_of(u.expr)} == {source.output}
            and any(_is_reduced(u.output, r) for r in readers.get(u.output, []))
            for u in users
        ):
            return False
        return _is_epilogue(load, consumer, expr)
    if not is_expensive(source.expr):
        return True
    users = readers.get(source.output, [])
    return len(users) < 2 or not any(has_reduce(u.expr) for u in users)


@lru_cache(maxsize=1 << 12)
def is_expensive(e: Expr) -> bool:
    """Whether computing it twice costs more than keeping it."""
    return any(isinstance(x, Call) and x.name not in CHEAP_CALLS for x in walk(e))


def _is_reduced(buffer: Buffer, reader: Compute) -> bool:
    """Whether a stage reduces over a buffer, so that its values must be there first."""
    return any(
        x.buffer == buffer
        for r in walk(reader.expr)
        if isinstance(r, Reduce)
        for x in loads_of(r.body)
    )


def _is_epilogue(load: Load, consumer: Compute, expr: Expr) -> bool:
    """Whether a consumer reads a reduction's result once per element of its own."""
    if any(isinstance(e, Reduce) and load in loads_of(e.body) for e in walk(expr)):
        return False
    wide = {a.var for a in consumer.axes if not same_dim(a.extent, 1)}
    read = frozenset().union(*(symbols(i) for i in load.indices)) if load.indices else frozenset()
    if not wide <= read:
        return False
    # A permutation or a split of dims: every element is read once, by steps that do not divide.
    if any(_divides(i) for i in load.indices):
        return False
    return same_dim(product(load.buffer.shape), product(a.extent for a in consumer.axes))


def _divides(e: Expr) -> bool:
    return any(isinstance(x, Binary) and x.op in ("floordiv", "mod") for x in walk(e))


def _at(source: Compute, indices: tuple[Expr, ...]) -> Expr:
    mapping: dict[Expr, Expr] = {
        a.var: i for a, i in zip(source.axes, indices, strict=True) if a.var is not i
    }
    return _substitute_free(source.expr, mapping)


def _substitute_free(e: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """Substitution that renames reduction axes which the new expressions would capture."""
    used = frozenset().union(*(value.variables for value in mapping.values()))
    clash: dict[Expr, Expr] = {}
    for r in walk(e):
        if isinstance(r, Reduce):
            for a in r.axes:
                if a.var in used:
                    clash[a.var] = Var(a.var.name + "_")
    if clash:
        e = rename_reduce_axes(e, clash)
    return substitute(e, mapping)


def rename_reduce_axes(e: Expr, names: Mapping[Expr, Expr]) -> Expr:
    """Gives reduction axes other variables, inside their reductions only."""
    mapping: dict[Expr, Expr] = {}
    for r in walk(e):
        if isinstance(r, Reduce) and any(a.var in names for a in r.axes):
            axes = []
            for a in r.axes:
                new = names.get(a.var, a.var)
                assert isinstance(new, Var)
                axes.append(Axis(new, a.extent))
            inner: dict[Expr, Expr] = {a.var: names[a.var] for a in r.axes if a.var in names}
            mapping[r] = Reduce(r.op, axes, substitute(r.body, inner))
    return substitute(e, mapping)


def _common_axes(stages: list[Compute]) -> list[Compute]:
    """Gives stages over equal axes the names of the last one's, by which recipes join them.

    What users state has names of its own.
    """
    last = stages[-1].axes if stages else ()
    result = []
    for s in stages:
        pairs = list(zip(s.axes, last, strict=False))
        mapping: dict[Expr, Expr] = {a.var: b.var for a, b in pairs if a.var is not b.var}
        equal = len(s.axes) == len(last) and all(same_dim(a.extent, b.extent) for a, b in pairs)
        if mapping and equal:
            s = Compute(s.output, last, _substitute_free(s.expr, mapping))
        result.append(s)
    return result


def _unique_axes(stages: list[Compute]) -> list[Compute]:
    """Renames reduction axes that share a name with an axis of their own stage."""
    result = []
    for s in stages:
        spatial = {a.var.name for a in s.axes}
        clash: dict[Expr, Expr] = {}
        for r in walk(s.expr):
            if isinstance(r, Reduce):
                for a in r.axes:
                    if a.var.name in spatial:
                        clash[a.var] = Var(a.var.name + "_r")
        expr = rename_reduce_axes(s.expr, clash) if clash else s.expr
        result.append(Compute(s.output, s.axes, expr))
    return result
