"""Writing into arrays that a traced function makes gives what NumPy gives, views included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright as tw

from .test_tracing import check, make

SHAPES = ((5, 7), (6, 9))


def by_keys(x: Any, y: Any) -> Any:
    z = x * 2
    z[0] = 1
    z[1:, 2] = y[1:, 0]
    z[:, -1] += 3
    z[2:4, 1:3] = 7
    z[::2, ::-1] = y[::2]
    z[[0, 2], 3] = -1
    z[z > 1.5] = 0
    z[y[:, 0] > 0] = y[0]
    z[np.array([0, 1]), :] *= 2
    z[1:][0] = 5
    z[1:] = z[:-1]
    e = x.copy()
    e[0:0] = 5
    e[1:1] = y[1:1]
    e[...] = y
    e[()] = x
    counts = np.arange(x.shape[0])
    counts[1:] = counts[:-1] * 2
    counts[0] = 1.9
    return z, e, counts


def by_loops(x: Any, y: Any) -> Any:
    total = np.zeros_like(x[0])
    for i in range(3):
        total[i] = x[i].sum()
        total[i] += y[i, i]
    shifted = np.zeros_like(x)
    shifted[1:] = x[:-1]
    shifted[..., None, :] = shifted[:, None]
    return total, shifted


def by_out(x: Any, y: Any) -> Any:
    o = np.empty_like(x)
    np.add(x, y, out=o)
    np.sqrt(np.abs(x), out=o, where=x > 0)
    p = np.zeros(x.shape[1])
    np.sum(x, axis=0, out=p)
    m = np.empty_like(x), np.empty_like(x)
    np.divmod(x, y, out=m)
    low = np.ones_like(x, dtype="f4")
    np.multiply(x, y, out=low)
    np.multiply(x[0], 2, out=low[1:3])
    return o, p, m, low, np.clip(x, 0, 1, out=o)


def by_functions(x: Any, y: Any) -> Any:
    q = x.copy()
    np.copyto(q, 1)
    np.copyto(q, y, where=x > 0)
    np.putmask(q, y > 0, 3)
    r = x.copy()
    np.fill_diagonal(r, 9)
    np.put(r, [0, 3], [1, 2])
    np.put_along_axis(r, np.argmax(r, 1, keepdims=True), 77, 1)
    u = x.copy()
    u.sort(0)
    u[0].fill(4)
    n = np.where(x > 0, np.nan, x)
    np.nan_to_num(n, copy=False)
    return q, r, u, n


def by_accumulation(x: Any, y: Any) -> Any:
    t = np.zeros(x.shape[1])
    np.add.at(t, [0, 1, 0], [1.0, 2.0, 4.0])
    np.subtract.at(t, 1, 3)
    np.maximum.at(t, [2, 3], 0.5)
    s = np.zeros_like(x)
    np.add.at(s, ([0, 0, 1], [1, 1, 2]), y[0, :3])
    return t, s


def by_parts(x: Any, y: Any) -> Any:
    z = x * 2
    part = z[1:3]
    part += 1
    part[0] = y[0]
    same = z.astype(z.dtype, copy=False)
    del part
    same -= 1
    alias = z.conj()
    alias[0] = 3
    return z, same


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "program", [by_keys, by_loops, by_out, by_functions, by_accumulation, by_parts]
)
def test_writes_agree(program: Any) -> None:
    check(program, *(tuple(make(s, "f8") for _ in range(2)) for s in SHAPES))


def test_arguments_are_never_written() -> None:
    x = make((4, 4), "f4")
    before = x.copy()

    def program(x: Any) -> Any:
        y = x.copy()
        y[0] = 0
        y += 1
        return y

    tw.jit(program)(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda z: z[9],
        lambda z: z.__setitem__(9, 1),
        lambda z: z.__setitem__(slice(0, 2), np.ones((3, 4))),
        lambda z: z.__iadd__(np.ones((2, 3, 4))),
        lambda z: np.add(z, 1, out=np.zeros_like(z, dtype="i4")),
    ],
)
def test_what_numpy_would_not_write_is_refused(write: Any) -> None:
    with pytest.raises(tw.InputError):
        tw.jit(lambda x: write(x * 2))(np.ones((3, 4), np.float32))
