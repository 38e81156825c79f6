"""Blocks and threads of a scheduled function: the launch, and what each thread keeps.

A function for a GPU is one nest of ``block`` loops around a body of ``thread`` loops, serial loops
and barriers. A temporary of registers that is declared outside of the thread loops has the thread
variables as its first indices; each thread keeps its own part of it.

A thread may read what another thread of its warp keeps, in a statement that all threads of the
warp run: at the index ``thread.x ^ m`` (a butterfly), or at a constant (one thread's value for
all). In ``private`` functions these are the calls ``shuffle_xor(x, m)`` and
``shuffle_lane(x, lane, width)``, where ``width`` threads along x are one row of the warp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.errors import InternalError
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
    Load,
    LoopKind,
    Stmt,
    Store,
    Var,
)
from tilewright.tensor.simplify import same_dim
from tilewright.tensor.walk import (
    allocations,
    expressions,
    loads,
    map_block,
    rewrite_block,
    statements,
    substitute,
)

BLOCKS: tuple[LoopKind, ...] = ("block.x", "block.y", "block.z")
THREADS: tuple[LoopKind, ...] = ("thread.x", "thread.y")
WARP = 32
"""Threads that run in step, with consecutive numbers: x first, then y."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is launched.

    Attributes:
        grid: blocks along x, y and z; dims over the function's symbols.
        block: threads along x and y.
        shared: the buffers in shared memory, in order of declaration.
    """

    grid: tuple[Dim, Dim, Dim]
    block: tuple[int, int]
    shared: tuple[Buffer, ...]

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return self.block[0] * self.block[1]


def launch_of(func: Func) -> Launch:
    """The grid and the block of a scheduled function.

    Raises:
        InternalError: two loops of one block kind differ in extent (TW-E0951).
    """
    grid: dict[LoopKind, Dim] = {}
    block: dict[LoopKind, int] = {}
    for stmt in statements(func.body):
        if not isinstance(stmt, For):
            continue
        if stmt.kind in BLOCKS:
            if not same_dim(grid.setdefault(stmt.kind, stmt.extent), stmt.extent):
                raise InternalError(
                    f"{func.name}: {stmt.kind} loops of {grid[stmt.kind]} and {stmt.extent}",
                    code="TW-E0951",
                )
        elif stmt.kind in THREADS:
            assert isinstance(stmt.extent, int)
            block[stmt.kind] = max(stmt.extent, block.get(stmt.kind, 1))
    x, y, z = (grid.get(k, 1) for k in BLOCKS)
    shared = tuple(b for b in allocations(func.body) if b.scope == "shared")
    return Launch((x, y, z), (block.get("thread.x", 1), block.get("thread.y", 1)), shared)


def private(func: Func) -> Func:
    """The function as one thread sees it: thread variables are no indices of its registers.

    Raises:
        InternalError: threads of a temporary in registers touch each other's part in another way
            than a shuffle can (TW-E0951).
    """
    kinds = {s.var: s.kind for s in statements(func.body) if isinstance(s, For)}
    counts = {b: _leading_threads(func, scope, b, kinds) for b, scope in _between(func.body)}
    counts = {b: n for b, n in counts.items() if n}
    cut = {b: Buffer(b.name, b.dtype, b.shape[n:], b.scope) for b, n in counts.items()}
    width = launch_of(func).block[0]

    def read(x: Load) -> Expr:
        count = counts[x.buffer]
        own = Load(cut[x.buffer], x.indices[count:])
        match x.indices[0] if count else None:
            case Binary(op="xor", b=lanes):
                return Call("shuffle_xor", (own, lanes), x.dtype)
            case Const() as lane:
                return Call("shuffle_lane", (own, lane, Const(width)), x.dtype)
        return own

    def expr(e: Expr) -> Expr:
        return substitute(e, {x: read(x) for x in loads(e) if x.buffer in cut})

    def each(stmt: Stmt) -> Block:
        match stmt:
            case Store() if stmt.buffer in cut:
                return (Store(cut[stmt.buffer], stmt.indices[counts[stmt.buffer] :], stmt.value),)
            case Alloc() if stmt.buffer in cut:
                return (Alloc(cut[stmt.buffer]),)
        return (stmt,)

    if not cut:
        return func
    return Func(func.name, func.params, map_block(rewrite_block(func.body, expr), each))


def _between(block: Block, warps: bool = False) -> tuple[tuple[Buffer, Block], ...]:
    """The temporaries that are declared around loops of threads, each with what may use it.

    Args:
        warps: whether the block is in a loop over warps, each of which has its own fragments.
    """
    found: list[tuple[Buffer, Block]] = []
    for stmt in block:
        match stmt:
            case Alloc() if stmt.buffer.scope in ("register", "local"):
                found.append((stmt.buffer, block))
            case Alloc() if stmt.buffer.scope == "fragment" and not warps:
                found.append((stmt.buffer, block))
            case For() if _has_threads(stmt.body) or stmt.kind not in THREADS:
                found += _between(stmt.body, warps or stmt.kind in THREADS)
            case If():
                found += _between(stmt.then, warps) + _between(stmt.orelse, warps)
    return tuple(found)


def _leading_threads(func: Func, scope: Block, b: Buffer, kinds: Mapping[Var, LoopKind]) -> int:
    """How many leading indices are thread variables, the same kinds in every access.

    None are where every thread computes all of the temporary, outside of loops over threads.
    """
    seen: set[tuple[LoopKind, ...]] = set()
    foreign: set[tuple[LoopKind, ...]] = set()
    own = [s.indices for s in statements(scope) if isinstance(s, Store) and s.buffer == b]
    reads = [
        x.indices
        for stmt in statements(scope)
        for e in expressions(stmt)
        for x in loads(e)
        if x.buffer == b
    ]
    for indices in own + reads:
        leading: list[LoopKind] = []
        for i in indices:
            kind = kinds.get(i) if isinstance(i, Var) else None
            if kind not in THREADS:
                break
            leading.append(kind)
        shuffled = not leading and _of_another(indices, kinds) and indices not in own
        (foreign if shuffled else seen).add(tuple(leading))
    if not _stored_by_threads(scope, b) and seen <= {()}:
        return 0  # All threads compute it, each for itself.
    if len(seen) != 1 or seen == {()} or (foreign and seen != {("thread.x",)}):
        raise InternalError(
            f"{func.name}: threads do not keep {b.name} each for itself", code="TW-E0951"
        )
    return len(seen.pop())


def _of_another(indices: tuple[Expr, ...], kinds: Mapping[Var, LoopKind]) -> bool:
    """Whether an index names a thread of the same warp: ``thread.x ^ m``, or a constant."""
    match indices[0] if indices else None:
        case Binary(op="xor", a=Var() as v, b=Const(value=m)):
            return kinds.get(v) == "thread.x" and 0 < m < WARP
        case Const(value=lane):
            return 0 <= lane < WARP
    return False


def _has_threads(block: Block) -> bool:
    return any(isinstance(s, For) and s.kind in THREADS for s in statements(block))


def _stored_by_threads(block: Block, b: Buffer) -> bool:
    return any(
        isinstance(s, For)
        and s.kind in THREADS
        and any(isinstance(x, Store) and x.buffer == b for x in statements(s.body))
        for s in statements(block)
    )
