"""What a search came to, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel at the end of a search.

    Attributes:
        kernel: its name in the model.
        calls: how often one call of the model runs it.
        share: of all kernels' time, untuned.
        before, after: seconds of one of its calls, untuned and as it is now.
        changes: the answers that differ from the model's.
        trials: how many of its schedules are known.
        size: how many there are, at most.
        note: what else there is to say.
    """

    kernel: str
    calls: int
    share: float
    before: float
    after: float
    changes: Mapping[str, int]
    trials: int
    size: int
    note: str = ""


HEADS = ("kernel", "calls", "share", "before", "after", "gain", "tried", "changed")


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row, one for each of HEADS."""
    changed = ", ".join(f"{q}={a}" for q, a in row.changes.items())
    if not row.before:
        return (row.kernel, str(row.calls), "", "", "", "", str(row.trials), row.note)
    gain = f"{row.before / row.after:.2f}x" if row.changes else ""
    return (
        row.kernel,
        str(row.calls),
        f"{row.share:.0%}",
        duration(row.before),
        duration(row.after) if row.changes else "",
        gain,
        f"{row.trials}/{row.size}",
        "; ".join(x for x in (changed, row.note) if x),
    )


def table(rows: Sequence[Row], kind: str) -> str:
    """All rows as text; ``kind`` says whether times are measured or modelled."""
    lines = [HEADS, *map(cells, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADS))]
    shown = [
        "  ".join(
            c.ljust(w) if k in (0, len(HEADS) - 1) else c.rjust(w)
            for k, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([f"times are {kind}, of one call of a kernel", *shown])


def duration(seconds: float) -> str:
    """A time for people."""
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
