"""``tilewright tune``: search for better schedules of a model's kernels."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tilewright.autotune.fleet import Fleet
from tilewright.autotune.search import Step
from tilewright.errors import OptionError
from tilewright.options import from_environment
from tilewright.tuning import tune_source

from .model import (
    ARTIFACT,
    DIM,
    MATH,
    NO_CACHE,
    RANGE,
    SHAPE,
    TARGET,
    THREADS,
    is_artifact,
    parse_output,
)

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_QUIET_SECONDS = 5.0


def parse_budget(value: str) -> float:
    """Reads ``90``, ``90s``, ``1.5m`` or ``2h``: seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r}: write a number of seconds, 60s, or 5m, or 2h")
    return float(match[1]) * _UNITS[match[2]]


@click.command(epilog="Example: tilewright tune zoo:squeezenet --budget 60s --records mine.db")
@click.argument("model")
@click.option(
    "--budget",
    default="60s",
    show_default=True,
    type=parse_budget,
    metavar="TIME",
    help="How long all of it may take: 60s, 5m, 2h.",
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="How many schedules to try at most. The default is what there is time for.",
)
@click.option(
    "--records",
    type=parse_output,
    metavar="FILE",
    help="File that keeps every trial; by default records.db in the cache's folder.",
)
@click.option(
    "--learn",
    is_flag=True,
    help="Let trees that learn from all trials rank candidates, too (pip install '.[tune]').",
)
@click.option(
    "--fleet",
    metavar="ADDRESS",
    help="Build and measure on the workers of a dask scheduler: tcp://host:8786.",
)
@click.option(
    "-o",
    "--output",
    type=parse_output,
    metavar="FILE",
    help="File to write the tuned model to.",
)
@TARGET
@MATH
@THREADS
@DIM
@SHAPE
@RANGE
@NO_CACHE
def tune(
    model: str,
    budget: float,
    trials: int | None,
    records: Path | None,
    learn: bool,
    fleet: str | None,
    output: Path | None,
    target: str | None,
    math: str | None,
    threads: int | None,
    dims: tuple[tuple[str, int], ...],
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...],
    ranges: tuple[tuple[str, tuple[int, int | None]], ...],
    no_cache: bool,
) -> None:
    """Search for faster schedules of MODEL's kernels.

    Every trial is kept in the file of records at once: a search that is interrupted goes on where
    it was, and `compile --records` replays what was found. Kernels are measured in turns with the
    untuned ones, and at the end the whole model with the untuned model: it is never slower. For
    GPUs nothing is measured: schedules are ranked by a model of the simulator's counts.
    """
    if is_artifact(model):
        raise OptionError(
            f"{model} is compiled already; tune what it was compiled from", code="TW-E0821"
        )
    options = from_environment(
        None, target=target, math=math, threads=threads, cache=False if no_cache else None
    )
    place = records
    if place is None and options.cache_dir is not None:
        place = options.cache_dir / "records.db"
    with _kept_anyway(place), _progress(model, budget) as (stage, tell):
        found = tune_source(
            model,
            options,
            budget=budget,
            trials=trials,
            records=place,
            dims=dict(dims),
            progress=stage,
            tell=tell,
            workers=None if fleet is None else Fleet(fleet),
            learn=learn,
            shapes=dict(shapes) or None,
            dim_ranges=dict(ranges) or None,
        )
    click.echo(found.text())
    click.echo(f"{found.trials} schedules tried in {found.seconds:.1f} s")
    if place is not None:
        click.echo(f"records: {place}")
    if output is not None:
        found.compiled.save(output, stages=("tuning",))
        click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
        if output.suffix != ARTIFACT:
            click.echo(
                f"note: commands take a file for compiled by its suffix {ARTIFACT}", err=True
            )


@contextmanager
def _kept_anyway(place: Path | None) -> Iterator[None]:
    """Tells whoever interrupts a search that its trials are not lost."""
    try:
        yield
    except KeyboardInterrupt:
        if place is not None:
            click.echo(
                f"the schedules tried so far are kept in {place}; the same command goes on there",
                err=True,
            )
        raise


@contextmanager
def _progress(
    model: str, budget: float
) -> Iterator[tuple[Callable[[str], None], Callable[[Step], None]]]:
    """Functions that show stages and steps: a bar in a terminal, lines where that is not one."""
    console = Console(stderr=True)
    began = time.monotonic()
    if not console.is_terminal:
        yield (lambda stage: None), _lines(began)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as shown:
        bar = shown.add_task(model, total=budget, state="")

        def stage(name: str) -> None:
            shown.update(bar, completed=time.monotonic() - began, state=name)

        def tell(step: Step) -> None:
            state = f"{step.trials} tried; {step.task.title} {1 / step.best:.2f}x"
            shown.update(bar, completed=time.monotonic() - began, state=state)

        yield stage, tell


def _lines(began: float) -> Callable[[Step], None]:
    """Writes a line where a kernel became better, and else now and then."""
    best: dict[str, float] = {}
    last = [began]

    def tell(step: Step) -> None:
        now = time.monotonic()
        better = step.what == "ok" and step.best < best.get(step.task.key, 1.0)
        best[step.task.key] = step.best
        if not better and now - last[0] < _QUIET_SECONDS:
            return
        last[0] = now
        print(
            f"{now - began:6.1f} s  {step.trials} tried  {step.task.title}: "
            f"{1 / step.best:.2f}x of untuned",
            file=sys.stderr,
            flush=True,
        )

    return tell
