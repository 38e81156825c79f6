"""The graph passes: the visible list, in order, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from ...ops import OPS
from ...target import Target
from ..ir import Attr, Graph, Node
from .control import simplify_control
from .depth import stack_depth
from .fold import fold
from .fuse import fuse
from .kernels import restate
from .layout import layout
from .phases import phases
from .pools import order_pools
from .repeats import lengthened, shortened
from .rewrite import merge_duplicates, remove_dead
from .simplify import simplify
from .stand_ins import OpaqueError
from .weights import flush_weights

Pass = Callable[[Graph, Target], Graph]
Trace = Callable[[str, Graph], None]


def _dead(graph: Graph, target: Target) -> Graph:
    del target
    return remove_dead(graph)


def _duplicates(graph: Graph, target: Target) -> Graph:
    del target
    return merge_duplicates(graph)


PASSES: tuple[tuple[str, Pass, str], ...] = (
    ("dead", _dead, "what no output needs must cost no later pass any time"),
    ("restate", restate, "nests that users made for CPUs are no schedule for other machines"),
    ("duplicates", _duplicates, "exporters repeat shape arithmetic and masks for every layer"),
    ("control", simplify_control, "weights that a loop captures are constants inside it, too"),
    ("fold", fold, "weights that exporters cast, transpose or scale are constants again"),
    ("control again", simplify_control, "weights that fold made constants are captured, too"),
    ("simplify", simplify, "one form for each thing, so that the passes below need one pattern"),
    ("layout", layout, "convolution trunks run channels-last, with no transpose inside"),
    ("simplify again", simplify, "what layout brought together: scales behind a convolution"),
    ("layout again", layout, "reshapes that stood between two transposes are gone now"),
    ("depth", stack_depth, "volumes are convolved as pictures, for which there are more methods"),
    ("simplify last", simplify, "a scale that layout moved behind its product joins the weights"),
    ("phases", phases, "transposed convolutions are to multiply no zeros, whatever joined them"),
    ("pools", order_pools, "a pool and a pointwise convolution go in the order that takes less"),
    ("weights", flush_weights, "what a softmax masks off must cost no more than the rest"),
    ("fuse", fuse, "a kernel per group keeps intermediates in registers and caches"),
)
"""(name, function, reason), in the order in which they run."""

_NOT_STRICT: frozenset[Pass] = frozenset({stack_depth})
"""Passes that only make way for Winograd's method, which ``math="strict"`` forbids."""


def run_passes(
    graph: Graph, target: Target, trace: Trace | None = None, *, math: str = "fast"
) -> Graph:
    """Runs all passes, inside out: the subgraphs of control nodes go through each one first.

    Of many equal layers they go over a few (repeats.py), unless each step is to be seen.

    Args:
        trace: called with each pass's name and the whole graph after it.
        math: "fast" or "strict", see Options.
    """
    short = shortened(graph) if trace is None else None
    if short is not None:
        try:
            return lengthened(short, _run(short.graph, target, math, None))
        except OpaqueError:
            pass
    return _run(graph, target, math, trace)


def _run(graph: Graph, target: Target, math: str, trace: Trace | None) -> Graph:
    # What the graph stays the same under, as it is now.
    settled: set[Pass] = set()
    left_out = _NOT_STRICT if math == "strict" else frozenset()
    for name, function, _ in PASSES:
        if function not in settled and function not in left_out:
            before, graph = graph, _apply(function, graph, target)
            if graph is before:
                settled.add(function)
            else:
                # It sweeps until nothing changes; the others go over the graph once.
                settled = {function} if function is simplify else set()
        if trace is not None:
            trace(name, graph)
    return graph


def _apply(function: Pass, graph: Graph, target: Target) -> Graph:
    nodes = tuple([_apply_inside(function, n, target) for n in graph.nodes])
    if nodes != graph.nodes:
        graph = replace(graph, nodes=nodes)
    return function(graph, target)


def _apply_inside(function: Pass, node: Node, target: Target) -> Node:
    if node.op == "fused" or OPS[node.op].kind != "control":
        return node
    attrs: dict[str, Attr] = {
        k: _apply(function, a, target) if isinstance(a, Graph) else a for k, a in node.attrs.items()
    }
    return Node(node.op, node.inputs, MappingProxyType(attrs), node.outputs, node.origin)
