"""Errors a user can cause: each has a code, one paragraph of cause and mend, and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TilewrightError(Exception):
    """A mistake that the user can mend.

    Args:
        message: who, what is wrong with both values, and the next step; one paragraph.
        code: ``TW-E0123``; each raise site of one cause uses one code (see CODES in the docs).

    Attributes:
        exit_code: what the command line returns for it.
    """

    exit_code = 2

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ModelError(TilewrightError):
    """The model file is damaged or breaks its own standard (TW-E01xx)."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing of a model that is not supported.

    Attributes:
        what: the operator and the reason ("Unique: outputs depend on data").
        nodes: the names of the nodes concerned.
    """

    what: str
    nodes: tuple[str, ...]


class UnsupportedError(TilewrightError):
    """The model needs something that is not there yet; lists every gap at once (TW-E02xx)."""

    exit_code = 3

    def __init__(self, gaps: Sequence[Gap], *, code: str = "TW-E0200", model: str = "") -> None:
        self.gaps = tuple(gaps)
        lines = [f"  {g.what} ({len(g.nodes)} nodes: {_few(g.nodes)})" for g in self.gaps]
        head = f"{model or 'the model'} needs {len(self.gaps)} things that are not supported:"
        super().__init__("\n".join([head, *lines]), code=code)


class InputError(TilewrightError):
    """A call's arguments do not fit the model: missing, wrong dtype, shape or range (TW-E03xx)."""


class TargetError(TilewrightError):
    """An unknown target, or code for a CPU that this one is not (TW-E04xx)."""


class ArtifactError(TilewrightError):
    """A saved artefact is damaged, foreign or of another version (TW-E05xx)."""


class OutputError(TilewrightError):
    """A file could not be written: unwritable place, full disk (TW-E06xx)."""


class ScheduleError(TilewrightError):
    """A schedule step does not apply to this loop nest (TW-E07xx)."""


class OptionError(TilewrightError):
    """An option or argument is not understood (TW-E08xx)."""


class InternalError(TilewrightError):
    """A defect of the compiler itself (TW-E09xx)."""

    exit_code = 4


def _few(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f", ... {len(names) - limit} more" if len(names) > limit else "")
