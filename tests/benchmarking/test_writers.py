"""Reports for machines, each read by the tool that it is for."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tilewright.benchmarking.measure import Timing
from tilewright.benchmarking.writers import (
    MOST_SAMPLES,
    WRITERS,
    comma_separated,
    junit,
    markdown,
    pytest_json,
    statistics_of,
)

from .reports import report, timing

needs_pytest_benchmark = pytest.mark.skipif(
    find_spec("pytest_benchmark") is None, reason="pytest-benchmark is not installed"
)


# ------------------------------------------------------------------ pytest-benchmark's JSON


def keys(x: Any) -> set[str]:
    return {str(k) for k in x}


@needs_pytest_benchmark
def test_json_has_the_keys_that_pytest_benchmark_writes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(benchmark):\n    benchmark(sum, [1, 2])\n")
    # It measures nothing in what it takes for one of several processes.
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist",
         "--benchmark-json=own.json", "--benchmark-max-time=0.01", "--rootdir=.", "test_it.py"],
        cwd=tmp_path, env=alone, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = json.loads((tmp_path / "own.json").read_text())
    ours = json.loads(pytest_json(report()))
    assert keys(theirs) <= keys(ours)
    assert keys(theirs["machine_info"]) <= keys(ours["machine_info"])
    assert keys(theirs["commit_info"]) - {"error"} <= keys(ours["commit_info"])
    (their_benchmark,) = theirs["benchmarks"]
    for benchmark in ours["benchmarks"]:
        assert keys(their_benchmark) <= keys(benchmark)
        assert keys(their_benchmark["options"]) <= keys(benchmark["options"])
        # "data" is only written there on request.
        assert keys(their_benchmark["stats"]) | {"data"} <= keys(benchmark["stats"])
        for name, value in their_benchmark["stats"].items():
            assert isinstance(benchmark["stats"][name], type(value)), name


@needs_pytest_benchmark
def test_pytest_benchmark_compares_two_reports(tmp_path: Path) -> None:
    for name, factor in (("before", 1.0), ("after", 2.0)):
        (tmp_path / f"{name}.json").write_text(pytest_json(report(factor, model="net")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "before.json", "after.json",
         "--sort=mean", "--columns=min,mean,median,iqr,ops,rounds,outliers", "--group-by=fullname",
         "--csv=out"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "net[tilewright-1]" in done.stdout
    assert "net[onnxruntime-2]" in done.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    ours = [float(r["median"]) for r in rows if "tilewright-1" in r["name"]]
    assert max(ours) / min(ours) == pytest.approx(2.0)


def test_the_statistics_are_those_of_pytest_benchmark() -> None:
    calls = timing(1e-3, 3, rounds=100).calls
    theirs = pytest.importorskip("pytest_benchmark.stats").Stats()
    for call in calls:
        theirs.update(call)
    ours = statistics_of(Timing(calls, ()))
    for name in ("min", "max", "mean", "stddev", "median", "total", "ops", "rounds"):
        assert ours[name] == pytest.approx(getattr(theirs, name)), name
    # Quartiles are interpolated otherwise there.
    for name in ("q1", "q3", "iqr", "ld15iqr", "hd15iqr"):
        assert ours[name] == pytest.approx(getattr(theirs, name), rel=0.1), name
    assert ours["stddev_outliers"] == theirs.stddev_outliers


def test_statistics_are_those_of_the_standard_library() -> None:
    calls = timing(1e-3, 4).calls
    found = statistics_of(Timing(calls, ()))
    q1, _, q3 = statistics.quantiles(calls, method="inclusive")
    assert found["mean"] == pytest.approx(statistics.mean(calls))
    assert found["stddev"] == pytest.approx(statistics.stdev(calls))
    assert found["median"] == pytest.approx(statistics.median(calls))
    assert (found["q1"], found["q3"]) == pytest.approx((q1, q3))
    reach = 1.5 * (q3 - q1)
    outside = sum(not q1 - reach <= c <= q3 + reach for c in calls)
    assert found["outliers"] == f"{found['stddev_outliers']};{outside}"
    assert found["data"] == list(calls)


def test_of_very_many_calls_evenly_spread_ones_are_written() -> None:
    calls = tuple(1e-6 * (1 + k % 7) for k in range(10 * MOST_SAMPLES + 1))
    found = statistics_of(Timing(calls, ()))
    assert len(found["data"]) <= MOST_SAMPLES
    assert found["rounds"] == len(calls)
    assert found["total"] == pytest.approx(sum(calls))


def test_one_call_has_statistics() -> None:
    found = statistics_of(Timing((0.5,), (0.5,)))
    assert found["stddev"] == 0.0
    assert found["ops"] == 2.0


def test_json_is_standard_and_holds_what_the_gate_needs() -> None:
    text = pytest_json(report())

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data = json.loads(text, parse_constant=refuse)
    ours, theirs = data["benchmarks"][2:]
    assert ours["extra_info"]["digest"] == "ab" * 32
    assert len(ours["extra_info"]["blocks"]) == len(ours["extra_info"]["calibration"]) == 20
    assert ours["extra_info"]["sizes"] == {"N": 4}
    assert ours["extra_info"]["gflops"] == pytest.approx(1 / ours["stats"]["median"])
    assert ours["extra_info"]["peak_share"] == pytest.approx(1e-3 / ours["stats"]["median"])
    # Infinity has no place in JSON; what differs says more.
    assert "difference" not in theirs["extra_info"]
    assert theirs["extra_info"]["differs"] == ["y: nan or infinity in other places"]
    assert theirs["extra_info"]["ratio"] == 1.2


def test_json_is_what_github_action_benchmark_extracts() -> None:
    """By its PytestBenchmarkJson and extractPytestResult; the npm registry has no copy to run."""
    for benchmark in json.loads(pytest_json(report()))["benchmarks"]:
        stats = benchmark["stats"]
        assert isinstance(benchmark["fullname"], str)
        assert all(isinstance(stats[k], float) for k in ("ops", "stddev", "mean"))
        assert isinstance(stats["rounds"], int)
        assert math.isfinite(stats["ops"]) and stats["ops"] > 0


def test_names_are_different_for_every_row() -> None:
    names = [b["fullname"] for b in json.loads(pytest_json(report()))["benchmarks"]]
    assert len(set(names)) == len(names) == 4


def test_json_is_what_bencher_reads() -> None:
    """By the fields that its python_pytest adapter declares: Rust, which no registry here has."""
    data = json.loads(pytest_json(report()))
    assert isinstance(data["machine_info"], dict)
    assert isinstance(data["commit_info"], dict)
    for benchmark in data["benchmarks"]:
        assert 0 < len(benchmark["fullname"]) <= 1024
        for name in ("mean", "stddev", "median", "iqr"):
            # It parses decimals from JSON floats.
            assert isinstance(benchmark["stats"][name], float), name
            assert math.isfinite(benchmark["stats"][name])


# ------------------------------------------------------------------ JUnit


def test_junitparser_reads_the_cases(tmp_path: Path) -> None:
    reader = pytest.importorskip("junitparser")
    path = tmp_path / "report.xml"
    path.write_text(junit(report()))
    suites = reader.JUnitXml.fromfile(str(path))
    assert (suites.tests, suites.failures, suites.skipped, suites.errors) == (6, 2, 1, 0)
    (suite,) = suites
    cases = {case.name: case for case in suite}
    assert len(cases) == suite.tests == 6
    (failure,) = cases["threads 1: baseline"].result
    assert isinstance(failure, reader.Failure)
    assert "regression" in failure.message
    (skipped,) = cases["threads 2: baseline"].result
    assert isinstance(skipped, reader.Skipped)
    (failure,) = cases["threads 2: onnxruntime"].result
    assert "nan or infinity" in failure.message
    assert not cases["threads 1: tilewright"].result
    assert "LOSES" in cases["threads 2: onnxruntime"].system_out
    assert float(cases["threads 1: tilewright"].time) == pytest.approx(2e-3, rel=0.2)
    updated = reader.JUnitXml.fromfile(str(path))
    updated.update_statistics()
    assert (updated.tests, updated.failures, updated.skipped) == (6, 2, 1)


def test_junit_is_well_formed_whatever_a_model_is_called() -> None:
    root = ET.fromstring(junit(report()))
    (suite,) = root
    assert suite.get("name") == "net|<&>?é"
    assert root.get("tests") == suite.get("tests") == str(len(suite))


# ------------------------------------------------------------------ tables


def test_csv_is_read_back_with_all_figures() -> None:
    found = list(csv.DictReader(io.StringIO(comma_separated(report()))))
    assert [r["engine"] for r in found] == ["tilewright", "onnxruntime"] * 2
    assert float(found[3]["ratio_low"]) == 1.1
    assert found[0]["ratio"] == ""
    assert float(found[0]["median_ms"]) == pytest.approx(
        float(np.median(timing(2e-3, 1).calls)) * 1e3
    )


def test_markdown_is_one_table_that_names_can_not_break() -> None:
    lines = markdown(report()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    cells = {line.replace("\\|", "").count("|") for line in table}
    assert len(cells) == 1
    said = [line for line in lines if line.startswith("- ")]
    assert len([line for line in said if line.startswith("- **")]) == 3
    assert any("LOSES" in line for line in said)
    assert any("regression" in line for line in said)
    assert any("tvm does not take it" in line for line in said)


def test_every_writer_writes_text_that_ends_a_line() -> None:
    for kind, write in WRITERS.items():
        text = write(report())
        assert text.endswith("\n"), kind
        text.encode()
