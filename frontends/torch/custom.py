"""Kernels of users' own as operators of torch's, in eager mode and in captured programs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from tilewright.errors import Gap, OptionError, UnsupportedError, first_line
from tilewright.graph.ir import Value
from tilewright.ops.kernel import group_of
from tilewright.tensor.compute import ComputeGroup
from tilewright.tensor.ir import Binary, Const, Dim, Var
from tilewright.tensor.solve import sources

from ..kernel import Kernel
from .context import Context, Converter
from .types import TO_TORCH

_SCHEMA: Mapping[type, str] = {int: "int", float: "float", bool: "bool", str: "str"}
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul,
    "floordiv": operator.floordiv, "mod": operator.mod, "min": torch.sym_min,
    "max": torch.sym_max,
}  # fmt: skip


REGISTERED: dict[str, Kernel] = {}
"""The kernels that are operators now, by overload: torch, too, keeps one table for a process."""


def register(name: str, kernel: Kernel) -> Any:
    """Registers a kernel as ``torch.ops.NAMESPACE.NAME``, for tensors of the CPU.

    Raises:
        OptionError: torch does not take the name (TW-E0826).
    """

    lacking = sorted(kernel.statics.keys() - kernel.defaults.keys())
    if lacking:
        raise OptionError(
            f"{kernel.name}: to be an operator of torch's, {lacking[0]} must have a default",
            code="TW-E0826",
        )

    def run(*tensors: Any, **statics: Any) -> Any:
        results = kernel(*(t.detach() for t in tensors), **statics)
        return list(results) if isinstance(results, tuple) else results

    def fake(*tensors: Any, **statics: Any) -> Any:
        _, attrs = kernel.node(statics)
        return _fake_results(group_of(str(attrs["stages"])), tensors)

    def refuse(*_: Any) -> NoReturn:
        gap = Gap("gradients of a kernel: call it under torch.no_grad()", (name,))
        raise UnsupportedError([gap], code="TW-E0251", model=kernel.name)

    try:
        made = torch.library.custom_op(
            name, run, mutates_args=(), device_types="cpu", schema=_schema(kernel)
        )
        made.register_fake(fake)
        made.register_autograd(refuse)
    except Exception as error:
        # torch has several types of errors for names that it does not take.
        first = first_line(error)
        raise OptionError(f"{kernel.name}: torch does not take it as {name!r}: {first}",
                          code="TW-E0826") from error  # fmt: skip
    REGISTERED[f"{name.replace('::', '.')}.default"] = kernel
    return made


def converter_of(overload: str) -> Converter | None:
    """What states a registered kernel in a graph; None for any other overload."""
    kernel = REGISTERED.get(overload)
    if kernel is None:
        return None

    def convert(ctx: Context, *operands: Value, **statics: Any) -> Any:
        op, attrs = kernel.node(statics)
        results = ctx.ops(op, *operands, **attrs)
        return results[0] if len(results) == 1 else results

    return convert


def _schema(kernel: Kernel) -> str:
    """The operands in order, the other parameters by name."""
    parts = [f"Tensor {n}" for n in kernel.operands]
    if kernel.statics:
        parts.append("*")
    for name, kind in kernel.statics.items():
        default = kernel.defaults.get(name)
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        parts.append(f"{_SCHEMA[kind]} {name}={shown}")
    _, attrs = kernel.node(dict(kernel.defaults))
    several = len(group_of(str(attrs["stages"])).outputs) > 1
    return f"({', '.join(parts)}) -> {'Tensor[]' if several else 'Tensor'}"


def _fake_results(group: ComputeGroup, tensors: Sequence[Any]) -> Any:
    """Tensors without data of the results' types; demands what the shapes must fulfil."""
    values: dict[Var, Any] = {}
    for buffer, tensor in zip(group.inputs, tensors, strict=True):
        if tensor.dtype != TO_TORCH[buffer.dtype] or tensor.ndim != len(buffer.shape):
            raise TypeError(
                f"{buffer.name} is {buffer.dtype} of {len(buffer.shape)} dims, got {tensor}"
            )
    for symbol, source in sources([b.shape for b in group.inputs]).items():
        size = tensors[source.index].shape[source.axis] - _size(source.rest, values)
        values[symbol] = size if source.factor == 1 else size // source.factor
    for buffer, tensor in zip(group.inputs, tensors, strict=True):
        # Where a size is symbolic, asking makes it a condition of the captured program.
        if any(n != _size(d, values) for d, n in zip(buffer.shape, tensor.shape, strict=True)):
            raise ValueError(
                f"{buffer.name}: its shape {tuple(tensor.shape)} does not fit the others"
            )
    results = [
        tensors[0].new_empty([_size(d, values) for d in b.shape], dtype=TO_TORCH[b.dtype])
        for b in group.outputs
    ]
    return results[0] if len(results) == 1 else results


def _size(d: Dim, values: Mapping[Var, Any]) -> Any:
    """A dim at sizes that may be symbolic."""
    match d:
        case int():
            return d
        case Const():
            return int(d.value)
        case Var():
            return values[d]
        case Binary() if d.op in _OPERATORS:
            return _OPERATORS[d.op](_size(d.a, values), _size(d.b, values))
    raise TypeError(f"not a dim: {d!r}")
