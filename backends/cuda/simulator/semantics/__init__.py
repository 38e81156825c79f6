"""What each instruction does: a table from opcodes to the makers of steps.

A newcomer adds an instruction by a function from (Assembly, Instruction) to a step in the file of
its family, and a line in that family's table.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..code import Assembly, Step
from ..ptx import Instruction
from .atomics import ATOMICS
from .convert import CONVERT
from .floating import FLOATING, single
from .integer import INTEGER
from .lanewise import Builder, type_of
from .loads import LOADS
from .logic import LOGIC
from .matrix import MATRIX
from .modifiers import check_modifiers
from .moves import MOVES
from .transfers import TRANSFERS
from .warp import WARPS

_ANY: Mapping[str, Builder] = {
    **CONVERT,
    **LOGIC,
    **MOVES,
    **LOADS,
    **ATOMICS,
    **WARPS,
    **MATRIX,
    **TRANSFERS,
}


def build(code: Assembly, instruction: Instruction) -> Step:
    """The step of an instruction that is no branch, barrier, call or end.

    Raises:
        PtxError: it is not modelled (TW-E1012).
    """
    opcode = instruction.opcode
    builder = _ANY.get(opcode)
    if builder is None and (opcode in INTEGER or opcode in FLOATING):
        scalar = type_of(code, instruction)
        family = FLOATING if single(scalar).kind == "float" else INTEGER
        builder = family.get(opcode)
    if builder is None:
        raise code.fail("the instruction is not modelled")
    check_modifiers(code, instruction)
    try:
        return builder(code, instruction)
    except (ValueError, IndexError, KeyError, StopIteration) as error:
        raise code.fail("its operands or modifiers are not understood") from error
