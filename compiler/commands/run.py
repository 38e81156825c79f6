"""``tilewright run``: a model on random or given inputs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from tilewright.errors import InputError
from tilewright.runtime.executable import Executable
from tilewright.stages import load_function

from .arrays import choose_dims, dims_from, random_inputs, read_inputs, write_arrays
from .model import (
    DIM,
    NO_CACHE,
    THREADS,
    Choices,
    is_artifact,
    parse_output,
    ready,
    takes_choices,
)

_AGREEMENT = "tilewright.commands.agreement:show_agreement"
"""Imported with ``--check`` only: the modules of other runtimes are half of all that run needs."""
_WORDS = 3
"""How many columns of the table are words."""


def parse_input(value: str) -> tuple[str, Path]:
    """Reads ``x=file.npy``: the file of an input."""
    name, equals, path = value.rpartition("=")
    if not equals or not name or not path:
        raise click.BadParameter(f"{value!r}: write an input's name and a file, x=x.npy")
    return name, Path(path)


@click.command(epilog="Example: tilewright run zoo:squeezenet --check onnxruntime")
@click.argument("model")
@click.option(
    "--input",
    "files",
    multiple=True,
    type=parse_input,
    metavar="NAME=FILE",
    help="A .npy file for an input: x=x.npy.",
)
@click.option(
    "--inputs",
    "archive",
    type=click.Path(path_type=Path),
    help="A .npz file with arrays by input name.",
)
@click.option(
    "--output", type=parse_output, metavar="FILE", help="A .npz file to write the outputs to."
)
@click.option(
    "--check",
    type=click.Choice(["onnxruntime", "reference"]),
    help="Compare with another runtime, or with NumPy; exit 1 where they differ.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=1e-4,
    show_default=True,
    help="Largest |a-b| as a part of the largest |b|, for --check.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."
)
@DIM
@takes_choices
@THREADS
@NO_CACHE
def run(
    model: str,
    files: tuple[tuple[str, Path], ...],
    archive: Path | None,
    output: Path | None,
    check: str | None,
    tolerance: float,
    seed: int,
    dims: tuple[tuple[str, int], ...],
    choices: Choices,
    threads: int | None,
    no_cache: bool,
) -> int:
    """Run MODEL once and show its outputs.

    Inputs that are not given are random and seeded: floats normal, integers 0 or 1. Symbolic dims
    that nothing settles are 1 where they come first in a shape and else 16; --dim chooses.
    """
    if check and is_artifact(model):
        raise click.UsageError("--check needs the model itself, not a compiled file")
    began = time.perf_counter()
    exe = ready(model, choices, threads=threads, cache=not no_cache)
    prepared = time.perf_counter() - began
    feed = _feed(exe, files, archive, dict(dims), seed)
    began = time.perf_counter()
    outputs = exe.run(feed)
    took = time.perf_counter() - began
    _show(exe, feed, outputs, prepared, took)
    if output is not None:
        write_arrays(output, outputs)
    if check is None:
        return 0
    code = load_function(_AGREEMENT)(model, choices.shapes, check, feed, outputs, tolerance)
    return int(code)


def _feed(
    exe: Executable,
    files: Sequence[tuple[str, Path]],
    archive: Path | None,
    dims: Mapping[str, int],
    seed: int,
) -> dict[str, np.ndarray]:
    given = read_inputs(exe.inputs, files, archive)
    settled = dims_from(exe.inputs, given)
    for name, size in dims.items():
        if settled.get(name, size) != size:
            raise InputError(
                f"--dim {name}={size}: in the given inputs {name} is {settled[name]}; leave --dim "
                f"out, or give other inputs",
                code="TW-E0305",
            )
    chosen = {**settled, **dims}
    sizes = choose_dims(exe.inputs, chosen, exe.artifact.interface.conditions)
    missing = [s for s in exe.inputs if s.name not in given]
    return {**random_inputs(missing, sizes, seed), **given}


def _show(
    exe: Executable,
    feed: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    prepared: float,
    took: float,
) -> None:
    heads = ("", "name", "dtype", "shape", "mean", "std", "min", "max")
    rows: list[tuple[str, ...]] = [heads]
    rows += [("in", *_row(s.name, feed[s.name])) for s in exe.inputs]
    rows += [("out", *_row(name, array)) for name, array in outputs.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        # Words to the left, sizes and numbers to the right.
        cells = [
            cell.ljust(width) if k < _WORDS else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
    click.echo(
        f"ready in {prepared:.2f} s, first run {took * 1e3:.2f} ms, {exe.threads} threads, "
        f"target {exe.target.name}"
    )


def _row(name: str, array: np.ndarray) -> tuple[str, ...]:
    shape = "x".join(map(str, array.shape)) or "scalar"
    if array.size == 0:
        return (name, str(array.dtype), shape, "", "", "", "")
    values = array.astype(np.float64)
    return (
        name,
        str(array.dtype),
        shape,
        *(f"{v:.5g}" for v in (values.mean(), values.std(), values.min(), values.max())),
    )
