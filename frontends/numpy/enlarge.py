"""Functions that make arrays larger: tile, repeat, pad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilewright.tensor.ir import Dim, as_expr, binary
from tilewright.tensor.simplify import dim, product

from .reductions import axis_of
from .shapes import cut, dims_from, reshaped
from .trace import Handler, Trace
from .tracer import Tracer, dim_of, operand, tracer


def _tile(trace: Trace, A: Any, reps: Any) -> Any:  # noqa: N803
    x = tracer(trace, "numpy.tile", A)
    counts = list(dims_from(trace, "numpy.tile", reps))
    rank = max(len(counts), x.ndim)
    counts = [*[1] * (rank - len(counts)), *counts]
    dims: list[Dim] = [*[1] * (rank - x.ndim), *x.dims]
    pairs = [d for size in dims for d in (1, size)]
    wide = [d for count, size in zip(counts, dims, strict=True) for d in (count, size)]
    value = trace.add("broadcast_to", reshaped(trace, x.value, pairs), shape=tuple(wide))
    final = [product((c, d)) for c, d in zip(counts, dims, strict=True)]
    return Tracer(trace, reshaped(trace, value, final))


def _repeat(trace: Trace, a: Any, repeats: Any, axis: Any = None) -> Any:
    x = tracer(trace, "numpy.repeat", a)
    if isinstance(repeats, Tracer):
        trace.unsupported("numpy.repeat: counts that depend on data", "TW-E0242")
    if np.ndim(repeats) and len(repeats) != 1:
        return _repeat_each(trace, x, np.asarray(repeats), axis)
    repeats = repeats[0] if np.ndim(repeats) else repeats
    if axis is None:
        x = Tracer(trace, reshaped(trace, x.value, (product(x.dims),)))
    along = 0 if axis is None else axis_of(trace, "numpy.repeat", axis, x.ndim)
    count = dim_of(repeats)
    before, after = x.dims[: along + 1], x.dims[along + 1 :]
    value = reshaped(trace, x.value, (*before, 1, *after))
    value = trace.add("broadcast_to", value, shape=(*before, count, *after))
    final = (*before[:-1], product((before[-1], count)), *after)
    return Tracer(trace, reshaped(trace, value, final))


def _repeat_each(trace: Trace, x: Tracer, counts: np.ndarray, axis: Any) -> Tracer:
    value = x.value if axis is not None else reshaped(trace, x.value, (product(x.dims),))
    along = 0 if axis is None else axis_of(trace, "numpy.repeat", axis, x.ndim)
    if trace.hint(value.shape[along]) != len(counts) or (counts < 0).any():
        trace.refuse(
            f"numpy.repeat: {len(counts)} counts for {trace.hint(value.shape[along])} elements"
        )
    trace.require_equal(value.shape[along], len(counts))
    places = trace.constant(np.repeat(np.arange(len(counts)), counts))
    return Tracer(trace, trace.add("gather", value, places, axis=along))


def _pad(trace: Trace, array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Any:
    who = "numpy.pad"
    x = tracer(trace, who, array)
    extra = set(kwargs) - {"constant_values"}
    if mode not in ("constant", "edge", "reflect", "wrap", "symmetric") or extra:
        trace.unsupported(f"{who} with mode={mode!r} {' '.join(sorted(extra))}".rstrip())
    widths = _pairs(trace, who, pad_width, x.ndim)
    if mode == "symmetric" and not kwargs:
        return _mirrored(trace, who, x, widths)
    fills = set(np.asarray(kwargs.get("constant_values", 0)).ravel().tolist())
    if len(fills) > 1:
        trace.unsupported(f"{who} with several constant_values")
    if mode in ("reflect", "wrap"):
        for pair, size in zip(widths, x.dims, strict=True):
            for width in pair:
                if not trace.decide(binary("lt", as_expr(width), size)):
                    trace.unsupported(
                        f"{who}: mode {mode!r} with a width that is not below the size"
                    )
    value = trace.add(
        "pad", x.value, operand(trace, who, np.asarray(fills.pop()), x.dtype),
        lo=tuple(lo for lo, _ in widths), hi=tuple(hi for _, hi in widths),
        interior=(0,) * x.ndim, mode=mode,
    )  # fmt: skip
    return Tracer(trace, value)


def _mirrored(trace: Trace, who: str, x: Tracer, widths: Sequence[tuple[Dim, Dim]]) -> Tracer:
    """Pads with the elements next to each edge, the edge's own among them, turned around."""
    value = x.value
    for axis, (lo, hi) in enumerate(widths):
        size = value.shape[axis]
        if not all(trace.decide(binary("le", as_expr(w), size)) for w in (lo, hi)):
            trace.unsupported(f"{who}: mode 'symmetric' with a width above the size")
        parts = [value]
        if trace.hint(lo):
            parts.insert(0, cut(trace, value, axis, dim(as_expr(lo) - 1), lo, -1))
        if trace.hint(hi):
            parts.append(cut(trace, value, axis, dim(as_expr(size) - 1), hi, -1))
        value = trace.add("concat", *parts, axis=axis) if len(parts) > 1 else value
    return Tracer(trace, value)


def _pairs(trace: Trace, who: str, width: Any, rank: int) -> list[tuple[Dim, Dim]]:
    """The widths before and after, by axis, of NumPy's several short forms."""
    if not isinstance(width, tuple | list | np.ndarray):
        return [(dim_of(width), dim_of(width))] * rank
    rows = list(width)
    if not isinstance(rows[0], tuple | list | np.ndarray):
        pair = (dim_of(rows[0]), dim_of(rows[-1]))
        return [pair] * rank
    pairs = [(dim_of(r[0]), dim_of(r[-1])) for r in rows]
    if len(pairs) == 1:
        return pairs * rank
    if len(pairs) != rank:
        trace.refuse(f"{who}: {len(pairs)} widths for {rank} dimensions")
    return pairs


ENLARGE: Mapping[object, Handler] = {
    np.tile: _tile,
    np.repeat: _repeat,
    np.pad: _pad,
}
"""What functions that make arrays larger become."""
