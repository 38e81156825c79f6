"""Packed constants equal NumPy's pad, split and transpose, whatever the block and the layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.lower.pack import pack_array
from tilewright.schedule.pack import PackDim, Packing, pack
from tilewright.tensor.compute import Compute, ComputeGroup
from tilewright.tensor.interpret import interpret_group
from tilewright.tensor.ir import Axis, Buffer, Dim, For, Func, Load, Store, Var, symbol
from tilewright.tensor.winograd import filtering

COLUMN, OVER, BATCH = Var("j"), Var("k"), Var("b")


def packing_of(load: Load, extents: dict[Var, Dim], dims: list[PackDim]) -> Packing:
    """The record of packing a load whose nest has those extents."""
    result = Buffer("y", dt.f32, tuple(extents.values()))
    body: tuple[For | Store, ...] = (Store(result, tuple(extents), load),)
    for v, extent in reversed(extents.items()):
        body = (For(v, extent, body),)
    return pack(Func("f", (load.buffer, result), body), load, dims, "packed")[1]


def product(k: int, n: int, factor: int | None, transposed: bool = False) -> Packing:
    """The packing of a weight [k, n], or of one [n, k] that is read transposed."""
    w = Buffer("w", dt.f32, (n, k) if transposed else (k, n))
    load = w[COLUMN, OVER] if transposed else w[OVER, COLUMN]
    dims = [PackDim(COLUMN, n, factor), PackDim(OVER, k)]
    return packing_of(load, {COLUMN: n, OVER: k}, dims)


def by_numpy(w: np.ndarray, factor: int) -> np.ndarray:
    """[k, n] -> [ceil(n / factor), k, factor], zero past the end."""
    k, n = w.shape
    blocks = -(-n // factor)
    padded = np.zeros((k, blocks * factor), w.dtype)
    padded[:, :n] = w
    return np.ascontiguousarray(padded.reshape(k, blocks, factor).transpose(1, 0, 2))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("k", "n", "factor"),
    [(5, 16, 8), (5, 19, 8), (1, 19, 8), (7, 3, 8), (3, 8, 8), (9, 1, 4), (4, 31, 16), (3, 7, 1)],
)
def test_blocks_that_divide_and_that_do_not(k: int, n: int, factor: int, transposed: bool) -> None:
    w = random(k, n)
    source = np.ascontiguousarray(w.T) if transposed else w
    packed = pack_array(product(k, n, factor, transposed), source)
    np.testing.assert_array_equal(packed, by_numpy(w, factor))


@pytest.mark.parametrize(("k", "n"), [(300, 700), (513, 257), (1025, 640)])
def test_large_transposed_weights(k: int, n: int) -> None:
    """With sizes that no block divides."""
    w = random(k, n)
    packed = pack_array(product(k, n, 48, transposed=True), np.ascontiguousarray(w.T))
    np.testing.assert_array_equal(packed, by_numpy(w, 48))


def test_a_plain_transposition_without_blocks() -> None:
    w = random(600, 400)
    packed = pack_array(product(600, 400, None), w)
    np.testing.assert_array_equal(packed, w.T)


def test_a_batch_of_weights_packs_each() -> None:
    w = Buffer("w", dt.f32, (3, 5, 10))
    dims = [PackDim(BATCH, 3), PackDim(COLUMN, 10, 4), PackDim(OVER, 5)]
    packing = packing_of(w[BATCH, OVER, COLUMN], {BATCH: 3, COLUMN: 10, OVER: 5}, dims)
    data = random(3, 5, 10)
    packed = pack_array(packing, data)
    np.testing.assert_array_equal(packed, np.stack([by_numpy(x, 4) for x in data]))


def test_a_walk_that_starts_inside_the_source() -> None:
    """One of three projections that lie side by side: columns 10 to 19 of 30."""
    w = Buffer("w", dt.f32, (5, 30))
    dims = [PackDim(COLUMN, 10, 4), PackDim(OVER, 5)]
    packing = packing_of(w[OVER, COLUMN + 10], {COLUMN: 10, OVER: 5}, dims)
    data = random(5, 30)
    np.testing.assert_array_equal(pack_array(packing, data), by_numpy(data[:, 10:20], 4))


def test_the_result_goes_where_it_is_wanted() -> None:
    w, out = random(5, 19), np.full((3, 5, 8), np.nan, np.float32)
    assert pack_array(product(5, 19, 8), w, out) is out
    np.testing.assert_array_equal(out, by_numpy(w, 8))


@pytest.mark.parametrize("dtype", [dt.f16, dt.f64, dt.i8, dt.i64], ids=str)
def test_elements_of_any_size(dtype: dt.DType) -> None:
    w = Buffer("w", dtype, (5, 19))
    dims = [PackDim(COLUMN, 19, 8), PackDim(OVER, 5)]
    packing = packing_of(w[OVER, COLUMN], {COLUMN: 19, OVER: 5}, dims)
    data: np.ndarray = np.arange(95).reshape(5, 19).astype(dtype.numpy)
    np.testing.assert_array_equal(pack_array(packing, data), by_numpy(data, 8))


def test_the_record_says_what_the_array_holds() -> None:
    packing, data = product(5, 19, 8), random(5, 19)
    shape = packing.packed.shape
    axes = tuple(Axis(v, d) for v, d in zip(packing.axes, shape, strict=True))
    stage = Compute(packing.packed, axes, packing.value)
    group = ComputeGroup("pack", (packing.source,), (packing.packed,), (stage,))
    wanted = interpret_group(group, {packing.source.name: data}, {})["packed"]
    np.testing.assert_array_equal(pack_array(packing, data), wanted)


def test_a_symbolic_shape_is_refused() -> None:
    n = symbol("N")
    w = Buffer("w", dt.f32, (5, n))
    dims = [PackDim(COLUMN, n, 4), PackDim(OVER, 5)]
    packing = packing_of(w[OVER, COLUMN], {COLUMN: n, OVER: 5}, dims)
    with pytest.raises(ValueError, match="symbolic"):
        pack_array(packing, random(5, 8))


def test_a_walk_that_is_not_affine_is_refused() -> None:
    w = Buffer("w", dt.f32, (5, 30))
    load = w[OVER, COLUMN * COLUMN % 7]
    dims = [PackDim(COLUMN, 6), PackDim(OVER, 5)]
    packing = packing_of(load, {COLUMN: 6, OVER: 5}, dims)
    with pytest.raises(ValueError, match="constant steps"):
        pack_array(packing, random(5, 30))


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5)])
def test_a_packing_may_mix_along_some_axes(m: int, r: int) -> None:
    """[r, r, k, n] -> [blocks, t, t, k, factor]: a matrix along both axes of taps."""
    k, n, factor = 3, 10, 4
    w = random(r, r, k, n)
    rows, columns = Var("rows"), Var("columns")
    buffer = Buffer("w", dt.f32, (r, r, k, n))
    load = buffer[rows, columns, OVER, COLUMN]
    dims = [PackDim(COLUMN, n, factor), *(PackDim(v, r) for v in (rows, columns)), PackDim(OVER, k)]
    walked = packing_of(load, {rows: r, columns: r, OVER: k, COLUMN: n}, dims)
    matrix = filtering(m, r).weights
    t = m + r - 1
    packed = Buffer("packed", dt.f32, (-(-n // factor), t, t, k, factor))
    mixed = replace(walked, packed=packed, mixings=((1, matrix), (2, matrix)))
    g = np.array([[float(x) for x in row] for row in matrix])
    want = np.einsum("xi,yj,bijkf->bxykf", g, g, pack_array(walked, w).astype(np.float64))
    np.testing.assert_allclose(pack_array(mixed, w), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("k", "n"), [(300, 700), (5, 19), (64, 2)])
def test_a_source_in_another_order_is_packed_as_it_lies(
    k: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a copy of it in row-major order, which would be in memory beside it."""
    monkeypatch.delattr("tilewright.lower.pack.dense")
    w = random(n, k).T
    np.testing.assert_array_equal(pack_array(product(k, n, 16), w), by_numpy(w, 16))
    both = np.repeat(w, 2, axis=0)[::2]
    np.testing.assert_array_equal(pack_array(product(k, n, 16), both), by_numpy(w, 16))


def test_a_source_in_another_order_and_with_other_axes_is_copied_first() -> None:
    """Its axes are merged by the packing, which no steps along them do."""
    w = random(6, 4, 5).transpose(1, 0, 2)
    packed = pack_array(product(24, 5, 4), w)
    np.testing.assert_array_equal(packed, by_numpy(w.reshape(24, 5), 4))


def test_axes_of_one_element_do_not_hinder() -> None:
    w = random(10, 1, 20).transpose(1, 2, 0)
    packed = pack_array(product(20, 10, 4), w)
    np.testing.assert_array_equal(packed, by_numpy(w[0], 4))
