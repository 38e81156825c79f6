"""Baselines: what an earlier run measured, and the compiled files that it kept.

The best comparison runs the old code again, in turns with the new one, on the machine that judges:
``--keep-artifacts`` keeps the compiled files in a folder beside the report, and a later run loads
them from there. Where they are missing or this Tilewright or this CPU cannot load them, the times
in the report are compared in units of a fixed piece of work that both runs did in every round,
with an allowance for what differs between runs; and only on the same model of CPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from tilewright.errors import OptionError, OutputError
from tilewright.runtime import text
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.files import replace_file

from .report import OURS

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What a baseline knows of one model with one number of threads.

    Attributes:
        digest: of the code and constants that were measured.
        sizes: of the symbolic dims, by name.
        blocks, calibration: seconds, a pair a round.
        calibration_code: a digest of the code of the calibration.
        artifact: the compiled file, where it was kept and still is.
    """

    digest: str
    sizes: Mapping[str, int]
    blocks: tuple[float, ...]
    calibration: tuple[float, ...]
    calibration_code: str
    artifact: Path | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """A report of an earlier run.

    Attributes:
        path: its file.
        cpu: the model of the processor.
        entries: by model and number of threads.
    """

    path: Path
    cpu: str
    entries: Mapping[tuple[str, int], Entry]


def read_baseline(path: Path) -> Baseline:
    """Reads a file that ``bench --json`` wrote.

    Raises:
        OptionError: it cannot be read, or is no such report (TW-E0830).
    """
    try:
        data = json.loads(path.read_text())
        entries = {}
        for benchmark in data["benchmarks"]:
            extra = benchmark["extra_info"]
            if extra.get("engine") == OURS:
                entries[extra["model"], int(extra["threads"])] = _entry(path, extra)
        return Baseline(path, str(data["machine_info"]["cpu"]["brand_raw"]), entries)
    except OSError as error:
        raise OptionError(
            f"baseline {path}: cannot be read: {error.strerror or error}", code="TW-E0830"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"baseline {path}: not a report of tilewright bench --json "
            f"({type(error).__name__}: {error})",
            code="TW-E0830",
        ) from error


def _entry(path: Path, extra: Mapping[str, Any]) -> Entry:
    kept = extra["artifact"]
    file = None if kept is None else path.parent / str(kept)
    blocks = tuple(float(b) for b in extra["blocks"])
    calibration = tuple(float(c) for c in extra["calibration"])
    if not all(0 < seconds < math.inf for seconds in (*blocks, *calibration)):
        raise ValueError("a time is no positive number")
    if not blocks or (calibration and len(calibration) != len(blocks)):
        raise ValueError(f"{len(blocks)} rounds have {len(calibration)} calibrated times")
    return Entry(
        digest=str(extra["digest"]),
        sizes={str(k): int(v) for k, v in extra["sizes"].items()},
        blocks=blocks,
        calibration=calibration,
        calibration_code=str(extra["calibration_code"]),
        artifact=file if file is not None and file.is_file() else None,
    )


def digest_of(built: Artifact) -> str:
    """A digest of all that decides how a compiled model runs: equal code has equal digests."""
    state = xxh3_128()
    program = text.text(built.program).encode()
    target = json.dumps(asdict(built.target), sort_keys=True).encode()
    for part in (program, target, *built.objects):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    state.update(built.constants.data)
    return state.hexdigest()


def keep_artifact(file: Path, report: Path, model: str, digest: str) -> str:
    """Copies a compiled file beside a report; returns its place relative to the report.

    Raises:
        OutputError: it cannot be written (TW-E0601, TW-E0602); nothing is left behind.
    """
    folder = report.with_name(f"{report.stem}.artifacts")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made: {error.strerror or error}", code="TW-E0601"
        ) from error
    name = re.sub(r"[^\w.-]+", "_", model)
    kept = folder / f"{name}-{digest[:16]}.tw"
    if not kept.exists():
        with replace_file(kept) as put, file.open("rb") as source:
            offset = 0
            while piece := source.read(_PIECE_BYTES):
                put(offset, piece)
                offset += len(piece)
    return f"{folder.name}/{kept.name}"
