"""Converters of ONNX's spectral operators: Fourier transforms, windows, mel weights.

A transform is a matrix product with a constant table of sines and cosines, hence meant for
lengths up to some thousands.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tilewright import dtype as dt
from tilewright.graph.ir import Value
from tilewright.tensor.simplify import product as product_of

from .context import Context, Converter
from .node import NodeView

_MOST_ENTRIES = 1 << 22

# ------------------------------------------------------------------ DFT


def dft(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """The discrete Fourier transform along one axis, its inverse, or half of either."""
    x = node.input(0)
    rank = len(x.shape)
    parts = x.shape[-1] if rank else 0
    if rank < 2 or parts not in (1, 2):
        node.broken(f"needs real or complex numbers along the last axis, got shape {x.shape}")
    axis = _dft_axis(ctx, node, rank)
    if axis == rank - 1:
        node.broken("cannot transform along the axis of real and imaginary parts")
    inverse, onesided = bool(node.int("inverse", 0)), bool(node.int("onesided", 0))
    if inverse and not onesided:
        ctx.unsupported("the inverse of a full spectrum")
    extent = x.shape[axis]
    if not isinstance(extent, int):
        ctx.unsupported("a symbolic extent")
    given = node.optional(1)
    if given is not None:
        (length,) = ctx.require_ints(given, "dft_length")
    else:
        length = 2 * (extent - 1) if inverse and onesided else extent
    if length < 1:
        node.broken(f"dft_length is {length}")
    table = _table(ctx, node, min(extent, length), length, int(parts), inverse, onesided)
    used = table.shape[0]
    # Rows of (element, part), so that one product transforms both parts.
    order = [a for a in range(rank) if a not in (axis, rank - 1)]
    turned = ctx.transpose(x, (*order, axis, rank - 1))
    kept = ctx.slice_axis(turned, rank - 2, 0, used) if used != extent else turned
    outer = tuple(x.shape[a] for a in order)
    # In f64: the parts that cancel out would be lost in f32, and fast transforms lose them less.
    flat = ctx.cast(ctx.reshape(kept, (product_of(outer), used * int(parts))), dt.f64)
    matrix = ctx.literal(table.reshape(used * int(parts), -1))
    result = ctx.cast(ctx.op("matmul", flat, matrix), x.dtype)
    shaped = ctx.reshape(result, (*outer, table.shape[2], table.shape[3]))
    back = [*order, axis, rank - 1]
    return (ctx.transpose(shaped, (back.index(a) for a in range(rank))),)


def _dft_axis(ctx: Context, node: NodeView, rank: int) -> int:
    if ctx.opset < 20:
        return ctx.axis(node.int("axis", 1), rank)
    value = node.optional(2)
    if value is None:
        return ctx.axis(-2, rank)
    (axis,) = ctx.require_ints(value, "axis")
    return ctx.axis(axis, rank)


def _table(
    ctx: Context, node: NodeView, used: int, length: int, parts: int, inverse: bool, onesided: bool
) -> np.ndarray:
    """The transform as [elements in, parts in, elements out, parts out].

    Args:
        used: elements of the input that take part; those beyond are taken as zero.
    """
    halved = length // 2 + 1
    if inverse and onesided:
        if parts != 2:
            node.broken("the inverse of a half spectrum needs complex numbers")
        return _from_half(ctx, min(used, halved), length)
    out = halved if onesided else length
    if used * out * parts * 2 > _MOST_ENTRIES:
        ctx.unsupported(f"a transform of {length} elements")
    # Reduced before the sine, so that large products lose no digits.
    angle = 2 * np.pi * (np.outer(np.arange(used), np.arange(out)) % length) / length
    cosine, sine = np.cos(angle), -np.sin(angle)
    table = np.empty((used, parts, out, 2))
    table[:, 0, :, 0], table[:, 0, :, 1] = cosine, sine
    if parts == 2:
        table[:, 1, :, 0], table[:, 1, :, 1] = -sine, cosine
    return table


def _from_half(ctx: Context, used: int, length: int) -> np.ndarray:
    """The inverse transform of half a spectrum, whose other half is its mirror image."""
    if used * length * 2 > _MOST_ENTRIES:
        ctx.unsupported(f"a transform of {length} elements")
    angle = 2 * np.pi * (np.outer(np.arange(used), np.arange(length)) % length) / length
    twice = np.full((used, 1), 2.0)
    twice[0] = 1.0
    if length % 2 == 0 and used == length // 2 + 1:
        twice[-1] = 1.0
    table = np.empty((used, 2, length, 1))
    table[:, 0, :, 0] = twice * np.cos(angle) / length
    table[:, 1, :, 0] = -twice * np.sin(angle) / length
    return table


def stft(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Fourier transforms of overlapping frames: a strided convolution by the windowed table."""
    x, window = node.input(0), node.optional(2)
    if len(x.shape) not in (2, 3):
        node.broken(f"needs a signal of rank 3, got rank {len(x.shape)}")
    signal = x if len(x.shape) == 3 else ctx.unsqueeze(x, (2,))
    parts = signal.shape[2]
    if parts not in (1, 2):
        node.broken(f"needs real or complex numbers along the last axis, got shape {x.shape}")
    (step,) = ctx.require_ints(node.input(1), "frame_step")
    length_value = node.optional(3)
    if length_value is not None:
        (length,) = ctx.require_ints(length_value, "frame_length")
    elif window is not None and isinstance(window.shape[0], int):
        length = window.shape[0]
    else:
        node.broken("needs a frame length or a window")
    if step < 1 or length < 1 or (window is not None and window.shape != (length,)):
        node.broken(f"frames of {length} elements, {step} apart, do not fit the window")
    onesided = bool(node.int("onesided", 1))
    table = _table(ctx, node, length, length, int(parts), False, onesided)
    bins = table.shape[2]
    kernel = ctx.literal(table.reshape(length, int(parts), bins * 2).astype(x.dtype.numpy))
    if window is not None:
        kernel = ctx.op("mul", kernel, ctx.reshape(window, (length, 1, 1)))
    result = ctx.op(
        "conv", signal, kernel, strides=(step,), lo=(0,), hi=(0,), dilations=(1,), groups=1
    )
    return (ctx.reshape(result, (*result.shape[:2], bins, 2)),)


# ------------------------------------------------------------------ tables


def _window(shape: Callable[[np.ndarray], np.ndarray]) -> Converter:
    """A window function of the phase 0 to 2 pi."""

    def convert(ctx: Context, node: NodeView) -> tuple[Value, ...]:
        (size,) = ctx.require_ints(node.input(0), "size")
        turns = size if node.int("periodic", 1) else size - 1
        if turns < 1:
            ctx.unsupported(f"a window of {size} elements")
        phase = 2 * np.pi * np.arange(size) / turns
        return (ctx.literal(shape(phase), node.dtype("output_datatype", dt.f32)),)

    return convert


def _hann(phase: np.ndarray) -> np.ndarray:
    return np.asarray(np.sin(phase / 2) ** 2)


def _hamming(phase: np.ndarray) -> np.ndarray:
    return np.asarray(25 / 46 - 21 / 46 * np.cos(phase))


def _blackman(phase: np.ndarray) -> np.ndarray:
    return np.asarray(0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase))


def mel_weight_matrix(ctx: Context, node: NodeView) -> tuple[Value, ...]:
    """Weights that gather a spectrum's bins into bands of equal width on the mel scale."""
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    bands, length, rate, low, high = (
        ctx.require_constant(node.input(i), name).reshape(-1)[0].item()
        for i, name in enumerate(names)
    )
    if bands < 1 or length < 1 or rate < 1 or not 0 <= low <= high:
        node.broken(f"{bands} bands of {length} elements at {rate} Hz from {low} to {high} Hz")

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    step = (mel(high) - mel(low)) / (bands + 2)
    edges = 700 * (10 ** ((np.arange(bands + 2) * step + mel(low)) / 2595) - 1)
    bins = ((length + 1) * edges // rate).astype(np.int64)
    if bins[-1] > length // 2 + 1:
        node.broken(f"{high} Hz is beyond half of the sample rate {rate}")
    weights = np.zeros((length // 2 + 1, bands))
    places = np.arange(length // 2 + 1)
    for band in range(bands):
        left, centre, right = (int(b) for b in bins[band : band + 3])
        if centre == left:
            weights[centre : centre + 1, band] = 1
        else:
            rising = (places >= left) & (places <= centre)
            weights[rising, band] = (places[rising] - left) / (centre - left)
        if right > centre:
            falling = (places >= centre) & (places < right)
            weights[falling, band] = (right - places[falling]) / (right - centre)
    return (ctx.literal(weights, node.dtype("output_datatype", dt.f32)),)


CONVERTERS: dict[str, Converter] = {
    "BlackmanWindow": _window(_blackman),
    "DFT": dft,
    "HammingWindow": _window(_hamming),
    "HannWindow": _window(_hann),
    "MelWeightMatrix": mel_weight_matrix,
    "STFT": stft,
}
