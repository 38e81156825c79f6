"""The zoo: image networks that come with the onnx package, given weights that make them work.

The package keeps the graphs of nine known networks for its own tests, with nearly all weights
replaced by one constant. Here every learned constant, by its role at its node, becomes seeded
random numbers: the same for the same version, on every machine. Their scale follows an estimate
of mean and variance that is carried through the graph, so that activations neither vanish nor
explode (He et al., Delving Deep into Rectifiers, 2015, section 2.2, with measured fan-in).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tilewright.errors import ModelError, OptionError
from tilewright.graph.ir import Graph

from .importer import import_onnx

PREFIX = "zoo:"
VERSION = 1
"""Changes with the numbers below; kept in every model, so no cache takes one for another."""

NAMES = (
    "resnet50",
    "densenet121",
    "squeezenet",
    "shufflenet",
    "inception_v1",
    "inception_v2",
    "vgg19",
    "bvlc_alexnet",
    "zfnet512",
)
_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_BIAS = 0.05
_SHIFT = 0.1
_LOGITS = 1.0  # The last layer's deviation: its softmax is then neither flat nor one peak.


def load_zoo(name: str) -> onnx.ModelProto:
    """Returns a network of the zoo as a model of its own, inputs being its data only.

    Args:
        name: one of NAMES, with or without the prefix ``zoo:``.

    Raises:
        OptionError: there is no such network (TW-E0820).
        ModelError: the installed onnx package does not hold it (TW-E0105).
    """
    name = name.removeprefix(PREFIX)
    if name not in NAMES:
        raise OptionError(
            f"zoo: there is no {name!r}; there are {', '.join(NAMES)}", code="TW-E0820"
        )
    path = _FOLDER / f"light_{name}.onnx"
    if not path.is_file():
        raise ModelError(
            f"zoo:{name}: the installed onnx {onnx.__version__} does not hold {path.name}; "
            "install onnx from its wheel, which does",
            code="TW-E0105",
        )
    return _with_weights(onnx.load(path), name)


def import_zoo(
    name: str,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dim_ranges: Mapping[str, tuple[int, int | None]] | None = None,
) -> Graph:
    """Imports a network of the zoo; see ``load_zoo`` and ``import_onnx``."""
    return import_onnx(load_zoo(name), shapes=shapes, dim_ranges=dim_ranges)


def zoo_bytes(name: str) -> bytes:
    """A network of the zoo as the bytes of an ONNX file."""
    data: bytes = load_zoo(name).SerializeToString()
    return data


@dataclass(frozen=True, slots=True)
class _Signal:
    """What is expected of an activation's elements."""

    mean: float
    variance: float

    @property
    def power(self) -> float:
        """The expected square."""
        return self.mean**2 + self.variance


_UNIT = _Signal(0.0, 1.0)


class _Weights:
    """The constants of one network while they are replaced.

    Attributes:
        arrays: constants that are not learned, by name (the shapes of Reshape).
        shapes: the learned constants' shapes, by name.
        made: the new values, by name of the learned constant.
    """

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self._name = name
        given = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.arrays = {k: a for k, a in given.items() if a.dtype != np.float32}
        self.shapes = {k: a.shape for k, a in given.items() if a.dtype == np.float32}
        for node in graph.node:
            if node.op_type == "ConstantOfShape":
                dims = self.arrays.pop(node.input[0])
                self.shapes[node.output[0]] = tuple(int(d) for d in dims)
        self.made: dict[str, np.ndarray] = {}
        # A view of a constant by Reshape or Unsqueeze: its own shape, and the constant.
        self._views: dict[str, tuple[tuple[int, ...], str]] = {}

    def is_learned(self, value: str) -> bool:
        """Whether a value is a learned constant or a view of one."""
        return value in self.shapes or value in self._views

    def view(self, node: onnx.NodeProto) -> None:
        """Notes that a node only reshapes a learned constant."""
        shape, base = self._find(node.input[0])
        if node.op_type == "Reshape":
            shape = tuple(int(d) for d in self.arrays[node.input[1]])
        self._views[node.output[0]] = (shape, base)

    def shape(self, value: str) -> tuple[int, ...]:
        """The shape of a learned constant where it is used."""
        return self._find(value)[0]

    def filter(self, value: str, axes: tuple[int, ...], deviation: float) -> None:
        """Sets weights with zero sum over the axes that are summed up in the product.

        A mean that all inputs share, as after a rectifier, then does not reach the output, where
        it would drown what depends on the picture.
        """
        shape, base = self._find(value)
        weights = self._uniform(base, shape) - np.float32(0.5)
        weights -= weights.mean(axis=axes, keepdims=True)
        weights *= np.float32(deviation * math.sqrt(12))
        self.made[base] = weights.reshape(self.shapes[base])

    def around(self, value: str, center: float, deviation: float) -> None:
        """Sets a constant's elements around a center."""
        shape, base = self._find(value)
        numbers = (self._uniform(base, shape) - np.float32(0.5)) * np.float32(math.sqrt(12))
        numbers = numbers * np.float32(deviation) + np.float32(center)
        self.made[base] = numbers.reshape(self.shapes[base])

    def _find(self, value: str) -> tuple[tuple[int, ...], str]:
        found = self._views.get(value)
        return (self.shapes[value], value) if found is None else found

    def _uniform(self, base: str, shape: tuple[int, ...]) -> np.ndarray:
        seed = hashlib.sha256(f"{VERSION}:{self._name}:{base}".encode()).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16], "little")))
        return generator.random(shape, dtype=np.float32)


def _with_weights(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    graph = model.graph
    weights = _Weights(graph, name)
    signals = {v.name: _UNIT for v in graph.input if not weights.is_learned(v.name)}
    last = max(i for i, n in enumerate(graph.node) if n.op_type in ("Conv", "Gemm"))
    for i, node in enumerate(graph.node):
        if node.op_type == "ConstantOfShape":
            continue
        if node.op_type in ("Reshape", "Unsqueeze") and weights.is_learned(node.input[0]):
            weights.view(node)
            continue
        deviation = _LOGITS if i == last else 1.0
        signals[node.output[0]] = _signal_after(node, signals, weights, deviation)
    return _rebuilt(model, weights, name)


def _signal_after(
    node: onnx.NodeProto, signals: Mapping[str, _Signal], weights: _Weights, deviation: float
) -> _Signal:
    """Sets the constants of a node; returns what is then expected of its first output."""
    given = [signals[x] for x in node.input if x in signals]
    x = given[0]
    match node.op_type:
        case "Conv" | "Gemm":
            shape = weights.shape(node.input[1])
            axes = tuple(range(1, len(shape)))
            if node.op_type == "Gemm" and not _attribute(node, "transB", 0):
                axes = (0,)
            fan_in = math.prod(shape[a] for a in axes)
            # A sum of zero takes away what neighbours have in common, most of all depthwise.
            power = x.variance * (0.4 if len(shape) > 2 and shape[1] == 1 else 0.93)
            weights.filter(node.input[1], axes, deviation / math.sqrt(fan_in * power))
            if len(node.input) > 2:
                weights.around(node.input[2], 0.0, _BIAS)
            return _Signal(0.0, deviation**2)
        case "BatchNormalization":
            scale, shift, mean, variance = node.input[1:5]
            weights.around(scale, 1.0, 0.15)
            weights.around(shift, 0.0, _SHIFT)
            weights.around(mean, x.mean, 0.1 * math.sqrt(x.variance))
            weights.around(variance, x.variance, 0.1 * x.variance)
            return _UNIT
        case "Mul" if weights.is_learned(node.input[1]):
            weights.around(node.input[1], 1.0, 0.15)
            return x
        case "Add" if weights.is_learned(node.input[1]):
            weights.around(node.input[1], 0.0, _SHIFT)
            return x
        case "Sum":
            return _Signal(sum(g.mean for g in given), sum(g.variance for g in given))
        case "Concat":
            count = len(given)
            mean = sum(g.mean for g in given) / count
            return _Signal(mean, sum(g.power for g in given) / count - mean**2)
        case "Relu" if x.mean == 0:
            # Half of a symmetric distribution: its mean is that of a half normal one, halved.
            mean = math.sqrt(x.variance / (2 * math.pi))
            return _Signal(mean, x.variance / 2 - mean**2)
        case "MaxPool":
            # Measured on rectified values; neighbours are alike, so nine count for fewer.
            return _Signal(x.mean + 1.5 * math.sqrt(x.variance), 1.2 * x.variance)
        case "AveragePool":
            return _Signal(x.mean, 0.8 * x.variance)
        case "GlobalAveragePool":
            return _Signal(x.mean, 0.4 * x.variance)
        case _:
            return x


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _rebuilt(model: onnx.ModelProto, weights: _Weights, name: str) -> onnx.ModelProto:
    """The model with its constants in place of nodes that fill them, and only data as inputs."""
    graph = model.graph
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    used = {x for n in nodes for x in n.input}
    inputs = [v for v in graph.input if v.name in used and v.name not in weights.arrays
              and not weights.is_learned(v.name)]  # fmt: skip
    constants = {k: a for k, a in weights.arrays.items() if k in used}
    while weights.made:
        key, made = weights.made.popitem()
        constants[key] = made
    rebuilt = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, name, inputs, graph.output),
        opset_imports=model.opset_import,
        ir_version=max(4, model.ir_version),  # From 4 on, constants need not be inputs too.
        producer_name="tilewright zoo",
        producer_version=str(VERSION),
    )
    for key in sorted(constants):
        array = constants.pop(key)
        rebuilt.graph.initializer.add(
            name=key,
            dims=array.shape,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            raw_data=array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
    return rebuilt
