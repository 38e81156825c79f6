"""placeholder"""

from __future__ import annotations
from ..ptx import Instruction, Operand


def member_mask(instruction: Instruction) -> Operand | None:
    return None
