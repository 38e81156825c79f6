"""``tilewright bench``: measure models, also against other runtimes."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tilewright.bench import Timing, count_flops, interleave, peak_memory, ratio
from tilewright.peers import PEERS, Agreement, Peer, agreements, as_file, open_peer
from tilewright.runtime.artifact import replace_file
from tilewright.runtime.executable import Executable
from tilewright.version import __version__

from .arrays import choose_dims, random_inputs, write_arrays
from .model import DIM, SHAPE, TARGET, graph_of, is_artifact, progress, ready

TOLERANCE = 1e-4
OURS = "tilewright"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one contender on one model with one number of threads.

    Attributes:
        model, threads, engine, version: what.
        median, p90, p99, minimum: milliseconds a call.
        calls: how many were timed.
        gflops: billions of operations a second at the median; None where they are not known.
        ready_seconds: ours: compiling without any cache (loading, of a .tw file); a peer's: until
            its session is ready.
        peak_bytes: resident, of a fresh process that loads the model and runs it.
        ratio: our time over this peer's, block by block; None for ourselves.
        difference: largest \\|a-b\\| of our outputs over the largest \\|b\\| of this peer's.
    """

    model: str
    threads: int
    engine: str
    version: str
    median: float
    p90: float
    p99: float
    minimum: float
    calls: int
    gflops: float | None
    ready_seconds: float
    peak_bytes: int
    ratio: float | None = None
    difference: float | None = None


@dataclass(slots=True)
class Session:
    """One model while it is measured.

    Attributes:
        exe: compiled.
        compile_seconds: how long that took.
        file: of the compiled model, for other processes.
        feed, feed_file: the inputs.
        flops: of one call, where the graph is known.
        wrong: outputs that differ from a peer's.
    """

    model: str
    exe: Executable
    compile_seconds: float
    file: Path
    feed: dict[str, np.ndarray]
    feed_file: Path
    flops: int | None
    wrong: list[tuple[str, Agreement]] = field(default_factory=list)


def parse_peers(value: str) -> tuple[str, ...]:
    """Reads ``onnxruntime,openvino``: names of peers, each once."""
    names = tuple(dict.fromkeys(n for n in value.split(",") if n))
    unknown = [n for n in names if n not in PEERS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(PEERS)}")
    return names


def parse_threads(value: str) -> tuple[int, ...]:
    """Reads ``1,2``: numbers of threads, each once."""
    parts = value.split(",")
    if not all(p.isascii() and p.isdigit() and 1 <= int(p) <= 1024 for p in parts):
        raise click.BadParameter(f"{value!r}: write numbers of threads in 1..1024, like 1,2")
    return tuple(dict.fromkeys(int(p) for p in parts))


@click.command(epilog="Example: tilewright bench zoo:resnet50 --compare onnxruntime --threads 1,2")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--compare",
    "peers",
    type=parse_peers,
    metavar="PEERS",
    default="",
    help="Peers to measure in turns with us: onnxruntime,openvino.",
)
@click.option(
    "--threads",
    type=parse_threads,
    metavar="COUNTS",
    default="1",
    show_default=True,
    help="Numbers of threads to measure with: 1,2.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="How long to measure each contender of each row.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."
)
@click.option(
    "--json",
    "report",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File to write all figures to; - prints them in place of the table.",
)
@DIM
@SHAPE
@TARGET
def bench(
    models: tuple[str, ...],
    peers: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    seed: int,
    report: Path | None,
    dims: tuple[tuple[str, int], ...],
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...],
    target: str | None,
) -> int:
    """Measure each MODEL: time of a call, operations a second, compile time, peak memory.

    With --compare, peers run in turns with Tilewright in the same process on the same inputs,
    once their outputs are seen to agree (exit code 1 if they do not). A ratio is Tilewright's
    time over the peer's: above 1, Tilewright loses, and the table says so.
    """
    rows: list[Row] = []
    wrong: list[tuple[str, str, Agreement]] = []
    for model in models:
        if peers and is_artifact(model):
            raise click.UsageError(f"{model}: peers need the model itself, not a compiled file")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tilewright-")))
            session = _open(model, folder, dict(shapes), dict(dims), target, seed)
            source = stack.enter_context(as_file(model)) if peers else None
            for count in threads:
                rows += _measure(session, source, peers, count, seconds)
            wrong += [(model, peer, found) for peer, found in session.wrong]
    _write(rows, report)
    for model, peer, found in wrong:
        size = found.note or f"{found.relative:.2e} of the largest value"
        click.echo(f"DIFFERS: {model}: {found.output} from {peer}: {size}", err=True)
    return 1 if wrong else 0


def _open(
    model: str,
    folder: Path,
    shapes: Mapping[str, tuple[int | str, ...]],
    dims: Mapping[str, int],
    target: str | None,
    seed: int,
) -> Session:
    began = time.perf_counter()
    exe = ready(model, shapes=shapes, target=target, cache=False)
    took = time.perf_counter() - began
    sizes = choose_dims(exe.inputs, dims, exe.program.conditions)
    feed = random_inputs(exe.inputs, sizes, seed)
    file, feed_file = folder / "model.tw", folder / "inputs.npz"
    exe.save(file)
    write_arrays(feed_file, feed)
    flops = None if is_artifact(model) else count_flops(graph_of(model, shapes), sizes)
    return Session(model, exe, took, file, feed, feed_file, flops)


def _measure(
    session: Session, source: Path | None, names: Sequence[str], threads: int, seconds: float
) -> Iterator[Row]:
    exe, feed = session.exe, session.feed
    exe.threads = threads
    peers = [] if source is None else [open_peer(n, source, threads) for n in names]
    outputs = list(exe.run(feed).values())
    names_out = [s.name for s in exe.outputs]
    found = {p.name: agreements(names_out, outputs, list(p.run(feed))) for p in peers}
    session.wrong += [
        (peer, a) for peer, all_of in found.items() for a in all_of if a.relative > TOLERANCE
    ]
    with progress() as tell:
        tell(f"{session.model}: measuring with {threads} threads")
        contenders = [lambda: exe.run(feed), *(_call(p, feed) for p in peers)]
        timings = interleave(contenders, seconds * len(contenders))
    del outputs
    peak = peak_memory(OURS, session.file, session.feed_file, threads)
    yield _row(session, threads, OURS, __version__, timings[0], session.compile_seconds, peak)
    for peer, timing in zip(peers, timings[1:], strict=True):
        assert source is not None
        peak = peak_memory(peer.name, source, session.feed_file, threads)
        yield _row(
            session,
            threads,
            peer.name,
            peer.version,
            timing,
            peer.seconds,
            peak,
            ratio(timings[0], timing),
            max(a.relative for a in found[peer.name]),
        )


def _call(peer: Peer, feed: Mapping[str, np.ndarray]) -> Any:
    return lambda: peer.run(feed)


def _row(
    session: Session,
    threads: int,
    engine: str,
    version: str,
    timing: Timing,
    ready_seconds: float,
    peak: int,
    against: float | None = None,
    difference: float | None = None,
) -> Row:
    return Row(
        model=session.model,
        threads=threads,
        engine=engine,
        version=version,
        median=timing.median * 1e3,
        p90=timing.percentile(90) * 1e3,
        p99=timing.percentile(99) * 1e3,
        minimum=timing.minimum * 1e3,
        calls=len(timing.calls),
        gflops=None if session.flops is None else session.flops / timing.median / 1e9,
        ready_seconds=ready_seconds,
        peak_bytes=peak,
        ratio=against,
        difference=difference,
    )


# ------------------------------------------------------------------ reporting


def _write(rows: Sequence[Row], report: Path | None) -> None:
    if report is None or str(report) != "-":
        _print(rows)
    if report is None:
        return
    text = json.dumps({"machine": _machine(), "results": [asdict(r) for r in rows]}, indent=1)
    if str(report) == "-":
        click.echo(text)
        return
    with replace_file(report) as put:
        put(0, text.encode())


def _machine() -> dict[str, Any]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _print(rows: Sequence[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "threads", "engine"):
        table.add_column(column)
    for column in ("median ms", "p90", "p99", "min", "GFLOP/s", "ready s", "peak MB", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            str(row.threads),
            f"{row.engine} {row.version}",
            *(f"{v:.3f}" for v in (row.median, row.p90, row.p99, row.minimum)),
            "" if row.gflops is None else f"{row.gflops:.1f}",
            f"{row.ready_seconds:.2f}",
            f"{row.peak_bytes / 1e6:.0f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    console.print(table, markup=False)
    for row in rows:
        if row.ratio is not None:
            console.print(_verdict(row), markup=False)


def _verdict(row: Row) -> str:
    assert row.ratio is not None
    where = f"{row.model} with {row.threads} threads"
    if row.ratio > 1:
        return f"{where}: Tilewright LOSES to {row.engine}, taking {row.ratio:.2f}x its time"
    return f"{where}: Tilewright takes {row.ratio:.2f}x the time of {row.engine}"
