"""``tilewright profile``: what the kernels of a model do, and how long they would take at least."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tilewright.backends import find_profiler
from tilewright.backends.backend import Profile, ProfiledKernel
from tilewright.runtime import artifact

from .arrays import choose_dims, random_inputs
from .model import DIM, SHAPE, TARGET, backend_for, built, is_artifact


@click.command(epilog="Example: tilewright profile model.onnx --target cuda:sm_80 --dim N=4")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."
)
@TARGET
@DIM
@SHAPE
def profile(
    model: str,
    as_json: bool,
    seed: int,
    target: str | None,
    dims: tuple[tuple[str, int], ...],
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...],
) -> None:
    """Count what each kernel of MODEL does on one call, and model the least time it takes.

    The code runs in a simulator, so no machine of the target is needed and all figures are the
    same at every run. The times are modelled, never measured.
    """
    name = (
        artifact.read(Path(model)).target.backend
        if is_artifact(model)
        else backend_for(target).name
    )
    profiler = find_profiler(name)  # before compiling what cannot be profiled
    made = built(model, shapes=dict(shapes), target=target)
    sizes = choose_dims(made.inputs, dict(dims), made.program.conditions)
    found = profiler.profile(made.artifact, random_inputs(made.inputs, sizes, seed))
    if as_json:
        click.echo(json.dumps(_data(made.name, made.target.name, found), indent=1))
        return
    _show(made.name, made.target.name, found)


def _data(model: str, target: str, found: Profile) -> dict[str, Any]:
    return {
        "model": model,
        "target": target,
        "kind": found.kind,
        "notes": list(found.notes),
        f"{found.kind} seconds": sum(k.seconds for k in found.kernels),
        "kernels": [
            {
                "name": k.name,
                "launches": k.launches,
                f"{found.kind} seconds": k.seconds,
                "limited by": k.limiter,
                **k.figures,
            }
            for k in found.kernels
        ],
    }


def _show(model: str, target: str, found: Profile) -> None:
    console = Console(highlight=False, width=None if Console().is_terminal else 140)
    total = sum(k.seconds for k in found.kernels)
    console.print(
        f"{model} for {target}: {len(found.kernels)} kernels, {found.kind} {_time(total)}"
    )
    for note in found.notes:
        console.print(f"  {note}", markup=False)
    for kernel in found.kernels:
        console.print()
        _show_kernel(console, kernel, found.kind)


def _show_kernel(console: Console, kernel: ProfiledKernel, kind: str) -> None:
    times = "once" if kernel.launches == 1 else f"{kernel.launches} times"
    console.print(
        f"{kernel.name}: launched {times}, {kind} {_time(kernel.seconds)}, limited by "
        f"{kernel.limiter}"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in kernel.figures.items():
        shown = _text(name, value)
        if shown:
            table.add_row(f"  {name}", shown)
    console.print(table, markup=False)


def _text(name: str, value: object) -> str:
    """A figure for people; what did not happen is left out."""
    match value:
        case None | 0:
            return ""
        case Mapping():
            if not any(value.values()):
                return ""
            times = name.endswith("by part")
            parts = ((k, _time(v) if times else _number(v)) for k, v in value.items() if v)
            return ", ".join(f"{k} {v}" for k, v in parts)
        case float() if name == "occupancy":
            return f"{value:.0%}"
    return _number(value)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
