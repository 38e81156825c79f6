"""The tensor IR: expressions, statements and functions of loop nests.

Everything here is immutable. This is the whole language; its expressions are in expr.py.

    Expr   Const Var Load Unary Binary Cast Select Call Reduce
    Stmt   For Store Prefetch Barrier Commit Wait If Alloc Let
    Func   name, params (buffers and i64 symbols), body
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from .expr import (
    BINARY_OPS,
    COMPARISONS,
    UNARY_OPS,
    Axis,
    Binary,
    BinaryOp,
    Buffer,
    Call,
    Cast,
    Const,
    Dim,
    Expr,
    Load,
    Reduce,
    ReduceOp,
    Scope,
    Select,
    Unary,
    UnaryOp,
    Var,
    as_expr,
    binary,
    conjunction,
    eq,
    le,
    lt,
    maximum,
    minimum,
    symbol,
)

__all__ = [
    "BINARY_OPS",
    "BOUND_KINDS",
    "COMPARISONS",
    "UNARY_OPS",
    "Alloc",
    "Axis",
    "Barrier",
    "Binary",
    "BinaryOp",
    "Block",
    "Buffer",
    "Call",
    "Cast",
    "Commit",
    "Const",
    "Dim",
    "Expr",
    "For",
    "Func",
    "If",
    "Let",
    "Load",
    "LoopKind",
    "Prefetch",
    "Reduce",
    "ReduceOp",
    "Scope",
    "Select",
    "Stmt",
    "Store",
    "Unary",
    "UnaryOp",
    "Var",
    "Wait",
    "as_expr",
    "binary",
    "conjunction",
    "eq",
    "le",
    "lt",
    "maximum",
    "minimum",
    "symbol",
]

LoopKind = Literal[
    "serial", "parallel", "vector", "unroll",
    "block.x", "block.y", "block.z", "thread.x", "thread.y", "instruction",
]  # fmt: skip
BOUND_KINDS: frozenset[LoopKind] = frozenset(
    {"block.x", "block.y", "block.z", "thread.x", "thread.y"}
)
"""The loops whose iterations are the blocks of a grid and the threads of a block."""


@dataclass(frozen=True, slots=True)
class For:
    """Runs ``body`` for ``var`` in ``start <= var < start + extent``, in order unless the kind
    says otherwise.

    ``parallel``: iterations are independent and may run on any thread. ``vector``: the whole
    extent (a constant) is one vector operation. ``unroll``: the extent is a constant and the
    backend writes every iteration out. The variable's name is the loop's name.

    ``block.*`` and ``thread.*``: iterations are the blocks of a grid, and the threads of a block,
    which run at once. Loops of one kind that follow each other run on the same threads. What
    such loops compute is what they compute in order; where one reads ``shared`` memory that
    others wrote, a Barrier stands between them.

    ``instruction``: the whole nest is one instruction of the machine (see instructions.py); it
    computes what its loops compute. The threads of a warp run it together, outside of their
    loop, where it works on fragments; else each thread runs it, as a copy in the background.
    """

    var: Var
    extent: Dim
    body: Block
    kind: LoopKind = "serial"
    start: Dim = 0


@dataclass(frozen=True, slots=True)
class Store:
    """Writes ``value`` to ``buffer[indices]``.

    ``streamed`` hints that nothing reads it soon, so that it may go past the caches; then the
    buffer should begin at a multiple of 64 bytes.
    """

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Hints that ``buffer[indices]`` is read soon; changes nothing, and may lie out of bounds."""

    buffer: Buffer
    indices: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Barrier:
    """All threads of a block wait here for each other; changes nothing where they run in order."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Makes one group of the copies that instructions began in the background since the last."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Each thread waits for its own groups of copies, except the last ``pending`` of them.

    Copies are complete only after it. In order nothing is left to wait for.
    """

    pending: int


@dataclass(frozen=True, slots=True)
class If:
    """Runs ``then`` where ``cond`` holds, else ``orelse``."""

    cond: Expr
    then: Block
    orelse: Block = ()


@dataclass(frozen=True, slots=True)
class Alloc:
    """Declares a buffer, undefined at first, for the rest of the enclosing block."""

    buffer: Buffer


@dataclass(frozen=True, slots=True)
class Let:
    """Binds a scalar for the rest of the enclosing block."""

    var: Var
    value: Expr


Stmt = Union[For, Store, Prefetch, Barrier, Commit, Wait, If, Alloc, Let]
Block = tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Func:
    """A kernel: a loop nest over its parameters.

    Attributes:
        name: a valid identifier.
        params: buffers (global scope; no two overlap) and then the i64 symbols of their shapes.
        body: the statements. A buffer parameter that is stored to is an output.
    """

    name: str
    params: tuple[Buffer | Var, ...]
    body: Block
