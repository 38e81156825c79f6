"""Tables for people: as wide as the terminal, or as they need where nobody watches."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

_WIDEST = 10_000


def open_console(width: int) -> Console:
    """What prints to standard output, ``width`` columns wide where that is no terminal."""
    return Console(highlight=False, width=None if Console().is_terminal else width)


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    spare: Sequence[str] = (),
    styles: Sequence[str | None] = (),
) -> None:
    """Prints a table; where it is too wide, without spare columns, whose names it then tells.

    Args:
        spare: names of columns to do without, in this order, until the rest is narrow enough.
        styles: of the rows; none, of no row.
    """
    names = [str(c.header) for c in columns]
    left_out: list[str] = []
    ahead = [name for name in spare if name in names]
    while True:
        used = [k for k, name in enumerate(names) if name not in left_out]
        table = Table(
            *(columns[k].copy() for k in used),
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            pad_edge=False,
        )
        for row, style in zip(rows, styles or [None] * len(rows), strict=True):
            table.add_row(*(row[k] for k in used), style=style)
        if not ahead or _width(console, table) <= console.width:
            break
        left_out.append(ahead.pop(0))
    console.print(table, markup=False)
    if left_out:
        missing = ", ".join(name for name in names if name in left_out)
        console.print(f"a wider terminal, or a pipe, shows {missing}", style="dim", soft_wrap=True)


def _width(console: Console, table: Table) -> int:
    """The columns that a table takes where no line is broken."""
    options = console.options.update(max_width=_WIDEST)
    return Measurement.get(console, options, table).maximum
