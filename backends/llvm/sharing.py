"""How the iterations of a parallel loop are best shared: which of them walk down the rows.

A loop over panels of columns and, within each, over tiles of rows is one parallel loop whose first
half of iterations is the first half of the columns. Other loops, before and after, are shared by
rows. Then every core reads half of its operands from the other core's cache, and writes half of
its results over lines that are there, which is as slow as memory. So the pool is told how many
iterations are one round of rows, and gives each hand its half of every round (see cpu/pool.py).
The order of iterations, and what each computes, stay as they are.

The price is that every core reads what belongs to the panels, weights mostly, as a whole. Most of
it arrives while the panel before is multiplied, where the other core's rows come when they are
asked for. So a byte of panels costs less than one of rows.
"""

from __future__ import annotations

from math import prod

from tilewright.tensor.ir import Binary, Const, Expr, For, Load, Store, Var
from tilewright.tensor.simplify import simplify
from tilewright.tensor.walk import block_loads, free_vars, stores, substitute, visit

LEAST_ROWS = 8
"""Of fewer rows, unless they are even, one half is too much more than the other."""
PANELS_PER_ROWS = 3.5
"""How many times as many bytes operands by panels may be as those by rows."""
UNEVEN = 0.5
"""The same where one half is too much more: what is exchanged must be nearly all there is."""

_NUMBER, _ROW = Var("number"), Var("row")


def rows_of(loop: For) -> int:
    """How many consecutive iterations of a parallel loop are one round of rows.

    Returns:
        A divisor of the extent, or 0 where the loop is best cut in two as a whole, or where it is
        not known how many iterations there are.
    """
    count = loop.extent
    if not isinstance(count, int) or loop.start != 0:
        return 0
    rows = _period_of_results(loop)
    if rows <= 1 or rows >= count or count % rows:
        return 0
    by_rows, by_panels = _bytes(loop, rows)
    most = UNEVEN if rows < LEAST_ROWS and rows % 2 else PANELS_PER_ROWS
    return rows if by_panels <= most * by_rows else 0


def _period_of_results(loop: For) -> int:
    """After how many iterations the rows of all results begin anew; 0 if they do not."""
    results = [x for x in stores(loop.body) if x.buffer.scope == "global"]
    leading = [next((i for i in x.indices if loop.var in free_vars(i)), Const(0)) for x in results]
    found = {n for i in leading for e in visit(i) if (n := _period(e, loop.var))}
    if len(found) != 1:
        return 0
    (rows,) = found
    return rows if all(_digits(i, loop, rows) == {_ROW} for i in leading) else 0


def _period(e: Expr, var: Var) -> int:
    """After how many values of the variable ``var % n`` or ``var // m % n`` repeats, or 0."""
    match e:
        case Binary(op="mod", a=a, b=Const(value=n)) if a is var:
            return int(n)
        case Binary(op="mod", a=Binary(op="floordiv", a=a, b=Const(value=m)), b=Const(value=n)):
            return int(m) * int(n) if a is var else 0
    return 0


def _digits(e: Expr, loop: For, rows: int) -> set[Var]:
    """Whether an index depends on the number of the round, on the row within it, or on both."""
    assert isinstance(loop.extent, int)
    ranges = {_NUMBER: (0, loop.extent // rows - 1), _ROW: (0, rows - 1)}
    known: dict[Expr, Expr] = {loop.var: _NUMBER * rows + _ROW}
    for x in visit(e):
        match x:
            case Binary(op="floordiv", a=a, b=Const(value=n)) if a is loop.var and n % rows == 0:
                known[x] = _NUMBER // (int(n) // rows)
    parts = simplify(substitute(e, known), ranges)
    return set(free_vars(parts) & {_NUMBER, _ROW})


def _bytes(loop: For, rows: int) -> tuple[int, int]:
    """Bytes of the operands that depend on the row, and of those on the number of the round."""
    sizes: dict[str, int] = {}
    depends: dict[str, set[Var]] = {}
    touched: list[Load | Store] = [*block_loads(loop.body), *stores(loop.body)]
    for x in touched:
        if x.buffer.scope != "global":
            continue
        sizes[x.buffer.name] = x.buffer.dtype.bytes * prod(
            d for d in x.buffer.shape if isinstance(d, int)
        )
        own = depends.setdefault(x.buffer.name, set())
        for i in x.indices:
            if loop.var in free_vars(i):
                own |= _digits(i, loop, rows)
    by_rows = sum(n for k, n in sizes.items() if _ROW in depends[k])
    by_panels = sum(n for k, n in sizes.items() if depends[k] == {_NUMBER})
    return by_rows, by_panels
