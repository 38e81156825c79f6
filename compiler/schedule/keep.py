"""Primitive that computes a factor of a product once, before the product."""

from __future__ import annotations

from ..tensor.ir import Alloc, Binary, Block, Buffer, Expr, For, Func, Load, Stmt, Store, Var
from ..tensor.simplify import substitute, symbols
from .nest import fail, loops, stores, substitute_block


def own_factor(body: Expr, column: Var) -> Expr | None:
    """The factor of a product that is computed, and anew for each value of a loop; or None."""
    if not (isinstance(body, Binary) and body.op == "mul"):
        return None
    fixed = [e for e in (body.a, body.b) if column not in symbols(e)]
    if len(fixed) != 1 or not fixed[0].operands or isinstance(fixed[0], Load):
        return None
    return fixed[0]


def keep_factor(func: Func, buffer: str, column: str, name: str) -> Func:
    """Computes what is multiplied in a sum, where it does not vary along a loop, once before it.

    The factor gets a temporary of its own, as long as the loops that it varies with, and a nest
    that fills it.

    Before:
        s: local[f32, 8]
        for j0 in serial(8):
            s[j0] = 0.0
        for k in serial(4):
            for j in serial(8):
                s[j] = s[j] + exp(A[k]) * B[k, j]
        for i in serial(8):
            C[i] = s[i]
    After ``keep_factor("s", "j", "a")``:
        s: local[f32, 8]
        a: local[f32, 4]
        for j0 in serial(8):
            s[j0] = 0.0
        for a_k in serial(4):
            a[a_k] = exp(A[a_k])
        for k in serial(4):
            for j in serial(8):
                s[j] = s[j] + a[k] * B[k, j]
        for i in serial(8):
            C[i] = s[i]

    Raises:
        ScheduleError: no nest at the top adds such products to the buffer, or one of its loops
            does not start at 0.
    """
    step = f"keep_factor({buffer!r}, {column!r})"
    for place, stmt in enumerate(func.body):
        if not isinstance(stmt, For):
            continue
        around = {x.var.name: x for x in loops((stmt,))}
        factor = _factor((stmt,), buffer, around[column].var) if column in around else None
        if factor is None:
            continue
        used = [x for x in around.values() if x.var in symbols(factor)]
        if any(x.start != 0 for x in used):
            raise fail(step, func, "a loop of the factor does not start at 0")
        own: dict[Expr, Expr] = {x.var: Var(f"{name}_{x.var.name}") for x in used}
        kept = Buffer(name, factor.dtype, tuple(x.extent for x in used), "local")
        fill: Block = (Store(kept, tuple(own.values()), substitute(factor, own)),)
        for x in reversed(used):
            var = own[x.var]
            assert isinstance(var, Var)
            fill = (For(var, x.extent, fill),)
        there: dict[Expr, Expr] = {factor: Load(kept, tuple(x.var for x in used))}
        product = substitute_block((stmt,), there)
        allocs = [s for s in func.body if isinstance(s, Alloc)]
        before = [s for s in func.body[:place] if not isinstance(s, Alloc)]
        after = [s for s in func.body[place + 1 :] if not isinstance(s, Alloc)]
        body: tuple[Stmt, ...] = (*allocs, Alloc(kept), *before, *fill, *product, *after)
        return Func(func.name, func.params, body)
    raise fail(step, func, f"no nest adds products to {buffer!r} with a factor to keep")


def _factor(block: Block, buffer: str, column: Var) -> Expr | None:
    """What the sum in a nest multiplies and does not compute anew along the column."""
    for store in stores(block):
        value = store.value
        if store.buffer.name != buffer or not (isinstance(value, Binary) and value.op == "add"):
            continue
        old = Load(store.buffer, store.indices)
        for total, term in ((value.a, value.b), (value.b, value.a)):
            if total == old:
                return own_factor(term, column)
    return None
