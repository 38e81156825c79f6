"""``tilewright export``: a model as an object with a C header, or as a WebAssembly module."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tilewright import standalone
from tilewright.errors import OptionError

from .model import MATH, NO_CACHE, RANGE, SHAPE, TARGET, is_artifact, parse_output, progress


@click.command("export", epilog="Example: tilewright export model.onnx --target wasm32 -o m.wasm")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    required=True,
    type=parse_output,
    metavar="FILE",
    help="File to write: NAME.o (and NAME.h), or NAME.wasm.",
)
@TARGET
@MATH
@SHAPE
@RANGE
@NO_CACHE
def export(
    model: str,
    output: Path,
    target: str | None,
    math: str | None,
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...],
    ranges: tuple[tuple[str, tuple[int, int | None]], ...],
    no_cache: bool,
) -> None:
    """Export MODEL as code that runs without Tilewright: for C programs, or for WebAssembly.

    The header says how to call it. Code for other machines is made on any machine.
    """
    if is_artifact(model):
        raise OptionError(
            f"{model} is compiled already; export takes the model itself", code="TW-E0821"
        )
    began = time.perf_counter()
    with progress() as tell:
        files = standalone.export(
            model,
            output,
            target=target,
            math=math,
            shapes=dict(shapes) or None,
            dim_ranges=dict(ranges) or None,
            cache=False if no_cache else None,
            progress=lambda stage: tell(f"{model}: {stage}"),
        )
    took = time.perf_counter() - began
    for file in files:
        click.echo(f"{file}: {file.stat().st_size / 1e6:.3f} MB")
    click.echo(f"for {target or 'this machine'}, {took:.2f} s")
