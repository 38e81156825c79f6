"""Loads and stores of all spaces and vector widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from ..access import BASES, Access, Kind, addresses, global_index, space_of, window_index
from ..batch import Batch, Window
from ..code import Assembly, Step
from ..memory import Bytes
from ..ptx import Address, Instruction, Operand, Sink, Space, Vector
from ..scalars import UNSIGNED, Array, Scalar
from ..shadow import SharedShadow
from ..sharing import GlobalShadow
from .lanewise import Builder, lanewise, type_of

_SPACES = ("global", "shared", "local", "const", "param")


def space_named(instruction: Instruction) -> Space:
    """The space that the instruction names; generic if none."""
    for modifier in instruction.modifiers:
        name = modifier.split("::")[0]
        if name in _SPACES:
            return cast(Space, name)
    return "generic"


def address_operand(code: Assembly, operand: Operand) -> Address:
    """The operand, which must be an address."""
    if not isinstance(operand, Address):
        raise code.fail(f"{operand} is no address")
    return operand


def items(operand: Operand) -> tuple[Operand, ...]:
    """The elements of a vector operand, or the operand alone."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def window(batch: Batch, space: Space) -> Window:
    """The memory of a space that is no thread's but a block's, or a thread's own."""
    return batch.shared if space == "shared" else batch.local


def place(batch: Batch, access: Access, found: Array) -> tuple[Bytes, Array]:
    """The bytes of the access's space and where in them the active lanes' accesses are."""
    if access.space in ("global", "const"):
        return batch.memory.bytes, global_index(batch, access, found)
    where = window(batch, access.space)
    return where.bytes, window_index(batch, where, access, found)


def by_space(
    batch: Batch, access: Access, found: Array, act: Callable[[Access, Array], None]
) -> None:
    """Does what ``act`` does for each space that the generic addresses lead to.

    ``act`` is called with the lanes of one space active, and with their addresses in it.
    """
    if access.space != "generic":
        act(access, found)
        return
    lowest, highest = space_of(int(found.min())), space_of(int(found.max()))
    if lowest == highest:
        act(replace(access, space=lowest), found - BASES.get(lowest, 0))
        return
    lanes = batch.numbers()
    kept = batch.active, batch.merge
    kinds = np.array([space_of(int(a)) for a in found])
    for space in ("global", "shared", "local"):
        here = kinds == space
        if here.any():
            mask = np.zeros(batch.lanes, np.bool_)
            mask[lanes[here]] = True
            batch.active = batch.merge = mask
            act(replace(access, space=space), found[here] - BASES.get(space, 0))
    batch.active, batch.merge = kept


def note_width(code: Assembly, space: Space, width: int) -> None:
    """Notes how finely the kernel may access shared and global memory."""
    if space in ("generic", "shared"):
        code.cell = min(code.cell, width)
    if space in ("generic", "global"):
        code.global_cell = min(code.global_cell, width)


def _load(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    space = space_named(instruction)
    target, source = instruction.operands
    address = address_operand(code, source)
    parts = items(target)
    if space == "param":
        return _load_parameter(code, address, scalar, parts)
    base, offset, _ = code.base(address)
    constant = instruction.has("nc") or space == "const" or instruction.opcode == "ldu"
    kind: Kind = "read-only load" if constant else "load"
    access = Access(instruction, space, kind, scalar.bytes, len(parts))
    note_width(code, space, access.size)
    if instruction.has("acquire", "volatile", "relaxed"):
        code.facts.add("fence")
    slots = [None if isinstance(p, Sink) else code.write(p, scalar, wider=True) for p in parts]
    extend = [_extension(code, slot, scalar) for slot in slots]

    def act(batch: Batch, here: Access, found: Array) -> None:
        memory, index = place(batch, here, found)
        if len(slots) == 1:
            values = memory.load(index, here.width)
            assert slots[0] is not None
            batch.put_active(slots[0], extend[0](values))
            return
        rows = memory.load_vector(index, here.width, here.count)
        for number, slot in enumerate(slots):
            if slot is not None:
                batch.put_active(slot, extend[number](rows[..., number]))

    def step(batch: Batch) -> None:
        found = addresses(batch, base, offset)
        by_space(batch, access, found, lambda here, at: act(batch, here, at))

    return step


def _extension(code: Assembly, slot: int | None, scalar: Scalar) -> Callable[[Array], Array]:
    """Values as wide as the register, with the sign of a signed type."""
    if slot is None or code.width(slot) == scalar.bits:
        return lambda values: values
    wide = UNSIGNED[code.width(slot)]
    if scalar.kind == "signed":
        signed = np.dtype(f"i{wide.itemsize}")
        return lambda values: values.view(scalar.view).astype(signed).view(wide)
    return lambda values: values.astype(wide)


def _load_parameter(
    code: Assembly, address: Address, scalar: Scalar, parts: tuple[Operand, ...]
) -> Step:
    name = getattr(address.base, "name", "")
    start = code.parameter_offset(name)
    slots = [None if isinstance(p, Sink) else code.write(p, scalar, wider=True) for p in parts]
    extend = [_extension(code, slot, scalar) for slot in slots]
    if start is None:
        steps = [
            lanewise(
                slot, (code.passed(name, address.offset + i * scalar.bytes, scalar),), extension
            )
            for i, (slot, extension) in enumerate(zip(slots, extend, strict=True))
            if slot is not None
        ]
        return sequence(steps)
    size = next(p.size for p in code.entry.parameters if p.name == name)
    if address.offset < 0 or address.offset + scalar.bytes * len(parts) > size:
        raise code.fail(f"the parameter has {size} bytes")
    at = start + address.offset

    def step(batch: Batch) -> None:
        for number, slot in enumerate(slots):
            if slot is not None:
                index = np.int64(at + number * scalar.bytes)
                value = batch.parameters.load(index, scalar.bytes)  # type: ignore[arg-type]
                batch.put(slot, extend[number](value))

    return step


def sequence(steps: list[Step]) -> Step:
    """Several steps as one."""

    def step(batch: Batch) -> None:
        for part in steps:
            part(batch)

    return step


def _store(code: Assembly, instruction: Instruction) -> Step:
    scalar = type_of(code, instruction)
    space = space_named(instruction)
    target, source = instruction.operands
    address = address_operand(code, target)
    slots = [code.read(p, scalar, wider=True) for p in items(source)]
    if space == "param":
        name = getattr(address.base, "name", "")
        if code.parameter_offset(name) is not None:
            raise code.fail("parameters of a kernel are read-only")
        return sequence(
            [
                lanewise(
                    code.passed(name, address.offset + i * scalar.bytes, scalar),
                    (slot,),
                    lambda v: v.astype(scalar.raw),
                )
                for i, slot in enumerate(slots)
            ]
        )
    base, offset, _ = code.base(address)
    access = Access(instruction, space, "store", scalar.bytes, len(slots))
    note_width(code, space, access.size)
    if instruction.has("release", "volatile", "relaxed"):
        code.facts.add("fence")

    def act(batch: Batch, here: Access, found: Array) -> None:
        if here.space == "const":
            raise batch.fault("TW-E1010", instruction, int(batch.numbers()[0]), "a store to .const")
        memory, index = place(batch, here, found)
        lanes = batch.index()
        values = [_stored(batch, slot, scalar, lanes) for slot in slots]
        if len(values) == 1:
            rows = values[0]
        else:
            rows = np.empty((max(v.size for v in values), len(values)), scalar.raw)
            for number, value in enumerate(values):
                rows[:, number] = value
        shadow = batch.races if here.space == "shared" else batch.sharing
        if here.space != "local" and shadow is not None and shadow.meets():
            _store_checked(batch, shadow, memory, here, index, rows)
        elif len(values) == 1:
            store(memory, index, here.width, rows)
        else:
            memory.store_vector(index, here.width, rows if index.ndim else rows[-1])

    def step(batch: Batch) -> None:
        found = addresses(batch, base, offset)
        by_space(batch, access, found, lambda here, at: act(batch, here, at))

    return step


def _stored(batch: Batch, slot: int, scalar: Scalar, lanes: Array | None) -> Array:
    """What the active lanes store, or one value for all."""
    value = batch.r[slot]
    if value.ndim and lanes is not None:
        value = value[lanes]
    return value if value.dtype == scalar.raw else value.astype(scalar.raw)


def store(memory: Bytes, index: Array, width: int, values: Array) -> None:
    """Stores one element of each lane; where all lanes have one address, the last lane's."""
    memory.store(index, width, values if index.ndim or not values.ndim else values[-1])


def _store_checked(
    batch: Batch,
    races: SharedShadow | GlobalShadow,
    memory: Bytes,
    access: Access,
    index: Array,
    rows: Array,
) -> None:
    """Stores where stores meet, which must be of one value."""
    width, count = access.width, access.count
    index = np.broadcast_to(index, batch.numbers().shape)
    wide = rows.reshape(-1, count) if rows.ndim else rows.reshape(1, 1)
    values = np.broadcast_to(wide, (index.size, count))

    def same(lanes: Array) -> Array:
        there = memory.load_vector(index[lanes], width, count)
        equal: Array = (there == values[lanes]).all(1)
        return equal

    suspects, collided = races.suspects, races.collided
    if suspects is not None:
        races.confirm(batch, access, index, suspects, same(suspects))
    memory.store_vector(index, width, values)
    if collided is not None:
        races.confirm(batch, access, index, collided, same(collided))


LOADS: Mapping[str, Builder] = {"ld": _load, "ldu": _load, "st": _store}
"""Loads and stores."""
