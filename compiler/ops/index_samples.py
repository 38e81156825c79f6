"""Sample inputs of the gathers: every axis, negative and wild indices, empty results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .op import Sample

_WILD = np.array([0, 2, -1, -3, 3, -4, 100, -100, 1 << 40])


def _x(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def gather_samples() -> Sequence[Sample]:
    """Indices of ranks 0 to 2 on every axis."""
    return [
        Sample((_x(4, 3), np.array([1, 0, 3])), {"axis": 0}),
        Sample((_x(4, 3), np.array([[1, 0], [-1, 2]], np.int32)), {"axis": 1}),
        Sample((_x(4, 3), np.array(2)), {"axis": 0}, "scalar index"),
        Sample((_x(3), np.array(-1)), {"axis": 0}, "scalar result"),
        Sample((_x(2, 3, 2), _WILD), {"axis": 1}, "clamped"),
        Sample((_x(4, 3), np.zeros((0,), np.int64)), {"axis": 0}, "no index"),
        Sample((_x(0, 3), np.zeros((0, 2), np.int64)), {"axis": 0}, "no element, no index"),
        Sample((_x(5) > 2, np.array([4, 255, 0], np.uint8)), {"axis": 0}, "unsigned"),
    ]


def gather_elements_samples() -> Sequence[Sample]:
    """Indices as large as x and smaller."""
    return [
        Sample((_x(2, 3), np.array([[0, 2, 1], [-1, 0, 9]])), {"axis": 1}),
        Sample((_x(3, 3), np.array([[0, 2], [-1, 0]], np.int32)), {"axis": 0}, "smaller"),
        Sample((_x(3), _WILD), {"axis": 0}, "clamped"),
        Sample((_x(2, 3), np.zeros((0, 3), np.int64)), {"axis": 0}, "empty"),
    ]


def gather_nd_samples() -> Sequence[Sample]:
    """Full and partial tuples of indices, batched and not."""
    return [
        Sample((_x(2, 3), np.array([[0, 2], [1, -1], [5, 0]])), {"batch_dims": 0}),
        Sample((_x(2, 3, 4), np.array([[1], [0]])), {"batch_dims": 0}, "slices"),
        Sample((_x(2, 3, 4), np.array([[2], [-3]])), {"batch_dims": 1}),
        Sample((_x(2, 3, 4), np.array([[[2, 0], [0, 9]], [[1, 1], [0, 3]]])), {"batch_dims": 1}),
        Sample((_x(3), np.array([1])), {"batch_dims": 0}, "scalar result"),
        Sample((_x(2, 3), np.zeros((0, 1), np.int64)), {"batch_dims": 0}, "empty"),
    ]
