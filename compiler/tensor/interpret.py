"""The reference interpreter: what a Func and a ComputeGroup mean, in NumPy.

Every loop means its serial form. For speed, a loop whose iterations provably touch different
elements runs all of them in lockstep, each array holding one lane for each iteration; the result
is the same. Whatever the proof does not cover runs one iteration after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import assert_never

import numpy as np

from .compute import Compute, ComputeGroup
from .evaluate import Array, Evaluator, InterpretError, Lanes, binary_value, wanted
from .independence import accumulation, is_independent
from .ir import (
    Alloc,
    Barrier,
    Block,
    Buffer,
    Commit,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Reduce,
    Store,
    Var,
    Wait,
)
from .simplify import evaluate as dim_value
from .text import text
from .walk import allocations, visit

_LIMIT = 1 << 21
"""Elements that one array of lanes may have: beyond it, loops run in pieces."""


@dataclass(slots=True)
class _Storage:
    """The memory of a buffer.

    Attributes:
        array: the elements; its leading dims are the lanes that each have a copy of their own.
        defined: which elements were written, or None where all count as defined.
        lanes: how many leading dims are lanes.
    """

    array: Array
    defined: Array | None
    lanes: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where execution stands: the lanes, their variables, and which of them are running.

    A new loop in lockstep adds its lanes as the first dim, so that NumPy's broadcasting aligns
    the lanes of outer loops by itself.
    """

    variables: Mapping[Var, Array]
    shape: tuple[int, ...] = ()
    mask: Array | None = None

    def bind(self, var: Var, value: Array) -> _Frame:
        return _Frame({**self.variables, var: value}, self.shape, self.mask)

    def under(self, condition: Array) -> _Frame:
        if condition.all():
            return self
        return _Frame(self.variables, self.shape, wanted(condition, self.mask))

    def widen(self, count: int) -> tuple[Array, _Frame]:
        """Adds ``count`` lanes; returns their numbers, shaped to broadcast, and the new frame."""
        ids = np.arange(count, dtype=np.int64).reshape(count, *(1 for _ in self.shape))
        return ids, _Frame(self.variables, (count, *self.shape), self.mask)

    @property
    def is_idle(self) -> bool:
        return self.mask is not None and not self.mask.any()


def interpret(
    func: Func,
    buffers: Mapping[str, Array],
    symbols: Mapping[str, int] | None = None,
    *,
    poison: bool = True,
) -> None:
    """Runs a function on arrays, in place.

    Args:
        func: a well-formed function (see tensor/check.py).
        buffers: an array for each buffer parameter by name, of its exact type and shape.
        symbols: the value of each symbol parameter by name.
        poison: whether reading an element of a declared buffer before it is written raises;
            otherwise such an element reads as zero.

    Raises:
        InterpretError: an index out of bounds, a read of an undefined element, an integer division
            by zero, or arguments that do not fit the parameters.
    """
    given = dict(symbols or {})
    variables: dict[Var, Array] = {}
    machine = _Machine(poison)
    for var in (p for p in func.params if isinstance(p, Var)):
        if var.name not in given:
            raise InterpretError(f"{func.name}: symbol {var.name} has no value")
        value = given[var.name]
        if not (var.lo is None or var.lo <= value) or not (var.hi is None or value <= var.hi):
            raise InterpretError(
                f"{func.name}: {var.name} = {value} is outside {var.lo}..{var.hi or ''}"
            )
        variables[var] = np.asarray(value, np.int64)
    for buffer in (p for p in func.params if isinstance(p, Buffer)):
        array = buffers.get(buffer.name)
        if array is None:
            raise InterpretError(f"{func.name}: buffer {buffer.name} was not given")
        _require_fit(func.name, buffer, array, given)
        machine.storages[buffer.name] = _Storage(array, None, 0)
    machine.block(func.body, _Frame(variables))


def _require_fit(name: str, buffer: Buffer, array: Array, symbols: Mapping[str, int]) -> None:
    try:
        shape = tuple(dim_value(d, symbols) for d in buffer.shape)
    except KeyError as missing:
        raise InterpretError(f"{name}: symbol {missing.args[0]} has no value") from missing
    if array.shape != shape or array.dtype != buffer.dtype.numpy:
        raise InterpretError(
            f"{name}: {buffer.name} is {buffer.dtype}{list(shape)}, "
            f"given {array.dtype}{list(array.shape)}"
        )


class _Machine:
    """Memory and the statements that act on it."""

    def __init__(self, poison: bool) -> None:
        self.storages: dict[str, _Storage] = {}
        self._poison = poison
        self._frame = _Frame({})
        self._evaluator = Evaluator(self._load)
        # Loops are keyed by identity: hashing one would walk the whole of its body.
        self._lockstep: dict[int, bool] = {}
        self._weights: dict[int, int] = {}

    # -------------------------------------------------------------- statements

    def block(self, block: Block, frame: _Frame) -> None:
        if frame.is_idle:
            return
        for stmt in block:
            match stmt:
                case For():
                    self._for(stmt, frame)
                case Store():
                    self._store(stmt, self._value(stmt.value, frame), frame)
                case Prefetch() | Barrier() | Commit() | Wait():
                    continue
                case If():
                    self._if(stmt, frame)
                case Alloc():
                    self._alloc(stmt.buffer, frame)
                case Let():
                    frame = frame.bind(stmt.var, self._value(stmt.value, frame))
                case _:
                    assert_never(stmt)

    def _if(self, stmt: If, frame: _Frame) -> None:
        condition = self._value(stmt.cond, frame)
        if condition.ndim == 0:
            self.block(stmt.then if bool(condition) else stmt.orelse, frame)
            return
        self.block(stmt.then, frame.under(condition))
        if stmt.orelse:
            self.block(stmt.orelse, frame.under(~condition))

    def _alloc(self, buffer: Buffer, frame: _Frame) -> None:
        shape = [int(np.max(self._dim(d, frame), initial=0)) for d in buffer.shape]
        array = np.zeros((*frame.shape, *shape), buffer.dtype.numpy)
        defined = np.zeros(array.shape, np.bool_) if self._poison else None
        self.storages[buffer.name] = _Storage(array, defined, len(frame.shape))

    def _for(self, loop: For, frame: _Frame) -> None:
        start, extent = self._dim(loop.start, frame), self._dim(loop.extent, frame)
        running = extent if frame.mask is None else np.where(frame.mask, extent, 0)
        count = int(np.max(running, initial=0))
        if count > 1 and self._runs_in_lockstep(loop):
            step = max(1, _LIMIT // self._weight(loop, frame))
            for first in range(0, count, step):
                ids, wide = frame.widen(min(step, count - first))
                ids = ids + first
                self.block(loop.body, wide.bind(loop.var, start + ids).under(ids < extent))
            return
        if count > 1 and self._accumulate(loop, frame):
            return
        for i in range(count):
            inside = frame.bind(loop.var, np.asarray(start + i))
            self.block(loop.body, inside.under(np.asarray(i < extent)))

    def _runs_in_lockstep(self, loop: For) -> bool:
        found = self._lockstep.get(id(loop))
        if found is None:
            found = self._lockstep[id(loop)] = is_independent(loop)
        return found

    def _weight(self, loop: For, frame: _Frame) -> int:
        """Elements of memory that each iteration of a loop in lockstep needs."""
        found = self._weights.get(id(loop))
        if found is None:
            sizes = [1]
            for buffer in allocations(loop.body):
                fixed = [d for d in buffer.shape if isinstance(d, int)]
                sizes.append(prod(fixed) if len(fixed) == len(buffer.shape) else 1 << 14)
            found = self._weights[id(loop)] = max(sizes)
        return found * max(1, prod(frame.shape))

    def _accumulate(self, loop: For, frame: _Frame) -> bool:
        """Runs a nest that only adds terms to one element: all terms at once, summed in order."""
        nest = accumulation(loop)
        if nest is None:
            return False
        wide = frame
        counts: list[int] = []
        for inner in nest.loops:
            start, extent = self._dim(inner.start, wide), self._dim(inner.extent, wide)
            if start.ndim or extent.ndim:
                return False
            counts.append(max(0, int(extent)))
            ids, wide = wide.widen(counts[-1])
            wide = wide.bind(inner.var, start + ids)
        if prod(wide.shape) > _LIMIT or not prod(counts):
            return not prod(counts)
        terms = np.broadcast_to(self._value(nest.term, wide), wide.shape)
        # The newest loop is the first dim; the outermost loop is the slowest in program order.
        order = (*reversed(range(len(counts))), *range(len(counts), terms.ndim))
        terms = terms.transpose(order).reshape(prod(counts), *frame.shape)
        load = Load(nest.store.buffer, nest.store.indices)
        total = np.broadcast_to(self._value(load, frame), frame.shape)
        with np.errstate(all="ignore"):
            for term in terms if prod(frame.shape) > 64 else ():
                total = binary_value(nest.op, total, term)
            if prod(frame.shape) <= 64:
                total = _running_total(nest.op, np.concatenate([total[None], terms]))
        self._store(nest.store, total, frame)
        return True

    # -------------------------------------------------------------- values and memory

    def _value(self, e: Expr, frame: _Frame) -> Array:
        outer, self._frame = self._frame, frame
        result = self._evaluator.value(e, frame.variables, frame.mask)
        self._frame = outer
        return result

    def _dim(self, d: Dim, frame: _Frame) -> Array:
        return np.asarray(d, np.int64) if isinstance(d, int) else self._value(d, frame)

    def _load(self, e: Load, indices: tuple[Array, ...], mask: Array | None) -> Array:
        storage = self._storage(e.buffer)
        place = _place(e, storage, indices, self._frame.shape, mask)
        if place is None:
            return np.zeros((), e.dtype.numpy)
        if storage.defined is not None:
            undefined = wanted(~storage.defined[place], mask)
            if undefined.any():
                raise InterpretError(f"{text(e)}: read before it was written")
        return np.asarray(storage.array[place])

    def _store(self, stmt: Store, value: Array, frame: _Frame) -> None:
        storage = self._storage(stmt.buffer)
        indices = tuple(self._value(i, frame) for i in stmt.indices)
        place = _place(Load(stmt.buffer, stmt.indices), storage, indices, frame.shape, frame.mask)
        if place is None:
            return
        if frame.mask is not None:
            full = np.broadcast_shapes(frame.mask.shape, value.shape, *(p.shape for p in place))
            running = np.broadcast_to(frame.mask, full)
            place = tuple(np.broadcast_to(p, full)[running] for p in place)
            value = np.broadcast_to(value, full)[running]
        storage.array[place] = value
        if storage.defined is not None:
            storage.defined[place] = True

    def _storage(self, buffer: Buffer) -> _Storage:
        found = self.storages.get(buffer.name)
        if found is None:
            raise InterpretError(f"buffer {buffer.name} is not declared here")
        return found


def _running_total(op: str, terms: Array) -> Array:
    """The terms combined one after the other, each step rounded to their type."""
    ufunc = {
        "add": np.add,
        "mul": np.multiply,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[op]
    if terms.dtype.kind in "fiub":
        return np.asarray(ufunc.accumulate(terms, axis=0, dtype=terms.dtype)[-1])
    total = terms[0]
    for term in terms[1:]:
        total = binary_value(op, total, term)
    return np.asarray(total)


def _place(
    element: Load,
    storage: _Storage,
    indices: tuple[Array, ...],
    lanes: tuple[int, ...],
    mask: Array | None,
) -> tuple[Array, ...] | None:
    """The full index of an access: own lanes first; None where no wanted lane accesses anything.

    Raises:
        InterpretError: an index of a wanted lane is out of bounds.
    """
    sizes = storage.array.shape[storage.lanes :]
    inside: list[Array] = []
    for index, size in zip(indices, sizes, strict=True):
        bad = (index < 0) | (index >= size)
        if bad.any():
            failed = wanted(bad, mask)
            if failed.any():
                value = np.broadcast_to(index, failed.shape)[failed].flat[0]
                raise InterpretError(f"{text(element)}: index {value} is outside 0..{size - 1}")
            if size == 0:
                return None
            index = np.where(bad, 0, index)
        inside.append(index)
    own = lanes[len(lanes) - storage.lanes :]
    ids = [
        np.arange(n).reshape(n, *(1 for _ in range(len(own) - 1 - k))) for k, n in enumerate(own)
    ]
    return (*ids, *inside)


# ------------------------------------------------------------------ groups of Computes


def interpret_group(
    group: ComputeGroup,
    inputs: Mapping[str, Array],
    symbols: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The outputs of a group, by name: each stage evaluated over the whole grid of its axes.

    Sums of f32 and narrower floats are kept in f64 and rounded once, so the result is the better
    side of any comparison with a sum made in another order.

    Raises:
        InterpretError: as ``interpret`` does.
    """
    given = dict(symbols or {})
    arrays: dict[str, Array] = {}
    for buffer in group.inputs:
        if buffer.name not in inputs:
            raise InterpretError(f"{group.name}: input {buffer.name} was not given")
        _require_fit(group.name, buffer, inputs[buffer.name], given)
        arrays[buffer.name] = inputs[buffer.name]
    for stage in group.stages:
        arrays[stage.output.name] = _Stage(arrays, given).run(stage)
    return {b.name: arrays[b.name] for b in group.outputs}


class _Stage:
    """The evaluation of one Compute, in slabs of its first axis when the grid is large."""

    def __init__(self, arrays: Mapping[str, Array], symbols: Mapping[str, int]) -> None:
        self._arrays = arrays
        self._symbols = symbols
        self._evaluator = Evaluator(self._load, self._reduce)

    def run(self, stage: Compute) -> Array:
        extents = [dim_value(a.extent, self._symbols) for a in stage.axes]
        output = np.empty(extents, stage.output.dtype.numpy)
        if output.size == 0:
            return output
        step = extents[0] if extents else 1
        while step > 1 and step * prod(extents[1:]) > _LIMIT:
            step = (step + 1) // 2
        for first in range(0, extents[0] if extents else 1, step):
            ranges = [np.arange(n, dtype=np.int64) for n in extents]
            if extents:
                ranges[0] = ranges[0][first : first + step]
            lanes = self._symbol_values(stage)
            for axis, values in zip(stage.axes, np.ix_(*ranges), strict=True):
                lanes[axis.var] = values
            value = self._evaluator.value(stage.expr, lanes, None)
            output[slice(first, first + step) if extents else ...] = value
        return output

    def _symbol_values(self, stage: Compute) -> dict[Var, Array]:
        found = {}
        for node in visit(stage.expr):
            if isinstance(node, Var) and node.is_symbol and node.name in self._symbols:
                found[node] = np.asarray(self._symbols[node.name], np.int64)
        return found

    def _load(self, e: Load, indices: tuple[Array, ...], mask: Array | None) -> Array:
        array = self._arrays.get(e.buffer.name)
        if array is None:
            raise InterpretError(f"{text(e)}: no earlier stage defines {e.buffer.name}")
        place = _place(e, _Storage(array, None, 0), indices, (), mask)
        return np.zeros((), e.dtype.numpy) if place is None else np.asarray(array[place])

    def _reduce(self, e: Reduce, lanes: Lanes, mask: Array | None) -> Array:
        extents = [dim_value(a.extent, self._symbols) for a in e.axes]
        depth = max((x.ndim for x in lanes.values()), default=0)
        if mask is not None:
            depth = max(depth, mask.ndim)
        shape = np.broadcast_shapes((), *(x.shape for x in lanes.values()))
        if e.op in ("argmax", "argmin"):
            step = extents[0]
        else:
            rest = prod(extents[1:]) * max(1, prod(shape))
            step = max(1, _LIMIT // max(1, rest))
        total: Array | None = None
        for first in range(0, extents[0], max(1, step)):
            inner = dict(lanes)
            for k, axis in enumerate(e.axes):
                stop = min(extents[0], first + step) if k == 0 else extents[k]
                values = np.arange(first if k == 0 else 0, stop, dtype=np.int64)
                position = len(e.axes) - k - 1
                inner[axis.var] = values.reshape(-1, *(1 for _ in range(position + depth)))
            body = self._evaluator.value(e.body, inner, mask)
            grid = tuple(inner[a.var].shape[0] for a in e.axes)
            full = np.broadcast_shapes(body.shape, (*grid, *(1 for _ in range(depth))))
            part = _reduced(e, np.broadcast_to(body, full), len(grid))
            total = part if total is None else _combine(e, total, part)
        if total is None or 0 in extents:
            return _identity(e)
        return total.astype(e.dtype.numpy)


def _reduced(e: Reduce, grid: Array, count: int) -> Array:
    axes = tuple(range(count))
    wide = np.float64 if e.dtype.is_float else e.dtype.numpy
    match e.op:
        case "sum":
            return np.asarray(np.sum(grid, axis=axes, dtype=wide))
        case "prod":
            return np.asarray(np.prod(grid, axis=axes, dtype=wide))
        case "max":
            return np.asarray(np.maximum.reduce(grid, axis=axes))
        case "min":
            return np.asarray(np.minimum.reduce(grid, axis=axes))
        case "argmax":
            return np.asarray(np.argmax(grid, axis=0))
        case "argmin":
            # nan counts as greatest: it is the least only where everything is nan.
            if not e.body.dtype.is_float:
                return np.asarray(np.argmin(grid, axis=0))
            numbers = np.where(np.isnan(grid), np.inf, grid.astype(np.float64))
            ranked = np.stack([np.isnan(grid), numbers != numbers.min(axis=0)])
            return np.asarray(np.argmin(2 * ranked[1] + ranked[0], axis=0))
    assert_never(e.op)


def _combine(e: Reduce, a: Array, b: Array) -> Array:
    op = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[e.op]
    return binary_value(op, a, b)


def _identity(e: Reduce) -> Array:
    match e.op:
        case "sum" | "prod":
            return np.asarray(int(e.op == "prod")).astype(e.dtype.numpy)
        case "max" | "min":
            value = e.dtype.lowest if e.op == "max" else e.dtype.highest
            return np.asarray(value).astype(e.dtype.numpy)
        case "argmax" | "argmin":
            raise InterpretError(f"{text(e)}: {e.op} over no elements")
    assert_never(e.op)
