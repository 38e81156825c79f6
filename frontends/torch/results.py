"""What a compiled graph returns: tensors that native code writes, and what follows from others.

An output that is a view of an input, or of another output, must share its memory, and a size is
no tensor. Such outputs are made in Python by the very operators of the graph, which compute
nothing; all others are written by native code, in the layout that eager execution gives them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from .capture import Output

_SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool, bool, int, float)


@dataclass(frozen=True, slots=True)
class Results:
    """How the outputs of a graph come about.

    Attributes:
        native: what native code writes.
        dtypes: of each of them.
        used: the positions of the arguments that ``assemble`` takes before the native outputs.
        assemble: from those to all outputs in order; None where they are the native ones.
    """

    native: tuple[Output, ...]
    dtypes: tuple[torch.dtype, ...]
    used: tuple[int, ...]
    assemble: Callable[..., Sequence[Any]] | None


def results_of(graph: torch.fx.Graph) -> Results:
    """Decides for each output of a graph who makes it."""
    wanted = graph.find_nodes(op="output")[0].args[0]
    nodes = [w for w in wanted if isinstance(w, torch.fx.Node)]
    roots = [_root(n) for n in nodes]
    native: list[Any] = []
    for node, root in zip(nodes, roots, strict=True):
        shared = sum(r is root for r in roots) > 1
        made = root if shared else node
        if made.op == "placeholder" or (root.op == "placeholder" and _follows(node, ())):
            continue
        if isinstance(node.meta.get("val"), _SIZES) and _follows(node, ()):
            continue
        if shared and not _follows(node, (root,)):
            made = node
        if made not in native:
            native.append(made)
    outputs = tuple(Output(f"output_{i}", n, memory_order(n)) for i, n in enumerate(native))
    dtypes = tuple(_dtype(n) for n in native)
    has_sizes = any(isinstance(n.meta.get("val"), _SIZES) for n in native)
    if native == list(wanted) and not has_sizes:
        return Results(outputs, dtypes, (), None)
    used, assemble = _assembly(graph, wanted, native)
    return Results(outputs, dtypes, used, assemble)


def memory_order(node: Any) -> tuple[int, ...] | None:
    """The axes of a dense tensor by falling stride; None where that is their own order."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    strides = [_number(s) for s in value.stride()]
    sizes = [_number(s) for s in value.shape]
    if any(n is None for n in (*strides, *sizes)):
        return None  # sizes that depend on data; the importer refuses them
    axes = sorted(range(len(sizes)), key=lambda a: (-strides[a], -sizes[a], a))
    expected = 1
    for axis in reversed(axes):
        if sizes[axis] != 1 and strides[axis] != expected:
            return None  # with gaps or overlaps: made dense
        expected *= sizes[axis]
    # Where an axis of extent 1 stands does not matter; contiguous is contiguous.
    long = [a for a in axes if sizes[a] != 1]
    return None if long == sorted(long) else tuple(axes)


def _number(size: Any) -> Any:
    """A size as it was in the traced call."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _dtype(node: Any) -> torch.dtype:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else torch.int64


def _root(node: Any) -> Any:
    """The node whose memory a node's result shares: itself, unless it is a view."""
    while node.op == "call_function":
        if isinstance(node.target, OpOverload) and node.target.is_view:
            node = node.args[0]
        elif node.target is operator.getitem and _is_view(node.args[0]):
            node = node.args[0].args[0]
        else:
            break
    return node


def _is_view(node: Any) -> bool:
    return isinstance(node.target, OpOverload) and bool(node.target.is_view)


def _follows(node: Any, given: Sequence[Any]) -> bool:
    """Whether a node is made of placeholders and given nodes by views and sizes alone."""
    if node.op == "placeholder" or node in given:
        return True
    if node.op != "call_function":
        return False
    if not (
        _is_view(node)
        or node.target is operator.getitem
        or isinstance(node.meta.get("val"), _SIZES)
    ):
        return False
    return all(_follows(n, given) for n in node.all_input_nodes)


def _assembly(
    graph: torch.fx.Graph, wanted: Sequence[Any], native: Sequence[Any]
) -> tuple[tuple[int, ...], Callable[..., Sequence[Any]]]:
    """The function that makes all outputs, as a graph of its own, and the arguments it takes."""
    needed: set[Any] = set()
    pending = [n for n in wanted if isinstance(n, torch.fx.Node)]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(() if node in native else node.all_input_nodes)
    small = torch.fx.Graph()
    copies: dict[Any, Any] = {}
    used = []
    for position, node in enumerate(graph.find_nodes(op="placeholder")):
        if node in needed:
            used.append(position)
            copies[node] = small.placeholder(node.name)
    for node in native:
        made = small.placeholder(f"{node.name}_made")
        is_size = isinstance(node.meta.get("val"), _SIZES)
        copies[node] = small.call_method("item", (made,)) if is_size else made
    for node in graph.nodes:
        if node in needed and node not in copies:
            copies[node] = small.node_copy(node, copies.__getitem__)
    small.output([copies[w] if isinstance(w, torch.fx.Node) else w for w in wanted])
    return tuple(used), torch.fx.GraphModule(torch.nn.Module(), small).forward
