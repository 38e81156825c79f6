"""Parts: values that are written into a wider one, so that to put them together copies nothing.

Fusion leaves a concat along the last axis outside of all groups where the kernels of its parts can
as well write every row of theirs into a longer row (graph/passes/partition.py). The parts then
have no memory of their own: each is some columns of the widest concat that holds it, and whoever
writes or reads a part is given rows of that width.

So is a matrix that a kernel transposes for a product, where vectors would lie across its rows: its
rows are made as long as whole vectors.

The parts of a concat along an outer axis follow each other in memory: each is a slab, a tensor
like any other, that begins somewhere in the memory of the concat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..graph.ir import Graph, Node, TensorType, Value
from ..ops.op import same_shape
from ..tensor.compute import Compute, ComputeGroup
from ..tensor.ir import Axis, Buffer, Dim, Func, Load, Var
from ..tensor.simplify import product
from ..tensor.walk import replace_buffers, replace_loads


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value lies: in columns of another one.

    Attributes:
        whole: the concat that holds it, and is itself a part of no other; or longer rows.
        start: its first column there.
    """

    whole: Value
    start: int

    @property
    def width(self) -> int:
        """The columns of a row of the whole."""
        return columns(self.whole.shape)


@dataclass(frozen=True, slots=True)
class Slab:
    """Where a value lies: whole, inside of another one.

    Attributes:
        whole: the concat that holds it, and is itself a slab of no other.
        offset: its first byte there.
    """

    whole: Value
    offset: int


def columns(shape: tuple[Dim, ...]) -> int:
    """The length of a row."""
    last = shape[-1]
    assert isinstance(last, int), shape
    return last


def find_parts(graph: Graph) -> dict[Value, Part]:
    """The values of a fused graph that lie in others."""

    def is_of_columns(node: Node) -> bool:
        return node.attrs["axis"] == len(node.outputs[0].shape) - 1

    found = _joined(graph, is_of_columns, lambda v: columns(v.shape))
    return {v: Part(whole, start) for v, (whole, start) in found.items()}


def find_padded(graph: Graph, lanes: int) -> dict[Value, Part]:
    """The transposed matrices of a fused graph whose rows are to be as long as whole vectors.

    These are the keys of attention: products of rows read their columns by vectors.

    Args:
        graph: the graph.
        lanes: of a vector of 32 bits.
    """
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            readers.setdefault(v, []).append(node)
    found: dict[Value, Part] = {}
    for node in graph.nodes:
        body = node.attrs.get("body")
        if node.op != "fused" or not isinstance(body, Graph) or len(body.outputs) != 1:
            continue
        (result,) = node.outputs
        length = result.shape[-1] if result.shape else 1
        whole = all(isinstance(d, int) for d in result.shape)
        if not whole or not isinstance(length, int) or result.dtype.bytes != 4:
            continue
        if length < lanes or length % lanes == 0 or result in graph.outputs:
            continue
        makes = next(n for n in body.nodes if body.outputs[0] in n.outputs)
        if makes.op == "transpose" and all(_multiplies(r, result) for r in readers[result]):
            shape = (*result.shape[:-1], -(-length // lanes) * lanes)
            wide = Value(f"{result.name}_wide", TensorType(result.dtype, shape))
            found[result] = Part(wide, 0)
    return found


def _multiplies(node: Node, value: Value) -> bool:
    """Whether a group reads a value as the second factor of products, and in no other way."""
    body = node.attrs.get("body")
    if node.op != "fused" or not isinstance(body, Graph):
        return False
    own = {b for b, v in zip(body.inputs, node.inputs, strict=True) if v is value}
    uses = [(n, k) for n in body.nodes for k, v in enumerate(n.inputs) if v in own]
    return bool(uses) and all(n.op == "matmul" and k == 1 for n, k in uses)


def find_slabs(graph: Graph) -> dict[Value, Slab]:
    """The values of a fused graph that lie in others as a whole."""

    def is_of_slabs(node: Node) -> bool:
        return node.attrs["axis"] != len(node.outputs[0].shape) - 1

    found = _joined(graph, is_of_slabs, _bytes)
    return {v: Slab(whole, offset) for v, (whole, offset) in found.items()}


def _joined(
    graph: Graph, is_one: Callable[[Node], bool], length: Callable[[Value], int]
) -> dict[Value, tuple[Value, int]]:
    """What the concats of one kind join: the outermost concat, and how far in it each begins."""
    found: dict[Value, tuple[Value, int]] = {}
    for node in reversed(graph.nodes):
        (result, *_) = node.outputs
        if node.op == "reshape" and result in found:
            found[node.inputs[0]] = found[result]
        elif node.op == "concat" and is_one(node):
            whole, start = found.get(result, (result, 0))
            for v in node.inputs:
                found[v] = whole, start
                start += length(v)
    return found


def _bytes(value: Value) -> int:
    count = product(value.shape)
    assert isinstance(count, int), value.shape
    return count * value.dtype.bytes


def read_wide(group: ComputeGroup, widths: Mapping[str, int]) -> ComputeGroup:
    """The same group over inputs whose rows are some columns of longer ones.

    Args:
        group: as it was lowered: its inputs have the shapes of their values.
        widths: the lengths of those rows by the names of inputs.
    """
    wide = {b: _widened(b, widths[b.name]) for b in group.inputs if b.name in widths}
    stages = tuple(Compute(s.output, s.axes, replace_loads(s.expr, wide)) for s in group.stages)
    inputs = tuple(wide.get(b, b) for b in group.inputs)
    return ComputeGroup(group.name, inputs, group.outputs, stages)


def _widened(b: Buffer, width: int) -> Buffer:
    return Buffer(b.name, b.dtype, (*b.shape[:-1], width))


def write_wide(func: Func, name: str, length: int, width: int) -> Func | None:
    """The same function with rows of a result that are some columns of longer ones.

    Args:
        name: of the parameter.
        length, width: columns of the result, and of the rows that hold it.

    Returns:
        None where the loops do not tell rows and columns apart.
    """
    (old,) = (p for p in func.params if isinstance(p, Buffer) and p.name == name)
    inner = 1
    for k in reversed(range(len(old.shape))):
        extent = old.shape[k]
        if not isinstance(extent, int):
            return None
        if extent * inner == length and width % inner == 0:
            shape = (*old.shape[:k], width // inner, *old.shape[k + 1 :])
            return replace_buffers(func, {old: Buffer(name, old.dtype, shape)})
        inner *= extent
        if inner > length:
            return None
    return None


def copy_rows(source: Buffer, result: Buffer) -> ComputeGroup:
    """A group that copies all of a buffer into the first columns of another's rows."""
    assert same_shape(source.shape[:-1], result.shape[:-1])
    axes = tuple(Axis(Var(f"i{k}"), d) for k, d in enumerate(source.shape))
    value = Load(source, (a.var for a in axes))
    return ComputeGroup("copy", (source,), (result,), (Compute(result, axes, value),))
