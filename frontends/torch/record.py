"""One pass over a graph of Dynamo, in place of AOTAutograd's two: what it calls, as ATen calls.

AOTAutograd finds out what a graph writes to and what shares memory by running it once, and traces
it in another run, through layers that only gradients and writes need. A graph that writes to
nothing but tensors of its own, which nothing else can see at that time, is functional as soon as
each such write is stated as the value after it. Here such a graph runs once, on Dynamo's own fake
tensors, and each ATen call is noted. For any other graph ``record`` gives up before it has changed
anything, and AOTAutograd captures it.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.utils import dynamo_timed
from torch._higher_order_ops.effects import has_effects
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from .capture import composites_kept
from .results import Results, results_of

_MODULES = frozenset({
    "_operator", "math", "torch.functional", "torch.nn.functional", "torch._C._nn",
    "torch._C._fft", "torch._C._linalg", "torch._C._special",
})  # fmt: skip
"""Where functions come from that do nothing but call operators."""
_FUNCTIONS: Any = torch._C._VariableFunctions  # noqa: SLF001
_ATTRIBUTES = frozenset({"T", "mT", "shape", "ndim", "dtype", "device"})
_STATES = (
    torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view,
    torch.Tag.nondeterministic_seeded,
)  # fmt: skip
"""Of overloads whose results are more than fake tensors tell, or that write to more than data."""


_DROPPING = {
    torch.ops.aten.scaled_dot_product_attention.default: "dropout_p",
    torch.ops.aten.dropout.default: "p",
    torch.ops.aten.native_dropout.default: "p",
    torch.ops.aten.lstm.input: "dropout",
    torch.ops.aten.gru.input: "dropout",
    torch.ops.aten.rnn_relu.input: "dropout",
    torch.ops.aten.rnn_tanh.input: "dropout",
}
"""Of overloads that drop elements, the argument that says how likely."""
_SILENT = torch._C._log_api_usage_once  # noqa: SLF001
"""What library code calls that computes nothing."""


class _GiveUp(Exception):
    """The graph is not one that a single pass can capture."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A graph of ATen overloads that writes to nothing.

    Attributes:
        module: holds the graph as ``graph``, and the tensors that its ``get_attr`` nodes name.
        held: its first arguments: what Dynamo's graph holds itself (where Inductor is set to
            freeze them, parameters). Those of Dynamo's graph follow.
        steady: the positions of the arguments that are a module's parameters and buffers.
        results: how its outputs come about.
    """

    module: Any
    held: tuple[Any, ...]
    steady: frozenset[int]
    results: Results


def record(module: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Recording | None:
    """Runs a graph of Dynamo once on fake tensors and notes its ATen calls.

    Returns:
        The functional graph; None where it might write to an argument, hold gradients or states,
        or do what only AOTAutograd knows to express.
    """
    if torch._C._is_any_autocast_enabled():  # noqa: SLF001
        return None
    attributes = module.graph.find_nodes(op="get_attr")
    held = tuple(attrgetter(node.target)(module) for node in attributes)
    sources = [*attributes, *module.graph.find_nodes(op="placeholder")]
    values = [node.meta.get("example_value") for node in sources]
    given = (*held, *example_inputs)
    if not all(map(_is_plain, values, given)):
        return None
    if torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in given
    ):
        return None
    modes = {v.fake_mode for v in values if isinstance(v, FakeTensor)}
    if len(modes) != 1:
        return None
    try:
        with (
            dynamo_timed("tilewright.record"), composites_kept() as table,
            enable_python_dispatcher(), modes.pop(),
        ):  # fmt: skip
            recorder = _Recorder(table, sources, values)
            with recorder:
                nodes = _run(module.graph, recorder, dict(zip(sources, values, strict=True)))
    except Exception:
        # AOTAutograd will say what is wrong with the graph, if anything is.
        return None
    recorder.graph.output(nodes)
    for node in reversed(recorder.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            recorder.graph.erase_node(node)
    steady = frozenset(
        i for i, node in enumerate(sources)
        if node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
    )  # fmt: skip
    results = results_of(recorder.graph)
    if results.assemble is not None and any(isinstance(v, torch.SymInt) for v in values):
        return None  # calls of operators outside of native code would name the symbols
    recorded = SimpleNamespace(graph=recorder.graph, **recorder.constants)
    return Recording(recorded, held, steady, results)


def _is_plain(value: Any, given: Any) -> bool:
    """Whether an argument is a tensor of torch's own, dense and in CPU memory, or a size."""
    if not isinstance(value, FakeTensor):
        return isinstance(value, torch.SymInt)
    return (
        type(given) in (torch.Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_conj()
        and not value.is_neg()
    )


# ------------------------------------------------------------------ running Dynamo's graph


def _run(graph: torch.fx.Graph, recorder: _Recorder, known: Mapping[Any, Any]) -> list[Any]:
    """Runs the graph, and returns the nodes of its outputs."""
    last = {used: node for node in graph.nodes for used in node.all_input_nodes}
    ending: dict[Any, list[Any]] = {}
    for used, node in last.items():
        ending.setdefault(node, []).append(used)
    environment: dict[Any, Any] = {}
    for node in graph.nodes:
        match node.op:
            case "placeholder" | "get_attr":
                environment[node] = known[node]
            case "call_function" if node.target is _SILENT:
                environment[node] = None
            case "call_function" | "call_method":
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), environment.__getitem__)
                recorder.begin(node, environment)
                environment[node] = _function(node)(*args, **kwargs)
            case "output":
                return [recorder.output(environment[n]) for n in node.args[0]]
            case _:
                raise _GiveUp
        for used in ending.get(node, ()):
            if used not in known:
                del environment[used]
    raise AssertionError(graph)


def _function(node: Any) -> Callable[..., Any]:
    """What a node calls.

    Raises:
        _GiveUp: it might do more than call operators.
    """
    target: Callable[..., Any]
    if node.op == "call_method":
        target = getattr(torch.Tensor, node.target)
        return target
    target = node.target
    known = (
        isinstance(target, OpOverload | OpOverloadPacket)
        or (target is builtins.getattr and node.args[1] in _ATTRIBUTES)
        or target.__module__ in _MODULES
        or getattr(_FUNCTIONS, getattr(target, "__name__", ""), None) is target
    )
    if not known:
        raise _GiveUp
    return target


# ------------------------------------------------------------------ noting its calls


@dataclass(slots=True)
class _Step:
    """The node of Dynamo's graph that is being run.

    Attributes:
        trace: its stack trace.
        environment: what earlier nodes made, and later ones may read.
        made: tensors that came up since it began.
    """

    trace: str | None
    environment: Mapping[Any, Any]
    made: list[torch.Tensor] = field(default_factory=list)


class _Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Notes ATen calls as nodes of a graph; a write to a tensor gives it another node."""

    def __init__(
        self, table: Mapping[Any, Callable[..., Any]], sources: Sequence[Any],
        values: Sequence[Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.graph = torch.fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self._table = table
        self._kept: list[torch.Tensor] = []  # so that no id comes twice
        self._first: dict[int, int] = {}  # of each storage, which tensor was the first in it
        self._nodes: dict[int, torch.fx.Node] = {}
        self._step = _Step(None, {})
        self._inputs: set[int] = set()
        for source, value in zip(sources, values, strict=True):
            node = self.graph.placeholder(source.name)
            node.meta["val"] = value
            node.meta["stack_trace"] = source.meta.get("stack_trace")
            if isinstance(value, torch.Tensor):
                self._bind(value, node)
                self._inputs.add(_storage(value))

    def begin(self, node: Any, environment: Mapping[Any, Any]) -> None:
        """Notes what is called from now on as what a node of Dynamo's graph does."""
        self._step = _Step(node.meta.get("stack_trace"), environment)

    def output(self, value: Any) -> torch.fx.Node:
        """The node of a tensor that the graph returns."""
        if not isinstance(value, torch.Tensor):
            raise _GiveUp
        node = self._nodes[id(value)]
        if value.requires_grad and node.op != "placeholder" and torch.is_grad_enabled():
            raise _GiveUp
        return node

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Runs a call on fake tensors and notes it, or what it is made of."""
        kwargs = kwargs or {}
        if any(t in func.tags for t in _STATES) and not _is_certain(func, args, kwargs):
            raise _GiveUp
        if func.namespace == "prim":
            return func(*args, **kwargs)  # asks what a tensor is
        if func._schema.is_mutable:  # noqa: SLF001
            return self._write(func, args, kwargs)
        return self._read(func, args, kwargs)

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call that writes to nothing."""
        decomposition = self._table.get(func)
        with self:
            result = NotImplemented
            if decomposition is not None:
                result = decomposition(*args, **kwargs)
            if result is NotImplemented:
                result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if has_effects(func):
            raise _GiveUp
        if func is torch.ops.aten.lift_fresh.default:
            func = torch.ops.aten.lift_fresh_copy.default
        node = self.graph.call_function(func, *self._noted((args, dict(kwargs))))
        return self._named(node, func(*args, **kwargs))

    def _named(self, node: torch.fx.Node, result: Any) -> Any:
        """Binds the tensors of a result to the node that makes them."""
        self._describe(node, result)
        match result:
            case torch.Tensor():
                self._bind(result, node)
            case tuple() | list() if result:
                for index, part in enumerate(result):
                    if isinstance(part, torch.Tensor):
                        getter = self.graph.call_function(operator.getitem, (node, index))
                        self._describe(getter, part)
                        self._bind(part, getter)
                    elif part is not None:
                        raise _GiveUp
            case _:
                raise _GiveUp
        return result

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
        """A call that writes to its first argument and returns it: its node is the new value's.

        Raises:
            _GiveUp: it writes to another one, or to memory that another tensor shows.
        """
        functional = _functional(func)
        target = args[0]
        known = len(self._kept)
        place = _storage(target)
        visible = (*_tensors(list(self._step.environment.values())), *self._step.made)
        if place in self._inputs or any(x is not target and _storage(x) == place for x in visible):
            raise _GiveUp
        with self:
            value = functional(*args, **kwargs)
            if value.dtype is not target.dtype or value.shape != target.shape:
                raise _GiveUp
            if self._first[_storage(value)] < known:
                value = torch.ops.aten.clone.default(value)
        node = self._nodes[id(value)]
        self._describe(node, target)
        self._bind(target, node)
        return target

    def _noted(self, arguments: Any) -> Any:
        """Arguments with nodes in place of tensors."""
        match arguments:
            case torch.Tensor():
                found = self._nodes.get(id(arguments))
                return self._constant(arguments) if found is None else found
            case tuple() | list():
                return type(arguments)(self._noted(a) for a in arguments)
            case dict():
                return {k: self._noted(a) for k, a in arguments.items()}
            case torch.SymFloat() | torch.SymBool():
                raise _GiveUp
            case _:
                return arguments

    def _constant(self, tensor: torch.Tensor) -> torch.fx.Node:
        """A tensor that the graph's own numbers make up, as ``torch.tensor`` does."""
        if type(tensor) is not torch.Tensor:
            raise _GiveUp
        name = f"_tensor_constant{len(self.constants)}"
        self.constants[name] = tensor
        node = self.graph.create_node("get_attr", name)
        self._bind(tensor, node)
        return node

    def _describe(self, node: torch.fx.Node, value: Any) -> None:
        node.meta["val"] = value
        node.meta["stack_trace"] = self._step.trace

    def _bind(self, tensor: torch.Tensor, node: torch.fx.Node) -> None:
        self._first.setdefault(_storage(tensor), len(self._kept))
        self._kept.append(tensor)
        self._step.made.append(tensor)
        self._nodes[id(tensor)] = node


def _functional(func: Any) -> Any:
    """The overload that returns what another one writes to its first argument.

    Raises:
        _GiveUp: there is none, or it writes to another argument, too.
    """
    schema = func._schema  # noqa: SLF001
    written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    packet = getattr(torch.ops.aten, func.overloadpacket.__name__.removesuffix("_"), None)
    found = getattr(packet, func._overloadname, None)  # noqa: SLF001
    if (
        func.namespace != "aten"
        or written != [True] + [False] * (len(written) - 1)
        or len(schema.returns) != 1
        or not isinstance(found, OpOverload)
        or found is func
        or found._schema.is_mutable  # noqa: SLF001
        or len(found._schema.returns) != 1  # noqa: SLF001
        or [a.name for a in found._schema.arguments] != [a.name for a in schema.arguments]  # noqa: SLF001
    ):
        raise _GiveUp
    return found


def _is_certain(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether shapes tell a call's result, although its overload is one of ``_STATES``.

    One that indexes with numbers, not masks, or that would drop elements, but with a probability
    of 0 or not in training.
    """
    if func is torch.ops.aten.index.Tensor:
        return all(x.dtype not in (torch.bool, torch.uint8) for x in _tensors(args[1]))
    names = [a.name for a in func._schema.arguments]  # noqa: SLF001
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if func in _DROPPING:
        return bool(given.get(_DROPPING[func], 0.0) == 0.0 or given.get("train") is False)
    return False


def _storage(tensor: torch.Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata  # noqa: SLF001
    return place


def _tensors(values: Any) -> list[torch.Tensor]:
    """The tensors among values and in lists of them."""
    match values:
        case torch.Tensor():
            return [values]
        case tuple() | list():
            return [x for value in values for x in _tensors(value)]
        case _:
            return []
