"""Runs the blocks of a launch: who goes where, who waits for whom.

Lanes at one place form a group; the group at the lowest place runs first, so lanes that part at a
branch meet again where their ways join. A barrier holds groups back until all threads of their
block have come to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .batch import WARP, Batch
from .code import EXIT, Barrier, Block, Branch, Gate, Indirect, Jump, Program
from .faults import SimulationError
from .ptx import Instruction
from .scalars import Array

_FAIR = 512
"""Every so many steps, the group that would be last is first: spinning lanes let others run."""


@dataclass(slots=True)
class _Waiting:
    """Lanes at a barrier.

    Attributes:
        mask: which. target: the block after it.
        known: what each warp knew of the others when it came, where a barrier may be of some.
    """

    mask: Array
    target: int
    barrier: Barrier
    number: Array
    count: Array | None
    known: Array | None = None


class Machine:
    """Runs one batch of blocks to its end.

    Args:
        limit: how many basic blocks may be executed before the kernel is held for endless.
    """

    def __init__(self, program: Program, batch: Batch, limit: int) -> None:
        self.program = program
        self.batch = batch
        self.limit = limit
        self.groups: dict[int, Array | None] = {0: batch.live}
        self.waiting: list[_Waiting] = []
        self.gated: dict[int, Array] = {}
        self.executed = [0] * len(program.blocks)

    def run(self) -> None:
        """Runs until no lane is left.

        Raises:
            SimulationError: what the kernel did wrong.
        """
        batch, groups = self.batch, self.groups
        while groups or self.unblock():
            batch.steps += 1
            if batch.steps > self.limit:
                raise self.endless()
            at = max(groups) if batch.steps % _FAIR == 0 else min(groups)
            mask = groups.pop(at)
            self.execute(at, mask)

    def execute(self, at: int, mask: Array | None) -> None:
        """Runs the lanes through one basic block and sends them on."""
        batch = self.batch
        block = self.program.blocks[at]
        alone = not (self.groups or self.waiting or self.gated)
        batch.active = mask
        batch.merge = None if alone else mask
        if block.gate is not None and mask is not None:
            if at in self.gated:
                mask = mask | self.gated.pop(at)
                batch.active = batch.merge = mask
            mask = self.pass_gate(at, mask, block.gate)
            if mask is None:
                return
        self.executed[at] += batch.active_warps()
        for step in block.steps:
            step(batch)
        match block.end:
            case Jump(target):
                self.send(target, mask)
            case Branch() as branch:
                self.branch(branch, mask, block)
            case Indirect() as indirect:
                self.scatter(indirect, mask, block)
            case Barrier() as barrier:
                self.arrive(barrier, mask)

    def send(self, target: int, mask: Array | None) -> None:
        """Lets lanes go on at a block."""
        if target == EXIT:
            self.exit(mask)
            return
        groups = self.groups
        there = groups.get(target)
        if there is None or mask is None:
            groups[target] = mask
        else:
            groups[target] = there | mask

    def exit(self, mask: Array | None) -> None:
        batch = self.batch
        if mask is None:
            batch.live = np.zeros(batch.lanes, np.bool_)
        else:
            live = batch.live
            batch.live = ~mask if live is None else live & ~mask

    def branch(self, branch: Branch, mask: Array | None, block: Block) -> None:
        batch = self.batch
        chosen = batch.r[branch.predicate]
        if not chosen.ndim:
            self.send(branch.taken if bool(chosen) != branch.negated else branch.other, mask)
            return
        chosen = ~chosen if branch.negated else chosen
        if mask is None:
            taken, other = chosen, ~chosen
        else:
            taken, other = chosen & mask, mask & ~chosen
        if not taken.any():
            self.send(branch.other, mask)
        elif not other.any():
            self.send(branch.taken, mask)
        else:
            if batch.counters is not None:
                batch.counters.divergence(taken, other)
            self.send(branch.taken, taken)
            self.send(branch.other, other)

    def scatter(self, indirect: Indirect, mask: Array | None, block: Block) -> None:
        batch = self.batch
        index = batch.whole(batch.r[indirect.index])
        here = np.ones(batch.lanes, np.bool_) if mask is None else mask
        for number, target in enumerate(indirect.targets):
            part = here & (index == number)
            if part.any():
                self.send(target, part)
        beyond = here & (index >= len(indirect.targets))
        if beyond.any():
            lane = int(np.argmax(beyond))
            message = f"target {int(index[lane])} of {len(indirect.targets)} is out of bounds"
            raise batch.fault("TW-E1001", block.last, lane, message)

    def pass_gate(self, at: int, mask: Array, gate: Gate) -> Array | None:
        """The lanes whose partners are all there; the others stay behind the gate."""
        batch = self.batch
        bits = batch.warp_bits(mask)
        live = batch.warp_bits(batch.live)
        if gate.mask is None:
            wanted = live
            missing = (wanted & ~bits) != 0
            late = np.repeat(missing, WARP) & mask
        else:
            members = batch.whole(batch.r[gate.mask])
            missing = members & np.repeat(live & ~bits, WARP)
            late = (missing != 0) & mask
        if not late.any():
            return mask
        self.gated[at] = late
        ready: Array = mask & ~late
        if not ready.any():
            return None
        batch.active = batch.merge = ready
        return ready

    def arrive(self, barrier: Barrier, mask: Array | None) -> None:
        """Lets lanes wait, or go on where they are the last to come."""
        batch = self.batch
        batch.active = mask
        simple = barrier.count is None and barrier.reduction is None
        if mask is None and simple and batch.live is None and not barrier.arrive:
            self.synchronise(None)
            self.send(barrier.target, None)
            return
        here = np.ones(batch.lanes, np.bool_) if mask is None else mask.copy()
        number = batch.r[barrier.number]
        count = None if barrier.count is None else batch.r[barrier.count]
        races = batch.races
        known = None if races is None or races.known is None else races.snapshot(batch)
        self.waiting.append(_Waiting(here, barrier.target, barrier, number, count, known))
        if barrier.arrive:
            self.send(barrier.target, here)
        self.release()

    def release(self) -> None:
        """Lets the lanes of complete barriers go on."""
        batch = self.batch
        for number in sorted({int(n) for w in self.waiting for n in np.unique(w.number)}):
            parts = [(w, w.mask & (w.number == number)) for w in self.waiting]
            parts = [(w, m) for w, m in parts if m.any()]
            if not parts:
                continue
            arrived = np.zeros(batch.blocks, np.int64)
            for waiting, part in parts:
                per_block = part.reshape(batch.blocks, -1)
                if waiting.count is None:
                    arrived += per_block.sum(1)
                else:
                    # Whole warps take part in a counted barrier.
                    arrived += per_block.reshape(batch.blocks, -1, WARP).any(2).sum(1) * WARP
            wanted = self.wanted(parts)
            done = (arrived >= wanted) & (arrived > 0)
            if done.any():
                self.check_one_place(parts, done)
                self.let_go(parts, done)
        self.waiting = [w for w in self.waiting if w.mask.any()]

    def wanted(self, parts: list[tuple[_Waiting, Array]]) -> Array:
        """How many threads of each block the barrier waits for."""
        batch = self.batch
        wanted = np.full(batch.blocks, batch.shape.threads, np.int64)
        for waiting, part in parts:
            if waiting.count is not None:
                count = batch.whole(waiting.count).reshape(batch.blocks, -1)
                there = part.reshape(batch.blocks, -1)
                wanted = np.where(there.any(1), (count * there).max(1), wanted)
        return wanted

    def check_one_place(self, parts: list[tuple[_Waiting, Array]], done: Array) -> None:
        """Refuses a barrier of all threads that they reach at different instructions."""
        batch = self.batch
        seen: list[tuple[Barrier, Array]] = []
        lanes = np.repeat(done, batch.shape.padded)
        for waiting, part in parts:
            here = part & lanes
            if waiting.count is not None or not here.any():
                continue
            for barrier, there in seen:
                blocks = here.reshape(batch.blocks, -1).any(1)
                blocks &= there.reshape(batch.blocks, -1).any(1)
                if barrier is not waiting.barrier and blocks.any():
                    lane = int(np.argmax(here & np.repeat(blocks, batch.shape.padded)))
                    raise batch.fault(
                        "TW-E1004",
                        waiting.barrier.instruction,
                        lane,
                        "divergent barrier: other threads of the block wait at the barrier of "
                        f"line {barrier.instruction.line}",
                    )
            seen.append((waiting.barrier, here))

    def let_go(self, parts: list[tuple[_Waiting, Array]], done: Array) -> None:
        batch = self.batch
        lanes = np.repeat(done, batch.shape.padded)
        released = np.zeros(batch.lanes, np.bool_)
        for _, part in parts:
            released |= part & lanes
        self.reduce(parts, released)
        if batch.races is not None and batch.races.known is not None:
            arrived = [(part & lanes, w.known) for w, part in parts if w.known is not None]
            resting = released.copy()
            for w, part in parts:
                if w.barrier.arrive:
                    resting &= ~part
            batch.races.counted_barrier(batch, arrived, resting)
        else:
            self.synchronise(released)
        for waiting, part in parts:
            go = part & lanes
            waiting.mask = waiting.mask & ~go
            if go.any() and not waiting.barrier.arrive:
                self.send(waiting.target, go)

    def reduce(self, parts: list[tuple[_Waiting, Array]], released: Array) -> None:
        """The results of bar.red: a count, and, or of the predicates of a block."""
        batch = self.batch
        for waiting, part in parts:
            if waiting.barrier.reduction is None:
                continue
            operation, predicate, negated, target = waiting.barrier.reduction
            votes = batch.whole(batch.r[predicate])
            votes = ~votes if negated else votes
            grouped = (votes & released).reshape(batch.blocks, -1)
            members = released.reshape(batch.blocks, -1)
            counts = grouped.sum(1)
            match operation:
                case "popc":
                    result = counts.astype(np.uint32)
                case "and":
                    result = counts == members.sum(1)
                case _:
                    result = counts > 0
            kept = batch.active, batch.merge
            batch.active = batch.merge = part & released
            batch.put(target, np.repeat(result, batch.shape.padded))
            batch.active, batch.merge = kept

    def synchronise(self, mask: Array | None) -> None:
        """Accesses before the barrier are ordered before those after it."""
        if self.batch.races is not None:
            self.batch.races.barrier(self.batch, mask)

    def unblock(self) -> bool:
        """Whether lanes that waited in vain so far can go on, or all have ended.

        Raises:
            SimulationError: none of those left can ever go on.
        """
        for at, mask in list(self.gated.items()):
            gate = self.program.blocks[at].gate
            assert gate is not None
            del self.gated[at]
            ready = self.pass_gate(at, mask, gate)
            if ready is not None:
                self.send(at, ready)
        if self.groups:
            return True
        if self.gated or self.waiting:
            raise self.stuck()
        return False

    def stuck(self) -> SimulationError:
        """The error of lanes that wait for others which never come."""
        batch = self.batch
        parts: list[tuple[Array, Instruction]] = [
            (w.mask, w.barrier.instruction) for w in self.waiting
        ]
        if not parts:
            at, mask = next(iter(self.gated.items()))
            gate = self.program.blocks[at].gate
            assert gate is not None
            lane = int(np.argmax(mask))
            return batch.fault(
                "TW-E1009",
                gate.instruction,
                lane,
                "other lanes that its mask names never come to this instruction",
            )
        mask, instruction = parts[0]
        lane = int(np.argmax(mask))
        block = lane // batch.shape.padded
        return batch.fault(
            "TW-E1004", instruction, lane, "divergent barrier: " + "; ".join(self.others(block))
        )

    def others(self, block: int) -> Iterator[str]:
        """Where the threads of a block are, in words."""
        batch = self.batch
        span = slice(block * batch.shape.padded, (block + 1) * batch.shape.padded)
        for waiting in self.waiting:
            count = int(waiting.mask[span].sum())
            if count:
                yield f"{count} threads wait at line {waiting.barrier.instruction.line}"
        for at, mask in self.gated.items():
            first = self.program.blocks[at].first
            count = int(mask[span].sum())
            if count:
                yield f"{count} threads wait for their warp at line {first.line}"
        if batch.live is not None:
            ended = batch.shape.threads - int(batch.live[span].sum())
            if ended:
                yield f"{ended} threads have ended"

    def endless(self) -> SimulationError:
        batch = self.batch
        at = min(self.groups)
        mask = self.groups[at]
        first = self.program.blocks[at].first
        return batch.fault(
            "TW-E1008",
            first,
            0 if mask is None else int(np.argmax(mask)),
            f"the kernel did not end within {self.limit} basic blocks",
        )
