"""Which buffers of a program's kernels begin at a multiple of sixteen bytes in every call.

Memory of the device, constants and the arena's buffers do. A view of one step of a loop begins
wherever the steps before it end: what a kernel reads or writes there must not go by vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.runtime.program import (
    ArenaStorage,
    CallKernel,
    ConstantStorage,
    Program,
    Tensor,
    walk_steps,
)
from tilewright.tensor.instructions import find
from tilewright.tensor.ir import Block, Const, For, Func, If, Stmt, as_expr, eq
from tilewright.tensor.simplify import prove

VECTOR_BYTES = 16
"""The largest access of one thread; a buffer that begins at a multiple may be read by vectors."""

Loose = Mapping[str, frozenset[str]]
"""For each kernel that has any, its parameters that may begin at any element, by name."""
NONE_LOOSE: Loose = {}


def loose_buffers(program: Program, funcs: Sequence[Func]) -> Loose:
    """For each kernel, the parameters that may begin anywhere, by name."""
    params = {f.name: f.params for f in funcs}
    found: dict[str, set[str]] = {}
    for step in walk_steps(program.steps):
        if not isinstance(step, CallKernel):
            continue
        for p, a in zip(params[step.kernel], step.args, strict=True):
            if isinstance(a, Tensor) and not _begins_even(a):
                found.setdefault(step.kernel, set()).add(p.name)
    return {kernel: frozenset(names) for kernel, names in found.items()}


def _begins_even(t: Tensor) -> bool:
    match t.storage:
        case ConstantStorage(offset=offset) | ArenaStorage(offset=offset):
            return prove(eq(as_expr(offset) % VECTOR_BYTES, Const(0))) is True
    return True


def without_wide_copies(func: Func, loose: frozenset[str]) -> Func:
    """The function with copies of sixteen bytes from loose buffers as loops over elements.

    What such an instruction computes is what its nest says; a commit and a wait that find no
    copy under way do nothing.
    """
    if not loose:
        return func

    def visit(block: Block) -> Block:
        return tuple(each(s) for s in block)

    def each(stmt: Stmt) -> Stmt:
        match stmt:
            case For() if stmt.kind == "instruction" and _copies_from(stmt, loose):
                return For(stmt.var, stmt.extent, stmt.body, "vector", stmt.start)
            case For():
                return For(stmt.var, stmt.extent, visit(stmt.body), stmt.kind, stmt.start)
            case If():
                return If(stmt.cond, visit(stmt.then), visit(stmt.orelse))
        return stmt

    return Func(func.name, func.params, visit(func.body))


def _copies_from(nest: For, loose: frozenset[str]) -> bool:
    found = find(nest)
    source = None if found is None else found.operands.get("g")
    return source is not None and source.buffer.name in loose
