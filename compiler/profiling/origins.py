"""Which nodes of the source model each step of a program computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.graph.ir import Graph, all_nodes
from tilewright.runtime.program import CallKernel, CopyTensor, Program, Tensor, walk_steps
from tilewright.tensor.ir import Buffer, Func
from tilewright.tensor.walk import stores

Timed = CallKernel | CopyTensor


def timed_steps(program: Program) -> list[Timed]:
    """The kernel calls and copies of a program, in the order of ``walk_steps``."""
    return [s for s in walk_steps(program.steps) if isinstance(s, (CallKernel, CopyTensor))]


def operands(step: Timed, func: Func | None) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that a step reads and those that it writes.

    Without its function, a kernel is taken to write its last operand and to read the others.
    """
    if isinstance(step, CopyTensor):
        return [step.src], [step.dst]
    tensors = [a for a in step.args if isinstance(a, Tensor)]
    if func is None:
        return tensors[:-1], tensors[-1:]
    written = {s.buffer.name for s in stores(func.body)}
    pairs = [
        (p.name, a)
        for p, a in zip(func.params, step.args, strict=True)
        if isinstance(p, Buffer) and isinstance(a, Tensor)
    ]
    return [a for n, a in pairs if n not in written], [a for n, a in pairs if n in written]


def origins_of(
    graph: Graph, program: Program, kernels: Mapping[str, Func]
) -> list[tuple[str, ...]]:
    """The source nodes of each timed step, by the tensors that it writes.

    What only another kernel of the same nodes reads, as the parts of a transform, belongs to the
    nodes of that kernel.

    Args:
        graph: after all passes: fused nodes, whose bodies say where they come from.
        program: what was made of it.
        kernels: the functions that it calls.
    """
    named: dict[str, tuple[str, ...]] = {}
    for node in all_nodes(graph):
        body = node.attrs.get("body")
        inner = body.nodes if node.op == "fused" and isinstance(body, Graph) else (node,)
        origins = tuple(dict.fromkeys(n.origin for n in inner if n.origin))
        for value in node.outputs:
            named[value.name] = origins
    steps = timed_steps(program)
    found: list[tuple[str, ...]] = [()] * len(steps)
    readers: dict[object, tuple[str, ...]] = {}
    for k in range(len(steps) - 1, -1, -1):
        step = steps[k]
        func = kernels.get(step.kernel) if isinstance(step, CallKernel) else None
        read, written = operands(step, func)
        found[k] = _first([named.get(t.name, ()) for t in written]) or _first(
            [readers.get(t.storage, ()) for t in written]
        )
        for t in read:
            readers[t.storage] = found[k]
    return found


def _first(candidates: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return next((c for c in candidates if c), ())
