"""Plain nests: what reductions, kept stages and several outputs become."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import TensorType, Value
from tilewright.lower.fission import fission
from tilewright.lower.inline import lower_body
from tilewright.lower.merge import merge_axes
from tilewright.lower.nests import element_by_element, to_func
from tilewright.schedule.nests import MapStage, Reduction
from tilewright.tensor.check import check
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret, interpret_group
from tilewright.tensor.ir import Axis, Buffer, Call, Dim, For, Reduce, Var, symbol
from tilewright.tensor.simplify import evaluate

from .bodies import assert_kernels_compute, body, f32

ROW, COLUMN, OTHER = Var("i"), Var("j"), Var("k")
N = symbol("N")


def run(group: ComputeGroup, given: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
    """What the plain function of a group writes."""
    func = to_func(group).func
    check(func)
    memory = dict(given)
    for b in group.outputs:
        memory[b.name] = np.empty([evaluate(d, sizes) for d in b.shape], b.dtype.numpy)
    interpret(func, memory, sizes)
    return memory


def assert_equals_group(group: ComputeGroup, given: dict[str, np.ndarray], **sizes: int) -> None:
    expected = interpret_group(group, given, sizes)
    found = run(group, given, **sizes)
    for b in group.outputs:
        np.testing.assert_allclose(found[b.name], expected[b.name], rtol=1e-6)


def square(n: Dim, reader: Compute, *outputs: Buffer) -> ComputeGroup:
    """y0 = exp(x) over [n, n], and a stage that reads it."""
    x, y0 = Buffer("x", dt.f32, (n, n)), Buffer("y0", dt.f32, (n, n))
    first = Compute(y0, (Axis(ROW, n), Axis(COLUMN, n)), Call("exp", (x[ROW, COLUMN],), dt.f32))
    return ComputeGroup("g", (x,), outputs, (first, reader))


SQUARE = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
Y0, Y1, TOTAL = (Buffer("y0", dt.f32, (5, 5)), Buffer("y1", dt.f32, (5, 5)),
                 Buffer("y1", dt.f32, (5,)))  # fmt: skip


def test_outputs_of_one_shape_share_a_nest() -> None:
    group = square(5, Compute(Y1, (Axis(ROW, 5), Axis(COLUMN, 5)), Y0[ROW, COLUMN] + 1.0), Y0, Y1)
    nests = to_func(group)
    assert nests.finals == 1
    assert sum(isinstance(s, For) for s in nests.func.body) == 1
    assert_equals_group(group, {"x": SQUARE})


def test_an_output_read_at_another_place_is_written_before() -> None:
    group = square(5, Compute(Y1, (Axis(ROW, 5), Axis(COLUMN, 5)), Y0[COLUMN, ROW] + 1.0), Y0, Y1)
    assert to_func(group).finals == 2
    assert_equals_group(group, {"x": SQUARE})


def test_an_output_that_a_reduction_reads_is_written_before() -> None:
    total = Reduce("sum", (Axis(OTHER, 5),), Y0[ROW, OTHER])
    group = square(5, Compute(TOTAL, (Axis(ROW, 5),), total), Y0, TOTAL)
    assert to_func(group).finals == 2
    assert_equals_group(group, {"x": SQUARE})


def test_outputs_of_two_shapes_are_two_final_nests() -> None:
    column = Compute(TOTAL, (Axis(ROW, 5),), Y0[ROW, 0])
    assert to_func(square(5, column, Y0, TOTAL)).finals == 2


def test_equal_reductions_share_a_temporary() -> None:
    def twice(b: GraphBuilder) -> tuple[Value, ...]:
        total = b.add("reduce", b.input("x", f32(4, 8)), op="sum", axes=(1,), keepdims=False)
        return b.add("neg", total), b.add("exp", total)

    nests = to_func(lower_body("g", body(twice)).group)
    assert len(nests.temporaries) == nests.finals == 1


def test_kept_stages_are_told_from_reductions() -> None:
    def softmax(b: GraphBuilder) -> Value:
        e = b.add("exp", b.input("x", f32(4, 8)))
        return b.add("div", e, b.add("reduce", e, op="sum", axes=(1,), keepdims=True))

    group = merge_axes(lower_body("g", body(softmax)).group)
    kinds = [type(t) for t in to_func(group).temporaries]
    assert kinds == [MapStage, Reduction]


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_position_of_the_best_is_two_reductions(op: str, last: bool, axis: int) -> None:
    def best(b: GraphBuilder) -> Value:
        x = b.input("x", f32(6, 9))
        return b.add("argreduce", x, op=op, axis=axis, keepdims=False, last=last)

    graph = body(best)
    nests = to_func(lower_body("g", graph).group)
    assert len(nests.reductions) == 2 and nests.reductions[1].op == "min"
    assert_kernels_compute(graph)


@pytest.mark.parametrize("case", ["ties", "first nan", "two nans", "all nan", "infinite"])
def test_the_first_of_equals_and_of_nans_is_the_best(case: str) -> None:
    x = np.array([[1, 3, 3, 2], [0, -1, -1, 0]], np.float32)
    match case:
        case "first nan":
            x[:, 0] = np.nan
        case "two nans":
            x[:, 1:3] = np.nan
        case "all nan":
            x[:] = np.nan
        case "infinite":
            x[:] = -np.inf
    source, y = Buffer("x", dt.f32, (2, 4)), Buffer("y", dt.i64, (2,))
    best = Reduce("argmax", (Axis(OTHER, 4),), source[ROW, OTHER])
    group = ComputeGroup("g", (source,), (y,), (Compute(y, (Axis(ROW, 2),), best),))
    np.testing.assert_array_equal(run(group, {"x": x})["y"], np.argmax(x, 1))


def test_positions_of_integers_have_no_nan() -> None:
    def best(b: GraphBuilder) -> Value:
        x = b.input("x", TensorType(dt.i32, (3, 7)))
        return b.add("argreduce", x, op="max", axis=1, keepdims=True, last=False)

    assert_kernels_compute(body(best))


def test_a_group_without_axes_is_plain_statements() -> None:
    def scalar(b: GraphBuilder) -> tuple[Value, ...]:
        x = b.input("x", f32())
        return b.add("exp", x), b.add("neg", x)

    assert_kernels_compute(body(scalar))


def test_symbols_follow_the_buffers_by_name() -> None:
    s = symbol("B")
    x, y = Buffer("x", dt.f32, (N, s)), Buffer("y", dt.f32, (N, s))
    stage = Compute(y, (Axis(ROW, N), Axis(COLUMN, s)), x[ROW, COLUMN] + 1.0)
    func = to_func(ComputeGroup("g", (x,), (y,), (stage,))).func
    assert [p.name for p in func.params] == ["x", "y", "B", "N"]


@pytest.mark.parametrize("what", ["product", "argmax", "map", "scalar"])
def test_element_by_element_computes_what_the_stage_says(what: str) -> None:
    def make(b: GraphBuilder) -> Value:
        x = b.input("x", f32(5, 6))
        match what:
            case "product":
                return b.add("exp", b.add("matmul", x, b.input("w", f32(6, 3))))
            case "argmax":
                return b.add("argreduce", x, op="max", axis=0, keepdims=False, last=False)
            case "map":
                return b.add("transpose", b.add("exp", x), perm=(1, 0))
            case _:
                return b.add("reduce", x, op="prod", axes=(0, 1), keepdims=False)

    group = lower_body("g", body(make)).group
    (piece,) = fission(group) if len(group.stages) > 1 else (group,)
    func = element_by_element(piece)
    check(func)
    rng = np.random.default_rng(0)
    given = {
        b.name: rng.standard_normal([int(str(d)) for d in b.shape]).astype(np.float32)
        for b in piece.inputs
    }
    wanted = interpret_group(piece, given, {})
    memory = {**given, **{n: np.zeros_like(a) for n, a in wanted.items()}}
    interpret(func, memory, {})
    for name, array in wanted.items():
        np.testing.assert_allclose(memory[name], array, rtol=1e-5)
