"""The importer: an exported program becomes a graph, or an error that lists all gaps."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from tilewright.errors import Gap, InternalError, ModelError, UnsupportedError
from tilewright.graph.build import GraphBuilder
from tilewright.graph.ir import Graph, TensorType, Value
from tilewright.ops import OpError
from tilewright.ops.op import type_text
from tilewright.tensor.ir import Dim, Var, symbol

from .context import Context
from .table import CONVERTERS, DECOMPOSED, REFUSED
from .types import GapError, array_of, element_type, to_dim

_IGNORED = frozenset(
    {"layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit"}
)
_CHECKS = frozenset({
    "aten._assert_async.msg", "aten._assert_scalar.default", "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default",
})  # fmt: skip
_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)
_NO_VALUE = object()


def import_torch(
    source: Any, example_inputs: object = None, dynamic_shapes: object = None
) -> Graph:
    """Imports an exported program, or a module after exporting it.

    Raises:
        ModelError: the source is neither, or example inputs do not go with it.
        UnsupportedError: what it needs is not all supported; lists every gap.
    """
    if isinstance(source, torch.export.ExportedProgram):
        if example_inputs is not None or dynamic_shapes is not None:
            raise ModelError(
                "an exported program has its inputs and dynamic shapes; give them to torch.export",
                code="TW-E0160",
            )
        return import_exported(source)
    if not isinstance(source, torch.nn.Module):
        raise ModelError(
            f"compile takes a torch.nn.Module or an ExportedProgram, not {type(source).__name__}",
            code="TW-E0160",
        )
    if example_inputs is None:
        raise ModelError(
            f"compiling the module {type(source).__name__} needs example_inputs: a tuple of"
            " arguments, which tell the shapes and dtypes",
            code="TW-E0160",
        )
    return import_module(source, example_inputs, dynamic_shapes)


def import_module(
    module: torch.nn.Module, example_inputs: object, dynamic_shapes: object = None
) -> Graph:
    """Exports a module with ``torch.export`` and imports the program.

    Args:
        example_inputs: a tuple of positional arguments, or a mapping of keyword arguments.
        dynamic_shapes: as ``torch.export.export`` takes it.

    Raises:
        ModelError: torch cannot export it (its message says where).
        UnsupportedError: see ``import_exported``.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, tuple | list):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    try:
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__}: torch.export does not take it: {error}", code="TW-E0161"
        ) from error
    return import_exported(program, type(module).__name__)


def import_exported(program: torch.export.ExportedProgram, name: str = "program") -> Graph:
    """Imports an exported program as a graph of primitive ops.

    Parameters and buffers are views of the program's tensors, which must not be written
    afterwards. Nested inputs and outputs are flattened in order; constants among them are left
    out.

    Raises:
        ModelError: torch cannot state it in core operators (TW-E0162).
        UnsupportedError: what it needs is not all supported; lists every gap (TW-E02xx).
    """
    table = torch.export.default_decompositions()
    for overload in CONVERTERS:
        table.pop(_overload(overload), None)
    table.update(get_decompositions([_overload(o) for o in DECOMPOSED]))
    try:
        lowered = program.run_decompositions(table)
    except Exception as error:
        raise ModelError(
            f"{name}: torch cannot decompose the program: {error}", code="TW-E0162"
        ) from error
    return _Import(lowered, name).run()


def _overload(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


class _Import:
    """One import: the values of the nodes so far, and the gaps."""

    def __init__(self, program: torch.export.ExportedProgram, name: str) -> None:
        self._program = program
        self._name = name
        self._context = Context(GraphBuilder(re.sub(r"\W", "_", name)))
        self._values: dict[str, Any] = {}
        self._gaps: dict[str, list[str]] = {}
        self._symbols = _symbols(program)

    def run(self) -> Graph:
        nodes = list(self._program.graph.nodes)
        specs = iter(self._program.graph_signature.input_specs)
        for node in nodes:
            match node.op:
                case "placeholder":
                    self._placeholder(node, next(specs))
                case "get_attr":
                    self._attribute(node)
                case "call_function":
                    self._call(node)
                case "output":
                    self._outputs(node)
        if self._gaps:
            gaps = [Gap(what, tuple(where)) for what, where in self._gaps.items()]
            raise UnsupportedError(gaps, model=self._name)
        return _swept(self._context.builder.finish())

    # -------------------------------------------------------------- what comes in

    def _placeholder(self, node: Any, spec: Any) -> None:
        if isinstance(spec.arg, ConstantArgument):
            self._values[node.name] = spec.arg.value
            return
        if isinstance(spec.arg, SymIntArgument):
            self._gap(f"the input {node.name}: symbolic integers as inputs", node)
            return
        if not isinstance(spec.arg, TensorArgument):
            self._gap(f"the input {node.name}: {type(spec.arg).__name__}", node)
            return
        try:
            type_ = self._type(node.meta["val"])
            if spec.kind is InputKind.USER_INPUT:
                self._values[node.name] = self._context.builder.input(node.name, type_)
            else:
                self._values[node.name] = self._constant(self._tensor(spec.target), spec.target)
        except GapError as gap:
            self._gap(f"the input {node.name}: {gap.reason}", node)

    def _tensor(self, target: str) -> torch.Tensor:
        found = self._program.state_dict.get(target)
        return self._program.constants[target] if found is None else found

    def _constant(self, tensor: torch.Tensor, name: str) -> Value:
        _expect_plain(tensor)
        return self._context.builder.constant(array_of(tensor), name)

    def _attribute(self, node: Any) -> None:
        found = operator.attrgetter(node.target)(self._program.graph_module)
        if isinstance(found, torch.Tensor):
            try:
                self._values[node.name] = self._constant(found, node.target)
            except GapError as gap:
                self._gap(gap.reason, node)

    def _type(self, meta: Any) -> TensorType:
        _expect_plain(meta)
        shape = tuple(to_dim(d, self._symbols) for d in meta.shape)
        return TensorType(element_type(meta.dtype), shape)

    # -------------------------------------------------------------- nodes

    def _call(self, node: Any) -> None:
        label = _label(node.target)
        meta = node.meta.get("val")
        if isinstance(meta, _NUMBERS) or label in _CHECKS:
            return  # sizes are read from what torch has found for them
        if node.target is operator.getitem:
            source, index = node.args
            found = self._values.get(source.name)
            if isinstance(found, tuple) and found[index] is not None:
                self._values[node.name] = found[index]
            return
        converter = CONVERTERS.get(label.removeprefix("aten."))
        if converter is None:
            reason = REFUSED.get(label.removeprefix("aten."))
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
                    raise GapError(f"the symbolic number {argument.name}")
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

    def _outputs(self, node: Any) -> None:
        signature = self._program.graph_signature
        names = iter(_output_names(self._program))
        for spec, result in zip(signature.output_specs, node.args[0], strict=True):
            if spec.kind is not OutputKind.USER_OUTPUT:
                self._mutation(spec, result, node)
                continue
            name = next(names)
            if isinstance(spec.arg, ConstantArgument):
                continue
            value = self._returned(result)
            if isinstance(value, Value):
                self._context.builder.output(value, name)
            elif not self._gaps:
                self._gap(f"the output {name}: {type(result).__name__}", node)

    def _returned(self, result: Any) -> Any:
        try:
            found = self._argument(result)
        except GapError:
            return None
        if isinstance(found, Value):
            return found
        if result is not None and isinstance(result.meta.get("val"), torch.SymInt):
            return self._context.op("dim", value=found)
        return None

    def _mutation(self, spec: Any, result: Any, node: Any) -> None:
        """Refuses a write to a buffer or an input, unless it writes what is there."""
        kept = {s.target: s.arg.name for s in self._program.graph_signature.input_specs}
        if result.name in (kept.get(spec.target), spec.target):
            return
        self._gap(f"{spec.target}: the program writes to it ({spec.kind.name.lower()})", result)

    def _gap(self, what: str, node: Any) -> None:
        place = _source_line(node)
        self._gaps.setdefault(what, []).append(f"{node.name}{place and f' at {place}'}")


# ------------------------------------------------------------------ reading a program


def _symbols(program: torch.export.ExportedProgram) -> dict[str, Var]:
    """The program's symbols with their ranges; like torch, a size of 1 passes where 2 does."""
    found = {}
    for name, values in program.range_constraints.items():
        low = values.lower
        least = int(low) if low.is_Integer else 1
        high = int(values.upper) if values.upper.is_Integer else None
        least = 1 if least <= 2 else least
        found[str(name)] = symbol(str(name), least, high)
    return found


def _expect_plain(tensor: torch.Tensor) -> None:
    """Requires a dense CPU tensor.

    Raises:
        GapError: it is sparse, quantised, or on another device.
    """
    if tensor.device.type not in ("cpu", "meta"):
        raise GapError(f"tensors on {tensor.device}; move the module to the CPU first")
    if tensor.layout is not torch.strided:
        raise GapError(f"tensors of layout {tensor.layout}")
    if tensor.is_quantized:
        raise GapError("quantised tensors")
    element_type(tensor.dtype)


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


def _label(target: Any) -> str:
    return str(target) if isinstance(target, OpOverload) else target.__name__


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


def _output_names(program: torch.export.ExportedProgram) -> list[str]:
    """A name for each leaf of the outputs, from its place: ``output``, ``logits``, ``kv_0_1``."""
    spec = program.call_spec.out_spec
    leaves = list(range(spec.num_leaves))
    pairs, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(leaves, spec))
    names = []
    for path, _ in pairs:
        words = re.findall(r"\w+", pytree.keystr(path))
        text = "_".join(words)
        names.append(text if text and not text[0].isdigit() else f"output_{text}".rstrip("_"))
    if len(names) != len(leaves):  # a class of outputs that tells no paths
        return [f"output_{i}" for i in leaves]
    return names


def _swept(graph: Graph) -> Graph:
    """The graph without nodes and constants that no output needs."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    constants: dict[Value, np.ndarray] = {v: a for v, a in graph.constants.items() if v in needed}
    return Graph(
        graph.name,
        graph.inputs,
        tuple(reversed(kept)),
        graph.outputs,
        constants,
        graph.output_names,
    )
