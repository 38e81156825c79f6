"""``tilewright bench``: measure models, against other runtimes and against an earlier run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.table import Column

from tilewright.backends.cpu.peaks import known_peaks
from tilewright.benchmarking.baseline import Baseline, digest_of, keep_artifact, read_baseline
from tilewright.benchmarking.gate import (
    THRESHOLD,
    Comparison,
    Judgement,
    Verdict,
    exit_code,
    judge,
)
from tilewright.benchmarking.operations import count_flops
from tilewright.benchmarking.report import OURS, Report, Row, verdict
from tilewright.benchmarking.session import (
    Case,
    Match,
    compare_files,
    compare_with_stored,
    match,
    measure,
)
from tilewright.benchmarking.significance import rate_below
from tilewright.benchmarking.surroundings import commit_info, cpu_info, machine_info
from tilewright.benchmarking.writers import COLUMNS, WRITERS, cells
from tilewright.options import from_environment
from tilewright.peers import PEERS, as_file, peer_version
from tilewright.runtime import artifact
from tilewright.runtime.cache import open_cache
from tilewright.runtime.files import replace_file

from .arrays import choose_dims, random_inputs, write_arrays
from .model import (
    DIM,
    Choices,
    graph_of,
    is_artifact,
    parse_output,
    progress,
    ready,
    takes_choices,
)
from .terminal import open_console, print_table

FALSE_ALARMS = 0.01
"""The share of comparisons of a model with itself that may alarm."""
_SPARE = ("p99", "file MB", "peak MB", "p90", "of peak", "min", "GFLOP/s", "ready s")
"""Columns that narrow terminals do without, in this order."""


def parse_peers(value: str) -> tuple[str, ...]:
    """Reads ``onnxruntime,openvino``: names of peers, each once; ``all``: those installed."""
    if value == "all":
        return tuple(n for n in PEERS if peer_version(n) is not None)
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


def parse_share(value: str) -> float:
    """Reads ``5%`` or ``0.05``: a share between 0 and 1."""
    try:
        found = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise click.BadParameter(f"{value!r}: write a share like 5% or 0.05")
    return found


@click.command(epilog="Example: tilewright bench zoo:resnet50 --compare onnxruntime --threads 1,2")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--compare",
    "peers",
    type=parse_peers,
    metavar="PEERS",
    default="",
    help=f"Peers to measure in turns with us: {','.join(PEERS)}; all: those that are there.",
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
    "--time-budget",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Seconds at most for each model and number of threads, all contenders together.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."
)
@click.option(
    "--json",
    type=parse_output,
    metavar="FILE",
    help="Write the report as pytest-benchmark's JSON; - prints.",
)
@click.option("--junit", type=parse_output, metavar="FILE", help="Write it as JUnit XML; - prints.")
@click.option(
    "--markdown", type=parse_output, metavar="FILE", help="Write it as a Markdown table; - prints."
)
@click.option("--csv", type=parse_output, metavar="FILE", help="Write it as CSV; - prints.")
@click.option(
    "--keep-artifacts",
    is_flag=True,
    help="Keep the compiled files beside the --json file, for later runs to measure again.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, allow_dash=False),
    help="A --json file of an earlier run to compare with.",
)
@click.option("--gate", is_flag=True, help="Exit 1 if a model got slower, 5 if it is not clear.")
@click.option(
    "--threshold",
    type=parse_share,
    metavar="SHARE",
    default=f"{THRESHOLD:.0%}",
    show_default=True,
    help="The slow-down that is to be found.",
)
@click.option(
    "--aa",
    type=click.IntRange(1),
    metavar="COUNT",
    help="Put each model through the gate against itself so often, and show the false alarms.",
)
@DIM
@takes_choices
def bench(
    models: tuple[str, ...],
    peers: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    seed: int,
    keep_artifacts: bool,
    baseline: Path | None,
    gate: bool,
    threshold: float,
    aa: int | None,
    dims: tuple[tuple[str, int], ...],
    choices: Choices,
    **files: Path | None,
) -> int:
    """Measure each MODEL: time of a call, operations a second, compile time, memory, file size.

    With --compare, peers run in turns with Tilewright, each in a process of its own, on the same
    inputs and threads, in float32, once their outputs are seen to agree (exit code 1 if they do
    not). A ratio is Tilewright's time over the peer's, with a 95 % interval: above 1, Tilewright
    loses, and the table says so. Measuring ends when all intervals are within 2 %, or with the
    budget.
    "of peak" is a share of what `doctor --measure` found.

    With --baseline, each model is compared with an earlier run, best with the compiled file that
    the run kept (--keep-artifacts), in turns with the new one. With --gate the exit code is 1 for
    a regression: the interval lies above half of the threshold, a rank test agrees, and a second
    comparison repeats it; so what is slower by the threshold is found. It is 5 where the machine
    is too noisy to judge. Equal code is never slower.
    """
    _check(models, peers, gate, baseline, aa, keep_artifacts, files)
    base = None if baseline is None else read_baseline(baseline)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tilewright-")))
        cases = []
        for number, model in enumerate(models):
            place = folder / str(number)
            place.mkdir()
            source = stack.enter_context(as_file(model)) if peers else None
            label = _label(model, models)
            cases.append(_open(model, label, place, choices, dict(dims), seed, source))
        if aa is not None:
            return _against_itself(cases, threads, seconds, threshold, aa)
        peaks = known_peaks(open_cache(from_environment()))
        rows: list[Row] = []
        left_out: list[str] = []
        for case in cases:
            for count in threads:
                with progress() as tell:
                    tell(f"{case.model}: measuring with {count} threads")
                    calibrated = files["json"] is not None
                    more, refused = measure(
                        case, peers, count, seconds, peaks, calibrated=calibrated
                    )
                rows += more
                left_out += refused
        judgements = [] if base is None else _judge(cases, threads, base, seconds, threshold)
        left_out += [] if base is None else _unmeasured(cases, threads, base)
        report_file = files["json"]
        if keep_artifacts and report_file is not None:
            rows = [_kept(row, cases, report_file) for row in rows]
    report = Report(rows, machine_info(), commit_info(), judgements, left_out)
    _write(report, files)
    if any(row.differs for row in rows):
        return 1
    return exit_code([j.verdict for j in judgements]) if gate else 0


def _check(
    models: Sequence[str],
    peers: Sequence[str],
    gate: bool,
    baseline: Path | None,
    aa: int | None,
    keep_artifacts: bool,
    files: Mapping[str, Path | None],
) -> None:
    """Refuses options that do not go together."""
    for model in models:
        if peers and is_artifact(model):
            raise click.UsageError(f"{model}: peers need the model itself, not a compiled file")
    if len(set(models)) < len(models):
        raise click.UsageError("a model is named twice")
    if gate and baseline is None and aa is None:
        raise click.UsageError("--gate needs a --baseline to compare with")
    if keep_artifacts and files["json"] in (None, Path("-")):
        raise click.UsageError("--keep-artifacts keeps files beside that of --json: name one")
    if list(files.values()).count(Path("-")) > 1:
        raise click.UsageError("only one report can be printed")


def _label(model: str, models: Sequence[str]) -> str:
    """What a model is called in reports: the file's name alone, where that is enough."""
    short = [_short(m) for m in models]
    name = _short(model)
    return name if short.count(name) == 1 else _printable(model)


def _short(model: str) -> str:
    name = Path(model).stem if Path(model).suffix else model
    return _printable(name)


def _printable(name: str) -> str:
    """A file's name as text: in reports, bytes that are none are written ``\\xff``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _open(
    model: str,
    label: str,
    folder: Path,
    choices: Choices,
    dims: Mapping[str, int],
    seed: int,
    source: Path | None,
) -> Case:
    """Compiles a model, without any cache, and writes what other processes need of it."""
    began = time.perf_counter()
    exe = ready(model, choices, cache=False)
    took = time.perf_counter() - began
    chosen = choose_dims(exe.inputs, dims, exe.artifact.interface.conditions)
    feed = random_inputs(exe.inputs, chosen, seed)
    file, feed_file = folder / "model.tw", folder / "inputs.npz"
    exe.save(file)
    write_arrays(feed_file, feed)
    flops = (
        None
        if is_artifact(model)
        else count_flops(graph_of(model, choices.shapes, choices.ranges), chosen)
    )
    digest = digest_of(artifact.read(file))
    return Case(label, file, source, feed, feed_file, chosen, took, flops, digest)


def _kept(row: Row, cases: Sequence[Case], report: Path) -> Row:
    """A row of ours with its compiled file kept beside the report."""
    if row.engine != OURS:
        return row
    case = next(c for c in cases if c.model == row.model)
    return replace(row, artifact=keep_artifact(case.file, report, row.model, case.digest))


# ------------------------------------------------------------------ the gate


def _judge(
    cases: Sequence[Case],
    threads: Sequence[int],
    base: Baseline,
    seconds: float,
    threshold: float,
) -> list[Judgement]:
    """Compares every model with the baseline and judges all of them together."""
    cpu = str(cpu_info()["brand_raw"])
    places = [(case, count) for case in cases for count in threads]
    matches = [match(case, count, base, cpu) for case, count in places]
    changed = [
        k for k, m in enumerate(matches) if m is not None and m.entry.digest != places[k][0].digest
    ]

    def compare(k: int, *, again: bool) -> Comparison:
        case, count = places[changed[k]]
        found = matches[changed[k]]
        assert found is not None
        with progress() as tell:
            turn = "again " if again else ""
            tell(f"{case.model}: comparing {turn}with the baseline, {count} threads")
            return _compare(case, found, count, seconds, threshold, again=again)

    first = [compare(k, again=False) for k in range(len(changed))]
    verdicts = judge(first, lambda k: compare(k, again=True), threshold)
    judged = {k: (first[i], *verdicts[i]) for i, k in enumerate(changed)}
    result = []
    for k, (case, count) in enumerate(places):
        found = matches[k]
        if found is None:
            result.append(Judgement(case.model, count, Verdict.NEW))
        elif k in judged:
            comparison, said, second = judged[k]
            result.append(Judgement(case.model, count, said, comparison, second, found.why))
        else:
            note = "the code and the constants are the same bytes"
            result.append(Judgement(case.model, count, Verdict.UNCHANGED, note=note))
    return result


def _unmeasured(cases: Sequence[Case], threads: Sequence[int], base: Baseline) -> list[str]:
    """What a baseline holds that this run leaves out: a model that got another name, perhaps."""
    measured = {(case.model, count) for case in cases for count in threads}
    return [
        f"{model} with {count} thread{'s' if count > 1 else ''}: in the baseline, not measured now"
        for model, count in base.entries
        if (model, count) not in measured
    ]


def _compare(
    case: Case, found: Match, threads: int, seconds: float, threshold: float, *, again: bool
) -> Comparison:
    if not found.runs:
        return compare_with_stored(case, found.entry, threads, seconds, threshold=threshold)
    old = found.entry.artifact
    assert old is not None
    return compare_files(
        case.file, old, case.feed, threads, seconds, threshold=threshold, old_first=again
    )


def _against_itself(
    cases: Sequence[Case], threads: Sequence[int], seconds: float, threshold: float, count: int
) -> int:
    """Puts models through the gate against themselves; 5 if more alarm than should."""
    said: list[Verdict] = []
    with progress() as tell:
        for case in cases:
            for n in threads:
                for trial in range(count):
                    tell(f"{case.model}: against itself, {n} threads, {trial + 1} of {count}")
                    said.append(_trial(case, n, seconds, threshold))
    alarms, trials = said.count(Verdict.REGRESSION), len(said)
    click.echo(
        f"{alarms} false alarms in {trials} comparisons of a model with itself: "
        f"{alarms / trials:.1%}, with 95 % confidence at most {rate_below(alarms, trials):.1%}; "
        f"{said.count(Verdict.NOISY)} too noisy to judge"
    )
    return 0 if alarms / trials <= FALSE_ALARMS else 5


def _trial(case: Case, threads: int, seconds: float, threshold: float) -> Verdict:
    def compare(again: bool) -> Comparison:
        return compare_files(
            case.file, case.file, case.feed, threads, seconds, threshold=threshold, old_first=again
        )

    ((said, _),) = judge([compare(False)], lambda _: compare(True), threshold)
    return said


# ------------------------------------------------------------------ reporting


def _write(report: Report, files: Mapping[str, Path | None]) -> None:
    texts = {Path(p): WRITERS[kind](report) for kind, p in files.items() if p is not None}
    if Path("-") not in texts:
        _show(report)
    for path, text in texts.items():
        if str(path) == "-":
            click.echo(text, nl=False)
            continue
        with replace_file(path) as put:
            put(0, text.encode())
    for line in report.left_out:
        click.echo(line, err=True)
    for row in report.rows:
        for what in row.differs:
            click.echo(f"DIFFERS: {row.model}: from {row.engine}: {what}", err=True)


def _show(report: Report) -> None:
    console = open_console(200)
    shown = [cells(row) for row in report.rows]
    used = [k for k in range(len(COLUMNS)) if any(row[k] for row in shown)]
    columns = [Column(COLUMNS[k][0], justify="left" if k < 3 else "right") for k in used]
    rows = [[texts[k] for k in used] for texts in shown]
    styles = ["red" if row.loses else None for row in report.rows]
    print_table(console, columns, rows, spare=_SPARE, styles=styles)
    for row in report.rows:
        if row.ratio is not None:
            style = "bold red" if row.loses else None
            console.print(verdict(row), markup=False, style=style, soft_wrap=True)
    for judgement in report.judgements:
        bad = judgement.verdict in (Verdict.REGRESSION, Verdict.NOISY)
        style = "bold red" if bad else None
        console.print(str(judgement), markup=False, style=style, soft_wrap=True)
