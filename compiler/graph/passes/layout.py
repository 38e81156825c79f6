"""Layout: transposes are pushed down until they cancel.

Importers put a transpose before and after each convolution and pooling, since the graph's are
channels-last and the model's are not. Between them stand nodes that work in any layout. Pushing
every transpose down through those (push.py) brings it to the next one, where the two cancel, so
that the trunk of a network is channels-last and only what enters or leaves it is transposed.

Pushing can also make things worse: a transpose above a fork becomes one on each branch. So the
walk is done twice or more. Its first runs push everywhere, in two ways of treating reshapes that
merge axes which do not lie together. The nodes that transposed values connect in these runs are
a component: what happens in one does not concern another, since all values between them are
stored as written. For each component the cheapest way counts, or to leave it as it is, and the
last run follows these choices. The cost is what the remaining transposes move, with less for
those that the product behind them reads in place, and reductions over other than the last axes,
which pushing may cause, count as well. Sizes of symbols are nominal.
"""

from __future__ import annotations

from ...ops.op import axes_attr, ints_attr
from ...target import Target
from ..ir import Graph, Node, Value
from .push import Plan, Pusher, elements

_READ_IN_PLACE = 0.1
_ACROSS_ROWS = 0.25


def layout(graph: Graph, target: Target) -> Graph:
    """Returns the graph with as few elements transposed as pushing transposes down can reach."""
    del target
    if not any(n.op == "transpose" for n in graph.nodes):
        return graph
    every = frozenset(range(len(graph.nodes)))
    plans = (Plan(gather=every, trial=True), Plan(gather=frozenset(), trial=True))
    trials: list[Pusher] = []
    results: list[Graph] = []
    for plan in plans:
        if trials and not trials[0].asked:
            trials.append(trials[0])
            results.append(results[0])
        else:
            trials.append(Pusher(graph, plan))
            results.append(trials[-1].run())
    component = _components(len(graph.nodes), [link for t in trials for link in t.links])
    costs = [_costs(r, t.owner, component) for r, t in zip(results, trials, strict=True)]
    before = _costs(graph, {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}, component)
    stay, gather = set(), set()
    for root in set(component):
        gathered, plain = (c.get(root, 0.0) for c in costs)
        if before.get(root, 0.0) < min(gathered, plain):
            stay.add(root)
        elif gathered < plain:
            gather.add(root)
    if not stay and not gather and trials[1].exact:
        # The second trial was the walk of this very plan.
        return results[1] if trials[1].changed else graph
    plan = Plan(
        frozenset(i for i, root in enumerate(component) if root in stay),
        frozenset(i for i, root in enumerate(component) if root in gather),
    )
    pusher = Pusher(graph, plan)
    result = pusher.run()
    return result if pusher.changed else graph


def _components(count: int, links: list[tuple[int, int]]) -> list[int]:
    """The representative of each node's component."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for a, b in links:
        parent[root(b)] = root(a)
    return [root(i) for i in range(count)]


def _costs(graph: Graph, owner: dict[Value, int], component: list[int]) -> dict[int, float]:
    """What the transposes and the awkward reductions of each component cost, in elements."""
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            readers.setdefault(value, []).append(node)
    results = set(graph.outputs)
    costs: dict[int, float] = {}
    for node in graph.nodes:
        value = node.outputs[0]
        cost = 0.0
        if node.op == "transpose":
            in_place = value not in results and all(
                _reads_in_place(n, node) for n in readers.get(value, ())
            )
            cost = elements(value) * (_READ_IN_PLACE if in_place else 1.0)
        elif node.op == "reduce" and not _is_trailing(node):
            cost = elements(node.inputs[0]) * _ACROSS_ROWS
        if cost and value in owner:
            root = component[owner[value]]
            costs[root] = costs.get(root, 0.0) + cost
    return costs


def _reads_in_place(reader: Node, transpose: Node) -> bool:
    """Whether fusion lets a product read a transposed operand where it lies (see partition.py)."""
    if reader.op != "matmul":
        return False
    perm, value = ints_attr(transpose.attrs, "perm"), transpose.outputs[0]
    return reader.inputs[1] is not value or perm[-1] == len(perm) - 1


def _is_trailing(node: Node) -> bool:
    rank = len(node.inputs[0].shape)
    axes = axes_attr(node.attrs, "axes", rank)
    return axes == tuple(range(rank - len(axes), rank))
