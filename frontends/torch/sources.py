"""What PyTorch gives to compile: exported programs, files of them, and modules."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from xxhash import xxh3_128

from tilewright.errors import ModelError, first_line
from tilewright.graph.ir import Graph

from .export import export
from .importer import import_exported
from .symbols import Least, conditions_text, declared_least, symbols_of


@dataclass(frozen=True, slots=True)
class Exported:
    """A program, and what its user has said beside it.

    Attributes:
        program: as torch exported it.
        name: for messages and the graph.
        least: the least sizes that the user has declared, by the name of a Dim.
        forward: the user's function that was exported, for messages.
    """

    program: torch.export.ExportedProgram
    name: str = "program"
    least: Least = field(default_factory=dict)
    forward: Callable[..., Any] | None = None


def open_source(
    source: Any, example_inputs: object = None, dynamic_shapes: object = None
) -> Exported:
    """An exported program as it is, or a module exported now.

    Raises:
        ModelError: the source is neither, or example inputs do not go with it (TW-E0160), or torch
            does not export it (see ``export``).
    """
    if isinstance(source, torch.export.ExportedProgram):
        if example_inputs is not None or dynamic_shapes is not None:
            raise ModelError(
                "an exported program has its inputs and dynamic shapes; give them to torch.export",
                code="TW-E0160",
            )
        return Exported(source)
    if not isinstance(source, torch.nn.Module):
        raise ModelError(
            f"compile takes a torch.nn.Module or an ExportedProgram, not {type(source).__name__}",
            code="TW-E0160",
        )
    if example_inputs is None:
        raise ModelError(
            f"compiling the module {type(source).__name__} needs example_inputs: a tuple of"
            " arguments, which tell the shapes and dtypes",
            code="TW-E0160",
        )
    program = export(source, example_inputs, dynamic_shapes)
    least = declared_least(dynamic_shapes)
    return Exported(program, type(source).__name__, least, source.forward)


def import_source(source: Exported | str | os.PathLike[str]) -> Graph:
    """Imports a program, or the file of one, which is trusted as ``torch.export.load`` trusts it.

    Raises:
        ModelError: the file is missing or damaged (TW-E0164), or see ``import_exported``.
        UnsupportedError: what it needs is not all supported; lists every gap.
    """
    if not isinstance(source, Exported):
        source = Exported(_read(source))
    return import_exported(source.program, source.name, source.least, source.forward)


def _read(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    shown = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            return torch.export.load(file)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:
        # Its readers of archives, JSON and pickles share no type of error.
        reason = f"not a program that torch.export.save wrote ({first_line(error)})"
    raise ModelError(f"{shown}: {reason}", code="TW-E0164")


# ------------------------------------------------------------------ knowing a program again


def content_of(source: Exported) -> str | None:
    """A text that differs where the program, its weights or this torch do; None without data.

    What decides a program is its code with all arguments, the types of its inputs, the names and
    ranges of its symbols and the conditions on them, its signature and its tensors; comments,
    which tell source lines, are left out.
    """
    program = source.program
    code = re.sub(r"(?m)^\s*#.*\n", "", str(program))
    state = xxh3_128()
    symbols = [(k, v.name, v.lo, v.hi) for k, v in symbols_of(program, source.least).items()]
    conditions = conditions_text(program)
    for part in (
        torch.__version__, code, program.call_spec, source.name, symbols, conditions
    ):  # fmt: skip
        _update(state, str(part).encode())
    tensors = {**program.state_dict, **program.constants}
    for name, held in sorted(tensors.items()):
        _update(state, f"{name} {_kind(held)}".encode())
        if isinstance(held, torch.Tensor):
            try:
                _update(state, _bytes_of(held))
            except (RuntimeError, TypeError):
                return None  # on another device, sparse: the importer says so
    return state.hexdigest()


def _update(state: Any, data: Any) -> None:
    state.update(len(data).to_bytes(8, "little"))
    state.update(data)


def _kind(held: object) -> str:
    if isinstance(held, torch.Tensor):
        return f"{held.dtype} {tuple(held.shape)} {held.device} {held.layout}"
    return repr(held)


def _bytes_of(tensor: torch.Tensor) -> Any:
    """The elements in row-major order; nothing is copied where they lie so."""
    flat = tensor.detach().resolve_neg().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
