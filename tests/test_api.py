"""The Python API: what compile takes and keeps, what an executable gives back and remembers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tilewright
from tilewright import api, stages
from tilewright.dtype import f32
from tilewright.errors import ModelError, OptionError
from tilewright.frontends.onnx import import_onnx
from tilewright.models import model_key
from tilewright.runtime.executable import Executable

from .readme_model import write_model

COMPILER = ("pipeline", "graph.passes", "lower", "schedule", "ops", "frontends.onnx")
STAGES = (
    "graph", "passes", "compute", "space", "loops", "schedule", "schedule.json", "llvm", "asm",
    "program",
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """``y = relu(x @ w + b)`` from [N, 16] to [N, 8]."""
    write_model(tmp_path)
    return tmp_path / "model.onnx"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were compiled, by name, in order."""
    made: list[str] = []
    build = stages.PIPELINE["build"]
    whole = stages.load_function(build)

    def counted(graph: object, *rest: object) -> object:
        made.append(graph.name)  # type: ignore[attr-defined]
        return whole(graph, *rest)

    def load(place: str) -> object:
        return counted if place == build else stages.load_function(place)

    monkeypatch.setattr(api, "load_function", load)
    return made


X = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)


def expected(path: Path, x: np.ndarray = X) -> np.ndarray:
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    result: np.ndarray = np.maximum(x @ weights["w"] + weights["b"], 0)
    return result


def scale_weights(path: Path, factor: float) -> None:
    """Writes the model anew, of the same size, with other weights."""
    proto = onnx.load(path)
    for t in proto.graph.initializer:
        array = numpy_helper.to_array(t) * np.float32(factor)
        t.CopyFrom(numpy_helper.from_array(array, t.name))
    onnx.save(proto, path)


# ------------------------------------------------------------------ what is compiled


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "proto", "graph"])
def test_compile_takes(kind: str, model: Path) -> None:
    sources: dict[str, Callable[[], object]] = {
        "path": lambda: model,
        "str": lambda: str(model),
        "bytes": model.read_bytes,
        "proto": lambda: onnx.load(model),
        "graph": lambda: import_onnx(model),
    }
    exe = tilewright.compile(sources[kind]())
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", [None, 3, ["model.onnx"], np.zeros(3), {}])
def test_compile_refuses_anything_else_by_the_name_of_its_type(source: object) -> None:
    with pytest.raises(ModelError, match=f"TW-E0100.*{type(source).__name__}"):
        tilewright.compile(source)


def test_shapes_and_ranges_do_not_apply_to_a_graph(model: Path) -> None:
    with pytest.raises(OptionError, match="TW-E0804"):
        tilewright.compile(import_onnx(model), shapes={"x": (1, 16)})


def test_an_executable_says_what_it_takes_and_gives(model: Path) -> None:
    exe = tilewright.compile(model, dim_ranges={"N": (2, 9)})
    (given,), (made,) = exe.inputs, exe.outputs
    assert (given.name, given.dtype, str(given)) == ("x", f32, "x: f32[N, 16]")
    assert (made.name, made.dtype) == ("y", f32)
    batch = exe.program.symbols[0]
    assert (batch.name, batch.lo, batch.hi) == ("N", 2, 9)


def test_one_executable_serves_its_range_and_nothing_else(model: Path) -> None:
    exe = tilewright.compile(model, dim_ranges={"N": (2, 9)})
    for rows in (2, 5, 9):
        x = np.ones((rows, 16), np.float32)
        np.testing.assert_allclose(exe(x)[0], expected(model, x), rtol=1e-5, atol=1e-5)
    for rows in (1, 10):
        with pytest.raises(tilewright.InputError, match="TW-E0306"):
            exe(np.ones((rows, 16), np.float32))


def test_shapes_are_compiled_in(model: Path) -> None:
    exe = tilewright.compile(model, shapes={"x": (3, 16)})
    assert exe.inputs[0].shape == (3, 16)
    with pytest.raises(tilewright.InputError, match="TW-E0304"):
        exe(X)


def test_progress_is_told_stage_by_stage(model: Path) -> None:
    told: list[str] = []
    tilewright.compile(model, cache=False, progress=told.append)
    assert [t for t in told if "/" not in t] == ["import", "passes", "lower", "code", "constants"]
    done, total = [t for t in told if "/" in t][-1].removeprefix("code ").split("/")
    assert done == total


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_set_and_change_no_bit(threads: int, model: Path) -> None:
    one = tilewright.compile(model, threads=1)
    exe = tilewright.compile(model, threads=threads)
    assert exe.threads == threads
    x = np.random.default_rng(1).standard_normal((700, 16)).astype(np.float32)
    assert np.array_equal(exe(x)[0], one(x)[0])


@pytest.mark.parametrize("target", ["native", "x86-64-v2", "x86-64-v3"])
def test_every_level_computes_the_same(target: str, model: Path) -> None:
    exe = tilewright.compile(model, target=target)
    assert exe.target.name == target
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ whole models in the cache


def test_a_hit_compiles_nothing_and_gives_the_same(model: Path, builds: list[str]) -> None:
    first = tilewright.compile(model)(X)[0]
    second = tilewright.compile(model)(X)[0]
    assert len(builds) == 1
    assert np.array_equal(first, second)


def test_bytes_hit_too(model: Path, builds: list[str]) -> None:
    for _ in range(2):
        tilewright.compile(model.read_bytes())
    assert len(builds) == 1


def test_the_same_file_elsewhere_hits(model: Path, tmp_path: Path, builds: list[str]) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes())
    for path in (model, other):
        tilewright.compile(path)
    assert len(builds) == 1


@pytest.mark.parametrize(
    "options",
    [{"shapes": {"x": (5, 16)}}, {"dim_ranges": {"N": (1, 8)}}, {"target": "x86-64-v2"},
     {"cache": False}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_other_options_do_not_hit(
    options: dict[str, object], model: Path, builds: list[str]
) -> None:
    tilewright.compile(model)
    exe = tilewright.compile(model, **options)  # type: ignore[arg-type]
    assert len(builds) == 2
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


def test_threads_are_no_part_of_what_is_compiled(model: Path, builds: list[str]) -> None:
    assert [tilewright.compile(model, threads=t).threads for t in (1, 2)] == [1, 2]
    assert len(builds) == 1


def test_a_changed_file_does_not_hit(model: Path, builds: list[str]) -> None:
    tilewright.compile(model)
    size, times = model.stat().st_size, model.stat()
    scale_weights(model, -3.0)
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model.stat().st_size == size
    exe = tilewright.compile(model)
    assert len(builds) == 2
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


def test_a_file_that_changes_while_it_is_compiled_is_not_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_changed(*arguments: object) -> str | None:
        found = model_key(*arguments)  # type: ignore[arg-type]
        scale_weights(model, 2.0)
        return found

    original = model.read_bytes()
    monkeypatch.setattr(api, "model_key", then_changed)
    tilewright.compile(model)
    monkeypatch.undo()
    model.write_bytes(original)
    exe = tilewright.compile(model)
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


def with_external_data(model: Path) -> Path:
    """The model with its weights in ``weights.bin`` beside it."""
    path = model.parent / "outside" / "model.onnx"
    path.parent.mkdir()
    onnx.save(
        onnx.load(model), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


def test_external_data_hits_while_it_is_the_same(model: Path, builds: list[str]) -> None:
    path = with_external_data(model)
    for _ in range(2):
        exe = tilewright.compile(path)
        np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)
    assert len(builds) == 1


def test_changed_external_data_is_never_served_stale(model: Path, builds: list[str]) -> None:
    path = with_external_data(model)
    tilewright.compile(path)
    before = path.read_bytes()
    weights = path.with_name("weights.bin")
    data = np.fromfile(weights, np.float32)
    (data * -2).tofile(weights)
    assert path.read_bytes() == before
    exe = tilewright.compile(path)
    assert len(builds) == 2
    np.testing.assert_allclose(exe(X)[0], expected(path), rtol=1e-5, atol=1e-5)


def test_missing_external_data_is_missed_though_the_model_is_known(model: Path) -> None:
    path = with_external_data(model)
    tilewright.compile(path)
    path.with_name("weights.bin").unlink()
    with pytest.raises(ModelError, match=r"TW-E0131.*weights\.bin"):
        tilewright.compile(path)


def entries(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_entry_is_a_miss(damage: str, model: Path, tmp_path: Path) -> None:
    tilewright.compile(model)
    for path in entries(tmp_path / "cache"):
        data = bytearray(path.read_bytes())
        match damage:
            case "cut":
                data = data[: len(data) // 2]
            case "flipped":
                for k in range(0, len(data), 97):
                    data[k] ^= 0x55
            case "empty":
                data = bytearray()
            case "foreign":
                data = bytearray(b"something else altogether")
        path.write_bytes(data)
    exe = tilewright.compile(model)
    np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


def test_a_cache_that_cannot_be_made_costs_only_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    for place in (file, file / "below", Path("/proc/nowhere")):
        monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(place))
        exe = tilewright.compile(model)
        np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)
    assert file.read_text() == "in the way"


def test_a_cache_that_cannot_be_written_is_read(
    model: Path, tmp_path: Path, builds: list[str]
) -> None:
    tilewright.compile(model)
    folders = [tmp_path / "cache", *(p for p in (tmp_path / "cache").rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        tilewright.compile(model)
        tilewright.compile(model, shapes={"x": (5, 16)})
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert len(builds) == 2


def test_without_a_home_there_is_no_cache(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TILEWRIGHT_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    np.testing.assert_allclose(
        tilewright.compile(model)(X)[0], expected(model), rtol=1e-5, atol=1e-5
    )


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has after running some code."""
    shown = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("suffix", [".onnx", ".tw"])
def test_a_compiled_model_loads_without_the_compiler(model: Path, suffix: str) -> None:
    tilewright.compile(model).save(model.with_suffix(".tw"))
    function = "compile" if suffix == ".onnx" else "load"
    path = str(model.with_suffix(suffix))
    found = imported_by(f"import tilewright; tilewright.{function}({path!r})")
    needless = {"onnx", "google.protobuf", *(f"tilewright.{name}" for name in COMPILER)}
    assert not found & needless
    assert "tilewright.backends.cpu" in found


# ------------------------------------------------------------------ texts of the stages


@pytest.mark.parametrize("cached", [False, True])
def test_every_stage_has_a_text(cached: bool, model: Path) -> None:
    if cached:
        tilewright.compile(model)
    exe = tilewright.compile(model)
    assert set(STAGES) <= set(exe.stages)
    for stage in exe.stages:
        assert exe.text(stage).strip(), stage
    assert "matmul" in exe.text("graph")
    assert "fused" in exe.text("passes")
    assert "sum(" in exe.text("compute")
    assert "vector(" in exe.text("loops")
    assert "split(" in exe.text("schedule")
    assert "define " in exe.text("llvm")


def test_texts_are_the_same_from_the_cache(model: Path) -> None:
    first, second = (tilewright.compile(model) for _ in range(2))
    for stage in STAGES:
        assert first.text(stage) == second.text(stage)


def test_a_stage_of_a_file_that_changed_is_refused(model: Path) -> None:
    exe = tilewright.compile(model)
    scale_weights(model, 2.0)
    with pytest.raises(OptionError, match="TW-E0807"):
        exe.text("graph")


def test_an_unknown_stage_is_refused_with_those_there_are(model: Path) -> None:
    with pytest.raises(OptionError, match="TW-E0803.*schedule"):
        tilewright.compile(model).text("assembly")


# ------------------------------------------------------------------ save and load


def test_saved_models_load_and_compute_the_same(model: Path, tmp_path: Path) -> None:
    exe = tilewright.compile(model, dim_ranges={"N": (1, 9)})
    exe.save(tmp_path / "model.tw", stages=["schedule", "graph"])
    loaded = tilewright.load(tmp_path / "model.tw", threads=1)
    assert (loaded.inputs, loaded.outputs) == (exe.inputs, exe.outputs)
    assert np.array_equal(loaded(X)[0], exe(X)[0])
    assert loaded.text("schedule") == exe.text("schedule")
    assert loaded.text("program") == exe.text("program")
    with pytest.raises(OptionError, match="TW-E0803"):
        loaded.text("llvm")


def test_a_loaded_model_outlives_its_file(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    tilewright.compile(model).save(path)
    loaded = tilewright.load(path)
    path.unlink()
    np.testing.assert_allclose(loaded(X)[0], expected(model), rtol=1e-5, atol=1e-5)
    loaded.save(path)
    assert np.array_equal(tilewright.load(path)(X)[0], loaded(X)[0])


# ------------------------------------------------------------------ calling


def test_inputs_come_in_order_or_by_name(model: Path) -> None:
    exe = tilewright.compile(model)
    (in_order,), (by_name,), named = exe(X), exe(x=X), exe.run({"x": X})
    assert np.array_equal(in_order, by_name) and np.array_equal(in_order, named["y"])


def test_results_are_the_callers(model: Path) -> None:
    exe = tilewright.compile(model)
    (first,) = exe(X)
    kept = first.copy()
    (second,) = exe(-X)
    assert np.array_equal(first, kept) and not np.shares_memory(first, second)
    assert first.flags.writeable
    del exe
    assert np.array_equal(first, kept)


def test_torch_tensors_come_back_as_torch_tensors(model: Path) -> None:
    torch = pytest.importorskip("torch")
    exe = tilewright.compile(model)
    (y,) = exe(torch.from_numpy(X))
    assert isinstance(y, torch.Tensor)
    assert np.array_equal(y.numpy(), exe(X)[0])


def test_many_threads_call_one_executable(model: Path) -> None:
    exe = tilewright.compile(model, threads=2)
    wanted = {n: exe(X[:n])[0] for n in range(1, 6)}

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        return all(
            np.array_equal(exe(X[:n])[0], wanted[n]) for n in rng.integers(1, 6, 200).tolist()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_many_threads_compile_at_once(model: Path) -> None:
    gate = threading.Barrier(4)

    def work(_: int) -> Executable:
        gate.wait()
        return tilewright.compile(model, threads=1)

    with ThreadPoolExecutor(4) as pool:
        for exe in pool.map(work, range(4)):
            np.testing.assert_allclose(exe(X)[0], expected(model), rtol=1e-5, atol=1e-5)


def test_a_model_without_inputs_runs() -> None:
    c = numpy_helper.from_array(np.arange(3, dtype=np.float32), "c")
    graph = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["y"])],
        "none",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [c],
    )
    exe = tilewright.compile(helper.make_model(graph))
    np.testing.assert_array_equal(exe()[0], [0, -1, -2])
    np.testing.assert_array_equal(exe.run({})["y"], [0, -1, -2])
