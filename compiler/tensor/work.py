"""What a function does when it runs: how many floating-point operations, and what it reads.

The loops are counted, not run: an iteration is looked at on its own only where something inside
depends on its number, as the edges of padded windows do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import dtype as dt
from .intrinsics import expand
from .ir import (
    COMPARISONS,
    Binary,
    Block,
    Buffer,
    Call,
    Dim,
    Expr,
    For,
    Func,
    If,
    Let,
    Load,
    Select,
    Stmt,
    Store,
    Unary,
    Var,
)
from .simplify import evaluate
from .walk import expressions, free_vars, statements, visit

_FUSED = frozenset({"fma", "mad"})
_MOST_LOOKS = 200_000


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of a function does.

    Attributes:
        flops: additions, multiplications, divisions, minima and maxima of floats, comparisons
            left out; a multiply-add is two, and a function what its expansion has.
        accesses: elements read or written, by the name of the parameter; one that is read again
            counts again.
    """

    flops: int
    accesses: Mapping[str, int]


class _TooMany(Exception):
    """There are more iterations to look at than is worth it."""


@dataclass
class _Counter:
    """One count.

    Attributes:
        params: names of the buffers whose elements are counted.
        known: what was counted of a loop's body, by the values of the variables it depends on.
    """

    params: frozenset[str]
    looks: int = 0
    known: dict[tuple[int, tuple[tuple[str, int], ...]], Counter[str]] = field(default_factory=dict)
    needs: dict[int, frozenset[Var]] = field(default_factory=dict)
    costs: dict[int, Counter[str]] = field(default_factory=dict)

    def block(self, block: Block, env: dict[Var, int]) -> Counter[str]:
        total: Counter[str] = Counter()
        scope = dict(env)
        for stmt in block:
            match stmt:
                case For():
                    self.loop(stmt, scope, total)
                case If():
                    total += self.cost(stmt)
                    taken = _value(stmt.cond, scope)
                    # What data decides is counted as if it held.
                    branch = stmt.then if taken is None or taken else stmt.orelse
                    total += self.block(branch, scope)
                case Let():
                    total += self.cost(stmt)
                    value = _value(stmt.value, scope)
                    if value is not None:
                        scope[stmt.var] = value
                case _:
                    total += self.cost(stmt)
        return total

    def loop(self, loop: For, env: dict[Var, int], total: Counter[str]) -> None:
        extent, start = _value(loop.extent, env), _value(loop.start, env)
        if extent is None or start is None:
            raise _TooMany
        if extent <= 0:
            return
        if loop.var in self.needed(loop):
            for i in range(start, start + extent):
                total += self.once(loop, {**env, loop.var: i})
            return
        for name, count in self.once(loop, env).items():
            total[name] += extent * count

    def once(self, loop: For, env: dict[Var, int]) -> Counter[str]:
        """One iteration; equal ones are counted once."""
        needed = self.needed(loop)
        values = tuple(sorted((v.name, n) for v, n in env.items() if v in needed))
        key = (id(loop), values)
        if key not in self.known:
            self.looks += 1
            if self.looks > _MOST_LOOKS:
                raise _TooMany
            self.known[key] = self.block(loop.body, env)
        return self.known[key]

    def needed(self, loop: For) -> frozenset[Var]:
        """The variables that decide which statements of a body run, and how often."""
        if id(loop) not in self.needs:
            found: set[Var] = set()
            for stmt in statements(loop.body):
                match stmt:
                    case For():
                        found |= free_vars(stmt.extent) | free_vars(stmt.start)
                    case If():
                        found |= free_vars(stmt.cond)
            # A variable may decide through others that are computed of it.
            for _ in range(8):
                more = {
                    v
                    for stmt in statements(loop.body)
                    if isinstance(stmt, Let) and stmt.var in found
                    for v in free_vars(stmt.value)
                }
                if more <= found:
                    break
                found |= more
            self.needs[id(loop)] = frozenset(found)
        return self.needs[id(loop)]

    def cost(self, stmt: Stmt) -> Counter[str]:
        """What a statement itself does, without those inside it."""
        if id(stmt) not in self.costs:
            found: Counter[str] = Counter()
            for e in expressions(stmt):
                for part in visit(expand(e)):
                    found["flops"] += _operations(part)
                    if isinstance(part, Load) and part.buffer.name in self.params:
                        found[f".{part.buffer.name}"] += 1
            if isinstance(stmt, Store) and stmt.buffer.name in self.params:
                found[f".{stmt.buffer.name}"] += 1
            self.costs[id(stmt)] = found
        return self.costs[id(stmt)]


def _operations(e: Expr) -> int:
    match e:
        case Binary(op=op):
            return int(e.a.dtype.is_float and op not in COMPARISONS)
        case Unary(op=op):
            return 0
        case Call(name=name):
            return (2 if name in _FUSED else 1) if e.dtype.is_float else 0
        case Select():
            return 0
    return 0


def _value(d: Dim, env: Mapping[Var, int]) -> int | None:
    """The value of an expression; None where it depends on data."""
    if isinstance(d, int):
        return d
    if any(isinstance(part, Load) for part in visit(d)) or not free_vars(d) <= env.keys():
        return None
    return int(evaluate(d, {v.name: n for v, n in env.items()}))


def count_work(func: Func, sizes: Mapping[str, int]) -> Work | None:
    """Counts what a function does; None where that takes looking at too much.

    Args:
        func: loops of any schedule.
        sizes: the value of every i64 parameter.
    """
    env = {p: sizes[p.name] for p in func.params if isinstance(p, Var) and p.dtype is dt.i64}
    params = frozenset(p.name for p in func.params if isinstance(p, Buffer))
    try:
        found = _Counter(params).block(func.body, env)
    except _TooMany:
        return None
    return Work(found["flops"], {name: found[f".{name}"] for name in params})
