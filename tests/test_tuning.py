"""Tuning a model from Python and from the command line: records, replay, bad input."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright as tw
from tilewright import api, tuning
from tilewright.autotune.job import Measured, measure, time_base
from tilewright.autotune.processes import LocalWorkers
from tilewright.autotune.records import Records, open_records, read_records
from tilewright.autotune.trial import Trial
from tilewright.cli import run_command
from tilewright.errors import ArtifactError, OptionError, OutputError, TargetError
from tilewright.options import from_environment
from tilewright.tuning import Tuned, tune_source

from .readme_model import write_model

LONG = 3600.0


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """``y = relu(x @ w + b)`` from [N, 16] to [N, 8]."""
    write_model(tmp_path)
    return str(tmp_path / "model.onnx")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


class Promised(LocalWorkers):
    """Workers that build candidates, and say of each that it is faster by a quarter."""

    def measure(self, timeout: float, function: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if function is time_base:
            future.set_result(Measured(True, 1.0, 1e-3, 5, "measured"))
        else:
            assert function is measure
            future.set_result(Measured(True, 0.75, 1e-3, 5, "measured"))
        return future


def tune(model: Any, records: Path | None, trials: int = 1, **more: Any) -> Tuned:
    options = from_environment(None, threads=1)
    given: dict[str, Any] = {"dims": {"N": 5}, "workers": Promised(1), **more}
    return tune_source(model, options, budget=LONG, records=records, trials=trials, **given)


def proof_says(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> list[Mapping[str, object]]:
    """Makes the measurements of whole models come out as given; returns what was measured."""
    tried: list[Mapping[str, object]] = []
    left = list(ratios)
    measure_ = tuning._Proof._measure

    def measured(self: Any, choices: Any) -> Any:
        tried.append(choices)
        _, built = measure_(self, choices)
        return left.pop(0), built

    monkeypatch.setattr(tuning._Proof, "_measure", measured)
    return tried


def test_what_is_found_is_replayed(
    model: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof_says(monkeypatch, 0.8)
    found = tune(model, records)
    (row,) = found.rows
    assert row.changes
    assert found.ratio == 0.8
    plain, again = tw.compile(model), tw.compile(model, records=records)
    assert again.text("schedule") == found.compiled.text("schedule") != plain.text("schedule")
    x = np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32)
    np.testing.assert_allclose(again(x)[0], plain(x)[0], rtol=1e-5, atol=1e-6)
    assert tw.compile(model, records=records).text("loops") == again.text("loops")


def test_new_records_make_another_model_in_the_cache(
    model: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_records(records).close()
    before = tw.compile(model, records=records)
    proof_says(monkeypatch, 0.8)
    tune(model, records)
    after = tw.compile(model, records=records)
    assert before.artifact.objects != after.artifact.objects
    assert tw.compile(model).artifact.objects == before.artifact.objects


def test_the_untuned_schedule_stays_where_the_model_is_slower(
    model: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = proof_says(monkeypatch, 1.2)
    found = tune(model, records)
    assert len(tried) == 1
    assert found.ratio == 1.0
    (row,) = found.rows
    assert not row.changes
    assert "untuned stays" in row.note
    assert "untuned stays" in found.text()
    plain, again = tw.compile(model), tw.compile(model, records=records)
    assert again.text("loops") == plain.text("loops")


def test_only_the_kernels_at_fault_stay_untuned(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _two_products(records.parent)
    tried = proof_says(monkeypatch, 1.2, 0.9, 1.3)
    found = tune(model, records, trials=12)
    assert len(tried[0]) == 2
    assert found.ratio == 0.9
    assert sorted(bool(r.changes) for r in found.rows if r.before) == [False, True]


def _two_products(folder: Path) -> str:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in (("v", (16, 24)), ("w", (24, 40)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 40])
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    path = folder / "two.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return str(path)


def test_a_model_whose_results_change_is_not_taken(
    model: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_alike", lambda *_: False)
    found = tune(model, records)
    assert not found.rows[0].changes
    assert any("changed the model's results" in n for n in found.notes)


def test_an_executable_of_tune_has_the_table(model: str, records: Path) -> None:
    exe = tw.tune(model, budget=LONG, trials=2, records=records, threads=1, dims={"N": 5})
    x = np.ones((3, 16), np.float32)
    np.testing.assert_allclose(exe(x)[0], tw.compile(model)(x)[0], rtol=1e-5)
    assert "matmul" in exe.text("tuning")
    assert "whole model" in exe.text("tuning")
    with read_records(records) as kept:
        assert len(kept.about()) == 1


def test_records_for_other_options_are_left_aside(model: str, records: Path) -> None:
    found = tune(model, records, trials=0)
    with open_records(records) as kept:
        key = kept.about()[0].key
        kept.add(
            Trial(key, "threads=1 sizes=5", {"mr": 99, "nr": 16}, "ok", 0.1, 1.0, 9, "measured",
                  "", "2099-01-01")
        )  # fmt: skip
        for verdict in kept.verdicts():
            kept._connection.execute("DELETE FROM verdicts WHERE key = ?", (verdict.key,))
        kept._connection.commit()
        assert kept.choices()[key] == {"mr": 99, "nr": 16}
    again = tw.compile(model, records=records)
    assert again.text("loops") == found.compiled.text("loops")


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_must_be_some_time(model: str, budget: float) -> None:
    with pytest.raises(OptionError, match="TW-E0840"):
        tw.tune(model, budget=budget)


def test_there_may_be_nothing_to_tune(tmp_path: Path, records: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [3, 2])
    graph = helper.make_graph([node], "g", [x], [y], [shape])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "reshape.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    found = tune(str(path), records, dims={})
    assert "nothing to tune" in found.text()
    assert found.trials == 0


def test_bad_records_are_refused_before_anything_is_compiled(model: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    bad.write_text("something else")
    for use in (tw.compile, tw.tune):
        with pytest.raises(ArtifactError, match="TW-E0530"):
            use(model, records=bad)
    assert bad.read_text() == "something else"
    with pytest.raises(ArtifactError, match="TW-E0533"):
        tw.compile(model, records=tmp_path / "missing.db")
    with pytest.raises(OutputError, match="TW-E0601"):
        tw.tune(model, records=tmp_path / "missing" / "records.db")


def test_a_ranking_that_learns_names_the_extra_it_needs(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"TW-E0844.*tilewright\[tune\]"):
        tw.tune(model, budget=LONG, learn=True)


def test_a_target_of_another_machine_cannot_be_measured(model: str) -> None:
    with pytest.raises(TargetError, match="TW-E0405"):
        tw.tune(model, target="aarch64")


def test_a_full_disk_keeps_the_best_so_far(
    model: str, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, row: object) -> None:
        raise OutputError("the disk is full", code="TW-E0602")

    proof_says(monkeypatch, 0.8)
    add = Records.add_all
    calls: list[object] = []

    def sometimes(self: Any, rows: Any) -> None:
        calls.append(rows)
        if len(calls) > 2:
            full(self, rows)
        add(self, rows)

    monkeypatch.setattr(Records, "add_all", sometimes)
    found = tune(model, records, trials=3)
    assert found.rows[0].changes
    assert any("TW-E0602" in note for note in found.notes)


# ------------------------------------------------------------------ the command


def test_the_command_tunes_and_writes_a_compiled_model(
    model: str, tmp_path: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.tw"
    arguments = ["tune", model, "--budget", "1h", "--trials", "2"]
    arguments += ["--dim", "N=5", "--threads", "1"]
    assert run_command([*arguments, "--records", str(records), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "times are measured" in shown
    assert f"records: {records}" in shown
    assert tw.load(out)(np.ones((2, 16), np.float32))[0].shape == (2, 8)
    assert run_command(["inspect", str(out), "--stage", "tuning"]) == 0
    assert "whole model" in capsys.readouterr().out
    assert run_command(["records", str(records), "--export", str(tmp_path / "lines")]) == 0
    assert "1 kernels" in capsys.readouterr().out
    other = str(tmp_path / "other.db")
    assert run_command(["records", other, "--import", str(tmp_path / "lines")]) == 0
    assert run_command(["records", str(records), "--merge", other]) == 0
    assert "0 rows taken" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["", "soon", "10 years", "-3s"])
def test_the_command_refuses_what_is_no_time(model: str, budget: str) -> None:
    assert run_command(["tune", model, "--budget", budget]) == 2


def test_the_command_refuses_zero_seconds(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tune", model, "--budget", "0s"]) == 2
    assert "TW-E0840" in capsys.readouterr().err


def test_the_space_of_every_kernel_is_shown(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", model, "--stage", "space"]) == 0
    shown = capsys.readouterr().out
    assert "schedules" in shown
    assert "  mr " in shown
    assert "[" in shown


def test_a_search_that_is_killed_keeps_its_trials_and_goes_on(model: str, records: Path) -> None:
    command = [
        sys.executable, "-m", "tilewright", "tune", model, "--budget", "1h", "--dim", "N=64",
        "--records", str(records), "--threads", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 120
        seen = 0
        while time.monotonic() < end and seen < 4 and process.poll() is None:
            time.sleep(0.2)
            if records.exists() and records.stat().st_size:
                with open_records(records) as kept:
                    seen = len(kept.trials())
        process.send_signal(signal.SIGKILL)
    assert seen >= 4
    with read_records(records) as kept:
        before = kept.trials()
    assert len(before) >= seen
    found = tune(model, records, dims={"N": 64}, trials=0)
    with read_records(records) as kept:
        after = kept.trials()
    assert {repr(t.choices) for t in after} >= {repr(t.choices) for t in before}
    assert len(after) == len(before) + found.trials


# ------------------------------------------------------------------ for GPUs


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda-sim:sm_90"])
def test_schedules_for_gpus_are_ranked_by_the_model_and_said_to_be(
    model: str, records: Path, target: str
) -> None:
    options = from_environment(None, target=target)
    dims = {"N": 8}
    first, second = (
        tune_source(model, options, budget=LONG, records=records, trials=1, dims=dims)
        for _ in range(2)
    )
    assert first.kind == "modelled"
    assert "times are modelled" in first.text()
    with read_records(records) as kept:
        trials = kept.trials()
    assert {t.kind for t in trials} == {"modelled"}
    assert {t.status for t in trials} == {"ok"}
    assert len(trials) == 2
    assert second.ratio <= first.ratio <= 1.0
    again = api.build(model, target=target, records=records)
    assert again.text("loops") == second.compiled.text("loops")
