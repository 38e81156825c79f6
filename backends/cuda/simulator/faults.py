"""What a simulated kernel can do wrong, as errors that say where and who."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.errors import TilewrightError

Index = tuple[int, int, int]
"""A thread or a block, as (x, y, z)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault happened.

    Attributes:
        kernel: the entry that was launched.
        line: of the PTX text, counted from 1; 0 where no instruction is to blame.
        text: the instruction.
        thread, block: the first thread concerned; None where no single one is.
    """

    kernel: str
    line: int = 0
    text: str = ""
    thread: Index | None = None
    block: Index | None = None

    def __str__(self) -> str:
        who = f"kernel {self.kernel!r}"
        if self.thread is not None and self.block is not None:
            who += f", thread {_index(self.thread)} of block {_index(self.block)}"
        elif self.block is not None:
            who += f", block {_index(self.block)}"
        return who + (f", PTX line {self.line} `{self.text}`" if self.line else "")


def _index(index: Index) -> str:
    return "(" + ", ".join(map(str, index)) + ")"


class SimulationError(TilewrightError):
    """A kernel broke a rule of the GPU while it was simulated (TW-E10xx).

    Attributes:
        place: the instruction, thread and block; None where PTX text is not understood or the
            host is to blame.
    """

    def __init__(self, message: str, *, code: str, place: Place | None = None) -> None:
        super().__init__(message if place is None else f"{place}: {message}", code=code)
        self.place = place


class PtxError(SimulationError):
    """PTX text that is not understood, or an instruction that is not modelled."""

    def __init__(self, message: str, *, code: str, line: int) -> None:
        super().__init__(f"PTX line {line}: {message}", code=code)
        self.line = line
