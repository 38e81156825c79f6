"""The shape operators over symbolic dims: what their rules accept, what their indices become."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.graph.ir import TensorType
from tilewright.ops import OPS, OpError
from tilewright.ops.op import Attrs, Shape
from tilewright.ops.shape import reshape_index
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Buffer, Const, Var, as_expr, symbol
from tilewright.tensor.simplify import dim, same_dim
from tilewright.tensor.text import text

N = symbol("N")
S = symbol("S", 1, 512)


def infer(op: str, shapes: list[Shape], dtype: dt.DType = dt.f32, **attrs: object) -> Shape:
    given: Attrs = attrs  # type: ignore[assignment]
    (result,) = OPS[op].infer(tuple(TensorType(dtype, s) for s in shapes), given)
    return result.shape


def index_texts(source: Shape, target: Shape) -> list[str]:
    axes = tuple(Axis(Var(f"i{d}"), extent) for d, extent in enumerate(target))
    return [text(e) for e in reshape_index(source, axes)]


def test_reshape_splits_only_the_dim_that_is_split() -> None:
    assert index_texts((N, S, 768), (N, S, 12, 64)) == ["i0", "i1", "i2 * 64 + i3"]


def test_reshape_joins_only_the_dims_that_are_joined() -> None:
    assert index_texts((N, S, 12, 64), (N, S, 768)) == ["i0", "i1", "i2 // 64", "i2 % 64"]


def test_reshape_of_symbolic_rows_divides_by_the_symbol() -> None:
    assert index_texts((N, S, 8), (dim(N * S), 8)) == ["i0 // S", "i0 % S", "i1"]


def test_reshape_back_to_symbolic_rows_needs_no_division() -> None:
    assert index_texts((dim(N * S), 8), (N, S, 8)) == ["S * i0 + i1", "i2"]


def test_reshape_ignores_dims_of_one() -> None:
    assert index_texts((N, 1, 5), (1, N, 5, 1)) == ["i1", "0", "i2"]


def test_reshape_refuses_other_products() -> None:
    with pytest.raises(OpError, match=r"\[N, 6\] has N \* 6 elements, but \[N, 5\]"):
        infer("reshape", [(N, 6)], shape=(N, 5))


def test_reshape_accepts_a_derived_dim_that_may_fit() -> None:
    derived = dim(as_expr(N) * 6 // 4)
    assert infer("reshape", [(N, 6)], shape=(derived, 4)) == (derived, 4)


def test_reshape_with_symbols_moves_every_element_to_its_row_major_place() -> None:
    x = Buffer("x", dt.f32, (N, S, 6))
    y = Buffer("y", dt.f32, (dim(N * S), 2, 3))
    compute = OPS["reshape"].compute
    assert compute is not None
    group = ComputeGroup("g", (x,), (y,), compute((x,), (y,), {"shape": y.shape}))
    data = np.arange(72, dtype=np.float32).reshape(3, 4, 6)
    result = interpret_group(group, {"x": data}, {"N": 3, "S": 4})["y"]
    np.testing.assert_array_equal(result, data.reshape(12, 2, 3))


def test_two_symbols_do_not_broadcast() -> None:
    with pytest.raises(OpError, match="N against S"):
        infer("add", [(N, 3), (S, 3)])


def test_a_symbol_broadcasts_against_one_and_itself() -> None:
    assert infer("add", [(N, 1), (1, S)]) == (N, S)
    assert infer("add", [(N, S), (S,)]) == (N, S)


def test_concat_adds_symbolic_dims() -> None:
    shape = infer("concat", [(N, 3), (S, 3), (2, 3)], axis=0)
    assert same_dim(shape[0], dim(as_expr(N) + S + 2)) and shape[1] == 3


def test_concat_refuses_shapes_that_differ_elsewhere() -> None:
    with pytest.raises(OpError, match="differ beside axis 0"):
        infer("concat", [(N, 3), (N, 4)], axis=0)


def test_pad_grows_a_symbolic_dim() -> None:
    shape = infer("pad", [(N, S), ()], lo=(1, 0), hi=(2, 0), interior=(0, 1), mode="constant")
    assert same_dim(shape[0], dim(as_expr(N) + 3))
    assert same_dim(shape[1], dim(as_expr(S) * 2 - 1))


def test_pad_that_is_symbolically_empty_guards_nothing() -> None:
    x, value = Buffer("x", dt.f32, (N, 4)), Buffer("v", dt.f32, ())
    y = Buffer("y", dt.f32, (N, 6))
    attrs: Attrs = {"lo": (0, 1), "hi": (0, 1), "interior": (0, 0), "mode": "constant"}
    compute = OPS["pad"].compute
    assert compute is not None
    (stage,) = compute((x, value), (y,), attrs)
    assert "i0" not in text(stage.expr).split("x[")[0]


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pad_of_a_symbolic_dim_repeats_within_it(mode: str) -> None:
    x, value = Buffer("x", dt.f32, (N,)), Buffer("v", dt.f32, ())
    y = Buffer("y", dt.f32, (dim(as_expr(N) + 7),))
    attrs: Attrs = {"lo": (3,), "hi": (4,), "interior": (0,), "mode": mode}
    compute = OPS["pad"].compute
    assert compute is not None
    group = ComputeGroup("g", (x, value), (y,), compute((x, value), (y,), attrs))
    for size in (1, 2, 3, 9):
        data = np.arange(size, dtype=np.float32)
        given = {"x": data, "v": np.zeros((), np.float32)}
        have = interpret_group(group, given, {"N": size})["y"]
        np.testing.assert_array_equal(have, np.pad(data, (3, 4), mode=mode))  # type: ignore[call-overload]


def test_slice_refuses_an_index_outside() -> None:
    with pytest.raises(OpError, match="has 4 elements, but index 4 is read"):
        infer("slice", [(4,)], starts=(1,), sizes=(4,), steps=(1,))
    with pytest.raises(OpError, match="index -1 is read"):
        infer("slice", [(4,)], starts=(1,), sizes=(3,), steps=(-1,))


def test_slice_of_nothing_may_start_anywhere() -> None:
    assert infer("slice", [(4,)], starts=(9,), sizes=(0,), steps=(1,)) == (0,)


def test_slice_to_the_end_of_a_symbolic_dim() -> None:
    rest = dim(as_expr(N) - 1)
    assert infer("slice", [(N, 2)], starts=(1, 0), sizes=(rest, 2), steps=(1, 1)) == (rest, 2)


def test_transpose_refuses_what_is_no_permutation() -> None:
    with pytest.raises(OpError, match="no permutation"):
        infer("transpose", [(N, 2)], perm=(1, 1))


def test_broadcast_to_refuses_to_drop_a_dim() -> None:
    with pytest.raises(OpError, match="does not broadcast"):
        infer("broadcast_to", [(N, 2)], shape=(2,))


def test_dims_of_symbols_take_their_run_time_values() -> None:
    y = Buffer("y", dt.i64, (2,))
    compute = OPS["dims"].compute
    assert compute is not None
    stages = compute((), (y,), {"values": (dim(as_expr(N) * 2), 5)})
    result = interpret_group(ComputeGroup("g", (), (y,), stages), {}, {"N": 7})["y"]
    assert result.tolist() == [14, 5]


def test_gather_from_no_element_is_refused() -> None:
    indices = TensorType(dt.i64, (2,))
    with pytest.raises(OpError, match="without elements"):
        OPS["gather"].infer((TensorType(dt.f32, (0, 3)), indices), {"axis": 0})


def test_gather_keeps_symbolic_dims_in_place() -> None:
    types = (TensorType(dt.f32, (1000, 64)), TensorType(dt.i64, (N, S)))
    (result,) = OPS["gather"].infer(types, {"axis": 0})
    assert result.shape == (N, S, 64)


def test_dims_in_attributes_are_read_as_dims() -> None:
    with pytest.raises(OpError, match="must be a tuple of dims"):
        infer("reshape", [(4,)], shape=(2.0, 2))
    with pytest.raises(OpError, match="must be a tuple of dims"):
        infer("reshape", [(4,)], shape=(Const(2.0, dt.f32), 2))
