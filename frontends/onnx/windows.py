"""The geometry of sliding windows as ONNX states it, and the layout that they are computed in.

ONNX stores channels first ([N, C, *spatial]); windows slide over channels-last tensors here, so
that a trunk of convolutions and pools stays channels-last once the transposes between them cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewright.graph.ir import Value
from tilewright.tensor.ir import Dim, as_expr, maximum, minimum
from tilewright.tensor.simplify import ceildiv, dim

from .context import Context
from .node import NodeView

_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True, slots=True)
class Windows:
    """How windows slide over the spatial dims, one entry for each of them.

    Attributes:
        kernel: taps of the window.
        strides, dilations: elements between positions, and between taps.
        lo, hi: padding before and after, at least 0.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """The elements from a window's first tap to its last, both counted."""
        return spans(self.kernel, self.dilations)

    @property
    def padded(self) -> bool:
        """Whether any side is padded, as far as is known."""
        return any(p != 0 for p in (*self.lo, *self.hi))

    @property
    def taps(self) -> int:
        """The number of elements in one window."""
        count = 1
        for k in self.kernel:
            count *= k
        return count

    def full_rank(self) -> dict[str, tuple[Dim, ...]]:
        """Attributes of ``reduce_window`` over a channels-last tensor."""
        return {
            "window": (1, *self.kernel, 1),
            "strides": (1, *self.strides, 1),
            "dilations": (1, *self.dilations, 1),
            "lo": (0, *self.lo, 0),
            "hi": (0, *self.hi, 0),
        }


def spans(kernel: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """The elements from a window's first tap to its last, both counted."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def positive_ints(node: NodeView, name: str, rank: int) -> tuple[int, ...]:
    """An attribute of one positive number per spatial dim, by default all 1.

    Raises:
        ModelError: it has another length, or a number below 1.
    """
    found = node.ints(name)
    if found is None:
        return (1,) * rank
    if len(found) != rank or min(found, default=1) < 1:
        node.broken(f"{name} must be {rank} numbers of 1 or more, got {found}")
    return found


def auto_pad(node: NodeView) -> str:
    """The attribute ``auto_pad``.

    Raises:
        ModelError: it is none of the four values that the standard knows.
    """
    found = node.string("auto_pad", "NOTSET") or "NOTSET"
    if found not in _AUTO_PADS:
        node.broken(f"auto_pad must be one of {', '.join(_AUTO_PADS)}, got {found!r}")
    return found


def explicit_pads(
    ctx: Context, node: NodeView, rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attribute ``pads`` as (before, after), by default all 0."""
    pads = node.ints("pads")
    if pads is None:
        return (0,) * rank, (0,) * rank
    if len(pads) != 2 * rank:
        node.broken(f"pads must be {2 * rank} numbers for {rank} spatial dims, got {pads}")
    if min(pads, default=0) < 0:
        ctx.unsupported(f"negative pads {pads}")
    return pads[:rank], pads[rank:]


def split_padding(total: Dim, upper: bool) -> tuple[Dim, Dim]:
    """Splits padding in two; the odd element goes after (upper) or before."""
    small = dim(as_expr(total) // 2)
    large = dim(as_expr(total) - small)
    return (small, large) if upper else (large, small)


def read_windows(
    ctx: Context, node: NodeView, spatial: Sequence[Dim], kernel: tuple[int, ...]
) -> Windows:
    """Reads strides, dilations and padding of a node whose windows have ``kernel`` taps.

    Args:
        spatial: the extents that the windows slide over.
    """
    rank = len(spatial)
    strides = positive_ints(node, "strides", rank)
    dilations = positive_ints(node, "dilations", rank)
    mode = auto_pad(node)
    if mode == "VALID":
        zeros = (0,) * rank
        return Windows(kernel, strides, dilations, zeros, zeros)
    if mode == "NOTSET":
        before, after = explicit_pads(ctx, node, rank)
        return Windows(kernel, strides, dilations, before, after)
    lo, hi = [], []
    for extent, stride, span in zip(spatial, strides, spans(kernel, dilations), strict=True):
        needed = (as_expr(ceildiv(extent, stride)) - 1) * stride + span - as_expr(extent)
        first, last = split_padding(dim(maximum(needed, 0)), mode == "SAME_UPPER")
        lo.append(first)
        hi.append(last)
    return Windows(kernel, strides, dilations, tuple(lo), tuple(hi))


def rounded_up(windows: Windows, spatial: Sequence[Dim]) -> Windows:
    """Widens the padding after, so that a window that only starts inside counts too.

    This is ``ceil_mode``: a last window is added where elements are left over, but never one that
    would start beyond the input and the padding before it.
    """
    hi = []
    for extent, stride, span, lo, after in zip(
        spatial, windows.strides, windows.spans, windows.lo, windows.hi, strict=True
    ):
        start = as_expr(extent) + lo
        room = dim(start + after - span)
        positions = minimum(
            as_expr(ceildiv(room, stride)) + 1, as_expr(ceildiv(dim(start), stride))
        )
        hi.append(dim(maximum((positions - 1) * stride + span - start, 0)))
    return Windows(windows.kernel, windows.strides, windows.dilations, windows.lo, tuple(hi))


# ------------------------------------------------------------------ layout


def channels_last(ctx: Context, x: Value) -> Value:
    """[N, C, *spatial] as [N, *spatial, C]."""
    return ctx.transpose(x, (0, *range(2, len(x.shape)), 1))


def channels_first(ctx: Context, x: Value) -> Value:
    """[N, *spatial, C] as [N, C, *spatial]."""
    rank = len(x.shape)
    return ctx.transpose(x, (0, rank - 1, *range(1, rank - 1)))


def image(ctx: Context, node: NodeView, index: int = 0) -> Value:
    """The operand of rank 3 or more that windows slide over.

    Raises:
        ModelError: it has no spatial dim.
    """
    x = node.input(index)
    if len(x.shape) < 3:
        node.broken(f"needs an input of rank 3 or more, got rank {len(x.shape)}")
    return x


def per_channel(ctx: Context, vector: Value, rank: int, axis: int = 1) -> Value:
    """A vector of one number per channel, shaped to broadcast along ``axis`` of ``rank`` dims."""
    (channels,) = vector.shape
    return ctx.reshape(vector, (channels if i == axis else 1 for i in range(rank)))
