"""Whole models on the simulated GPU, and on a real one where there is one, agree with the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng

import tilewright as tw
from tests.backends.cpu.cross.cases import MODELS as CASES
from tests.frontends.onnx.models import parsed

from .gpus import TARGETS, available
from .networks import NETWORKS

MODELS = {
    "an MLP with a symbolic batch": """agraph (float[N, 8] x, float[8, 12] w, float[12] b)
    => (float[N, 12] y) {
        h = MatMul(x, w)
        s = Add(h, b)
        r = Relu(s)
        y = Softmax <axis = -1> (r)
    }""",
    "a small convolutional network": """agraph (float[2, 3, 9, 9] x, float[6, 3, 3, 3] w,
    float[6, 6, 3, 3] v) => (float[2, 6, 1, 1] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        b = Relu(a)
        c = Conv <pads = [1, 1, 1, 1]> (b, v)
        d = Add(c, a)
        e = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (d)
        y = GlobalAveragePool(e)
    }""",
    "normalised rows and an attention": """agraph (float[2, 5, 8] q, float[2, 7, 8] k, float[8] g,
    float[8] z) => (float[2, 5, 8] y) {
        n = LayerNormalization <axis = -1> (q, g, z)
        t = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul(n, t)
        p = Softmax <axis = -1> (s)
        y = MatMul(p, k)
    }""",
    "a running sum": """agraph (float[4, 9] x) => (float[4, 9] y)
        <int64 axis = {1}> {
        y = CumSum(x, axis)
    }""",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_agrees_with_the_cpu(name: str, target: str) -> None:
    model = parsed(MODELS[name])
    cpu = tw.compile(model, cache=False)
    gpu = tw.compile(model, target=available(target), cache=False)
    rng = default_rng(0)
    for batch in (1, 5):
        inputs = {
            s.name: rng.standard_normal(
                [d if isinstance(d, int) else batch for d in s.shape], np.float32
            )
            for s in cpu.inputs
        }
        expected = cpu.run(inputs)
        for key, got in gpu.run(inputs).items():
            np.testing.assert_allclose(got, expected[key], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_agrees_with_the_cpu(name: str, target: str) -> None:
    network = NETWORKS[name]
    cpu = tw.compile(network.model(), cache=False)
    gpu = tw.compile(network.model(), target=available(target), cache=False)
    for sizes in network.sizes:
        inputs = network.inputs(cpu.inputs, sizes)
        expected = cpu.run(inputs)
        for key, got in gpu.run(inputs).items():
            scale = np.abs(expected[key]).max()
            assert scale > 0 and expected[key].std() > 0
            np.testing.assert_allclose(got, expected[key], rtol=1e-5, atol=2e-5 * scale)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_other_types_and_layouts_agree_with_the_cpu(name: str, target: str) -> None:
    case = CASES[name]()
    cpu = tw.compile(case.graph, cache=False)
    gpu = tw.compile(case.graph, target=available(target), cache=False)
    for got, expected in zip(gpu(*case.inputs), cpu(*case.inputs), strict=True):
        tolerance = {2: 2e-2, 1: 0}.get(got.dtype.itemsize, 2e-5)
        wide = expected.astype(np.float64)
        largest = np.abs(wide[np.isfinite(wide)]).max()
        np.testing.assert_allclose(
            got.astype(np.float64), wide, rtol=tolerance, atol=tolerance * largest
        )


def test_the_simulator_looks_for_all_that_it_can_by_default() -> None:
    exe = tw.compile(parsed(MODELS["a running sum"]), target="cuda-sim", cache=False)
    device = exe._entry.device  # type: ignore[attr-defined]
    options = device.simulator.options
    assert options.races and options.sharing and options.counters
    exe(np.ones((4, 9), np.float32))
    ((kernel, counters),) = device.launches
    assert kernel.startswith("cumulative") and counters.count("st.global") > 0
