"""Layers that repeat: passes go over a few of them, and what they made stands for all.

A model of many equal layers is a stretch of nodes that comes again and again: the same operators
on values of the same types, wired to each other and to the layer before in the same way, with
weights of their own. ``shortened`` leaves out all but a few of the layers and has stand-ins take
the place of their weights (stand_ins.py), so that nothing that holds for one layer alone can be
made use of. Passes work on what lies near a node, so between the first layers and the last ones
they turn each into the same nodes: ``lengthened`` finds that stretch in their result, requires it
to repeat exactly, layer by layer, and puts in what was left out. Where any of this does not hold
there is no short form, and the passes go over the whole graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from ..ir import Attr, Graph, Node, Value
from .rewrite import SHARED_BYTES, Key, constant_key, frozen
from .stand_ins import (
    Derived,
    Guard,
    Leaf,
    OpaqueError,
    Plain,
    Recipe,
    data_of,
    layers_of,
    recipe_of,
    shifted,
    stand_in,
)

KEPT = 5
"""Layers that passes go over: the first and the last may become other nodes than those between."""
LEAST = 8
"""The fewest layers that are worth it."""
_LEAST_SEEN = 3
"""How often what passes made of a layer must be there, to be what they make of every layer."""
_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Stretch:
    """``count`` layers of ``length`` nodes each, from node ``start`` on."""

    start: int
    length: int
    count: int

    @property
    def end(self) -> int:
        """The node behind the last layer."""
        return self.start + self.length * self.count


@dataclass(frozen=True, slots=True)
class Short:
    """A graph without most of its layers.

    Attributes:
        whole: the graph.
        stretch: its layers.
        graph: the same with KEPT layers.
        slots: the constants that stand-ins stand for, by layer and slot.
        guards: what passes have asked of stand-ins so far.
    """

    whole: Graph
    stretch: Stretch
    graph: Graph
    slots: tuple[tuple[Value, ...], ...]
    guards: list[Guard]

    @property
    def missing(self) -> int:
        """How many layers were left out."""
        return self.stretch.count - KEPT


# ------------------------------------------------------------------ finding


class _Wiring:
    """A graph's nodes as layers are compared: by what they are and where their operands lie."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.keys = _keys(graph)
        self.made = {v: (i, k) for i, n in enumerate(graph.nodes) for k, v in enumerate(n.outputs)}

    def stretches(self, least: int) -> Iterator[Stretch]:
        """Stretches of layers that may repeat, the likeliest first."""
        places: dict[int, list[int]] = {}
        for index, key in enumerate(self.keys):
            places.setdefault(key, []).append(index)
        seen: set[Stretch] = set()
        often = sorted((p for p in places.values() if len(p) >= least), key=len)
        for at in often[:_TRIALS]:
            steps = Counter(b - a for a, b in pairwise(at))
            length, count = steps.most_common(1)[0]
            if count + 1 < least:
                continue
            # The first layers may read what only they do: an input of the model.
            inside = [a for a, b in pairwise(at) if b - a == length]
            stretch = self._stretch(inside[count // 2], length)
            if stretch is not None and stretch.count >= least and stretch not in seen:
                seen.add(stretch)
                yield stretch

    def _stretch(self, inside: int, length: int) -> Stretch | None:
        """The longest stretch of this period around a node."""
        if not self._alike(inside, length):
            return None
        start, end = inside, inside + 1
        while start > 0 and self._alike(start - 1, length):
            start -= 1
        while end + length < len(self.nodes) and self._alike(end, length):
            end += 1
        count = (end - start) // length + 1
        found = Stretch(start, length, count)
        return found if self._is_closed(found) else None

    def _alike(self, index: int, length: int) -> bool:
        """Whether a node and the one in the next layer have the same op, wired alike."""
        if self.keys[index] != self.keys[index + length]:
            return False
        constants, made = self.graph.constants, self.made
        for a, b in zip(self.nodes[index].inputs, self.nodes[index + length].inputs, strict=True):
            if a is b:
                continue
            here, there = made.get(a), made.get(b)
            if here is None or there is None:
                if here is not there or a not in constants or b not in constants:
                    return False
            elif here[1] != there[1] or here[0] + length != there[0]:
                return False
        return True

    def _is_closed(self, found: Stretch) -> bool:
        """Whether layers read only the layer before, and only the last one is read behind them."""
        for offset in range(found.length):
            second = found.start + found.length + offset
            for value in self.nodes[second].inputs:
                if self.made.get(value, (second, 0))[0] < found.start and value not in (
                    self.nodes[second - found.length].inputs
                ):
                    return False
        last = range(found.start, found.end - found.length)
        behind = [v for n in self.nodes[found.end :] for v in n.inputs]
        return all(self.made.get(v, (-1, 0))[0] not in last for v in (*behind, *self.graph.outputs))


def _keys(graph: Graph) -> list[int]:
    """For each node a number for what those of other layers must have in common with it."""
    numbers: dict[Key, int] = {}
    types: dict[int, int] = {}
    attrs: dict[int, int] = {}

    def number(key: Key) -> int:
        return numbers.setdefault(key, len(numbers))

    def types_of(values: tuple[Value, ...]) -> tuple[int, ...]:
        # Nodes that are added again share their types and attributes.
        try:
            return tuple([types[id(v.type)] for v in values])
        except KeyError:
            for value in values:
                key = ("type", value.type.dtype.name, value.type.shape)
                types[id(value.type)] = number(key)
            return tuple([types[id(v.type)] for v in values])

    keys: list[int] = []
    for n in graph.nodes:
        held = attrs.get(id(n.attrs))
        if held is None:
            held = attrs[id(n.attrs)] = number(("attrs", *_attrs_key(n.attrs)))
        keys.append(number((n.op, types_of(n.inputs), types_of(n.outputs), held)))
    return keys


def _attrs_key(attrs: Mapping[str, Attr]) -> Key:
    return tuple(
        [(k, _body_key(a) if isinstance(a, Graph) else frozen(a)) for k, a in attrs.items()]
    )


def _body_key(graph: Graph) -> Key:
    """What bodies that compute the same have in common; none of it may be of one layer alone."""
    numbers: dict[Value, int] = {}
    parts: list[object] = []
    for value in (*graph.inputs, *graph.constants):
        numbers[value] = len(numbers)
        parts.append((value.name, value.dtype.name, value.shape))
    for array in graph.constants.values():
        if recipe_of(array) is not None:
            raise OpaqueError
        parts.append(constant_key(array))
    for node in graph.nodes:
        read = tuple([numbers[v] for v in node.inputs])
        for value in node.outputs:
            numbers[value] = len(numbers)
        made = tuple([(v.name, v.dtype.name, v.shape) for v in node.outputs])
        parts.append((node.op, read, made, _attrs_key(node.attrs)))
    parts.append((tuple([numbers[v] for v in graph.outputs]), graph.output_names))
    return tuple(parts)


# ------------------------------------------------------------------ leaving out


def shortened(graph: Graph) -> Short | None:
    """The graph without most of its equal layers; None where it has too few."""
    if len(graph.nodes) < 2 * LEAST:
        return None
    for stretch in _Wiring(graph).stretches(LEAST):
        slots = _slots(graph, stretch)
        if slots is not None:
            return _leave_out(graph, stretch, slots)
    return None


def _slots(graph: Graph, stretch: Stretch) -> list[tuple[Value, ...]] | None:
    """The constants that differ between layers, by layer and slot.

    None where a constant is one of several layers but not of all, or of something else too.
    """
    nodes, constants = graph.nodes, graph.constants
    own: list[dict[Value, int]] = [{} for _ in range(stretch.count)]
    for offset in range(stretch.length):
        first = stretch.start + offset
        for place, value in enumerate(nodes[first].inputs):
            if value not in constants:
                continue
            each = [nodes[first + k * stretch.length].inputs[place] for k in range(stretch.count)]
            if all(v is value for v in each) or _are_equal([constants[v] for v in each]):
                continue
            slots = {own[k].setdefault(v, len(own[k])) for k, v in enumerate(each)}
            if len(slots) > 1:
                return None
    found = [tuple(layer) for layer in own]
    several = [v for layer in found for v in layer]
    outside = (*nodes[: stretch.start], *nodes[stretch.end :])
    others = {v for n in outside for v in n.inputs} | set(graph.outputs)
    # What is equal by chance would be one constant, and with it perhaps one node.
    alike = Counter(constant_key(a) for a in constants.values())
    if len(set(several)) < len(several) or not others.isdisjoint(several):
        return None
    if any(alike[constant_key(constants[v])] > 1 or constants[v].size < 2 for v in several):
        return None
    return found


def _are_equal(arrays: Sequence[np.ndarray]) -> bool:
    """Whether passes take all for one constant."""
    first = arrays[0]
    if first.nbytes > SHARED_BYTES:
        return all(a is first for a in arrays)
    return len({constant_key(a) for a in arrays}) == 1


def _leave_out(graph: Graph, stretch: Stretch, slots: Sequence[tuple[Value, ...]]) -> Short:
    nodes, constants = graph.nodes, graph.constants
    kept_end = stretch.start + KEPT * stretch.length
    stands: dict[Value, Value] = {}
    for near, far in zip(
        nodes[kept_end - stretch.length : kept_end],
        nodes[stretch.end - stretch.length : stretch.end],
        strict=True,
    ):
        stands.update(zip(far.outputs, near.outputs, strict=True))
    behind = [_over(n, stands) for n in nodes[stretch.end :]]
    kept = (*nodes[:kept_end], *behind)
    outputs = tuple(stands.get(v, v) for v in graph.outputs)
    guards: list[Guard] = []
    read = {v for n in kept for v in n.inputs} | set(outputs)
    data = {v: a for v, a in constants.items() if v in read}
    for layer, values in enumerate(slots[:KEPT]):
        for slot, value in enumerate(values):
            data[value] = stand_in(constants[value], Leaf(layer, slot), guards)
    names = graph.output_names or tuple(v.name for v in graph.outputs)
    short = replace(
        graph, nodes=kept, outputs=outputs, constants=MappingProxyType(data), output_names=names
    )
    return Short(graph, stretch, short, tuple(slots), guards)


def _over(node: Node, stands: Mapping[Value, Value]) -> Node:
    if stands.keys().isdisjoint(node.inputs):
        return node
    inputs = tuple([stands.get(v, v) for v in node.inputs])
    return Node(node.op, inputs, node.attrs, node.outputs, node.origin)


# ------------------------------------------------------------------ putting in


def lengthened(short: Short, made: Graph) -> Graph:
    """What the passes would have made of the whole graph.

    Args:
        short: the graph without most of its layers.
        made: what the passes have made of that.

    Raises:
        OpaqueError: layers are not made into the same nodes, or not all answer alike.
    """
    work = _Evaluation(short, made)
    _require_answers(short, work)
    wiring = _Wiring(made)
    for stretch in wiring.stretches(_LEAST_SEEN):
        if _repeats_exactly(short, made, stretch):
            return _Lengthening(short, made, stretch, work).run()
    raise OpaqueError


def _require_answers(short: Short, work: _Evaluation) -> None:
    """Requires that every layer answers what was asked of a stand-in as that one did."""
    answers: dict[Recipe, dict[int, Hashable]] = {}
    for guard in short.guards:
        layer = min(layers_of(guard.question))
        answers.setdefault(shifted(guard.question, -layer), {})[layer] = guard.answer
    for question, known in answers.items():
        assert isinstance(question, Derived)
        for by in range(short.stretch.count - max(layers_of(question))):
            if by not in known:
                known[by] = work.call(question, by)
        if len(set(known.values())) > 1:
            raise OpaqueError


def _repeats_exactly(short: Short, made: Graph, stretch: Stretch) -> bool:
    """Whether each stretch of nodes does what one layer did, and the next one what the next did.

    That is so if values of the graph that are still there are of one layer further each time, at
    least one of them, and constants are made in the same way of those of one layer further.
    """
    layers, nodes = short.stretch, short.graph.nodes
    home = {
        v: divmod(i, layers.length)
        for i, n in enumerate(nodes[layers.start : layers.start + KEPT * layers.length])
        for v in n.outputs
    }
    known = [0] * stretch.count
    for index in range(stretch.start, stretch.end - stretch.length):
        node, further = made.nodes[index], made.nodes[index + stretch.length]
        for a, b in zip(node.inputs, further.inputs, strict=True):
            if a not in made.constants:
                continue
            here, there = recipe_of(made.constants[a]), recipe_of(made.constants[b])
            if here is None or there is None:
                if a is not b:
                    return False
            elif shifted(here, 1) != there:
                return False
        for a, b in zip(node.outputs, further.outputs, strict=True):
            if a in home or b in home:
                layer, offset = home.get(a, (-2, 0))
                if home.get(b) != (layer + 1, offset):
                    return False
                known[(index - stretch.start) // stretch.length] += 1
    return all(known[:-1])


class _Evaluation:
    """Constants by their recipes, each made once: those of kept layers are there."""

    def __init__(self, short: Short, made: Graph) -> None:
        self._short = short
        recipes = ((recipe_of(a), a) for a in made.constants.values())
        self._made: dict[Recipe, np.ndarray] = {r: data_of(a) for r, a in recipes if r is not None}

    def array(self, recipe: Recipe) -> np.ndarray:
        match recipe:
            case Leaf():
                return self._short.whole.constants[self._short.slots[recipe.layer][recipe.slot]]
            case Plain():
                return recipe.array
            case Derived():
                found = self._made.get(recipe)
                if found is None:
                    found = self._made[recipe] = np.asarray(self.call(recipe, 0))
                return found

    def call(self, recipe: Derived, by: int) -> Hashable:
        """What the function gives for the layers that lie ``by`` further."""
        parts = [self.array(shifted(p, by)) for p in recipe.parts]
        with np.errstate(all="ignore"):
            result: Hashable = recipe.function(*parts, **dict(recipe.options))
        return result


class _Lengthening:
    """Puts layers in behind the last whole one that passes have made."""

    def __init__(self, short: Short, made: Graph, stretch: Stretch, work: _Evaluation) -> None:
        self.short = short
        self.made = made
        self.stretch = stretch
        self.work = work
        self.constants: dict[Value, np.ndarray] = {}
        self.by_recipe: dict[Recipe, Value] = {}
        self.moved: dict[tuple[Value, int], Value] = {}
        self.nodes: list[Node] = []
        self.names: set[str] = {v.name for v in made.inputs}
        self.further = _Names(short)

    def run(self) -> Graph:
        made, stretch = self.made, self.stretch
        layer = made.nodes[stretch.end - stretch.length : stretch.end]
        before = made.nodes[stretch.end - 2 * stretch.length : stretch.end - stretch.length]
        for node in made.nodes[: stretch.end]:
            self._add(node, {}, 0)
        stands: dict[Value, Value] = {}
        previous = {
            old: new
            for a, b in zip(before, layer, strict=True)
            for old, new in zip(a.outputs, b.outputs, strict=True)
        }
        for by in range(1, self.short.missing + 1):
            new = dict(previous)
            for node in layer:
                self._add(node, new, by)
            stands = {v: new[v] for n in layer for v in n.outputs}
            previous = {
                old: stands[new]
                for a, b in zip(before, layer, strict=True)
                for old, new in zip(a.outputs, b.outputs, strict=True)
            }
        for node in made.nodes[stretch.end :]:
            self._add(node, stands, self.short.missing)
        outputs = tuple(
            self._constant(v, self.short.missing) if v in made.constants else stands.get(v, v)
            for v in made.outputs
        )
        constants = self._ordered(layer)
        return replace(made, nodes=tuple(self.nodes), outputs=outputs, constants=constants)

    def _ordered(self, layer: Sequence[Node]) -> Mapping[Value, np.ndarray]:
        """The constants as the whole graph would have them: its own, then those made for layers.

        Those that passes made one after the other for the last whole layer come again, all of
        them, for each layer that is put in behind it.
        """
        missing, end = self.short.missing, self.stretch.end
        inside = {v for n in layer for v in n.inputs}
        before = {v for n in self.made.nodes[:end] for v in n.inputs}
        found = [v for v in self.short.whole.constants if v in self.constants]
        block: list[Value] = []
        for value, array in (*self.made.constants.items(), (None, None)):
            recipe = None if array is None else recipe_of(array)
            if value is not None and recipe is not None and value in inside:
                block.append(value)
                continue
            for by in range(missing + 1 if block else 0):
                found += [self.moved[v, by] for v in block]
            block.clear()
            if recipe is None and value in self.constants:
                found.append(value)
            elif recipe is not None:
                found.append(self.by_recipe[shifted(recipe, 0 if value in before else missing)])
        found += self.constants
        return MappingProxyType({v: self.constants[v] for v in found})

    def _add(self, node: Node, stands: dict[Value, Value], by: int) -> None:
        """Adds a node for the layer that lies ``by`` further; notes what its results became."""
        constants = self.made.constants
        inputs = tuple(
            [self._constant(v, by) if v in constants else stands.get(v, v) for v in node.inputs]
        )
        if by == 0:
            for value in node.outputs:
                self._name(value.name)
            self.nodes.append(Node(node.op, inputs, node.attrs, node.outputs, node.origin))
            return
        outputs = []
        for value in node.outputs:
            name = self._name(self.further.name(value.name, by))
            new = value if name == value.name else Value(name, value.type)
            stands[value] = new
            outputs.append(new)
        attrs = node.attrs
        if any(isinstance(a, Graph) for a in attrs.values()):
            held: dict[str, Attr] = {
                k: self.further.origins_of(a, by) if isinstance(a, Graph) else a
                for k, a in attrs.items()
            }
            attrs = MappingProxyType(held)
        origin = self.further.origin(node.origin, by)
        self.nodes.append(Node(node.op, inputs, attrs, tuple(outputs), origin))

    def _name(self, name: str) -> str:
        if name in self.names:
            raise OpaqueError
        self.names.add(name)
        return name

    def _constant(self, value: Value, by: int) -> Value:
        """The constant that takes the place of one in the layer that lies ``by`` further."""
        known = self.moved.get((value, by))
        if known is None:
            known = self.moved[value, by] = self._moved(value, by)
        return known

    def _moved(self, value: Value, by: int) -> Value:
        array = self.made.constants[value]
        recipe = recipe_of(array)
        if recipe is None:
            if value not in self.constants:
                self._name(value.name)
                self.constants[value] = array
            return value
        moved = shifted(recipe, by)
        found = self.by_recipe.get(moved)
        if found is None:
            if max(layers_of(moved)) >= self.short.stretch.count:
                raise OpaqueError
            found = self.further.constant(moved)
            if found is None:
                name = self.further.name(value.name, by) if by else value.name
                found = value if name == value.name else Value(name, value.type)
            self._name(found.name)
            self.by_recipe[moved] = found
            self.constants[found] = self.work.array(moved)
        return found


# ------------------------------------------------------------------ names


class _Names:
    """What values and origins of kept layers are called in the layers that follow them."""

    def __init__(self, short: Short) -> None:
        self._nodes = short.whole.nodes
        self._slots = short.slots
        self._length = short.stretch.length
        first = short.stretch.start
        kept = range(first, first + KEPT * self._length)
        self._made = {v.name: (i, k) for i in kept for k, v in enumerate(self._nodes[i].outputs)}
        self._held = {v.name: (i, k) for i in range(KEPT) for k, v in enumerate(self._slots[i])}
        self._origins = {self._nodes[i].origin: i for i in kept}

    def constant(self, recipe: Recipe) -> Value | None:
        """The value of a layer's own constant."""
        return self._slots[recipe.layer][recipe.slot] if isinstance(recipe, Leaf) else None

    def name(self, name: str, by: int) -> str:
        """A name ``by`` layers further; those that no layer gave stay."""
        stem = name
        while True:
            if stem in self._made:
                index, place = self._made[stem]
                value = self._nodes[index + by * self._length].outputs[place]
            elif stem in self._held:
                layer, slot = self._held[stem]
                value = self._slots[layer + by][slot]
            else:
                cut = max(stem.rfind("."), stem.rfind("_"))
                if cut <= 0:
                    return name
                stem = stem[:cut]
                continue
            return value.name + name[len(stem) :]

    def origin(self, origin: str, by: int) -> str:
        """The origins of a node ``by`` layers further."""
        whole = self._origins.get(origin)
        if whole is not None:
            return self._nodes[whole + by * self._length].origin
        if ", " not in origin:
            return origin
        return ", ".join([self.origin(o, by) for o in origin.split(", ")])

    def origins_of(self, body: Graph, by: int) -> Graph:
        """A body whose nodes come from ``by`` layers further."""
        nodes = tuple(
            [
                Node(n.op, n.inputs, n.attrs, n.outputs, self.origin(n.origin, by))
                for n in body.nodes
            ]
        )
        return replace(body, nodes=nodes)
