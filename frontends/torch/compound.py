"""Decompositions that torch itself has none of: compound overloads in terms of core ones.

Each is a function of the overload's own arguments, written with torch's operators, that computes
the same; NotImplemented where it does not state that case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .encoder import encoder_layer

_SUM, _MEAN, _MAX = range(3)


# ------------------------------------------------------------------ bags


def embedding_bag(
    weight: Tensor, indices: Tensor, offsets: Tensor, scale_grad_by_freq: bool = False,
    mode: int = _SUM, sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Sums, means or maxima of the rows that each bag of indices names; 0 for an empty bag.

    Args:
        offsets: where each bag begins; with ``include_last_offset`` one more, where the last ends.
        padding_idx: an index that is left out; a negative one is none.

    Returns:
        The bags' rows, which bag each index is in, how many each has, and where each begins.
    """
    bags, count = offsets.shape[0], indices.shape[0]
    places = torch.arange(count, dtype=offsets.dtype)
    bag = torch.searchsorted(offsets, places, right=True) - 1  # the last of those that begin there
    kept = (indices != padding_idx if padding_idx >= 0 else torch.ones_like(indices)).to(bag.dtype)
    rows = functional.embedding(indices, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    sizes = torch.zeros(bags, dtype=bag.dtype).index_add(0, bag, kept)
    if mode == _MAX:
        low = -torch.inf if padding_idx < 0 else torch.where(kept[:, None] != 0, 0.0, -torch.inf)
        places_of = bag[:, None].expand(count, weight.shape[1])
        empty = weight.new_full((bags, weight.shape[1]), -torch.inf)
        rows = rows if padding_idx < 0 else (rows + low).to(rows.dtype)
        made = empty.scatter_reduce(0, places_of, rows, "amax")
        made = torch.where(sizes[:, None] != 0, made, torch.zeros_like(made))
    else:
        if padding_idx >= 0:
            rows = torch.where(kept[:, None] != 0, rows, torch.zeros_like(rows))
        made = rows.new_zeros(bags, weight.shape[1]).index_add(0, bag, rows)
        if mode == _MEAN:
            made = made / sizes.clamp_min(1)[:, None].to(made.dtype)
    if include_last_offset:
        made, sizes = made[:-1], sizes[:-1]
    return made, bag, sizes, offsets


def histogram(x: Tensor, bins: int = 100, low: float = 0.0, high: float = 0.0) -> Tensor:
    """How many elements lie in each of the equal parts of a range, the last of which is closed.

    Args:
        low, high: of the range; where they are equal, the elements' own range.

    Returns:
        One number for each part, in the type of ``x``.
    """
    if low == high or not x.is_floating_point():
        return NotImplemented
    flat = x.reshape(-1)
    part = ((flat - low) * bins / (high - low)).to(torch.int64).clamp(0, bins - 1)
    inside = ((flat >= low) & (flat <= high)).to(torch.int64)
    return torch.zeros(bins, dtype=torch.int64).index_add(0, part, inside).to(x.dtype)


def pair_distances(x: Tensor, p: float = 2.0) -> Tensor:
    """The distances between the rows of a matrix, for each pair once."""
    rows = x.shape[0]
    if not isinstance(rows, int):
        return NotImplemented
    first, second = torch.triu_indices(rows, rows, 1)
    return torch.linalg.vector_norm(x[first] - x[second], p, -1)


# ------------------------------------------------------------------ antialiased resizing


def _triangle(x: Tensor) -> Tensor:
    return (1.0 - x.abs()).clamp_min(0.0)


def _cubic(x: Tensor) -> Tensor:
    """Keys's cubic with a = -0.5, as PIL has it."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def _shares(
    size: int, wanted: int, corners: bool, scale: float | None, reach: float,
    kernel: Callable[[Tensor], Tensor], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The share that each place of an axis has in each place of the resized one.

    Returns:
        [wanted, size]; each row sums to 1.
    """
    if corners:
        step = (size - 1) / (wanted - 1) if wanted > 1 else 0.0
    else:
        step = 1.0 / scale if scale else size / wanted
    stretch = max(step, 1.0)
    centre = (torch.arange(wanted, dtype=dtype)[:, None] + 0.5) * step
    first = (centre - reach * stretch + 0.5).to(torch.int64).clamp_min(0)
    last = (centre + reach * stretch + 0.5).to(torch.int64).clamp_max(size)
    place = torch.arange(size)
    shares = kernel((place.to(dtype) - centre + 0.5) / stretch)
    shares = torch.where((place >= first) & (place < last), shares, torch.zeros_like(shares))
    return shares / shares.sum(1, keepdim=True)


def _antialiased(reach: float, kernel: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Resizing whose kernel is stretched where an image shrinks, so that every pixel counts."""

    def resize(
        x: Tensor, output_size: tuple[int, int], align_corners: bool,
        scales_h: float | None = None, scales_w: float | None = None,
    ) -> Tensor:  # fmt: skip
        sizes = (*x.shape[2:], *output_size)
        if not x.is_floating_point() or not all(isinstance(n, int) for n in sizes):
            return NotImplemented
        wide = x if x.dtype is torch.float64 else x.float()
        rows, columns = (
            _shares(size, wanted, align_corners, scale, reach, kernel, wide.dtype)
            for size, wanted, scale in zip(
                x.shape[2:], output_size, (scales_h, scales_w), strict=True
            )
        )
        return (rows @ (wide @ columns.t())).to(x.dtype)

    return resize


# ------------------------------------------------------------------ smaller ones


def rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: Any = None,
) -> Any:  # fmt: skip
    """The leaky unit that a random one is in eval mode, and the noise as it was."""
    if training:
        return NotImplemented
    return functional.leaky_relu(x, (lower + upper) / 2), noise


DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    "_embedding_bag.default": embedding_bag,
    "_embedding_bag_forward_only.default": embedding_bag,
    "_pdist_forward.default": pair_distances,
    "_transformer_encoder_layer_fwd.default": encoder_layer,
    "_upsample_bicubic2d_aa.default": _antialiased(2.0, _cubic),
    "_upsample_bilinear2d_aa.default": _antialiased(1.0, _triangle),
    "histc.default": histogram,
    "rrelu_with_noise_functional.default": rrelu,
}
"""By overload, a function of torch's own operators that computes the same."""
