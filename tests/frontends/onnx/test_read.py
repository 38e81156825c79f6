"""Bad files: each is one coded paragraph, in bounded time and memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tilewright.errors import ModelError, TilewrightError, UnsupportedError
from tilewright.frontends.onnx import import_onnx

from .models import external, parsed, run, with_weight

GOOD = parsed("agraph (float[2] x) => (float[2] y) { y = Abs(x) }").SerializeToString()


def code_of(source: bytes | Path | onnx.ModelProto, **options: object) -> str:
    with pytest.raises(TilewrightError) as caught:
        import_onnx(source, **options)  # type: ignore[arg-type]
    assert "\n\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_model_cut_off_anywhere_is_an_error_or_still_a_model(length: int) -> None:
    with contextlib.suppress(ModelError, UnsupportedError):
        import_onnx(GOOD[:length])


def test_random_bytes_are_refused() -> None:
    for seed in range(200):
        data = np.random.default_rng(seed).bytes(seed * 7)
        assert code_of(data).startswith("TW-E01")


def test_flipped_bytes_never_crash_the_importer() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(GOOD)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        with contextlib.suppress(ModelError, UnsupportedError):
            import_onnx(bytes(data))


@pytest.mark.parametrize(
    ("magic", "kind"),
    [(b"PK\x03\x04rest", "zip"), (b"<html>", "HTML"), (b"\x89HDF\r\n", "HDF5"), (b"{}", "JSON")],
)
def test_files_of_other_kinds_are_called_by_their_kind(magic: bytes, kind: str) -> None:
    with pytest.raises(ModelError, match=kind):
        import_onnx(magic)


def test_a_missing_file_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    assert code_of(tmp_path / "none.onnx") == "TW-E0101"
    assert code_of(tmp_path) == "TW-E0101"
    (tmp_path / "empty.onnx").touch()
    assert code_of(tmp_path / "empty.onnx") == "TW-E0103"


@pytest.mark.parametrize("dims", [[-2], [1 << 40, 1 << 40], [1 << 62, 4]])
def test_impossible_dims_are_refused_before_memory_is_asked_for(dims: list[int]) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"")
    assert code_of(with_weight(tensor)) == "TW-E0133"


@pytest.mark.parametrize("size", [0, 4, 7, 12])
def test_initializer_data_must_fit_its_dims(size: int) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(size))
    assert code_of(with_weight(tensor)) == "TW-E0134"
    typed = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], float_data=[1.0] * 2)
    assert code_of(with_weight(typed)) == "TW-E0134"


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w", "", "\0"]
)
def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "w.bin").write_bytes(bytes(8))
    model = with_weight(external(location))
    assert code_of(model, base_dir=tmp_path) == "TW-E0130"


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (inside / "w.bin").symlink_to(tmp_path / "secret")
    assert code_of(with_weight(external("w.bin")), base_dir=inside) == "TW-E0130"


def test_missing_short_and_irregular_external_data_are_refused(tmp_path: Path) -> None:
    model = with_weight(external("w.bin"))
    assert code_of(model) == "TW-E0131"
    assert code_of(model, base_dir=tmp_path) == "TW-E0131"
    (tmp_path / "w.bin").mkdir()
    assert code_of(model, base_dir=tmp_path) == "TW-E0131"
    (tmp_path / "w.bin").rmdir()
    (tmp_path / "w.bin").write_bytes(bytes(7))
    assert code_of(model, base_dir=tmp_path) == "TW-E0132"
    (tmp_path / "w.bin").write_bytes(bytes(16))
    for offset in ("-4", "9", "9" * 30, "x"):
        assert code_of(with_weight(external("w.bin", offset)), base_dir=tmp_path) == "TW-E0132"
    assert code_of(with_weight(external("w.bin", "0", "16")), base_dir=tmp_path) == "TW-E0134"


def test_external_data_is_mapped_not_read(tmp_path: Path) -> None:
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(with_weight(external("w.bin", "8")).SerializeToString())
    graph = import_onnx(path)
    (weight,) = graph.constants.values()
    base: object = weight
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    (y,) = run(graph, np.zeros(2, np.float32))
    assert y.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_raw_and_typed_initializers_hold_the_same_numbers(dtype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 3]]).astype(dtype)
    raw = numpy_helper.from_array(array, "w")
    typed = onnx.helper.make_tensor("w", raw.data_type, array.shape, array.ravel())
    body = "agraph (float[1] x) => (y) { y = Identity(w) }"
    for tensor in (raw, typed):
        model = parsed(body)
        model.graph.initializer.append(tensor)
        (y,) = run(model, np.zeros(1, np.float32))
        assert y.dtype == array.dtype
        np.testing.assert_array_equal(y, array)


def test_raw_weights_are_views_of_the_file_data() -> None:
    array = np.arange(1000, dtype=np.float32)
    model = parsed("agraph (float[1000] x) => (y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(array, "w"))
    (weight,) = import_onnx(model).constants.values()
    assert not weight.flags.owndata and not weight.flags.writeable


@pytest.mark.parametrize("sizes", [[8], [2000], [5, 3000, 7, 1024, 255, 256, 40000]])
def test_weights_cut_out_of_the_message_are_the_same_weights(sizes: list[int]) -> None:
    names = [f"w{i}" for i in range(len(sizes))]
    model = parsed(f"agraph (float[1] x) => (y) {{ y = Concat <axis = 0> ({', '.join(names)}) }}")
    arrays = [np.random.default_rng(n).random(n, np.float32) for n in sizes]
    for name, array in zip(names, arrays, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    (y,) = run(import_onnx(model.SerializeToString()), np.zeros(1, np.float32))
    np.testing.assert_array_equal(y, np.concatenate(arrays))


def test_the_weights_of_a_file_are_mapped_not_read(tmp_path: Path) -> None:
    array = np.arange(5000, dtype=np.float32)
    model = parsed("agraph (float[5000] x) => (y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(array, "w"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (weight,) = import_onnx(tmp_path / "m.onnx").constants.values()
    base: object = weight
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_file_cut_off_inside_its_weights_is_refused(tmp_path: Path) -> None:
    model = parsed("agraph (float[5000] x) => (y) { y = Add(x, w) }")
    array = np.arange(5000, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(array, "w"))
    data = model.SerializeToString()
    for length in (len(data) - 1, len(data) // 2, 100):
        assert code_of(data[:length]) == "TW-E0103"
