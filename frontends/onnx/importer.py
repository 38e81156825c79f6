"""The importer: an ONNX model becomes a graph of primitive ops, or an error that lists all gaps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from tilewright.errors import Gap, ModelError, UnsupportedError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.guards import guard_indices
from tilewright.graph.ir import Graph, Node, TensorType, Value
from tilewright.ops import OpError
from tilewright.tensor.ir import Dim, Expr, Var

from ..kernel import Kernel
from .context import Context
from .custom import convert_kernel
from .equal import DimsDifferError
from .listing import Listed, listed
from .memo import Memo
from .messages import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    ValueInfoProto,
)
from .node import GapError, NodeView, type_name
from .order import in_order
from .read import Source, array_of, dtype_of, read_model
from .scope import Binding, Scope, Unknown
from .signature import DimRange, Signature
from .standard import function_of, gap_of, newest
from .table import CONVERTERS, key_of

_MAX_DEPTH = 48
_NONE_CUT: Mapping[int, np.ndarray] = MappingProxyType({})


def import_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dim_ranges: Mapping[str, DimRange] | None = None,
    kernels: Mapping[str, Kernel] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    beside: list[str] | None = None,
) -> Graph:
    """Imports an ONNX model as a graph of primitive ops.

    Args:
        source: a path, the bytes of a file, or a parsed model. Weights are views of its data,
            which must not be changed afterwards.
        shapes: dims by input name in place of the declared ones: numbers, or names of symbols.
        dim_ranges: inclusive ranges (low, high or None) by name of a symbolic dim; by default a
            symbol is at least 1. An unnamed dim that varies is called by its input and axis.
        kernels: what takes the place of operators, by ``domain::name`` (of ONNX's own, the name).
        base_dir: the folder of external data; by default the folder of the file.
        beside: gets the names of the files of external data that were read.

    Raises:
        ModelError: the file is damaged, or breaks the ONNX standard (TW-E01xx).
        UnsupportedError: what it needs is not all supported; lists every gap (TW-E02xx).
        OptionError: ``shapes`` or ``dim_ranges`` do not fit the model (TW-E08xx).
    """
    read = read_model(source, base_dir)
    known: dict[Var, Dim] = {}
    while True:
        try:
            graph = _Import(read, kernels or {}).run(Signature(shapes, dim_ranges, known))
        except DimsDifferError as cause:
            # Each round replaces one symbol of the inputs, so there are no more than those.
            known = cause.added_to(known)
        else:
            if beside is not None and read.external is not None:
                beside += read.external.files
            return graph


class _Skip(Exception):
    """A body cannot be finished because of a gap inside it, which is noted already."""


class _Import:
    """One import: the model's functions, the current scope and the gaps so far."""

    def __init__(self, source: Source, kernels: Mapping[str, Kernel]) -> None:
        self._source = source
        self._kernels = {key_of(*_domain_and_name(n)): k for n, k in kernels.items()}
        model = source.model
        self._functions = {(key_of(f.domain, f.name), f.overload): f for f in model.functions}
        self._gaps: dict[str, list[str]] = {}
        self._memo = Memo()
        self._scope: Scope | None = None
        self._depth = 0

    def run(self, signature: Signature) -> Graph:
        graph = self._source.model.graph
        builder = GraphBuilder(_identifier(graph.name))
        context = Context(builder, self)
        scope = Scope(context, _opsets(self._source.model.opset_import))
        self._initializers(scope, graph, self._source.weights)
        inputs = [v for v in graph.input if v.name not in scope.names]
        for declared in inputs:
            scope.define(declared.name, self._input(builder, declared, signature))
        signature.finish([v.name for v in inputs])
        if not graph.output:
            raise ModelError(f"{self._source.name}: its graph has no outputs", code="TW-E0110")
        self._nodes(scope, self._source.nodes)
        results = [(v.name, scope.lookup(v.name)) for v in graph.output]
        for name, result in results:
            if isinstance(result, Unknown) and result.reason:
                self._gap(result.reason, name)
        if self._gaps:
            raise UnsupportedError(
                [Gap(what, tuple(nodes)) for what, nodes in self._gaps.items()],
                model=self._source.name,
            )
        for name, result in results:
            assert isinstance(result, Value), name
            builder.output(result, name)
        guard_indices(builder)
        return _swept(builder.finish())

    # -------------------------------------------------------------- what contexts ask for

    def inline(self, ctx: Context, graph: GraphProto, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Adds the nodes of a graph attribute to ``ctx`` and returns its outputs."""
        outer = self._scope
        assert outer is not None
        scope = Scope(ctx, outer.opsets, outer, outer.attributes, outer.path)
        self._initializers(scope, graph)
        for declared, value in zip(graph.input, inputs, strict=False):
            scope.define(declared.name, value)
        return self._body(scope, graph)

    def bodies(
        self, ctx: Context, graphs: Sequence[tuple[GraphProto, Sequence[TensorType]]]
    ) -> tuple[tuple[Graph, ...], tuple[Value, ...]]:
        """Imports graphs as closed graphs with one common list of captured values."""
        outer = self._scope
        assert outer is not None and outer.context is ctx
        drafts: list[tuple[Graph, int, dict[Value, Value]]] = []
        for graph, types in graphs:
            builder = GraphBuilder(_identifier(graph.name))
            scope = Scope(Context(builder, self), outer.opsets, outer, outer.attributes, outer.path)
            self._initializers(scope, graph)
            if len(graph.input) != len(types):
                raise ModelError(
                    f"{ctx.origin}: its body {graph.name!r} has {len(graph.input)} inputs, but"
                    f" {len(types)} values are given to it",
                    code="TW-E0114",
                )
            for declared, type_ in zip(graph.input, types, strict=True):
                scope.define(declared.name, builder.input(declared.name, type_))
            for value in self._body(scope, graph):
                builder.output(value)
            drafts.append((_swept(builder.finish()), len(types), scope.captured))
        captured = _used_captures(drafts)
        return tuple(_with_captures(d, captured) for d in drafts), captured

    def _body(self, scope: Scope, graph: GraphProto) -> tuple[Value, ...]:
        self._nodes(scope, listed(graph.node))
        results = [scope.lookup(v.name) for v in graph.output]
        if any(isinstance(r, Unknown) for r in results):
            raise _Skip
        return tuple(r for r in results if isinstance(r, Value))

    # -------------------------------------------------------------- what a graph defines

    def _input(
        self, builder: GraphBuilder, declared: ValueInfoProto, signature: Signature
    ) -> Binding:
        try:
            return builder.input(declared.name, signature.type_of(declared))
        except GapError as gap:
            self._gap(gap.reason, declared.name)
            return Unknown()

    def _initializers(
        self, scope: Scope, graph: GraphProto, cut: Mapping[int, np.ndarray] = _NONE_CUT
    ) -> None:
        for i, tensor in enumerate(graph.initializer):
            label = f"initializer {tensor.name}"
            if dtype_of(tensor.data_type) is None:
                scope.define(
                    tensor.name,
                    Unknown(f"initializer of element type {type_name(tensor.data_type)}"),
                )
                continue
            array = array_of(tensor, self._source.external, label, cut.get(i))
            scope.define(tensor.name, scope.context.literal(array, name=tensor.name))
        for sparse in graph.sparse_initializer:
            scope.define(sparse.values.name, Unknown("sparse initializer"))

    # -------------------------------------------------------------- nodes

    def _nodes(self, scope: Scope, nodes: Sequence[Listed]) -> None:
        before = self._scope
        self._scope = scope
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ModelError(
                f"{self._source.name}: functions or graphs are nested more than {_MAX_DEPTH}"
                " deep, or a function calls itself",
                code="TW-E0115",
            )
        try:
            for node in in_order(nodes, scope.knows):
                self._node(scope, node)
        finally:
            self._scope = before
            self._depth -= 1

    def _node(self, scope: Scope, node: Listed) -> None:
        lookup, outputs = scope.lookup, node.outputs
        bindings = [lookup(name) if name else None for name in node.inputs]
        key = key_of(node.domain, node.op)
        name = scope.path + (node.name or next((o for o in outputs if o), node.op))
        unknown = [b for b in bindings if isinstance(b, Unknown)]
        results: Sequence[Value | None] | None = None
        if unknown:
            for reason in {u.reason for u in unknown if u.reason}:
                self._gap(f"{key}: {reason}", name)
            self._look_for_gaps(scope, [node.proto])
        else:
            values = tuple([b for b in bindings if not isinstance(b, Unknown)])
            results = self._convert(scope, node, key, name, values)
        for i, output in enumerate(outputs):
            if output:
                scope.define(output, self._result(results, i, key, name))

    def _result(
        self, results: Sequence[Value | None] | None, index: int, key: str, name: str
    ) -> Binding:
        if results is None:
            return Unknown()
        found = results[index] if index < len(results) else None
        if found is None:
            raise ModelError(f"{key}:{name}: it has no output {index}", code="TW-E0122")
        return found

    def _convert(
        self,
        scope: Scope,
        node: Listed,
        key: str,
        name: str,
        values: tuple[Value | None, ...],
    ) -> Sequence[Value | None] | None:
        op, domain = node.op, node.domain
        if domain == "ai.onnx":
            domain = ""
        opset = scope.opsets.get(domain, 0) or newest(domain)
        context = scope.context
        before = context.opset, context.origin
        context.opset, context.origin = opset, f"{op}:{name}"
        try:
            view = NodeView(
                op,
                domain,
                name,
                opset,
                values,
                tuple(node.outputs),
                self._attributes(scope, node),
                self._source.external,
            )
            kernel = self._kernels.get(key)
            if kernel is not None:
                return convert_kernel(context, view, kernel)
            functions = self._functions
            function = functions.get((key, node.proto.overload)) if functions else None
            if function is not None:
                return self._call(scope, view, function, _opsets(function.opset_import))
            converter = CONVERTERS.get(key)
            if converter is not None:
                return self._memo.convert(context, view, converter)
            return self._expand(scope, view, node.proto)
        except GapError as gap:
            self._gap(f"{key}: {gap.reason}", name)
        except OpError as error:
            if not _is_symbolic(values):
                raise
            self._gap(
                f"{key}: the operation is not defined for all values of the symbolic dims (give"
                f" numbers for them with shapes): {error.message}",
                name,
            )
        except _Skip:
            pass
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Converters rely on what the standard says of ranks, counts and ranges.
            raise ModelError(
                f"{key}:{name}: its operands or attributes are not what the operator takes"
                f" ({type(error).__name__}: {error})",
                code="TW-E0123",
            ) from error
        finally:
            context.opset, context.origin = before
        return None

    def _attributes(self, scope: Scope, node: Listed) -> dict[str, AttributeProto]:
        found: dict[str, AttributeProto] = {}
        for attribute in node.attributes:
            if not attribute.ref_attr_name:
                found[attribute.name] = attribute
                continue
            given = scope.attributes.get(attribute.ref_attr_name)
            if given is not None:
                found[attribute.name] = given
        return found

    # -------------------------------------------------------------- functions

    def _call(
        self,
        scope: Scope,
        view: NodeView,
        function: FunctionProto,
        opsets: Mapping[str, int],
    ) -> tuple[Value | None, ...]:
        """Adds the body of a function in place of a call."""
        attributes = {a.name: a for a in function.attribute_proto} | dict(view.attributes)
        inner = Scope(
            scope.context, opsets or scope.opsets, attributes=attributes, path=f"{view.name}/"
        )
        for i, name in enumerate(function.input):
            inner.define(name, view.optional(i))
        self._nodes(inner, listed(function.node))
        results: list[Value | None] = []
        for i, name in enumerate(function.output):
            found = inner.lookup(name) if view.wants(i) else None
            if isinstance(found, Unknown):
                raise _Skip
            results.append(found)
        return tuple(results)

    def _expand(self, scope: Scope, view: NodeView, node: NodeProto) -> tuple[Value | None, ...]:
        """Adds the function body that the ONNX standard gives for an operator."""
        function = function_of(view, node)
        return self._call(scope, view, function, _opsets(function.opset_import))

    # -------------------------------------------------------------- gaps

    def _gap(self, what: str, name: str) -> None:
        nodes = self._gaps.setdefault(what, [])
        if name not in nodes:
            nodes.append(name)

    def _look_for_gaps(self, scope: Scope, nodes: Sequence[NodeProto]) -> None:
        """Notes the operators that nothing handles among nodes that cannot be imported yet."""
        pending = list(nodes)
        while pending:
            node = pending.pop()
            key = key_of(node.domain, node.op_type)
            gap = self._gap_of(scope, node)
            if gap:
                name = node.name or next((o for o in node.output if o), node.op_type)
                self._gap(f"{key}: {gap}", scope.path + name)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    pending.extend(graph.node)

    def _gap_of(self, scope: Scope, node: NodeProto) -> str:
        """Why nothing handles a node's operator; "" where something does."""
        key = key_of(node.domain, node.op_type)
        if key in CONVERTERS or key in self._kernels or (key, node.overload) in self._functions:
            return ""
        domain = "" if node.domain == "ai.onnx" else node.domain
        return gap_of(domain, node.op_type, scope.opsets.get(domain, 0) or newest(domain))


def _opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def _domain_and_name(key: str) -> tuple[str, str]:
    domain, _, name = key.rpartition("::")
    return domain, name


def _is_symbolic(values: Iterable[Value | None]) -> bool:
    return any(isinstance(d, Expr) for v in values if v is not None for d in v.shape)


def _identifier(name: str) -> str:
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    return found if found.isidentifier() else f"g_{found}" if found else "main"


# ------------------------------------------------------------------ finishing graphs


def _swept(graph: Graph) -> Graph:
    """Leaves out nodes and constants that no output needs."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    constants = {v: a for v, a in graph.constants.items() if v in needed}
    return replace(graph, nodes=tuple(reversed(kept)), constants=MappingProxyType(constants))


_Draft = tuple[Graph, int, Mapping[Value, Value]]


def _used_captures(drafts: Sequence[_Draft]) -> tuple[Value, ...]:
    found: dict[Value, None] = {}
    for graph, _, captured in drafts:
        used = set(graph.outputs).union(*(n.inputs for n in graph.nodes))
        found.update((outside, None) for outside, inside in captured.items() if inside in used)
    return tuple(found)


def _with_captures(draft: _Draft, captured: Sequence[Value]) -> Graph:
    """Gives a body one input for each captured value, in order, whether it reads it or not."""
    graph, own, inside = draft
    taken = {v.name for v in graph.inputs} | {v.name for n in graph.nodes for v in n.outputs}
    taken |= {v.name for v in graph.constants}
    extra: list[Value] = []
    for value in captured:
        found = inside.get(value)
        if found is None:
            name = value.name
            while name in taken:
                name += "_"
            taken.add(name)
            found = Value(name, value.type)
        extra.append(found)
    return replace(graph, inputs=(*graph.inputs[:own], *extra))
