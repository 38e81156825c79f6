"""NumPy's composite functions give what NumPy gives, compiled once for all sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .test_tracing import check, make

F = Callable[..., Any]

QUANTILES = ([0.0, 0.25, 0.5, 0.9, 1.0], 0.3, np.array([[0.1, 0.7]]))

NAN: list[F] = [
    np.nanmax, np.nanmin, np.nansum, np.nanmean, np.nanstd, np.nanvar, np.nanmedian,
]  # fmt: skip

GROUPS: dict[str, F] = {
    "quantiles": lambda x, y: [
        np.median(x), np.median(x, 0), np.median(x, axis=(0, 1), keepdims=True),
        np.median(x, 1, keepdims=True), np.percentile(x, 30), np.percentile(x, [5, 50.5], axis=1),
        *(np.quantile(x, q) for q in QUANTILES), *(np.quantile(y, q, axis=0) for q in QUANTILES),
        np.quantile(x, 0.4, axis=1, keepdims=True),
        *(np.quantile(x, 0.37, axis=0, method=m) for m in ("lower", "higher", "midpoint")),
    ],
    "order": lambda x, y: [
        np.sort(x, None), np.argsort(y, 0), np.lexsort((x[0] // 1, y[0] // 1)),
        np.searchsorted(np.sort(x[0]), y), np.searchsorted(np.sort(x[0]), y, side="right"),
        np.searchsorted(np.sort(x[:, 0]), 0.5), np.digitize(x, [-1.0, 0, 1]),
        np.digitize(x, [1.0, 0, -1], right=True), np.isin(x // 1, [0, 1]),
        np.isin(np.floor(x), np.floor(y[0]), invert=True),
    ],
    "histogram": lambda x, y: [
        *np.histogram(x, range=(-1, 1), bins=4), *np.histogram(x, [-2.0, -0.5, 0.25, 2]),
        *np.histogram(x, 3, range=(-2, 2), weights=y), np.histogram(y, 5)[0],
        np.histogram(x, range=(-2, 2), density=True)[0],
    ],
    "calculus": lambda x, y: [
        *np.gradient(x), np.gradient(x, 0.5, axis=1), np.gradient(y, axis=0, edge_order=2),
        np.trapezoid(x), np.trapezoid(x, dx=0.5, axis=0), np.trapezoid(y, np.sort(x[0])),
        np.ediff1d(x), np.ediff1d(x, to_end=[1, 2], to_begin=0), np.diff(x, prepend=0),
        np.diff(x, append=y[:, :1], axis=1), np.cumulative_sum(x, axis=1, include_initial=True),
        np.cumulative_prod(x[0]), np.polyval([1, -2, 3.5], x), np.polyval([], x),
        np.vander(x[0], 3),
        np.interp(x, [-1, 0.5, 1], [3, -1, 2.0]), np.interp(x, [-1, 1], [0, 1.0], left=-7, right=9),
        np.interp(0.25, np.sort(x[0]), y[0]),
    ],
    "moments": lambda x, y: [
        np.cov(x), np.cov(x, y), np.cov(x, rowvar=False), np.cov(x[0], ddof=0),
        np.cov(x, bias=True),
        np.corrcoef(x), np.corrcoef(x[0], y[0]),
        np.var(x, where=y > 0), np.mean(x, 1, where=np.abs(y) >= 0), np.std(x, 0, where=True),
        np.sum(x, where=x > 0), np.sum(x, 1, initial=5), np.prod(x, 0, where=y > 0, initial=2.0),
        np.max(x, initial=1.5), np.min(x, 0, initial=0, where=y > 0), np.any(x > 1, where=y > 0),
        np.all(x > 1, 0, where=y > 0), np.add.reduce(x, where=y > 0, initial=1),
        np.maximum.reduce(x, axis=1, initial=-1),
    ],
    "vectors": lambda x, y: [
        np.cross(x[:, :3], y[:, :3]), np.linalg.cross(x[:, :3], y[:, :3]), np.vecdot(x, y),
        np.matvec(x.T, x[:, 0]), np.vecmat(x[:, 0], y), np.linalg.multi_dot([x, y.T, x]),
        np.linalg.vector_norm(x), np.linalg.vector_norm(x, axis=1, keepdims=True, ord=1),
        np.linalg.matrix_norm(x), np.linalg.matrix_norm(x, ord=1, keepdims=True),
        np.linalg.outer(x[0], y[0]), np.linalg.trace(x), np.linalg.diagonal(x),
        np.linalg.matmul(x, y.T), np.linalg.tensordot(x, y, axes=2), np.linalg.vecdot(x, y),
        np.linalg.matrix_transpose(x), np.matrix_transpose(x), np.subtract.outer(x[0], y[0]),
        np.maximum.outer(x[0], y), np.einsum("ij,ij", x, y), np.einsum(x, [0, 1], y, [2, 1]),
        np.einsum("...j,...j->...", x, y), np.einsum("ii->i", x[:3, :3]), np.inner(x, y),
    ],
    "filters": lambda x, y: [
        f(a, b, mode)
        for f in (np.convolve, np.correlate)
        for mode in ("full", "same", "valid")
        for a, b in ((x[0], [1.0, 2.0, -1.0]), (x.ravel(), y[0, :2]), (y[0, :2], x[0]))
    ],
    "nan": lambda x, y: [
        f(np.where(x > 0, x, np.nan), **axis)
        for f in NAN
        for axis in ({}, {"axis": 1}, {"axis": 0, "keepdims": True})
    ] + [
        np.nancumsum(np.where(x > 0, x, np.nan), 1), np.nancumprod(np.where(x > 0, x, np.nan)),
        np.nanquantile(np.where(x > 0, x, np.nan), [0.2, 0.5], axis=1),
        np.nanpercentile(np.where(x > 0, x, np.nan), 30), np.median(np.where(x > 1, np.nan, x), 1),
        np.quantile(np.where(x > 1, np.nan, x), [0.5, 0.6], axis=0),
    ],
    "elements": lambda x, y: [
        np.sinc(x), np.angle(x), np.angle(y, deg=True), np.isposinf(x), np.isneginf(1 / (x // 1)),
        np.fix(x), np.real(x), np.imag(x), x.imag, x.conj(), np.isreal(x), np.iscomplex(x),
        np.isrealobj(x), np.array_equal(x, y), np.array_equal(x, x), np.array_equal(x, y[0]),
        np.array_equiv(x, x[0]),
    ],
    "movement": lambda x, y: [
        np.append(x, y), np.append(x, y, axis=0), *np.hsplit(x[:, :2], 2), *np.vsplit(x[:2], 2),
        *np.dsplit(x[None, None, 0, :2], 2), np.atleast_3d(x[0]), np.atleast_3d(x), np.rot90(x),
        np.rot90(x, 2), np.rot90(x, -1), np.rollaxis(x, 1), *np.meshgrid(x[0], y[:, 0]),
        *np.meshgrid(x[0], y[:, 0], indexing="ij", sparse=True), np.diagonal(x, 1),
        np.diagonal(x, -1), np.diag(x[0], 1), np.diag(x[0], -2), np.diag(x, 1), np.trace(x, 1),
        np.diagflat(x[:2, :2]), np.repeat(x[:3], [1, 0, 2], axis=0), np.dstack([x[0], y[0]]),
        np.block([[x, y], [y, x]]), *np.unstack(x[:2]), np.tri(x.shape[0], k=1),
        *np.broadcast_arrays(x, y[0]), np.flip(x, 1), np.roll(x, (1, -1), (0, 1)),
        np.take_along_axis(x, np.argsort(x, 1), 1), np.moveaxis(x, 0, 1), np.pad(x, 1, "symmetric"),
        np.squeeze(x[:, None]), np.logspace(0, x.shape[0] - 1, x.shape[0]),
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of rows of nan
@pytest.mark.parametrize("group", GROUPS)
def test_functions_agree(group: str) -> None:
    calls = [tuple(make(shape, "f8") for _ in range(2)) for shape in ((5, 7), (6, 8), (4, 9))]
    check(GROUPS[group], *calls)


@pytest.mark.parametrize("dtype", ["f4", "i4", "u1"])
def test_functions_follow_the_dtype(dtype: str) -> None:
    def program(x: np.ndarray, y: np.ndarray) -> list[Any]:
        return [
            np.median(x, 0), np.quantile(x, 0.3), np.quantile(x, [0.3, 0.6]), np.percentile(x, 20),
            np.quantile(x, 0.3, method="lower"), np.gradient(x, axis=0), np.trapezoid(x),
            np.cov(x), np.corrcoef(x), np.nanmax(x), np.nanmean(x, 0), np.nanstd(x),
            np.searchsorted(np.sort(x[0]), y), np.searchsorted(np.sort(x[0]), 1.5),
            np.histogram(x, 4, range=(0, 4))[0], *np.histogram(x, 4, range=(0, 4)),
            np.interp(x, [1, 3], [4, 8]), np.sinc(x), np.angle(x), np.diff(x, append=1),
            np.linalg.vector_norm(x), np.linalg.norm(x, axis=1), np.vecdot(x, y), np.average(x),
            np.isin(x, [1, 2, 3]), np.clip(x, 1, 3), np.cumulative_sum(x[0]), np.polyval([1, 2], x),
            np.median(x > 1), np.max(x, initial=3), np.sum(x, where=x > 1, initial=2),
        ]  # fmt: skip

    check(program, (make((5, 6), dtype), make((5, 6), dtype)))


def test_partitions_put_the_elements_in_their_places() -> None:
    check(
        lambda x: [np.partition(x, 2)[..., 2], np.partition(x, [1, 3], axis=0)[[1, 3]]],
        (make((5, 7), "f8"),),
    )
