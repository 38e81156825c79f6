"""Instructions in which the lanes of a warp exchange values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..batch import WARP, Batch
from ..code import Assembly, Step
from ..ptx import Instruction, Operand, Pair
from ..scalars import SCALARS, Array
from .lanewise import Builder, type_of


def member_mask(instruction: Instruction) -> Operand | None:
    """The operand that names the lanes taking part; None: the whole warp does."""
    if instruction.opcode in ("shfl", "vote", "match", "redux", "elect"):
        return instruction.operands[-1]
    if instruction.opcode in ("bar", "barrier"):
        return instruction.operands[0]
    return None


def members_present(batch: Batch, instruction: Instruction, mask: Array) -> None:
    """Refuses an instruction that a lane executes without the others its mask names.

    Lanes that have exited count as absent without fault.

    Raises:
        SimulationError: lanes in the mask are elsewhere, or a lane is not in its own mask
            (TW-E1009).
    """
    if not mask.ndim and int(mask) == 0xFFFFFFFF and batch.merge is None:
        return
    here = batch.numbers()
    wanted = batch.whole(mask)[here].astype(np.int64)
    absent = (wanted >> (here % WARP)) & 1 == 0
    if absent.any():
        raise batch.fault(
            "TW-E1009",
            instruction,
            int(here[np.argmax(absent)]),
            f"the lane is not in its own mask {int(wanted[np.argmax(absent)]):#010x}",
        )
    missing = batch.warp_bits(batch.live) & ~batch.warp_bits(batch.active)
    late = wanted & missing.astype(np.int64)[here // WARP]
    if late.any():
        at = int(np.argmax(late != 0))
        raise batch.fault(
            "TW-E1009",
            instruction,
            int(here[at]),
            f"lanes {int(late[at]):#010x} of its mask {int(wanted[at]):#010x} are elsewhere",
        )


def whole_warps(batch: Batch, instruction: Instruction) -> None:
    """Refuses an instruction that only some lanes of a warp execute.

    Raises:
        SimulationError: see there (TW-E1009).
    """
    if batch.active is None:
        return
    bits = batch.warp_bits(batch.active)
    wrong = (bits != 0) & (bits != 0xFFFFFFFF)
    if wrong.any():
        warp = int(np.argmax(wrong))
        lane = warp * WARP + int(np.argmax(batch.active[warp * WARP : (warp + 1) * WARP]))
        raise batch.fault(
            "TW-E1009",
            instruction,
            lane,
            f"only lanes {int(bits[warp]):#010x} of the warp execute it; it needs all 32",
        )


def _shuffle(code: Assembly, instruction: Instruction) -> Step:
    """shfl.sync: each lane reads the register of another."""
    scalar = SCALARS["b32"]
    destination = instruction.operands[0]
    value = destination.first if isinstance(destination, Pair) else destination
    target = code.write(value, scalar)
    predicate = None
    if isinstance(destination, Pair):
        predicate = code.write(destination.second, SCALARS["pred"])
    a, b, c, mask = (code.read(o, scalar) for o in instruction.operands[1:])
    mode = next(m for m in instruction.modifiers if m in ("up", "down", "bfly", "idx"))
    known: dict[tuple[int, int, int], tuple[Array, Array]] = {}

    def sources(batch: Batch) -> tuple[Array, Array]:
        """(lane to read from, whether it is in range) of every lane."""
        lane, clamp = batch.r[b], batch.r[c]
        if lane.ndim or clamp.ndim:
            return _shuffled(mode, batch, lane, clamp)
        key = (int(lane), int(clamp), batch.lanes)
        if key not in known:
            known[key] = _shuffled(mode, batch, lane, clamp)
        return known[key]

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        source, inside = sources(batch)
        if batch.active is not None:
            asleep = ~batch.active[source] & batch.active
            if asleep.any():
                lane = int(np.argmax(asleep))
                raise batch.fault(
                    "TW-E1009",
                    instruction,
                    lane,
                    f"reads lane {int(source[lane]) % WARP}, which does not execute it",
                )
        read = batch.r[a]
        batch.put(target, read[source] if read.ndim else read)
        if predicate is not None:
            batch.put(predicate, inside)

    return step


def _shuffled(mode: str, batch: Batch, lane: Array, clamp: Array) -> tuple[Array, Array]:
    me = np.arange(batch.lanes, dtype=np.int64) % WARP
    b = lane.astype(np.int64) & 31
    limit, segment = clamp.astype(np.int64) & 31, (clamp.astype(np.int64) >> 8) & 31
    highest = (me & segment) | (limit & ~segment)
    match mode:
        case "up":
            found = me - b
            inside = found >= highest
        case "down":
            found = me + b
            inside = found <= highest
        case "bfly":
            found = me ^ b
            inside = found <= highest
        case _:
            found = (me & segment) | (b & ~segment)
            inside = found <= highest
    found = np.where(inside, found, me)
    return np.arange(batch.lanes) - me + found, np.asarray(inside)


def _vote(code: Assembly, instruction: Instruction) -> Step:
    ballot = instruction.has("ballot")
    target = code.write(instruction.operands[0], SCALARS["b32" if ballot else "pred"])
    slot, negated = code.predicate(instruction.operands[1])
    mask = code.read(instruction.operands[2], SCALARS["b32"])
    mode = next(m for m in instruction.modifiers if m in ("all", "any", "uni", "ballot"))

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        votes = batch.whole(batch.r[slot])
        votes = ~votes if negated else votes
        taking = np.ones(batch.lanes, np.bool_) if batch.active is None else batch.active
        part = batch.whole(batch.r[mask])
        bits = np.repeat(batch.warp_bits(votes & taking), WARP) & part
        everyone = np.repeat(batch.warp_bits(taking), WARP) & part
        match mode:
            case "ballot":
                batch.put(target, bits)
            case "all":
                batch.put(target, bits == everyone)
            case "any":
                batch.put(target, bits != 0)
            case _:
                batch.put(target, (bits == everyone) | (bits == 0))

    return step


def _match(code: Assembly, instruction: Instruction) -> Step:
    """match.any: the lanes with the same value; match.all: whether all have it."""
    scalar = type_of(code, instruction)
    everyone = instruction.has("all")
    destination = instruction.operands[0]
    value = destination.first if isinstance(destination, Pair) else destination
    target = code.write(value, SCALARS["b32"])
    predicate = None
    if isinstance(destination, Pair):
        predicate = code.write(destination.second, SCALARS["pred"])
    a = code.read(instruction.operands[1], scalar)
    mask = code.read(instruction.operands[2], SCALARS["b32"])

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        taking = np.ones(batch.lanes, np.bool_) if batch.active is None else batch.active
        rows = batch.whole(batch.r[a]).reshape(-1, WARP)
        same = rows[:, :, None] == rows[:, None, :]
        same &= taking.reshape(-1, 1, WARP)
        packed = np.packbits(same, axis=2, bitorder="little").view(np.uint32)
        bits = packed.reshape(-1) & batch.whole(batch.r[mask])
        if not everyone:
            batch.put(target, bits)
            return
        whole = np.repeat(batch.warp_bits(taking), WARP) & batch.whole(batch.r[mask])
        agree = bits == whole
        batch.put(target, np.where(agree, whole, np.uint32(0)))
        if predicate is not None:
            batch.put(predicate, agree)

    return step


_REDUCTIONS: Mapping[str, tuple[Callable[..., Array], Callable[[np.dtype[Any]], int]]] = {
    "add": (np.add.reduce, lambda dtype: 0),
    "min": (np.minimum.reduce, lambda dtype: int(np.iinfo(dtype).max)),
    "max": (np.maximum.reduce, lambda dtype: int(np.iinfo(dtype).min)),
    "and": (np.bitwise_and.reduce, lambda dtype: -1),
    "or": (np.bitwise_or.reduce, lambda dtype: 0),
    "xor": (np.bitwise_xor.reduce, lambda dtype: 0),
}


def _reduce(code: Assembly, instruction: Instruction) -> Step:
    """redux.sync: one value of all lanes, in all of them."""
    scalar = type_of(code, instruction)
    operation = next(m for m in instruction.modifiers if m in _REDUCTIONS)
    if scalar.kind == "float":
        raise code.fail("redux of floats is not modelled")
    target = code.write(instruction.operands[0], scalar)
    a = code.read(instruction.operands[1], scalar)
    mask = code.read(instruction.operands[2], SCALARS["b32"])
    view = np.dtype(np.int32) if scalar.kind == "signed" else np.dtype(np.uint32)
    function, neutral = _REDUCTIONS[operation]
    start = np.array(neutral(view) & 0xFFFFFFFF, np.uint32).view(view)

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        masks = batch.r[mask]
        values = batch.whole(batch.r[a]).view(view)
        if batch.active is not None:
            values = np.where(batch.active, values, start)
        if masks.ndim:
            kinds = np.unique(masks[batch.numbers()])
        else:
            kinds = np.atleast_1d(masks)
        lane = np.arange(batch.lanes) % WARP
        out = np.zeros(batch.lanes, view)
        for kind in kinds:
            inside = (int(kind) >> lane) & 1 == 1
            chosen = np.where(inside, values, start).reshape(-1, WARP)
            result = np.repeat(function(chosen, axis=1, dtype=view), WARP)
            out = np.where(inside, result, out)
        batch.put(target, out.view(np.uint32))

    return step


def _active_mask(code: Assembly, instruction: Instruction) -> Step:
    target = code.write(instruction.operands[0], SCALARS["b32"])

    def step(batch: Batch) -> None:
        batch.put(target, np.repeat(batch.warp_bits(batch.active), WARP))

    return step


def _elect(code: Assembly, instruction: Instruction) -> Step:
    """elect.sync: the lowest lane that takes part is the leader."""
    destination = instruction.operands[0]
    if not isinstance(destination, Pair):
        raise code.fail("elect has two results")
    target = code.write(destination.first, SCALARS["b32"])
    predicate = code.write(destination.second, SCALARS["pred"])
    mask = code.read(instruction.operands[1], SCALARS["b32"])

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        bits = np.repeat(batch.warp_bits(batch.active), WARP) & batch.whole(batch.r[mask])
        lowest = bits & (~bits + np.uint32(1))
        leader = np.bitwise_count(lowest - np.uint32(1)).astype(np.uint32)
        batch.put(target, leader)
        batch.put(predicate, leader == np.arange(batch.lanes) % WARP)

    return step


def _warp_barrier(code: Assembly, instruction: Instruction) -> Step:
    """bar.warp.sync: orders what the lanes of a warp did before against what they do after."""
    code.facts.add("warp barrier")
    mask = code.read(instruction.operands[0], SCALARS["b32"])

    def step(batch: Batch) -> None:
        members_present(batch, instruction, batch.r[mask])
        if batch.races is not None:
            batch.races.warp_barrier(batch)

    return step


WARPS: Mapping[str, Builder] = {
    "shfl": _shuffle,
    "vote": _vote,
    "match": _match,
    "redux": _reduce,
    "activemask": _active_mask,
    "elect": _elect,
    "bar": _warp_barrier,
}
"""Exchanges within a warp."""
