"""A report for machines: files that existing tools of continuous integration read as they are.

- JSON as pytest-benchmark writes it, which github-action-benchmark (``tool: pytest``) and Bencher
  (``python_pytest``) read too; all that has no field there is under ``extra_info``.
- JUnit XML, CSV, and a Markdown table for summaries of jobs.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from .gate import Verdict
from .measure import BLOCK_SECONDS, LEAST_ROUNDS, PRECISION, Timing
from .report import OURS, Report, Row, figures, verdict
from .significance import CONFIDENCE

FORMAT = "5.3.1"
"""The version of pytest-benchmark whose format this is."""
MOST_SAMPLES = 4000
"""Of more calls than this, evenly spread ones are written; the figures are of all."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Writer = Callable[[Report], str]


def pytest_json(report: Report) -> str:
    """The report as pytest-benchmark's JSON."""
    text = json.dumps(
        {
            "machine_info": dict(report.machine),
            "commit_info": dict(report.commit),
            "benchmarks": [_benchmark(row) for row in report.rows],
            "datetime": report.time.isoformat(),
            "version": FORMAT,
        },
        indent=1,
        allow_nan=False,
    )
    return text + "\n"


def _benchmark(row: Row) -> dict[str, Any]:
    return {
        "group": f"{row.model}, threads {row.threads}",
        "name": row.name,
        "fullname": f"tilewright bench::{row.name}",
        "params": {"engine": row.engine, "threads": row.threads},
        "param": f"{row.engine}-{row.threads}",
        "extra_info": _extra(row),
        "options": {
            "disable_gc": False,
            "timer": "perf_counter",
            "min_rounds": LEAST_ROUNDS,
            "max_time": BLOCK_SECONDS,
            "min_time": 0.0,
            "warmup": True,
            "precision": PRECISION,
            "confidence": CONFIDENCE,
        },
        "stats": statistics_of(row.timing),
    }


def _extra(row: Row) -> dict[str, Any]:
    extra = {k: v for k, v in figures(row).items() if v is not None and _is_finite(v)}
    extra["sizes"] = dict(row.sizes)
    extra["blocks"] = list(row.timing.blocks)
    if row.differs:
        extra["differs"] = list(row.differs)
    if row.engine == OURS:
        extra["calibration"] = list(row.calibration)
        extra["calibration_code"] = row.calibration_code
        extra["digest"] = row.digest
        extra["artifact"] = row.artifact
    return extra


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def statistics_of(timing: Timing) -> dict[str, Any]:
    """The figures of calls under pytest-benchmark's names; a call is one of its rounds.

    Quartiles are interpolated. Outliers are counted outside of a standard deviation around the
    mean, and beyond one and a half interquartile ranges from the quartiles (Tukey).
    """
    calls = np.asarray(timing.calls)
    mean, deviation = float(calls.mean()), float(calls.std(ddof=1)) if len(calls) > 1 else 0.0
    q1, middle, q3 = (float(q) for q in np.quantile(calls, [0.25, 0.5, 0.75]))
    reach = 1.5 * (q3 - q1)
    inside = calls[(calls >= q1 - reach) & (calls <= q3 + reach)]
    far = int((np.abs(calls - mean) > deviation).sum())
    outside = len(calls) - len(inside)
    step = -(-len(calls) // MOST_SAMPLES)
    return {
        "min": float(calls.min()),
        "max": float(calls.max()),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(calls),
        "median": middle,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": far,
        "outliers": f"{far};{outside}",
        "ld15iqr": float(inside.min()),
        "hd15iqr": float(inside.max()),
        "ops": 1 / mean,
        "total": float(calls.sum()),
        "data": [float(c) for c in calls[::step]],
        "iterations": 1,
    }


# ------------------------------------------------------------------ JUnit


def junit(report: Report) -> str:
    """The report as JUnit XML: a suite a model, a case for each thing that could go wrong.

    A difference from a peer and a regression are failures; what is too noisy to judge is skipped.
    """
    root = ET.Element("testsuites", name="tilewright bench")
    for model in dict.fromkeys(row.model for row in report.rows):
        suite = ET.SubElement(root, "testsuite", name=_clean(model))
        suite.set("timestamp", report.time.strftime("%Y-%m-%dT%H:%M:%S"))
        for row in report.rows:
            if row.model == model:
                _row_case(suite, row)
        for judgement in report.judgements:
            if judgement.model == model:
                case = _case(suite, model, f"threads {judgement.threads}: baseline", 0.0)
                kind = {Verdict.REGRESSION: "failure", Verdict.NOISY: "skipped"}
                if judgement.verdict in kind:
                    _result(case, kind[judgement.verdict], str(judgement))
                else:
                    _output(case, str(judgement))
        _count(suite)
    _count(root, "testcase")
    return ET.tostring(root, "unicode", xml_declaration=True) + "\n"


def _row_case(suite: ET.Element, row: Row) -> None:
    case = _case(suite, row.model, f"threads {row.threads}: {row.engine}", row.timing.median)
    if row.differs:
        _result(case, "failure", f"differs from {row.engine}: {'; '.join(row.differs)}")
    lines = [f"{k} {v}" for k, v in figures(row).items() if v is not None]
    _output(case, "\n".join([*lines, verdict(row)] if row.ratio is not None else lines))


def _case(suite: ET.Element, model: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=_clean(model), name=_clean(name), time=f"{seconds:.9f}"
    )


def _result(case: ET.Element, kind: str, message: str) -> None:
    ET.SubElement(case, kind, message=_clean(message))


def _output(case: ET.Element, text: str) -> None:
    ET.SubElement(case, "system-out").text = _clean(text)


def _count(suite: ET.Element, under: str = "testcase") -> None:
    suite.set("tests", str(len(list(suite.iter(under)))))
    suite.set("failures", str(len(list(suite.iter("failure")))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(list(suite.iter("skipped")))))
    suite.set("time", f"{sum(float(c.get('time', 0)) for c in suite.iter('testcase')):.9f}")


def _clean(text: str) -> str:
    """The text without the characters that XML has no way to hold."""
    return _NO_XML.sub("?", text)


# ------------------------------------------------------------------ tables


def comma_separated(report: Report) -> str:
    """The figures of all rows as CSV, with a line of names (RFC 4180)."""
    out = io.StringIO()
    rows = [figures(row) for row in report.rows]
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["model"], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return out.getvalue()


def markdown(report: Report) -> str:
    """A table with a line a row, and in words who wins and what the gate says."""
    names = [name for name, _ in COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * 3 + "---:|" * (len(names) - 3)]
    for row in report.rows:
        lines.append("| " + " | ".join(_escaped(cell) for cell in cells(row)) + " |")
    said = [verdict(row) for row in report.rows if row.ratio is not None]
    said += [
        f"{row.model}: DIFFERS from {row.engine}: {d}" for row in report.rows for d in row.differs
    ]
    said += [str(judgement) for judgement in report.judgements]
    said += report.left_out
    bold = [f"- **{_escaped(s)}**" if _is_bad(s) else f"- {_escaped(s)}" for s in said]
    cpu = report.machine.get("cpu", {}).get("brand_raw", "")
    when = report.time.strftime("%Y-%m-%d %H:%M UTC")
    about = f"{when}, {_escaped(str(cpu))}, commit {str(report.commit.get('id'))[:12]}"
    return "\n".join(["## tilewright bench", "", about, "", *lines, "", *bold]) + "\n"


def _is_bad(said: str) -> bool:
    return any(word in said for word in ("LOSES", "DIFFERS", Verdict.REGRESSION.value + ":"))


def _escaped(cell: str) -> str:
    return re.sub(r"([\\|<>`*_\[\]])", r"\\\1", cell).replace("\n", " ")


def _fixed(form: str) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else format(value, form)


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    width = row.ratio.half_width
    return f"{row.ratio.estimate:.2f} ±{f'{width:.1%}' if width < 1 else 'more'}"


COLUMNS: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("model", lambda r: r.model),
    ("threads", lambda r: str(r.threads)),
    ("engine", lambda r: f"{r.engine} {r.version}"),
    ("median ms", lambda r: f"{r.timing.median * 1e3:.3f}"),
    ("p90", lambda r: f"{r.timing.percentile(90) * 1e3:.3f}"),
    ("p99", lambda r: f"{r.timing.percentile(99) * 1e3:.3f}"),
    ("min", lambda r: f"{r.timing.minimum * 1e3:.3f}"),
    ("GFLOP/s", lambda r: _fixed(".1f")(r.gflops)),
    ("of peak", lambda r: _fixed(".0%")(r.peak_share)),
    ("ready s", lambda r: f"{r.ready_seconds:.2f}"),
    ("peak MB", lambda r: f"{r.peak_bytes / 1e6:.0f}"),
    ("file MB", lambda r: "" if r.artifact_bytes is None else f"{r.artifact_bytes / 1e6:.1f}"),
    ("ratio", _ratio),
)
"""The columns of tables for people: names, and what stands there."""


def cells(row: Row) -> list[str]:
    """A row of COLUMNS."""
    return [cell(row) for _, cell in COLUMNS]


WRITERS: dict[str, Writer] = {
    "json": pytest_json,
    "junit": junit,
    "markdown": markdown,
    "csv": comma_separated,
}
"""What writes a report, by the option that names the file."""
