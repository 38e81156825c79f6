"""From the instructions of an entry to basic blocks of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .batch import Batch
from .code import (
    EXIT,
    Assembly,
    Barrier,
    Block,
    Branch,
    End,
    Frame,
    Gate,
    Indirect,
    Jump,
    Program,
    Step,
    sum_aligned,
)
from .ptx import Function, Guard, Instruction, Label, Module, Operand, Symbol, Vector
from .scalars import SCALARS
from .semantics import build
from .semantics.warp import member_mask

_ENDS = frozenset({"bra", "brx", "ret", "exit"})
_DEPTH = 32


@dataclass(frozen=True, slots=True)
class _Line:
    """An instruction with the expansion that it stands in."""

    frame: Frame
    instruction: Instruction


def assemble(module: Module, entry: Function, addresses: Mapping[str, int]) -> Program:
    """Makes an entry ready to run.

    Args:
        addresses: where the module's global and constant variables are.

    Raises:
        PtxError: an instruction is not modelled (TW-E1012), a name is not known (TW-E1011).
    """
    return _Assembler(Assembly(module, entry, addresses)).program()


class _Assembler:
    def __init__(self, code: Assembly) -> None:
        self.code = code
        self.lines: list[_Line] = []
        # Where the instruction of a frame came to stand.
        self.places: dict[tuple[int, int], int] = {}
        self.numbers: dict[int, int] = {}

    def program(self) -> Program:
        code = self.code
        self.expand(code.frame, 0)
        starts = self.starts()
        self.numbers = {at: number for number, at in enumerate(starts)}
        ends = [*starts[1:], len(self.lines)]
        blocks = [self.block(a, b) for a, b in zip(starts, ends, strict=True)]
        shared_bytes = 0
        for region in code.shared:
            shared_bytes = sum_aligned(shared_bytes, 16) + region.bytes
        return Program(
            function=code.entry,
            blocks=blocks,
            initial=code.initial,
            specials=code.specials,
            shared=code.shared,
            local=code.local,
            shared_bytes=shared_bytes,
            dynamic=-1 if code.dynamic is None else code.dynamic.start,
            cell=code.cell,
            global_cell=code.global_cell,
            facts=frozenset(code.facts),
        )

    def expand(self, frame: Frame, depth: int) -> None:
        """Appends the lines of a function, and of those it calls in place of the calls."""
        for number, instruction in enumerate(frame.function.instructions):
            self.places[frame.number, number] = len(self.lines)
            if instruction.opcode == "call":
                self.call(frame, instruction, depth)
            else:
                self.lines.append(_Line(frame, instruction))
        self.places[frame.number, len(frame.function.instructions)] = len(self.lines)

    def call(self, frame: Frame, instruction: Instruction, depth: int) -> None:
        code = self.code
        code.instruction = instruction
        results, name, arguments = _call_parts(instruction.operands)
        function = code.module.functions.get(name)
        if function is None:
            raise code.fail(f"there is no function {name} with a body")
        if depth == _DEPTH:
            raise code.fail("calls are nested too deeply, or recursive")
        if instruction.guard is not None:
            raise code.fail("calls under a predicate are not modelled")
        inner = code.enter(function, frame)
        for parameters, names in ((function.results, results), (function.parameters, arguments)):
            if len(parameters) != len(names):
                raise code.fail(f"{name} has {len(parameters)} parameters, not {len(names)}")
            for parameter, given in zip(parameters, names, strict=True):
                inner.cells[parameter.name] = frame.cell(given)
        self.expand(inner, depth + 1)

    def starts(self) -> list[int]:
        """Where blocks start: at targets, after ends, and around barriers."""
        found = {0}
        synchronised = False
        for at, line in enumerate(self.lines):
            instruction = line.instruction
            if at in found:
                synchronised = False
            if instruction.opcode in _ENDS:
                found.add(at + 1)
                found |= {self.target(line.frame, label) for label in self.labels(line)}
                if instruction.opcode == "ret":
                    found.add(self.end_of(line.frame))
            elif is_barrier(instruction):
                found |= {at, at + 1}
        # Lanes of a warp meet before the first instruction that they execute together.
        for at, line in enumerate(self.lines):
            if at in found:
                synchronised = False
            if is_synchronised(line.instruction) and not synchronised:
                found.add(at)
                synchronised = True
        return sorted(at for at in found if at < len(self.lines))

    def labels(self, line: _Line) -> list[Label]:
        found = [o for o in line.instruction.operands if isinstance(o, Label)]
        for operand in line.instruction.operands:
            if isinstance(operand, Symbol):
                found += line.frame.function.lists.get(operand.name, ())
        return found

    def target(self, frame: Frame, label: Label) -> int:
        return self.places[frame.number, label.target]

    def end_of(self, frame: Frame) -> int:
        return self.places[frame.number, len(frame.function.instructions)]

    def number(self, at: int) -> int:
        """The block that starts there."""
        return self.numbers.get(at, EXIT)

    def block(self, start: int, end: int) -> Block:
        code = self.code
        steps: list[Step] = []
        after: End = Jump(self.number(end))
        mix: Counter[str] = Counter()
        gate = None
        for at in range(start, end):
            line = self.lines[at]
            instruction = line.instruction
            code.instruction, code.frame = instruction, line.frame
            mix[_name(instruction)] += 1
            if instruction.opcode in _ENDS:
                after = self.finish(line, at)
            elif is_barrier(instruction):
                after = self.barrier(line, at)
            else:
                if at == start and is_synchronised(instruction):
                    gate = self.gate(instruction)
                steps.append(self.step(instruction))
        first, last = self.lines[start].instruction, self.lines[end - 1].instruction
        return Block(tuple(steps), after, gate, mix, first, last)

    def step(self, instruction: Instruction) -> Step:
        step = build(self.code, instruction)
        if instruction.guard is None:
            return step
        return guarded(self.predicate(instruction.guard), instruction.guard.negated, step)

    def predicate(self, guard: Guard) -> int:
        return self.code.read(guard.register, SCALARS["pred"])

    def gate(self, instruction: Instruction) -> Gate | None:
        if instruction.guard is not None:
            return None
        mask = member_mask(instruction)
        return Gate(None if mask is None else self.code.read(mask, SCALARS["b32"]), instruction)

    def finish(self, line: _Line, at: int) -> End:
        """What follows a branch or an end."""
        instruction = line.instruction
        match instruction.opcode:
            case "brx":
                slot = self.code.read(instruction.operands[0], SCALARS["u32"])
                targets = tuple(self.number(self.target(line.frame, t)) for t in self.labels(line))
                return Indirect(slot, targets)
            case "bra":
                target = self.number(self.target(line.frame, self.labels(line)[0]))
            case "ret" if line.frame.outer is not None:
                target = self.number(self.end_of(line.frame))
            case _:
                target = EXIT
        if instruction.guard is None:
            return Jump(target)
        guard = instruction.guard
        return Branch(self.predicate(guard), guard.negated, target, self.number(at + 1))

    def barrier(self, line: _Line, at: int) -> End:
        instruction = line.instruction
        code = self.code
        scalar = SCALARS["b32"]
        operands = list(instruction.operands)
        if instruction.guard is not None:
            raise code.fail("barriers under a predicate are not modelled")
        reduction = None
        if instruction.has("red"):
            predicate, negated = code.predicate(operands[-1])
            operation = next(m for m in instruction.modifiers if m in ("popc", "and", "or"))
            result = SCALARS["u32" if operation == "popc" else "pred"]
            reduction = (operation, predicate, negated, code.write(operands[0], result))
            operands = operands[1:-1]
        number = code.read(operands[0], scalar) if operands else code.constant(0, 32)
        count = code.read(operands[1], scalar) if len(operands) > 1 else None
        if count is not None:
            code.facts.add("counted barrier")
        arrive = instruction.has("arrive")
        return Barrier(number, count, arrive, self.number(at + 1), instruction, reduction)


def _call_parts(operands: tuple[Operand, ...]) -> tuple[list[str], str, list[str]]:
    """(names of results, function, names of arguments) of a call."""
    groups = [o for o in operands if isinstance(o, Vector)]
    names = [o for o in operands if isinstance(o, Symbol)]
    inner = [[o.name for o in group.items if isinstance(o, Symbol)] for group in groups]
    function = names[0].name if names else ""
    if isinstance(operands[0], Vector):
        return inner[0], function, inner[1] if len(inner) > 1 else []
    return [], function, inner[0] if inner else []


def _name(instruction: Instruction) -> str:
    return ".".join((instruction.opcode, *instruction.modifiers))


def is_barrier(instruction: Instruction) -> bool:
    """Whether lanes may wait there for other warps."""
    return instruction.opcode in ("bar", "barrier") and not instruction.has("warp", "cluster")


def is_synchronised(instruction: Instruction) -> bool:
    """Whether the lanes of a warp execute it together."""
    if is_barrier(instruction):
        return False
    return instruction.has("sync") and instruction.opcode not in ("barrier", "fence")


def guarded(predicate: int, negated: bool, step: Step) -> Step:
    """The step, in lanes where the predicate (or its negation) holds."""

    def run(batch: Batch) -> None:
        chosen = batch.r[predicate]
        if not chosen.ndim:
            if bool(chosen) != negated:
                step(batch)
            return
        chosen = ~chosen if negated else chosen
        mask = chosen if batch.active is None else chosen & batch.active
        count = np.count_nonzero(mask)
        if not count:
            return
        kept = batch.active, batch.merge
        batch.active = batch.merge = mask
        step(batch)
        batch.active, batch.merge = kept

    return run
