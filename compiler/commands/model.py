"""What the commands share: naming a model and its sizes, and getting it ready to run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from tilewright import api
from tilewright.backends import load_backend
from tilewright.backends.backend import Backend
from tilewright.errors import OptionError
from tilewright.graph.ir import Graph
from tilewright.options import from_environment
from tilewright.runtime import artifact
from tilewright.runtime.compiled import Compiled
from tilewright.runtime.executable import Executable
from tilewright.runtime.files import check_place
from tilewright.stages import load_function

ARTIFACT = ".tw"
_CONSOLE = "rich.console:Console"
"""Imported where somebody watches: it takes a fifth of the time of a short command."""
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Choices:
    """What is chosen when a model is compiled; a compiled one takes no more of it.

    Attributes:
        shapes: dims by input name, ints or symbol names.
        ranges: the least and the largest size by symbol name; None where there is no largest.
        target: its name; None for the default one.
        math: "fast" or "strict"; None for the default.
        records: a file of records, whose schedules are replayed.
    """

    shapes: Mapping[str, tuple[int | str, ...]]
    ranges: Mapping[str, tuple[int, int | None]]
    target: str | None
    math: str | None
    records: Path | None

    def __bool__(self) -> bool:
        """Whether anything was chosen."""
        return any((self.shapes, self.ranges, self.target, self.math, self.records))


def parse_shape(value: str) -> tuple[str, tuple[int | str, ...]]:
    """Reads ``x:1x3x224x224``; a dim that is not a number is the name of a symbol."""
    name, colon, dims = value.rpartition(":")
    if not colon or not name:
        raise click.BadParameter(f"{value!r}: write an input's name and its dims, x:1x3x224x224")
    parts = re.split(r"x(?=[\dA-Za-z_])", dims) if dims else []
    if not all(re.fullmatch(r"\d{1,18}|[A-Za-z_]\w*", p) for p in parts):
        raise click.BadParameter(f"{value!r}: dims are numbers or names with x between")
    return name, tuple(int(p) if p.isdigit() else p for p in parts)


def parse_dim(value: str) -> tuple[str, int]:
    """Reads ``N=4``: the size of a symbolic dim."""
    name, equals, size = value.partition("=")
    if not equals or not name or not re.fullmatch(r"\d{1,18}", size):
        raise click.BadParameter(f"{value!r}: write a symbol's name and its size, N=4")
    return name, int(size)


def parse_range(value: str) -> tuple[str, tuple[int, int | None]]:
    """Reads ``N=1..64``, ``N=1..`` or ``N=8``: the sizes that a symbolic dim may take."""
    match = re.fullmatch(r"([^=]+)=(\d{1,18})(\.\.(\d{1,18})?)?", value)
    if match is None:
        raise click.BadParameter(f"{value!r}: write a symbol's name and its range, N=1..64")
    low = int(match[2])
    high = low if match[3] is None else int(match[4]) if match[4] else None
    return match[1], (low, high)


def parse_output(value: str) -> Path:
    """Reads the name of a file to write, and refuses at once one that could not be written.

    Raises:
        OutputError: it is a folder, or there is no folder for it (TW-E0601).
    """
    place = Path(value)
    check_place(place)
    return place


SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=parse_shape,
    metavar="NAME:DIMS",
    help="Dims of an input, compiled in: x:1x3x224x224. Names make symbols: x:Nx3x224x224.",
)
DIM = click.option(
    "--dim",
    "dims",
    multiple=True,
    type=parse_dim,
    metavar="SYMBOL=SIZE",
    help="Size of a symbolic dim in this run: N=4.",
)
RANGE = click.option(
    "--range",
    "ranges",
    multiple=True,
    type=parse_range,
    metavar="SYMBOL=LOW..HIGH",
    help="Sizes a symbolic dim may take: N=1..64. The default is 1 and more.",
)
TARGET = click.option(
    "--target",
    metavar="NAME",
    help="What to compile for: native (the default), x86-64-v3, aarch64, ...; doctor lists all.",
)
MATH = click.option(
    "--math",
    type=click.Choice(("fast", "strict")),
    help="strict: convolutions by plain sums, never by Winograd's method.",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads of a call. The default is what CPU affinity and quota allow.",
)
RECORDS = click.option(
    "--records",
    type=click.Path(path_type=Path),
    help="File of records: kernels that tune found better schedules for get those.",
)
NO_CACHE = click.option(
    "--no-cache", is_flag=True, help="Neither look for compiled code on disk nor keep it there."
)


def takes_choices(command: _Command) -> _Command:
    """Gives a command the options of Choices, which it takes as its argument ``choices``."""

    @wraps(command)
    def call(
        *args: Any,
        shapes: Sequence[tuple[str, tuple[int | str, ...]]],
        ranges: Sequence[tuple[str, tuple[int, int | None]]],
        target: str | None,
        math: str | None,
        records: Path | None,
        **others: Any,
    ) -> Any:
        chosen = Choices(dict(shapes), dict(ranges), target, math, records)
        return command(*args, choices=chosen, **others)

    return cast(_Command, TARGET(MATH(SHAPE(RANGE(RECORDS(call))))))


def is_artifact(model: str) -> bool:
    """Whether a model's name is that of a compiled file."""
    return Path(model).suffix == ARTIFACT


def backend_for(target: str | None) -> Backend:
    """The backend of a target, which must be known to it; None stands for the default target.

    Raises:
        TargetError: there is no such target (TW-E0401).
    """
    name = from_environment(None, target=target).target
    backend = load_backend(api.backend_of(name))
    backend.resolve(name)
    return backend


def ready(
    model: str, choices: Choices, *, threads: int | None = None, cache: bool = True
) -> Executable:
    """The model, loaded if it is compiled already and else compiled, with progress shown."""
    if is_artifact(model):
        refuse_choices(model, choices)
        return api.load(model, threads=threads)
    with progress() as tell:
        return api.compile(
            model,
            target=choices.target,
            math=choices.math,
            threads=threads,
            shapes=choices.shapes or None,
            dim_ranges=choices.ranges or None,
            cache=None if cache else False,
            records=choices.records,
            progress=lambda stage: tell(f"{model}: {stage}"),
        )


def built(model: str, choices: Choices, *, cache: bool = True) -> Compiled:
    """The model compiled for any target and not loaded: to be looked at or saved."""
    if is_artifact(model):
        refuse_choices(model, choices)
        return Compiled(artifact.read(model))
    with progress() as tell:
        return api.build(
            model,
            target=choices.target,
            math=choices.math,
            shapes=choices.shapes or None,
            dim_ranges=choices.ranges or None,
            cache=None if cache else False,
            records=choices.records,
            progress=lambda stage: tell(f"{model}: {stage}"),
        )


def refuse_choices(model: str, choices: Choices) -> None:
    """Refuses to choose for a compiled file what was chosen when it was compiled.

    Raises:
        OptionError: something is chosen (TW-E0821).
    """
    if choices:
        raise OptionError(
            f"{model} is compiled already; shapes, ranges, target, math and records are chosen "
            f"when it is",
            code="TW-E0821",
        )


def graph_of(
    model: str,
    shapes: Mapping[str, tuple[int | str, ...]],
    ranges: Mapping[str, tuple[int, int | None]] | None = None,
) -> Graph:
    """The graph of a model that is not compiled yet.

    Raises:
        OptionError: it is compiled, and its graph is not in the file (TW-E0822).
    """
    if is_artifact(model):
        raise OptionError(
            f"{model} is compiled and does not hold the model's graph; give what it was "
            f"compiled from",
            code="TW-E0822",
        )
    return api.import_graph(model, shapes or None, ranges or None)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Gives a function that shows what is going on, where someone watches a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    console = load_function(_CONSOLE)(stderr=True)
    spinner = "dots" if console.encoding.startswith("utf") else "line"
    with console.status("", spinner=spinner) as status:
        yield status.update
