"""Importing what ``torch.export`` captures: programs, and modules after exporting them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from tilewright.errors import ModelError
from tilewright.graph.ir import Graph
from tilewright.tensor.ir import Expr

from .capture import Captured, Output, decompositions, import_captured
from .equalities import settled
from .export import export, recurrent_shapes
from .symbols import Least, conditions_of, conditions_text, declared_least, guards_of, symbols_of
from .types import GapError


def import_module(
    module: torch.nn.Module, example_inputs: object, dynamic_shapes: object = None
) -> Graph:
    """Exports a module with ``torch.export`` and imports the program.

    Args:
        example_inputs: a tuple of positional arguments, or a mapping of keyword arguments.
        dynamic_shapes: as ``torch.export.export`` takes it.

    Raises:
        ModelError: see ``export``.
        UnsupportedError: see ``import_exported``.
    """
    program = export(module, example_inputs, dynamic_shapes)
    least = declared_least(dynamic_shapes)
    return import_exported(program, type(module).__name__, least, module.forward)


def import_exported(
    program: torch.export.ExportedProgram,
    name: str = "program",
    least: Least | None = None,
    forward: Callable[..., Any] | None = None,
) -> Graph:
    """Imports an exported program as a graph of primitive ops.

    Parameters and buffers are views of the program's tensors, which must not be written
    afterwards. Nested inputs and outputs are flattened in order; constants among them are left
    out. A symbolic integer that is an input becomes an input of shape (n, 0). What writes to an
    input or a buffer is refused, as an executable has no state; writes to anything else are values.

    Args:
        least: the least size that the user has declared, by the name of a Dim.
        forward: the user's function that was exported, for messages.

    Raises:
        ModelError: torch cannot state it in core operators (TW-E0162).
        UnsupportedError: what it needs is not all supported; lists every gap (TW-E02xx).
    """
    try:
        with recurrent_shapes():
            lowered = program.run_decompositions(decompositions())
    except Exception as error:
        raise ModelError(
            f"{name}: torch cannot decompose the program: {error}", code="TW-E0162"
        ) from error
    outputs, refused = _outputs(lowered)
    symbols = settled(symbols_of(lowered, least or {}), guards_of(lowered))
    conditions: tuple[Expr, ...] = ()
    try:
        conditions = conditions_of(lowered, conditions_text(program), symbols)
    except GapError as gap:
        refused.append((gap.reason, lowered.graph.output_node()))
    return import_captured(
        Captured(
            lowered.graph_module,
            name,
            _known(lowered),
            outputs,
            symbols,
            refused,
            conditions,
            forward,
        )
    )


# ------------------------------------------------------------------ reading a program


def _known(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """The parameters, buffers and constants among the placeholders, by the placeholder's name."""
    known: dict[str, Any] = {}
    for spec in program.graph_signature.input_specs:
        if isinstance(spec.arg, ConstantArgument):
            known[spec.arg.name] = spec.arg.value
        elif spec.kind is InputKind.TOKEN:
            known[spec.arg.name] = None  # only orders calls
        elif spec.kind is not InputKind.USER_INPUT:
            found = program.state_dict.get(spec.target)
            known[spec.arg.name] = program.constants[spec.target] if found is None else found
    return known


def _outputs(program: torch.export.ExportedProgram) -> tuple[list[Output], list[tuple[str, Any]]]:
    """What the user gets, and each write to a buffer or input that is not what is there."""
    signature = program.graph_signature
    kept = {s.target: s.arg.name for s in signature.input_specs}
    names = iter(_output_names(program))
    outputs, refused = [], []
    (results,) = program.graph.find_nodes(op="output")[0].args
    for spec, result in zip(signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            name = next(names)
            if not isinstance(spec.arg, ConstantArgument):
                outputs.append(Output(name, result))
        elif spec.kind is not OutputKind.TOKEN and result.name not in (
            kept.get(spec.target), spec.target
        ):  # fmt: skip
            what, mend = _WRITES.get(spec.kind, (spec.kind.name.lower(), "return the new value"))
            refused.append((f"a write to {what} {spec.target}: {mend}", result))
    return outputs, refused


_WRITES = {
    OutputKind.USER_INPUT_MUTATION: (
        "the input", "return its new value, or write to a clone of it",
    ),
    OutputKind.BUFFER_MUTATION: (
        "the buffer", "put the module in eval mode, or take it as an argument and return its new"
        " value",
    ),
}  # fmt: skip
"""What a program may write to, and how to do without: an executable has no state."""


def _output_names(program: torch.export.ExportedProgram) -> list[str]:
    """A name for each leaf of the outputs, from its place: ``output``, ``logits``, ``kv_0_1``."""
    spec = program.call_spec.out_spec
    leaves = list(range(spec.num_leaves))
    pairs, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(leaves, spec))
    names = []
    for path, _ in pairs:
        words = re.findall(r"\w+", pytree.keystr(path))
        text = "_".join(words)
        names.append(text if text and not text[0].isdigit() else f"output_{text}".rstrip("_"))
    if len(names) != len(leaves):  # a class of outputs that tells no paths
        return [f"output_{i}" for i in leaves]
    return names
