"""``tilewright inspect``: a model at any stage of its compilation."""

from __future__ import annotations

from pathlib import Path

import click

from tilewright.backends.backend import Backend
from tilewright.errors import OptionError
from tilewright.graph import text as graph_text
from tilewright.runtime.compiled import Compiled
from tilewright.runtime.files import replace_file
from tilewright.runtime.program import CallKernel, kernel_names, walk_steps
from tilewright.stages import GRAPH_STAGES, KERNEL_STAGES
from tilewright.tensor.text import text as tensor_text

from .model import Choices, backend_for, built, graph_of, is_artifact, parse_output, takes_choices


@click.command("inspect", epilog="Example: tilewright inspect zoo:squeezenet --stage program")
@click.argument("model")
@click.option("--stage", metavar="NAME", help="What to print; without it, a summary.")
@click.option("-o", "--output", type=parse_output, metavar="FILE", help="File to write it to.")
@takes_choices
def inspect(
    model: str,
    stage: str | None,
    output: Path | None,
    choices: Choices,
) -> None:
    """Show MODEL at a stage of its compilation, or a summary of what it became.

    graph is the model as imported; passes, the graph after all passes; compute, the tensor
    expressions; space, what there is to choose for each kernel; loops, the scheduled loop nests;
    schedule, the steps that led to them (schedule.json: as data); program, what runs. Then come
    the stages of the target's own code, of which the summary lists all: for CPUs llvm and asm; for
    GPUs llvm, cuda, ptx and sass. A compiled file holds program and what --keep named.
    """
    if stage is not None and not is_artifact(model):
        _check_stage(stage, backend_for(choices.target))
    if stage == "graph" and not is_artifact(model):
        # Needs no more than the importer, so it also shows what cannot be compiled.
        found = graph_text.text(graph_of(model, choices.shapes, choices.ranges))
    else:
        exe = built(model, choices)
        found = _summary(exe) if stage is None else exe.text(stage)
    if output is None:
        click.echo(found)
        return
    with replace_file(output) as put:
        put(0, found.encode())


def _check_stage(stage: str, backend: Backend) -> None:
    """Refuses before a model is compiled what could not be shown after it.

    Raises:
        OptionError: there is no such stage (TW-E0803).
    """
    known = (*GRAPH_STAGES, *KERNEL_STAGES, "program", *backend.stages)
    if stage not in known:
        raise OptionError(
            f"stage {stage!r}: of {backend.name} code there are {', '.join(known)}", code="TW-E0803"
        )


def _summary(exe: Compiled) -> str:
    program = exe.program
    calls = sum(isinstance(s, CallKernel) for s in walk_steps(program.steps))
    arena = program.arena_bytes
    lines = [
        exe.name,
        *(f"  in          {spec}" for spec in exe.inputs),
        *(f"  out         {spec}" for spec in exe.outputs),
        f"  target      {exe.target.name} ({exe.target.cpu}), {exe.target.vector_bits} bit",
        f"  kernels     {len(kernel_names(program))} different, {calls} calls",
        f"  constants   {program.constants_bytes} bytes",
        f"  scratch     {arena if isinstance(arena, int) else tensor_text(arena)} bytes",
        f"  stages      {', '.join(exe.stages)}",
    ]
    return "\n".join(lines)
