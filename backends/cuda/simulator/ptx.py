"""A PTX module as data: functions, variables, instructions and their operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .scalars import Scalar

Space = Literal["generic", "global", "shared", "local", "const", "param"]


@dataclass(frozen=True, slots=True)
class Register:
    """A virtual register of a function, by number."""

    name: str
    number: int
    scalar: Scalar


@dataclass(frozen=True, slots=True)
class Special:
    """A read-only register of the machine (``%tid.x``), named without the percent sign."""

    name: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A literal: an integer, a decimal fraction, or the bits of an f32 or f64."""

    value: int | float
    form: Literal["integer", "decimal", "f32", "f64"]


@dataclass(frozen=True, slots=True)
class Symbol:
    """The address of a variable, or the name of a function, parameter or list of labels."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """A place in a function: the number of the instruction that follows."""

    name: str
    target: int


@dataclass(frozen=True, slots=True)
class Address:
    """A place in memory: ``[base+offset]``."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True, slots=True)
class Vector:
    """Several operands in braces, or in the parentheses of a call."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two destinations, ``%r1|%p1``; either may be a sink."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Negated:
    """``!%p1``."""

    register: Register


@dataclass(frozen=True, slots=True)
class Sink:
    """``_``: a result that nobody wants."""


Operand: TypeAlias = (
    Register | Special | Immediate | Symbol | Label | Address | Vector | Pair | Negated | Sink
)


@dataclass(frozen=True, slots=True)
class Guard:
    """``@%p1`` or ``@!%p1``: in which lanes an instruction is executed."""

    register: Register
    negated: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: the part before the first dot.
        modifiers: the parts after it, in order.
        line, text: where it stands in the PTX and what is written there.
    """

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Guard | None
    line: int
    text: str

    def has(self, *modifiers: str) -> bool:
        """Whether any of the modifiers is there."""
        return any(m in self.modifiers for m in modifiers)


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared piece of memory.

    Attributes:
        size: in bytes; 0 for the dynamic part of shared memory.
        initial: the bytes it starts with; None where it starts without.
    """

    name: str
    space: Space
    align: int
    size: int
    initial: bytes | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; ``scalar`` is that of an element where ``size`` is more than it takes."""

    name: str
    scalar: Scalar
    align: int
    size: int


@dataclass(frozen=True, slots=True)
class Function:
    """An entry, or a function that entries call.

    Attributes:
        registers: the type of every virtual register, by number.
        variables: memory declared in it, by name.
        lists: targets of indirect branches, by name.
        block_limit: the most threads a block may have (``.maxntid``, ``.reqntid``); None: any.
    """

    name: str
    entry: bool
    parameters: tuple[Parameter, ...]
    results: tuple[Parameter, ...]
    registers: tuple[Scalar, ...]
    variables: Mapping[str, Variable]
    instructions: tuple[Instruction, ...]
    lists: Mapping[str, tuple[Label, ...]]
    line: int
    block_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A PTX file.

    Attributes:
        version: of PTX, as (major, minor).
        target: ``sm_80``.
        functions: those with a body, by name.
        variables: those outside functions, by name.
    """

    version: tuple[int, int]
    target: str
    functions: Mapping[str, Function]
    variables: Mapping[str, Variable] = field(default_factory=dict)
