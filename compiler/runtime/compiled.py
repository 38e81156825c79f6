"""A compiled model: what it is, how it came to be, and its file; not what runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Self

from ..errors import OptionError
from ..target import Target
from . import artifact
from .artifact import Artifact
from .program import Program, TensorSpec

Stages = Mapping[str, str | Callable[[], str]]


class Compiled:
    """A model compiled for a target, which need not be this machine.

    Args:
        built: the program, its constants and where they came from.
        stages: what ``text`` shows, by name: texts, or functions that make them when asked.
    """

    def __init__(self, built: Artifact, stages: Stages | None = None) -> None:
        self._built = built
        self._stages: dict[str, str | Callable[[], str]] = {
            **(stages or {}),
            **built.stages,
            "program": lambda: built.program_text,
        }

    def __copy__(self) -> Self:
        return self  # its code and constants are one, and never change

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled.

        Raises:
            OptionError: always; machine code belongs in a file (TW-E0832).
        """
        raise OptionError(
            f"{self.name}: a compiled model is not pickled; save(path) writes it, and"
            " tilewright.load(path) reads it in another process",
            code="TW-E0832",
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._built.interface.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each input, in calling order."""
        return self._built.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each output, in order."""
        return self._built.interface.outputs

    @property
    def program(self) -> Program:
        """What runs."""
        return self._built.program

    @property
    def artifact(self) -> Artifact:
        """The program, its code and its constants, as a file holds them."""
        return self._built

    @property
    def target(self) -> Target:
        """What the code was generated for."""
        return self._built.target

    @property
    def stages(self) -> tuple[str, ...]:
        """The names that ``text`` knows."""
        return tuple(self._stages)

    def text(self, stage: str) -> str:
        """The text of a stage of its making.

        Raises:
            OptionError: there is no such stage, or it was not kept in the file that this was
                loaded from (TW-E0803).
        """
        found = self._stages.get(stage)
        if found is None:
            raise OptionError(
                f"stage {stage!r}: there are {', '.join(self._stages)}; a file holds program and "
                f"what was named when it was saved (tilewright compile --keep)",
                code="TW-E0803",
            )
        return found if isinstance(found, str) else found()

    def save(self, path: str | os.PathLike[str], stages: Sequence[str] = ()) -> None:
        """Writes a ``.tw`` file that ``load`` reads without compiling.

        Args:
            path: where; an existing file is replaced in one step.
            stages: names of stages whose texts are kept in the file.

        Raises:
            OutputError: the place cannot be written or is full; nothing is left behind.
        """
        built = self._built
        kept = {name: self.text(name) for name in stages}
        artifact.write(
            path,
            Artifact(
                built.source, built.target, built.objects, built.constants, built.versions, kept
            ),
        )

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        return f"{self.name}({inputs}) -> ({', '.join(map(str, self.outputs))})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self} for {self.target.name}>"
