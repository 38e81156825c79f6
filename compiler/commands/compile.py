"""``tilewright compile``: a model file in, a ``.tw`` file out."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tilewright.errors import OptionError

from .model import ARTIFACT, NO_CACHE, Choices, built, is_artifact, parse_output, takes_choices


@click.command("compile", epilog="Example: tilewright compile zoo:resnet50 -o resnet50.tw")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, type=parse_output, metavar="FILE", help="File to write."
)
@takes_choices
@NO_CACHE
@click.option(
    "--keep",
    "stages",
    multiple=True,
    metavar="STAGE",
    help="Keep the text of a stage in the file, for inspect.",
)
def compile_model(
    model: str,
    output: Path,
    choices: Choices,
    no_cache: bool,
    stages: tuple[str, ...],
) -> None:
    """Compile MODEL to native code in one file that loads in milliseconds.

    The file holds code and weights; tilewright.load() and the other commands take it.
    """
    if is_artifact(model):
        raise OptionError(f"{model} is compiled already", code="TW-E0821")
    began = time.perf_counter()
    exe = built(model, choices, cache=not no_cache)
    exe.save(output, stages=stages)
    took = time.perf_counter() - began
    size = output.stat().st_size / 1e6
    click.echo(f"{output}: {size:.1f} MB for {exe.target.name}, {took:.2f} s")
    for spec in exe.inputs:
        click.echo(f"  in   {spec}")
    for spec in exe.outputs:
        click.echo(f"  out  {spec}")
    if output.suffix != ARTIFACT:
        click.echo(f"note: commands take a file for compiled by its suffix {ARTIFACT}", err=True)
