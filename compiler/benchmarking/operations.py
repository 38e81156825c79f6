"""The multiplications and additions of a model, counted alike for all who run it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from tilewright.graph.ir import Graph, Node
from tilewright.tensor.ir import Dim
from tilewright.tensor.simplify import evaluate


def count_flops(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The multiplications and additions of a model's products and convolutions.

    Args:
        graph: as imported, before any rewriting: all compilers are counted alike.
        sizes: the value of every symbol.
    """
    return sum(times * _node_flops(node, sizes) for node, times in _runs(graph, sizes))


def share_of_convolutions(graph: Graph, sizes: Mapping[str, int], kernel: tuple[int, ...]) -> float:
    """The part of a model's operations that are in dense convolutions with a kernel of that size.

    Args:
        graph, sizes: as for ``count_flops``; there must be operations to count.
        kernel: the sizes of the window.
    """
    found = sum(
        times * _node_flops(node, sizes)
        for node, times in _runs(graph, sizes)
        if node.op == "conv" and node.attrs["groups"] == 1 and node.inputs[1].shape[:-2] == kernel
    )
    return found / count_flops(graph, sizes)


def _runs(graph: Graph, sizes: Mapping[str, int]) -> Iterator[tuple[Node, int]]:
    """The nodes of a model and of the graphs inside them, each with how often it runs."""
    pending: list[tuple[Graph, int]] = [(graph, 1)]
    while pending:
        body, times = pending.pop()
        for node in body.nodes:
            yield node, times
            pending += [(b, times * n) for b, n in _bodies(node, sizes)]


def _node_flops(node: Node, sizes: Mapping[str, int]) -> int:
    if node.op not in ("matmul", "conv"):
        return 0
    outputs = _count(node.outputs[0].shape, sizes)
    operand = node.inputs[1].shape
    # matmul: b[..., K, N]; conv: w[*kernel, C / groups, O].
    summed = operand[-2:-1] if node.op == "matmul" else operand[:-1]
    return 2 * outputs * _count(summed, sizes)


def _bodies(node: Node, sizes: Mapping[str, int]) -> list[tuple[Graph, int]]:
    """The graphs inside a node, and how often each runs; of two branches, the first."""
    match node.op:
        case "if":
            body, times = node.attrs["then"], 1
        case "scan":
            carried = node.attrs["carried"]
            assert isinstance(carried, int)
            body = node.attrs["body"]
            times = _value(node.inputs[carried].shape[0], sizes) if node.attrs["scanned"] else 1
        case _:
            return []
    assert isinstance(body, Graph)
    return [(body, times)]


def _count(shape: Sequence[Dim], sizes: Mapping[str, int]) -> int:
    return math.prod(_value(d, sizes) for d in shape)


def _value(dim: Dim, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else evaluate(dim, dict(sizes))
