"""``tilewright bench`` as a whole: reports, baselines, the gate and its exit codes.

Measured times are never looked at; where a verdict depends on them, they are replaced.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from tilewright import cli, peers
from tilewright.benchmarking import session
from tilewright.benchmarking.engine import Engine
from tilewright.benchmarking.measure import Timing
from tilewright.commands import bench as command_module
from tilewright.errors import OptionError
from tilewright.peers import Runtime

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory is measured by processes that take a second to start: one test asks for it."""
    monkeypatch.setattr(session, "peak_memory", lambda *_: 50 << 20)


def write(path: Path, *, wider: int = 8, seed: int = 0, inputs: int = 16) -> str:
    """A layer, x: f32[N, inputs] -> f32[N, wider]."""
    path.parent.mkdir(exist_ok=True)
    weights = np.random.default_rng(seed).standard_normal((inputs, wider)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", wider])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 21)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return str(path)


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """The path of a small model."""
    return write(tmp_path / "layer.onnx")


def bench(*arguments: str) -> int:
    return cli.run_command(["bench", *arguments, "--time-budget", "0.01"])


def made_up(factors: Sequence[float], noise: float = 0.001) -> Callable[..., list[Timing]]:
    """A stand-in for the measuring: the k-th contender takes ``factors[k]`` milliseconds."""
    generator = np.random.default_rng(5)

    def interleave(contenders: Sequence[object], *_: object, **__: object) -> list[Timing]:
        blocks = [1e-3 * f * (1 + noise * generator.random(40)) for f in factors[: len(contenders)]]
        return [Timing(tuple(map(float, b)), tuple(map(float, b))) for b in blocks]

    return interleave


# ------------------------------------------------------------------ reports


def test_all_reports_tell_the_same_figures(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "markdown", "csv")}
    options = [o for kind, file in files.items() for o in (f"--{kind}", str(file))]
    code = bench(
        layer, "--dim", "N=4", "--compare", "onnxruntime", "--threads", "1,2", *options
    )  # fmt: skip
    assert code == 0
    rows = [b["extra_info"] for b in json.loads(files["json"].read_text())["benchmarks"]]
    assert [(r["engine"], r["threads"]) for r in rows] == [
        ("tilewright", 1), ("onnxruntime", 1), ("tilewright", 2), ("onnxruntime", 2),
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["gflops"] == pytest.approx(2 * 4 * 16 * 8 / row["median_ms"] / 1e6)
        assert row["peak_bytes"] == 50 << 20
        assert row["calls"] >= 5
        assert row["sizes"] == {"N": 4}
    assert "ratio" not in rows[0]
    assert rows[0]["artifact_bytes"] > 4096
    assert len(rows[0]["calibration"]) == len(rows[0]["blocks"])
    assert 0 < rows[1]["ratio_low"] <= rows[1]["ratio"] <= rows[1]["ratio_high"]
    assert rows[1]["difference"] < 1e-5
    table = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [float(r["median_ms"]) for r in table] == [r["median_ms"] for r in rows]
    assert files["junit"].read_text().count("<testcase") == 4
    printed = capsys.readouterr().out
    assert all(str(r["version"]) in printed for r in rows)
    assert printed.count("of onnxruntime") + printed.count("to onnxruntime") == 2


def test_a_report_is_printed_in_place_of_the_table(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(layer, "--csv", "-") == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 1
    assert bench(layer, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["benchmarks"][0]["extra_info"]["model"] == "layer"
    assert bench(layer, "--json", "-", "--csv", "-") == 2


def test_peak_memory_is_that_of_a_process_of_its_own(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    report = tmp_path / "report.csv"
    assert bench(layer, "--csv", str(report)) == 0
    (row,) = csv.DictReader(io.StringIO(report.read_text()))
    assert 10 << 20 < int(row["peak_bytes"]) < 1 << 30


def test_it_says_so_when_tilewright_loses(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "take_turns", made_up([2, 1]))
    assert bench(layer, "--compare", "onnxruntime") == 0
    assert "Tilewright LOSES to onnxruntime, taking 2.00x its time" in capsys.readouterr().out


def test_other_results_than_a_peers_are_an_error(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(Engine):
        def ready(self, patience: float = 60) -> None:
            super().ready(patience)
            self.outputs = [[np.full((1, 8), 7, np.float32)]]

    monkeypatch.setattr(session, "Engine", Wrong)
    assert bench(layer, "--compare", "onnxruntime") == 1
    assert "DIFFERS: layer: from onnxruntime: y:" in capsys.readouterr().err


def test_a_peer_that_does_not_take_a_model_is_named_and_left_out(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Some(Engine):
        def ready(self, patience: float = 60) -> None:
            if self.name == "picky":
                raise OptionError("picky 1.0 does not take it", code="TW-E0825")
            super().ready(patience)

    monkeypatch.setitem(peers.PEERS, "picky", peers.PEERS["onnxruntime"])
    monkeypatch.setattr(session, "Engine", Some)
    assert bench(layer, "--compare", "picky,onnxruntime") == 0
    captured = capsys.readouterr()
    assert "layer: picky 1.0 does not take it\n" in captured.err
    assert "onnxruntime" in captured.out


def test_a_peer_that_is_not_installed_is_a_mistake(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Runtime("no-such-package", "none", lambda *_: lambda feed: [])
    monkeypatch.setitem(peers.PEERS, "absent", absent)
    assert bench(layer, "--compare", "absent") == 2
    assert "TW-E0824" in capsys.readouterr().err
    assert command_module.parse_peers("all").count("absent") == 0
    assert "onnxruntime" in command_module.parse_peers("all")


@pytest.mark.parametrize("name", ["openvino", "torch", "tvm"])
def test_a_peer_gives_what_the_model_says(name: str, layer: str) -> None:
    if peers.peer_version(name) is None:
        pytest.skip(f"{name} is not installed")
    if name == "torch":
        pytest.importorskip("onnx2torch")
        pytest.importorskip("torchvision")
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    peer = peers.open_peer(name, Path(layer), 1)
    wanted = peers.open_peer("onnxruntime", Path(layer), 1).run({"x": x})
    assert np.allclose(peer.run({"x": x})[0], wanted[0], rtol=1e-5, atol=1e-5)


def test_torch_runs_the_exported_program_beside_a_model(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(peers, "has_cpp_compiler", lambda: False)
    before = torch.get_num_threads()
    module = torch.nn.Linear(16, 8).eval()
    example = torch.ones(3, 16)
    torch.export.save(torch.export.export(module, (example,)), str(tmp_path / "layer.pt2"))
    try:
        peer = peers.open_peer("torch", Path(layer), 1)
        (found,) = peer.run({"x": example.numpy()})
    finally:
        torch.set_num_threads(before)
    assert peer.version.endswith("eager: no C++ compiler")
    assert np.allclose(found, module(example).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_torch_says_what_it_needs(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    with pytest.raises(Exception, match=r"layer\.pt2 .*onnx2torch"):
        peers.open_peer("torch", Path(layer), 1)


# ------------------------------------------------------------------ baselines and the gate


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A baseline of a model called layer, with its compiled file kept."""
    model = write(tmp_path / "old" / "layer.onnx", seed=1)
    report = str(tmp_path / "base.json")
    assert bench(model, "--json", report, "--keep-artifacts") == 0
    return report


def test_equal_code_is_not_compared_and_no_regression(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("equal code was compared")

    monkeypatch.setattr(command_module, "compare_files", never)
    again = write(tmp_path / "new" / "layer.onnx", seed=1)
    assert bench(again, "--baseline", base, "--gate") == 0
    assert "layer with 1 thread: unchanged" in capsys.readouterr().out


def test_a_kept_file_is_named_after_its_model_and_found_from_the_report(base: str) -> None:
    (benchmark,) = json.loads(Path(base).read_text())["benchmarks"]
    kept = Path(base).parent / benchmark["extra_info"]["artifact"]
    assert kept.name == f"layer-{benchmark['extra_info']['digest'][:16]}.tw"
    assert [p.name for p in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize(
    ("factors", "noise", "code", "said"),
    [
        ([1.0, 1.0], 0.001, 0, "no regression"),
        ([1.3, 1.0], 0.001, 1, "regression: 1.300"),
        ([1.02, 1.0], 0.001, 0, "no regression"),
        ([1.05, 1.0], 0.001, 1, "regression: 1.050"),
        ([1.05, 1.0], 2.0, 5, "too noisy to judge"),
    ],
)
def test_the_gate_judges_changed_code(
    factors: list[float], noise: float, code: int, said: str, base: str, layer: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(session, "interleave", _new_first(made_up(factors, noise), factors))
    assert bench(layer, "--baseline", base, "--gate") == code
    assert said in capsys.readouterr().out


def _new_first(
    interleave: Callable[..., list[Timing]], factors: list[float]
) -> Callable[..., list[Timing]]:
    """The confirming comparison has the old code first: its times are turned around."""
    calls: list[int] = []

    def turned(contenders: Sequence[object], *a: object, **k: object) -> list[Timing]:
        found = interleave(contenders, *a, **k)
        if len(contenders) == 2:
            calls.append(1)
            return found if len(calls) == 1 else found[::-1]
        return found

    return turned


def test_without_the_gate_a_regression_is_told_and_no_error(
    base: str, layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "interleave", _new_first(made_up([1.3, 1.0]), []))
    assert bench(layer, "--baseline", base) == 0
    assert "regression: 1.300" in capsys.readouterr().out


@pytest.mark.parametrize(("threshold", "code"), [("2%", 1), ("10%", 0)])
def test_a_threshold_says_what_is_to_be_found(
    threshold: str, code: int, base: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "interleave", _new_first(made_up([1.02, 1.0]), []))
    assert bench(layer, "--baseline", base, "--gate", "--threshold", threshold) == code


def test_without_the_compiled_file_times_are_compared_in_units_of_a_fixed_piece_of_work(
    base: str, layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(Path(base).read_text())
    extra = data["benchmarks"][0]["extra_info"]
    (Path(base).parent / extra["artifact"]).unlink()
    extra["blocks"], extra["calibration"] = [2e-3] * 40, [1e-3] * 40
    Path(base).write_text(json.dumps(data))
    for factors, code in (([2.0, 1.0], 0), ([6.0, 3.0], 0), ([3.0, 1.0], 1)):
        monkeypatch.setattr(session, "interleave", made_up(factors))
        assert bench(layer, "--baseline", base, "--gate") == code, factors
        assert "stored" in capsys.readouterr().out


def test_times_of_another_cpu_are_not_compared(
    base: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(Path(base).read_text())
    (Path(base).parent / data["benchmarks"][0]["extra_info"]["artifact"]).unlink()
    data["machine_info"]["cpu"]["brand_raw"] = "Abacus 9000"
    Path(base).write_text(json.dumps(data))
    assert bench(layer, "--baseline", base, "--gate") == 2
    err = capsys.readouterr().err
    assert "TW-E0831" in err
    assert "Abacus 9000" in err


def test_times_in_other_units_are_not_compared(
    base: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(Path(base).read_text())
    extra = data["benchmarks"][0]["extra_info"]
    extra["artifact"], extra["calibration_code"] = None, "other"
    Path(base).write_text(json.dumps(data))
    assert bench(layer, "--baseline", base, "--gate") == 2
    assert "calibration" in capsys.readouterr().err


def test_a_damaged_kept_file_is_not_run(
    base: str, layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = json.loads(Path(base).read_text())["benchmarks"][0]["extra_info"]
    (Path(base).parent / extra["artifact"]).write_bytes(b"not a model")
    assert bench(layer, "--baseline", base, "--gate") in (0, 1, 5)
    assert "does not load" in capsys.readouterr().out


def test_a_model_that_is_new_is_no_regression(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other.onnx")
    assert bench(other, "--baseline", base, "--gate") == 0
    told = capsys.readouterr()
    assert "other with 1 thread: not in the baseline" in told.out
    assert "layer with 1 thread: in the baseline, not measured now" in told.err


@pytest.mark.parametrize("sizes", [["--dim", "N=7"], ["--shape", "x:7x16"]])
def test_other_sizes_are_not_compared(
    sizes: list[str], base: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(layer, *sizes, "--baseline", base, "--gate") == 2
    assert "TW-E0831" in capsys.readouterr().err


def test_another_interface_is_not_compared(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "new" / "layer.onnx", inputs=20)
    assert bench(other, "--baseline", base, "--gate") == 2
    assert "f32[N, 20]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"benchmarks": [{"name": "x"}]}', '{"benchmarks": 3}', "\x00"]
)
def test_what_is_no_baseline_is_refused(
    text: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    assert bench(layer, "--baseline", str(path), "--gate") == 2
    assert "TW-E0830" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", [[], [1.0], [float("nan")] * 3, [float("inf")] * 3, [0.0] * 3])
def test_times_that_no_run_measures_are_refused(
    blocks: list[float], base: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(Path(base).read_text())
    (row,) = data["benchmarks"]
    row["extra_info"] |= {"blocks": blocks, "calibration": [1.0] * 3, "digest": "another"}
    Path(base).write_text(json.dumps(data))
    assert bench(layer, "--baseline", base, "--gate") == 2
    assert "TW-E0830" in capsys.readouterr().err


def test_a_model_is_put_through_the_gate_against_itself(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "interleave", made_up([1.0, 1.0]))
    assert bench(layer, "--aa", "4", "--threads", "1,2") == 0
    said = capsys.readouterr().out
    assert "0 false alarms in 8 comparisons of a model with itself: 0.0%" in said
    monkeypatch.setattr(session, "interleave", _new_first_always(made_up([1.2, 1.0])))
    assert bench(layer, "--aa", "2") == 5
    assert "2 false alarms in 2" in capsys.readouterr().out


def _new_first_always(interleave: Callable[..., list[Timing]]) -> Callable[..., list[Timing]]:
    turn = [0]

    def turned(*a: object, **k: object) -> list[Timing]:
        turn[0] += 1
        found = interleave(*a, **k)
        return found if turn[0] % 2 else found[::-1]

    return turned


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gate"], "--baseline"),
        (["--keep-artifacts"], "--json"),
        (["--threshold", "5"], "5% or 0.05"),
        (["--threshold", "some"], "5% or 0.05"),
        (["--baseline", "missing.json"], "TW-E0830"),
        (["--json", "missing/report.json"], "TW-E0601"),
        (["--json", "missing/report.json", "--keep-artifacts"], "TW-E0601"),
        (["--threads", "0"], "1..1024"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], said: str, layer: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert bench(layer, *options) == 2
    assert said in capsys.readouterr().err


def test_bench_needs_the_source_to_compare(layer: str, tmp_path: Path) -> None:
    artifact = str(tmp_path / "layer.tw")
    assert cli.run_command(["compile", layer, "-o", artifact]) == 0
    assert bench(artifact) == 0
    assert bench(artifact, "--compare", "onnxruntime") == 2
    assert bench(layer, layer) == 2


def test_models_of_one_name_keep_their_folders_in_their_names(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other" / "layer.onnx")
    assert bench(layer, other, "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["model"] for r in rows] == [layer, other]


def test_a_name_that_is_no_text_is_written_out_in_all_reports(layer: str, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd.onnx")
    shutil.copy(layer, odd)
    files = {k: tmp_path / f"report.{k}" for k in ("json", "junit", "markdown", "csv")}
    options = [text for k, file in files.items() for text in (f"--{k}", str(file))]
    assert bench(odd, *options) == 0
    for file in files.values():
        assert "b\\xffd" in file.read_text().replace("\\\\", "\\")
