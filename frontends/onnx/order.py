"""The order of nodes: as listed when that is topological, as the standard asks, else sorted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tilewright.errors import ModelError

from .listing import Listed
from .messages import GRAPHS


def in_order(listed: Sequence[Listed], known: Callable[[str], bool]) -> Sequence[Listed]:
    """Returns nodes so that each stands after those whose results it reads.

    Args:
        listed: the nodes of one graph.
        known: whether a name is defined before them.

    Raises:
        ModelError: the nodes read each other in a circle.
    """
    if _is_ordered(listed, known):
        return listed
    reads = [_reads(node) for node in listed]
    maker: dict[str, int] = {}
    for i, node in enumerate(listed):
        for name in node.outputs:
            maker.setdefault(name, i)
    if all(maker.get(n, -1) < i or known(n) for i, names in enumerate(reads) for n in names):
        return listed
    return [listed[i] for i in _sorted(listed, reads, maker, known)]


def _is_ordered(listed: Sequence[Listed], known: Callable[[str], bool]) -> bool:
    """Whether nodes, none of which has a graph in it, stand after those whose results they read."""
    made = {""}
    for node in listed:
        for name in node.inputs:
            if name not in made and not known(name):
                return False
        if any(a.type in GRAPHS for a in node.attributes):
            return False
        made.update(node.outputs)
    return True


def _sorted(
    listed: Sequence[Listed],
    reads: Sequence[set[str]],
    maker: dict[str, int],
    known: Callable[[str], bool],
) -> list[int]:
    before = [{maker[n] for n in names if n in maker and not known(n)} for names in reads]
    after: list[list[int]] = [[] for _ in listed]
    for i, earlier in enumerate(before):
        for j in earlier:
            after[j].append(i)
    missing = [len(b) for b in before]
    ready = deque(i for i, count in enumerate(missing) if count == 0)
    order: list[int] = []
    while ready:
        i = ready.popleft()
        order.append(i)
        for j in after[i]:
            missing[j] -= 1
            if missing[j] == 0:
                ready.append(j)
    if len(order) < len(listed):
        stuck = next(n for n, count in zip(listed, missing, strict=True) if count)
        label = f"{stuck.op}:{stuck.name or next(iter(stuck.outputs), '')}"
        raise ModelError(
            f"{label}: the graph is cyclic: the node reads results that depend on its own",
            code="TW-E0111",
        )
    return order


def _reads(node: Listed) -> set[str]:
    """The names that a node reads, also those that its graphs take from around it."""
    names = set(node.inputs)
    names.discard("")
    pending = [g for a in node.attributes if a.type in GRAPHS for g in (a.g, *a.graphs)]
    while pending:
        graph = pending.pop()
        for inner in graph.node:
            names.update(n for n in inner.input if n)
            attributes = [a for a in inner.attribute if a.type in GRAPHS]
            pending.extend(g for a in attributes for g in (a.g, *a.graphs))
        names.update(o.name for o in graph.output)
    return names
