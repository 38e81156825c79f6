"""The text form of graphs: printed, parsed back, printed the same."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright import dtype as dt
from tilewright.errors import ArtifactError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.check import check
from tilewright.graph.interpret import interpret
from tilewright.graph.ir import Graph, TensorType
from tilewright.graph.text import digest, digests, parse, text
from tilewright.ops import OPS, Op, OpError, Sample
from tilewright.tensor.ir import Binary, as_expr, eq, lt, maximum, symbol
from tilewright.tensor.simplify import dim, simplify

N, S = symbol("N", 1, 64), symbol("S", 0)

SOURCE = """\
N = symbol(1, 64)
S = symbol(0)

def model(x: f32[N, S], cond: bool_[()]):
    w: f32[2] = constant([0.1, -inf])
    def body(a: f32[N, S]):
        exp_1: f32[N, S] = exp(a)
        return {'exp_1': exp_1}
    def body_1(a: f32[N, S]):
        exp_1: f32[N, S] = exp(a)
        return {'exp_1': exp_1}
    y: f32[N, S] = if_(cond, x, then=body, orelse=body_1)  # If:branch
    values, indices = topk(y, k=1, axis=0, largest=True)  # TopK
    r: f32[N * S] = reshape(y, shape=(N * S,))
    return {'out': r, 'top 1': values, 'w': w}
"""


def model() -> Graph:
    body = GraphBuilder("body")
    body.output(body.add("exp", body.input("a", TensorType(dt.f32, (N, S)))))
    builder = GraphBuilder("model")
    x = builder.input("x", TensorType(dt.f32, (N, S)))
    cond = builder.input("cond", TensorType(dt.bool_, ()))
    w = builder.constant(np.array([0.1, -np.inf], np.float32), "w")
    y = builder.add(
        "if", cond, x, then=body.finish(), orelse=body.finish(), origin="If:branch", name="y"
    )
    top, _ = builder.add_many(
        "topk", y, origin="TopK", names=("values", "indices"), k=1, axis=0, largest=True
    )
    r = builder.add("reshape", y, shape=(dim(as_expr(N) * S),), name="r")
    for value, name in ((r, "out"), (top, "top 1"), (w, "w")):
        builder.output(value, name)
    return builder.finish()


def assert_round_trip(graph: Graph) -> Graph:
    printed = text(graph)
    ast.parse(printed)
    again = parse(printed, digests(graph))
    check(again)
    assert text(again) == printed
    return again


def test_a_model_prints_as_python() -> None:
    assert text(model()) == SOURCE


def test_a_model_survives_the_round_trip() -> None:
    graph, again = model(), assert_round_trip(model())
    assert [v.type for v in again.inputs] == [v.type for v in graph.inputs]
    assert [n.origin for n in again.nodes] == [n.origin for n in graph.nodes]
    assert again.output_names == graph.output_names
    inputs = {"x": np.ones((2, 3), np.float32), "cond": np.array(True)}
    for have, want in zip(interpret(again, inputs), interpret(graph, inputs), strict=True):
        np.testing.assert_array_equal(have, want)


def test_symbols_keep_their_ranges() -> None:
    again = parse(text(model()))
    assert again.inputs[0].shape == (N, S)


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_sample_of_every_op_survives_the_round_trip(name: str) -> None:
    op = OPS[name]
    for sample in op.samples()[:12]:
        assert_round_trip(graph_of(op, sample))


def graph_of(op: Op, sample: Sample) -> Graph:
    builder = GraphBuilder(op.name)
    values = [builder.constant(x, f"x{k}") for k, x in enumerate(sample.inputs)]
    attrs: dict[str, Any] = dict(sample.attrs)
    for value in builder.add_many(op.name, *values, origin=sample.note, **attrs):
        builder.output(value)
    return builder.finish()


@pytest.mark.parametrize("dtype", list(dt.DTYPES.values()), ids=str)
def test_small_constants_keep_every_bit(dtype: dt.DType) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, 16 * dtype.bytes, dtype=np.uint8)
    data = (bits[:16] & 1).astype(np.bool_) if dtype is dt.bool_ else bits.view(dtype.numpy)
    finite = data[np.isfinite(data.astype(np.float64))]
    builder = GraphBuilder("g")
    builder.output(builder.constant(finite))
    again = parse(text(builder.finish()))
    (have,) = again.constants.values()
    assert have.dtype == dtype.numpy and have.tobytes() == finite.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1), (2, 3)])
def test_constants_keep_their_shape(shape: tuple[int, ...]) -> None:
    builder = GraphBuilder("g")
    builder.output(builder.constant(np.full(shape, np.nan, np.float16)))
    (have,) = assert_round_trip(builder.finish()).constants.values()
    assert have.shape == shape and np.isnan(have).all()


def test_a_large_constant_is_a_digest_that_parse_wants() -> None:
    data = np.arange(17.0)
    builder = GraphBuilder("g")
    builder.output(builder.constant(data))
    printed = text(builder.finish())
    assert digest(data) in printed
    with pytest.raises(ArtifactError, match="TW-E0521.*was not given"):
        parse(printed)
    with pytest.raises(ArtifactError, match="has digest"):
        parse(printed, {digest(data): data + 1})
    (have,) = parse(printed, {digest(data): data}).constants.values()
    assert have is data


def test_digests_tell_dtypes_and_shapes_apart() -> None:
    zeros = np.zeros(32, np.float32)
    others = [zeros.reshape(4, 8), zeros.astype(np.int32), zeros.astype(dt.bf16.numpy)]
    assert len({digest(x) for x in (zeros, *others)}) == 4


@given(
    names=st.lists(st.text(max_size=5), min_size=1, max_size=8),
    origin=st.text(max_size=20),
)
def test_any_names_and_origins_survive(names: list[str], origin: str) -> None:
    builder = GraphBuilder(names[0])
    value = builder.input(names[0], TensorType(dt.f32, (N,)))
    for name in names:
        value = builder.add("neg", value, name=name, origin=origin)
    builder.output(value, names[-1])
    again = assert_round_trip(builder.finish())
    assert again.inputs[0].name == names[0]
    assert again.output_names == (names[-1],)
    assert {n.origin for n in again.nodes} == {origin}


def test_conditions_survive() -> None:
    n, m = symbol("N"), symbol("M", 2, 9)
    builder = GraphBuilder("g")
    builder.output(builder.input("x", TensorType(dt.f32, (n, m))), "y")
    stated = [lt(n, m), eq(n % 3, 0), Binary("or", lt(n, 5), Binary("ne", n, as_expr(7)))]
    for condition in stated:
        builder.require(simplify(condition))
    graph = builder.finish()
    again = parse(text(graph))
    check(again)
    assert again.conditions == graph.conditions
    assert text(again) == text(graph)


def test_a_size_is_no_condition() -> None:
    with pytest.raises(ArtifactError, match="a condition says what holds"):
        parse("N = symbol(1)\nrequire(N + 1)\ndef g(x: f32[N]):\n    return (x,)\n")


def test_dims_of_every_form_survive() -> None:
    n, s = as_expr(N), as_expr(S)
    builder = GraphBuilder("g")
    builder.input("x", TensorType(dt.f32, (N, S)))
    values = (n * 3 - 1, (s + 1) // 2, s % 4, maximum(n, 4) * s, -n, (n - s) // 3 * 2)
    builder.output(builder.add("dims", values=tuple(dim(v) for v in values)))
    again = assert_round_trip(builder.finish())
    assert again.nodes[0].attrs == {"values": tuple(dim(v) for v in values)}


def test_attributes_of_every_kind_survive() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(dt.f32, (2,)))
    builder.output(builder.add("cast", x, dtype=dt.bf16, saturate=True))
    assert assert_round_trip(builder.finish()).nodes[0].attrs == {
        "dtype": dt.bf16,
        "saturate": True,
    }


def test_a_type_that_is_not_the_ops_is_refused() -> None:
    source = "def g(x: f32[3]):\n    y: f32[4] = exp(x)\n    return (y,)\n"
    with pytest.raises(
        ArtifactError, match=r"TW-E0521: line 2: its op gives f32\[3\], not f32\[4\]"
    ):
        parse(source)


def test_a_node_that_breaks_its_ops_rule_is_refused() -> None:
    source = "def g(x: i64[3]):\n    y: i64[3] = exp(x)\n    return (y,)\n"
    with pytest.raises(OpError, match=r"exp\(i64\[3\]\): is not defined for i64"):
        parse(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 3",
        "def g(:",
        "def g():\n    pass",
        "def g(x):\n    return (x,)",
        "def g(x: f33[2]):\n    return (x,)",
        "def g(x: f32[M]):\n    return (x,)",
        "def g(x: f32[2]):\n    return (y,)",
        "def g(x: f32[2]):\n    y = exp(x)\n    return (y,)",
        "def g(x: f32[2]):\n    x: f32[2] = exp(x)\n    return (x,)",
        "def g(x: f32[2]):\n    c: f32[2] = constant([1.0])\n    return (c,)",
        "def g(x: f32[2]):\n    c: u8[()] = constant(256)\n    return (c,)",
        "import os\ndef g(x: f32[2]):\n    return (x,)",
    ],
)
def test_what_is_no_graph_is_refused(source: str) -> None:
    with pytest.raises(ArtifactError):
        parse(source)
