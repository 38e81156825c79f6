"""The core of the importer: an ATen program, however torch captured it, becomes a graph.

``torch.export`` and AOTAutograd both end in an FX graph of ATen overloads that write to nothing,
whose nodes know what torch found for them (``node.meta["val"]``). They differ in where parameters
are kept and in what the outputs stand for; ``Captured`` states that much.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch._decomp import get_decompositions
from torch._higher_order_ops.effects import with_effects
from torch._ops import OpOverload
from torch.export.exported_program import (
    _override_composite_implicit_decomp,
    _split_decomp_table_to_cia_and_python_decomp,
)
from torch.utils import _pytree as pytree

from tilewright.dtype import i64
from tilewright.errors import Gap, InternalError, UnsupportedError, user_line
from tilewright.graph.build import GraphBuilder
from tilewright.graph.guards import guard_indices
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.ops import OpError
from tilewright.ops.op import type_text
from tilewright.tensor.ir import Dim, Expr, Var

from .compound import DECOMPOSITIONS
from .context import Context, Converter
from .custom import converter_of
from .export import parameter_line
from .table import CONVERTERS, DECOMPOSED, EFFECT, NUMBER, RANDOM, REFUSED
from .types import GapError, array_of, element_type, to_dim

_IGNORED = frozenset(
    {"layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit"}
)
_CHECKS = frozenset({
    "aten._assert_async.msg", "aten._assert_scalar.default", "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default",
})  # fmt: skip
_PASSES: dict[str, Converter] = {"prims.convert_element_type.default": Context.cast}
"""What torch's own passes put into graphs of core overloads."""
_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)
_NO_VALUE = object()


@dataclass(frozen=True, slots=True)
class Output:
    """What a program returns at one place.

    Attributes:
        name: of the graph's output.
        node: the node that makes it; None for one that has a gap.
        order: which axes the graph's output has, outermost first; None: as they are.
    """

    name: str
    node: Any
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Captured:
    """An ATen program as torch has captured it.

    Attributes:
        module: holds the graph, and the tensors that its ``get_attr`` nodes name.
        name: for messages and for the graph.
        known: the placeholders that are not inputs: tensors become constants, which are not copied
            and must not be written afterwards; anything else is a value of the program.
        outputs: what to return, in order.
        symbols: the sizes that may differ from call to call, with their ranges.
        refused: what is known not to be supported, and the node that needs it.
        conditions: what must hold between the symbols for the program to be meant.
        forward: the user's function that the inputs are parameters of, where it is known.
    """

    module: Any
    name: str
    known: Mapping[str, Any]
    outputs: Sequence[Output]
    symbols: Mapping[str, Dim]
    refused: Sequence[tuple[str, Any]] = ()
    conditions: Sequence[Expr] = ()
    forward: Callable[..., Any] | None = None


def import_captured(captured: Captured) -> Graph:
    """The graph of primitive ops that states a program.

    A symbolic integer that is an input becomes an input of shape (n, 0).

    Raises:
        UnsupportedError: what it needs is not all supported; lists every gap (TW-E02xx).
    """
    return _Import(captured).run()


def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's decompositions to core overloads, without those that converters take whole."""
    table: dict[Any, Callable[..., Any]] = torch.export.default_decompositions()
    for overload in CONVERTERS:
        table.pop(_overload(overload), None)
    table.update(get_decompositions([_overload(o) for o in DECOMPOSED]))
    table.update({_overload(o): f for o, f in DECOMPOSITIONS.items()})
    return table


@contextmanager
def composites_kept() -> Iterator[dict[Any, Callable[..., Any]]]:
    """Has AOTAutograd leave whole what converters take whole, as ``run_decompositions`` does.

    Yields:
        The table to give it: ``decompositions()`` without composite overloads, whose meaning
        while tracing is changed instead.
    """
    kept, others = _composites()
    with _override_composite_implicit_decomp(dict(kept)):
        yield dict(others)


@cache
def _composites() -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
    """The composite overloads that converters take, and the decompositions of all that are not.

    Other composites need no entry: tracing takes them apart by itself.
    """
    kept, others = _split_decomp_table_to_cia_and_python_decomp(dict(decompositions()))
    ours = {_overload(name) for name in CONVERTERS}
    return {o: f for o, f in kept.items() if o in ours}, others


def interval(name: str, values: Any) -> Var:
    """A symbol with a range of torch's; a number may be as low as an i64 goes."""
    low = int(values.lower) if values.lower.is_Integer else -(1 << 63)
    high = int(values.upper) if values.upper.is_Integer else None
    return Var(name, i64, low, high)


def _overload(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


class _Import:
    """One import: the values of the nodes so far, and the gaps."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._symbols = captured.symbols
        self._context = Context(GraphBuilder(re.sub(r"\W", "_", captured.name)))
        self._values: dict[str, Any] = {}
        self._gaps: dict[str, list[str]] = {}

    def run(self) -> Graph:
        for what, node in self._captured.refused:
            self._gap(what, node)
        for node in self._captured.module.graph.nodes:
            match node.op:
                case "placeholder":
                    self._placeholder(node)
                case "get_attr":
                    self._attribute(node)
                case "call_function":
                    self._call(node)
        for condition in self._captured.conditions:
            self._context.builder.require(condition)
        for output in self._captured.outputs:
            self._output(output)
        if self._gaps:
            gaps = [Gap(what, tuple(where)) for what, where in self._gaps.items()]
            raise UnsupportedError(gaps, model=self._captured.name)
        guard_indices(self._context.builder)
        return _swept(self._context.builder.finish())

    # -------------------------------------------------------------- what comes in

    def _placeholder(self, node: Any) -> None:
        known = self._captured.known
        try:
            if node.name not in known:
                type_ = self._type(node.meta["val"])
                self._values[node.name] = self._context.builder.input(node.name, type_)
                return
            found = known[node.name]
            is_tensor = isinstance(found, torch.Tensor)
            self._values[node.name] = self._constant(found, node.name) if is_tensor else found
        except GapError as gap:
            self._gap(f"the input {node.name}: {gap.reason}", node)

    def _constant(self, tensor: torch.Tensor, name: str) -> Value:
        _expect_plain(tensor)
        return self._context.builder.constant(array_of(tensor), name)

    def _attribute(self, node: Any) -> None:
        found = operator.attrgetter(node.target)(self._captured.module)
        if isinstance(found, torch.Tensor):
            try:
                self._values[node.name] = self._constant(found, node.target)
            except GapError as gap:
                self._gap(gap.reason, node)

    def _type(self, meta: Any) -> TensorType:
        if isinstance(meta, torch.SymInt):
            return TensorType(i64, (to_dim(meta, self._symbols), 0))
        if not isinstance(meta, torch.Tensor):
            raise GapError(type(meta).__name__)
        _expect_plain(meta)
        shape = tuple(to_dim(d, self._symbols) for d in meta.shape)
        return TensorType(element_type(meta.dtype), shape)

    # -------------------------------------------------------------- nodes

    def _call(self, node: Any) -> None:
        label = _label(node)
        meta = node.meta.get("val")
        if isinstance(meta, _NUMBERS) or label in _CHECKS:
            return  # sizes are read from what torch has found for them
        if node.target is operator.getitem:
            source, index = node.args
            found = self._values.get(source.name)
            if isinstance(found, tuple) and found[index] is not None:
                self._values[node.name] = found[index]
            return
        name = label.removeprefix("aten.")
        effect = node.target is with_effects
        converter = None if effect else CONVERTERS.get(name, _PASSES.get(label))
        converter = converter or converter_of(label)
        if converter is None:
            reason = REFUSED.get(name, EFFECT if effect else _reason(node.target))
            self._gap(label if reason is None else f"{label}: {reason}", node)
            return
        try:
            self._convert(node, label, converter, meta)
        except GapError as gap:
            self._gap(f"{label}: {gap.reason}", node)
        except OpError as error:
            self._gap(f"{label}: {error.message}", node)

    def _convert(self, node: Any, label: str, converter: Any, meta: Any) -> None:
        args = [self._argument(a) for a in node.args]
        kwargs = {k: self._argument(v) for k, v in node.kwargs.items() if k not in _IGNORED}
        if any(a is _NO_VALUE for a in pytree.tree_leaves([args, kwargs])):
            return  # an operand has a gap, which is noted already
        context = self._context
        context.origin = f"{label}:{node.name}"
        context.line = partial(_source_line, node)
        context.wanted = _wanted(node, meta)
        context.metas = tuple(a.meta.get("val") for a in node.args if isinstance(a, torch.fx.Node))
        metas = meta if isinstance(meta, tuple | list) else (meta,)
        context.results = tuple(
            self._type(m) if i in context.wanted and isinstance(m, torch.Tensor) else None
            for i, m in enumerate(metas)
        )
        try:
            result = converter(context, *args, **kwargs)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InternalError(
                f"{context.origin}: its converter does not take these arguments"
                f" ({type(error).__name__}: {error})",
                code="TW-E0934",
            ) from error
        results = result if isinstance(result, tuple) else (result,)
        for i in context.wanted:
            _expect(results[i], context.results[i], context.origin)
        self._values[node.name] = result

    def _argument(self, argument: Any) -> Any:
        """An argument as converters take it; ``_NO_VALUE`` for one that has a gap."""
        match argument:
            case torch.fx.Node():
                meta = argument.meta.get("val")
                if isinstance(meta, torch.SymInt):
                    return to_dim(meta, self._symbols)
                if isinstance(meta, bool | int | float):
                    return meta
                if isinstance(meta, torch.SymFloat | torch.SymBool):
                    name = f"the symbolic number {argument.name}"
                    raise GapError(NUMBER if _is_read(argument) else name)
                return self._values.get(argument.name, _NO_VALUE)
            case torch.SymInt():
                return to_dim(argument, self._symbols)
            case list() | tuple():
                return [self._argument(a) for a in argument]
            case torch.dtype():
                return element_type(argument)
            case complex():
                raise GapError("complex numbers")
            case _:
                return argument

    # -------------------------------------------------------------- what goes out

    def _output(self, output: Output) -> None:
        value = self._returned(output.node)
        if isinstance(value, Value):
            if output.order is not None:
                value = self._context.transpose(value, output.order)
            self._context.builder.output(value, output.name)
        elif not self._gaps:
            found = type(output.node).__name__
            if isinstance(output.node, torch.fx.Node):
                found = type(output.node.meta.get("val")).__name__
            self._gap(f"the output {output.name}: {found}", output.node)

    def _returned(self, result: Any) -> Any:
        try:
            found = self._argument(result)
        except GapError:
            return None
        if isinstance(found, Value):
            return found
        if isinstance(result, torch.fx.Node) and isinstance(result.meta.get("val"), torch.SymInt):
            return self._context.op("dim", value=found)
        return None

    def _gap(self, what: str, node: Any) -> None:
        place = _source_line(node)
        forward = self._captured.forward
        if not place and node.op == "placeholder" and forward is not None:
            place = parameter_line(forward, node.name)
        place = place or user_line()
        self._gaps.setdefault(what, []).append(f"{node.name}{place and f' at {place}'}")


# ------------------------------------------------------------------ reading a program


def _expect_plain(tensor: torch.Tensor) -> None:
    """Requires a dense CPU tensor.

    Raises:
        GapError: it is sparse, quantised, or on another device.
    """
    if tensor.device.type != "cpu":
        raise GapError(f"tensors on {tensor.device}; move the module to the CPU first")
    if tensor.layout is not torch.strided:
        raise GapError(f"tensors of layout {tensor.layout}")
    if tensor.is_quantized:
        raise GapError("quantised tensors")
    element_type(tensor.dtype)


def _is_read(number: Any) -> bool:
    """Whether a number is read from a tensor, or computed from one that is."""
    pending = [number]
    while pending:
        node = pending.pop()
        if node.target is _overload("_local_scalar_dense.default"):
            return True
        pending += [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), _NUMBERS)]
    return False


def _wanted(node: Any, meta: Any) -> frozenset[int]:
    if not isinstance(meta, tuple | list):
        return frozenset({0})
    if any(u.target is not operator.getitem for u in node.users):
        return frozenset(range(len(meta)))
    return frozenset(u.args[1] for u in node.users if u.users)


def _expect(value: Value | None, wanted: TensorType | None, origin: str) -> None:
    """Holds a converter to the type that torch has found."""
    if wanted is None:
        return
    if value is None:
        raise GapError("one of its results")
    fits = value.dtype is wanted.dtype and len(value.shape) == len(wanted.shape)
    if not fits or any(map(_differ, value.shape, wanted.shape)):
        raise InternalError(
            f"{origin}: the converter gives {type_text(value.type)}, but torch {type_text(wanted)}",
            code="TW-E0933",
        )


def _differ(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a != b


def _label(node: Any) -> str:
    """The overload's name; of one that torch wraps for its effects, the inner one's."""
    target = node.target
    if target is with_effects:
        target = node.args[1]
    return str(target) if isinstance(target, OpOverload) else target.__name__


def _reason(target: Any) -> str | None:
    """Why an overload that no table names is not supported, by what torch says of it."""
    is_random = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
    return RANDOM if is_random else None


def _source_line(node: Any) -> str:
    """The user's line that a node comes from: the innermost one outside of installed packages."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', _trace(node))
    own = [f for f in frames if "site-packages" not in f[0]] or frames
    if not own:
        return ""
    path, line, code = own[-1]
    return f"{path}:{line} `{code.strip()}`"


def _trace(node: Any) -> str:
    return node.meta.get("stack_trace") or ""


def _swept(graph: Graph) -> Graph:
    """The graph without nodes and constants that no output needs."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    constants: dict[Value, np.ndarray] = {v: a for v, a in graph.constants.items() if v in needed}
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)
