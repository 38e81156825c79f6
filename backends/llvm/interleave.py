"""Chains of instructions that do not depend on each other, written side by side.

A polynomial is one chain: each multiply-add waits for the one before, and all of them together
take longer than as many that wait for nothing. A processor looks ahead no further than about a
hundred instructions that wait, which is less than two such chains; written in turns, chains of
several vectors run at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REGISTERS = 8
"""Vector registers for each chain: what it works on, and constants."""

_NAME = re.compile(r"%[vp]\d+")


def interleave(chains: Sequence[Sequence[str]]) -> list[str]:
    """The lines of all chains: one of each in turn, each after all that it uses.

    Args:
        chains: straight code in final SSA; a chain may use what one before it defines.
    """
    pending = {_names(line)[0] for chain in chains for line in chain}
    left = [list(reversed(chain)) for chain in chains]
    written: list[str] = []
    while any(left):
        for chain in left:
            if not chain:
                continue
            own, used = _names(chain[-1])
            if pending.isdisjoint(used):
                pending.discard(own)
                written.append(chain.pop())
    return written


def _names(line: str) -> tuple[str, list[str]]:
    """What a line defines (nothing: an empty name), and what it uses."""
    first, is_definition, rest = line.partition(" = ")
    return (first.strip(), _NAME.findall(rest)) if is_definition else ("", _NAME.findall(line))
