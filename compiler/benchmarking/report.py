"""What a run of the bench found, as data: rows, and the machine and commit they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .gate import Judgement
from .measure import Timing
from .significance import Interval

OURS = "tilewright"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one contender on one model with one number of threads.

    Attributes:
        model, threads, engine, version: what.
        timing: all its calls, in seconds.
        ready_seconds: ours: compiling without any cache (loading, of a .tw file); a peer's: until
            its session is ready.
        peak_bytes: resident, of a fresh process that loads the model and runs it.
        flops: of one call; None where they are not known.
        peak_flops: that so many threads of this machine reach at most in a second; None where
            they were not measured.
        ratio: our time over this peer's, block by block; None for ourselves.
        difference: largest \\|a-b\\| of our outputs over the largest \\|b\\| of this peer's.
        differs: outputs that are not what this peer's are, each with what differs.
        sizes: of the symbolic dims, by name.
        artifact_bytes, digest: of the compiled model; only ours.
        artifact: the file that holds it, relative to the report, where it was kept.
        calibration: seconds of a fixed piece of work in every round, to compare runs by.
        calibration_code: a digest of what did that work.
    """

    model: str
    threads: int
    engine: str
    version: str
    timing: Timing
    ready_seconds: float
    peak_bytes: int
    flops: int | None = None
    peak_flops: float | None = None
    ratio: Interval | None = None
    difference: float | None = None
    differs: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    artifact_bytes: int | None = None
    digest: str | None = None
    artifact: str | None = None
    calibration: tuple[float, ...] = ()
    calibration_code: str = ""

    @property
    def gflops(self) -> float | None:
        """Billions of operations a second at the median."""
        return None if self.flops is None else self.flops / self.timing.median / 1e9

    @property
    def peak_share(self) -> float | None:
        """The operations a second at the median as a share of what the machine reaches."""
        if self.flops is None or self.peak_flops is None:
            return None
        return self.flops / self.timing.median / self.peak_flops

    @property
    def loses(self) -> bool:
        """Whether Tilewright takes longer than this peer."""
        return self.ratio is not None and self.ratio.estimate > 1

    @property
    def name(self) -> str:
        """What it is called in files of benchmarks: model, engine and threads."""
        return f"{self.model}[{self.engine}-{self.threads}]"


@dataclass(frozen=True, slots=True)
class Report:
    """A run of the bench.

    Attributes:
        rows: in the order in which they were measured.
        machine, commit: as pytest-benchmark describes them.
        judgements: of the gate, where it was asked.
        left_out: what was not measured, and why: by peers that refuse a model, of a baseline.
        time: when the run ended.
    """

    rows: Sequence[Row]
    machine: Mapping[str, Any]
    commit: Mapping[str, Any]
    judgements: Sequence[Judgement] = ()
    left_out: Sequence[str] = ()
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


def figures(row: Row) -> dict[str, Any]:
    """The figures of a row by name, with their units in the names."""
    interval = row.ratio
    return {
        "model": row.model,
        "threads": row.threads,
        "engine": row.engine,
        "version": row.version,
        "median_ms": row.timing.median * 1e3,
        "p90_ms": row.timing.percentile(90) * 1e3,
        "p99_ms": row.timing.percentile(99) * 1e3,
        "min_ms": row.timing.minimum * 1e3,
        "calls": len(row.timing.calls),
        "rounds": len(row.timing.blocks),
        "gflops": row.gflops,
        "peak_share": row.peak_share,
        "ready_seconds": row.ready_seconds,
        "peak_bytes": row.peak_bytes,
        "artifact_bytes": row.artifact_bytes,
        "ratio": None if interval is None else interval.estimate,
        "ratio_low": None if interval is None else interval.low,
        "ratio_high": None if interval is None else interval.high,
        "difference": row.difference,
    }


def verdict(row: Row) -> str:
    """In words, whether Tilewright wins or loses against a peer."""
    assert row.ratio is not None
    where = f"{row.model} with {row.threads} thread{'s' if row.threads > 1 else ''}"
    bounds = f"({row.ratio.low:.2f} to {row.ratio.high:.2f})"
    if row.loses:
        sure = "" if row.ratio.low > 1 else ", within the noise"
        return (
            f"{where}: Tilewright LOSES to {row.engine}, taking {row.ratio.estimate:.2f}x its "
            f"time {bounds}{sure}"
        )
    return f"{where}: Tilewright takes {row.ratio.estimate:.2f}x the time of {row.engine} {bounds}"
