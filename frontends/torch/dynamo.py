"""The backend of torch.compile: what Dynamo captures, made functional and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NoReturn

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TensorifyScalarRestartAnalysis
from torch._functorch._aot_autograd.descriptors import (
    BufferAOTInput,
    ParamAOTInput,
    PlainAOTInput,
)
from torch._guards import CompileContext, TracingContext

from tilewright.errors import Gap, ModelError, TilewrightError, UnsupportedError
from tilewright.tensor.ir import Dim

from .capture import composites_kept, interval
from .equalities import settled
from .record import Recording, record
from .region import Compile, Region, Runner
from .results import results_of


def compile_captured(
    module: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    compile_graph: Compile,
    threads: int | None,
) -> Callable[..., Any]:
    """Compiles a graph of Dynamo and returns what to call in its place.

    Args:
        example_inputs: what the graph is called with the first time.
        compile_graph: makes native code of a Graph.
        threads: the most threads of a call; None: as many as torch uses at the call.

    Raises:
        UnsupportedError: what it needs is not all supported; lists every gap (TW-E0200), or asks
            for gradients (TW-E0250).
        ModelError: torch cannot state the graph in core operators (TW-E0162).
    """
    name = _name()
    _refuse_gradients(module, example_inputs, name)
    _equate_attended(module)
    recording = record(module, example_inputs)
    if recording is not None:
        return _compile_recorded(recording, name, example_inputs, compile_graph, threads)
    made: list[tuple[Runner, list[Any]]] = []

    def inference(inner: torch.fx.GraphModule, inner_inputs: Sequence[Any]) -> Runner:
        steady = _steady(inner, module, example_inputs)
        region = Region(
            inner, name, _symbols(inner), frozenset(steady), results_of(inner.graph), threads
        )
        runner = Runner(region, compile_graph)
        made.append((runner, [steady.get(i) for i in range(len(inner_inputs))]))
        return runner

    try:
        with composites_kept() as table:
            compiled: Callable[..., Any] = aot_autograd(
                fw_compiler=_refuse_training(name), inference_compiler=inference,
                decompositions=table,
            )(module, example_inputs)  # fmt: skip
    except (TilewrightError, TensorifyScalarRestartAnalysis):
        raise
    except Exception as error:
        # Dynamo would run the graph in eager mode for some of torch's own exceptions.
        raise ModelError(
            f"{name}: torch cannot state the graph in core operators: {error}", code="TW-E0162"
        ) from error
    for runner, inputs in made:
        runner.variant(inputs)
    return compiled


def _compile_recorded(
    recording: Recording,
    name: str,
    example_inputs: Sequence[Any],
    compile_graph: Compile,
    threads: int | None,
) -> Callable[..., Any]:
    """Compiles a graph that is functional as it is."""
    given = (*recording.held, *example_inputs)
    steady = {i for i in recording.steady if _is_constant(given[i])}
    region = Region(
        recording.module, name, _symbols(recording.module), frozenset(steady), recording.results,
        threads,
    )  # fmt: skip
    runner = Runner(region, compile_graph)
    runner.variant([x if i in steady else None for i, x in enumerate(given)])

    def call(*args: Any) -> Sequence[Any]:
        return runner([*recording.held, *args])

    return call


def _equate_attended(module: torch.fx.GraphModule) -> None:
    """Has torch guard that sizes are equal which attention takes for equal.

    Torch finds the shape of an attention's result without looking at whether as many values as
    keys were given, say: caches of keys and of values that grow would have lengths of their own.
    """
    attention = torch.nn.functional.scaled_dot_product_attention
    for node in module.graph.find_nodes(op="call_function", target=attention):
        named = dict(zip(("query", "key", "value", "attn_mask"), node.args, strict=False))
        named |= node.kwargs
        shapes = {
            name: given.meta["example_value"].shape
            for name, given in named.items()
            if isinstance(given, torch.fx.Node) and "example_value" in given.meta
        }
        query, key, value, mask = map(shapes.get, ("query", "key", "value", "attn_mask"))
        if query is None or key is None or value is None:
            continue
        pairs = [*zip(query[:-2], key[:-2], strict=False), (query[-1], key[-1])]
        pairs += zip(key[:-1], value[:-1], strict=False)
        if mask is not None:
            pairs += zip(mask[:-2], query[:-2], strict=False)
            pairs += [(mask[-1], key[-2]), *zip(mask[-2:-1], query[-2:-1], strict=True)]
        for a, b in pairs:
            if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
                bool(a == b)  # to ask is to guard


def _is_constant(tensor: Any) -> bool:
    """Whether a parameter or buffer is a tensor of torch's own, writes to which are counted."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_inference()


def _name() -> str:
    """What Dynamo calls the graph in its logs."""
    found = CompileContext.current_compile_id()
    return "graph" if found is None else f"graph {found}"


def _refuse_gradients(module: Any, example_inputs: Sequence[Any], name: str) -> None:
    """Requires that no result would carry gradients.

    Raises:
        UnsupportedError: one would (TW-E0250).
    """
    if not torch.is_grad_enabled():
        return
    (outputs,) = module.graph.find_nodes(op="output")[0].args
    results = [o.meta.get("example_value") for o in outputs if isinstance(o, torch.fx.Node)]
    if not any(isinstance(r, torch.Tensor) and r.requires_grad for r in results):
        return
    inputs = zip(module.graph.find_nodes(op="placeholder"), example_inputs, strict=False)
    names = [n.name for n, x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    raise _no_gradients(name, names or ["the graph's own tensors"])


def _refuse_training(name: str) -> Callable[..., NoReturn]:
    """A compiler for forward and backward graphs, which refuses them."""

    def refuse(*_: Any) -> NoReturn:
        raise _no_gradients(name, ["the graph"])

    return refuse


def _no_gradients(name: str, names: Sequence[str]) -> UnsupportedError:
    gap = Gap(
        "gradients: call it under torch.no_grad() or torch.inference_mode(); what requires them",
        tuple(names),
    )
    return UnsupportedError([gap], code="TW-E0250", model=name)


def _steady(
    inner: torch.fx.GraphModule, module: torch.fx.GraphModule, example_inputs: Sequence[Any]
) -> dict[int, torch.Tensor]:
    """The parameters and buffers that the graph does not write to, by the argument's position.

    Dynamo gives them as inputs, or (where Inductor is set to freeze them) as the module's own.
    """
    context = TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    if metadata is None:
        return {}
    static = set(metadata.static_input_indices) - set(metadata.mutated_inp_runtime_indices)
    found = {}
    for position, node in enumerate(inner.graph.find_nodes(op="placeholder")):
        source = node.meta.get("desc")
        tensor: Any = None
        if position in static and isinstance(source, PlainAOTInput):
            tensor = example_inputs[source.idx]
        elif position in static and isinstance(source, ParamAOTInput | BufferAOTInput):
            tensor = attrgetter(source.target)(module)
        if _is_constant(tensor):
            found[position] = tensor
    return found


def _symbols(inner: Any) -> Mapping[str, Dim]:
    """The sizes that may differ from call to call, with the ranges that Dynamo guards."""
    for node in inner.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        number = value.node if isinstance(value, torch.SymInt) else None
        mode = getattr(value, "fake_mode", None)
        environment = number.shape_env if number else mode and mode.shape_env
        if environment is not None:
            found = {
                str(symbol): interval(str(symbol), values)
                for symbol, values in environment.var_to_range.items()
                if symbol in environment.backed_var_to_val
            }
            guards = (environment.replace(g.expr) for g in environment.guards)
            return settled(found, guards)
    return {}
