"""Where the maxima of a pool are, which more than one source format asks for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from tilewright import dtype as dt
from tilewright.dtype import DType
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import product, same_dim

MOST_TAPS = 256
"""Above so many taps per window the positions would unroll into too large a graph."""


def positions_of_maxima(
    builder: GraphBuilder, x: Value, largest: Value, window: Mapping[str, tuple[Dim, ...]]
) -> Value:
    """The smallest row-major position within an image that attains each window's maximum.

    A nan attains it too. A position outside of the image is beyond all others, so padding is never
    chosen.

    Args:
        x: the images, [N, *spatial, C].
        largest: ``reduce_window`` of x by ``max`` under the same attributes.
        window: the attributes of that ``reduce_window`` but ``op``; at most MOST_TAPS taps.

    Returns:
        i64 positions in the shape of ``largest``.
    """
    spatial = x.shape[1:-1]
    count = product(spatial)
    flat = builder.add("iota", shape=(count,), axis=0, dtype=dt.i64)
    places = builder.add("reshape", flat, shape=(1, *spatial, 1))
    beyond = _scalar(builder, count, dt.i64)
    padded, around = x, places
    if not all(same_dim(p, 0) for p in (*window["lo"], *window["hi"])):
        lowest = builder.constant(np.asarray(x.dtype.lowest).astype(x.dtype.numpy))
        padded, around = (
            builder.add(
                "pad", source, fill,
                lo=window["lo"], hi=window["hi"], interior=(0,) * len(x.shape), mode="constant",
            )
            for source, fill in ((x, lowest), (places, beyond))
        )  # fmt: skip
    result: Value | None = None
    steps, dilations = _ints(window["strides"]), _ints(window["dilations"])
    for taps in itertools.product(*map(range, _ints(window["window"]))):
        start = tuple(t * d for t, d in zip(taps, dilations, strict=True))
        seen, place = (
            builder.add(
                "slice", source, starts=start, steps=steps,
                sizes=(source.shape[0], *largest.shape[1:-1], source.shape[-1]),
            )
            for source in (padded, around)
        )  # fmt: skip
        attains = builder.add("eq", seen, largest)
        if x.dtype.is_float:
            attains = builder.add("or", attains, builder.add("isnan", seen))
        candidate = builder.add("where", attains, place, beyond)
        result = candidate if result is None else builder.add("min", result, candidate)
    assert result is not None
    return result


def _ints(sizes: tuple[Dim, ...]) -> tuple[int, ...]:
    known = tuple(d for d in sizes if isinstance(d, int))
    assert len(known) == len(sizes), sizes
    return known


def _scalar(builder: GraphBuilder, value: Dim, dtype: DType) -> Value:
    if isinstance(value, int):
        return builder.constant(np.asarray(value).astype(dtype.numpy))
    return builder.add("dim", value=value)
