"""The program IR: what runs at inference, as kernel calls over planned memory.

A program is straight-line steps with structured branches and loops. It names kernels but does not
hold them; a backend turns it into one native entry. Everything is immutable; of what deep models
have thousands of, the type checker alone sees to that (see graph/ir.py). Offsets and sizes are in
bytes; the ones that depend on symbolic dims are i64 expressions, evaluated natively.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..dtype import DType
from ..tensor.ir import Dim, Expr, Var
from ..tensor.text import text

ALIGNMENT = 64
"""Every constant and every arena buffer starts at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True)
class InputStorage:
    """The memory of input ``index``: the caller's, aligned to its element, never written."""

    index: int


@dataclass(frozen=True, slots=True)
class OutputStorage:
    """``offset`` bytes into the memory of output ``index``, the caller's after the call.

    That is fresh and 64-byte aligned.
    """

    index: int
    offset: int = 0


@dataclass(slots=True, unsafe_hash=True)
class ConstantStorage:
    """``offset`` bytes into the read-only constants."""

    offset: Final[int]


@dataclass(slots=True, unsafe_hash=True)
class ArenaStorage:
    """``offset`` bytes into the call's own scratch memory; reused once its tensor is dead."""

    offset: Final[Dim]


Storage = InputStorage | OutputStorage | ConstantStorage | ArenaStorage


@dataclass(slots=True, unsafe_hash=True)
class Tensor:
    """A dense row-major array somewhere in the program's memory.

    Attributes:
        name: for people; need not be unique (a view may share its base's name).
        dtype, shape: the elements; dims may use symbols, elements read before and the variables
            of the loops around.
        storage: where element 0 is.
    """

    name: Final[str]
    dtype: Final[DType]
    shape: Final[tuple[Dim, ...]]
    storage: Final[Storage]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a caller must know of an input or output: ``exe.inputs``, ``exe.outputs``.

    Attributes:
        name: the source model's name.
        dtype, shape: the elements; a dim is an int or an expression over symbols with ranges.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(_short, self.shape))}]"


@dataclass(slots=True, unsafe_hash=True)
class CallKernel:
    """Calls a kernel with pointers and i64 values, in the kernel's parameter order."""

    kernel: Final[str]
    args: Final[tuple[Tensor | Dim, ...]]


@dataclass(frozen=True, slots=True)
class CopyTensor:
    """Copies all elements of ``src`` to ``dst``, of equal size and not overlapping."""

    dst: Tensor
    src: Tensor


@dataclass(frozen=True, slots=True)
class LetElement:
    """Binds ``var`` to element ``index`` (row-major) of an i64 tensor, for the rest of its block.

    A value outside the range that ``var`` declares ends the call with an error.

    Attributes:
        failure: what the error says; empty for a size that is out of range.
    """

    var: Var
    tensor: Tensor
    index: int
    failure: str = ""


@dataclass(frozen=True, slots=True)
class IfStep:
    """Runs ``then`` where the first byte of the bool tensor ``cond`` is not 0, else ``orelse``."""

    cond: Tensor
    then: tuple[Step, ...]
    orelse: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopStep:
    """Runs ``body`` for ``var`` = 0, 1, ... below ``trip``, in order."""

    var: Var
    trip: Dim
    body: tuple[Step, ...]


Step = CallKernel | CopyTensor | LetElement | IfStep | LoopStep


@dataclass(frozen=True, slots=True)
class Program:
    """A whole model: its interface, its memory and its steps.

    Attributes:
        name: an identifier.
        inputs, outputs: in calling order. A symbol that is by itself a dim of an input is bound
            by it; every other input dim is checked against the bound symbols.
        symbols: all symbols of the interface, in the order of the entry's ``dims`` array.
        steps: what to run.
        arena_bytes: scratch memory of one call; an expression over ``symbols``.
        constants_bytes: size of the read-only constants.
        conditions: bool expressions over ``symbols`` that every call must fulfil.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[Var, ...]
    steps: tuple[Step, ...]
    arena_bytes: Dim = 0
    constants_bytes: int = 0
    conditions: tuple[Expr, ...] = ()


def _short(d: Dim) -> str:
    return str(d) if isinstance(d, int) else text(d)


def walk_steps(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Yields every step in program order, a branch or loop before the steps inside it."""
    pending = list(reversed(steps))
    while pending:
        step = pending.pop()
        yield step
        match step:
            case IfStep():
                pending.extend(reversed((*step.then, *step.orelse)))
            case LoopStep():
                pending.extend(reversed(step.body))


def kernel_names(program: Program) -> tuple[str, ...]:
    """The kernels that a program calls, each once, in order of first call."""
    return tuple(
        dict.fromkeys(s.kernel for s in walk_steps(program.steps) if isinstance(s, CallKernel))
    )
