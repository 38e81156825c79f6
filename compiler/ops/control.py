"""Operators that run subgraphs: if, scan, and the fused groups that the fuse pass makes.

Subgraphs are closed: they read their own inputs and constants only. In a reference call each
Graph attribute is the function that the interpreter puts in its place (see ``op.function_attr``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import dtype as dt
from ..graph.ir import Graph, Node, TensorType, Value
from ..tensor.ir import Dim
from ..tensor.simplify import same_dim
from .op import (
    Arrays,
    Attrs,
    Op,
    OpError,
    Sample,
    Types,
    bool_attr,
    dim_text,
    expect_inputs,
    function_attr,
    graph_attr,
    int_attr,
    same_shape,
    type_text,
)


def _expect_parameters(graph: Graph, given: Types, what: str) -> None:
    """Requires that a subgraph's inputs have exactly the types that it is given."""
    if len(graph.inputs) != len(given):
        raise OpError(f"{what} takes {len(graph.inputs)} inputs, but is given {len(given)}")
    for value, type_ in zip(graph.inputs, given, strict=True):
        if value.dtype is not type_.dtype or not same_shape(value.shape, type_.shape):
            raise OpError(
                f"{what}: input {value.name} is {type_text(value.type)}, given {type_text(type_)}"
            )


# ------------------------------------------------------------------ if


def _if_infer(types: Types, attrs: Attrs) -> Types:
    expect_inputs(types, 1, -1)
    cond, *captured = types
    if cond.dtype is not dt.bool_ or cond.shape:
        raise OpError(f"the condition must be bool_[()], got {type_text(cond)}")
    then, orelse = graph_attr(attrs, "then"), graph_attr(attrs, "orelse")
    _expect_parameters(then, tuple(captured), "then")
    _expect_parameters(orelse, tuple(captured), "orelse")
    if len(then.outputs) != len(orelse.outputs):
        raise OpError(f"then gives {len(then.outputs)} outputs, orelse {len(orelse.outputs)}")
    for position, (a, b) in enumerate(zip(then.outputs, orelse.outputs, strict=True)):
        # A dim that depends on the branch would have to be a symbol bound at run time.
        if a.dtype is not b.dtype or not same_shape(a.shape, b.shape):
            raise OpError(
                f"output {position} is {type_text(a.type)} in then, but {type_text(b.type)} in"
                " orelse; both branches must give one type"
            )
    return tuple(value.type for value in then.outputs)


def _if_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    cond, *captured = inputs
    return function_attr(attrs, "then" if cond else "orelse")(captured)


# ------------------------------------------------------------------ scan


def _scan_parts(count: int, attrs: Attrs) -> tuple[int, int]:
    """The number of carried values and of scanned inputs, checked against the inputs."""
    carried, scanned = int_attr(attrs, "carried"), int_attr(attrs, "scanned")
    if carried < 0 or scanned < 1 or carried + scanned > count:
        raise OpError(
            f"{carried} carried and {scanned} scanned values (at least 1) do not fit {count} inputs"
        )
    return carried, scanned


def _scan_infer(types: Types, attrs: Attrs) -> Types:
    carried, scanned = _scan_parts(len(types), attrs)
    body = graph_attr(attrs, "body")
    bool_attr(attrs, "reverse")
    rows = types[carried : carried + scanned]
    steps = _scan_steps(rows)
    slices = tuple(TensorType(t.dtype, t.shape[1:]) for t in rows)
    _expect_parameters(body, (*types[:carried], *slices, *types[carried + scanned :]), "body")
    if len(body.outputs) < carried:
        raise OpError(f"body gives {len(body.outputs)} outputs, but carries {carried} values")
    for init, value in zip(types[:carried], body.outputs, strict=False):
        if init.dtype is not value.dtype or not same_shape(init.shape, value.shape):
            raise OpError(
                f"body carries {value.name} as {type_text(value.type)}, but it starts as"
                f" {type_text(init)}; a carried value keeps its type"
            )
    stacked = (TensorType(v.dtype, (steps, *v.shape)) for v in body.outputs[carried:])
    return (*types[:carried], *stacked)


def _scan_steps(rows: Types) -> Dim:
    for row in rows:
        if not row.shape:
            raise OpError(f"scans along axis 0, but an input is {type_text(row)}")
        if not same_dim(row.shape[0], rows[0].shape[0]):
            raise OpError(
                f"scanned inputs have {dim_text(rows[0].shape[0])} and {dim_text(row.shape[0])}"
                f" steps: {type_text(rows[0])} and {type_text(row)}"
            )
    steps = rows[0].shape[0]
    if steps == 0:
        raise OpError(f"scans no steps: {type_text(rows[0])}")
    return steps


def _scan_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    carried, scanned = _scan_parts(len(inputs), attrs)
    body = function_attr(attrs, "body")
    state = list(inputs[:carried])
    rows, captured = inputs[carried : carried + scanned], inputs[carried + scanned :]
    steps = len(rows[0])
    if steps == 0:
        raise OpError("scans no steps: the shapes of its outputs are not known")
    stacked: list[np.ndarray] = []
    for step in reversed(range(steps)) if bool_attr(attrs, "reverse") else range(steps):
        results = body([*state, *(row[step] for row in rows), *captured])
        state = list(results[:carried])
        if not stacked:
            stacked = [np.empty((steps, *y.shape), y.dtype) for y in results[carried:]]
        for whole, y in zip(stacked, results[carried:], strict=True):
            whole[step] = y
    return (*(np.asarray(value) for value in state), *stacked)


# ------------------------------------------------------------------ fused


def _fused_infer(types: Types, attrs: Attrs) -> Types:
    body = graph_attr(attrs, "body")
    _expect_parameters(body, types, "body")
    return tuple(value.type for value in body.outputs)


def _fused_reference(inputs: Sequence[np.ndarray], attrs: Attrs) -> Arrays:
    return function_attr(attrs, "body")(inputs)


# ------------------------------------------------------------------ samples


def _binary_graph(name: str, op: str, shape: tuple[int, ...], outputs: int = 1) -> Graph:
    """``f(a, b) = (a op b, ...)``, the one result ``outputs`` times."""
    type_ = TensorType(dt.f32, shape)
    a, b, c = (Value(n, type_) for n in "abc")
    return Graph(name, (a, b), (Node(op, (a, b), {}, (c,)),), (c,) * outputs)


def _if_samples() -> Sequence[Sample]:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    then, orelse = _binary_graph("then", "add", (2, 3)), _binary_graph("orelse", "mul", (2, 3))
    attrs: Attrs = {"then": then, "orelse": orelse}
    return [Sample((np.array(cond), a, a + 1), attrs, f"cond {cond}") for cond in (True, False)]


def _scan_samples() -> Sequence[Sample]:
    xs = np.arange(12, dtype=np.float32).reshape(4, 3)
    start = np.ones(3, np.float32)
    running, scaled = _binary_graph("running", "add", (3,), 2), _binary_graph("scaled", "mul", (3,))
    samples = []

    def add(
        inputs: tuple[np.ndarray, ...], body: Graph, carried: int, scanned: int, note: str
    ) -> None:
        for reverse in (False, True):
            counts: Attrs = {"carried": carried, "scanned": scanned, "reverse": reverse}
            samples.append(Sample(inputs, {"body": body, **counts}, note))

    add((start, xs), running, 1, 1, "running sum, carried")
    add((start, xs[:1]), running, 1, 1, "one step")
    add((xs, xs[1]), scaled, 0, 1, "nothing carried, one captured")
    add((xs, xs + 1), scaled, 0, 2, "two scanned")
    return samples


def _fused_samples() -> Sequence[Sample]:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    return [Sample((a, a + 1), {"body": _binary_graph("body", "mul", (2, 3))}, "one node")]


CONTROL: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            name="if",
            kind="control",
            summary="The outputs of then(captured...) where cond holds, else orelse(captured...).",
            attrs=("then", "orelse"),
            infer=_if_infer,
            reference=_if_reference,
            compute=None,
            loops=None,
            samples=_if_samples,
        ),
        Op(
            name="scan",
            kind="control",
            summary="carry, y[t] = body(carry, x[t], captured...) for each t; carry and all y.",
            attrs=("body", "carried", "scanned", "reverse"),
            infer=_scan_infer,
            reference=_scan_reference,
            compute=None,
            loops=None,
            samples=_scan_samples,
        ),
        Op(
            name="fused",
            kind="control",
            summary="The outputs of body(inputs...), computed by one kernel; made by fusion only.",
            attrs=("body",),
            infer=_fused_infer,
            reference=_fused_reference,
            compute=None,
            loops=None,
            samples=_fused_samples,
        ),
    )
}
