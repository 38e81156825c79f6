"""Reading ONNX files: bytes to a ModelProto, and tensors to arrays without a second copy.

Nothing in a file is trusted: sizes are compared before memory is asked for, and external data
stays inside the model's folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from google.protobuf.message import DecodeError

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.errors import ModelError

from .listing import Listed, listed
from .messages import GRAPHS, GraphProto, ModelProto, TensorProto
from .wire import without_weights

_T = TensorProto
_DTYPES: dict[int, DType] = {
    _T.FLOAT: dt.f32,
    _T.DOUBLE: dt.f64,
    _T.FLOAT16: dt.f16,
    _T.BFLOAT16: dt.bf16,
    _T.INT64: dt.i64,
    _T.INT32: dt.i32,
    _T.INT16: dt.i16,
    _T.INT8: dt.i8,
    _T.UINT64: dt.u64,
    _T.UINT32: dt.u32,
    _T.UINT16: dt.u16,
    _T.UINT8: dt.u8,
    _T.BOOL: dt.bool_,
}
_CODES: dict[DType, int] = {dtype: code for code, dtype in _DTYPES.items()}
MAX_ELEMENTS = 1 << 48
_MAX_MODEL_BYTES = (1 << 31) - 1  # protobuf's own limit for one message


def dtype_of(code: int) -> DType | None:
    """The element type of a TensorProto.DataType number, or None where it is not supported."""
    return _DTYPES.get(code)


def code_of(dtype: DType) -> int:
    """The TensorProto.DataType number of an element type."""
    return _CODES[dtype]


class ExternalData:
    """The files beside a model that hold its large tensors, each mapped into memory once.

    Args:
        folder: where the model lies; nothing outside of it is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._files: dict[str, np.ndarray] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that were read, from the folder on."""
        return tuple(self._files)

    def read(self, location: str, offset: int, length: int, label: str) -> np.ndarray:
        """The ``length`` bytes of a file from ``offset`` on, as a read-only view of the mapping.

        Raises:
            ModelError: the path leads out of the folder, there is no such file, or it is shorter.
        """
        data = self._map(location, label)
        if not 0 <= offset <= data.size - length:
            raise ModelError(
                f"{label}: its external data is bytes {offset} to {offset + length} of"
                f" {location!r}, which has {data.size} bytes; the file is cut off or not the"
                " one that belongs to this model",
                code="TW-E0132",
            )
        return data[offset : offset + length]

    def _map(self, location: str, label: str) -> np.ndarray:
        found = self._files.get(location)
        if found is None:
            path = self._resolve(location, label)
            try:
                size = path.stat().st_size
                found = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
            except OSError as error:
                raise ModelError(
                    f"{label}: its external data {location!r} cannot be read:"
                    f" {error.strerror or error}",
                    code="TW-E0131",
                ) from None
            self._files[location] = found
        return found

    def _resolve(self, location: str, label: str) -> Path:
        windows = PureWindowsPath(location)
        parts = windows.parts
        if not location or "\0" in location or windows.anchor or ".." in parts:
            raise ModelError(
                f"{label}: its external data {location!r} is not a path inside the model's"
                " folder; only plain relative paths are followed",
                code="TW-E0130",
            )
        path = self.folder / location
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise ModelError(
                f"{label}: its external data {location!r} is not in {self.folder}; put the"
                " file beside the model",
                code="TW-E0131",
            ) from None
        if not real.is_relative_to(self.folder):
            raise ModelError(
                f"{label}: its external data {location!r} is a link that leads out of the"
                " model's folder, which is not followed",
                code="TW-E0130",
            )
        if not real.is_file():
            raise ModelError(
                f"{label}: its external data {location!r} is not a regular file",
                code="TW-E0131",
            )
        return real


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it was read.

    Attributes:
        model: the message, perhaps without the data of large initializers.
        weights: that data, by the initializer's index in the main graph; views of the file.
        external: the files beside it, None where there is no folder.
        name: what messages call it.
        nodes: those of the main graph.
    """

    model: ModelProto
    weights: Mapping[int, np.ndarray]
    external: ExternalData | None
    name: str
    nodes: Sequence[Listed]


def read_model(
    source: str | os.PathLike[str] | bytes | ModelProto,
    base_dir: str | os.PathLike[str] | None,
) -> Source:
    """Parses a model; the weights of a file are mapped, not read.

    Args:
        source: a path, the bytes of a file, or a model that is parsed already.
        base_dir: where external data lies; a path's own folder by default.

    Raises:
        ModelError: there is no such file, or it is no ONNX model.
    """
    external = None if base_dir is None else ExternalData(Path(base_dir))
    if isinstance(source, ModelProto):
        nodes = _checked(source, "the model")
        return Source(source, {}, external, "the model", nodes)
    if isinstance(source, bytes | bytearray | memoryview):
        return _parse(np.frombuffer(bytes(source), np.uint8), external, "the model")
    if not os.fspath(source):
        # Path takes it for the current folder.
        raise ModelError("the name of the model is empty", code="TW-E0101")
    path = Path(source)
    name = str(path)
    try:
        size = path.stat().st_size
        if size > _MAX_MODEL_BYTES:
            raise ModelError(
                f"{name} has {size} bytes; an ONNX file holds at most 2 GiB, with the weights of"
                " larger models beside it as external data",
                code="TW-E0102",
            )
        if not path.is_file():
            raise ModelError(f"{name} is not a regular file", code="TW-E0101")
        # As a plain array: each view of a memmap is one again, which takes longer.
        data = np.asarray(np.memmap(path, np.uint8, "r")) if size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ModelError(f"{name} cannot be read: {why}", code="TW-E0101") from None
    return _parse(data, external or ExternalData(path.parent), name)


def _parse(data: np.ndarray, external: ExternalData | None, name: str) -> Source:
    cut = without_weights(data)
    message, weights = (data.tobytes(), {}) if cut is None else cut
    model = ModelProto()
    try:
        model.ParseFromString(message)
    except (DecodeError, RecursionError, ValueError):
        raise ModelError(
            f"{name} is not an ONNX model: its {data.size} bytes{_looks_like(message[:32])} are"
            " not a complete ModelProto; the file may be cut off or of another kind",
            code="TW-E0103",
        ) from None
    return Source(model, weights, external, name, _checked(model, name))


def _checked(model: ModelProto, name: str) -> Sequence[Listed]:
    """The nodes of the main graph of a message that is found to be a model with names in it."""
    if not model.HasField("graph"):
        raise ModelError(
            f"{name} is not an ONNX model: it holds no graph; the file may be empty, cut off or"
            " of another kind",
            code="TW-E0103",
        )
    # A string that is not UTF-8 comes out of protobuf as bytes.
    main = listed(model.graph.node)
    texts = _texts(model, main)
    if not set(map(type, texts)) <= {str}:
        odd = next(text for text in texts if not isinstance(text, str))
        raise ModelError(
            f"{name}: the name {odd!r} in it is not UTF-8 text; the file may be damaged",
            code="TW-E0104",
        )
    return main


def _texts(model: ModelProto, main: Sequence[Listed]) -> list[object]:
    """All names in a model, whose main graph has these nodes."""
    texts: list[object] = [model.graph.name, *_declared_texts(model.graph)]
    nodes = [*main, *(n for f in model.functions for n in listed(f.node))]
    for function in model.functions:
        texts += (function.name, function.domain, function.overload)
        texts += (*function.input, *function.output, *function.attribute)
    for opset in (*model.opset_import, *(o for f in model.functions for o in f.opset_import)):
        texts.append(opset.domain)
    while nodes:
        graphs: list[GraphProto] = []
        for node in nodes:
            texts += (node.name, node.op, node.domain, node.proto.overload)
            texts += node.inputs
            texts += node.outputs
            for attribute in node.attributes:
                texts += (attribute.name, attribute.ref_attr_name)
                if attribute.type in GRAPHS:
                    graphs += (attribute.g, *attribute.graphs)
        nodes = []
        for graph in graphs:
            nodes += listed(graph.node)
            texts += (graph.name, *_declared_texts(graph))
    return texts


def _declared_texts(graph: GraphProto) -> list[object]:
    texts: list[object] = []
    for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
        texts.append(tensor.name)
        for entry in tensor.external_data:
            texts += (entry.key, entry.value)
    for declared in (*graph.input, *graph.output):
        texts.append(declared.name)
        texts += (d.dim_param for d in declared.type.tensor_type.shape.dim)
    return texts


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, perhaps of torch.save"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x7fELF", "a native program or library"),
    (b"\x89TILEW", "compiled already: tilewright.load, and a name that ends in .tw, take it"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


def _looks_like(data: bytes) -> str:
    if data[4:8] == b"TFL3":
        return " (a TensorFlow Lite model)"
    return next(
        (f" (it looks like {what})" for magic, what in _MAGIC if data.startswith(magic)), ""
    )


def array_of(
    tensor: TensorProto,
    external: ExternalData | None,
    label: str,
    cut: np.ndarray | None = None,
) -> np.ndarray:
    """The contents of a tensor as a read-only array; raw and external data are views.

    Args:
        tensor: of an element type that ``dtype_of`` knows.
        external: where external data lies.
        label: what it is, for messages.
        cut: its raw data, where that was cut out of the message.

    Raises:
        ModelError: dims that are negative or overflow, or data that does not fit them.
    """
    dtype = _DTYPES[tensor.data_type]
    shape = tuple(tensor.dims)
    count = element_count(shape, label)
    if tensor.HasField("segment"):
        raise ModelError(f"{label}: tensors in segments are not defined for files", code="TW-E0134")
    if tensor.data_location == _T.EXTERNAL:
        data = _external_bytes(tensor, count * dtype.bytes, external, label)
    elif cut is not None or tensor.HasField("raw_data"):
        raw = tensor.raw_data if cut is None else cut
        if len(raw) != count * dtype.bytes:
            raise _size_error(label, shape, dtype, count * dtype.bytes, len(raw), "bytes")
        data = np.frombuffer(raw, np.uint8) if cut is None else cut
    else:
        return _typed_data(tensor, dtype, shape, count, label)
    return _view(data, dtype).reshape(shape)


def element_count(shape: Iterable[int], label: str) -> int:
    """The number of elements of a shape.

    Raises:
        ModelError: a dim is negative, or the number overflows.
    """
    dims = tuple(shape)
    count = math.prod(dims)
    if min(dims, default=0) < 0 or count > MAX_ELEMENTS:
        raise ModelError(
            f"{label}: the shape {list(dims)} is not possible: dims must be non-negative and"
            " their product must fit in memory",
            code="TW-E0133",
        )
    return count


def _view(data: np.ndarray, dtype: DType) -> np.ndarray:
    if dtype is dt.bool_:
        return np.asarray(data != 0)
    # Files are little-endian, as are the machines that code is generated for.
    view: np.ndarray = data.view(dtype.numpy)
    return view


def _external_bytes(
    tensor: TensorProto, wanted: int, external: ExternalData | None, label: str
) -> np.ndarray:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if external is None:
        raise ModelError(
            f"{label}: its data lies in the file {location!r}, but the model was not given as a"
            " path; say where the file is with base_dir",
            code="TW-E0131",
        )
    try:
        offset = int(fields.get("offset", 0))
        length = int(fields["length"]) if "length" in fields else wanted
    except ValueError:
        raise ModelError(
            f"{label}: the offset or length of its external data is not a number",
            code="TW-E0132",
        ) from None
    if length != wanted:
        raise ModelError(
            f"{label}: its shape needs {wanted} bytes, but its external data in {location!r} has"
            f" {length}",
            code="TW-E0134",
        )
    return external.read(location, offset, length, label)


def _typed_data(
    tensor: TensorProto, dtype: DType, shape: tuple[int, ...], count: int, label: str
) -> np.ndarray:
    match tensor.data_type:
        case _T.FLOAT:
            values: np.ndarray = np.asarray(tensor.float_data, np.float32)
        case _T.DOUBLE:
            values = np.asarray(tensor.double_data, np.float64)
        case _T.INT64:
            values = np.asarray(tensor.int64_data, np.int64)
        case _T.UINT32 | _T.UINT64:
            values = np.asarray(tensor.uint64_data, np.uint64)
        case _:
            values = np.asarray(tensor.int32_data, np.int32)
    if values.size != count:
        raise _size_error(label, shape, dtype, count, values.size, "elements")
    if dtype is dt.f16 or dtype is dt.bf16:
        # The standard stores the bit patterns of half floats in int32_data.
        return values.astype(np.uint16).view(dtype.numpy).reshape(shape)
    return values.astype(dtype.numpy, copy=False).reshape(shape)


def _size_error(
    label: str, shape: tuple[int, ...], dtype: DType, wanted: int, found: int, unit: str
) -> ModelError:
    return ModelError(
        f"{label}: its shape {list(shape)} of {dtype} needs {wanted} {unit}, but it holds {found}",
        code="TW-E0134",
    )
