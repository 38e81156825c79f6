"""``tilewright profile``: where the time of a call goes, kernel by kernel, and what bounds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from tilewright.backends import find_profiler
from tilewright.backends.backend import Profile, ProfiledKernel, Subject
from tilewright.backends.cpu.profile import sizes_of
from tilewright.backends.cpu.threads import default_threads
from tilewright.graph.passes import run_passes
from tilewright.options import Options, from_environment
from tilewright.profiling import page
from tilewright.profiling.origins import Timed, origins_of, timed_steps
from tilewright.profiling.page import Texts, split_assembly
from tilewright.profiling.trace import chrome_trace
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.cache import open_cache
from tilewright.runtime.files import replace_file
from tilewright.runtime.program import CallKernel
from tilewright.stages import PIPELINE, Log, load_function
from tilewright.tensor.ir import Func
from tilewright.tensor.text import text as func_text

from .arrays import choose_dims, random_inputs
from .model import (
    DIM,
    THREADS,
    Choices,
    backend_for,
    built,
    graph_of,
    is_artifact,
    parse_output,
    progress,
    takes_choices,
)
from .terminal import open_console, print_table

_COLUMNS = ("of roofline", "GFLOP/s", "GB/s", "flops", "operand bytes")
"""Figures that have a column in the table; others are listed kernel by kernel."""
_SPARE = ("operand bytes", "flops", "GB/s", "source nodes", "GFLOP/s", "calls")
"""Columns that narrow terminals do without, in this order."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A compiled model and what is known of its making.

    Attributes:
        built: what runs.
        kernels: the functions that it calls; none, of a compiled file.
        steps: its kernel calls and copies.
        origins: the source nodes of each.
        texts: recipe, schedule and loops by kernel.
    """

    built: Artifact
    kernels: Mapping[str, Func]
    steps: Sequence[Timed]
    origins: Sequence[tuple[str, ...]]
    texts: Mapping[str, Texts]


@click.command(epilog="Example: tilewright profile model.onnx --dim N=4 --html profile.html")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option(
    "--trace",
    type=parse_output,
    metavar="FILE",
    help="Write one call as a trace for chrome://tracing or Perfetto.",
)
@click.option(
    "--html",
    type=parse_output,
    metavar="FILE",
    help="Write one page that shows everything, offline.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."
)
@takes_choices
@THREADS
@DIM
def profile(
    model: str,
    as_json: bool,
    trace: Path | None,
    html: Path | None,
    seed: int,
    choices: Choices,
    threads: int | None,
    dims: tuple[tuple[str, int], ...],
) -> None:
    """Show where the time of a call of MODEL goes, and how near each kernel is to its roofline.

    On a CPU, kernels are measured inside of whole calls: a time stamp is read before and after
    each. The roofline is what `doctor --measure` found; where it was not run, the machine is
    measured now. On a GPU's target the code runs in a simulator, so no machine of the target is
    needed, all figures are the same at every run, and the times are modelled, never measured.
    """
    options = from_environment(None, target=choices.target, math=choices.math, threads=threads)
    made = _open(model, choices) if is_artifact(model) else _compile(model, choices, options)
    profiler = find_profiler(made.built.target.backend)
    program = made.built.program
    sizes = choose_dims(program.inputs, dict(dims), program.conditions)
    feed = random_inputs(program.inputs, sizes, seed)
    count = options.threads or default_threads()
    subject = Subject(made.built, feed, made.kernels, count, open_cache(options))
    with progress() as tell:
        tell(f"{model}: profiling")
        found = profiler.profile(subject)
    if as_json:
        click.echo(json.dumps(_data(made, found), indent=1))
    else:
        _show(made, found)
    if trace is not None:
        text = chrome_trace(program.name, found, made.steps, made.origins)
        _write(trace, text)
    if html is not None:
        _write(html, _page(made, found, feed, count))


def _open(model: str, choices: Choices) -> _Model:
    """A compiled file, which holds no kernels but their code."""
    compiled = built(model, choices).artifact
    find_profiler(compiled.target.backend).check(compiled.target)
    steps = timed_steps(compiled.program)
    return _Model(compiled, {}, steps, [()] * len(steps), {})


def _compile(model: str, choices: Choices, options: Options) -> _Model:
    """The model and its kernels."""
    backend = backend_for(options.target)
    target = backend.resolve(options.target)
    find_profiler(backend.name).check(target)  # before compiling what cannot be profiled
    with progress() as tell:
        log = Log(lambda stage: tell(f"{model}: {stage}"))
        replay = None
        if choices.records is not None:
            replay = load_function(PIPELINE["replay"])(choices.records, target, options.math)
        build = load_function(PIPELINE["build"])
        # Imported twice: a build lets go of the weights as it packs them.
        done = build(graph_of(model, choices.shapes, choices.ranges), target, backend,
                     open_cache(options), log, options.math, replay)  # fmt: skip
        tell(f"{model}: finding the source of kernels")
        graph = graph_of(model, choices.shapes, choices.ranges)
        passed = run_passes(graph, target, math=options.math)
    kernels = {k.func.name: k.func for k in done.kernels}
    texts = {k.func.name: Texts(k.recipe, k.steps, func_text(k.func)) for k in done.kernels}
    compiled = done.artifact
    if "asm" in backend.stages:
        names = [k.func.name for k in done.kernels]
        assembly = split_assembly(backend.stages["asm"](done.unit), names)
        texts = {
            name: Texts(t.recipe, t.schedule, t.loops, assembly[name]) for name, t in texts.items()
        }
    steps = timed_steps(compiled.program)
    return _Model(compiled, kernels, steps, origins_of(passed, compiled.program, kernels), texts)


def _write(path: Path, text: str) -> None:
    with replace_file(path) as put:
        put(0, text.encode())


def _page(made: _Model, found: Profile, feed: Mapping[str, np.ndarray], threads: int) -> str:
    program = made.built.program
    return page.render(
        page.Subject(
            program.name,
            made.built.target.name,
            threads,
            program,
            found,
            made.steps,
            made.origins,
            made.kernels,
            made.texts,
            sizes_of(program, feed),
        )
    )


def _nodes(made: _Model, kernel: str) -> list[str]:
    """The source nodes that a kernel computes, at all places where it is called."""
    found: dict[str, None] = {}
    for step, origins in zip(made.steps, made.origins, strict=True):
        if isinstance(step, CallKernel) and step.kernel == kernel:
            found |= dict.fromkeys(origins)
    return list(found)


# ------------------------------------------------------------------ reporting


def _data(made: _Model, found: Profile) -> dict[str, Any]:
    return {
        "model": made.built.program.name,
        "target": made.built.target.name,
        "kind": found.kind,
        "notes": list(found.notes),
        f"{found.kind} seconds": sum(k.seconds for k in found.kernels),
        "roofs": dict(found.roofs),
        "kernels": [
            {
                "name": k.name,
                "launches": k.launches,
                f"{found.kind} seconds": k.seconds,
                "limited by": k.limiter,
                "source nodes": _nodes(made, k.name),
                **k.figures,
            }
            for k in found.kernels
        ],
    }


def _show(made: _Model, found: Profile) -> None:
    console = open_console(180)
    total = sum(k.seconds for k in found.kernels)
    program, target = made.built.program, made.built.target
    console.print(
        f"{program.name} for {target.name}: {len(found.kernels)} kernels, {found.kind} "
        f"{_time(total)}",
        markup=False,
    )
    for note in found.notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    used = [c for c in _COLUMNS if any(k.figures.get(c) is not None for k in found.kernels)]
    nodes = {k.name: _nodes(made, k.name) for k in found.kernels}
    columns = [
        Column("kernel"),
        *(Column(name, justify="right") for name in ("calls", f"{found.kind} us", "share")),
        Column("limited by"),
        *(Column(name, justify="right") for name in used),
    ]
    if any(nodes.values()):
        columns.append(Column("source nodes", no_wrap=True, overflow="ellipsis", max_width=48))
    rows = []
    for k in sorted(found.kernels, key=lambda k: -k.seconds):
        cells = [k.name, str(k.launches), f"{k.seconds * 1e6:.2f}", f"{k.seconds / total:.1%}"]
        cells += [k.limiter, *(_cell(c, k.figures.get(c)) for c in used)]
        rows.append([*cells, *([_short(nodes[k.name])] if any(nodes.values()) else [])])
    print_table(console, columns, rows, spare=_SPARE)
    for kernel in found.kernels:
        if kernel.figures.keys() - set(_COLUMNS):
            console.print()
            _show_kernel(console, kernel, found.kind)


def _short(nodes: Sequence[str]) -> str:
    return f"{nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''}" if nodes else ""


def _cell(name: str, value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.0%}" if name == "of roofline" else f"{value:.1f}"
    return _number(value)


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
