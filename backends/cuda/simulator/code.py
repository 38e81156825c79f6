"""A function made ready to run: basic blocks of steps, and what follows each of them.

Calls are expanded in place. Every operand that is read is a slot of the register file: registers,
literals, special registers and addresses of variables alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from .batch import Batch
from .faults import PtxError
from .memory import FIRST_OFFSET, Region
from .parser import literal_bits
from .ptx import (
    Address,
    Function,
    Immediate,
    Instruction,
    Module,
    Negated,
    Operand,
    Register,
    Sink,
    Special,
    Symbol,
    Variable,
    Vector,
)
from .scalars import SCALARS, UNSIGNED, Array, Scalar

Step: TypeAlias = Callable[[Batch], None]
"""One instruction, as a change of the batch."""

CLOCKS = frozenset({"clock", "clock64", "clock_hi", "globaltimer"})
"""Special registers that change as time goes by."""
EXIT = -1
"""The number of the block after the end of a thread."""


@dataclass(frozen=True, slots=True)
class Jump:
    """All lanes go to one block."""

    target: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Lanes where the predicate (or its negation) holds go to ``taken``, the others go on."""

    predicate: int
    negated: bool
    taken: int
    other: int


@dataclass(frozen=True, slots=True)
class Indirect:
    """Each lane goes to the block of the list that its register counts."""

    index: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Barrier:
    """Lanes wait for others of their block, then go on.

    Attributes:
        number: slot of the barrier's number.
        count: slot of how many threads take part; None: all of the block.
        arrive: lanes do not wait themselves.
        reduction: (operation, slot of the predicate, negated, slot of the result), if any.
    """

    number: int
    count: int | None
    arrive: bool
    target: int
    instruction: Instruction
    reduction: tuple[str, int, bool, int] | None = None


End: TypeAlias = Jump | Branch | Indirect | Barrier


@dataclass(frozen=True, slots=True)
class Gate:
    """Lanes of a warp go on only together with those in the mask of the instruction.

    Attributes:
        mask: slot of the mask; None: the whole warp.
    """

    mask: int | None
    instruction: Instruction


@dataclass(slots=True)
class Block:
    """Instructions that are executed one after another.

    Attributes:
        mix: how many of each instruction it has.
        first, last: the instructions it starts and ends with, for messages.
    """

    steps: tuple[Step, ...]
    end: End
    gate: Gate | None
    mix: Mapping[str, int]
    first: Instruction
    last: Instruction


@dataclass(slots=True)
class Program:
    """A kernel, ready to run.

    Attributes:
        initial: what every slot holds at first.
        specials: the slots of special registers.
        shared, local: the variables of a block and of a thread.
        shared_bytes: of the static part of shared memory, without the guard zones.
        dynamic: where the dynamic part of shared memory starts; -1 where there is none.
        cell, global_cell: the width in bytes of the narrowest access that may touch shared and
            global memory.
        facts: which kinds of instruction there are (``fence``, ``warp barrier``, ``counted
            barrier``).
    """

    function: Function
    blocks: list[Block]
    initial: list[Array]
    specials: dict[str, int]
    shared: list[Region]
    local: list[Region]
    shared_bytes: int
    dynamic: int
    cell: int
    global_cell: int
    facts: frozenset[str]


@dataclass(slots=True)
class Frame:
    """One expansion of a function: where its registers are, and what its parameters stand for."""

    function: Function
    base: int
    number: int
    outer: Frame | None
    cells: dict[str, tuple[int, str]] = field(default_factory=dict)

    def cell(self, name: str) -> tuple[int, str]:
        """The place of a parameter that is passed between functions."""
        return self.cells.get(name, (self.number, name))


class Assembly:
    """What the semantics of an instruction are built with: slots for its operands.

    Attributes:
        frame: the function that the instruction stands in.
    """

    def __init__(self, module: Module, entry: Function, addresses: Mapping[str, int]) -> None:
        self.module = module
        self.entry = entry
        self.addresses = addresses
        self.initial: list[Array] = []
        self.specials: dict[str, int] = {}
        self.constants: dict[tuple[int, int], int] = {}
        self.facts: set[str] = set()
        self.cell = 16
        self.global_cell = 16
        self.shared: list[Region] = []
        self.local: list[Region] = []
        self.dynamic: Region | None = None
        self._cells: dict[tuple[int, str, int, int], int] = {}
        self._tops = {"shared": FIRST_OFFSET, "local": FIRST_OFFSET}
        self._places: dict[tuple[str, str], int] = {}
        self._offsets: dict[str, int] = {}
        for parameter in entry.parameters:
            start = sum_aligned(self._offsets.get("", 0), parameter.align)
            self._offsets[parameter.name] = start
            self._offsets[""] = start + parameter.size
        self.frame = self.enter(entry, None)
        self.instruction: Instruction
        self.carry = self.slot(SCALARS["b8"])
        self._place_shared()

    def enter(self, function: Function, outer: Frame | None) -> Frame:
        """Makes room for the registers of one more function."""
        frame = Frame(function, len(self.initial), len(self.initial), outer)
        for scalar in function.registers:
            self.slot(scalar)
        return frame

    def slot(self, scalar: Scalar) -> int:
        """A new slot that holds zero."""
        self.initial.append(np.asarray(scalar.raw.type(0))[()])
        return len(self.initial) - 1

    def fail(self, message: str, code: str = "TW-E1012") -> PtxError:
        """An error of the instruction at hand: by default that it is not modelled."""
        return PtxError(
            f"`{self.instruction.text}`: {message}", code=code, line=self.instruction.line
        )

    def constant(self, bits: int, width: int) -> int:
        """The slot of a constant of so many bits."""
        bits &= (1 << width) - 1
        key = (bits, width)
        if key not in self.constants:
            self.constants[key] = len(self.initial)
            self.initial.append(UNSIGNED[width].type(bits))
        return self.constants[key]

    def register(self, register: Register, scalar: Scalar, *, wider: bool) -> int:
        """The slot of a register, which must be as wide as the type; wider, where that is allowed.

        Raises:
            PtxError: it is not (TW-E1012).
        """
        bits = register.scalar.bits
        if bits < scalar.bits or (bits > scalar.bits and not wider):
            raise self.fail(f"{register.name} has {bits} bits, and .{scalar.name} {scalar.bits}")
        return self.frame.base + register.number

    def read(self, operand: Operand, scalar: Scalar, *, wider: bool = False) -> int:
        """The slot of a source operand where a value of that type is wanted."""
        match operand:
            case Register():
                return self.register(operand, scalar, wider=wider)
            case Immediate():
                return self.constant(literal_bits(operand, scalar), scalar.bits)
            case Special(name):
                if name in CLOCKS:
                    raise self.fail(f"%{name} is modelled in mov only")
                if name not in self.specials:
                    self.specials[name] = self.slot(SCALARS["b32"])
                return self.specials[name]
            case Symbol(name, offset):
                return self.constant(self.address_of(name)[1] + offset, max(32, scalar.bits))
            case _:
                raise self.fail(f"{operand} is no source of type {scalar.name}")

    def predicate(self, operand: Operand) -> tuple[int, bool]:
        """The slot of a predicate and whether it is negated."""
        match operand:
            case Negated(register):
                return self.read(register, SCALARS["pred"]), True
            case Register() if operand.scalar.name == "pred":
                return self.read(operand, SCALARS["pred"]), False
            case Immediate(value=value):
                return self.constant(int(bool(value)), 1), False
            case _:
                raise self.fail(f"{operand} is no predicate")

    def write(self, operand: Operand, scalar: Scalar, *, wider: bool = False) -> int:
        """The slot of a destination."""
        match operand:
            case Register():
                return self.register(operand, scalar, wider=wider)
            case Sink():
                return self.slot(scalar)
            case _:
                raise self.fail(f"{operand} is no destination")

    def width(self, slot: int) -> int:
        """How many bits a slot holds."""
        dtype = self.initial[slot].dtype
        return 1 if dtype.kind == "b" else dtype.itemsize * 8

    def base(self, address: Address) -> tuple[int, int, str | None]:
        """(slot, constant offset, space of the variable if one is named) of an address."""
        match address.base:
            case Register() as register:
                return self.frame.base + register.number, address.offset, None
            case Immediate(value=value):
                return self.constant(int(value), 64), address.offset, None
            case Symbol(name, offset):
                space, place = self.address_of(name)
                return self.constant(place + offset + address.offset, 64), 0, space

    def parameter_offset(self, name: str) -> int | None:
        """Where a parameter of the entry starts; None if it is none."""
        if self.frame.outer is None and name:
            return self._offsets.get(name)
        return None

    def passed(self, name: str, offset: int, scalar: Scalar) -> int:
        """The slot of a part of a parameter that one function passes to another."""
        function = self.frame.function
        passes = [p.name for p in (*function.parameters, *function.results)]
        variable = function.variables.get(name)
        if name not in passes and (variable is None or variable.space != "param"):
            raise self.fail(f"there is no parameter {name}")
        number, owner = self.frame.cell(name)
        key = (number, owner, offset, scalar.bits)
        if key not in self._cells:
            self._cells[key] = self.slot(SCALARS[f"b{scalar.bits}"])
        return self._cells[key]

    def _place_shared(self) -> None:
        """Places the static part of shared memory, after which the dynamic part starts."""
        functions = [f for f in self.module.functions.values() if not f.entry or f is self.entry]
        named = {
            symbol.name
            for function in functions
            for instruction in function.instructions
            for symbol in _symbols(instruction)
        }
        tables = [self.module.variables, *(f.variables for f in functions)]
        for number, variables in enumerate(tables):
            for variable in variables.values():
                if variable.space == "shared" and variable.size and variable.name in named:
                    owner = "" if number == 0 else functions[number - 1].name
                    self._places[owner, variable.name] = self._place(variable)

    def address_of(self, name: str) -> tuple[str, int]:
        """(space, address) of a variable; places it where it is first used."""
        variable = self.frame.function.variables.get(name)
        owner = self.frame.function.name if variable is not None else ""
        variable = variable or self.module.variables.get(name)
        if variable is None:
            raise self.fail(f"there is no variable {name}", code="TW-E1011")
        if variable.space in ("global", "const"):
            return variable.space, self.addresses[name]
        if variable.space == "local":
            # Each expansion of a function has its own.
            owner = f"{owner} {self.frame.number}"
        key = (owner, name)
        if key not in self._places:
            self._places[key] = self._place(variable)
        return variable.space, self._places[key]

    def _place(self, variable: Variable) -> int:
        if variable.space not in ("shared", "local"):
            raise self.fail(f"the address of {variable.name} in .{variable.space} is not modelled")
        if variable.space == "shared" and not variable.size:
            # All of them are the same memory: what the launch asks for beyond the static part.
            if self.dynamic is None:
                start = sum_aligned(self._tops["shared"], 1024)
                self.dynamic = Region(variable.name, start, start)
            return self.dynamic.start
        start = sum_aligned(self._tops[variable.space], max(variable.align, 16))
        region = Region(f".{variable.space} {variable.name}", start, start + variable.size)
        regions = self.shared if variable.space == "shared" else self.local
        regions.append(region)
        # A guard zone of whole rows of banks keeps bank conflicts as they are without it.
        self._tops[variable.space] = sum_aligned(region.end, 128) + 128
        return start


def _symbols(instruction: Instruction) -> Iterator[Symbol]:
    for operand in instruction.operands:
        for part in operand.items if isinstance(operand, Vector) else (operand,):
            if isinstance(part, Symbol):
                yield part
            elif isinstance(part, Address) and isinstance(part.base, Symbol):
                yield part.base


def sum_aligned(number: int, align: int) -> int:
    """The number, rounded up to a multiple of ``align``."""
    return -(-number // align) * align
