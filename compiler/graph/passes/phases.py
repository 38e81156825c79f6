"""Phases: a convolution over a stretched image multiplies no zeros.

The transpose of a convolution comes as a plain one over an image with ``s - 1`` zeros between its
elements. Output ``q * s + r`` meets elements at every s-th of its taps only, and which these are
depends on the phase ``r`` alone: for each phase it is a convolution of the image itself, with
those taps for weights. The phases of an axis are convolutions of their own, or columns of one,
whose windows then hold all their taps; what costs fewer vector products is taken. Their results
lie side by side and are interleaved by one transpose, after what follows element by element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import numpy as np

from ...ops import OPS
from ...ops.op import dims_attr, int_attr, ints_attr, same_shape
from ...target import Target
from ...tensor.ir import Dim, as_expr
from ...tensor.simplify import ceildiv, dim, same_dim
from ..ir import Graph, Node, Value
from .rewrite import Rewriter

APART = 1.1
"""How much more one convolution for several phases may cost than one for each: it is one kernel."""


@dataclass(frozen=True, slots=True)
class _Phase:
    """The taps of one phase: the first one, how many, and the place that the first one reads."""

    first: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of an image along which a window slides, maybe stretched.

    Attributes:
        size: elements of the image. count: places of the window.
        factor: the distance of two elements in the stretched image.
        start: where its first element lies, counted from the window's first place.
        taps, dilation: of the window.
    """

    size: Dim
    count: Dim
    factor: int
    start: int
    taps: int
    dilation: int

    @property
    def between(self) -> int:
        """How many taps there are from one that a phase uses to the next."""
        return self.factor // math.gcd(self.factor, self.dilation)

    @property
    def steps(self) -> int:
        """How many elements of the image lie between these."""
        return self.dilation // math.gcd(self.factor, self.dilation)

    def phase(self, r: int) -> _Phase | None:
        """The taps of phase r; None if it has none."""
        for k in range(min(self.between, self.taps)):
            place, rest = divmod(r + k * self.dilation - self.start, self.factor)
            if rest == 0:
                return _Phase(k, -(-(self.taps - k) // self.between), place)
        return None


@dataclass(frozen=True, slots=True)
class _Window:
    """One window for some phases of an axis: what it reads of the image, and for which phases."""

    phases: tuple[_Phase | None, ...]
    place: int
    taps: int
    dilation: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A stretched convolution, and what is computed on each phase of its result.

    Attributes:
        conv: the convolution. image: what it slides over, before it was stretched.
        axes: the spatial axes.
        follow: elementwise nodes that only it and each other read, but for the last one.
    """

    conv: Node
    image: Value
    axes: tuple[_Axis, ...]
    follow: tuple[Node, ...]


def phases(graph: Graph, target: Target) -> Graph:
    """Returns the graph with a convolution for each phase in place of those over stretched images.

    Only where the weights are constants.
    """
    producer = {n.outputs[0]: n for n in graph.nodes if n.op in ("pad", "slice")}
    plans = [p for n in graph.nodes if n.op == "conv" and (p := _plan(graph, n, producer))]
    if not plans:
        return graph
    ends = {(p.follow[-1] if p.follow else p.conv).outputs[0]: p for p in plans}
    rewriter = Rewriter(graph)
    for old in graph.nodes:
        plan = ends.get(old.outputs[0])
        if plan is None:
            rewriter.keep(rewriter.adopt(old))
        else:
            rewriter.replace(old.outputs[0], _interleaved(rewriter, plan, target.lanes(32)))
    return rewriter.finish()


# ------------------------------------------------------------------ finding


def _plan(graph: Graph, conv: Node, producer: Mapping[Value, Node]) -> _Plan | None:
    """How to compute a convolution by phases; None where nothing is stretched."""
    source, weights = conv.inputs
    cut = producer.get(source)
    cut = cut if cut is not None and cut.op == "slice" else None
    pad = producer.get(source if cut is None else cut.inputs[0])
    if pad is None or pad.op != "pad" or not any(ints_attr(pad.attrs, "interior")):
        return None
    if weights not in graph.constants or any(s != 1 for s in ints_attr(conv.attrs, "strides")):
        return None
    fill = graph.constants.get(pad.inputs[1])
    if pad.attrs["mode"] != "constant" or fill is None or fill.any():
        return None
    found = [_axis(d, conv, pad, cut) for d in range(len(source.shape))]
    axes = tuple(a for a in found[1:-1] if a is not None)
    if len(axes) != len(found) - 2 or found[0] is None or found[-1] is None:
        return None
    return _Plan(conv, pad.inputs[0], axes, _followers(graph, conv))


def _axis(d: int, conv: Node, pad: Node, cut: Node | None) -> _Axis | None:
    """The axis d of an image; None where it is padded in ways that have no phases."""
    lo, hi = (dims_attr(pad.attrs, k)[d] for k in ("lo", "hi"))
    factor = ints_attr(pad.attrs, "interior")[d] + 1
    size, padded = pad.inputs[0].shape[d], pad.outputs[0].shape[d]
    start: Dim = 0
    kept = padded
    if cut is not None:
        start, kept = (dims_attr(cut.attrs, k)[d] for k in ("starts", "sizes"))
        if ints_attr(cut.attrs, "steps")[d] != 1:
            return None
    last = len(pad.outputs[0].shape) - 1
    if d in (0, last):
        whole = same_dim(padded, size) and same_dim(kept, size) and factor == 1
        return _Axis(size, size, 1, 0, 1, 1) if whole and same_dim(lo, 0) else None
    before, after = (dims_attr(conv.attrs, k)[d - 1] for k in ("lo", "hi"))
    taps = conv.inputs[1].shape[d - 1]
    if not all(isinstance(x, int) for x in (lo, hi, start, before, taps)):
        return None
    assert isinstance(lo, int) and isinstance(start, int)
    assert isinstance(before, int) and isinstance(taps, int)
    ends = same_dim(dim(as_expr(start) + kept), padded)
    if (start and before > 0) or not (ends or (isinstance(after, int) and after <= 0)):
        return None  # What was cut off would be read again, where zeros were padded.
    place = lo - start + before
    dilation = ints_attr(conv.attrs, "dilations")[d - 1]
    return _Axis(size, conv.outputs[0].shape[d], factor, place, taps, dilation)


def _followers(graph: Graph, conv: Node) -> tuple[Node, ...]:
    """Elementwise nodes that can be computed phase by phase: of the sum and of channels alone.

    Only the last one is read by others.
    """
    shape = conv.outputs[0].shape
    channels = shape[-1]
    members, inside = [conv], set(conv.outputs)
    for node in graph.nodes:
        if OPS[node.op].kind != "elementwise" or inside.isdisjoint(node.inputs):
            continue
        known = all(v in inside or _is_row(graph, v, channels) for v in node.inputs)
        if known and same_shape(node.outputs[0].shape, shape):
            members.append(node)
            inside.update(node.outputs)
    readers: dict[Value, list[int]] = {v: [-1] for v in graph.outputs}
    for k, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append(k)
    places = {n.outputs[0]: k for k, n in enumerate(graph.nodes)}
    for count in range(len(members), 1, -1):
        part = [m.outputs[0] for m in members[:count]]
        own = {places[v] for v in part}
        if all(own.issuperset(readers.get(v, ())) for v in part[:-1]):
            return tuple(members[1:count])
    return ()


def _is_row(graph: Graph, value: Value, channels: Dim) -> bool:
    """Whether a value is a constant that varies with the channel at most."""
    data = graph.constants.get(value)
    return data is not None and (data.size == 1 or data.shape[-1] == data.size == channels)


# ------------------------------------------------------------------ building


def _interleaved(rewriter: Rewriter, plan: _Plan, lanes: int) -> Value:
    """The result of a stretched convolution and of what follows it."""
    conv = plan.conv
    (result,) = conv.outputs
    outputs, groups = result.shape[-1], int_attr(conv.attrs, "groups")
    assert isinstance(outputs, int)
    together = _together(plan.axes, outputs, groups, lanes)
    windows = [_windows(a, one) for a, one in zip(plan.axes, together, strict=True)]
    parts = [_part(rewriter, plan, choice) for choice in product(*windows)]
    axis = len(result.shape) - 1
    last = plan.follow[-1] if plan.follow else conv
    whole = (
        parts[0] if len(parts) == 1 else rewriter.add("concat", parts, {"axis": axis}, like=last)
    )
    rounds = [dim(ceildiv(a.count, a.factor)) for a in plan.axes]
    factors = [a.factor for a in plan.axes]
    apart = [k for k, one in enumerate(together) if not one]
    joined = [k for k, one in enumerate(together) if one]
    # Where the phases of each axis stand, behind the places: those of the parts come first.
    order = [0]
    for k in range(len(factors)):
        after = apart.index(k) if k in apart else len(apart) + 1 + joined.index(k)
        order += [1 + k, 1 + len(factors) + after]
    group = 1 + len(factors) + len(apart)
    order += [group, 1 + 2 * len(factors) + 1]
    shape = (
        result.shape[0],
        *rounds,
        *(factors[k] for k in apart),
        groups,
        *(factors[k] for k in joined),
        outputs // groups,
    )
    value = rewriter.add("reshape", (whole,), {"shape": shape}, like=last)
    value = rewriter.add("transpose", (value,), {"perm": tuple(order)}, like=last)
    sizes = tuple(dim(as_expr(q) * f) for q, f in zip(rounds, factors, strict=True))
    full = (result.shape[0], *sizes, outputs)
    value = rewriter.add("reshape", (value,), {"shape": full}, like=last)
    if same_shape(full, result.shape):
        return value
    attrs = {
        "starts": (0,) * len(full),
        "sizes": result.shape,
        "steps": (1,) * len(full),
    }
    return rewriter.add("slice", (value,), attrs, like=last)


def _together(axes: Sequence[_Axis], outputs: int, groups: int, lanes: int) -> tuple[bool, ...]:
    """For which axes the phases are columns of one convolution: what costs fewest products."""

    def cost(choice: tuple[bool, ...]) -> float:
        columns, taps = outputs, 1
        for a, one in zip(axes, choice, strict=True):
            taps *= sum(w.taps for w in _windows(a, one))
            columns *= a.factor if one else 1
        return taps * (-(-columns // lanes) if groups == 1 else columns / lanes)

    ways = [(True,) if _must_join(a) else (False, True) for a in axes]
    choices = cast("list[tuple[bool, ...]]", list(product(*ways)))
    least = min(cost(c) for c in choices)
    return max((c for c in choices if cost(c) <= APART * least), key=sum)


def _must_join(a: _Axis) -> bool:
    """Whether there is nothing to choose, or a phase without taps, which is no convolution."""
    return a.factor == 1 or any(a.phase(r) is None for r in range(a.factor))


def _windows(a: _Axis, together: bool) -> list[_Window]:
    """The windows for the phases of an axis: one for all, or one for each."""
    found = tuple(a.phase(r) for r in range(a.factor))
    return [_window(a, found)] if together else [_window(a, (p,)) for p in found]


def _window(a: _Axis, found: tuple[_Phase | None, ...]) -> _Window:
    places = [p.place + j * a.steps for p in found if p is not None for j in range(p.count)]
    if not places:
        return _Window(found, 0, 1, 1)
    first, last = min(places), max(places)
    step = math.gcd(*(p - first for p in places)) or 1
    return _Window(found, first, (last - first) // step + 1, step)


def _part(rewriter: Rewriter, plan: _Plan, windows: tuple[_Window, ...]) -> Value:
    """The convolution for one choice of windows, and what follows it."""
    conv = plan.conv
    data = rewriter.data(rewriter.of(conv.inputs[1]))
    assert data is not None
    weights = rewriter.constant(
        _taps(data, plan.axes, windows, int_attr(conv.attrs, "groups")), conv.inputs[1].name
    )
    los: list[Dim] = []
    his: list[Dim] = []
    for a, w in zip(plan.axes, windows, strict=True):
        rounds = as_expr(dim(ceildiv(a.count, a.factor)))
        los.append(-w.place)
        his.append(dim(rounds + w.place + (w.taps - 1) * w.dilation - a.size))
    attrs = {
        **conv.attrs,
        "lo": tuple(los),
        "hi": tuple(his),
        "dilations": tuple(w.dilation for w in windows),
    }
    value = rewriter.add("conv", (rewriter.of(plan.image), weights), attrs, like=conv)
    known = {conv.outputs[0]: value}
    for node in plan.follow:
        inputs = [known.get(v) or _row(rewriter, v, plan, windows) for v in node.inputs]
        known[node.outputs[0]] = rewriter.add(node.op, inputs, node.attrs, like=node)
        value = known[node.outputs[0]]
    return value


def _taps(
    data: np.ndarray, axes: Sequence[_Axis], windows: Sequence[_Window], groups: int
) -> np.ndarray:
    """The weights of a choice of windows: columns are groups, phases, columns of a group."""
    *_, inner, outputs = data.shape
    each = outputs // groups
    counts = tuple(len(w.phases) for w in windows)
    made = np.zeros((*(w.taps for w in windows), inner, groups, *counts, each), data.dtype)
    for choice in np.ndindex(*counts):
        chosen = [w.phases[r] for w, r in zip(windows, choice, strict=True)]
        if any(p is None for p in chosen):
            continue
        spots = [_spot(a, w, p) for a, w, p in zip(axes, windows, chosen, strict=True) if p]
        taken = data[tuple(s for s, _ in spots)]
        place = (*(t for _, t in spots), slice(None), slice(None), *choice)
        made[place] = taken.reshape(*taken.shape[:-1], groups, each)
    return made.reshape(*made.shape[: len(windows) + 1], -1)


def _spot(a: _Axis, w: _Window, p: _Phase) -> tuple[slice, slice]:
    """Where the taps of a phase stand in the given weights, and in those of a window."""
    first = (p.place - w.place) // w.dilation
    step = max(1, a.steps // w.dilation)
    return slice(p.first, None, a.between), slice(first, first + (p.count - 1) * step + 1, step)


def _row(rewriter: Rewriter, value: Value, plan: _Plan, windows: Sequence[_Window]) -> Value:
    """A constant of channels for the columns of a choice of windows."""
    value = rewriter.of(value)
    data = rewriter.data(value)
    assert data is not None
    copies = math.prod(len(w.phases) for w in windows)
    if data.size == 1 or copies == 1:
        return value
    groups = int_attr(plan.conv.attrs, "groups")
    rows = np.repeat(data.reshape(groups, 1, -1), copies, axis=1)
    return rewriter.constant(np.ascontiguousarray(rows).reshape(-1), value.name)
