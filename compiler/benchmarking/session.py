"""Measuring one model: against peers, against its baseline, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilewright import api
from tilewright.backends.cpu.peaks import Meter, Peaks, calibration
from tilewright.backends.cpu.target import resolve_target
from tilewright.errors import ArtifactError, OptionError, TargetError
from tilewright.peers import Peer, agreements, open_peer
from tilewright.runtime.executable import Executable
from tilewright.version import __version__

from .baseline import Baseline, Entry
from .footprint import peak_memory
from .gate import PRECISION, ROUNDS, Comparison, between_runs, side_by_side
from .measure import interleave, precise
from .report import OURS, Row
from .significance import paired_ratio

TOLERANCE = 1e-4
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
) -> list[Row]:
    """The rows of a model with a number of threads: ours, and one a peer.

    Outputs are compared before anything is timed; rounds end early once all ratios (without
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
    assert case.source is not None or not names
    peers = [open_peer(n, case.source, threads) for n in names] if case.source else []
    outputs = list(exe.run(case.feed).values())
    names_out = [s.name for s in exe.outputs]
    found = {p.name: agreements(names_out, outputs, list(p.run(case.feed))) for p in peers}
    del outputs
    meter = Meter(resolve_target()) if calibrated else None
    try:
        contenders = [_ours(exe, case.feed), *(_call(p, case.feed) for p in peers)]
        if meter is not None:
            contenders.append(calibration(meter))
        timings = interleave(
            contenders, seconds, enough=precise(PRECISION, len(peers)), earliest=EARLIEST
        )
    finally:
        if meter is not None:
            meter.close()
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
        )
    ]  # fmt: skip
    for peer, timing in zip(peers, theirs, strict=False):
        assert case.source is not None
        of_peer = found[peer.name]
        wrong = [a for a in of_peer if not a.relative <= TOLERANCE]
        rows.append(
            Row(
                case.model, threads, peer.name, peer.version, timing, peer.seconds,
                peak_memory(peer.name, case.source, case.feed_file, threads),
                flops=case.flops,
                peak_flops=rows[0].peak_flops,
                ratio=paired_ratio(ours.blocks, timing.blocks),
                difference=max((a.relative for a in of_peer), default=0.0),
                differs=tuple(
                    f"{a.output}: {a.note or f'{a.relative:.2e} of the largest value'}"
                    for a in wrong
                ),
                sizes=case.sizes,
            )
        )  # fmt: skip
    return rows


def _ours(exe: Executable, feed: Feed) -> Callable[[], object]:
    return lambda: exe.run(feed)


def _call(peer: Peer, feed: Feed) -> Callable[[], object]:
    return lambda: peer.run(feed)


# ------------------------------------------------------------------ the gate


def compare_files(
    new: Path, old: Path, feed: Feed, threads: int, seconds: float, *, old_first: bool = False
) -> Comparison:
    """Compares two compiled models that take turns, both freshly loaded from their files.

    Args:
        new, old: the files.
        feed: the inputs of both.
        threads: of a call.
        seconds: how long to measure at most.
        old_first: which is loaded first and begins: the second comparison has it the other way
            around, so that what follows from the order of loading does not repeat itself.

    Raises:
        ArtifactError, TargetError: one of them cannot be loaded here.
    """
    files = (old, new) if old_first else (new, old)
    loaded = [api.load(f, threads=threads) for f in files]
    calls = [_ours(exe, feed) for exe in loaded]
    known = precise(PRECISION, 1)
    first, second = interleave(calls, seconds, enough=known, earliest=ROUNDS)
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
    why = "the baseline kept no compiled file (--keep-artifacts)"
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
    return Match(entry, False, why)


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sizes.items()) or "no symbolic dims"


def compare_with_stored(case: Case, entry: Entry, threads: int, seconds: float) -> Comparison:
    """Compares a model with the times of another run, in units of the calibration."""
    exe = api.load(case.file, threads=threads)
    meter = Meter(resolve_target())
    try:
        calls = [_ours(exe, case.feed), calibration(meter)]
        known = precise(PRECISION, 1)
        ours, fixed = interleave(calls, seconds, enough=known, earliest=ROUNDS)
    finally:
        meter.close()
    return between_runs(ours.blocks, fixed.blocks, entry.blocks, entry.calibration)
