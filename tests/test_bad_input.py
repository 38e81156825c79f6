"""Bad input: each mistake is one coded paragraph, from Python and from the command line.

No traceback, no half-written file, and neither time nor memory that a small file could not need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tilewright import cli
from tilewright.errors import (
    ArtifactError,
    InputError,
    ModelError,
    OutputError,
    TargetError,
    TilewrightError,
    UnsupportedError,
)
from tilewright.runtime import artifact

from .readme_model import write_model

PARAGRAPH = re.compile(r"error: (TW-E\d{4}): \S.+", re.S)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path)
    return tmp_path / "model.onnx"


@pytest.fixture
def compiled(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.tw"
    tilewright.compile(model).save(path)
    return path


def make(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    constants: list[onnx.TensorProto] | None = None,
) -> onnx.ModelProto:
    def declared(shapes: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    graph = helper.make_graph(nodes, "bad", declared(inputs), declared(outputs), constants or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def assert_refused(
    source: Path,
    kind: type[TilewrightError],
    code: str,
    exit_code: int,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Requires the same refusal from compile and from the command line; returns its text."""
    use: Callable[[Path], object] = (
        tilewright.load if source.suffix == ".tw" else tilewright.compile
    )
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(kind) as caught:
        use(source)
    assert caught.value.code == code, caught.value
    assert caught.value.exit_code == exit_code
    assert cli.run_command(["run", str(source)]) == exit_code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    found = PARAGRAPH.fullmatch(captured.err.strip())
    assert found is not None and found[1] == code
    assert "\n\n" not in captured.err.strip()
    after = sorted(source.parent.rglob("*"))
    assert [p for p in after if p not in before and "cache" not in str(p)] == []
    return caught.value.message


# ------------------------------------------------------------------ files that are no models


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 300, -100, -1])
def test_a_model_that_is_cut_off(
    kept: int, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: kept % len(data)])
    with pytest.raises(ModelError, match=r"TW-E01\d\d"):
        tilewright.compile(model)
    assert cli.run_command(["run", str(model)]) == 2
    assert PARAGRAPH.match(capsys.readouterr().err)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_no_model(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "random.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(1 << seed % 14))
    with pytest.raises(ModelError, match=r"TW-E01\d\d"):
        tilewright.compile(path)
    assert cli.run_command(["run", str(path)]) == 2
    assert PARAGRAPH.fullmatch(capsys.readouterr().err.strip())


@pytest.mark.parametrize("seed", range(60))
def test_a_model_with_damaged_bytes_is_refused_or_runs(seed: int, model: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(model.read_bytes())
    for place in rng.integers(0, len(data), 1 + seed % 4).tolist():
        data[place] = int(rng.integers(256))
    with contextlib.suppress(ModelError, UnsupportedError):
        tilewright.compile(bytes(data), cache=False)


@pytest.mark.parametrize(
    ("magic", "words"),
    [(b"PK\x03\x04", "zip"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"\x7fELF\x02", "native"),
     (b"version https://git-lfs.github.com/spec/v1", "Git LFS")],
)  # fmt: skip
def test_files_of_other_kinds_are_named(
    magic: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(magic + bytes(100))
    assert words in assert_refused(path, ModelError, "TW-E0103", 2, capsys)


def test_places_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(tmp_path / "missing.onnx", ModelError, "TW-E0101", 2, capsys)
    (tmp_path / "folder.onnx").mkdir()
    assert_refused(tmp_path / "folder.onnx", ModelError, "TW-E0101", 2, capsys)
    with pytest.raises(ModelError, match="TW-E0101"):
        tilewright.compile("nul\0byte.onnx")
    with pytest.raises(ModelError, match="the name of the model is empty"):
        tilewright.compile("")


@pytest.mark.parametrize("suffix", ["onnx", "tw"])
def test_a_pipe_is_refused_without_waiting(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"pipe.{suffix}"
    os.mkfifo(path)
    if suffix == "tw":
        assert_refused(path, ArtifactError, "TW-E0505", 2, capsys)
    else:
        assert_refused(path, ModelError, "TW-E0101", 2, capsys)


# ------------------------------------------------------------------ models that break the standard


def test_a_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Neg", ["a"], ["b"], name="second"),
    ]
    onnx.save(make(nodes, {"x": [2]}, {"a": [2]}), tmp_path / "cycle.onnx")
    message = assert_refused(tmp_path / "cycle.onnx", ModelError, "TW-E0111", 2, capsys)
    assert "first" in message or "second" in message


def test_a_value_that_nothing_defines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(
        make([helper.make_node("Neg", ["ghost"], ["y"])], {"x": [2]}, {"y": [2]}),
        tmp_path / "ghost.onnx",
    )
    path = tmp_path / "ghost.onnx"
    with pytest.raises(ModelError, match="ghost"):
        tilewright.compile(path)


def test_operators_that_nobody_knows_are_listed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first"),
        helper.make_node("Disentangle", ["a"], ["y"], name="second", domain="example"),
    ]
    onnx.save(make(nodes, {"x": [2]}, {"y": [2]}), tmp_path / "unknown.onnx")
    with pytest.raises(UnsupportedError) as caught:
        tilewright.compile(tmp_path / "unknown.onnx")
    assert caught.value.code == "TW-E0200"
    assert len(caught.value.gaps) == 2
    assert cli.run_command(["run", str(tmp_path / "unknown.onnx")]) == 3
    shown = capsys.readouterr().err
    assert "first" in shown and "second" in shown and "Traceback" not in shown


@pytest.mark.parametrize("dims", [[1 << 62, 4], [-3], [1 << 40, 1 << 40]])
def test_dims_of_weights_that_overflow(
    dims: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    w = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    del w.dims[:]
    w.dims.extend(dims)
    onnx.save(
        make([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"y": [4]}, [w]),
        tmp_path / "huge.onnx",
    )
    assert_refused(tmp_path / "huge.onnx", ModelError, "TW-E0133", 2, capsys)


@pytest.mark.parametrize("dims", [[1 << 62, 4], [1 << 40, 1 << 40], [-5]])
def test_dims_of_inputs_that_overflow(dims: list[int | str], tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    onnx.save(make([helper.make_node("Neg", ["x"], ["y"])], {"x": dims}, {"y": dims}), path)
    with pytest.raises((ModelError, UnsupportedError), match=r"TW-E0[12]"):
        tilewright.compile(path)


def bounded(code: str, *arguments: str, memory: int = 3 << 30) -> subprocess.CompletedProcess[str]:
    """Runs Python with little memory and time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
        check=False,
    )


COMMAND = "import sys; from tilewright import cli; sys.exit(cli.run_command(sys.argv[1:]))"


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_small_models_that_ask_for_much_are_refused_in_little_memory(
    op: str, tmp_path: Path
) -> None:
    """A terabyte from constants: neither folded when compiled nor a crash when run."""
    wide = numpy_helper.from_array(np.array([1 << 20, 1 << 18], np.int64), "wide")
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    ends = [
        numpy_helper.from_array(np.array(v, np.float32), n)
        for n, v in (("start", 0), ("limit", 2.0**38), ("delta", 1))
    ]
    arguments = {
        "ConstantOfShape": ["wide"],
        "Expand": ["one", "wide"],
        "Tile": ["one", "wide"],
        "Range": ["start", "limit", "delta"],
    }[op]
    nodes = [
        helper.make_node(op, arguments, ["big"]),
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
        helper.make_node("Identity", ["big"], ["z"]),
    ]
    shape: list[int | str] = [1 << 38] if op == "Range" else [1 << 20, 1 << 18]
    path = tmp_path / "big.onnx"
    onnx.save(make(nodes, {"x": [2]}, {"y": [2], "z": shape}, [wide, one, *ends]), path)
    done = bounded(COMMAND, "run", str(path))
    assert done.returncode in (2, 3), done.stderr
    assert PARAGRAPH.fullmatch(done.stderr.strip()), done.stderr


# ------------------------------------------------------------------ external data


def outside(tmp_path: Path, location: str, **fields: str) -> Path:
    """A model whose weight lies in the file ``location``."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    w.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        w.external_data.add(key=key, value=value)
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    proto = make([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"y": [4]}, [w])
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "..", "C:\\secret", "a\\..\\..\\b"]
)
def test_external_data_outside_the_folder(
    location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    assert_refused(outside(tmp_path, location), ModelError, "TW-E0130", 2, capsys)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_external_data_by_a_link_that_leads_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "weights").write_bytes(bytes(16))
    path = outside(tmp_path, "weights" if kind == "file" else "linked/weights")
    if kind == "file":
        (path.parent / "weights").symlink_to(tmp_path / "secret" / "weights")
    else:
        (path.parent / "linked").symlink_to(tmp_path / "secret")
    assert_refused(path, ModelError, "TW-E0130", 2, capsys)


def test_external_data_that_is_missing_or_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = outside(tmp_path, "weights")
    assert_refused(path, ModelError, "TW-E0131", 2, capsys)
    os.mkfifo(path.parent / "weights")
    assert_refused(path, ModelError, "TW-E0131", 2, capsys)
    loop = path.parent / "weights"
    loop.unlink()
    loop.symlink_to("weights")
    assert_refused(path, ModelError, "TW-E0131", 2, capsys)


@pytest.mark.parametrize(
    "fields",
    [{"offset": "8"}, {"offset": "-8"}, {"offset": "99999999999999999999"}, {"offset": "two"}],
    ids=str,
)
def test_external_data_that_is_too_short(
    fields: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = outside(tmp_path, "weights", **fields)
    (path.parent / "weights").write_bytes(bytes(16))
    assert_refused(path, ModelError, "TW-E0132", 2, capsys)


# ------------------------------------------------------------------ calls


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "TW-E0301"),
        ((np.zeros((1, 16), np.float32),) * 2, "TW-E0301"),
        ((np.zeros((1, 16), np.float64),), "TW-E0302"),
        ((np.zeros(16, np.float32),), "TW-E0303"),
        ((np.zeros((1, 17), np.float32),), "TW-E0304"),
        ((np.zeros((0, 16), np.float32),), "TW-E0306"),
        (("text",), "TW-E0308"),
        ((None,), "TW-E0308"),
        ((object(),), "TW-E0308"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_calls_that_do_not_fit(arguments: tuple[object, ...], code: str, model: Path) -> None:
    exe = tilewright.compile(model)
    with pytest.raises(InputError) as caught:
        exe(*arguments)
    assert caught.value.code == code
    assert exe(np.zeros((1, 16), np.float32))[0].shape == (1, 8)


def test_names_that_are_no_inputs(model: Path) -> None:
    exe = tilewright.compile(model)
    for given in ({}, {"z": np.zeros((1, 16), np.float32)}):
        with pytest.raises(InputError, match="TW-E0301"):
            exe.run(given)


def test_the_command_line_refuses_inputs_that_do_not_fit(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 17), np.float32))
    (tmp_path / "text.npy").write_text("no array")
    for file in ("x.npy", "text.npy", "missing.npy"):
        given = f"x={tmp_path / file}"
        assert cli.run_command(["run", str(model), "--input", given]) == 2
        assert PARAGRAPH.fullmatch(capsys.readouterr().err.strip())


@pytest.mark.parametrize("target", ["x86-64-v9", "arm64", "", " ", "cuda:0", "native,+avx9"])
def test_unknown_targets(target: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TargetError, match="TW-E040[14]"):
        tilewright.compile(model, target=target)
    if target.strip():
        assert cli.run_command(["run", str(model), "--target", target]) == 2
        assert PARAGRAPH.fullmatch(capsys.readouterr().err.strip())


# ------------------------------------------------------------------ artefacts


@pytest.mark.parametrize("kept", [0, 7, 63, 64, 1000, 4096, -1])
def test_an_artefact_that_is_cut_off(
    kept: int, compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = compiled.read_bytes()
    compiled.write_bytes(data[: kept % len(data)])
    with pytest.raises(ArtifactError, match=r"TW-E050[13]"):
        tilewright.load(compiled)
    assert cli.run_command(["run", str(compiled)]) == 2
    assert PARAGRAPH.fullmatch(capsys.readouterr().err.strip())


@pytest.mark.parametrize("seed", range(40))
def test_an_artefact_with_a_damaged_byte(seed: int, compiled: Path) -> None:
    (wanted,) = tilewright.load(compiled)(np.zeros((1, 16), np.float32))
    data = bytearray(compiled.read_bytes())
    place = int(np.random.default_rng(seed).integers(len(data)))
    data[place] ^= 1 << seed % 8
    compiled.write_bytes(data)
    # What pads the sections is nobody's; everything else is covered by a digest.
    with contextlib.suppress(ArtifactError):
        exe = tilewright.load(compiled)
        np.testing.assert_array_equal(exe(np.zeros((1, 16), np.float32))[0], wanted)


def test_an_artefact_of_another_format(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(compiled.read_bytes())
    data[8] += 1
    compiled.write_bytes(data)
    message = assert_refused(compiled, ArtifactError, "TW-E0502", 2, capsys)
    assert str(artifact.FORMAT_VERSION + 1) in message


def test_an_artefact_for_a_cpu_that_this_one_is_not(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = artifact.read(compiled)
    target = dataclasses.replace(made.target, required=(*made.target.required, "avx9000"))
    artifact.write(compiled, dataclasses.replace(made, target=target))
    assert "avx9000" in assert_refused(compiled, TargetError, "TW-E0403", 2, capsys)


def test_an_artefact_of_a_backend_that_there_is_not(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = artifact.read(compiled)
    target = dataclasses.replace(made.target, backend="abacus")
    artifact.write(compiled, dataclasses.replace(made, target=target))
    assert_refused(compiled, TargetError, "TW-E0404", 2, capsys)


# ------------------------------------------------------------------ places that cannot be written


def test_places_that_cannot_be_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exe = tilewright.compile(model)
    (tmp_path / "folder.tw").mkdir()
    for place in (tmp_path / "no" / "model.tw", tmp_path / "folder.tw", Path("/proc/model.tw")):
        with pytest.raises(OutputError, match="TW-E0601"):
            exe.save(place)
        assert cli.run_command(["compile", str(model), "-o", str(place)]) == 2
        assert "TW-E0601" in capsys.readouterr().err
    assert not list((tmp_path / "folder.tw").iterdir())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


FULL = """
import resource, signal, sys
from tilewright import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(cli.run_command(sys.argv[1:]))
"""


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_full_disk_leaves_nothing_half_written(
    before: bytes | None, model: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: the error comes from the same calls."""
    place = tmp_path / "out" / "model.tw"
    place.parent.mkdir()
    if before is not None:
        place.write_bytes(before)
    done = bounded(FULL, "compile", str(model), "-o", str(place), "--no-cache")
    assert done.returncode == 2, done.stderr
    assert "TW-E0602" in done.stderr
    assert PARAGRAPH.fullmatch(done.stderr.strip())
    assert [p.name for p in place.parent.iterdir()] == ([] if before is None else ["model.tw"])
    assert before is None or place.read_bytes() == before


def test_a_full_disk_below_the_cache_costs_only_the_cache(model: Path) -> None:
    done = bounded(FULL, "run", str(model))
    assert done.returncode == 0, done.stderr


def test_results_that_cannot_be_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "no" / "y.npz"
    assert cli.run_command(["run", str(model), "--output", str(place)]) == 2
    assert "TW-E0601" in capsys.readouterr().err
