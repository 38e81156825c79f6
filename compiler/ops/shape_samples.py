"""Sample inputs of the shape operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from .op import Attrs, Sample


def _count(*shape: int, dtype: dt.DType = dt.f32) -> np.ndarray:
    """Distinct small numbers, so that a misplaced element shows."""
    values = np.arange(int(np.prod(shape)))
    return (values % 2 == 1 if dtype is dt.bool_ else values).astype(dtype.numpy).reshape(shape)


def transpose_samples() -> Sequence[Sample]:
    """Every permutation of three axes, then ranks 0 to 5 and every dtype."""
    perms = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    samples = [Sample((_count(2, 3, 4),), {"perm": p}) for p in perms]
    samples += [Sample((_count(2, 3, dtype=t),), {"perm": (1, 0)}) for t in dt.DTYPES.values()]
    samples.append(Sample((_count(),), {"perm": ()}, "scalar"))
    samples.append(Sample((_count(0, 3),), {"perm": (1, 0)}, "empty"))
    samples.append(Sample((_count(2, 1, 3, 2, 2),), {"perm": (3, 1, 4, 0, 2)}, "rank 5"))
    return samples


def reshape_samples() -> Sequence[Sample]:
    """Splits, joins, both at once, dims of 1, empty tensors."""
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((2, 3, 12), (2, 3, 4, 3)),
        ((2, 3, 4, 3), (2, 3, 12)),
        ((4, 6), (6, 4)),
        ((2, 3, 4), (24,)),
        ((24,), (2, 3, 4)),
        ((2, 6, 5), (3, 4, 5)),
        ((2, 1, 3), (1, 6, 1)),
        ((6,), (1, 1, 6, 1)),
        ((), (1, 1)),
        ((1, 1), ()),
        ((0, 3), (3, 0)),
        ((2, 0, 3), (0,)),
        ((4, 3, 5), (2, 2, 15)),
    )
    samples = [Sample((_count(*a),), {"shape": b}, f"{list(a)} to {list(b)}") for a, b in pairs]
    x = _count(3, 4).T
    return [*samples, Sample((x,), {"shape": (2, 6)}, "row-major order of a transposed array")]


def broadcast_samples() -> Sequence[Sample]:
    """Leading dims, inner dims of 1, scalars, a dim broadcast to 0."""
    return [
        Sample((_count(3),), {"shape": (2, 3)}),
        Sample((_count(2, 1, 3),), {"shape": (2, 4, 3)}),
        Sample((_count(dtype=dt.i64),), {"shape": (2, 2)}),
        Sample((_count(1, 1, dtype=dt.bool_),), {"shape": (3, 1)}),
        Sample((_count(1),), {"shape": (0,)}),
        Sample((_count(2, 3),), {"shape": (2, 3)}),
    ]


def slice_samples() -> Sequence[Sample]:
    """Whole, strided, reversed and empty slices."""

    def one(
        shape: tuple[int, ...],
        starts: tuple[int, ...],
        sizes: tuple[int, ...],
        steps: tuple[int, ...],
    ) -> Sample:
        return Sample((_count(*shape),), {"starts": starts, "sizes": sizes, "steps": steps})

    return [
        one((5, 6), (0, 0), (5, 6), (1, 1)),
        one((5, 6), (1, 2), (3, 2), (1, 2)),
        one((5, 6), (4, 5), (5, 3), (-1, -2)),
        one((5,), (0,), (0,), (1,)),
        one((0, 2), (0, 0), (0, 1), (1, 1)),
        one((), (), (), ()),
        one((7,), (6,), (1,), (-3,)),
    ]


def concat_samples() -> Sequence[Sample]:
    """One to four inputs, every axis, empty parts."""
    return [
        Sample((_count(2, 3), _count(4, 3)), {"axis": 0}),
        Sample((_count(2, 3), _count(2, 1), _count(2, 2)), {"axis": 1}),
        Sample((_count(2, 3),), {"axis": 1}, "one input"),
        Sample((_count(2, 0), _count(2, 3), _count(2, 0)), {"axis": 1}, "empty parts"),
        Sample((_count(3), _count(1), _count(2), _count(4)), {"axis": 0}),
        Sample((_count(3, dtype=dt.bool_), _count(2, dtype=dt.bool_)), {"axis": 0}),
    ]


def pad_samples() -> Sequence[Sample]:
    """Each mode, one-sided and two-sided, interior, wider than the tensor."""

    def one(
        shape: tuple[int, ...],
        lo: tuple[int, ...],
        hi: tuple[int, ...],
        mode: str = "constant",
        interior: tuple[int, ...] | None = None,
        dtype: dt.DType = dt.f32,
    ) -> Sample:
        inner = interior or (0,) * len(shape)
        attrs: Attrs = {"lo": lo, "hi": hi, "interior": inner, "mode": mode}
        value = np.array(-7 if dtype.is_signed else 1).astype(dtype.numpy)
        return Sample((_count(*shape, dtype=dtype), value), attrs, mode)

    samples = [
        one((2, 3), (1, 0), (0, 2)),
        one((2, 3), (1, 2), (3, 1)),
        one((2, 3), (0, 0), (0, 0)),
        one((3,), (1,), (2,), interior=(2,)),
        one((2, 3), (0, 1), (1, 0), interior=(1, 3)),
        one((0, 2), (2, 0), (1, 1)),
        one((0,), (2,), (1,), interior=(1,)),
        one((), (), ()),
    ]
    samples += [one((2, 2), (1, 1), (1, 1), dtype=t) for t in dt.DTYPES.values()]
    for mode in ("edge", "reflect", "wrap"):
        samples += [
            one((3, 4), (2, 1), (1, 3), mode),
            one((3, 4), (0, 0), (0, 2), mode),
            one((1, 3), (0, 2), (0, 0), mode),
            one((3,), (7,), (8,), mode),
            one((1,), (2,), (3,), mode),
            one((3,), (1,), (2,), mode, dtype=dt.bf16),
        ]
    return samples


def iota_samples() -> Sequence[Sample]:
    """Each axis, integer and float types, an empty axis."""
    return [
        Sample((), {"shape": (5,), "axis": 0, "dtype": dt.i64}),
        Sample((), {"shape": (2, 3, 4), "axis": 1, "dtype": dt.f32}),
        Sample((), {"shape": (2, 3), "axis": 0, "dtype": dt.i32}),
        Sample((), {"shape": (0, 3), "axis": 1, "dtype": dt.u8}),
        Sample((), {"shape": (9,), "axis": 0, "dtype": dt.bf16}),
    ]


def dims_samples() -> Sequence[Sample]:
    """No, one and several values."""
    return [Sample((), {"values": v}) for v in ((), (7,), (2, 3, 5, 0), (-1, 4))]


def dim_samples() -> Sequence[Sample]:
    """Zero, small and large values."""
    return [Sample((), {"value": v}) for v in (0, 7, 1 << 40)]
