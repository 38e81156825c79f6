"""Exports modules with ``torch.export``, and says where in the user's code it fails."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch._C import DispatchKey
from torch._decomp import global_decomposition_table
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from tilewright.errors import (
    Gap,
    ModelError,
    UnsupportedError,
    is_installed,
    is_users,
    line_text,
    user_line,
)


def export(
    module: torch.nn.Module, example_inputs: object, dynamic_shapes: object = None
) -> torch.export.ExportedProgram:
    """Exports a module; recurrent layers keep a symbolic number of steps.

    Args:
        example_inputs: a tuple of positional arguments, or a mapping of keyword arguments.
        dynamic_shapes: as ``torch.export.export`` takes it.

    Raises:
        UnsupportedError: a tensor that is given is not a dense array of numbers (TW-E0200).
        ModelError: what the module does depends on data (TW-E0163), or torch does not take it for
            another reason (TW-E0161); with the user's line where there is one.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, tuple | list):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    _refuse_what_is_not_dense(module, args, kwargs)
    try:
        with recurrent_shapes():
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise _refusal(type(module).__name__, error) from error


# ------------------------------------------------------------------ what went wrong


def _refuse_what_is_not_dense(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Names the inputs of kinds that torch.export fails on without saying which they are.

    Raises:
        UnsupportedError: there is one (TW-E0200).
    """
    found, _ = pytree.tree_flatten_with_path((args, dict(kwargs)))
    gaps = []
    for (_, *path), given in found:
        if not isinstance(given, torch.Tensor):
            continue
        kind = ""
        if given.is_nested:
            kind = "nested tensors; pad them, and give their lengths"
        elif given.is_quantized:
            kind = f"quantized tensors ({given.dtype}); give integers, scale and zero point apart"
        elif given.layout is not torch.strided:
            kind = f"tensors of layout {given.layout}"
        if kind:
            place = pytree.keystr(tuple(path))
            where = parameter_line(module.forward, path[0]) or user_line()
            named = f"input {place}" + (where and f" at {where}")
            gaps.append(Gap(f"the example input {place}: {kind}", (named,)))
    if gaps:
        raise UnsupportedError(gaps, model=type(module).__name__)


def parameter_line(function: Callable[..., Any], key: Any) -> str:
    """``path:12 `code``` of the user's line that declares a parameter; empty without one.

    Args:
        key: where the parameter stands, as pytree says it, or a name that begins with its own, as
            inputs of exported programs have.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        path = inspect.getsourcefile(function) or ""
        parameters = list(inspect.signature(function).parameters)
    except (OSError, TypeError, ValueError):  # it has no source, or no signature
        return ""
    if isinstance(key, pytree.SequenceKey):
        name = parameters[min(key.idx, len(parameters) - 1)] if parameters else ""
    else:
        text = str(key.key if isinstance(key, pytree.MappingKey) else key)
        name = max((p for p in parameters if f"{text}_".startswith(f"{p}_")), key=len, default="")
    if not name or is_installed(path):
        return ""
    numbered = enumerate(lines, first)
    found = ((n, code) for n, code in numbered if re.search(rf"\b{re.escape(name)}\b", code))
    return next((f"{path}:{n} `{code.strip()}`" for n, code in found), "")


def _refusal(name: str, error: Exception) -> ModelError:
    place = _user_line(error.__traceback__)
    where = place and f" at {place}"
    if any(isinstance(e, GuardOnDataDependentSymNode) for e in _chain(error)):
        return ModelError(
            f"{name}: its course or a size in it depends on the values of tensors{where}; use"
            f" torch.where, or compute what depends on data outside of the module",
            code="TW-E0163",
        )
    return ModelError(f"{name}: torch.export does not take it{where}: {error}", code="TW-E0161")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _user_line(trace: TracebackType | None) -> str:
    """The innermost line of a traceback that is in no installed package; empty without one."""
    found = ""
    outside = False
    while trace is not None:
        # Before the first frame of a library stands the caller of compile.
        if not is_users(trace.tb_frame):
            outside = True
        elif outside:
            found = line_text(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return found


# ------------------------------------------------------------------ recurrent layers


def _empty_results(
    x: Any,
    hx: Any,
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    """Tensors of the shapes that a recurrent layer returns, of any values."""
    states = (hx,) if isinstance(hx, torch.Tensor) else tuple(hx)
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), *(s.new_empty(s.shape) for s in states)


@contextlib.contextmanager
def recurrent_shapes() -> Iterator[None]:
    """Lets torch know the results' shapes of recurrent layers without going through the steps.

    Torch finds them by taking one step after the other, which makes the number of steps a
    constant. The layers themselves stand in an exported program as what they are.
    """
    table = global_decomposition_table["post_autograd"]
    aten = torch.ops.aten
    layers = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
    kernels = {o: _implement(o, _empty_results) for o in layers}
    decompositions = {o: table[o] for o in layers}
    table.update(dict.fromkeys(layers, _empty_results))
    try:
        yield
    finally:
        table.update(decompositions)
        for overload, kernel in kernels.items():
            _implement(overload, kernel)


def _implement(overload: Any, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Says what a composite overload does while tracing, and returns what it did."""
    before: Callable[..., Any] = overload.py_kernels.pop(DispatchKey.CompositeImplicitAutograd)
    overload.py_impl(DispatchKey.CompositeImplicitAutograd)(kernel)
    return before
