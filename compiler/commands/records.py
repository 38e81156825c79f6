"""``tilewright records``: what a file of records holds; merging, exporting and importing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.table import Table

from tilewright.autotune.interchange import export_lines, import_lines
from tilewright.autotune.records import Records, open_records, read_records
from tilewright.errors import ArtifactError
from tilewright.runtime.files import replace_file

from .model import parse_output
from .terminal import open_console


@click.command(epilog="Example: tilewright records mine.db --merge theirs.db --export all.jsonl")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--merge",
    "others",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Take what another file of records knows better.",
)
@click.option(
    "--import",
    "lines",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Take what exported JSON lines know better.",
)
@click.option(
    "--export", "output", type=parse_output, metavar="FILE", help="Write all of it as JSON lines."
)
def records(
    file: Path, others: tuple[Path, ...], lines: tuple[Path, ...], output: Path | None
) -> None:
    """Show what FILE, made by tune, knows of kernels; merge, import and export it."""
    if not others and not lines:
        with read_records(file) as found:
            _finish(file, found, output)
        return
    with open_records(file) as found:
        for other in others:
            with read_records(other) as more:
                click.echo(f"{other}: {found.merge(more)} rows taken")
        for place in lines:
            taken = import_lines(found, _read_lines(place), str(place))
            click.echo(f"{place}: {taken} rows taken")
        _finish(file, found, output)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}", code="TW-E0533") from error


def _finish(file: Path, found: Records, output: Path | None) -> None:
    if output is not None:
        written = "".join(f"{line}\n" for line in export_lines(found))
        with replace_file(output) as put:
            put(0, written.encode())
        click.echo(f"{output}: {written.count(chr(10))} rows")
    chosen = found.choices()
    counts: Counter[str] = Counter()
    best: dict[str, float] = {}
    for trial in found.trials():
        counts[trial.key] += 1
        if trial.status == "ok":
            best[trial.key] = min(trial.ratio, best.get(trial.key, 1.0))
    table = Table(box=None, pad_edge=False)
    for head in ("kernel", "target", "tried", "best", "replayed"):
        table.add_column(head, justify="right" if head in ("tried", "best") else "left")
    for about in found.about():
        replayed = ", ".join(f"{q}={a}" for q, a in chosen.get(about.key, {}).items())
        gain = f"{1 / best[about.key]:.2f}x" if best.get(about.key) else ""
        table.add_row(about.title, about.target, str(counts[about.key]), gain, replayed)
    console = open_console(160)
    console.print(f"{file}: {len(found.about())} kernels, {sum(counts.values())} trials")
    console.print(table)
