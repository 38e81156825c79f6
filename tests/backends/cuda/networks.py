"""Whole small models, with seeded weights: what is run on simulated and on real GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from tests.frontends.onnx.models import parsed

MLP = """mlp (float[N, 64] x, float[64, 128] W1, float[128] B1, float[128, 96] W2, float[96] B2,
             float[96, 10] W3, float[10] B3) => (float[N, 10] y) {
    a1 = MatMul(x, W1)
    b1 = Add(a1, B1)
    h1 = Relu(b1)
    a2 = MatMul(h1, W2)
    b2 = Add(a2, B2)
    h2 = Tanh(b2)
    a3 = MatMul(h2, W3)
    b3 = Add(a3, B3)
    y = Softmax <axis = -1> (b3)
}"""

RESNET = """resnet (float[1, 3, 64, 64] x, float[16, 3, 7, 7] W0, float[16] B0,
    float[16, 16, 3, 3] W1, float[16] B1, float[16, 16, 3, 3] W2, float[16] B2,
    float[32, 16, 3, 3] W3, float[32] B3, float[32, 32, 3, 3] W4, float[32] B4,
    float[32, 16, 1, 1] W5, float[32] B5, float[32, 10] W6, float[10] B6) => (float[1, 10] y) {
    c0 = Conv <pads = [3, 3, 3, 3], strides = [2, 2]> (x, W0, B0)
    r0 = Relu(c0)
    p0 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r0)
    c1 = Conv <pads = [1, 1, 1, 1]> (p0, W1, B1)
    r1 = Relu(c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, W2, B2)
    s2 = Add(c2, p0)
    r2 = Relu(s2)
    c3 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r2, W3, B3)
    r3 = Relu(c3)
    c4 = Conv <pads = [1, 1, 1, 1]> (r3, W4, B4)
    c5 = Conv <strides = [2, 2]> (r2, W5, B5)
    s4 = Add(c4, c5)
    r4 = Relu(s4)
    g = GlobalAveragePool(r4)
    f = Flatten(g)
    y = Gemm(f, W6, B6)
}"""

BERT = """bert (float[1, 32, 128] x, int64[1, 32] mask, float[128, 384] Wqkv, float[384] Bqkv,
    float[128, 128] Wo, float[128] Bo, float[128] G1, float[128] Z1, float[128, 512] Wi,
    float[512] Bi, float[512, 128] Wp, float[128] Bp, float[128] G2, float[128] Z2)
    => (float[1, 32, 128] y)
    <int64[4] heads = {1, 32, 4, 32}, int64[3] flat = {1, 32, 128}, int64[4] over = {1, 1, 1, 32},
     float scale = {0.17677669}, float one = {1.0}, float low = {-10000.0}> {
    a = MatMul(x, Wqkv)
    b = Add(a, Bqkv)
    q0, k0, v0 = Split <axis = -1, num_outputs = 3> (b)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    s = MatMul(q, k)
    t = Mul(s, scale)
    m0 = Cast <to = 1> (mask)
    m1 = Sub(one, m0)
    m2 = Mul(m1, low)
    m3 = Reshape(m2, over)
    u = Add(t, m3)
    p = Softmax <axis = -1> (u)
    o0 = MatMul(p, v)
    o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
    o2 = Reshape(o1, flat)
    o3 = MatMul(o2, Wo)
    o4 = Add(o3, Bo)
    o5 = Add(o4, x)
    h = LayerNormalization <axis = -1> (o5, G1, Z1)
    i0 = MatMul(h, Wi)
    i1 = Add(i0, Bi)
    i2 = Gelu(i1)
    j0 = MatMul(i2, Wp)
    j1 = Add(j0, Bp)
    j2 = Add(j1, h)
    y = LayerNormalization <axis = -1> (j2, G2, Z2)
}"""

DECODE = """decode (int64[1, 1] token, int64[1, 1] place, float[1, 4, T, 16] past_k,
    float[1, 4, T, 16] past_v, float[50, 64] Embed, float[32, 64] Places, float[64] G1,
    float[64] Z1, float[64, 192] Wqkv, float[192] Bqkv, float[64, 64] Wo, float[64] Bo,
    float[64] G2, float[64] Z2, float[64, 256] Wi, float[256] Bi, float[256, 64] Wp,
    float[64] Bp, float[64] G3, float[64] Z3)
    => (float[1, 1, 50] logits, float[1, 4, S, 16] k, float[1, 4, S, 16] v)
    <int64[4] heads = {1, 1, 4, 16}, int64[3] flat = {1, 1, 64}, float scale = {0.25}> {
    e0 = Gather(Embed, token)
    e1 = Gather(Places, place)
    x = Add(e0, e1)
    n1 = LayerNormalization <axis = -1> (x, G1, Z1)
    a = MatMul(n1, Wqkv)
    b = Add(a, Bqkv)
    q0, k0, v0 = Split <axis = -1, num_outputs = 3> (b)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
    v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
    k = Concat <axis = 2> (past_k, k2)
    v = Concat <axis = 2> (past_v, v2)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    s = MatMul(q, kt)
    t = Mul(s, scale)
    p = Softmax <axis = -1> (t)
    o0 = MatMul(p, v)
    o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
    o2 = Reshape(o1, flat)
    o3 = MatMul(o2, Wo)
    o4 = Add(o3, Bo)
    h = Add(o4, x)
    n2 = LayerNormalization <axis = -1> (h, G2, Z2)
    i0 = MatMul(n2, Wi)
    i1 = Add(i0, Bi)
    i2 = Gelu <approximate = "tanh"> (i1)
    j0 = MatMul(i2, Wp)
    j1 = Add(j0, Bp)
    j2 = Add(j1, h)
    n3 = LayerNormalization <axis = -1> (j2, G3, Z3)
    back = Transpose <perm = [1, 0]> (Embed)
    logits = MatMul(n3, back)
}"""

LSTM = """lstm (float[6, 2, 8] x, float[1, 64, 8] W, float[1, 64, 16] R, float[1, 128] B)
    => (float[6, 1, 2, 16] y, float[1, 2, 16] h, float[1, 2, 16] c) {
    y, h, c = LSTM <hidden_size = 16> (x, W, R, B)
}"""


@dataclass(frozen=True)
class Network:
    """A model and its calls.

    Attributes:
        text: its graph; inputs whose names begin with a capital are weights.
        sizes: of the symbols, for each call.
    """

    text: str
    sizes: tuple[Mapping[str, int], ...] = ({},)

    def model(self) -> onnx.ModelProto:
        """The model with its weights."""
        made = parsed(self.text)
        rng = np.random.default_rng(1)
        weights = [v for v in made.graph.input if v.name[0].isupper()]
        for v in weights:
            shape = [d.dim_value for d in v.type.tensor_type.shape.dim]
            scale = 1.0 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[:-1]))
            if len(shape) == 4:
                scale = 1 / np.sqrt(np.prod(shape[1:]))
            array = (rng.standard_normal(shape) * scale).astype(np.float32)
            made.graph.initializer.append(numpy_helper.from_array(array, v.name))
            made.graph.input.remove(v)
        return made

    def inputs(self, specs: object, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Seeded inputs of one call: floats are normal, integers 0 or 1."""
        rng = np.random.default_rng(2)
        found = {}
        for s in specs:  # type: ignore[attr-defined]
            shape = [d if isinstance(d, int) else sizes[str(d.name)] for d in s.shape]
            values = rng.standard_normal(shape)
            found[s.name] = (values if s.dtype.is_float else values > 0).astype(s.dtype.numpy)
        return found


NETWORKS: Mapping[str, Network] = {
    "an MLP with a symbolic batch": Network(MLP, ({"N": 1}, {"N": 37})),
    "a small ResNet": Network(RESNET),
    "a BERT layer": Network(BERT),
    "a GPT-2 decode step with a cache": Network(DECODE, ({"T": 1}, {"T": 7}, {"T": 12})),
    "an LSTM": Network(LSTM),
}
