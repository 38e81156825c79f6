"""Primitives that compute values anew where they are read: inline."""

from __future__ import annotations

from ..tensor.ir import Alloc, Expr, For, Func, Stmt, Store, Var
from ..tensor.simplify import same_dim, substitute
from ..tensor.walk import block_loads, loads, rewrite_block, stores
from .nest import fail, loops
from .place import declared


def inline(func: Func, buffer: str) -> Func:
    """Puts the expression of a temporary wherever it is read, in place of the temporary.

    Before:
        t: local[f32, 64]
        for i in serial(64):
            t[i] = A[i] * 2.0
        for j in serial(64):
            B[j] = t[j] + 1.0
    After ``inline("t")``:
        for j in serial(64):
            B[j] = A[j] * 2.0 + 1.0

    Raises:
        ScheduleError: no temporary of that name, or a nest other than one plain one at the top
            fills it.
    """
    step = f"inline({buffer!r})"
    old = declared(func, buffer, step)
    nests = [s for s in func.body if any(x.buffer == old for x in stores((s,)))]
    if len(nests) != 1 or Alloc(old) not in func.body:
        raise fail(step, func, f"{buffer!r} is not produced by a nest of its own at the top")
    found = _element(nests[0])
    if found is None or any(x.buffer == old for x in block_loads((nests[0],))):
        raise fail(step, func, f"the nest of {buffer!r} does more than fill it")
    axes, value = found
    extents = {x.var: x.extent for x in loops((nests[0],))}
    if any(not same_dim(extents[v], d) for v, d in zip(axes, old.shape, strict=True)):
        raise fail(step, func, f"the nest of {buffer!r} does not fill all of it")

    def read(e: Expr) -> Expr:
        mapping: dict[Expr, Expr] = {
            x: substitute(value, dict(zip(axes, x.indices, strict=True)))
            for x in loads(e)
            if x.buffer == old
        }
        return substitute(e, mapping) if mapping else e

    kept = tuple(s for s in func.body if s is not nests[0] and s != Alloc(old))
    return Func(func.name, func.params, rewrite_block(kept, read))


def _element(nest: Stmt) -> tuple[tuple[Var, ...], Expr] | None:
    """The variables that index the one store of a perfect nest, and what it stores."""
    while isinstance(nest, For):
        if len(nest.body) != 1 or nest.start != 0:
            return None
        nest = nest.body[0]
    if not isinstance(nest, Store) or not all(isinstance(i, Var) for i in nest.indices):
        return None
    axes = tuple(i for i in nest.indices if isinstance(i, Var))
    return (axes, nest.value) if len(set(axes)) == len(axes) else None
