"""Steps that come again and again: equal layers call the same kernels, on weights further on.

The entry of a deep model is hundreds of calls, which LLVM takes as long for as for a dozen kernels.
Where calls repeat with addresses that go on by equal steps, a loop does what all of them do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tilewright.runtime.program import ArenaStorage, CallKernel, ConstantStorage, Step, Tensor

LEAST_TURNS = 4
LEAST_STEPS = 48
"""The fewest steps of all turns together that a loop is worth it for."""
_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Turns:
    """Calls that repeat.

    Attributes:
        start: the first step.
        count: how many turns there are.
        advances: for each call of a turn by how many bytes each argument's address goes on from
            turn to turn.
    """

    start: int
    count: int
    advances: tuple[tuple[int, ...], ...]

    @property
    def end(self) -> int:
        """The step behind the last turn."""
        return self.start + self.count * len(self.advances)


def find_turns(steps: Sequence[Step]) -> Turns | None:
    """The longest stretch of calls that repeat; None where none is long enough."""
    if len(steps) < LEAST_STEPS:
        return None
    keys = [_key(s) for s in steps]
    offsets = [_offsets(s) for s in steps]
    places: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            places.setdefault(key, []).append(index)
    often = sorted((p for p in places.values() if len(p) >= LEAST_TURNS), key=len)
    lengths = {
        Counter(b - a for a, b in pairwise(at)).most_common(1)[0][0] for at in often[:_TRIALS]
    }
    found = [t for n in sorted(lengths) for t in _of_length(keys, offsets, n)]
    return max(found, key=lambda t: t.end - t.start, default=None)


def _of_length(
    keys: Sequence[Hashable], offsets: Sequence[tuple[int, ...]], length: int
) -> list[Turns]:
    """The stretches whose turns are of a length, that are long enough."""
    found: list[Turns] = []
    advances: list[tuple[int, ...]] = []
    for index in range(len(keys) - length + 1):
        further = index + length
        advance = None
        if further < len(keys) and keys[index] is not None and keys[index] == keys[further]:
            ends = zip(offsets[index], offsets[further], strict=True)
            advance = tuple([b - a for a, b in ends])
        goes_on = len(advances) < length or advance == advances[-length]
        if advance is not None and goes_on:
            advances.append(advance)
            continue
        count = len(advances) // length + 1
        if count >= LEAST_TURNS and count * length >= LEAST_STEPS:
            found.append(Turns(index - len(advances), count, tuple(advances[:length])))
        advances = [] if advance is None else [advance]
    return found


def _key(step: Step) -> Hashable:
    """What a call and its next turn have in common; None for a step that no loop can stand for."""
    if not isinstance(step, CallKernel):
        return None
    parts: list[Hashable] = [step.kernel]
    for a in step.args:
        if not isinstance(a, Tensor):
            if not isinstance(a, int):
                return None
            parts.append(a)
        elif isinstance(a.storage, ConstantStorage):
            parts.append("constants")
        elif not isinstance(a.storage, ArenaStorage):
            parts.append(a.storage)
        elif isinstance(a.storage.offset, int):
            parts.append("arena")
        else:
            return None
    return tuple(parts)


def _offsets(step: Step) -> tuple[int, ...]:
    """Where the arguments of a call lie in their memories; 0 for what is the same in each turn."""
    if not isinstance(step, CallKernel):
        return ()
    return tuple([_offset(a) if isinstance(a, Tensor) else 0 for a in step.args])


def _offset(tensor: Tensor) -> int:
    match tensor.storage:
        case ConstantStorage(offset):
            return offset
        case ArenaStorage(offset) if isinstance(offset, int):
            return offset
    return 0
