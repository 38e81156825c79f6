"""The zoo: nine networks of the onnx package with weights that make them work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest

from tilewright.errors import OptionError
from tilewright.frontends.onnx.zoo import NAMES, VERSION, load_zoo

LARGE = ("vgg19", "bvlc_alexnet", "zfnet512")
"""Networks with hundreds of megabytes of weights; tested once each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What ONNX Runtime computes for two random pictures.

    Attributes:
        layers: for each convolution and product, whether all is finite, and the deviation.
        outputs: the network's output for each picture.
    """

    layers: dict[str, tuple[bool, float]]
    outputs: np.ndarray


@cache
def look(name: str) -> Seen:
    model = load_zoo(name)
    onnx.checker.check_model(model)
    layers = [n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    last = model.graph.output[0].name
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(n) for n in layers if n != last
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (given,) = session.get_inputs()
    pictures = np.random.default_rng(0).standard_normal((2, *given.shape), dtype=np.float32)
    runs = [session.run([*layers, last], {given.name: p}) for p in pictures]
    seen = {
        layer: (bool(np.isfinite(values).all()), float(values.std()))
        for layer, values in zip(layers, runs[0], strict=False)
    }
    return Seen(seen, np.stack([r[-1] for r in runs]))


@pytest.mark.parametrize("name", NAMES)
def test_activations_neither_vanish_nor_explode(name: str) -> None:
    for layer, (finite, deviation) in look(name).layers.items():
        assert finite, layer
        assert 0.03 < deviation < 30, layer


@pytest.mark.parametrize("name", NAMES)
def test_outputs_depend_on_the_picture(name: str) -> None:
    first, second = look(name).outputs
    assert np.isfinite(first).all()
    assert first.std() > 0.1 * np.abs(first).mean()
    assert np.abs(first - second).mean() > 0.02 * first.std()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LARGE])
def test_a_network_is_the_same_every_time(name: str) -> None:
    assert load_zoo(name).SerializeToString() == load_zoo(f"zoo:{name}").SerializeToString()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LARGE])
def test_a_network_takes_its_data_only_and_names_its_version(name: str) -> None:
    model = load_zoo(name)
    assert len(model.graph.input) == 1
    assert model.producer_version == str(VERSION)
    assert not [n for n in model.graph.node if n.op_type == "ConstantOfShape"]
    assert not {i.name for i in model.graph.initializer} & {v.name for v in model.graph.input}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="resnet50, densenet121") as caught:
        load_zoo("zoo:nothing")
    assert caught.value.code == "TW-E0820"
    assert caught.value.exit_code == 2


def test_weights_of_different_layers_differ() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_zoo("squeezenet")
    arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    filters = [a.ravel()[:16] for a in arrays if a.ndim == 4]
    assert len({f.tobytes() for f in filters}) == len(filters)
