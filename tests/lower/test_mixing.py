"""Weights that are transformed natively are, bit by bit, those that NumPy makes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from tilewright import dtype as dt
from tilewright.backends.cpu.run import run_here
from tilewright.lower.mixing import mixing
from tilewright.lower.model import ConstantEntry, fill_constants
from tilewright.lower.pack import pack_array
from tilewright.runtime.cache import NO_CACHE
from tilewright.schedule.pack import Packing
from tilewright.tensor.check import check
from tilewright.tensor.ir import Buffer, Const, Expr, Func, Select, Var, lt
from tilewright.tensor.simplify import simplify
from tilewright.tensor.winograd import filtering

RUN = partial(run_here, cache=NO_CACHE)


def packing(
    m: int, r: int, channels: int, columns: int, factor: int, dims: int = 2, streams: int = 0
) -> Packing:
    """Weights [r, ..., channels, columns] to panels of columns, transformed along the taps.

    With streams, each part of the channels has panels of its own.
    """
    source = Buffer("w", dt.f32, (*(r,) * dims, channels, columns))
    taps = [Var(f"t{k}") for k in range(dims)]
    panel, channel, column = Var("column_o"), Var("channel"), Var("column_i")
    position = panel * factor + column
    stream, depth = Var("stream"), channels // max(1, streams)
    row = stream * depth + channel if streams else channel
    value: Expr = source[(*taps, row, position)]
    if columns % factor:
        value = Select(lt(position, columns), value, Const(0.0, dt.f32))
    matrix = filtering(m, r).weights
    places = (m + r - 1,) * dims
    shape: tuple[int, ...] = (-(-columns // factor), *places, depth, factor)
    axes: tuple[Var, ...] = (panel, *taps, channel, column)
    if streams:
        shape, axes = (streams, *shape), (stream, *axes)
    packed = Buffer("u", dt.f32, shape)
    mixings = tuple((bool(streams) + 1 + k, matrix) for k in range(dims))
    return Packing(source, packed, axes, simplify(value), mixings)


def weights(p: Packing, transposed: bool) -> np.ndarray:
    shape = [d for d in p.source.shape if isinstance(d, int)]
    data = np.random.default_rng(1).standard_normal(shape, np.float32)
    # As models store them: output channels first, taps last.
    order = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
    back = np.argsort(order)
    return np.ascontiguousarray(data.transpose(order)).transpose(back) if transposed else data


def packed_natively(p: Packing, data: np.ndarray) -> tuple[np.ndarray, int]:
    """The packed weights, and how often a function ran for them."""
    ran: list[Func] = []

    def run(func: Func, arguments: Sequence[np.ndarray | int]) -> None:
        ran.append(func)
        RUN(func, arguments)

    return pack_array(p, data, run=run), len(ran)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("m", "r", "columns", "factor", "dims"),
    [(2, 3, 64, 16, 2), (4, 3, 96, 48, 2), (4, 3, 70, 32, 2), (2, 5, 16, 16, 2), (4, 3, 40, 16, 1)],
)
def test_the_bits_are_those_of_numpy(
    m: int, r: int, columns: int, factor: int, dims: int, transposed: bool
) -> None:
    p = packing(m, r, 5, columns, factor, dims)
    data = weights(p, transposed)
    native, runs = packed_natively(p, data)
    assert runs == 1
    assert native.tobytes() == pack_array(p, data).tobytes()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("columns", "factor"), [(64, 16), (70, 32)])
def test_parts_of_the_channels_are_packed_one_by_one(
    columns: int, factor: int, transposed: bool
) -> None:
    p = packing(4, 3, 12, columns, factor, streams=4)
    data = weights(p, transposed)
    native, runs = packed_natively(p, data)
    assert runs == 4
    assert native.tobytes() == pack_array(p, data).tobytes()
    whole = pack_array(packing(4, 3, 12, columns, factor), data)
    parts = np.split(whole, 4, axis=-2)
    assert all(np.array_equal(a, b) for a, b in zip(native, parts, strict=True))


def test_what_does_not_fit_the_function_is_left_to_numpy() -> None:
    def fail(func: Func, arguments: Sequence[np.ndarray | int]) -> None:
        raise AssertionError

    p = packing(2, 3, 5, 24, 8)
    data = weights(p, transposed=False)
    assert pack_array(p, data, run=fail).tobytes() == pack_array(p, data).tobytes()


@pytest.mark.parametrize("guarded", [False, True])
def test_the_function_is_well_formed(guarded: bool) -> None:
    check(mixing(filtering(4, 3).weights, 2, guarded=guarded))


def test_small_constants_are_not_worth_code() -> None:
    def fail(func: Func, arguments: Sequence[np.ndarray | int]) -> None:
        raise AssertionError

    p = packing(2, 3, 5, 32, 16)
    want = pack_array(p, data := weights(p, transposed=False))
    entry = ConstantEntry(0, want.nbytes, data, p)
    out = np.zeros(want.nbytes + 64, np.uint8)[: want.nbytes]
    fill_constants([entry], out, fail)
    assert out.tobytes() == want.tobytes()
