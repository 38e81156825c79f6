"""What users write themselves: tensor expressions, and loop nests that they scheduled by hand.

A node carries the text of its stages (tensor/text.py), whose symbols are bound by the shapes of
its operands. So it prints, parses and compares as every other node does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from .. import dtype as dt
from ..errors import TilewrightError
from ..graph.ir import TensorType
from ..tensor.check import check, check_group
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.interpret import interpret_group
from ..tensor.ir import Axis, Block, Buffer, Dim, Expr, Func, Load, Reduce, Var, as_expr, le
from ..tensor.parse import parse_func, parse_group
from ..tensor.simplify import dim, prove, same_dim, substitute, symbols
from ..tensor.solve import solve, sources
from ..tensor.text import group_symbols
from ..tensor.walk import (
    allocations,
    loads,
    loops,
    rename_vars,
    replace_block_buffers,
    replace_buffers,
    replace_loads,
    substitute_block,
    visit,
)
from .op import (
    Arrays,
    Attrs,
    Buffers,
    Op,
    OpError,
    Sample,
    Types,
    expect_inputs,
    str_attr,
    type_text,
)


@lru_cache(maxsize=256)
def group_of(stages: str) -> ComputeGroup:
    """The group that an attribute's text states.

    Raises:
        OpError: it states none, or one that is not well-formed.
    """
    try:
        group = parse_group(stages)
        check_group(group)
    except TilewrightError as error:
        raise OpError(f"attribute stages: {error.message}") from error
    return group


@lru_cache(maxsize=256)
def func_of(nest: str) -> Func:
    """The loop nest that an attribute's text states.

    Raises:
        OpError: it states none, or one that is not well-formed.
    """
    try:
        func = parse_func(nest)
        check(func)
    except TilewrightError as error:
        raise OpError(f"attribute loops: {error.message}") from error
    return func


# ------------------------------------------------------------------ symbols


def bind(group: ComputeGroup, types: Types) -> dict[Expr, Expr]:
    """The dims of operands that the symbols of a group stand for.

    Raises:
        OpError: element types, ranks or dims do not fit, or a dim may leave a symbol's range.
    """
    expect_inputs(types, len(group.inputs))
    for buffer, type_ in zip(group.inputs, types, strict=True):
        if type_.dtype is not buffer.dtype or len(type_.shape) != len(buffer.shape):
            declared = type_text(TensorType(buffer.dtype, buffer.shape))
            raise OpError(f"{group.name}: {buffer.name} is {declared}, got {type_text(type_)}")
    found = _solved(group, types)
    for symbol in group_symbols(group):
        if symbol not in found:
            raise OpError(f"{group.name}: no operand settles {symbol.name}")
    for wanted, given in _declared(group, types):
        if not same_dim(wanted, given):
            shown = ", ".join(f"{s.name} = {_shown(d)}" for s, d in found.items())
            raise OpError(
                f"{group.name}: a dim of {_shown(given)} must be {_shown(wanted)} ({shown})"
            )
    for symbol, value in found.items():
        ends = [le(symbol.lo, as_expr(value))] if symbol.lo is not None else []
        ends += [le(as_expr(value), symbol.hi)] if symbol.hi is not None else []
        if any(prove(e) is not True for e in ends):
            high = "" if symbol.hi is None else f" to {symbol.hi}"
            raise OpError(
                f"{group.name}: {symbol.name} is {symbol.lo}{high or ' or more'}, which the dim"
                f" {_shown(value)} may not be"
            )
    return {s: as_expr(d) for s, d in found.items()}


def equal_dims(attrs: Attrs, types: Types) -> Iterator[tuple[Dim, Dim]]:
    """The dims that must be equal for operands of a node to go with each other; none if of
    another number or of other ranks than it takes.
    """
    group = group_of(str_attr(attrs, "stages"))
    if [len(t.shape) for t in types] == [len(b.shape) for b in group.inputs]:
        yield from _declared(group, types)


def _declared(group: ComputeGroup, types: Types) -> Iterator[tuple[Dim, Dim]]:
    """Each dim that a group declares, over the symbols' values, and the dim that is given."""
    values: dict[Expr, Expr] = {s: as_expr(d) for s, d in _solved(group, types).items()}
    for buffer, type_ in zip(group.inputs, types, strict=True):
        for wanted, given in zip(buffer.shape, type_.shape, strict=True):
            yield dim(substitute(as_expr(wanted), values)), given


def _solved(group: ComputeGroup, types: Types) -> dict[Var, Dim]:
    found: dict[Var, Dim] = {}
    for symbol, source in sources([b.shape for b in group.inputs]).items():
        known: dict[Expr, Expr] = {s: as_expr(d) for s, d in found.items()}
        rest = substitute(as_expr(source.rest), known)
        size = as_expr(types[source.index].shape[source.axis]) - rest
        found[symbol] = dim(size if source.factor == 1 else size // source.factor)
    return found


def _shown(d: Dim) -> str:
    return type_text(TensorType(dt.f32, (d,)))[4:-1]


def sizes(group: ComputeGroup, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The symbols' values at shapes of the ranks that the group's inputs have."""
    found = sources([b.shape for b in group.inputs])
    return {s.name: n for s, n in solve(found, shapes, {})}


@lru_cache(maxsize=256)
def readings(stages: str) -> tuple[int, ...]:
    """In how many places the stages read each operand; 0 where one of them reads elements again.

    Elements are read again by what does not use each axis around it: the rows of a product, for
    every column. A sum that is the same for all columns is computed once.
    """
    group = group_of(stages)
    found: dict[Buffer, int] = {}
    again: set[Buffer] = set()
    for stage in reversed(group.stages):
        # What one stage computes for another is computed again wherever that reads it again.
        repeated = stage.output in again
        start = (stage.expr, frozenset(a.var for a in stage.axes))
        pending: list[tuple[Expr, frozenset[Var]]] = [start]
        seen: set[tuple[Expr, frozenset[Var]]] = set()
        while pending:
            here = e, around = pending.pop()
            if here in seen:
                continue
            seen.add(here)
            if isinstance(e, Reduce):
                around = (around | {a.var for a in e.axes}) & e.body.variables
            if isinstance(e, Load):
                found[e.buffer] = found.get(e.buffer, 0) + 1
                if repeated or not around <= e.variables:
                    again.add(e.buffer)
            pending += [(x, around) for x in e.operands]
    return tuple(0 if b in again else found.get(b, 0) for b in group.inputs)


def has_sums(stages: str) -> bool:
    """Whether any of the stages reduces."""
    return any(isinstance(e, Reduce) for s in group_of(stages).stages for e in visit(s.expr))


# ------------------------------------------------------------------ stages and loops of a node


def _infer(types: Types, attrs: Attrs) -> Types:
    group = group_of(str_attr(attrs, "stages"))
    values = bind(group, types)
    return tuple(TensorType(b.dtype, _dims(b.shape, values)) for b in group.outputs)


def _reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    group = group_of(str_attr(attrs, "stages"))
    named = {b.name: x for b, x in zip(group.inputs, inputs, strict=True)}
    made = interpret_group(group, named, sizes(group, [x.shape for x in inputs]))
    return tuple(made[b.name] for b in group.outputs)


def _compute(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> tuple[Compute, ...]:
    group = group_of(str_attr(attrs, "stages"))
    values = bind(group, tuple(TensorType(b.dtype, b.shape) for b in inputs))
    held = dict(zip((*group.inputs, *group.outputs), (*inputs, *outputs), strict=True))
    for stage in group.stages:
        b = stage.output
        name = f"{outputs[0].name}_{b.name}"
        held.setdefault(b, Buffer(name, b.dtype, _dims(b.shape, values)))
    return tuple(_placed(stage, held, values) for stage in group.stages)


def at_dims(group: ComputeGroup, values: Mapping[Expr, Expr]) -> ComputeGroup:
    """A group with dims in place of some of its symbols."""
    buffers = (*group.inputs, *(s.output for s in group.stages))
    held = {b: Buffer(b.name, b.dtype, _dims(b.shape, values)) for b in buffers}
    return ComputeGroup(
        group.name,
        tuple(held[b] for b in group.inputs),
        tuple(held[b] for b in group.outputs),
        tuple(_placed(s, held, values) for s in group.stages),
    )


def _dims(shape: tuple[Dim, ...], values: Mapping[Expr, Expr]) -> tuple[Dim, ...]:
    return tuple(dim(substitute(as_expr(d), values)) for d in shape)


def _placed(stage: Compute, held: Mapping[Buffer, Buffer], values: Mapping[Expr, Expr]) -> Compute:
    """A stage over the buffers and dims of a node."""
    output = held[stage.output]
    axes = tuple(Axis(a.var, d) for a, d in zip(stage.axes, output.shape, strict=True))
    read = {x.buffer: held[x.buffer] for x in loads(stage.expr)}
    return Compute(output, axes, substitute(replace_loads(stage.expr, read), values))


def _infer_scheduled(types: Types, attrs: Attrs) -> Types:
    group, func = group_of(str_attr(attrs, "stages")), func_of(str_attr(attrs, "loops"))
    buffers = tuple(p for p in func.params if isinstance(p, Buffer))
    if buffers != (*group.inputs, *group.outputs):
        raise OpError(f"attribute loops: its buffers are not those of {group.name}")
    return _infer(types, {"stages": attrs["stages"]})


def _scheduled(inputs: Buffers, outputs: Buffers, attrs: Attrs) -> Block:
    group, func = group_of(str_attr(attrs, "stages")), func_of(str_attr(attrs, "loops"))
    values = bind(group, tuple(TensorType(b.dtype, b.shape) for b in inputs))
    params = (*inputs, *outputs)
    taken = {b.name for b in params}
    symbolic = {v.name for b in params for d in b.shape for v in symbols(d)}
    own = {
        b: Buffer(f"{b.name}_own", b.dtype, b.shape, b.scope)
        for b in allocations(func.body)
        if b.name in taken
    }
    renamed = {x.var: Var(f"{x.var.name}_") for x in loops(func) if x.var.name in symbolic}
    body = rename_vars(replace_buffers(func, own), renamed).body
    given = zip((*group.inputs, *group.outputs), params, strict=True)
    return substitute_block(replace_block_buffers(body, dict(given)), values)


# ------------------------------------------------------------------ samples

_PRODUCT = """
def product(A: f32[M, K], B: f32[K, N], K: symbol(1), M: symbol(1), N: symbol(1)):
    out: f32[i: M, j: N] = sum(A[i, k] * B[k, j] for k in K)
    return out
"""
_SOFTMAX = """
def softmax(X: f32[N, C], C: symbol(1), N: symbol(1)):
    e: f32[i: N, c: C] = exp(X[i, c] - max(X[i, k] for k in C))
    out: f32[i: N, c: C] = e[i, c] / sum(e[i, k] for k in C)
    return out
"""
_SHIFTED = """
def shifted(X: i32[N, 4], N: symbol(1)):
    low: i32[i: N, c: 4] = select(0 < i, X[i - 1, c], i32(0))
    high: i32[i: N] = max(X[i, k] for k in 4)
    return low, high
"""
_TILED = """
def product(A: f32[M, K], B: f32[K, N], out: f32[M, N], K: symbol(1), M: symbol(1), N: symbol(1)):
    for i in parallel(M):
        for j in serial(N):
            acc: register[f32, 1]
            acc[0] = 0.0
            for k in serial(K):
                acc[0] = acc[0] + A[i, k] * B[k, j]
            out[i, j] = acc[0]
"""


def _arrays(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    return tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)


def _kernel_samples() -> Sequence[Sample]:
    numbers = np.random.default_rng(6).integers(-9, 9, (5, 4)).astype(np.int32)
    return [
        Sample(_arrays((5, 7), (7, 19)), {"stages": _PRODUCT.strip()}, "a product"),
        Sample(_arrays((1, 1), (1, 1)), {"stages": _PRODUCT.strip()}, "a product of numbers"),
        Sample(_arrays((3, 33)), {"stages": _SOFTMAX.strip()}, "stages that others read"),
        Sample((numbers,), {"stages": _SHIFTED.strip()}, "two outputs of different shapes"),
    ]


def _scheduled_samples() -> Sequence[Sample]:
    attrs = {"stages": _PRODUCT.strip(), "loops": _TILED.strip()}
    return [
        Sample(_arrays((5, 7), (7, 19)), attrs, "a product"),
        Sample(_arrays((1, 1), (1, 1)), attrs, "a product of numbers"),
    ]


KERNEL: dict[str, Op] = {
    "kernel": Op(
        "kernel",
        "irregular",
        "what the stages of a user's tensor expression say of the operands",
        ("stages",),
        _infer,
        _reference,
        _compute,
        None,
        _kernel_samples,
    ),
    "scheduled_kernel": Op(
        "scheduled_kernel",
        "irregular",
        "what the stages say, computed on CPUs by the loop nest that the user made of them",
        ("stages", "loops"),
        _infer_scheduled,
        _reference,
        None,
        _scheduled,
        _scheduled_samples,
    ),
}
