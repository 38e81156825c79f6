"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilewright import api, cli
from tilewright.backends.cpu.peaks import measure_peaks
from tilewright.commands import agreement, arrays, doctor, model
from tilewright.dtype import f32, i64
from tilewright.errors import InternalError, OptionError, UnsupportedError
from tilewright.peers import agreements
from tilewright.runtime.program import TensorSpec
from tilewright.tensor.ir import lt, symbol

from .readme_model import write_model

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """The path of a small model with a symbolic batch N, input x and output y."""
    write_model(tmp_path)
    return str(tmp_path / "model.onnx")


@pytest.fixture
def unsupported(tmp_path: Path) -> str:
    """The path of a model with two operators that nobody knows."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["h"], name="first", domain="example"),
        helper.make_node("Disentangle", ["h"], ["y"], name="second", domain="example"),
    ]
    graph = helper.make_graph(nodes, "unsupported", [value], [out])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("example", 1)]
    path = tmp_path / "unsupported.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return str(path)


def command(*arguments: str) -> int:
    return cli.run_command(arguments)


# ------------------------------------------------------------------ compile and run


def test_math_is_chosen_when_a_model_is_compiled(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(tmp_path / "layer.tw")
    assert command("run", layer, "--math", "strict") == 0
    assert command("compile", layer, "--math", "strict", "-o", artifact) == 0
    for name in ("run", "bench", "inspect", "profile"):
        for choice in (("--math", "strict"), ("--range", "N=1..8")):
            assert command(name, artifact, *choice) == 2
            assert "TW-E0821" in capsys.readouterr().err


def test_math_shows_in_the_kernels_that_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "convolution.onnx")
    weights = np.ones((64, 64, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    image = [1, 64, 28, 28]
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), model)
    recipes, flops = {}, {}
    for math in ("fast", "strict"):
        assert command("inspect", model, "--stage", "schedule", "--math", math) == 0
        recipes[math] = capsys.readouterr().out
        assert command("profile", model, "--json", "--math", math) == 0
        kernels = json.loads(capsys.readouterr().out)["kernels"]
        flops[math] = sum(k["flops"] for k in kernels)
    assert "winograd" in recipes["fast"]
    assert "winograd" not in recipes["strict"]
    assert flops["strict"] > 1.5 * flops["fast"]


def test_compile_writes_a_file_that_run_takes(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "layer.tw"
    assert command("compile", layer, "-o", str(artifact)) == 0
    assert "x: f32[N, 16]" in capsys.readouterr().out
    assert command("run", str(artifact), "--dim", "N=3") == 0
    assert "3x8" in capsys.readouterr().out


def test_run_takes_inputs_from_files_and_writes_outputs(layer: str, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((5, 16), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "all.npz", x=x)
    for given in (("--input", f"x={tmp_path / 'x.npy'}"), ("--inputs", str(tmp_path / "all.npz"))):
        assert command("run", layer, *given, "--output", str(tmp_path / "y.npz")) == 0
        (wanted,) = api.compile(layer)(x)
        with np.load(tmp_path / "y.npz") as found:
            assert found.files == ["y"]
            assert np.array_equal(found["y"], wanted)


def test_running_a_compiled_file_imports_no_other_runtime_and_no_compiler(
    layer: str, tmp_path: Path
) -> None:
    file = tmp_path / "layer.tw"
    assert command("compile", layer, "-o", str(file)) == 0
    program = (
        "import sys; from tilewright.cli import run_command; "
        f"code = run_command(['run', {str(file)!r}, '--dim', 'N=2']); "
        "print(code, *sorted({'rich', 'tilewright.peers', 'tilewright.pipeline', 'onnx', 'email',"
        " 'llvmlite.binding'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"


def test_run_checks_against_onnx_runtime_and_numpy(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", layer, "--dim", "N=7", "--check", "onnxruntime") == 0
    assert command("run", layer, "--dim", "N=7", "--check", "reference") == 0
    assert capsys.readouterr().out.count("agrees with") == 2


def test_run_exits_1_where_results_differ(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agreement, "run_reference", lambda *_: [np.full((1, 8), 3, np.float32)])
    assert command("run", layer, "--check", "reference") == 1
    assert "DIFFERS from NumPy: y" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ours", "theirs", "relative"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.5, -4.0], 0.125),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [np.inf, 1.0], np.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-9], [0.0, 0.0], np.inf),
    ],
)
def test_a_difference_is_relative_to_the_largest_value(
    ours: list[float], theirs: list[float], relative: float
) -> None:
    (found,) = agreements(["y"], [np.array(ours)], [np.array(theirs)])
    assert found.relative == relative


def test_types_shapes_and_integers_must_be_equal() -> None:
    x = np.arange(4)
    for other in (x.astype(np.int32), x.reshape(2, 2), x + (x == 3)):
        assert agreements(["y"], [x], [other])[0].relative == np.inf
    assert agreements(["y"], [x], [x, x])[0].relative == np.inf
    assert agreements(["y"], [x], [x.copy()])[0].relative == 0


def test_random_inputs_are_the_same_for_the_same_seed(layer: str, tmp_path: Path) -> None:
    written = []
    for seed in ("3", "3", "4"):
        assert command("run", layer, "--seed", seed, "--output", str(tmp_path / "y.npz")) == 0
        with np.load(tmp_path / "y.npz") as found:
            written.append(found["y"])
    assert np.array_equal(written[0], written[1])
    assert not np.array_equal(written[0], written[2])


@pytest.mark.parametrize("name", ["run", "profile", "bench"])
def test_a_range_bounds_the_sizes_that_nobody_chose(
    name: str, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--time-budget", "0.1") if name == "bench" else ()
    assert command(name, layer, "--range", "N=4..8", *more) == 0
    capsys.readouterr()
    assert command(name, layer, "--range", "N=4..8", "--dim", "N=9", *more) == 2
    error = capsys.readouterr().err
    assert "TW-E0306" in error
    assert "N is 9" in error


def test_shape_fixes_a_symbolic_dim(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", layer, "--shape", "x:2x16") == 0
    assert "2x8" in capsys.readouterr().out
    assert command("run", layer, "--shape", "x:2x16", "--dim", "N=2") == 2
    assert "TW-E0823" in capsys.readouterr().err


# ------------------------------------------------------------------ looking


@pytest.mark.parametrize("stage", ["graph", "passes", "loops", "program", "llvm", "asm"])
def test_inspect_prints_a_stage(layer: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", layer, "--stage", stage) == 0
    assert len(capsys.readouterr().out) > 40


def test_inspect_without_a_stage_is_a_summary(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", layer) == 0
    out = capsys.readouterr().out
    assert "kernels" in out
    assert "x: f32[N, 16]" in out


def test_inspect_of_a_compiled_file_shows_what_was_kept(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(tmp_path / "layer.tw")
    assert command("compile", layer, "-o", artifact, "--keep", "loops") == 0
    assert command("inspect", artifact, "--stage", "loops") == 0
    assert command("inspect", artifact, "--stage", "program") == 0
    assert command("inspect", artifact, "--stage", "llvm") == 2
    assert "TW-E0803" in capsys.readouterr().err


def test_ops_lists_primitives_and_source_operators(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ops") == 0
    out = capsys.readouterr().out
    for name in ("matmul", "reduce_window", "LayerNormalization", "LSTM", "numpy.add.reduce"):
        assert name in out


def test_ops_for_a_model_counts_its_primitives(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("ops", "--for", layer) == 0
    assert "matmul" in capsys.readouterr().out


def test_ops_for_an_unsupported_model_lists_all_gaps(
    unsupported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("ops", "--for", unsupported) == 3
    out = capsys.readouterr().out
    for word in ("Frobnicate", "Disentangle", "first", "second"):
        assert word in out


def test_ops_are_data_too(layer: str, unsupported: str, capsys: pytest.CaptureFixture[str]) -> None:
    def data(*arguments: str, code: int = 0) -> Any:
        assert command("ops", "--json", *arguments) == code
        return json.loads(capsys.readouterr().out)

    tables = data()
    (cast,) = (p for p in tables["primitives"] if p["name"] == "cast")
    assert cast["kind"] == "elementwise"
    assert "cpu" in cast["targets"]
    assert "Softmax" in tables["sources"]["onnx"]
    assert data("--for", layer)["primitives"] == {"matmul": 1, "add": 1, "max": 1}
    missing = data("--for", unsupported, code=3)
    assert not missing["supported"]
    assert [gap["nodes"] for gap in missing["gaps"]] == [["first"], ["second"]]


def test_doctor_is_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peaks"] is None
    assert found["self-test seconds"] > 0
    assert command("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    for label, value in found.items():
        if isinstance(value, str):
            assert f"{label:15} {value}" in lines


def test_doctor_shows_the_machine_and_tests_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor") == 0
    out = capsys.readouterr().out
    for label in ("tilewright", "packages", "target", "threads", "cache", "peers", "self-test"):
        assert f"\n{label}" in f"\n{out}"


def test_doctor_measures_what_the_machine_reaches_and_keeps_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("doctor") == 0
    assert "doctor --measure" in capsys.readouterr().out
    found = measure_peaks(seconds=0.001)
    monkeypatch.setattr(doctor, "measure_peaks", lambda: found)
    assert command("doctor", "--measure") == 0
    measured = capsys.readouterr().out
    for label in ("peak ", "reads of L1", "reads of L2", "reads of L3", "reads of DRAM"):
        assert f"\n{label}" in measured
    assert command("doctor") == 0
    assert capsys.readouterr().out.count("GB/s with 1 thread") == 4


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_every_command_holds_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(name, "--help") == 0
    assert f"Example: tilewright {name}" in capsys.readouterr().out


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "missing.onnx"], 2, "TW-E0101"),
        (["run", "missing.tw"], 2, "TW-E05"),
        (["run", "zoo:nothing"], 2, "TW-E0820"),
        (["run", "MODEL", "--target", "pdp-11"], 2, "TW-E0401"),
        (["run", "MODEL", "--math", "exact"], 2, "strict"),
        (["run", "MODEL", "--dim", "M=3"], 2, "TW-E0823"),
        (["run", "MODEL", "--dim", "N"], 2, "N=4"),
        (["run", "MODEL", "--dim", "N=0"], 2, "TW-E03"),
        (["run", "MODEL", "--shape", "2x16"], 2, "x:1x3x224x224"),
        (["run", "MODEL", "--shape", "z:2x16"], 2, "TW-E08"),
        (["run", "MODEL", "--threads", "0"], 2, "1<=x<=1024"),
        (["run", "MODEL", "--input", "x=missing.npy"], 2, "TW-E0310"),
        (["run", "MODEL", "--input", "z=MODEL"], 2, "TW-E0310"),
        (["run", "MODEL", "--output", "missing/y.npz"], 2, "TW-E0601"),
        (["compile", "MODEL", "-o", "missing/m.tw"], 2, "TW-E0601"),
        (["compile", "MODEL"], 2, "--output"),
        (["inspect", "MODEL", "--stage", "nonsense"], 2, "nonsense"),
        (["bench", "MODEL", "--compare", "abacus"], 2, "abacus"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_mistake_is_one_paragraph_and_a_code(
    arguments: list[str],
    code: int,
    said: str,
    layer: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*(a.replace("MODEL", layer) for a in arguments)) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_an_unsupported_model_exits_3_with_all_gaps(
    unsupported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", unsupported) == 3
    err = capsys.readouterr().err
    assert "Frobnicate" in err
    assert "Disentangle" in err


def test_wrong_inputs_in_files_are_refused(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((2, 17), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((2, 16)))
    np.savez(tmp_path / "other.npz", z=np.zeros(2))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:60])
    for option, name, code in [
        ("--input", "x=wide.npy", "TW-E0303"),
        ("--input", "x=double.npy", "TW-E0302"),
        ("--inputs", "other.npz", "TW-E0301"),
        ("--inputs", "cut.npz", "TW-E0310"),
        ("--inputs", "wide.npy", "TW-E0310"),
    ]:
        place = name.replace("=", f"={tmp_path}/") if "=" in name else f"{tmp_path}/{name}"
        assert command("run", layer, option, place) == 2
        assert "TW-E03" in capsys.readouterr().err, code


def test_a_defect_of_our_own_exits_4(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("made for this test")

    monkeypatch.setattr(api, "compile", fail)
    assert command("run", layer) == InternalError.exit_code == 4
    err = capsys.readouterr().err
    assert "TW-E0900" in err
    assert "Traceback" not in err
    monkeypatch.setenv("TILEWRIGHT_DEBUG", "1")
    assert command("run", layer) == 4
    assert "Traceback" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_leaves_nothing(layer: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert command("run", layer, "--output", str(place / "y.npz")) == 2
    assert not list(place.iterdir())


SHELL = f"{sys.executable} -m tilewright"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def test_a_full_standard_output_is_told_with_its_code(layer: str) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    for name in (f"inspect {layer} --stage graph", "ops"):
        done = shell(f"{SHELL} {name} > /dev/full")
        assert done.returncode == 2
        assert done.stderr.startswith("error: TW-E0602: standard output")
        assert done.stderr.count("\n") == 1


def test_characters_that_an_encoding_lacks_are_printed_as_question_marks(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path / "modèle.onnx")
    model = tmp_path / "modèle.onnx"
    done = shell(f"PYTHONIOENCODING=ascii {SHELL} bench {model} --time-budget 0.1")
    assert done.returncode == 0, done.stderr
    assert "mod?le" in done.stdout


@pytest.mark.parametrize("stream", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_streams_that_are_closed_are_done_without(stream: str, layer: str, tmp_path: Path) -> None:
    done = shell(f"{SHELL} run {layer} --output {tmp_path / 'y.npz'} {stream}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "y.npz").exists()
    assert shell(f"{SHELL} run missing.onnx {stream}").returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "-o"],
        ["export", "-o"],
        ["run", "--output"],
        ["inspect", "-o"],
        ["tune", "-o"],
        ["tune", "--records"],
        ["profile", "--html"],
        ["profile", "--trace"],
        ["bench", "--json"],
        ["bench", "--junit"],
        ["bench", "--markdown"],
        ["bench", "--csv"],
    ],
    ids=" ".join,
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is missing, which is found later than what is wrong with the place."""
    name, option = arguments
    for place, why in ((tmp_path / "no" / "file", "there is no folder"), (tmp_path, "is a folder")):
        assert command(name, "missing.onnx", option, str(place)) == 2
        err = capsys.readouterr().err
        assert "TW-E0601" in err and why in err, err


def test_a_dim_that_given_inputs_contradict_is_refused(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 16), np.float32))
    given = ("run", layer, "--input", f"x={tmp_path / 'x.npy'}")
    assert command(*given, "--dim", "N=4") == 0
    assert command(*given, "--dim", "N=5") == 2
    assert "TW-E0305: --dim N=5: in the given inputs N is 4" in capsys.readouterr().err


@pytest.mark.parametrize("size", [10**11, 10**17])
def test_random_inputs_that_no_memory_holds_are_named(
    size: int, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", layer, "--dim", f"N={size}") == 2
    err = capsys.readouterr().err
    assert "TW-E0307: input 'x'" in err and f"{size}x16" in err


def test_names_of_options_arguments_are_words_of_users(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Click would show the name of the function that reads an argument."""
    for name in cli.COMMANDS:
        assert command(name, "--help") == 0
        assert "PARSE_" not in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    done = shell(f"{SHELL} ops | head -n 1")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "primitive operators" in done.stdout


def test_memory_that_a_command_does_not_get_is_no_defect(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise MemoryError

    monkeypatch.setattr(api, "compile", fail)
    assert command("run", layer) == 2
    assert "TW-E0805" in capsys.readouterr().err


def test_a_compiled_file_has_no_operators_to_list(
    layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "layer.tw")
    assert command("compile", layer, "-o", file) == 0
    assert command("ops", "--for", file) == 2
    assert "TW-E0822" in capsys.readouterr().err


def test_doctor_finds_a_machine_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        api, "compile", lambda *_, **__: lambda x: (np.ones((len(x), 30), np.float32),)
    )
    assert command("doctor") == 4
    assert "TW-E0931: doctor: a layer of 20 to 30 on a batch of 1" in capsys.readouterr().err


# ------------------------------------------------------------------ small pieces


def test_shapes_dims_and_ranges_are_read() -> None:
    assert model.parse_shape("x:1x3x224x224") == ("x", (1, 3, 224, 224))
    assert model.parse_shape("gpu_0/data_0:Nx16") == ("gpu_0/data_0", ("N", 16))
    assert model.parse_shape("input:0:2x3") == ("input:0", (2, 3))
    assert model.parse_shape("scalar:") == ("scalar", ())
    assert model.parse_dim("N=4") == ("N", 4)
    assert model.parse_range("N=1..64") == ("N", (1, 64))
    assert model.parse_range("N=8") == ("N", (8, 8))
    assert model.parse_range("N=2..") == ("N", (2, None))


def test_batches_are_1_and_other_symbols_16_within_their_ranges() -> None:
    n, s, w = symbol("N"), symbol("S"), symbol("W", 1, 10)
    specs = [TensorSpec("x", f32, (n, s, w)), TensorSpec("m", i64, (n, s))]
    assert arrays.choose_dims(specs, {}) == {"N": 1, "S": 16, "W": 10}
    assert arrays.choose_dims(specs, {"S": 5}) == {"N": 1, "S": 5, "W": 10}
    with pytest.raises(OptionError, match="there are N, S, W"):
        arrays.choose_dims(specs, {"T": 1})


def test_sizes_that_nobody_chose_keep_the_conditions_of_the_model() -> None:
    n, s = symbol("N"), symbol("S", 1, 40)
    specs = [TensorSpec("x", f32, (n, s)), TensorSpec("y", f32, (s,))]
    conditions = (lt(n, s), lt(16, s))
    assert arrays.choose_dims(specs, {}, conditions) == {"N": 1, "S": 32}
    assert arrays.choose_dims(specs, {"S": 3}, (lt(1, n),)) == {"N": 2, "S": 3}
    impossible = arrays.choose_dims(specs, {}, (lt(n, 0),))
    assert impossible == {"N": 1, "S": 1}


def test_errors_of_the_command_line_have_the_exit_codes_of_their_kinds() -> None:
    assert UnsupportedError([]).exit_code == 3
    assert OptionError("", code="TW-E0800").exit_code == 2
