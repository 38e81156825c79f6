"""What a scheduled kernel looks like in numbers: what a learned ranking of schedules goes by.

All counts are for given sizes; a loop whose bounds depend on an outer loop is counted in the
middle of that one. Large numbers are logarithms to base 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from tilewright.target import Target
from tilewright.tensor.ir import (
    Alloc,
    Binary,
    Block,
    Buffer,
    Call,
    Const,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Prefetch,
    Select,
    Store,
    Unary,
    Var,
)
from tilewright.tensor.simplify import evaluate
from tilewright.tensor.walk import expressions, statements, visit

NAMES = (
    "kernels", "operations", "loads", "stores", "operations a load", "operand bytes",
    "register elements", "registers held", "beyond registers", "widest vector", "vectors a row",
    "unused lanes", "largest unroll", "hot unroll", "written out", "shared iterations",
    "shared work", "shared loops", "hot trips", "hot inner trips", "hot depth", "local bytes",
    "local over near", "guards", "branches", "prefetches", "prefetch a load", "bytes from near",
    "bytes from middle", "bytes from far", "hot bytes a trip", "calls",
)  # fmt: skip
"""The features, in order."""

_CHUNK = 4
"""Bytes of the elements that vectors are counted in."""


@dataclass(frozen=True, slots=True)
class _Loop:
    """A loop, or one of the loops that were fused into it.

    Attributes:
        kind, var: of the loop.
        count: how often it runs.
        low, high: it runs over ``var // low % (high // low)``.
    """

    kind: str
    var: Var
    count: float
    low: float
    high: float

    def is_used(self, indices: Sequence[Expr]) -> bool:
        """Whether indices depend on it."""
        return any(
            use == "whole"
            or (use == "floordiv" and self.low >= by)
            or (use == "mod" and self.high <= by)
            for i in indices
            for use, by in _uses(i, self.var)
        )


@lru_cache(maxsize=1 << 14)
def _uses(e: Expr, var: Var) -> frozenset[tuple[str, int]]:
    """How an expression uses a variable: whole, or its quotient or remainder by a constant."""
    if e is var:
        return frozenset({("whole", 1)})
    if var not in e.variables:
        return frozenset()
    if isinstance(e, Binary) and e.op in ("floordiv", "mod") and e.a is var:
        return frozenset({(e.op, int(e.b.value)) if isinstance(e.b, Const) else ("whole", 1)})
    return frozenset(u for x in e.operands for u in _uses(x, var))


@dataclass(frozen=True, slots=True)
class _Nest:
    """A store with the loops around it, outermost first."""

    store: Store
    loops: tuple[_Loop, ...]

    @property
    def counts(self) -> list[tuple[_Loop, float]]:
        """The loops with how often each runs."""
        return [(x, x.count) for x in self.loops]

    @property
    def trips(self) -> float:
        return math.prod(x.count for x in self.loops)

    @property
    def vectors(self) -> float:
        """How often the store runs, a vector at a time."""
        return math.prod(x.count for x in self.loops if x.kind != "vector")

    def loads(self) -> float:
        """How many loads it needs: what does not vary in an unrolled tile is loaded once."""
        total = 0.0
        for load in _loads(self.store):
            total += math.prod(
                1.0 if x.kind == "vector" else x.count
                for x in self.loops
                if x.kind != "unroll" or x.is_used(load.indices)
            )
        return total


@dataclass
class _Seen:
    """What was met in a function."""

    nests: list[_Nest]
    buffers: list[Buffer]
    branches: float = 0.0
    prefetches: float = 0.0


def features(funcs: Sequence[Func], target: Target, sizes: Mapping[str, int]) -> list[float]:
    """The features of the kernels of one schedule together; see NAMES.

    Args:
        funcs: the kernels.
        target: the machine they are for.
        sizes: of symbols, by name.
    """
    seen = [_see(f, sizes) for f in funcs]
    nests = [n for s in seen for n in s.nests]
    hot = max(nests, key=lambda n: n.trips * (1 + _operations(n.store)), default=None)
    if hot is None:
        return [0.0] * len(NAMES)
    lanes = target.lanes(8 * _CHUNK)
    operations = sum(n.trips * _operations(n.store) for n in nests)
    loads = sum(n.loads() for n in nests) + 1
    stores = sum(n.vectors for n in nests if n.store.buffer.scope != "register") + 1
    operands = sum(_bytes(p, sizes) for f in funcs for p in f.params if isinstance(p, Buffer))
    held = [b for s in seen for b in s.buffers if b.scope == "register"]
    most = max((_elements(b, sizes) for b in held), default=0.0)
    local = max(
        (_bytes(b, sizes) for s in seen for b in s.buffers if b.scope == "local"), default=0
    )
    vectors = [n for x, n in hot.counts if x.kind == "vector"]
    widest = max(vectors, default=1.0)
    unrolled = [n for x, n in hot.counts if x.kind == "unroll"]
    shared = [math.prod(n for x, n in s.counts if x.kind == "parallel") for s in nests]
    serial = [n for x, n in hot.counts if x.kind == "serial"]
    traffic = [sum(level) for level in zip(*(_traffic(n, target) for n in nests), strict=True)]
    prefetches = sum(s.prefetches for s in seen)
    registers = most / lanes
    chunks = -(-widest // lanes)
    return [
        float(len(funcs)),
        _log(operations),
        _log(loads),
        _log(stores),
        operations / lanes / loads,
        _log(operands),
        _log(most),
        registers / target.vector_registers if target.vector_registers else 0.0,
        max(0.0, registers + chunks + 1 - target.vector_registers),
        widest / lanes,
        chunks,
        (chunks * lanes - widest) / lanes,
        max((n for nest in nests for x, n in nest.counts if x.kind == "unroll"), default=1.0),
        math.prod(unrolled),
        _log(sum(math.prod(n for x, n in nest.counts if x.kind == "unroll") for nest in nests)),
        _log(max(shared, default=1.0)),
        _log(hot.trips / max(1.0, math.prod(n for x, n in hot.counts if x.kind == "parallel"))),
        float(sum(x.kind == "parallel" for nest in nests for x, _ in nest.counts)),
        _log(hot.vectors),
        _log(serial[-1] if serial else 1.0),
        float(len(hot.loops)),
        _log(local),
        _log(local / max(1, target.l1_bytes)),
        _log(sum(n.trips * _guards(n.store) for n in nests)),
        _log(sum(s.branches for s in seen)),
        _log(prefetches),
        prefetches / loads,
        _log(traffic[0]),
        _log(traffic[1]),
        _log(traffic[2]),
        _log(_touched(hot, hot.loops[-3:])),
        float(sum(_calls(n.store) * n.trips for n in nests) / max(1.0, operations)),
    ]


def _log(value: float) -> float:
    return math.log2(1.0 + max(0.0, value))


# ------------------------------------------------------------------ walking a function


def _see(func: Func, sizes: Mapping[str, int]) -> _Seen:
    seen = _Seen([], [])
    env: dict[str, int] = dict(sizes)

    def walk(block: Block, loops: tuple[_Loop, ...]) -> None:
        times = math.prod((x.count for x in loops if x.kind != "vector"), start=1.0)
        for stmt in block:
            match stmt:
                case For(var=var, extent=extent, body=body, start=start):
                    count = max(0, _value(extent, env))
                    env[var.name] = _value(start, env) + count // 2
                    walk(body, (*loops, *_parts(stmt, float(count))))
                case Store():
                    seen.nests.append(_Nest(stmt, loops))
                case If(then=then, orelse=orelse):
                    seen.branches += times
                    walk(then, loops)
                    # One of two versions of a whole kernel runs; it is the first for usual sizes.
                    if loops:
                        walk(orelse, loops)
                case Prefetch():
                    seen.prefetches += times
                case Alloc(buffer=buffer):
                    seen.buffers.append(buffer)
                case Let(var=var, value=value):
                    env[var.name] = _value(value, env)

    walk(func.body, ())
    return seen


def _parts(loop: For, count: float) -> list[_Loop]:
    """The loops that were fused into one, outermost first, going by how its body uses it."""
    cuts = {
        float(by)
        for s in statements(loop.body)
        for e in expressions(s)
        for use, by in _uses(e, loop.var)
        if use != "whole" and 1 < by < count
    }
    ends = [count, *sorted(cuts, reverse=True), 1.0]
    return [
        _Loop(loop.kind, loop.var, high / low, low, high)
        for high, low in pairwise(ends)
        if high > low or len(ends) == 2
    ]


def _value(d: Dim, env: Mapping[str, int]) -> int:
    """The value of a dim or index; 1 where it depends on data."""
    if isinstance(d, int):
        return d
    try:
        return int(evaluate(d, env))
    except Exception:
        return 1


def _elements(b: Buffer, sizes: Mapping[str, int]) -> float:
    return float(math.prod(_value(d, sizes) for d in b.shape))


def _bytes(b: Buffer, sizes: Mapping[str, int]) -> float:
    return _elements(b, sizes) * b.dtype.bytes


# ------------------------------------------------------------------ one store


def _operations(store: Store) -> int:
    """Floating-point operations; a call counts for several."""
    return sum(
        8 if isinstance(e, Call) else 1
        for e in visit(store.value)
        if isinstance(e, Binary | Unary | Call) and e.dtype.is_float
    )


def _calls(store: Store) -> int:
    return sum(isinstance(e, Call) for e in visit(store.value))


def _guards(store: Store) -> int:
    return sum(isinstance(e, Select) for e in visit(store.value))


def _loads(store: Store) -> Iterator[Load]:
    return (e for e in visit(store.value) if isinstance(e, Load) and e.buffer.scope != "register")


def _traffic(nest: _Nest, target: Target) -> tuple[float, float, float]:
    """Bytes that come from the near cache, the middle one and beyond.

    What the loops inside one touch is read again from where it fits: the traffic beyond a cache
    is what the largest inner nest that fits there touches, as often as that nest runs.
    """
    found = []
    for size in (0, target.l1_bytes // 2, target.l2_bytes * 3 // 4):
        inside = len(nest.loops)
        while inside > 0 and _touched(nest, nest.loops[inside - 1 :]) <= size:
            inside -= 1
        times = math.prod(x.count for x in nest.loops[:inside])
        found.append(times * _touched(nest, nest.loops[inside:]))
    return found[0], found[1], found[2]


def _touched(nest: _Nest, loops: Sequence[_Loop]) -> float:
    """The bytes that some inner loops of a nest read and write, each counted once."""
    total = 0.0
    places = [(x.buffer, x.indices) for x in _loads(nest.store)]
    if nest.store.buffer.scope != "register":
        places.append((nest.store.buffer, nest.store.indices))
    for buffer, indices in places:
        total += buffer.dtype.bytes * math.prod(x.count for x in loops if x.is_used(indices))
    return total
