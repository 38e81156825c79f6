"""Measuring one model: against peers, against its baseline, and against itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilewright import api
from tilewright.backends.cpu.peaks import Meter, Peaks, calibration
from tilewright.backends.cpu.target import resolve_target
from tilewright.errors import ArtifactError, OptionError, TargetError
from tilewright.peers import Agreement, agreements, require_peer
from tilewright.runtime.executable import Executable
from tilewright.version import __version__

from .baseline import Baseline, Entry
from .engine import Engine
from .footprint import peak_memory
from .gate import NARROW, ROUNDS, THRESHOLD, Comparison, between_runs, settled, side_by_side
from .measure import PRECISION, block_of, interleave, precise, take_turns
from .report import OURS, Row
from .significance import paired_ratio

TOLERANCE = 1e-4
BLOCK_SECONDS = 0.01
"""Of a comparison with a baseline: many short turns see a disturbance on both sides."""
EARLIEST = 15
"""After how many rounds a measurement may end because its intervals are narrow."""

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Case:
    """One model, compiled and ready to be measured.

    Attributes:
        model: what it is called in reports.
        file: the compiled model.
        source: the model in the format that peers take; None where there are no peers.
        feed, feed_file: the inputs, here and for other processes.
        sizes: of the symbolic dims, by name.
        compile_seconds: how long compiling took; loading, of a .tw file.
        flops: of one call, where the graph is known.
        digest: of the compiled model.
    """

    model: str
    file: Path
    source: Path | None
    feed: Feed
    feed_file: Path
    sizes: Mapping[str, int]
    compile_seconds: float
    flops: int | None
    digest: str


def measure(
    case: Case,
    names: Sequence[str],
    threads: int,
    seconds: float,
    peaks: Peaks | None,
    *,
    calibrated: bool = False,
) -> tuple[list[Row], list[str]]:
    """The rows of a model with a number of threads, ours and one a peer; and who refuses it.

    Outputs are compared before anything is timed; we run in this process, each peer in one of its
    own, and all take turns. Rounds end early once all ratios (without
    peers, our own time) are known to PRECISION.

    Args:
        case: the model.
        names: peers.
        threads: of a call, of everybody.
        seconds: how long to measure at most, all together.
        peaks: what the machine reaches, where that is known.
        calibrated: whether to measure a fixed piece of work too, for baselines.
    """
    exe = api.load(case.file, threads=threads)
    outputs = list(exe.run(case.feed).values())
    names_out = [s.name for s in exe.outputs]
    meter = Meter(resolve_target()) if calibrated else None
    with ExitStack() as stack:
        peers, refusals = _open_peers(stack, case, names, threads)
        found = {
            e.name: agreements(names_out, outputs, _as_types(e.outputs[0], outputs)) for e in peers
        }
        del outputs
        blocks = [block_of(_ours(exe, case.feed)), *(e.block for e in peers)]
        if meter is not None:
            stack.callback(meter.close)
            blocks.append(block_of(calibration(meter)))
        timings = take_turns(
            blocks, seconds, enough=precise(PRECISION, len(peers)), earliest=EARLIEST
        )
    ours, *theirs = timings
    rows = [
        Row(
            case.model, threads, OURS, __version__, ours, case.compile_seconds,
            peak_memory(OURS, case.file, case.feed_file, threads),
            flops=case.flops,
            peak_flops=None if peaks is None else peaks.flops_of(threads),
            sizes=case.sizes,
            artifact_bytes=case.file.stat().st_size,
            digest=case.digest,
            calibration=timings[-1].blocks if calibrated else (),
            calibration_code="" if meter is None else meter.digest,
        )
    ]  # fmt: skip
    for peer, timing in zip(peers, theirs, strict=False):
        agreed = found[peer.name]
        assert case.source is not None
        rows.append(
            Row(
                case.model, threads, peer.name, peer.version, timing, peer.seconds,
                peak_memory(peer.name, case.source, case.feed_file, threads),
                flops=case.flops,
                peak_flops=rows[0].peak_flops,
                ratio=paired_ratio(ours.blocks, timing.blocks),
                difference=max((a.relative for a in agreed), default=0.0),
                differs=tuple(_difference(a) for a in agreed if not a.relative <= TOLERANCE),
                sizes=case.sizes,
            )
        )  # fmt: skip
    return rows, refusals


def _open_peers(
    stack: ExitStack, case: Case, names: Sequence[str], threads: int
) -> tuple[list[Engine], list[str]]:
    """The peers that take a model and run it, and what the others say.

    Each has a process of its own, which stands still unless it is its turn: the threads of most
    spin for a while after a call, and would take ours their cores.

    Raises:
        OptionError: a peer is not installed (TW-E0824).
    """
    for name in names:
        require_peer(name)
    opened: list[Engine] = []
    refusals: list[str] = []
    for name in names:
        assert case.source is not None
        # One after the other: how long each takes to get ready is reported.
        engine = stack.enter_context(Engine(name, case.source, threads, [case.feed_file]))
        try:
            engine.ready()
        except OptionError as error:
            refusals.append(f"{case.model}: {error.message}")
        else:
            opened.append(engine)
    return opened, refusals


def _as_types(theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What another process wrote to a file, which holds the types that NumPy itself has."""
    pairs = zip(theirs, ours, strict=True)
    return [b if a.dtype.kind in "biufc" else b.astype(a.dtype) for b, a in pairs]


def _difference(found: Agreement) -> str:
    return f"{found.output}: {found.note or f'{found.relative:.2e} of the largest value'}"


def _ours(exe: Executable, feed: Feed) -> Callable[[], object]:
    arrays = [feed[spec.name] for spec in exe.inputs]
    return lambda: exe(*arrays)


# ------------------------------------------------------------------ the gate


def compare_files(
    new: Path,
    old: Path,
    feed: Feed,
    threads: int,
    seconds: float,
    *,
    threshold: float = THRESHOLD,
    old_first: bool = False,
) -> Comparison:
    """Compares two compiled models that take turns, both freshly loaded from their files.

    What runs on one thread is timed by that thread's own clock, which stands still while another
    process has the core: a busy neighbour costs precision, not verdicts.

    Args:
        new, old: the files.
        feed: the inputs of both.
        threads: of a call.
        seconds: how long to measure at most.
        threshold: the slow-down that is to be found.
        old_first: which is loaded first and begins: the second comparison has it the other way
            around, so that what follows from the order of loading does not repeat itself.

    Raises:
        ArtifactError, TargetError: one of them cannot be loaded here.
    """
    files = (old, new) if old_first else (new, old)
    loaded = [api.load(f, threads=threads) for f in files]
    calls = [_ours(exe, feed) for exe in loaded]
    first, second = interleave(
        calls,
        seconds,
        enough=settled(threshold, old_first=old_first),
        earliest=ROUNDS,
        block_seconds=BLOCK_SECONDS,
        clock=time.thread_time if threads == 1 else None,
    )
    ours, theirs = (second, first) if old_first else (first, second)
    return side_by_side(ours.blocks, theirs.blocks)


@dataclass(frozen=True, slots=True)
class Match:
    """How a model of this run is compared with its baseline.

    Attributes:
        entry: what the baseline knows.
        runs: whether the old code can be run here.
        why: if not, why not.
    """

    entry: Entry
    runs: bool
    why: str = ""


def match(case: Case, threads: int, baseline: Baseline, cpu: str) -> Match | None:
    """Finds a model in a baseline; None where it is not there.

    Raises:
        OptionError: it was measured on other inputs, or nothing of it can be compared here
            (TW-E0831).
    """
    entry = baseline.entries.get((case.model, threads))
    if entry is None:
        return None
    if dict(entry.sizes) != dict(case.sizes):
        raise OptionError(
            f"{case.model}: the baseline was measured with {_sizes(entry.sizes)}, this run with "
            f"{_sizes(case.sizes)}; choose the same with --dim",
            code="TW-E0831",
        )
    if entry.digest == case.digest:
        return Match(entry, True)
    why = "there is no compiled file of the baseline (--keep-artifacts keeps it)"
    if entry.artifact is not None:
        try:
            old = api.load(entry.artifact, threads=threads)
        except (ArtifactError, TargetError) as error:
            why = f"the baseline's compiled file does not load: {error}"
        else:
            new = api.load(case.file, threads=threads)
            if [str(s) for s in old.inputs] != [str(s) for s in new.inputs]:
                raise OptionError(
                    f"{case.model}: the baseline takes {', '.join(map(str, old.inputs))}, the "
                    f"model now {', '.join(map(str, new.inputs))}; measure a new baseline",
                    code="TW-E0831",
                )
            return Match(entry, True)
    if not entry.calibration:
        raise OptionError(f"{case.model}: {why}, and has no calibrated times", code="TW-E0831")
    if baseline.cpu != cpu:
        raise OptionError(
            f"{case.model}: {why}, and its times are those of another CPU ({baseline.cpu}, here "
            f"{cpu})",
            code="TW-E0831",
        )
    if entry.calibration_code != _calibration_code():
        raise OptionError(
            f"{case.model}: {why}, and its times are in units of other code than this "
            f"Tilewright's calibration",
            code="TW-E0831",
        )
    return Match(entry, False, why)


def _calibration_code() -> str:
    meter = Meter(resolve_target())
    meter.close()
    return meter.digest


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sizes.items()) or "no symbolic dims"


def compare_with_stored(
    case: Case, entry: Entry, threads: int, seconds: float, *, threshold: float = THRESHOLD
) -> Comparison:
    """Compares a model with the times of another run, in units of the calibration."""
    exe = api.load(case.file, threads=threads)
    meter = Meter(resolve_target())
    try:
        calls = [_ours(exe, case.feed), calibration(meter)]
        known = precise(threshold * NARROW, 1)
        ours, fixed = interleave(calls, seconds, enough=known, earliest=ROUNDS)
    finally:
        meter.close()
    return between_runs(ours.blocks, fixed.blocks, entry.blocks, entry.calibration)
