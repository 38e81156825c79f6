"""Sample inputs of the elementwise operators: dtypes, broadcasting, edges, nan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..dtype import DType
from .op import Sample

_FLOATS = (dt.f32, dt.f64, dt.f16, dt.bf16)
_INTEGERS = (dt.i64, dt.i32, dt.i8, dt.u8, dt.u32)
_EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, 1e-4, 30.0, -30.0)
_SPECIAL = (float("nan"), float("inf"), float("-inf"))
_BROADCASTS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3), (2, 3)),
    ((4, 1, 3), (5, 1)),
    ((), (3,)),
    ((1,), ()),
    ((0, 3), (1, 3)),
)

# Where a function is defined or well conditioned; the others take -3..3.
_DOMAINS = {
    "asin": (-1.0, 1.0), "acos": (-1.0, 1.0), "atanh": (-0.95, 0.95), "acosh": (1.0, 9.0),
    "log": (1e-3, 9.0), "sqrt": (0.0, 9.0), "log1p": (-0.9, 9.0),
}  # fmt: skip


def _dtypes(accepts: str) -> tuple[DType, ...]:
    match accepts:
        case "float":
            return _FLOATS
        case "integer":
            return _INTEGERS
        case "bits":
            return (dt.bool_, *_INTEGERS)
        case "number":
            return (*_FLOATS, *_INTEGERS)
        case _:
            return (dt.bool_, *_FLOATS, *_INTEGERS)


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, low: float, high: float
) -> np.ndarray:
    if dtype is dt.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_float:
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype.numpy)
    least = max(int(dtype.lowest), -20)
    return np.asarray(rng.integers(least, 21, shape)).astype(dtype.numpy)


def _ends(dtype: DType) -> list[int]:
    return [int(dtype.lowest), int(dtype.lowest) + 1, 0, 1, int(dtype.highest)]


def unary_samples(name: str, accepts: str) -> Sequence[Sample]:
    """Random values of the domain, then the edges, for every dtype."""
    rng = np.random.default_rng(1)
    low, high = _DOMAINS.get(name, (-3.0, 3.0))
    samples = []
    for dtype in _dtypes(accepts):
        samples.append(Sample((_draw(rng, (2, 17), dtype, low, high),), {}, f"{dtype}"))
        if dtype.is_float:
            inside = [v for v in _EDGES if name not in _DOMAINS or low <= v <= high]
            edges = np.array([*inside, *_SPECIAL]).astype(dtype.numpy)
            samples.append(Sample((edges,), {}, f"{dtype} edges, nan and infinities"))
        elif dtype.is_integer:
            samples.append(Sample((np.array(_ends(dtype), dtype.numpy),), {}, f"{dtype} ends"))
    samples.append(Sample((_draw(rng, (), _dtypes(accepts)[0], low, high),), {}, "scalar"))
    samples.append(Sample((_draw(rng, (0, 3), _dtypes(accepts)[0], low, high),), {}, "empty"))
    return samples


def binary_samples(name: str, accepts: str) -> Sequence[Sample]:
    """Broadcasting pairs, then all pairs of edge values, for every dtype."""
    rng = np.random.default_rng(2)
    # A power of a negative base is nan, and large exponents overflow everything else.
    low, high = (0.1, 4.0) if name == "pow" else (-3.0, 3.0)
    samples = []
    for dtype in _dtypes(accepts):
        for a, b in _BROADCASTS:
            pair = (_draw(rng, a, dtype, low, high), _draw(rng, b, dtype, low, high))
            samples.append(Sample(pair, {}, f"{dtype} {list(a)} with {list(b)}"))
        if dtype is dt.bool_:
            edges = np.array([False, True])
        elif dtype.is_float:
            edges = np.array([*_EDGES, *_SPECIAL]).astype(dtype.numpy)
        else:
            close = [v for v in (-3, -2, -1, 2, 3, 7, 31, 63, 64) if dtype.is_signed or v > 0]
            edges = np.array([*_ends(dtype), *close], dtype.numpy)
        samples.append(Sample((edges[:, None], edges), {}, f"{dtype} every pair of edges"))
    return samples


def where_samples() -> Sequence[Sample]:
    """Every dtype, with each of the three inputs broadcast in turn."""
    rng = np.random.default_rng(3)
    samples = []
    for dtype in dt.DTYPES.values():
        for cond, a, b in (((3, 4), (3, 4), (3, 4)), ((3, 1), (4,), ()), ((), (2, 1), (2, 3))):
            arrays = (
                rng.integers(0, 2, cond).astype(np.bool_) if cond else np.array(True),
                _draw(rng, a, dtype, -3.0, 3.0),
                _draw(rng, b, dtype, -3.0, 3.0),
            )
            samples.append(Sample(arrays, {}, f"{dtype} {list(cond)} {list(a)} {list(b)}"))
    return samples


def cast_samples() -> Sequence[Sample]:
    """Every pair of dtypes on values both hold, rounding ties, and saturation."""
    rng = np.random.default_rng(4)
    samples = []
    for source in dt.DTYPES.values():
        for to in dt.DTYPES.values():
            x = _draw(rng, (3, 5), source, -20.0, 20.0)
            if not to.is_signed and to is not dt.bool_:
                x = np.abs(x) if source is not dt.bool_ else x
            samples.append(Sample((x,), {"dtype": to, "saturate": False}, f"{source} to {to}"))
    ties = np.array([1 + 2**-9, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-30, 1 + 2**-8 - 2**-40])
    for to in (dt.bf16, dt.f16, dt.f32):
        samples.append(Sample((ties,), {"dtype": to, "saturate": False}, f"ties f64 to {to}"))
    beyond = [-1e30, -300.5, -128.0, -1.0, -0.5, 0.5, 127.9, 255.0, 300.0, 2147483647.0, 1e30]
    for source in (dt.f32, dt.f64, dt.f16, dt.bf16):
        x = np.array([*beyond, *_SPECIAL])
        with np.errstate(over="ignore"):
            x = x.astype(source.numpy)
        for to in (dt.i8, dt.u8, dt.i32, dt.u32, dt.i64, dt.u64):
            samples.append(
                Sample((x,), {"dtype": to, "saturate": True}, f"{source} saturates to {to}")
            )
    for source in (dt.i64, dt.i32, dt.u32):
        x = np.array(_ends(source), source.numpy)
        for to in (dt.i8, dt.u8, dt.i32, dt.u64):
            samples.append(
                Sample((x,), {"dtype": to, "saturate": True}, f"{source} saturates to {to}")
            )
    truth = np.array([0.0, -0.0, 0.1, float("nan"), float("inf")])
    samples.append(Sample((truth,), {"dtype": dt.bool_, "saturate": False}, "truth of floats"))
    return samples
